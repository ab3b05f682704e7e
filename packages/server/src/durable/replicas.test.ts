import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { keptLog, openSite, type Site, type TestReplica } from './durable-fixture.js';
import { runWhileLeading } from './leader-tasks.js';
import { replicaStatements } from './replica-sql.js';
import { beatMsOf, newExecutorId } from './replicas.js';

let postgres: EmbeddedPostgres;
let site: Site;
beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 60 });
  postgres.exited.catch(() => undefined);
});
afterAll(() => postgres.stop());
beforeEach(async () => {
  site = await openSite(postgres.url);
});
afterEach(() => site.close());

async function leaderOf(...replicas: TestReplica[]): Promise<TestReplica> {
  return expect
    .poll(() => replicas.find(({ leadership }) => leadership !== undefined), { interval: 5, timeout: 20_000 })
    .toBeDefined()
    .then(() => {
      const leader = replicas.find(({ leadership }) => leadership !== undefined);
      if (leader === undefined) throw new Error('it leads no more');
      return leader;
    });
}

const eventually = <T>(ask: () => T | Promise<T>) => expect.poll(ask, { interval: 5, timeout: 20_000 });

describe('a replica', () => {
  it('is registered under an id of its own, with its versions, and gives signs of life', async () => {
    const replica = site.join({ applicationVersion: '7', serviceVersion: '1.2.3' });
    await eventually(() => replica.executorId).toBeDefined();
    const [row] = await site.rows();
    expect(row).toMatchObject({
      executor_id: replica.executorId,
      application_version: '7',
      service_version: '1.2.3',
      pid: process.pid,
      gone_at: null,
    });
    await eventually(async () => Number((await site.rows())[0]?.seen_at)).toBeGreaterThan(Number(row?.seen_at));
  });

  it('keeps its id when only its connection was lost', async () => {
    const replica = site.join();
    await eventually(() => replica.executorId).toBeDefined();
    await site.endSession(replica);
    await eventually(() => replica.lines.some((line) => line.includes('has lost its session'))).toBe(true);
    await leaderOf(replica);
    expect(replica.ids).toHaveLength(1);
    expect(await site.rows()).toHaveLength(1);
  });

  it('comes back under another id when it was declared gone', async () => {
    const replica = site.join();
    await eventually(() => replica.executorId).toBeDefined();
    await site.sql.query(`UPDATE ${site.schema}.replica SET gone_at = now()`);
    await eventually(() => replica.ids.length).toBe(2);
    expect(new Set(replica.ids).size).toBe(2);
    expect((await site.rows()).map((row) => [row.executor_id, row.gone_at !== null])).toEqual([
      [replica.ids[0], true],
      [replica.ids[1], false],
    ]);
  });

  it('says goodbye when it is closed', async () => {
    const replica = site.join();
    await eventually(() => replica.executorId).toBeDefined();
    await replica.close();
    expect((await site.rows())[0]?.gone_at).toBeInstanceOf(Date);
  });

  it('waits for the answer to its goodbye, also when Postgres is slow to give it', async () => {
    const replica = site.join({ timeoutMs: 30_000 });
    await eventually(() => replica.executorId).toBeDefined();
    const slow = await site.sql.connect();
    await slow.query(`BEGIN; LOCK TABLE ${site.schema}.replica`);
    let isClosed = false;
    const closed = replica.close().then(() => {
      isClosed = true;
    });
    try {
      await slow.query('SELECT pg_sleep(1.5)');
      expect(isClosed).toBe(false);
    } finally {
      await slow.query('COMMIT');
      slow.release();
    }
    await closed;
    expect((await site.rows())[0]?.gone_at).toBeInstanceOf(Date);
  });

  it('refuses a pooler that hands each statement to another session', async () => {
    const replica = site.join();
    await eventually(() => replica.executorId).toBeDefined();
    // what a pooler in transaction mode looks like from here
    await site.sql.query(
      `CREATE FUNCTION ${site.schema}.pg_backend_pid() RETURNS integer LANGUAGE sql AS 'SELECT (random() * 1e9)::int'`,
    );
    const pooled = site.join({ url: `${site.url}&options=-c%20search_path%3D${site.schema},pg_catalog` });
    await eventually(() => pooled.lines.join()).toMatch(/each statement goes to another session: a pooler/);
    // it tries again, and says so once
    const before = Number((await site.rows()).at(-1)?.seen_at);
    await eventually(async () => Number((await site.rows()).at(-1)?.seen_at)).toBeGreaterThan(before);
    expect(pooled.lines).toHaveLength(1);
  });

  it('beats several times within the bound, and every few seconds at least', () => {
    expect(beatMsOf(600)).toBe(100);
    expect(beatMsOf(3_600_000)).toBe(5000);
  });

  it('has an id that tells who it is, and comes once', () => {
    expect(newExecutorId()).toMatch(new RegExp(`^[\\w.-]+:${process.pid}:[0-9a-f]{12}$`));
    expect(newExecutorId()).not.toBe(newExecutorId());
  });
});

describe('the leader', () => {
  it('is one of several; when it goes, another one follows with a later epoch', async () => {
    const replicas = [site.join(), site.join(), site.join()];
    const first = await leaderOf(...replicas);
    await Promise.all(replicas.map((replica) => eventually(() => replica.executorId).toBeDefined()));
    expect(replicas.filter(({ leadership }) => leadership !== undefined)).toEqual([first]);
    const { epoch, signal } = first.led[0] ?? {};
    await first.close();
    expect(signal?.aborted).toBe(true);
    const others = replicas.filter((replica) => replica !== first);
    const second = await leaderOf(...others);
    expect(Number(second.leadership?.epoch)).toBe(Number(epoch) + 1);
  });

  it('leads no more from the moment its session is lost', async () => {
    const leader = await leaderOf(site.join());
    const [leadership] = leader.led;
    const lost = new Promise((resolve) => leadership?.signal.addEventListener('abort', resolve));
    await site.endSession(leader);
    await lost;
    expect(leader.leadership).not.toBe(leadership);
    await expect(leadership?.transaction(async () => 'done')).rejects.toMatchObject({ code: 'ABORTED' });
  });

  it('that was deposed decides nothing any more, though it has not noticed', async () => {
    const leader = await leaderOf(site.join());
    const { leadership } = leader;
    expect(await leadership?.transaction(async () => 'done')).toBe('done');
    await site.sql.query(`UPDATE ${site.schema}.leader SET epoch = epoch + 1`);
    expect(leadership?.signal.aborted).toBe(false);
    const effect = leadership?.transaction((run) => run({ text: `DELETE FROM ${site.schema}.replica` }, []));
    await expect(effect).rejects.toMatchObject({ code: 'ABORTED' });
    expect(await site.rows()).toHaveLength(1);
  });

  it('is followed only when its transaction has ended', async () => {
    const leader = await leaderOf(site.join());
    const order: string[] = [];
    let next: Promise<unknown> = Promise.resolve();
    await leader.leadership?.transaction(async (run) => {
      const sql = replicaStatements(site.schema);
      next = site.sql.query(sql.newEpoch.text, ['another']).then(() => order.push('next'));
      await eventually(async () => {
        const waiting = `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE ${site.schema}.leader%'`;
        return (await site.sql.query(waiting)).rows.length;
      }).toBe(1);
      await run({ text: 'SELECT' }, []);
      order.push('first');
    });
    await next;
    expect(order).toEqual(['first', 'next']);
  });

  it('loses its session by itself when it is silent for too long', async () => {
    const leader = await leaderOf(site.join({ timeoutMs: 900 }));
    const { rows } = await site.sql.query(
      `SELECT pid FROM pg_stat_activity WHERE application_name = 'lps replica' AND query LIKE $1`,
      [`%${site.schema}%`],
    );
    const blockedSince = performance.now();
    while (performance.now() - blockedSince < 1500); // as a process that is stopped
    const pids = rows.map(({ pid }) => pid);
    const left = async () => (await site.sql.query('SELECT FROM pg_stat_activity WHERE pid = ANY($1)', [pids])).rows;
    await eventually(left).toEqual([]);
    await eventually(() => leader.led.length).toBe(2);
    expect(leader.led[0]?.signal.aborted).toBe(true);
  });
});

describe('silence', () => {
  const declare = async (leader: TestReplica, silenceMs: number, since: Date): Promise<unknown[]> => {
    const sql = replicaStatements(site.schema);
    const values = [leader.executorId, silenceMs, since];
    return (await site.sql.query(sql.declareGone.text, values)).rows.map((row) => row.executor_id);
  };
  const long = new Date(0);
  const minute = 60_000;

  it('counts against others that are silent for longer than the bound, and never against the leader itself', async () => {
    const leader = await leaderOf(site.join());
    await site.sql.query(`INSERT INTO ${site.schema}.replica (executor_id, application_version, service_version, host, pid, seen_at)
      VALUES ('silent', '1', '1', 'h', 1, now() - interval '61 min'), ('lively', '1', '1', 'h', 1, now() - interval '59 min')`);
    await site.sql.query(`UPDATE ${site.schema}.replica SET seen_at = now() - interval '2 h' WHERE executor_id = $1`, [
      leader.executorId,
    ]);
    expect(await declare(leader, 60 * minute, long)).toEqual(['silent']);
    expect(await declare(leader, 60 * minute, long)).toEqual([]);
  });

  it('of before the leader began does not count: Postgres itself may have been away', async () => {
    const leader = await leaderOf(site.join());
    await site.sql.query(`INSERT INTO ${site.schema}.replica (executor_id, application_version, service_version, host, pid, seen_at)
      VALUES ('unheard', '1', '1', 'h', 1, now() - interval '2 h')`);
    expect(await declare(leader, 60 * minute, new Date(Date.now() - 59 * minute))).toEqual([]);
    expect(await declare(leader, 60 * minute, new Date(Date.now() - 61 * minute))).toEqual(['unheard']);
  });
});

describe('a row of a gone replica', () => {
  it('is forgotten after a while, unless something of its replica is unfinished', async () => {
    const sql = replicaStatements(site.schema);
    const add = (id: string, goneAt: string): Promise<unknown> =>
      site.sql.query(`INSERT INTO ${site.schema}.replica (executor_id, application_version, service_version, host, pid, gone_at)
        VALUES ('${id}', '1', '1', 'h', 1, ${goneAt})`);
    await add('lives', 'NULL');
    await add('young', `now() - interval '59 min'`);
    await add('unfinished', `now() - interval '61 min'`);
    await add('finished', `now() - interval '61 min'`);
    const old = await site.database.run(sql.goneBefore, [3_600_000]);
    expect(old.map((row) => row.executor_id).sort()).toEqual(['finished', 'unfinished']);
    const removed = await site.database.run(sql.removeOld, [3_600_000, ['unfinished']]);
    expect(removed.map((row) => row.executor_id)).toEqual(['finished']);
    expect((await site.rows()).map((row) => row.executor_id).sort()).toEqual(['lives', 'unfinished', 'young']);
  });
});

describe("a leader's task", () => {
  it('runs at once and again, goes on after a failure, and ends with the leadership', async () => {
    const leader = await leaderOf(site.join());
    const [leadership] = leader.led;
    if (leadership === undefined) throw new Error('it does not lead');
    const log = keptLog();
    let runs = 0;
    const ended = runWhileLeading(
      leadership,
      [
        {
          name: 'counting',
          everyMs: 1,
          async run() {
            runs += 1;
            if (runs === 1) throw new Error('planned');
          },
        },
      ],
      log,
    );
    await eventually(() => runs).toBeGreaterThan(2);
    expect(log.lines.map(({ msg }) => msg)).toEqual(['counting failed; it runs again']);
    await leader.close();
    await ended;
    const after = runs;
    await site.rows();
    expect(runs).toBe(after);
  });
});
