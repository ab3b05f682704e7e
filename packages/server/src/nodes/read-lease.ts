/** What a process may serve from what it keeps, by the leases that it was granted. Pure: events and clocks come in. */

/** How the holder of leases follows the events. */
export class ReadLease {
  /** The last event that was applied. */
  #cursor: bigint;
  #freshUntilMs = Number.NEGATIVE_INFINITY;

  /** `cursor`: the newest event at the time from which on something is kept; nothing was kept before. */
  constructor(cursor: bigint) {
    this.#cursor = cursor;
  }

  get cursor(): bigint {
    return this.#cursor;
  }

  /** An event was applied: what it names is not served any more, and no read of it is under way. */
  applied(event: bigint): void {
    if (event > this.#cursor) this.#cursor = event;
  }

  /**
   * A wish that was sent at `sentAtMs` (steady clock, ms) was granted. It counts only when every event is applied that whoever
   * granted it knew of; else this returns `false`: apply them, and tell again.
   */
  granted(sentAtMs: number, { newest, leaseMs }: { readonly newest: bigint; readonly leaseMs: number }): boolean {
    if (this.#cursor < newest) return false;
    this.#freshUntilMs = Math.max(this.#freshUntilMs, sentAtMs + leaseMs);
    return true;
  }

  /** Whether what is kept may be served at this time. */
  isFresh(nowMs: number): boolean {
    return nowMs < this.#freshUntilMs;
  }

  /** When it must have ended what it serves, unless it is granted another one: ms from now, 0 when that is over. */
  endsInMs(nowMs: number): number {
    return Math.max(0, this.#freshUntilMs - nowMs);
  }

  /** Everything that was kept is forgotten: events before this one mean nothing any more. */
  restarted(cursor: bigint): void {
    this.#cursor = cursor;
    this.#freshUntilMs = Number.NEGATIVE_INFINITY;
  }
}
