/**
 * Blobs in files, as many as fit into a number of bytes; least recently used out first.
 *
 *   {dir}/tmp/{random}      being written; removed at the start
 *   {dir}/blobs/…           whole, named as the file store names them
 *
 * Nothing is synced: after a crash a file may hold anything, so each read is checked against its digest (`get` gives a
 * stream that must be verified), and what is wrong is dropped. Room is taken before the first byte is written, so the files
 * never take more than `maxBytes`, temporary ones included.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ByteRange, StoredBlob } from '../blob-store.js';
import { ByteLru } from '../byte-lru.js';
import { nameOf, pathOf } from '../stores/file-path.js';
import { SpoolFile } from './spool-file.js';

export interface DiskCacheOptions {
  /** Made when it is missing. Nobody else writes to it. */
  readonly dir: string;
  readonly maxBytes: number;
  /** Told what went wrong; reads go on without the disk. */
  onError?(error: unknown): void;
  /** Told of each blob that made room for others. */
  onEvict?(): void;
}

/** A blob that is being written, and can be read meanwhile. */
export interface DiskSpool {
  readonly file: SpoolFile;
  /** All bytes are written, and they are right: they are kept from now on. Comes before the file is closed. Never throws. */
  keep(): Promise<void>;
}

interface Writing {
  readonly key: string;
  /** Bytes that are reserved for it. */
  readonly room: number;
  /** Deleted, or found wrong, since it was begun. */
  isForgotten: boolean;
}

/** What a file takes beside its bytes, about. */
const entryBytes = 4096;
const readBytes = 256 * 1024;
/** After a failure the disk is left alone for so long, in ms. */
const restMs = 30_000;

export class DiskCache {
  readonly #options: DiskCacheOptions;
  readonly #entries: ByteLru<number>;
  /** Room taken by files that are being written. */
  #reserved = 0;
  /** Removals under way, by key. */
  readonly #removing = new Map<string, Promise<void>>();
  /** What is being written; as much as there are downloads under way. */
  readonly #writing = new Set<Writing>();
  /** Those of them that are about to get their names. */
  readonly #keeping = new Set<Promise<void>>();
  #isClearing = false;
  /** What could not be removed is taken over by the next process, forgotten or not. */
  #hasRemains = false;
  #restsUntil = Number.NEGATIVE_INFINITY;

  private constructor(options: DiskCacheOptions) {
    this.#options = options;
    this.#entries = new ByteLru(options.maxBytes, (key) => {
      this.#remove(key);
      if (!this.#isClearing) options.onEvict?.();
    });
  }

  /** Takes over what an earlier process left, the oldest first. Throws what the file system does. */
  static async open(options: DiskCacheOptions): Promise<DiskCache> {
    const cache = new DiskCache(options);
    const temporary = join(options.dir, 'tmp');
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { recursive: true });
    const left: { key: string; size: number; at: number }[] = [];
    for await (const path of filesBelow(options.dir)) {
      const key = nameOf(path);
      const found = key === undefined ? undefined : await stat(join(options.dir, ...path)).catch(() => undefined);
      if (key !== undefined && found !== undefined) left.push({ key, size: found.size, at: found.mtimeMs });
    }
    for (const { key, size } of left.sort((a, b) => a.at - b.at)) cache.#entries.set(key, size, size + entryBytes);
    await cache.#removed();
    return cache;
  }

  /** Bytes on the disk, with what is being written. */
  get bytes(): number {
    return this.#entries.bytes + this.#reserved;
  }

  get blobs(): number {
    return this.#entries.count;
  }

  /** Whether it is kept now. */
  has(key: string): boolean {
    return this.#entries.get(key) !== undefined;
  }

  /** A file, or a part of it, as it is: whoever reads it must check it. `undefined` for what is not there. */
  async get(key: string, range?: ByteRange): Promise<StoredBlob | undefined> {
    const size = this.#entries.get(key);
    if (size === undefined) return undefined;
    try {
      const handle = await open(this.#pathOf(key), 'r');
      return { info: { key, size }, body: handle.createReadStream({ ...range, highWaterMark: readBytes }) };
    } catch (error) {
      this.#options.onError?.(error);
      this.forget(key);
      return undefined;
    }
  }

  /** Makes room and begins a file. `undefined` when it cannot be kept; reads go on without it. */
  async begin(key: string, size: number): Promise<DiskSpool | undefined> {
    if (performance.now() < this.#restsUntil || !this.#reserve(size + entryBytes)) return undefined;
    const writing: Writing = { key, room: size + entryBytes, isForgotten: false };
    this.#writing.add(writing); // from now on it can be forgotten
    const end = (): void => this.#end(writing);
    const path = join(this.#options.dir, 'tmp', randomBytes(12).toString('hex'));
    try {
      await this.#removed(); // what made room is gone before it is taken
      const handle = await open(path, 'wx+');
      const file = new SpoolFile(handle, path, { onError: (error) => this.#failed(error), onClose: end });
      return { file, keep: () => this.#tracked(this.#keep(writing, file)) };
    } catch (error) {
      end();
      this.#failed(error);
      return undefined;
    }
  }

  /** A blob that was found wrong, or was deleted. What is being written of it is not kept either. */
  forget(key: string): void {
    for (const writing of this.#writing) if (writing.key === key) writing.isForgotten = true;
    this.#entries.delete(key);
    this.#remove(key);
  }

  /** Forgets all of it. */
  clear(): void {
    for (const writing of this.#writing) writing.isForgotten = true;
    this.#isClearing = true;
    this.#entries.shrinkTo(0);
    this.#isClearing = false;
  }

  /** Until nothing that was forgotten so far has a name on the disk any more, or will get one. Throws when some has. */
  async settled(): Promise<void> {
    await Promise.all(this.#keeping);
    await this.#removed();
    if (this.#hasRemains) throw new Error('a file of the disk cache could not be removed');
  }

  async #removed(): Promise<void> {
    await Promise.all(this.#removing.values());
  }

  #tracked(keep: Promise<void>): Promise<void> {
    const tracked = keep.finally(() => this.#keeping.delete(tracked));
    this.#keeping.add(tracked);
    return tracked;
  }

  async #keep(writing: Writing, file: SpoolFile): Promise<void> {
    const { key } = writing;
    const target = this.#pathOf(key);
    try {
      const size = await file.flush();
      await mkdir(dirname(target), { recursive: true });
      await this.#removing.get(key); // an older file of that name, on its way out
      if (writing.isForgotten) return;
      await rename(file.path, target);
      file.wasMoved = true;
      if (writing.isForgotten) return this.#remove(key);
      this.#end(writing);
      this.#entries.set(key, size, size + entryBytes);
    } catch (error) {
      this.#failed(error);
    }
  }

  #reserve(size: number): boolean {
    const { maxBytes } = this.#options;
    if (this.#reserved + size > maxBytes) return false;
    this.#reserved += size;
    this.#entries.shrinkTo(maxBytes - this.#reserved);
    return true;
  }

  /** Its room is another's, or that of what is kept now. The first time counts. */
  #end(writing: Writing): void {
    if (this.#writing.delete(writing)) this.#reserved -= writing.room;
  }

  #failed(error: unknown): void {
    this.#restsUntil = performance.now() + restMs;
    this.#options.onError?.(error);
  }

  #pathOf(key: string): string {
    const path = pathOf(key);
    return join(this.#options.dir, ...path.directories, path.file);
  }

  #remove(key: string): void {
    const removal: Promise<void> = unlink(this.#pathOf(key))
      .catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return;
        this.#hasRemains = true;
        this.#options.onError?.(error);
      })
      .finally(() => {
        if (this.#removing.get(key) === removal) this.#removing.delete(key);
      });
    this.#removing.set(key, removal);
  }
}

async function* filesBelow(dir: string, path: readonly string[] = []): AsyncIterable<string[]> {
  for (const entry of await readdir(join(dir, ...path), { withFileTypes: true })) {
    const below = [...path, entry.name];
    if (entry.isDirectory()) yield* filesBelow(dir, below);
    else if (entry.isFile()) yield below;
  }
}
