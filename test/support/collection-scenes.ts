/**
 * What people do with Temporal, one scene each, with large payloads at every step and a check of what comes back. Between
 * two steps a scene keeps quiet for some rounds of the collection: nobody uses its blobs then, and only what a mark has seen
 * protects them.
 */
import { randomInt, randomUUID } from 'node:crypto';
import { formatClaim } from '@large-payload/core';
import type { LargePayloadPlugin } from '@large-payload/temporal';
import {
  type Client,
  ScheduleOverlapPolicy,
  WithStartWorkflowOperation,
  WorkflowFailedError,
  type WorkflowHandle,
  type WorkflowHandleWithStartDetails,
} from '@temporalio/client';
import { ApplicationFailure, defaultPayloadConverter, type Payload } from '@temporalio/common';
import proto from '@temporalio/proto';
import type { Activities } from './collection-activities.ts';
import { large, nameOf, requireText } from './collection-content.ts';

/** What a scene works with. Ids of all that it makes begin with `id`. */
export interface Stage {
  readonly id: string;
  readonly client: Client;
  readonly namespace: string;
  readonly taskQueue: string;
  readonly plugin: LargePayloadPlugin;
  readonly activities: Activities;
  /** Asks until there is an answer. Throws when the time of the scenes is over. */
  until<T>(what: string, ask: () => Promise<T | undefined>): Promise<T>;
  /** Waits for some rounds of the collection, sometimes for so many that whatever nobody holds is gone by then. */
  quiet(): Promise<void>;
  /** Deletes the closed runs of a workflow, all of them or one. */
  forget(workflowId: string, runId?: string): Promise<void>;
}

const { EventType } = proto.temporal.api.enums.v1;

/** A claim made by hand, for what no data converter sees. */
export async function claimOf(plugin: LargePayloadPlugin, namespace: string, name: string): Promise<Payload> {
  const payload = defaultPayloadConverter.toPayload(large(name));
  return formatClaim(await plugin.claimCheck.deposit(payload, { namespace }));
}

/** A few texts are shared by scenes that know nothing of each other, now and then. */
function inputOf({ id }: Stage): string {
  return large(randomInt(6) === 0 ? `shared ${randomInt(4)}` : id);
}

function start(
  stage: Stage,
  type: string,
  args: unknown[],
  more: object = {},
): Promise<WorkflowHandleWithStartDetails> {
  const { client, taskQueue, id } = stage;
  const memo = { of: large(`${id}, memo`) };
  return client.workflow.start(type, { taskQueue, workflowId: id, args, memo, ...more });
}

async function signals(stage: Stage): Promise<void> {
  const { client, id, taskQueue } = stage;
  const input = inputOf(stage);
  const options = { taskQueue, workflowId: id, args: [input], memo: { of: large(`${id}, memo`) } };
  const handle = await client.workflow.signalWithStart('waits', {
    ...options,
    signal: 'note',
    signalArgs: [large(`${id}, note 1`)],
  });
  await stage.quiet();
  await handle.signal('note', large(`${id}, note 2`));
  requireText(await handle.query('look'), `${nameOf(input)}, looked at`);
  await stage.quiet();
  requireText((await handle.describe()).memo?.of, `${id}, memo`);
  await handle.signal('goOn');
  requireText(await handle.result(), `${nameOf(input)}, after 2 notes`);
  await stage.quiet();
  requireText(await handle.result(), `${nameOf(input)}, after 2 notes`);
}

async function updates(stage: Stage): Promise<void> {
  const { client, id, taskQueue } = stage;
  const input = inputOf(stage);
  const startWorkflowOperation = new WithStartWorkflowOperation('waits', {
    ...{ taskQueue, workflowId: id, args: [input] },
    workflowIdConflictPolicy: 'FAIL',
  });
  const changed = await client.workflow.executeUpdateWithStart<never, string, [string]>('change', {
    ...{ args: [large(`${id}, update 1`)], startWorkflowOperation: startWorkflowOperation as never },
  });
  requireText(changed, `${id}, update 1, changed`);
  const handle = client.workflow.getHandle(id);
  await stage.quiet();
  const again = await handle.executeUpdate<string, [string]>('change', { args: [large(`${id}, update 2`)] });
  requireText(again, `${id}, update 2, changed`);
  await stage.quiet();
  await handle.signal('goOn');
  requireText(await handle.result(), `${nameOf(input)}, after 0 notes`);
}

async function children(stage: Stage): Promise<void> {
  const input = inputOf(stage);
  const handle = await start(stage, 'parent', [input]);
  await stage.quiet();
  await stage.until('both children', async () => ((await closedChildren(handle)) === 2 ? true : undefined));
  // long closed: what they left is the parent's
  for (const kind of ['good', 'failing']) await stage.forget(`${stage.id}/${kind}`);
  await stage.quiet();
  await handle.signal('goOn');
  requireText(await handle.result(), `${nameOf(input)}, done`);
}

async function closedChildren(handle: WorkflowHandle): Promise<number> {
  const types = new Set([
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED,
    EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED,
  ]);
  const { events } = await handle.fetchHistory();
  return (events ?? []).filter(({ eventType }) => eventType != null && types.has(eventType)).length;
}

async function continueAsNew(stage: Stage): Promise<void> {
  const input = inputOf(stage);
  await start(stage, 'chain', [input, 2]);
  await stage.quiet();
  await stage.forget(stage.id);
  await stage.quiet();
  // the last run: the first one is gone
  const last = stage.client.workflow.getHandle(stage.id);
  await last.signal('goOn');
  requireText(await last.result(), `${nameOf(input)}, again, again, done`);
  requireText((await last.describe()).memo?.of, `${stage.id}, memo`);
}

async function workflowRetries(stage: Stage): Promise<void> {
  const input = inputOf(stage);
  const retry = { initialInterval: randomInt(500, 30_000), backoffCoefficient: 1, maximumAttempts: 3 };
  const { firstExecutionRunId } = await start(stage, 'retried', [input], { retry });
  await stage.quiet();
  // what it failed with is now only in the next run
  await stage.forget(stage.id, firstExecutionRunId);
  requireText(await stage.client.workflow.getHandle(stage.id).result(), `${nameOf(input)}, at last`);
}

async function activityRetries(stage: Stage): Promise<void> {
  const handle = await start(stage, 'working', [large(stage.id), randomInt(500, 30_000)]);
  await stage.until('a heartbeat', async () => {
    // not by the handle, which would read the memo
    const { pendingActivities } = await stage.client.workflowService.describeWorkflowExecution({
      ...{ namespace: stage.namespace, execution: { workflowId: stage.id } },
    });
    return pendingActivities.some(({ heartbeatDetails }) => heartbeatDetails != null) ? true : undefined;
  });
  await stage.quiet();
  stage.activities.letGo(`${stage.id}, d`);
  requireText(await handle.result(), `${stage.id}, done`);
}

async function failures(stage: Stage): Promise<void> {
  const input = inputOf(stage);
  const handle = await start(stage, 'failing', [input]);
  for (let time = 0; time < 2; time += 1) {
    const error = await handle.result().catch((caught: unknown) => caught);
    const cause = error instanceof WorkflowFailedError ? error.cause : error;
    requireText(cause instanceof ApplicationFailure ? cause.details?.[0] : cause, `${nameOf(input)}, failed`);
    await stage.quiet();
  }
}

async function cron(stage: Stage): Promise<void> {
  const { client, namespace, id } = stage;
  const cronSchedule = `@every ${randomInt(2) === 0 ? 3 : 25}s`;
  await start(stage, 'repeats', [large(id)], { cronSchedule });
  await stage.quiet();
  // between two runs only the one that waits has the last result
  await stage.forget(id);
  await stage.quiet();
  const details = { payloads: [await claimOf(stage.plugin, namespace, `${id}, terminated`)] };
  await client.workflowService.terminateWorkflowExecution({
    namespace,
    workflowExecution: { workflowId: id },
    details,
  });
}

async function resetOpen(stage: Stage): Promise<void> {
  const { id, client } = stage;
  const input = inputOf(stage);
  const base = await start(stage, 'waits', [input]);
  await base.signal('note', large(`${id}, note 1`));
  const eventId = await firstTask(stage, base);
  await base.signal('note', large(`${id}, note 2`));
  await stage.quiet();
  await resetTo(stage, base.firstExecutionRunId, eventId);
  await stage.quiet();
  await stage.forget(id, base.firstExecutionRunId);
  await stage.quiet();
  const handle = client.workflow.getHandle(id);
  await handle.signal('goOn');
  requireText(await handle.result(), `${nameOf(input)}, after 2 notes`);
}

async function resetClosed(stage: Stage): Promise<void> {
  const { id, client } = stage;
  const input = inputOf(stage);
  const base = await start(stage, 'waits', [input]);
  const eventId = await firstTask(stage, base);
  await base.signal('note', large(`${id}, note`));
  await base.signal('goOn');
  await base.result();
  await stage.quiet();
  const runId = await resetTo(stage, base.firstExecutionRunId, eventId);
  // its signals were applied again, the one that ends it as well
  requireText(await client.workflow.getHandle(id, runId).result(), `${nameOf(input)}, after 1 notes`);
  await stage.quiet();
  await stage.forget(id, base.firstExecutionRunId);
  await stage.quiet();
  requireText(await client.workflow.getHandle(id, runId).result(), `${nameOf(input)}, after 1 notes`);
}

function firstTask(stage: Stage, handle: WorkflowHandle): Promise<unknown> {
  return stage.until('a workflow task', async () => {
    const { events } = await handle.fetchHistory();
    const found = events?.find(({ eventType }) => eventType === EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED);
    return found?.eventId ?? undefined;
  });
}

async function resetTo({ client, namespace, id }: Stage, runId: string, eventId: unknown): Promise<string> {
  const reset = await client.workflowService.resetWorkflowExecution({
    ...{ namespace, workflowExecution: { workflowId: id, runId }, requestId: randomUUID(), reason: 'a test' },
    workflowTaskFinishEventId: eventId as never,
  });
  return reset.runId;
}

async function batches(stage: Stage): Promise<void> {
  const { client, namespace, id } = stage;
  const input = inputOf(stage);
  const handle = await start(stage, 'waits', [input]);
  const runId = handle.firstExecutionRunId;
  const payload = await claimOf(stage.plugin, namespace, `${id}, sent to many`);
  await client.workflowService.startBatchOperation({
    ...{ namespace, jobId: `${id}/batch`, reason: 'a test', executions: [{ workflowId: id, runId }] },
    signalOperation: { signal: 'note', input: { payloads: [payload] } },
  });
  const isSignaled = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED;
  await stage.until('the signal', async () => {
    const { events } = await handle.fetchHistory();
    return events?.some(({ eventType }) => eventType === isSignaled) ? true : undefined;
  });
  await stage.quiet();
  await handle.signal('goOn');
  requireText(await handle.result(), `${nameOf(input)}, after 1 notes`);
}

async function schedules(stage: Stage): Promise<void> {
  const { client, id, taskQueue } = stage;
  const action = (name: string) => ({
    ...{ type: 'startWorkflow' as const, workflowType: 'repeats', taskQueue, workflowId: `${id}/run` },
    args: [large(name)],
    memo: { of: large(`${name}, memo`) },
  });
  const handle = await client.schedule.create({
    scheduleId: id,
    spec: { intervals: [{ every: randomInt(2) === 0 ? '20s' : '1h' }] },
    action: action(id),
    memo: { own: large(`${id}, own memo`) },
  });
  await stage.quiet();
  await handle.trigger(ScheduleOverlapPolicy.BUFFER_ALL);
  await started(stage, 1);
  await stage.quiet();
  await handle.update((before) => ({ ...before, action: action(`${id}, changed`) }));
  const end = new Date();
  const start = new Date(end.getTime() - 3 * 3_600_000 - 1000);
  await handle.backfill({
    start,
    end: new Date(start.getTime() + 3_600_000),
    overlap: ScheduleOverlapPolicy.BUFFER_ALL,
  });
  await started(stage, 2);
  await handle.pause('a test');
  await stage.quiet();
  const { action: now, memo } = await handle.describe();
  requireText(now.args?.[0], `${id}, changed`);
  requireText(memo?.own, `${id}, own memo`);
  await stage.quiet();
  await handle.delete();
}

async function started({ client, namespace, id, ...stage }: Stage, count: number): Promise<void> {
  await stage.until('the runs of a schedule', async () => {
    const { info } = await client.workflowService.describeSchedule({ namespace, scheduleId: id });
    return Number(info?.actionCount ?? 0) >= count ? true : undefined;
  });
}

/** Uploaded, and never put anywhere. */
async function orphans({ plugin, namespace, id }: Stage): Promise<void> {
  for (let number = 0; number < 8; number += 1) await claimOf(plugin, namespace, `${id}, orphan ${number}`);
}

export const scenes: Readonly<Record<string, (stage: Stage) => Promise<void>>> = {
  ...{ signals, updates, children, continueAsNew, workflowRetries, activityRetries, failures, cron },
  ...{ resetOpen, resetClosed, batches, schedules, orphans },
};
