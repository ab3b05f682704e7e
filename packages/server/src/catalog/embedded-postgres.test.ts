import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { isLpsError, type LpsError } from '@large-payload/core';
import { Client } from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  startEmbeddedPostgres,
  type ThrowAwayPostgresOptions,
} from './embedded-postgres.js';
import { preparePostgresBinaries } from './embedded-postgres-binaries.js';

const isRoot = process.geteuid?.() === 0;
const here = dirname(fileURLToPath(import.meta.url));
const run = promisify(execFile);

const started: EmbeddedPostgres[] = [];
const owners: Owner[] = [];
const folders: string[] = [];

afterEach(async () => {
  vi.unstubAllEnvs();
  for (const postgres of started.splice(0)) await postgres.stop();
  for (const owner of owners.splice(0)) owner.kill('SIGKILL');
  for (const folder of folders.splice(0)) {
    await killPostmaster(join(folder, 'data'));
    await fs.rm(folder, { recursive: true, force: true });
  }
});

let model: string;
beforeAll(async () => {
  const folder = await fs.mkdtemp(join(tmpdir(), 'lps-embedded-test-'));
  if (isRoot) await fs.chmod(folder, 0o755);
  model = join(folder, 'data');
  await (await startEmbeddedPostgres({ dataDir: model })).stop();
});
afterAll(() => fs.rm(dirname(model), { recursive: true, force: true }));

/** A data directory that does not exist yet, in a folder that is removed after the test. */
async function newDataDir(): Promise<string> {
  return join(await newFolder(), 'data');
}

/** One whose database was made and stopped, for tests of what comes after that: to make one takes longest. */
async function usedDataDir(): Promise<string> {
  const dataDir = await newDataDir();
  await run('cp', ['-a', model, dataDir]);
  return dataDir;
}

async function newFolder(): Promise<string> {
  const folder = await fs.mkdtemp(join(tmpdir(), 'lps-embedded-test-'));
  if (isRoot) await fs.chmod(folder, 0o755);
  folders.push(folder);
  return folder;
}

async function start(options: EmbeddedPostgresOptions | ThrowAwayPostgresOptions): Promise<EmbeddedPostgres> {
  const postgres = await startEmbeddedPostgres(options);
  started.push(postgres);
  return postgres;
}

async function failureOf(attempt: Promise<unknown>): Promise<LpsError> {
  const error = await attempt.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!isLpsError(error)) throw new Error(`expected an LpsError, got ${String(error)}`, { cause: error });
  return error;
}

async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows;
  } finally {
    await client.end();
  }
}

async function until<T>(what: string, check: () => Promise<T | undefined | false>, timeoutMs = 40_000): Promise<T> {
  for (const since = Date.now(); Date.now() - since < timeoutMs; await delay(20)) {
    const result = await check().catch(() => undefined);
    if (result !== undefined && result !== false) return result;
  }
  throw new Error(`not within ${timeoutMs} ms: ${what}`);
}

async function postmasterPid(dataDir: string): Promise<number> {
  return Number((await fs.readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8')).split('\n')[0]);
}

async function isRunning(pid: number): Promise<boolean> {
  const { stdout } = await run('ps', ['-o', 'stat=', '-p', String(pid)]).catch(() => ({ stdout: '' }));
  return stdout.trim() !== '' && !stdout.startsWith('Z');
}

/** What a killed owner left: its postmaster and its socket directory. */
async function killPostmaster(dataDir: string): Promise<void> {
  const text = await fs.readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8').catch(() => '');
  const [pid, , , , socketDir] = text.split('\n');
  if (pid === undefined || socketDir?.includes('/lps-pg-') !== true) return;
  const { stdout } = await run('ps', ['-o', 'comm=', '-p', pid]).catch(() => ({ stdout: '' }));
  if (stdout.includes('postgres')) {
    process.kill(Number(pid), 'SIGKILL');
    await until('postmaster gone', async () => !(await isRunning(Number(pid))));
  }
  await fs.rm(socketDir, { recursive: true, force: true });
}

/** Another process that starts the database: it prints {pid, url} or {code, message}, then a line per written row. */
interface Owner {
  readonly child: ChildProcess;
  readonly first: Promise<{ pid?: number; url?: string; code?: string; message?: string }>;
  readonly lines: string[];
  kill(signal: NodeJS.Signals): void;
}

const ownerScript = `
  const [file, options, rows] = process.argv.slice(1);
  process.on('SIGINT', () => console.log('SIGINT'));
  const module = await import(file);
  const print = (value) => process.stdout.write(JSON.stringify(value) + '\\n');
  const ready = await module.startEmbeddedPostgres(JSON.parse(options)).catch(({ code, message }) => {
    print({ code, message });
    process.exit(1);
  });
  print({ pid: ready.pid, url: ready.url });
  if (rows === 'write') {
    const { Client } = await import('pg');
    const writers = Array.from({ length: 4 }, async (_, writer) => {
      const client = new Client({ connectionString: ready.url });
      client.on('error', () => undefined);
      await client.connect();
      await client.query('create table if not exists rows (id text primary key)').catch(() => undefined);
      for (let i = 0; ; i++) {
        const id = process.pid + ':' + writer + ':' + i;
        await client.query('insert into rows values ($1)', [id]);
        print(id);
      }
    });
    await Promise.all(writers);
  }
`;

function startOwner(options: EmbeddedPostgresOptions | ThrowAwayPostgresOptions, rows = ''): Owner {
  const file = join(here, '..', '..', 'dist', 'catalog', 'embedded-postgres.js'); // as operators have it
  const child = spawn(
    process.execPath,
    ['--input-type=module', '-e', ownerScript, file, JSON.stringify(options), rows],
    { cwd: join(here, '..', '..'), detached: true, stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const lines: string[] = [];
  const reader = createInterface({ input: child.stdout });
  const first = once(reader, 'line').then(([line]) => JSON.parse(String(line)));
  reader.on('line', (line) => lines.push(line));
  const kill = (signal: NodeJS.Signals) => {
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      process.kill(-child.pid, signal);
    }
  };
  const owner: Owner = { child, first, lines, kill };
  owners.push(owner);
  return owner;
}

/** Kills the owner, not its postmaster (which has a process group of its own). */
async function killOwner(owner: Owner): Promise<void> {
  const gone = once(owner.child, 'exit');
  owner.kill('SIGKILL');
  await gone;
}

async function deadPid(): Promise<number> {
  const child = spawn('true');
  await once(child, 'exit');
  if (child.pid === undefined) throw new Error('cannot run true');
  return child.pid;
}

describe('a start', () => {
  it('makes a durable database whose text order is that of the bytes', async () => {
    const postgres = await start({ dataDir: await newDataDir() });
    const [row] = await query(
      postgres.url,
      `select current_user as who, current_database() as db, current_setting('server_encoding') as encoding,
              current_setting('fsync') as fsync, current_setting('listen_addresses') as tcp,
              (select string_agg(x, '' order by x) from (values ('b'), ('A'), ('é'), ('a'), ('B')) t (x)) as sorted`,
    );
    expect(row).toEqual({ who: 'lps', db: 'lps', encoding: 'UTF8', fsync: 'on', tcp: '', sorted: 'ABabé' });
  });

  it('keeps the data over stop and start, and leaves no socket behind', async () => {
    const dataDir = await newDataDir();
    const first = await start({ dataDir });
    await query(first.url, 'create table t as select 42 as n');
    await first.stop();
    await first.stop();
    await first.exited;
    expect(await isRunning(first.pid)).toBe(false);
    const socketDir = new URL(first.url).searchParams.get('host') ?? '';
    await expect(fs.lstat(socketDir)).rejects.toThrow('ENOENT');
    expect((await fs.readdir(dataDir)).sort()).toEqual(['postgres', 'postgres.log']);
    const second = await start({ dataDir });
    expect(await query(second.url, 'select n from t')).toEqual([{ n: 42 }]);
    expect(second.url).toBe(first.url);
  });

  it('is not misled by PG* variables of the environment', async () => {
    const postgres = await start({ dataDir: await usedDataDir() });
    Object.assign(process.env, { PGPORT: '1', PGSSLMODE: 'require', PGHOST: 'example.invalid', PGUSER: 'x' });
    try {
      expect(await query(postgres.url, 'select 1 as n')).toEqual([{ n: 1 }]);
    } finally {
      for (const name of ['PGPORT', 'PGSSLMODE', 'PGHOST', 'PGUSER']) delete process.env[name];
    }
  });

  it('works below a very long path', async () => {
    const dataDir = join(await newDataDir(), ...Array.from({ length: 6 }, () => 'x'.repeat(40)));
    const postgres = await start({ dataDir });
    expect((new URL(postgres.url).searchParams.get('host') ?? '').length).toBeLessThan(93);
    expect((await fs.lstat(join(dataDir, 'owner.sock'))).isSocket()).toBe(true);
    expect(await query(postgres.url, 'select 1 as n')).toEqual([{ n: 1 }]);
    expect((await failureOf(startEmbeddedPostgres({ dataDir }))).code).toBe('DATA_DIR_IN_USE');
  });

  it.runIf(isRoot)('works for root below a directory that nobody else may pass through', async () => {
    const folder = await newFolder();
    await fs.chmod(folder, 0o700);
    const dataDir = join(folder, 'data');
    const first = await start({ dataDir });
    await query(first.url, 'create table t as select 1 as n');
    expect((await fs.stat(join(dataDir, 'postgres'))).uid).toBe(65534);
    process.kill(first.pid, 'SIGKILL');
    await until('back', () => query(first.url, 'select n from t'));
    await first.stop();
    expect(await query((await start({ dataDir })).url, 'select n from t')).toEqual([{ n: 1 }]);
  });

  it.runIf(isRoot)('runs a cluster that another user made as that user, whatever became of its mode', async () => {
    const dataDir = await usedDataDir();
    await run('chown', ['-R', '12345:12345', join(dataDir, 'postgres')]);
    await fs.chmod(join(dataDir, 'postgres'), 0o2770);
    const postgres = await start({ dataDir });
    expect(await query(postgres.url, 'select 1 as n')).toEqual([{ n: 1 }]);
    expect((await fs.stat(`/proc/${postgres.pid}`)).uid).toBe(12345);
  });

  it('says why PostgreSQL does not come up', async () => {
    const dataDir = await usedDataDir();
    await fs.writeFile(join(dataDir, 'postgres', 'PG_VERSION'), '9.6\n');
    const failure = await failureOf(startEmbeddedPostgres({ dataDir }));
    expect(failure.code).toBe('CATALOG_UNAVAILABLE');
    expect(failure.message).toMatch(/incompatible.*postgres\.log/);
    expect(failure.message).not.toContain('\n');
  });

  it('removes the half-made clusters of starters that died', async () => {
    const dataDir = await newDataDir();
    const leftover = join(dataDir, `postgres.tmp-${await deadPid()}-Ab12Cd`);
    await fs.mkdir(join(leftover, 'base'), { recursive: true });
    await start({ dataDir });
    await expect(fs.lstat(leftover)).rejects.toThrow('ENOENT');
  });

  it('says what is wrong with the directory', async () => {
    expect((await failureOf(startEmbeddedPostgres({ dataDir: 'data' }))).message).toContain('not an absolute path');

    const occupied = await newDataDir();
    await fs.mkdir(join(occupied, 'postgres'), { recursive: true });
    if (isRoot) await fs.chown(join(occupied, 'postgres'), 65534, 65534);
    await fs.writeFile(join(occupied, 'postgres', 'notes.txt'), '');
    const failure = await failureOf(startEmbeddedPostgres({ dataDir: occupied }));
    expect(failure.code).toBe('CONFIG_INVALID');
    expect(failure.message).toContain('not a PostgreSQL database');

    const file = join(await newFolder(), 'file');
    await fs.writeFile(file, '');
    expect((await failureOf(startEmbeddedPostgres({ dataDir: join(file, 'data') }))).code).toBe('CONFIG_INVALID');
  });

  it.runIf(isRoot)('refuses a socket directory that somebody else put there', async () => {
    const dataDir = await usedDataDir();
    const first = await start({ dataDir });
    await first.stop();
    const socketDir = new URL(first.url).searchParams.get('host') ?? '';
    await fs.mkdir(socketDir);
    await fs.chown(socketDir, 12345, 12345);
    try {
      const failure = await failureOf(startEmbeddedPostgres({ dataDir }));
      expect(failure.code).toBe('CONFIG_INVALID');
      expect(failure.message).toContain(socketDir);
      await fs.rmdir(socketDir);
      await fs.symlink('/tmp', socketDir);
      expect((await failureOf(startEmbeddedPostgres({ dataDir }))).code).toBe('CONFIG_INVALID');
    } finally {
      await fs.rm(socketDir, { recursive: true, force: true });
    }
  });
});

describe('one owner', () => {
  it('refuses a second process and names the first', async () => {
    const dataDir = await usedDataDir();
    const owner = startOwner({ dataDir });
    const { url } = await owner.first;
    const failure = await failureOf(startEmbeddedPostgres({ dataDir }));
    expect(failure.code).toBe('DATA_DIR_IN_USE');
    expect(failure.message).toContain(`pid ${owner.child.pid}`);
    expect(await query(url ?? '', 'select 1 as n')).toEqual([{ n: 1 }]);
  });

  it('refuses it also when only the lock in the database tells', async () => {
    const dataDir = await usedDataDir();
    const owner = startOwner({ dataDir });
    const { url } = await owner.first;
    await fs.rm(join(dataDir, 'owner.sock'));
    const failure = await failureOf(startEmbeddedPostgres({ dataDir }));
    expect(failure.code).toBe('DATA_DIR_IN_USE');
    expect(failure.message).toContain(`pid ${owner.child.pid}`);
    expect(await query(url ?? '', 'select 1 as n')).toEqual([{ n: 1 }]);
  });

  it('lets one of two first starts win', async () => {
    const dataDir = await newDataDir();
    const outcomes = await Promise.all([startOwner({ dataDir }).first, startOwner({ dataDir }).first]);
    expect(outcomes.filter(({ url }) => url !== undefined)).toHaveLength(1);
    expect(outcomes.map(({ code }) => code).filter(Boolean)).toEqual(['DATA_DIR_IN_USE']);
  });

  it('lets one of two starts win that both find a dead owner', async () => {
    const dataDir = await usedDataDir();
    const dead = startOwner({ dataDir });
    await dead.first;
    await killOwner(dead);
    await killPostmaster(dataDir);
    const outcomes = await Promise.allSettled([start({ dataDir }), start({ dataDir }), start({ dataDir })]);
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(isLpsError(outcome.reason, 'DATA_DIR_IN_USE')).toBe(true);
    }
  });

  it('stays the owner while PostgreSQL itself is down', async () => {
    const dataDir = await usedDataDir();
    const postgres = await start({ dataDir });
    process.kill(postgres.pid, 'SIGKILL');
    expect((await failureOf(startEmbeddedPostgres({ dataDir }))).code).toBe('DATA_DIR_IN_USE');
    await until('back', () => query(postgres.url, 'select 1'));
  });
});

describe('after a crash', () => {
  it('attaches to the postmaster of a killed owner', async () => {
    const dataDir = await usedDataDir();
    const owner = startOwner({ dataDir });
    const { pid, url } = await owner.first;
    await query(url ?? '', 'create table t as select 7 as n');
    await killOwner(owner);
    const postgres = await start({ dataDir });
    expect(postgres.pid).toBe(pid);
    expect(await query(postgres.url, 'select n from t')).toEqual([{ n: 7 }]);
    await postgres.stop();
    expect(await isRunning(postgres.pid)).toBe(false);
  });

  it('waits for the session of a killed owner, when Postgres is slow to notice its end', async () => {
    const dataDir = await usedDataDir();
    const owner = startOwner({ dataDir });
    const { url } = await owner.first;
    const [session] = await query(url ?? '', `select pid from pg_locks where locktype = 'advisory' and granted`);
    process.kill(Number(session?.pid), 'SIGSTOP');
    await killOwner(owner);
    const starting = start({ dataDir });
    starting.catch(() => undefined);
    await query(url ?? '', 'select pg_sleep(3)'); // longer than a living owner is waited for
    process.kill(Number(session?.pid), 'SIGCONT');
    expect(await query((await starting).url, 'select 1 as n')).toEqual([{ n: 1 }]);
  });

  it('restarts the postmaster of a killed owner when other settings are asked for', async () => {
    const dataDir = await usedDataDir();
    const owner = startOwner({ dataDir });
    const { pid } = await owner.first;
    await killOwner(owner);
    const postgres = await start({ dataDir, maxConnections: 60 });
    expect(postgres.pid).not.toBe(pid);
    expect(await query(postgres.url, 'show max_connections')).toEqual([{ max_connections: '60' }]);
  });

  it('has every acknowledged row after owner and PostgreSQL were killed under writes', async () => {
    const dataDir = await usedDataDir();
    const acknowledged: string[] = [];
    for (let round = 0; round < 3; round++) {
      const owner = startOwner({ dataDir }, 'write');
      const { pid, url } = await owner.first;
      await until('rows written', async () => owner.lines.length > 300);
      const gone = once(owner.child, 'close');
      owner.kill('SIGKILL');
      process.kill(pid ?? 0, 'SIGKILL');
      await gone;
      // The last line may be cut short: not acknowledged.
      acknowledged.push(...owner.lines.slice(1).flatMap((line) => /^"(.*)"$/.exec(line)?.[1] ?? []));
      const postgres = await start({ dataDir });
      const rows = new Set((await query(url ?? '', 'select id from rows')).map(({ id }) => id));
      expect(acknowledged.filter((id) => !rows.has(id))).toEqual([]);
      expect(acknowledged.length).toBeGreaterThan(300 * (round + 1) - 10);
      await postgres.stop();
    }
  });

  /** A stopped database, its socket directory back, and both lock files as a crash would have left them. */
  async function leaveLocks(dataDir: string, socketDir: string, pid: number | undefined, ageMs = 0): Promise<void> {
    const { uid, gid } = await fs.stat(join(dataDir, 'postgres'));
    const text = pid === undefined ? '' : `${pid}\n${dataDir}/postgres\n1\n5432\n${socketDir}\n\n 1 1\nready   \n`;
    await fs.mkdir(socketDir, { mode: 0o700 });
    await fs.chown(socketDir, uid, gid);
    for (const path of [join(dataDir, 'postgres', 'postmaster.pid'), join(socketDir, '.s.PGSQL.5432.lock')]) {
      await fs.writeFile(path, text);
      await fs.chown(path, uid, gid);
      const time = (Date.now() - ageMs) / 1000;
      await fs.utimes(path, time, time);
    }
  }

  async function stoppedDatabase(): Promise<{ dataDir: string; socketDir: string }> {
    const dataDir = await usedDataDir();
    const postgres = await start({ dataDir });
    await postgres.stop();
    return { dataDir, socketDir: new URL(postgres.url).searchParams.get('host') ?? '' };
  }

  async function expectToStart(dataDir: string): Promise<void> {
    const postgres = await start({ dataDir });
    expect(await query(postgres.url, 'select 1 as n')).toEqual([{ n: 1 }]);
    expect((await fs.readdir(join(dataDir, 'postgres'))).filter((name) => name.includes('stale'))).toEqual([]);
  }

  // PostgreSQL looks at processes of its own user only.
  const asPostgresUser = isRoot ? { uid: 65534, gid: 65534 } : {};

  it('starts when the pid file names a dead process', async () => {
    const { dataDir, socketDir } = await stoppedDatabase();
    await leaveLocks(dataDir, socketDir, await deadPid());
    await expectToStart(dataDir);
  });

  it.each([0, 10_000])('starts when the pid file is empty, %i ms old', async (ageMs) => {
    const { dataDir, socketDir } = await stoppedDatabase();
    await leaveLocks(dataDir, socketDir, undefined, ageMs);
    await expectToStart(dataDir);
  });

  it('starts when the pid file names a living process that is not PostgreSQL', async () => {
    const { dataDir, socketDir } = await stoppedDatabase();
    const other = spawn('sleep', ['60'], { cwd: join(dataDir, 'postgres'), ...asPostgresUser });
    try {
      await leaveLocks(dataDir, socketDir, other.pid);
      await expectToStart(dataDir);
      expect(other.exitCode ?? other.signalCode).toBeNull();
    } finally {
      other.kill('SIGKILL');
    }
  });

  it('starts when the pid file names the PostgreSQL of another directory, and leaves that one alone', async () => {
    const other = await start({ dataDir: await usedDataDir() });
    const { dataDir, socketDir } = await stoppedDatabase();
    await leaveLocks(dataDir, socketDir, other.pid);
    await expectToStart(dataDir);
    expect(await isRunning(other.pid)).toBe(true);
    expect(await query(other.url, 'select 1 as n')).toEqual([{ n: 1 }]);
  });

  it.runIf(process.platform === 'linux')('starts when the killed postmaster stays a zombie', async () => {
    const { dataDir, socketDir } = await stoppedDatabase();
    // A child of a process that never waits for it: first named postgres, then dead.
    const program = join(dirname(dataDir), 'postgres');
    await fs.copyFile('/bin/cat', program);
    const parent = spawn('sh', ['-c', '"$0" <&3 & echo $!; exec sleep 60', program], {
      stdio: ['ignore', 'pipe', 'ignore', 'pipe'],
      ...asPostgresUser,
    });
    try {
      const [output] = await once(parent.stdio[1] as Readable, 'data');
      const zombie = Number(String(output));
      // a shell might still wait for it; what the shell becomes never does
      const isSleep = async () => (await fs.readFile(`/proc/${parent.pid}/comm`, 'utf8')).trim() === 'sleep';
      await until('sleep', isSleep);
      (parent.stdio[3] as Writable).end();
      await until('zombie', async () => (await fs.readFile(`/proc/${zombie}/stat`, 'utf8')).includes('(postgres) Z'));
      await leaveLocks(dataDir, socketDir, zombie);
      await expectToStart(dataDir);
    } finally {
      parent.kill('SIGKILL');
    }
  });
});

describe('while running', () => {
  it('brings PostgreSQL back when it is killed, and stays the owner', async () => {
    const dataDir = await usedDataDir();
    const postgres = await start({ dataDir });
    await query(postgres.url, 'create table t as select 5 as n');
    for (let round = 0; round < 2; round++) {
      const killed = postgres.pid;
      process.kill(killed, 'SIGKILL');
      const rows = await until('back', () => query(postgres.url, 'select n from t'));
      expect(rows).toEqual([{ n: 5 }]);
      await until('new pid', async () => postgres.pid !== killed);
    }
    const [lock] = await query(
      postgres.url,
      `select count(*)::int as n from pg_locks where locktype = 'advisory' and granted`,
    );
    expect(lock).toEqual({ n: 1 });
  });

  it('survives the end of its own connection and a crash of the backends', async () => {
    const postgres = await start({ dataDir: await usedDataDir() });
    const owner = `select pid from pg_stat_activity where application_name like 'lps owner%'`;
    const lock = `select pid from pg_locks where locktype = 'advisory' and granted`;
    const [first] = await query(postgres.url, owner);
    await query(postgres.url, `select pg_terminate_backend(pid) from (${owner}) x`);
    const second = await until('new owner connection', async () => {
      const [row] = await query(postgres.url, lock);
      return row?.pid !== undefined && row.pid !== first?.pid && row.pid;
    });
    process.kill(Number(second), 'SIGKILL');
    await until('newer owner connection', async () => {
      const [row] = await query(postgres.url, lock);
      return row?.pid !== undefined && row.pid !== second;
    });
  });

  it('restarts PostgreSQL when somebody else tells it to stop', async () => {
    const postgres = await start({ dataDir: await usedDataDir() });
    const stopped = postgres.pid;
    process.kill(stopped, 'SIGTERM'); // waits for our own connection to end: for ever, if nothing is done
    await until('refusing', () =>
      query(postgres.url, 'select 1').then(
        () => false,
        () => true,
      ),
    );
    await until('back', () => query(postgres.url, 'select 1'));
    // it takes queries a moment before we know its pid
    await until('another one', async () => postgres.pid !== stopped);
  });

  it('does not pass the Ctrl-C of the terminal on', async () => {
    const owner = startOwner({ dataDir: await usedDataDir() });
    const { pid, url } = await owner.first;
    owner.kill('SIGINT');
    await until('SIGINT seen', async () => owner.lines.includes('SIGINT'));
    expect(await query(url ?? '', 'select 1 as n')).toEqual([{ n: 1 }]);
    expect(await isRunning(pid ?? 0)).toBe(true);
  });

  it('stops cleanly while PostgreSQL is down or coming back', async () => {
    for (const waitMs of [0, 20, 60, 120]) {
      const dataDir = await usedDataDir();
      const postgres = await start({ dataDir });
      process.kill(postgres.pid, 'SIGKILL');
      await delay(waitMs);
      await postgres.stop();
      await postgres.exited;
      const left = await postmasterPid(dataDir).catch(() => undefined);
      expect(left !== undefined && (await isRunning(left))).toBe(false);
      expect(await query((await start({ dataDir })).url, 'select 1 as n')).toEqual([{ n: 1 }]);
    }
  });
});

describe('a throw-away database', () => {
  const foldersNow = async () => (await fs.readdir(tmpdir())).filter((name) => name.startsWith('lps-throw-away-'));
  const folderOf = async (postgres: { url: string }) => {
    const [row] = await query(postgres.url, `select current_setting('data_directory') as dir`);
    return dirname(String(row?.dir));
  };

  it('is removed by stop', async () => {
    const postgres = await start({ throwAway: true });
    const folder = await folderOf(postgres);
    expect((await fs.stat(folder)).isDirectory()).toBe(true);
    await postgres.stop();
    await expect(fs.lstat(folder)).rejects.toThrow('ENOENT');
    expect(await isRunning(postgres.pid)).toBe(false);
  });

  it('of a killed process is stopped and removed by the next start, that of a living one is not', async () => {
    // the next start may otherwise be that of another test
    const folder = await newFolder();
    vi.stubEnv('TMPDIR', folder);
    const [dead, alive] = [startOwner({ throwAway: true }), startOwner({ throwAway: true })];
    const [{ pid, url }, living] = await Promise.all([dead.first, alive.first]);
    const deadFolder = await folderOf({ url: url ?? '' });
    expect(dirname(deadFolder)).toBe(folder);
    await killOwner(dead);
    expect(await isRunning(pid ?? 0)).toBe(true);
    const postgres = await start({ throwAway: true });
    expect(await isRunning(pid ?? 0)).toBe(false);
    expect(await foldersNow()).not.toContain(basename(deadFolder));
    await expect(fs.lstat(new URL(url ?? '').searchParams.get('host') ?? '')).rejects.toThrow('ENOENT');
    expect(await query(living.url ?? '', 'select 1 as n')).toEqual([{ n: 1 }]);
    await killOwner(alive);
    await postgres.stop();
    await (await startEmbeddedPostgres({ throwAway: true })).stop(); // sweeps the second
    expect(await foldersNow()).toEqual([]);
  });
});

describe('the binaries', () => {
  const user = isRoot
    ? { uid: 65534, gid: 65534, switched: true }
    : { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0, switched: false };

  async function copyOfPackage(folder: string): Promise<string> {
    const { postgres } = await preparePostgresBinaries({ user });
    const nativeDir = join(folder, 'native');
    await fs.cp(dirname(dirname(postgres)), nativeDir, {
      recursive: true,
      filter: async (path) => !path.endsWith('.a') && !(await fs.lstat(path)).isSymbolicLink(),
    });
    return nativeDir;
  }

  async function versionOf(binaries: { postgres: string; env: Readonly<Record<string, string>> }): Promise<string> {
    const { stdout } = await run(binaries.postgres, ['--version'], {
      env: { ...binaries.env },
      ...(isRoot ? { uid: user.uid, gid: user.gid } : {}),
    });
    return stdout;
  }

  it('run when the install scripts that make the library links were off', async () => {
    const folder = await newFolder();
    const nativeDir = await copyOfPackage(folder);
    await expect(versionOf({ postgres: join(nativeDir, 'bin', 'postgres'), env: {} })).rejects.toThrow('libicu');
    const options = { user, nativeDir, cacheRoots: [join(folder, 'cache')] };
    const [first, second] = await Promise.all([preparePostgresBinaries(options), preparePostgresBinaries(options)]);
    expect(await versionOf(first)).toContain('PostgreSQL');
    expect(second).toEqual(first);
    // A cleaner of temporary files took one away.
    const [links] = await fs.readdir(join(folder, 'cache'));
    await fs.rm(join(folder, 'cache', links ?? '', 'lib', 'libicuuc.so.60'));
    expect(await versionOf(await preparePostgresBinaries(options))).toContain('PostgreSQL');
    expect(await fs.readdir(join(folder, 'cache'))).toEqual([links]);
  });

  it.runIf(isRoot)('are copied when the user of PostgreSQL cannot reach the package', async () => {
    const [folder, hidden] = [await newFolder(), await newFolder()];
    const nativeDir = await copyOfPackage(hidden);
    await fs.chmod(hidden, 0o700);
    const options = { user, nativeDir, cacheRoots: [join(folder, 'cache')] };
    const [first, second] = await Promise.all([preparePostgresBinaries(options), preparePostgresBinaries(options)]);
    expect(first.postgres.startsWith(join(folder, 'cache'))).toBe(true);
    expect(await versionOf(first)).toContain('PostgreSQL');
    expect(second).toEqual(first);
    await fs.truncate(first.postgres, 1000);
    expect(await versionOf(await preparePostgresBinaries(options))).toContain('PostgreSQL');
    expect(await fs.readdir(join(folder, 'cache'))).toHaveLength(1);
  });

  it('are not taken from a cache directory that others could write to', async () => {
    const folder = await newFolder();
    const nativeDir = await copyOfPackage(folder);
    const planted = join(folder, 'planted');
    await fs.mkdir(planted);
    await fs.chmod(planted, 0o777);
    const failure = await failureOf(preparePostgresBinaries({ user, nativeDir, cacheRoots: [planted] }));
    expect(failure.code).toBe('CONFIG_INVALID');
    expect(failure.message).toContain('LPS_DATABASE_URL');
    expect(await fs.readdir(planted)).toEqual([]);
    const good = await preparePostgresBinaries({ user, nativeDir, cacheRoots: [planted, join(folder, 'cache')] });
    expect(await versionOf(good)).toContain('PostgreSQL');
  });
});
