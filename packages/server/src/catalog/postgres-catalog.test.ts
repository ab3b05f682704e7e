import { type BlobKey, isLpsError } from '@large-payload/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { keyColumns, logicalKey } from './blob-record.js';
import type { BlobRow, BlobState, Catalog, Lease } from './catalog.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.js';
import { type CatalogFixture, newKey, openFixture } from './postgres-catalog-fixture.js';

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

async function lease(key: BlobKey, from: Catalog = catalog): Promise<Lease> {
  const beginning = await from.begin(key, 10);
  if (beginning.kind !== 'upload') throw new Error('the blob is present');
  return beginning.lease;
}

async function makeLive(key: BlobKey, from: Catalog = catalog): Promise<BlobRow> {
  const commit = await from.commit(await lease(key, from), 10);
  if (commit === undefined) throw new Error('refused');
  return commit.row;
}

/** The state before, as the table below names it: the row is of generation 1, except in `newer …`, where it is of 2. */
type Before = BlobState | 'absent' | 'due' | 'newer uploading' | 'newer live' | 'newer deleting';

/** What a call answers, and behind the arrow what the row is then: state and generation, `*` when just touched. */
type Calls = Record<
  | 'begin'
  | 'commit'
  | 'heal'
  | 'abandon'
  | 'renew'
  | 'lookup'
  | 'touch'
  | 'adopt'
  | 'markDamaged'
  | 'sweepPresent'
  | 'sweepAbsent',
  (key: BlobKey, held: Lease) => Promise<string>
>;

const calls: Calls = {
  async begin(key) {
    const beginning = await catalog.begin(key, 10);
    if (beginning.kind === 'present') return `present${beginning.touched ? ', touched' : ''}`;
    const { physicalKey, overwrite, generation } = beginning.lease;
    const where = physicalKey === logicalKey(key) ? 'at the key' : 'elsewhere';
    return `upload ${generation} ${where}${overwrite ? ', overwrite' : ''}`;
  },
  commit: async (_key, held) => (await catalog.commit(held, 10))?.outcome ?? 'refused',
  heal: async (_key, held) => (await catalog.commit({ ...held, overwrite: true }, 10))?.outcome ?? 'refused',
  async abandon(_key, held) {
    await catalog.abandon(held);
    return 'done';
  },
  renew: async (_key, held) => String(await catalog.renew(held)),
  async lookup(key) {
    const row = await catalog.lookup(key);
    return row === undefined ? 'nothing' : `found${row.touchDue ? ', due' : ''}`;
  },
  async touch(key) {
    const row = await catalog.lookup(key);
    if (row === undefined) return 'nothing';
    const [touched] = await catalog.touch([row]);
    return touched?.state ?? 'nothing';
  },
  adopt: async (key) => (await catalog.adopt(key, logicalKey(key), 10))?.state ?? 'refused',
  async markDamaged(key) {
    const row = await catalog.lookup(key);
    if (row !== undefined) await catalog.markDamaged(row);
    return 'done';
  },
  async sweepPresent() {
    await fixture.expireLeases();
    return `ended ${await catalog.sweepLeases(async () => true, 10)}`;
  },
  async sweepAbsent() {
    await fixture.expireLeases();
    return `ended ${await catalog.sweepLeases(async () => false, 10)}`;
  },
};

/** Every state × every call. `commit`, `heal`, `abandon`, `renew` and the sweeps: of a lease on generation 1. */
const table: Record<Before, Record<keyof Calls, string>> = {
  absent: {
    begin: 'upload 1 at the key → uploading 1 *',
    commit: 'created → live 1 *',
    heal: 'created → live 1 *',
    abandon: 'done → absent',
    renew: 'true → absent',
    lookup: 'nothing → absent',
    touch: 'nothing → absent',
    adopt: 'live → live 1 *',
    markDamaged: 'done → absent',
    sweepPresent: 'ended 1 → absent',
    sweepAbsent: 'ended 1 → absent',
  },
  uploading: {
    begin: 'upload 1 at the key → uploading 1 *',
    commit: 'created → live 1 *',
    heal: 'created → live 1 *',
    abandon: 'done → absent',
    renew: 'true → uploading 1',
    lookup: 'found, due → uploading 1',
    touch: 'uploading → uploading 1',
    adopt: 'live → live 1 *',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → live 1 *',
    sweepAbsent: 'ended 1 → absent',
  },
  live: {
    begin: 'present → live 1',
    commit: 'exists → live 1 *',
    heal: 'exists → live 1 *',
    abandon: 'done → live 1',
    renew: 'true → live 1',
    lookup: 'found → live 1',
    touch: 'live → live 1',
    adopt: 'live → live 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → live 1',
    sweepAbsent: 'ended 1 → live 1',
  },
  due: {
    begin: 'present, touched → live 1 *',
    commit: 'exists → live 1 *',
    heal: 'exists → live 1 *',
    abandon: 'done → live 1',
    renew: 'true → live 1',
    lookup: 'found, due → live 1',
    touch: 'live → live 1 *',
    adopt: 'live → live 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → live 1',
    sweepAbsent: 'ended 1 → live 1',
  },
  quarantined: {
    begin: 'present, touched → live 1 *',
    commit: 'exists → live 1 *',
    heal: 'exists → live 1 *',
    abandon: 'done → quarantined 1',
    renew: 'true → quarantined 1',
    lookup: 'found, due → quarantined 1',
    touch: 'live → live 1 *',
    adopt: 'quarantined → quarantined 1',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → quarantined 1',
    sweepAbsent: 'ended 1 → quarantined 1',
  },
  deleting: {
    begin: 'upload 2 elsewhere → uploading 2 *',
    commit: 'refused → deleting 1',
    heal: 'refused → deleting 1',
    abandon: 'done → deleting 1',
    renew: 'true → deleting 1',
    lookup: 'found, due → deleting 1',
    touch: 'deleting → deleting 1',
    adopt: 'refused → deleting 1',
    markDamaged: 'done → deleting 1',
    sweepPresent: 'ended 1 → deleting 1',
    sweepAbsent: 'ended 1 → deleting 1',
  },
  gone: {
    begin: 'upload 2 elsewhere → uploading 2 *',
    commit: 'refused → gone 1',
    heal: 'refused → gone 1',
    abandon: 'done → gone 1',
    renew: 'true → gone 1',
    lookup: 'found, due → gone 1',
    touch: 'gone → gone 1',
    adopt: 'refused → gone 1',
    markDamaged: 'done → gone 1',
    sweepPresent: 'ended 1 → gone 1',
    sweepAbsent: 'ended 1 → gone 1',
  },
  damaged: {
    begin: 'upload 1 at the key, overwrite → damaged 1',
    commit: 'refused → damaged 1',
    heal: 'created → live 2 *',
    abandon: 'done → damaged 1',
    renew: 'true → damaged 1',
    lookup: 'found, due → damaged 1',
    touch: 'damaged → damaged 1',
    adopt: 'live → live 2 *',
    markDamaged: 'done → damaged 1',
    sweepPresent: 'ended 1 → damaged 1',
    sweepAbsent: 'ended 1 → damaged 1',
  },
  taken_down: {
    begin: 'BLOB_NOT_FOUND → taken_down 1',
    commit: 'refused → taken_down 1',
    heal: 'refused → taken_down 1',
    abandon: 'done → taken_down 1',
    renew: 'true → taken_down 1',
    lookup: 'found, due → taken_down 1',
    touch: 'taken_down → taken_down 1',
    adopt: 'refused → taken_down 1',
    markDamaged: 'done → taken_down 1',
    sweepPresent: 'ended 1 → taken_down 1',
    sweepAbsent: 'ended 1 → taken_down 1',
  },
  'newer uploading': {
    begin: 'upload 2 elsewhere → uploading 2 *',
    commit: 'refused → uploading 2',
    heal: 'refused → uploading 2',
    abandon: 'done → uploading 2',
    renew: 'true → uploading 2',
    lookup: 'found, due → uploading 2',
    touch: 'uploading → uploading 2',
    adopt: 'refused → uploading 2',
    markDamaged: 'done → damaged 2',
    sweepPresent: 'ended 1 → uploading 2',
    sweepAbsent: 'ended 1 → uploading 2',
  },
  'newer live': {
    begin: 'present, touched → live 2 *',
    commit: 'exists → live 2 *',
    heal: 'exists → live 2 *',
    abandon: 'done → live 2',
    renew: 'true → live 2',
    lookup: 'found, due → live 2',
    touch: 'live → live 2 *',
    adopt: 'live → live 2',
    markDamaged: 'done → damaged 2',
    sweepPresent: 'ended 1 → live 2',
    sweepAbsent: 'ended 1 → live 2',
  },
  'newer deleting': {
    begin: 'upload 3 elsewhere → uploading 3 *',
    commit: 'refused → deleting 2',
    heal: 'refused → deleting 2',
    abandon: 'done → deleting 2',
    renew: 'true → deleting 2',
    lookup: 'found, due → deleting 2',
    touch: 'deleting → deleting 2',
    adopt: 'refused → deleting 2',
    markDamaged: 'done → deleting 2',
    sweepPresent: 'ended 1 → deleting 2',
    sweepAbsent: 'ended 1 → deleting 2',
  },
};

async function bring(key: BlobKey, before: Before): Promise<void> {
  const newer = before.startsWith('newer ');
  const state = (before === 'due' ? 'live' : before.replace('newer ', '')) as BlobState | 'absent';
  await fixture.force(key, state, newer ? { generation: 2, suffix: 'k3v9x2m4q8w1z7b5' } : {});
  await fixture.age(key, before === 'live' ? 60_000 : dayMs);
}

describe('every state × every call', () => {
  for (const [before, expected] of Object.entries(table) as [Before, Record<keyof Calls, string>][]) {
    it(before, async () => {
      const seen: Record<string, string> = {};
      for (const [name, call] of Object.entries(calls)) {
        await fixture.removeLeases();
        const key = newKey();
        const held = await lease(key);
        await bring(key, before);
        const aged = await fixture.read(key);
        const answer = await call(key, held).catch((error: unknown) =>
          isLpsError(error) ? error.code : String(error),
        );
        const row = await fixture.read(key);
        const touched = row !== undefined && row.touchedAt.getTime() > (aged?.touchedAt.getTime() ?? 0) ? ' *' : '';
        seen[name] = `${answer} → ${row === undefined ? 'absent' : `${row.state} ${row.generation}`}${touched}`;
      }
      expect(seen).toEqual(expected);
    });
  }
});

describe('begin and commit', () => {
  it('gives every uploader of one key a lease of its own at the same place', async () => {
    const key = newKey('orders', 'team/reports');
    const [one, two] = [await lease(key), await lease(key)];
    expect(one.id).not.toBe(two.id);
    expect(two).toMatchObject({ key: logicalKey(key), physicalKey: one.physicalKey, generation: 1, overwrite: false });
    expect(one.expiresAt.getTime() - Date.now()).toBeGreaterThan(590_000);
    expect((await catalog.commit(one, 10))?.outcome).toBe('created');
    expect((await catalog.commit(two, 10))?.outcome).toBe('exists');
    expect((await fixture.read(key))?.leases).toBe(0);
  });

  it('protects from the touch on, for the grace period', async () => {
    const row = await makeLive(newKey());
    expect(row.protectedUntil.getTime() - row.touchedAt.getTime()).toBe(7 * dayMs);
    expect(Math.abs(row.touchedAt.getTime() - Date.now())).toBeLessThan(60_000);
  });

  it('never hands out the name of a deleted object again', async () => {
    const key = newKey();
    const { physicalKey: first } = await makeLive(key);
    await fixture.force(key, 'deleting');
    const second = await lease(key);
    expect(second.physicalKey).not.toBe(first);
    await catalog.abandon(second);
    expect(await fixture.read(key)).toMatchObject({ state: 'uploading', generation: 2, leases: 0 });
    const third = await lease(key);
    expect(third.physicalKey).toBe(second.physicalKey);
    expect((await catalog.commit(third, 10))?.row.physicalKey).toBe(second.physicalKey);
  });

  it('is not healed by an upload that began before an earlier healing', async () => {
    const key = newKey();
    await catalog.markDamaged(await makeLive(key));
    const [early, late] = [await lease(key), await lease(key)];
    const healed = await catalog.commit(late, 10);
    expect(healed).toMatchObject({ outcome: 'created', row: { state: 'live', generation: 2 } });
    if (healed !== undefined) await catalog.markDamaged(healed.row);
    expect(await catalog.commit(early, 10)).toBeUndefined();
    expect((await fixture.read(key))?.state).toBe('damaged');
  });

  it('is not damaged again by a read of the bytes before the healing', async () => {
    const key = newKey();
    const read = await makeLive(key);
    await catalog.markDamaged(read);
    await catalog.commit(await lease(key), 10);
    await catalog.markDamaged(read);
    expect((await fixture.read(key))?.state).toBe('live');
  });

  it('replaces a wrong object of somebody else that an upload met', async () => {
    const key = newKey();
    const met = await lease(key);
    await catalog.markDamaged({ id: met.blobId, generation: met.generation });
    await catalog.abandon(met);
    const next = await lease(key);
    expect(next).toMatchObject({ overwrite: true, physicalKey: met.physicalKey });
    expect(await catalog.commit(next, 10)).toMatchObject({ outcome: 'created', row: { state: 'live' } });
  });

  it('answers a commit made twice', async () => {
    const held = await lease(newKey());
    expect((await catalog.commit(held, 10))?.outcome).toBe('created');
    expect((await catalog.commit(held, 10))?.outcome).toBe('exists');
  });

  it('keeps keys apart that differ in one part', async () => {
    const key = newKey();
    const others: BlobKey[] = [
      { ...key, prefix: 'a' },
      { ...key, namespace: 'other' },
      { ...key, metadataDigest: newKey().digest },
    ];
    await makeLive(key);
    for (const other of others) expect((await catalog.begin(other, 10)).kind).toBe('upload');
  });
});

describe('at once', () => {
  it('64 begins of one new key agree on the place, and one of 64 commits creates', async () => {
    const key = newKey();
    const leases = await Promise.all(Array.from({ length: 64 }, () => lease(key)));
    expect(new Set(leases.map(({ id }) => id)).size).toBe(64);
    expect(new Set(leases.map(({ physicalKey, generation }) => `${physicalKey} ${generation}`)).size).toBe(1);
    const commits = await Promise.all(leases.map((held) => catalog.commit(held, 10)));
    expect(commits.filter((commit) => commit?.outcome === 'created')).toHaveLength(1);
    expect(commits.filter((commit) => commit?.outcome === 'exists')).toHaveLength(63);
    expect(await fixture.read(key)).toMatchObject({ state: 'live', leases: 0 });
  });

  it('64 commits of leases whose row was swept: one creates', async () => {
    const key = newKey();
    const leases = await Promise.all(Array.from({ length: 64 }, () => lease(key)));
    await fixture.force(key, 'absent');
    const commits = await Promise.all(leases.map((held) => catalog.commit(held, 10)));
    expect(commits.filter((commit) => commit?.outcome === 'created')).toHaveLength(1);
    expect(await fixture.read(key)).toMatchObject({ state: 'live', leases: 0 });
  });

  it('a commit whose row vanished, and is made anew by another commit meanwhile, is not the first', async () => {
    const key = newKey();
    const held = await lease(key);
    await fixture.force(key, 'absent');
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(
      `INSERT INTO ${fixture.schema}.blob (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix)
       VALUES ($1, $2, $3, $4, 10, 'live', 1, '')`,
      keyColumns(key),
    );
    const commit = catalog.commit(held, 10);
    await untilWaiting();
    await client.query('COMMIT');
    client.release();
    expect(await commit).toMatchObject({ outcome: 'exists', row: { state: 'live', generation: 1 } });
    expect((await fixture.read(key))?.leases).toBe(0);
  });

  it('begins of a deleted key start one new generation', async () => {
    const key = newKey();
    await fixture.force(key, 'deleting');
    const leases = await Promise.all(Array.from({ length: 16 }, () => lease(key)));
    expect(new Set(leases.map(({ physicalKey, generation }) => `${physicalKey} ${generation}`)).size).toBe(1);
    expect(leases[0]?.generation).toBe(2);
  });

  it('begin against abandon never leaves a lease without its row', async () => {
    const other = await fixture.open({ cacheEntries: 0 });
    for (let round = 0; round < 100; round++) {
      const key = newKey();
      const first = await lease(key);
      const [second] = await Promise.all([lease(key, other), catalog.abandon(first)]);
      expect(await fixture.read(key)).toMatchObject({ state: 'uploading', leases: 1 });
      await other.abandon(second);
      expect(await fixture.read(key)).toBeUndefined();
    }
  });

  it('a begin that comes between the sweep and its settling keeps the row', async () => {
    await fixture.removeLeases();
    const key = newKey();
    await lease(key);
    await fixture.expireLeases();
    const ended = await catalog.sweepLeases(async () => {
      await lease(key);
      return false;
    }, 10);
    expect(ended).toBe(1);
    expect(await fixture.read(key)).toMatchObject({ state: 'uploading', leases: 1 });
  });

  it('a commit or a renewal that comes between the sweep and its settling wins', async () => {
    await fixture.removeLeases();
    const [committed, renewed] = [newKey(), newKey()];
    const toCommit = await lease(committed);
    const toRenew = await lease(renewed);
    await fixture.expireLeases();
    await catalog.sweepLeases(async (physicalKey) => {
      if (physicalKey === toCommit.physicalKey) await catalog.commit(toCommit, 10);
      else expect(await catalog.renew(toRenew)).toBe(true);
      return false;
    }, 10);
    expect((await fixture.read(committed))?.state).toBe('live');
    expect(await fixture.read(renewed)).toMatchObject({ state: 'uploading', leases: 1 });
  });

  it('two sweepers share the work, and a row is never asked about twice', async () => {
    await fixture.removeLeases();
    const other = await fixture.open({ cacheEntries: 0 });
    for (let index = 0; index < 60; index++) await lease(newKey());
    await fixture.expireLeases();
    const asked: string[] = [];
    const present = async (physicalKey: string): Promise<boolean> => {
      asked.push(physicalKey);
      return asked.length % 2 === 0;
    };
    const ended = await Promise.all([catalog.sweepLeases(present, 40), other.sweepLeases(present, 40)]);
    expect(ended[0] + ended[1]).toBe(60);
    expect(new Set(asked).size).toBe(60);
  });

  it('commits race a sweep that finds nothing: whatever was committed is live', async () => {
    await fixture.removeLeases();
    const keys = Array.from({ length: 40 }, () => newKey());
    const leases = await Promise.all(keys.map((key) => lease(key)));
    await fixture.expireLeases();
    const [commits] = await Promise.all([
      Promise.all(leases.map((held) => catalog.commit(held, 10))),
      catalog.sweepLeases(async () => false, 40),
    ]);
    expect(commits.every((commit) => commit?.outcome === 'created')).toBe(true);
    for (const key of keys) expect((await fixture.read(key))?.state).toBe('live');
  });

  it('a renewal between the sweep and its settling keeps the lease, though the object is there', async () => {
    await fixture.removeLeases();
    const key = newKey();
    const held = await lease(key);
    await fixture.expireLeases();
    const ended = await catalog.sweepLeases(async () => catalog.renew(held), 10);
    expect(ended).toBe(0);
    expect(await fixture.read(key)).toMatchObject({ state: 'live', leases: 1 });
    expect((await catalog.commit(held, 10))?.outcome).toBe('exists');
  });

  it('calls beyond what could ever be served in time are refused at once', async () => {
    const narrow = await fixture.open({ cacheEntries: 0, pool: { max: 1 } });
    const row = await makeLive(newKey());
    await fixture.sql.query(`UPDATE ${fixture.schema}.blob SET touched_at = touched_at - interval '1 day'`);
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(`SELECT FROM ${fixture.schema}.blob WHERE id = $1 FOR UPDATE`, [row.id]);
    const touches = Promise.allSettled(Array.from({ length: 230 }, () => narrow.touch([row])));
    await untilWaiting();
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
    const rows = await Promise.all(Array.from({ length: 40 }, () => makeLive(newKey())));
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
    const row = await makeLive(key);
    await fixture.age(key, dayMs);
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(`UPDATE ${fixture.schema}.blob SET state = 'deleting' WHERE id = $1`, [row.id]);
    const touched = catalog.touch([row]);
    await untilWaiting();
    await client.query('COMMIT');
    client.release();
    expect(await touched).toMatchObject([{ state: 'deleting' }]);
  });

  it('a begin that waits for a deletion starts the next generation', async () => {
    const key = newKey();
    const row = await makeLive(key);
    await fixture.age(key, dayMs);
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(`UPDATE ${fixture.schema}.blob SET state = 'deleting' WHERE id = $1`, [row.id]);
    const begun = catalog.begin(key, 10);
    await untilWaiting();
    await client.query('COMMIT');
    client.release();
    expect(await begun).toMatchObject({ kind: 'upload', lease: { generation: 2 } });
  });

  it('the last touch never goes back when one waits for the other', async () => {
    const key = newKey();
    const row = await makeLive(key);
    await fixture.age(key, dayMs);
    const client = await fixture.sql.connect();
    await client.query('BEGIN');
    await client.query(`SELECT FROM ${fixture.schema}.blob WHERE id = $1 FOR UPDATE`, [row.id]);
    const touched = catalog.touch([row]);
    await untilWaiting();
    await client.query(
      `UPDATE ${fixture.schema}.blob SET touched_at = clock_timestamp() + interval '1 minute' WHERE id = $1`,
      [row.id],
    );
    await client.query('COMMIT');
    client.release();
    expect((await touched)[0]?.touchedAt.getTime()).toBeGreaterThan(Date.now() + 50_000);
  });
});

/** Until a statement of a catalog waits for a lock. */
async function untilWaiting(): Promise<void> {
  for (;;) {
    const { rows } = await fixture.sql.query(
      `SELECT FROM pg_stat_activity WHERE application_name = 'lps catalog' AND wait_event_type = 'Lock'`,
    );
    if (rows.length > 0) return;
  }
}

describe('sweep', () => {
  it('leaves leases alone that still live', async () => {
    await fixture.removeLeases();
    const key = newKey();
    await lease(key);
    expect(await catalog.sweepLeases(async () => false, 10)).toBe(0);
    expect((await fixture.read(key))?.leases).toBe(1);
  });

  it('goes on when the store fails for one object, and says so at the end', async () => {
    await fixture.removeLeases();
    const leases = await Promise.all(Array.from({ length: 3 }, () => lease(newKey())));
    await fixture.expireLeases();
    const swept = catalog.sweepLeases(async (physicalKey) => {
      if (physicalKey === leases[0]?.physicalKey) throw new Error('the store is away');
      return true;
    }, 10);
    await expect(swept).rejects.toThrow('the store is away');
    const { rows } = await fixture.sql.query(`SELECT id FROM ${fixture.schema}.lease`);
    expect(rows).toEqual([{ id: leases[0]?.id }]);
  });

  it('does not ask about what was committed, damaged or deleted since', async () => {
    await fixture.removeLeases();
    for (const state of ['live', 'damaged', 'deleting', 'taken_down'] as const) {
      const key = newKey();
      await lease(key);
      await fixture.force(key, state);
    }
    await fixture.expireLeases();
    const asked: string[] = [];
    expect(await catalog.sweepLeases(async (physicalKey) => asked.push(physicalKey) > 0, 10)).toBe(4);
    expect(asked).toEqual([]);
  });

  it('asks about the physical key of a later generation', async () => {
    await fixture.removeLeases();
    const key = newKey();
    await fixture.force(key, 'gone');
    const held = await lease(key);
    await fixture.expireLeases();
    const asked: string[] = [];
    await catalog.sweepLeases(async (physicalKey) => asked.push(physicalKey) > 0, 10);
    expect(asked).toEqual([held.physicalKey]);
    expect(await fixture.read(key)).toMatchObject({ state: 'live', generation: 2, physicalKey: held.physicalKey });
  });
});

describe('many at once', () => {
  it('looks up what is there and leaves out what is not', async () => {
    const keys = [newKey(), newKey('orders', 'a/b'), newKey('Bücher'), newKey()];
    for (const key of keys.slice(0, 3)) await makeLive(key);
    const rows = await catalog.lookupMany([...keys, ...keys]);
    expect(rows.map(({ key }) => key).sort()).toEqual(keys.slice(0, 3).map(logicalKey).sort());
    expect(await catalog.lookupMany([])).toEqual([]);
    await expect(catalog.lookupMany(Array.from({ length: 1001 }, () => newKey()))).rejects.toThrow('at most 1000');
  });

  it('touches what is due, and leaves out rows that vanished', async () => {
    const [due, fresh, vanished] = [newKey(), newKey(), newKey()];
    const rows = [await makeLive(due), await makeLive(fresh), await makeLive(vanished)];
    await fixture.age(due, dayMs);
    await fixture.force(vanished, 'absent');
    const before = await fixture.read(fresh);
    const touched = await catalog.touch(rows);
    expect(touched.map(({ key }) => key).sort()).toEqual([due, fresh].map(logicalKey).sort());
    expect((await fixture.read(fresh))?.touchedAt).toEqual(before?.touchedAt);
    expect((await fixture.read(due))?.touchedAt.getTime()).toBeGreaterThan(Date.now() - 60_000);
  });
});

describe('list', () => {
  it('pages through a namespace, each row once, and keeps to the prefix', async () => {
    const prefixes = [undefined, undefined, 'team', 'team/reports', 'team-x', 'teams', 'a', '/b/', 'team/sha256'];
    const keys = prefixes.map((prefix) => newKey('listed', prefix));
    for (const key of keys) await makeLive(key);
    await makeLive(newKey('listed2'));
    const all = keys.map(logicalKey).sort();
    expect((await pages('listed', undefined, 2)).sort()).toEqual(all);
    const starts = [
      '',
      '/',
      '/blobs/lis',
      '/blobs/listed/',
      '/blobs/listed/c',
      '/blobs/listed/com',
      '/blobs/listed/cust',
    ];
    for (const key of all) starts.push(...[20, 24, 30, 36, 60, key.length].map((length) => key.slice(0, length)));
    starts.push('/blobs/listed2/', '/x', '/blobs/listed/common/x', '/blobs/listed/custom/zz', '/blobs/listed/other');
    for (const start of starts) {
      const expected = all.filter((key) => key.startsWith(start));
      expect((await pages('listed', start, 3)).sort(), start).toEqual(expected);
    }
    await expect(catalog.list('listed', { after: logicalKey(newKey()), limit: 1 })).rejects.toThrow(
      'another namespace',
    );
  });

  async function pages(namespace: string, prefix: string | undefined, limit: number): Promise<string[]> {
    const keys: string[] = [];
    for (;;) {
      const after = keys.at(-1);
      const rows = await catalog.list(namespace, {
        limit,
        ...(prefix === undefined ? {} : { prefix }),
        ...(after === undefined ? {} : { after }),
      });
      if (rows.length === 0) return keys;
      keys.push(...rows.map((row) => row.key));
    }
  }
});

describe('options', () => {
  it('refuses what would break a promise', async () => {
    const { url } = postgres;
    for (const options of [{ graceMs: dayMs - 1 }, { touchIntervalMs: 3_600_001 }, { leaseMs: 0 }, { schema: 'a"b' }]) {
      await expect(fixture.open({ url, ...options })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    }
  });
});
