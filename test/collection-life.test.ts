/**
 * The collection beside everything that Temporal does with payloads, on a real server and for minutes: as long as Temporal
 * can show a claim its blob is there, what nobody holds goes meanwhile, and in the end the store is empty.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { openFileStore, openHttpStore } from '@large-payload/core';
import { LargePayloadPlugin } from '@large-payload/temporal';
import { describeWith, startTemporal, tempDir } from '@large-payload/test-components';
import { Connection } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Activities } from './support/collection-activities.ts';
import { CatalogView, type Mark } from './support/collection-catalog.ts';
import { Checker } from './support/collection-checker.ts';
import { Load } from './support/collection-load.ts';
import { scenes } from './support/collection-scenes.ts';
import { lps } from './support/lps.ts';
import { scaled } from './support/scale.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

Runtime.install({
  logger: new DefaultLogger('ERROR'),
  telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
});

const workflowsPath = fileURLToPath(new URL('./support/life-workflows.ts', import.meta.url));
const taskQueue = 'life';
/**
 * G: a worker's upload is in a history long before, also on a slow machine. V: more than Temporal takes to list what was
 * started. In ms.
 */
const times = { grace: 12_000, quarantine: 3000, 'visibility-bound': 2000, 'collect-interval': 1000 };
const loadMs = scaled({ usual: 120_000, long: 600_000 });
/** A slow machine does less in that time: it goes on until so many blobs are gone, while others are held. */
const minCollected = scaled({ usual: 200, long: 1000 });
const patienceMs = 300_000;
/** For the claim check: a service that stalls for a while is slow, and no fault of what it keeps. */
const deadlineMs = 60_000;
/** Where Temporal showed claims: all of them, or the load does not do what it should. */
const places = [
  '.pendingActivities.heartbeatDetails.payloads',
  '.pendingActivities.lastFailure.applicationFailureInfo.details.payloads',
  '.schedule.action.startWorkflow.input.payloads',
  '.schedule.action.startWorkflow.memo.fields.of',
  '.memo.fields.own',
  '.workflowExecutionInfo.memo.fields.of',
  '.workflowExecutionInfo.memo.fields.later',
  '.workflowExecutionStartedEventAttributes.input.payloads',
  '.workflowExecutionStartedEventAttributes.memo.fields.of',
  '.workflowExecutionStartedEventAttributes.header.fields.of',
  '.workflowExecutionStartedEventAttributes.lastCompletionResult.payloads',
  '.workflowExecutionStartedEventAttributes.continuedFailure.applicationFailureInfo.details.payloads',
  '.workflowExecutionContinuedAsNewEventAttributes.input.payloads',
  '.workflowExecutionSignaledEventAttributes.input.payloads',
  '.workflowExecutionUpdateAcceptedEventAttributes.acceptedRequest.input.args.payloads',
  '.workflowExecutionUpdateCompletedEventAttributes.outcome.success.payloads',
  '.workflowExecutionCompletedEventAttributes.result.payloads',
  '.workflowExecutionFailedEventAttributes.failure.applicationFailureInfo.details.payloads',
  '.workflowExecutionTerminatedEventAttributes.details.payloads',
  '.workflowPropertiesModifiedEventAttributes.upsertedMemo.fields.later',
  '.activityTaskScheduledEventAttributes.input.payloads',
  '.activityTaskCompletedEventAttributes.result.payloads',
  '.markerRecordedEventAttributes.details.result.payloads',
  '.startChildWorkflowExecutionInitiatedEventAttributes.input.payloads',
  '.childWorkflowExecutionCompletedEventAttributes.result.payloads',
  '.childWorkflowExecutionFailedEventAttributes.failure.applicationFailureInfo.details.payloads',
];

const temporal = await startTemporal();
afterAll(() => temporal?.stop());

describeWith(describe, 'the collection beside workflows', temporal, ({ address, namespace }) => {
  const dataDir = tempDir('life');
  const storeDir = join(dataDir, 'store');
  const catalog = new CatalogView(dataDir);
  const activities = new Activities();
  let service: RunningService;
  let connection: Connection;
  let native: NativeConnection;
  let worker: Worker;
  let working: Promise<void>;
  let plugin: LargePayloadPlugin;

  beforeAll(async () => {
    const clusters = join(tempDir('clusters'), 'clusters.yaml');
    const cluster = { name: 'dev', address, namespaces: [namespace], 'requests-per-second': 500 };
    writeFileSync(clusters, JSON.stringify({ clusters: [cluster] })); // which is YAML
    const args = Object.entries(times).flatMap(([name, time]) => [`--${name}`, `${time}ms`]);
    const acting = ['--unsafe-times', '--clusters', clusters, '--collect', namespace, '--collect-max-percent', '100'];
    service = await startService({ dataDir, args: [...acting, ...args] });
    connection = await Connection.connect({ address });
    native = await NativeConnection.connect({ address });
    // without a cache: whatever a client or a worker is given, it has just read
    plugin = new LargePayloadPlugin({ url: service.url, cacheBytes: 0, deadlineMs });
    worker = await Worker.create({
      ...{ connection: native, namespace, taskQueue, workflowsPath, activities: activities.all },
      plugins: [new LargePayloadPlugin({ url: service.url, cacheBytes: 0, deadlineMs })],
      interceptors: { workflowModules: [workflowsPath] },
      // most workflows are replayed when they go on, from payloads that are old by then
      maxCachedWorkflows: 4,
      maxConcurrentWorkflowTaskExecutions: 4,
      // a heartbeat that waits longer for its turn than G would not be protected any more
      maxHeartbeatThrottleInterval: '500ms',
    });
    working = worker.run();
  });
  afterAll(async () => {
    worker?.shutdown();
    await working;
    await plugin?.close();
    await native?.close();
    await connection?.close();
    await service?.stop();
  });

  const files = (): string[] => {
    const entries = readdirSync(join(storeDir, 'blobs'), { recursive: true, withFileTypes: true });
    return entries.filter((entry) => entry.isFile()).map(({ name }) => name);
  };

  it('keeps what Temporal can show, and nothing else', { timeout: loadMs + 3 * patienceMs }, async () => {
    const checker = new Checker({ connection, namespace, catalog, store: await openFileStore({ dir: storeDir }) });
    const load = new Load({ connection, namespace, taskQueue, plugin, activities, checker, dataDir, slots: 24 });
    const since = performance.now();
    const isRight = () => checker.faults.length + load.errors.length === 0;
    const missing = async () => ({
      scenes: Object.keys(scenes).filter((name) => !load.played.has(name)),
      places: places.filter((place) => !checker.places.has(place)),
      collected: Math.max(0, minCollected - ((await catalog.states()).gone ?? 0)),
    });
    const none = { scenes: [], places: [], collected: 0 };
    const isEnough = async () => isDeepStrictEqual(await missing(), none);
    const isTime = () => performance.now() - since < loadMs;
    while (isTime() || (performance.now() - since < loadMs + patienceMs && !(await isEnough()))) {
      if (!isRight() || (await catalog.brakes()).length > 0) break;
      // not all there is at a time: what is new is listed soon
      let left = 100;
      await checker.pass(() => {
        left -= 1;
        return isRight() && left >= 0;
      });
    }
    expect({ faults: checker.faults, errors: load.errors }).toEqual({ faults: [], errors: [] });
    expect({ ...(await missing()), brakes: await catalog.brakes() }).toEqual({ ...none, brakes: [] });
    load.end();
    await readEverything(checker);
    expect(checker.faults).toEqual([]);
    console.log(await summary(checker, load));

    await load.closeAll();
    await load.deleteAll();
    await everythingGoes();
    expect(await catalog.revivals()).toBe(0);
  });

  /** Of all that Temporal shows, the blobs by way of the service: a read from quarantine would be noted. */
  async function readEverything(checker: Checker): Promise<void> {
    const store = openHttpStore({ url: service.url });
    checker.service = store;
    await checker.pass();
    await store.close?.();
    expect(await catalog.revivals()).toBe(0);
  }

  /** S6: G + Q + 4 marks, and what edges linger; each pair of marks as many rounds as 2V have, and one at either end. */
  async function everythingGoes(): Promise<void> {
    const { now: deletedAt } = await catalog.lastTimes();
    await until(
      'a mark behind the last deletion',
      async () => {
        const [mark] = await catalog.marks();
        return mark?.isComplete && mark.startedAt > deletedAt ? true : undefined;
      },
      patienceMs,
    );
    // fewer holders than before: a person has looked, and lets it go on
    const resumed = await lps({ dataDir }, 'gc', 'resume', '--kind', 'holders_lost');
    expect(resumed.out).toMatch(/^released {2}holders_lost /);
    const { touchedAt, goneAt, now } = await catalog.lastTimes();
    // as of the last two looks, the first of which still found something
    let [before, last]: [Mark[], Mark[]] = [[], []];
    await until(
      'an empty store',
      async () => {
        [before, last] = [last, await catalog.marks()];
        return files().length === 0 || undefined;
      },
      patienceMs,
    );
    // those at the end count as well: a service that stalled meanwhile keeps edges for longer
    const spansMs = (await catalog.marks()).map((mark) => mark.endedAt.getTime() - mark.startedAt.getTime());
    const lingerMs = 4 * times['collect-interval'] + 2 * times['visibility-bound'] + 2 * Math.max(...spansMs);
    const graceMs = times.grace + (2 * times.grace) / 24;
    const freeFrom = Math.max(touchedAt.getTime() + graceMs, goneAt.getTime() + lingerMs, now.getTime());
    const roundsIn = (marks: Mark[]) => marks.filter(({ startedAt }) => startedAt.getTime() > freeFrom).length;
    const pair = 2 + Math.ceil((2 * times['visibility-bound']) / times['collect-interval']);
    // a look that comes late must not count the rounds that had nothing left to do
    expect(Math.min(roundsIn(last), roundsIn(before) + 1)).toBeLessThanOrEqual(1 + 2 * pair);

    expect(Object.keys(await catalog.states())).toEqual(['gone']);
    expect(new Set((await catalog.brakes()).map(({ kind }) => kind))).toEqual(new Set(['holders_lost']));
    expect((await lps({ dataDir }, 'gc', 'status')).out).not.toMatch(/^(stopped|live|quarantined|deleting)/m);
  }

  async function summary(checker: Checker, load: Load): Promise<string> {
    const marks = await catalog.marks();
    const incomplete = marks.filter(({ isComplete }) => !isComplete);
    const states = JSON.stringify(await catalog.states());
    return [
      `${[...load.played.values()].reduce((sum, count) => sum + count, 0)} scenes, ${load.deleted} runs deleted`,
      `${checker.checked} claims checked, blobs ${states}`,
      `${marks.length} marks, ${incomplete.length} incomplete: ${[...new Set(incomplete.flatMap(({ gaps }) => gaps))].join('; ')}`,
    ].join('\n');
  }
});
