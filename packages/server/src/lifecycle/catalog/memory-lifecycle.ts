/**
 * Both sides of the catalog in memory, on one model, with a clock that is passed in: what the simulation runs on. It keeps
 * to the same suite as the one on PostgreSQL (./lifecycle-contract-fixture.ts). A call is done at once, and the same calls
 * give the same answers.
 */
import { type BlobKey, LpsError, parseKey } from '@large-payload/core';
import { logicalKey } from '../../catalog/blob-record.js';
import type { BlobRow, BlobState, Catalog } from '../../catalog/catalog.js';
import type {
  Brake,
  BrakeKind,
  Fence,
  LifecycleCatalog,
  NewPin,
  Permission,
  Pin,
  RetiredObject,
  StateSum,
  SweptBlob,
} from '../lifecycle-catalog.js';
import { MemoryCatalog } from './memory-catalog.js';
import { MemoryMarks } from './memory-marks.js';
import { type MemoryBlob, MemoryEdges, MemoryModel, type MemoryOptions } from './memory-model.js';
import { isPinnedBy, parsePinKey } from './pin-key.js';

export interface MemoryLifecycle {
  readonly catalog: Catalog;
  readonly lifecycle: LifecycleCatalog;
  /** The rows, for whoever checks them; not to be written. */
  readonly model: MemoryModel;
  /** Another leader than before. */
  lead(): Fence;
}

export function memoryLifecycle(options: MemoryOptions): MemoryLifecycle {
  const model = new MemoryModel(options);
  const lifecycle = new MemoryLifecycleCatalog(model);
  return { catalog: new MemoryCatalog(model), lifecycle, model, lead: () => lifecycle.lead() };
}

const maxAtOnce = 1000;

class MemoryLifecycleCatalog extends MemoryMarks implements LifecycleCatalog {
  readonly #retired = new Map<string, RetiredObject>();
  readonly #pins = new Map<string, Pin>();
  readonly #brakes = new Map<string, Brake>();
  /** When brakes were let go of. */
  #released: number[] = [];
  #rounds = 0n;
  #roundTimes: { readonly beganAt?: Date; readonly requestedAt?: Date } = {};

  constructor(model: MemoryModel) {
    super(model, new MemoryEdges());
  }

  async candidates(permission: Permission, after: bigint, limit: number): Promise<SweptBlob[]> {
    return this.#walk((row) => this.#isCandidate(row, permission), after, limit);
  }

  async condemned(permission: Permission, quarantineMs: number, after: bigint, limit: number): Promise<SweptBlob[]> {
    return this.#walk((row) => this.#isCondemned(row, permission, quarantineMs), after, limit);
  }

  async quarantine(fence: Fence, permission: Permission, ids: readonly bigint[]): Promise<SweptBlob[]> {
    const due = this.#decide(fence, permission, ids).filter((row) => this.#isCandidate(row, permission));
    for (const row of due) this.model.become(row, 'quarantined');
    return due.map((row) => this.#toSwept(row));
  }

  async retire(
    fence: Fence,
    permission: Permission,
    quarantineMs: number,
    ids: readonly bigint[],
  ): Promise<SweptBlob[]> {
    const rows = this.#decide(fence, permission, ids);
    const due = rows.filter((row) => this.#isCondemned(row, permission, quarantineMs));
    const swept = due.map((row) => this.#toSwept(row));
    for (const row of due) this.model.become(row, 'deleting');
    for (const { id: blobId, generation, physicalKey, size } of swept) {
      this.#retired.set(`${blobId} ${generation}`, { blobId, generation, physicalKey, size });
    }
    return swept;
  }

  #decide(fence: Fence, { marks }: Permission, ids: readonly bigint[]): MemoryBlob[] {
    if (ids.length > maxAtOnce) throw new LpsError('INVALID_ARGUMENT', `at most ${maxAtOnce} at once`);
    this.requireFence(fence);
    if (!marks.every((mark) => this.isCounting(mark))) {
      throw new LpsError('ABORTED', 'the marks that permit this do not count any more');
    }
    return sortById([...new Set(ids)].flatMap((id) => this.model.blobs.get(id) ?? []));
  }

  #isCandidate(row: MemoryBlob, { blobNamespace, untouchedSince }: Permission): boolean {
    if (row.blob.namespace !== blobNamespace || row.state !== 'live') return false;
    return row.touchedAt < untouchedSince.getTime() && this.#isUnheld(row);
  }

  #isCondemned(row: MemoryBlob, permission: Permission, quarantineMs: number): boolean {
    const { blobNamespace, untouchedSince, firstMarkStartedAt } = permission;
    const { quarantinedAt } = row;
    if (row.blob.namespace !== blobNamespace || row.state !== 'quarantined' || quarantinedAt === undefined)
      return false;
    const isDue = quarantinedAt < firstMarkStartedAt.getTime() && quarantinedAt <= this.model.now() - quarantineMs;
    return isDue && row.touchedAt < untouchedSince.getTime() && this.#isUnheld(row);
  }

  #isUnheld(row: MemoryBlob): boolean {
    if (this.edges.has(row.blob) || this.model.hasLease(row)) return false;
    for (const pin of this.#pins.values()) if (this.#holds(pin) && isPinnedBy(pin.key, row.key)) return false;
    return true;
  }

  #walk(isDue: (row: MemoryBlob) => boolean, after: bigint, limit: number): SweptBlob[] {
    const found: SweptBlob[] = [];
    for (const row of this.model.blobs.values()) {
      if (found.length >= limit) break;
      if (row.id > after && isDue(row)) found.push(this.#toSwept(row));
    }
    return found;
  }

  #toSwept(row: MemoryBlob): SweptBlob {
    const { id, key, generation, size } = row;
    return { id, key, physicalKey: this.model.physicalKey(row), generation, size };
  }

  async retired(after: bigint, limit: number): Promise<RetiredObject[]> {
    const all = [...this.#retired.values()].filter(({ blobId }) => blobId > after);
    all.sort((one, other) => (one.blobId < other.blobId ? -1 : one.blobId > other.blobId ? 1 : 0));
    const last = all[limit - 1];
    return all.filter(({ blobId }, at) => at < limit || blobId === last?.blobId);
  }

  async objectDeleted({ blobId, generation }: RetiredObject): Promise<void> {
    if (!this.#retired.delete(`${blobId} ${generation}`)) return;
    const row = this.model.blobs.get(blobId);
    if (row?.state === 'deleting' && row.generation === generation) this.model.become(row, 'gone');
  }

  async blob(key: BlobKey): Promise<BlobRow | undefined> {
    const row = this.model.blobsByKey.get(logicalKey(key));
    return row && this.model.toRow(row);
  }

  async undelete(key: BlobKey): Promise<BlobRow | undefined> {
    const row = this.model.blobsByKey.get(logicalKey(key));
    if (row?.state !== 'quarantined') return undefined;
    this.#revive(row);
    return this.model.toRow(row);
  }

  #revive(row: MemoryBlob): void {
    this.model.become(row, 'live');
    this.model.touch(row);
  }

  async sums(blobNamespace?: string): Promise<Map<BlobState, StateSum>> {
    const sums = new Map<BlobState, { blobs: number; bytes: number }>();
    for (const row of this.model.blobs.values()) {
      if (blobNamespace !== undefined && row.blob.namespace !== blobNamespace) continue;
      if (row.state === 'uploading' && !this.model.hasLease(row)) continue;
      const sum = sums.get(row.state) ?? { blobs: 0, bytes: 0 };
      sum.blobs += 1;
      sum.bytes += row.size;
      sums.set(row.state, sum);
    }
    return sums;
  }

  async blobNamespaces(): Promise<string[]> {
    return [...new Set([...this.model.blobs.values()].map(({ blob }) => blob.namespace))].sort();
  }

  async revivedSince(since: Date): Promise<number> {
    return this.model.revivals.filter((at) => at >= since.getTime()).length;
  }

  async nextRound(fence: Fence): Promise<bigint> {
    this.requireFence(fence);
    this.#rounds += 1n;
    this.#roundTimes = { beganAt: await this.now() };
    return this.#rounds;
  }

  async roundTimes(): Promise<{ readonly beganAt?: Date; readonly requestedAt?: Date }> {
    return this.#roundTimes;
  }

  async requestRound(): Promise<void> {
    this.#roundTimes = { ...this.#roundTimes, requestedAt: await this.now() };
  }

  async rounds(): Promise<bigint> {
    return this.#rounds;
  }

  async noteRestored(fence: Fence, rounds: bigint): Promise<void> {
    this.requireFence(fence);
    this.model.rebuiltAt = this.model.now();
    if (rounds > this.#rounds) this.#rounds = rounds;
  }

  async rebuiltAt(): Promise<Date | undefined> {
    return this.model.rebuiltAt === undefined ? undefined : new Date(this.model.rebuiltAt);
  }

  async pins(key?: string): Promise<Pin[]> {
    if (key !== undefined) parsePinKey(key);
    const found = [...this.#pins.values()].filter(
      (pin) => this.#holds(pin) && (key === undefined || isPinnedBy(pin.key, key) || isPinnedBy(key, pin.key)),
    );
    return found.sort(
      (one, other) => other.createdAt.getTime() - one.createdAt.getTime() || (one.id < other.id ? -1 : 1),
    );
  }

  #holds({ expiresAt }: Pin): boolean {
    return expiresAt === undefined || expiresAt.getTime() > this.model.now();
  }

  async addPin({ key: text, owner, reason, expiresAt, ...rest }: NewPin): Promise<Pin> {
    const { key, isPrefix } = parsePinKey(text);
    const { id = `pin-${this.model.newId()}`, createdAt = new Date(this.model.now()) } = rest;
    const pin = this.#pins.get(id) ?? { id, key, owner, reason, createdAt, ...(expiresAt && { expiresAt }) };
    this.#pins.set(id, pin);
    const named = isPrefix ? [...this.model.blobs.values()] : [this.model.blobsByKey.get(logicalKey(parseKey(key)))];
    for (const row of named) {
      if (row === undefined || !isPinnedBy(key, row.key)) continue;
      if (row.state === 'quarantined' || (row.state === 'live' && !isPrefix)) this.#revive(row);
    }
    return pin;
  }

  async removePin(id: string): Promise<boolean> {
    return this.#pins.delete(id);
  }

  async expiredPins(overMs: number, limit: number): Promise<string[]> {
    const before = this.model.now() - overMs;
    const over = ({ expiresAt }: Pin): number => expiresAt?.getTime() ?? Number.POSITIVE_INFINITY;
    const expired = [...this.#pins.values()].filter((pin) => over(pin) <= before);
    return expired
      .sort((one, other) => over(one) - over(other))
      .slice(0, limit)
      .map(({ id }) => id);
  }

  async brakes(): Promise<Brake[]> {
    return [...this.#brakes.values()];
  }

  async brake({ kind, blobNamespace, reason }: Omit<Brake, 'since'>): Promise<void> {
    const name = brakeName(kind, blobNamespace);
    if (this.#brakes.has(name)) return;
    const since = new Date(this.model.now());
    this.#brakes.set(name, { kind, reason, since, ...(blobNamespace === undefined ? {} : { blobNamespace }) });
  }

  async release(kind: BrakeKind, blobNamespace: string | undefined, _by: string): Promise<boolean> {
    if (!this.#brakes.delete(brakeName(kind, blobNamespace))) return false;
    this.#released.push(this.model.now());
    return true;
  }

  async prune(marksKept: number, brakesKeptMs: number, limit: number): Promise<{ marks: number; brakes: number }> {
    const before = this.model.now() - brakesKeptMs;
    const due = this.#released.filter((at) => at <= before).length;
    this.#released = this.#released.filter((at) => at > before);
    return { marks: this.pruneMarks(marksKept, limit), brakes: Math.min(due, limit) };
  }
}

function brakeName(kind: BrakeKind, blobNamespace = ''): string {
  return `${kind} ${blobNamespace}`;
}

function sortById<Row extends { readonly id: bigint }>(rows: Row[]): Row[] {
  return rows.sort((one, other) => (one.id < other.id ? -1 : 1));
}
