/**
 * The catalog as the hand tools see it (care/): rows in the order of their ids, states that a look at the stored objects
 * corrects, and how far a scrub has come. Nothing here touches a row.
 */
import { type BlobKey, LpsError, parseKey } from '@large-payload/core';
import type { TakedownObject } from '../takedown/takedown-object.js';
import { bytesOf, keyColumns, keyOf, logicalKey, physicalKeyOf, suffixOf } from './blob-record.js';
import { careStatements } from './care-sql.js';
import type { BlobRow, BlobState } from './catalog.js';
import { type Database, openDatabase, type Row } from './database.js';
import { prepare } from './postgres-catalog.js';

/** What of a row counts here. */
export type KnownRow = Pick<BlobRow, 'id' | 'key' | 'physicalKey' | 'size' | 'state' | 'generation'>;

/** An object that was hashed and found right. */
export interface RightObject {
  readonly physicalKey: string;
  /** Bytes. */
  readonly size: number;
}

/** A right object that no row knows. `blob` is its key taken apart. */
export interface NewObject extends RightObject {
  readonly key: string;
  readonly blob: BlobKey;
  readonly modifiedAt?: Date;
}

/** One pass over everything at rest, perhaps of several processes, one after the other. */
export interface ScrubPass {
  readonly epoch: number;
  readonly startedAt: Date;
  readonly finishedAt: Date | undefined;
  /** All blobs up to this id are done; the pass ends at `untilId`. */
  readonly afterId: bigint;
  readonly untilId: bigint;
  /** So far, over all processes. */
  readonly counts: ScrubCounts;
}

export interface ScrubCounts {
  readonly blobs: number;
  readonly bytes: number;
  /** Damaged at the end of the look; `marked` of them were not known to be. */
  readonly damaged: number;
  readonly marked: number;
  readonly healed: number;
  readonly unreadable: number;
  readonly elapsedMs: number;
}

/** What a pass found behind its last position, up to `afterId`. */
export interface ScrubStep {
  readonly afterId: bigint;
  readonly blobs: number;
  readonly bytes: number;
  readonly unreadable: number;
  /** Rows that were marked before, and still are what they were marked for. */
  readonly stillDamaged: number;
  readonly damaged: readonly KnownRow[];
  readonly right: readonly { readonly row: KnownRow; readonly object: RightObject }[];
  readonly elapsedMs: number;
  readonly isLast: boolean;
}

/** Ids of the rows that were changed; the others had moved on meanwhile. */
export interface Settled {
  readonly marked: ReadonlySet<bigint>;
  readonly setRight: ReadonlySet<bigint>;
}

/** Every function throws CATALOG_UNAVAILABLE while Postgres does not answer. */
export interface CareCatalog {
  readonly id: string;
  /** Without a single row. */
  isEmpty(): Promise<boolean>;
  /** The highest id in use, 0 for none: rows made later have higher ones. */
  lastId(): Promise<bigint>;
  /** Rows of every state behind one id up to another, in the order of their ids. */
  rowsAfter(id: bigint, untilId: bigint, limit: number): Promise<KnownRow[]>;
  lookupMany(keys: readonly BlobKey[]): Promise<KnownRow[]>;
  /** Names of objects of these rows that are about to be deleted. */
  retiredKeys(ids: readonly bigint[]): Promise<Set<string>>;
  /** Makes live rows, touched now. Leaves alone what has a row by now, and what is erased or blocked; returns how many it made. */
  adoptMany(objects: readonly NewObject[]): Promise<number>;
  /** The objects of these generations are missing or wrong. Tells the replicas. Returns the ids that it marked. */
  markDamaged(rows: readonly KnownRow[]): Promise<Set<bigint>>;
  /** The object is right: the row says so from now on. `false` when the row has moved on. */
  setRight(row: KnownRow, object: RightObject): Promise<boolean>;
  /** Takes in what the store says of a takedown, a part of it perhaps; what the catalog knows already stays as it is. */
  restoreTakedown(takedown: TakedownObject): Promise<void>;
  /** Of these names of objects: those that a takedown erases. Of these keys: those that may not be stored again. */
  forbidden(names: readonly string[], keys: readonly BlobKey[]): Promise<Forbidden>;
  /** Rows whose object is one that a takedown erases become `taken_down`; a key without a row gets one. Returns how many. */
  takeDownErased(): Promise<number>;
  /** The rows come from elsewhere than from uploads, as of now. */
  markRebuilt(): Promise<void>;
  /** Goes on with the pass that was not finished, or begins one. No other process can save from here on. */
  beginScrub(options: { readonly restart: boolean }): Promise<ScrubPass>;
  /** Marks and position in one transaction. Throws ABORTED when another process has taken the pass over. */
  saveScrub(pass: ScrubPass, step: ScrubStep): Promise<{ readonly pass: ScrubPass; readonly settled: Settled }>;
  close(): Promise<void>;
}

export interface Forbidden {
  /** By name; objects of the key under other names that were written since are new data. */
  readonly erased: ReadonlyMap<string, { readonly acceptedAt: Date }>;
  /** Keys, as text. */
  readonly blocked: ReadonlySet<string>;
}

export interface CareCatalogOptions {
  readonly url: string;
  /** Default `lps`. */
  readonly schema?: string;
  readonly log?: (line: string) => void;
}

type Statements = ReturnType<typeof careStatements>;

const connections = 3;
const statementTimeoutMs = 60_000;
const namesAtOnce = 1000;

/** Opens the catalog of a database; makes or migrates its tables first. Throws as `openCatalog` does. */
export async function openCareCatalog(options: CareCatalogOptions): Promise<CareCatalog> {
  const { url, schema = 'lps', log = () => undefined } = options;
  const id = await prepare(url, schema);
  return new PostgresCareCatalog(
    id,
    openDatabase({ url, maxConnections: connections, statementTimeoutMs, log }),
    careStatements(schema),
  );
}

class PostgresCareCatalog implements CareCatalog {
  constructor(
    readonly id: string,
    readonly database: Database,
    readonly sql: Statements,
  ) {}

  async isEmpty(): Promise<boolean> {
    return (await this.database.run(this.sql.isEmpty, []))[0]?.empty === true;
  }

  async lastId(): Promise<bigint> {
    const [row] = await this.database.run(this.sql.lastId, []);
    return BigInt(String(row?.id ?? 0));
  }

  async rowsAfter(id: bigint, untilId: bigint, limit: number): Promise<KnownRow[]> {
    return (await this.database.run(this.sql.rowsAfter, [id, untilId, limit])).map(toKnownRow);
  }

  async lookupMany(keys: readonly BlobKey[]): Promise<KnownRow[]> {
    if (keys.length === 0) return [];
    return (await this.database.run(this.sql.lookupMany, transposed(keys.map(keyColumns), 4))).map(toKnownRow);
  }

  async retiredKeys(ids: readonly bigint[]): Promise<Set<string>> {
    if (ids.length === 0) return new Set();
    const rows = await this.database.run(this.sql.retired, [ids]);
    return new Set(rows.map((row) => String(row.physical_key)));
  }

  async adoptMany(objects: readonly NewObject[]): Promise<number> {
    if (objects.length === 0) return 0;
    const values = objects.map(({ key, blob, physicalKey, size, modifiedAt }) => [
      ...keyColumns(blob),
      size,
      suffixOf(key, physicalKey),
      modifiedAt ?? null,
      physicalKey,
    ]);
    return (await this.database.run(this.sql.adoptMany, transposed(values, 8))).length;
  }

  markDamaged(rows: readonly KnownRow[]): Promise<Set<bigint>> {
    return markDamaged(this.database.run, this.sql, rows);
  }

  setRight(row: KnownRow, object: RightObject): Promise<boolean> {
    return setRight(this.database.run, this.sql, row, object);
  }

  async markRebuilt(): Promise<void> {
    await this.database.transaction(async (run) => {
      await run(this.sql.markRebuilt, []);
      await run(this.sql.renumberEvents, []);
    });
  }

  async restoreTakedown(takedown: TakedownObject): Promise<void> {
    const { id, namespace, selector, names, blocks, requestedAt, acceptedAt } = takedown;
    const { withSameDigest, isBlocking, reason, requestedBy } = takedown;
    await this.database.transaction(async (run) => {
      await run(this.sql.restoreTakedown, [
        ...[id, namespace, JSON.stringify(selector), withSameDigest, isBlocking, reason, requestedBy],
        ...[requestedAt, acceptedAt, 'the catalog was lost, and this was read from the store: it is proven once more'],
      ]);
      const columns = transposed(
        names.map(({ physicalKey, key, size }) => [physicalKey, key, size]),
        3,
      );
      await run(this.sql.restoreNames, [id, ...columns]);
      const blocked = blocks.map(({ digest, isAnyPrefix, prefix }) => [bytesOf(digest), isAnyPrefix, prefix]);
      await run(this.sql.restoreBlocks, [id, namespace, ...transposed(blocked, 3)]);
    });
  }

  async forbidden(names: readonly string[], keys: readonly BlobKey[]): Promise<Forbidden> {
    const erased = names.length === 0 ? [] : await this.database.run(this.sql.erased, [names]);
    const blocked =
      keys.length === 0 ? [] : await this.database.run(this.sql.blocked, transposed(keys.map(keyColumns), 4));
    return {
      erased: new Map(erased.map((row) => [String(row.physical_key), { acceptedAt: dateOf(row.accepted_at) }])),
      blocked: new Set(blocked.flatMap(({ at }) => keys[Number(at) - 1] ?? []).map(logicalKey)),
    };
  }

  async takeDownErased(): Promise<number> {
    let count = 0;
    for (let after = ''; ; ) {
      const page = await this.database.run(this.sql.erasedAfter, [after, namesAtOnce]);
      const last = page.at(-1);
      if (last === undefined) return count;
      after = String(last.physical_key);
      const values = page.map(({ physical_key, key, size }) => {
        const suffix = suffixOf(String(key), String(physical_key));
        return [...keyColumns(parseKey(String(key))), size, suffix, physical_key];
      });
      count += await this.database.transaction(async (run) => {
        const changed = await run(this.sql.takeDownErased, transposed(values, 6));
        await run(this.sql.nameErased, transposed(values, 7));
        return changed.length;
      });
    }
  }

  beginScrub({ restart }: { readonly restart: boolean }): Promise<ScrubPass> {
    return this.database.transaction(async (run) => {
      await run(this.sql.newScrub, []);
      const [found] = await run(this.sql.lockScrub, []);
      const isAnew = restart || found?.finished_at !== null;
      const [row] = await run(isAnew ? this.sql.restartScrub : this.sql.goOnWithScrub, []);
      return toPass(row);
    });
  }

  saveScrub(pass: ScrubPass, step: ScrubStep): Promise<{ readonly pass: ScrubPass; readonly settled: Settled }> {
    return this.database.transaction(async (run) => {
      const [current] = await run(this.sql.lockScrub, []);
      if (current?.epoch !== pass.epoch) {
        throw new LpsError('ABORTED', 'another "lps scrub" has taken this pass over, and goes on with it');
      }
      const marked = await markDamaged(run, this.sql, step.damaged);
      const healed = new Set<bigint>();
      for (const { row, object } of step.right) if (await setRight(run, this.sql, row, object)) healed.add(row.id);
      const { afterId, blobs, bytes, unreadable, stillDamaged, elapsedMs, isLast } = step;
      const damaged = stillDamaged + marked.size;
      const values = [afterId, blobs, bytes, damaged, marked.size, healed.size, unreadable, elapsedMs, isLast];
      const [saved] = await run(this.sql.saveScrub, values);
      return { pass: toPass(saved), settled: { marked, setRight: healed } };
    });
  }

  close(): Promise<void> {
    return this.database.close();
  }
}

async function markDamaged(run: Database['run'], sql: Statements, rows: readonly KnownRow[]): Promise<Set<bigint>> {
  if (rows.length === 0) return new Set();
  const values = [rows.map(({ id }) => id), rows.map(({ generation }) => generation)];
  return new Set((await run(sql.markDamagedMany, values)).map(({ id }) => BigInt(String(id))));
}

async function setRight(run: Database['run'], sql: Statements, row: KnownRow, object: RightObject): Promise<boolean> {
  const suffix = suffixOf(row.key, object.physicalKey);
  const values = [row.id, row.generation, object.size, suffix, object.physicalKey, row.state === 'taken_down'];
  return (await run(sql.setRight, values)).length > 0;
}

/** Postgres' infinity is a number here: later than any date. */
function dateOf(value: unknown): Date {
  return value instanceof Date ? value : new Date(8.64e15);
}

/** Rows of values as columns of them: one array a parameter. */
function transposed(rows: readonly (readonly unknown[])[], width: number): unknown[][] {
  return Array.from({ length: width }, (_, column) => rows.map((row) => row[column]));
}

function toKnownRow(row: Row): KnownRow {
  const key = keyOf(row, String(row.namespace));
  return {
    id: BigInt(String(row.id)),
    key,
    physicalKey: physicalKeyOf(key, String(row.physical_suffix)),
    size: Number(row.size),
    state: row.state as BlobState,
    generation: Number(row.generation),
  };
}

function toPass(row: Row | undefined): ScrubPass {
  if (row === undefined) throw new LpsError('INTERNAL', 'the pass of the scrub has no row');
  return {
    epoch: Number(row.epoch),
    startedAt: row.started_at as Date,
    finishedAt: (row.finished_at as Date | null) ?? undefined,
    afterId: BigInt(String(row.after_id)),
    untilId: BigInt(String(row.until_id)),
    counts: {
      blobs: Number(row.blobs),
      bytes: Number(row.bytes),
      damaged: Number(row.damaged),
      marked: Number(row.marked),
      healed: Number(row.healed),
      unreadable: Number(row.unreadable),
      elapsedMs: Number(row.elapsed_ms),
    },
  };
}
