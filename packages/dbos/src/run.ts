/**
 * The frame around the body of each workflow:
 *
 *   look        has it been given up already (a replay after its clean-up was decided)? is the key being cleaned up?
 *   body        calls the callbacks one after the other, and notes *before* each what it may leave behind
 *   an error    the clean-up is started (./clean-up.ts), then the error goes on to the caller
 */

import { DBOS, type WorkflowStatus } from '@dbos-inc/dbos-sdk';
import { type Call, callWithin } from './call.js';
import type { FileRecord } from './callbacks.js';
import { attributesOf } from './clean-up.js';
import { isKeyTaken, isLostOwnership, messageOf, S3WorkflowError } from './errors.js';
import { cleanUpID, type Frame, type Run, type Undone } from './frame.js';
import {
  cleanUpLater,
  giveUp,
  isCancelledNow,
  isEndedFromOutside,
  jobOf,
  leftOf,
  reason,
  reviveReason,
  startOutside,
} from './give-up.js';
import { outsideWorkflow } from './outside.js';
import type { TimeoutsMs } from './settings.js';

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
    const left = await leftOf(frame, run, workflowID);
    if (!(left.row || left.object)) throw error;
    const job = jobOf(frame, run, workflowID, left, error);
    if (await isEndedFromOutside(error, workflowID)) {
      await startOutside(frame, cleanUpID(workflowID), { ...job, because: reason('it was cancelled') });
      throw error;
    }
    if (isLostOwnership(error)) throw error;
    const undone = await giveUp(frame, workflowID, job, error);
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
  const isFirst = (own?.recoveryAttempts ?? 2) <= 1 && own?.queueName !== internalQueue;
  if (busyWith !== undefined && isFirst) {
    throw new S3WorkflowError(
      'KEY_TAKEN',
      `${busyWith.workflowID} still cleans up an earlier use of the key ${rec.key}: a new upload needs a new key`,
    );
  }
  const uploadID = frame.kind === 'upload' ? workflowID : undefined;
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
    keep: new Set(),
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

/** Whether a failed call of the first execution shows that the key belongs to somebody else, and must not be cleaned. */
export function isForeign<R extends FileRecord>(run: Run<R>, error: unknown): boolean {
  return isKeyTaken(error) && (run.isFirst || (error as { code?: unknown }).code === 'KEY_TAKEN');
}
