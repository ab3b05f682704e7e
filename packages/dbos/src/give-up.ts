/** How a workflow ends that does not do what it was asked for. */
import { DBOS, type WorkflowStatus } from '@dbos-inc/dbos-sdk';
import * as datasource from '@dbos-inc/dbos-sdk/datasource';
import type { FileRecord } from './callbacks.js';
import { attributesOf, type Because, type CleanUpJob } from './clean-up.js';
import { isCancelled, isLostOwnership, messageOf, S3WorkflowError } from './errors.js';
import { cleanUpID, type Frame, type Left, type Run, type Undone } from './frame.js';
import { outsideWorkflow } from './outside.js';

/** By this execution, and by those that were killed: a recovery may fail before it comes as far as they did. */
export async function leftOf<R extends FileRecord, Options>(
  { leftBy }: Frame<R, Options>,
  run: Run<R>,
  workflowID: string,
): Promise<Left> {
  const steps = run.isFirst ? undefined : await outsideWorkflow(() => DBOS.listWorkflowSteps(workflowID));
  const earlier = run.isFirst ? undefined : leftBy(steps ?? []);
  return {
    row: (run.row || earlier?.row === true) && !run.keep.has('row'),
    object: (run.object || earlier?.object === true) && !run.keep.has('object'),
    openUntilMs: Math.max(run.openUntilMs, earlier?.openUntilMs ?? 0),
  };
}

/** Decides that the workflow is given up, durably; waits for the first pass of the clean-up where that is of use. */
export async function giveUp<R extends FileRecord, Options>(
  frame: Frame<R, Options>,
  workflowID: string,
  job: CleanUpJob<R>,
  error: unknown,
): Promise<Undone> {
  const id = cleanUpID(workflowID);
  try {
    await startCleanUp(frame, id, job);
    if (isTimedOut(error) || frame.settings.waitForCleanUpMs === 0) return {};
    const timeoutSeconds = frame.settings.waitForCleanUpMs / 1000;
    const cleaned = await DBOS.getEvent<{ returned: unknown }>(id, 'cleaned', { timeoutSeconds });
    return cleaned === null ? {} : { cleaned };
  } catch (startError) {
    if (await isEndedFromOutside(startError, workflowID)) {
      await startOutside(frame, id, job);
      throw startError;
    }
    if (isLostOwnership(startError)) throw startError;
    // A replay that differs from what was recorded: callbacks in the body are not recorded.
    await datasource.assertStillOwnsWorkflow?.(workflowID);
    await startOutside(frame, id, job);
    return {};
  }
}

/**
 * The workflow was cancelled, by hand or by its deadline. DBOS then throws that it is cancelled, or that this execution
 * does not own it any more; the latter also when another process has taken it over, which is then none of our business.
 */
export async function isEndedFromOutside(error: unknown, workflowID: string): Promise<boolean> {
  if (isCancelled(error, workflowID)) return true;
  return isLostOwnership(error) && isCancelledNow(workflowID);
}

export async function isCancelledNow(workflowID: string): Promise<boolean> {
  const status = await outsideWorkflow(() => DBOS.getWorkflowStatus(workflowID));
  return status?.status === 'CANCELLED';
}

export function jobOf<R extends FileRecord, Options>(
  { kind, settings }: Frame<R, Options>,
  run: Run<R>,
  workflowID: string,
  { row, object, openUntilMs }: Left,
  error: unknown,
): CleanUpJob<R> {
  const nowMs = Date.now();
  // A call that did not return, or one of a process that was killed, may still have an effect.
  const mayArriveLate = kind === 'upload' && (isTimedOut(error) || !run.isFirst);
  const lastMs = Math.max(openUntilMs, mayArriveLate ? nowMs : 0);
  return {
    rec: run.rec,
    ...(kind === 'upload' ? { uploadID: workflowID } : {}),
    row,
    object,
    passesAtMs: [nowMs, ...(lastMs === 0 ? [] : settings.latePassesMs.map((ms) => lastMs + ms))],
    because: describeError(error),
  };
}

/** A post may have been given out for an object that is deleted now: delete it again when no post is left. */
export async function cleanAfterPosts<R extends FileRecord, Options>(
  frame: Frame<R, Options>,
  { rec, openUntilMs }: Run<R>,
): Promise<void> {
  const passesAtMs = frame.settings.latePassesMs.map((ms) => openUntilMs + ms);
  const job = { rec, row: false, object: true, passesAtMs, because: reason('a presigned post may still be in use') };
  await startCleanUp(frame, `${DBOS.workflowID}-late`, job);
}

/** Why a clean-up runs when no callback has failed: the upload throws CLEANED_UP, should it be resumed. */
export function reason(message: string): Because {
  return { name: 'S3WorkflowError', code: 'CLEANED_UP', message };
}

function describeError(error: unknown): Because {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error) };
  const { code } = error as { code?: unknown };
  return { name: error.name, message: error.message, ...(typeof code === 'string' ? { code } : {}) };
}

/** The error that a workflow was given up for, thrown again after a crash between that decision and the workflow's end. */
export function reviveReason({ workflowID, input }: WorkflowStatus): Error {
  const { because } = (input?.[0] ?? {}) as { because?: Because };
  if (because === undefined || because.code === 'CLEANED_UP') {
    const why = because === undefined ? '' : `: ${because.message}`;
    return new S3WorkflowError('CLEANED_UP', `It was given up, ${workflowID} cleans up after it${why}`);
  }
  const { message, ...rest } = because;
  return Object.assign(new Error(message), rest);
}

/** Clean again after a call that was given up has ended after all. */
export function cleanUpLater<R extends FileRecord, Options>(
  frame: Frame<R, Options>,
  run: Run<R>,
  workflowID: string,
  name: string,
): void {
  if (frame.kind === 'delete') return; // it deleted once more
  const row = run.row && !run.keep.has('row');
  const object = run.object && !run.keep.has('object');
  if (!(row || object)) return;
  const because = reason(`${name} returned after its time`);
  const job: CleanUpJob<R> = {
    rec: run.rec,
    uploadID: workflowID,
    row,
    object,
    passesAtMs: [Date.now()],
    because,
  };
  startOutside(frame, `${cleanUpID(workflowID)}-late-${name}`, job).catch((error: unknown) => {
    DBOS.logger.warn(`${because.message} (${workflowID}), and its clean-up cannot start: ${messageOf(error)}`);
  });
}

export async function startOutside<R extends FileRecord, Options>(
  frame: Frame<R, Options>,
  id: string,
  job: CleanUpJob<R>,
): Promise<void> {
  await outsideWorkflow(() => startCleanUp(frame, id, job));
}

async function startCleanUp<R extends FileRecord, Options>(
  { names, cleanUp }: Frame<R, Options>,
  workflowID: string,
  job: CleanUpJob<R>,
): Promise<void> {
  const workflowAttributes = attributesOf(names, job.rec);
  // Without a time-out: the upload's own is not to end its clean-up.
  await DBOS.startWorkflow(cleanUp, { workflowID, timeoutMS: null, workflowAttributes })(job);
}

function isTimedOut(error: unknown): boolean {
  return (error as { code?: unknown } | undefined)?.code === 'TIMED_OUT';
}
