import type { BlobRow } from './catalog.js';

/** A live row as it was read. Whether a touch is due depends on the moment, so that is worked out on the way out. */
export interface LiveRow {
  readonly row: BlobRow;
  /** Until then (by `elapsedClock`) the row's last touch is recent enough. */
  readonly dueAt: Moment;
}

/** A moment on two clocks of this process: the steady one may stand still while the machine sleeps. */
export interface Moment {
  readonly steadyMs: number;
  readonly wallMs: number;
}

/** Now, or `inMs` milliseconds from then. */
export function moment(inMs = 0, from: Moment = { steadyMs: performance.now(), wallMs: Date.now() }): Moment {
  return { steadyMs: from.steadyMs + inMs, wallMs: from.wallMs + inMs };
}

/** Whether a moment has come, on either clock. */
export function isPast(at: Moment): boolean {
  return performance.now() >= at.steadyMs || Date.now() >= at.wallMs;
}

/**
 * Live rows by key, the least recently used go first. Used only between `open` (Postgres will tell us of every row that
 * leaves `live`) and `drop`.
 *
 * A row read before an eviction must not come in after it: `put` takes the number that `version` had before the read.
 */
export class RowCache {
  readonly #maxEntries: number;
  readonly #rows = new Map<string, LiveRow>();
  readonly #keys = new Map<bigint, string>();
  readonly #mayUse: () => boolean;
  #open = false;
  #version = 0;

  /** `mayUse`: asked before each use, beside `open`. */
  constructor(maxEntries: number, mayUse: () => boolean = () => true) {
    this.#maxEntries = maxEntries;
    this.#mayUse = mayUse;
  }

  get version(): number {
    return this.#version;
  }

  get size(): number {
    return this.#rows.size;
  }

  get(key: string): BlobRow | undefined {
    const found = this.#rows.get(key); // none while it is closed
    if (found === undefined || !this.#mayUse()) return undefined;
    this.#rows.delete(key);
    this.#rows.set(key, found);
    return isPast(found.dueAt) ? { ...found.row, touchDue: true } : found.row;
  }

  put(live: LiveRow, version: number): void {
    const { id, key, state } = live.row;
    if (!this.#open || version !== this.#version || state !== 'live' || this.#maxEntries === 0) return;
    this.#remove(key);
    this.#rows.set(key, live);
    this.#keys.set(id, key);
    const oldest = this.#rows.size > this.#maxEntries ? this.#rows.keys().next().value : undefined;
    if (oldest !== undefined) this.#remove(oldest);
  }

  evict(id: bigint): void {
    this.#version++;
    const key = this.#keys.get(id);
    if (key !== undefined) this.#remove(key);
  }

  /** These keys' rows, or all, go, and what is being read now does not come in. */
  forget(keys: readonly string[] = [...this.#rows.keys()]): void {
    this.#version++;
    for (const key of keys) this.#remove(key);
  }

  /** From now on evictions reach us. */
  open(): void {
    this.drop();
    this.#open = true;
  }

  /** Evictions no longer reach us. */
  drop(): void {
    this.#version++;
    this.#open = false;
    this.#rows.clear();
    this.#keys.clear();
  }

  #remove(key: string): void {
    const found = this.#rows.get(key);
    if (found === undefined) return;
    this.#rows.delete(key);
    this.#keys.delete(found.row.id);
  }
}
