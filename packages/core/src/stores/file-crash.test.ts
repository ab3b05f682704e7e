/**
 * What a power cut leaves behind: the calls of one put are recorded, and every state that they may have left on the disk
 * is built. What was acknowledged must be there and right in all of them.
 *
 * The model: a file's bytes are durable after its own sync; a directory's entries (a new file, a rename, a new directory)
 * after a sync of that directory. What was not synced may be there or not, each on its own, and in a file any part of it.
 */
import nodeFs, { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digestOf } from '../digest.js';
import { keyFor } from '../key.js';
import { type FileSystem, openFileStore } from './file.js';
import { pathOf } from './file-path.js';

type Call =
  | { op: 'mkdir'; path: string }
  | { op: 'create'; path: string }
  | { op: 'write'; path: string; bytes: Buffer }
  | { op: 'sync'; path: string }
  | { op: 'rename'; from: string; to: string };

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lps-crash-'));
});
afterEach(() => rm(dir, { recursive: true }));

/** The real file system, which writes down what it does; `skipSync` leaves the nth sync out. */
function recordingFs(calls: Call[], skipSync?: number): FileSystem {
  let syncs = 0;
  const name = (path: unknown): string => relative(dir, String(path)) || '.';
  return {
    ...nodeFs,
    mkdir: (async (path: string, options?: { recursive?: boolean }) => {
      const made = await nodeFs.mkdir(path, options);
      if (made !== undefined) calls.push({ op: 'mkdir', path: name(path) });
      return made;
    }) as typeof nodeFs.mkdir,
    rename: async (from, to) => {
      await nodeFs.rename(from, to);
      calls.push({ op: 'rename', from: name(from), to: name(to) });
    },
    open: async (path, flags, mode) => {
      const handle = await nodeFs.open(path, flags, mode);
      if (flags === 'wx') calls.push({ op: 'create', path: name(path) });
      return new Proxy(handle, {
        get(target, property) {
          if (property === 'sync') {
            return async () => {
              syncs += 1;
              if (syncs !== skipSync) calls.push({ op: 'sync', path: name(path) });
            };
          }
          if (property === 'writev') {
            return async (chunks: Uint8Array[]) => {
              calls.push({ op: 'write', path: name(path), bytes: Buffer.concat(chunks) });
              return target.writev(chunks);
            };
          }
          const value: unknown = Reflect.get(target, property);
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
    },
  };
}

const parentOf = (path: string): string => (path.includes('/') ? path.slice(0, path.lastIndexOf('/')) : '.');

/** Every state of the disk after the calls: the path of each file there, with its bytes or `undefined` for torn ones. */
function* statesAfter(calls: readonly Call[]): Generator<Map<string, Buffer | undefined>> {
  // an entry's change is certain once its directory was synced after it
  const isSynced = (at: number, directory: string): boolean =>
    calls.slice(at + 1).some((call) => call.op === 'sync' && call.path === directory);
  const uncertain = calls.flatMap((call, at) => {
    if (call.op === 'mkdir' || call.op === 'create') return isSynced(at, parentOf(call.path)) ? [] : [at];
    if (call.op === 'rename') return isSynced(at, parentOf(call.to)) ? [] : [at];
    return [];
  });
  for (let choice = 0; choice < 2 ** uncertain.length; choice += 1) {
    const lost = new Set(uncertain.filter((_, index) => (choice >> index) & 1));
    yield replay(calls, lost);
  }
}

function replay(calls: readonly Call[], lost: ReadonlySet<number>): Map<string, Buffer | undefined> {
  const directories = new Set(['.', 'tmp']);
  const files = new Map<string, Buffer | undefined>();
  const contents = new Map<string, Buffer>();
  const durable = new Map<string, Buffer>();
  calls.forEach((call, at) => {
    if (call.op === 'mkdir' && !lost.has(at)) directories.add(call.path);
    if (call.op === 'create') contents.set(call.path, Buffer.alloc(0));
    if (call.op === 'write')
      contents.set(call.path, Buffer.concat([contents.get(call.path) ?? Buffer.alloc(0), call.bytes]));
    const written = call.op === 'sync' ? contents.get(call.path) : undefined;
    if (call.op === 'sync' && written !== undefined) durable.set(call.path, written);
    if (call.op === 'rename' && !lost.has(at)) {
      // bytes that were never synced may be anything by now
      const isWhole = durable.get(call.from)?.equals(contents.get(call.from) ?? Buffer.alloc(0));
      files.set(call.to, isWhole ? durable.get(call.from) : undefined);
    }
  });
  const isReachable = (path: string): boolean => path === '.' || (directories.has(path) && isReachable(parentOf(path)));
  return new Map([...files].filter(([path]) => isReachable(parentOf(path))));
}

const bytes = Buffer.from('bytes of a payload, in two chunks');
const expected = { digest: digestOf(bytes), size: bytes.length };
const key = keyFor('crash', expected.digest, null);
const target = [...pathOf(key).directories, pathOf(key).file].join('/');

async function putCalls(skipSync?: number): Promise<Call[]> {
  const calls: Call[] = [];
  const store = await openFileStore({ dir, fs: recordingFs(calls, skipSync) });
  await store.put(key, Readable.from([bytes.subarray(0, 9), bytes.subarray(9)]), expected);
  return calls;
}

describe('a power cut', () => {
  it('after the acknowledgement leaves the blob there and right, in every state of the disk', async () => {
    let states = 0;
    for (const files of statesAfter(await putCalls())) {
      states += 1;
      expect(files.get(target)).toEqual(bytes);
    }
    expect(states).toBeGreaterThan(0);
  });

  it('before it leaves the blob right or absent', async () => {
    const calls = await putCalls();
    for (let cut = 0; cut < calls.length; cut += 1) {
      for (const files of statesAfter(calls.slice(0, cut))) {
        if (files.has(target)) expect(files.get(target)).toEqual(bytes);
      }
    }
  });

  it('would lose or tear it without any one of the syncs', async () => {
    const syncs = (await putCalls()).filter(({ op }) => op === 'sync');
    // the file; tmp’s own entry does not matter; each new directory’s parent; the last directory
    expect(syncs.length).toBeGreaterThanOrEqual(6);
    for (let skip = 1; skip <= syncs.length; skip += 1) {
      await rm(dir, { recursive: true });
      await nodeFs.mkdir(dir);
      const isSafe = [...statesAfter(await putCalls(skip))].every((files) => files.get(target)?.equals(bytes) === true);
      expect({ sync: syncs[skip - 1], isSafe }).toEqual({ sync: syncs[skip - 1], isSafe: skip === 1 });
    }
  });
});
