/** What both sides of the catalog in memory work on. Ids count up, so maps by id are in the order of ids. */
import type { BlobKey, Digest } from '@large-payload/core';
import { logicalKey, physicalKeyOf } from '../../catalog/blob-record.js';
import type { BlobRow, BlobState } from '../../catalog/catalog.js';
import type { Edge } from '../edge.js';

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
  /** What may not be stored again: namespace, digest, and the prefix, or any. */
  readonly blocks: { readonly namespace: string; readonly digest: string; readonly prefix: string | undefined }[] = [];
  /** Names of objects that takedowns erase. */
  readonly erased = new Set<string>();
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

  isBlocked({ namespace, digest, prefix = '' }: BlobKey): boolean {
    return this.blocks.some(
      (block) =>
        block.namespace === namespace &&
        block.digest === digest &&
        (block.prefix === undefined || block.prefix === prefix),
    );
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

interface MemoryEdge {
  readonly holder: bigint;
  readonly digest: Digest;
  /** '' for any. */
  readonly namespace: string;
  isMutable: boolean;
  lostAt: number | undefined;
}

/** Who holds a digest, and with which namespaces. */
export class MemoryEdges {
  readonly #byDigest = new Map<Digest, Set<MemoryEdge>>();
  readonly #byHolder = new Map<bigint, Map<string, MemoryEdge>>();

  /** What is found once in what never changes stays found. */
  add(holder: bigint, { digest, namespace = '', isMutable = false }: Edge): void {
    const ofHolder = this.#byHolder.get(holder) ?? new Map<string, MemoryEdge>();
    this.#byHolder.set(holder, ofHolder);
    const known = ofHolder.get(`${digest} ${namespace}`);
    const edge = known ?? { holder, digest, namespace, isMutable, lostAt: undefined };
    edge.isMutable &&= isMutable;
    edge.lostAt = undefined;
    ofHolder.set(`${digest} ${namespace}`, edge);
    this.#byDigest.set(digest, (this.#byDigest.get(digest) ?? new Set()).add(edge));
  }

  /** All mutable edges of a holder, until they are found again. */
  lose(holder: bigint, now: number): void {
    for (const edge of this.#byHolder.get(holder)?.values() ?? []) if (edge.isMutable) edge.lostAt ??= now;
  }

  /** Those that were lost by then, at most so many; returns how many. */
  removeLost(before: number, limit: number): number {
    const lost = [...this.#byHolder.values()].flatMap((edges) =>
      [...edges.values()].filter(({ lostAt }) => lostAt !== undefined && lostAt <= before),
    );
    const due = lost.sort((one, other) => (one.lostAt ?? 0) - (other.lostAt ?? 0)).slice(0, limit);
    for (const edge of due) this.#remove(edge);
    return due.length;
  }

  removeHolder(holder: bigint): void {
    for (const edge of [...(this.#byHolder.get(holder)?.values() ?? [])]) this.#remove(edge);
    this.#byHolder.delete(holder);
  }

  #remove(edge: MemoryEdge): void {
    this.#byHolder.get(edge.holder)?.delete(`${edge.digest} ${edge.namespace}`);
    const edges = this.#byDigest.get(edge.digest);
    edges?.delete(edge);
    if (edges?.size === 0) this.#byDigest.delete(edge.digest);
  }

  /** Holders of a blob in the order of their ids, whether only a digest says so, and since when nothing of it is found. */
  of(blob: BlobKey): { readonly holder: bigint; readonly isByDigestAlone: boolean; readonly lostAt?: number }[] {
    const edges = this.#of(blob);
    const holders = [...new Set(edges.map(({ holder }) => holder))].sort((one, other) => (one < other ? -1 : 1));
    return holders.map((holder) => {
      const ours = edges.filter((edge) => edge.holder === holder);
      const lostAt = ours.flatMap((edge) => edge.lostAt ?? []);
      return {
        holder,
        isByDigestAlone: ours.every(({ namespace }) => namespace === ''),
        ...(lostAt.length < ours.length ? {} : { lostAt: Math.max(...lostAt) }),
      };
    });
  }

  has(blob: BlobKey): boolean {
    return this.#of(blob).length > 0;
  }

  #of({ digest, namespace: of }: BlobKey): MemoryEdge[] {
    return [...(this.#byDigest.get(digest) ?? [])].filter(({ namespace }) => namespace === '' || namespace === of);
  }
}

function withoutGeneration({ generation: _, ...blob }: BlobKey): BlobKey {
  return blob;
}
