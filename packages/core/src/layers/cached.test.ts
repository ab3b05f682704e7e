import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, describe, expect, it } from 'vitest';
import type { BlobStore } from '../blob-store.js';
import { discard, readAll } from '../body.js';
import { testBlobStore } from '../conformance.js';
import { digestOf } from '../digest.js';
import { keyFor } from '../key.js';
import { openFileStore } from '../stores/file.js';
import { pathOf } from '../stores/file-path.js';
import { memoryStore } from '../stores/memory.js';
import { cached } from './cached.js';
import { checked } from './checked.js';

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
  'cached(memory), in memory and on disk',
  async () => {
    const store = await cached(memoryStore(), {
      memory: { maxBytes: 3 * MiB },
      disk: { dir: await newDir(), maxBytes: 20 * MiB },
    });
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

/** A store whose gets are counted, and served as streams as a bucket would. */
function countingStore(): { store: BlobStore; gets: string[] } {
  const inner = memoryStore();
  const gets: string[] = [];
  const store = checked({
    ...inner,
    async get(key, options) {
      gets.push(key);
      const found = await inner.get(key, options);
      if (found === undefined) return undefined;
      const bytes = await readAll(found.body, 1e9);
      const half = Math.ceil(bytes.length / 2);
      return { info: found.info, body: Readable.from([bytes.subarray(0, half), bytes.subarray(half)]) };
    },
  });
  return { store, gets };
}

async function put(store: BlobStore, size: number): Promise<{ key: string; bytes: Buffer }> {
  const bytes = randomBytes(size);
  const digest = digestOf(bytes);
  const key = keyFor('n', digest, null);
  await store.put(key, bytes, { digest, size });
  return { key, bytes };
}

async function read(store: BlobStore, key: string): Promise<Uint8Array | undefined> {
  const found = await store.get(key);
  return found && readAll(found.body, 1e9);
}

describe('cached', () => {
  afterEach(removeDirs);

  it('answers the second read from memory, and ranges of it', async () => {
    const { store, gets } = countingStore();
    const lookups: string[] = [];
    const cache = await cached(store, { memory: { maxBytes: MiB }, onLookup: (result) => lookups.push(result) });
    const { key, bytes } = await put(cache, 1000);
    expect(await read(cache, key)).toEqual(bytes);
    expect(await read(cache, key)).toEqual(bytes);
    const part = await cache.get(key, { range: { start: 10, end: 19 } });
    expect(part && (await readAll(part.body, 100))).toEqual(bytes.subarray(10, 20));
    expect(gets).toEqual([key]);
    expect(lookups).toEqual(['miss', 'memory']);
  });

  it('stays within its bound, least recently used out first, and leaves large blobs to the store', async () => {
    const { store, gets } = countingStore();
    const cache = await cached(store, { memory: { maxBytes: 10_000, maxEntryBytes: 5000 } });
    const blobs = [await put(cache, 4000), await put(cache, 4000), await put(cache, 4000), await put(cache, 7000)];
    const [a, b, c, large] = blobs.map(({ key }) => key) as [string, string, string, string];
    // the second read of c is worth an eviction: of b, since a was used later
    for (const key of [a, b, a, c, c, a, large, large]) await read(cache, key);
    expect(gets).toEqual([a, b, c, c, large, large]);
    for (const key of [c, a]) await read(cache, key);
    expect(gets).toHaveLength(6);
    await read(cache, b);
    expect(gets.at(-1)).toBe(b);
  });

  it('keeps what it has through a scan of more than it can hold', async () => {
    const { store, gets } = countingStore();
    const cache = await cached(store, { memory: { maxBytes: 100_000 } });
    const blobs: string[] = [];
    for (let index = 0; index < 60; index += 1) blobs.push((await put(cache, 5000)).key);
    for (let pass = 0; pass < 2; pass += 1) for (const key of blobs) await read(cache, key);
    // 18 of them fit, and are read from memory the second time
    expect(gets).toHaveLength(60 + 42);
  });

  it('is bounded for empty blobs, too', async () => {
    const { store, gets } = countingStore();
    const cache = await cached(store, { memory: { maxBytes: 16 * 1024 } });
    const empty = Buffer.alloc(0);
    const keys = Array.from({ length: 100 }, (_, index) => keyFor(`n${index}`, digestOf(empty), null));
    for (const key of keys) await cache.put(key, empty, { digest: digestOf(empty), size: 0 });
    for (let pass = 0; pass < 2; pass += 1) for (const key of keys) await read(cache, key);
    expect(gets).toHaveLength(100 + 68);
  });

  it('keeps nothing of a read that broke off or was let go', async () => {
    const { store, gets } = countingStore();
    const cache = await cached(store, { memory: { maxBytes: MiB } });
    const { key, bytes } = await put(cache, 1000);
    const found = await cache.get(key);
    if (found) discard(found.body);
    expect(await read(cache, key)).toEqual(bytes);
    expect(gets).toEqual([key, key]);
  });

  it('forgets what is deleted', async () => {
    const cache = await cached(memoryStore(), { memory: { maxBytes: MiB } });
    const { key } = await put(cache, 1000);
    await read(cache, key);
    await cache.delete(key);
    expect(await read(cache, key)).toBeUndefined();
  });

  it('serves from disk what no longer fits memory, also after a restart, within its bound', async () => {
    const { store, gets } = countingStore();
    const dir = await newDir();
    const open = async () => cached(store, { memory: { maxBytes: 10 }, disk: { dir, maxBytes: 250_000 } });
    const cache = await open();
    const blobs = [await put(cache, 100_000), await put(cache, 100_000), await put(cache, 100_000)];
    for (const { key, bytes } of blobs) expect(await read(cache, key)).toEqual(bytes);
    await cache.close?.(); // the writes behind the reads are done then
    const kept: string[] = [];
    for await (const { key } of (await openFileStore({ dir })).list('')) kept.push(key);
    expect(kept).toHaveLength(2);
    const again = await open();
    for (const key of kept) expect(await read(again, key)).toEqual(blobs.find((blob) => blob.key === key)?.bytes);
    expect(gets).toHaveLength(3);
    for (const { key } of blobs) await read(again, key);
    expect(gets.length).toBeGreaterThan(3);
    await again.close?.();
  });

  it('goes to the store when its disk copy was damaged', async () => {
    const { store } = countingStore();
    const dir = await newDir();
    const cache = await cached(store, { disk: { dir, maxBytes: MiB } });
    const { key, bytes } = await put(cache, 1000);
    await read(cache, key);
    await cache.close?.();
    const path = join(dir, ...pathOf(key).directories, pathOf(key).file);
    expect(await readFile(path)).toEqual(bytes);
    await writeFile(path, Buffer.from(bytes).fill(0, 0, 1));
    expect(await read(cache, key)).toEqual(bytes);
  });
});
