/**
 * Runs `run` for every item, at most `concurrency` at a time; results in the order of the items. The first failure
 * aborts the others, and is thrown when nothing is under way any more.
 */
export async function each<T, R>(
  items: readonly T[],
  concurrency: number,
  signal: AbortSignal,
  run: (item: T, signal: AbortSignal) => Promise<R>,
): Promise<R[]> {
  const stop = new AbortController();
  const either = AbortSignal.any([signal, stop.signal]);
  const results: R[] = [];
  const queue = items.entries();
  let failure: { readonly error: unknown } | undefined;
  const work = async (): Promise<void> => {
    for (const [at, item] of queue) {
      if (failure !== undefined) return;
      try {
        signal.throwIfAborted();
        results[at] = await run(item, either);
      } catch (error) {
        failure ??= { error };
        stop.abort();
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, items.length) }, work));
  if (failure !== undefined) throw failure.error;
  return results;
}
