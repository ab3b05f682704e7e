import { setMaxListeners } from 'node:events';
import { LpsError } from './errors.js';

/** The error that a caller sees who aborted. `cause` is the signal's reason. */
export function abortedError(signal: AbortSignal): LpsError {
  return new LpsError('ABORTED', 'the call was aborted', { cause: signal.reason });
}

/** Settles as `work` does, or throws ABORTED as soon as the signal says so; `work` goes on. */
export async function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  let onAbort = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(abortedError(signal));
  });
  if (signal.aborted) onAbort();
  manyListeners(signal).addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** An abort signal gets one listener a blob; Node would warn of a leak at eleven. */
export function manyListeners<S extends AbortSignal | undefined>(signal: S): S {
  if (signal !== undefined) setMaxListeners(0, signal);
  return signal;
}

/** At most `count` tasks at a time, in the order of their coming. */
export class Slots {
  #free: number;
  readonly #waiting = new Set<() => void>();

  constructor(count: number) {
    this.#free = count;
  }

  /** Throws ABORTED, without running the task, when the signal is aborted before its turn. */
  async run<T>(signal: AbortSignal, task: () => Promise<T>): Promise<T> {
    await this.#take(signal);
    try {
      return await task();
    } finally {
      this.#give();
    }
  }

  #take(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.reject(abortedError(signal));
    if (this.#free > 0) {
      this.#free -= 1;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.delete(turn);
        reject(abortedError(signal));
      };
      const turn = (): void => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiting.add(turn);
    });
  }

  #give(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#free += 1;
      return;
    }
    this.#waiting.delete(next);
    next();
  }
}

/**
 * Runs `run` for every item at once. The first failure (in time) aborts the others; it is thrown after all have
 * settled, so that nothing is under way any more when the caller sees it.
 */
export async function settleAll<T, R>(
  items: readonly T[],
  signal: AbortSignal | undefined,
  run: (item: T, signal: AbortSignal) => Promise<R>,
): Promise<R[]> {
  const controller = new AbortController();
  manyListeners(controller.signal);
  const onAbort = (): void => controller.abort(signal?.reason);
  if (signal?.aborted) onAbort();
  manyListeners(signal)?.addEventListener('abort', onAbort, { once: true });
  let failure: { readonly error: unknown } | undefined;
  const results: R[] = [];
  await Promise.all(
    items.map(async (item, index) => {
      try {
        results[index] = await run(item, controller.signal);
      } catch (error) {
        failure ??= { error };
        controller.abort(error);
      }
    }),
  );
  signal?.removeEventListener('abort', onAbort);
  if (failure !== undefined) throw failure.error;
  return results;
}

interface Flight<T> {
  readonly result: Promise<T>;
  readonly controller: AbortController;
  waiters: number;
}

/** One call a key at a time, shared by everyone who asks meanwhile. */
export class SingleFlight<T> {
  readonly #flights = new Map<string, Flight<T>>();

  /**
   * The result of the call under way for this key, or of the one that `run` starts now (`leads`).
   * An aborted waiter gets ABORTED and leaves the others their call; the last one to leave aborts it, and then waits
   * until it has ended.
   */
  join(
    key: string,
    signal: AbortSignal | undefined,
    run: (controller: AbortController) => Promise<T>,
  ): { readonly leads: boolean; readonly result: Promise<T> } {
    if (signal?.aborted) return { leads: true, result: Promise.reject(abortedError(signal)) };
    const joined = this.#flights.get(key);
    const flight = joined ?? this.#start(key, run);
    flight.waiters += 1;
    return { leads: joined === undefined, result: this.#wait(key, flight, signal) };
  }

  #start(key: string, run: (controller: AbortController) => Promise<T>): Flight<T> {
    const controller = new AbortController();
    manyListeners(controller.signal);
    const result = run(controller).finally(() => this.#remove(key, flight));
    const flight: Flight<T> = { result, controller, waiters: 0 };
    this.#flights.set(key, flight);
    return flight;
  }

  #remove(key: string, flight: Flight<T>): void {
    if (this.#flights.get(key) === flight) this.#flights.delete(key);
  }

  #wait(key: string, flight: Flight<T>, signal: AbortSignal | undefined): Promise<T> {
    if (signal === undefined) return flight.result;
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        flight.waiters -= 1;
        const error = abortedError(signal);
        if (flight.waiters > 0) {
          reject(error);
          return;
        }
        // whoever asks from now on must not join a call that is being aborted
        this.#remove(key, flight);
        flight.controller.abort(error);
      };
      manyListeners(signal).addEventListener('abort', onAbort, { once: true });
      const done = (): void => signal.removeEventListener('abort', onAbort);
      flight.result.then(
        (value) => {
          done();
          resolve(value);
        },
        (error: unknown) => {
          done();
          reject(error);
        },
      );
    });
  }
}
