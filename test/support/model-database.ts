/**
 * An embedded database as the first start of a service makes it, without any of the service's tables. To make one takes
 * longer than everything else in a start, so it is made once for this build and this PostgreSQL, and copied.
 *
 *   ~/.cache/large-payload/database-5f0c2a91d7e4/postgres
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { startEmbeddedPostgres } from '../../packages/server/src/catalog/embedded-postgres.ts';
import { cacheDir } from '../components/components.mjs';

const run = promisify(execFile);

/** Puts a copy into a data directory that has no database yet. */
export async function copyModelDatabase(dataDir: string): Promise<void> {
  await run('cp', ['-a', join(await modelDir(), 'postgres'), dataDir]);
}

async function modelDir(): Promise<string> {
  const dir = join(cacheDir(), `database-${whatMakesIt()}`);
  if (!existsSync(dir)) await make(dir);
  return dir;
}

/** Renamed into place when it is whole. */
async function make(dir: string): Promise<void> {
  mkdirSync(cacheDir(), { recursive: true });
  const workDir = mkdtempSync(join(cacheDir(), '.building-database-'));
  try {
    const postgres = await startEmbeddedPostgres({ dataDir: workDir });
    await postgres.stop();
    chmodSync(workDir, 0o755);
    renameSync(workDir, dir);
  } catch (error) {
    // another run was faster: its database is as good as ours
    if (!existsSync(dir)) throw error;
  } finally {
    rmSync(workDir, { recursive: true, force: true });
  }
}

const server = new URL('../../packages/server/', import.meta.url);

/** Another one for each user, PostgreSQL and way of making it. */
function whatMakesIt(): string {
  const { optionalDependencies } = JSON.parse(readFileSync(new URL('package.json', server), 'utf8'));
  const source = readFileSync(new URL('src/catalog/embedded-postgres-cluster.ts', server), 'utf8');
  const user = process.geteuid?.();
  return createHash('sha256')
    .update(JSON.stringify([user, optionalDependencies, source]))
    .digest('hex')
    .slice(0, 12);
}
