/** What workflows, activities and people see of a payload that was taken down: a real Temporal server, a real service. */
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import type { Payload } from '@large-payload/core';
import { LargePayloadPlugin, type PluginMode } from '@large-payload/temporal';
import { describeWith, startTemporal } from '@large-payload/test-components';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import {
  bundleWorkflowCode,
  DefaultLogger,
  NativeConnection,
  Runtime,
  Worker,
  type WorkerOptions,
} from '@temporalio/worker';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { lengthOf, measuredLater } from './fixtures/taken-down-workflows.ts';
import { kindOf, payloadsIn } from './support/history.ts';
import { queryCatalog } from './support/postgres.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

Runtime.install({
  logger: new DefaultLogger('WARN', () => undefined), // failed tasks are what is tested here
  telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
});

const workflowsPath = fileURLToPath(new URL('./fixtures/taken-down-workflows.ts', import.meta.url));
const bytes = 300_000;

const temporal = await startTemporal();
const workflowBundle = await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR', () => undefined) });

describeWith(describe, 'a payload that was taken down', temporal, (temporal) => {
  let service: RunningService;
  let connection: NativeConnection;
  let clientConnection: Connection;
  const cleanUps: (() => unknown)[] = [];

  beforeAll(async () => {
    service = await startService();
    connection = await NativeConnection.connect({ address: temporal.address });
    clientConnection = await Connection.connect({ address: temporal.address });
  });
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
  });
  afterAll(async () => {
    await clientConnection?.close();
    await connection?.close();
    await service?.stop();
    await temporal.stop();
  });

  /** With nothing in memory yet. */
  function newPlugin(mode: PluginMode): LargePayloadPlugin {
    const plugin = new LargePayloadPlugin({ url: service.url, mode });
    cleanUps.push(() => plugin.close());
    return plugin;
  }

  async function startWorker(mode: PluginMode, options: Omit<WorkerOptions, 'connection'>): Promise<void> {
    const worker = await Worker.create({ connection, plugins: [newPlugin(mode)], ...options });
    const ended = worker.run();
    cleanUps.push(async () => {
      worker.shutdown();
      await ended;
    });
  }

  /** The only blob that is not taken down yet; every read of it answers 410 when this returns. */
  async function takeDown(): Promise<string> {
    const [row] = await queryCatalog<{ key: string }>(
      service.dataDir,
      `UPDATE lps.blob SET state = 'taken_down' WHERE state = 'live'
       RETURNING '/blobs/' || namespace || '/common/sha256:' || encode(digest, 'hex') || '/sha256:' || encode(metadata_digest, 'hex') AS key`,
    );
    const { key = '' } = row ?? {};
    const url = `${service.url}/v3/blobs?key=${encodeURIComponent(key)}`;
    await until('410', async () => ((await fetch(url, { method: 'HEAD' })).status === 410 ? true : undefined));
    return key;
  }

  async function claimIn(handle: WorkflowHandle): Promise<Payload> {
    const [claim] = [...payloadsIn(await handle.fetchHistory())].filter((payload) => kindOf(payload) !== 'inline');
    if (claim === undefined) throw new Error('nothing was stored');
    return claim;
  }

  for (const mode of ['codec', 'driver'] as const) {
    it(`fails the activity that needs it for good, and the workflow is told why (mode ${mode})`, async () => {
      const [taskQueue, later] = [randomUUID(), randomUUID()];
      await startWorker(mode, { taskQueue, workflowBundle });
      const client = new Client({ connection: clientConnection, plugins: [newPlugin(mode)] });
      const handle = await client.workflow.start<typeof measuredLater>('measuredLater', {
        taskQueue,
        workflowId: randomUUID(),
        args: [later, bytes],
      });
      await until('the argument in the history', async () => claimIn(handle));
      const key = await takeDown();
      await startWorker(mode, { taskQueue: later, activities: { measure: async (all: Uint8Array) => all.length } });
      expect(await handle.result()).toMatchObject({
        type: 'LpsBlobTakenDown',
        nonRetryable: true,
        message: expect.stringContaining(key),
      });
    });

    it(`fails the workflow task with what to do, and has a placeholder for who looks (mode ${mode})`, async () => {
      const taskQueue = randomUUID();
      const client = new Client({ connection: clientConnection, plugins: [newPlugin(mode)] });
      const handle = await client.workflow.start<typeof lengthOf>('lengthOf', {
        taskQueue,
        workflowId: randomUUID(),
        args: [new Uint8Array(bytes).fill(mode === 'codec' ? 1 : 2)],
      });
      const claim = await claimIn(handle);
      const key = await takeDown();
      await startWorker(mode, { taskQueue, workflowBundle });
      const message = await until('a failed workflow task', async () => {
        const { events } = await handle.fetchHistory();
        return events?.find((event) => event.workflowTaskFailedEventAttributes)?.workflowTaskFailedEventAttributes
          ?.failure?.message;
      });
      expect(message).toContain(key);
      expect(message).toMatch(/terminate it, or reset it to a point before it was used/);
      expect((await handle.describe()).status.name).toBe('RUNNING');
      await handle.terminate();

      const shown = await fetch(`${service.url}/default/decode`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ payloads: [asJson(claim), asJson(claim)] }),
      });
      expect(shown.status).toBe(200);
      const { payloads } = (await shown.json()) as { payloads: { metadata: Record<string, string>; data: string }[] };
      expect(payloads).toHaveLength(2);
      expect(Buffer.from(payloads[0]?.data ?? '', 'base64').toString()).toMatch(
        /erased on request.*\/blobs\/default\//,
      );
    });
  }
});

function asJson({ metadata, data }: Payload): unknown {
  const base64 = (value: Uint8Array): string => Buffer.from(value).toString('base64');
  const entries = Object.entries(metadata ?? {}).map(([name, value]) => [name, base64(value)]);
  return { metadata: Object.fromEntries(entries), data: base64(data ?? new Uint8Array()) };
}
