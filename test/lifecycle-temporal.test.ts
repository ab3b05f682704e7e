/** A cluster that fails, at each call and in each way: what it means, and that nothing is ever taken for gone by mistake. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Clock, isLpsError } from '@large-payload/core';
import { describeWith, startTemporal, tempDir } from '@large-payload/test-components';
import { Client, Connection } from '@temporalio/client';
import proto from '@temporalio/proto';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type ClusterSettings, readClusters } from '../packages/server/src/lifecycle/clusters.ts';
import { openExtractor } from '../packages/server/src/lifecycle/extract/extractor.ts';
import { runsKind } from '../packages/server/src/lifecycle/holders/runs.ts';
import { schedulesKind } from '../packages/server/src/lifecycle/holders/schedules.ts';
import { openCluster } from '../packages/server/src/lifecycle/temporal/cluster.ts';
import { grpcStatus } from '../packages/server/src/lifecycle/temporal/grpc-failure.ts';
import type { TemporalCluster, TemporalNamespace } from '../packages/server/src/lifecycle/temporal-api.ts';
import {
  type GrpcAnswer,
  type GrpcFault,
  type GrpcProxy,
  namespaceNotFound,
  notFound,
  startGrpcProxy,
} from './support/grpc-proxy.ts';
import { until } from './support/until.ts';

const refused = ['INVALID_ARGUMENT', 'NOT_FOUND', 'PERMISSION_DENIED', 'UNIMPLEMENTED', 'UNAUTHENTICATED'];
const gone = notFound();
const elsewhere = notFound({ currentCluster: 'west', activeCluster: 'east' });

const temporal = await startTemporal();

describeWith(describe, 'a cluster that fails', temporal, ({ address, namespace, stop }) => {
  let connection: Connection;
  let proxy: GrpcProxy;
  let cluster: TemporalCluster;
  let here: TemporalNamespace;
  let clock: JumpingClock;
  const run = { workflowId: randomUUID(), runId: '' };
  const extractor = openExtractor();
  const [runs, schedules] = [runsKind(extractor), schedulesKind(extractor)];

  beforeAll(async () => {
    connection = await Connection.connect({ address });
    const client = new Client({ connection, namespace });
    const handle = await client.workflow.start('nobody', { taskQueue: 'none', workflowId: run.workflowId });
    run.runId = handle.firstExecutionRunId;
    const action = { type: 'startWorkflow' as const, workflowType: 'nobody', taskQueue: 'none' };
    await client.schedule.create({ scheduleId: 'hourly', spec: { intervals: [{ every: '1h' }] }, action });
    proxy = await startGrpcProxy(address);
    clock = new JumpingClock();
    cluster = openCluster(settings(proxy.address, 'all'), { clock });
    const found = (await cluster.namespaces()).find(({ name }) => name === namespace);
    if (found === undefined) throw new Error('no namespace');
    here = found;
  });
  afterEach(() => {
    proxy.fault = undefined;
    proxy.calls.length = 0;
  });
  afterAll(async () => {
    await cluster.close();
    await proxy.close();
    await connection.close();
    await stop();
  });

  const works = {
    namespaces: () => cluster.namespaces(),
    describe: () => here.describe(),
    'list of runs': () => everything(runs.list(here)),
    'list of schedules': () => everything(schedules.list(here)),
    'scan of a run': () => runs.scan(here, `${run.workflowId}\n${run.runId}`, undefined),
    'scan of a schedule': () => schedules.scan(here, 'hourly', undefined),
  };

  /** The work with its n-th call answered so, for ever from then on. */
  async function failing(work: () => Promise<unknown>, n: number, answer: GrpcFault): Promise<unknown> {
    clock.ms += 60_000;
    let calls = 0;
    proxy.fault = (method) => {
      calls += 1;
      return calls >= n ? answer : unlimited(method);
    };
    return work().then(
      (result) => ({ result }),
      (error: unknown) => error,
    );
  }

  async function callsOf(work: () => Promise<unknown>): Promise<string[]> {
    clock.ms += 60_000;
    proxy.calls.length = 0;
    proxy.fault = unlimited;
    await work();
    return [...proxy.calls];
  }

  it.each(Object.entries(works))('%s: each status at each call means what it should', async (_name, work) => {
    const calls = await callsOf(work);
    expect(calls.length).toBeGreaterThan(0);
    for (let n = 1; n <= calls.length; n += 1) {
      for (const [name, code] of Object.entries(grpcStatus)) {
        const outcome = await failing(work, n, { status: code, message: `no ${name}` });
        const isDetection = /^List(Activity|NexusOperation)Executions$/.test(calls[n - 1] ?? '');
        if (name === 'UNIMPLEMENTED' && isDetection) continue;
        const isById = /^(Describe(WorkflowExecution|Schedule)|GetWorkflowExecutionHistoryReverse)$/.test(
          calls[n - 1] ?? '',
        );
        // NOT_FOUND of an id, but not in Temporal's words
        const isDoubtful = name === 'NOT_FOUND' && isById;
        const expected = refused.includes(name) && !isDoubtful ? 'TEMPORAL_REFUSED' : 'TEMPORAL_UNAVAILABLE';
        expect(isLpsError(outcome) ? outcome.code : outcome, `${calls[n - 1]} ${name}`).toBe(expected);
        expect(String(outcome)).toContain(`no ${name}`);
        expect(String(outcome)).toContain(`dev: ${calls[n - 1]}`);
      }
    }
  });

  it('takes a run and a schedule for gone when Temporal says so of their ids, and for nothing else', async () => {
    const nothing = { result: undefined };
    const onlyById = (answer: GrpcAnswer) => (method: string) => (method === 'DescribeNamespace' ? undefined : answer);
    for (const work of [works['scan of a run'], works['scan of a schedule']]) {
      const scan = async (): Promise<unknown> =>
        work().then(
          (result) => ({ result }),
          (error: unknown) => error,
        );
      clock.ms += 60_000;
      proxy.fault = onlyById(gone);
      expect(await scan()).toEqual(nothing);
      proxy.fault = onlyById(namespaceNotFound(namespace));
      expect(await scan()).toMatchObject({ code: 'TEMPORAL_REFUSED' });
      proxy.fault = onlyById(elsewhere);
      expect(await scan()).toMatchObject({
        code: 'TEMPORAL_UNAVAILABLE',
        message: expect.stringContaining('east is the active one'),
      });
      // the namespace cannot be looked at
      clock.ms += 60_000;
      proxy.fault = () => gone;
      expect(await scan()).toMatchObject({ code: 'TEMPORAL_REFUSED' });
      proxy.fault = (method) => (method === 'DescribeNamespace' ? { status: grpcStatus.UNAVAILABLE } : gone);
      expect(await scan()).toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
    }
    // gone while its history is read
    proxy.fault = (method) => (method === 'GetWorkflowExecutionHistoryReverse' ? gone : undefined);
    expect(await works['scan of a run']()).toBeUndefined();
    // a list of nothing is no list of what is gone
    for (const work of [works['list of runs'], works['list of schedules'], works.namespaces, works.describe])
      expect(await failing(work, 1, gone)).toMatchObject({ code: 'TEMPORAL_REFUSED' });
  });

  it('says what else it cannot read in a namespace', async () => {
    const { ListNexusOperationExecutionsResponse, ListWorkflowExecutionsResponse, GetClusterInfoResponse } =
      proto.temporal.api.workflowservice.v1;
    const messages: Record<string, Uint8Array> = {
      ListActivityExecutions: new Uint8Array(),
      ListNexusOperationExecutions: ListNexusOperationExecutionsResponse.encode({ operations: [{}] }).finish(),
      ListWorkflowExecutions: ListWorkflowExecutionsResponse.encode({ executions: [{}] }).finish(),
      GetClusterInfo: GetClusterInfoResponse.encode({ serverVersion: '1.40.0' }).finish(),
    };
    proxy.fault = (method) => messages[method];
    expect((await here.describe()).gaps).toEqual([
      expect.stringMatching(/^the server's version is 1\.40\.0, known are 1\.24 to 1\.32: use a version of lps/),
      expect.stringMatching(/^there are standalone Nexus operations/),
      expect.stringMatching(/^there are schedules of the server's newer scheduler/),
    ]);
    // it is not said there: then by another call
    messages.GetClusterInfo = new Uint8Array();
    expect((await here.describe()).serverVersion).toMatch(/^1\.\d+\.\d+/);
    // what is no message
    messages.GetClusterInfo = Buffer.from('no protobuf');
    await expect(here.describe()).rejects.toMatchObject({
      code: 'TEMPORAL_UNAVAILABLE',
      message: expect.stringContaining('dev: GetClusterInfo: the answer could not be read: '),
    });
  });

  it('looks at the namespace once for the NotFounds of a second', async () => {
    proxy.fault = (method) => (method === 'DescribeWorkflowExecution' ? gone : undefined);
    clock.ms += 60_000;
    for (let scans = 0; scans < 5; scans += 1) expect(await works['scan of a run']()).toBeUndefined();
    expect(proxy.calls.filter((call) => call === 'DescribeNamespace')).toHaveLength(1);
    clock.ms += 1000;
    expect(await works['scan of a run']()).toBeUndefined();
    expect(proxy.calls.filter((call) => call === 'DescribeNamespace')).toHaveLength(2);
  });

  it('asks a busy server again, later and later, and not for ever', async () => {
    let busy = 3;
    proxy.fault = () => {
      busy -= 1;
      return busy >= 0
        ? { status: grpcStatus.RESOURCE_EXHAUSTED, message: 'namespace rate limit exceeded' }
        : undefined;
    };
    const since = clock.ms;
    expect(await works['scan of a schedule']()).toMatchObject({ gaps: [] });
    expect(proxy.calls).toHaveLength(4);
    expect(clock.ms - since).toBeGreaterThanOrEqual((250 + 500 + 1000) / 2);
    proxy.calls.length = 0;
    busy = 1000;
    await expect(works['scan of a schedule']()).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
    expect(proxy.calls).toHaveLength(10);
  });

  it.each([
    ['GetWorkflowExecutionHistoryReverse', works['scan of a run']],
    ['ListWorkflowExecutions', works['list of runs']],
    ['ListSchedules', works['list of schedules']],
  ])('takes smaller pages where those of %s are too large for one answer', async (paged, work) => {
    const tooLarge = { status: grpcStatus.RESOURCE_EXHAUSTED, message: 'Received message larger than max (99 vs 64)' };
    let times = 2;
    proxy.fault = (method) => {
      if (method !== paged) return undefined;
      times -= 1;
      return times >= 0 ? tooLarge : unlimited(method);
    };
    expect(await work()).toBeDefined();
    // it was not taken for a busy server
    expect(proxy.calls.filter((method) => method === paged).length).toBeLessThanOrEqual(4);
    proxy.calls.length = 0;
    times = 1000;
    await expect(work()).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
    expect(proxy.calls.filter((method) => method === paged)).toHaveLength(4);
  });

  it('does not wait for ever, and outlives a broken connection', async () => {
    const hasty = openCluster(settings(proxy.address, [namespace]), { deadlineMs: 200 });
    const [there] = await hasty.namespaces();
    proxy.fault = () => 'never';
    await expect(there?.describeRun(run)).rejects.toMatchObject({
      code: 'TEMPORAL_UNAVAILABLE',
      message: expect.stringContaining('DEADLINE_EXCEEDED'),
    });
    proxy.fault = undefined;
    expect(await until('an answer', async () => there?.describeRun(run))).toBeDefined();
    await hasty.close();
    for (const work of Object.values(works))
      expect(await failing(work, 1, 'cut')).toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
    proxy.fault = undefined;
    await until('an answer', async () => works['scan of a run']());
  });

  it('says that nobody answers at an address', async () => {
    const nowhere = openCluster(settings('127.0.0.1:1', [namespace]), { deadlineMs: 500 });
    const [there] = await nowhere.namespaces();
    await expect(there?.describe()).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
    await nowhere.close();
  });

  it('ends what waits when it is closed', async () => {
    const other = openCluster(settings(proxy.address, [namespace]), { deadlineMs: 600_000 });
    const [there] = await other.namespaces();
    const isAsked = new Promise<void>((resolve) => {
      proxy.fault = () => {
        resolve();
        return 'never';
      };
    });
    const outcome = there?.describeRun(run).catch((error: unknown) => error);
    await isAsked;
    await other.close();
    expect(await outcome).toMatchObject({ code: 'ABORTED' });
    await expect(there?.describeRun(run)).rejects.toMatchObject({ code: 'ABORTED' });
  });

  it('comes in with the API key of its file over TLS, and is refused with another', async () => {
    const dir = tempDir('temporal-tls');
    const tls = await makeCertificate(dir);
    const guarded = await startGrpcProxy(address, { tls, authorization: () => 'Bearer right' });
    const keyFile = join(dir, 'api.key');
    writeFileSync(keyFile, 'wrong\n');
    const file = join(dir, 'clusters.yaml');
    writeFileSync(
      file,
      `clusters: [{ name: dev, address: "${guarded.address}", namespaces: [${namespace}], api-key-file: api.key, tls: { ca: tls.crt, server-name: localhost } }]`,
    );
    const [read] = await readClusters(file);
    if (read === undefined) throw new Error('no cluster');
    const other = openCluster(read);
    const [there] = await other.namespaces();
    const error = await there?.describe().catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: 'TEMPORAL_REFUSED' });
    expect(String(error)).toMatch(
      /UNAUTHENTICATED: no such key; is the key in api-key-file, or the certificate, still valid\?$/,
    );
    expect(String(error)).not.toContain('wrong');
    expect(guarded.calls).toEqual([]);
    // the key is replaced while the service runs
    writeFileSync(keyFile, 'right\n');
    expect(await there?.describe()).toMatchObject({ gaps: [] });
    // one that nobody can read now
    writeFileSync(keyFile, 'two words');
    await expect(there?.describe()).rejects.toMatchObject({ code: 'TEMPORAL_REFUSED' });
    writeFileSync(keyFile, 'right\n');
    // another authority
    const distrustful = openCluster({ ...read, tls: {} }, { deadlineMs: 500 });
    const [unreachable] = await distrustful.namespaces();
    await expect(unreachable?.describe()).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
    await Promise.all([other.close(), distrustful.close()]);
    await guarded.close();
  });
});

/** The server lets nobody list more often than 10 times a second, and the clock here runs ahead. */
function unlimited(method: string): GrpcFault | undefined {
  return method.startsWith('List') && method !== 'ListNamespaces' ? new Uint8Array() : undefined;
}

/** Nobody waits; the clock has moved instead. */
class JumpingClock implements Clock {
  ms = 0;

  monotonicMs(): number {
    return this.ms;
  }

  epochMs(): number {
    return this.ms;
  }

  async sleep(ms: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.ms += ms;
  }
}

function settings(address: string, namespaces: ClusterSettings['namespaces']): ClusterSettings {
  const lists = { claimFreeEncodings: [], acceptServerVersions: [] };
  return { name: 'dev', address, namespaces, isIsolated: false, requestsPerSecond: 50, ...lists };
}

async function everything<T>(pages: AsyncIterable<readonly T[]>): Promise<T[]> {
  const all: T[] = [];
  for await (const page of pages) all.push(...page);
  return all;
}

async function makeCertificate(dir: string): Promise<{ cert: string; key: string }> {
  const [cert, key] = [join(dir, 'tls.crt'), join(dir, 'tls.key')];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  await promisify(execFile)('openssl', ['req', '-x509', ...curve, ...names, '-keyout', key, '-out', cert]);
  return { cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') };
}
