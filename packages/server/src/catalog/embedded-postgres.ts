/**
 * A real PostgreSQL in a directory of its own: the catalog's default.
 *
 * Start: own the data directory (owner.sock) → make what is missing → attach to a running postmaster or start one →
 * hold an advisory lock on a connection of our own. That connection is the sign of life: when it ends, the same steps
 * from "attach or start" on are taken again, until stop().
 *
 * `kill -9` of the service leaves its postmaster running (it has a session of its own, so that Ctrl-C does not stop it
 * before the service has drained): the next start on the directory attaches to it. A throw-away one has no next start;
 * it is stopped and removed by the next throw-away start of the same user.
 */
import * as fs from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isLpsError, LpsError } from '@large-payload/core';
import { Client } from 'pg';
import { prepareCluster, removeSocketDirs } from './embedded-postgres-cluster.js';
import { dataDirInUse, describesDeadProcess, describeThisProcess, ownDataDir } from './embedded-postgres-owner.js';
import {
  type Cluster,
  ensurePostmaster,
  hasOurSettings,
  isStopping,
  type Postmaster,
  port,
  stopPostmaster,
  stopPostmasterOf,
} from './embedded-postgres-process.js';
import { makeThrowAwayDir, sweepThrowAwayDirs } from './embedded-postgres-throw-away.js';

/** A running PostgreSQL. It comes back by itself when it dies; connections then have to be made anew. */
export interface EmbeddedPostgres {
  /** For `pg` and DBOS. Stays the same for the life of this object. */
  readonly url: string;
  /** Of the postmaster; another one after it came back. */
  readonly pid: number;
  /** Resolves after stop(). Rejects with DATA_DIR_IN_USE should another process have taken the directory over. */
  readonly exited: Promise<void>;
  /** Ends every connection, shuts down fast and waits for it. May be called at any time and more than once. */
  stop(): Promise<void>;
}

export interface EmbeddedPostgresOptions {
  /** Absolute; made when missing. The cluster goes into `postgres` below it. */
  readonly dataDir: string;
  readonly maxConnections?: number;
  /** Told in one line whatever happens to the database; what PostgreSQL says goes to `postgres.log` in `dataDir`. */
  readonly log?: (line: string) => void;
}

/** In a new temporary directory, without durability, removed by stop(). */
export type ThrowAwayPostgresOptions = Omit<EmbeddedPostgresOptions, 'dataDir'> & { readonly throwAway: true };

/** Two keys of a session advisory lock in the database `postgres`: "lps", owner. */
const ownerLock = [0x6c7073, 1] as const;
const lockWaitMs = 2000;
/** On a busy machine Postgres may take this long to notice that a process is gone. */
const deadHolderWaitMs = 60_000;
const maxBackOffMs = 5000;
const steadyAfterMs = 60_000;
const firstTryMs = 20_000;
const shutdownGraceSeconds = 3;

/**
 * Starts it, or takes over the one that a killed process left.
 *
 * Errors: DATA_DIR_IN_USE (a living process has the directory), CONFIG_INVALID (this machine or this directory can't
 * do it; the message says what to do), CATALOG_UNAVAILABLE (PostgreSQL does not come up).
 */
export async function startEmbeddedPostgres(
  options: EmbeddedPostgresOptions | ThrowAwayPostgresOptions,
): Promise<EmbeddedPostgres> {
  if (process.platform === 'win32') {
    throw new LpsError('CONFIG_INVALID', 'There is no embedded PostgreSQL on Windows: set LPS_DATABASE_URL');
  }
  const log = options.log ?? (() => undefined);
  const throwAway = 'throwAway' in options;
  if (throwAway) await sweepThrowAwayDirs(log);
  const dataDir = throwAway ? await makeThrowAwayDir() : await openDataDir(options.dataDir);
  const cleanUp: (() => Promise<void>)[] = [];
  if (throwAway) {
    cleanUp.unshift(
      () => removeSocketDirs(dataDir),
      () => fs.rm(dataDir, { recursive: true, force: true }),
    );
  }
  try {
    const ownership = await ownDataDir(dataDir, log);
    cleanUp.unshift(() => ownership.release());
    // Without the socket the next throw-away start would take this one for a dead one's.
    if (throwAway && !ownership.held) throw new LpsError('CONFIG_INVALID', `No sockets in ${dataDir}: change TMPDIR`);
    const cluster = await prepareCluster(dataDir, { maxConnections: options.maxConnections ?? 40, throwAway });
    cleanUp.unshift(() => fs.rmdir(cluster.socketDir)); // only while it is empty: it may be another owner's
    return await supervise(cluster, dataDir, log, () => runAll(cleanUp));
  } catch (error) {
    await runAll(cleanUp);
    throw explain(error, dataDir);
  }
}

async function runAll(steps: readonly (() => Promise<void>)[]): Promise<void> {
  for (const step of steps) await step().catch(() => undefined);
}

async function openDataDir(dataDir: string): Promise<string> {
  if (!isAbsolute(dataDir))
    throw new LpsError('CONFIG_INVALID', `The data directory ${dataDir} is not an absolute path`);
  try {
    await fs.mkdir(dataDir, { recursive: true, mode: 0o700 });
    await fs.access(dataDir, fs.constants.R_OK | fs.constants.W_OK | fs.constants.X_OK);
    return await fs.realpath(dataDir);
  } catch (error) {
    throw explain(error, dataDir);
  }
}

/** Errors of the file system, as something that a person can act upon. */
function explain(error: unknown, dataDir: string): unknown {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (isLpsError(error) || !['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EEXIST', 'ENOSPC', 'EDQUOT'].includes(code)) {
    return error;
  }
  return new LpsError(
    'CONFIG_INVALID',
    `The data directory ${dataDir} cannot be used by uid ${process.geteuid?.()} (${(error as Error).message}): give it the rights and the room, or choose another directory`,
    { cause: error },
  );
}

/** A postmaster, and the connection that proves that it is ours. */
interface OwnedPostmaster {
  readonly pid: number;
  readonly connection: Client;
  readonly lost: Promise<void>;
}

/** What every step of bringing PostgreSQL up needs. */
interface Context {
  readonly cluster: Cluster;
  readonly dataDir: string;
  readonly signal: AbortSignal;
  readonly log: (line: string) => void;
}

async function supervise(
  cluster: Cluster,
  dataDir: string,
  log: (line: string) => void,
  cleanUp: () => Promise<void>,
): Promise<EmbeddedPostgres> {
  const stopping = new AbortController();
  const context: Context = { cluster, dataDir, signal: stopping.signal, log };
  let current = await bringUp(context, 0, firstTryMs);
  await makeDatabase(current.connection).catch(async (error) => {
    await stopPostmaster(current.pid, cluster.dir);
    throw error;
  });
  const watching = keepUp(context, current, (again) => {
    current = again;
  });
  const stop = async () => {
    stopping.abort();
    const isStillOurs = await watching.then(
      () => true,
      () => false,
    );
    await current.connection.end().catch(() => undefined);
    if (isStillOurs) await stopPostmasterOf(cluster.dir);
    if (isStillOurs) await removeSocketDirs(dataDir);
    await cleanUp();
  };
  let stopped: Promise<void> | undefined;
  const exited = watching.then(() => stopped);
  exited.catch(() => undefined); // whoever wants to know awaits it
  return {
    url: `postgresql://lps@localhost:${port}/lps?host=${encodeURI(cluster.socketDir)}&sslmode=disable`,
    get pid() {
      return current.pid;
    },
    exited,
    stop: () => {
      stopped ??= stop();
      return stopped;
    },
  };
}

/** Brings it back whenever it goes, until stopped; rejects when the directory turns out to be another process's. */
async function keepUp(context: Context, first: OwnedPostmaster, changed: (to: OwnedPostmaster) => void): Promise<void> {
  const { cluster, signal, log } = context;
  const stopped = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
  let current = first;
  for (let failures = 0; ; failures++) {
    const since = Date.now();
    const endShutdown = endUnaskedShutdown(cluster, current.pid, log);
    await Promise.race([current.lost, stopped]);
    clearInterval(endShutdown);
    if (signal.aborted) return;
    if (Date.now() - since > steadyAfterMs) failures = 0;
    log('the embedded PostgreSQL went away; bringing it back');
    try {
      current = await bringUp(context, failures, Number.POSITIVE_INFINITY);
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
    changed(current);
  }
}

/**
 * SIGTERM from outside makes PostgreSQL refuse new connections and wait for the old ones to end, ours among them: for
 * ever. After a few seconds (whoever signals everything at once lets the service drain first) the wait is cut short.
 */
function endUnaskedShutdown(cluster: Cluster, pid: number, log: (line: string) => void): NodeJS.Timeout {
  let seen = 0;
  const look = async () => {
    seen = (await isStopping(cluster.dir)) ? seen + 1 : 0;
    if (seen !== shutdownGraceSeconds) return;
    log(`somebody told the embedded PostgreSQL (pid ${pid}) to stop: restarting it`);
    await stopPostmaster(pid, cluster.dir);
  };
  return setInterval(() => void look().catch(() => undefined), 1000).unref();
}

/** Tries with a growing delay until it works, is stopped, `tryMs` are over, or trying again is of no use. */
async function bringUp(context: Context, earlierFailures: number, tryMs: number): Promise<OwnedPostmaster> {
  const since = Date.now();
  for (let failures = earlierFailures; ; failures++) {
    if (failures > 0) await delay(Math.min(maxBackOffMs, 50 * 2 ** failures), undefined, { signal: context.signal });
    try {
      return await bringUpOnce(context);
    } catch (error) {
      if (context.signal.aborted || isLpsError(error, 'DATA_DIR_IN_USE')) throw error;
      const message = error instanceof Error ? error.message : String(error);
      if (tryMs !== Number.POSITIVE_INFINITY && isLpsError(error)) throw error;
      if (Date.now() - since > tryMs) {
        throw new LpsError('CATALOG_UNAVAILABLE', `The embedded PostgreSQL does not let us in: ${message}`, {
          cause: error,
        });
      }
      context.log(`the embedded PostgreSQL is not up yet: ${message}`);
    }
  }
}

async function bringUpOnce({ cluster, dataDir, signal, log }: Context): Promise<OwnedPostmaster> {
  for (;;) {
    const postmaster = await ensurePostmaster(cluster, signal);
    const owned = await takeOwnerLock(postmaster, dataDir, signal).catch(async (error: unknown) => {
      const isOurs = !postmaster.attached && !isLpsError(error, 'DATA_DIR_IN_USE');
      if (isOurs) await stopPostmaster(postmaster.pid, cluster.dir);
      throw error;
    });
    if (!postmaster.attached || (await hasOurSettings(cluster))) {
      log(`the embedded PostgreSQL is ${postmaster.attached ? 'attached' : 'started'} (pid ${owned.pid})`);
      return owned;
    }
    log(`the embedded PostgreSQL left by an earlier process has other settings: restarting it (pid ${owned.pid})`);
    await owned.connection.end();
    await stopPostmaster(owned.pid, cluster.dir);
  }
}

async function takeOwnerLock(postmaster: Postmaster, dataDir: string, signal: AbortSignal): Promise<OwnedPostmaster> {
  const connection = new Client({
    host: postmaster.socketDir,
    port: postmaster.port,
    user: 'lps',
    database: 'postgres',
    ssl: false,
    application_name: `lps owner, ${describeThisProcess()}`,
    connectionTimeoutMillis: 10_000,
  });
  const lost = new Promise<void>((resolve) => {
    connection.once('end', () => resolve());
    connection.on('error', () => resolve());
  });
  try {
    await connection.connect();
    for (const since = Date.now(); ; ) {
      const got = await connection.query<{ ok: boolean }>('select pg_try_advisory_lock($1, $2) as ok', [...ownerLock]);
      if (got.rows[0]?.ok === true) return { pid: postmaster.pid, connection, lost };
      // The session of a process that was just killed may take a moment to end.
      const waitedMs = Date.now() - since;
      if (waitedMs > lockWaitMs) {
        const holder = await lockHolder(connection);
        const isEnding = holder === undefined || describesDeadProcess(holder);
        if (!isEnding || waitedMs > deadHolderWaitMs) throw dataDirInUse(dataDir, holder ?? 'unknown');
      }
      await delay(25, undefined, { signal });
    }
  } catch (error) {
    await connection.end().catch(() => undefined);
    throw error;
  }
}

/** How it described itself; `undefined` when it has let go meanwhile. */
async function lockHolder(connection: Client): Promise<string | undefined> {
  const { rows } = await connection.query<{ name: string }>(
    `select application_name as name from pg_locks join pg_stat_activity using (pid)
      where locktype = 'advisory' and classid = $1 and objid = $2 and granted`,
    [...ownerLock],
  );
  return rows[0]?.name;
}

async function makeDatabase(connection: Client): Promise<void> {
  const { rowCount } = await connection.query(`select 1 from pg_database where datname = 'lps'`);
  if (rowCount === 0) await connection.query('create database lps');
}
