/**
 * Where the catalog's database is, and how to look at it without being in anybody's way:
 *
 *   --database-url                    there
 *   a service runs                    in its embedded database, beside it
 *   an embedded one that is stopped   started for the look, and stopped
 *   none yet, or store memory         a throw-away one, to see that it runs on this machine
 */
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { findRunningDatabase } from '../catalog/embedded-postgres-guest.js';
import type { Config } from '../config/settings.js';
import { embeddedConnections } from '../durable/connections.js';
import type { Finding } from './finding.js';
import { fail } from './finding.js';
import { judgePostgres, judgeUnreachable } from './postgres.js';
import { type PostgresFacts, postgresFacts } from './postgres-facts.js';
import { messageOf } from './words.js';

export interface PostgresLook {
  readonly findings: readonly Finding[];
  /** Absent when it could not be reached; the throw-away one has no facts that matter to others. */
  readonly facts?: PostgresFacts;
}

export async function lookAtPostgres(config: Config, signal: AbortSignal): Promise<PostgresLook> {
  const { databaseUrl, dataDir } = config;
  if (config.store === 'memory') return onEmbedded(config, { throwAway: true });
  if (databaseUrl !== undefined) return look(databaseUrl, serverName(databaseUrl), config, false);
  let running: string | undefined;
  try {
    running = await findRunningDatabase(dataDir, signal);
  } catch (error) {
    return { findings: [fail('postgres.reach', messageOf(error), 'see the message, and the log of the service')] };
  }
  if (running !== undefined)
    return look(running, 'the embedded database of the running service answers', config, false);
  const isThere = await access(join(dataDir, 'postgres', 'PG_VERSION')).then(
    () => true,
    (error: NodeJS.ErrnoException) => error.code !== 'ENOENT' && error.code !== 'ENOTDIR',
  );
  return onEmbedded(config, isThere ? { dataDir } : { throwAway: true });
}

async function onEmbedded(config: Config, where: { dataDir: string } | { throwAway: true }): Promise<PostgresLook> {
  const maxConnections = embeddedConnections(config.databasePoolSize);
  let postgres: EmbeddedPostgres;
  try {
    postgres = await startEmbeddedPostgres({ ...where, maxConnections });
  } catch (error) {
    const todo = 'see the message; or set LPS_DATABASE_URL to a PostgreSQL server';
    return { findings: [fail('postgres.reach', `the embedded database does not start: ${messageOf(error)}`, todo)] };
  }
  postgres.exited.catch(() => undefined); // statements fail, too
  try {
    const isThrowAway = 'throwAway' in where;
    const name = isThrowAway ? 'an embedded database runs here' : 'the embedded database starts';
    return await look(postgres.url, name, config, isThrowAway);
  } finally {
    await postgres.stop();
  }
}

async function look(url: string, name: string, config: Config, isThrowAway: boolean): Promise<PostgresLook> {
  const { databaseSchema: schema, databasePoolSize: poolSize } = config;
  try {
    const facts = await postgresFacts(url, schema);
    return { findings: judgePostgres(facts, { poolSize, schema, name, isThrowAway }), facts };
  } catch (error) {
    return { findings: [judgeUnreachable(name, error)] };
  }
}

/** Without user and password. */
function serverName(url: string): string {
  const { hostname, port, pathname, searchParams } = new URL(url);
  return `Postgres at ${searchParams.get('host') ?? (hostname || 'localhost')}:${port || '5432'}${pathname}`;
}
