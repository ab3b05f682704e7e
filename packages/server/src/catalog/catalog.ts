/**
 * The index of blobs beside a store: who is there, in which state, protected until when.
 *
 * States:  uploading → live → quarantined → (live | deleting) → gone, and beside them damaged and taken_down. An upload of
 *          what is deleting, gone or taken_down starts a new generation in the row: uploading again, under another name.
 * Every time is the database's own clock. No call holds a transaction open while bytes flow.
 */
import { type BlobKey, LpsError } from '@large-payload/core';

export type BlobState = 'uploading' | 'live' | 'quarantined' | 'deleting' | 'gone' | 'damaged' | 'taken_down';

/** What is known of one blob. */
export interface BlobRow {
  readonly id: bigint;
  /** The logical key; `physicalKey` is where its present generation lies in the store. */
  readonly key: string;
  readonly physicalKey: string;
  /** Bytes. */
  readonly size: number;
  readonly state: BlobState;
  readonly generation: number;
  readonly touchedAt: Date;
  /** Stored `touchedAt` + grace. */
  readonly protectedUntil: Date;
  /** Whether the last touch is so long ago that the next use must be written down (min(1 h, G/24)). */
  readonly touchDue: boolean;
}

/** The right to upload one generation of a blob, until `expiresAt`. Others may hold leases on the same one. */
export interface Lease {
  readonly id: string;
  readonly blobId: bigint;
  readonly generation: number;
  readonly key: string;
  readonly physicalKey: string;
  /** Set when a damaged object stands at the physical key: the put replaces it. */
  readonly overwrite: boolean;
  readonly expiresAt: Date;
}

/** What an upload meets: the blob is present (and was touched when that was due), or there is a lease to upload it. */
export type Beginning =
  | {
      readonly kind: 'present';
      readonly row: BlobRow /** A touch was written just now: ask the store too. */;
      readonly touched: boolean;
    }
  | { readonly kind: 'upload'; readonly lease: Lease };

/** `created` by this lease, or `exists` because another one committed first. */
export interface Commit {
  readonly outcome: 'created' | 'exists';
  readonly row: BlobRow;
}

/** Every function throws CATALOG_UNAVAILABLE while Postgres does not answer. */
export interface Catalog {
  /**
   * One statement: finds the blob and touches it when due, or begins an upload. None when the cache has the blob and no touch
   * is due. `leaseMs`: of a lease that nobody renews, in place of the usual one. Throws BLOB_BLOCKED for what may not be stored
   * again; what is there already is found all the same.
   */
  begin(key: BlobKey, size: number, leaseMs?: number): Promise<Beginning>;
  /**
   * One statement: makes the leased generation live. `undefined` when it was deleted or taken down meanwhile: what is uploaded
   * again is new data. Throws BLOB_BLOCKED. In both cases the lease is over.
   */
  commit(lease: Lease, size: number): Promise<Commit | undefined>;
  /** Gives a lease back; a row that nothing else holds goes with it. Never throws. */
  abandon(lease: Lease): Promise<void>;
  /** Prolongs a lease while its bytes still flow. `false` when it is gone, or what it is for was taken down. */
  renew(lease: Lease): Promise<boolean>;
  /** The row of a key, from a small cache while that is known to be true, else from Postgres. Absence is never cached. */
  lookup(key: BlobKey): Promise<BlobRow | undefined>;
  /** The rows of at most 1,000 keys. */
  lookupMany(keys: readonly BlobKey[]): Promise<BlobRow[]>;
  /**
   * Writes a use down, where it is due; quarantined becomes live. Returns the rows as they are now. A `read` from quarantine
   * is noted: something held the blob. An `upload` that is spared says nothing of holders, nor does a read from before the
   * quarantine. `agoMs`: how long ago a row was used, when that is told later.
   */
  touch(rows: readonly BlobRow[], use?: 'read' | 'upload', agoMs?: (row: BlobRow) => number): Promise<BlobRow[]>;
  /**
   * Takes an object into the catalog that the store holds, hash-checked, and the catalog did not know; heals a damaged row.
   * `undefined` for what was taken down or is being deleted, and for another physical key than the row's. Throws BLOB_BLOCKED.
   */
  adopt(key: BlobKey, physicalKey: string, size: number): Promise<BlobRow | undefined>;
  /** Before an object that the catalog does not know is served. Throws BLOB_TAKEN_DOWN for a name that was erased, BLOB_BLOCKED. */
  mayTakeIn(key: BlobKey, physicalKey: string): Promise<void>;
  /** Rows of these keys, or all, are read from Postgres the next time: what is being read now is not kept either. */
  forgetRows(keys?: readonly string[]): void;
  /** The object of this generation, live or only being uploaded, is missing or fails its digest. Tells the other replicas. */
  markDamaged(row: Pick<BlobRow, 'id' | 'generation'>): Promise<void>;
  /** Ends expired leases, at most `limit` of them: `sizeOf` gives the bytes of an object that is there and right. Returns how many. */
  sweepLeases(sizeOf: (physicalKey: string) => Promise<number | undefined>, limit: number): Promise<number>;
  /** The rows of a namespace behind `after` (a key) in key order of the catalog, at most `limit`: keyset pagination. */
  list(namespace: string, options: { prefix?: string; after?: string; limit: number }): Promise<BlobRow[]>;
  /** This catalog's own id, made at its first start. */
  readonly id: string;
  /** Pool use, for metrics. */
  stats(): { total: number; idle: number; waiting: number };
  /** Throws CATALOG_UNAVAILABLE unless Postgres answers. */
  ping(): Promise<void>;
  close(): Promise<void>;
}

/** What reads of such a blob end with. */
export function takenDown(): LpsError {
  return new LpsError('BLOB_TAKEN_DOWN', 'the blob was erased on request (taken down) and cannot be read any more');
}

/** What uploads of such a blob end with. */
export function blocked(): LpsError {
  return new LpsError('BLOB_BLOCKED', 'this blob was taken down, and it is forbidden to store it again');
}
