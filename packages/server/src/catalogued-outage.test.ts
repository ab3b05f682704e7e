/** A replica whose lease on reading lasts, and which cannot ask the catalog for a row: what it reads must not outlive M. */
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import {
  type BlobStore,
  digestOf,
  isBytes,
  keyFor,
  LpsError,
  memoryStore,
  openHttpStore,
  passThrough,
} from '@large-payload/core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Catalog } from './catalog/catalog.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './catalog/embedded-postgres.js';
import { type CatalogFixture, openFixture } from './catalog/postgres-catalog-fixture.js';
import { catalogued } from './catalogued.js';
import { startApp } from './http/testing.js';
import { RunningReads } from './nodes/running-reads.js';

const leaseMs = 8000;
const bytes = randomBytes(1000);
const digest = digestOf(bytes);
const down = async (): Promise<never> => {
  throw new LpsError('CATALOG_UNAVAILABLE', 'Postgres does not answer');
};

let postgres: EmbeddedPostgres;
let fixture: CatalogFixture;
beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  fixture = openFixture(postgres.url);
});
afterAll(async () => {
  await fixture?.close();
  await postgres?.stop();
});

/** Streams without an end, so that a read of one stays under way. */
function endless(inner: BlobStore): BlobStore {
  return {
    ...passThrough(inner),
    async get(key, options) {
      const found = await inner.get(key, options);
      return found && { ...found, body: new Readable({ read() {} }) };
    },
  };
}

describe.each([
  { method: 'lookup', isStored: true },
  { method: 'mayTakeIn', isStored: false },
] as const)('when the catalog does not answer a $method', ({ method, isStored }) => {
  let key: string;
  let catalog: Catalog;
  let inner: BlobStore;
  const layerOver = (store: BlobStore): BlobStore =>
    catalogued(store, { catalog, renewMs: 60_000, alarms: { raise() {} } });
  beforeEach(async () => {
    key = keyFor('shop', digest, { random: randomBytes(8) });
    catalog = await fixture.open({ cacheEntries: 0 });
    inner = memoryStore();
    if (isStored) await layerOver(inner).put(key, bytes, { digest, size: bytes.length });
    else await inner.put(key, bytes, { digest, size: bytes.length });
  });
  afterEach(() => catalog.close());

  it('a cache node is told of no event, and keeps nothing', async () => {
    const app = await startApp({ store: layerOver(inner), asOf: () => 7n });
    const store = openHttpStore({ url: `http://127.0.0.1:${app.port}` });
    const { [method]: up } = catalog;
    Object.assign(catalog, { [method]: down });
    try {
      expect((await store.get(key))?.info).toEqual({ key, size: bytes.length });
    } finally {
      Object.assign(catalog, { [method]: up });
    }
    expect((await store.get(key))?.info.asOf).toBe(7n);
    await store.close?.();
    await app.close();
  });

  it('a read ends after M, though the lease is renewed all the time', { timeout: 20_000 }, async () => {
    const clock = { steadyMs: 1000, wallMs: 1000 };
    const endsAt = { steadyMs: 1e9, wallMs: 1e9 };
    const reads = new RunningReads({ leaseMs, endsAt: () => endsAt, clock: () => ({ ...clock }) });
    const layer = reads.over(layerOver(endless(inner)));
    const { [method]: up } = catalog;
    Object.assign(catalog, { [method]: down });
    const found = await layer.get(key).finally(() => Object.assign(catalog, { [method]: up }));
    const body = found?.body;
    if (body === undefined || isBytes(body)) throw new Error('no stream');
    const failed = new Promise((resolve) => body.once('error', resolve));
    Object.assign(clock, { steadyMs: 1000 + leaseMs, wallMs: 1000 + leaseMs });
    reads.tick();
    expect(await failed).toMatchObject({ code: 'TRY_AGAIN' });
  });
});
