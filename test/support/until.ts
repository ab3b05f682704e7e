import { setTimeout as delay } from 'node:timers/promises';

/**
 * Asks until there is an answer (anything but `undefined`), for what cannot be waited on: another process' state. An
 * exception counts as "not yet". Throws with the last one when the time is over.
 */
export async function until<T>(what: string, ask: () => Promise<T | undefined>, timeoutMs = 60_000): Promise<T> {
  const since = performance.now();
  let cause: unknown;
  while (performance.now() - since < timeoutMs) {
    try {
      const answer = await ask();
      if (answer !== undefined) return answer;
    } catch (error) {
      cause = error;
    }
    await delay(10);
  }
  throw new Error(`waited ${timeoutMs} ms for ${what}`, { cause });
}
