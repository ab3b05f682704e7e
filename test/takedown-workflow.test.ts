/** A takedown of what a workflow holds: a real Temporal is asked, the service's own marks know who else holds it. */
import { randomBytes, randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LargePayloadPlugin } from '@large-payload/temporal';
import { describeWith, startTemporal, tempDir } from '@large-payload/test-components';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { codeOf, request } from './support/blobs.ts';
import { queryCatalog } from './support/postgres.ts';
import { type RunningService, startService } from './support/service.ts';
import { takeDown, takedown, untilTakedown } from './support/takedowns.ts';
import { until } from './support/until.ts';

const temporal = await startTemporal();
afterAll(() => temporal?.stop());

describeWith(describe, 'a takedown of a workflow', temporal, (temporal) => {
  let service: RunningService;
  let connection: Connection;
  const { namespace } = temporal;
  const shared = randomBytes(80_000).toString('hex');

  beforeAll(async () => {
    const dataDir = tempDir('takedown');
    const clusters = join(dataDir, 'clusters.yaml');
    writeFileSync(clusters, `clusters: [{ name: dev, address: "${temporal.address}", namespaces: [${namespace}] }]\n`);
    const times = ['--unsafe-times', '--visibility-bound', '100ms', '--collect-interval', '1s'];
    service = await startService({ dataDir, args: ['--clusters', clusters, '--max-staleness', '1s', ...times] });
    connection = await Connection.connect({ address: temporal.address });
  });
  afterAll(async () => {
    await connection?.close();
    await service?.stop();
  });

  async function startRun(args: readonly string[], workflowId: string = randomUUID()): Promise<string> {
    const client = new Client({ connection, namespace, plugins: [new LargePayloadPlugin({ url: service.url })] });
    const run = await client.workflow.start('waits', { taskQueue: 'nobody', workflowId, args: [...args] });
    return `${workflowId} ${run.firstExecutionRunId}`;
  }

  async function plan(selector: object): Promise<{ status: number; text: string }> {
    const body = Buffer.from(JSON.stringify({ selector: { namespace, ...selector } }));
    const headers = { 'content-type': 'application/json' };
    return request(service.port, '/v3/takedowns/plan', { method: 'POST', headers, body });
  }

  const states = async (): Promise<Record<string, string>> => {
    const text = `SELECT encode(digest, 'hex') AS digest, state FROM lps.blob`;
    const rows = await queryCatalog<{ digest: string; state: string }>(service.dataDir, text);
    return Object.fromEntries(rows.map(({ digest, state }) => [digest, state]));
  };

  it('erases what its runs hold, names who else holds it, and leaves the rest alone', async () => {
    const workflowId = randomUUID();
    const own = await startRun([shared, randomBytes(80_000).toString('hex')], workflowId);
    const before = Object.keys(await states());
    const other = await startRun([shared, randomBytes(80_000).toString('hex')]);
    const ofOther = Object.keys(await states()).filter((digest) => !before.includes(digest));
    expect([before.length, ofOther.length]).toEqual([2, 1]);
    const found = await until('a mark that has seen the other run', async () => {
      const planned = JSON.parse((await plan({ workflowId })).text);
      return planned.holders.length > 0 ? planned : undefined;
    });
    expect(found).toMatchObject({ runs: [own], blobs: { count: 2, states: { live: 2 } } });
    expect(new Set(found.holders.map(({ holder }: { holder: string }) => holder))).toEqual(new Set([other]));
    const id = await takeDown(service.port, { selector: { namespace, workflowId } });
    await untilTakedown(() => service.port, id, 'completed');
    const after = await states();
    expect(before.map((digest) => after[digest])).toEqual(['taken_down', 'taken_down']);
    expect(ofOther.map((digest) => after[digest])).toEqual(['live']);
  });

  it('is refused when there is no such workflow, or nobody answers for the namespace', async () => {
    const none = await plan({ workflowId: 'nobody' });
    expect([none.status, codeOf(none)]).toEqual([400, 'INVALID_ARGUMENT']);
    const elsewhere = await plan({ namespace: 'billing', workflowId: 'w' });
    expect([codeOf(elsewhere), elsewhere.text]).toEqual(['CONFIG_INVALID', expect.stringContaining('--clusters')]);
    const id = await takeDown(service.port, { selector: { namespace, workflowId: 'nobody' } });
    const failed = await until('its end', async () => {
      const seen = await takedown(service.port, id);
      return seen.state === 'failed' ? seen : undefined;
    });
    expect(failed).toMatchObject({ state: 'failed', objects: 0, problem: expect.stringMatching(/no workflow nobody/) });
  });
});
