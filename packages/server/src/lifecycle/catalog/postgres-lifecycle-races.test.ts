/**
 * Decisions against what gives a blob a reason to stay, both orders of each, with real transactions: one side holds its
 * locks, the other is seen to wait for them, then the first one commits.
 */
import type { BlobKey } from '@large-payload/core';
import type pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { keyColumns, logicalKey } from '../../catalog/blob-record.js';
import type { BlobRow } from '../../catalog/catalog.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../catalog/embedded-postgres.js';
import { beginUpload, makeLive, newKey } from '../../catalog/postgres-catalog-fixture.js';
import type { Fence, HolderRow, KnownNamespace, Mark, Permission } from '../lifecycle-catalog.js';
import { openPostgresHarness, type PostgresHarness } from './postgres-lifecycle-fixture.js';

const hourMs = 3_600_000;
const identity = { clusterId: 'c-1', namespaceId: 'n-1', serverVersion: '1.32.0' };
const outcome = { isComplete: true, gaps: [], holders: 0, scanned: 0 };
let postgres: EmbeddedPostgres;
let harness: PostgresHarness;
let fence: Fence;
let namespace: KnownNamespace;

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  harness = await openPostgresHarness(postgres.url);
  namespace = await harness.lifecycle.knowNamespace({ cluster: 'main', name: 'default' }, identity);
});
beforeEach(async () => {
  fence = await harness.lead();
});
afterAll(async () => {
  await harness?.close();
  await postgres?.stop();
});

async function permit(): Promise<Permission> {
  const { lifecycle } = harness;
  for (let at = 0; at < 2; at += 1) {
    await lifecycle.endMark(fence, await lifecycle.beginMark(fence, namespace, 48 * hourMs), outcome);
    await harness.pass(hourMs);
  }
  const [second, first] = await lifecycle.marksOf(namespace, 2);
  if (first === undefined || second === undefined) throw new Error('there are no two marks');
  const untouchedSince = new Date(first.startedAt.getTime() - harness.graceMs);
  const marks = [first.id, second.id];
  return { blobNamespace: 'orders', untouchedSince, firstMarkStartedAt: first.startedAt, marks };
}

interface Case {
  readonly key: BlobKey;
  readonly row: BlobRow;
  readonly permission: Permission;
}

async function garbage(): Promise<Case> {
  const key = newKey('orders');
  await makeLive(harness.catalog, key);
  await harness.pass(2 * harness.graceMs);
  const permission = await permit();
  const row = await harness.catalog.lookup(key);
  if (row === undefined) throw new Error('there is no row');
  return { key, row, permission };
}

async function condemned(): Promise<Case> {
  const { key, row, permission } = await garbage();
  await harness.lifecycle.quarantine(fence, permission, [row.id]);
  await harness.pass(2 * hourMs);
  const quarantined = await harness.catalog.lookup(key);
  return { key, row: quarantined ?? row, permission: await permit() };
}

const stateOf = async (key: BlobKey) => (await harness.read(key))?.state;
const decide = ({ permission, row }: Case) => harness.lifecycle.quarantine(fence, permission, [row.id]);
const retire = ({ permission, row }: Case) => harness.lifecycle.retire(fence, permission, hourMs, [row.id]);

/** Until so many statements wait for locks; `false` when the call was over before. */
async function waits(call: Promise<unknown>, count = 1): Promise<boolean> {
  let isOver = false;
  const over = (): void => {
    isOver = true;
  };
  call.then(over, over);
  const waiting = `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'`;
  while (!isOver && (await harness.fixture.sql.query(waiting)).rows.length < count);
  return !isOver;
}

/** Runs `first` in a transaction, starts `second`, sees it wait for a lock, and commits. */
async function meanwhile<T>(first: (client: pg.PoolClient) => Promise<unknown>, second: () => Promise<T>): Promise<T> {
  const client = await harness.fixture.sql.connect();
  try {
    await client.query('BEGIN');
    await first(client);
    const running = second();
    expect(await waits(running), 'it did not wait').toBe(true);
    await client.query('COMMIT');
    return await running;
  } finally {
    client.release(true); // what was not committed is rolled back
  }
}

/** A decision stopped behind its last statement: its locks are held, its result is not committed. */
async function decided(client: pg.PoolClient, { row }: Case, state: 'quarantined' | 'deleting'): Promise<void> {
  const { schema } = harness.fixture;
  await client.query(`SELECT FROM ${schema}.leader WHERE epoch = $1 FOR SHARE`, [fence.epoch]);
  await client.query(
    `UPDATE ${schema}.blob SET state = $2::text::${schema}.blob_state,
      quarantined_at = CASE WHEN $2 = 'quarantined' THEN clock_timestamp() END WHERE id = $1`,
    [row.id, state],
  );
}

describe('quarantine', () => {
  it('sees a touch that came first', async () => {
    const it = await garbage();
    const { schema } = harness.fixture;
    const touch = (client: pg.PoolClient) =>
      client.query(`UPDATE ${schema}.blob SET touched_at = now() WHERE id = $1`, [it.row.id]);
    expect(await meanwhile(touch, () => decide(it))).toEqual([]);
    expect(await stateOf(it.key)).toBe('live');
  });

  it('is undone by a touch that came second, which counts as a revival', async () => {
    const it = await garbage();
    const before = await harness.lifecycle.revivedSince(new Date(0));
    const touched = await meanwhile(
      (client) => decided(client, it, 'quarantined'),
      () => harness.catalog.touch([it.row]),
    );
    expect(touched).toMatchObject([{ state: 'live', touchDue: false }]);
    expect(await harness.lifecycle.revivedSince(new Date(0))).toBe(before + 1);
  });

  it('is undone by an upload that came second', async () => {
    const it = await garbage();
    const begun = await meanwhile(
      (client) => decided(client, it, 'quarantined'),
      () => harness.catalog.begin(it.key, 10),
    );
    expect(begun).toMatchObject({ kind: 'present', touched: true, row: { state: 'live' } });
  });

  it('sees a lease that was given while it waited for the row', async () => {
    const it = await garbage();
    const { schema } = harness.fixture;
    const lease = async (client: pg.PoolClient) => {
      await client.query(`SELECT FROM ${schema}.blob WHERE id = $1 FOR UPDATE`, [it.row.id]);
      const values = [it.row.id];
      await client.query(
        `INSERT INTO ${schema}.lease (blob_id, generation, size, expires_at) VALUES ($1, 1, 10, now() + interval '1 h')`,
        values,
      );
    };
    expect(await meanwhile(lease, () => decide(it))).toEqual([]);
    await harness.fixture.removeLeases();
    expect(await decide(it)).toHaveLength(1);
  });

  it('sees a pin of a prefix that came first', async () => {
    const it = await garbage();
    const { schema } = harness.fixture;
    const pin = async (client: pg.PoolClient) => {
      await client.query(`SELECT FROM ${schema}.leader FOR NO KEY UPDATE`);
      await client.query(
        `INSERT INTO ${schema}.pin (id, namespace, key, owner, reason) VALUES ('race', 'orders', '/blobs/orders/', 'me', 'a test')`,
      );
    };
    expect(await meanwhile(pin, () => decide(it))).toEqual([]);
    await harness.lifecycle.removePin('race');
    expect(await decide(it)).toHaveLength(1);
  });

  for (const what of ['the key', 'a prefix'] as const) {
    it(`is undone by a pin of ${what} that came second`, async () => {
      const it = await garbage();
      const key = what === 'the key' ? logicalKey(it.key) : '/blobs/orders/common/';
      const pin = await meanwhile(
        (client) => decided(client, it, 'quarantined'),
        () => harness.lifecycle.addPin({ key, owner: 'me', reason: 'a test' }),
      );
      expect(await stateOf(it.key)).toBe('live');
      await harness.lifecycle.removePin(pin.id);
    });
  }

  it('ends when its marks are forgotten while it waits for the leader', async () => {
    const it = await garbage();
    const { schema } = harness.fixture;
    let deciding: Promise<unknown> | undefined;
    const lead = async (client: pg.PoolClient): Promise<void> => {
      await client.query(`SELECT FROM ${schema}.leader FOR UPDATE`);
      deciding = decide(it).catch((error: unknown) => error);
      expect(await waits(deciding)).toBe(true);
      await harness.lifecycle.acceptIdentity(namespace, identity);
    };
    expect(await meanwhile(lead, async () => deciding)).toMatchObject({ code: 'ABORTED' });
    expect(await stateOf(it.key)).toBe('live');
  });

  it('waits for marks that are being forgotten, and then has none', async () => {
    const it = await garbage();
    const { schema } = harness.fixture;
    const forget = (client: pg.PoolClient) =>
      client.query(`DELETE FROM ${schema}.mark WHERE namespace_id = $1`, [namespace.id]);
    await expect(meanwhile(forget, () => decide(it))).rejects.toMatchObject({ code: 'ABORTED' });
    expect(await stateOf(it.key)).toBe('live');
  });

  it('holds its marks: an identity that is accepted meanwhile waits', async () => {
    const it = await garbage();
    const { schema } = harness.fixture;
    const hold = async (client: pg.PoolClient) => {
      await client.query(`SELECT FROM ${schema}.mark WHERE id = ANY($1::bigint[]) FOR SHARE`, [it.permission.marks]);
      await decided(client, it, 'quarantined');
    };
    await meanwhile(hold, () => harness.lifecycle.acceptIdentity(namespace, identity));
    expect(await stateOf(it.key)).toBe('quarantined');
  });
});

describe('retire', () => {
  it('sees a touch that came first', async () => {
    const it = await condemned();
    const { schema } = harness.fixture;
    const revive = (client: pg.PoolClient) =>
      client.query(
        `UPDATE ${schema}.blob SET state = 'live', quarantined_at = NULL, touched_at = now() WHERE id = $1`,
        [it.row.id],
      );
    expect(await meanwhile(revive, () => retire(it))).toEqual([]);
    expect(await stateOf(it.key)).toBe('live');
  });

  it('is told to a touch that came second', async () => {
    const it = await condemned();
    const touched = await meanwhile(
      (client) => decided(client, it, 'deleting'),
      () => harness.catalog.touch([it.row]),
    );
    expect(touched).toMatchObject([{ state: 'deleting' }]);
  });

  it('makes an upload that came second start a new generation', async () => {
    const it = await condemned();
    const lease = await meanwhile(
      (client) => decided(client, it, 'deleting'),
      () => beginUpload(harness.catalog, it.key),
    );
    expect(lease).toMatchObject({ generation: 2 });
    expect(lease.physicalKey).not.toBe(it.row.physicalKey);
  });

  it('is told to whoever keeps blobs, in one transaction with it', async () => {
    const it = await condemned();
    const { schema, sql } = harness.fixture;
    const holdCounter = async (client: pg.PoolClient): Promise<void> => {
      await client.query(`SELECT FROM ${schema}.event_counter FOR UPDATE`);
      retiring = retire(it);
      await waits(retiring);
      expect(await stateOf(it.key)).toBe('quarantined');
    };
    let retiring: Promise<unknown> | undefined;
    await meanwhile(holdCounter, async () => retiring);
    const { rows } = await sql.query(
      `SELECT e.kind, e.key, e.physical_key, e.xmin::text = b.xmin::text AS is_one
       FROM ${schema}.event e, ${schema}.blob b WHERE b.id = $1 ORDER BY e.id DESC LIMIT 1`,
      [it.row.id],
    );
    expect(rows).toEqual([{ kind: 'delete', key: it.row.key, physical_key: it.row.physicalKey, is_one: true }]);
    expect(await stateOf(it.key)).toBe('deleting');
  });

  it('is too late for a begin that came first', async () => {
    const it = await condemned();
    const { schema } = harness.fixture;
    const begin = (client: pg.PoolClient) =>
      client.query(
        `UPDATE ${schema}.blob SET state = 'live', quarantined_at = NULL, touched_at = greatest(touched_at, now())
         WHERE namespace = $1 AND prefix = $2 AND digest = $3 AND metadata_digest = $4`,
        keyColumns(it.key),
      );
    expect(await meanwhile(begin, () => retire(it))).toEqual([]);
  });

  it('sees a pin that came while it waited for the leader', async () => {
    const it = await condemned();
    const { schema } = harness.fixture;
    const pin = async (client: pg.PoolClient) => {
      await client.query(`SELECT FROM ${schema}.leader FOR NO KEY UPDATE`);
      await client.query(
        `INSERT INTO ${schema}.pin (id, namespace, key, owner, reason) VALUES ('late', 'orders', '/blobs/orders/', 'me', 'a test')`,
      );
    };
    expect(await meanwhile(pin, () => retire(it))).toEqual([]);
    await harness.lifecycle.removePin('late');
    expect(await retire(it)).toHaveLength(1);
  });
});

describe('two leaders', () => {
  it('the later one waits for the decision of the earlier one, and then that decides no more', async () => {
    const [first, second] = [await garbage(), await garbage()];
    const permission = await permit();
    const { schema, sql } = harness.fixture;
    const client = await sql.connect();
    try {
      await client.query('BEGIN');
      await client.query(`SELECT FROM ${schema}.blob WHERE id = $1 FOR UPDATE`, [first.row.id]);
      const deciding = harness.lifecycle.quarantine(fence, permission, [first.row.id]);
      expect(await waits(deciding)).toBe(true); // for the row; it has the leader's
      const takingOver = sql.query(`UPDATE ${schema}.leader SET epoch = epoch + 1`);
      expect(await waits(takingOver, 2)).toBe(true);
      await client.query('COMMIT');
      expect(await deciding).toHaveLength(1);
      await takingOver;
    } finally {
      client.release(true);
    }
    const late = harness.lifecycle.quarantine(fence, permission, [second.row.id]);
    await expect(late).rejects.toMatchObject({ code: 'ABORTED' });
    expect(await stateOf(second.key)).toBe('live');
  });

  it('the earlier one, waiting while the later one takes over, decides nothing', async () => {
    const it = await garbage();
    const { schema } = harness.fixture;
    const takeOver = (client: pg.PoolClient) => client.query(`UPDATE ${schema}.leader SET epoch = epoch + 1`);
    await expect(meanwhile(takeOver, () => decide(it))).rejects.toMatchObject({ code: 'ABORTED' });
    expect(await stateOf(it.key)).toBe('live');
  });

  it('both deciding about the same blobs in any order do not lock each other out', async () => {
    const all = await Promise.all(Array.from({ length: 30 }, () => makeLive(harness.catalog, newKey('orders'))));
    await harness.pass(2 * harness.graceMs);
    const permission = await permit();
    const ids = all.map(({ id }) => id);
    const results = await Promise.all([
      harness.lifecycle.quarantine(fence, permission, ids),
      harness.lifecycle.quarantine(fence, permission, ids.toReversed()),
      harness.catalog.touch(all.slice(0, 10)),
    ]);
    const taken = [...results[0], ...results[1]].map(({ id }) => id);
    expect(new Set(taken).size).toBe(taken.length);
    const rows = await harness.catalog.lookupMany([]);
    expect(rows).toEqual([]);
    for (const { id } of all.slice(0, 10)) {
      const { rows } = await harness.fixture.sql.query(
        `SELECT state FROM ${harness.fixture.schema}.blob WHERE id = $1`,
        [id],
      );
      expect(rows[0].state).toBe('live');
    }
  });
});

describe('holders', () => {
  it('a scan that is being saved keeps a gone holder from being forgotten', async () => {
    const { lifecycle, fixture } = harness;
    const mark = await lifecycle.beginMark(fence, namespace, hourMs);
    await lifecycle.noteHolders(mark, 'run', [{ id: 'back', isClosed: false }]);
    const [holder] = await lifecycle.unscannedHolders(mark, 0n, 9);
    if (holder === undefined) throw new Error('there is no holder');
    await lifecycle.markGone(holder);
    await harness.pass(hourMs);
    const found = (client: pg.PoolClient) =>
      client.query(`UPDATE ${fixture.schema}.holder SET gone_at = NULL WHERE id = $1`, [holder.id]);
    expect(await meanwhile(found, () => lifecycle.forgetGone(1, 10))).toBe(0);
  });

  it('the end of a mark waits for what is being saved by it', async () => {
    const { lifecycle, fixture } = harness;
    const mark = await lifecycle.beginMark(fence, namespace, hourMs);
    await lifecycle.noteHolders(mark, 'run', [{ id: 'slow', isClosed: false }]);
    const [holder] = await lifecycle.unscannedHolders(mark, 0n, 9);
    if (holder === undefined) throw new Error('there is no holder');
    const client = await fixture.sql.connect();
    try {
      await client.query('BEGIN');
      await client.query(`SELECT FROM ${fixture.schema}.holder WHERE id = $1 FOR UPDATE`, [holder.id]);
      const saving = lifecycle.saveScan(mark, holder, { edges: [], cursor: '1', isDone: true });
      expect(await waits(saving)).toBe(true);
      const ending = lifecycle.endMark(fence, mark, outcome);
      expect(await waits(ending, 2)).toBe(true);
      await client.query('COMMIT');
      await saving;
      expect(await ending).toMatchObject({ isComplete: true });
    } finally {
      client.release(true);
    }
  });

  it('a scan that comes while its mark ends waits, and saves nothing', async () => {
    const { lifecycle, fixture } = harness;
    const mark = await lifecycle.beginMark(fence, namespace, hourMs);
    await lifecycle.noteHolders(mark, 'run', [{ id: 'late', isClosed: false }]);
    const [holder] = await lifecycle.unscannedHolders(mark, 0n, 9);
    if (holder === undefined) throw new Error('there is no holder');
    const end = (client: pg.PoolClient) =>
      client.query(`UPDATE ${fixture.schema}.mark SET ended_at = clock_timestamp() WHERE id = $1`, [mark.id]);
    const edges = [{ digest: newKey('orders').digest }];
    const saving = meanwhile(end, () => lifecycle.saveScan(mark, holder, { edges, cursor: '1', isDone: true }));
    await expect(saving).rejects.toMatchObject({ code: 'ABORTED' });
    const { rows } = await fixture.sql.query(
      `SELECT cursor, (SELECT count(*) FROM ${fixture.schema}.edge WHERE holder_id = h.id) AS edges
      FROM ${fixture.schema}.holder h WHERE id = $1`,
      [holder.id],
    );
    expect(rows).toEqual([{ cursor: null, edges: '0' }]);
  });

  describe('an edge', () => {
    const edges = [{ digest: newKey('orders').digest, isMutable: true }];
    const key = { ...newKey('orders'), ...edges[0] };

    /** Of a holder that has it. */
    async function scanned(): Promise<{ mark: Mark; holder: HolderRow }> {
      const { lifecycle } = harness;
      const mark = await lifecycle.beginMark(fence, namespace, hourMs);
      await lifecycle.noteHolders(mark, 'schedule', [{ id: `s${mark.id}`, isClosed: false }]);
      const holder = (await lifecycle.unscannedHolders(mark, 0n, 99)).find(
        ({ externalId }) => externalId === `s${mark.id}`,
      );
      if (holder === undefined) throw new Error('there is no holder');
      await lifecycle.saveScan(mark, holder, { edges, cursor: '1', isDone: false });
      return { mark, holder };
    }

    async function set(client: pg.PoolClient, { id }: HolderRow, lostAt: string): Promise<void> {
      const { schema } = harness.fixture;
      await client.query(`SELECT FROM ${schema}.holder WHERE id = $1 FOR NO KEY UPDATE`, [id]);
      await client.query(`UPDATE ${schema}.edge SET lost_at = ${lostAt} WHERE holder_id = $1`, [id]);
    }

    const lostAtOf = async ({ id }: HolderRow): Promise<unknown> =>
      (await harness.lifecycle.holdersOf(key, 99)).flatMap((one) => (one.holder.id === id ? [one.lostAt] : []));

    it('that was lost and is found again while it is to be forgotten stays', async () => {
      const { mark, holder } = await scanned();
      await harness.lifecycle.saveScan(mark, holder, { edges: [], cursor: '2', isDone: false });
      await harness.pass(2 * hourMs);
      const forgotten = await meanwhile(
        (client) => set(client, holder, 'NULL'),
        () => harness.lifecycle.forgetLost(hourMs, 99),
      );
      expect(forgotten).toBe(0);
      expect(await lostAtOf(holder)).toEqual([undefined]);
    });

    it('that the last scan of a closed holder finds stays, though a late scan of an earlier leader loses it', async () => {
      const { mark, holder } = await scanned();
      await meanwhile(
        (client) => set(client, holder, 'now()'),
        () => harness.lifecycle.saveScan(mark, holder, { edges, cursor: '2', isDone: true }),
      );
      expect(await lostAtOf(holder)).toEqual([undefined]);
    });
  });

  it('marks of a namespace whose identity is being accepted wait, and begin behind it', async () => {
    const { lifecycle, fixture } = harness;
    const lock = (client: pg.PoolClient) =>
      client.query(`SELECT FROM ${fixture.schema}.temporal_namespace WHERE id = $1 FOR UPDATE`, [namespace.id]);
    const mark = await meanwhile(lock, () => lifecycle.beginMark(fence, namespace, hourMs));
    expect(mark.id).toBeGreaterThan(0n);
  });
});
