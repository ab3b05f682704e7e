/** How calls to a store are repeated: few times, and only what does no harm. */
import { setTimeout as sleep } from 'node:timers/promises';
import { isLpsError, LpsError } from '../errors.js';

const maxTries = 3;
const firstDelayMs = 100;

/** Runs a harmless call up to three times, while what it meets may pass. */
export async function repeated<T>(signal: AbortSignal | undefined, call: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await call();
    } catch (error) {
      if (tries === maxTries || !mayPass(error)) throw error;
      await pause(Math.random() * firstDelayMs * 2 ** tries, signal);
    }
  }
}

function mayPass(error: unknown): boolean {
  if (!isLpsError(error)) return false;
  // after a silence, or told when to come back, the caller decides: it knows its deadline
  if (error.details.timedOut === true || error.details.retryAfterMs !== undefined) return false;
  return error.code === 'TRY_AGAIN' || error.code === 'STORE_UNAVAILABLE';
}

async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(ms, undefined, signal === undefined ? {} : { signal });
  } catch (cause) {
    throw new LpsError('ABORTED', 'the call was aborted', { cause });
  }
}
