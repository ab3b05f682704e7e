import type { BlobStore } from '../blob-store.js';
import { isLpsError, LpsError } from '../errors.js';
import { passThrough, statOf } from './layer.js';

export type StoreOperation = 'put' | 'get' | 'head' | 'stat' | 'delete' | 'presign';

/** What happened in one call to a store. */
export interface StoreEvent {
  readonly store: string;
  readonly operation: StoreOperation;
  /** `created`, `exists`, `found`, `absent`, `signed`, or the code of the error. */
  readonly outcome: string;
  /** Bytes of the blob, where the call moved any. */
  readonly bytes: number;
  /** Until the answer; for a get until its first byte can be read. */
  readonly seconds: number;
  readonly error?: LpsError;
}

export interface Observer {
  onEvent(event: StoreEvent): void;
  /** Runs a call inside a trace span, where there is tracing. */
  inSpan?<T>(name: string, attributes: Record<string, string>, run: () => Promise<T>): Promise<T>;
}

/**
 * Reports every call of a store, and names every error: what comes out of it is an `LpsError`. Nothing is uploaded past
 * it: `presignPut` stays below.
 */
export function observed(store: BlobStore, observer: Observer): BlobStore {
  async function watch<T>(
    operation: StoreOperation,
    key: string,
    call: () => Promise<T>,
    describe: (result: T) => { outcome: string; bytes: number },
  ): Promise<T> {
    const started = performance.now();
    const seconds = (): number => (performance.now() - started) / 1000;
    try {
      const result = await (observer.inSpan?.(
        `store ${operation}`,
        { 'lps.store': store.name, 'lps.key': key },
        call,
      ) ?? call());
      observer.onEvent({ store: store.name, operation, ...describe(result), seconds: seconds() });
      return result;
    } catch (cause) {
      const error = named(cause, store.name, operation);
      observer.onEvent({ store: store.name, operation, outcome: error.code, bytes: 0, seconds: seconds(), error });
      throw error;
    }
  }
  const { presignGet } = store;
  return {
    ...passThrough(store),
    ...(presignGet && {
      presignGet: (key, options) =>
        watch(
          'presign',
          key,
          () => presignGet.call(store, key, options),
          () => ({ outcome: 'signed', bytes: 0 }),
        ),
    }),
    put: (key, body, expect, options) =>
      watch(
        'put',
        key,
        () => store.put(key, body, expect, options),
        ({ outcome }) => ({
          outcome,
          bytes: outcome === 'created' ? expect.size : 0,
        }),
      ),
    get: (key, options) =>
      watch(
        'get',
        key,
        () => store.get(key, options),
        (found) => ({
          outcome: found === undefined ? 'absent' : 'found',
          bytes:
            found === undefined ? 0 : options?.range ? options.range.end - options.range.start + 1 : found.info.size,
        }),
      ),
    head: (key, options) =>
      watch(
        'head',
        key,
        () => store.head(key, options),
        (info) => ({ outcome: info ? 'found' : 'absent', bytes: 0 }),
      ),
    stat: (keys, options) =>
      watch(
        'stat',
        keys[0] ?? '',
        () => statOf(store, keys, options),
        (map) => ({
          outcome: map.size > 0 ? 'found' : 'absent',
          bytes: 0,
        }),
      ),
    delete: (key, options) =>
      watch(
        'delete',
        key,
        () => store.delete(key, options),
        (was) => ({ outcome: was ? 'found' : 'absent', bytes: 0 }),
      ),
  };
}

/** Any thrown value as an `LpsError`. */
export function named(cause: unknown, storeName: string, operation: string): LpsError {
  if (isLpsError(cause)) return cause;
  if (cause instanceof Error && cause.name === 'AbortError')
    return new LpsError('ABORTED', 'the call was aborted', { cause });
  return new LpsError('STORE_UNAVAILABLE', `${operation} failed in the ${storeName} store`, { cause });
}
