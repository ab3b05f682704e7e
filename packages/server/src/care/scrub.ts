/**
 * Re-hashes everything that the catalog knows, where it lies in the store, at a bounded rate, and marks what is damaged:
 * the service then answers 404 for it, and the next upload brings it back.
 *
 *   rows by id, from the saved position to the end that was fixed at the start
 *     └─ a batch: about ten seconds of reading, several objects at a time
 *          └─ one transaction: marks, counts and the new position
 *
 *   live, quarantined   right: nothing is written. Missing or wrong: damaged.
 *   damaged             right: live again, in a new generation. Else it is reported once more.
 *   all others          left alone: being uploaded, being deleted, or gone
 *
 * Where the position is: in the table `scrub`, so another process or replica goes on where a killed one was; what the
 * killed one had read of its batch is read again. Of two at once the later one has the pass, and the earlier one finds
 * that out at its next save, which then writes nothing.
 *
 * Why a mark is safe: it counts only for the generation of the row that was read before the object was, so uploads,
 * deletions and other healers in between win. An object that the store cannot give is not damaged. Before anything is
 * marked the store must prove that it is the catalog's own and all there: an unmounted disk or an emptied bucket has
 * lost `.lps/catalog` as well.
 *
 * Why healing is safe: the bytes had the right digest a moment ago, which is all that an upload knows, too. It does not
 * touch (gc.md, rule 1): uses of a damaged blob were answered 404, so nothing was promised meanwhile.
 *
 * Objects that the catalog does not know are the business of ./reconcile.ts.
 */
import { type BlobStore, isLpsError } from '@large-payload/core';
import { requireOwner } from '../bucket-owner.js';
import type { CareCatalog, KnownRow, ScrubCounts, ScrubPass, ScrubStep, Settled } from '../catalog/care-catalog.js';
import { AtRest, type Hashed } from './at-rest.js';
import { each } from './each.js';
import type { Damage, Finding } from './finding.js';
import { Throttle } from './throttle.js';

export interface ScrubOptions {
  readonly catalog: CareCatalog;
  /** Below any cache. */
  readonly store: BlobStore;
  /** 0: as fast as it goes. */
  readonly maxBytesPerSecond: number;
  /** Objects read at the same time. */
  readonly concurrency: number;
  /** Begin anew, even when there is a pass to go on with. */
  readonly restart: boolean;
  readonly signal: AbortSignal;
  readonly onStart?: (pass: ScrubPass) => void;
  readonly onFinding?: (finding: Finding) => void;
  readonly onProgress?: (progress: ScrubProgress) => void;
  /** How much lies between two saved positions. Default: about ten seconds of reading. */
  readonly batchBytes?: number;
  /** See ./at-rest.ts. */
  readonly retryMs?: number;
}

export interface ScrubProgress {
  readonly blobs: number;
  readonly bytes: number;
  readonly damaged: number;
  /** Of the pass, 0 to 1, by ids: an estimate. */
  readonly fraction: number;
}

export interface ScrubReport extends ScrubCounts {
  readonly startedAt: Date;
  /** Whether an earlier process had begun the pass. */
  readonly isContinued: boolean;
}

const pageRows = 500;
/** What is read again after a kill. */
const batchSeconds = 10;
const smallestBatchBytes = 8 * 1024 * 1024;
const unlimitedBatchBytes = 1024 ** 3;

interface Seen {
  readonly row: KnownRow;
  readonly found: Hashed;
}

/** Runs a pass to its end. Throws what ends it before: what was found by then is saved. */
export async function scrub(options: ScrubOptions): Promise<ScrubReport> {
  const { catalog, store } = options;
  await requireOwner(store, catalog.id);
  const pass = await catalog.beginScrub({ restart: options.restart });
  options.onStart?.(pass);
  const { counts } = await new Scrubbing(options, pass).run();
  return { ...counts, startedAt: pass.startedAt, isContinued: pass.afterId > 0n };
}

class Scrubbing {
  readonly #atRest: AtRest;
  /** Of the batch under way: its last id, its rows, and how far it is. */
  #batch = { toId: 0n, rows: 1, blobs: 0, bytes: 0 };

  constructor(
    readonly options: ScrubOptions,
    public pass: ScrubPass,
  ) {
    const { store, maxBytesPerSecond, retryMs } = options;
    this.#atRest = new AtRest({
      store,
      prove: () => this.#prove(),
      throttle: new Throttle(maxBytesPerSecond),
      onBytes: (bytes) => {
        this.#batch.bytes += bytes;
        this.#tell();
      },
      ...(retryMs === undefined ? {} : { retryMs }),
    });
  }

  async run(): Promise<ScrubPass> {
    const { catalog, maxBytesPerSecond, batchBytes = batchBytesFor(maxBytesPerSecond) } = this.options;
    for (;;) {
      const page = await catalog.rowsAfter(this.pass.afterId, this.pass.untilId, pageRows);
      if (page.length === 0) break;
      for (const batch of batchesOf(page, batchBytes)) await this.#runBatch(batch);
    }
    await this.#save([], 0);
    return this.pass;
  }

  async #runBatch(rows: readonly KnownRow[]): Promise<void> {
    const { concurrency, signal } = this.options;
    const sinceMs = performance.now();
    this.#batch = { toId: rows.at(-1)?.id ?? this.pass.untilId, rows: rows.length, blobs: 0, bytes: 0 };
    const look = async (row: KnownRow, either: AbortSignal): Promise<Seen> => {
      const found = await this.#atRest.hash(row.physicalKey, either);
      this.#batch.blobs += 1;
      this.#tell();
      return { row, found };
    };
    const seen = await each(rows.filter(isAtRest), concurrency, signal, look);
    await this.#save(seen, Math.round(performance.now() - sinceMs), this.#batch.toId);
  }

  /** Without a position: the pass is at its end. */
  async #save(seen: readonly Seen[], elapsedMs: number, toId?: bigint): Promise<void> {
    const step = { ...stepOf(seen), bytes: toId === undefined ? 0 : this.#batch.bytes, elapsedMs };
    if (step.damaged.length > 0) await this.#prove();
    const position = { afterId: toId ?? this.pass.untilId, isLast: toId === undefined };
    const { pass, settled } = await this.options.catalog.saveScrub(this.pass, { ...step, ...position });
    this.pass = pass;
    this.#batch = { toId: pass.afterId, rows: 1, blobs: 0, bytes: 0 };
    this.#tell();
    for (const finding of findingsOf(seen, settled)) this.options.onFinding?.(finding);
  }

  #tell(): void {
    const { counts, afterId, untilId } = this.pass;
    const { toId, rows, blobs, bytes } = this.#batch;
    const id = Number(afterId) + Number(toId - afterId) * (blobs / rows);
    this.options.onProgress?.({
      blobs: counts.blobs + blobs,
      bytes: counts.bytes + bytes,
      damaged: counts.damaged,
      fraction: untilId === 0n ? 1 : id / Number(untilId),
    });
  }

  #prove(): Promise<void> {
    return requireOwner(this.options.store, this.options.catalog.id);
  }
}

/** Whether the row says that its object must be there now, or was and is damaged. */
export function isAtRest({ state }: KnownRow): boolean {
  return state === 'live' || state === 'quarantined' || state === 'damaged';
}

/** What is wrong with a row's object; `undefined` when nothing is known to be. */
export function damageOf(row: KnownRow, found: Hashed): Damage | undefined {
  if (found.kind === 'missing') return 'missing';
  if (found.kind !== 'wrong') return undefined;
  return found.size === row.size ? 'wrong bytes' : 'wrong length';
}

function batchBytesFor(maxBytesPerSecond: number): number {
  if (maxBytesPerSecond === 0) return unlimitedBatchBytes;
  return Math.min(unlimitedBatchBytes, Math.max(smallestBatchBytes, maxBytesPerSecond * batchSeconds));
}

function* batchesOf(rows: readonly KnownRow[], maxBytes: number): Generator<KnownRow[]> {
  let batch: KnownRow[] = [];
  let bytes = 0;
  for (const row of rows) {
    if (batch.length > 0 && bytes + row.size > maxBytes) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(row);
    bytes += row.size;
  }
  if (batch.length > 0) yield batch;
}

function stepOf(seen: readonly Seen[]): Omit<ScrubStep, 'afterId' | 'bytes' | 'elapsedMs' | 'isLast'> {
  const damaged = seen.filter(({ row, found }) => damageOf(row, found) !== undefined).map(({ row }) => row);
  return {
    blobs: seen.length,
    unreadable: seen.filter(({ found }) => found.kind === 'unreadable').length,
    stillDamaged: damaged.filter(({ state }) => state === 'damaged').length,
    damaged: damaged.filter(({ state }) => state !== 'damaged'),
    right: seen.flatMap(({ row, found }) => {
      if (found.kind !== 'right' || (row.state !== 'damaged' && found.size === row.size)) return [];
      return [{ row, object: { physicalKey: row.physicalKey, size: found.size } }];
    }),
  };
}

function findingsOf(seen: readonly Seen[], { marked, setRight }: Settled): Finding[] {
  return seen.flatMap(({ row, found }): Finding[] => {
    const { physicalKey: key, id, state } = row;
    const damage = damageOf(row, found);
    if (damage !== undefined) {
      if (state === 'damaged') return [{ kind: 'damaged', key, note: `${damage}, as before`, isNew: false }];
      return marked.has(id) ? [{ kind: 'damaged', key, note: damage, isNew: true }] : [];
    }
    if (found.kind === 'unreadable') return [unreadable(key, found.error)];
    if (!setRight.has(id)) return [];
    if (state === 'damaged') return [{ kind: 'healed', key, note: 'right again', isNew: true }];
    return [{ kind: 'corrected', key, note: 'its size', isNew: true }];
  });
}

/** The store's own words, for people. */
export function unreadable(key: string, error: unknown): Finding {
  return { kind: 'unreadable', key, note: isLpsError(error) ? error.code : 'the store failed', isNew: false };
}
