/** The directory of the file store, the embedded database and the disk cache. */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { findOwner } from '../catalog/embedded-postgres-owner.js';
import type { Config } from '../config/settings.js';
import { type Finding, fail, info, ok, warn } from './finding.js';
import { sizeText } from './words.js';

export interface DataDirFacts {
  readonly path: string;
  readonly exists: boolean;
  /** Why nothing can be written, such as `EACCES`. */
  readonly refusal?: string;
  readonly freeBytes?: number;
  /** The kind of file system, where it matters. */
  readonly fileSystem?: 'network' | 'memory' | 'overlay';
  /** Below a directory that systems clear now and then. */
  readonly isTemporary: boolean;
  /** The running service that owns it: `pid 12 on host`. */
  readonly owner?: string;
}

/** Linux' own numbers, of statfs(2). */
const fileSystems: Readonly<Record<number, DataDirFacts['fileSystem']>> = {
  26985: 'network', // nfs, 0x6969
  20859: 'network', // smb
  4283649346: 'network', // cifs
  4266872130: 'network', // smb2
  1702057286: 'network', // fuse: sshfs, s3fs and their like
  16914836: 'memory', // tmpfs
  2240043254: 'memory', // ramfs
  2035054128: 'overlay',
};

const failFreeBytes = 100 * 1024 * 1024;
const warnFreeBytes = 1024 ** 3;

/** Looks, and tries to write: what is made for that goes at once. */
export async function dataDirFacts(path: string): Promise<DataDirFacts> {
  const standing = await nearestDirectory(path);
  const exists = standing === path;
  const refusal = exists ? await writeRefusal(path) : await makeRefusal(standing);
  const statfs = await fs.statfs(standing).catch(() => undefined);
  const fileSystem = process.platform === 'linux' ? fileSystems[statfs?.type ?? 0] : undefined;
  const owner = exists ? await findOwner(path).catch(() => undefined) : undefined;
  const real = await fs.realpath(standing).catch(() => standing);
  return {
    path,
    exists,
    ...(refusal === undefined ? {} : { refusal }),
    ...(statfs === undefined ? {} : { freeBytes: statfs.bavail * statfs.bsize }),
    ...(fileSystem === undefined ? {} : { fileSystem }),
    isTemporary: ['/tmp', '/var/tmp', tmpdir()].some((dir) => `${real}/`.startsWith(`${dir}/`)),
    ...(owner?.alive ? { owner: owner.description } : {}),
  };
}

/** The directory itself, or the one above it in which it would be made. One that may not be looked at counts as there. */
async function nearestDirectory(path: string): Promise<string> {
  for (let at = path; ; at = dirname(at)) {
    if (at === dirname(at) || !(await isAbsent(at))) return at;
  }
}

async function isAbsent(path: string): Promise<boolean> {
  return fs.stat(path).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === 'ENOENT' || error.code === 'ENOTDIR',
  );
}

async function writeRefusal(dir: string): Promise<string | undefined> {
  const probe = join(dir, `.lps-doctor-${randomBytes(6).toString('hex')}`);
  try {
    await fs.writeFile(probe, 'doctor', { flag: 'wx' });
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'unknown';
  } finally {
    await fs.rm(probe, { force: true }).catch(() => undefined);
  }
}

/** Whether a directory could be made in this one: one is, and goes at once. */
async function makeRefusal(dir: string): Promise<string | undefined> {
  try {
    await fs.rmdir(await fs.mkdtemp(join(dir, '.lps-doctor-')));
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? 'unknown';
  }
}

/** Whether these settings put anything of lasting value there. */
export function usesDataDir(config: Config): boolean {
  if (config.store === 'memory') return false;
  return config.store === 'file' || config.databaseUrl === undefined || config.cacheDiskBytes > 0;
}

export function judgeDataDir(facts: DataDirFacts, config: Config): Finding[] {
  const { owner, path } = facts;
  return [
    writable(facts),
    ...space(facts, config),
    ...place(facts, config),
    ...(owner === undefined ? [] : [info('data-dir.in-use', `a service runs on ${path} (${owner})`)]),
  ];
}

const reasons: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  ENOTDIR: 'a file is in its place',
};

function writable({ path, exists, refusal }: DataDirFacts): Finding {
  if (refusal === undefined) return ok('data-dir.writable', `${path} ${exists ? 'can be written' : 'can be made'}`);
  const who = process.geteuid === undefined ? 'this user' : `uid ${process.geteuid()}`;
  const what = `${path} cannot be ${exists ? 'written' : 'made'} by ${who}: ${reasons[refusal] ?? refusal}`;
  return fail('data-dir.writable', what, `give ${who} the directory (chown), or choose another one with --data-dir`);
}

function space({ freeBytes }: DataDirFacts, config: Config): Finding[] {
  if (freeBytes === undefined) return [];
  const wantedBytes = config.store === 'file' ? Math.max(warnFreeBytes, config.maxBlobBytes) : warnFreeBytes;
  const seen = `${sizeText(freeBytes)} free`;
  if (freeBytes >= wantedBytes) return [ok('data-dir.space', seen)];
  const todo = 'make room, or choose another disk with --data-dir';
  if (freeBytes < failFreeBytes) return [fail('data-dir.space', `the disk is as good as full: ${seen}`, todo)];
  return [warn('data-dir.space', `only ${seen}`, todo)];
}

function place({ path, fileSystem, isTemporary }: DataDirFacts, config: Config): Finding[] {
  const what = config.store === 'file' ? 'the blobs' : 'the catalog';
  const elsewhere = 'choose a directory on a local disk with --data-dir';
  const seen = {
    network: `${path} is on a network file system, whose locks and syncs do not always hold`,
    memory: `${path} is in memory: ${what} are gone after a restart of the machine`,
    overlay: `${path} is in the container's own layer: ${what} are gone with the container`,
  };
  const todo = { network: elsewhere, memory: elsewhere, overlay: 'mount a volume there' };
  if (fileSystem !== undefined) return [warn('data-dir.file-system', seen[fileSystem], todo[fileSystem])];
  if (!isTemporary) return [];
  return [warn('data-dir.file-system', `${path} is in a directory that systems clear now and then`, elsewhere)];
}

/** Removes the directories that were not there before, as far as they are empty; files are never touched. */
export async function withoutNewDirectories<T>(path: string, run: () => Promise<T>): Promise<T> {
  const missing: string[] = [];
  for (let at = path; ; at = dirname(at)) {
    if (at === dirname(at) || !(await isAbsent(at))) break;
    missing.push(at);
  }
  try {
    return await run();
  } finally {
    if (missing.length > 0) await removeEmptyBelow(path);
    for (const dir of missing) await fs.rmdir(dir).catch(() => undefined);
  }
}

async function removeEmptyBelow(dir: string): Promise<void> {
  const entries = await fs.readdir(dir, { withFileTypes: true }).catch(() => []);
  for (const entry of entries.filter((one) => one.isDirectory())) {
    const path = join(dir, entry.name);
    await removeEmptyBelow(path);
    await fs.rmdir(path).catch(() => undefined);
  }
}
