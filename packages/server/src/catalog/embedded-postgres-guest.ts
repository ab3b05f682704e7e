/**
 * The embedded PostgreSQL of a data directory that another process owns, for commands beside a running service: the
 * socket's place stands in DATA_DIR/postgres/postmaster.pid, and nothing is started, stopped or cleared away here.
 */
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LpsError } from '@large-payload/core';
import { Client } from 'pg';
import { findOwner } from './embedded-postgres-owner.js';
import { readPidFile } from './embedded-postgres-process.js';

/** A service that is starting has its database a moment later. */
const usualPatienceMs = 10_000;
const pollMs = 50;

/**
 * Its URL, once it answers. `undefined` when no living process owns the directory.
 * Throws CATALOG_UNAVAILABLE, and CONFIG_INVALID when this user or this container cannot reach the socket.
 */
export async function findRunningDatabase(
  dataDir: string,
  signal?: AbortSignal,
  patienceMs: number = usualPatienceMs,
): Promise<string | undefined> {
  const dir = await realpath(dataDir).catch(() => undefined);
  if (dir === undefined) return undefined;
  for (const since = performance.now(); ; ) {
    const owner = await findOwner(dir);
    if (!owner.alive) return undefined;
    const file = await readPidFile(join(dir, 'postgres'));
    const failure = file?.status === 'ready' ? await tryOn(file.socketDir, file.port) : 'not up';
    if (typeof failure === 'object' && 'url' in failure) return failure.url;
    if (performance.now() - since > patienceMs) throw unreachable(dir, owner.description, failure);
    await delay(pollMs, undefined, signal === undefined ? {} : { signal });
  }
}

/** The URL, or why it is of no use. */
async function tryOn(socketDir: string, port: number): Promise<{ readonly url: string } | Error> {
  const url = `postgresql://lps@localhost:${port}/lps?host=${encodeURI(socketDir)}&sslmode=disable`;
  const client = new Client({ connectionString: url, connectionTimeoutMillis: 2000 });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query('SELECT');
    return { url };
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  } finally {
    await client.end().catch(() => undefined);
  }
}

function unreachable(dir: string, owner: string, cause: Error | 'not up'): LpsError {
  if (cause === 'not up') {
    const message =
      `a running process (${owner}) has ${dir}, and no embedded database runs there: when the service has its catalog ` +
      'elsewhere, give this command the same --database-url (or LPS_DATABASE_URL)';
    return new LpsError('CONFIG_INVALID', message, { details: { dataDir: dir, owner } });
  }
  const code = (cause as NodeJS.ErrnoException).code ?? '';
  const details = { dataDir: dir, owner };
  if (code === 'EACCES' || code === 'ENOENT') {
    const message =
      `the database of ${dir} belongs to a running process (${owner}) and cannot be reached from here: run this command ` +
      'as the same user and in the same container';
    return new LpsError('CONFIG_INVALID', message, { cause, details });
  }
  const message = `the database of ${dir}, which belongs to a running process (${owner}), does not answer: ${cause.message}`;
  return new LpsError('CATALOG_UNAVAILABLE', message, { cause, details });
}
