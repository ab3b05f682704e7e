/** For tests: the collection's catalog on a throw-away PostgreSQL, a schema for each. */
import { openDatabase } from '../../catalog/database.js';
import type { CatalogOptions } from '../../catalog/postgres-catalog.js';
import { type CatalogFixture, openFixture } from '../../catalog/postgres-catalog-fixture.js';
import type { LifecycleHarness } from './lifecycle-contract-fixture.js';
import { postgresLifecycle } from './postgres-lifecycle.js';

const dayMs = 86_400_000;

export interface PostgresHarness extends LifecycleHarness {
  readonly fixture: CatalogFixture;
}

/** Time passes by moving every time in the tables back. */
export async function openPostgresHarness(url: string, window = 3): Promise<PostgresHarness> {
  const fixture = openFixture(url);
  const { schema, sql } = fixture;
  const protection = { graceMs: dayMs, touchIntervalMs: dayMs / 24 };
  // more than a test lets a statement wait for a lock, also on a machine that stalls
  const statementTimeoutMs = 60_000;
  const options: Partial<CatalogOptions> = { cacheEntries: 0, statementTimeoutMs, ...protection };
  const catalog = await fixture.open(options);
  const database = openDatabase({ url, maxConnections: 6, statementTimeoutMs, log: () => undefined });
  const times: Record<string, readonly string[]> = {
    blob: ['created_at', 'touched_at', 'quarantined_at', 'damaged_at'],
    lease: ['expires_at'],
    mark: ['started_at', 'ended_at'],
    holder: ['gone_at'],
    edge: ['lost_at'],
    pin: ['created_at', 'expires_at'],
    brake: ['since', 'released_at'],
    revival: ['at'],
    catalog: ['rebuilt_at'],
  };
  return {
    fixture,
    catalog,
    lifecycle: postgresLifecycle(database, schema, { ...protection, window }),
    graceMs: protection.graceMs,
    async lead() {
      const { rows } = await sql.query(`UPDATE ${schema}.leader SET epoch = epoch + 1 RETURNING epoch`);
      return { epoch: String(rows[0].epoch) };
    },
    async pass(ms) {
      for (const [table, columns] of Object.entries(times)) {
        const set = columns.map((column) => `${column} = ${column} - $1::float8 * interval '1 millisecond'`);
        const has = columns.map((column) => `${column} IS NOT NULL`);
        await sql.query(`UPDATE ${schema}.${table} SET ${set.join(', ')} WHERE ${has.join(' OR ')}`, [ms]);
      }
    },
    async read(key) {
      const row = await fixture.read(key);
      if (row === undefined) return undefined;
      const { id, state, generation, physicalKey, touchedAt, leases } = row;
      return { id, state, generation, physicalKey, touchedAt, leases };
    },
    force: (key, state, options) => fixture.force(key, state, options),
    async takeDown(key) {
      const row = await fixture.read(key);
      if (row === undefined || row.state === 'gone' || row.state === 'taken_down') return;
      await sql.query(
        `UPDATE ${schema}.blob SET state = 'taken_down', quarantined_at = NULL, damaged_at = NULL WHERE id = $1`,
        [row.id],
      );
      await fixture.erase(key, row.physicalKey);
    },
    block: (key) => fixture.block(key).catch(() => undefined), // blocked already
    unblock: (key) => fixture.unblock(key),
    async rebuilt() {
      await sql.query(`UPDATE ${schema}.catalog SET rebuilt_at = clock_timestamp()`);
    },
    async close() {
      await database.close();
      await fixture.close();
    },
  };
}
