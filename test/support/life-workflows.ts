/** Workflows with large payloads wherever Temporal keeps one. Each checks what it is given. */
import {
  ApplicationFailure,
  ChildWorkflowFailure,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  defineUpdate,
  executeChild,
  type Headers,
  proxyActivities,
  proxyLocalActivities,
  setHandler,
  upsertMemo,
  type WorkflowInterceptors,
  workflowInfo,
} from '@temporalio/workflow';
import type { LifeActivities } from './collection-activities.ts';
import { large, nameOf, requireText } from './collection-content.ts';

export const goOn = defineSignal('goOn');
export const note = defineSignal<[string]>('note');
export const change = defineUpdate<string, [string]>('change');
export const look = defineQuery<string>('look');

/** Headers go on to children and to the next run. */
export function interceptors(): WorkflowInterceptors {
  let headers: Headers = {};
  return {
    inbound: [
      {
        execute(input, next) {
          headers = input.headers;
          return next(input);
        },
      },
    ],
    outbound: [
      {
        continueAsNew: (input, next) => next({ ...input, headers }),
        startChildWorkflowExecution: (input, next) => next({ ...input, headers }),
      },
    ],
  };
}

/** Ends when told to. Keeps signals, updates and memos. */
export async function waits(input: string): Promise<string> {
  const name = nameOf(input);
  const notes: string[] = [];
  const mayEnd = toldToGoOn();
  setHandler(note, (text) => {
    notes.push(nameOf(text));
  });
  setHandler(change, (text) => large(`${nameOf(text)}, changed`));
  setHandler(look, () => large(`${name}, looked at`));
  upsertMemo({ later: large(`${name}, remembered`) });
  await condition(mayEnd);
  return large(`${name}, after ${notes.length} notes`);
}

/** Has had two children; ends when told to. */
export async function parent(input: string): Promise<string> {
  const name = nameOf(input);
  const mayEnd = toldToGoOn();
  const childOf = (kind: string) => ({
    workflowId: `${workflowInfo().workflowId}/${kind}`,
    args: [large(`${name}, for a ${kind} child`)] as [string],
    memo: { of: large(`${name}, memo of a ${kind} child`) },
  });
  requireText(await executeChild(child, childOf('good')), `${name}, for a good child, done`);
  const failure = await executeChild(failing, childOf('failing')).then(
    () => undefined,
    (error: unknown) => (error instanceof ChildWorkflowFailure ? error.cause : error),
  );
  requireText(detailOf(failure), `${name}, for a failing child, failed`);
  await condition(mayEnd);
  return large(`${name}, done`);
}

export async function child(input: string): Promise<string> {
  return large(`${nameOf(input)}, done`);
}

export async function failing(input: string): Promise<void> {
  throw ApplicationFailure.nonRetryable('as it should', 'Intended', large(`${nameOf(input)}, failed`));
}

/** So many runs more; the last one ends when told to. */
export async function chain(input: string, left: number, isTold = false): Promise<string> {
  const name = nameOf(input);
  const mayEnd = toldToGoOn(isTold);
  if (left > 0) await continueAsNew<typeof chain>(large(`${name}, again`), left - 1, mayEnd());
  await condition(mayEnd);
  return large(`${name}, done`);
}

/** Fails twice; each run is given the failure of the one before. */
export async function retried(input: string): Promise<string> {
  const name = nameOf(input);
  const { attempt, lastFailure } = workflowInfo();
  if (attempt > 1) requireText(detailOf(lastFailure), `${name}, failed ${attempt - 1}`);
  if (attempt > 2) return large(`${name}, at last`);
  throw ApplicationFailure.retryable('for now', 'ForNow', large(`${name}, failed ${attempt}`));
}

/** On a cron, or by a schedule: is given the result of the run before. */
export async function repeats(input: string): Promise<string> {
  const { lastResult, continuedFromExecutionRunId, runId } = workflowInfo();
  if (lastResult !== undefined || continuedFromExecutionRunId !== undefined) nameOf(lastResult);
  return large(`${nameOf(input)}, by ${runId}`);
}

/** Activities of all kinds; those that fail are tried again after the pause. */
export async function working(input: string, pauseMs: number): Promise<string> {
  const name = nameOf(input);
  const timeout = '20 minutes';
  const { work, failsFirst, beats } = proxyActivities<LifeActivities>({
    startToCloseTimeout: timeout,
    heartbeatTimeout: timeout,
    retry: { initialInterval: pauseMs, backoffCoefficient: 1, maximumAttempts: 5 },
  });
  const { work: workHere } = proxyLocalActivities<LifeActivities>({ startToCloseTimeout: timeout });
  const [worked, here, failed, beaten] = await Promise.all([
    work(large(`${name}, a`)),
    workHere(large(`${name}, b`)),
    failsFirst(large(`${name}, c`)),
    beats(large(`${name}, d`)),
  ]);
  requireText(worked, `${name}, a, worked on`);
  requireText(here, `${name}, b, worked on`);
  requireText(failed, `${name}, c, at last`);
  requireText(beaten, `${name}, d, resumed`);
  return large(`${name}, done`);
}

function toldToGoOn(isTold = false): () => boolean {
  let isIt = isTold;
  setHandler(goOn, () => {
    isIt = true;
  });
  return () => isIt;
}

function detailOf(failure: unknown): unknown {
  return failure instanceof ApplicationFailure ? failure.details?.[0] : failure;
}
