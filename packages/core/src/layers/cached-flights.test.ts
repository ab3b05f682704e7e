import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, type Readable } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import type { BlobStore, StoredBlob } from '../blob-store.js';
import { readAll } from '../body.js';
import { digestOf } from '../digest.js';
import { LpsError } from '../errors.js';
import { keyFor } from '../key.js';
import { memoryStore } from '../stores/memory.js';
import { type CachedStore, type CacheOptions, cached } from './cached.js';
import { checked } from './checked.js';

const MiB = 1024 * 1024;
const dirs: string[] = [];
async function newDir(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'lps-flights-'));
  dirs.push(dir);
  return dir;
}

/** A store below, of one blob, whose downloads the test sends by hand. */
class Upstream {
  readonly bytes: Buffer;
  readonly key: string;
  readonly downloads: { readonly body: PassThrough; readonly signal: AbortSignal | undefined }[] = [];
  /** What the next gets answer with, instead of a download. */
  answer: (() => Promise<StoredBlob | undefined>) | undefined;
  readonly store: BlobStore;

  constructor(size: number) {
    this.bytes = randomBytes(size);
    this.key = keyFor('n', digestOf(this.bytes), null);
    const get: BlobStore['get'] = async (_key, options) => {
      const body = new PassThrough();
      body.on('error', () => {});
      options?.signal?.addEventListener('abort', () => body.destroy());
      this.downloads.push({ body, signal: options?.signal });
      if (this.answer !== undefined) return this.answer();
      return { info: { key: this.key, size }, body };
    };
    this.store = checked({ ...memoryStore(), get });
  }

  send(from: number, to: number, download = 0): void {
    this.downloads[download]?.body.write(this.bytes.subarray(from, to));
  }

  end(download = 0): void {
    this.downloads[download]?.body.end();
  }
}

async function bodyOf(cache: BlobStore, key: string, signal?: AbortSignal): Promise<Readable> {
  const found = await cache.get(key, signal === undefined ? {} : { signal });
  return found?.body as Readable;
}

/** What has come of a body so far. */
function gathered(body: Readable): { readonly size: number; whole(): Buffer } {
  const chunks: Buffer[] = [];
  let size = 0;
  body.on('data', (chunk: Buffer) => {
    size += chunk.length;
    chunks.push(chunk);
  });
  body.on('error', () => {});
  return {
    get size() {
      return size;
    },
    whole: () => Buffer.concat(chunks),
  };
}

/** By time, not by turns: 20,000 of them are 0.1 s, and a busy disk takes longer for one write. */
async function turns(done: () => boolean): Promise<void> {
  const untilMs = performance.now() + 30_000;
  while (!done()) {
    if (performance.now() > untilMs) throw new Error('it does not come');
    await turn();
  }
}

describe.each([
  ['in memory', async (): Promise<CacheOptions> => ({ memory: { maxBytes: 16 * MiB, maxEntryBytes: 4 * MiB } })],
  ['on disk', async (): Promise<CacheOptions> => ({ disk: { dir: await newDir(), maxBytes: 16 * MiB } })],
])('a download that is kept %s', (_, optionsOf) => {
  const caches: CachedStore[] = [];
  async function open(upstream: Upstream, more: CacheOptions = {}): Promise<CachedStore> {
    const cache = await cached(upstream.store, { ...(await optionsOf()), ...more });
    caches.push(cache);
    return cache;
  }
  afterEach(async () => {
    for (const cache of caches.splice(0)) await cache.close?.();
    for (const dir of dirs.splice(0)) await rm(dir, { recursive: true });
  });

  it('is shared by all who ask meanwhile: who comes late gets what he missed, and the rest as it comes', async () => {
    const upstream = new Upstream(3 * MiB);
    const lookups: string[] = [];
    const cache = await open(upstream, { onLookup: (result) => lookups.push(result) });
    const early = await Promise.all([bodyOf(cache, upstream.key), bodyOf(cache, upstream.key)]);
    const seen = early.map(gathered);
    for (let at = 0; at < 2 * MiB; at += 65_536) upstream.send(at, at + 65_536);
    // the last chunk is held back until the digest is right, here and in the layer below
    await turns(() => seen.every(({ size }) => size >= MiB));
    const late = await bodyOf(cache, upstream.key);
    const seenLate = gathered(late);
    await turns(() => seenLate.size >= MiB);
    upstream.send(2 * MiB, 3 * MiB);
    upstream.end();
    await turns(() => [...early, late].every((body) => body.readableEnded));
    for (const so of [...seen, seenLate]) expect(so.whole().equals(upstream.bytes)).toBe(true);
    expect(lookups).toEqual(['miss', 'joined', 'joined']);
    expect(upstream.downloads).toHaveLength(1);
    await cache.close?.();
    expect(upstream.bytes.equals(await readAll(await bodyOf(cache, upstream.key), 1e9))).toBe(true);
    expect(upstream.downloads).toHaveLength(1);
  });

  it('goes at its own pace: a reader that stalls holds nobody up', async () => {
    const upstream = new Upstream(3 * MiB);
    const cache = await open(upstream);
    const [stalled, reads] = await Promise.all([bodyOf(cache, upstream.key), bodyOf(cache, upstream.key)]);
    const seen = gathered(reads);
    upstream.send(0, 3 * MiB);
    upstream.end();
    await turns(() => reads.readableEnded);
    expect(seen.whole().equals(upstream.bytes)).toBe(true);
    expect(upstream.bytes.equals(await readAll(stalled, 1e9))).toBe(true);
  });

  it('goes on while one reads, and ends when the last has left', async () => {
    const upstream = new Upstream(3 * MiB);
    const cache = await open(upstream);
    const [first, second] = await Promise.all([bodyOf(cache, upstream.key), bodyOf(cache, upstream.key)]);
    const seen = gathered(second);
    gathered(first);
    for (const at of [0, MiB]) upstream.send(at, at + MiB);
    await turns(() => seen.size > 0);
    first.destroy();
    await turn();
    expect(upstream.downloads[0]?.body.destroyed).toBe(false);
    second.destroy();
    await turns(() => upstream.downloads[0]?.body.destroyed === true);
    await cache.close?.();
    expect(cache.kept().disk).toEqual({ bytes: 0, blobs: 0 });
    // and it is not there
    const again = bodyOf(cache, upstream.key);
    await turns(() => upstream.downloads.length === 2);
    (await again).destroy();
  });

  it('fails for all when it is cut off or wrong, is not kept, and the next one is whole', async () => {
    for (const spoil of ['cut', 'wrong']) {
      const upstream = new Upstream(3 * MiB);
      const cache = await open(upstream);
      const bodies = await Promise.all([bodyOf(cache, upstream.key), bodyOf(cache, upstream.key)]);
      const failures = bodies.map((body) => readAll(body, 1e9).catch((error: unknown) => error));
      upstream.send(0, 2 * MiB);
      if (spoil === 'wrong') {
        upstream.downloads[0]?.body.write(Buffer.alloc(MiB));
        upstream.end();
      } else {
        upstream.downloads[0]?.body.destroy(new LpsError('STORE_UNAVAILABLE', 'cut'));
      }
      const code = spoil === 'wrong' ? 'BLOB_DAMAGED' : 'STORE_UNAVAILABLE';
      for (const failure of await Promise.all(failures)) expect(failure).toMatchObject({ code });
      const again = bodyOf(cache, upstream.key);
      await turns(() => upstream.downloads.length === 2);
      upstream.send(0, 3 * MiB, 1);
      upstream.end(1);
      expect(upstream.bytes.equals(await readAll(await again, 1e9))).toBe(true);
    }
  });

  it('that is deleted is cut off for all, is not kept, and who waits for its beginning is told', async () => {
    const upstream = new Upstream(3 * MiB);
    const cache = await open(upstream);
    const body = await bodyOf(cache, upstream.key);
    const read = readAll(body, 1e9).catch((error: unknown) => error);
    upstream.send(0, 2 * MiB);
    cache.forget(upstream.key);
    expect(await read).toMatchObject({ code: 'TRY_AGAIN' });
    expect(upstream.downloads[0]?.body.destroyed).toBe(true);

    let go = (): void => {};
    const gate = new Promise<void>((resolve) => {
      go = resolve;
    });
    upstream.answer = async () => {
      await gate;
      return { info: { key: upstream.key, size: upstream.bytes.length }, body: upstream.bytes };
    };
    const waiting = cache.get(upstream.key).catch((error: unknown) => error);
    await turns(() => upstream.downloads.length === 2);
    cache.forget(upstream.key);
    go();
    expect(await waiting).toMatchObject({ code: 'TRY_AGAIN' });
    await cache.close?.();
    expect(cache.kept()).toEqual({ memory: { bytes: 0, blobs: 0 }, disk: { bytes: 0, blobs: 0 } });
  });

  it('is absent for all who ask, and asked for again by the next', async () => {
    const upstream = new Upstream(MiB);
    const cache = await open(upstream);
    upstream.answer = async () => undefined;
    expect(await Promise.all([cache.get(upstream.key), cache.get(upstream.key)])).toEqual([undefined, undefined]);
    expect(upstream.downloads).toHaveLength(1);
    expect(await cache.get(upstream.key)).toBeUndefined();
    expect(upstream.downloads).toHaveLength(2);
  });

  it('is not given up because one of two who wait goes away, but when both do', async () => {
    const upstream = new Upstream(MiB);
    const cache = await open(upstream);
    let go = (_: StoredBlob): void => {};
    upstream.answer = () =>
      new Promise((resolve) => {
        go = resolve;
      });
    const [one, two] = [new AbortController(), new AbortController()];
    const reads = [one, two].map(({ signal }) => cache.get(upstream.key, { signal }).catch((error: unknown) => error));
    await turns(() => upstream.downloads.length === 1);
    one.abort();
    expect(await reads[0]).toMatchObject({ code: 'ABORTED' });
    expect(upstream.downloads[0]?.signal?.aborted).toBe(false);
    two.abort();
    expect(await reads[1]).toMatchObject({ code: 'ABORTED' });
    expect(upstream.downloads[0]?.signal?.aborted).toBe(true);
    // what comes all the same is let go of
    const late = new PassThrough();
    go({ info: { key: upstream.key, size: MiB }, body: late });
    await turns(() => late.destroyed);
    // and who asks next is not given what was broken off
    void cache.get(upstream.key);
    await turns(() => upstream.downloads.length === 2);
    go({ info: { key: upstream.key, size: MiB }, body: upstream.bytes });
  });
});

describe('the disk cache', () => {
  afterEach(async () => {
    for (const dir of dirs.splice(0)) await rm(dir, { recursive: true });
  });

  async function filesOf(dir: string): Promise<{ path: string; size: number }[]> {
    const entries = await readdir(dir, { recursive: true, withFileTypes: true });
    const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
    return Promise.all(files.map(async (path) => ({ path, size: (await stat(path)).size })));
  }

  /** Sizes by file, whatever its name. One that goes meanwhile is left out. */
  async function look(dir: string): Promise<Map<string, number>> {
    const entries = await readdir(dir, { recursive: true, withFileTypes: true }).catch(() => []);
    const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
    const found = await Promise.all(files.map((path) => stat(path, { bigint: true }).catch(() => undefined)));
    // the number of a file that is gone is used again
    return new Map(found.flatMap((one) => (one ? [[`${one.ino} ${one.birthtimeNs}`, Number(one.size)]] : [])));
  }

  async function filled(dir: string, sizes: readonly number[], maxBytes = 64 * MiB) {
    const below = memoryStore();
    const cache = await cached(below, { disk: { dir, maxBytes } });
    const blobs: { key: string; bytes: Buffer }[] = [];
    for (const size of sizes) {
      const bytes = randomBytes(size);
      const key = keyFor('n', digestOf(bytes), null);
      await below.put(key, bytes, { digest: digestOf(bytes), size });
      blobs.push({ key, bytes });
    }
    return { below, cache, blobs };
  }

  async function read(store: BlobStore, key: string): Promise<Buffer> {
    const found = await store.get(key);
    return Buffer.from(found ? await readAll(found.body, 1e9) : []);
  }

  it('never takes more than its bound, whatever is read at the same time', async () => {
    const dir = await newDir();
    const maxBytes = 3 * MiB;
    const sizes = Array.from({ length: 40 }, (_, index) => (index % 7) * 150_000 + 1);
    const { cache, blobs } = await filled(dir, [...sizes, 4 * MiB], maxBytes);
    let most = 0;
    let mostKept = 0;
    let before = await look(dir);
    for (let round = 0; round < 3; round += 1) {
      for (let at = 0; at < blobs.length; at += 5) {
        const some = blobs.slice(at, at + 5);
        const reads = some.map(({ key, bytes }) =>
          read(cache, key).then((got) => expect(got.equals(bytes)).toBe(true)),
        );
        let isDone = false;
        const all = Promise.all(reads).finally(() => {
          isDone = true;
        });
        while (!isDone) {
          mostKept = Math.max(mostKept, cache.kept().disk.bytes);
          // what was seen twice was there between the two looks, all of it at the same time
          const now = await look(dir);
          const both = [...now].map(([file, size]) => Math.min(size, before.get(file) ?? 0));
          before = now;
          most = Math.max(
            most,
            both.reduce((sum, size) => sum + size, 0),
          );
          await turn();
        }
        await all;
      }
    }
    await cache.close?.();
    expect(mostKept).toBeGreaterThan(2 * MiB);
    expect(mostKept).toBeLessThanOrEqual(maxBytes);
    expect(most).toBeLessThanOrEqual(maxBytes);
    const left = await filesOf(dir);
    expect(left.length).toBe(cache.kept().disk.blobs);
    expect(await readdir(join(dir, 'tmp'))).toEqual([]);
  });

  it('keeps nothing that is deleted while it is written, at whatever moment', async () => {
    const dir = await newDir();
    const { cache, blobs } = await filled(dir, [1000]);
    const key = blobs[0]?.key ?? '';
    for (let moment = 0; moment < 60; moment += 1) {
      await read(cache, key);
      for (let count = 0; count < moment; count += 1) await turn();
      cache.forget(key);
      await cache.close?.();
      expect([moment, cache.kept().disk, await filesOf(dir)]).toEqual([moment, { bytes: 0, blobs: 0 }, []]);
    }
  });

  it('brings nothing back into memory that is deleted while it is read from the disk', async () => {
    const dir = await newDir();
    const { below, blobs } = await filled(dir, [100_000]);
    const key = blobs[0]?.key ?? '';
    let fromDisk = 0;
    for (let moment = 0; moment < 40; moment += 1) {
      const writes = await cached(below, { disk: { dir, maxBytes: MiB } });
      await read(writes, key);
      await writes.close?.();
      let downloads = 0;
      const counting: BlobStore = {
        ...below,
        get: (name) => {
          downloads += 1;
          return below.get(name);
        },
      };
      const cache = await cached(counting, { memory: { maxBytes: 4 * MiB }, disk: { dir, maxBytes: MiB } });
      const reading = read(cache, key);
      for (let count = 0; count < moment; count += 1) await turn();
      cache.forget(key);
      await reading;
      // one that was asked for below after it was forgotten is another matter
      if (downloads === 0) {
        fromDisk += 1;
        expect([moment, cache.kept().memory.blobs]).toEqual([moment, 0]);
      }
      await cache.close?.();
    }
    expect(fromDisk).toBeGreaterThan(0);
  });

  it('drops what is wrong, and fetches it again: at once when it is small, for the next reader when it streams', async () => {
    const dir = await newDir();
    const { cache, below, blobs } = await filled(dir, [100_000, 3 * MiB]);
    for (const { key } of blobs) await read(cache, key);
    await cache.close?.();
    const errors: unknown[] = [];
    const again = await cached(below, { disk: { dir, maxBytes: 64 * MiB }, onError: (error) => errors.push(error) });
    for (const { path, size } of await filesOf(dir)) await writeFile(path, Buffer.alloc(size));
    const [small, large] = blobs;
    expect((await read(again, small?.key ?? '')).equals(small?.bytes ?? Buffer.of())).toBe(true);
    await expect(read(again, large?.key ?? '')).rejects.toMatchObject({ code: 'BLOB_DAMAGED' });
    expect((await read(again, large?.key ?? '')).equals(large?.bytes ?? Buffer.of())).toBe(true);
    expect(errors).toHaveLength(2);
    await again.close?.();
  });

  it('checks what comes back from a file that is still being written', async () => {
    const dir = await newDir();
    const upstream = new Upstream(3 * MiB);
    const cache = await cached(upstream.store, { disk: { dir, maxBytes: 64 * MiB } });
    const [reads, late] = await Promise.all([bodyOf(cache, upstream.key), bodyOf(cache, upstream.key)]);
    const seen = gathered(reads);
    for (let at = 0; at < 2 * MiB; at += 65_536) upstream.send(at, at + 65_536);
    await turns(() => seen.size > MiB);
    for (const name of await readdir(join(dir, 'tmp'))) await writeFile(join(dir, 'tmp', name), 'xyz', { flag: 'r+' });
    const read = readAll(late, 1e9).catch((error: unknown) => error);
    upstream.send(2 * MiB, 3 * MiB);
    upstream.end();
    expect(await read).toMatchObject({ code: 'BLOB_DAMAGED' });
    await cache.close?.();
  });

  it('answers a range only from a file that is right as a whole', async () => {
    const dir = await newDir();
    const { cache, below, blobs } = await filled(dir, [100_000, 3 * MiB]);
    for (const { key } of blobs) await read(cache, key);
    await cache.close?.();
    const again = await cached({ ...below, get: async () => undefined }, { disk: { dir, maxBytes: 64 * MiB } });
    const range = { start: 70_000, end: 99_999 };
    for (const { key, bytes } of blobs) {
      const part = await again.get(key, { range });
      expect(part?.info.size).toBe(bytes.length);
      expect(part && Buffer.from(await readAll(part.body, 1e9)).equals(bytes.subarray(70_000, 100_000))).toBe(true);
    }
    for (const { path } of await filesOf(dir)) await writeFile(path, 'x', { flag: 'r+' }); // outside the range
    for (const { key } of blobs) expect(await again.get(key, { range })).toBeUndefined();
    await again.close?.();
  });

  it('takes over what a process left that was killed, and removes what it had not finished', async () => {
    const dir = await newDir();
    const { cache, below, blobs } = await filled(dir, [2 * MiB, 2 * MiB]);
    for (const { key } of blobs) await read(cache, key);
    await cache.close?.();
    await writeFile(join(dir, 'tmp', 'half'), 'bytes');
    await writeFile(join(dir, 'stranger'), 'bytes');
    const gets: string[] = [];
    const counting: BlobStore = {
      ...below,
      get: (key) => {
        gets.push(key);
        return below.get(key);
      },
    };
    const again = await cached(counting, { disk: { dir, maxBytes: 64 * MiB } });
    expect(await readdir(join(dir, 'tmp'))).toEqual([]);
    for (const { key, bytes } of blobs) expect((await read(again, key)).equals(bytes)).toBe(true);
    expect(gets).toEqual([]);
    again.clear();
    await again.close?.();
    expect((await filesOf(dir)).map(({ path }) => path)).toEqual([join(dir, 'stranger')]);
  });

  it('that fails is left alone for a while, and reads go on', async () => {
    const dir = await newDir();
    const errors: unknown[] = [];
    const { below, blobs } = await filled(dir, [2 * MiB, 1000]);
    const cache = await cached(below, { disk: { dir, maxBytes: 64 * MiB }, onError: (error) => errors.push(error) });
    await rm(join(dir, 'tmp'), { recursive: true });
    const readAgain = async (): Promise<void> => {
      for (const { key, bytes } of blobs) expect((await read(cache, key)).equals(bytes)).toBe(true);
    };
    await readAgain();
    await cache.close?.();
    const told = errors.length;
    expect(told).toBeGreaterThan(0);
    await readAgain();
    await cache.close?.();
    expect(errors).toHaveLength(told);
    expect(cache.kept().disk).toEqual({ bytes: 0, blobs: 0 });
  });
});
