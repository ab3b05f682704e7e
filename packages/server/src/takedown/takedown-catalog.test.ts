import { randomUUID } from 'node:crypto';
import { type BlobKey, formatKey, LpsError, newGeneration } from '@large-payload/core';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { keyColumns } from '../catalog/blob-record.js';
import type { Catalog } from '../catalog/catalog.js';
import { type Database, openDatabase } from '../catalog/database.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import {
  beginUpload,
  type CatalogFixture,
  makeLive,
  newKey,
  openFixture,
} from '../catalog/postgres-catalog-fixture.js';
import { parseSelector } from './selector.js';
import { openTakedownCatalog, type TakedownCatalog, type TakedownRequest } from './takedown-catalog.js';

let postgres: EmbeddedPostgres;
let fixture: CatalogFixture;
let catalog: Catalog;
let database: Database;
let takedowns: TakedownCatalog;
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
  namespace = `n${randomUUID()}`;
});

const key = (prefix?: string): BlobKey => newKey(namespace, prefix);

async function asked(selector: object, more: Partial<TakedownRequest> = {}): Promise<string> {
  const id = randomUUID();
  await takedowns.request({
    ...{ id, selector: parseSelector({ namespace, ...selector }), withSameDigest: false, isBlocking: false },
    ...{ reason: 'a test', requestedBy: 'token ops', ...more },
  });
  return id;
}

async function accepted(selector: object, more: Partial<TakedownRequest> = {}): Promise<string> {
  const id = await asked(selector, more);
  await takedowns.accept(id);
  while (!(await takedowns.settled(id)));
  await takedowns.accept(id);
  await takedowns.setAccepted(id);
  return id;
}

const stateOf = async (blob: BlobKey): Promise<string | undefined> => (await fixture.read(blob))?.state;
const namesOf = async (id: string) => (await takedowns.names(id, '', 1000)).map(({ physicalKey }) => physicalKey);

/** A transaction of an upload, held open. */
async function held(work: (client: pg.Client) => Promise<void>): Promise<void> {
  const client = new pg.Client({ connectionString: postgres.url, application_name: 'lps catalog' });
  await client.connect();
  try {
    await client.query('BEGIN');
    await work(client);
  } finally {
    await client.end();
  }
}

const insertUploading = (client: pg.Client, blob: BlobKey) =>
  client.query(
    `INSERT INTO ${fixture.schema}.blob (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix)
     VALUES ($1, $2, $3, $4, 10, 'uploading', 1, '')`,
    keyColumns(blob),
  );

describe('a takedown in the catalog', () => {
  it('takes down what it means, in every state, and nothing else', async () => {
    const states = ['live', 'quarantined', 'uploading', 'damaged', 'deleting', 'gone', 'absent'] as const;
    const meantKeys = states.map((state) => ({ state, blob: key('a/b') }));
    const others = [key('a'), key('a/bc'), key()];
    for (const { state, blob } of meantKeys) await fixture.force(blob, state);
    for (const blob of others) await makeLive(catalog, blob);
    const id = await accepted({ prefix: 'a/b' });
    const after = await Promise.all(meantKeys.map(async ({ state, blob }) => [state, await stateOf(blob)]));
    expect(Object.fromEntries(after)).toEqual({
      ...{ live: 'taken_down', quarantined: 'taken_down', uploading: 'taken_down', damaged: 'taken_down' },
      ...{ deleting: 'taken_down', gone: 'gone', absent: undefined },
    });
    expect(await Promise.all(others.map(stateOf))).toEqual(['live', 'live', 'live']);
    const erased = meantKeys.filter(({ state }) => state !== 'gone' && state !== 'absent');
    expect((await namesOf(id)).sort()).toEqual(erased.map(({ blob }) => formatKey(blob)).sort());
    expect(await takedowns.get(id)).toMatchObject({ state: 'accepted', objects: 5, erased: 0, reason: 'a test' });
  });

  it('erases earlier objects of a blob that wait for their deletion, and its present one', async () => {
    const blob = key();
    const suffix = newGeneration();
    await fixture.force(blob, 'live', { generation: 2, suffix });
    const { id: blobId } = (await fixture.read(blob)) ?? { id: 0n };
    const text = `INSERT INTO ${fixture.schema}.retired_object (blob_id, generation, physical_key, size) VALUES ($1, 1, $2, 1)`;
    await fixture.sql.query(text, [blobId, formatKey(blob)]);
    expect(await namesOf(await accepted({ key: formatKey(blob) }))).toEqual([
      formatKey(blob),
      `${formatKey(blob)}~${suffix}`,
    ]);
  });

  it('takes an object down that the catalog did not know: nobody takes it in any more', async () => {
    const blob = key('p');
    const id = await asked({ prefix: 'p' });
    await takedowns.addObjects(id, [{ physicalKey: formatKey(blob), key: formatKey(blob), size: 7 }]);
    await takedowns.accept(id);
    expect(await stateOf(blob)).toBe('taken_down');
    await expect(catalog.adopt(blob, formatKey(blob), 7)).resolves.toBeUndefined();
    expect(await namesOf(id)).toEqual([formatKey(blob)]);
  });

  it('erases an object that stands beside a blob, and leaves the blob alone that was uploaded at another time', async () => {
    const blob = key();
    await makeLive(catalog, blob);
    const orphan = `${formatKey(blob)}~${newGeneration()}`;
    const id = await asked({ uploadedUntil: '2020-01-01T00:00:00Z' });
    await takedowns.addObjects(id, [{ physicalKey: orphan, key: formatKey(blob), size: 7 }]);
    await takedowns.accept(id);
    expect(await stateOf(blob)).toBe('live');
    expect(await namesOf(id)).toEqual([orphan]);
  });

  it('takes down what a transaction brought in that began before, once that has ended', () =>
    held(async (client) => {
      const blob = key('p');
      await insertUploading(client, blob);
      const id = await asked({ prefix: 'p' });
      await takedowns.accept(id);
      expect([await takedowns.settled(id), await stateOf(blob)]).toEqual([false, undefined]);
      await client.query('COMMIT');
      while (!(await takedowns.settled(id)));
      const { added } = await takedowns.accept(id);
      expect([added, await stateOf(blob), await namesOf(id)]).toEqual([1, 'taken_down', [formatKey(blob)]]);
    }));

  it('waits for a statement that began before, and has written nothing yet', () =>
    held(async (client) => {
      await client.query('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ');
      await client.query('SELECT 1'); // a snapshot, and no number
      const id = await asked({ prefix: 'p' });
      await takedowns.accept(id);
      expect(await takedowns.settled(id)).toBe(false);
      await client.query('COMMIT');
      while (!(await takedowns.settled(id)));
    }));

  it('leaves alone what came after it, unless that is blocked', async () => {
    for (const isBlocking of [false, true]) {
      const blob = key('p');
      const id = await asked({ prefix: 'p' }, { isBlocking });
      await takedowns.accept(id);
      await fixture.force(blob, 'live');
      await takedowns.accept(id);
      expect(await stateOf(blob)).toBe(isBlocking ? 'taken_down' : 'live');
      await fixture.force(blob, 'absent');
    }
  });

  it('waits for an upload that has the row, and takes it down', () =>
    held(async (client) => {
      const blob = key();
      await beginUpload(catalog, blob);
      const commit = `UPDATE ${fixture.schema}.blob SET state = 'live' WHERE namespace = $1 AND state = 'uploading'`;
      await client.query(commit, [namespace]);
      const id = await asked({ key: formatKey(blob) });
      const accepting = takedowns.accept(id);
      await fixture.untilWaiting();
      await client.query('COMMIT');
      await accepting;
      expect(await stateOf(blob)).toBe('taken_down');
    }));

  it('refuses the commit of an upload that was under way', async () => {
    const blob = key();
    const lease = await beginUpload(catalog, blob);
    const id = await accepted({ key: formatKey(blob) });
    expect(await takedowns.writers(id)).toMatchObject({ leases: 1, urls: 0 });
    const committed = await catalog.commit(lease, 10).catch((error: unknown) => error);
    expect(committed === undefined || committed instanceof LpsError).toBe(true);
    if (committed !== undefined) await catalog.abandon(lease);
    expect(await stateOf(blob)).toBe('taken_down');
    expect((await takedowns.writers(id)).leases).toBe(0);
  });

  it('erases copies under other keys of the namespace only when that is asked for', async () => {
    const blob = key('a');
    const copy = { ...blob, prefix: 'b' };
    const elsewhere = { ...blob, namespace: `${namespace}x` };
    for (const one of [blob, copy, elsewhere]) await makeLive(catalog, one);
    await accepted({ prefix: 'a' });
    expect(await Promise.all([blob, copy, elsewhere].map(stateOf))).toEqual(['taken_down', 'live', 'live']);
    const again = await accepted({ prefix: 'a' }, { withSameDigest: true });
    expect(await Promise.all([blob, copy, elsewhere].map(stateOf))).toEqual(['taken_down', 'taken_down', 'live']);
    // what the first one has still to erase, the second one waits for as well
    expect(await namesOf(again)).toEqual([formatKey(blob), formatKey(copy)]);
    const found = await takedowns.copies(namespace, [blob.digest], undefined, 10);
    expect(found.blobs.map(({ key }) => key)).toEqual([formatKey(blob), formatKey(copy)]);
  });

  it('means by a workflow what Temporal said that it holds', async () => {
    const [holds, other] = [key(), key('a')];
    for (const one of [holds, other]) await makeLive(catalog, one);
    const id = await asked({ workflowId: 'w' });
    await takedowns.addDigests(id, [holds.digest]);
    await takedowns.accept(id);
    expect(await Promise.all([holds, other].map(stateOf))).toEqual(['taken_down', 'live']);
  });

  it('means the time of the upload, its first moment included', async () => {
    const blob = key();
    await makeLive(catalog, blob);
    const text = `SELECT created_at FROM ${fixture.schema}.blob WHERE namespace = $1`;
    const at: Date = (await fixture.sql.query(text, [namespace])).rows[0].created_at;
    const found = async (from: number, until: number): Promise<number> => {
      const [uploadedFrom, uploadedUntil] = [from, until].map((ms) => new Date(at.getTime() + ms).toISOString());
      const selector = parseSelector({ namespace, uploadedFrom, uploadedUntil });
      return (await takedowns.rows(selector, undefined, undefined, 10)).blobs.length;
    };
    expect([await found(0, 1), await found(-1, 0), await found(1, 2)]).toEqual([1, 0, 0]);
  });

  it('blocks the bytes under the prefix, or under any where none is named, until it is let go of', async () => {
    const [one, other] = [key('a/b'), key()];
    await makeLive(catalog, one);
    const first = await accepted({ prefix: 'a' }, { isBlocking: true });
    const second = await accepted({ digest: other.digest }, { isBlocking: true });
    const rest = { namespace, createdAt: expect.any(Date) };
    const blocks = await takedowns.blocks(namespace, 10);
    expect(blocks).toHaveLength(2);
    expect(blocks).toEqual(
      expect.arrayContaining([
        { ...rest, digest: one.digest, prefix: 'a/b', takedownId: first },
        { ...rest, digest: other.digest, takedownId: second },
      ]),
    );
    expect(await takedowns.unblock(namespace, one.digest, 'a')).toBe(0);
    expect(await takedowns.unblock(namespace, one.digest, 'a/b')).toBe(1);
    expect(await takedowns.unblock(namespace, other.digest, undefined)).toBe(1);
    expect(await takedowns.blocks(namespace, 10)).toEqual([]);
  });

  it('blocks what is gone as well, and what only an object of the store has brought in', async () => {
    const [gone, unknown] = [key('p'), key('p')];
    await fixture.force(gone, 'gone');
    const id = await asked({ prefix: 'p' }, { isBlocking: true });
    await takedowns.addObjects(id, [{ physicalKey: formatKey(unknown), key: formatKey(unknown), size: 7 }]);
    await takedowns.accept(id);
    const digests = (await takedowns.blocks(namespace, 10)).map(({ digest }) => digest);
    expect(digests.sort()).toEqual([gone.digest, unknown.digest].sort());
  });

  it('tells every node, once for each name', async () => {
    const blobs = [key('p'), key('p')];
    for (const one of blobs) await makeLive(catalog, one);
    const id = await asked({ prefix: 'p' });
    const { event, added } = await takedowns.accept(id);
    expect(added).toBe(2);
    expect(await takedowns.accept(id)).toEqual({ event, added: 0 });
    const text = `SELECT kind, key FROM ${fixture.schema}.event WHERE id > $1 ORDER BY key`;
    const { rows } = await fixture.sql.query(text, [event - 2n]);
    expect(rows).toEqual(
      blobs
        .map(formatKey)
        .sort()
        .map((one) => ({ kind: 'takedown', key: one })),
    );
  });

  it('is the same one when it is asked for again, and refuses another one of its id', async () => {
    const id = await asked({ prefix: 'p' });
    const again = { id, selector: parseSelector({ namespace, prefix: 'p' }), withSameDigest: false, isBlocking: false };
    const words = { reason: 'a test', requestedBy: 'somebody else' };
    expect(await takedowns.request({ ...again, ...words })).toMatchObject({ requestedBy: 'token ops' });
    await expect(takedowns.request({ ...again, ...words, isBlocking: true })).rejects.toThrow(/another takedown/);
  });

  it('lists what there is, the newest first, page by page', async () => {
    const ids = [await asked({ prefix: 'a' }), await asked({ prefix: 'b' }), await asked({ prefix: 'c' })].reverse();
    const first = await takedowns.list({ namespaces: [namespace], limit: 2 });
    const second = await takedowns.list({ namespaces: [namespace], limit: 2, after: first[1]?.id });
    expect([...first, ...second].map(({ id }) => id)).toEqual(ids);
    expect(await takedowns.list({ namespaces: [], limit: 2 })).toEqual([]);
    expect(await takedowns.unfinished()).toEqual(expect.arrayContaining(ids));
    await takedowns.fail(ids[0] ?? '', 'because');
    expect(await takedowns.get(ids[0] ?? '')).toMatchObject({ state: 'failed', problem: 'because' });
  });

  it('refuses more blobs than it can take down at once', { timeout: 180_000 }, async () => {
    const text = `INSERT INTO ${fixture.schema}.blob (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix)
      SELECT $1, 'p', sha256(n::text::bytea), sha256(''), 1, 'live', 1, '' FROM generate_series(1, 100001) n`;
    await fixture.sql.query(text, [namespace]);
    const id = await asked({ prefix: 'p' });
    await expect(takedowns.accept(id)).rejects.toThrow(/more than 100000 blobs.*in parts/);
    await fixture.sql.query(
      `UPDATE ${fixture.schema}.blob SET state = 'gone' WHERE digest = sha256('1') AND namespace = $1`,
      [namespace],
    );
    expect((await takedowns.accept(id)).added).toBe(100_000);
  });

  it('knows which objects of a store are in the catalog', async () => {
    const [live, gone, absent] = [key(), key(), key()];
    await makeLive(catalog, live);
    await fixture.force(gone, 'gone');
    const names = [live, gone, absent].map(formatKey);
    const orphan = `${names[0]}~${newGeneration()}`;
    expect(await takedowns.known([...names, orphan])).toEqual(new Set([names[0]]));
  });

  it('waits for URLs that were given out, and knows until when', async () => {
    const blob = key();
    await makeLive(catalog, blob);
    const id = await accepted({ key: formatKey(blob) });
    const text = `INSERT INTO ${fixture.schema}.upload_url VALUES ($1, now() + interval '1 hour')`;
    await fixture.sql.query(text, [formatKey(blob)]);
    expect(await takedowns.writers(id)).toEqual({ leases: 0, urls: 1, urlsUntil: expect.any(Date) });
    await fixture.sql.query(`UPDATE ${fixture.schema}.upload_url SET expires_at = now() WHERE physical_key = $1`, [
      formatKey(blob),
    ]);
    expect(await takedowns.writers(id)).toMatchObject({ leases: 0, urls: 0 });
  });

  it('keeps what was counted the first time, when it is erased again', async () => {
    const blob = key();
    await makeLive(catalog, blob);
    const id = await accepted({ key: formatKey(blob) });
    await takedowns.counted(id, new Map([[formatKey(blob), 3]]));
    await takedowns.counted(id, new Map([[formatKey(blob), 0]]));
    await takedowns.erased(id, [formatKey(blob)]);
    expect(await takedowns.sums(id)).toEqual({ objects: 3, bytes: 10 });
    await takedowns.complete(id, 'receipt', await takedowns.now());
    expect(await takedowns.get(id)).toMatchObject({ state: 'completed', erased: 1, hasReceipt: true });
    expect(await takedowns.receipt(id)).toBe('receipt');
  });
});
