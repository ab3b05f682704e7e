import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import {
  type BlobStore,
  cached,
  digestOf,
  discard,
  keyFor,
  LpsError,
  memoryStore,
  parseKey,
  passThrough,
  readAll,
} from '@large-payload/core';
import { testBlobStore } from '@large-payload/core/conformance';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { claimStore } from './bucket-owner.js';
import type { Catalog } from './catalog/catalog.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './catalog/embedded-postgres.js';
import { type CatalogFixture, openFixture } from './catalog/postgres-catalog-fixture.js';
import { catalogued } from './catalogued.js';

const started = startEmbeddedPostgres({ throwAway: true });
let postgres: EmbeddedPostgres;
let fixture: CatalogFixture;
beforeAll(async () => {
  postgres = await started;
  fixture = openFixture(postgres.url);
});
afterAll(async () => {
  await fixture.close();
  await postgres.stop();
});

const opened: Catalog[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((catalog) => catalog.close()));
});

testBlobStore(
  'catalogued(memory)',
  async () => {
    const own = openFixture((await started).url);
    const catalog = await own.open();
    return {
      store: catalogued(memoryStore(), { catalog, renewMs: 60_000, alarms: { raise() {} } }),
      close: () => own.close(),
    };
  },
  {
    runner: { describe, it },
    skip: [
      { test: 'deletes, and takes the blob again', reason: 'deletion belongs to the lifecycle, not to a key' },
      { test: 'keeps generations beside the first', reason: 'generations are chosen by the catalog' },
      { test: 'keeps its own objects', reason: 'they are written below the catalog' },
      { test: 'lets one of two own objects win that come at once', reason: 'they are written below the catalog' },
    ],
  },
);

interface Calls {
  puts: number;
  gets: number;
  heads: number;
}

/** A store that counts, serves streams as a bucket would, and whose objects can be spoiled. */
function spoilable(): { store: BlobStore; inner: BlobStore; calls: Calls; flip(key: string): Promise<void> } {
  const inner = memoryStore();
  const flipped = new Set<string>();
  const calls: Calls = { puts: 0, gets: 0, heads: 0 };
  const store: BlobStore = {
    ...passThrough(inner),
    async put(key, body, expected, options) {
      calls.puts += 1;
      const result = await inner.put(key, body, expected, options);
      if (options?.overwrite) flipped.delete(key);
      return result;
    },
    async get(key, options) {
      calls.gets += 1;
      const found = await inner.get(key, options);
      if (found === undefined || !flipped.has(key)) return found;
      // what `checked` makes of wrong bytes: a stream that breaks off before its end
      const body = Readable.from(
        (async function* () {
          yield Buffer.alloc(1);
          throw new LpsError('BLOB_DAMAGED', 'the bytes do not match their digest');
        })(),
        { objectMode: false },
      );
      return { info: found.info, body };
    },
    async head(key, options) {
      calls.heads += 1;
      return inner.head(key, options);
    },
  };
  return { store, inner, calls, flip: async (key) => void flipped.add(key) };
}

async function stateBecomes(key: string, state: string): Promise<void> {
  const stateNow = async (): Promise<string | undefined> => (await fixture.read(parseKey(key)))?.state;
  await expect.poll(stateNow, { timeout: 30_000 }).toBe(state);
}

function sample(size = 1000) {
  const bytes = randomBytes(size);
  const digest = digestOf(bytes);
  return { key: keyFor('n', digest, null), bytes, expected: { digest, size } };
}

async function open(
  store: BlobStore,
  cacheEntries?: number,
): Promise<{ layer: BlobStore; catalog: Catalog; alarms: string[] }> {
  const catalog = await fixture.open(cacheEntries === undefined ? {} : { cacheEntries });
  opened.push(catalog);
  const alarms: string[] = [];
  const layer = catalogued(store, { catalog, renewMs: 60_000, alarms: { raise: (kind) => alarms.push(kind) } });
  return { layer, catalog, alarms };
}

async function read(store: BlobStore, key: string): Promise<Buffer | undefined> {
  const found = await store.get(key);
  return found && Buffer.from(await readAll(found.body, 1e9));
}

/** A body that must not be read. */
function unread(): Readable {
  return new Readable({
    read() {
      throw new Error('the body was read');
    },
  });
}

describe('catalogued', () => {
  it('answers for a present blob without reading the body or asking the store, and says how long it is protected', async () => {
    const { store, calls } = spoilable();
    const { layer } = await open(store);
    const { key, bytes, expected } = sample();
    const first = await layer.put(key, bytes, expected);
    expect(first.outcome).toBe('created');
    const second = await layer.put(key, unread(), expected);
    expect(second.outcome).toBe('exists');
    expect(second.protectedUntil?.getTime()).toBeGreaterThan(Date.now() + 6 * 86_400_000);
    expect(calls).toEqual({ puts: 1, gets: 0, heads: 0 });
  });

  it('asks the store too when a touch is due, and takes the body when the object was removed behind its back', async () => {
    const { store, inner, calls } = spoilable();
    const { layer, alarms } = await open(store, 0); // the fixture's SQL tells no cache
    const { key, bytes, expected } = sample();
    await layer.put(key, bytes, expected);
    await fixture.age(parseKey(key), 2 * 3_600_000);
    expect((await layer.put(key, unread(), expected)).outcome).toBe('exists');
    expect(calls.heads).toBe(1);
    await fixture.age(parseKey(key), 2 * 3_600_000);
    await inner.delete(key);
    expect((await layer.put(key, bytes, expected)).outcome).toBe('created');
    expect(alarms).toEqual(['missing']);
    expect(await read(layer, key)).toEqual(bytes);
  });

  it('breaks a damaged read off, answers 404 then, and is healed by the next upload', async () => {
    const { store, flip } = spoilable();
    const { layer, alarms } = await open(store);
    const { key, bytes, expected } = sample();
    await layer.put(key, bytes, expected);
    await flip(key);
    await expect(read(layer, key)).rejects.toMatchObject({ code: 'BLOB_DAMAGED' });
    await stateBecomes(key, 'damaged');
    await expect(layer.get(key)).rejects.toMatchObject({ code: 'BLOB_DAMAGED', status: 404 });
    await expect(layer.head(key)).rejects.toMatchObject({ code: 'BLOB_DAMAGED' });
    expect([...((await layer.stat?.([key])) ?? []).keys()]).toEqual([]);
    expect((await layer.put(key, Readable.from([bytes]), expected)).outcome).toBe('created');
    expect(await read(layer, key)).toEqual(bytes);
    expect(alarms).toEqual(['damaged']);
  });

  it('marks a blob damaged that the store has lost', async () => {
    const { store, inner } = spoilable();
    const { layer, alarms } = await open(store);
    const { key, bytes, expected } = sample();
    await layer.put(key, bytes, expected);
    await inner.delete(key);
    await expect(layer.get(key)).rejects.toMatchObject({ code: 'BLOB_DAMAGED' });
    expect(alarms).toEqual(['missing']);
    expect((await layer.put(key, bytes, expected)).outcome).toBe('created');
  });

  describe('with objects that another service wrote', () => {
    it('takes a right one in: by a get, a head, a range, or an upload, hashed once', async () => {
      for (const use of ['get', 'head', 'range', 'put'] as const) {
        const { store, inner, calls } = spoilable();
        const { layer } = await open(store);
        const { key, bytes, expected } = sample();
        await inner.put(key, bytes, expected);
        if (use === 'get') expect(await read(layer, key)).toEqual(bytes);
        if (use === 'head') expect(await layer.head(key)).toMatchObject({ key, size: 1000 });
        if (use === 'range')
          expect(
            await layer
              .get(key, { range: { start: 0, end: 4 } })
              .then(async (found) => found && Buffer.from(await readAll(found.body, 9))),
          ).toEqual(bytes.subarray(0, 5));
        if (use === 'put') expect((await layer.put(key, Readable.from([bytes]), expected)).outcome).toBe('exists');
        await stateBecomes(key, 'live');
        const { gets } = calls;
        expect((await layer.put(key, unread(), expected)).outcome).toBe('exists');
        expect(calls.gets).toBe(gets);
      }
    });

    it('does not acknowledge a wrong one: bytes in memory replace it, a stream is asked for again', async () => {
      for (const inMemory of [true, false]) {
        const { store, inner, flip } = spoilable();
        const { layer, alarms } = await open(store);
        const { key, bytes, expected } = sample();
        await inner.put(key, bytes, expected);
        await flip(key);
        if (!inMemory) {
          const body = Readable.from([bytes]);
          await expect(layer.put(key, body, expected)).rejects.toMatchObject({ code: 'TRY_AGAIN', status: 503 });
          discard(body);
          expect(alarms).toEqual(['damaged']);
        }
        expect((await layer.put(key, inMemory ? bytes : Readable.from([bytes]), expected)).outcome).toBe(
          inMemory ? 'exists' : 'created',
        );
        expect(await read(layer, key)).toEqual(bytes);
      }
    });

    it('does not call a wrong one present', async () => {
      const { store, inner, flip } = spoilable();
      const { layer } = await open(store);
      const { key, bytes, expected } = sample();
      await inner.put(key, bytes, expected);
      await flip(key);
      expect(await layer.head(key)).toBeUndefined();
      expect((await layer.stat?.([key]))?.size).toBe(0);
    });
  });

  it('takes nothing in that only a cache still has', async () => {
    for (const use of ['get', 'range', 'put'] as const) {
      const { store, inner } = spoilable();
      const { key, bytes, expected } = sample();
      await inner.put(key, bytes, expected);
      const cache = await cached(store, { memory: { maxBytes: 1e6 } });
      await read(cache, key);
      await inner.delete(key);
      const catalog = await fixture.open();
      const layer = catalogued(cache, { source: store, catalog, renewMs: 60_000, alarms: { raise() {} } });
      if (use === 'get') expect(await layer.get(key)).toBeUndefined();
      if (use === 'range') expect(await layer.get(key, { range: { start: 0, end: 4 } })).toBeUndefined();
      expect((await layer.put(key, bytes, expected)).outcome).toBe('created');
      expect(await inner.head(key)).toBeDefined();
    }
  });

  it('answers a head from the store when Postgres goes away before the touch', async () => {
    const { layer, catalog } = await open(memoryStore(), 0);
    const { key, bytes, expected } = sample();
    await layer.put(key, bytes, expected);
    await fixture.age(parseKey(key), 2 * 3_600_000);
    const touch = async (): Promise<never> => {
      throw new LpsError('CATALOG_UNAVAILABLE', 'Postgres does not answer');
    };
    Object.assign(catalog, { touch });
    const info = await layer.head(key);
    expect(info).toMatchObject({ key, size: 1000 });
    expect(info?.protectedUntil).toBeUndefined();
    expect(await read(layer, key)).toEqual(bytes);
  });

  it('leaves no row behind an upload that failed', async () => {
    const { store } = spoilable();
    const { layer } = await open(store);
    const { key, expected } = sample();
    await expect(layer.put(key, randomBytes(1000), expected)).rejects.toMatchObject({ code: 'DIGEST_MISMATCH' });
    expect(await fixture.read(parseKey(key))).toBeUndefined();
  });

  it('keeps a second uploader from waiting for a stalled first one', async () => {
    const { layer } = await open(memoryStore());
    const { key, bytes, expected } = sample();
    let finish = (): void => {};
    const stalled = Readable.from(
      (async function* () {
        yield bytes.subarray(0, 500);
        await new Promise<void>((resolve) => {
          finish = resolve;
        });
        yield bytes.subarray(500);
      })(),
      { objectMode: false },
    );
    const first = layer.put(key, stalled, expected);
    await stateBecomes(key, 'uploading');
    expect((await layer.put(key, bytes, expected)).outcome).toBe('created');
    finish();
    expect((await first).outcome).toBe('exists');
    expect(await read(layer, key)).toEqual(bytes);
  });

  it('reads from the store while Postgres is away, later generations included, and refuses uploads', async () => {
    const { store, inner } = spoilable();
    const { layer, catalog, alarms } = await open(store);
    const { key, bytes, expected } = sample();
    await inner.put(`${key}~0000000000000000`, bytes, expected);
    const down = async (): Promise<never> => {
      throw new LpsError('CATALOG_UNAVAILABLE', 'Postgres does not answer');
    };
    Object.assign(catalog, { lookup: down, begin: down, lookupMany: down });
    expect(await read(layer, key)).toEqual(bytes);
    expect(await layer.head(key)).toMatchObject({ key, size: 1000 });
    await expect(layer.put(key, unread(), expected)).rejects.toMatchObject({
      code: 'CATALOG_UNAVAILABLE',
      status: 503,
    });
    expect(alarms).toContain('catalog_unavailable');
  });

  it('reads past its caches while Postgres is away: what left the store meanwhile is not served', async () => {
    const { store, inner } = spoilable();
    const cache = await cached(store, { memory: { maxBytes: 1e6 } });
    const catalog = await fixture.open();
    const layer = catalogued(cache, { source: store, catalog, renewMs: 60_000, alarms: { raise() {} } });
    const { key, bytes, expected } = sample();
    await layer.put(key, bytes, expected);
    expect(await read(layer, key)).toEqual(bytes);
    const lookup = async (): Promise<never> => {
      throw new LpsError('CATALOG_UNAVAILABLE', 'Postgres does not answer');
    };
    Object.assign(catalog, { lookup });
    expect(await read(layer, key)).toEqual(bytes);
    await inner.delete(key);
    expect(await layer.get(key)).toBeUndefined();
    expect(await layer.head(key)).toBeUndefined();
    await catalog.close();
  });

  it('serves nothing that left while it was touched', async () => {
    const { layer, catalog } = await open(memoryStore(), 0);
    const { key, bytes, expected } = sample();
    await layer.put(key, bytes, expected);
    const { touch } = catalog;
    Object.assign(catalog, {
      touch: async (rows: Parameters<Catalog['touch']>[0]) =>
        (await touch.call(catalog, rows)).map((row) => ({ ...row, state: 'taken_down' as const })),
    });
    for (const use of ['get', 'head', 'stat'] as const) {
      await fixture.age(parseKey(key), 2 * 3_600_000);
      if (use === 'stat') expect((await layer.stat?.([key]))?.size).toBe(0);
      else await expect(layer[use](key)).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN' });
    }
  });

  it('refuses an upload whose size is not the blob’s', async () => {
    const { layer } = await open(memoryStore());
    const { key, bytes, expected } = sample();
    await layer.put(key, bytes, expected);
    await expect(layer.put(key, unread(), { ...expected, size: 5 })).rejects.toMatchObject({ code: 'SIZE_MISMATCH' });
  });

  it('gives no blob away that was deleted, and takes it again as a new generation', async () => {
    const { store } = spoilable();
    const { layer } = await open(store, 0); // the fixture's SQL tells no cache
    const { key, bytes, expected } = sample();
    await layer.put(key, bytes, expected);
    await fixture.force(parseKey(key), 'deleting');
    expect(await layer.get(key)).toBeUndefined();
    expect((await layer.put(key, bytes, expected)).outcome).toBe('created');
    const row = await fixture.read(parseKey(key));
    expect(row).toMatchObject({ state: 'live', generation: 2 });
    expect(row?.physicalKey).toMatch(/~[0-9a-z]{16}$/);
    expect(await read(layer, key)).toEqual(bytes);
  });
});

describe('what was taken down', () => {
  async function takenDown(inner: BlobStore = memoryStore()) {
    const { layer, catalog } = await open(inner, 0); // the fixture's SQL tells no cache
    const blob = sample();
    await layer.put(blob.key, blob.bytes, blob.expected);
    await fixture.force(parseKey(blob.key), 'taken_down');
    await fixture.erase(parseKey(blob.key));
    return { layer, catalog, inner, ...blob };
  }

  const uses: Record<string, (layer: BlobStore, key: string) => Promise<unknown> | undefined> = {
    get: (layer, key) => layer.get(key),
    'get of a part': (layer, key) => layer.get(key, { range: { start: 0, end: 4 } }),
    head: (layer, key) => layer.head(key),
    presignGet: (layer, key) => layer.presignGet?.(key, { expiresInMs: 1000 }),
  };
  const signing = (): BlobStore => ({
    ...passThrough(memoryStore()),
    presignGet: async () => ({ method: 'GET', url: 'http://bucket', headers: {}, expiresAt: new Date() }),
  });

  it.each(Object.entries(uses))('is not there for a %s, though its object still is', async (_name, use) => {
    const { layer, inner, key } = await takenDown(signing());
    expect(await inner.head(key)).toBeDefined();
    await expect(use(layer, key)).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN', status: 410 });
    expect((await layer.stat?.([key]))?.size).toBe(0);
  });

  it('is new data when it is uploaded again, under a name of its own', async () => {
    const { layer, inner, key, bytes, expected } = await takenDown();
    expect((await layer.put(key, bytes, expected)).outcome).toBe('created');
    await inner.delete(key);
    expect(await read(layer, key)).toEqual(bytes);
    expect(await fixture.read(parseKey(key))).toMatchObject({ state: 'live', generation: 2 });
  });

  it('is not served from its old object while it is uploaded again', async () => {
    const { layer, catalog, key } = await takenDown(signing());
    const beginning = await catalog.begin(parseKey(key), 1000);
    expect(beginning.kind).toBe('upload');
    expect(await layer.get(key)).toBeUndefined();
    expect(await layer.get(key, { range: { start: 0, end: 4 } })).toBeUndefined();
    expect(await layer.head(key)).toBeUndefined();
    await expect(layer.presignGet?.(key, { expiresInMs: 1000 })).rejects.toMatchObject({ code: 'BLOB_NOT_FOUND' });
  });

  it('is taken in from the object of a later upload whose commit was lost', async () => {
    const { layer, catalog, inner, key, bytes, expected } = await takenDown();
    for (const use of ['get', 'head'] as const) {
      await fixture.force(parseKey(key), 'taken_down');
      const beginning = await catalog.begin(parseKey(key), 1000);
      if (beginning.kind !== 'upload') throw new Error('present');
      await inner.put(beginning.lease.physicalKey, bytes, expected);
      if (use === 'get') expect(await read(layer, key)).toEqual(bytes);
      else expect(await layer.head(key)).toMatchObject({ key });
      await stateBecomes(key, 'live');
    }
  });

  it.each(['get', 'get of a part', 'head'])('is not there for a %s without a row either', async (name) => {
    const { layer, key } = await takenDown();
    await fixture.force(parseKey(key), 'absent');
    await expect(uses[name]?.(layer, key)).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN' });
    expect(await fixture.read(parseKey(key))).toBeUndefined();
  });

  it.each(['get', 'get of a part', 'head'])(
    'and blocked is not found by a %s elsewhere in the bucket',
    async (name) => {
      const { layer, inner, key, bytes, expected } = await takenDown();
      const other = keyFor('n', parseKey(key).digest, { name: Buffer.from('other') });
      await inner.put(other, bytes, expected);
      await fixture.block(parseKey(key));
      await expect(uses[name]?.(layer, other)).rejects.toMatchObject({ code: 'BLOB_BLOCKED', status: 451 });
      expect(await fixture.read(parseKey(other))).toBeUndefined();
    },
  );

  it('and blocked is refused before its body is read, until it is unblocked', async () => {
    const { layer, key, bytes, expected } = await takenDown();
    await fixture.block(parseKey(key));
    await expect(layer.put(key, unread(), expected)).rejects.toMatchObject({ code: 'BLOB_BLOCKED', status: 451 });
    await expect(layer.get(key)).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN' });
    await fixture.unblock(parseKey(key));
    expect((await layer.put(key, bytes, expected)).outcome).toBe('created');
  });

  it.each([
    { blocks: false, code: 'TRY_AGAIN' },
    { blocks: true, code: 'BLOB_BLOCKED' },
  ])('while it is uploaded: that upload ends with $code', async ({ blocks, code }) => {
    const inner = memoryStore();
    const { key, bytes, expected } = sample();
    const store: BlobStore = {
      ...passThrough(inner),
      async put(name, body, expect, options) {
        const result = await inner.put(name, body, expect, options);
        if (name !== key) return result;
        await fixture.force(parseKey(key), 'taken_down');
        await fixture.erase(parseKey(key));
        if (blocks) await fixture.block(parseKey(key));
        return result;
      },
    };
    const { layer } = await open(store, 0);
    await expect(layer.put(key, bytes, expected)).rejects.toMatchObject({ code });
    expect(await fixture.read(parseKey(key))).toMatchObject({ state: 'taken_down', leases: 0 });
    await expect(layer.get(key)).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN' });
    if (!blocks) expect((await layer.put(key, bytes, expected)).outcome).toBe('created');
  });
});

describe('an upload whose lease is lost', () => {
  it.each([
    { renews: async () => false, code: 'TRY_AGAIN' },
    { renews: () => Promise.reject(new LpsError('CATALOG_UNAVAILABLE', 'away')), code: 'CATALOG_UNAVAILABLE' },
  ])('is broken off, and commits nothing: $code', async ({ renews, code }) => {
    let nowMs = 0;
    const sleep = async (ms: number, signal: AbortSignal): Promise<void> => {
      await new Promise((resolve) => setImmediate(resolve));
      signal.throwIfAborted();
      nowMs += ms;
    };
    const clock = { monotonicMs: () => nowMs, sleep };
    const inner = memoryStore();
    const store: BlobStore = {
      ...passThrough(inner),
      put: (_key, _body, _expect, options) =>
        new Promise((_, reject) => {
          options?.signal?.addEventListener('abort', () => reject(options.signal?.reason), { once: true });
        }),
    };
    const catalog = Object.assign(await fixture.open(), { renew: renews });
    const layer = catalogued(store, { catalog, renewMs: 1000, leaseMs: 3000, clock, alarms: { raise() {} } });
    const { key, bytes, expected } = sample();
    const callers = code === 'TRY_AGAIN' ? { signal: new AbortController().signal } : {};
    await expect(layer.put(key, bytes, expected, callers)).rejects.toMatchObject({ code });
    expect(await fixture.read(parseKey(key))).toBeUndefined();
  });
});

describe('claimStore', () => {
  it('lets one catalog have a store, again and again, and refuses another', async () => {
    const store = memoryStore();
    await claimStore(store, 'one');
    await claimStore(store, 'one');
    await expect(claimStore(store, 'two')).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('another catalog (one)'),
    });
  });

  it('lets one of two win that claim at once', async () => {
    const store = memoryStore();
    const outcomes = await Promise.allSettled([claimStore(store, 'one'), claimStore(store, 'two')]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  });

  it('refuses a store whose mark is not ours', async () => {
    const store = memoryStore();
    const bytes = Buffer.from('something else');
    await store.put('.lps/catalog', bytes, { digest: digestOf(bytes), size: bytes.length });
    await expect(claimStore(store, 'one')).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});
