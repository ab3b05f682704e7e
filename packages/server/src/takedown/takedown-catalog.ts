/**
 * Takedowns in the catalog: what was asked, what is erased, what may not come again, and how far it is.
 *
 *   planning ─ accept ─► accepting ─ older transactions have ended, one more look, nodes were told ─► accepted
 *      └──► failed                    accepted ─ erased, nobody can write it again, erased once more ─► completed
 */
import { type BlobKey, type Digest, isDigest, LpsError, parseObjectName } from '@large-payload/core';
import { keyColumns, logicalKey } from '../catalog/blob-record.js';
import type { BlobState } from '../catalog/catalog.js';
import type { Database, Row } from '../catalog/database.js';
import { Acceptance, bytesOf, transposed } from './acceptance.js';
import { parseSelector, type Selector } from './selector.js';
import { meant, ofDigests, takedownStatements } from './takedown-sql.js';

export type TakedownState = 'planning' | 'accepting' | 'accepted' | 'completed' | 'failed';

export interface TakedownRequest {
  /** A UUID of the caller's: the same request again is the same takedown. */
  readonly id: string;
  readonly selector: Selector;
  /** Also every other blob of the namespace with one of the digests. */
  readonly withSameDigest: boolean;
  /** The same bytes may not be uploaded again. */
  readonly isBlocking: boolean;
  readonly reason: string;
  readonly requestedBy: string;
}

export interface Takedown extends TakedownRequest {
  readonly state: TakedownState;
  readonly requestedAt: Date;
  readonly acceptedAt?: Date;
  readonly completedAt?: Date;
  /** What it waits for, or could not do. */
  readonly problem?: string;
  /** Names of objects that it erases, how many of them are erased, and bytes. */
  readonly objects: number;
  readonly erased: number;
  readonly bytes: number;
  readonly hasReceipt: boolean;
}

/** A row that is meant. */
export interface MeantBlob {
  readonly key: string;
  readonly physicalKey: string;
  readonly size: number;
  readonly state: BlobState;
  readonly createdAt: Date;
}

/** Where a list of rows goes on. */
export interface Place {
  readonly prefix: string;
  readonly digest: Buffer;
  readonly metadataDigest: Buffer;
}

export interface ErasedName {
  readonly physicalKey: string;
  readonly key: string;
  readonly size: number;
}

export interface Block {
  readonly namespace: string;
  readonly digest: Digest;
  /** Absent: under any prefix. `''`: under none. */
  readonly prefix?: string;
  readonly takedownId: string;
  readonly createdAt: Date;
}

/** Who carries a claim of a blob, by what the last marks found. */
export interface BlobHolder {
  readonly cluster: string;
  readonly namespace: string;
  readonly kind: string;
  /** `{workflow id} {run id}`, or a schedule's. */
  readonly holder: string;
  readonly isGone: boolean;
  readonly digest: Digest;
}

/** Every function throws CATALOG_UNAVAILABLE while Postgres does not answer. */
export interface TakedownCatalog {
  /** Puts it on record; the same one again changes nothing. Throws INVALID_ARGUMENT for another one of that id. */
  request(request: TakedownRequest): Promise<Takedown>;
  get(id: string): Promise<Takedown | undefined>;
  /** The newest first. Without namespaces: of all. */
  list(options: {
    readonly namespaces?: readonly string[] | undefined;
    readonly after?: string | undefined;
    readonly limit: number;
  }): Promise<Takedown[]>;
  unfinished(): Promise<string[]>;
  receipt(id: string): Promise<string | undefined>;
  problem(id: string, words: string | undefined): Promise<void>;
  /** Nothing was done, and nothing will be. */
  fail(id: string, why: string): Promise<void>;

  /** Rows that are meant now, in pages. `digests`: what the runs hold that the selector names. */
  rows(
    selector: Selector,
    digests: readonly Digest[] | undefined,
    after: Place | undefined,
    limit: number,
  ): Promise<{ readonly blobs: MeantBlob[]; readonly next?: Place }>;
  /** Rows of a namespace that have one of these digests, in pages. */
  copies(
    namespace: string,
    digests: readonly Digest[],
    after: Place | undefined,
    limit: number,
  ): Promise<{ readonly blobs: MeantBlob[]; readonly next?: Place }>;
  /** Which of these objects the catalog knows. */
  known(physicalKeys: readonly string[]): Promise<Set<string>>;
  /** Names of a namespace for which a URL was given out that may still bring an object, in their order. */
  urlNames(namespace: string, after: string, limit: number): Promise<string[]>;
  holders(namespace: string, digests: readonly Digest[], limit: number): Promise<BlobHolder[]>;
  addObjects(id: string, objects: readonly ErasedName[]): Promise<void>;
  addDigests(id: string, digests: readonly Digest[]): Promise<void>;

  /**
   * Takes down what is meant at this moment. To be called until `settled` says that nothing older is under way, and once
   * more then: it takes what such a transaction brought in. Throws INVALID_ARGUMENT for more than 100,000 blobs.
   */
  accept(id: string): Promise<{ readonly event: bigint; readonly added: number }>;
  settled(id: string): Promise<boolean>;
  setAccepted(id: string): Promise<void>;

  /** Names of its objects, in their order. */
  names(id: string, after: string, limit: number): Promise<ErasedName[]>;
  counted(id: string, objects: ReadonlyMap<string, number>): Promise<void>;
  erased(id: string, physicalKeys: readonly string[]): Promise<void>;
  /** Uploads under way and URLs that may still write one of its objects. */
  writers(id: string): Promise<{ readonly leases: number; readonly urls: number; readonly urlsUntil?: Date }>;
  sums(id: string): Promise<{ readonly objects: number; readonly bytes: number }>;
  complete(id: string, receipt: string, at: Date): Promise<void>;
  now(): Promise<Date>;

  blocks(namespace: string, limit: number): Promise<Block[]>;
  blocksOf(id: string): Promise<Block[]>;
  /** Takedowns that block these bytes somewhere in the namespace. */
  blockers(namespace: string, digest: Digest): Promise<string[]>;
  /** Without a prefix: under all of them. Returns how many blocks there were. */
  unblock(namespace: string, digest: Digest, prefix: string | undefined): Promise<number>;
}

export interface TakedownCatalogOptions {
  /** Of its own: its statements may take minutes. */
  readonly database: Database;
  readonly schema: string;
}

export function openTakedownCatalog({ database, schema }: TakedownCatalogOptions): TakedownCatalog {
  const sql = takedownStatements(schema);
  const one = async (id: string): Promise<Takedown | undefined> => {
    const [row] = await database.run(sql.one, [id]);
    return row && toTakedown(row);
  };
  const page = async (where: ReturnType<typeof meant>, after: Place | undefined, limit: number) => {
    const { prefix = '', digest = Buffer.alloc(0), metadataDigest = Buffer.alloc(0) } = after ?? {};
    const found = await database.run(sql.page(where), [...where.values, prefix, digest, metadataDigest, limit]);
    const last = found.length === limit ? found.at(-1) : undefined;
    return { blobs: found.map(toMeant), ...(last === undefined ? {} : { next: placeOf(last) }) };
  };
  return {
    async request(request) {
      const { id, selector, withSameDigest, isBlocking, reason, requestedBy } = request;
      const values = [
        id,
        selector.namespace,
        JSON.stringify(selector),
        withSameDigest,
        isBlocking,
        reason,
        requestedBy,
      ];
      await database.run(sql.request, values);
      const found = await one(id);
      if (found === undefined) throw new LpsError('INTERNAL', 'a takedown is gone that was just put on record');
      if (isSame(found, request)) return found;
      throw new LpsError('INVALID_ARGUMENT', 'there is another takedown of this id; choose a new one');
    },
    get: one,
    async list({ namespaces, after, limit }) {
      return (await database.run(sql.list, [namespaces ?? null, limit, after ?? null])).map(toTakedown);
    },
    async unfinished() {
      return (await database.run(sql.unfinished, [])).map(({ id }) => String(id));
    },
    async receipt(id) {
      const [row] = await database.run(sql.receipt, [id]);
      return (row?.receipt as string | null | undefined) ?? undefined;
    },
    async problem(id, words) {
      await database.run(sql.problem, [id, words ?? null]);
    },
    async fail(id, why) {
      await database.run(sql.fail, [id, why]);
    },
    rows: (selector, digests, after, limit) => page(meant(selector, digests?.map(bytesOf)), after, limit),
    copies: (namespace, digests, after, limit) => page(ofDigests(namespace, digests.map(bytesOf)), after, limit),
    async known(physicalKeys) {
      const columns = physicalKeys.map((name) => [name, ...nameColumns(name)]);
      const found = await database.run(sql.knownNames, transposed(columns, 6));
      return new Set(found.map(({ name }) => String(name)));
    },
    async urlNames(namespace, after, limit) {
      const found = await database.run(sql.urlNames, [`/blobs/${namespace}/`, after, limit]);
      return found.map(({ physical_key }) => String(physical_key));
    },
    async holders(namespace, digests, limit) {
      return (await database.run(sql.holders, [namespace, digests.map(bytesOf), limit])).map(toHolder);
    },
    async addObjects(id, objects) {
      const columns = objects.map(({ physicalKey, key, size }) => [physicalKey, key, size]);
      await database.run(sql.addObjects, [id, ...transposed(columns, 3)]);
    },
    async addDigests(id, digests) {
      await database.run(sql.addDigests, [id, digests.map(bytesOf)]);
    },
    async accept(id) {
      const request = await one(id);
      if (request === undefined) throw new LpsError('INTERNAL', 'there is no such takedown');
      const accepted = await database.transaction((run) => new Acceptance(run, schema, request).look());
      await database.run(sql.setXact, [id]);
      return accepted;
    },
    async settled(id) {
      return (await database.run(sql.settled, [id]))[0]?.is_settled === true;
    },
    async setAccepted(id) {
      await database.run(sql.setAccepted, [id]);
    },
    async names(id, after, limit) {
      return (await database.run(sql.names, [id, after, limit])).map(toName);
    },
    async counted(id, objects) {
      await database.run(sql.counted, [id, [...objects.keys()], [...objects.values()]]);
    },
    async erased(id, physicalKeys) {
      await database.run(sql.erased, [id, physicalKeys]);
    },
    async writers(id) {
      const [row] = await database.run(sql.writers, [id]);
      const urlsUntil = row?.urls_until as Date | null | undefined;
      return { leases: Number(row?.leases), urls: Number(row?.urls), ...(urlsUntil == null ? {} : { urlsUntil }) };
    },
    async sums(id) {
      const [row] = await database.run(sql.sums, [id]);
      return { objects: Number(row?.objects), bytes: Number(row?.bytes) };
    },
    async complete(id, receipt, at) {
      await database.run(sql.complete, [id, receipt, at]);
    },
    async now() {
      return (await database.run(sql.now, []))[0]?.now as Date;
    },
    async blocks(namespace, limit) {
      return (await database.run(sql.blocks, [namespace, limit])).map(toBlock);
    },
    async blocksOf(id) {
      return (await database.run(sql.blocksOf, [id])).map(toBlock);
    },
    async blockers(namespace, digest) {
      return (await database.run(sql.blockers, [namespace, bytesOf(digest)])).map((row) => String(row.takedown_id));
    },
    async unblock(namespace, digest, prefix) {
      return (await database.run(sql.unblock, [namespace, bytesOf(digest), prefix ?? null])).length;
    },
  };
}

/** What was asked the first time decides: who repeats it may be somebody else. */
function isSame(found: Takedown, asked: TakedownRequest): boolean {
  const words = ({ selector, withSameDigest, isBlocking, reason }: TakedownRequest): string =>
    JSON.stringify([Object.entries(selector).sort(), withSameDigest, isBlocking, reason]);
  return words(found) === words(asked);
}

function digestFrom(hex: unknown): Digest {
  const digest = `sha256:${String(hex)}`;
  if (!isDigest(digest)) throw new LpsError('INTERNAL', 'a digest in the catalog is none');
  return digest;
}

/** The key's columns and the suffix of an object's name. */
function nameColumns(name: string): unknown[] {
  const blob = blobOfName(name);
  return [...keyColumns(blob), blob.generation ?? ''];
}

function blobOfName(name: string): BlobKey {
  const parsed = parseObjectName(name);
  if (parsed.kind !== 'blob') throw new LpsError('INTERNAL', 'the name of an object is none of a blob');
  return parsed.blob;
}

function placeOf({ prefix, digest_bytes, metadata_bytes }: Row): Place {
  return { prefix: String(prefix), digest: digest_bytes as Buffer, metadataDigest: metadata_bytes as Buffer };
}

function toMeant({ key, physical_key, size, state, created_at }: Row): MeantBlob {
  return {
    key: String(key),
    physicalKey: String(physical_key),
    size: Number(size),
    state: state as BlobState,
    createdAt: created_at as Date,
  };
}

function toName({ physical_key, key, size }: Row): ErasedName {
  return { physicalKey: String(physical_key), key: String(key), size: Number(size) };
}

function toHolder({ cluster, name, kind, external_id, gone_at, digest }: Row): BlobHolder {
  return {
    cluster: String(cluster),
    namespace: String(name),
    kind: String(kind),
    holder: String(external_id).replaceAll('\n', ' '),
    isGone: gone_at !== null,
    digest: digestFrom(digest),
  };
}

function toBlock({ namespace, digest, is_any_prefix, prefix, takedown_id, created_at }: Row): Block {
  return {
    namespace: String(namespace),
    digest: digestFrom(digest),
    ...(is_any_prefix === true ? {} : { prefix: String(prefix) }),
    takedownId: String(takedown_id),
    createdAt: created_at as Date,
  };
}

function toTakedown(row: Row): Takedown {
  const optional = <Name extends string, T>(name: Name, value: unknown): { [N in Name]?: T } =>
    (value === null || value === undefined ? {} : { [name]: value }) as { [N in Name]?: T };
  return {
    id: String(row.id),
    selector: parseSelector(row.selector),
    withSameDigest: row.with_same_digest === true,
    isBlocking: row.is_blocking === true,
    reason: String(row.reason),
    requestedBy: String(row.requested_by),
    requestedAt: row.requested_at as Date,
    state: row.state as TakedownState,
    ...optional<'acceptedAt', Date>('acceptedAt', row.accepted_at),
    ...optional<'completedAt', Date>('completedAt', row.completed_at),
    ...optional<'problem', string>('problem', row.problem),
    objects: Number(row.names),
    erased: Number(row.erased),
    bytes: Number(row.bytes),
    hasReceipt: row.has_receipt === true,
  };
}

/** The logical key of an object's name. */
export function keyOfName(physicalKey: string): string {
  return logicalKey(blobOfName(physicalKey));
}
