/**
 * Every callback of every workflow, and everything that it may do wrong, on a real Postgres and a real S3 server. In the
 * end there is a row with its object or neither, nothing is left running, and the caller was told the truth.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { DBOS, type WorkflowHandle } from '@dbos-inc/dbos-sdk';
import type { CleanUpStatus, PresignedPost } from '@large-payload/dbos';
import { describeWith, startVersitygw } from '@large-payload/test-components';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  asSigned,
  type CallbackName,
  callbackNames,
  endingSoon,
  type Files,
  type Mode,
  registerFiles,
  type WorkflowKind,
} from './support/dbos-files.mjs';
import { launchDbos, openWorld, submitForm, table, type World } from './support/dbos-world.ts';
import { scaled } from './support/scale.ts';
import { until } from './support/until.ts';

const faults = [
  'throws once',
  'acts, then throws once',
  'throws for 1 s',
  'acts, then throws, for 1 s',
  'hangs once',
  'acts, then hangs once',
  'acts once, too late',
  'throws until repaired',
] as const;
type Fault = (typeof faults)[number];

interface Case {
  readonly title: string;
  readonly key: string;
  readonly mode: Mode;
  readonly kind: WorkflowKind;
  readonly callback: CallbackName;
  readonly fault: Fault;
}

interface Outcome {
  /** `ok`, or the error's message and code. */
  answer: string;
  row?: string | undefined;
  object?: string | undefined;
  /** Of every workflow that the case started. */
  statuses: string[];
  /** How often the callback was called. */
  calls: number;
  /** What the clean-up said that it was stuck on, seen while the callback was broken. */
  stuck?: CleanUpStatus | null;
}

interface Running {
  readonly test: Case;
  calls: number;
  /** The callback is called on a file that is there to be deleted. */
  prepared: boolean;
  brokenSince?: number;
  repaired: boolean;
  late?: Promise<unknown>;
}

const rounds = scaled({ usual: 1, long: 5 });
const atOnce = 48;
/** Of what hangs. The machine may be busy: of everything else the time is so long that it is never taken for a hang. */
const timeoutMs = 8000;
const longMs = 90_000;
/** A post ends for its workflow, which waits for that end to clean up; for the bucket it lives on. */
const [postEndsSeconds, signedSeconds] = [2, 600];
const content = 'what is to be kept';
const config = { retryMs: { first: 50, max: 500 }, latePassesSeconds: [1] };

/** Which patience is short: with no callback, with the callbacks of one kind, or with the clean-up. */
const patiences = ['long', 'database', 'storage', 'transfer', 'cleanUp'] as const;
type Patience = (typeof patiences)[number];

function patienceFor({ fault, callback }: Case): Patience {
  if (fault === 'throws until repaired') return 'cleanUp';
  if (!/hangs|too late/.test(fault)) return 'long';
  if (callback === 'putS3Contents' || callback === 'validateS3Upload') return 'transfer';
  return callback.endsWith('S3Object') || callback === 'createPresignedPost' ? 'storage' : 'database';
}

const cases: Case[] = [];
for (let round = 1; round <= rounds; round++) {
  for (const mode of ['steps', 'transactions'] as const) {
    for (const kind of ['upload', 'presigned', 'delete'] as const) {
      for (const callback of callbackNames[kind]) {
        for (const fault of faults) {
          const key = `${mode}/${kind}/${callback}/${fault}/${round}`.replaceAll(/[ ,]+/g, '-');
          cases.push({ title: `${kind} on ${mode}: ${callback} ${fault}`, key, mode, kind, callback, fault });
        }
      }
    }
  }
}

/** These run only after something else has failed; in the upload newActiveFile, in the presigned upload the client. */
const isCleanUp = ({ kind, callback }: Case): boolean =>
  kind !== 'delete' && (callback === 'fileDeleted' || callback === 'deleteS3Object');

/** What the caller has to be told. */
function expectedAnswer(test: Case): string {
  if (isCleanUp(test))
    return test.kind === 'upload' ? 'the first failure' : 'S3 operation timed out or canceled NOT_FINISHED';
  if (/hangs|too late/.test(test.fault)) return `${test.callback} did not return within ${timeoutMs} ms TIMED_OUT`;
  // A delete is carried through; it tells of a failure that lasts.
  if (test.kind === 'delete' && test.fault !== 'throws until repaired') return 'ok';
  return 'planned';
}

/** After everything that the clean-up does by itself. */
async function actLate(act: () => Promise<unknown>): Promise<unknown> {
  await delay(timeoutMs + 2500);
  return act();
}

const s3 = await startVersitygw();

describeWith(describe, 'a callback that fails', s3, (s3) => {
  let world: World;
  const outcomes = new Map<Case, Outcome>();
  const running = new Map<string, Running>();
  const files = {} as Record<`${Mode} ${Patience}`, Files>;

  const around: Parameters<typeof registerFiles>[0]['around'] = async (name, key, real, context) => {
    const call: typeof real = async (given) => {
      const result = await real(given);
      return name === 'createPresignedPost' ? endingSoon(result as PresignedPost, postEndsSeconds) : result;
    };
    const state = running.get(key);
    if (state === undefined || !state.prepared) return call();
    const { test } = state;
    if (isCleanUp(test) && test.kind === 'upload' && name === 'newActiveFile') {
      await call();
      throw new Error('the first failure');
    }
    if (name !== test.callback) return call();
    const isFirst = ++state.calls === 1;
    state.brokenSince ??= Date.now();
    const isBroken = Date.now() - state.brokenSince < 1000;
    switch (test.fault) {
      case 'throws once':
        if (isFirst) throw new Error('planned');
        return call();
      case 'acts, then throws once': {
        const result = await call();
        if (isFirst) throw new Error('planned');
        return result;
      }
      case 'throws for 1 s':
        if (isBroken) throw new Error('planned');
        return call();
      case 'acts, then throws, for 1 s': {
        const result = await call();
        if (isBroken) throw new Error('planned');
        return result;
      }
      case 'hangs once':
        return isFirst ? new Promise(() => undefined) : call();
      case 'acts, then hangs once': {
        const result = await call();
        return isFirst ? new Promise(() => undefined) : result;
      }
      case 'acts once, too late':
        if (!isFirst) return call();
        state.late = actLate(() => call({ ...context, signal: new AbortController().signal })); // it does not listen
        return state.late;
      case 'throws until repaired':
        if (!state.repaired) throw new Error('planned');
        return call();
    }
  };

  async function start(test: Case): Promise<WorkflowHandle<unknown>> {
    const { key, kind, mode } = test;
    const { upload, presigned, delete: remove } = files[`${mode} ${patienceFor(test)}`];
    const params = { workflowID: key };
    if (kind === 'upload') return DBOS.startWorkflow(upload, params)({ key }, content);
    if (kind === 'delete') {
      await (await DBOS.startWorkflow(upload)({ key }, content)).getResult();
      prepared(test);
      return DBOS.startWorkflow(remove, params)({ key });
    }
    const handle = await DBOS.startWorkflow(presigned, params)({ key }, signedSeconds, { size: content.length });
    const post = await DBOS.getEvent<PresignedPost>(key, 'uploadkey');
    if (post !== null) {
      expect((await submitForm(asSigned(post), content)).status).toBe(204);
      await DBOS.send(key, !isCleanUp(test), 'uploadfinish');
    }
    return handle;
  }

  function prepared({ key }: Case): void {
    const state = running.get(key);
    if (state !== undefined) state.prepared = true;
  }

  async function run(test: Case): Promise<Outcome> {
    const { key, kind, fault } = test;
    const state: Running = { test, calls: 0, repaired: false, prepared: kind !== 'delete' };
    running.set(key, state);
    const handle = await start(test);
    const outcome: Outcome = { answer: 'ok', statuses: [], calls: 0 };
    await handle.getResult().catch((error: Error & { code?: string }) => {
      outcome.answer = [error.message, error.code].filter(Boolean).join(' ');
    });
    if (fault === 'throws until repaired' && (isCleanUp(test) || kind === 'delete')) {
      outcome.stuck = await DBOS.getEvent<CleanUpStatus>(`${key}-cleanup`, 'cleanUp');
      expect(await DBOS.retrieveWorkflow(`${key}-cleanup`).getStatus()).toMatchObject({ status: 'PENDING' });
    }
    state.repaired = true;
    await state.late?.catch(() => undefined);
    await until(`the end of ${test.title}`, async () => {
      const found = await DBOS.listWorkflows({ workflow_id_prefix: key, loadInput: false, loadOutput: false });
      outcome.statuses = found.map(({ workflowID, status }) => `${workflowID.slice(key.length)} ${status}`);
      outcome.row = await world.row(key);
      outcome.object = await world.object(key);
      const isOver = found.every(({ status }) => status !== 'PENDING');
      return isOver && (outcome.row === 'active') === (outcome.object !== undefined) ? true : undefined;
    }).catch(() => undefined); // what is wrong then stands in the outcome
    outcome.calls = state.calls;
    return outcome;
  }

  beforeAll(async () => {
    for (const print of ['error', 'warn'] as const) vi.spyOn(console, print).mockImplementation(() => undefined); // planned failures
    world = await openWorld(s3);
    for (const mode of ['steps', 'transactions'] as const) {
      for (const patience of patiences) {
        const className = `${mode} ${patience}`;
        const timeoutsMs = { database: longMs, storage: longMs, transfer: longMs, [patience]: timeoutMs };
        const waitForCleanUpMs = patience === 'cleanUp' ? 2000 : longMs;
        const patient = { ...config, className, timeoutsMs, waitForCleanUpMs };
        files[`${mode} ${patience}`] = registerFiles({ ...world, table, mode, around, config: patient });
      }
    }
    await launchDbos(world.databaseUrl);
    const todo = [...cases];
    const worker = async (): Promise<void> => {
      for (let test = todo.shift(); test !== undefined; test = todo.shift()) {
        const outcome = await run(test).catch((error: Error) => {
          const none: Outcome = { answer: `the test itself: ${error.message}`, statuses: [], calls: 0 };
          return none;
        });
        outcomes.set(test, outcome);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, worker));
  }, 120_000 * rounds);

  afterAll(async () => {
    await DBOS.shutdown();
    await world?.close();
    await s3.stop();
    vi.restoreAllMocks();
  });

  it.each(cases)('$title', (test) => {
    const outcome = outcomes.get(test);
    expect(outcome?.calls).toBeGreaterThan(0);
    expect(outcome?.statuses.filter((status) => !/ (SUCCESS|ERROR)$/.test(status))).toEqual([]);
    expect(outcome?.answer).toBe(expectedAnswer(test));
    const isKept = test.kind !== 'delete' && outcome?.answer === 'ok';
    expect({ row: outcome?.row, object: outcome?.object }).toEqual(
      isKept ? { row: 'active', object: content } : { row: undefined, object: undefined },
    );
    if (outcome?.stuck !== undefined) {
      const lastError = 'Error: planned';
      expect(outcome.stuck).toMatchObject({ state: 'retrying', stuckOn: test.callback, key: test.key, lastError });
    }
  });
});
