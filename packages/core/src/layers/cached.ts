/**
 * Keeps what was read, by physical key: memory first, then disk, both bounded by bytes, least recently used out first.
 *
 *   get   memory ─► disk, checked by its digest ─► one download for all who ask meanwhile
 *
 * The layer below must be `checked`: only what it delivered to a clean end is kept. Heads are never answered from here,
 * so that an object removed behind our back is noticed. What is forgotten (`forget`, `delete`) is not kept by a read or a put
 * that began before.
 */
import type { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import type {
  BlobInfo,
  BlobStore,
  Body,
  ByteRange,
  Expected,
  GetOptions,
  PutOptions,
  PutResult,
  StoredBlob,
} from '../blob-store.js';
import { discard, isBytes, readAll } from '../body.js';
import { ByteLru } from '../byte-lru.js';
import { abortable } from '../concurrency.js';
import { LpsError } from '../errors.js';
import { digestOfObject, parseObjectName } from '../key.js';
import { verifiedRead } from './checked.js';
import { DiskCache } from './disk-cache.js';
import { Flight } from './flight.js';
import { passThrough } from './layer.js';
import { MemorySpool } from './memory-spool.js';
import { TeedUpload } from './teed-upload.js';

export interface CacheOptions {
  /** Blobs in this process' memory. */
  readonly memory?: {
    readonly maxBytes: number;
    /** Larger blobs are not kept in memory. Default: 1/16 of `maxBytes`. */
    readonly maxEntryBytes?: number;
  };
  /** Blobs in files. Nobody else writes to the directory. About 400 bytes of memory a blob. */
  readonly disk?: { readonly dir: string; readonly maxBytes: number };
  /** What is put is kept as well, once the layer below has said that it was created. */
  readonly keepsPuts?: boolean;
  /** Whether what the layer below has just answered with may be kept. Default: all of it. */
  mayKeep?(info: BlobInfo): boolean;
  /** Told where each whole read was answered from; `joined`: from a download that was under way. */
  onLookup?(result: Lookup): void;
  /** Told of each whole read that is answered with a blob. */
  onServe?(result: Lookup, info: BlobInfo): void;
  /** Told of each blob that made room for others. */
  onEvict?(place: 'memory' | 'disk'): void;
  /** Told what went wrong in the disk cache; reads go on without it. */
  onError?(error: unknown): void;
}

export type Lookup = 'memory' | 'disk' | 'joined' | 'miss';

/** A store with a cache before it. */
export interface CachedStore extends BlobStore {
  /** A blob that must not be served from here again. Whoever reads it from a download under way is cut off. */
  forget(key: string): void;
  /** Forgets everything. */
  clear(): void;
  /** Until everything that was forgotten so far is gone from the disk. Throws when some of it cannot be removed. */
  settled(): Promise<void>;
  /** What is kept now, in bytes and in blobs. */
  kept(): Readonly<Record<'memory' | 'disk', { readonly bytes: number; readonly blobs: number }>>;
}

/** What an entry takes beside its bytes, about: empty blobs are bounded too. */
const entryBytes = 512;
/** Blobs on disk up to this size are read in one piece: a wrong one is found before its first byte goes out. */
const wholeReadBytes = 1024 * 1024;
/** Copies to the disk wait in memory up to so many bytes; beyond, a blob is not copied. */
const maxCopyingBytes = 32 * 1024 * 1024;

/** Throws what the file system does when the directory cannot be used. */
export async function cached(store: BlobStore, options: CacheOptions): Promise<CachedStore> {
  const { onError, disk: place } = options;
  const onEvict = (): void => options.onEvict?.('disk');
  const disk = place && (await DiskCache.open({ ...place, ...(onError && { onError }), onEvict }));
  const cache = new Cache(store, options, disk);
  return {
    ...passThrough(store),
    async put(key, body, expect, putOptions) {
      if (putOptions?.overwrite) cache.forget(key);
      if (options.keepsPuts !== true) return store.put(key, body, expect, putOptions);
      return cache.put(key, body, expect, putOptions);
    },
    get: (key, getOptions = {}) => cache.get(key, getOptions),
    async delete(key, callOptions) {
      cache.forget(key);
      try {
        return await store.delete(key, callOptions);
      } finally {
        cache.forget(key); // a read may have put it back meanwhile
      }
    },
    async close() {
      await cache.close();
      await store.close?.();
    },
    forget: (key) => cache.forget(key),
    clear: () => cache.clear(),
    settled: async () => disk?.settled(),
    kept: () => cache.kept(),
  };
}

/** A blob in memory, as it came. */
interface Kept {
  readonly info: BlobInfo;
  chunks: readonly Uint8Array[];
}

/** What was found below: a download to share, bytes, or a stream for one reader. */
type Found = Flight | StoredBlob | undefined;

/** A blob that was asked for below. */
interface Opening {
  readonly found: Promise<Found>;
  readonly abort: AbortController;
  /** Readers. */
  waiting: number;
  /** Whether the stream for one reader has its reader. */
  isTaken: boolean;
  isForgotten: boolean;
  /** Whether the layer below has answered. */
  isFound: boolean;
}

/** An upload that will be kept. */
interface Putting {
  readonly key: string;
  isForgotten: boolean;
}

class Cache {
  readonly #store: BlobStore;
  readonly #options: CacheOptions;
  readonly #disk: DiskCache | undefined;
  readonly #maxEntryBytes: number;
  readonly #memory: ByteLru<Kept>;
  /** Names, without bytes, of what was read once while memory was full: read again soon, it is worth an eviction. */
  readonly #once: ByteLru<true>;
  /** Downloads that were asked for, and those under way; as many as there are reads. */
  readonly #openings = new Map<string, Opening>();
  readonly #flights = new Map<string, Flight>();
  /** Bytes of downloads under way that are kept in memory; at most as many again as the cache has. */
  #gathering = 0;
  #copying = 0;
  /** As many as there are uploads. */
  readonly #puts = new Set<Putting>();
  readonly #pending = new Set<Promise<void>>();

  constructor(store: BlobStore, options: CacheOptions, disk: DiskCache | undefined) {
    const maxBytes = options.memory?.maxBytes ?? 0;
    this.#store = store;
    this.#options = options;
    this.#disk = disk;
    this.#maxEntryBytes = Math.min(options.memory?.maxEntryBytes ?? Math.floor(maxBytes / 16), maxBytes);
    this.#memory = new ByteLru(maxBytes, () => options.onEvict?.('memory'));
    this.#once = new ByteLru(maxBytes);
  }

  async get(key: string, options: GetOptions): Promise<StoredBlob | undefined> {
    if (digestOfObject(parseObjectName(key)) === undefined) return this.#store.get(key, options);
    const { range } = options;
    if (range !== undefined) return this.#getRange(key, { ...options, range });
    const hit = this.#memory.get(key);
    if (hit !== undefined) {
      this.#options.onLookup?.('memory');
      this.#options.onServe?.('memory', hit.info);
      return { info: hit.info, body: wholeOf(hit) };
    }
    const found = await this.#fromDisk(key);
    if (found === undefined) return this.#download(key, options);
    this.#options.onLookup?.('disk');
    this.#options.onServe?.('disk', found.info);
    return found;
  }

  async put(key: string, body: Body, expect: Expected, options?: PutOptions): Promise<PutResult> {
    const info: BlobInfo = { key, size: expect.size };
    const putting: Putting = { key, isForgotten: false };
    this.#puts.add(putting);
    try {
      if (isBytes(body)) {
        const result = await this.#store.put(key, body, expect, options);
        if (result.outcome === 'created' && !putting.isForgotten) this.#keepBoth(key, info, [body]);
        return result;
      }
      if (this.#fitsInMemory(info.size)) return await this.#putByMemory(putting, info, body, expect, options);
      return await this.#putByDisk(putting, info, body, expect, options);
    } finally {
      this.#puts.delete(putting);
    }
  }

  forget(key: string): void {
    this.#memory.delete(key);
    this.#once.delete(key);
    this.#disk?.forget(key);
    this.#forgetDownload(key);
    for (const putting of this.#puts) if (putting.key === key) putting.isForgotten = true;
  }

  clear(): void {
    this.#memory.clear();
    this.#once.clear();
    this.#disk?.clear();
    for (const key of [...this.#openings.keys(), ...this.#flights.keys()]) this.#forgetDownload(key);
    for (const putting of this.#puts) putting.isForgotten = true;
  }

  kept(): ReturnType<CachedStore['kept']> {
    return {
      memory: { bytes: this.#memory.bytes, blobs: this.#memory.count },
      disk: { bytes: this.#disk?.bytes ?? 0, blobs: this.#disk?.blobs ?? 0 },
    };
  }

  /** Ends what is under way, and waits until nothing is written any more. */
  async close(): Promise<void> {
    const error = new LpsError('ABORTED', 'the cache is closed');
    for (const flight of this.#flights.values()) flight.abort(error);
    for (const { abort, isFound } of this.#openings.values()) if (!isFound) abort.abort(error);
    while (this.#pending.size > 0) await Promise.all(this.#pending);
    await this.#disk?.settled().catch(() => undefined); // it was told when it failed
  }

  async #getRange(key: string, options: GetOptions & { readonly range: ByteRange }): Promise<StoredBlob | undefined> {
    const { start, end } = options.range;
    const hit = this.#memory.get(key);
    if (hit === undefined) return (await this.#rangeFromDisk(key, options.range)) ?? this.#store.get(key, options);
    if (end >= hit.info.size) return this.#store.get(key, options);
    return { info: hit.info, body: wholeOf(hit).subarray(start, end + 1) };
  }

  /** A part cannot be checked by itself: the whole blob is read first. */
  async #rangeFromDisk(key: string, range: ByteRange): Promise<StoredBlob | undefined> {
    const whole = await this.#fromDisk(key);
    if (whole === undefined || range.end >= whole.info.size) return discarded(whole);
    if (isBytes(whole.body)) return { info: whole.info, body: whole.body.subarray(range.start, range.end + 1) };
    await finished(whole.body.resume()).catch(() => {}); // a wrong one has been dropped
    return this.#disk?.get(key, range);
  }

  async #fromDisk(key: string): Promise<StoredBlob | undefined> {
    const found = await this.#disk?.get(key);
    if (found === undefined) return undefined;
    const { info, body } = verified(found);
    const dropped = (error: unknown): undefined => {
      this.#options.onError?.(error);
      this.#disk?.forget(key);
    };
    if (info.size > wholeReadBytes) {
      if (!isBytes(body)) body.once('error', dropped);
      return { info, body };
    }
    const bytes = await readAll(body, wholeReadBytes).catch(dropped);
    if (bytes === undefined) return undefined;
    // it may have been forgotten since
    if (this.#disk?.has(key) && this.#isWorthKeeping(key, info.size)) this.#keep(key, info, [bytes]);
    return { info, body: bytes };
  }

  async #download(key: string, options: GetOptions): Promise<StoredBlob | undefined> {
    const flying = this.#flights.get(key);
    const asked = this.#openings.get(key);
    const result = flying === undefined && asked === undefined ? 'miss' : 'joined';
    this.#options.onLookup?.(result);
    const found = flying === undefined ? await this.#openingOf(key, asked, options) : bodyOf(flying);
    if (found !== undefined) this.#options.onServe?.(result, found.info);
    return found;
  }

  async #openingOf(key: string, asked: Opening | undefined, options: GetOptions): Promise<StoredBlob | undefined> {
    const opening = asked ?? this.#ask(key);
    opening.waiting += 1;
    try {
      const found = await abortable(opening.found, options.signal);
      const taken = found && takeFrom(found, opening);
      return found === undefined || taken !== undefined ? taken : await this.#store.get(key, options);
    } finally {
      opening.waiting -= 1;
      if (opening.waiting === 0) this.#release(key, opening);
    }
  }

  #ask(key: string): Opening {
    const abort = new AbortController();
    const found = (): Promise<Found> => this.#open(key, opening);
    const opening: Opening = {
      ...{ abort, waiting: 0, isTaken: false, isForgotten: false, isFound: false },
      found: Promise.resolve().then(found),
    };
    this.#openings.set(key, opening);
    return opening;
  }

  async #open(key: string, opening: Opening): Promise<Found> {
    const found = await this.#store.get(key, { signal: opening.abort.signal });
    opening.isFound = true;
    if (found === undefined) return undefined;
    const { info, body } = found;
    const mayKeep = this.#options.mayKeep?.(info) ?? true;
    if (!mayKeep && !opening.isForgotten) return found;
    const flight = isBytes(body)
      ? undefined
      : (this.#inMemory(key, info, body) ?? (await this.#onDisk(key, info, body)));
    if (opening.isForgotten) {
      flight?.abort(forgotten());
      discard(body);
      throw forgotten();
    }
    if (isBytes(body)) this.#keepBoth(key, info, [body]);
    if (flight !== undefined) this.#flights.set(key, flight);
    return flight ?? found;
  }

  /** Nobody waits any more: what nobody took is let go. */
  #release(key: string, opening: Opening): void {
    if (this.#openings.get(key) === opening) this.#openings.delete(key);
    // a signal that comes after the answer would cut off the body
    if (!opening.isFound) opening.abort.abort(new LpsError('ABORTED', 'nobody reads any more'));
    opening.found.then(
      (found) => {
        if (found instanceof Flight) found.endIfUnread();
        else if (!opening.isTaken) discarded(found);
      },
      () => {},
    );
  }

  #inMemory(key: string, info: BlobInfo, body: Readable): Flight | undefined {
    const { size } = info;
    if (!this.#fitsInMemory(size)) return undefined;
    this.#gathering += size;
    const spool = new MemorySpool();
    const flight: Flight = new Flight(info, body, spool, {
      onEnd: () => {
        this.#landed(key, flight);
        this.#keepBoth(key, info, spool.chunks);
      },
      onOver: () => {
        this.#gathering -= size;
        this.#landed(key, flight);
      },
    });
    return flight;
  }

  async #onDisk(key: string, info: BlobInfo, body: Readable): Promise<Flight | undefined> {
    const spool = await this.#disk?.begin(key, info.size);
    if (spool === undefined) return undefined;
    let kept = Promise.resolve();
    const flight: Flight = new Flight(info, body, spool.file, {
      // until it is kept, those who come join it
      onEnd: () => {
        kept = spool.keep().finally(() => this.#landed(key, flight));
        this.#track(kept);
      },
      onOver: () => {
        this.#landed(key, flight);
        this.#track(kept.finally(() => spool.file.close()));
      },
    });
    return flight;
  }

  #fitsInMemory(size: number): boolean {
    return size <= this.#maxEntryBytes && this.#gathering + size <= this.#memory.maxBytes;
  }

  async #putByMemory(
    putting: Putting,
    info: BlobInfo,
    source: Readable,
    expect: Expected,
    options: PutOptions | undefined,
  ): Promise<PutResult> {
    const spool = new MemorySpool();
    const teed = new TeedUpload(source, spool);
    this.#gathering += info.size;
    try {
      const result = await this.#store.put(info.key, teed.body, expect, options);
      const isWhole = result.outcome === 'created' && (await teed.copied()) === info.size;
      if (isWhole && !putting.isForgotten) this.#keepBoth(info.key, info, spool.chunks);
      return result;
    } finally {
      this.#gathering -= info.size;
    }
  }

  /** The file has its name only when the layer below has the blob. */
  async #putByDisk(
    putting: Putting,
    info: BlobInfo,
    source: Readable,
    expect: Expected,
    options: PutOptions | undefined,
  ): Promise<PutResult> {
    const spool = await this.#disk?.begin(info.key, info.size);
    if (spool === undefined) return this.#store.put(info.key, source, expect, options);
    const teed = new TeedUpload(source, spool.file);
    const over = async (isKept: boolean): Promise<void> => {
      if ((await teed.copied()) === info.size && isKept && !putting.isForgotten) await spool.keep();
      await spool.file.close();
    };
    try {
      const result = await this.#store.put(info.key, teed.body, expect, options);
      this.#track(over(result.outcome === 'created'));
      return result;
    } catch (error) {
      this.#track(over(false));
      throw error;
    }
  }

  #landed(key: string, flight: Flight): void {
    if (this.#flights.get(key) === flight) this.#flights.delete(key);
  }

  #forgetDownload(key: string): void {
    const opening = this.#openings.get(key);
    if (opening !== undefined) opening.isForgotten = true;
    this.#openings.delete(key);
    this.#flights.get(key)?.abort(forgotten());
    this.#flights.delete(key);
  }

  #keepBoth(key: string, info: BlobInfo, chunks: readonly Uint8Array[]): void {
    if (this.#isWorthKeeping(key, info.size)) this.#keep(key, info, chunks);
    if (this.#disk !== undefined) this.#track(this.#copy(this.#disk, key, info.size, chunks));
  }

  // a long scan must not push everything out, one blob after another, before any of it is read a second time
  #isWorthKeeping(key: string, size: number): boolean {
    if (size > this.#maxEntryBytes) return false;
    if (this.#memory.bytes + size + entryBytes <= this.#memory.maxBytes || this.#once.get(key)) return true;
    this.#once.set(key, true, size + entryBytes);
    return false;
  }

  #keep(key: string, info: BlobInfo, chunks: readonly Uint8Array[]): void {
    this.#once.delete(key);
    this.#memory.set(key, { info, chunks }, info.size + entryBytes);
  }

  /** In the background. */
  async #copy(disk: DiskCache, key: string, size: number, chunks: readonly Uint8Array[]): Promise<void> {
    if (this.#copying + size > maxCopyingBytes) return;
    this.#copying += size;
    const spool = await disk.begin(key, size);
    try {
      for (const chunk of chunks) await spool?.file.write(chunk);
      await spool?.keep();
    } catch (error) {
      this.#options.onError?.(error);
    } finally {
      this.#copying -= size;
      await spool?.file.close();
    }
  }

  #track(work: Promise<void>): void {
    const tracked = work.finally(() => this.#pending.delete(tracked));
    this.#pending.add(tracked);
  }
}

/** What a reader gets of it; `undefined`: nothing, it must ask by itself. */
function takeFrom(found: Flight | StoredBlob, opening: Opening): StoredBlob | undefined {
  if (found instanceof Flight) return found.isOver ? undefined : bodyOf(found);
  if (isBytes(found.body)) return found;
  if (opening.isTaken) return undefined;
  opening.isTaken = true;
  return found;
}

function bodyOf(flight: Flight): StoredBlob {
  const found = { info: flight.info, body: flight.read() };
  // what comes back from a disk was not checked on its way
  return flight.isInMemory ? found : verified(found);
}

function verified(found: StoredBlob): StoredBlob {
  const { key, size } = found.info;
  const digest = digestOfObject(parseObjectName(key));
  return digest === undefined ? found : verifiedRead(found, { digest, size });
}

function discarded(found: StoredBlob | undefined): undefined {
  if (found !== undefined) discard(found.body);
}

function forgotten(): LpsError {
  return new LpsError('TRY_AGAIN', 'the blob was deleted while it was read; ask again');
}

/** Put together when it is read for the first time: most blobs never are, and copying them all would cost more than it saves. */
function wholeOf(kept: Kept): Uint8Array {
  const [first] = kept.chunks;
  if (first !== undefined && kept.chunks.length === 1) return first;
  const whole = Buffer.concat(kept.chunks, kept.info.size);
  kept.chunks = [whole];
  return whole;
}
