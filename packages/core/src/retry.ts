import { setTimeout as sleep } from 'node:timers/promises';
import { LpsError } from './errors.js';
import { named } from './layers/observed.js';

/** Where time comes from; tests bring their own. */
export interface Clock {
  /** Milliseconds since some moment; never jumps. */
  monotonicMs(): number;
  /** Milliseconds since 1970, as `Date.now()`: to be compared with what a service says. */
  epochMs(): number;
  /** Resolves after `ms` milliseconds; rejects when the signal is aborted. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  epochMs: () => Date.now(),
  sleep: (ms, signal) => sleep(ms, undefined, { signal }),
};

export interface RetryOptions {
  /** Aborted here at the deadline; aborted by others when nobody waits for the result any more. */
  readonly controller: AbortController;
  /** Milliseconds for everything: attempts, and the pauses between them. */
  readonly deadlineMs: number;
  /** What is being tried, for messages: "put of the s3 store". */
  readonly storeName: string;
  readonly operation: string;
  readonly clock: Clock;
  readonly random: () => number;
}

const firstPauseMs = 100;
const longestPauseMs = 2000;
/** How long a store that was told to stop may take to do so before it is left behind. */
const stopGraceMs = 1000;

/**
 * Tries again what may succeed later, inside one deadline. Throws the store's own error, as an `LpsError`: at once when
 * it is permanent, else the last one met; TOO_SLOW when the deadline passed without any; ABORTED when the controller
 * was aborted. It settles only after the attempt under way has.
 *
 * Pauses have full jitter (any part of a ceiling that doubles), so that many clients do not come back in step; an
 * error's `details.retryAfterMs` is waited out first, and when that is beyond the deadline there is no point in waiting.
 */
export async function withRetries<T>(attempt: (signal: AbortSignal) => Promise<T>, options: RetryOptions): Promise<T> {
  const { clock, controller, deadlineMs, storeName, operation } = options;
  const { signal } = controller;
  const started = clock.monotonicMs();
  const elapsedMs = (): number => clock.monotonicMs() - started;
  let last: LpsError | undefined;
  const timer = setTimeout(() => controller.abort(tooSlow(options)), deadlineMs);
  try {
    for (let attempts = 1; ; attempts += 1) {
      try {
        signal.throwIfAborted();
        return await settledOrAborted(attempt(signal), signal);
      } catch (cause) {
        if (signal.aborted) throw stopped(signal, last);
        const error = named(cause, storeName, operation);
        if (!error.retryable) throw error;
        last = counted(error, attempts, elapsedMs());
        const pauseMs = pauseBefore(attempts, error, options.random());
        if (elapsedMs() + pauseMs >= deadlineMs) throw last;
        await clock.sleep(pauseMs, signal).catch(() => {
          throw stopped(signal, last);
        });
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

/** At the deadline the last answer says more than the deadline does. */
function stopped(signal: AbortSignal, last: LpsError | undefined): unknown {
  const reason: unknown = signal.reason;
  return reason instanceof LpsError && reason.code === 'TOO_SLOW' && last !== undefined ? last : reason;
}

function tooSlow({ storeName, operation, deadlineMs }: RetryOptions): LpsError {
  const message = `no answer to a ${operation} from the ${storeName} store within ${Math.round(deadlineMs)} ms`;
  return new LpsError('TOO_SLOW', message, { details: { deadlineMs } });
}

function counted(error: LpsError, attempts: number, elapsedMs: number): LpsError {
  if (attempts === 1) return error;
  const message = `${error.message} (${attempts} attempts in ${Math.round(elapsedMs)} ms)`;
  return new LpsError(error.code, message, { details: { ...error.details, attempts }, cause: error });
}

function pauseBefore(attempts: number, error: LpsError, random: number): number {
  const jitterMs = random * Math.min(longestPauseMs, firstPauseMs * 2 ** (attempts - 1));
  const { retryAfterMs } = error.details;
  return typeof retryAfterMs === 'number' && retryAfterMs > 0 ? retryAfterMs + jitterMs : jitterMs;
}

/** Waits for work that was told to stop, so that nothing flows behind the caller's back, but not for ever. */
async function settledOrAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  const leftBehind = new Promise<never>((_, reject) => {
    onAbort = () => {
      timer = setTimeout(() => reject(signal.reason), stopGraceMs);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
  });
  try {
    return await Promise.race([work, leftBehind]);
  } finally {
    clearTimeout(timer);
    if (onAbort !== undefined) signal.removeEventListener('abort', onAbort);
  }
}
