import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DBOS } from '@dbos-inc/dbos-sdk';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { prepare } from '../catalog/postgres-catalog.js';
import { keptLog, openSite, type Site } from './durable-fixture.js';
import { withLaunchLock } from './launch-lock.js';
import { dbosLogger } from './log.js';
import { type DurableRuntime, type RuntimeOptions, startRuntime } from './runtime.js';

let open = (): void => undefined;
let opened: Promise<void>;
let reached: Promise<void>;
let arrive = (): void => undefined;

const workflows = {
  async slow(input: string): Promise<string> {
    return DBOS.runStep(async () => {
      arrive();
      await opened;
      return `${input} done`;
    });
  },
};

let postgres: EmbeddedPostgres;
let site: Site;
const runtimes = new Set<DurableRuntime<typeof workflows>>();
beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 60 });
  postgres.exited.catch(() => undefined);
});
afterAll(() => postgres.stop());
beforeEach(async () => {
  site = await openSite(postgres.url);
  opened = new Promise((resolve) => {
    open = resolve;
  });
  reached = new Promise((resolve) => {
    arrive = resolve;
  });
});
afterEach(async () => {
  open();
  for (const runtime of runtimes) await runtime.close(0);
  runtimes.clear();
  await site.close();
});

function start(options: Partial<RuntimeOptions<typeof workflows>> = {}): DurableRuntime<typeof workflows> {
  const { url: databaseUrl, schema } = site;
  const runtime = startRuntime({ databaseUrl, schema, applicationVersion: '1', workflows, log: keptLog(), ...options });
  runtimes.add(runtime);
  return runtime;
}

const eventually = <T>(ask: () => T | Promise<T>) => expect.poll(ask, { interval: 5, timeout: 20_000 });
const statusOf = async (id: string): Promise<unknown> => {
  const { rows } = await site.sql.query(
    `SELECT status FROM ${site.schema}_dbos.workflow_status WHERE workflow_uuid = $1`,
    [id],
  );
  return rows[0]?.status;
};

describe('the runtime', () => {
  it('begins workflows once it has an executor id and was launched, and not before', async () => {
    const runtime = start();
    await expect(runtime.start('slow', 'w', 'x')).rejects.toMatchObject({ code: 'TRY_AGAIN' });
    runtime.setExecutorId('a');
    await expect(runtime.start('slow', 'w', 'x')).rejects.toMatchObject({ code: 'TRY_AGAIN' });
    await eventually(() => runtime.executorId).toBe('a');
    await runtime.start('slow', 'w', 'x');
    await runtime.start('slow', 'w', 'y'); // the same id: nothing new
    open();
    expect(await DBOS.retrieveWorkflow('w').getResult()).toBe('x done');
  });

  it('refuses a name that is no workflow', async () => {
    const runtime = start();
    await expect(runtime.start('fast' as 'slow', 'w', 'x')).rejects.toMatchObject({ code: 'INTERNAL' });
  });

  it('is one in a process, and leaves room for the next one when it is closed', async () => {
    const first = start();
    expect(() => start()).toThrow('this process runs DBOS already');
    await first.close(0);
    const second = start();
    second.setExecutorId('b');
    await eventually(() => second.executorId).toBe('b');
  });

  it('lets workflows under way finish when it is closed', async () => {
    const runtime = start();
    runtime.setExecutorId('a');
    await eventually(() => runtime.executorId).toBe('a');
    await runtime.start('slow', 'draining', 'x');
    await reached;
    const closed = runtime.close(20_000);
    await expect(runtime.start('slow', 'late', 'x')).rejects.toMatchObject({ code: 'TRY_AGAIN' });
    open();
    await closed;
    expect(await statusOf('draining')).toBe('SUCCESS');
  });

  it('is launched in the end, though Postgres was not there at first', async () => {
    const log = keptLog();
    const runtime = start({ databaseUrl: 'postgresql://lps@127.0.0.1:1/lps', log });
    runtime.setExecutorId('a');
    await eventually(() =>
      log.lines.some(({ msg }) => msg === 'durable work cannot begin yet; it is tried again'),
    ).toBe(true);
    expect(runtime.executorId).toBeUndefined();
    await runtime.close(0);
  });

  it('does not let a caller wait for a Postgres that is away, and begins what was begun once it is back', async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'lps-runtime-'));
    const first = await startEmbeddedPostgres({ dataDir });
    await prepare(first.url, 'lps');
    const runtime = start({ databaseUrl: first.url, schema: 'lps', answerMs: 300 });
    runtime.setExecutorId('a');
    await eventually(() => runtime.executorId).toBe('a');
    await first.stop();
    await expect(runtime.start('slow', 'late', 'x')).rejects.toMatchObject({ code: 'CATALOG_UNAVAILABLE' });
    const second = await startEmbeddedPostgres({ dataDir });
    await reached;
    open();
    expect(await DBOS.retrieveWorkflow('late').getResult()).toBe('x done');
    await runtime.close(0);
    await second.stop();
    await rm(dataDir, { recursive: true });
  });

  it('never logs the URL of the database', async () => {
    const log = keptLog();
    const runtime = start({ log });
    runtime.setExecutorId('a');
    await eventually(() => runtime.executorId).toBe('a');
    await runtime.close(0);
    expect(log.lines.length).toBeGreaterThan(3);
    expect(JSON.stringify(log.lines)).not.toContain(new URL(site.url).search.slice(1));
  });
});

describe('the lock around a launch', () => {
  const signal = new AbortController().signal;
  const lockedBy = async (run: () => Promise<void>): Promise<void> =>
    withLaunchLock({ url: site.url, schema: site.schema, signal }, run);

  it('lets one in at a time', async () => {
    let inside = 0;
    let most = 0;
    const enter = async (): Promise<void> => {
      inside += 1;
      most = Math.max(most, inside);
      await site.sql.query('SELECT');
      inside -= 1;
    };
    await Promise.all([lockedBy(enter), lockedBy(enter), lockedBy(enter)]);
    expect(most).toBe(1);
  });

  it('is free again when its holder dies', async () => {
    const holder = new pg.Client({ connectionString: site.url });
    holder.on('error', () => undefined);
    await holder.connect();
    await holder.query('SELECT pg_advisory_lock(hashtextextended($1, 0))', [`lps durable launch of ${site.schema}`]);
    const { rows } = await holder.query('SELECT pg_backend_pid() AS pid');
    let isIn = false;
    const entered = lockedBy(async () => {
      isIn = true;
    });
    await site.sql.query('SELECT pg_sleep(0.2)'); // it polls meanwhile
    expect(isIn).toBe(false);
    await site.sql.query('SELECT pg_terminate_backend($1)', [rows[0].pid]);
    await entered;
    expect(isIn).toBe(true);
  });

  it('is given up, retryably, when another one holds it for too long', async () => {
    await lockedBy(async () => {
      const second = withLaunchLock(
        { url: site.url, schema: site.schema, signal, timeoutMs: 100 },
        async () => undefined,
      );
      await expect(second).rejects.toMatchObject({ code: 'CATALOG_UNAVAILABLE' });
    });
  });
});

describe("DBOS' log", () => {
  it('goes down a level, and what is repeated is said once in a while', () => {
    const log = keptLog();
    let nowMs = 0;
    const dbos = dbosLogger(log, () => nowMs);
    dbos.info('launched');
    dbos.debug('detail');
    dbos.warn('Retrying in 1.25s (attempt 1)');
    dbos.warn('Retrying in 2.5s (attempt 2)');
    dbos.error('broken', { error: new Error('why') });
    nowMs = 30_000;
    dbos.warn('Retrying in 30s (attempt 9)');
    expect(log.lines.map(({ level, msg }) => [level, msg])).toEqual([
      [20, 'durable: launched'],
      [10, 'durable: detail'],
      [40, 'durable: Retrying in 1.25s (attempt 1)'],
      [20, 'durable: Retrying in 2.5s (attempt 2)'],
      [50, 'durable: broken'],
      [40, 'durable: Retrying in 30s (attempt 9)'],
    ]);
    expect(log.lines[4]?.err).toMatchObject({ message: 'why' });
  });
});
