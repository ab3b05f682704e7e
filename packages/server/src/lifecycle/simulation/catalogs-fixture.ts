/** The catalogs that the world runs on. */
import pg from 'pg';
import { openDatabase } from '../../catalog/database.js';
import { openCatalog } from '../../catalog/postgres-catalog.js';
import { openTakedownCatalog, type TakedownCatalog } from '../../takedown/takedown-catalog.js';
import { memoryLifecycle } from '../catalog/memory-lifecycle.js';
import type { MemoryModel } from '../catalog/memory-model.js';
import { postgresLifecycle } from '../catalog/postgres-lifecycle.js';
import type { SimCatalog } from './world-fixture.js';

export async function openMemory(
  now: () => number,
  graceMs: number,
  patch?: (model: MemoryModel) => void,
): Promise<SimCatalog> {
  const { catalog, lifecycle, model, lead } = memoryLifecycle({ now, graceMs });
  patch?.(model);
  return { catalog, lifecycle, lead: async () => lead() };
}

/** One schema on a throw-away PostgreSQL, emptied for each world, in which it is always as late as the world says. */
export async function openPostgres(
  url: string,
  graceMs: number,
): Promise<{
  readonly openCatalog: (now: () => number) => Promise<SimCatalog>;
  readonly takedowns: TakedownCatalog;
  close(): Promise<void>;
}> {
  const schema = 'simulation';
  await (await openCatalog({ url, schema, graceMs, cacheEntries: 0 })).close();
  await standStill(url, schema);
  const sql = new pg.Pool({ connectionString: url, max: 1 });
  const catalog = await openCatalog({ url, schema, graceMs, cacheEntries: 0, pool: { max: 2 } });
  const database = openDatabase({ url, maxConnections: 2, statementTimeoutMs: 10_000, log: () => undefined });
  const lifecycle = postgresLifecycle(database, schema, { graceMs, touchIntervalMs: graceMs / 24 });
  const setTime = async (nowMs: number): Promise<void> => {
    await sql.query({ name: 'set', text: 'UPDATE standing.clock SET at = $1', values: [new Date(nowMs)] });
  };
  const empty = await emptying(sql, schema);
  return {
    takedowns: openTakedownCatalog({ database, schema }),
    async openCatalog(now) {
      await empty();
      await setTime(now());
      return {
        ...{ catalog, lifecycle, setTime },
        async lead() {
          const { rows } = await sql.query(`UPDATE ${schema}.leader SET epoch = epoch + 1 RETURNING epoch`);
          return { epoch: String(rows[0].epoch) };
        },
      };
    },
    async close() {
      await Promise.all([catalog.close(), database.close(), sql.end()]);
    },
  };
}

/** Tables of one row each, and what is about the schema itself. */
const kept = ['catalog', 'collection', 'event_counter', 'leader', 'migration'];

/** What makes a catalog as new again, but for its counters: quicker than another schema. */
export async function emptying(sql: pg.Pool, schema: string): Promise<() => Promise<void>> {
  const { rows } = await sql.query('SELECT tablename FROM pg_tables WHERE schemaname = $1', [schema]);
  const tables = rows.map(({ tablename }) => String(tablename)).filter((table) => !kept.includes(table));
  // others refer to it
  const emptied = [...tables.filter((table) => table !== 'takedown'), 'takedown'];
  // quicker than TRUNCATE, for so few rows
  const text = `${emptied.map((table) => `DELETE FROM ${schema}.${table}`).join('; ')};
    UPDATE ${schema}.collection SET rounds = 0; UPDATE ${schema}.catalog SET rebuilt_at = NULL`;
  return async () => {
    await sql.query(text);
  };
}

/**
 * From now on now() and clock_timestamp() are what the table `standing.clock` says: functions of that name which stand in
 * front of PostgreSQL's own on the search path. Defaults of columns were bound before, and are made again.
 */
async function standStill(url: string, schema: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(`
    CREATE SCHEMA standing;
    CREATE TABLE standing.clock (at timestamptz NOT NULL);
    INSERT INTO standing.clock VALUES (now());
    CREATE FUNCTION standing.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM standing.clock';
    CREATE FUNCTION standing.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM standing.clock'`);
  const { rows } = await client.query(
    `SELECT table_name, column_name FROM information_schema.columns
     WHERE table_schema = $1 AND column_default IN ('now()', 'clock_timestamp()')`,
    [schema],
  );
  for (const { table_name, column_name } of rows) {
    await client.query(`ALTER TABLE ${schema}.${table_name} ALTER COLUMN ${column_name} SET DEFAULT standing.now()`);
  }
  const name = client.escapeIdentifier(String(client.database));
  await client.query(`ALTER DATABASE ${name} SET search_path = standing, pg_catalog, public`);
  await client.end();
}
