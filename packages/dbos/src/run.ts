/**
 * The frame around the body of each workflow:
 *
 *   look        has it been given up already (a replay after its clean-up was decided)? is the key being cleaned up?
 *   body        calls the callbacks one after the other, and notes *before* each what it may leave behind
 *   an error    the clean-up is started (./clean-up.ts), then the error goes on to the caller
 */

import { DBOS, type WorkflowStatus } from '@dbos-inc/dbos-sdk';
import * as datasource from '@dbos-inc/dbos-sdk/datasource';
import { type Call, callWithin } from './call.js';
import type { CallContext, FileRecord, S3WorkflowCallbacks } from './callbacks.js';
import { attributesOf, type Because, type CleanUp, type CleanUpJob } from './clean-up.js';
import { isCancelled, isKeyTaken, isLostOwnership, messageOf, S3WorkflowError } from './errors.js';
import { outsideWorkflow } from './outside.js';
import type { Names, Settings, TimeoutsMs } from './settings.js';

/** One registered workflow. */
export interface Frame<R extends FileRecord, Options> {
  readonly kind: 'upload' | 'delete';
  readonly names: Names;
  readonly settings: Settings;
  readonly callbacks: S3WorkflowCallbacks<R, Options>;
  readonly cleanUp: CleanUp<R>;
}

/** One execution of a workflow. */
export interface Run<R extends FileRecord> {
  readonly rec: R;
  /** No earlier execution of the same workflow can have done anything: an error is then the first call's own. */
  readonly isFirst: boolean;
  /** What a clean-up has to look for. */
  row: boolean;
  object: boolean;
  /** Until when something may begin to arrive from elsewhere, in ms of UNIX time. */
  openUntilMs: number;
  /** Calls a callback of the table; `done` marks the last effect of a workflow. */
  database(name: DatabaseCallback, callback: Callback, done?: 'done'): Promise<void>;
  /** Calls a callback of the bucket as a step. */
  step<T>(name: string, timeout: keyof TimeoutsMs, callback: Callback<T>): Promise<T>;
}

type DatabaseCallback = 'newActiveFile' | 'newPendingFile' | 'fileActivated' | 'fileDeleted';
type Callback<T = unknown> = (context: CallContext) => Promise<T>;

/** How a clean-up answered. */
export interface Undone {
  /** The first pass is over, and this is what deleteS3Object returned. */
  readonly cleaned?: { readonly returned: unknown };
}

export const cleanUpID = (workflowID: string): string => `${workflowID}-cleanup`;

interface Endings<T> {
  /** Answers for the workflow when its clean-up has been decided; otherwise the error does. */
  readonly failed?: (error: unknown, undone: Undone) => Promise<T>;
  /** The workflow is over, in whatever way; not called when another process has taken it over. */
  readonly ended?: () => Promise<void>;
}

/** Runs the body of a workflow, and starts its clean-up when it fails or is cancelled. */
export async function runInFrame<R extends FileRecord, Options, T>(
  frame: Frame<R, Options>,
  rec: R,
  body: (run: Run<R>) => Promise<T>,
  { failed, ended = async () => undefined }: Endings<T> = {},
): Promise<T> {
  const workflowID = DBOS.workflowID ?? '';
  const end = async (): Promise<void> => {
    await ended().catch((error: unknown) => DBOS.logger.warn(`After ${workflowID}: ${messageOf(error)}`));
  };
  try {
    const answer = await runOnce(frame, workflowID, rec, body, failed);
    await end();
    return answer;
  } catch (error) {
    if (!isLostOwnership(error) || (await isCancelledNow(workflowID))) await end();
    throw error;
  }
}

async function runOnce<R extends FileRecord, Options, T>(
  frame: Frame<R, Options>,
  workflowID: string,
  rec: R,
  body: (run: Run<R>) => Promise<T>,
  failed: Endings<T>['failed'],
): Promise<T> {
  const run = await openRun(frame, workflowID, rec);
  try {
    return await body(run);
  } catch (error) {
    if (!(run.row || run.object)) throw error;
    if (await isEndedFromOutside(error, workflowID)) {
      const job = jobOf(frame, run, workflowID, error);
      await startOutside(frame, cleanUpID(workflowID), { ...job, because: reason('it was cancelled') });
      throw error;
    }
    if (isLostOwnership(error)) throw error;
    const undone = await giveUp(frame, run, workflowID, error);
    if (failed === undefined) throw error;
    return await failed(error, undone);
  }
}

async function openRun<R extends FileRecord, Options>(
  frame: Frame<R, Options>,
  workflowID: string,
  rec: R,
): Promise<Run<R>> {
  const { own, givenUp, busyWith } = await look(frame, workflowID, rec);
  if (givenUp !== null) throw reviveReason(givenUp);
  if (busyWith !== undefined) {
    throw new S3WorkflowError(
      'KEY_TAKEN',
      `${busyWith.workflowID} still cleans up an earlier use of the key ${rec.key}: a new upload needs a new key`,
    );
  }
  const uploadID = frame.kind === 'upload' ? workflowID : undefined;
  const isFirst = (own?.recoveryAttempts ?? 2) <= 1 && own?.queueName !== internalQueue;
  const callOf = (name: string, timeout: keyof TimeoutsMs): Call => ({
    name,
    timeoutMs: frame.settings.timeoutsMs[timeout],
    uploadID,
    isFirst,
    endedLate: () => cleanUpLater(frame, run, workflowID, name),
  });
  const run: Run<R> = {
    rec,
    isFirst,
    row: false,
    object: false,
    openUntilMs: 0,
    step: (name, timeout, callback) => {
      return DBOS.runStep(() => callWithin(callOf(name, timeout), callback), { name });
    },
    database: async (name, callback, done) => {
      if (frame.callbacks.databaseSteps) {
        await run.step(name, 'database', async (context) => {
          await callback(context);
        });
        return;
      }
      await callWithin(callOf(name, 'database'), callback);
      // A cancel before this is recorded undoes everything, one after it nothing.
      if (done) await DBOS.runStep(async () => undefined, { name });
    },
  };
  return run;
}

/** DBOS puts what it recovers on this queue. */
const internalQueue = '_dbos_internal_queue';

interface Look {
  readonly own: WorkflowStatus | undefined;
  /** The clean-up, with its input. */
  readonly givenUp: WorkflowStatus | null;
  readonly busyWith: WorkflowStatus | undefined;
}

/** Not recorded on purpose: each execution must see what is so now. */
async function look<R extends FileRecord, Options>(
  { kind, names }: Frame<R, Options>,
  workflowID: string,
  rec: R,
): Promise<Look> {
  const id = cleanUpID(workflowID);
  return outsideWorkflow(async () => {
    const [byID, byKey] = await Promise.all([
      DBOS.listWorkflows({ workflowIDs: [workflowID, id], loadInput: false, loadOutput: false }),
      kind === 'delete'
        ? []
        : DBOS.listWorkflows({
            attributes: attributesOf(names, rec),
            status: ['PENDING', 'ENQUEUED'],
            limit: 1,
            loadInput: false,
            loadOutput: false,
          }),
    ]);
    return {
      own: byID.find((status) => status.workflowID === workflowID),
      givenUp: byID.some((status) => status.workflowID === id) ? await DBOS.getWorkflowStatus(id) : null,
      busyWith: byKey[0],
    };
  });
}

/** Decides that the workflow is given up, durably; waits for the first pass of the clean-up where that is of use. */
async function giveUp<R extends FileRecord, Options>(
  frame: Frame<R, Options>,
  run: Run<R>,
  workflowID: string,
  error: unknown,
): Promise<Undone> {
  const id = cleanUpID(workflowID);
  const job = jobOf(frame, run, workflowID, error);
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
async function isEndedFromOutside(error: unknown, workflowID: string): Promise<boolean> {
  if (isCancelled(error, workflowID)) return true;
  return isLostOwnership(error) && isCancelledNow(workflowID);
}

async function isCancelledNow(workflowID: string): Promise<boolean> {
  const status = await outsideWorkflow(() => DBOS.getWorkflowStatus(workflowID));
  return status?.status === 'CANCELLED';
}

function jobOf<R extends FileRecord, Options>(
  { kind, settings }: Frame<R, Options>,
  run: Run<R>,
  workflowID: string,
  error: unknown,
): CleanUpJob<R> {
  const nowMs = Date.now();
  // A call that did not return, or one of a process that was killed, may still have an effect.
  const mayArriveLate = kind === 'upload' && (isTimedOut(error) || !run.isFirst);
  const lastMs = Math.max(run.openUntilMs, mayArriveLate ? nowMs : 0);
  return {
    rec: run.rec,
    ...(kind === 'upload' ? { uploadID: workflowID } : {}),
    row: run.row,
    object: run.object,
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
function reviveReason({ workflowID, input }: WorkflowStatus): Error {
  const { because } = (input?.[0] ?? {}) as { because?: Because };
  if (because === undefined || because.code === 'CLEANED_UP') {
    const why = because === undefined ? '' : `: ${because.message}`;
    return new S3WorkflowError('CLEANED_UP', `It was given up, ${workflowID} cleans up after it${why}`);
  }
  const { message, ...rest } = because;
  return Object.assign(new Error(message), rest);
}

/** Clean again after a call that was given up has ended after all. */
function cleanUpLater<R extends FileRecord, Options>(
  frame: Frame<R, Options>,
  run: Run<R>,
  workflowID: string,
  name: string,
): void {
  if (!(run.row || run.object)) return;
  const because = reason(`${name} returned after its time`);
  const job: CleanUpJob<R> = {
    rec: run.rec,
    ...(frame.kind === 'upload' ? { uploadID: workflowID } : {}),
    row: run.row,
    object: run.object,
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
  return error instanceof S3WorkflowError && error.code === 'TIMED_OUT';
}

/** Whether a failed call of the first execution shows that the key belongs to somebody else, and must not be cleaned. */
export function isForeign<R extends FileRecord>(run: Run<R>, error: unknown): boolean {
  return isKeyTaken(error) && (run.isFirst || (error as { code?: unknown }).code === 'KEY_TAKEN');
}
