import type { Clock } from '@large-payload/core';

/**
 * At most so many requests a second, with a burst of one second's worth. Whoever comes gets the next free moment and waits
 * for it, in the order of coming.
 */
export class RequestRate {
  readonly #intervalMs: number;
  readonly #burstMs: number;
  readonly #clock: Clock;
  /** When a request would be due that had no burst to use. */
  #due = Number.NEGATIVE_INFINITY;

  constructor(perSecond: number, clock: Clock) {
    this.#intervalMs = 1000 / perSecond;
    this.#burstMs = 1000 - this.#intervalMs;
    this.#clock = clock;
  }

  /** Rejects when the signal is aborted first. */
  async take(signal: AbortSignal): Promise<void> {
    const now = this.#clock.monotonicMs();
    const due = Math.max(now, this.#due);
    this.#due = due + this.#intervalMs;
    const waitMs = due - now - this.#burstMs;
    if (waitMs > 0) await this.#clock.sleep(waitMs, signal);
  }

  /** Nobody who comes from now on goes on for so long, and then without a burst. */
  pause(ms: number): void {
    this.#due = Math.max(this.#due, this.#clock.monotonicMs() + ms + this.#burstMs);
  }
}
