import { randomUUID } from 'node:crypto';
import {
  type BlobInfo,
  type BlobKey,
  type BlobStore,
  digestOf,
  formatKey,
  LpsError,
  memoryStore,
  newGeneration,
  parseKey,
} from '@large-payload/core';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Catalog } from '../catalog/catalog.js';
import { type Database, openDatabase } from '../catalog/database.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { type CatalogFixture, makeLive, newKey, openFixture } from '../catalog/postgres-catalog-fixture.js';
import { type FindOptions, planTakedown, prepareTakedown } from './find.js';
import { parseSelector } from './selector.js';
import { openTakedownCatalog, type TakedownCatalog } from './takedown-catalog.js';

let postgres: EmbeddedPostgres;
let fixture: CatalogFixture;
let catalog: Catalog;
let database: Database;
let takedowns: TakedownCatalog;
let store: BlobStore;
let namespace = '';

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  fixture = openFixture(postgres.url);
  catalog = await fixture.open();
  database = openDatabase({ url: postgres.url, maxConnections: 4, statementTimeoutMs: 60_000, log: () => undefined });
  takedowns = openTakedownCatalog({ database, schema: fixture.schema });
});
afterAll(async () => {
  await database?.close();
  await fixture?.close();
  await postgres?.stop();
});
beforeEach(() => {
  namespace = `n~${randomUUID()}`;
  store = memoryStore();
});

const options = (more: Partial<FindOptions> = {}): FindOptions & { readonly catalog: TakedownCatalog } => ({
  store,
  heldBy: async () => ({ digests: [], runs: [] }),
  ...more,
  catalog: takedowns,
});
const bytes = Buffer.from('x');
const named = (prefix?: string): BlobKey => ({ ...newKey(namespace, prefix), digest: digestOf(bytes) });
const putObject = (name: string) => store.put(name, bytes, { digest: digestOf(bytes), size: 1 });
const keys = (found: readonly { readonly key: string }[]): string[] => found.map(({ key }) => key).sort();

describe('a plan', () => {
  it('names what would be erased, what the catalog does not know, and copies elsewhere', async () => {
    const [blob, copy, other] = [named('a/b'), named('c'), newKey(namespace, 'ab')];
    for (const one of [blob, copy, other]) await makeLive(catalog, one);
    const orphan = `${formatKey(blob)}~${newGeneration()}`;
    const unknown = { ...named('a'), metadataDigest: digestOf(Buffer.from('m')) };
    for (const name of [formatKey(blob), orphan, formatKey(unknown), formatKey(copy)]) await putObject(name);
    const plan = await planTakedown(parseSelector({ namespace, prefix: 'a' }), options());
    expect(plan.blobs).toMatchObject({ count: 1, bytes: 10, states: { live: 1 } });
    expect(keys(plan.blobs.first)).toEqual([formatKey(blob)]);
    expect(plan.objects.first.map(({ physicalKey }) => physicalKey).sort()).toEqual(
      [formatKey(unknown), orphan].sort(),
    );
    expect(keys(plan.copies.first)).toEqual([formatKey(copy)]);
    expect(plan.holders).toEqual([]);
  });

  it('finds objects of a digest under any prefix, and of a time by the store', async () => {
    const [common, custom] = [named(), named('p')];
    for (const one of [common, custom]) await putObject(formatKey(one));
    await putObject(formatKey({ ...common, namespace: `${namespace}2` }));
    const ofDigest = await planTakedown(parseSelector({ namespace, digest: common.digest }), options());
    expect(keys(ofDigest.objects.first)).toEqual([formatKey(common), formatKey(custom)].sort());
    const past = parseSelector({ namespace, uploadedUntil: '2020-01-01T00:00:00Z' });
    expect((await planTakedown(past, options())).objects.count).toBe(0);
    const since = parseSelector({ namespace, uploadedFrom: '2020-01-01T00:00:00Z' });
    expect((await planTakedown(since, options())).objects.count).toBe(2);
  });

  it('of a workflow is of the digests that Temporal said, and names who else holds them', async () => {
    const [held, other] = [named(), newKey(namespace)];
    for (const one of [held, other]) await makeLive(catalog, one);
    await hold('w-1\nr-1', held);
    await hold('w-2\nr-2', held);
    const heldBy = async () => ({ digests: [held.digest], runs: ['w-1 r-1'] });
    const plan = await planTakedown(parseSelector({ namespace, workflowId: 'w-1' }), options({ heldBy }));
    expect(keys(plan.blobs.first)).toEqual([formatKey(held)]);
    expect(plan.holders.map(({ holder, kind, isGone }) => [holder, kind, isGone])).toEqual([['w-2 r-2', 'run', false]]);
    const refusing = async () => {
      throw new LpsError('TEMPORAL_UNAVAILABLE', 'away');
    };
    await expect(
      planTakedown(parseSelector({ namespace, workflowId: 'w-1' }), options({ heldBy: refusing })),
    ).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
  });
});

describe('what is put on record before an acceptance', () => {
  it('is objects that the catalog does not know, those of the same digest only when asked for', async () => {
    const [blob, elsewhere] = [named('a'), named('z')];
    await makeLive(catalog, blob);
    await putObject(formatKey(elsewhere));
    for (const withSameDigest of [false, true]) {
      const id = randomUUID();
      const request = { id, selector: parseSelector({ namespace, prefix: 'a' }), withSameDigest };
      await takedowns.request({ ...request, isBlocking: false, reason: 'a test', requestedBy: 'me' });
      expect(await prepareTakedown(request, options())).toBe(withSameDigest ? 1 : 0);
      expect(await prepareTakedown(request, options())).toBe(withSameDigest ? 1 : 0);
      expect(keys(await takedowns.names(id, '', 10))).toEqual(withSameDigest ? [formatKey(elsewhere)] : []);
    }
  });

  it('is what a URL that was given out can still bring, though neither row nor object is there', async () => {
    const [late, ended, elsewhere] = [named('a/b'), named('a'), named('c')].map(formatKey);
    const note = (name: string | undefined, seconds: number) =>
      fixture.sql.query(`INSERT INTO ${fixture.schema}.upload_url VALUES ($1, now() + $2 * interval '1 second')`, [
        name,
        seconds,
      ]);
    await note(late, 60);
    await note(ended, -1);
    await note(elsewhere, 60);
    const request = {
      id: randomUUID(),
      ...{ selector: parseSelector({ namespace, prefix: 'a' }), withSameDigest: false, isBlocking: false },
      ...{ reason: 'r', requestedBy: 'b' },
    };
    await takedowns.request(request);
    expect(await prepareTakedown(request, options())).toBe(0);
    expect((await takedowns.names(request.id, '', 9)).map(({ physicalKey }) => physicalKey)).toEqual([late]);
    await takedowns.accept(request.id);
    expect((await takedowns.writers(request.id)).urls).toBe(1);
    // who brings the bytes now finds a row that takes nothing in
    expect((await catalog.lookup(parseKey(late ?? '')))?.state).toBe('taken_down');
  });

  it('is done page by page', async () => {
    const infos = Array.from({ length: 2500 }, (): BlobInfo => ({ key: formatKey(newKey(namespace)), size: 1 }));
    const listing = { can: store.can, list: () => ReadableStream.from(infos) as unknown as AsyncIterable<BlobInfo> };
    const id = randomUUID();
    const request = { id, selector: parseSelector({ namespace, prefix: 'a' }), withSameDigest: false };
    await takedowns.request({ ...request, isBlocking: false, reason: 'a test', requestedBy: 'me' });
    const all = { ...request, selector: { namespace } };
    expect(await prepareTakedown(all, options({ store: listing }))).toBe(2500);
    expect(await takedowns.names(id, '', 3000)).toHaveLength(2500);
  });
});

/** An edge as a mark of the collection leaves it. */
async function hold(externalId: string, { digest }: BlobKey): Promise<void> {
  const { schema, sql } = fixture;
  const name = `INSERT INTO ${schema}.temporal_namespace (cluster, name, cluster_id, namespace_id, server_version)
    VALUES ('prod', 'n', 'c', 'n', '1') ON CONFLICT (cluster, name) DO UPDATE SET cluster_id = 'c' RETURNING id`;
  const [{ id }] = (await sql.query(name)).rows;
  const holder = `INSERT INTO ${schema}.holder (namespace_id, kind, external_id) VALUES ($1, 'run', $2) RETURNING id`;
  const [row] = (await sql.query(holder, [id, externalId])).rows;
  const edge = `INSERT INTO ${schema}.edge (holder_id, digest, namespace) VALUES ($1, decode($2, 'hex'), '')`;
  await sql.query(edge, [row.id, digest.slice('sha256:'.length)]);
}
