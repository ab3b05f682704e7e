/** What a process may serve from what it keeps, by the leases that it was granted. Pure: events and clocks come in. */
import { type Moment, moment } from '../catalog/row-cache.js';

/** What whoever grants a lease answers. */
export interface Granted {
  /** The number of the newest event. */
  readonly newest: bigint;
  /** How long the lease lasts, in ms, from when it was asked for. */
  readonly leaseMs: number;
}

/** Before every other. */
export const never: Moment = { steadyMs: Number.NEGATIVE_INFINITY, wallMs: Number.NEGATIVE_INFINITY };

/** How the holder of leases follows the events. Of two clocks the one that is further on counts: a machine may sleep. */
export class ReadLease {
  /** The last event that was applied. */
  #cursor: bigint;
  #endsAt = never;

  /** `cursor`: the newest event at the time from which on something is kept; nothing was kept before. */
  constructor(cursor: bigint) {
    this.#cursor = cursor;
  }

  get cursor(): bigint {
    return this.#cursor;
  }

  /** When it must have ended what it serves from what it keeps, unless it is granted another one. */
  get endsAt(): Moment {
    return this.#endsAt;
  }

  /** An event was applied: what it names is not served any more, and no read of it is under way. */
  applied(event: bigint): void {
    if (event > this.#cursor) this.#cursor = event;
  }

  /**
   * A wish that was sent at `sentAt` was granted. It counts only when every event is applied that whoever granted it knew of;
   * else this returns `false`: apply them, and tell again.
   */
  granted(sentAt: Moment, { newest, leaseMs }: Granted): boolean {
    if (this.#cursor < newest) return false;
    const endsAt = moment(leaseMs, sentAt);
    if (endsAt.steadyMs > this.#endsAt.steadyMs) this.#endsAt = endsAt;
    return true;
  }

  /** Whether what is kept may be served at this time. */
  isFresh(now: Moment): boolean {
    return this.endsInMs(now) > 0;
  }

  /** Until the end, in ms from now; 0 when that is over. */
  endsInMs(now: Moment): number {
    return Math.max(0, Math.min(this.#endsAt.steadyMs - now.steadyMs, this.#endsAt.wallMs - now.wallMs));
  }

  /** Everything that was kept is forgotten: events before this one mean nothing any more. */
  restarted(cursor: bigint): void {
    this.#cursor = cursor;
    this.#endsAt = never;
  }
}
