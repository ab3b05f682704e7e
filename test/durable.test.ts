/**
 * Durable work through the end of the processes that do it: killed, stopped for a while, of two versions. The processes
 * are replicas of the service without its HTTP side, with workflows of the test's own.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { tempDir } from '@large-payload/test-components';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../packages/server/src/catalog/embedded-postgres.ts';
import { prepare } from '../packages/server/src/catalog/postgres-catalog.ts';
import { Effects, ReplicaProcess, type ReplicaSettings } from './support/replica.ts';
import { isLong, scaled } from './support/scale.ts';
import { until } from './support/until.ts';

const timeoutMs = 2000;

let postgres: EmbeddedPostgres;
let pool: pg.Pool;
let schema: string;
let effects: Effects;
const replicas = new Set<ReplicaProcess>();

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 100 });
  postgres.exited.catch(() => undefined);
  pool = new pg.Pool({ connectionString: postgres.url, max: 4 });
  pool.on('error', () => undefined);
});
afterAll(async () => {
  await pool?.end();
  await postgres?.stop();
});

beforeEach(async () => {
  schema = `t_${randomBytes(6).toString('hex')}`;
  effects = new Effects(pool, schema);
  await prepare(postgres.url, schema);
  await prepareEffects(effects);
});
afterEach(async () => {
  for (const replica of replicas) await replica.kill();
  replicas.clear();
});

function begin(settings: Partial<ReplicaSettings> = {}): ReplicaProcess {
  const replica = new ReplicaProcess({ url: postgres.url, schema, version: '1', timeoutMs, ...settings });
  replicas.add(replica);
  return replica;
}

async function beginAndRun(settings: Partial<ReplicaSettings> = {}): Promise<ReplicaProcess> {
  const replica = begin(settings);
  await replica.running();
  return replica;
}

async function untilLeads(...candidates: ReplicaProcess[]): Promise<ReplicaProcess> {
  return until('a leader', async () => {
    for (const replica of candidates) if ((await replica.state()).leads) return replica;
    return undefined;
  });
}

async function untilOneLeads(...candidates: ReplicaProcess[]): Promise<void> {
  await until('one leader', async () => {
    const states = await Promise.all(candidates.map((replica) => replica.state()));
    return states.filter(({ leads }) => leads).length === 1 || undefined;
  });
}

async function prepareEffects(of: Effects): Promise<void> {
  await of.prepare();
  await of.pool.query('CREATE TABLE IF NOT EXISTS public.stall (pid integer, since timestamptz, until timestamptz)');
}

/**
 * How many were declared gone beside those that have `ended`. Each of them stood still for a while, as on a busy machine
 * a process may; throws when one is gone that did not.
 */
async function strayed(of: Effects, ended: readonly ReplicaProcess[]): Promise<number> {
  const text = `SELECT pid, EXISTS (SELECT FROM public.stall s
      WHERE s.pid = r.pid AND s.since <= r.gone_at AND s.until >= r.seen_at) AS stood
    FROM ${of.schema}.replica r WHERE gone_at IS NOT NULL ORDER BY stood`;
  return until('the reason why a replica is gone', async () => {
    const { rows } = await of.pool.query<{ pid: number; stood: boolean }>(text);
    const pids = ended.map(({ pid }) => pid);
    const others = rows.filter(({ pid }) => {
      const at = pids.indexOf(pid);
      if (at >= 0) pids.splice(at, 1);
      return at < 0;
    });
    return others.every(({ stood }) => stood) ? others.length : undefined;
  });
}

/** These steps were done, and no other. Whoever stood still for too long may have left one to be done once more. */
async function expectSteps(
  id: string,
  expected: readonly string[],
  ended: readonly ReplicaProcess[],
  of = effects,
): Promise<void> {
  const done = (await of.of(id)).map(({ step }) => step);
  const more = await strayed(of, ended);
  if (more === 0) return expect(done).toEqual(expected);
  expect([...new Set(done)]).toEqual([...new Set(expected)]);
  expect(done.length).toBeLessThanOrEqual(expected.length + more);
}

describe('replicas', () => {
  it('begin all at once on an empty database, and one of them leads', async () => {
    const all = [begin(), begin(), begin(), begin()];
    await Promise.all(all.map((replica) => replica.running()));
    await untilOneLeads(...all);
    expect(new Set((await effects.replicas()).map((row) => row.executor_id)).size).toBe(
      4 + (await strayed(effects, [])),
    );
  });

  it('go on with the work of one that was killed: finished steps stay, the one under way is done again', async () => {
    const first = await beginAndRun();
    await untilLeads(first);
    const [second, third] = [await beginAndRun(), await beginAndRun()];
    await second.start('gated', 'killed-1', { gate: schema });
    await second.start('gated', 'killed-2', { gate: schema });
    await effects.untilDone('killed-1', 'at the gate');
    await effects.untilDone('killed-2', 'at the gate');
    await second.kill();
    await effects.untilDone('killed-1', 'at the gate', 2);
    await effects.open(schema);
    for (const id of ['killed-1', 'killed-2']) {
      await effects.untilEnded(id);
      await expectSteps(id, ['before', 'at the gate', 'at the gate', 'after'], [second]);
      expect([first.pid, third.pid]).toContain((await effects.of(id)).at(-1)?.pid);
    }
  });

  it('have another leader when theirs was killed, which goes on with its work', async () => {
    const first = await beginAndRun();
    await untilLeads(first);
    const second = await beginAndRun();
    await first.start('gated', 'led', { gate: schema });
    await effects.untilDone('led', 'at the gate');
    await effects.open(`${schema} unused`);
    await first.kill();
    await untilLeads(second);
    await effects.untilDone('led', 'at the gate', 2);
    await effects.open(schema);
    await effects.untilEnded('led');
    await expectSteps('led', ['before', 'at the gate', 'at the gate', 'after'], [first]);
  });

  it('take up at once what one left that said goodbye', async () => {
    const first = await beginAndRun({ timeoutMs: 60_000 });
    const second = await beginAndRun({ timeoutMs: 60_000 });
    await first.start('gated', 'left', { gate: schema });
    await effects.untilDone('left', 'at the gate');
    await first.close(100);
    await effects.untilDone('left', 'at the gate', 2);
    await effects.open(schema);
    await effects.untilEnded('left');
    expect((await effects.of('left')).at(-1)?.pid).toBe(second.pid);
  });
});

describe('kill -9 of a random replica, over and over', () => {
  const kills = scaled({ usual: 4, long: 100 });

  it(
    `${kills} times: every workflow ends, once, and none is left`,
    async () => {
      const live = [await beginAndRun(), await beginAndRun(), await beginAndRun()];
      const ids: string[] = [];
      const dead: ReplicaProcess[] = [];
      for (let kill = 1; kill <= kills; kill += 1) {
        const gate = `${schema} ${kill}`;
        const begun = live.flatMap((replica, index) =>
          [1, 2, 3].map((number) => ({ replica, id: `${gate} ${index} ${number}` })),
        );
        await Promise.all(begun.map(({ replica, id }) => replica.start('gated', id, { gate })));
        ids.push(...begun.map(({ id }) => id));
        const victims = live.splice(randomInt(live.length), 1);
        dead.push(...victims);
        const killed = delay(randomInt(100)).then(() => victims[0]?.kill()); // anywhere between first step and last
        await effects.open(gate);
        await killed;
        live.push(await beginAndRun());
      }
      for (const id of ids) await effects.untilEnded(id);
      await until('the dead, counted', async () => {
        const gone = (await effects.replicas()).filter(({ gone_at: goneAt }) => goneAt !== null).map(({ pid }) => pid);
        return dead.every(({ pid }) => gone.includes(pid)) || undefined;
      });
      const more = await strayed(effects, dead);
      for (const id of ids) {
        const done = (await effects.of(id)).map(({ step }) => step);
        expect(done).toEqual(expect.arrayContaining(['before', 'at the gate', 'after']));
        if (more === 0) expect(done.at(-1)).toBe('after');
      }
      const { rows } = await pool.query(
        `SELECT status, count(*)::int FROM "${schema}_dbos".workflow_status GROUP BY 1`,
      );
      expect(rows).toEqual([{ status: 'SUCCESS', count: ids.length }]);
    },
    isLong ? 1_200_000 : 120_000,
  );
});

describe('a process that is alone on its database', () => {
  it('goes on at once with what the one before it left, though that was killed a moment ago', async () => {
    const alone = { timeoutMs: 60_000, isAlone: true };
    const first = await beginAndRun(alone);
    await first.start('gated', 'alone', { gate: schema });
    await effects.untilDone('alone', 'at the gate');
    await first.kill();
    const second = await beginAndRun(alone);
    await effects.untilDone('alone', 'at the gate', 2);
    await effects.open(schema);
    await effects.untilEnded('alone');
    expect((await effects.of('alone')).at(-1)?.pid).toBe(second.pid);
  });
});

describe('a replica that was stopped for a while', () => {
  it.each(['the leader', 'another one'])(
    'is %s: it comes back under another id, and each workflow has one outcome',
    async (which) => {
      const first = await beginAndRun();
      await untilLeads(first);
      const second = await beginAndRun();
      const [stopped, other] = which === 'the leader' ? [first, second] : [second, first];
      await stopped.start('gated', `stopped-${which}`, { gate: schema });
      await effects.untilDone(`stopped-${which}`, 'at the gate');
      stopped.signal('SIGSTOP');
      await untilLeads(other);
      await effects.untilDone(`stopped-${which}`, 'at the gate', 2);
      stopped.signal('SIGCONT');
      await stopped.running(2);
      await effects.open(schema);
      await effects.untilEnded(`stopped-${which}`);
      await expectSteps(`stopped-${which}`, ['before', 'at the gate', 'at the gate', 'after'], [stopped]);
      const lives = async (): Promise<boolean[]> =>
        (await effects.replicas())
          .filter(({ pid }) => pid === stopped.pid)
          .map(({ gone_at: goneAt }) => goneAt === null);
      expect((await lives())[0]).toBe(false);
      await until('its new life', async () => (await lives()).at(-1) || undefined);
      await stopped.start('gated', `afterwards-${which}`, { gate: schema });
      await effects.untilEnded(`afterwards-${which}`);
      await untilOneLeads(stopped, other);
    },
  );
});

describe('two versions side by side', () => {
  it('each go on with their own work, and what no replica can go on with is kept and reported', async () => {
    const leader = await beginAndRun({ version: '2' });
    await untilLeads(leader);
    const old = await beginAndRun({ version: '1' });
    const alsoOld = await beginAndRun({ version: '1' });
    await old.start('gated', 'old', { gate: schema });
    await effects.untilDone('old', 'at the gate');
    await old.kill();
    await effects.untilDone('old', 'at the gate', 2);
    expect((await effects.of('old')).at(-1)?.pid).toBe(alsoOld.pid);
    await alsoOld.kill();
    expect(await leader.saysStranded()).toEqual({ '1': 1 });
    await until('its count', async () => (await leader.state()).stranded === 1 || undefined);
    await effects.open(schema);
    const back = await beginAndRun({ version: '1' });
    await effects.untilEnded('old');
    expect((await effects.of('old')).at(-1)).toEqual({ step: 'after', pid: back.pid });
  });

  it('that are compatible: the new one finishes the work of the old one, once the old ones are gone', async () => {
    const old = await beginAndRun({ version: '1' });
    await old.start('gated', 'compatible', { gate: schema });
    await effects.untilDone('compatible', 'at the gate');
    const fresh = await beginAndRun({ version: '2', compatible: ['1'] });
    await old.kill();
    await effects.untilDone('compatible', 'at the gate', 2);
    await effects.open(schema);
    await effects.untilEnded('compatible');
    expect((await effects.of('compatible')).at(-1)?.pid).toBe(fresh.pid);
    expect(await effects.workflow('compatible')).toMatchObject({ application_version: '2' });
  });
});

describe('Postgres', () => {
  it('is away for longer than the bound: nobody is declared gone for it, and the work goes on by itself', async () => {
    const dataDir = tempDir('postgres');
    const first = await startEmbeddedPostgres({ dataDir, maxConnections: 60 });
    const { url } = first;
    await prepare(url, schema);
    const own = new pg.Pool({ connectionString: url, max: 2 });
    own.on('error', () => undefined);
    const there = new Effects(own, schema);
    await prepareEffects(there);
    const two = [await beginAndRun({ url }), await beginAndRun({ url })] as const;
    await two[0].start('gated', 'outage', { gate: schema });
    await there.untilDone('outage', 'at the gate');
    const third = await beginAndRun({ url });
    await first.stop();
    await third.close(); // it ends, though it cannot say goodbye
    await delay(1.5 * timeoutMs); // the outage itself
    const second = await startEmbeddedPostgres({ dataDir, maxConnections: 60 });
    await untilLeads(...two);
    await there.open(schema);
    await there.untilEnded('outage');
    const goneOf = async (pid: number): Promise<unknown> =>
      (await there.replicas()).find((row) => row.pid === pid)?.gone_at;
    await until('the end of the third, noticed', async () => ((await goneOf(third.pid)) === null ? undefined : true));
    if ((await strayed(there, [third])) === 0)
      expect(await Promise.all(two.map(({ pid }) => goneOf(pid)))).toEqual([null, null]);
    await expectSteps('outage', ['before', 'at the gate', 'after'], [third], there);
    for (const replica of two) await replica.close();
    await own.end();
    await second.stop();
  });
});
