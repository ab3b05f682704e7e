/**
 * The catalog's own pool of connections, and what Postgres' errors mean here. (DBOS has another pool: one shared pool
 * deadlocks.)
 */
import { isLpsError, LpsError } from '@large-payload/core';
import pg from 'pg';

/** A statement with a name is prepared once a connection. */
export interface Statement {
  readonly name?: string;
  readonly text: string;
}

export type Row = Record<string, unknown>;

/** Runs statements. Every error is an `LpsError`. */
export interface Database {
  /** One statement, in a transaction of its own; made again when it met a deadlock or a stale plan. */
  run(statement: Statement, values: readonly unknown[]): Promise<Row[]>;
  /** Several statements in one READ COMMITTED transaction: each sees what was committed before it began. */
  transaction<T>(work: (run: Database['run']) => Promise<T>): Promise<T>;
  stats(): { total: number; idle: number; waiting: number };
  close(): Promise<void>;
}

export interface DatabaseOptions {
  readonly url: string;
  readonly maxConnections: number;
  readonly statementTimeoutMs: number;
  readonly log: (line: string) => void;
}

const connectTimeoutMs = 5000;
/** More than that many calls waiting for one connection would only time out one after the other. */
const maxWaitingPerConnection = 200;
const attempts = 4;

/** What every connection of the catalog is opened with. */
export function connectionSettings(url: string, applicationName: string): pg.ClientConfig {
  return {
    connectionString: url,
    application_name: applicationName,
    connectionTimeoutMillis: connectTimeoutMs,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
  };
}

export function openDatabase(options: DatabaseOptions): Database {
  const { statementTimeoutMs, maxConnections, log } = options;
  const pool = new pg.Pool({
    ...connectionSettings(options.url, 'lps catalog'),
    max: maxConnections,
    idleTimeoutMillis: 60_000,
    statement_timeout: statementTimeoutMs,
    lock_timeout: statementTimeoutMs,
    idle_in_transaction_session_timeout: statementTimeoutMs,
    // for a server that does not answer at all: its own timeout can't reach us then
    query_timeout: statementTimeoutMs + 1000,
  });
  outliveConnections(pool);
  // Idle connections that break are dropped by the pool; the next call opens another.
  pool.on('error', (error) => log(`catalog: an idle connection broke: ${error.message}`));

  let closed: Promise<void> | undefined;
  const guard = (): void => {
    if (pool.waitingCount >= maxConnections * maxWaitingPerConnection) {
      throw new LpsError('CATALOG_UNAVAILABLE', 'too many calls are waiting for the catalog');
    }
  };
  return {
    async run(statement, values) {
      for (let attempt = 1; ; attempt++) {
        try {
          guard();
          return (await pool.query<Row>({ ...statement, values: [...values] })).rows;
        } catch (error) {
          if (attempt === attempts || !isWorthAnotherTry(error)) throw asCatalogError(error);
        }
      }
    },
    async transaction(work) {
      for (let attempt = 1; ; attempt++) {
        try {
          guard();
          return await transact(pool, work);
        } catch (error) {
          if (attempt === attempts || !isWorthAnotherTry(error)) throw asCatalogError(error);
        }
      }
    },
    stats: () => ({ total: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount }),
    close() {
      closed ??= pool.end();
      return closed;
    },
  };
}

/**
 * A connection may break in the moment in which it is handed out, when nobody listens to it: Postgres says that it shuts
 * down in one packet with its welcome. That must not end the process: whoever has the connection learns of it from the
 * statement that fails, and the pool sees to idle ones.
 */
export function outliveConnections(pool: pg.Pool): void {
  pool.on('connect', (client) => client.on('error', () => undefined));
}

async function transact<T>(pool: pg.Pool, work: (run: Database['run']) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  let failure: Error | undefined;
  const onError = (error: Error): void => {
    failure = error;
  };
  client.on('error', onError);
  try {
    await client.query('BEGIN');
    const result = await work(async (statement, values) => {
      return (await client.query<Row>({ ...statement, values: [...values] })).rows;
    });
    await client.query('COMMIT');
    return result;
  } catch (error) {
    failure = error instanceof Error ? error : new Error(String(error));
    throw error;
  } finally {
    client.off('error', onError);
    client.release(failure); // a failed one is closed, and Postgres rolls back
  }
}

/** Deadlock and serialization; plans and prepared statements that a migration or a pooler took away. */
function isWorthAnotherTry(error: unknown): boolean {
  return ['40P01', '40001', '0A000', '26000'].includes(sqlState(error) ?? '');
}

/** SQLSTATE classes and codes under which the same call may succeed later, on this server or on its successor. */
const unavailable = [
  '08', // connection exception
  '53', // too many connections, disk full, out of memory
  '57', // shutdown, crash, starting up, cancelled (statement_timeout)
  '58', // system error
  '25006', // read-only: a standby, or a failover under way
  '25P03', // idle_in_transaction_session_timeout
  '40', // deadlock, serialization: after several tries
  '55P03', // lock_timeout
  '28', // credentials being rotated
  '3D000', // the database is being restored
];

/** The error as callers see it: what Postgres says about rows stays in `cause`. */
export function asCatalogError(error: unknown): LpsError {
  if (isLpsError(error)) return error;
  if (error instanceof TypeError || error instanceof RangeError) {
    return new LpsError('INTERNAL', 'the catalog was called wrongly', { cause: error });
  }
  const state = sqlState(error);
  // Without an SQLSTATE it did not come from Postgres: the connection broke, timed out or was never made.
  if (state === undefined) {
    return new LpsError('CATALOG_UNAVAILABLE', 'the catalog cannot be reached', { cause: error });
  }
  if (unavailable.some((start) => state.startsWith(start))) {
    return new LpsError('CATALOG_UNAVAILABLE', 'the catalog does not answer', {
      cause: error,
      details: { sqlState: state },
    });
  }
  return new LpsError('INTERNAL', 'the catalog refused a statement', { cause: error, details: { sqlState: state } });
}

/** At the start, what can't get better by waiting is a mistake in the configuration. */
export function asOpenError(error: unknown): LpsError {
  const state = sqlState(error) ?? '';
  const mistakes: Record<string, string> = {
    '28P01': 'the catalog refuses the password',
    '28000': 'the catalog refuses the user',
    '3D000': "the catalog's database does not exist",
    '42501': "the catalog's user may not create its tables",
  };
  const mistake = mistakes[state];
  if (mistake === undefined) return asCatalogError(error);
  return new LpsError('CONFIG_INVALID', mistake, { cause: error, details: { sqlState: state } });
}

function sqlState(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined;
}
