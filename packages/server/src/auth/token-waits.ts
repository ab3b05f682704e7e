import { LpsError } from '@large-payload/core';

/**
 * The promise, for as long as anyone wants to wait. Throws CATALOG_UNAVAILABLE then; the promise goes on unheard. An answer
 * that came while this process was held up, and waits to be read when the time is over, is read first.
 */
export async function within<T>(patienceMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const impatience = new Promise<never>((_, reject) => {
    const lose = (): void => reject(new LpsError('CATALOG_UNAVAILABLE', 'no answer in time'));
    timer = setTimeout(() => setImmediate(lose), patienceMs);
  });
  promise.catch(() => undefined);
  try {
    return await Promise.race([promise, impatience]);
  } finally {
    clearTimeout(timer);
  }
}
