/**
 * What every `BlobStore` must do, as tests for any runner:
 *
 *   import { describe, it } from 'vitest'; // or node:test
 *   testBlobStore('mine', async () => ({ store: myStore(), close: async () => {} }), { runner: { describe, it } });
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import type { BlobStore, Expected } from './blob-store.js';
import { discard, readAll } from './body.js';
import { digestOf } from './digest.js';
import { isLpsError } from './errors.js';
import { keyFor, newGeneration } from './key.js';

/** The two functions of a test runner that are needed here. */
export interface TestRunner {
  describe(name: string, define: () => void): unknown;
  it(name: string, run: () => Promise<void>): unknown;
}

/** A store under test. `leftovers` lists what is stored or half-stored beside the blobs (temporary files, open uploads). */
export interface StoreUnderTest {
  readonly store: BlobStore;
  close(): Promise<void>;
  leftovers?(): Promise<string[]>;
}

export interface ConformanceOptions {
  readonly runner: TestRunner;
  /** Tests that this store cannot pass, each with the reason. The name must be that of a test. */
  readonly skip?: readonly { readonly test: string; readonly reason: string }[];
}

interface Sample {
  readonly key: string;
  readonly bytes: Buffer;
  readonly expect: Expected;
}

type Test = (store: BlobStore, context: StoreUnderTest) => Promise<void>;

/** A new blob, in a namespace of its own unless told otherwise: short ones would meet again by chance. */
function sample(size: number, namespace = `conformance-${randomBytes(6).toString('hex')}`, prefix?: string): Sample {
  const bytes = randomBytes(size);
  const digest = digestOf(bytes);
  const metadata = prefix === undefined ? null : { 'remote-codec/key-prefix': Buffer.from(prefix) };
  return { key: keyFor(namespace, digest, metadata), bytes, expect: { digest, size } };
}

/** The sample's bytes as a stream of odd-sized chunks, altered or cut short on the way. */
function streamOf(bytes: Uint8Array, { failAt = Number.POSITIVE_INFINITY, chunkBytes = 60_001 } = {}): Readable {
  return Readable.from(
    (async function* () {
      for (let at = 0; at < bytes.length; at += chunkBytes) {
        if (at >= failAt) throw new Error('the sender went away');
        yield bytes.subarray(at, at + chunkBytes);
      }
      if (failAt <= bytes.length) throw new Error('the sender went away');
    })(),
    { objectMode: false },
  );
}

async function bytesAt(store: BlobStore, key: string): Promise<Buffer | undefined> {
  const found = await store.get(key);
  return found && Buffer.from(await readAll(found.body, 2 ** 31));
}

async function keysOf(store: BlobStore, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const info of store.list(prefix)) keys.push(info.key);
  return keys.sort();
}

async function refuses(put: Promise<unknown>, ...codes: string[]): Promise<void> {
  await assert.rejects(
    put,
    (error: unknown) => codes.length === 0 || (isLpsError(error) && codes.includes(error.code)),
  );
}

const sizes = [0, 1, 65_535, 65_536, 65_537, 1_000_000, 9 * 1024 * 1024 + 3];

const tests: Record<string, Test> = {
  async 'stores and returns bytes of any size'(store) {
    for (const size of sizes) {
      const { key, bytes, expect } = sample(size);
      assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
      assert.deepEqual(await bytesAt(store, key), bytes, `${size} bytes`);
      const info = await store.head(key);
      assert.equal(info?.size, size);
      assert.equal(info?.key, key);
    }
  },

  async 'stores and returns streams of any size'(store) {
    for (const size of sizes) {
      const { key, bytes, expect } = sample(size);
      assert.equal((await store.put(key, streamOf(bytes), expect)).outcome, 'created');
      assert.deepEqual(await bytesAt(store, key), bytes, `${size} bytes`);
    }
  },

  async 'knows what is absent'(store) {
    const { key } = sample(10);
    assert.equal(await store.get(key), undefined);
    assert.equal(await store.head(key), undefined);
  },

  async 'answers exists and leaves what stands there'(store) {
    const { key, bytes, expect } = sample(200_000);
    await store.put(key, bytes, expect);
    const body = streamOf(bytes);
    assert.equal((await store.put(key, body, expect)).outcome, 'exists');
    discard(body);
    assert.deepEqual(await bytesAt(store, key), bytes);
  },

  async 'overwrites when told to'(store) {
    const { key, bytes, expect } = sample(100_000);
    await store.put(key, bytes, expect);
    await store.put(key, streamOf(bytes), expect, { overwrite: true });
    assert.deepEqual(await bytesAt(store, key), bytes);
  },

  async 'refuses wrong bytes and keeps nothing of them'(store) {
    for (const size of [10, 300_000]) {
      const { key, bytes, expect } = sample(size);
      const wrong = Buffer.from(bytes);
      wrong[size - 1] = (wrong[size - 1] ?? 0) ^ 1;
      await refuses(store.put(key, wrong, expect), 'DIGEST_MISMATCH');
      await refuses(store.put(key, streamOf(wrong), expect), 'DIGEST_MISMATCH');
      assert.equal(await store.head(key), undefined);
      assert.equal((await store.put(key, streamOf(bytes), expect)).outcome, 'created');
      assert.deepEqual(await bytesAt(store, key), bytes);
    }
  },

  async 'refuses bodies that are too short or too long'(store) {
    const { key, bytes, expect } = sample(300_000);
    const longer = Buffer.concat([bytes, Buffer.from('x')]);
    for (const wrong of [bytes.subarray(0, -1), longer]) {
      await refuses(store.put(key, wrong, expect), 'SIZE_MISMATCH');
      await refuses(store.put(key, streamOf(wrong), expect), 'SIZE_MISMATCH');
      assert.equal(await store.get(key), undefined);
    }
    assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
  },

  async 'keeps nothing of a body that breaks off'(store) {
    const { key, bytes, expect } = sample(400_000);
    for (const failAt of [0, 60_001, 300_000, 400_000]) {
      await refuses(store.put(key, streamOf(bytes, { failAt }), expect));
      assert.equal(await store.head(key), undefined, `broken off at ${failAt}`);
    }
    assert.equal((await store.put(key, streamOf(bytes), expect)).outcome, 'created');
  },

  async 'keeps nothing of a put that is aborted'(store) {
    const { key, bytes, expect } = sample(3_000_000);
    const abort = new AbortController();
    const body = Readable.from(
      (async function* () {
        yield bytes.subarray(0, 1_000_000);
        abort.abort();
        yield bytes.subarray(1_000_000, 2_000_000);
        // never ends by itself: only the abort can end the put
        await new Promise((resolve) => abort.signal.addEventListener('never', resolve));
      })(),
      { objectMode: false },
    );
    await refuses(store.put(key, body, expect, { signal: abort.signal }));
    discard(body);
    assert.equal(await store.head(key), undefined);
    assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
  },

  async 'survives a body that fails before it is read'(store) {
    const { key, bytes, expect } = sample(100_000);
    const body = streamOf(bytes);
    const abort = new AbortController();
    const put = store.put(key, body, expect, { signal: abort.signal });
    abort.abort(); // nobody may be listening to the stream yet: that must not end the process
    await refuses(put);
    discard(body);
    assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
  },

  async 'survives many puts of one blob at once'(store) {
    const { key, bytes, expect } = sample(500_000);
    const outcomes = await Promise.all(
      Array.from({ length: 8 }, async () => {
        const body = streamOf(bytes);
        const { outcome } = await store.put(key, body, expect);
        discard(body);
        return outcome;
      }),
    );
    assert.ok(outcomes.includes('created'));
    assert.deepEqual(await bytesAt(store, key), bytes);
  },

  async 'serves ranges'(store) {
    const { key, bytes, expect } = sample(500_000);
    await store.put(key, bytes, expect);
    for (const [start, end] of [
      [0, 0],
      [0, 499_999],
      [1, 65_536],
      [499_999, 499_999],
      [123_456, 400_000],
    ] as const) {
      const found = await store.get(key, { range: { start, end } });
      assert.ok(found);
      assert.equal(found.info.size, 500_000);
      assert.deepEqual(Buffer.from(await readAll(found.body, 1e6)), bytes.subarray(start, end + 1), `${start}-${end}`);
    }
    await refuses(store.get(key, { range: { start: 0, end: 500_000 } }), 'RANGE_NOT_SATISFIABLE');
    await refuses(store.get(key, { range: { start: 5, end: 4 } }), 'RANGE_NOT_SATISFIABLE');
  },

  async 'stats many at once'(store) {
    const samples = Array.from({ length: 5 }, (_, index) => sample(100 + index));
    for (const { key, bytes, expect } of samples) await store.put(key, bytes, expect);
    const absent = sample(10).key;
    const keys = [...samples.map(({ key }) => key), absent];
    const found = store.stat
      ? await store.stat(keys)
      : new Map(
          (await Promise.all(keys.map((key) => store.head(key)))).flatMap((info) => (info ? [[info.key, info]] : [])),
        );
    assert.deepEqual([...found.keys()].sort(), samples.map(({ key }) => key).sort());
    for (const { key, expect } of samples) assert.equal(found.get(key)?.size, expect.size);
  },

  async 'deletes, and takes the blob again'(store) {
    const { key, bytes, expect } = sample(70_000);
    await store.put(key, bytes, expect);
    assert.equal(await store.delete(key), true);
    assert.equal(await store.get(key), undefined);
    assert.equal(await store.head(key), undefined);
    assert.equal(await store.delete(key), false);
    assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
    assert.deepEqual(await bytesAt(store, key), bytes);
  },

  async 'lists what is there by prefix'(store) {
    const namespace = `list-${randomBytes(6).toString('hex')}`;
    const samples = [
      sample(5, namespace),
      sample(6, namespace),
      sample(7, namespace, 'a/b'),
      sample(8, `${namespace}2`),
    ];
    for (const { key, bytes, expect } of samples) await store.put(key, bytes, expect);
    const own = samples
      .slice(0, 3)
      .map(({ key }) => key)
      .sort();
    assert.deepEqual(await keysOf(store, `/blobs/${namespace}/`), own);
    assert.deepEqual(await keysOf(store, `/blobs/${namespace}/custom/`), [samples[2]?.key]);
    assert.deepEqual(await keysOf(store, samples[0]?.key ?? ''), [samples[0]?.key]);
    assert.equal((await keysOf(store, `/blobs/${namespace}`)).length, 4);
  },

  async 'lists everything'(store) {
    const samples = ['one', 'two'].map((name) => sample(5, `${name}-${randomBytes(6).toString('hex')}`));
    for (const { key, bytes, expect } of samples) await store.put(key, bytes, expect);
    const everything = new Set(await keysOf(store, ''));
    for (const { key } of samples) assert.ok(everything.has(key), `${key} is among everything`);
  },

  async 'lists more than a page of a bucket'(store) {
    const namespace = `pages-${randomBytes(6).toString('hex')}`;
    const samples = Array.from({ length: 1005 }, () => sample(8, namespace));
    for (let at = 0; at < samples.length; at += 32) {
      await Promise.all(samples.slice(at, at + 32).map(({ key, bytes, expect }) => store.put(key, bytes, expect)));
    }
    assert.deepEqual(await keysOf(store, `/blobs/${namespace}/`), samples.map(({ key }) => key).sort());
  },

  async 'lists on from a key, also from one that is gone'(store) {
    const namespace = `after-${randomBytes(6).toString('hex')}`;
    const samples = Array.from({ length: 12 }, () => sample(8, namespace));
    for (const { key, bytes, expect } of samples) await store.put(key, bytes, expect);
    const inOrder: string[] = [];
    for await (const info of store.list(`/blobs/${namespace}/`)) inOrder.push(info.key);
    assert.equal(inOrder.length, 12);
    const after = inOrder[4] ?? '';
    if (store.can.delete) await store.delete(after);
    const rest: string[] = [];
    for await (const info of store.list(`/blobs/${namespace}/`, { after })) rest.push(info.key);
    assert.deepEqual(rest, inOrder.slice(5));
  },

  async 'keeps names apart and returns them as they were'(store) {
    const namespaces = [
      'a+b',
      'a b',
      'a%20b',
      'a%2Fb',
      'ünï-✓-日本',
      'A',
      'a',
      '...',
      '.a',
      'a.',
      '~',
      'x'.repeat(300),
      '*?"<>|:',
    ];
    const prefixes = ['/', '//', 'a', 'a/', '/a', 'a//b', 'A', 'common', '-_-/'];
    const samples = [
      ...namespaces.map((namespace) => sample(20, namespace)),
      ...prefixes.map((prefix) => sample(20, 'prefixes', prefix)),
    ];
    for (const { key, bytes, expect } of samples)
      assert.equal((await store.put(key, bytes, expect)).outcome, 'created', key);
    for (const { key, bytes } of samples) assert.deepEqual(await bytesAt(store, key), bytes, key);
    if (!store.can.list) return;
    const listed = new Set(await keysOf(store, '/blobs/'));
    for (const { key } of samples) assert.ok(listed.has(key), `${key} is listed under its own name`);
  },

  async 'keeps generations beside the first'(store) {
    const first = sample(1000);
    const later = `${first.key}~${newGeneration()}`;
    await store.put(later, first.bytes, first.expect);
    assert.equal(await store.head(first.key), undefined);
    assert.deepEqual(await bytesAt(store, later), first.bytes);
    if (store.can.list) assert.deepEqual(await keysOf(store, first.key), [later]);
  },

  async 'refuses names that are not of its kind'(store) {
    const digest = digestOf(Buffer.from('x'));
    const bad = [
      '',
      '/',
      '../x',
      '/blobs/../../etc/passwd',
      `/blobs/../common/${digest}/${digest}`,
      `/blobs/a/common/${digest}`,
    ];
    for (const key of [...bad, `/blobs/a/b/common/${digest}/${digest}`, `/blobs/a/common/${digest}/${digest}/..`]) {
      await refuses(store.get(key), 'INVALID_KEY');
      await refuses(store.head(key), 'INVALID_KEY');
      await refuses(store.put(key, Buffer.from('x'), { digest, size: 1 }), 'INVALID_KEY');
    }
  },

  async 'refuses a digest that is not the key’s'(store) {
    const { key } = sample(10);
    const bytes = Buffer.from('y');
    await refuses(store.put(key, bytes, { digest: digestOf(bytes), size: 1 }), 'INVALID_ARGUMENT');
  },

  async 'leaves no leftovers'(store, { leftovers }) {
    const { key, bytes, expect } = sample(300_000);
    await store.put(key, streamOf(bytes), expect);
    await refuses(store.put(sample(300_000).key, streamOf(bytes, { failAt: 200_000 }), { ...expect, size: 300_000 }));
    const broken = sample(300_000);
    await refuses(store.put(broken.key, streamOf(broken.bytes, { failAt: 200_000 }), broken.expect));
    assert.deepEqual((await leftovers?.()) ?? [], []);
  },

  async 'lets go of a body that is not read to its end'(store) {
    const { key, bytes, expect } = sample(5_000_000);
    await store.put(key, bytes, expect);
    for (let round = 0; round < 100; round += 1) {
      const found = await store.get(key);
      assert.ok(found);
      discard(found.body);
    }
    assert.deepEqual(await bytesAt(store, key), bytes);
  },

  async 'keeps its own objects'(store) {
    const bytes = Buffer.from('{"id":1}');
    const key = `.lps/conformance-${randomBytes(4).toString('hex')}`;
    const expect = { digest: digestOf(bytes), size: bytes.length };
    assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
    assert.equal((await store.put(key, bytes, expect)).outcome, 'exists');
    assert.deepEqual(await bytesAt(store, key), bytes);
  },

  async 'lets one of two own objects win that come at once'(store) {
    // they are not named by their bytes, as blobs are
    const contested = `.lps/contested-${randomBytes(4).toString('hex')}`;
    const outcomes = await Promise.all(
      ['one', 'two'].map(async (text) => {
        const body = Buffer.from(text);
        return store.put(contested, body, { digest: digestOf(body), size: body.length });
      }),
    );
    assert.deepEqual(outcomes.map(({ outcome }) => outcome).sort(), ['created', 'exists']);
  },
};

/** Registers the suite for one store. `open` runs once per suite, before the first test. */
export function testBlobStore(name: string, open: () => Promise<StoreUnderTest>, options: ConformanceOptions): void {
  const { describe, it } = options.runner;
  const skips = new Map(options.skip?.map(({ test, reason }) => [test, reason]));
  for (const test of skips.keys()) {
    if (!Object.hasOwn(tests, test)) throw new Error(`testBlobStore: there is no test "${test}" to skip`);
  }
  describe(`BlobStore: ${name}`, () => {
    let opened: Promise<StoreUnderTest> | undefined;
    const names = Object.keys(tests).filter((test) => {
      const reason = skips.get(test);
      if (reason !== undefined) console.log(`skipped: ${name}: ${test}: ${reason}`);
      return reason === undefined;
    });
    for (const test of names) {
      it(test, async () => {
        opened ??= open();
        const context = await opened;
        await tests[test]?.(context.store, context);
      });
    }
    it('closes', async () => {
      await (await opened)?.close();
    });
  });
}
