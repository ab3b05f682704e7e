/**
 * The directories of an embedded PostgreSQL:
 *
 *   DATA_DIR/owner.sock              who owns the data directory (embedded-postgres-owner.ts)
 *   DATA_DIR/postgres/               the cluster (PGDATA), mode 0700, belongs to the user that PostgreSQL runs as
 *   DATA_DIR/postgres.tmp-<pid>-…/   a cluster being made, renamed when complete
 *   DATA_DIR/postgres.log
 *   TMP/lps-pg-<hash of DATA_DIR>/   the socket; a path of at most 93 bytes, so not in DATA_DIR
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LpsError } from '@large-payload/core';
import { canReach, type PostgresUser, preparePostgresBinaries } from './embedded-postgres-binaries.js';
import { type Cluster, cannotRun, removeSocket } from './embedded-postgres-process.js';

/** `nobody`: PostgreSQL refuses to run as root. */
const unprivilegedId = 65534;

/** sockaddr_un has 104 bytes on macOS, 108 on Linux, and `/.s.PGSQL.5432` takes 15 with its end. */
const maxSocketDirBytes = 88;

const initTimeoutMs = 120_000;

/** Makes what is missing: user, binaries, cluster, socket directory. The caller owns the data directory. */
export async function prepareCluster(
  dataDir: string,
  options: { readonly maxConnections: number; readonly throwAway: boolean },
): Promise<Cluster> {
  const dir = await fs.realpath(join(dataDir, 'postgres')).catch(() => join(dataDir, 'postgres'));
  const user = await chooseUser(dir);
  const isMade = await hasCluster(dir);
  const cluster: Cluster = {
    ...options,
    dir,
    user,
    dirArgument: await dirArgumentFor(dir, dataDir, user),
    socketDir: await makeSocketDir(dataDir, user),
    logFile: join(dataDir, 'postgres.log'),
    binaries: await preparePostgresBinaries({ user }),
  };
  await removeLeftovers(dataDir, dir);
  if (!isMade) await initializeCluster(dataDir, cluster);
  // PostgreSQL refuses a directory that a group may write to, which is what Kubernetes' fsGroup makes of it.
  await fs.chmod(dir, 0o700);
  return cluster;
}

async function chooseUser(clusterDir: string): Promise<PostgresUser> {
  const [uid, gid] = [process.geteuid?.() ?? 0, process.getegid?.() ?? 0];
  const existing = await fs.stat(clusterDir).catch(() => undefined);
  if (uid !== 0) {
    if (existing !== undefined && existing.uid !== uid) throw wrongUser(clusterDir, existing.uid, uid);
    return { uid, gid, switched: false };
  }
  if (existing === undefined || (existing.uid === 0 && (await fs.readdir(clusterDir)).length === 0)) {
    return { uid: unprivilegedId, gid: unprivilegedId, switched: true };
  }
  if (existing.uid === 0) throw wrongUser(clusterDir, 0, unprivilegedId);
  // One that a normal user made stays that user's.
  return { uid: existing.uid, gid: existing.gid, switched: true };
}

function wrongUser(dir: string, actual: number, expected: number): LpsError {
  return new LpsError(
    'CONFIG_INVALID',
    `The database in ${dir} belongs to uid ${actual} and PostgreSQL would run as uid ${expected}: run this as the user that made it, or 'chown -R ${expected} ${dir}'`,
  );
}

/**
 * Below a directory that the user can't pass through (/root has mode 0700), a path to the cluster is of no use to
 * PostgreSQL. But it is started inside the cluster, and /proc/self/cwd leads there without passing the parents.
 */
async function dirArgumentFor(dir: string, dataDir: string, user: PostgresUser): Promise<string> {
  const parent = join(dir, '..');
  if (!user.switched || (await canReach(parent, user))) return dir;
  if (process.platform === 'linux') return '/proc/self/cwd';
  throw new LpsError(
    'CONFIG_INVALID',
    `PostgreSQL runs as uid ${user.uid}, which can't pass through every directory above ${dataDir}: use a data directory outside of root's home, or run this as a normal user`,
  );
}

/** Where a data directory's socket may be, the best place first. */
async function possibleSocketDirs(dataDir: string): Promise<{ root: string; dir: string }[]> {
  const name = `lps-pg-${createHash('sha256').update(dataDir).digest('hex').slice(0, 16)}`;
  const places: { root: string; dir: string }[] = [];
  for (const base of new Set([tmpdir(), '/tmp'])) {
    const root = await fs.realpath(base).catch(() => undefined);
    const dir = join(root ?? base, name);
    if (root !== undefined && Buffer.byteLength(dir) <= maxSocketDirBytes) places.push({ root, dir });
  }
  return places;
}

/** Only once the postmaster is gone. */
export async function removeSocketDirs(dataDir: string): Promise<void> {
  for (const { dir } of await possibleSocketDirs(dataDir)) {
    await removeSocket(dir);
    await fs.rmdir(dir).catch(() => undefined);
  }
}

async function makeSocketDir(dataDir: string, user: PostgresUser): Promise<string> {
  for (const { root, dir } of await possibleSocketDirs(dataDir)) {
    if (user.switched && !(await canReach(root, user))) continue;
    await claimSocketDir(dir, user);
    return dir;
  }
  throw new LpsError(
    'CONFIG_INVALID',
    `No place for the database socket: ${tmpdir()} and /tmp are missing, too long, or out of reach for uid ${user.uid}; point TMPDIR at a short path`,
  );
}

/** Whoever can write here could take the place of the database: a directory that is not ours is refused. */
async function claimSocketDir(dir: string, user: PostgresUser): Promise<void> {
  await fs.mkdir(dir, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
  const found = await fs.lstat(dir);
  const isOurs = found.uid === user.uid || found.uid === process.geteuid?.();
  if (!found.isDirectory() || !isOurs) {
    throw new LpsError(
      'CONFIG_INVALID',
      `${dir}, where the database socket goes, is not a directory of uid ${user.uid}: remove it, or point TMPDIR at a directory of your own`,
    );
  }
  if ((found.mode & 0o777) !== 0o700) await fs.chmod(dir, 0o700);
  if (found.uid !== user.uid) await fs.chown(dir, user.uid, user.gid);
}

/** What starters that were killed left behind. A name holds the pid of its maker. */
async function removeLeftovers(dataDir: string, clusterDir: string): Promise<void> {
  for (const name of await fs.readdir(dataDir)) {
    const maker = /^postgres\.tmp-(\d+)-/.exec(name)?.[1];
    const isLeft = maker === undefined ? /^stale-[0-9a-f]{8}\.sock$/.test(name) : !isAlive(Number(maker));
    if (isLeft) await fs.rm(join(dataDir, name), { recursive: true, force: true });
  }
  for (const name of await fs.readdir(clusterDir).catch(() => [])) {
    if (name.startsWith('postmaster.pid.stale-')) await fs.rm(join(clusterDir, name), { force: true });
  }
}

function isAlive(pid: number): boolean {
  if (pid === process.pid) return false; // ours comes later; in a container every life has the same pid
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

async function hasCluster(dir: string): Promise<boolean> {
  const names = await fs.readdir(dir).catch((error: NodeJS.ErrnoException): string[] => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  if (names.length === 0) return false; // rename replaces an empty directory
  if (names.includes('PG_VERSION')) return true;
  throw new LpsError('CONFIG_INVALID', `${dir} is not empty and is not a PostgreSQL database: move it away`);
}

/** In a temporary directory, then renamed: a crash leaves no half-made cluster, and the first of two starters wins. */
async function initializeCluster(dataDir: string, cluster: Cluster): Promise<void> {
  const temporary = await fs.mkdtemp(join(dataDir, `postgres.tmp-${process.pid}-`)); // mode 0700
  try {
    if (cluster.user.switched) await giveAway(temporary, cluster.user);
    await runInitdb(temporary, cluster);
    await fs.rename(temporary, cluster.dir).catch(async (error: NodeJS.ErrnoException) => {
      if (!(await hasCluster(cluster.dir))) throw error;
    });
    if (!cluster.throwAway) await syncDir(dataDir);
  } finally {
    await fs.rm(temporary, { recursive: true, force: true });
  }
}

async function giveAway(dir: string, user: PostgresUser): Promise<void> {
  await fs.chown(dir, user.uid, user.gid).catch((cause: unknown) => {
    throw new LpsError(
      'CONFIG_INVALID',
      `Running as root without the right to give ${dir} to uid ${user.uid}, which PostgreSQL needs: run this as a normal user, or set LPS_DATABASE_URL`,
      { cause },
    );
  });
}

async function syncDir(dir: string): Promise<void> {
  const handle = await fs.open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function runInitdb(dir: string, cluster: Cluster): Promise<void> {
  const { binaries, user, dirArgument } = cluster;
  const programArguments = [
    `--pgdata=${dirArgument === cluster.dir ? dir : dirArgument}`,
    '--username=lps',
    '--auth-local=trust', // the socket's directory has mode 0700
    '--auth-host=reject',
    '--encoding=UTF8',
    '--locale=C', // the order of an index is the order of the bytes, on every machine
    '--locale-provider=builtin',
    '--builtin-locale=C.UTF-8',
    '--no-instructions',
    ...(cluster.throwAway ? ['--no-sync'] : []),
  ];
  return new Promise((resolve, reject) => {
    const child = spawn(binaries.initdb, programArguments, {
      cwd: dir,
      env: binaries.env,
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: initTimeoutMs,
      killSignal: 'SIGKILL',
      ...(user.switched ? { uid: user.uid, gid: user.gid } : {}),
    });
    let complaints = '';
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      complaints = (complaints + chunk).slice(-2000);
    });
    child.once('error', (error) => reject(cannotRun(binaries.initdb, user, error)));
    child.once('close', (code, signal) => {
      if (code === 0) resolve();
      else reject(initFailed(cluster, `${complaints.trim() || `exit ${code ?? signal}`}`));
    });
  });
}

function initFailed(cluster: Cluster, complaints: string): LpsError {
  const oneLine = complaints.replaceAll('\n', '; ').slice(-500);
  return new LpsError(
    'CONFIG_INVALID',
    `The embedded database cannot be made in ${cluster.dir}: ${oneLine}; uid ${cluster.user.uid} needs an entry in /etc/passwd and room to write, or set LPS_DATABASE_URL to a PostgreSQL server instead`,
    { details: { dir: cluster.dir, uid: cluster.user.uid } },
  );
}
