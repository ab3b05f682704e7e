/**
 * The collection on a real Temporal server, with short times: what a workflow, a schedule or a pin holds stays readable for
 * as long as Temporal can show it, and what nobody holds goes, until the store is empty.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { digestOf, keyFor, openHttpStore, readAll } from '@large-payload/core';
import { LargePayloadPlugin } from '@large-payload/temporal';
import { describeWith, startTemporal, tempDir } from '@large-payload/test-components';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lps } from './support/lps.ts';
import { queryCatalog } from './support/postgres.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

const temporal = await startTemporal();
afterAll(() => temporal?.stop());

/** G, Q, V and the time between rounds. A pair of marks and two rounds behind it: within some seconds. */
const times = ['--grace', '1s', '--quarantine', '1s', '--visibility-bound', '500ms', '--collect-interval', '1s'];

describeWith(describe, 'the collection', temporal, ({ address, namespace }) => {
  const dataDir = tempDir('collection');
  const clusters = join(tempDir('clusters'), 'clusters.yaml');
  let service: RunningService;
  let connection: Connection;
  let client: Client;
  let store: ReturnType<typeof openHttpStore>;

  beforeAll(async () => {
    const dev = `name: dev, address: "${address}", namespaces: [${namespace}], request-timeout-seconds: 1`;
    writeFileSync(clusters, `clusters: [{ ${dev}, ui-address: "http://127.0.0.1:8233/" }]\n`);
    const args = ['--unsafe-times', ...times, '--clusters', clusters, '--collect', namespace];
    service = await startService({ dataDir, args: [...args, '--collect-max-percent', '100'] });
    connection = await Connection.connect({ address });
    client = new Client({ connection, namespace, plugins: [new LargePayloadPlugin({ url: service.url })] });
    store = openHttpStore({ url: service.url });
  });
  afterAll(async () => {
    await store?.close?.();
    await connection?.close();
    await service?.stop();
  });

  async function stored(): Promise<string[]> {
    const keys: string[] = [];
    for await (const { key } of store.list(`/blobs/${namespace}/`)) keys.push(key);
    return keys;
  }

  /** Until so many more have begun: one that was under way is over then. */
  async function moreRounds(count: number): Promise<void> {
    const rounds = async (): Promise<number> => {
      const [row] = await queryCatalog<{ rounds: number }>(dataDir, 'SELECT rounds::int FROM lps.collection');
      return row?.rounds ?? 0;
    };
    const target = (await rounds()) + count;
    await until('more rounds', async () => (await rounds()) >= target || undefined, 180_000);
  }

  async function pin(key: string): Promise<string> {
    const { code, err, out } = await lps({ dataDir }, 'pin', 'add', key, '--reason', 'a test');
    expect(code, err).toBe(0);
    return out.trim();
  }

  it('keeps what is held, and deletes what is not', async () => {
    // with so short a grace, no machine is quick enough to hold in time what it has uploaded
    const meanwhile = await pin(`/blobs/${namespace}/`);
    const large = (): string => randomBytes(100_000).toString('hex');
    const [argument, signalled, scheduled] = [large(), large(), large()];
    // nobody works on them: they stay open
    const options = { taskQueue: 'nobody', workflowId: 'held', args: [argument] };
    const held = await client.workflow.start('waits', options);
    await held.signal('more', signalled);
    const schedule = await client.schedule.create({
      scheduleId: 'rare',
      spec: { intervals: [{ every: '300d' }] },
      action: { type: 'startWorkflow', workflowType: 'waits', taskQueue: 'nobody', args: [scheduled] },
    });
    const heldKeys = await stored();
    expect(heldKeys).toHaveLength(3);

    const orphan = randomBytes(1000);
    const pinned = randomBytes(1000);
    const [orphanKey, pinnedKey] = [orphan, pinned].map((bytes) => keyFor(namespace, digestOf(bytes), null));
    for (const bytes of [orphan, pinned]) {
      const expected = { digest: digestOf(bytes), size: bytes.length };
      await store.put(keyFor(namespace, digestOf(bytes), null), bytes, expected);
    }
    const kept = await pin(pinnedKey ?? '');
    await moreRounds(2); // a mark has read what is held
    await lps({ dataDir }, 'pin', 'remove', meanwhile);

    await until(
      'the orphan to go',
      async () => ((await stored()).includes(orphanKey ?? '') ? undefined : true),
      120_000,
    );
    // long enough for anything to be marked twice, quarantined, marked twice again and deleted
    await moreRounds(8);
    expect((await stored()).sort()).toEqual([...heldKeys, pinnedKey].sort());
    // asked for in the catalog: a read would be a touch
    const explained = await lps({ dataDir }, 'gc', 'explain', heldKeys[0] ?? '', '--clusters', clusters);
    expect(explained.out).toMatch(/state {6}live[\s\S]*held by {4}(run held|schedule rare)/);
    expect(explained.out).toMatch(
      /^ +http:\/\/127\.0\.0\.1:8233\/namespaces\/[^/]+\/(workflows\/held|schedules\/rare)/m,
    );
    const history = await held.fetchHistory();
    expect(history.events?.length).toBeGreaterThan(1);
    for (const key of heldKeys) {
      const found = await store.get(key);
      expect(found && digestOf(await readAll(found.body, 1_000_000))).toBe(key.split('/')[4]);
    }

    // gone by id, and then all they held
    await held.terminate();
    await schedule.delete();
    // what a schedule was is shown until the retention ends, as a closed run of Temporal's own
    for (const workflowId of ['held', 'temporal-sys-scheduler:rare']) {
      await connection.workflowService.deleteWorkflowExecution({ namespace, workflowExecution: { workflowId } });
    }
    await lps({ dataDir }, 'pin', 'remove', kept);
    // fewer holders than before: a person has to look
    const brake = `SELECT FROM lps.brake WHERE kind = 'holders_lost' AND released_at IS NULL`;
    await until(
      'an empty store',
      async () => {
        if ((await queryCatalog(dataDir, brake)).length > 0)
          await lps({ dataDir }, 'gc', 'resume', '--kind', 'holders_lost');
        return (await stored()).length === 0 ? true : undefined;
      },
      120_000,
    );
    expect((await lps({ dataDir }, 'gc', 'status')).out).not.toMatch(/stopped|^live/m);
  }, 400_000);

  it('says why nothing goes, when Temporal cannot be asked', async () => {
    const bytes = randomBytes(1000);
    const key = keyFor(namespace, digestOf(bytes), null);
    await store.put(key, bytes, { digest: digestOf(bytes), size: bytes.length });
    await temporal?.stop();
    await until(
      'an incomplete mark',
      async () => ((await lps({ dataDir }, 'gc', 'status')).out.includes('not complete') ? true : undefined),
      120_000,
    );
    await moreRounds(2); // each waits for a cluster that does not answer
    expect(await stored()).toEqual([key]);
    const { out } = await lps({ dataDir }, 'gc', 'status');
    expect(out).toMatch(/dev\/default .*not complete: .*TEMPORAL_UNAVAILABLE/);
  }, 400_000);
});
