/**
 * The audit's rows. One statement at a time writes all entries that came meanwhile, so that a burst takes one connection
 * and not the pool. While Postgres is down nothing waits for it: entries are lost to the table, and counted.
 */
import { LpsError } from '@large-payload/core';
import type { Database, Statement } from '../catalog/database.js';
import type { AuditLine } from './audit.js';

export interface AuditTableOptions {
  readonly database: Database;
  readonly schema: string;
  readonly clock: () => number;
  readonly onLost: (entries: number, error: unknown) => void;
}

interface Waiting {
  readonly line: AuditLine;
  readonly done: () => void;
}

const maxWaiting = 2000;
const rowsAtOnce = 200;
/** After a failure Postgres is left alone for so long. */
const pauseMs = 5000;

export class AuditTable {
  readonly #options: AuditTableOptions;
  readonly #sql: ReturnType<typeof statements>;
  readonly #waiting: Waiting[] = [];
  #writing: Promise<void> | undefined;
  #pausedUntil = 0;

  constructor(options: AuditTableOptions) {
    this.#options = options;
    this.#sql = statements(options.schema);
  }

  /** Resolves when the row is there or lost. */
  async insert(line: AuditLine): Promise<void> {
    const { clock, onLost } = this.#options;
    const pause = this.#pausedUntil - clock();
    if (pause > 0 && pause <= pauseMs)
      return onLost(1, new LpsError('CATALOG_UNAVAILABLE', 'Postgres did not answer lately'));
    if (this.#waiting.length >= maxWaiting)
      return onLost(1, new LpsError('OVERLOADED', 'too many entries are waiting'));
    await new Promise<void>((done) => {
      this.#waiting.push({ line, done });
      this.#writing ??= this.#write();
    });
  }

  async prune(olderThan: Date, limit: number): Promise<number> {
    const [row] = await this.#options.database.run(this.#sql.prune, [olderThan, limit]);
    return Number(row?.removed ?? 0);
  }

  async close(): Promise<void> {
    await this.#writing;
  }

  async #write(): Promise<void> {
    for (let batch = this.#next(); batch.length > 0; batch = this.#next()) {
      try {
        await this.#options.database.run(this.#sql.insert, [JSON.stringify(batch.map(({ line }) => line))]);
      } catch (error) {
        this.#lose(batch, error);
      }
      for (const { done } of batch) done();
    }
    // in the same breath as the last look at what waits
    this.#writing = undefined;
  }

  #next(): Waiting[] {
    return this.#waiting.splice(0, rowsAtOnce);
  }

  /** What waits would fail as this did. */
  #lose(batch: Waiting[], error: unknown): void {
    this.#pausedUntil = this.#options.clock() + pauseMs;
    batch.push(...this.#waiting.splice(0));
    this.#options.onLost(batch.length, error);
  }
}

function statements(schema: string): Record<'insert' | 'prune', Statement> {
  return {
    insert: {
      name: 'insert_audit',
      text: `INSERT INTO ${schema}.audit (at, principal, action, namespaces, subjects, status, request_id, remote)
        SELECT at, principal, action, namespaces, subjects, status, "requestId", remote
        FROM jsonb_to_recordset($1::jsonb) entry (at timestamptz, principal text, action text, namespaces text[],
          subjects text[], status smallint, "requestId" text, remote text)`,
    },
    prune: {
      name: 'prune_audit',
      text: `WITH old AS (SELECT id FROM ${schema}.audit WHERE at < $1 ORDER BY at LIMIT $2),
        gone AS (DELETE FROM ${schema}.audit USING old WHERE audit.id = old.id RETURNING 1)
        SELECT count(*) AS removed FROM gone`,
    },
  };
}
