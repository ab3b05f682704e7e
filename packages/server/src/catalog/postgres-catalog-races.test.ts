import type { BlobKey } from '@large-payload/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { keyColumns, logicalKey } from './blob-record.js';
import type { Catalog } from './catalog.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.js';
import { beginUpload, type CatalogFixture, makeLive, newKey, openFixture } from './postgres-catalog-fixture.js';

const dayMs = 86_400_000;
let postgres: EmbeddedPostgres;
let fixture: CatalogFixture;
let catalog: Catalog;

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  fixture = openFixture(postgres.url);
  catalog = await fixture.open({ cacheEntries: 0 });
});
afterAll(async () => {
  await fixture?.close();
  await postgres?.stop();
});

describe('at once', () => {
  it('64 begins of one new key agree on the place, and one of 64 commits creates', async () => {
    const key = newKey();
    const leases = await Promise.all(Array.from({ length: 64 }, () => beginUpload(catalog, key)));
    expect(new Set(leases.map(({ id }) => id)).size).toBe(64);
    expect(new Set(leases.map(({ physicalKey, generation }) => `${physicalKey} ${generation}`)).size).toBe(1);
    const commits = await Promise.all(leases.map((held) => catalog.commit(held, 10)));
    expect(commits.filter((commit) => commit?.outcome === 'created')).toHaveLength(1);
    expect(commits.filter((commit) => commit?.outcome === 'exists')).toHaveLength(63);
    expect(await fixture.read(key)).toMatchObject({ state: 'live', leases: 0 });
  });

  it('64 commits of leases whose row was swept: one creates', async () => {
    const key = newKey();
    const leases = await Promise.all(Array.from({ length: 64 }, () => beginUpload(catalog, key)));
    await fixture.force(key, 'absent');
    const commits = await Promise.all(leases.map((held) => catalog.commit(held, 10)));
    expect(commits.filter((commit) => commit?.outcome === 'created')).toHaveLength(1);
    expect(await fixture.read(key)).toMatchObject({ state: 'live', leases: 0 });
  });

  it('a commit whose row vanished, and is made anew by another commit meanwhile, is not the first', async () => {
    const key = newKey();
    const held = await beginUpload(catalog, key);
    await fixture.force(key, 'absent');
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(
      `INSERT INTO ${fixture.schema}.blob (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix)
       VALUES ($1, $2, $3, $4, 10, 'live', 1, '')`,
      keyColumns(key),
    );
    const commit = catalog.commit(held, 10);
    await fixture.untilWaiting();
    await client.query('COMMIT');
    client.release();
    expect(await commit).toMatchObject({ outcome: 'exists', row: { state: 'live', generation: 1 } });
    expect((await fixture.read(key))?.leases).toBe(0);
  });

  it('begins of a deleted key start one new generation', async () => {
    const key = newKey();
    await fixture.force(key, 'deleting');
    const leases = await Promise.all(Array.from({ length: 16 }, () => beginUpload(catalog, key)));
    expect(new Set(leases.map(({ physicalKey, generation }) => `${physicalKey} ${generation}`)).size).toBe(1);
    expect(leases[0]?.generation).toBe(2);
  });

  it('begin against abandon never leaves a lease without its row', async () => {
    const other = await fixture.open({ cacheEntries: 0 });
    for (let round = 0; round < 100; round++) {
      const key = newKey();
      const first = await beginUpload(catalog, key);
      const [second] = await Promise.all([beginUpload(other, key), catalog.abandon(first)]);
      expect(await fixture.read(key)).toMatchObject({ state: 'uploading', leases: 1 });
      await other.abandon(second);
      expect(await fixture.read(key)).toBeUndefined();
    }
  });

  it('a begin that comes between the sweep and its settling keeps the row', async () => {
    await fixture.removeLeases();
    const key = newKey();
    await beginUpload(catalog, key);
    await fixture.expireLeases();
    const ended = await catalog.sweepLeases(async () => {
      await beginUpload(catalog, key);
      return undefined;
    }, 10);
    expect(ended).toBe(1);
    expect(await fixture.read(key)).toMatchObject({ state: 'uploading', leases: 1 });
  });

  it('a commit or a renewal that comes between the sweep and its settling wins', async () => {
    await fixture.removeLeases();
    const [committed, renewed] = [newKey(), newKey()];
    const toCommit = await beginUpload(catalog, committed);
    const toRenew = await beginUpload(catalog, renewed);
    await fixture.expireLeases();
    await catalog.sweepLeases(async (physicalKey) => {
      if (physicalKey === toCommit.physicalKey) await catalog.commit(toCommit, 10);
      else expect(await catalog.renew(toRenew)).toBe(true);
      return undefined;
    }, 10);
    expect((await fixture.read(committed))?.state).toBe('live');
    expect(await fixture.read(renewed)).toMatchObject({ state: 'uploading', leases: 1 });
  });

  it('what was taken down or deleted between the sweep and its settling stays so, though the object is there', async () => {
    for (const state of ['taken_down', 'deleting', 'damaged'] as const) {
      await fixture.removeLeases();
      const key = newKey();
      await beginUpload(catalog, key);
      await fixture.expireLeases();
      await catalog.sweepLeases(async () => {
        await fixture.force(key, state);
        return 10;
      }, 10);
      expect(await fixture.read(key)).toMatchObject({ state, leases: 0 });
    }
  });

  it('two sweepers share the work, and a row is never asked about twice', async () => {
    await fixture.removeLeases();
    const other = await fixture.open({ cacheEntries: 0 });
    for (let index = 0; index < 60; index++) await beginUpload(catalog, newKey());
    await fixture.expireLeases();
    const asked: string[] = [];
    const sizeOf = async (physicalKey: string): Promise<number | undefined> => {
      asked.push(physicalKey);
      return asked.length % 2 === 0 ? 10 : undefined;
    };
    const ended = await Promise.all([catalog.sweepLeases(sizeOf, 40), other.sweepLeases(sizeOf, 40)]);
    expect(ended[0] + ended[1]).toBe(60);
    expect(new Set(asked).size).toBe(60);
  });

  it('commits race a sweep that finds nothing: whatever was committed is live', async () => {
    await fixture.removeLeases();
    const keys = Array.from({ length: 40 }, () => newKey());
    const leases = await Promise.all(keys.map((key) => beginUpload(catalog, key)));
    await fixture.expireLeases();
    const [commits] = await Promise.all([
      Promise.all(leases.map((held) => catalog.commit(held, 10))),
      catalog.sweepLeases(async () => undefined, 40),
    ]);
    expect(commits.every((commit) => commit?.outcome === 'created')).toBe(true);
    for (const key of keys) expect((await fixture.read(key))?.state).toBe('live');
  });

  it('a renewal between the sweep and its settling keeps the lease, though the object is there', async () => {
    await fixture.removeLeases();
    const key = newKey();
    const held = await beginUpload(catalog, key);
    await fixture.expireLeases();
    const ended = await catalog.sweepLeases(async () => ((await catalog.renew(held)) ? 10 : undefined), 10);
    expect(ended).toBe(0);
    expect(await fixture.read(key)).toMatchObject({ state: 'live', leases: 1 });
    expect((await catalog.commit(held, 10))?.outcome).toBe('exists');
  });

  it('calls beyond what could ever be served in time are refused at once', async () => {
    const narrow = await fixture.open({ cacheEntries: 0, pool: { max: 1 } });
    const row = await makeLive(catalog, newKey());
    await fixture.sql.query(`UPDATE ${fixture.schema}.blob SET touched_at = touched_at - interval '1 day'`);
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(`SELECT FROM ${fixture.schema}.blob WHERE id = $1 FOR UPDATE`, [row.id]);
    const touches = Promise.allSettled(Array.from({ length: 230 }, () => narrow.touch([row])));
    await fixture.untilWaiting();
    await expect(narrow.ping()).rejects.toThrow('too many calls are waiting');
    await client.query('COMMIT');
    client.release();
    expect((await touches).filter(({ status }) => status === 'fulfilled').length).toBeGreaterThanOrEqual(200);
    await narrow.ping();
  });

  it('touches of many rows in any order do not deadlock', async () => {
    const deadlocks = async (): Promise<unknown> =>
      (await fixture.sql.query('SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()')).rows;
    const before = await deadlocks();
    const replica = await fixture.open({ cacheEntries: 0 });
    const rows = await Promise.all(Array.from({ length: 40 }, () => makeLive(catalog, newKey())));
    for (let round = 0; round < 5; round++) {
      await fixture.sql.query(`UPDATE ${fixture.schema}.blob SET touched_at = touched_at - interval '1 day'`);
      const reversed = rows.toReversed();
      const results = await Promise.all([rows, reversed, rows, reversed].map((some) => replica.touch(some)));
      expect(results.map((result) => result.length)).toEqual([40, 40, 40, 40]);
      expect(results.flat().every((row) => !row.touchDue)).toBe(true);
    }
    await replica.close(); // its connections report what they counted
    expect(await deadlocks()).toEqual(before);
  });

  it('a touch that waits for a deletion sees it', async () => {
    const key = newKey();
    const row = await makeLive(catalog, key);
    await fixture.age(key, dayMs);
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(`UPDATE ${fixture.schema}.blob SET state = 'deleting' WHERE id = $1`, [row.id]);
    const touched = catalog.touch([row]);
    await fixture.untilWaiting();
    await client.query('COMMIT');
    client.release();
    expect(await touched).toMatchObject([{ state: 'deleting' }]);
  });

  // Postgres checks constraints on the version of the statement's snapshot before it finds the newer one.
  it('a touch that waits for a healing, and an adoption that waits for a damage, find the row as it is then', async () => {
    const key = newKey();
    const row = await makeLive(catalog, key);
    const meanwhile = async (set: string, call: () => Promise<unknown>): Promise<unknown> => {
      const client = await fixture.sql.connect();
      await client.query('BEGIN');
      await client.query(`UPDATE ${fixture.schema}.blob SET ${set} WHERE id = $1`, [row.id]);
      const called = call();
      await fixture.untilWaiting();
      await client.query('COMMIT');
      client.release();
      return called;
    };
    await fixture.force(key, 'damaged');
    const healed = `state = 'live', damaged_at = NULL, touched_at = now() - interval '1 day'`;
    expect(await meanwhile(healed, () => catalog.touch([row]))).toMatchObject([{ state: 'live', touchDue: false }]);
    await fixture.force(key, 'quarantined');
    const damaged = `state = 'damaged', damaged_at = now(), quarantined_at = NULL`;
    const adopted = await meanwhile(damaged, () => catalog.adopt(key, row.physicalKey, 10));
    expect(adopted).toMatchObject({ state: 'live', generation: 2 });
  });

  it('a begin that waits for a deletion starts the next generation', async () => {
    const key = newKey();
    const row = await makeLive(catalog, key);
    await fixture.age(key, dayMs);
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(`UPDATE ${fixture.schema}.blob SET state = 'deleting' WHERE id = $1`, [row.id]);
    const begun = catalog.begin(key, 10);
    await fixture.untilWaiting();
    await client.query('COMMIT');
    client.release();
    expect(await begun).toMatchObject({ kind: 'upload', lease: { generation: 2 } });
  });

  /** Takes a row down in a transaction that is open while the call waits for it. */
  async function whileTakingDown<T>(key: BlobKey, blocks: boolean, call: () => Promise<T>): Promise<T> {
    const { schema } = fixture;
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(
      `UPDATE ${schema}.blob SET state = 'taken_down', quarantined_at = NULL, damaged_at = NULL WHERE digest = $1`,
      [keyColumns(key)[2]],
    );
    if (blocks) {
      await client.query(
        `INSERT INTO ${schema}.block (namespace, digest, is_any_prefix, prefix, takedown_id)
         SELECT namespace, digest, true, '', gen_random_uuid() FROM ${schema}.blob WHERE digest = $1`,
        [keyColumns(key)[2]],
      );
    }
    const called = call();
    called.catch(() => undefined);
    await fixture.untilWaiting();
    await client.query('COMMIT');
    client.release();
    return called;
  }

  it('a begin that waits for a takedown starts the next generation, made then, under another name', async () => {
    const key = newKey();
    const row = await makeLive(catalog, key);
    await fixture.age(key, dayMs);
    const { schema } = fixture;
    await fixture.sql.query(`UPDATE ${schema}.blob SET created_at = now() - interval '1 day' WHERE id = $1`, [row.id]);
    const begun = await whileTakingDown(key, false, () => catalog.begin(key, 10));
    expect(begun).toMatchObject({ kind: 'upload', lease: { generation: 2 } });
    expect(begun.kind === 'upload' && begun.lease.physicalKey).not.toBe(row.physicalKey);
    const young = `SELECT created_at > now() - interval '1 hour' AS young FROM ${schema}.blob WHERE id = $1`;
    expect((await fixture.sql.query(young, [row.id])).rows).toEqual([{ young: true }]);
  });

  it('a begin that waits for a takedown which blocks is refused, though its snapshot had no block', async () => {
    const key = newKey();
    await makeLive(catalog, key);
    await fixture.age(key, dayMs);
    const begun = whileTakingDown(key, true, () => catalog.begin(key, 10));
    await expect(begun).rejects.toMatchObject({ code: 'BLOB_BLOCKED' });
    expect(await fixture.read(key)).toMatchObject({ state: 'taken_down', generation: 1, leases: 0 });
  });

  it('a begin that waits for the deletion of what may not be stored again is refused', async () => {
    const key = newKey();
    const row = await makeLive(catalog, key);
    await fixture.age(key, dayMs);
    await fixture.block(key);
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(`UPDATE ${fixture.schema}.blob SET state = 'deleting' WHERE id = $1`, [row.id]);
    const refused = expect(catalog.begin(key, 10)).rejects.toMatchObject({ code: 'BLOB_BLOCKED' });
    await fixture.untilWaiting();
    await client.query('COMMIT');
    client.release();
    await refused;
    expect(await fixture.read(key)).toMatchObject({ state: 'deleting', leases: 0 });
  });

  it('a commit, and an adoption, that wait for a takedown are refused; the next upload is new data', async () => {
    const key = newKey();
    const held = await beginUpload(catalog, key);
    expect(await whileTakingDown(key, false, () => catalog.commit(held, 10))).toBeUndefined();
    expect(await fixture.read(key)).toMatchObject({ state: 'taken_down', leases: 0 });
    expect(await makeLive(catalog, key)).toMatchObject({ state: 'live', generation: 2 });
    expect(await catalog.commit(held, 10)).toMatchObject({ outcome: 'exists', row: { generation: 2 } });
    const other = newKey();
    await beginUpload(catalog, other);
    expect(await whileTakingDown(other, true, () => catalog.adopt(other, logicalKey(other), 10))).toBeUndefined();
    expect(await fixture.read(other)).toMatchObject({ state: 'taken_down' });
  });

  it('the last touch never goes back when one waits for the other', async () => {
    const key = newKey();
    const row = await makeLive(catalog, key);
    await fixture.age(key, dayMs);
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(`SELECT FROM ${fixture.schema}.blob WHERE id = $1 FOR UPDATE`, [row.id]);
    const touched = catalog.touch([row]);
    await fixture.untilWaiting();
    await client.query(
      `UPDATE ${fixture.schema}.blob SET touched_at = clock_timestamp() + interval '1 minute' WHERE id = $1`,
      [row.id],
    );
    await client.query('COMMIT');
    client.release();
    expect((await touched)[0]?.touchedAt.getTime()).toBeGreaterThan(Date.now() + 50_000);
  });
});
