/**
 * The one narrow interface between everything and the bytes.
 *
 * To add a store: implement `BlobStore`, then one line with `testBlobStore` (see ./conformance.ts).
 */
import type { Readable } from 'node:stream';
import type { Digest } from './digest.js';

/** What a store can do beyond put, get, head and delete. */
export interface Capabilities {
  /** Serves a part of a blob. */
  readonly range: boolean;
  readonly list: boolean;
  readonly delete: boolean;
  /** Keeps versions; `delete` removes every one of them. */
  readonly versions: boolean;
}

/** Bytes on their way: whole when they are in memory anyway, else a stream of them. */
export type Body = Uint8Array | Readable;

export interface BlobInfo {
  readonly key: string;
  /** Bytes. */
  readonly size: number;
  readonly modifiedAt?: Date;
  /** Until then the service keeps the blob, whoever refers to it; only a service says so. */
  readonly protectedUntil?: Date;
  /** The newest deletion or takedown, by its number, that the service knew of before it answered; only a service says so. */
  readonly asOf?: bigint;
  /** What the bucket itself computed from the bytes when it took them. Absent where it does not say. */
  readonly digest?: Digest;
}

export interface StoredBlob {
  /** `size` is that of the whole blob, also when `range` was asked for. */
  readonly info: BlobInfo;
  /** The bytes, or the asked-for range of them. A stream must be read to its end or destroyed. */
  readonly body: Body;
}

/** First and last byte, both included, within the blob. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** What the bytes of a put must turn out to be. */
export interface Expected {
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
}

export interface PutOptions extends CallOptions {
  /** Replace what stands at the key (a damaged blob is healed so). Without it an existing object is left alone. */
  readonly overwrite?: boolean;
}

export interface GetOptions extends CallOptions {
  /** Must lie within the blob, or the store throws RANGE_NOT_SATISFIABLE. */
  readonly range?: ByteRange;
}

export interface CountOptions extends CallOptions {
  /**
   * Also what `delete` cannot remove and the bucket lets go of by itself: soft-deleted versions until their days are over,
   * blocks of uploads that broke off. As far as the bucket lists them.
   */
  readonly withUnreachable?: boolean;
}

export interface ListOptions extends CallOptions {
  /** Only what comes behind this key in the store's order, whether or not it is still there. */
  readonly after?: string;
}

export interface PutResult {
  /** `exists`: an object was there, and it was not looked at. */
  readonly outcome: 'created' | 'exists';
  readonly protectedUntil?: Date;
}

export interface PresignOptions extends CallOptions {
  /** How long the request can be sent, in ms; whole seconds, at least one. What began in time may end later. */
  readonly expiresInMs: number;
}

/** A request that carries bytes past the service. Whoever has it can send it, until it expires: it is a secret. */
export interface PresignedRequest {
  readonly method: 'PUT' | 'GET';
  readonly url: string;
  /** To be sent as they stand: they are signed. */
  readonly headers: Readonly<Record<string, string>>;
  /** Earlier than asked for when the keys it was signed with expire before. */
  readonly expiresAt: Date;
}

/** A rule by which a bucket itself deletes or moves objects. */
export interface LifecycleRule {
  readonly id: string;
  /** Of object names; empty: all of them. */
  readonly prefix: string;
  /** `delete` takes blobs away behind our back; `transition` moves them to another storage class. */
  readonly action: 'delete' | 'delete-old-versions' | 'abort-uploads' | 'transition';
  /** Counted from an object's creation, in days, where the rule is of that kind. */
  readonly afterDays?: number;
  /** The storage class that objects move to. */
  readonly storageClass?: string;
}

/** What a bucket's own settings do to blobs. What is absent, the server does not say, or we may not ask. */
export interface BucketSettings {
  readonly versioning?: 'on' | 'suspended' | 'off';
  /** For how many days a deleted object can be restored; 0: not at all. */
  readonly softDeleteDays?: number;
  readonly lifecycle?: readonly LifecycleRule[];
  /** Whether the bucket keeps objects from being deleted for some time (object lock, retention policy, legal hold). */
  readonly retention?: boolean;
  /** The server's clock minus ours, in ms; to the second. */
  readonly clockSkewMs?: number;
}

/**
 * Content-addressed storage. Contract:
 * - Nothing is readable at a key until its bytes match `expect`; a put that fails or is aborted leaves nothing behind.
 * - `put` may answer `exists` before it has read the body; the caller destroys a stream that was not read.
 * - Every error is an `LpsError`; see docs/errors.md for which.
 */
export interface BlobStore {
  readonly name: string;
  readonly can: Capabilities;
  put(key: string, body: Body, expect: Expected, options?: PutOptions): Promise<PutResult>;
  get(key: string, options?: GetOptions): Promise<StoredBlob | undefined>;
  head(key: string, options?: CallOptions): Promise<BlobInfo | undefined>;
  /** Many heads at once, where that is cheaper. Absent blobs are absent from the map. */
  stat?(keys: readonly string[], options?: CallOptions): Promise<Map<string, BlobInfo>>;
  /** Whether there was one. */
  delete(key: string, options?: CallOptions): Promise<boolean>;
  /**
   * How much stands at exactly this name, readable or not: the object, its versions and snapshots, markers of deletions. 0
   * when `delete` has left nothing. Absent where a `head` tells all.
   */
  countVersions?(key: string, options?: CountOptions): Promise<number>;
  /** In the store's own order, always the same. `prefix` is of the object's name, character by character. */
  list(prefix: string, options?: ListOptions): AsyncIterable<BlobInfo>;
  /**
   * A PUT that the bucket itself takes only with the bytes of `expect`, and only while no object stands there. Absent
   * where a bucket cannot be made to look: then bytes go through the service.
   */
  presignPut?(key: string, expect: Expected, options: PresignOptions): Promise<PresignedRequest>;
  /** A GET of the whole blob. Who sends it checks the bytes. */
  presignGet?(key: string, options: PresignOptions): Promise<PresignedRequest>;
  /** Throws unless blobs can be stored now. */
  ready?(options?: CallOptions): Promise<void>;
  /** For an operator's eyes (`lps doctor`); a setting that cannot be read is absent, and only a server that cannot be reached throws. */
  settings?(options?: CallOptions): Promise<BucketSettings>;
  /** Lets go of connections and timers. */
  close?(): Promise<void>;
}
