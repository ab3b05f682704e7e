/** For tests: a throw-away Postgres for a file, a catalog's schema for each test, and what is opened on it. */
import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { type Logger, pino } from 'pino';
import { type Database, openDatabase } from '../catalog/database.js';
import { prepare } from '../catalog/postgres-catalog.js';
import { joinReplicas, type Leadership, type Replica, type ReplicaOptions } from './replicas.js';

export interface Site {
  readonly url: string;
  readonly schema: string;
  readonly sql: pg.Pool;
  readonly database: Database;
  /** Joins as a replica; `ids` and `led` grow. */
  join(options?: Partial<ReplicaOptions>): TestReplica;
  rows(): Promise<Record<string, unknown>[]>;
  /** Ends the session of a replica as Postgres would. */
  endSession(replica: TestReplica): Promise<void>;
  close(): Promise<void>;
}

export interface TestReplica extends Replica {
  readonly ids: readonly string[];
  readonly led: readonly Leadership[];
  readonly lines: readonly string[];
}

/** A busy machine is not to be taken for silence. */
const usualTimeoutMs = 6000;

/** A catalog of its own on a server. */
export async function openSite(url: string): Promise<Site> {
  const schema = `t_${randomBytes(6).toString('hex')}`;
  await prepare(url, schema);
  const sql = new pg.Pool({ connectionString: url, max: 3 });
  sql.on('error', () => undefined);
  const database = openDatabase({ url, maxConnections: 2, statementTimeoutMs: 10_000, log: () => undefined });
  const replicas: Replica[] = [];
  return {
    url,
    schema,
    sql,
    database,
    join(options = {}) {
      const seen = { ids: [] as string[], led: [] as Leadership[], lines: [] as string[] };
      const replica = joinReplicas({
        url,
        schema,
        database,
        applicationVersion: '1',
        serviceVersion: '0.0.0',
        timeoutMs: usualTimeoutMs,
        log: (line) => seen.lines.push(line),
        onIdentity: (id) => seen.ids.push(id),
        onLead: (leadership) => seen.led.push(leadership),
        ...options,
      });
      replicas.push(replica);
      return {
        ...seen,
        get executorId() {
          return replica.executorId;
        },
        get leadership() {
          return replica.leadership;
        },
        close: () => replica.close(),
      };
    },
    rows: async () => (await sql.query(`SELECT * FROM ${schema}.replica ORDER BY started_at`)).rows,
    async endSession({ executorId }) {
      if (executorId === undefined) throw new Error('it has no session yet');
      const terminate = `SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a
        WHERE a.application_name = 'lps replica' AND a.query LIKE '%' || $1 || '%' AND a.pid <> pg_backend_pid()`;
      // not every one of its statements names the schema
      while ((await sql.query(terminate, [schema])).rows.length === 0);
    },
    async close() {
      await Promise.all(replicas.map((replica) => replica.close()));
      await database.close();
      await sql.query(`DROP SCHEMA IF EXISTS ${schema} CASCADE`);
      await sql.query(`DROP SCHEMA IF EXISTS ${schema}_dbos CASCADE`);
      await sql.end();
    },
  };
}

/** A logger whose lines are kept. */
export function keptLog(): Logger & { readonly lines: Record<string, unknown>[] } {
  const lines: Record<string, unknown>[] = [];
  const log = pino({ level: 'trace' }, { write: (line: string) => lines.push(JSON.parse(line)) });
  return Object.assign(log, { lines });
}
