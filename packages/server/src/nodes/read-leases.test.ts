/** Leases on reading, on a real Postgres, and by the rules alone. */
import fc from 'fast-check';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Database, openDatabase } from '../catalog/database.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { openFixture } from '../catalog/postgres-catalog-fixture.js';
import { ReadLease } from './read-lease.js';
import { appendEvents, type Node, openReadLeases, type ReadLeases } from './read-leases.js';

const leaseMs = 60_000;
const [a, b]: [Node, Node] = [
  { id: 'a', kind: 'cache', name: 'near the workers', owner: 'token:1' },
  { id: 'b', kind: 'replica', name: 'host 2' },
];
const stranger: Node = { ...a, name: 'who knows', owner: 'token:2' };
const blob = (name: string) => ({ key: `/blobs/${name}`, physicalKey: `/blobs/${name}~1` });

describe('leases on reading, on PostgreSQL', () => {
  let postgres: EmbeddedPostgres;
  let database: Database;
  let schema: string;
  let sql: pg.Pool;
  let leases: ReadLeases;
  let fixture: ReturnType<typeof openFixture>;

  beforeAll(async () => {
    postgres = await startEmbeddedPostgres({ throwAway: true });
    fixture = openFixture(postgres.url);
    await fixture.open();
    ({ schema, sql } = fixture);
    database = openDatabase({ url: postgres.url, maxConnections: 4, statementTimeoutMs: 10_000, log: () => undefined });
    leases = openReadLeases({ database, schema, leaseMs });
  });
  afterAll(async () => {
    await database?.close();
    await fixture?.close();
    await postgres?.stop();
  });
  beforeEach(async () => {
    await sql.query(`DELETE FROM ${schema}.node`);
  });

  const append = (...names: string[]) =>
    database.transaction((run) => appendEvents(run, schema, 'takedown', names.map(blob)));
  const unaware = async (event: bigint) => (await leases.unaware(event)).map(({ id }) => id);

  it('tell who may still serve what an event is about', async () => {
    const { newest } = await leases.grant(a, 0n);
    await leases.grant(b, newest);
    const event = await append('x', 'y');
    expect(event).toBe(newest + 2n);
    expect(await unaware(event)).toEqual(['a', 'b']);
    expect((await leases.grant(b, newest)).newest).toBe(event);
    expect(await unaware(event)).toEqual(['a', 'b']); // it was told, and has not said that it did anything
    await leases.grant(b, event);
    expect(await unaware(event)).toEqual(['a']);
    expect([await leases.end('a', 'replica', a.owner), await leases.end('a', 'cache', a.owner)]).toEqual([false, true]);
    expect(await unaware(event)).toEqual([]);
  });

  it('are not prolonged for who asks again and again, and does not apply an event: nobody waits for it for ever', async () => {
    const { newest } = await leases.grant(a, 0n);
    expect((await leases.grant(a, newest)).leaseMs).toBe(leaseMs);
    const event = await append('x', 'y');
    expect((await leases.grant(a, newest)).leaseMs).toBe(leaseMs);
    await sql.query(`UPDATE ${schema}.event SET at = at - interval '61 s' WHERE id > $1`, [newest]);
    await sql.query(`UPDATE ${schema}.node SET lease_until = now() WHERE id = 'a'`); // it was not prolonged for M
    expect(await leases.grant(a, newest)).toEqual({ newest: event, leaseMs: 0 });
    expect(await unaware(event)).toEqual([]);
    expect((await leases.grant(a, event)).leaseMs).toBe(leaseMs);
    await leases.end('a', 'cache', a.owner);
  });

  it('give the events in their order, page by page, and say so when some are forgotten', async () => {
    const before = (await leases.grant(a, 0n)).newest;
    const last = await append('1', '2', '3');
    const first = (await leases.events(before, 2)) ?? [];
    expect(first.map(({ id, key, kind }) => [id, key, kind])).toEqual([
      [before + 1n, '/blobs/1', 'takedown'],
      [before + 2n, '/blobs/2', 'takedown'],
    ]);
    expect((await leases.events(before + 2n, 2))?.map(({ physicalKey }) => physicalKey)).toEqual(['/blobs/3~1']);
    expect(await leases.events(last, 2)).toEqual([]);
    await leases.prune(0, 1000); // younger than two leases
    expect(await leases.events(before, 9)).toHaveLength(3);
    await sql.query(`UPDATE ${schema}.event SET at = now() - interval '3 minutes' WHERE id <= $1`, [before + 2n]);
    await leases.prune(0, 1000);
    expect(await leases.events(before, 9)).toBeUndefined();
    expect((await leases.grant(a, before)).leaseMs).toBe(0);
    expect(await leases.events(before + 1n, 9)).toBeUndefined();
    expect((await leases.events(before + 2n, 9))?.map(({ id }) => id)).toEqual([last]);
  });

  it('forget nodes that are gone for long, and only those', async () => {
    await leases.grant(a, 0n);
    await leases.grant(b, 0n);
    await sql.query(`UPDATE ${schema}.node SET lease_until = now() - interval '1 hour' WHERE id = 'a'`);
    await leases.prune(1000, 10);
    expect((await sql.query(`SELECT id FROM ${schema}.node`)).rows).toEqual([{ id: 'b' }]);
  });

  it('stand for nothing when their holder knows of events that there are not', async () => {
    const { newest } = await leases.grant(a, 0n);
    await leases.grant(a, newest + 10n);
    expect(await unaware(await append('v'))).toEqual(['a']);
  });

  it('are not given to a node under the name of one of the other kind', async () => {
    await leases.grant(b, 0n);
    const cache: Node = { ...b, kind: 'cache' };
    await expect(leases.grant(cache, 0n)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await leases.end('b', 'replica');
    await expect(leases.grant(cache, 0n)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(leases.grant({ ...cache, owner: 'token:1' }, 0n)).rejects.toMatchObject({ code: 'FORBIDDEN' });
  });

  it('are renewed by whoever asked first, and by nobody else: whoever waits for a node goes on waiting', async () => {
    const newest = await leases.newest();
    await leases.grant(a, newest);
    const event = await append('x');
    for (const owner of [stranger, { id: 'a', kind: 'cache', name: 'nobody' } as const]) {
      await expect(leases.grant(owner, event)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    }
    expect(await leases.list()).toMatchObject([{ id: 'a', name: 'near the workers', cursor: newest, hasLease: true }]);
    expect(await unaware(event)).toEqual(['a']);
    await leases.grant({ ...a, name: 'another host' }, newest);
    expect(await leases.list()).toMatchObject([{ name: 'another host', cursor: newest }]);
    expect(await unaware(event)).toEqual(['a']);
  });

  it('are ended by whoever asked for them, and by nobody else', async () => {
    await leases.grant(a, await leases.newest());
    const event = await append('x');
    expect(await leases.end('a', 'cache', stranger.owner)).toBe(false);
    expect(await leases.end('a', 'cache')).toBe(false);
    expect(await unaware(event)).toEqual(['a']);
    expect(await leases.end('a', 'cache', a.owner)).toBe(true);
    expect(await unaware(event)).toEqual([]);
  });

  it('leave their id to anybody once they have ended', async () => {
    const now = await leases.newest();
    await leases.grant(a, now);
    await leases.end('a', 'cache', a.owner);
    expect((await leases.grant(stranger, now)).leaseMs).toBe(leaseMs);
    await expect(leases.grant(a, now)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await sql.query(`UPDATE ${schema}.node SET lease_until = now()`); // ran out
    expect((await leases.grant(a, now)).leaseMs).toBe(leaseMs);
    expect(await leases.list()).toMatchObject([{ id: 'a', name: 'near the workers', hasLease: true }]);
  });

  it('are as long as the installation says, and it says another time only when nobody holds one', async () => {
    const now = await leases.newest();
    const other = openReadLeases({ database, schema, leaseMs: 2 * leaseMs });
    await leases.agree(false);
    await leases.agree(false);
    expect((await leases.grant(a, now, 1000)).leaseMs).toBe(1000);
    await expect(leases.grant(a, 0n, leaseMs + 1)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(other.agree(false)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(other.agree(true)).rejects.toMatchObject({ code: 'CONFIG_INVALID' }); // a cache node's
    await expect(other.grant(b, 0n)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await leases.end('a', 'cache', a.owner);
    await leases.grant(b, 0n);
    await other.agree(true);
    expect((await other.grant(a, now)).leaseMs).toBe(2 * leaseMs);
    await other.end('a', 'cache', a.owner);
    await leases.agree(false);
  });

  it('are listed', async () => {
    const newest = await append('x');
    await leases.grant(a, newest - 1n);
    await leases.grant(b, newest);
    await leases.end('b', 'replica');
    expect(await leases.list()).toMatchObject([
      { id: 'b', kind: 'replica', name: 'host 2', hasLease: false, behind: 0, cursor: newest },
      { id: 'a', hasLease: true, behind: 1 },
    ]);
  });

  async function untilOneWaits(): Promise<void> {
    for (;;) {
      const { rows } = await sql.query(`SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'`);
      if (rows.length > 0) return;
    }
  }

  /** A transaction that stays open until `commit`. */
  async function held(work: (run: Database['run'], commit: () => Promise<unknown>) => Promise<void>): Promise<void> {
    const client = new pg.Client({ connectionString: postgres.url });
    await client.connect();
    try {
      await client.query('BEGIN');
      await work(
        async (statement, values) => (await client.query({ ...statement, values: [...values] })).rows,
        () => client.query('COMMIT'),
      );
    } finally {
      await client.end();
    }
  }

  it.each(['new', 'free again'])('are granted to one of two who ask at once for an id that is %s', async (what) => {
    const now = await leases.newest();
    if (what === 'free again') {
      await leases.grant({ ...a, owner: 'token:0' }, now);
      await leases.end('a', 'cache', 'token:0');
    }
    await held(async (run, commit) => {
      await openReadLeases({ database: { ...database, run }, schema, leaseMs }).grant(a, now);
      const second = leases.grant(stranger, now).catch((error: unknown) => error);
      await untilOneWaits();
      await commit();
      expect(await second).toMatchObject({ code: 'FORBIDDEN' });
    });
    expect(await leases.list()).toMatchObject([{ id: 'a', name: 'near the workers' }]);
  });

  it('are granted only with the events that are being committed', () =>
    held(async (run, commit) => {
      const event = await appendEvents(run, schema, 'delete', [blob('z')]);
      const granted = leases.grant(a, 0n);
      await untilOneWaits();
      await commit();
      expect((await granted).newest).toBe(event);
    }));

  it('are seen by whoever commits an event behind them', () =>
    held(async (run, commit) => {
      const before = await leases.newest();
      const { newest } = await openReadLeases({ database: { ...database, run }, schema, leaseMs }).grant(a, before);
      const appended = append('w');
      await untilOneWaits();
      await commit();
      const event = await appended;
      expect(event).toBeGreaterThan(newest);
      expect(await unaware(event)).toEqual(['a']);
    }));
});

/** Both clocks show the same; `asleepMs`: the steady one stood still meanwhile. */
const at = (ms: number, asleepMs = 0) => ({ steadyMs: ms - asleepMs, wallMs: ms });

describe('a lease on reading', () => {
  it('lasts from when it was asked for, and only once all is applied that was known then', () => {
    const lease = new ReadLease(5n);
    expect(lease.isFresh(at(0))).toBe(false);
    expect(lease.granted(at(1000), { newest: 7n, leaseMs: 100 })).toBe(false);
    expect(lease.isFresh(at(1001))).toBe(false);
    lease.applied(6n);
    lease.applied(7n);
    expect(lease.granted(at(1000), { newest: 7n, leaseMs: 100 })).toBe(true);
    expect([lease.isFresh(at(1099)), lease.isFresh(at(1100)), lease.endsInMs(at(1040))]).toEqual([true, false, 60]);
    lease.restarted(9n);
    expect([lease.isFresh(at(1050)), lease.cursor]).toEqual([false, 9n]);
  });

  it('is over when the machine has slept through its end, and when either clock says so', () => {
    const lease = new ReadLease(0n);
    lease.granted(at(1000), { newest: 0n, leaseMs: 100 });
    expect([lease.isFresh(at(1100, 90)), lease.isFresh(at(1099, 90))]).toEqual([false, true]);
    expect(lease.isFresh({ steadyMs: 1100, wallMs: 500 })).toBe(false);
  });

  it('is never believed in after the other side has stopped waiting for it, whatever the order and the delays', () => {
    const step = fc.record({ kind: fc.constantFrom('ask', 'event', 'apply', 'wait'), ms: fc.nat({ max: 80 }) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        let nowMs = 0;
        let newest = 0n;
        // what Postgres knows
        let leaseUntilMs = Number.NEGATIVE_INFINITY;
        let told = 0n;
        const lease = new ReadLease(0n);
        for (const { kind, ms } of steps) {
          if (kind === 'wait') nowMs += ms;
          if (kind === 'event') newest += 1n;
          if (kind === 'apply' && lease.cursor < newest) lease.applied(lease.cursor + 1n);
          if (kind === 'ask') {
            const sentAtMs = nowMs;
            told = lease.cursor;
            nowMs += ms; // on its way
            leaseUntilMs = Math.max(leaseUntilMs, nowMs + 100);
            const answer = { newest, leaseMs: 100 };
            nowMs += ms;
            lease.granted(at(sentAtMs), answer);
          }
          const isWaitedFor = leaseUntilMs > nowMs && told < newest;
          const servesOld = lease.isFresh(at(nowMs)) && lease.cursor < newest;
          expect(servesOld && !isWaitedFor).toBe(false);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
