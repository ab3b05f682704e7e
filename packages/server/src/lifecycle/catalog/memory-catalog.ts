/**
 * `Catalog` in memory: what each call does to each state is that of catalog/sql.ts, statement by statement. A call is done
 * at once, so nothing comes between its parts.
 */
import { type BlobKey, LpsError, parseKey } from '@large-payload/core';
import { logicalKey, suffixOf } from '../../catalog/blob-record.js';
import {
  type Beginning,
  type BlobRow,
  blocked,
  type Catalog,
  type Commit,
  type Lease,
  takenDown,
} from '../../catalog/catalog.js';
import type { SizeOf } from '../../catalog/lease-sweep.js';
import type { MemoryBlob, MemoryLease, MemoryModel } from './memory-model.js';

const maxKeysAtOnce = 1000;
const claimMs = 120_000;

export class MemoryCatalog implements Catalog {
  readonly id = '00000000-0000-4000-8000-000000000000';
  readonly #model: MemoryModel;

  constructor(model: MemoryModel) {
    this.#model = model;
  }

  async begin(key: BlobKey, size: number, leaseMs = this.#model.leaseMs): Promise<Beginning> {
    const model = this.#model;
    const known = model.blobsByKey.get(logicalKey(key));
    if (known !== undefined && model.isFresh(known))
      return { kind: 'present', row: model.toRow(known), touched: false };
    if (known?.state !== 'live' && known?.state !== 'quarantined' && model.isBlocked(key)) throw blocked();
    const row = known ?? model.add(key, { size, state: 'uploading', ...this.#firstName(key) });
    if (row.state === 'deleting' || row.state === 'gone' || row.state === 'taken_down') {
      Object.assign(row, { size, generation: row.generation + 1, suffix: model.newSuffix() });
      model.become(row, 'uploading');
    }
    if (row.state === 'quarantined') model.become(row, 'live');
    if (row.state !== 'damaged') model.touch(row);
    if (row.state === 'live') return { kind: 'present', row: model.toRow(row), touched: true };
    return { kind: 'upload', lease: this.#lease(row, leaseMs) };
  }

  #firstName(key: BlobKey): Pick<MemoryBlob, 'generation' | 'suffix'> {
    const isErased = this.#model.erased.has(logicalKey(key));
    return isErased ? { generation: 2, suffix: this.#model.newSuffix() } : { generation: 1, suffix: '' };
  }

  #lease(row: MemoryBlob, leaseMs: number): Lease {
    const { id: blobId, generation, key, state } = row;
    const expiresAt = this.#model.now() + leaseMs;
    const lease = { id: this.#model.newId(), blobId, generation, expiresAt, epoch: 0 };
    this.#model.leases.set(lease.id, lease);
    return {
      ...{ id: String(lease.id), blobId, generation, key },
      physicalKey: this.#model.physicalKey(row),
      overwrite: state === 'damaged',
      expiresAt: new Date(expiresAt),
    };
  }

  async commit(lease: Lease, size: number): Promise<Commit | undefined> {
    const suffix = suffixOf(lease.key, lease.physicalKey);
    const row = this.#model.blobsByKey.get(lease.key);
    const was = row?.state;
    const isPresent = was === 'live' || was === 'quarantined';
    const isBlocked = !isPresent && this.#model.isBlocked(parseKey(lease.key));
    const isRefused =
      row === undefined
        ? this.#model.erased.has(lease.physicalKey)
        : isBlocked || !this.#settle(row, lease, suffix, size);
    if (isBlocked || isRefused) {
      await this.abandon(lease);
      if (isBlocked) throw blocked();
      return undefined;
    }
    const settled = row ?? this.#addLive(parseKey(lease.key), lease.generation, suffix, size);
    this.#model.leases.delete(BigInt(lease.id));
    return { outcome: was === 'live' || was === 'quarantined' ? 'exists' : 'created', row: this.#model.toRow(settled) };
  }

  #addLive(key: BlobKey, generation: number, suffix: string, size: number): MemoryBlob {
    return this.#model.add(key, { size, state: 'live', generation, suffix });
  }

  #settle(row: MemoryBlob, lease: Lease, suffix: string, size: number): boolean {
    const isOfLease = row.generation === lease.generation;
    const heals = row.state === 'damaged' && isOfLease && lease.overwrite;
    const uploads = row.state === 'uploading' && isOfLease && row.suffix === suffix;
    if (!heals && !uploads && row.state !== 'live' && row.state !== 'quarantined') return false;
    if (heals) row.generation += 1;
    if (heals || uploads) row.size = size;
    this.#model.become(row, 'live');
    this.#model.touch(row);
    return true;
  }

  async abandon({ id }: Lease): Promise<void> {
    const lease = this.#model.leases.get(BigInt(id));
    if (lease !== undefined) this.#end(lease);
  }

  #end(lease: MemoryLease): void {
    const model = this.#model;
    model.leases.delete(lease.id);
    const row = model.blobs.get(lease.blobId);
    if (row === undefined || row.state !== 'uploading' || row.generation !== lease.generation) return;
    // a later generation's row stays: its predecessor's name must not be used again
    if (row.generation === 1 && row.suffix === '' && !model.hasLease(row)) model.remove(row);
  }

  async renew({ id, physicalKey }: Lease): Promise<boolean> {
    const lease = this.#model.leases.get(BigInt(id));
    if (lease === undefined || this.#model.erased.has(physicalKey)) return false;
    if (this.#model.blobs.get(lease.blobId)?.state === 'taken_down') return false;
    lease.epoch += 1;
    lease.expiresAt = this.#model.now() + this.#model.leaseMs;
    return true;
  }

  async lookup(key: BlobKey): Promise<BlobRow | undefined> {
    const row = this.#model.blobsByKey.get(logicalKey(key));
    return row && this.#model.toRow(row);
  }

  async lookupMany(keys: readonly BlobKey[]): Promise<BlobRow[]> {
    checkCount(keys.length);
    const rows = new Set(keys.flatMap((key) => this.#model.blobsByKey.get(logicalKey(key)) ?? []));
    return [...rows].map((row) => this.#model.toRow(row));
  }

  async touch(
    rows: readonly BlobRow[],
    use: 'read' | 'upload' = 'read',
    agoMs: (row: BlobRow) => number = () => 0,
  ): Promise<BlobRow[]> {
    checkCount(rows.length);
    const model = this.#model;
    const found = new Set(rows.flatMap(({ id }) => model.blobs.get(id) ?? []));
    for (const row of found) {
      if (model.isFresh(row) || (row.state !== 'live' && row.state !== 'quarantined')) continue;
      const usedAt = model.now() - agoMs(model.toRow(row));
      if (row.state === 'quarantined' && use === 'read' && (row.quarantinedAt ?? 0) <= usedAt)
        model.revivals.push(model.now());
      model.become(row, 'live');
      model.touch(row);
    }
    return [...found].map((row) => model.toRow(row));
  }

  async adopt(key: BlobKey, physicalKey: string, size: number): Promise<BlobRow | undefined> {
    const suffix = suffixOf(logicalKey(key), physicalKey);
    const row = this.#model.blobsByKey.get(logicalKey(key));
    if (row?.state === 'live' || row?.state === 'quarantined') return this.#model.toRow(row);
    if (this.#model.isBlocked(key)) throw blocked();
    if (row === undefined) {
      if (this.#model.erased.has(physicalKey)) return undefined;
      return this.#model.toRow(this.#addLive(key, suffix === '' ? 1 : 2, suffix, size));
    }
    if ((row.state !== 'uploading' && row.state !== 'damaged') || row.suffix !== suffix) return undefined;
    row.generation += row.state === 'damaged' ? 1 : 0;
    row.size = size;
    this.#model.become(row, 'live');
    this.#model.touch(row);
    return this.#model.toRow(row);
  }

  async mayTakeIn(key: BlobKey, physicalKey: string): Promise<void> {
    if (this.#model.erased.has(physicalKey)) throw takenDown();
    if (this.#model.isBlocked(key)) throw blocked();
  }

  forgetRows(): void {}

  async markDamaged({ id, generation }: Pick<BlobRow, 'id' | 'generation'>): Promise<void> {
    const row = this.#model.blobs.get(id);
    if (row === undefined || row.generation !== generation) return;
    if (['live', 'quarantined', 'uploading'].includes(row.state)) this.#model.become(row, 'damaged');
  }

  async sweepLeases(sizeOf: SizeOf, limit: number): Promise<number> {
    const model = this.#model;
    const now = model.now();
    const expired = [...model.leases.values()].filter(({ expiresAt }) => expiresAt < now);
    const claimed = expired.sort((one, other) => one.expiresAt - other.expiresAt).slice(0, limit);
    for (const lease of claimed) Object.assign(lease, { epoch: lease.epoch + 1, expiresAt: now + claimMs });
    const claims = claimed.map((lease) => ({ lease, epoch: lease.epoch, row: this.#uploading(lease) }));
    let ended = 0;
    for (const { lease, epoch, row } of claims) {
      const suffix = row?.suffix;
      const size = row && (await sizeOf(model.physicalKey(row)));
      const present = size === undefined ? undefined : this.#uploading(lease);
      const isBlocked = row !== undefined && model.isBlocked(row.blob);
      if (!isBlocked && size !== undefined && present !== undefined && present.suffix === suffix) {
        present.size = size;
        model.become(present, 'live');
        model.touch(present);
      }
      const current = model.leases.get(lease.id);
      if (current === undefined || current.epoch !== epoch) continue;
      if (size === undefined || isBlocked) this.#end(lease);
      else model.leases.delete(lease.id);
      ended += 1;
    }
    return ended;
  }

  /** The row that a lease is about, while it waits for the upload. */
  #uploading({ blobId, generation }: MemoryLease): MemoryBlob | undefined {
    const row = this.#model.blobs.get(blobId);
    return row?.state === 'uploading' && row.generation === generation ? row : undefined;
  }

  async list(namespace: string, options: { prefix?: string; after?: string; limit: number }): Promise<BlobRow[]> {
    const { prefix = '', after, limit } = options;
    const behind = after === undefined ? undefined : parseKey(after);
    if (behind !== undefined && behind.namespace !== namespace) {
      throw new LpsError('INVALID_ARGUMENT', 'the list cannot go on behind a key of another namespace');
    }
    const isShort = `/blobs/${namespace}/`.startsWith(prefix);
    const rows = [...this.#model.blobs.values()].filter(
      ({ key, blob }) => blob.namespace === namespace && (isShort || key.startsWith(prefix)),
    );
    rows.sort((one, other) => compare(one.blob, other.blob));
    const rest = behind === undefined ? rows : rows.filter(({ blob }) => compare(blob, behind) > 0);
    return rest.slice(0, limit).map((row) => this.#model.toRow(row));
  }

  stats(): { total: number; idle: number; waiting: number } {
    return { total: 0, idle: 0, waiting: 0 };
  }

  async ping(): Promise<void> {}

  async close(): Promise<void> {}
}

/** In the order of the index `blob_key`. */
function compare(one: BlobKey, other: BlobKey): number {
  const [a, b] = [one, other].map(({ prefix = '', digest, metadataDigest }) => [prefix, digest, metadataDigest]);
  for (const at of [0, 1, 2]) {
    const [left = '', right = ''] = [a?.[at], b?.[at]];
    if (left !== right) return left < right ? -1 : 1;
  }
  return 0;
}

function checkCount(count: number): void {
  if (count > maxKeysAtOnce) throw new LpsError('INVALID_ARGUMENT', `at most ${maxKeysAtOnce} keys at once`);
}
