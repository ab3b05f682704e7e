import { LpsError } from '@large-payload/core';

/** The promise, for as long as anyone wants to wait. Throws CATALOG_UNAVAILABLE then; the promise goes on unheard. */
export async function within<T>(patienceMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const impatience = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new LpsError('CATALOG_UNAVAILABLE', 'no answer in time')), patienceMs);
  });
  promise.catch(() => undefined);
  try {
    return await Promise.race([promise, impatience]);
  } finally {
    clearTimeout(timer);
  }
}
