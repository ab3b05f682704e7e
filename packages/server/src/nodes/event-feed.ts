/**
 * Events for cache nodes, over HTTP: each listener goes on from its own cursor, and whoever stands at the same place shares
 * one statement. One wake for all: a notification, or the heart-beat.
 */
import { setMaxListeners } from 'node:events';
import { LpsError } from '@large-payload/core';
import type { NodeEvent, ReadLeases } from './read-leases.js';

export interface EventFeedOptions {
  readonly leases: Pick<ReadLeases, 'events' | 'newest'>;
  /** M, in ms. */
  readonly leaseMs: number;
  /** Default 1000. */
  readonly maxListeners?: number;
}

export type FeedItem =
  | { readonly kind: 'events'; readonly events: readonly NodeEvent[] }
  /** Events behind the cursor are forgotten; it goes on behind `newest`. */
  | { readonly kind: 'reset'; readonly newest: bigint }
  /** Nothing new for a while. */
  | { readonly kind: 'quiet' };

const pageSize = 200;
const maxHeartbeatMs = 5000;

/** As many waiting as there are listeners. */
export class EventFeed {
  readonly heartbeatMs: number;
  readonly #leases: EventFeedOptions['leases'];
  readonly #maxListeners: number;
  /** Statements under way, by the cursor that they go on from. */
  #pages = new Map<bigint, Promise<NodeEvent[] | undefined>>();
  readonly #waiting = new Set<() => void>();
  readonly #closed = new AbortController();
  #listeners = 0;

  constructor({ leases, leaseMs, maxListeners = 1000 }: EventFeedOptions) {
    this.#leases = leases;
    this.#maxListeners = maxListeners;
    this.heartbeatMs = Math.min(maxHeartbeatMs, leaseMs / 4);
    setMaxListeners(0, this.#closed.signal);
  }

  get listeners(): number {
    return this.#listeners;
  }

  /** An event was heard of: everybody looks. */
  wake(): void {
    this.#pages = new Map(); // what was asked for before may not show it
    for (const run of [...this.#waiting]) run();
  }

  /** Ends all listeners. */
  close(): void {
    this.#closed.abort();
  }

  /** Counts a listener until the returned function is called. Throws OVERLOADED, and TRY_AGAIN when the service stops. */
  enter(): () => void {
    if (this.#closed.signal.aborted) throw new LpsError('TRY_AGAIN', 'the service is stopping');
    if (this.#listeners >= this.#maxListeners) throw new LpsError('OVERLOADED', 'too many listen to events here');
    this.#listeners += 1;
    let hasLeft = false;
    return () => {
      if (!hasLeft) this.#listeners -= 1;
      hasLeft = true;
    };
  }

  /**
   * What comes behind `after`, until the signal is aborted or the feed is closed, or, unless `isToWait`, nothing more is there.
   * While Postgres is away it is quiet.
   */
  async *follow(after: bigint, signal: AbortSignal, isToWait = true): AsyncGenerator<FeedItem, void, undefined> {
    let cursor = after;
    while (!signal.aborted && !this.#closed.signal.aborted) {
      const woken = this.#nextWake(signal);
      const item = await this.#behind(cursor).catch(() => undefined);
      if (item === undefined) {
        if (!isToWait) return woken.forget();
        if (!(await woken.happened)) yield { kind: 'quiet' };
        continue;
      }
      woken.forget();
      cursor = item.kind === 'reset' ? item.newest : (item.events.at(-1)?.id ?? cursor);
      yield item;
    }
  }

  async #behind(cursor: bigint): Promise<Exclude<FeedItem, { kind: 'quiet' }> | undefined> {
    const pages = this.#pages;
    let page = pages.get(cursor);
    if (page === undefined) {
      page = this.#leases.events(cursor, pageSize).finally(() => pages.delete(cursor));
      pages.set(cursor, page);
    }
    const events = await page;
    if (events === undefined) return { kind: 'reset', newest: await this.#leases.newest() };
    return events.length === 0 ? undefined : { kind: 'events', events };
  }

  /** Begins now: what is heard of while somebody looks counts. Says `false` when the heart-beat came first. */
  #nextWake(signal: AbortSignal): { readonly happened: Promise<boolean>; forget(): void } {
    let settle = (_: boolean): void => undefined;
    const happened = new Promise<boolean>((resolve) => {
      settle = resolve;
    });
    const run = (): void => end(true);
    const timer = setTimeout(() => end(false), this.heartbeatMs).unref();
    const end = (isWoken: boolean): void => {
      clearTimeout(timer);
      this.#waiting.delete(run);
      for (const one of [signal, this.#closed.signal]) one.removeEventListener('abort', run);
      settle(isWoken);
    };
    this.#waiting.add(run);
    for (const one of [signal, this.#closed.signal]) one.addEventListener('abort', run, { once: true });
    return { happened, forget: run };
  }
}
