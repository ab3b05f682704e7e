/** The collection's part of the catalog on PostgreSQL. Why its decisions are safe: ./lifecycle-sql.ts. */
import { randomBytes } from 'node:crypto';
import { type BlobKey, hexOf, LpsError, parseKey } from '@large-payload/core';
import { keyColumns, logicalKey, type Protection, toLiveRow } from '../../catalog/blob-record.js';
import type { BlobRow, BlobState } from '../../catalog/catalog.js';
import { type Database, openDatabase, type Row } from '../../catalog/database.js';
import { prepare } from '../../catalog/postgres-catalog.js';
import { moment } from '../../catalog/row-cache.js';
import { replicaStatements } from '../../durable/replica-sql.js';
import { appendEvents } from '../../nodes/read-leases.js';
import type { Edge } from '../edge.js';
import type { HolderKind } from '../holders/holder-kind.js';
import type {
  Brake,
  BrakeKind,
  Fence,
  HolderOfBlob,
  HolderRow,
  KnownNamespace,
  LifecycleCatalog,
  Mark,
  NamespaceName,
  NewPin,
  Permission,
  Pin,
  RetiredObject,
  StateSum,
  SweptBlob,
} from '../lifecycle-catalog.js';
import type { Identity } from '../temporal-api.js';
import {
  toBrake,
  toHolder,
  toHolderOfBlob,
  toKnownNamespace,
  toMark,
  toPin,
  toRetired,
  toSwept,
} from './lifecycle-records.js';
import { lifecycleStatements } from './lifecycle-sql.js';
import { parsePinKey } from './pin-key.js';

type Run = Database['run'];

const maxAtOnce = 1000;
const edgesAtOnce = 5000;
const changesAtOnce = 20_000;
const revivedAtOnce = 1000;
const revivalsKeptMs = 90 * 86_400_000;
/** A statement walks 20,000 rows, or the holders of a namespace. */
const statementTimeoutMs = 60_000;

export interface LifecycleCatalogOptions {
  readonly url: string;
  /** G, as the catalog of the blobs has it. */
  readonly graceMs: number;
  /** As the catalog of the blobs has it. Default: min(1 h, G/24). */
  readonly touchIntervalMs?: number;
  /** Default `lps`. */
  readonly schema?: string;
  /** Default 4. */
  readonly maxConnections?: number;
  readonly log?: (line: string) => void;
}

/** Opens it with connections of its own; makes or migrates its tables first. Throws as `openCatalog` does. */
export async function openLifecycleCatalog(
  options: LifecycleCatalogOptions,
): Promise<LifecycleCatalog & { close(): Promise<void> }> {
  const { url, schema = 'lps', maxConnections = 4, log = () => undefined, graceMs } = options;
  const touchIntervalMs = options.touchIntervalMs ?? Math.min(3_600_000, graceMs / 24);
  await prepare(url, schema);
  const database = openDatabase({ url, maxConnections, statementTimeoutMs, log });
  return Object.assign(postgresLifecycle(database, schema, { graceMs, touchIntervalMs }), {
    close: () => database.close(),
  });
}

/** On a catalog that is there. A statement may take a minute: not the pool of the requests. */
export function postgresLifecycle(
  database: Database,
  schema: string,
  options: Protection & { /** Rows that a statement of a walk looks at. Default 20,000. */ readonly window?: number },
): LifecycleCatalog {
  return new PostgresLifecycle(database, schema, options, options.window ?? 20_000);
}

class PostgresLifecycle implements LifecycleCatalog {
  readonly #database: Database;
  readonly #schema: string;
  readonly #sql: ReturnType<typeof lifecycleStatements>;
  readonly #holdEpoch: ReturnType<typeof replicaStatements>['holdEpoch'];
  readonly #protection: Protection;

  constructor(database: Database, schema: string, protection: Protection, window: number) {
    this.#database = database;
    this.#schema = schema;
    this.#sql = lifecycleStatements(schema, window);
    this.#holdEpoch = replicaStatements(schema).holdEpoch;
    this.#protection = protection;
  }

  async now(): Promise<Date> {
    return (await this.#one(this.#sql.now, [])).now as Date;
  }

  async knowNamespace({ cluster, name }: NamespaceName, identity: Identity): Promise<KnownNamespace> {
    const { clusterId, namespaceId, serverVersion } = identity;
    await this.#database.run(this.#sql.knowNamespace, [cluster, name, clusterId, namespaceId, serverVersion]);
    return toKnownNamespace(await this.#one(this.#sql.namespaceNamed, [cluster, name]));
  }

  async knownNamespaces(): Promise<KnownNamespace[]> {
    return (await this.#database.run(this.#sql.knownNamespaces, [])).map(toKnownNamespace);
  }

  forgetNamespace({ id }: KnownNamespace): Promise<boolean> {
    return this.#database.transaction(async (run) => {
      const [known] = await run(this.#sql.lockNamespace, [id]);
      if (known === undefined) return false;
      await run(this.#sql.forgetMarks, [id]);
      await run(this.#sql.allGone, [id]);
      await run(this.#sql.forgetNamespace, [id]);
      return true;
    });
  }

  acceptIdentity({ id }: KnownNamespace, identity: Identity): Promise<void> {
    const { clusterId, namespaceId, serverVersion } = identity;
    return this.#database.transaction(async (run) => {
      const [known] = await run(this.#sql.lockNamespace, [id]);
      if (known === undefined) throw new LpsError('INVALID_ARGUMENT', 'there is no such namespace in the catalog');
      await run(this.#sql.forgetMarks, [id]);
      await run(this.#sql.forgetHolders, [id]);
      await run(this.#sql.setIdentity, [id, clusterId, namespaceId, serverVersion]);
    });
  }

  beginMark(fence: Fence, namespace: KnownNamespace, retentionMs: number): Promise<Mark> {
    return this.#fenced(fence, async (run) => {
      const [row] = await run(this.#sql.beginMark, [namespace.id, fence.epoch, retentionMs]);
      if (row === undefined) throw new LpsError('INVALID_ARGUMENT', 'there is no such namespace in the catalog');
      return toMark(row, namespace);
    });
  }

  async noteHolders(
    mark: Mark,
    kind: HolderKind['name'],
    found: readonly { readonly id: string; readonly isClosed: boolean }[],
  ): Promise<number> {
    checkCount(found.length);
    const { id } = mark.namespace;
    const ids = found.map((holder) => holder.id);
    return this.#saving(mark, async (run) => {
      await run(this.#sql.holdersFound, [id, kind, ids, found.map(({ isClosed }) => isClosed)]);
      return (await run(this.#sql.noteHolders, [id, kind, ids, mark.id])).length;
    });
  }

  async saveScan(
    mark: Mark,
    holder: HolderRow,
    scan: { readonly edges: readonly Edge[]; readonly cursor?: string | undefined; readonly isDone: boolean },
  ): Promise<void> {
    const { edges, cursor, isDone } = scan;
    const save = async (run: Run, some: readonly Edge[], isAll: boolean): Promise<void> => {
      const digests = some.map(({ digest }) => Buffer.from(hexOf(digest), 'hex'));
      const namespaces = some.map(({ namespace }) => namespace ?? '');
      const mutable = some.map(({ isMutable }) => isMutable === true);
      const values = [
        holder.id,
        mark.namespace.id,
        mark.id,
        cursor ?? null,
        isDone,
        digests,
        namespaces,
        mutable,
        isAll,
      ];
      const [saved] = await run(this.#sql.saveScan, values);
      if (saved?.is_open !== true) throw markIsOver();
      if (saved.is_saved !== true) throw new LpsError('ABORTED', 'the holder was forgotten while it was read');
    };
    const isWhole = cursor !== undefined;
    if (edges.length <= edgesAtOnce) return save(this.#database.run, edges, isWhole);
    return this.#database.transaction(async (run) => {
      await save(run, [], false);
      if (isWhole) await run(this.#sql.loseEdges, [holder.id]);
      for (let at = 0; at < edges.length; at += edgesAtOnce) await save(run, edges.slice(at, at + edgesAtOnce), false);
    });
  }

  async unseenHolders(mark: Mark, after: bigint, limit: number): Promise<HolderRow[]> {
    return this.#walk(this.#sql.unseenHolders, [mark.namespace.id, mark.id], after, limit, toHolder);
  }

  async unscannedHolders(mark: Mark, after: bigint, limit: number): Promise<HolderRow[]> {
    return this.#walk(this.#sql.unscannedHolders, [mark.namespace.id, mark.id], after, limit, toHolder);
  }

  async markGone({ id }: HolderRow): Promise<void> {
    await this.#database.run(this.#sql.markGone, [id]);
  }

  async forgetGone(lingerMs: number, limit: number): Promise<number> {
    return Number((await this.#one(this.#sql.forgetGone, [lingerMs, limit])).forgotten);
  }

  async forgetLost(lingerMs: number, limit: number): Promise<number> {
    return Number((await this.#one(this.#sql.forgetLost, [lingerMs, limit])).forgotten);
  }

  async prune(marksKept: number, brakesKeptMs: number, limit: number): Promise<{ marks: number; brakes: number }> {
    const marks = Number((await this.#one(this.#sql.pruneMarks, [marksKept, limit])).pruned);
    return { marks, brakes: Number((await this.#one(this.#sql.pruneBrakes, [brakesKeptMs, limit])).pruned) };
  }

  endMark(fence: Fence, mark: Mark, outcome: Parameters<LifecycleCatalog['endMark']>[2]): Promise<Mark> {
    const { isComplete, gaps, holders, scanned } = outcome;
    return this.#fenced(fence, async (run) => {
      const [row] = await run(this.#sql.endMark, [mark.id, isComplete, gaps, holders, scanned]);
      if (row === undefined) throw markIsOver();
      return toMark(row, mark.namespace);
    });
  }

  async marksOf(namespace: KnownNamespace, limit: number): Promise<Mark[]> {
    return (await this.#database.run(this.#sql.marksOf, [namespace.id, limit])).map((row) => toMark(row, namespace));
  }

  candidates({ blobNamespace, untouchedSince }: Permission, after: bigint, limit: number): Promise<SweptBlob[]> {
    return this.#walk(this.#sql.candidates, [blobNamespace, untouchedSince], after, limit, toSwept);
  }

  condemned(permission: Permission, quarantineMs: number, after: bigint, limit: number): Promise<SweptBlob[]> {
    const { blobNamespace, untouchedSince, firstMarkStartedAt } = permission;
    const values = [blobNamespace, untouchedSince, firstMarkStartedAt, quarantineMs];
    return this.#walk(this.#sql.condemned, values, after, limit, toSwept);
  }

  /** Window by window, until there are enough or it is at the end. The last two parameters are `after` and `limit`. */
  async #walk<Found>(
    statement: { readonly text: string },
    values: readonly unknown[],
    after: bigint,
    limit: number,
    toFound: (row: Row) => Found,
  ): Promise<Found[]> {
    const found: Found[] = [];
    for (let behind = after; ; ) {
      const rows = await this.#database.run(statement, [...values, behind, limit - found.length]);
      for (const row of rows) if (row.id !== null) found.push(toFound(row));
      const [first] = rows;
      if (found.length >= limit || first?.has_more !== true) return found;
      behind = BigInt(String(first.walked_to));
    }
  }

  quarantine(fence: Fence, permission: Permission, ids: readonly bigint[]): Promise<SweptBlob[]> {
    const { blobNamespace, untouchedSince } = permission;
    return this.#deciding(fence, permission, ids, async (run) => {
      return (await run(this.#sql.quarantine, [blobNamespace, untouchedSince, ids])).map(toSwept);
    });
  }

  retire(fence: Fence, permission: Permission, quarantineMs: number, ids: readonly bigint[]): Promise<SweptBlob[]> {
    const { blobNamespace, untouchedSince, firstMarkStartedAt } = permission;
    return this.#deciding(fence, permission, ids, async (run) => {
      const values = [blobNamespace, untouchedSince, firstMarkStartedAt, quarantineMs, ids];
      const swept = (await run(this.#sql.retire, values)).map(toSwept);
      await run(this.#sql.addRetired, [
        swept.map(({ id }) => id),
        swept.map(({ generation }) => generation),
        swept.map(({ physicalKey }) => physicalKey),
        swept.map(({ size }) => size),
      ]);
      // last: whoever adds events holds their counter until he commits
      if (swept.length > 0) await appendEvents(run, this.#schema, 'delete', swept);
      return swept;
    });
  }

  async retired(after: bigint, limit: number): Promise<RetiredObject[]> {
    return (await this.#database.run(this.#sql.retired, [after, limit])).map(toRetired);
  }

  async objectDeleted({ blobId, generation }: RetiredObject): Promise<void> {
    await this.#database.run(this.#sql.objectDeleted, [blobId, generation]);
  }

  async blob(key: BlobKey): Promise<BlobRow | undefined> {
    const askedAt = moment();
    const [row] = await this.#database.run(this.#sql.blob, keyColumns(key));
    return row && toLiveRow(row, logicalKey(key), this.#protection, askedAt).row;
  }

  async undelete(key: BlobKey): Promise<BlobRow | undefined> {
    const askedAt = moment();
    const [row] = await this.#database.run(this.#sql.undelete, keyColumns(key));
    return row && toLiveRow(row, logicalKey(key), this.#protection, askedAt).row;
  }

  async sums(blobNamespace?: string): Promise<Map<BlobState, StateSum>> {
    await this.#foldSums();
    const rows = await this.#database.run(this.#sql.sums, [blobNamespace ?? null]);
    const sums = rows.map((row): [BlobState, StateSum] => [
      row.state as BlobState,
      { blobs: Number(row.blobs), bytes: Number(row.bytes) },
    ]);
    return new Map(sums.filter(([, { blobs }]) => blobs > 0));
  }

  /** What is not folded is read as well: a bounded number of turns is enough. */
  async #foldSums(): Promise<void> {
    for (let turn = 0; turn < 50; turn += 1) {
      const { folded } = await this.#one(this.#sql.foldSums, [changesAtOnce]);
      if (Number(folded) < changesAtOnce) return;
    }
  }

  async blobNamespaces(): Promise<string[]> {
    return (await this.#database.run(this.#sql.blobNamespaces, [])).map(({ namespace }) => String(namespace));
  }

  async revivedSince(since: Date): Promise<number> {
    return Number((await this.#one(this.#sql.revivedSince, [since])).revived);
  }

  nextRound(fence: Fence): Promise<bigint> {
    return this.#fenced(fence, async (run) => {
      await run(this.#sql.forgetRevivals, [revivalsKeptMs]);
      const [row] = await run(this.#sql.nextRound, []);
      return BigInt(String(row?.rounds));
    });
  }

  async roundTimes(): Promise<{ beganAt?: Date; requestedAt?: Date }> {
    const { began_at: beganAt, requested_at: requestedAt } = (await this.#one(this.#sql.roundTimes, [])) as {
      began_at: Date | null;
      requested_at: Date | null;
    };
    return { ...(beganAt === null ? {} : { beganAt }), ...(requestedAt === null ? {} : { requestedAt }) };
  }

  async requestRound(): Promise<void> {
    await this.#database.run(this.#sql.requestRound, []);
  }

  async rounds(): Promise<bigint> {
    return BigInt(String((await this.#one(this.#sql.rounds, [])).rounds));
  }

  noteRestored(fence: Fence, rounds: bigint): Promise<void> {
    return this.#fenced(fence, async (run) => {
      await run(this.#sql.markRebuilt, []);
      await run(this.#sql.raiseRounds, [rounds]);
    });
  }

  async rebuiltAt(): Promise<Date | undefined> {
    return ((await this.#one(this.#sql.rebuiltAt, [])).rebuilt_at as Date | null) ?? undefined;
  }

  async holdersOf(key: BlobKey, limit: number): Promise<HolderOfBlob[]> {
    const digest = Buffer.from(hexOf(key.digest), 'hex');
    return (await this.#database.run(this.#sql.holdersOf, [digest, key.namespace, limit])).map(toHolderOfBlob);
  }

  async pins(key?: string): Promise<Pin[]> {
    const values = key === undefined ? [null, null] : [parsePinKey(key).namespace, key];
    return (await this.#database.run(this.#sql.pins, values)).map(toPin);
  }

  async addPin(pin: NewPin): Promise<Pin> {
    const { namespace, key, isPrefix } = parsePinKey(pin.key);
    const { id = randomBytes(10).toString('hex'), owner, reason, expiresAt, createdAt } = pin;
    const values = [id, namespace, key, owner, reason, expiresAt ?? null, createdAt ?? null];
    const made = await this.#database.transaction(async (run) => {
      await run(this.#sql.lockLeader, []);
      const [row] = await run(this.#sql.addPin, values);
      if (!isPrefix) await run(this.#sql.touchPinned, keyColumns(parseKey(key)));
      return row;
    });
    if (made === undefined) throw new LpsError('INTERNAL', 'the pin was not written');
    // what is not revived before a crash stays quarantined: readable, and pinned
    if (isPrefix) {
      const revive = [namespace, key, revivedAtOnce];
      while ((await this.#database.run(this.#sql.revivePinned, revive)).length === revivedAtOnce);
    }
    return toPin(made);
  }

  async removePin(id: string): Promise<boolean> {
    return (await this.#database.run(this.#sql.removePin, [id])).length > 0;
  }

  async expiredPins(overMs: number, limit: number): Promise<string[]> {
    return (await this.#database.run(this.#sql.expiredPins, [overMs, limit])).map(({ id }) => String(id));
  }

  async brakes(): Promise<Brake[]> {
    return (await this.#database.run(this.#sql.brakes, [])).map(toBrake);
  }

  async brake({ kind, blobNamespace, reason }: Omit<Brake, 'since'>): Promise<void> {
    await this.#database.run(this.#sql.brake, [kind, blobNamespace ?? '', reason]);
  }

  async release(kind: BrakeKind, blobNamespace: string | undefined, by: string): Promise<boolean> {
    return (await this.#database.run(this.#sql.release, [kind, blobNamespace ?? '', by])).length > 0;
  }

  /** One transaction that no later leader's can come before. */
  #fenced<T>({ epoch }: Fence, work: (run: Run) => Promise<T>): Promise<T> {
    return this.#database.transaction(async (run) => {
      const [held] = await run(this.#holdEpoch, [epoch]);
      if (held === undefined) throw new LpsError('ABORTED', 'another replica leads');
      return work(run);
    });
  }

  /** One transaction of a mark that goes on: it cannot end, nor be forgotten, before this is saved. */
  #saving<T>(mark: Mark, work: (run: Run) => Promise<T>): Promise<T> {
    return this.#database.transaction(async (run) => {
      const [held] = await run(this.#sql.holdMark, [mark.id]);
      if (held === undefined) throw markIsOver();
      return work(run);
    });
  }

  /** The locks that a decision needs, in their order; `work` is the conditional UPDATE. */
  async #deciding(
    fence: Fence,
    permission: Permission,
    ids: readonly bigint[],
    work: (run: Run) => Promise<SweptBlob[]>,
  ): Promise<SweptBlob[]> {
    checkCount(ids.length);
    const marks = [...new Set(permission.marks)];
    return this.#fenced(fence, async (run) => {
      if ((await run(this.#sql.holdMarks, [marks])).length < marks.length) {
        throw new LpsError('ABORTED', 'the marks that permit this do not count any more');
      }
      await run(this.#sql.lockBlobs, [ids]);
      return (await work(run)).sort((one, other) => (one.id < other.id ? -1 : 1));
    });
  }

  async #one(statement: { readonly text: string }, values: readonly unknown[]): Promise<Row> {
    const [row] = await this.#database.run(statement, values);
    if (row === undefined) throw new LpsError('INTERNAL', 'the catalog has lost a row of its own');
    return row;
  }
}

function checkCount(count: number): void {
  if (count > maxAtOnce) throw new LpsError('INVALID_ARGUMENT', `at most ${maxAtOnce} at once`);
}

function markIsOver(): LpsError {
  return new LpsError('ABORTED', 'the mark has ended, or was forgotten');
}
