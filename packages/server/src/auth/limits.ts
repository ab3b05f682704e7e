/** How much one caller may ask for: requests a second, and requests at the same time. */
import { ByteLru, type Clock, LpsError, systemClock } from '@large-payload/core';
import type { Principal } from './principal.js';

export interface LimitOptions {
  /** Requests a second, with bursts of twice as many; 0 is no limit. */
  readonly rate: number;
  /** Requests at the same time; 0 is no limit. */
  readonly concurrency: number;
  readonly clock?: Clock;
}

interface Bucket {
  readonly tokens: number;
  readonly atMs: number;
}

const maxBuckets = 10_000;

export class CallerLimits {
  readonly #rate: number;
  readonly #concurrency: number;
  readonly #clock: Clock;
  /** What a caller has left. Whoever was forgotten has been idle for longer than others, and has a full one again. */
  readonly #buckets = new ByteLru<Bucket>(maxBuckets);
  /** Only callers with requests under way. */
  readonly #open = new Map<string, number>();

  constructor({ rate, concurrency, clock = systemClock }: LimitOptions) {
    this.#rate = rate;
    this.#concurrency = concurrency;
    this.#clock = clock;
  }

  /** Begins a request; to be called once when it is over: what is returned. Throws RATE_LIMITED. */
  enter({ id }: Principal): () => void {
    const open = this.#open.get(id) ?? 0;
    if (this.#concurrency > 0 && open >= this.#concurrency) {
      throw limited('too many requests of this token at the same time', 1);
    }
    if (this.#rate > 0) this.#spend(id);
    this.#open.set(id, open + 1);
    return () => this.#leave(id);
  }

  #spend(id: string): void {
    const nowMs = this.#clock.monotonicMs();
    const size = 2 * this.#rate;
    const { tokens, atMs } = this.#buckets.get(id) ?? { tokens: size, atMs: nowMs };
    const filled = Math.min(size, tokens + ((nowMs - atMs) / 1000) * this.#rate);
    this.#buckets.set(id, { tokens: filled < 1 ? filled : filled - 1, atMs: nowMs }, 1);
    if (filled < 1) throw limited('too many requests of this token', Math.max(1, Math.ceil((1 - filled) / this.#rate)));
  }

  #leave(id: string): void {
    const open = (this.#open.get(id) ?? 1) - 1;
    if (open > 0) this.#open.set(id, open);
    else this.#open.delete(id);
  }
}

function limited(message: string, retryAfterSeconds: number): LpsError {
  return new LpsError('RATE_LIMITED', `${message}; try again`, { details: { retryAfterSeconds } });
}
