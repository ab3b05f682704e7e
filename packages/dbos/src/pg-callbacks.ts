/**
 * The callbacks of the table, for those who have none. One table, one row a file:
 *
 *   key text primary key | state 'pending' | 'active' | upload_id | record jsonb | created_at | active_at
 *
 * `upload_id` is the workflow that inserted the row: a repeated call finds its own row and is content, another upload of
 * the same key gets KEY_TAKEN, and a clean-up removes the row of its own upload only.
 *
 * Each call is one transaction that first takes an advisory lock on the key. So a clean-up waits for an insert that is
 * under way; an insert whose workflow was given up in between, or is another process's now, is rolled back.
 */

import { DBOS } from '@dbos-inc/dbos-sdk';
import * as datasource from '@dbos-inc/dbos-sdk/datasource';
import type { Pool, PoolClient } from 'pg';
import type { CallContext, FileRecord, S3WorkflowCallbacks } from './callbacks.js';
import { S3WorkflowError } from './errors.js';

export interface PgCallbacksOptions {
  /** Not the pool that DBOS has: a transaction asks DBOS's for a connection while it holds one of this. */
  readonly pool: Pool;
  /** `files` or `schema.files`. Default `files`. */
  readonly table?: string;
  /** After so many ms Postgres itself ends a statement. Default 30 s: less than the `database` time-out. */
  readonly statementTimeoutMs?: number;
}

type TableCallbacks<R extends FileRecord> = Pick<
  S3WorkflowCallbacks<R>,
  'newActiveFile' | 'newPendingFile' | 'fileActivated' | 'fileDeleted' | 'databaseSteps'
>;

/** Errors: KEY_TAKEN, ROW_GONE (the pending row was deleted meanwhile), and those of pg. */
export function pgCallbacks<R extends FileRecord>(options: PgCallbacksOptions): TableCallbacks<R> {
  const { pool, table = 'files', statementTimeoutMs = 30_000 } = options;
  const name = quoted(table);
  const run = (rec: R, context: CallContext | undefined, sql: string, values: unknown[]): Promise<number> =>
    inTransaction({ pool, statementTimeoutMs, lock: `${table}:${rec.key}` }, context, sql, values);

  const insert = async (rec: R, state: 'active' | 'pending', context?: CallContext): Promise<void> => {
    const { key, ...record } = rec;
    const activeAt = state === 'active' ? 'now()' : 'null';
    const rows = await run(
      rec,
      context,
      `insert into ${name} as own (key, state, upload_id, record, active_at) values ($1, $2, $3, $4, ${activeAt})
       on conflict (key) do update set record = excluded.record where own.upload_id = excluded.upload_id`,
      [key, state, context?.uploadID ?? '', JSON.stringify(record)],
    );
    if (rows === 0) throw new S3WorkflowError('KEY_TAKEN', `The key ${key} belongs to another file of ${table}`);
  };

  return {
    databaseSteps: true,
    newActiveFile: (rec, context) => insert(rec, 'active', context),
    newPendingFile: (rec, context) => insert(rec, 'pending', context),
    fileActivated: async (rec, context) => {
      const rows = await run(
        rec,
        context,
        `update ${name} set state = 'active', active_at = coalesce(active_at, now()) where key = $1 and upload_id = $2`,
        [rec.key, context?.uploadID ?? ''],
      );
      if (rows === 0) throw new S3WorkflowError('ROW_GONE', `The pending file ${rec.key} was deleted meanwhile`);
    },
    fileDeleted: (rec, context) =>
      run(rec, context, `delete from ${name} where key = $1 and ($2::text is null or upload_id = $2)`, [
        rec.key,
        context?.uploadID ?? null,
      ]),
  };
}

/** Makes the table when it is not there; safe to call from several processes at once. */
export async function migrateFilesTable({ pool, table = 'files' }: PgCallbacksOptions): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query('begin');
    await client.query(`select pg_advisory_xact_lock(hashtextextended($1, 0))`, [`migrate ${table}`]);
    await client.query(filesTableSql(table));
    await client.query('commit');
    client.release();
  } catch (error) {
    client.release(true);
    throw error;
  }
}

/** The same for those who have a migration tool. */
export function filesTableSql(table = 'files'): string {
  return `create table if not exists ${quoted(table)} (
  key text primary key,
  state text not null check (state in ('pending', 'active')),
  upload_id text not null,
  record jsonb not null,
  created_at timestamptz not null default now(),
  active_at timestamptz
);`;
}

interface Transaction {
  readonly pool: Pool;
  readonly statementTimeoutMs: number;
  /** What no two transactions do at once. */
  readonly lock: string;
}

/** Returns the number of rows. Aborted, it ends the connection: the transaction cannot commit any more. */
async function inTransaction(
  { pool, statementTimeoutMs, lock }: Transaction,
  context: CallContext | undefined,
  sql: string,
  values: unknown[],
): Promise<number> {
  const client = await pool.connect();
  const held = holdUntilAborted(client, context?.signal);
  try {
    // Postgres would otherwise go on with a statement whose client is gone.
    await client.query(`begin; set local statement_timeout = ${Math.ceil(statementTimeoutMs)}`);
    await client.query('select pg_advisory_xact_lock(hashtextextended($1, 0))', [lock]);
    const { rowCount } = await client.query(sql, values);
    // Not ours any more: cancelled, failed, or taken over by another process.
    if (DBOS.workflowID !== undefined) await datasource.assertStillOwnsWorkflow?.(DBOS.workflowID);
    context?.signal.throwIfAborted();
    await client.query('commit');
    held.release();
    return rowCount ?? 0;
  } catch (error) {
    held.release(true);
    throw error;
  }
}

/** Releases a connection once; with `true`, or when the signal is aborted, it is closed. */
function holdUntilAborted(client: PoolClient, signal: AbortSignal | undefined): { release(close?: boolean): void } {
  let isHeld = true;
  const release = (close = false): void => {
    if (!isHeld) return;
    isHeld = false;
    signal?.removeEventListener('abort', abort);
    client.release(close);
  };
  const abort = (): void => release(true);
  signal?.addEventListener('abort', abort);
  if (signal?.aborted) abort();
  return { release };
}

function quoted(table: string): string {
  return table
    .split('.')
    .map((part) => `"${part.replaceAll('"', '""')}"`)
    .join('.');
}
