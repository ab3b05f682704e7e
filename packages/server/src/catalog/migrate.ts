/**
 * Brings a database to the schema that this code needs: the files of `migrations/`, in the order of their numbers,
 * each in a transaction of its own.
 *
 *   migrations/0001-catalog.sql      number, name
 *
 * Several replicas may start at once: one transaction at a time holds the advisory lock, the others poll for it.
 * (A blocking lock would hang with CREATE INDEX CONCURRENTLY; one of a session would leak through PgBouncer.)
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { LpsError } from '@large-payload/core';
import type { ClientBase } from 'pg';

/** One file of `migrations/`. */
export interface Migration {
  readonly version: number;
  readonly name: string;
  readonly sql: string;
  readonly checksum: string;
}

interface Applied {
  readonly version: number;
  readonly checksum: string;
}

const fileName = /^(\d{4})-([a-z0-9-]+)\.sql$/;
const pollMs = 50;
const oldestServer = 150_000; // PostgreSQL 15

/** The migrations that belong to this code. `dir` is another directory in tests. */
export async function readMigrations(dir: URL = new URL('../../migrations/', import.meta.url)): Promise<Migration[]> {
  const migrations: Migration[] = [];
  for (const file of (await readdir(dir)).sort()) {
    const match = fileName.exec(file);
    if (match === null) continue;
    const sql = (await readFile(new URL(file, dir), 'utf8')).replaceAll('\r\n', '\n');
    const checksum = createHash('sha256').update(sql).digest('hex');
    migrations.push({ version: Number(match[1]), name: match[2] ?? '', sql, checksum });
  }
  return migrations;
}

/**
 * Applies what is missing. Throws CONFIG_INVALID when the database is newer than this code, was changed by other
 * means, or is of a kind that can't hold a catalog. `schema` must be a plain name.
 */
export async function migrate(
  client: ClientBase,
  schema: string,
  migrations: readonly Migration[],
  timeoutMs = 60_000,
): Promise<void> {
  await checkServer(client);
  const giveUpAt = performance.now() + timeoutMs;
  while ((await missing(client, schema, migrations)).length > 0) {
    if (await applyNext(client, schema, migrations)) continue;
    if (performance.now() > giveUpAt) {
      throw new LpsError('CATALOG_UNAVAILABLE', 'another process has been migrating the catalog for too long');
    }
    await delay(pollMs);
  }
}

async function checkServer(client: ClientBase): Promise<void> {
  const { rows } = await client.query<{ version: number; encoding: string }>(
    `SELECT current_setting('server_version_num')::int AS version, current_setting('server_encoding') AS encoding`,
  );
  const [server] = rows;
  if (server === undefined || server.version < oldestServer) {
    throw new LpsError('CONFIG_INVALID', 'the catalog needs PostgreSQL 15 or later');
  }
  if (server.encoding !== 'UTF8') {
    throw new LpsError('CONFIG_INVALID', `the catalog's database must have the encoding UTF8, not ${server.encoding}`);
  }
}

/** Needs no right to create anything when the schema is as it should be. */
async function missing(client: ClientBase, schema: string, migrations: readonly Migration[]): Promise<Migration[]> {
  // Not to_regclass: it would answer from a cache of the connection, which takes no notice of others without a lock.
  const found = await client.query('SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = $2', [
    schema,
    'migration',
  ]);
  if (found.rows.length === 0) return [...migrations];
  const { rows } = await client.query<Applied>(`SELECT version, checksum FROM ${schema}.migration`);
  checkApplied(rows, migrations);
  const applied = new Set(rows.map((row) => row.version));
  return migrations.filter((migration) => !applied.has(migration.version));
}

function checkApplied(applied: readonly Applied[], migrations: readonly Migration[]): void {
  const newest = migrations.at(-1)?.version ?? 0;
  for (const { version, checksum } of applied) {
    const known = migrations.find((migration) => migration.version === version);
    if (known?.checksum === checksum) continue;
    const what =
      version > newest
        ? `the catalog is at version ${version}, this program knows ${newest}: start the newer program`
        : `the catalog's migration ${version} is not the one that this program brings`;
    throw new LpsError('CONFIG_INVALID', what, { details: { version, newest } });
  }
}

/** One transaction: the lock, a second look, one file. `false` when another process holds the lock. */
async function applyNext(client: ClientBase, schema: string, migrations: readonly Migration[]): Promise<boolean> {
  await client.query('BEGIN');
  try {
    // The tables of a migration may take longer than a request may.
    await client.query('SET LOCAL statement_timeout = 0');
    const lock = await client.query<{ locked: boolean }>(
      'SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0)) AS locked',
      [`lps catalog migration of ${schema}`],
    );
    if (lock.rows[0]?.locked === true) {
      const [next] = await missing(client, schema, migrations);
      if (next !== undefined) await apply(client, schema, next);
    }
    await client.query('COMMIT');
    return lock.rows[0]?.locked === true;
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined);
    throw error;
  }
}

async function apply(client: ClientBase, schema: string, migration: Migration): Promise<void> {
  // IF NOT EXISTS would demand the right to create schemas even when it is there
  const { rows } = await client.query('SELECT FROM pg_namespace WHERE nspname = $1', [schema]);
  if (rows.length === 0) await client.query(`CREATE SCHEMA ${schema}`);
  await client.query(`SET LOCAL search_path TO ${schema}`);
  await client.query(`CREATE TABLE IF NOT EXISTS ${schema}.migration (
    version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`);
  await client.query(migration.sql);
  await client.query(`INSERT INTO ${schema}.migration (version, name, checksum) VALUES ($1, $2, $3)`, [
    migration.version,
    migration.name,
    migration.checksum,
  ]);
}
