import nodeFs, { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, describe, expect, it } from 'vitest';
import { readAll } from '../body.js';
import { testBlobStore } from '../conformance.js';
import { digestOf } from '../digest.js';
import { keyFor } from '../key.js';
import { type FileSystem, openFileStore } from './file.js';
import { pathOf } from './file-path.js';

testBlobStore(
  'file',
  async () => {
    const dir = await mkdtemp(join(tmpdir(), 'lps-file-'));
    return {
      store: await openFileStore({ dir }),
      close: () => rm(dir, { recursive: true }),
      leftovers: () => readdir(join(dir, 'tmp')),
    };
  },
  { runner: { describe, it } },
);

const bytes = Buffer.from('some bytes');
const expected = { digest: digestOf(bytes), size: bytes.length };
const key = keyFor('n', expected.digest, null);

describe('the file store', () => {
  const dirs: string[] = [];
  async function newDir(): Promise<string> {
    const dir = await mkdtemp(join(tmpdir(), 'lps-file-'));
    dirs.push(dir);
    return dir;
  }
  afterEach(async () => {
    for (const dir of dirs.splice(0)) await rm(dir, { recursive: true });
  });

  it('breaks a read off when a bit was flipped on disk, and is healed by an overwrite', async () => {
    const dir = await newDir();
    const store = await openFileStore({ dir });
    const big = Buffer.alloc(900_000, 7);
    const blob = { digest: digestOf(big), size: big.length };
    const bigKey = keyFor('n', blob.digest, null);
    for (const [name, content, expect_] of [
      [key, bytes, expected],
      [bigKey, big, blob],
    ] as const) {
      await store.put(name, content, expect_);
      const { directories, file } = pathOf(name);
      const path = join(dir, ...directories, file);
      const flipped = await readFile(path);
      flipped[0] = (flipped[0] ?? 0) ^ 1;
      await writeFile(path, flipped);
      await expect(store.get(name).then((found) => found && readAll(found.body, 1e6))).rejects.toMatchObject({
        code: 'BLOB_DAMAGED',
      });
      await store.put(name, content, expect_, { overwrite: true });
      expect(await store.get(name).then((found) => found && readAll(found.body, 1e6))).toEqual(content);
    }
  });

  it('is ready while there is room and it may write', async () => {
    const dir = await newDir();
    let blocks = 1e6;
    const statfs = (async () => ({ bavail: blocks, bsize: 4096 })) as unknown as typeof nodeFs.statfs;
    const store = await openFileStore({ dir, fs: { ...nodeFs, statfs } });
    await store.ready?.();
    blocks = 3;
    await expect(store.ready?.()).rejects.toMatchObject({ code: 'STORE_FULL' });
    blocks = 1e6;
    await rm(join(dir, 'tmp'), { recursive: true });
    await expect(store.ready?.()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect(await readdir(dir)).toEqual([]);
  });

  it('removes old temporary files and leaves young ones', async () => {
    const dir = await newDir();
    const store = await openFileStore({ dir });
    await writeFile(join(dir, 'tmp', '1-old'), 'x');
    await utimes(join(dir, 'tmp', '1-old'), 1000, 1000);
    await writeFile(join(dir, 'tmp', '1-young'), 'x');
    expect(await store.janitor({ olderThanMs: 60_000 })).toBe(1);
    expect(await readdir(join(dir, 'tmp'))).toEqual(['1-young']);
    expect(await store.janitor({ olderThanMs: 0, nowMs: Date.now() + 1000 })).toBe(1);
  });

  it('does not list files that it did not write', async () => {
    const dir = await newDir();
    const store = await openFileStore({ dir });
    await store.put(key, bytes, expected);
    const { directories, file } = pathOf(key);
    await writeFile(join(dir, ...directories, `${file}.bak`), 'x');
    await writeFile(join(dir, ...directories, file.toUpperCase()), 'x');
    const listed: string[] = [];
    for await (const info of store.list('/blobs/')) listed.push(info.key);
    expect(listed).toEqual([key]);
  });

  it.each([
    ['ENOSPC', 'STORE_FULL'],
    ['EDQUOT', 'STORE_FULL'],
    ['EROFS', 'STORE_REFUSED'],
    ['EACCES', 'STORE_REFUSED'],
    ['EIO', 'STORE_UNAVAILABLE'],
  ])('answers %s with %s wherever it strikes in a put, keeps nothing, and works afterwards', async (errno, code) => {
    for (let nth = 1; ; nth += 1) {
      const dir = await newDir();
      const fault = { calls: 0, nth: Number.POSITIVE_INFINITY };
      const store = await openFileStore({ dir, fs: failingFs(fault, errno) });
      fault.calls = 0;
      fault.nth = nth;
      const put = store.put(key, Readable.from([bytes]), expected);
      const failed = await put.then(
        () => false,
        (error) => {
          expect(error).toMatchObject({ code });
          return true;
        },
      );
      fault.nth = Number.POSITIVE_INFINITY;
      if (!failed) {
        expect(nth).toBeGreaterThan(8); // it went through all calls of a put
        return;
      }
      // the sync of a directory may fail after the rename: then the right bytes are there, unacknowledged
      const found = await store.get(key);
      if (found !== undefined) expect(await readAll(found.body, 100)).toEqual(bytes);
      await store.put(key, bytes, expected);
      expect(await store.get(key).then((again) => again && readAll(again.body, 100))).toEqual(bytes);
    }
  });

  it('writes the rest after a short write', async () => {
    const dir = await newDir();
    const store = await openFileStore({ dir, fs: shortWritingFs() });
    await store.put(key, Readable.from([bytes.subarray(0, 4), bytes.subarray(4)]), expected);
    expect(await readFile(join(dir, ...pathOf(key).directories, pathOf(key).file))).toEqual(bytes);
  });
});

/** Counts every call, also of file handles, and fails the nth one. Reads of state (`stat`, `close`, `unlink`) are spared. */
function failingFs(fault: { calls: number; nth: number }, errno: string): FileSystem {
  const strike = (): void => {
    fault.calls += 1;
    if (fault.calls === fault.nth) throw Object.assign(new Error(errno), { code: errno });
  };
  return {
    ...nodeFs,
    mkdir: (async (...args: Parameters<typeof nodeFs.mkdir>) => {
      strike();
      return nodeFs.mkdir(...args);
    }) as typeof nodeFs.mkdir,
    rename: async (...args) => {
      strike();
      return nodeFs.rename(...args);
    },
    open: async (...args) => {
      strike();
      const handle = await nodeFs.open(...args);
      return new Proxy(handle, {
        get(target, property) {
          const value: unknown = Reflect.get(target, property);
          if (typeof value !== 'function') return value;
          return (...callArgs: unknown[]) => {
            if (property === 'sync' || property === 'writev' || property === 'write') strike();
            return value.apply(target, callArgs);
          };
        },
      });
    },
  };
}

function shortWritingFs(): FileSystem {
  return {
    ...nodeFs,
    open: async (...args) => {
      const handle = await nodeFs.open(...args);
      return new Proxy(handle, {
        get(target, property) {
          if (property === 'writev')
            return ([first]: Uint8Array[]) => target.writev(first ? [first.subarray(0, 1)] : []);
          const value: unknown = Reflect.get(target, property);
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
    },
  };
}
