/**
 * Uses of blobs that a cache node answered by itself, told to upstream: so that the collection sees them as it sees others.
 *
 *   add ─► waiting, one for a key ─► every 5 s POST /v3/touches, 1,000 at a time ─► not answered? they wait on
 *
 * What a kill takes away is 5 s of uses. A blob whose use must not be lost is asked for upstream instead: see `hasRoom`.
 */
import { isLpsError } from '@large-payload/core';
import { type Moment, moment } from '../catalog/row-cache.js';
import type { UpstreamApi } from './upstream-api.js';

export interface TouchForwarderOptions {
  readonly api: Pick<UpstreamApi, 'json'>;
  /** Default 5,000. */
  readonly everyMs?: number;
  /** Keys that may wait. Default 10,000. */
  readonly maxWaiting?: number;
  /** Both clocks of this machine; for tests. */
  readonly clock?: () => Moment;
  /** Told when a batch could not be sent; it is sent again unless upstream does not take it. */
  readonly onError?: (error: unknown) => void;
}

export interface TouchState {
  readonly waiting: number;
  /** Since the start. */
  readonly forwarded: number;
}

export const maxTouchesAtOnce = 1000;
const endTimeoutMs = 5000;

export class TouchForwarder {
  readonly #options: TouchForwarderOptions;
  readonly #maxWaiting: number;
  readonly #clock: () => Moment;
  /** When each key was read last. */
  readonly #waiting = new Map<string, Moment>();
  readonly #timer: NodeJS.Timeout;
  #forwarded = 0;
  #sending: Promise<void> | undefined;

  constructor(options: TouchForwarderOptions) {
    this.#options = options;
    this.#maxWaiting = options.maxWaiting ?? 10_000;
    this.#clock = options.clock ?? (() => moment());
    this.#timer = setInterval(() => void this.flush(), options.everyMs ?? 5000).unref();
  }

  /** Whether a use of this blob can be taken now. If not, upstream must be asked for the blob: that is a use, too. */
  hasRoom(key: string): boolean {
    return this.#waiting.size < this.#maxWaiting || this.#waiting.has(key);
  }

  add(key: string): void {
    if (this.hasRoom(key)) this.#waiting.set(key, this.#clock());
  }

  state(): TouchState {
    return { waiting: this.#waiting.size, forwarded: this.#forwarded };
  }

  /** Tells upstream what waits now. Never throws. */
  flush(timeoutMs?: number): Promise<void> {
    this.#sending ??= this.#send(timeoutMs).finally(() => {
      this.#sending = undefined;
    });
    return this.#sending;
  }

  /** Tells the rest, unless upstream is away. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#sending;
    await this.flush(endTimeoutMs);
  }

  async #send(timeoutMs: number | undefined): Promise<void> {
    const all = [...this.#waiting];
    for (let at = 0; at < all.length; at += maxTouchesAtOnce) {
      const batch = all.slice(at, at + maxTouchesAtOnce);
      const now = this.#clock();
      const touches = batch.map(([key, readAt]) => ({ key, agoMs: elapsedMs(readAt, now) }));
      const call = { body: { touches }, ...(timeoutMs === undefined ? {} : { timeoutMs }) };
      try {
        await this.#options.api.json('POST', '/v3/touches', call);
        this.#forwarded += batch.length;
      } catch (error) {
        this.#options.onError?.(error);
        if (!isLpsError(error, 'INVALID_ARGUMENT') && !isLpsError(error, 'INVALID_KEY')) return;
      }
      // one that was read again meanwhile waits on
      for (const [key, readAt] of batch) if (this.#waiting.get(key) === readAt) this.#waiting.delete(key);
    }
  }
}

/** By the clock that went further: the machine may have slept. */
function elapsedMs(since: Moment, now: Moment): number {
  return Math.max(0, Math.ceil(Math.max(now.steadyMs - since.steadyMs, now.wallMs - since.wallMs)));
}
