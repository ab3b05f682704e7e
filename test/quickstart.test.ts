/** The quickstart example, run as a user runs it: a real service, a real Temporal server, worker and client processes. */
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { serializedPayloadSize } from '@large-payload/core';
import {
  describeWith,
  type LoggedProcess,
  spawnLogged,
  startTemporal,
  type TemporalServer,
} from '@large-payload/test-components';
import { Connection } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { kindOf, payloadsIn } from './support/history.ts';
import { says } from './support/says.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

const example = fileURLToPath(new URL('../examples/quickstart/', import.meta.url));
const thresholdBytes = 128_000;
/** The argument (in the first run's start, its continue-as-new and the second's start), 20 results, the signal. */
const largePayloads = 3 + 20 + 1;

/** What stands in the history for a large payload. */
const kinds = { plugin: 'codec', codec: 'codec', driver: 'driver:large-payload' } as const;
type Mode = keyof typeof kinds;
const modes = ['plugin', 'codec', 'driver'] as const;
type Env = Record<string, string>;

const temporal = await startTemporal();

describeWith(describe, 'the quickstart', temporal, (temporal) => {
  let service: RunningService;

  beforeAll(async () => {
    service = await startService();
  });
  afterAll(async () => {
    await service?.stop();
    await temporal.stop();
  });

  async function startWorker(env: Env): Promise<LoggedProcess> {
    const worker = await spawnLogged(process.execPath, ['worker.js'], { cwd: example, env });
    await says(worker, 'worker ready');
    return worker;
  }

  interface RunOptions {
    /** Of worker and client. */
    readonly env?: Env;
    /** Of the first worker alone. */
    readonly workerEnv?: Env;
    /** Runs while the workflow does, and returns the worker that is to be stopped. */
    readonly during?: (worker: LoggedProcess, env: Env) => Promise<LoggedProcess>;
  }

  /** Runs worker and client. */
  async function run(mode: Mode, options: RunOptions = {}): Promise<string> {
    const workflowId = `quickstart-${randomUUID()}`;
    const common = { LPS_URL: service.url, TEMPORAL_ADDRESS: temporal.address, TEMPORAL_NAMESPACE: temporal.namespace };
    const env = { ...common, MODE: mode, WORKFLOW_ID: workflowId, ...options.env };
    let worker = await startWorker({ ...env, ...options.workerEnv });
    const client = await spawnLogged(process.execPath, ['client.js'], { cwd: example, env });
    try {
      worker = (await options.during?.(worker, env)) ?? worker;
      await says(client, /result \d+, /, worker);
      expect(client.output()).toMatch(/result \d+, as expected/);
    } finally {
      await client.stop();
      await worker.stop();
    }
    return workflowId;
  }

  for (const mode of modes) {
    it(`moves 36 MB through a workflow in mode ${mode}, and none of it into the history`, async () => {
      const histories = await historiesOf(temporal, await run(mode));
      expect(histories.runs).toBe(2);
      expect(histories.largestPayload).toBeLessThan(1000);
      expect(histories.claims).toEqual({ [kinds[mode]]: largePayloads });
    });

    it(`does so in mode ${mode} when every workflow task replays the whole history`, async () => {
      const before = await downloads(service);
      const histories = await historiesOf(temporal, await run(mode, { env: { MAX_CACHED_WORKFLOWS: '0' } }));
      expect(histories.largestPayload).toBeLessThan(thresholdBytes);
      // the argument and the signal, which came from the client: the rest is in the worker's memory
      expect((await downloads(service)) - before).toBe(2);
    });
  }

  it('comes to the same result when the worker is killed in the middle', async () => {
    let second: LoggedProcess | undefined;
    const killed = fileURLToPath(new URL('./fixtures/killed-in-the-middle.mjs', import.meta.url));
    const workflowId = await run('plugin', {
      workerEnv: { NODE_OPTIONS: `--import "${killed}"`, KILLED_AT: '8' },
      during: async (first, env) => {
        expect(await until('the end of the worker', async () => first.ended)).toBe('signal SIGKILL');
        second = await startWorker(env);
        return second;
      },
    });
    expect(second?.output()).toMatch(/activity 19 started/);
    expect((await historiesOf(temporal, workflowId)).largestPayload).toBeLessThan(thresholdBytes);
  });
});

/** How many blobs the service has sent. */
async function downloads(service: RunningService): Promise<number> {
  const metrics = await (await fetch(`${service.url}/metrics`)).text();
  const count = /^lps_http_requests_total\{route="\/v3\/blobs",method="GET",status="200"\} (\d+)$/m.exec(metrics)?.[1];
  return Number(count ?? 0);
}

interface Histories {
  readonly runs: number;
  /** Bytes. */
  readonly largestPayload: number;
  /** By kind, `codec` or `driver:NAME`. */
  readonly claims: Record<string, number>;
}

/** What the server keeps of a workflow, over all its runs, as the API gives it: no codec in between. */
async function historiesOf(temporal: TemporalServer, workflowId: string): Promise<Histories> {
  const connection = await Connection.connect({ address: temporal.address });
  const { workflowService } = connection;
  const { namespace } = temporal;
  let [runs, largestPayload] = [0, 0];
  const claims: Record<string, number> = {};
  let runId: string | null | undefined = await firstRunOf(connection, namespace, workflowId);
  while (runId) {
    runs += 1;
    let nextPageToken: Uint8Array | null | undefined;
    let nextRunId: string | null | undefined;
    do {
      const request = { namespace, execution: { workflowId, runId }, ...(nextPageToken ? { nextPageToken } : {}) };
      const page = await workflowService.getWorkflowExecutionHistory(request);
      for (const event of page.history?.events ?? []) {
        nextRunId ??= event.workflowExecutionContinuedAsNewEventAttributes?.newExecutionRunId;
        for (const payload of payloadsIn(event)) {
          largestPayload = Math.max(largestPayload, serializedPayloadSize(payload));
          const kind = kindOf(payload);
          if (kind !== 'inline') claims[kind] = (claims[kind] ?? 0) + 1;
        }
      }
      nextPageToken = page.nextPageToken;
    } while (nextPageToken && nextPageToken.length > 0);
    runId = nextRunId;
  }
  await connection.close();
  return { runs, largestPayload, claims };
}

async function firstRunOf(connection: Connection, namespace: string, workflowId: string): Promise<string> {
  const { workflowExecutionInfo } = await connection.workflowService.describeWorkflowExecution({
    namespace,
    execution: { workflowId },
  });
  const runId = workflowExecutionInfo?.firstRunId;
  if (!runId) throw new Error('the server names no first run');
  return runId;
}
