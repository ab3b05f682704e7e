/** The directories of throw-away databases (for the memory store), and those that killed processes left. */
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { removeSocketDirs } from './embedded-postgres-cluster.js';
import { findOwner } from './embedded-postgres-owner.js';
import { stopPostmasterOf } from './embedded-postgres-process.js';

const prefix = 'lps-throw-away-';
const maxSweptPerStart = 20;

/** Between making the directory and owning it a living process needs milliseconds. */
const youngMs = 30_000;

export async function makeThrowAwayDir(): Promise<string> {
  const dir = await fs.mkdtemp(join(await fs.realpath(tmpdir()), prefix));
  // PostgreSQL runs as another user then and has to pass through; nothing can be listed.
  if (process.geteuid?.() === 0) await fs.chmod(dir, 0o711);
  return dir;
}

/** Stops and removes what this user's dead processes left. Never fails: it is not what the caller came for. */
export async function sweepThrowAwayDirs(log: (line: string) => void): Promise<void> {
  const root = await fs.realpath(tmpdir());
  const names = await fs.readdir(root).catch(() => []);
  let swept = 0;
  for (const name of names.filter((name) => name.startsWith(prefix))) {
    if (swept === maxSweptPerStart) return;
    try {
      if (await sweep(join(root, name), log)) swept++;
    } catch (error) {
      log(`cannot remove the throw-away database ${name}: ${String(error)}`);
    }
  }
}

async function sweep(dir: string, log: (line: string) => void): Promise<boolean> {
  const found = await fs.lstat(dir);
  if (!found.isDirectory() || found.uid !== process.geteuid?.()) return false;
  if ((await findOwner(dir)).alive) return false;
  const wasOwned = await fs.lstat(join(dir, 'owner.sock')).then(
    () => true,
    () => false,
  );
  if (!wasOwned && Date.now() - found.mtimeMs < youngMs) return false;
  log(`removing the throw-away database ${dir}, whose process is gone`);
  await stopPostmasterOf(join(dir, 'postgres'));
  await removeSocketDirs(dir);
  await fs.rm(dir, { recursive: true, force: true });
  return true;
}
