/** LargePayloadPlugin on a real Temporal server with a real service, which is stopped and started meanwhile. */
import { randomBytes, randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { type BlobStore, memoryStore, serializedPayloadSize } from '@large-payload/core';
import { LargePayloadPlugin, type PluginMode } from '@large-payload/temporal';
import { describeWith, freePort, startTemporal } from '@large-payload/test-components';
import { Context } from '@temporalio/activity';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import type { DataConverter, Payload, PayloadCodec, Workflow } from '@temporalio/common';
import { MockActivityEnvironment, TestWorkflowEnvironment } from '@temporalio/testing';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { echo, largeArgument, resumed, throughAnOutage } from './fixtures/plugin-workflows.ts';
import { countKinds, kindOf } from './support/history.ts';
import { newDataDir, type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

const workflowsPath = fileURLToPath(new URL('./fixtures/plugin-workflows.ts', import.meta.url));
/** Above the threshold, below what stays inline while the service is away. */
const smallBytes = 200_000;
const largeBytes = 1_000_000;
/** While the service is away; where it is there, no call needs to be hurried. */
const deadlineMs = 1500;

const messages: { message: string; attributes: Record<string, unknown> }[] = [];
Runtime.install({
  logger: new DefaultLogger('WARN', ({ message, meta }) => messages.push({ message, attributes: { ...meta } })),
  telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
});

const temporal = await startTemporal();
/** For all workers but those of one test, which bundle for themselves, with the plugin. */
const workflowBundle = await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('ERROR', () => {}) });

/** What the activities of one test do now; they run in this process. */
class Beats {
  heartbeatBytes = largeBytes;
  /** Of the marks that the heartbeats carry, the one that was sent last. */
  sent = 0;
  ends: 'not yet' | 'with a failure' | 'well' = 'not yet';
  /** The mark in the details that the second attempt got from the first. */
  resumedFrom: number | undefined;
  /** The mark of the last heartbeat before the failure. */
  failedAfter: number | undefined;

  readonly activities = {
    beat: async (): Promise<number> => {
      const { heartbeat, info, sleep } = Context.current();
      const last = info.heartbeatDetails as Uint8Array | undefined;
      if (info.attempt > 1) this.resumedFrom = last === undefined ? -1 : Buffer.from(last).readUInt32LE();
      while (this.ends === 'not yet' || (this.ends === 'with a failure' && info.attempt > 1)) {
        this.#beat(heartbeat);
        await sleep(50);
      }
      this.#beat(heartbeat); // straight before the end: the SDK sends it only because the activity fails
      if (this.ends === 'with a failure') {
        this.failedAfter = this.sent;
        throw new Error('told to fail');
      }
      return this.sent;
    },
    /** One heartbeat, then a failure; the next attempt returns how long the details are that it got. */
    beatOnce: async (): Promise<number> => {
      const { heartbeat, info } = Context.current();
      if (info.attempt > 1) return (info.heartbeatDetails as Uint8Array).length;
      this.#beat(heartbeat);
      throw new Error('told to fail');
    },
    produce: async (bytes: number, fill: number): Promise<Uint8Array> => new Uint8Array(bytes).fill(fill),
    measure: async (bytes: Uint8Array): Promise<number> => bytes.filter((byte) => byte === 3).length,
  };

  #beat(heartbeat: (details?: unknown) => void): void {
    this.sent += 1;
    const details = Buffer.alloc(this.heartbeatBytes, 9);
    details.writeUInt32LE(this.sent);
    heartbeat(new Uint8Array(details));
  }
}

export type PluginActivities = Beats['activities'];

interface Running {
  readonly plugin: LargePayloadPlugin;
  readonly client: Client;
  readonly worker: Worker;
  readonly beats: Beats;
  /** Resolves with how the worker's `run()` ended. */
  readonly ended: Promise<unknown>;
  start<W extends Workflow>(type: string, ...args: Parameters<W>): Promise<WorkflowHandle<W>>;
}

describeWith(describe, 'the plugin', temporal, (temporal) => {
  let service: RunningService;
  let connection: NativeConnection;
  let clientConnection: Connection;
  let dataDir: string;
  const cleanUps: (() => unknown)[] = [];

  async function startOn(port: number): Promise<void> {
    service = await startService({ dataDir, args: ['--port', `${port}`] });
  }

  beforeAll(async () => {
    dataDir = await newDataDir();
    await startOn(await freePort());
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

  function newPlugin(mode: PluginMode, options: { deadlineMs?: number } = {}): LargePayloadPlugin {
    const plugin = new LargePayloadPlugin({ url: service.url, mode, ...options });
    cleanUps.push(() => plugin.close());
    return plugin;
  }

  async function startWorker(
    mode: PluginMode,
    plugin = newPlugin(mode),
    dataConverter: DataConverter = {},
  ): Promise<Running> {
    const taskQueue = randomUUID();
    const beats = new Beats();
    const client = new Client({ connection: clientConnection, dataConverter, plugins: [plugin] });
    const worker = await Worker.create({
      connection,
      taskQueue,
      workflowBundle,
      activities: beats.activities,
      maxHeartbeatThrottleInterval: '50ms',
      dataConverter,
      plugins: [plugin],
    });
    const ended = worker.run().then(
      () => 'well',
      (error: unknown) => error,
    );
    cleanUps.push(async () => {
      beats.ends = 'well';
      if (worker.getState() === 'RUNNING') worker.shutdown();
      await ended;
    });
    // the second failure in a row of a task's upload is not told to the server, which waits for the end of this time
    const common = { taskQueue, workflowTaskTimeout: '3s' } as const;
    const start: Running['start'] = (type, ...args) =>
      client.workflow.start(type, { ...common, workflowId: randomUUID(), args: args as unknown[] }) as never;
    return { plugin, client, worker, beats, ended, start };
  }

  for (const mode of ['codec', 'driver'] as const) {
    it(`lives through an outage of the service, in mode ${mode}`, async () => {
      const { client, worker, beats, ended, start } = await startWorker(mode, newPlugin(mode, { deadlineMs }));
      const kind = mode === 'codec' ? 'codec' : 'driver:large-payload';
      const outage = await start<typeof throughAnOutage>('throughAnOutage', smallBytes, largeBytes);
      const details = (): Promise<Payload | undefined> => heartbeatDetailsOf(client, outage);
      const isClaim = (payload: Payload | undefined): true | undefined =>
        payload !== undefined && kindOf(payload) === kind ? true : undefined;
      await until('large details of a heartbeat at the server', async () => isClaim(await details()));

      // away: heartbeats with large details are skipped, with a warning
      const { port } = service;
      messages.length = 0;
      await service.stop();
      // one that began while the service stopped may have another reason
      const skipped = await until('a heartbeat skipped because nobody answers', async () =>
        messages.find(
          ({ message, attributes: { code } }) =>
            message.startsWith('Heartbeat skipped') && code === 'SERVICE_UNREACHABLE',
        ),
      );
      expect(skipped.attributes).toMatchObject({
        detailsBytes: largeBytes,
        activityType: 'beat',
      });
      expect(worker.getState()).toBe('RUNNING');

      // those with small ones reach the server inline
      beats.heartbeatBytes = smallBytes;
      const inline = await until('small details of a heartbeat at the server', async () => {
        const payload = await details();
        return payload !== undefined && kindOf(payload) === 'inline' ? payload : undefined;
      });
      expect(serializedPayloadSize(inline)).toBeGreaterThan(smallBytes);
      beats.heartbeatBytes = largeBytes;

      // a small result goes inline, too; a large one fails the activity's attempt, which is retried
      await outage.signal('goOn');
      const failure = await until('a failed attempt of the large result', async () => {
        const produce = await pendingActivity(client, outage, 'produce');
        return /\(\d+ attempts in \d+ ms\)$/.test(produce?.lastFailure?.message ?? '') ? produce : undefined;
      });
      expect(failure.lastFailure?.applicationFailureInfo).toMatchObject({
        type: 'LargePayload.SERVICE_UNREACHABLE',
        nonRetryable: false,
      });
      const smallResult = (await completedResults(outage))[0];
      expect(smallResult?.length).toBe(smallBytes);

      // a large one from a client fails the call
      const unreachable = { type: 'LargePayload.SERVICE_UNREACHABLE' };
      await expect(start<typeof echo>('echo', new Uint8Array(largeBytes))).rejects.toMatchObject(
        mode === 'codec' ? unreachable : { cause: unreachable },
      );

      // a large payload in a command fails the workflow task, which is retried
      const commanding = await start<typeof largeArgument>('largeArgument', largeBytes);
      await until('a failed workflow task', async () => {
        const { events } = await commanding.fetchHistory();
        return events?.some(({ workflowTaskFailedEventAttributes: failed }) => failed != null) ? true : undefined;
      });
      expect((await commanding.describe()).status.name).toBe('RUNNING');
      expect(worker.getState()).toBe('RUNNING');

      // back: everything goes on, with the right results
      await startOn(port);
      expect(await commanding.result()).toBe(largeBytes);
      await until('large details of a heartbeat at the server', async () => isClaim(await details()));
      beats.ends = 'with a failure';
      await until('the next attempt', async () => beats.resumedFrom);
      beats.ends = 'well';
      const [small, large, sent] = await outage.result();
      expect([small, large]).toEqual([smallBytes, largeBytes]);
      expect(sent).toBe(beats.sent);
      // the very last details before the failure are what the next attempt got
      expect(beats.failedAfter).toBeGreaterThan(0);
      expect(beats.resumedFrom).toBe(beats.failedAfter);
      expect(worker.getState()).toBe('RUNNING');
      worker.shutdown();
      expect(await ended).toBe('well');
    });
  }

  for (const mode of ['codec', 'driver'] as const) {
    it(`gives replayers what they read, and lets them store nothing (mode ${mode})`, async () => {
      const memory = memoryStore();
      let [puts, gets] = [0, 0];
      const store: BlobStore = {
        ...memory,
        get: async (...args) => {
          gets += 1;
          return memory.get(...args);
        },
        put: async (...args) => {
          puts += 1;
          return memory.put(...args);
        },
      };
      const { client, start } = await startWorker(mode, new LargePayloadPlugin({ store, mode }));
      const handle = await start<typeof largeArgument>('largeArgument', largeBytes);
      expect(await handle.result()).toBe(largeBytes);
      const echoed = await start<typeof echo>('echo', new Uint8Array(largeBytes).fill(4));
      expect((await echoed.result()).length).toBe(largeBytes);
      [puts, gets] = [0, 0];
      const replayer = new LargePayloadPlugin({ store, mode });
      for (const { workflowId } of [handle, echoed]) {
        const history = await client.workflow.getHandle(workflowId).fetchHistory();
        await Worker.runReplayHistory({ workflowBundle, plugins: [replayer] }, history, workflowId);
      }
      // the argument of `echo`; what the workflows would send is not stored again
      expect([gets, puts]).toEqual([1, 0]);
    });

    it(`encodes and stores a heartbeat once, also with a codec that never encodes alike (mode ${mode})`, async () => {
      const memory = memoryStore();
      let puts = 0;
      const put: BlobStore['put'] = async (...args) => {
        puts += 1;
        return memory.put(...args);
      };
      const plugin = new LargePayloadPlugin({ store: { ...memory, put }, mode });
      const { start } = await startWorker(mode, plugin, { payloadCodecs: [salting] });
      expect(await (await start<typeof resumed>('resumed')).result()).toBe(largeBytes);
      expect(puts).toBe(1);
    });

    it(`works in a test environment (mode ${mode})`, async () => {
      const plugin = newPlugin(mode);
      const env = await TestWorkflowEnvironment.createFromExistingServer({
        address: temporal.address,
        plugins: [plugin],
      });
      cleanUps.push(() => env.teardown());
      const { nativeConnection, client } = env;
      // the connection has brought the plugin to client and worker; to name it once more changes nothing
      for (const plugins of [undefined, [plugin]]) {
        const taskQueue = randomUUID();
        const worker = await Worker.create({
          connection: nativeConnection,
          taskQueue,
          workflowsPath,
          ...(plugins ? { plugins } : {}),
        });
        const handle = await worker.runUntil(async () => {
          const argument = new Uint8Array(largeBytes).fill(5);
          const started = await client.workflow.start<typeof echo>('echo', {
            taskQueue,
            workflowId: randomUUID(),
            args: [argument],
          });
          expect(Buffer.compare(await started.result(), argument)).toBe(0);
          return started;
        });
        const kind = mode === 'codec' ? 'codec' : 'driver:large-payload';
        expect(countKinds(await handle.fetchHistory(), 0)).toMatchObject({ [kind]: 2 });
      }
    });
  }

  it('needs nothing in the SDK’s environment for activities, whatever their payloads', async () => {
    const env = new MockActivityEnvironment();
    const beats: number[] = [];
    env.on('heartbeat', ({ length }: Uint8Array) => beats.push(length));
    const echoed = async (bytes: Uint8Array): Promise<Uint8Array> => {
      Context.current().heartbeat(bytes);
      return bytes;
    };
    const result = (await env.run(echoed, new Uint8Array(largeBytes))) as Uint8Array;
    expect([result.length, beats]).toEqual([largeBytes, [largeBytes]]);
  });
});

/** As encryption does it. */
const salting: PayloadCodec = {
  encode: async (payloads) =>
    payloads.map(({ metadata, data }) => ({
      ...(metadata ? { metadata } : {}),
      data: Buffer.concat([randomBytes(16), data ?? new Uint8Array()]),
    })),
  decode: async (payloads) =>
    payloads.map(({ metadata, data }) => ({
      ...(metadata ? { metadata } : {}),
      data: new Uint8Array(data ?? []).subarray(16),
    })),
};

type Pending = NonNullable<Awaited<ReturnType<WorkflowHandle['describe']>>['raw']['pendingActivities']>[number];

/** As the server has it, without any codec. */
async function pendingActivity(client: Client, handle: WorkflowHandle, type: string): Promise<Pending | undefined> {
  const { pendingActivities } = await client.workflowService.describeWorkflowExecution({
    namespace: client.options.namespace,
    execution: { workflowId: handle.workflowId },
  });
  return pendingActivities?.find(({ activityType }) => activityType?.name === type);
}

async function heartbeatDetailsOf(client: Client, handle: WorkflowHandle): Promise<Payload | undefined> {
  return (await pendingActivity(client, handle, 'beat'))?.heartbeatDetails?.payloads?.[0];
}

/** The data of the results of completed activities, as they stand in the history. */
async function completedResults(handle: WorkflowHandle): Promise<Uint8Array[]> {
  const { events } = await handle.fetchHistory();
  return (events ?? []).flatMap(
    ({ activityTaskCompletedEventAttributes: completed }) =>
      completed?.result?.payloads?.map(({ data }) => data ?? new Uint8Array()) ?? [],
  );
}
