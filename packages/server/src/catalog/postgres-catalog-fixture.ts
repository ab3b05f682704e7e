/** For tests: catalogs on a throw-away PostgreSQL, a schema for each, and the moves that nothing in the program makes yet. */
import { randomBytes } from 'node:crypto';
import { type BlobKey, digestOf, metadataDigest } from '@large-payload/core';
import pg from 'pg';
import { keyColumns, logicalKey, physicalKeyOf } from './blob-record.js';
import type { BlobRow, BlobState, Catalog, Lease } from './catalog.js';
import { type CatalogEvent, type CatalogOptions, openCatalog } from './postgres-catalog.js';

/** A row as it stands in the table. */
export interface StoredRow {
  readonly id: bigint;
  readonly state: BlobState;
  readonly generation: number;
  readonly physicalKey: string;
  readonly touchedAt: Date;
  readonly leases: number;
}

/** One schema: catalogs of several replicas, and SQL beside them. */
export interface CatalogFixture {
  readonly url: string;
  readonly schema: string;
  readonly sql: pg.Pool;
  /** Opens a catalog; resolves when it listens (unless its cache is off). `events` grows. */
  open(options?: Partial<CatalogOptions>): Promise<Catalog & { readonly events: EventLog }>;
  read(key: BlobKey): Promise<StoredRow | undefined>;
  /** Puts a key's row into a state as if the lifecycle had; `absent` removes it. */
  force(key: BlobKey, state: BlobState | 'absent', options?: { generation?: number; suffix?: string }): Promise<void>;
  /** Moves the last touch back. */
  age(key: BlobKey, byMs: number): Promise<void>;
  /** Forbids that the bytes of a key are stored again: under its prefix, or under any. */
  block(key: BlobKey, options?: { anyPrefix?: boolean }): Promise<void>;
  unblock(key: BlobKey): Promise<void>;
  /** Gives a name to a takedown, as one that it erases. */
  erase(key: BlobKey, physicalKey?: string): Promise<void>;
  expireLeases(): Promise<void>;
  /** Until a statement of a catalog waits for a lock. */
  untilWaiting(): Promise<void>;
  removeLeases(): Promise<void>;
  close(): Promise<void>;
}

/** What a catalog told, and the wait for what it will tell. */
export class EventLog {
  readonly #seen: CatalogEvent[] = [];
  #waiting: (() => void)[] = [];

  add(event: CatalogEvent): void {
    this.#seen.push(event);
    for (const wake of this.#waiting.splice(0)) wake();
  }

  count(kind: CatalogEvent['kind']): number {
    return this.#seen.filter((event) => event.kind === kind).length;
  }

  async until(kind: CatalogEvent['kind'], count = 1): Promise<void> {
    while (this.count(kind) < count) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}

/** A key that nothing else uses. */
export function newKey(namespace = 'orders', prefix?: string): BlobKey {
  const digest = digestOf(randomBytes(16));
  return { namespace, ...(prefix === undefined ? {} : { prefix }), digest, metadataDigest: metadataDigest(null) };
}

/** A lease on a key that is not present. */
export async function beginUpload(catalog: Catalog, key: BlobKey): Promise<Lease> {
  const beginning = await catalog.begin(key, 10);
  if (beginning.kind !== 'upload') throw new Error('the blob is present');
  return beginning.lease;
}

/** An upload from its begin to its commit. */
export async function makeLive(catalog: Catalog, key: BlobKey): Promise<BlobRow> {
  const commit = await catalog.commit(await beginUpload(catalog, key), 10);
  if (commit === undefined) throw new Error('refused');
  return commit.row;
}

export function openFixture(url: string): CatalogFixture {
  const schema = `t_${randomBytes(6).toString('hex')}`;
  const sql = new pg.Pool({ connectionString: url, max: 4 });
  sql.on('error', () => undefined);
  const catalogs: Catalog[] = [];
  const where = 'namespace = $1 AND prefix = $2 AND digest = $3 AND metadata_digest = $4';
  return {
    url,
    schema,
    sql,
    async open(options = {}) {
      const events = new EventLog();
      const catalog = await openCatalog({ url, schema, ...options, onEvent: (event) => events.add(event) });
      catalogs.push(catalog);
      if (options.cacheEntries !== 0) await events.until('listening');
      return Object.assign(catalog, { events });
    },
    async read(key) {
      const { rows } = await sql.query(
        `SELECT *, (SELECT count(*) FROM ${schema}.lease WHERE blob_id = blob.id) AS leases FROM ${schema}.blob WHERE ${where}`,
        keyColumns(key),
      );
      const [row] = rows;
      if (row === undefined) return undefined;
      return {
        id: BigInt(row.id),
        state: row.state,
        generation: row.generation,
        physicalKey: physicalKeyOf(logicalKey(key), row.physical_suffix),
        touchedAt: row.touched_at,
        leases: Number(row.leases),
      };
    },
    async force(key, state, { generation = 1, suffix = '' } = {}) {
      if (state === 'absent') {
        await sql.query(`DELETE FROM ${schema}.blob WHERE ${where}`, keyColumns(key));
        return;
      }
      await sql.query(
        `INSERT INTO ${schema}.blob (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix, quarantined_at, damaged_at)
         VALUES ($1, $2, $3, $4, 1, $5::text::${schema}.blob_state, $6, $7,
           CASE WHEN $5 = 'quarantined' THEN now() END, CASE WHEN $5 = 'damaged' THEN now() END)
         ON CONFLICT (namespace, prefix, digest, metadata_digest) DO UPDATE SET state = excluded.state,
           generation = excluded.generation, physical_suffix = excluded.physical_suffix,
           quarantined_at = excluded.quarantined_at, damaged_at = excluded.damaged_at`,
        [...keyColumns(key), state, generation, suffix],
      );
    },
    async age(key, byMs) {
      await sql.query(
        `UPDATE ${schema}.blob SET touched_at = touched_at - $5 * interval '1 millisecond' WHERE ${where}`,
        [...keyColumns(key), byMs],
      );
    },
    async block(key, { anyPrefix = false } = {}) {
      const [namespace, prefix, digest] = keyColumns(key);
      await sql.query(
        `INSERT INTO ${schema}.block (namespace, digest, is_any_prefix, prefix, takedown_id)
         VALUES ($1, $2, $3, CASE WHEN $3 THEN '' ELSE $4 END, gen_random_uuid())`,
        [namespace, digest, anyPrefix, prefix],
      );
    },
    async unblock(key) {
      await sql.query(`DELETE FROM ${schema}.block WHERE digest = $1`, [keyColumns(key)[2]]);
    },
    async erase(key, physicalKey = logicalKey(key)) {
      await sql.query(
        `WITH asked AS (
           INSERT INTO ${schema}.takedown (id, namespace, selector, with_same_digest, is_blocking, reason, requested_by, state)
           VALUES (gen_random_uuid(), $1, '{}', false, false, 'a test', 'a test', 'accepted') RETURNING id
         )
         INSERT INTO ${schema}.takedown_blob (takedown_id, physical_key, key, size) SELECT id, $2, $3, 10 FROM asked`,
        [key.namespace, physicalKey, logicalKey(key)],
      );
    },
    async expireLeases() {
      await sql.query(`UPDATE ${schema}.lease SET expires_at = now() - interval '1 second'`);
    },
    async untilWaiting() {
      const waiting = `SELECT FROM pg_stat_activity WHERE application_name = 'lps catalog' AND wait_event_type = 'Lock'`;
      while ((await sql.query(waiting)).rows.length === 0);
    },
    async removeLeases() {
      await sql.query(`DELETE FROM ${schema}.lease`);
    },
    async close() {
      await Promise.all(catalogs.map((catalog) => catalog.close()));
      await sql.query(`DROP SCHEMA IF EXISTS ${schema} CASCADE`).catch(() => undefined);
      await sql.end();
    },
  };
}
