import { PassThrough, type Readable } from 'node:stream';
import type { BlobInfo, BlobStore, StoredBlob } from '../blob-store.js';
import { discard, isBytes } from '../body.js';
import { ByteLru } from '../byte-lru.js';
import { digestOfObject, parseObjectName } from '../key.js';
import { Passage } from '../passage.js';
import { passThrough } from './layer.js';

export interface CacheOptions {
  /** Blobs in this process' memory. */
  readonly memory?: {
    readonly maxBytes: number;
    /** Larger blobs are not kept in memory. Default: 1/16 of `maxBytes`. */
    readonly maxEntryBytes?: number;
  };
  /** Blobs in another store, such as a file store on a fast disk. Nobody else writes to it. */
  readonly disk?: { readonly store: BlobStore; readonly maxBytes: number };
  /** Told where each whole read was answered from. */
  onLookup?(result: 'memory' | 'disk' | 'miss'): void;
  /** Told what went wrong in the disk cache; reads go on without it. */
  onError?(error: unknown): void;
}

/** What an entry takes beside its bytes, about: empty blobs are bounded too. */
const entryBytes = 512;

/**
 * Keeps what was read, by physical key: memory first, then disk, both bounded by bytes, least recently used out first.
 * The layer below must be `checked`: only what it delivered to a clean end is kept. Heads are never answered from here,
 * so that an object removed behind our back is noticed.
 */
export async function cached(store: BlobStore, options: CacheOptions): Promise<BlobStore> {
  const maxMemoryBytes = options.memory?.maxBytes ?? 0;
  const maxEntryBytes = Math.min(options.memory?.maxEntryBytes ?? Math.floor(maxMemoryBytes / 16), maxMemoryBytes);
  const memory = new ByteLru<Kept>(maxMemoryBytes);
  /** Names, without bytes, of what was read once while memory was full: read again soon, it is worth an eviction. */
  const once = new ByteLru<true>(maxMemoryBytes);
  const disk = options.disk && (await DiskCache.open(options.disk.store, options.disk.maxBytes, options.onError));

  // a long scan must not push everything out, one blob after another, before any of it is read a second time
  const isWorthKeeping = (key: string, size: number): boolean => {
    if (size > maxEntryBytes) return false;
    if (memory.bytes + size + entryBytes <= maxMemoryBytes || once.get(key)) return true;
    once.set(key, true, size + entryBytes);
    return false;
  };
  const keep = (key: string, info: BlobInfo, chunks: Uint8Array[]): void => {
    once.delete(key);
    memory.set(key, { info, chunks }, info.size + entryBytes);
  };

  async function readThrough(key: string, signal?: AbortSignal): Promise<StoredBlob | undefined> {
    const onDisk = await disk?.get(key);
    options.onLookup?.(onDisk === undefined ? 'miss' : 'disk');
    const found = onDisk ?? (await store.get(key, signal === undefined ? {} : { signal }));
    if (found === undefined) return undefined;
    const { size } = found.info;
    const toMemory = isWorthKeeping(key, size);
    if (isBytes(found.body)) {
      if (toMemory) keep(key, found.info, [found.body]);
      if (onDisk === undefined) disk?.write(key, found.body, size);
      return found;
    }
    const toDisk = onDisk === undefined ? disk?.writer(key, size) : undefined;
    if (!toMemory && toDisk === undefined) return found;
    const onEnd = toMemory ? (chunks: Uint8Array[]) => keep(key, found.info, chunks) : undefined;
    return { info: found.info, body: tapped(found.body, toDisk, onEnd) };
  }

  return {
    ...passThrough(store),
    async put(key, body, expect, putOptions) {
      if (putOptions?.overwrite) memory.delete(key);
      return store.put(key, body, expect, putOptions);
    },
    async get(key, getOptions) {
      if (digestOfObject(parseObjectName(key)) === undefined) return store.get(key, getOptions);
      const hit = memory.get(key);
      if (getOptions?.range === undefined) {
        if (hit === undefined) return readThrough(key, getOptions?.signal);
        options.onLookup?.('memory');
        return { info: hit.info, body: wholeOf(hit) };
      }
      const { start, end } = getOptions.range;
      if (hit === undefined || end >= hit.info.size) return store.get(key, getOptions);
      return { info: hit.info, body: wholeOf(hit).subarray(start, end + 1) };
    },
    async delete(key, callOptions) {
      memory.delete(key);
      await disk?.delete(key);
      try {
        return await store.delete(key, callOptions);
      } finally {
        memory.delete(key); // a read may have put it back meanwhile
        await disk?.delete(key);
      }
    },
    async close() {
      await disk?.settled();
      await options.disk?.store.close?.();
      await store.close?.();
    },
  };
}

/** A blob in memory, as it came. */
interface Kept {
  readonly info: BlobInfo;
  chunks: Uint8Array[];
}

/** Put together when it is read for the first time: most blobs never are, and copying them all would cost more than it saves. */
function wholeOf(kept: Kept): Uint8Array {
  const [first] = kept.chunks;
  if (first !== undefined && kept.chunks.length === 1) return first;
  const whole = Buffer.concat(kept.chunks, kept.info.size);
  kept.chunks = [whole];
  return whole;
}

/** Passes a stream on, and to the disk's writer, and gathers it for memory; what was gathered counts only at a clean end. */
function tapped(
  body: Readable,
  toDisk: PassThrough | undefined,
  onEnd: ((chunks: Uint8Array[]) => void) | undefined,
): Readable {
  const chunks: Uint8Array[] = [];
  const passage = new Passage(body, {
    chunk(chunk) {
      if (onEnd !== undefined) chunks.push(chunk);
      // a disk that is slower than the reader slows it down: memory stays bounded
      if (toDisk !== undefined && !toDisk.destroyed && !toDisk.write(chunk)) waitFor(toDisk, passage.hold());
      return chunk;
    },
    end() {
      onEnd?.(chunks);
      toDisk?.end();
      return undefined;
    },
  });
  passage.once('close', () => {
    if (!passage.readableEnded) toDisk?.destroy();
  });
  return passage;
}

function waitFor(disk: PassThrough, release: () => void): void {
  const go = (): void => {
    disk.off('drain', go);
    disk.off('close', go);
    release();
  };
  disk.once('drain', go);
  disk.once('close', go);
}

/** A store kept below a number of bytes. */
class DiskCache {
  readonly #entries: ByteLru<true>;
  /** Writes and removals under way; as many as there are reads under way. */
  readonly #pending = new Set<Promise<void>>();

  private constructor(
    readonly store: BlobStore,
    readonly maxBytes: number,
    readonly onError: ((error: unknown) => void) | undefined,
  ) {
    this.#entries = new ByteLru(maxBytes, (key) => this.#track(this.#remove(key)));
  }

  /** Takes over what an earlier process left, oldest first. */
  static async open(store: BlobStore, maxBytes: number, onError?: (error: unknown) => void): Promise<DiskCache> {
    const cache = new DiskCache(store, maxBytes, onError);
    const left: { key: string; size: number; at: number }[] = [];
    for await (const { key, size, modifiedAt } of store.list(''))
      left.push({ key, size, at: modifiedAt?.getTime() ?? 0 });
    for (const { key, size } of left.sort((a, b) => a.at - b.at)) cache.#entries.set(key, true, size);
    return cache;
  }

  async get(key: string): Promise<StoredBlob | undefined> {
    if (this.#entries.get(key) === undefined) return undefined;
    try {
      const found = await this.store.get(key);
      if (found !== undefined && !isBytes(found.body)) found.body.once('error', () => this.#track(this.delete(key)));
      return found;
    } catch (error) {
      // damaged or unreadable: forget it, the store below has it
      this.onError?.(error);
      await this.delete(key);
      return undefined;
    }
  }

  /** Keeps a blob, in the background. */
  write(key: string, body: Uint8Array | PassThrough, size: number): void {
    this.#track(this.#put(key, body, size));
  }

  async settled(): Promise<void> {
    while (this.#pending.size > 0) await Promise.all(this.#pending);
  }

  #track(work: Promise<void>): void {
    const tracked = work.finally(() => this.#pending.delete(tracked));
    this.#pending.add(tracked);
  }

  async #put(key: string, body: Uint8Array | PassThrough, size: number): Promise<void> {
    const digest = digestOfObject(parseObjectName(key));
    if (digest === undefined || size > this.maxBytes) return discard(body);
    try {
      await this.store.put(key, body, { digest, size });
      this.#entries.set(key, true, size);
    } catch (error) {
      discard(body);
      this.onError?.(error);
    }
  }

  /** A stream to write a blob into; destroying it keeps nothing. */
  writer(key: string, size: number): PassThrough | undefined {
    if (size > this.maxBytes) return undefined;
    const stream = new PassThrough({ highWaterMark: 512 * 1024 });
    stream.on('error', () => {});
    this.write(key, stream, size);
    return stream;
  }

  async delete(key: string): Promise<void> {
    this.#entries.delete(key);
    await this.#remove(key);
  }

  async #remove(key: string): Promise<void> {
    await this.store.delete(key).catch((error: unknown) => this.onError?.(error));
  }
}
