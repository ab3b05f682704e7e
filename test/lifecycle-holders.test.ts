/** What runs and schedules of a real Temporal server hold is found, in each place where it can be. */
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { describeWith, startTemporal } from '@large-payload/test-components';
import { Context } from '@temporalio/activity';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import { ApplicationFailure, defaultPayloadConverter, type Payload } from '@temporalio/common';
import proto from '@temporalio/proto';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ClusterSettings } from '../packages/server/src/lifecycle/clusters.ts';
import { type Extractor, openExtractor } from '../packages/server/src/lifecycle/extract/extractor.ts';
import type { HolderKind, Scan } from '../packages/server/src/lifecycle/holders/holder-kind.ts';
import { runsKind } from '../packages/server/src/lifecycle/holders/runs.ts';
import { schedulesKind } from '../packages/server/src/lifecycle/holders/schedules.ts';
import { openCluster } from '../packages/server/src/lifecycle/temporal/cluster.ts';
import { grpcStatus } from '../packages/server/src/lifecycle/temporal/grpc-failure.ts';
import type {
  HistoryEvent,
  TemporalCluster,
  TemporalNamespace,
} from '../packages/server/src/lifecycle/temporal-api.ts';
import { markOf } from './fixtures/holder-marks.ts';
import { type GrpcProxy, startGrpcProxy } from './support/grpc-proxy.ts';
import { until } from './support/until.ts';

const workflowsPath = fileURLToPath(new URL('./fixtures/holder-workflows.ts', import.meta.url));
Runtime.install({
  logger: new DefaultLogger('ERROR'),
  telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
});

const activities = {
  work: async (_input: string): Promise<string> => markOf('activity result'),
  workLocally: async (_input: string): Promise<string> => markOf('local activity result'),
  fail: async (): Promise<void> => {
    throw ApplicationFailure.create({ message: 'as it should', details: [markOf('activity failure')] });
  },
  failForNow: async (): Promise<void> => {
    throw ApplicationFailure.create({ message: 'for now', details: [markOf('last failure')] });
  },
  beat: async (): Promise<void> => {
    const { heartbeat, cancelled } = Context.current();
    heartbeat({ mark: markOf('heartbeat'), fill: 'x'.repeat(200_000) });
    await cancelled;
  },
};
export type HolderActivities = typeof activities;

const { EventType } = proto.temporal.api.enums.v1;
const payloadOf = (value: unknown): Payload => defaultPayloadConverter.toPayload(value);
const taskQueue = 'holders';
const temporal = await startTemporal();

describeWith(describe, 'holders on a real server', temporal, ({ address, namespace, registerNamespace, stop }) => {
  let connection: Connection;
  let client: Client;
  let native: NativeConnection;
  let worker: Worker;
  let working: Promise<void>;
  let proxy: GrpcProxy;
  let cluster: TemporalCluster;
  let here: TemporalNamespace;
  const extractor = openExtractor();
  const [runs, schedules] = [runsKind(extractor), schedulesKind(extractor)];

  beforeAll(async () => {
    connection = await Connection.connect({ address });
    client = new Client({
      connection,
      namespace,
      interceptors: {
        workflow: [{ start: (input, next) => next({ ...input, headers: { mark: payloadOf(markOf('header')) } }) }],
      },
    });
    native = await NativeConnection.connect({ address });
    worker = await Worker.create({ connection: native, namespace, taskQueue, workflowsPath, activities });
    working = worker.run();
    proxy = await startGrpcProxy(address);
    cluster = openCluster(settings(proxy.address, [namespace]));
    here = await only(cluster);
  });

  afterAll(async () => {
    await cluster.close();
    await proxy.close();
    worker.shutdown();
    await working;
    await native.close();
    await connection.close();
    await stop();
  });

  /** Once a list shows it. */
  function listed(kind: HolderKind, isIt: (id: string) => boolean, isClosed?: boolean): Promise<string> {
    return until('a holder in the list', async () => {
      for await (const page of kind.list(here)) {
        const found = page.find((one) => isIt(one.id) && (isClosed === undefined || one.isClosed === isClosed));
        if (found !== undefined) return found.id;
      }
      return undefined;
    });
  }

  const listedRun = (workflowId: string, isClosed?: boolean): Promise<string> =>
    listed(runs, (id) => id.startsWith(`${workflowId}\n`), isClosed);

  const scanned = async (id: string, cursor?: string): Promise<Scan> => found(await runs.scan(here, id, cursor));

  const start = (type: string, args: unknown[] = [], more: object = {}): Promise<WorkflowHandle> =>
    client.workflow.start(type, { taskQueue, workflowId: randomUUID(), args, ...more });

  it('finds what an open run holds, and afterwards what is new', async () => {
    const handle = await start('busy', [markOf('input')], {
      memo: { first: markOf('memo') },
      staticSummary: markOf('summary'),
    });
    await handle.signal('note', markOf('signal'));
    await handle.executeUpdate('change', { args: [markOf('update')] });
    await until('pending activities', async () => {
      const { raw } = await handle.describe();
      const pending = raw.pendingActivities ?? [];
      return pending.some((one) => one.heartbeatDetails) && pending.some((one) => one.lastFailure) ? true : undefined;
    });
    const id = await listedRun(handle.workflowId, false);

    const first = await scanned(id);

    expect(first).toMatchObject({ isClosed: false, gaps: [] });
    expect(
      missing(first, [
        ...['input', 'memo', 'summary', 'header', 'signal', 'update', 'update result', 'upserted memo'],
        ...['activity input', 'activity result', 'local activity result', 'activity failure'],
        ...['child input', 'child memo', 'child result', 'heartbeat', 'last failure'],
      ]),
    ).toEqual([]);
    expect(missing(first, ['result'])).toEqual(['result']);
    expect(first.cursor.length).toBeLessThan(1000);

    await callsOf(async () => {
      expect(await scanned(id, first.cursor)).toMatchObject({ isClosed: false, cursor: first.cursor });
    }, ['DescribeWorkflowExecution']);

    await handle.signal('finish');
    await handle.result();
    const last = await callsOf(
      () => scanned(id, first.cursor),
      ['DescribeWorkflowExecution', 'GetWorkflowExecutionHistoryReverse'],
    );
    expect(last).toMatchObject({ isClosed: true, gaps: [] });
    expect(missing(last, ['result'])).toEqual([]);
    expect(missing(last, ['signal', 'activity result'])).toHaveLength(2);
    expect(missing(await scanned(await listedRun(handle.workflowId, true)), ['result', 'signal', 'input'])).toEqual([]);
  });

  async function callsOf<T>(work: () => Promise<T>, expected: readonly string[]): Promise<T> {
    proxy.calls.length = 0;
    const result = await work();
    expect(proxy.calls).toEqual(expected);
    return result;
  }

  it('reads pages of a long history backwards, and of what is new one page', async () => {
    const { workflowId, firstExecutionRunId: runId } = await client.workflow.start('nobody', {
      taskQueue: 'without-a-worker',
      workflowId: randomUUID(),
    });
    const execution = { workflowId, runId };
    const signal = async (from: number, count: number): Promise<void> => {
      for (let number = from; number < from + count; number += 1)
        await connection.workflowService.signalWorkflowExecution({
          namespace,
          workflowExecution: execution,
          signalName: 'note',
          input: { payloads: [payloadOf(markOf(`signal ${number}`))] },
        });
    };
    await signal(0, 600);
    const seen: number[] = [];
    const watched = runsKind(watching(extractor, (event) => seen.push(Number(event.eventId))));
    const id = `${workflowId}\n${runId}`;

    const first = found(
      await callsOf(
        () => watched.scan(here, id, undefined),
        ['DescribeWorkflowExecution', ...Array<string>(3).fill('GetWorkflowExecutionHistoryReverse')],
      ),
    );
    expect(seen).toEqual(Array.from({ length: 602 }, (_, index) => 602 - index));
    expect(
      missing(
        first,
        Array.from({ length: 600 }, (_, number) => `signal ${number}`),
      ),
    ).toEqual([]);

    seen.length = 0;
    await signal(600, 2);
    const second = found(
      await callsOf(
        () => watched.scan(here, id, first.cursor),
        ['DescribeWorkflowExecution', 'GetWorkflowExecutionHistoryReverse'],
      ),
    );
    expect(seen).toEqual([604, 603]);
    expect(missing(second, ['signal 600', 'signal 601'])).toEqual([]);

    // a page that is lost
    let pages = 0;
    proxy.fault = (method) => {
      if (method === 'GetWorkflowExecutionHistoryReverse') pages += 1;
      return pages === 2 ? { status: grpcStatus.INVALID_ARGUMENT, message: 'Invalid NextPageToken.' } : undefined;
    };
    expect(missing(await watched.scan(here, id, undefined), ['signal 0', 'signal 600'])).toEqual([]);
    proxy.fault = undefined;
    expect(pages).toBe(5);

    // a cursor of another history of the same run, as after a failover
    const { task: _task, ...others } = JSON.parse(second.cursor);
    seen.length = 0;
    await watched.scan(here, id, JSON.stringify({ ...others, transitions: 0, task: '1' }));
    expect(seen).toHaveLength(604);
  });

  it('finds what the server itself has copied into other runs', async () => {
    const next = await start('continued', [2, markOf('continued input 2')], { memo: { chain: markOf('chain memo') } });
    await next.result();
    const chain = await runsOf(next.workflowId, 3);
    const inputs = chain.map(
      (scan) =>
        missing(
          scan,
          [0, 1, 2].map((n) => `continued input ${n}`),
        ).length,
    );
    expect(inputs.sort()).toEqual([1, 1, 2]);
    expect(chain.map((scan) => missing(scan, ['chain memo']))).toEqual([[], [], []]);

    const cron = await start('onCron', [], { cronSchedule: '@every 1s' });
    const [, ...later] = await runsOf(cron.workflowId, 3);
    await cron.terminate();
    // each holds the result of the one before; a fourth may have begun before anybody looked
    expect(later.length).toBeGreaterThanOrEqual(2);
    expect(later.flatMap((scan) => missing(scan, ['cron result']))).toEqual([]);

    const base = await start('waiting', [markOf('base input')]);
    await base.signal('note', markOf('base signal'));
    // the signal may have come before the first task, or behind it
    const taskDone = await until('a workflow task', async () => {
      const { events } = await base.fetchHistory();
      return (
        events?.find(({ eventType }) => eventType === EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)?.eventId ??
        undefined
      );
    });
    const { runId } = await connection.workflowService.resetWorkflowExecution({
      namespace,
      workflowExecution: { workflowId: base.workflowId, runId: '' },
      workflowTaskFinishEventId: taskDone,
      requestId: randomUUID(),
    });
    const reset = await scanned(`${base.workflowId}\n${runId}`);
    expect(missing(reset, ['base input', 'base signal', 'header'])).toEqual([]);
    await base.terminate();
  });

  /** All runs of a workflow, the oldest first, once there are so many. */
  async function runsOf(workflowId: string, count: number): Promise<Scan[]> {
    const ids = await until(`${count} runs`, async () => {
      const listedIds: string[] = [];
      for await (const page of runs.list(here))
        listedIds.push(...page.map(({ id }) => id).filter((id) => id.startsWith(`${workflowId}\n`)));
      return listedIds.length >= count ? listedIds : undefined;
    });
    return Promise.all(ids.reverse().map((id) => scanned(id)));
  }

  it('finds what runs hold that failed or were terminated', async () => {
    const failed = await start('failing');
    await expect(failed.result()).rejects.toThrow();
    const terminated = await start('waiting');
    await connection.workflowService.terminateWorkflowExecution({
      namespace,
      workflowExecution: { workflowId: terminated.workflowId },
      details: { payloads: [payloadOf(markOf('termination'))] },
    });
    const scans = [
      await scanned(await listedRun(failed.workflowId, true)),
      await scanned(await listedRun(terminated.workflowId, true)),
    ];
    expect(scans.map(({ isClosed }) => isClosed)).toEqual([true, true]);
    expect(missing(scans[0], ['workflow failure'])).toEqual([]);
    expect(missing(scans[1], ['termination'])).toEqual([]);
  });

  it('finds the input of a batch job, in its system workflow', async () => {
    const target = await start('waiting');
    await listedRun(target.workflowId);
    const jobId = randomUUID();
    await connection.workflowService.startBatchOperation({
      namespace,
      jobId,
      reason: 'a test',
      visibilityQuery: `WorkflowId = '${target.workflowId}'`,
      signalOperation: { signal: 'note', input: { payloads: [payloadOf(markOf('batch signal'))] } },
    });
    const job = await scanned(await listedRun(jobId));
    expect(missing(job, ['batch signal'])).toEqual([]);
    expect(job.gaps).toEqual([]);
    await target.terminate();
  });

  it('finds what a schedule holds, also when it is changed, and not when it is deleted', async () => {
    const scheduleId = randomUUID();
    const action = (mark: string) => ({
      type: 'startWorkflow' as const,
      workflowType: 'scheduled',
      taskQueue,
      args: [markOf(mark)],
      memo: { of: markOf('schedule memo') },
    });
    const handle = await client.schedule.create({
      scheduleId,
      spec: { intervals: [{ every: '1h' }] },
      action: action('schedule input'),
      memo: { own: markOf('own memo') },
    });
    const id = await listed(schedules, (one) => one === scheduleId);
    const first = found(await schedules.scan(here, id, undefined));
    expect(first).toMatchObject({ isClosed: false, gaps: [] });
    expect(missing(first, ['schedule input', 'schedule memo', 'own memo'])).toEqual([]);

    await handle.trigger('BUFFER_ONE');
    const [fired] = await until('an action', async () => {
      const { recentActions } = (await handle.describe()).info;
      return recentActions.length > 0 ? recentActions.map((one) => one.action) : undefined;
    });
    await client.workflow.getHandle(fired?.workflow.workflowId ?? '').result();
    await handle.update((before) => ({ ...before, action: action('changed input') }));
    await handle.pause();
    const second = found(await schedules.scan(here, id, first.cursor));
    expect(missing(second, ['changed input', 'schedule memo', 'own memo'])).toEqual([]);
    expect(second.cursor).not.toBe(first.cursor);

    // the result of the last run is kept for the next one, in a system workflow; it is fetched when the next one starts
    await handle.trigger('BUFFER_ONE');
    const system = await listedRun(`temporal-sys-scheduler:${scheduleId}`);
    await until('the result of its run', async () => {
      const scan = await scanned(system);
      expect(scan.gaps).toEqual([]);
      return missing(scan, ['schedule input', 'changed input', 'scheduled result']).length === 0 ? true : undefined;
    });

    await handle.delete();
    expect(await schedules.scan(here, id, first.cursor)).toBeUndefined();
  });

  it('is told of a run that is gone by its id, while the list still shows it', async () => {
    const handle = await start('waiting', [markOf('deleted input')]);
    const id = await listedRun(handle.workflowId);
    const { cursor } = await scanned(id);
    await connection.workflowService.deleteWorkflowExecution({
      namespace,
      workflowExecution: { workflowId: handle.workflowId },
    });
    await until('NotFound', async () => ((await runs.scan(here, id, cursor)) === undefined ? true : undefined));
    expect(await runs.scan(here, id, undefined)).toBeUndefined();
    expect(await runs.scan(here, `never-was\n${randomUUID()}`, undefined)).toBeUndefined();
    expect(await schedules.scan(here, 'never-was', undefined)).toBeUndefined();
  });

  it('describes the namespace, and says what it cannot read', async () => {
    await registerNamespace('standalone');
    const other = openCluster(settings(address, ['standalone']));
    const there = await only(other);
    const usual = await there.describe();
    expect(usual).toMatchObject({ retentionMs: 86_400_000, gaps: [] });
    expect(usual.serverVersion).toMatch(/^\d+\.\d+\.\d+/);
    expect(usual.clusterId).toMatch(/^[0-9a-f-]{36}$/);
    expect(usual.namespaceId).toMatch(/^[0-9a-f-]{36}$/);
    expect((await here.describe()).namespaceId).not.toBe(usual.namespaceId);

    const { started } = await connection.workflowService.startActivityExecution({
      namespace: 'standalone',
      requestId: randomUUID(),
      activityId: 'alone',
      activityType: { name: 'work' },
      taskQueue: { name: taskQueue },
      startToCloseTimeout: { seconds: 60 as never },
      input: { payloads: [payloadOf(markOf('standalone input'))] },
    });
    expect(started).toBe(true);
    const { gaps } = await until('the activity', async () => {
      const described = await there.describe();
      return described.gaps.length > 0 ? described : undefined;
    });
    expect(gaps).toEqual([expect.stringMatching(/^there are standalone activities, .* run them in workflows/)]);
    // it is listed as well, and is no run: a mark that began before it was there does not end well either
    const ids: string[] = [];
    for await (const page of runs.list(there)) ids.push(...page.map(({ id }) => id));
    expect(ids).toEqual([expect.stringMatching(/^alone\n/)]);
    expect(await runs.scan(there, ids[0] ?? '', undefined)).toBeUndefined();
    await other.close();
  });

  it('lists all namespaces, or those that are named', async () => {
    const every = openCluster(settings(address, 'all'));
    const names = (await every.namespaces()).map(({ name }) => name);
    expect(names).toEqual(expect.arrayContaining([namespace, 'temporal-system']));
    expect((await every.namespaces()).every((one) => one.cluster === 'dev')).toBe(true);
    await every.close();
  });

  it('takes nothing for gone in a namespace that was made anew', async () => {
    const name = 'made-anew';
    await registerNamespace(name);
    const clock = { ms: 0 };
    const other = openCluster(settings(address, [name]), {
      clock: { monotonicMs: () => clock.ms, epochMs: () => Date.now(), sleep: async () => undefined },
    });
    const there = await only(other);
    // the server's parts learn of a namespace one after the other
    const described = () => until('the namespace', () => there.describe().catch(() => undefined));
    const { namespaceId } = await described();
    const id = `gone\n${randomUUID()}`;
    const scanOfNone = () => runs.scan(there, id, undefined);
    const isGone = async () => (await scanOfNone()) === undefined || undefined;
    await until('an answer of all parts', isGone);

    const { deletedNamespace } = await connection.operatorService.deleteNamespace({ namespace: name });
    expect(deletedNamespace).not.toBe(name);
    clock.ms += 10_000;
    await until('the end of the namespace', async () => {
      const error = await scanOfNone().catch((caught: unknown) => caught);
      return (error as { code?: string } | undefined)?.code === 'TEMPORAL_REFUSED' ? true : undefined;
    });
    await registerNamespace(name);
    const outcomes: unknown[] = [];
    await until('the new namespace', async () => {
      outcomes.push(await scanOfNone().catch((caught: unknown) => caught));
      return /the namespace is not the one that it was: its id is /.test(`${outcomes.at(-1)}`) || undefined;
    });
    // until all parts know of it: no such namespace
    expect(outcomes.map((outcome) => (outcome as { code?: string } | undefined)?.code)).toEqual(
      outcomes.map(() => 'TEMPORAL_REFUSED'),
    );
    await expect(schedules.scan(there, 'gone', undefined)).rejects.toMatchObject({ code: 'TEMPORAL_REFUSED' });
    expect((await described()).namespaceId).not.toBe(namespaceId);
    await until('an answer of all parts', isGone);
    await other.close();
  });
});

function settings(address: string, namespaces: ClusterSettings['namespaces']): ClusterSettings {
  const lists = { claimFreeEncodings: [], acceptServerVersions: [] };
  return { name: 'dev', address, namespaces, isIsolated: false, requestsPerSecond: 200, ...lists };
}

async function only(cluster: TemporalCluster): Promise<TemporalNamespace> {
  const [namespace] = await cluster.namespaces();
  if (namespace === undefined) throw new Error('no namespace');
  return namespace;
}

function found(scan: Scan | undefined): Scan {
  if (scan === undefined) throw new Error('it is gone');
  return scan;
}

/** Names of the marks that a scan has not found. */
function missing(scan: Scan | undefined, names: readonly string[]): string[] {
  const digests = new Set(scan?.edges.map(({ digest }) => digest));
  return names.filter((name) => !digests.has(markOf(name)));
}

/** Sees the events that are read. */
function watching(extractor: Extractor, see: (event: HistoryEvent) => void): Extractor {
  return {
    ...extractor,
    collect() {
      const collection = extractor.collect();
      return {
        result: () => collection.result(),
        async add(typeName, message) {
          for (const event of 'events' in message ? (message.events as HistoryEvent[]) : []) see(event);
          await collection.add(typeName, message);
        },
      };
    },
  };
}
