/**
 * What the store allows and does, by doing it, with two small objects that are removed at the end:
 *
 *   .lps/doctor/{16 random letters}-put         put, put again, get, range, head, list, delete
 *   .lps/doctor/{16 random letters}-checksum    S3: a put whose bytes change on the way
 */
import { randomBytes } from 'node:crypto';
import {
  type BlobStore,
  type CallOptions,
  digestOf,
  discard,
  type Expected,
  isLpsError,
  newGeneration,
  readAll,
} from '@large-payload/core';
import { type FailingId, type Finding, fail, info, ok, warn } from './finding.js';
import { rightsFor, storeFailure } from './store-failure.js';
import { messageOf } from './words.js';

interface Sample {
  readonly name: string;
  readonly bytes: Buffer;
  readonly expect: Expected;
}

const sampleBytes = 1000;
const range = { start: 100, end: 199 };

/** Throws nothing; what is left behind is said. */
export async function probeStore(store: BlobStore, call: CallOptions): Promise<Finding[]> {
  const root = `.lps/doctor/${newGeneration()}`;
  const sample = newSample(`${root}-put`);
  const findings: Finding[] = [];
  const made: string[] = [];
  try {
    findings.push(...(await putTwice(store, sample, made, call)));
    if (findings.some(({ id, severity }) => id === 'store.put' && severity === 'fail')) return findings;
    const steps: [FailingId, () => Promise<Finding>][] = [
      ['store.get', () => get(store, sample, call)],
      ['store.range', () => getRange(store, sample, call)],
      ['store.head', () => head(store, sample, call)],
      ['store.list', () => list(store, sample, call)],
      ['store.checksum', () => checksum(store, newSample(`${root}-checksum`), made, call)],
    ];
    for (const [id, step] of steps) findings.push(await attempt(store, id, step));
  } finally {
    const isPut = findings.some(({ id, severity }) => id === 'store.get' || (id === 'store.put' && severity === 'ok'));
    findings.push(...(await remove(store, made, isPut)));
  }
  return findings;
}

function newSample(name: string): Sample {
  const bytes = randomBytes(sampleBytes);
  return { name, bytes, expect: { digest: digestOf(bytes), size: bytes.length } };
}

async function attempt(store: BlobStore, id: FailingId, step: () => Promise<Finding>): Promise<Finding> {
  try {
    return await step();
  } catch (error) {
    return storeFailure(id, store.name, error);
  }
}

/** A put, and another one at the same name that must leave the first alone. */
async function putTwice(store: BlobStore, sample: Sample, made: string[], call: CallOptions): Promise<Finding[]> {
  const { name, bytes, expect } = sample;
  made.push(name); // also when the answer is lost
  try {
    await store.put(name, bytes, expect, call);
  } catch (error) {
    return (await isOnlyTheCondition(store, sample, call))
      ? [unconditional(error)]
      : [storeFailure('store.put', store.name, error)];
  }
  const second = await attempt(store, 'store.conditional-put', async () => {
    const other = newSample(name);
    const { outcome } = await store.put(name, other.bytes, other.expect, call);
    if (outcome === 'exists') return ok('store.conditional-put', 'a second put is refused');
    await store.put(name, bytes, expect, { ...call, overwrite: true });
    return unconditional();
  });
  return [ok('store.put', 'put'), second];
}

/** Whether the same put goes through when nothing forbids it to overwrite. */
async function isOnlyTheCondition(store: BlobStore, sample: Sample, call: CallOptions): Promise<boolean> {
  try {
    await store.put(sample.name, sample.bytes, sample.expect, { ...call, overwrite: true });
    return true;
  } catch {
    return false;
  }
}

function unconditional(error?: unknown): Finding {
  const seen =
    error === undefined
      ? 'the server ignores If-None-Match: a second put replaced what was there'
      : `the server refuses puts with If-None-Match: ${messageOf(error)}`;
  const todo =
    'set --s3-conditional-put head, and start only one service at a time on a new bucket; or use a newer server';
  return fail('store.conditional-put', seen, todo);
}

async function get(store: BlobStore, { name, bytes }: Sample, call: CallOptions): Promise<Finding> {
  const found = await store.get(name, call);
  if (found === undefined) return notThere('store.get');
  const read = await readAll(found.body, 2 * sampleBytes);
  return bytes.equals(read) ? ok('store.get', 'get') : wrongBytes('store.get', 'get');
}

async function getRange(store: BlobStore, { name, bytes }: Sample, call: CallOptions): Promise<Finding> {
  const found = await store.get(name, { ...call, range });
  if (found === undefined) return notThere('store.range');
  const read = await readAll(found.body, 2 * sampleBytes);
  const isRight = bytes.subarray(range.start, range.end + 1).equals(read);
  return isRight ? ok('store.range', 'range') : wrongBytes('store.range', 'get of a range');
}

async function head(store: BlobStore, { name, bytes }: Sample, call: CallOptions): Promise<Finding> {
  const found = await store.head(name, call);
  if (found === undefined) return notThere('store.head');
  if (found.size === bytes.length) return ok('store.head', 'head');
  const seen = `head says ${found.size} bytes of an object of ${bytes.length}`;
  return fail('store.head', seen, 'look for a proxy between here and the store that changes answers');
}

async function list(store: BlobStore, { name }: Sample, call: CallOptions): Promise<Finding> {
  for await (const { key } of store.list(name, call)) if (key === name) return ok('store.list', 'list');
  const seen = 'an object that has just been stored is not in the list';
  return fail(
    'store.list',
    seen,
    'use a server whose lists are consistent: the collection and lost catalogs depend on them',
  );
}

/**
 * Whether S3 itself refuses bytes that are not the announced ones. They change after our own check and before they are
 * sent, as they would in a bad memory or a bad proxy: `put` hashes and hands on at once, and sends at a later tick.
 */
async function checksum(store: BlobStore, sample: Sample, made: string[], call: CallOptions): Promise<Finding> {
  const { name, expect } = sample;
  const relied: Record<string, string> = {
    gcs: 'wrong bytes are refused by the MD5 of each upload (not tried)',
    azure: 'blocks are committed once their digest is right (not tried)',
  };
  if (store.name !== 's3')
    return ok('store.checksum', relied[store.name] ?? 'wrong bytes are refused by the service itself');
  const bytes = Buffer.from(sample.bytes);
  made.push(name);
  const putting = store.put(name, bytes, expect, { ...call, overwrite: true });
  bytes[0] = (bytes[0] ?? 0) ^ 1;
  try {
    await putting;
  } catch (error) {
    if (isLpsError(error, 'DIGEST_MISMATCH')) return ok('store.checksum', 'wrong bytes are refused');
    throw error;
  }
  const found = await store.get(name, call);
  const read = found === undefined ? undefined : await readAll(found.body, 2 * sampleBytes);
  if (read === undefined || sample.bytes.equals(read))
    return info('store.checksum', 'it could not be tried whether wrong bytes are refused');
  const seen =
    'the server takes bytes that are not the announced ones: what a network or a memory spoils is found by reads and scrubs only';
  return warn(
    'store.checksum',
    seen,
    'leave --s3-checksums on, or use a server that checks x-amz-content-sha256 or x-amz-checksum-sha256',
  );
}

/** Removes what was made, also when the checks were broken off; the time for that is its own. */
async function remove(store: BlobStore, names: readonly string[], isPut: boolean): Promise<Finding[]> {
  let problem: unknown;
  let left: string | undefined;
  for (const name of names) {
    try {
      const call = { signal: AbortSignal.timeout(10_000) };
      await store.delete(name, call);
      const found = await store.get(name, call);
      if (found === undefined) continue;
      discard(found.body);
      problem = new Error('it is still there after it was deleted');
    } catch (error) {
      problem = error;
    }
    left = name;
  }
  if (!isPut) return []; // nothing should be there, and the put has told why
  if (left === undefined) return [ok('store.delete', 'delete')];
  const failure = storeFailure('store.delete', store.name, problem);
  return [{ ...failure, todo: `${failure.todo ?? ''}; then remove the object ${left}, which is left behind` }];
}

function notThere(id: FailingId): Finding {
  const todo = `look for a cache between here and the store, and at the rights (${rightsFor('store.get')})`;
  return fail(id, 'an object that has just been stored is not there', todo);
}

function wrongBytes(id: FailingId, what: string): Finding {
  return fail(
    id,
    `a ${what} gives other bytes than were put`,
    'look for a proxy between here and the store that changes answers',
  );
}
