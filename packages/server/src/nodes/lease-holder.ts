/**
 * Holds leases on reading, for a replica or a cache node: one loop.
 *
 *   ask (with the cursor) ─► apply the events up to the newest, page by page ─► believe in the lease
 *    ▲                                                                            │
 *    └── when something was applied: at once, so that it is known; else after M/4, or when an event was heard of
 *
 * While the source fails it is asked again after a pause that grows; the lease that was granted last runs out by itself.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { LpsError } from '@large-payload/core';
import { type Moment, moment } from '../catalog/row-cache.js';
import { type Granted, ReadLease } from './read-lease.js';
import type { NodeEvent } from './read-leases.js';

/** Who grants leases: Postgres for a replica, the service for a cache node. Calls may throw; they are made again. */
export interface LeaseSource {
  /** `cursor`: the last event that was applied. */
  grant(cursor: bigint, signal: AbortSignal): Promise<Granted>;
  /** The next ones behind `after`, in order, without a gap; `undefined` when some of those are forgotten. */
  events(after: bigint, limit: number, signal: AbortSignal): Promise<readonly NodeEvent[] | undefined>;
  /** No more: it stops. */
  end(signal: AbortSignal): Promise<void>;
}

/** Whoever keeps something. When a function returns, none of it is served any more, and no read of it is under way. */
export interface Keeper {
  forget(events: readonly NodeEvent[]): void;
  /** Forgets everything. */
  clear(): void;
}

export interface LeaseHolder {
  /** Whether what is kept may be served at this moment. Ask again for each read. */
  isFresh(): boolean;
  /** When the lease ends, or ended; long ago when there was none. */
  endsAt(): Moment;
  /** An event was heard of: asks at once. */
  wake(): void;
  state(): LeaseState;
  /** Believes in nothing any more, and gives the lease back. Never throws. */
  close(): Promise<void>;
}

export interface LeaseState {
  readonly isFresh: boolean;
  /** Until the lease ends, in ms; 0 when it is over. */
  readonly endsInMs: number;
  /** The last event that was applied. */
  readonly cursor: bigint;
  /** Events that were applied since the start. */
  readonly applied: number;
  /** How often everything was forgotten since the start. */
  readonly cleared: number;
  /** Why it could not be renewed, since it was renewed the last time. */
  readonly problem?: unknown;
}

export interface LeaseHolderOptions {
  readonly source: LeaseSource;
  readonly keeper: Keeper;
  /** M as it is expected, in ms, until the source has said so. */
  readonly leaseMs: number;
  /**
   * The last event that everything kept is known to have seen. Absent: that is not known, and everything is forgotten before
   * the first lease is believed in.
   */
  readonly cursor?: bigint;
  /** Told of the cursor when it is known, and when it has moved. */
  readonly onCursor?: (cursor: bigint) => void;
  /** Told when the source fails after it had answered, and when it answers again (`undefined`). */
  readonly onProblem?: (error: unknown) => void;
  /** Both clocks of this machine; for tests. */
  readonly clock?: () => Moment;
  /** Settles after `ms`, or when the signal is aborted; for tests. */
  readonly pause?: (ms: number, signal: AbortSignal) => Promise<void>;
}

const pageSize = 1000;
/** Between two wishes at least, however many events there are. */
const minPauseMs = 10;
const firstBackOffMs = 100;
const maxBackOffMs = 5000;
const maxCallMs = 10_000;
const endTimeoutMs = 2000;

export function holdReadLease(options: LeaseHolderOptions): LeaseHolder {
  return new Holder(options);
}

class Holder implements LeaseHolder {
  readonly #options: LeaseHolderOptions;
  readonly #clock: () => Moment;
  readonly #wait: (ms: number, signal: AbortSignal) => Promise<void>;
  readonly #lease: ReadLease;
  readonly #stop = new AbortController();
  readonly #ended: Promise<void>;
  #leaseMs: number;
  #isCursorKnown: boolean;
  #applied = 0;
  #cleared = 0;
  #problem: unknown;
  /** Set while it pauses between two wishes. */
  #hurry: () => void = () => undefined;
  #isWoken = false;

  constructor(options: LeaseHolderOptions) {
    this.#options = options;
    this.#clock = options.clock ?? (() => moment());
    this.#wait = options.pause ?? pause;
    this.#leaseMs = options.leaseMs;
    this.#isCursorKnown = options.cursor !== undefined;
    this.#lease = new ReadLease(options.cursor ?? 0n);
    this.#ended = this.#run();
  }

  isFresh(): boolean {
    return !this.#stop.signal.aborted && this.#lease.isFresh(this.#clock());
  }

  endsAt(): Moment {
    return this.#lease.endsAt;
  }

  wake(): void {
    this.#isWoken = true;
    this.#hurry();
  }

  state(): LeaseState {
    return {
      isFresh: this.isFresh(),
      endsInMs: this.#stop.signal.aborted ? 0 : this.#lease.endsInMs(this.#clock()),
      cursor: this.#lease.cursor,
      applied: this.#applied,
      cleared: this.#cleared,
      ...(this.#problem === undefined ? {} : { problem: this.#problem }),
    };
  }

  async close(): Promise<void> {
    this.#stop.abort(new LpsError('ABORTED', 'the holder of leases is closed'));
    await this.#ended;
    const signal = AbortSignal.timeout(endTimeoutMs);
    await within(signal, this.#options.source.end(signal)).catch(() => undefined); // then it runs out
  }

  async #run(): Promise<void> {
    let backOffMs = firstBackOffMs;
    while (!this.#stop.signal.aborted) {
      this.#isWoken = false;
      try {
        const hasMoved = await this.#renew();
        backOffMs = firstBackOffMs;
        this.#tell(undefined);
        await this.#wait(minPauseMs, this.#stop.signal);
        if (!hasMoved) await this.#untilWoken(this.#leaseMs / 4);
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        this.#tell(error);
        // not to be woken: what fails is not asked more often for it
        const pauseMs = Math.min(backOffMs, this.#leaseMs / 4) * (0.5 + Math.random() / 2);
        await this.#wait(pauseMs, this.#stop.signal);
        backOffMs = Math.min(backOffMs * 2, maxBackOffMs);
      }
    }
  }

  /** Returns whether the cursor has moved: then whoever granted the lease does not know it yet. */
  async #renew(): Promise<boolean> {
    const { source } = this.#options;
    const before = this.#lease.cursor;
    const wasKnown = this.#isCursorKnown;
    const sentAt = this.#clock();
    const granted = await this.#call((signal) => source.grant(before, signal));
    // none for who lacks an old event: it asks again when it has applied that
    const isLate = granted.leaseMs === 0 && before < granted.newest;
    if (!(granted.leaseMs > 0) && !isLate) throw new LpsError('INTERNAL', 'a lease on reading without any time');
    if (!isLate) this.#leaseMs = granted.leaseMs;
    // a cursor ahead of all events is of another catalog, or of this one before a backup was restored
    if (!this.#isCursorKnown || before > granted.newest) this.#restart(granted.newest);
    while (this.#lease.cursor < granted.newest) await this.#applyPage(granted.newest);
    this.#lease.granted(sentAt, granted);
    const hasMoved = this.#lease.cursor !== before;
    if (hasMoved || !wasKnown) this.#options.onCursor?.(this.#lease.cursor);
    return hasMoved;
  }

  async #applyPage(newest: bigint): Promise<void> {
    const { source, keeper } = this.#options;
    const { cursor } = this.#lease;
    const page = await this.#call((signal) => source.events(cursor, pageSize, signal));
    if (page?.length === 0) throw new LpsError('INTERNAL', 'events are missing that must be there');
    if (page === undefined || !isNext(page, cursor)) return this.#restart(newest);
    keeper.forget(page);
    for (const { id } of page) this.#lease.applied(id);
    this.#applied += page.length;
  }

  /** All events up to `newest` are from before now, and whatever is kept now is forgotten. */
  #restart(newest: bigint): void {
    this.#options.keeper.clear();
    this.#cleared += 1;
    this.#isCursorKnown = true;
    this.#lease.restarted(newest);
  }

  /** A source that does not answer is asked again while the lease still lasts. */
  async #call<T>(call: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const abort = new AbortController();
    const onStop = (): void => abort.abort(this.#stop.signal.reason);
    const timer = setTimeout(
      () => abort.abort(new LpsError('SERVICE_UNREACHABLE', 'no answer about the lease on reading')),
      Math.min(Math.max(this.#leaseMs / 4, 250), maxCallMs),
    );
    this.#stop.signal.addEventListener('abort', onStop, { once: true });
    try {
      this.#stop.signal.throwIfAborted();
      return await within(abort.signal, call(abort.signal));
    } finally {
      clearTimeout(timer);
      this.#stop.signal.removeEventListener('abort', onStop);
    }
  }

  async #untilWoken(ms: number): Promise<void> {
    if (this.#isWoken) return;
    const hurried = new AbortController();
    const hurry = (): void => hurried.abort();
    this.#hurry = hurry;
    this.#stop.signal.addEventListener('abort', hurry, { once: true });
    if (!this.#stop.signal.aborted) await this.#wait(ms, hurried.signal);
    this.#stop.signal.removeEventListener('abort', hurry);
    this.#hurry = () => undefined;
  }

  #tell(problem: unknown): void {
    const hasChanged = (problem === undefined) !== (this.#problem === undefined);
    this.#problem = problem;
    if (hasChanged) this.#options.onProblem?.(problem);
  }
}

/** One behind the other, from the cursor on. */
function isNext(page: readonly NodeEvent[], cursor: bigint): boolean {
  return page.every(({ id }, at) => id === cursor + BigInt(at) + 1n);
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal, ref: false }).catch(() => undefined);
}

/** Settles as the work does, or throws the signal's reason as soon as it is aborted. */
async function within<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  let onAbort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason);
  });
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
