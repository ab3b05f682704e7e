/** What both sides of the catalog in memory work on. Ids count up, so maps by id are in the order of ids. */
import type { BlobKey, Digest } from '@large-payload/core';
import { logicalKey, physicalKeyOf } from '../../catalog/blob-record.js';
import type { BlobRow, BlobState } from '../../catalog/catalog.js';

export interface MemoryOptions {
  /** The clock of the catalog, in ms; it may jump. */
  readonly now: () => number;
  /** G, in ms. */
  readonly graceMs: number;
  /** Default: a 24th of the grace, at most an hour. */
  readonly touchIntervalMs?: number;
  /** Default 10 minutes. */
  readonly leaseMs?: number;
}

/** As a row of the table; times in ms. */
export interface MemoryBlob {
  readonly id: bigint;
  readonly key: string;
  readonly blob: BlobKey;
  size: number;
  state: BlobState;
  generation: number;
  suffix: string;
  touchedAt: number;
  quarantinedAt: number | undefined;
}

export interface MemoryLease {
  readonly id: bigint;
  readonly blobId: bigint;
  readonly generation: number;
  expiresAt: number;
  epoch: number;
}

export class MemoryModel {
  readonly graceMs: number;
  readonly touchIntervalMs: number;
  readonly leaseMs: number;
  readonly now: () => number;
  readonly blobs = new Map<bigint, MemoryBlob>();
  readonly blobsByKey = new Map<string, MemoryBlob>();
  readonly leases = new Map<bigint, MemoryLease>();
  /** When quarantined blobs were revived by reads. */
  readonly revivals: number[] = [];
  rebuiltAt: number | undefined;
  #lastId = 0n;

  constructor(options: MemoryOptions) {
    this.now = options.now;
    this.graceMs = options.graceMs;
    this.touchIntervalMs = options.touchIntervalMs ?? Math.min(3_600_000, options.graceMs / 24);
    this.leaseMs = options.leaseMs ?? 600_000;
  }

  newId(): bigint {
    this.#lastId += 1n;
    return this.#lastId;
  }

  /** The part of a later generation's name; a counter, so that a run can be repeated. */
  newSuffix(): string {
    return this.newId().toString(36).padStart(16, '0');
  }

  add(blob: BlobKey, values: Pick<MemoryBlob, 'size' | 'state' | 'generation' | 'suffix'>): MemoryBlob {
    const row = {
      ...{ id: this.newId(), key: logicalKey(blob), blob: withoutGeneration(blob) },
      ...values,
      ...{ touchedAt: this.now(), quarantinedAt: undefined },
    };
    this.blobs.set(row.id, row);
    this.blobsByKey.set(row.key, row);
    return row;
  }

  remove(row: MemoryBlob): void {
    this.blobs.delete(row.id);
    this.blobsByKey.delete(row.key);
  }

  /** Sets a state, and the time that belongs to it. */
  become(row: MemoryBlob, state: BlobState): void {
    row.state = state;
    row.quarantinedAt = state === 'quarantined' ? this.now() : undefined;
  }

  /** Written down as used: a last touch never goes back. */
  touch(row: MemoryBlob): void {
    row.touchedAt = Math.max(row.touchedAt, this.now());
  }

  isFresh(row: MemoryBlob): boolean {
    return row.state === 'live' && row.touchedAt > this.now() - this.touchIntervalMs;
  }

  hasLease(row: MemoryBlob): boolean {
    for (const { blobId } of this.leases.values()) if (blobId === row.id) return true;
    return false;
  }

  physicalKey({ key, suffix }: MemoryBlob): string {
    return physicalKeyOf(key, suffix);
  }

  toRow(row: MemoryBlob): BlobRow {
    const { id, key, size, state, generation, touchedAt } = row;
    return {
      ...{ id, key, size, state, generation },
      physicalKey: this.physicalKey(row),
      touchedAt: new Date(touchedAt),
      protectedUntil: new Date(touchedAt + this.graceMs),
      touchDue: state === 'quarantined' || touchedAt <= this.now() - this.touchIntervalMs,
    };
  }
}

/** Who holds a digest, and with which namespaces ('' for any). */
export class MemoryEdges {
  readonly #byDigest = new Map<Digest, Map<bigint, Set<string>>>();
  readonly #byHolder = new Map<bigint, Set<Digest>>();

  add(holder: bigint, digest: Digest, namespace: string): void {
    const holders = this.#byDigest.get(digest) ?? new Map<bigint, Set<string>>();
    this.#byDigest.set(digest, holders);
    holders.set(holder, (holders.get(holder) ?? new Set()).add(namespace));
    this.#byHolder.set(holder, (this.#byHolder.get(holder) ?? new Set()).add(digest));
  }

  removeHolder(holder: bigint): void {
    for (const digest of this.#byHolder.get(holder) ?? []) {
      const holders = this.#byDigest.get(digest);
      holders?.delete(holder);
      if (holders?.size === 0) this.#byDigest.delete(digest);
    }
    this.#byHolder.delete(holder);
  }

  /** Holders of a blob in the order of their ids, and whether only a digest says so. */
  of({ digest, namespace }: BlobKey): { readonly holder: bigint; readonly isByDigestAlone: boolean }[] {
    const found = [...(this.#byDigest.get(digest) ?? [])].flatMap(([holder, namespaces]) => {
      if (namespaces.has(namespace)) return [{ holder, isByDigestAlone: false }];
      return namespaces.has('') ? [{ holder, isByDigestAlone: true }] : [];
    });
    return found.sort((one, other) => (one.holder < other.holder ? -1 : 1));
  }

  has(blob: BlobKey): boolean {
    const holders = this.#byDigest.get(blob.digest);
    if (holders === undefined) return false;
    for (const namespaces of holders.values()) if (namespaces.has('') || namespaces.has(blob.namespace)) return true;
    return false;
  }
}

function withoutGeneration({ generation: _, ...blob }: BlobKey): BlobKey {
  return blob;
}
