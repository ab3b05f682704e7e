/**
 * The postmaster of one cluster directory: finding it, starting it, stopping it, clearing what a dead one left.
 *
 * postmaster.pid, written by PostgreSQL: line 1 pid, 2 data directory, 3 start time, 4 port, 5 socket directory,
 * 6 listen address, 7 shared memory key and id, 8 status (`starting`, `ready   `, `stopping`).
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LpsError } from '@large-payload/core';
import type { PostgresBinaries, PostgresUser } from './embedded-postgres-binaries.js';

/** Names the socket (`.s.PGSQL.5432`); nothing listens on TCP. */
export const port = 5432;

/** Everything that is fixed about a cluster before its postmaster runs. */
export interface Cluster {
  /** Real path of the cluster directory (PGDATA). */
  readonly dir: string;
  /** What to pass as `-D`: the directory, or `/proc/self/cwd` when the user can't pass through its parents. */
  readonly dirArgument: string;
  readonly socketDir: string;
  readonly logFile: string;
  readonly user: PostgresUser;
  readonly binaries: PostgresBinaries;
  readonly maxConnections: number;
  readonly throwAway: boolean;
}

/** A postmaster that accepts connections. */
export interface Postmaster {
  readonly pid: number;
  readonly socketDir: string;
  readonly port: number;
  /** Whether it was running already, started by a process that is gone. */
  readonly attached: boolean;
}

interface PidFile {
  readonly text: string;
  readonly ageMs: number;
  /** Undefined while it is being written, or when a crash left it empty. */
  readonly pid?: number;
  readonly port: number;
  readonly socketDir: string;
  readonly status: string;
}

const startTimeoutMs = 300_000; // crash recovery replays up to 1 GB of log
const emptyPidFileIsStaleMs = 2000;
const maxLogBytes = 10 * 1024 * 1024;

/** Attaches to a running postmaster of the cluster, or starts one. */
export async function ensurePostmaster(cluster: Cluster, signal: AbortSignal): Promise<Postmaster> {
  let lastWords = '';
  for (let attempt = 0; attempt < 6; attempt++) {
    // A backend of a killed postmaster may live on for a moment, and no new postmaster starts beside it.
    if (attempt > 0) await delay(50 * 2 ** attempt, undefined, { signal });
    const running = await findPostmaster(cluster.dir, signal);
    if (running !== undefined) return { ...running, attached: true };
    await removeSocket(cluster.socketDir);
    const outcome = await startPostmaster(cluster, signal);
    if ('pid' in outcome) return outcome;
    lastWords = outcome.lastWords;
  }
  throw new LpsError(
    'CATALOG_UNAVAILABLE',
    `The embedded PostgreSQL does not start: ${lastWords || 'it said nothing'} (its log: ${cluster.logFile})`,
    { details: { logFile: cluster.logFile } },
  );
}

/** The living postmaster of the directory, waited for while it starts or stops; clears a dead one's pid file. */
export async function findPostmaster(
  dir: string,
  signal?: AbortSignal,
): Promise<Omit<Postmaster, 'attached'> | undefined> {
  const since = Date.now();
  while (Date.now() - since < startTimeoutMs) {
    signal?.throwIfAborted();
    const file = await readPidFile(dir);
    if (file === undefined) return undefined;
    if (file.pid === undefined) {
      // PostgreSQL writes it at once after creating it: an empty one that stays is what a crash left.
      if (Math.max(file.ageMs, Date.now() - since) > emptyPidFileIsStaleMs) await removePidFile(dir, file.text);
    } else {
      const found = await inspectProcess(file.pid, dir);
      if (found === 'unknown') throw cannotTell(dir, file.pid);
      if (found !== 'postmaster') await removePidFile(dir, file.text);
      else if (file.status === 'ready') return { pid: file.pid, port: file.port, socketDir: file.socketDir };
    }
    await delay(10, undefined, { signal });
  }
  throw new LpsError(
    'CATALOG_UNAVAILABLE',
    `The embedded PostgreSQL in ${dir} is neither ready nor gone after 5 minutes`,
  );
}

export async function readPidFile(dir: string): Promise<PidFile | undefined> {
  const path = join(dir, 'postmaster.pid');
  try {
    const [text, { mtimeMs }] = await Promise.all([fs.readFile(path, 'utf8'), fs.stat(path)]);
    const lines = text.split('\n').map((line) => line.trim());
    const pid = Number(lines[0]);
    return {
      text,
      ageMs: Date.now() - mtimeMs,
      ...(Number.isSafeInteger(pid) && pid > 0 ? { pid } : {}),
      port: Number(lines[3] ?? 0),
      socketDir: lines[4] ?? '',
      status: lines[7] ?? '',
    };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * Removes the pid file if it still is the one that was judged: moved aside, compared, and put back when another
 * starter's postmaster wrote a new one meanwhile. (Beyond that, the shared memory check of PostgreSQL keeps a second
 * postmaster out of a directory in use.)
 */
async function removePidFile(dir: string, judgedText: string): Promise<void> {
  const path = join(dir, 'postmaster.pid');
  const aside = `${path}.stale-${randomUUID().slice(0, 8)}`;
  try {
    await fs.rename(path, aside);
  } catch {
    return;
  }
  if ((await fs.readFile(aside, 'utf8')) !== judgedText) await fs.link(aside, path).catch(() => undefined);
  await fs.rm(aside, { force: true });
}

/** Only called when the cluster has no postmaster. A lock that names a zombie would stop the next one. */
export async function removeSocket(socketDir: string): Promise<void> {
  await fs.rm(join(socketDir, `.s.PGSQL.${port}.lock`), { force: true });
  await fs.rm(join(socketDir, `.s.PGSQL.${port}`), { force: true });
}

function postgresArguments(cluster: Cluster): string[] {
  const settings: Record<string, string> = {
    listen_addresses: '',
    unix_socket_directories: cluster.socketDir,
    unix_socket_permissions: '0700',
    port: String(port),
    max_connections: String(cluster.maxConnections),
    shared_buffers: '16MB',
    io_method: 'sync',
    wal_level: 'minimal',
    max_wal_senders: '0',
    jit: 'off',
    timezone: 'UTC',
    log_timezone: 'UTC',
    // An error goes to whoever caused it; in the log it would only repeat statements with names of blobs.
    log_min_messages: 'log',
    log_min_error_statement: 'panic',
    log_checkpoints: 'off',
    ...(cluster.throwAway ? { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' } : {}),
  };
  return [
    '-D',
    cluster.dirArgument,
    ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ];
}

async function startPostmaster(cluster: Cluster, signal: AbortSignal): Promise<Postmaster | { lastWords: string }> {
  const log = await openLog(cluster.logFile);
  const logStart = (await log.stat()).size;
  // Detached, in a session of its own: Ctrl-C in the terminal must reach the service only, which drains first.
  const child = spawn(cluster.binaries.postgres, postgresArguments(cluster), {
    cwd: cluster.dir,
    env: cluster.binaries.env,
    detached: true,
    stdio: ['ignore', log.fd, log.fd],
    ...(cluster.user.switched ? { uid: cluster.user.uid, gid: cluster.user.gid } : {}),
  });
  const ended = new Promise<Error | undefined>((resolve) => {
    child.once('error', resolve);
    child.once('exit', () => resolve(undefined));
  });
  await log.close();
  const isReady = await waitUntilReady(cluster.dir, child, signal).catch(async (reason) => {
    child.kill('SIGINT');
    await ended;
    throw reason;
  });
  if (isReady && child.pid !== undefined)
    return { pid: child.pid, socketDir: cluster.socketDir, port, attached: false };
  const failure = await ended;
  if (failure !== undefined) throw cannotRun(cluster.binaries.postgres, cluster.user, failure);
  return { lastWords: await lastWordsIn(cluster.logFile, logStart) };
}

/** False when the child could not be started or has exited. */
async function waitUntilReady(dir: string, child: ChildProcess, signal: AbortSignal): Promise<boolean> {
  for (const since = Date.now(); Date.now() - since < startTimeoutMs; ) {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return false;
    const file = await readPidFile(dir);
    if (file?.pid === child.pid && file.status === 'ready') return true;
    await delay(10, undefined, { signal });
  }
  throw new LpsError('CATALOG_UNAVAILABLE', `The embedded PostgreSQL in ${dir} is not ready after 5 minutes`);
}

async function openLog(path: string): Promise<fs.FileHandle> {
  const log = await fs.open(path, 'a', 0o600);
  if ((await log.stat()).size > maxLogBytes) await log.truncate(0);
  return log;
}

/** The line that says why: the last FATAL or PANIC since `from`, else the last line. */
async function lastWordsIn(path: string, from: number): Promise<string> {
  const text = await fs.readFile(path, 'utf8').catch(() => '');
  const lines = Buffer.from(text).subarray(from).toString().trim().split('\n').slice(-200);
  return (lines.findLast((line) => /FATAL|PANIC/.test(line)) ?? lines.at(-1) ?? '').slice(0, 300);
}

/**
 * What runs under a pid that a file of this cluster names. A zombie counts as gone: where PID 1 does not reap, a
 * killed postmaster stays one for ever, and PostgreSQL itself would take it for alive.
 */
async function inspectProcess(pid: number, dir: string): Promise<'postmaster' | 'other' | 'gone' | 'unknown'> {
  if (process.platform !== 'linux') return inspectByPs(pid, dir);
  try {
    const stat = await fs.readFile(`/proc/${pid}/stat`, 'utf8'); // `pid (name) state ...`, and the name may hold ')'
    const nameEnd = stat.lastIndexOf(')');
    if (['Z', 'X'].includes(stat.charAt(nameEnd + 2))) return 'gone';
    if (stat.slice(stat.indexOf('(') + 1, nameEnd) !== 'postgres') return 'other';
    // Its working directory is the cluster; by inode, since a bind mount may show it under another path.
    const [itsDir, ourDir] = await Promise.all([fs.stat(`/proc/${pid}/cwd`), fs.stat(dir)]);
    return itsDir.dev === ourDir.dev && itsDir.ino === ourDir.ino ? 'postmaster' : 'other';
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return 'gone';
    // We may not look at it. PostgreSQL runs as the owner of its cluster: another user's is not this one.
    const [{ uid: itsUid }, { uid: ourUid }] = await Promise.all([fs.stat(`/proc/${pid}`), fs.stat(dir)]);
    return itsUid !== ourUid && itsUid !== 0 ? 'other' : 'unknown';
  }
}

function cannotTell(dir: string, pid: number): LpsError {
  return new LpsError(
    'CATALOG_UNAVAILABLE',
    `Process ${pid} may be the PostgreSQL of ${dir}, but this user may not look at it: stop it, or remove ${dir}/postmaster.pid when it is something else`,
  );
}

function inspectByPs(pid: number, dir: string): Promise<'postmaster' | 'other' | 'gone'> {
  return new Promise((resolve) => {
    execFile('ps', ['-ww', '-o', 'stat=,args=', '-p', String(pid)], (error, stdout) => {
      if (error !== null || stdout.startsWith('Z')) resolve('gone');
      else resolve(stdout.includes('postgres') && stdout.includes(dir) ? 'postmaster' : 'other');
    });
  });
}

/** Why a program of the package could not even be started, in words. */
export function cannotRun(program: string, user: PostgresUser, cause: Error): LpsError {
  const code = (cause as NodeJS.ErrnoException).code;
  const reason: Record<string, string> = {
    ENOENT: 'its loader is missing: the binaries need glibc, which Alpine and other musl systems do not have',
    EACCES: `uid ${user.uid} may not execute it, or its file system is mounted noexec`,
    EPERM: `this process may not change to uid ${user.uid}: run it as a normal user`,
  };
  return new LpsError(
    'CONFIG_INVALID',
    `Cannot run ${program} (${reason[code ?? ''] ?? cause.message}); or set LPS_DATABASE_URL to a PostgreSQL server instead`,
    { cause },
  );
}

/** Whether a postmaster found running was started with just the settings that we would give it. */
export async function hasOurSettings(cluster: Cluster): Promise<boolean> {
  const line = await fs.readFile(join(cluster.dir, 'postmaster.opts'), 'utf8').catch(() => '');
  const quoted = postgresArguments(cluster).map((argument) => ` "${argument}"`);
  return line.trimEnd().endsWith(quoted.join(''));
}

/** Whether the postmaster was told to stop and waits for its clients to leave (SIGTERM, "smart shutdown"). */
export async function isStopping(dir: string): Promise<boolean> {
  return (await readPidFile(dir))?.status === 'stopping';
}

/** Stops whatever postmaster the directory has, in whatever state. */
export async function stopPostmasterOf(dir: string): Promise<void> {
  const pid = (await readPidFile(dir))?.pid;
  if (pid !== undefined) await stopPostmaster(pid, dir);
}

/**
 * Stops a postmaster and waits until it is gone. SIGINT is PostgreSQL's fast shutdown (rolls back, checkpoints);
 * SIGTERM would wait for every client. The harder signals are for one that hangs: they lose nothing acknowledged.
 */
export async function stopPostmaster(pid: number, dir: string): Promise<void> {
  const steps = [
    ['SIGINT', 30_000],
    ['SIGQUIT', 5000],
    ['SIGKILL', 5000],
  ] as const;
  for (const [name, timeoutMs] of steps) {
    if ((await inspectProcess(pid, dir)) !== 'postmaster') return;
    try {
      process.kill(pid, name);
    } catch {
      return; // gone between the check and the signal
    }
    for (const since = Date.now(); Date.now() - since < timeoutMs; ) {
      if ((await inspectProcess(pid, dir)) !== 'postmaster') return;
      await delay(5);
    }
  }
}
