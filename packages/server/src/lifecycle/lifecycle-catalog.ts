/**
 * What the collection keeps in the catalog: holders and their edges, marks, pins, brakes, and the states of blobs. Two
 * implementations, PostgreSQL and memory, pass one suite. All times are the catalog's own clock.
 *
 * Whatever decides about a blob takes a fence, the leader's epoch: a later leader's decision cannot be followed by one of
 * an earlier leader. It throws ABORTED then.
 */
import type { BlobKey } from '@large-payload/core';
import type { BlobRow, BlobState } from '../catalog/catalog.js';
import type { Edge } from './edge.js';
import type { HolderKind } from './holders/holder-kind.js';
import type { Identity } from './temporal-api.js';

export interface Fence {
  readonly epoch: string;
}

export interface NamespaceName {
  readonly cluster: string;
  readonly name: string;
}

/** A Temporal namespace that was marked before. `identity` is that of the first mark, until an operator accepts another. */
export interface KnownNamespace extends NamespaceName {
  readonly id: bigint;
  readonly identity: Identity;
}

export interface HolderRow {
  readonly id: bigint;
  readonly kind: HolderKind['name'];
  readonly externalId: string;
  /** Absent: never scanned. */
  readonly cursor?: string;
  /** Scanned after its close: never to be read again. */
  readonly isDone: boolean;
  /** When Temporal answered NotFound for its id; a holder that was found again has none. */
  readonly goneAt?: Date;
}

export interface Mark {
  readonly id: bigint;
  readonly namespace: KnownNamespace;
  readonly startedAt: Date;
  readonly endedAt?: Date;
  readonly isComplete: boolean;
  /** Why it is not. */
  readonly gaps: readonly string[];
  /** Retention of the namespace, as it was then; ms. */
  readonly retentionMs: number;
  readonly holders: number;
  readonly scanned: number;
}

/** Who carries a claim of a blob, as far as is known. */
export interface HolderOfBlob {
  readonly namespace: KnownNamespace;
  readonly holder: HolderRow;
  /** Its key was not found there: it may be that of another namespace. */
  readonly isByDigestAlone: boolean;
  /** When a whole scan did not find it any more. */
  readonly lostAt?: Date;
}

/** What permits a sweep of one blob namespace: touches before `untouchedSince` do not count, edges and pins do. */
export interface Permission {
  readonly blobNamespace: string;
  /** M1.start − G, of the earliest M1, less the time by which a touch may be late. */
  readonly untouchedSince: Date;
  /** M1.start, of the earliest M1: only what was quarantined before it may be retired, so both marks are fresh. */
  readonly firstMarkStartedAt: Date;
  /** The marks that it follows from. */
  readonly marks: readonly bigint[];
}

export interface SweptBlob {
  readonly id: bigint;
  readonly key: string;
  readonly physicalKey: string;
  readonly generation: number;
  /** Bytes. */
  readonly size: number;
}

export interface RetiredObject {
  readonly blobId: bigint;
  readonly generation: number;
  readonly physicalKey: string;
  readonly size: number;
}

export interface Pin {
  readonly id: string;
  /** Of a blob, or a prefix of keys that ends with `/`. */
  readonly key: string;
  readonly owner: string;
  readonly reason: string;
  readonly createdAt: Date;
  readonly expiresAt?: Date;
}

/** One that the store keeps already has an id and a time. */
export type NewPin = Omit<Pin, 'id' | 'createdAt'> & Partial<Pick<Pin, 'id' | 'createdAt'>>;

export type BrakeKind =
  | 'too_much'
  | 'holders_lost'
  | 'smaller_configuration'
  | 'identity_changed'
  | 'database_restored'
  | 'lifecycle_rule'
  | 'revived'
  | 'paused';

/** Stops the sweep of a blob namespace, or of all, until a person lets go of it. */
export interface Brake {
  readonly kind: BrakeKind;
  /** Absent: all of them. */
  readonly blobNamespace?: string;
  readonly reason: string;
  readonly since: Date;
}

export interface StateSum {
  readonly blobs: number;
  readonly bytes: number;
}

export interface LifecycleCatalog {
  now(): Promise<Date>;

  // marks
  /** Makes the namespace known when it is not (any more); `identity` of one that is known is left as it was. */
  knowNamespace(name: NamespaceName, identity: Identity): Promise<KnownNamespace>;
  knownNamespaces(): Promise<KnownNamespace[]>;
  /**
   * After an operator's word: it is not among the known ones any more, its marks are forgotten, and its holders count as gone
   * from now on. `knowNamespace` makes it known again. `false` when it was not known.
   */
  forgetNamespace(namespace: KnownNamespace): Promise<boolean>;
  /** After an operator's word: takes the new identity, and forgets holders, edges and marks of the old one. */
  acceptIdentity(namespace: KnownNamespace, identity: Identity): Promise<void>;
  beginMark(fence: Fence, namespace: KnownNamespace, retentionMs: number): Promise<Mark>;
  /** Notes that a mark saw these; new ones get a row. At most 1,000. Returns how many of them this mark had not seen before. */
  noteHolders(
    mark: Mark,
    kind: HolderKind['name'],
    found: readonly { readonly id: string; readonly isClosed: boolean }[],
  ): Promise<number>;
  /**
   * In one transaction: edges, cursor, whether it is done, and that this mark has scanned it. A cursor says that the scan was
   * whole: mutable edges of the holder that are not among these are lost from now on, until they are found again. Without
   * one the old cursor stays, and nothing is lost.
   */
  saveScan(
    mark: Mark,
    holder: HolderRow,
    scan: { readonly edges: readonly Edge[]; readonly cursor?: string | undefined; readonly isDone: boolean },
  ): Promise<void>;
  /** Those that this mark has neither seen nor scanned, and that are not known to be gone; in the order of ids, behind `after`. */
  unseenHolders(mark: Mark, after: bigint, limit: number): Promise<HolderRow[]>;
  /** Those seen by this mark that are not done and not yet scanned by it; as above. */
  unscannedHolders(mark: Mark, after: bigint, limit: number): Promise<HolderRow[]>;
  /** NotFound by id. */
  markGone(holder: HolderRow): Promise<void>;
  /** Removes holders that have been gone for so long, and their edges; at most `limit`. Returns how many. */
  forgetGone(lingerMs: number, limit: number): Promise<number>;
  /** Removes edges that have been lost for so long; at most `limit`. Returns how many. */
  forgetLost(lingerMs: number, limit: number): Promise<number>;
  endMark(
    fence: Fence,
    mark: Mark,
    outcome: {
      readonly isComplete: boolean;
      readonly gaps: readonly string[];
      readonly holders: number;
      readonly scanned: number;
    },
  ): Promise<Mark>;
  /** The latest marks of a namespace that have ended, the newest first. */
  marksOf(namespace: KnownNamespace, limit: number): Promise<Mark[]>;
  /**
   * Removes what nobody asks for any more, at most `limit` of each: marks of a namespace that are older than its newest
   * `marksKept` that have ended, and brakes that were let go of so long ago. Returns how many.
   */
  prune(marksKept: number, brakesKeptMs: number, limit: number): Promise<{ marks: number; brakes: number }>;

  // sweep
  /** Live blobs that a permission would retire, in the order of ids behind `after`; nothing is locked. */
  candidates(permission: Permission, after: bigint, limit: number): Promise<SweptBlob[]>;
  /** One conditional UPDATE: those of the blobs that are live, untouched, unheld, unpinned and without a lease. Returns them. */
  quarantine(fence: Fence, permission: Permission, ids: readonly bigint[]): Promise<SweptBlob[]>;
  /** Quarantined for at least `quarantineMs` and before `firstMarkStartedAt`, otherwise as `candidates`. */
  condemned(permission: Permission, quarantineMs: number, after: bigint, limit: number): Promise<SweptBlob[]>;
  /** The same check again, then `deleting`, and a row in `retired_object`, in one transaction. */
  retire(fence: Fence, permission: Permission, quarantineMs: number, ids: readonly bigint[]): Promise<SweptBlob[]>;
  /** Objects that are to be deleted. */
  retired(after: bigint, limit: number): Promise<RetiredObject[]>;
  /** The object is gone: so is the row, and the blob is `gone` if it is still `deleting` with this generation. */
  objectDeleted(retired: RetiredObject): Promise<void>;
  /** `quarantined` → `live`, touched. `undefined` when there is nothing to bring back. */
  undelete(key: BlobKey): Promise<BlobRow | undefined>;
  /** Blobs and bytes of a namespace, by state; of all of them without one. Reads an estimate where exact sums would cost a scan. */
  sums(blobNamespace?: string): Promise<Map<BlobState, StateSum>>;
  /** Blob namespaces that have rows. */
  blobNamespaces(): Promise<string[]>;
  /** Quarantined blobs that a GET or HEAD has revived since a time; not those of which a client asked whether to upload them. */
  revivedSince(since: Date): Promise<number>;
  /** Counts the rounds of the collection up, and returns how many there were. The store keeps the same number. */
  nextRound(fence: Fence): Promise<bigint>;
  rounds(): Promise<bigint>;
  /** When the last round began, and when a person has asked for another one since then. */
  roundTimes(): Promise<{ readonly beganAt?: Date; readonly requestedAt?: Date }>;
  /** Asks for a round before its time. */
  requestRound(): Promise<void>;
  /** The database is older than the store, which knows of so many rounds: as if it had been rebuilt now. */
  noteRestored(fence: Fence, rounds: bigint): Promise<void>;
  /** When touches, holders and marks were last lost (`catalog.rebuilt_at`): what was known before does not count. */
  rebuiltAt(): Promise<Date | undefined>;

  // why
  /** A blob as it stands, whatever its state. */
  blob(key: BlobKey): Promise<BlobRow | undefined>;
  holdersOf(key: BlobKey, limit: number): Promise<HolderOfBlob[]>;
  /** Those that still hold, the newest first, 10,000 at most. Of a key: those that keep it; of a prefix: also those below it. */
  pins(key?: string): Promise<Pin[]>;
  /** Touches what it names, and revives what is quarantined; the same id again changes nothing. Throws INVALID_KEY. */
  addPin(pin: NewPin): Promise<Pin>;
  removePin(id: string): Promise<boolean>;
  /** Ids of pins that have been over for so long, the oldest first. */
  expiredPins(overMs: number, limit: number): Promise<string[]>;

  // brakes
  brakes(): Promise<Brake[]>;
  /** Sets one that is not set. */
  brake(brake: Omit<Brake, 'since'>): Promise<void>;
  release(kind: BrakeKind, blobNamespace: string | undefined, by: string): Promise<boolean>;
}
