/** Postgres goes away and comes back; replicas hear of each other; a catalog that can't hear does not remember. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { logicalKey } from './blob-record.js';
import type { BlobRow } from './catalog.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.js';
import { type CatalogFixture, makeLive, newKey, openFixture } from './postgres-catalog-fixture.js';

let dataDir: string;
let postgres: EmbeddedPostgres;
let fixture: CatalogFixture;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'lps-catalog-'));
  postgres = await startEmbeddedPostgres({ dataDir });
});
afterAll(async () => {
  await postgres?.stop();
  await rm(dataDir, { recursive: true, force: true });
});
beforeEach(() => {
  fixture = openFixture(postgres.url);
});
afterEach(() => fixture.close());

/** Changes a row behind the back of every cache. */
async function damageSilently(row: BlobRow): Promise<void> {
  const { schema, sql } = fixture;
  await sql.query(`ALTER TABLE ${schema}.blob DISABLE TRIGGER USER;
    UPDATE ${schema}.blob SET state = 'damaged', damaged_at = now() WHERE id = ${row.id};
    ALTER TABLE ${schema}.blob ENABLE TRIGGER USER`);
}

const unavailable = { code: 'CATALOG_UNAVAILABLE' };

describe('row cache', () => {
  it('serves lookups without asking Postgres', async () => {
    const catalog = await fixture.open();
    const key = newKey();
    const row = await makeLive(catalog, key);
    await damageSilently(row);
    expect((await catalog.lookup(key))?.state).toBe('live');
    expect((await catalog.lookupMany([key]))[0]?.state).toBe('live');
  });

  it('drops a row that another replica marks damaged', async () => {
    const [here, there] = [await fixture.open(), await fixture.open()];
    const key = newKey();
    const row = await makeLive(here, key);
    expect((await there.lookup(key))?.state).toBe('live');
    await here.markDamaged(row);
    expect((await here.lookup(key))?.state).toBe('damaged');
    await there.events.until('evicted');
    expect((await there.lookup(key))?.state).toBe('damaged');
  });

  it('hears of every way out of live, whoever takes it, and of no other change', async () => {
    const catalog = await fixture.open();
    const { schema, sql } = fixture;
    const rows = await Promise.all(Array.from({ length: 5 }, () => makeLive(catalog, newKey())));
    const [first, ...others] = rows.map(({ id }) => id);
    await sql.query(`UPDATE ${schema}.blob SET touched_at = now(), state = 'live' WHERE id = $1`, [first]);
    const ways = ["'quarantined', quarantined_at = now()", "'deleting'", "'taken_down'"];
    for (const [index, way] of ways.entries()) {
      await sql.query(`UPDATE ${schema}.blob SET state = ${way} WHERE id = $1`, [others[index]]);
    }
    await sql.query(`DELETE FROM ${schema}.blob WHERE id = $1`, [others[3]]);
    await catalog.events.until('evicted', 4);
    expect(catalog.events.count('evicted')).toBe(4);
  });

  it('is dropped with the connection that listens, and comes back with it', async () => {
    const catalog = await fixture.open();
    const key = newKey();
    await damageSilently(await makeLive(catalog, key));
    expect((await catalog.lookup(key))?.state).toBe('live');
    await fixture.sql.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lps catalog listener'`,
    );
    await catalog.events.until('listen_lost');
    expect((await catalog.lookup(key))?.state).toBe('damaged');
    await catalog.events.until('listening', 2);
    expect((await catalog.lookup(key))?.state).toBe('damaged');
  });

  it('forgets rows by key, and uses none while it may not', async () => {
    let mayUseRows = true;
    const catalog = await fixture.open({ mayUseRows: () => mayUseRows });
    const [key, other] = [newKey(), newKey()];
    for (const each of [key, other]) await damageSilently(await makeLive(catalog, each));
    catalog.forgetRows([logicalKey(key)]);
    expect((await catalog.lookup(key))?.state).toBe('damaged');
    expect((await catalog.lookup(other))?.state).toBe('live');
    mayUseRows = false;
    expect((await catalog.lookup(other))?.state).toBe('damaged');
    mayUseRows = true;
    expect((await catalog.lookup(other))?.state).toBe('live');
    catalog.forgetRows();
    expect((await catalog.lookup(other))?.state).toBe('damaged');
  });

  it('never remembers that a blob is absent', async () => {
    const [here, there] = [await fixture.open(), await fixture.open()];
    const key = newKey();
    expect(await here.lookup(key)).toBeUndefined();
    await makeLive(there, key);
    expect((await here.lookup(key))?.state).toBe('live');
  });
});

describe('outages', () => {
  it('stopped and started again: every call is refused retryably, then all goes on', async () => {
    const catalog = await fixture.open();
    const [key, other] = [newKey(), newKey()];
    const row = await makeLive(catalog, key);
    const begun = await catalog.begin(other, 10);
    if (begun.kind !== 'upload') throw new Error('present');
    await postgres.stop();
    await catalog.events.until('listen_lost');
    const { lease } = begun;
    const refused = [
      () => catalog.lookup(key),
      () => catalog.lookupMany([key]),
      () => catalog.begin(newKey(), 10),
      () => catalog.commit(lease, 10),
      () => catalog.renew(lease),
      () => catalog.touch([row]),
      () => catalog.adopt(key, row.physicalKey, 10),
      () => catalog.mayTakeIn(key, row.physicalKey),
      () => catalog.markDamaged(row),
      () => catalog.sweepLeases(async () => 10, 10),
      () => catalog.list('orders', { limit: 10 }),
      () => catalog.ping(),
      () => fixture.open({ schema: 'another' }),
    ];
    for (const call of refused) await expect(call(), String(call)).rejects.toMatchObject(unavailable);
    await catalog.abandon(lease);
    postgres = await startEmbeddedPostgres({ dataDir });
    expect(postgres.url).toBe(fixture.url);
    await catalog.ping();
    expect((await catalog.commit(lease, 10))?.outcome).toBe('created');
    await catalog.events.until('listening', 2);
    expect((await catalog.lookup(key))?.state).toBe('live');
    expect(catalog.stats().waiting).toBe(0);
  });

  it('a statement that waits too long, or whose connection is ended, is refused retryably', async () => {
    const hasty = await fixture.open({ statementTimeoutMs: 300, cacheEntries: 0 });
    const patient = await fixture.open({ cacheEntries: 0 });
    const key = newKey();
    const row = await makeLive(patient, key);
    await fixture.age(key, 86_400_000);
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(`SELECT FROM ${fixture.schema}.blob WHERE id = $1 FOR UPDATE`, [row.id]);
    await expect(hasty.touch([row])).rejects.toMatchObject(unavailable);
    const ended = patient.touch([row]).then(
      () => 'touched',
      (error: unknown) => error,
    );
    const terminate = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE application_name = 'lps catalog' AND wait_event_type = 'Lock'`;
    while ((await fixture.sql.query(terminate)).rows.length === 0);
    expect(await ended).toMatchObject(unavailable);
    await client.query('ROLLBACK');
    client.release();
    expect(await patient.touch([row])).toMatchObject([{ state: 'live', touchDue: false }]);
  });

  it('read-only: writes are refused retryably, reads go on', async () => {
    const key = newKey();
    await makeLive(await fixture.open({ cacheEntries: 0 }), key);
    const url = `${fixture.url}${fixture.url.includes('?') ? '&' : '?'}options=-c%20default_transaction_read_only%3Don`;
    const standby = await fixture.open({ url, cacheEntries: 0 });
    expect((await standby.lookup(key))?.state).toBe('live');
    await expect(standby.begin(newKey(), 10)).rejects.toMatchObject(unavailable);
  });

  it('too many connections: refused retryably', async () => {
    await fixture.open({ cacheEntries: 0 });
    await fixture.sql.query(`CREATE ROLE ${fixture.schema} LOGIN CONNECTION LIMIT 0`);
    const url = fixture.url.replace(/\/\/[^@]*@/, `//${fixture.schema}@`);
    await expect(fixture.open({ url })).rejects.toMatchObject(unavailable);
    await fixture.sql.query(`DROP ROLE ${fixture.schema}`);
  });

  it('a database or user that does not exist is a mistake in the configuration', async () => {
    const options = { cacheEntries: 0 };
    const database = fixture.url.replace(/(\/\/[^/]*\/)[^?]*/, '$1nowhere');
    await expect(fixture.open({ ...options, url: database })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    const user = fixture.url.replace(/\/\/[^@]*@/, '//nobody_at_all@');
    await expect(fixture.open({ ...options, url: user })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});
