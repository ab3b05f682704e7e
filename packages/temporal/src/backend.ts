import {
  type BlobStore,
  ClaimCheck,
  type ClaimCheckOptions,
  type HttpStoreOptions,
  LpsError,
  openHttpStore,
} from '@large-payload/core';

type Nothing<T> = { readonly [K in keyof T]?: never };

/** Settings of a claim check; the defaults suit a worker. See `ClaimCheckOptions` for what each means. */
export type Tuning = Omit<ClaimCheckOptions, 'store' | 'namespace'>;

/** What only a service has: the clock is the claim check's as well. */
type NoService = Nothing<Omit<HttpStoreOptions, keyof Tuning>>;

/**
 * Where the blobs are, exactly one of:
 * - `url` (with `headers`, `directAboveBytes` and whatever else `openHttpStore` takes): a Large Payload Service.
 * - `store`: any `BlobStore`, a bucket for one, without a service.
 * - `claimCheck`: one made before; codec and driver of one process can share its memory.
 */
export type Backend =
  | (HttpStoreOptions & Tuning & { readonly store?: never; readonly claimCheck?: never })
  | (NoService & Tuning & { readonly store: BlobStore; readonly claimCheck?: never })
  | (NoService & Nothing<Tuning> & { readonly store?: never; readonly claimCheck: ClaimCheck });

/** A claim check, and how to let go of what was opened for it. */
export interface OpenBackend {
  readonly claimCheck: ClaimCheck;
  close(): Promise<void>;
}

/** Makes no request. Throws CONFIG_INVALID unless exactly one backend is given. */
export function openBackend(options: Backend, namespace: string | undefined): OpenBackend {
  const given = [options.url, options.store, options.claimCheck].filter((backend) => backend !== undefined);
  if (given.length !== 1) {
    throw new LpsError('CONFIG_INVALID', 'give exactly one of the options `url`, `store` and `claimCheck`');
  }
  if (options.claimCheck !== undefined) return { claimCheck: options.claimCheck, close: async () => {} };
  // a store that was given belongs to the caller; one that was opened here is closed here
  const opened = options.store === undefined ? openHttpStore(options) : undefined;
  const store = options.store ?? opened;
  if (store === undefined) throw new LpsError('CONFIG_INVALID', 'the option `store` is empty');
  const claimCheck = new ClaimCheck({ ...options, store, ...(namespace === undefined ? {} : { namespace }) });
  return { claimCheck, close: async () => opened?.close?.() };
}
