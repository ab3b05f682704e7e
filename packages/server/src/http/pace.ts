/**
 * Refuses slow clients without a limit on a whole request: an honest 1 GiB upload may take an hour.
 *
 * Only time spent waiting for the client counts. When the store is what we wait for, the clock stands still.
 */
export interface PaceLimits {
  /** No byte for so long: too slow. Milliseconds. */
  readonly idleTimeoutMs: number;
  /** Bytes a second, on average, once `graceMs` of waiting have passed. */
  readonly minRate: number;
  readonly graceMs: number;
}

/** One transfer that is watched. */
export interface Transfer {
  /** Bytes moved so far. */
  progress(): number;
  /** Whether the client is the one who is waited for. */
  waitsForClient(): boolean;
  tooSlow(): void;
}

interface Watched {
  bytes: number;
  idleMs: number;
  waitedMs: number;
}

/** Watches every transfer under way, with one timer for all. */
export class PaceMonitor {
  readonly #transfers = new Map<Transfer, Watched>();
  #timer: NodeJS.Timeout | undefined;

  constructor(
    readonly limits: PaceLimits,
    readonly tickMs = 1000,
  ) {}

  watch(transfer: Transfer): () => void {
    this.#transfers.set(transfer, { bytes: transfer.progress(), idleMs: 0, waitedMs: 0 });
    this.#timer ??= setInterval(() => this.tick(this.tickMs), this.tickMs).unref();
    return () => {
      this.#transfers.delete(transfer);
      if (this.#transfers.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    };
  }

  /** Lets time pass. Public for tests, which bring their own clock. */
  tick(elapsedMs: number): void {
    // a copy: ending one transfer may begin another, whose time starts now
    for (const [transfer, watched] of [...this.#transfers]) {
      const bytes = transfer.progress();
      const moved = bytes - watched.bytes;
      watched.bytes = bytes;
      if (!transfer.waitsForClient()) continue;
      watched.waitedMs += elapsedMs;
      watched.idleMs = moved > 0 ? 0 : watched.idleMs + elapsedMs;
      if (!this.#isTooSlow(watched)) continue;
      this.#transfers.delete(transfer);
      transfer.tooSlow();
    }
  }

  #isTooSlow({ bytes, idleMs, waitedMs }: Watched): boolean {
    const { idleTimeoutMs, minRate, graceMs } = this.limits;
    return idleMs >= idleTimeoutMs || (waitedMs > graceMs && (bytes * 1000) / waitedMs < minRate);
  }
}
