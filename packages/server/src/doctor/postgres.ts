import pg from 'pg';
import { serviceConnections } from '../durable/connections.js';
import { judgeClock } from './clock.js';
import { type Finding, fail, info, ok, warn } from './finding.js';
import type { PostgresFacts } from './postgres-facts.js';

/** What the service needs of it, and how it is called. */
export interface PostgresNeeds {
  readonly poolSize: number;
  readonly schema: string;
  /** `db.example:5432/lps`, or words for an embedded one. */
  readonly name: string;
  /** An embedded one of no other use, without durability. */
  readonly isThrowAway: boolean;
}

const oldestServer = 150_000;
const shortStatementMs = 10_000;

export function judgePostgres(facts: PostgresFacts, needs: PostgresNeeds): Finding[] {
  return [
    ok('postgres.reach', needs.name),
    version(facts),
    readOnly(facts),
    ...pooler(facts),
    ...rights(facts, needs),
    migrations(facts),
    connections(facts, needs),
    ...listening(facts),
    ...statementTimeout(facts),
    ...(needs.isThrowAway ? [] : durability(facts)),
    ...judgeClock('postgres.clock', 'Postgres', facts.clockSkewMs),
  ];
}

const mistakes: Readonly<Record<string, readonly [string, string]>> = {
  '28P01': ['it refuses the password', 'correct the password in the URL (LPS_DATABASE_URL)'],
  '28000': ['it refuses the user', 'correct the user in the URL, or allow it in pg_hba.conf'],
  '3D000': ['the database does not exist', 'make it (CREATE DATABASE), or correct the URL'],
  '53300': ['it has no connection left', 'raise max_connections, or end what else is connected'],
};

const networkReasons: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there',
  ENOTFOUND: 'the host is not known',
  EAI_AGAIN: 'the host name cannot be looked up now',
  ENOENT: 'the socket does not exist',
  EACCES: 'this user may not use the socket',
};

/** For one that lets nobody in. */
export function judgeUnreachable(name: string, error: unknown): Finding {
  const state = error instanceof pg.DatabaseError ? error.code : undefined;
  const [reason, todo] = mistakes[state ?? ''] ?? [];
  if (reason !== undefined && todo !== undefined) return fail('postgres.reach', `${name}: ${reason}`, todo);
  const { code, message } = (error ?? {}) as { code?: string; message?: string };
  const why = networkReasons[code ?? ''] ?? (message || code || String(error));
  return fail(
    'postgres.reach',
    `${name} cannot be reached: ${why}`,
    'start it, or correct the database URL and the network in between',
  );
}

function version({ versionNumber, encoding }: PostgresFacts): Finding {
  const name = `PostgreSQL ${Math.floor(versionNumber / 10_000)}`;
  if (versionNumber < oldestServer)
    return fail('postgres.version', `${name} is too old`, 'upgrade to PostgreSQL 15 or later');
  if (encoding === 'UTF8') return ok('postgres.version', name);
  const todo = "make another database: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0";
  return fail('postgres.version', `the database has the encoding ${encoding}, which cannot hold every name`, todo);
}

function readOnly({ readOnly }: PostgresFacts): Finding {
  if (readOnly === undefined) return ok('postgres.read-only', 'takes writes');
  if (readOnly === 'standby')
    return fail('postgres.read-only', 'this server is a standby: it takes no writes', 'connect to the primary');
  const todo = 'unset default_transaction_read_only of the role or the database';
  return fail('postgres.read-only', 'transactions are read-only by default', todo);
}

function pooler({ poolRefusal }: PostgresFacts): Finding[] {
  if (poolRefusal === undefined) return [];
  const seen = `connections with time limits are refused: ${poolRefusal}`;
  const todo =
    'in PgBouncer: ignore_startup_parameters = statement_timeout, lock_timeout, idle_in_transaction_session_timeout; or connect past it';
  return [fail('postgres.pooler', seen, todo)];
}

function rights({ rightsRefusal, readOnly, migrations }: PostgresFacts, { schema }: PostgresNeeds): Finding[] {
  if (readOnly !== undefined) return []; // nothing was tried
  if (rightsRefusal === undefined) return [ok('postgres.rights', 'has the rights')];
  const isMaking = migrations === 'absent' || migrations === 'behind';
  const todo = isMaking
    ? `GRANT CREATE ON DATABASE … TO the user; or make the schema for it: CREATE SCHEMA ${schema} AUTHORIZATION …`
    : `use the user that made the tables, or grant: USAGE on schema ${schema}, ALL on its tables and sequences`;
  const what = isMaking ? 'the user may not make the tables' : 'the user may not use the tables';
  return [fail('postgres.rights', `${what}: ${rightsRefusal}`, todo)];
}

function migrations({ migrations }: PostgresFacts): Finding {
  switch (migrations) {
    case 'ahead':
      return fail(
        'postgres.migrations',
        'a newer program has been here',
        'start that one: this one does not know its tables',
      );
    case 'other':
      return fail(
        'postgres.migrations',
        'the tables are not those that this program makes',
        'use another --database-schema, or restore them',
      );
    case 'behind':
      return info('postgres.migrations', 'the next start of the service brings the tables up to date');
    case 'absent':
      return ok('postgres.migrations', 'no tables yet');
    case 'current':
      return ok('postgres.migrations', 'tables are up to date');
  }
}

function connections({ connections: { limit, usedByOthers } }: PostgresFacts, { poolSize }: PostgresNeeds): Finding {
  const needed = serviceConnections(poolSize);
  const todo = 'raise max_connections, or lower --database-pool-size; count every replica';
  if (limit < needed) {
    return fail('postgres.connections', `it takes ${limit} connections, and the service opens ${needed}`, todo);
  }
  const free = limit - usedByOthers;
  if (free < needed)
    return warn(
      'postgres.connections',
      `${free} of ${limit} connections are free, and the service opens ${needed}`,
      todo,
    );
  return ok('postgres.connections', `${free} of ${limit} connections free`);
}

function listening({ listens, readOnly }: PostgresFacts): Finding[] {
  if (readOnly === 'standby') return [];
  if (listens) return [ok('postgres.listen', 'LISTEN works')];
  const seen = 'LISTEN does not work (a pooler in transaction mode?): every request asks Postgres for its row';
  return [warn('postgres.listen', seen, 'connect past the pooler, or set it to session mode')];
}

function statementTimeout({ statementTimeoutMs }: PostgresFacts): Finding[] {
  if (statementTimeoutMs === 0 || statementTimeoutMs >= shortStatementMs) return [];
  const seen = `statement_timeout of the role or database is ${statementTimeoutMs} ms: long work of the hand tools is cut off`;
  return [warn('postgres.statement-timeout', seen, 'ALTER ROLE … RESET statement_timeout')];
}

function durability({ notDurable }: PostgresFacts): Finding[] {
  if (notDurable.length === 0) return [];
  const seen = `${notDurable.join(', ')} off: what was committed last can be lost with the machine`;
  return [warn('postgres.durability', seen, 'turn it on')];
}
