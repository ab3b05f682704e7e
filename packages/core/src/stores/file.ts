/**
 * Blobs as files, safe against a crash at any moment:
 *
 *   {dir}/tmp/{pid}-{random}      being written
 *   {dir}/blobs/…                 complete, durable (see ./file-path.ts)
 *
 * A put writes a temporary file, syncs it, renames it, and syncs the directory (and every directory that it made, up to
 * one that was there): what was acknowledged survives a power cut, and what was not is a temporary file for the janitor.
 */
import { randomBytes } from 'node:crypto';
import nodeFs, { type FileHandle } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { Readable } from 'node:stream';
import type {
  BlobInfo,
  BlobStore,
  Body,
  ByteRange,
  Expected,
  ListOptions,
  PutOptions,
  PutResult,
  StoredBlob,
} from '../blob-store.js';
import { isBytes } from '../body.js';
import { type ErrorCode, isLpsError, LpsError } from '../errors.js';
import { parseObjectName } from '../key.js';
import { checked } from '../layers/checked.js';
import { listingRoot, nameOf, pathOf } from './file-path.js';

/** The calls of `node:fs/promises` that the store makes; tests put a recording or a failing one in their place. */
export type FileSystem = Pick<
  typeof nodeFs,
  'link' | 'mkdir' | 'open' | 'readdir' | 'rename' | 'stat' | 'statfs' | 'unlink'
>;

export interface FileStoreOptions {
  /** Made when it is missing. One service owns it at a time. */
  readonly dir: string;
  readonly fs?: FileSystem;
}

export interface FileStore extends BlobStore {
  /**
   * Removes temporary files that were last written `olderThanMs` ago or earlier; returns how many.
   * With 0 it is for the start, when nobody writes.
   */
  janitor(options: { olderThanMs: number; nowMs?: number }): Promise<number>;
}

/** Bodies up to this size are read in one piece instead of as a stream. */
const wholeReadBytes = 256 * 1024;
/** Chunks are gathered up to this size before they are written. */
const writeBytes = 512 * 1024;
const maxKnownDirectories = 100_000;
/** Below that much room the store is not ready. */
const readyBytes = 1024 * 1024;

/** Opens a directory as a store. Throws STORE_REFUSED, STORE_FULL or STORE_UNAVAILABLE. */
export async function openFileStore(options: FileStoreOptions): Promise<FileStore> {
  const raw = new RawFileStore(resolve(options.dir), options.fs ?? nodeFs);
  await raw.open();
  return { ...checked(raw), janitor: (janitorOptions) => raw.janitor(janitorOptions) };
}

class RawFileStore implements BlobStore {
  readonly name = 'file';
  readonly can = { range: true, list: true, delete: true, versions: false };
  /** Directories that are known to be there, durably. Bounded. */
  readonly #known = new Set<string>();

  constructor(
    readonly dir: string,
    readonly fs: FileSystem,
  ) {}

  async open(): Promise<void> {
    const firstMade = await io('open', () => this.fs.mkdir(this.dir, { recursive: true }));
    // the entry of each directory that was made, in its parent
    for (let made = this.dir; firstMade !== undefined && made.length >= firstMade.length; made = dirname(made)) {
      await this.#syncDirectory(dirname(made));
    }
    await this.#ensureDirectory(['tmp']);
  }

  async put(key: string, body: Body, expect: Expected, options: PutOptions = {}): Promise<PutResult> {
    const path = pathOf(key);
    const target = join(this.dir, ...path.directories, path.file);
    if (!options.overwrite && (await this.#stat(target)) !== undefined) return { outcome: 'exists' };
    const temporary = join(this.dir, 'tmp', `${process.pid}-${randomBytes(9).toString('hex')}`);
    try {
      await this.#writeTemporary(temporary, body, expect, options.signal);
      await this.#ensureDirectory(path.directories);
      if (!(await this.#commit(key, temporary, target, options))) return { outcome: 'exists' };
    } catch (error) {
      await this.fs.unlink(temporary).catch(() => {}); // the janitor takes what is left
      throw error;
    }
    await this.#syncDirectory(join(this.dir, ...path.directories));
    return { outcome: 'created' };
  }

  async get(key: string, options: { range?: ByteRange } = {}): Promise<StoredBlob | undefined> {
    const path = pathOf(key);
    const handle = await absentAsUndefined('get', () =>
      this.fs.open(join(this.dir, ...path.directories, path.file), 'r'),
    );
    if (handle === undefined) return undefined;
    try {
      const { size, mtime } = await io('get', () => handle.stat());
      const info: BlobInfo = { key, size, modifiedAt: mtime };
      const { start, end } = options.range ?? { start: 0, end: size - 1 };
      if (end >= size && options.range) throw new LpsError('RANGE_NOT_SATISFIABLE', 'the range ends behind the blob');
      const length = end - start + 1;
      if (length > wholeReadBytes) {
        return { info, body: handle.createReadStream({ start, end, highWaterMark: writeBytes }) };
      }
      const body = await io('get', () => readExactly(handle, start, length));
      await handle.close();
      return { info, body };
    } catch (error) {
      await handle.close().catch(() => {});
      throw error;
    }
  }

  async head(key: string): Promise<BlobInfo | undefined> {
    const path = pathOf(key);
    const found = await this.#stat(join(this.dir, ...path.directories, path.file));
    return found && { key, size: found.size, modifiedAt: found.mtime };
  }

  async delete(key: string): Promise<boolean> {
    const path = pathOf(key);
    const directory = join(this.dir, ...path.directories);
    const removed = await absentAsUndefined('delete', async () => {
      await this.fs.unlink(join(directory, path.file));
      return true;
    });
    if (removed) await this.#syncDirectory(directory);
    return removed ?? false;
  }

  async *list(prefix: string, options: ListOptions = {}): AsyncIterable<BlobInfo> {
    const root = listingRoot(prefix);
    const after = options.after === undefined ? undefined : pathOf(options.after);
    const afterSegments = after && [...after.directories, after.file];
    for (const top of root.length > 0 ? [root] : [['blobs'], ['own'], ['v1']]) {
      for await (const segments of this.#walk(top)) {
        if (afterSegments !== undefined && comparePaths(segments, afterSegments) <= 0) continue;
        const key = nameOf(segments);
        if (key === undefined || !key.startsWith(prefix)) continue;
        const found = await this.#stat(join(this.dir, ...segments));
        if (found !== undefined) yield { key, size: found.size, modifiedAt: found.mtime };
      }
    }
  }

  async ready(): Promise<void> {
    const path = join(this.dir, 'tmp', `${process.pid}-ready-${randomBytes(4).toString('hex')}`);
    await io('ready', async () => {
      const handle = await this.fs.open(path, 'wx');
      await handle.close();
      await this.fs.unlink(path);
      // an empty file can be made on a full disk, too
      const { bavail, bsize } = await this.fs.statfs(this.dir);
      if (bavail * bsize < readyBytes) throw new LpsError('STORE_FULL', 'the disk is full');
    });
  }

  async janitor({ olderThanMs, nowMs = Date.now() }: { olderThanMs: number; nowMs?: number }): Promise<number> {
    let removed = 0;
    for (const name of await io('janitor', () => this.fs.readdir(join(this.dir, 'tmp')))) {
      const path = join(this.dir, 'tmp', name);
      const found = await this.#stat(path);
      if (found === undefined || found.mtime.getTime() > nowMs - olderThanMs) continue;
      const gone = await absentAsUndefined('janitor', async () => {
        await this.fs.unlink(path);
        return true;
      });
      if (gone) removed += 1;
    }
    return removed;
  }

  async #writeTemporary(path: string, body: Body, expect: Expected, signal?: AbortSignal): Promise<void> {
    const handle = await io('put', () => this.fs.open(path, 'wx', 0o640));
    try {
      const size = isBytes(body) ? await writeAll(handle, [body]) : await writeStream(handle, body);
      signal?.throwIfAborted();
      if (size !== expect.size) throw new LpsError('SIZE_MISMATCH', `${size} of ${expect.size} bytes arrived`);
      await io('put', () => handle.sync());
    } finally {
      await handle.close().catch(() => {});
    }
  }

  /** Gives a temporary file its name. `false`, and the file is gone, when another put of an own object was first. */
  async #commit(key: string, temporary: string, target: string, options: PutOptions): Promise<boolean> {
    if (options.overwrite || parseObjectName(key).kind !== 'own') {
      // a racer may have been first: both wrote the same bytes, so replacing its file changes nothing
      await io('put', () => this.fs.rename(temporary, target));
      return true;
    }
    // the service's own objects are not named by their bytes: of two at once only one may win
    const isFirst = await this.fs.link(temporary, target).then(
      () => true,
      (cause: NodeJS.ErrnoException) => (cause.code === 'EEXIST' ? false : io('put', () => Promise.reject(cause))),
    );
    await io('put', () => this.fs.unlink(temporary));
    return isFirst;
  }

  /** Makes directories one by one, so that each new one's own entry is synced too. */
  async #ensureDirectory(segments: readonly string[]): Promise<void> {
    const path = join(this.dir, ...segments);
    if (segments.length === 0 || this.#known.has(path)) return;
    await this.#ensureDirectory(segments.slice(0, -1));
    await io('put', async () => {
      // also when it is there already: whoever made it may have died before the sync
      await this.fs.mkdir(path, { recursive: true });
    });
    await this.#syncDirectory(join(path, '..'));
    if (this.#known.size >= maxKnownDirectories) this.#known.clear();
    this.#known.add(path);
  }

  async #syncDirectory(path: string): Promise<void> {
    await io('put', async () => {
      const handle = await this.fs.open(path, 'r');
      try {
        await handle.sync();
      } finally {
        await handle.close();
      }
    });
  }

  async #stat(path: string): Promise<{ size: number; mtime: Date } | undefined> {
    return absentAsUndefined('stat', () => this.fs.stat(path));
  }

  async *#walk(segments: readonly string[]): AsyncIterable<readonly string[]> {
    const entries = await absentAsUndefined('list', () =>
      this.fs.readdir(join(this.dir, ...segments), { withFileTypes: true }),
    );
    for (const entry of (entries ?? []).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const path = [...segments, entry.name];
      if (entry.isDirectory()) yield* this.#walk(path);
      else if (entry.isFile()) yield path;
    }
  }
}

/** The order of a walk: directory by directory, by name. */
function comparePaths(a: readonly string[], b: readonly string[]): number {
  const index = a.findIndex((segment, at) => segment !== b[at]);
  if (index < 0) return a.length - b.length;
  return (a[index] ?? '') < (b[index] ?? '') ? -1 : 1;
}

async function writeStream(handle: FileHandle, body: Readable): Promise<number> {
  let size = 0;
  let gathered: Uint8Array[] = [];
  let gatheredBytes = 0;
  for await (const chunk of body as AsyncIterable<Uint8Array>) {
    gathered.push(chunk);
    gatheredBytes += chunk.length;
    if (gatheredBytes < writeBytes) continue;
    size += await writeAll(handle, gathered);
    gathered = [];
    gatheredBytes = 0;
  }
  return size + (await writeAll(handle, gathered));
}

async function writeAll(handle: FileHandle, chunks: Uint8Array[]): Promise<number> {
  const size = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  if (size === 0) return 0;
  await io('put', async () => {
    const { bytesWritten } = await handle.writev(chunks);
    if (bytesWritten === size) return;
    // a short write: the rest once more, in one piece
    let rest = Buffer.concat(chunks).subarray(bytesWritten);
    while (rest.length > 0) rest = rest.subarray((await handle.write(rest)).bytesWritten);
  });
  return size;
}

async function readExactly(handle: FileHandle, position: number, length: number): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafe(length);
  let read = 0;
  while (read < length) {
    const { bytesRead } = await handle.read(bytes, read, length - read, position + read);
    if (bytesRead === 0) break; // shorter than its stat said: `checked` sees the difference
    read += bytesRead;
  }
  return bytes.subarray(0, read);
}

const codes: Record<string, [ErrorCode, string]> = {
  ENOSPC: ['STORE_FULL', 'the disk is full'],
  EDQUOT: ['STORE_FULL', 'the disk quota is used up'],
  EACCES: ['STORE_REFUSED', 'no permission in the data directory'],
  EPERM: ['STORE_REFUSED', 'no permission in the data directory'],
  EROFS: ['STORE_REFUSED', 'the data directory is read-only'],
};

/** Runs one piece of I/O and names its errors; the body's own errors never pass through here. */
async function io<T>(operation: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (cause) {
    if (isLpsError(cause)) throw cause;
    const errno = (cause as NodeJS.ErrnoException).code ?? '';
    const [code, reason] = codes[errno] ?? ['STORE_UNAVAILABLE', `${operation} failed in the file store: ${errno}`];
    throw new LpsError(code, reason, { cause });
  }
}

async function absentAsUndefined<T>(operation: string, run: () => Promise<T>): Promise<T | undefined> {
  try {
    return await run();
  } catch (cause) {
    const errno = (cause as NodeJS.ErrnoException).code;
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
    return io(operation, () => Promise.reject(cause));
  }
}
