/**
 * One takedown, durably. Whatever dies on the way, another replica goes on behind the last step that ended; a step that was
 * cut off is done again.
 *
 *   find ─ take down ─ older transactions end ─ look again ─ nodes are told ─ accepted
 *        ─ keep in the store ─ erase ─ writers end ┬ M passes ─ erase again ┬ nothing was there ─► receipt: completed
 *                                                 └──── something was ◄────┘
 *
 * Before anything is taken down it may fail for good: what is meant cannot be known. From then on it goes on until all is
 * erased, however long the store fails; `problem` says what it waits for.
 */
import { DBOS } from '@dbos-inc/dbos-sdk';
import { isLpsError } from '@large-payload/core';
import type { Logger } from 'pino';
import type { TakedownCatalog } from './takedown-catalog.js';
import type { Proof, TakedownSteps, Waiting } from './takedown-steps.js';

export interface TakedownWorkflowOptions {
  readonly steps: TakedownSteps;
  readonly catalog: Pick<TakedownCatalog, 'problem' | 'fail'>;
  readonly log: Logger;
  /** M, in ms: how long a replica without Postgres may serve a read that it began. */
  readonly maxStalenessMs: number;
}

const firstBackOffMs = 500;
const maxBackOffMs = 60_000;
/** Between two looks in one step, and how many of them: so that a long wait leaves few rows. */
const lookMs = 250;
const looksPerStep = 20;
const pauseMs = 2000;

/** What asking again does not change. Of Temporal: a list that could not be read refuses the takedown, it is asked for anew. */
const refusals = ['INVALID_ARGUMENT', 'INVALID_KEY', 'CONFIG_INVALID', 'TEMPORAL_REFUSED', 'TEMPORAL_UNAVAILABLE'];

type Outcome<T> = { readonly done: T } | { readonly problem: string; readonly isRefused: boolean };

/** Its input is the takedown's id, and its own id is `takedownWorkflowId` of that. */
export function takedownWorkflow(options: TakedownWorkflowOptions): (id: string) => Promise<void> {
  return (id) => new Run(options, id).run();
}

export function takedownWorkflowId(id: string): string {
  return `takedown-${id}`;
}

class Run {
  readonly #options: TakedownWorkflowOptions;
  readonly #id: string;
  readonly #proof: Proof[] = [];

  constructor(options: TakedownWorkflowOptions, id: string) {
    this.#options = options;
    this.#id = id;
  }

  async run(): Promise<void> {
    const { maxStalenessMs, steps } = this.#options;
    const id = this.#id;
    if (!(await this.#begin())) return;
    await this.#until('older transactions end', () => steps.settled(id));
    const event = await this.#patiently('look again', () => steps.accept(id));
    await this.#until('nodes are told', () => steps.nodesTold(event));
    this.#proof.push(await this.#patiently('accepted', () => steps.accepted(id)));
    this.#proof.push(await this.#patiently('keep in the store', () => steps.keep(id)));
    await this.#erase('erase', 'deleted with all versions and delete markers, and looked for: nothing is there');
    await this.#until('writers end', () => steps.writersEnded(id));
    for (let found = 1; found > 0; ) {
      // reads of replicas that had lost the catalog are cut by then, and uploads that had lost their leases
      await DBOS.sleepms(maxStalenessMs);
      // what came since may be read by such a replica: M more
      found = await this.#standing();
      await this.#erase(
        'erase again',
        `${maxStalenessMs / 1000} s later: deleted and looked for once more, nothing is there`,
      );
    }
    await this.#patiently('receipt', () => steps.complete(id, this.#proof));
  }

  /** `false`: nothing was done, and nothing will be. */
  async #begin(): Promise<boolean> {
    const { steps, catalog } = this.#options;
    const id = this.#id;
    const found = await this.#refusable('find', () => steps.find(id));
    if (typeof found !== 'string') this.#proof.push(found);
    const refusal =
      typeof found === 'string' ? found : await this.#refusable('take down', () => steps.accept(id).then(noWords));
    if (typeof refusal !== 'string') return true;
    await this.#patiently('refused', () => catalog.fail(id, refusal));
    return false;
  }

  async #erase(name: string, what: string): Promise<void> {
    let names = 0;
    for (let after: string | undefined = ''; after !== undefined; ) {
      const from: string = after;
      const batch = await this.#patiently(name, () => this.#options.steps.eraseBatch(this.#id, from));
      names += batch.names;
      after = batch.next;
      if (after === undefined) this.#proof.push({ at: batch.at, what: `${names} names of objects: ${what}` });
    }
  }

  /** A step of its own: what it found is not forgotten when the next one is cut off. */
  async #standing(): Promise<number> {
    let found = 0;
    for (let after: string | undefined = ''; after !== undefined; ) {
      const from: string = after;
      const batch = await this.#patiently('look for what came', () => this.#options.steps.standing(this.#id, from));
      found += batch.found;
      after = batch.next;
    }
    return found;
  }

  async #until(name: string, look: () => Promise<Waiting | Proof>): Promise<void> {
    const lookForSome = async (): Promise<Waiting | Proof> => {
      let seen = await look();
      for (let looks = 1; looks < looksPerStep && isWaiting(seen); looks += 1) {
        await this.#say(`waits for ${seen.waitsFor}`);
        await new Promise((resolve) => setTimeout(resolve, lookMs));
        seen = await look();
      }
      return seen;
    };
    for (;;) {
      const seen = await this.#patiently(name, lookForSome);
      if (!isWaiting(seen)) return void this.#proof.push(seen);
      await DBOS.sleepms(pauseMs);
    }
  }

  /** Again and again, until it is done. */
  async #patiently<T>(name: string, work: () => Promise<T>): Promise<T> {
    const outcome = await this.#attempts(name, work, () => false);
    if (typeof outcome === 'object') return outcome.done;
    throw new Error(outcome); // never
  }

  /** The reason when it is refused. */
  async #refusable(name: string, work: () => Promise<Proof | undefined>): Promise<Proof | string> {
    const outcome = await this.#attempts(name, work, (isRefused) => isRefused);
    return typeof outcome === 'string' ? outcome : (outcome.done ?? { at: '', what: '' });
  }

  async #attempts<T>(
    name: string,
    work: () => Promise<T>,
    mayEnd: (isRefused: boolean) => boolean,
  ): Promise<{ readonly done: T } | string> {
    for (let backOffMs = firstBackOffMs; ; backOffMs = Math.min(maxBackOffMs, 2 * backOffMs)) {
      const outcome = await DBOS.runStep(() => this.#attempt(name, work), { name });
      if ('done' in outcome) return outcome;
      if (mayEnd(outcome.isRefused)) return outcome.problem;
      await DBOS.sleepms(backOffMs);
    }
  }

  async #attempt<T>(name: string, work: () => Promise<T>): Promise<Outcome<T>> {
    try {
      const done = await work();
      if (!isWaiting(done)) await this.#say(undefined);
      return { done };
    } catch (error) {
      const problem = isLpsError(error) ? `${error.message} (${error.code})` : 'something unexpected went wrong';
      this.#options.log.warn({ err: error, takedown: this.#id, step: name }, 'a takedown cannot go on; it tries again');
      await this.#say(`${name}: ${problem}; it is tried again`);
      return { problem, isRefused: isLpsError(error) && refusals.includes(error.code) };
    }
  }

  /** For people; without Postgres nobody could read it either. */
  async #say(words: string | undefined): Promise<void> {
    await this.#options.catalog.problem(this.#id, words).catch(() => undefined);
  }
}

function isWaiting(answer: unknown): answer is Waiting {
  return typeof answer === 'object' && answer !== null && 'waitsFor' in answer;
}

function noWords(): undefined {
  return undefined;
}
