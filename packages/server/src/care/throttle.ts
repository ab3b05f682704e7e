import { setTimeout as delay } from 'node:timers/promises';

/** A pause shorter than this is saved up: timers are not that exact. */
const shortestPauseMs = 5;

/** Holds those who call it to a number of bytes a second, all of them together. */
export class Throttle {
  #freeAtMs = 0;

  /** 0: no limit. */
  constructor(readonly bytesPerSecond: number) {}

  /** Resolves when so many more bytes are due. Rejects when the signal is aborted meanwhile. */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    if (this.bytesPerSecond === 0) return;
    const nowMs = performance.now();
    // time that went by unused is not made up for
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + (bytes / this.bytesPerSecond) * 1000;
    const pauseMs = this.#freeAtMs - nowMs;
    if (pauseMs >= shortestPauseMs) await delay(pauseMs, undefined, { signal });
  }
}
