/**
 * The clean-up of one upload or delete: a workflow of its own, `{workflow id}-cleanup`. That it exists is the decision,
 * taken once and durably, that nothing of the upload stays; whatever it does is then tried until it works:
 *
 *   now:                  fileDeleted until it works, then deleteS3Object until it works, event `cleaned`
 *   at each later pass:   the same again, for what arrived late
 *
 * Between attempts it sleeps durably, twice as long each time, up to minutes. What it is stuck on is its event
 * `cleanUp`, and a line in the log for each failure. After `maxFailuresPerWorkflow` it goes on in a new workflow,
 * `{id}-2`, `{id}-3` …, so that no history grows for ever.
 *
 * A database callback that is no step runs in the body of a workflow of its own for each attempt (`{id}-row-{n}`): its
 * outcome is then recorded, so that a replay takes the same way.
 */
import { DBOS } from '@dbos-inc/dbos-sdk';
import { callWithin } from './call.js';
import type { CallContext, FileRecord, S3WorkflowCallbacks } from './callbacks.js';
import { isCancelled, isLostOwnership, isOffTrack, messageOf } from './errors.js';
import type { Names, Settings } from './settings.js';

/** The input of a clean-up. */
export interface CleanUpJob<R extends FileRecord> {
  readonly rec: R;
  /** Absent for a delete workflow. */
  readonly uploadID?: string;
  /** Whether there may be a row, an object. */
  readonly row: boolean;
  readonly object: boolean;
  /** When to clean, in ms of UNIX time, ascending. */
  readonly passesAtMs: readonly number[];
  /** The error that led to it, which the upload throws. */
  readonly because: Because;
}

export interface Because {
  readonly name: string;
  readonly message: string;
  readonly code?: string;
}

/** The event `cleanUp` of a clean-up workflow. */
export interface CleanUpStatus {
  readonly state: 'retrying' | 'waiting' | 'done';
  readonly key: string;
  /** The callback that fails, and how often in a row. */
  readonly stuckOn?: 'fileDeleted' | 'deleteS3Object';
  readonly failures?: number;
  readonly lastError?: string;
  /** ISO 8601: when the callback is tried, or everything is cleaned, once more. */
  readonly nextAt?: string;
}

/** How far an earlier part of the same clean-up came. */
interface Progress {
  readonly part: number;
  readonly pass: number;
  readonly effect: number;
  readonly failures: number;
}

export type CleanUp<R extends FileRecord> = (job: CleanUpJob<R>, from?: Progress) => Promise<unknown>;

type Effect = 'fileDeleted' | 'deleteS3Object';

const maxFailuresPerWorkflow = 100;
const start: Progress = { part: 1, pass: 0, effect: 0, failures: 0 };

/** Registers `{name}.cleanUp`, and `{name}.cleanUpRow` where it is needed. */
export function registerCleanUp<R extends FileRecord, Options>(
  names: Names,
  settings: Settings,
  callbacks: S3WorkflowCallbacks<R, Options>,
): CleanUp<R> {
  const within = (name: Effect, uploadID: string | undefined, callback: (context: CallContext) => Promise<unknown>) => {
    const { database, storage } = settings.timeoutsMs;
    return callWithin({ name, timeoutMs: name === 'fileDeleted' ? database : storage, uploadID }, callback);
  };
  const deleteRow = async (rec: R, uploadID?: string): Promise<void> => {
    await within('fileDeleted', uploadID, (context) => callbacks.fileDeleted(rec, context));
  };
  // Only where it is used: a registered workflow shows up in DBOS's lists.
  const rowWorkflow = callbacks.databaseSteps
    ? undefined
    : DBOS.registerWorkflow(deleteRow, { ...names.registration, name: `${names.name}.cleanUpRow` });

  const effects: Record<Effect, (job: CleanUpJob<R>, attempt: number) => Promise<unknown>> = {
    fileDeleted: async ({ rec, uploadID }, attempt) => {
      if (rowWorkflow === undefined) {
        return DBOS.runStep(() => deleteRow(rec, uploadID), { name: 'fileDeleted' });
      }
      const workflowID = `${DBOS.workflowID}-row-${attempt}`;
      const handle = await DBOS.startWorkflow(rowWorkflow, { workflowID, timeoutMS: null })(rec, uploadID);
      return handle.getResult();
    },
    deleteS3Object: ({ rec, uploadID }) =>
      DBOS.runStep(() => within('deleteS3Object', uploadID, (context) => callbacks.deleteS3Object(rec, context)), {
        name: 'deleteS3Object',
      }),
  };

  const cleanUp: CleanUp<R> = DBOS.registerWorkflow(
    async (job: CleanUpJob<R>, from: Progress = start): Promise<unknown> => {
      const ownID = DBOS.workflowID ?? '';
      const todo = effectsOf(job);
      let { failures } = from;
      let attempts = 0;
      let returned: unknown;
      for (let pass = from.pass; pass < job.passesAtMs.length; pass++) {
        const resumed = pass === from.pass && from.part > 1;
        if (!resumed) await sleepUntil(job, job.passesAtMs[pass] ?? 0);
        for (let effect = resumed ? from.effect : 0; effect < todo.length; ) {
          const name = todo[effect] ?? 'deleteS3Object';
          try {
            returned = await effects[name](job, ++attempts);
            failures = 0;
            effect++;
          } catch (error) {
            if (isLostOwnership(error) || isOffTrack(error) || isCancelled(error, ownID)) throw error;
            await pause(job, name, ++failures, settings, error);
            if (attempts < maxFailuresPerWorkflow) continue;
            return continueAsNew(cleanUp, names, ownID, job, { part: from.part + 1, pass, effect, failures });
          }
        }
        if (pass === 0) await DBOS.setEvent('cleaned', { returned });
      }
      await DBOS.setEvent<CleanUpStatus>('cleanUp', { state: 'done', key: job.rec.key });
      return returned;
    },
    { ...names.registration, name: `${names.name}.cleanUp` },
  );
  return cleanUp;
}

/** The row goes first: a reader must not find a row whose object is gone. */
function effectsOf(job: CleanUpJob<FileRecord>): readonly Effect[] {
  return [...(job.row ? (['fileDeleted'] as const) : []), ...(job.object ? (['deleteS3Object'] as const) : [])];
}

async function sleepUntil(job: CleanUpJob<FileRecord>, atMs: number): Promise<void> {
  const nowMs = await DBOS.now();
  if (atMs <= nowMs) return;
  await DBOS.setEvent<CleanUpStatus>('cleanUp', {
    state: 'waiting',
    key: job.rec.key,
    nextAt: new Date(atMs).toISOString(),
  });
  await DBOS.sleepms(atMs - nowMs);
}

async function pause(
  job: CleanUpJob<FileRecord>,
  stuckOn: Effect,
  failures: number,
  { firstRetryMs, maxRetryMs }: Settings,
  error: unknown,
): Promise<void> {
  const pauseMs = Math.min(maxRetryMs, firstRetryMs * 2 ** Math.min(failures - 1, 30));
  const status: CleanUpStatus = {
    state: 'retrying',
    key: job.rec.key,
    stuckOn,
    failures,
    lastError: messageOf(error),
    nextAt: new Date((await DBOS.now()) + pauseMs).toISOString(),
  };
  DBOS.logger.warn(`The clean-up ${DBOS.workflowID} is stuck: ${JSON.stringify(status)}`);
  await DBOS.setEvent<CleanUpStatus>('cleanUp', status);
  await DBOS.sleepms(pauseMs);
}

async function continueAsNew<R extends FileRecord>(
  cleanUp: CleanUp<R>,
  names: Names,
  ownID: string,
  job: CleanUpJob<R>,
  progress: Progress,
): Promise<unknown> {
  const workflowID = `${progress.part === 2 ? ownID : ownID.replace(/-\d+$/, '')}-${progress.part}`;
  const workflowAttributes = attributesOf(names, job.rec);
  await DBOS.startWorkflow(cleanUp, { workflowID, timeoutMS: null, workflowAttributes })(job, progress);
  return { continuedBy: workflowID };
}

/** Under this attribute, indexed by DBOS, an upload finds the clean-up that works on its key. */
export function attributesOf({ className }: Names, rec: FileRecord): Record<string, string> {
  return { s3CleanUp: `${className}/${rec.key}` };
}
