/**
 * The catalog on PostgreSQL: a row a blob, a small cache of live rows, leases for uploads under way.
 *
 *   migrations/          the tables, and what each column is for
 *   sql.ts               every statement: what is atomic, and the order of locks
 *   database.ts          connections, and what errors mean
 *   row-events.ts        hears which rows left `live`; while it does, row-cache.ts is used
 *   lease-sweep.ts       ends leases whose holder died
 */
import { type BlobKey, isLpsError, LpsError, newGeneration, parseKey } from '@large-payload/core';
import pg from 'pg';
import { keyColumns, keyOf, logicalKey, type Protection, suffixOf, toLiveRow } from './blob-record.js';
import { type Beginning, type BlobRow, blocked, type Catalog, type Commit, type Lease, takenDown } from './catalog.js';
import { asOpenError, connectionSettings, type Database, openDatabase, type Row } from './database.js';
import { endLease, type SizeOf, sweepLeases } from './lease-sweep.js';
import { prefixBounds } from './list-range.js';
import { migrate, readMigrations } from './migrate.js';
import { moment, RowCache } from './row-cache.js';
import { listenForRowEvents, type RowEvents } from './row-events.js';
import { statements } from './sql.js';

/** What may be of interest to metrics and tests. */
export type CatalogEvent =
  | { readonly kind: 'listening' }
  | { readonly kind: 'listen_lost' }
  | { readonly kind: 'evicted'; readonly id: bigint };

export interface CatalogOptions {
  readonly url: string;
  readonly pool?: { readonly max?: number };
  /** G: how long a touch protects. Default 7 days, at least `minGraceMs`. */
  readonly graceMs?: number;
  /** Default 24 h; only tests go below. */
  readonly minGraceMs?: number;
  /** How long an upload may go on without being renewed. Default 10 minutes. */
  readonly leaseMs?: number;
  /** A use is not written down when the last one was so recent. Default, and at most: min(1 h, G/24). */
  readonly touchIntervalMs?: number;
  /** Default `lps`. */
  readonly schema?: string;
  /** Rows in the cache; 0 turns it off, and with it the connection that listens. Default 50,000 (about 50 MB). */
  readonly cacheEntries?: number;
  /** Asked before each use of that cache; while it says no, Postgres is asked. */
  readonly mayUseRows?: () => boolean;
  /** For one statement, waiting for locks included. Default 10 s. */
  readonly statementTimeoutMs?: number;
  readonly log?: (line: string) => void;
  readonly onEvent?: (event: CatalogEvent) => void;
}

const hourMs = 3_600_000;
const maxKeysAtOnce = 1000;
const settleAttempts = 5;

/**
 * Opens the catalog; makes or migrates its tables first. Throws CONFIG_INVALID when options or database can't work,
 * CATALOG_UNAVAILABLE when Postgres does not answer.
 */
export async function openCatalog(options: CatalogOptions): Promise<Catalog> {
  const settings = checkOptions(options);
  const id = await prepare(options.url, settings.schema);
  const database = openDatabase({
    url: options.url,
    maxConnections: options.pool?.max ?? 10,
    statementTimeoutMs: options.statementTimeoutMs ?? 10_000,
    log: settings.log,
  });
  return new PostgresCatalog(id, database, options, settings);
}

type Settings = Protection & {
  readonly leaseMs: number;
  readonly schema: string;
  readonly log: (line: string) => void;
};

function checkOptions(options: CatalogOptions): Settings {
  const graceMs = options.graceMs ?? 168 * hourMs;
  const minGraceMs = options.minGraceMs ?? 24 * hourMs;
  const maxTouchIntervalMs = Math.min(hourMs, graceMs / 24);
  const touchIntervalMs = options.touchIntervalMs ?? maxTouchIntervalMs;
  const leaseMs = options.leaseMs ?? 600_000;
  const schema = options.schema ?? 'lps';
  const wrong = (message: string): never => {
    throw new LpsError('CONFIG_INVALID', message);
  };
  if (!(graceMs >= minGraceMs)) wrong(`the grace period must be at least ${minGraceMs} ms`);
  if (!(touchIntervalMs >= 0 && touchIntervalMs <= maxTouchIntervalMs)) {
    wrong(`the touch interval must lie between 0 and ${maxTouchIntervalMs} ms`);
  }
  if (!(leaseMs > 0)) wrong('the lease time must be positive');
  // Stands in the text of every statement, unquoted. 63 bytes is the limit for the channel's name.
  if (!/^[a-z_][a-z0-9_]{0,39}$/.test(schema))
    wrong('the schema must be a plain lower-case name of at most 40 letters');
  return { graceMs, touchIntervalMs, leaseMs, schema, log: options.log ?? (() => undefined) };
}

/** Migrates on a connection of its own (it may take longer than a request may) and reads the catalog's id. */
export async function prepare(url: string, schema: string): Promise<string> {
  const client = new pg.Client(connectionSettings(url, 'lps catalog migration'));
  client.on('error', () => undefined); // the statement under way fails as well
  try {
    await client.connect();
    await migrate(client, schema, await readMigrations());
    const { rows } = await client.query<{ id: string }>(`SELECT id FROM ${schema}.catalog`);
    const [row] = rows;
    if (row === undefined) throw new LpsError('CONFIG_INVALID', 'the catalog has lost its id: it is not a whole copy');
    return row.id;
  } catch (error) {
    throw asOpenError(error);
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** A row as a statement left it, and what else that said. */
interface Settled {
  readonly row: BlobRow;
  readonly found: Row;
}

class PostgresCatalog implements Catalog {
  readonly id: string;
  readonly #database: Database;
  readonly #settings: Settings;
  readonly #sql: ReturnType<typeof statements>;
  readonly #cache: RowCache;
  readonly #events: RowEvents | undefined;

  constructor(id: string, database: Database, options: CatalogOptions, settings: Settings) {
    this.id = id;
    this.#database = database;
    this.#settings = settings;
    this.#sql = statements(settings.schema);
    const cacheEntries = options.cacheEntries ?? 50_000;
    const cache = new RowCache(cacheEntries, options.mayUseRows);
    this.#cache = cache;
    const tell = options.onEvent ?? (() => undefined);
    if (cacheEntries === 0) return;
    this.#events = listenForRowEvents({
      url: options.url,
      channel: `${settings.schema}_blob`,
      log: settings.log,
      onUp() {
        cache.open();
        tell({ kind: 'listening' });
      },
      onDown() {
        cache.drop();
        tell({ kind: 'listen_lost' });
      },
      onEvict(id) {
        cache.evict(id);
        tell({ kind: 'evicted', id });
      },
    });
  }

  async begin(key: BlobKey, size: number, leaseMs = this.#settings.leaseMs): Promise<Beginning> {
    // nothing to write down, and Postgres would have told us had the row left `live`: no round trip
    const known = this.#cache.get(logicalKey(key));
    if (known !== undefined && !known.touchDue) return { kind: 'present', row: known, touched: false };
    const { touchIntervalMs } = this.#settings;
    const logical = logicalKey(key);
    const values = [...keyColumns(key), size, newGeneration(), touchIntervalMs, leaseMs, logical];
    const settled = await this.#settle('begin', values, logical);
    if (settled === undefined) throw new LpsError('INTERNAL', 'an upload was neither begun nor refused');
    const { found, row } = settled;
    if (found.lease_id === null) return { kind: 'present', row, touched: found.touched === true };
    return {
      kind: 'upload',
      lease: {
        id: String(found.lease_id),
        blobId: row.id,
        generation: row.generation,
        key: row.key,
        physicalKey: row.physicalKey,
        overwrite: row.state === 'damaged',
        expiresAt: found.expires_at as Date,
      },
    };
  }

  async commit(lease: Lease, size: number): Promise<Commit | undefined> {
    const suffix = suffixOf(lease.key, lease.physicalKey);
    const { id, key, generation, physicalKey, overwrite } = lease;
    const values = [...keyColumns(parseKey(key)), size, generation, suffix, overwrite, id, physicalKey];
    const settled = await this.#settle('commit', values, key).catch(async (error: unknown) => {
      if (isLpsError(error, 'BLOB_BLOCKED')) await this.abandon(lease);
      throw error;
    });
    if (settled === undefined) {
      await this.abandon(lease);
      return undefined;
    }
    const { was } = settled.found;
    return { outcome: was === 'live' || was === 'quarantined' ? 'exists' : 'created', row: settled.row };
  }

  async adopt(key: BlobKey, physicalKey: string, size: number): Promise<BlobRow | undefined> {
    const logical = logicalKey(key);
    const suffix = suffixOf(logical, physicalKey);
    const values = [...keyColumns(key), size, suffix === '' ? 1 : 2, suffix, physicalKey];
    return (await this.#settle('adopt', values, logical))?.row;
  }

  async mayTakeIn(key: BlobKey, physicalKey: string): Promise<void> {
    const [namespace, prefix, digest] = keyColumns(key);
    const [found] = await this.#database.run(this.#sql.strange, [namespace, prefix, digest, physicalKey]);
    if (found?.is_erased === true) throw takenDown();
    if (found?.is_blocked === true) throw blocked();
  }

  /**
   * Runs a statement that finds the row with its lock, or inserts it; again when another one was inserted meanwhile, or what
   * it decides by was changed while it waited. `undefined` when it refused; throws BLOB_BLOCKED.
   */
  async #settle(name: 'begin' | 'commit' | 'adopt', values: unknown[], key: string): Promise<Settled | undefined> {
    for (let attempt = 1; attempt <= settleAttempts; attempt++) {
      const read = this.#reading();
      const [found] = await this.#database.run(this.#sql[name], values);
      if (found !== undefined && found.id !== null) return { found, row: read(found, key) };
      if (found?.is_blocked === true) throw blocked();
      if (found?.was != null || found?.is_erased === true) return undefined;
    }
    throw new LpsError('CATALOG_UNAVAILABLE', 'the row of this blob comes and goes');
  }

  async abandon(lease: Lease): Promise<void> {
    try {
      const { id, blobId, generation } = lease;
      await endLease(this.#database, this.#sql, { id, blob_id: blobId, generation, epoch: null });
    } catch (error) {
      // It expires, and is swept.
      this.#settings.log(`catalog: a lease could not be given back: ${error instanceof Error ? error.message : error}`);
    }
  }

  async renew(lease: Lease): Promise<boolean> {
    return (
      (await this.#database.run(this.#sql.renew, [lease.id, this.#settings.leaseMs, lease.physicalKey])).length > 0
    );
  }

  forgetRows(keys?: readonly string[]): void {
    this.#cache.forget(keys);
  }

  async lookup(key: BlobKey): Promise<BlobRow | undefined> {
    const logical = logicalKey(key);
    const cached = this.#cache.get(logical);
    if (cached !== undefined) return cached;
    const read = this.#reading();
    const [found] = await this.#database.run(this.#sql.lookup, keyColumns(key));
    return found && read(found, logical);
  }

  async lookupMany(keys: readonly BlobKey[]): Promise<BlobRow[]> {
    checkCount(keys.length);
    const rows: BlobRow[] = [];
    const unknown = new Map<string, BlobKey>();
    for (const key of keys) {
      const logical = logicalKey(key);
      const cached = this.#cache.get(logical);
      if (cached === undefined) unknown.set(logical, key);
      else rows.push(cached);
    }
    if (unknown.size === 0) return rows;
    const asked = [...unknown.keys()];
    const columns = [...unknown.values()].map(keyColumns);
    const read = this.#reading();
    const found = await this.#database.run(
      this.#sql.lookupMany,
      [0, 1, 2, 3].map((column) => columns.map((values) => values[column])),
    );
    for (const row of found) {
      const key = asked[Number(row.at) - 1];
      if (key !== undefined) rows.push(read(row, key));
    }
    return rows;
  }

  async touch(
    rows: readonly BlobRow[],
    use: 'read' | 'upload' = 'read',
    agoMs?: (row: BlobRow) => number,
  ): Promise<BlobRow[]> {
    checkCount(rows.length);
    if (rows.length === 0) return [];
    const asked = new Map(rows.map((row) => [String(row.id), row]));
    const read = this.#reading();
    const ago = agoMs === undefined ? null : [...asked.values()].map(agoMs);
    const values = [[...asked.keys()], this.#settings.touchIntervalMs, use === 'read', ago];
    const found = await this.#database.run(this.#sql.touch, values);
    return found.map((row) => read(row, asked.get(String(row.id))?.key ?? ''));
  }

  async markDamaged(row: Pick<BlobRow, 'id' | 'generation'>): Promise<void> {
    await this.#database.run(this.#sql.markDamaged, [row.id, row.generation]);
    this.#cache.evict(row.id);
  }

  sweepLeases(sizeOf: SizeOf, limit: number): Promise<number> {
    return sweepLeases(this.#database, this.#sql, sizeOf, limit);
  }

  async list(namespace: string, options: { prefix?: string; after?: string; limit: number }): Promise<BlobRow[]> {
    const range = prefixBounds(namespace, options.prefix ?? '');
    if (range === undefined) return [];
    const after = options.after === undefined ? undefined : parseKey(options.after);
    if (after !== undefined && after.namespace !== namespace) {
      throw new LpsError('INVALID_ARGUMENT', 'the list cannot go on behind a key of another namespace');
    }
    const [, ...position] = after === undefined ? ['', '', Buffer.alloc(0), Buffer.alloc(0)] : keyColumns(after);
    const askedAt = moment();
    const values = [namespace, ...position, range.from, range.to, range.startsWith, options.limit];
    const found = await this.#database.run(this.#sql.list, values);
    return found.map((row) => toLiveRow(row, keyOf(row, namespace), this.#settings, askedAt).row);
  }

  stats(): { total: number; idle: number; waiting: number } {
    return this.#database.stats();
  }

  async ping(): Promise<void> {
    await this.#database.run(this.#sql.ping, []);
  }

  async close(): Promise<void> {
    this.#cache.drop();
    await this.#events?.close();
    await this.#database.close();
  }

  /** Call before a statement is sent: what it returns turns the answer's rows into ours, and caches the live ones. */
  #reading(): (found: Row, key: string) => BlobRow {
    const { version } = this.#cache;
    const askedAt = moment();
    return (found, key) => {
      const live = toLiveRow(found, key, this.#settings, askedAt);
      this.#cache.put(live, version);
      return live.row;
    };
  }
}

function checkCount(count: number): void {
  if (count > maxKeysAtOnce) throw new LpsError('INVALID_ARGUMENT', `at most ${maxKeysAtOnce} keys at once`);
}
