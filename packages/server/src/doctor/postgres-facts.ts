/** What a Postgres says about itself, and what it lets us do; nothing stays. */
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { connectionSettings } from '../catalog/database.js';
import { readMigrations } from '../catalog/migrate.js';

export interface PostgresFacts {
  /** `180004` */
  readonly versionNumber: number;
  readonly encoding: string;
  /** Why nothing can be written: a standby, or a default of the role or database. */
  readonly readOnly?: 'standby' | 'default';
  /** Connections that its settings leave to ordinary users, and those that others than the service have open. */
  readonly connections: { readonly limit: number; readonly usedByOthers: number };
  /** What the role or the database sets; 0: none. */
  readonly statementTimeoutMs: number;
  /** Settings that give up what was committed last when the machine fails. */
  readonly notDurable: readonly string[];
  /** Its clock minus ours. */
  readonly clockSkewMs: number;
  /** What the service would be refused, in Postgres' words. */
  readonly rightsRefusal?: string;
  readonly migrations: 'absent' | 'behind' | 'current' | 'ahead' | 'other';
  /** Of the tables that are there, as far as it may be read. */
  readonly catalogId?: string;
  /** Whether NOTIFY comes back to who listens. */
  readonly listens: boolean;
  /** Why a connection with the settings of the service's pool is refused. */
  readonly poolRefusal?: string;
}

const listenMs = 3000;
const schemaProbe = 'lps_doctor_probe';

/** Throws what `pg` throws when it cannot be reached. `schema` must be a plain name. */
export async function postgresFacts(url: string, schema: string): Promise<PostgresFacts> {
  const client = new pg.Client({ ...connectionSettings(url, 'lps doctor'), query_timeout: 10_000 });
  client.on('error', () => undefined); // the statement under way fails as well
  try {
    await client.connect();
    const server = await describeServer(client);
    const migrations = await migrationsOf(client, schema);
    const isWritable = server.readOnly === undefined;
    const rightsRefusal = isWritable ? await refusalOf(client, schema, migrations) : undefined;
    const catalogId = migrations === 'absent' ? undefined : await catalogIdOf(client, schema);
    const poolRefusal = await poolRefusalOf(url);
    return {
      ...server,
      migrations,
      ...(rightsRefusal === undefined ? {} : { rightsRefusal }),
      ...(catalogId === undefined ? {} : { catalogId }),
      listens: await listens(client),
      ...(poolRefusal === undefined ? {} : { poolRefusal }),
    };
  } finally {
    await client.end().catch(() => undefined);
  }
}

type Described = Omit<PostgresFacts, 'rightsRefusal' | 'migrations' | 'catalogId' | 'listens' | 'poolRefusal'>;

async function describeServer(client: pg.Client): Promise<Described> {
  const sentAt = Date.now();
  const { rows } = await client.query<Record<string, string>>(`SELECT
    extract(epoch FROM clock_timestamp()) * 1000 AS now,
    current_setting('server_version_num') AS version,
    current_setting('server_encoding') AS encoding,
    pg_is_in_recovery()::text AS standby,
    current_setting('transaction_read_only') AS read_only,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
      - coalesce(current_setting('reserved_connections', true), '0')::int AS connections,
    (SELECT count(*) FROM pg_stat_activity
      WHERE datid IS NOT NULL AND pid <> pg_backend_pid() AND application_name NOT LIKE 'lps %') AS used,
    (SELECT setting FROM pg_settings WHERE name = 'statement_timeout') AS statement_timeout,
    current_setting('fsync') AS fsync,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('full_page_writes') AS full_page_writes`);
  const askedAt = (sentAt + Date.now()) / 2;
  const row = rows[0] ?? {};
  const isOn = ['fsync', 'synchronous_commit', 'full_page_writes'] as const;
  return {
    versionNumber: Number(row.version),
    encoding: row.encoding ?? '',
    ...(row.standby === 'true' ? { readOnly: 'standby' } : row.read_only === 'on' ? { readOnly: 'default' } : {}),
    connections: { limit: Number(row.connections), usedByOthers: Number(row.used) },
    statementTimeoutMs: Number(row.statement_timeout),
    notDurable: isOn.filter((name) => row[name] === 'off'),
    clockSkewMs: Math.round(Number(row.now) - askedAt),
  };
}

/** What the migrations of this program would find. */
async function migrationsOf(client: pg.Client, schema: string): Promise<PostgresFacts['migrations']> {
  const table = await client.query('SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = $2', [
    schema,
    'migration',
  ]);
  if (table.rows.length === 0) return 'absent';
  const known = new Map((await readMigrations()).map(({ version, checksum }) => [version, checksum]));
  try {
    const { rows } = await client.query<{ version: number; checksum: string }>(
      `SELECT version, checksum FROM ${schema}.migration`,
    );
    if (rows.some(({ version }) => version > Math.max(...known.keys()))) return 'ahead';
    if (rows.some(({ version, checksum }) => known.get(version) !== checksum)) return 'other';
    return rows.length < known.size ? 'behind' : 'current';
  } catch {
    return 'current'; // it may not be read: that is among the rights
  }
}

/** Does what the service's start would do, and rolls it back. */
async function refusalOf(
  client: pg.Client,
  schema: string,
  migrations: PostgresFacts['migrations'],
): Promise<string | undefined> {
  const { rows } = await client.query('SELECT FROM pg_namespace WHERE nspname = $1', [schema]);
  const probe = `${schema}.${schemaProbe}`;
  const create = [...(rows.length === 0 ? [`CREATE SCHEMA ${schema}`] : []), `CREATE TABLE ${probe} (id int)`];
  if (migrations === 'absent' || migrations === 'behind') return refusalOfAny(client, create);
  return refusalOfAny(client, [
    `LOCK TABLE ${schema}.blob, ${schema}.lease, ${schema}.retired_object IN ROW EXCLUSIVE MODE`,
    `SELECT FROM ${schema}.catalog, ${schema}.migration`,
  ]);
}

async function refusalOfAny(client: pg.Client, statements: readonly string[]): Promise<string | undefined> {
  try {
    await client.query('BEGIN');
    for (const statement of statements) await client.query(statement);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    await client.query('ROLLBACK').catch(() => undefined);
  }
}

async function catalogIdOf(client: pg.Client, schema: string): Promise<string | undefined> {
  try {
    return (await client.query<{ id: string }>(`SELECT id FROM ${schema}.catalog`)).rows[0]?.id;
  } catch {
    return undefined;
  }
}

/** A pooler in transaction mode takes LISTEN, and gives the connection to somebody else. */
async function listens(client: pg.Client): Promise<boolean> {
  const echo = randomUUID();
  let isHeard = false;
  let stopWaiting = (): void => undefined;
  client.on('notification', ({ payload }) => {
    if (payload !== echo) return;
    isHeard = true;
    stopWaiting();
  });
  try {
    await client.query('LISTEN lps_doctor');
    await client.query('SELECT pg_notify($1, $2)', ['lps_doctor', echo]);
    if (!isHeard) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, listenMs);
        stopWaiting = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    // what came while this process was held up comes before the answer
    if (!isHeard) await client.query('SELECT');
    return isHeard;
  } catch {
    return false; // a standby
  }
}

/** A pooler refuses parameters at the start of a connection that it does not know. */
async function poolRefusalOf(url: string): Promise<string | undefined> {
  const client = new pg.Client({
    ...connectionSettings(url, 'lps doctor'),
    statement_timeout: 10_000,
    lock_timeout: 10_000,
    idle_in_transaction_session_timeout: 10_000,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    await client.end().catch(() => undefined);
  }
}
