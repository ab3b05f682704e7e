/**
 * Random interleavings of everything that can happen to a few blobs, several at once, with a model of the store beside:
 * the catalog's promises must hold after each. What one call does to each state: postgres-catalog.test.ts.
 */
import { type BlobKey, isLpsError } from '@large-payload/core';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { logicalKey, physicalKeyOf } from './blob-record.js';
import type { BlobRow, Catalog, Lease } from './catalog.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.js';
import { type CatalogFixture, newKey, openFixture, type StoredRow } from './postgres-catalog-fixture.js';

let postgres: EmbeddedPostgres;
let fixture: CatalogFixture;
let replicas: Catalog[];

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  fixture = openFixture(postgres.url);
  replicas = [await fixture.open({ pool: { max: 5 } }), await fixture.open({ pool: { max: 5 } })];
});
afterAll(async () => {
  await fixture?.close();
  await postgres?.stop();
});

const moves = [
  'begin',
  'upload and commit',
  'commit late',
  'abandon',
  'renew',
  'touch',
  'read',
  'lose the object',
  'mark damaged, stale',
  'adopt',
  'sweep',
  'quarantine',
  'retire',
  'delete retired',
  'take down',
  'block',
  'unblock',
] as const;
type Move = (typeof moves)[number];
interface Step {
  readonly move: Move;
  readonly key: number;
  readonly replica: number;
  readonly pick: number;
}

/** The world around the catalog: the store, uploaders with their leases, a lifecycle, and what was ever seen. */
class World {
  readonly keys: readonly BlobKey[] = [newKey('model'), newKey('model', 'a'), newKey('model')];
  readonly store = new Set<string>();
  /** Objects lost behind our back: the only ones that a live row may be without. */
  readonly lost = new Set<string>();
  readonly deleted = new Set<string>();
  /** Names of objects that were taken down, whether or not they are deleted. */
  readonly erased = new Set<string>();
  readonly leases: Lease[] = [];
  readonly rowsSeen: BlobRow[] = [];
  readonly created: string[] = [];
  readonly before = new Map<string, StoredRow>();

  async step({ move, key: index, replica, pick }: Step): Promise<void> {
    const key = this.keys[index % this.keys.length];
    const catalog = replicas[replica % replicas.length];
    if (key === undefined || catalog === undefined) return;
    await this.#moves[move](key, catalog, pick);
  }

  readonly #moves: Record<Move, (key: BlobKey, catalog: Catalog, pick: number) => Promise<void>> = {
    begin: async (key, catalog) => {
      await this.#begin(key, catalog);
    },
    'upload and commit': async (key, catalog) => {
      const lease = await this.#begin(key, catalog);
      if (lease === undefined) return;
      this.#put(lease);
      await this.#commit(lease, catalog);
    },
    'commit late': async (_key, catalog, pick) => {
      const lease = this.leases[pick % (this.leases.length || 1)];
      // what an uploader still puts after its object's name was retired is not the catalog's to know
      if (lease === undefined || this.deleted.has(lease.physicalKey)) return;
      this.#put(lease);
      await this.#commit(lease, catalog);
    },
    abandon: async (_key, catalog, pick) => {
      const [lease] = this.leases.splice(pick % (this.leases.length || 1), 1);
      if (lease !== undefined) await catalog.abandon(lease);
    },
    renew: async (_key, catalog, pick) => {
      const lease = this.leases[pick % (this.leases.length || 1)];
      if (lease !== undefined) await catalog.renew(lease);
    },
    touch: async (key, catalog) => {
      const row = await catalog.lookup(key);
      if (row !== undefined) this.rowsSeen.push(...(await catalog.touch([row])));
    },
    read: async (key, catalog) => {
      const row = await catalog.lookup(key);
      if (row === undefined) return;
      this.rowsSeen.push(row);
      if (row.state === 'live' && !this.store.has(row.physicalKey)) await catalog.markDamaged(row);
    },
    'lose the object': async (key) => {
      const row = await fixture.read(key);
      if (row === undefined || !this.store.delete(row.physicalKey)) return;
      this.lost.add(row.physicalKey);
    },
    'mark damaged, stale': async (_key, catalog, pick) => {
      const row = this.rowsSeen[pick % (this.rowsSeen.length || 1)];
      if (row !== undefined) await catalog.markDamaged(row);
    },
    adopt: async (key, catalog) => {
      const object = [...this.store].find((name) => name.startsWith(logicalKey(key)));
      if (object === undefined) return;
      const row = await catalog.adopt(key, object, 10).catch(blocksOnly);
      if (row !== undefined) this.rowsSeen.push(row);
    },
    sweep: async (_key, catalog) => {
      await fixture.expireLeases();
      await catalog.sweepLeases(async (physicalKey) => (this.store.has(physicalKey) ? 10 : undefined), 10);
    },
    quarantine: (key) => this.#lifecycle(key, `state = 'quarantined', quarantined_at = now()`, `state = 'live'`),
    retire: async (key) => {
      const { schema } = fixture;
      const row = await fixture.read(key);
      if (row === undefined) return;
      await fixture.sql.query(
        `WITH retired AS (UPDATE ${schema}.blob SET state = 'deleting', quarantined_at = NULL
           WHERE id = $1 AND generation = $2 AND state = 'quarantined' RETURNING id, generation, size)
         INSERT INTO ${schema}.retired_object (blob_id, generation, physical_key, size)
         SELECT id, generation, $3, size FROM retired`,
        [row.id, row.generation, row.physicalKey],
      );
    },
    'delete retired': async () => {
      const { schema, sql } = fixture;
      const { rows } = await sql.query(`DELETE FROM ${schema}.retired_object RETURNING *`);
      for (const { blob_id, generation, physical_key } of rows) {
        this.store.delete(physical_key);
        this.deleted.add(physical_key);
        await sql.query(
          `UPDATE ${schema}.blob SET state = 'gone' WHERE id = $1 AND generation = $2 AND state = 'deleting'`,
          [blob_id, generation],
        );
      }
    },
    'take down': (key) => this.#takeDown(key),
    block: async (key) => {
      await fixture.block(key, { anyPrefix: key.prefix === undefined }).catch(() => undefined); // blocked already
    },
    unblock: (key) => fixture.unblock(key),
  };

  async #takeDown(key: BlobKey): Promise<void> {
    const { schema, sql } = fixture;
    const row = await fixture.read(key);
    if (row === undefined) return;
    const { rows } = await sql.query(
      `UPDATE ${schema}.blob SET state = 'taken_down', quarantined_at = NULL, damaged_at = NULL
       WHERE id = $1 AND state NOT IN ('gone', 'taken_down') RETURNING physical_suffix`,
      [row.id],
    );
    for (const { physical_suffix } of rows) {
      const name = physicalKeyOf(logicalKey(key), physical_suffix);
      this.erased.add(name);
      await fixture.erase(key, name);
    }
  }

  async #begin(key: BlobKey, catalog: Catalog): Promise<Lease | undefined> {
    const erasedBefore = new Set(this.erased);
    const beginning = await catalog.begin(key, 10).catch(blocksOnly);
    if (beginning?.kind === 'present') this.rowsSeen.push(beginning.row);
    if (beginning?.kind !== 'upload') return undefined;
    const { lease } = beginning;
    expect(this.deleted.has(lease.physicalKey), 'a deleted name was handed out again').toBe(false);
    expect(erasedBefore.has(lease.physicalKey), 'an erased name was handed out again').toBe(false);
    this.leases.push(lease);
    return lease;
  }

  #put(lease: Lease): void {
    this.store.add(lease.physicalKey);
    if (lease.overwrite) this.lost.delete(lease.physicalKey);
  }

  async #commit(lease: Lease, catalog: Catalog): Promise<void> {
    const commit = await catalog.commit(lease, 10).catch(blocksOnly);
    if (commit === undefined) return;
    this.rowsSeen.push(commit.row);
    if (commit.outcome === 'created') this.created.push(`${commit.row.id} ${commit.row.generation}`);
  }

  async #lifecycle(key: BlobKey, set: string, where: string): Promise<void> {
    const row = await fixture.read(key);
    if (row === undefined) return;
    await fixture.sql.query(`UPDATE ${fixture.schema}.blob SET ${set} WHERE id = $1 AND ${where}`, [row.id]);
  }

  async check(): Promise<void> {
    expect(new Set(this.created).size, 'two creations of one generation').toBe(this.created.length);
    for (const key of this.keys) {
      const name = logicalKey(key);
      const [row, before] = [await fixture.read(key), this.before.get(name)];
      if (row === undefined) {
        expect(['uploading', undefined]).toContain(before?.state);
        this.before.delete(name);
        continue;
      }
      if (row.state === 'live' || row.state === 'quarantined') {
        const there = this.store.has(row.physicalKey) || this.lost.has(row.physicalKey);
        expect(there, 'present without an object').toBe(true);
        expect(this.deleted.has(row.physicalKey), 'present, and deleted').toBe(false);
        expect(this.erased.has(row.physicalKey), 'present, and taken down').toBe(false);
      }
      if (row.state === 'uploading' && row.generation === 1) expect(row.leases).toBeGreaterThan(0);
      if (before?.id === row.id) {
        expect(row.touchedAt.getTime()).toBeGreaterThanOrEqual(before.touchedAt.getTime());
        expect(row.generation).toBeGreaterThanOrEqual(before.generation);
        if (row.generation === before.generation) expect(row.physicalKey).toBe(before.physicalKey);
        if (before.state === 'taken_down' && row.generation === before.generation) expect(row.state).toBe('taken_down');
      } else {
        expect(['uploading', undefined]).toContain(before?.state);
      }
      this.before.set(name, row);
    }
  }
}

function blocksOnly(error: unknown): undefined {
  if (!isLpsError(error, 'BLOB_BLOCKED')) throw error;
  return undefined;
}

const step: fc.Arbitrary<Step> = fc.record({
  move: fc.constantFrom(...moves, 'upload and commit' as const, 'begin' as const),
  key: fc.nat(2),
  replica: fc.nat(1),
  pick: fc.nat(50),
});

const numRuns = process.env.LPS_TEST_SCALE === 'long' ? 2000 : 60;

describe.each([
  { name: 'one call after the other', atOnce: 1 },
  { name: 'several calls at once', atOnce: 5 },
])('$name', ({ atOnce }) => {
  it('keeps every promise', { timeout: numRuns * 10_000 }, async () => {
    const batches = fc.array(fc.array(step, { minLength: 1, maxLength: atOnce }), { minLength: 5, maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(batches, async (history) => {
        await fixture.sql.query(
          ['blob', 'lease', 'retired_object', 'takedown', 'takedown_blob', 'takedown_digest', 'block']
            .map((table) => `TRUNCATE ${fixture.schema}.${table} CASCADE`)
            .join(';'),
        );
        const world = new World();
        for (const batch of history) {
          await Promise.all(batch.map((each) => world.step(each)));
          await world.check();
        }
      }),
      { numRuns },
    );
  });
});
