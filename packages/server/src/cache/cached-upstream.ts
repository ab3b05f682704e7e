/**
 * The blobs of a cache node: upstream's, behind a cache by logical key.
 *
 *   get   fresh lease ──► cache ── hit: served, and told upstream later ── miss: one download for all who ask
 *         none        ──► HEAD upstream, sent after the read began ──► cache; a read goes on for M at most
 *   put   streamed to upstream, and kept when it was created
 *   head, stat, list   upstream alone: a use must be seen there
 *
 * What is kept is never older than what this node knows: an answer is kept only when upstream knew, before it looked, of
 * every event that had been applied here when the blob was asked for. A replica that lags behind is served from, once.
 */
import {
  type BlobInfo,
  type BlobStore,
  type CachedStore,
  type CacheOptions,
  cached,
  type GetOptions,
  isLpsError,
  type Lookup,
  passThrough,
  statOf,
} from '@large-payload/core';
import type { Moment } from '../catalog/row-cache.js';
import { holdReadLease, type Keeper, type LeaseHolder, type LeaseSource } from '../nodes/lease-holder.js';
import { never } from '../nodes/read-lease.js';
import type { NodeEvent } from '../nodes/read-leases.js';
import { RunningReads } from '../nodes/running-reads.js';
import type { TouchForwarder } from './touch-forwarder.js';
import { ownRefusal } from './upstream-api.js';

export interface CachedUpstreamOptions {
  /** Upstream by the http store; closed with this. */
  readonly upstream: BlobStore;
  readonly cache: Pick<CacheOptions, 'memory' | 'disk' | 'onError' | 'onEvict'>;
  /** `onEvent`: to be called when an event was heard of. */
  readonly leases: (onEvent: () => void) => LeaseSource;
  /** M as this node wants it, in ms. */
  readonly maxStalenessMs: number;
  /** The last event that everything on the disk has seen; absent: that is not known, and it is all forgotten. */
  readonly cursor?: bigint;
  readonly touches: Pick<TouchForwarder, 'hasRoom' | 'add'>;
  readonly onServe?: (result: Lookup, info: BlobInfo) => void;
  /** Told of a cursor that everything on the disk has seen. */
  readonly onCursor?: (cursor: bigint) => void;
  /** Told when no lease can be had any more, and (`undefined`) when one is granted again. */
  readonly onProblem?: (error: unknown) => void;
}

export interface CachedUpstream {
  readonly store: BlobStore;
  /** For the routes: where answers under way are cut off. */
  readonly reads: RunningReads;
  readonly lease: LeaseHolder;
  readonly kept: CachedStore['kept'];
  forget(key: string): void;
  clear(): void;
  /** Gives the lease back, and lets go of the cache and of upstream. Returns whether all that was forgotten is gone. */
  close(): Promise<boolean>;
}

/** Throws what the file system does when the cache's directory cannot be used. */
export async function openCachedUpstream(options: CachedUpstreamOptions): Promise<CachedUpstream> {
  const { maxStalenessMs, touches } = options;
  let holder: LeaseHolder | undefined;
  const endsAt = (): Moment => holder?.endsAt() ?? never;
  const reads = new RunningReads({ leaseMs: maxStalenessMs, endsAt });
  const source = withAge(refusingCalmly(options.upstream), () => holder?.state().cursor ?? 0n, reads, maxStalenessMs);
  const cache = await cached(source.store, {
    ...options.cache,
    keepsPuts: true,
    mayKeep: source.mayKeep,
    onServe(result, info) {
      if (result === 'memory' || result === 'disk') touches.add(info.key);
      options.onServe?.(result, info);
    },
  });
  let told = Promise.resolve(); // one after the other
  const lease = holdReadLease({
    source: options.leases(() => holder?.wake()),
    keeper: keeperOf(cache, reads),
    leaseMs: maxStalenessMs,
    ...(options.cursor === undefined ? {} : { cursor: options.cursor }),
    onCursor(cursor) {
      // what cannot be removed must be forgotten again by the next process
      told = told
        .then(() => cache.settled())
        .then(() => options.onCursor?.(cursor))
        .catch(() => undefined);
    },
    ...(options.onProblem === undefined ? {} : { onProblem: options.onProblem }),
  });
  holder = lease;
  const mayServe = (key: string): boolean => lease.isFresh() && touches.hasRoom(key);
  return {
    ...{ store: reads.over(revalidating(cache, source.store, mayServe)), reads, lease },
    kept: () => cache.kept(),
    forget: (key) => cache.forget(key),
    clear: () => cache.clear(),
    async close() {
      await lease.close();
      await cache.close?.();
      return cache.settled().then(
        () => true,
        () => false,
      );
    },
  };
}

function keeperOf(cache: CachedStore, reads: RunningReads): Keeper {
  return {
    forget(events) {
      for (const { key } of events) cache.forget(key);
      reads.cut(events, ({ key }) => cache.forget(key));
    },
    clear() {
      cache.clear();
      reads.cutAll(() => cache.clear());
    },
  };
}

/** Reads come from the cache only when they may; what upstream says is gone is forgotten. */
function revalidating(cache: CachedStore, upstream: BlobStore, mayServe: (key: string) => boolean): BlobStore {
  const forgetting = async <T>(key: string, ask: () => Promise<T>): Promise<T> => {
    try {
      const found = await ask();
      if (found === undefined) cache.forget(key);
      return found;
    } catch (error) {
      if (isGone(error)) cache.forget(key);
      throw error;
    }
  };
  return {
    ...passThrough(cache),
    get(key, options) {
      // blobs of version 1 are in no catalog: no event names them
      if (!key.startsWith('/')) return upstream.get(key, options);
      return forgetting(key, async () => {
        if (mayServe(key)) return cache.get(key, options);
        const info = await upstream.head(key, signalOf(options));
        return info && cache.get(key, options);
      });
    },
    put: (key, body, expect, options) => forgetting(key, () => cache.put(key, body, expect, options)),
    head: (key, options) => forgetting(key, () => upstream.head(key, options)),
    async stat(keys, options) {
      const found = await statOf(upstream, keys, options);
      for (const key of keys) if (!found.has(key)) cache.forget(key);
      return found;
    },
  };
}

function signalOf(options: GetOptions | undefined): { signal?: AbortSignal } {
  return options?.signal === undefined ? {} : { signal: options.signal };
}

function isGone(error: unknown): boolean {
  return ['BLOB_NOT_FOUND', 'BLOB_DAMAGED', 'BLOB_TAKEN_DOWN', 'BLOB_BLOCKED'].some(
    (code) => isLpsError(error) && error.code === code,
  );
}

/**
 * Marks what may not be kept: upstream did not say what it knew, or knew less than this node. By then a replica may have
 * served what it is not to serve any more; M later none does, and whoever still reads it from here is cut off.
 */
function withAge(
  upstream: BlobStore,
  cursor: () => bigint,
  reads: RunningReads,
  maxStalenessMs: number,
): { readonly store: BlobStore; mayKeep(info: BlobInfo): boolean } {
  const old = new WeakSet<BlobInfo>();
  const cutLater = (key: string, askedAtMs: number): void => {
    const event: NodeEvent = { id: 0n, kind: 'delete', key, physicalKey: key };
    const leftMs = Math.max(0, askedAtMs + maxStalenessMs - performance.now());
    setTimeout(() => reads.cut([event]), leftMs).unref();
  };
  const store: BlobStore = {
    ...upstream,
    async get(key, options) {
      const known = cursor();
      const askedAtMs = performance.now(); // by then upstream may have begun to read
      const found = await upstream.get(key, options);
      if (found !== undefined && (found.info.asOf ?? -1n) < known) {
        old.add(found.info);
        cutLater(key, askedAtMs);
      }
      return found;
    },
  };
  return { store, mayKeep: (info) => !old.has(info) };
}

/** What upstream says against the node's own token is not said of the caller's. */
function refusingCalmly(upstream: BlobStore): BlobStore {
  const calm = async <T>(call: Promise<T>): Promise<T> => {
    try {
      return await call;
    } catch (error) {
      throw ownRefusal(error);
    }
  };
  return {
    ...passThrough(upstream),
    put: (...args) => calm(upstream.put(...args)),
    get: (...args) => calm(upstream.get(...args)),
    head: (...args) => calm(upstream.head(...args)),
    stat: (...args) => calm(statOf(upstream, ...args)),
    async *list(...args) {
      try {
        yield* upstream.list(...args);
      } catch (error) {
        throw ownRefusal(error);
      }
    },
  };
}
