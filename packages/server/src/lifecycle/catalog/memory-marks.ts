/** The part of ./memory-lifecycle.ts that is about marks and holders. */
import { type BlobKey, LpsError } from '@large-payload/core';
import type { Edge } from '../edge.js';
import type { HolderKind } from '../holders/holder-kind.js';
import type {
  Fence,
  HolderOfBlob,
  HolderRow,
  KnownNamespace,
  LifecycleCatalog,
  Mark,
  NamespaceName,
} from '../lifecycle-catalog.js';
import type { Identity } from '../temporal-api.js';
import type { MemoryEdges, MemoryModel } from './memory-model.js';

interface Holder {
  readonly id: bigint;
  readonly namespaceId: bigint;
  readonly kind: HolderKind['name'];
  readonly externalId: string;
  cursor: string | undefined;
  isDone: boolean;
  seenBy: bigint | undefined;
  scannedBy: bigint | undefined;
  goneAt: number | undefined;
}

const maxAtOnce = 1000;

export class MemoryMarks {
  readonly #namespaces = new Map<bigint, KnownNamespace>();
  readonly #forgotten = new Set<bigint>();
  readonly #marks = new Map<bigint, Mark>();
  readonly #holders = new Map<bigint, Holder>();
  readonly #holdersByName = new Map<string, Holder>();
  #epoch = 0n;

  constructor(
    readonly model: MemoryModel,
    readonly edges: MemoryEdges,
  ) {}

  lead(): Fence {
    this.#epoch += 1n;
    return { epoch: String(this.#epoch) };
  }

  requireFence({ epoch }: Fence): void {
    if (epoch !== String(this.#epoch)) throw new LpsError('ABORTED', 'another replica leads');
  }

  /** Complete, and younger than the rows. */
  isCounting(id: bigint): boolean {
    const mark = this.#marks.get(id);
    return mark?.isComplete === true && mark.endedAt !== undefined && this.#isYounger(mark);
  }

  #isYounger({ startedAt }: Mark): boolean {
    return this.model.rebuiltAt === undefined || startedAt.getTime() > this.model.rebuiltAt;
  }

  async now(): Promise<Date> {
    return new Date(this.model.now());
  }

  async knowNamespace({ cluster, name }: NamespaceName, identity: Identity): Promise<KnownNamespace> {
    const before = [...this.#namespaces.values()].find((one) => one.cluster === cluster && one.name === name);
    if (before !== undefined && !this.#forgotten.has(before.id)) return before;
    const known = { id: before?.id ?? this.model.newId(), cluster, name, identity };
    this.#forgotten.delete(known.id);
    this.#namespaces.set(known.id, known);
    return known;
  }

  async knownNamespaces(): Promise<KnownNamespace[]> {
    const nameOf = ({ cluster, name }: NamespaceName): string => `${cluster}\0${name}`;
    const known = [...this.#namespaces.values()].filter(({ id }) => !this.#forgotten.has(id));
    return known.sort((one, other) => (nameOf(one) < nameOf(other) ? -1 : 1));
  }

  async forgetNamespace({ id }: KnownNamespace): Promise<boolean> {
    if (!this.#isKnown(id)) return false;
    this.#forgetMarks(id);
    for (const holder of this.#holders.values()) if (holder.namespaceId === id) holder.goneAt ??= this.model.now();
    this.#forgotten.add(id);
    return true;
  }

  #isKnown(id: bigint): boolean {
    return this.#namespaces.has(id) && !this.#forgotten.has(id);
  }

  #forgetMarks(namespace: bigint): void {
    for (const mark of this.#marks.values()) if (mark.namespace.id === namespace) this.#marks.delete(mark.id);
  }

  async acceptIdentity({ id }: KnownNamespace, identity: Identity): Promise<void> {
    const known = this.#namespaces.get(id);
    if (known === undefined || !this.#isKnown(id)) throw notKnown();
    this.#namespaces.set(id, { ...known, identity });
    this.#forgetMarks(id);
    for (const holder of this.#holders.values()) if (holder.namespaceId === id) this.#forget(holder);
  }

  async beginMark(fence: Fence, namespace: KnownNamespace, retentionMs: number): Promise<Mark> {
    this.requireFence(fence);
    if (!this.#isKnown(namespace.id)) throw notKnown();
    const startedAt = new Date(this.model.now());
    const counts = { holders: 0, scanned: 0 };
    const mark = { id: this.model.newId(), namespace, startedAt, isComplete: false, gaps: [], retentionMs, ...counts };
    this.#marks.set(mark.id, mark);
    return mark;
  }

  async noteHolders(
    mark: Mark,
    kind: HolderKind['name'],
    found: readonly { readonly id: string; readonly isClosed: boolean }[],
  ): Promise<number> {
    if (found.length > maxAtOnce) throw new LpsError('INVALID_ARGUMENT', `at most ${maxAtOnce} at once`);
    this.#requireOpen(mark);
    let fresh = 0;
    for (const { id, isClosed } of found) {
      const holder = this.#holder(mark.namespace.id, kind, id);
      if (holder.seenBy !== mark.id) fresh += 1;
      holder.seenBy = mark.id;
      holder.goneAt = undefined;
      holder.isDone &&= isClosed;
    }
    return fresh;
  }

  #holder(namespaceId: bigint, kind: HolderKind['name'], externalId: string): Holder {
    const name = `${namespaceId} ${kind} ${externalId}`;
    const known = this.#holdersByName.get(name);
    if (known !== undefined) return known;
    const never = { cursor: undefined, seenBy: undefined, scannedBy: undefined, goneAt: undefined };
    const holder = { id: this.model.newId(), namespaceId, kind, externalId, isDone: false, ...never };
    this.#holders.set(holder.id, holder);
    this.#holdersByName.set(name, holder);
    return holder;
  }

  async saveScan(
    mark: Mark,
    { id }: HolderRow,
    scan: { readonly edges: readonly Edge[]; readonly cursor?: string | undefined; readonly isDone: boolean },
  ): Promise<void> {
    this.#requireOpen(mark);
    const holder = this.#holders.get(id);
    if (holder?.namespaceId !== mark.namespace.id) {
      throw new LpsError('ABORTED', 'the holder was forgotten while it was read');
    }
    holder.scannedBy = mark.id;
    holder.cursor = scan.cursor ?? holder.cursor;
    holder.isDone = scan.isDone;
    holder.goneAt = undefined;
    if (scan.cursor !== undefined) this.edges.lose(id, this.model.now());
    for (const edge of scan.edges) this.edges.add(id, edge);
  }

  async unseenHolders(mark: Mark, after: bigint, limit: number): Promise<HolderRow[]> {
    return this.#page(mark, after, limit, ({ seenBy, scannedBy }) => seenBy !== mark.id && scannedBy !== mark.id);
  }

  async unscannedHolders(mark: Mark, after: bigint, limit: number): Promise<HolderRow[]> {
    return this.#page(
      mark,
      after,
      limit,
      ({ seenBy, scannedBy, isDone }) => seenBy === mark.id && !isDone && scannedBy !== mark.id,
    );
  }

  #page({ namespace }: Mark, after: bigint, limit: number, isDue: (holder: Holder) => boolean): HolderRow[] {
    const found: HolderRow[] = [];
    for (const holder of this.#holders.values()) {
      if (found.length >= limit) break;
      const isAlive = holder.namespaceId === namespace.id && holder.goneAt === undefined;
      if (holder.id > after && isAlive && isDue(holder)) found.push(toHolderRow(holder));
    }
    return found;
  }

  async markGone({ id }: HolderRow): Promise<void> {
    const holder = this.#holders.get(id);
    if (holder !== undefined) holder.goneAt ??= this.model.now();
  }

  async forgetGone(lingerMs: number, limit: number): Promise<number> {
    const before = this.model.now() - lingerMs;
    const due = [...this.#holders.values()].filter(({ goneAt }) => goneAt !== undefined && goneAt <= before);
    due.sort((one, other) => (one.goneAt ?? 0) - (other.goneAt ?? 0));
    for (const holder of due.slice(0, limit)) this.#forget(holder);
    return Math.min(due.length, limit);
  }

  async forgetLost(lingerMs: number, limit: number): Promise<number> {
    return this.edges.removeLost(this.model.now() - lingerMs, limit);
  }

  #forget(holder: Holder): void {
    this.#holders.delete(holder.id);
    this.#holdersByName.delete(`${holder.namespaceId} ${holder.kind} ${holder.externalId}`);
    this.edges.removeHolder(holder.id);
  }

  async endMark(fence: Fence, { id }: Mark, outcome: Parameters<LifecycleCatalog['endMark']>[2]): Promise<Mark> {
    this.requireFence(fence);
    const open = this.#requireOpen({ id });
    const endedAt = new Date(Math.max(open.startedAt.getTime(), this.model.now()));
    const mark = { ...open, ...outcome, gaps: [...outcome.gaps], endedAt };
    this.#marks.set(id, mark);
    return mark;
  }

  pruneMarks(kept: number, limit: number): number {
    const due = [...this.#namespaces.keys()].flatMap((namespace) => {
      const marks = [...this.#marks.values()].filter((mark) => mark.namespace.id === namespace);
      const oldest = marks.filter(({ endedAt }) => endedAt !== undefined).at(-kept);
      return oldest === undefined ? [] : marks.filter(({ id }) => id < oldest.id);
    });
    for (const { id } of due.slice(0, limit)) this.#marks.delete(id);
    return Math.min(due.length, limit);
  }

  #requireOpen({ id }: Pick<Mark, 'id'>): Mark {
    const mark = this.#marks.get(id);
    if (mark === undefined || mark.endedAt !== undefined) {
      throw new LpsError('ABORTED', 'the mark has ended, or was forgotten');
    }
    return mark;
  }

  async marksOf(namespace: KnownNamespace, limit: number): Promise<Mark[]> {
    const ended = [...this.#marks.values()].filter(
      (mark) => mark.namespace.id === namespace.id && mark.endedAt !== undefined && this.#isYounger(mark),
    );
    return ended.reverse().slice(0, limit);
  }

  async holdersOf(key: BlobKey, limit: number): Promise<HolderOfBlob[]> {
    const found = this.edges.of(key).flatMap(({ holder: id, isByDigestAlone, lostAt }): HolderOfBlob[] => {
      const holder = this.#holders.get(id);
      const namespace = holder && this.#namespaces.get(holder.namespaceId);
      if (holder === undefined || namespace === undefined) return [];
      const lost = lostAt === undefined ? {} : { lostAt: new Date(lostAt) };
      return [{ namespace, holder: toHolderRow(holder), isByDigestAlone, ...lost }];
    });
    return found.slice(0, limit);
  }
}

function toHolderRow({ id, kind, externalId, cursor, isDone, goneAt }: Holder): HolderRow {
  return {
    ...{ id, kind, externalId, isDone },
    ...(cursor === undefined ? {} : { cursor }),
    ...(goneAt === undefined ? {} : { goneAt: new Date(goneAt) }),
  };
}

function notKnown(): LpsError {
  return new LpsError('INVALID_ARGUMENT', 'there is no such namespace in the catalog');
}
