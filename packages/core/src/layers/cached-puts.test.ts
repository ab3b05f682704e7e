import { randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, describe, expect, it } from 'vitest';
import type { BlobStore } from '../blob-store.js';
import { readAll } from '../body.js';
import { testBlobStore } from '../conformance.js';
import { digestOf } from '../digest.js';
import { LpsError } from '../errors.js';
import { keyFor } from '../key.js';
import { memoryStore } from '../stores/memory.js';
import { type CachedStore, type CacheOptions, cached } from './cached.js';
import { checked } from './checked.js';
import { TeedUpload } from './teed-upload.js';

const MiB = 1024 * 1024;
const dirs: string[] = [];
async function newDir(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'lps-cache-'));
  dirs.push(dir);
  return dir;
}
async function removeDirs(): Promise<void> {
  for (const dir of dirs.splice(0)) await rm(dir, { recursive: true });
}

testBlobStore(
  'cached(memory) that keeps what is put',
  async () => {
    const disk = { dir: await newDir(), maxBytes: 20 * MiB };
    const store = await cached(memoryStore(), { memory: { maxBytes: 3 * MiB }, disk, keepsPuts: true });
    return {
      store,
      close: async () => {
        await store.close?.();
        await removeDirs();
      },
    };
  },
  { runner: { describe, it } },
);

function blobOf(size: number) {
  const bytes = randomBytes(size);
  const digest = digestOf(bytes);
  const parts = (): Readable =>
    Readable.from(
      (function* () {
        for (let at = 0; at < size; at += 50_000) yield bytes.subarray(at, at + 50_000);
      })(),
    );
  return { bytes, digest, key: keyFor('orders', digest, null), expect: { digest, size }, parts };
}

async function digestAt(store: BlobStore, key: string): Promise<string | undefined> {
  const found = await store.get(key);
  return found && digestOf(await readAll(found.body, 1e9));
}

describe('a put that is kept', () => {
  afterEach(async () => {
    await cache.close?.();
    await removeDirs();
  });
  let gets: string[];
  let lower: BlobStore;
  let cache: CachedStore;
  let dir: string;
  async function open(options: Partial<CacheOptions> = {}, put?: BlobStore['put']): Promise<void> {
    const inner = memoryStore();
    gets = [];
    dir = await newDir();
    lower = checked({
      ...inner,
      put: put ?? inner.put,
      get: async (key, getOptions) => {
        gets.push(key);
        return inner.get(key, getOptions);
      },
    });
    const disk = { dir, maxBytes: 8 * MiB };
    cache = await cached(lower, { memory: { maxBytes: MiB }, disk, keepsPuts: true, ...options });
  }
  const read = (key: string): Promise<string | undefined> => digestAt(cache, key);
  const files = async (): Promise<string[]> =>
    (await readdir(dir, { recursive: true, withFileTypes: true }))
      .filter((one) => one.isFile())
      .map(({ name }) => name);

  it('is read without a question: bytes, a stream, and one that is too large for the memory', async () => {
    await open();
    const [bytes, stream, large] = [blobOf(1000), blobOf(60_000), blobOf(3 * MiB)];
    await cache.put(bytes.key, bytes.bytes, bytes.expect);
    await cache.put(stream.key, stream.parts(), stream.expect);
    expect(cache.kept().memory.blobs).toBe(2);
    await cache.put(large.key, large.parts(), large.expect);
    await cache.close?.(); // the file gets its name behind the answer
    expect((await files()).length).toBe(3);
    for (const { key, digest } of [bytes, stream, large]) expect(await read(key)).toBe(digest);
    expect(gets).toEqual([]);
  });

  it('is not kept when it fails, when it met another one, or when it was wrong', async () => {
    const error = new LpsError('STORE_UNAVAILABLE', 'no');
    for (const size of [60_000, 3 * MiB]) {
      const blob = blobOf(size);
      await open({}, async (_key, body) => {
        await readAll(body, 1e9);
        throw error;
      });
      await expect(cache.put(blob.key, blob.parts(), blob.expect)).rejects.toThrow(error);
      await open({}, async (_key, body) => {
        await readAll(body, 1e9);
        return { outcome: 'exists' };
      });
      await cache.put(blob.key, blob.parts(), blob.expect);
      await cache.close?.();
      expect([await files(), cache.kept().memory.blobs]).toEqual([[], 0]);
      await open();
      await expect(cache.put(blob.key, blobOf(size).parts(), blob.expect)).rejects.toMatchObject({
        code: 'DIGEST_MISMATCH',
      });
      await cache.close?.();
      expect([await files(), cache.kept().memory.blobs, await cache.get(blob.key)]).toEqual([[], 0, undefined]);
    }
  });

  it('is not kept when it is forgotten before it is acknowledged', async () => {
    for (const size of [1000, 60_000, 3 * MiB]) {
      for (const forget of [(key: string) => cache.forget(key), () => cache.clear()]) {
        const blob = blobOf(size);
        await open({}, async (key, body) => {
          await readAll(body, 1e9);
          forget(key);
          return { outcome: 'created' };
        });
        await cache.put(blob.key, size === 1000 ? blob.bytes : blob.parts(), blob.expect);
        await cache.close?.();
        expect([await files(), cache.kept()]).toEqual([[], { memory: none, disk: none }]);
      }
    }
  });
  const none = { bytes: 0, blobs: 0 };

  it('takes no more room than there is', async () => {
    await open({ memory: { maxBytes: 0 } });
    const blobs = [1, 2, 3, 4].map(() => blobOf(3 * MiB));
    await Promise.all(blobs.map(({ key, parts, expect }) => cache.put(key, parts(), expect)));
    for (const { key, digest } of blobs) expect(await read(key)).toBe(digest);
    expect(cache.kept().disk.bytes).toBeLessThanOrEqual(8 * MiB);
  });

  it('passes on, whole, when the copy fails in the middle of it', async () => {
    const { bytes, parts } = blobOf(500_000);
    let calls = 0;
    const teed = new TeedUpload(parts(), {
      async write() {
        calls += 1;
        if (calls === 3) throw new Error('the disk is full');
      },
    });
    expect(digestOf(await readAll(teed.body, 1e9))).toBe(digestOf(bytes));
    expect([await teed.copied(), calls]).toEqual([undefined, 3]);
  });
});

describe('what may not be kept', () => {
  afterEach(removeDirs);
  it('is served, to all who ask', async () => {
    const inner = memoryStore();
    const blob = blobOf(200_000);
    await inner.put(blob.key, blob.bytes, blob.expect);
    const streamed = checked({
      ...inner,
      get: async (key) => ({ info: { key, size: 200_000 }, body: blob.parts() }),
    });
    const cache = await cached(streamed, { memory: { maxBytes: 8 * MiB }, mayKeep: () => false });
    const digests = await Promise.all([1, 2, 3].map(() => digestAt(cache, blob.key)));
    expect(digests).toEqual(Array(3).fill(blob.digest));
    expect(cache.kept().memory.blobs).toBe(0);
  });

  it('tells of each blob that is served, and of each that made room', async () => {
    const told: string[] = [];
    const dir = await newDir();
    const inner = memoryStore();
    const cache = await cached(inner, {
      memory: { maxBytes: MiB, maxEntryBytes: MiB },
      disk: { dir, maxBytes: 2 * MiB },
      onServe: (result, { size }) => told.push(`${result} ${size}`),
      onEvict: (place) => told.push(`out of ${place}`),
    });
    const blobs = [600_000, 600_001, 600_002, 600_003].map(blobOf);
    for (const { key, bytes, expect } of blobs) await inner.put(key, bytes, expect);
    for (const { key } of blobs) {
      await digestAt(cache, key);
      await cache.close?.(); // the copy is on the disk
    }
    cache.clear();
    expect(told).toEqual(['miss 600000', 'miss 600001', 'miss 600002', 'out of disk', 'miss 600003']);
  });
});
