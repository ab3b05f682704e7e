import type { Clock } from '@large-payload/core';

export type CircuitState = 'closed' | 'open' | 'half-open';

export interface CircuitOptions {
  /** So many failures in a row open it. */
  readonly failures: number;
  /** How long an open circuit waits before the next probe, in ms. */
  readonly probeEveryMs: number;
  readonly clock: Clock;
}

/**
 * Whether the store can be reached, as its users last saw it. It does no I/O and has no timer: it is told how calls
 * ended, and asked.
 *
 *   closed ──`failures` in a row, or one that used up its time──▶ open
 *     ▲                                                           │ `probeEveryMs` after it opened, by who asks first
 *     │                                                           ▼
 *     └──────────────any success, of a probe or not───────── half-open ──any failure──▶ open
 *
 * A probe that never reports keeps nobody from the next: that one is due after another `probeEveryMs`.
 */
export class Circuit {
  readonly #options: CircuitOptions;
  #state: CircuitState = 'closed';
  #failuresInRow = 0;
  #probeDueMs = 0;
  #closed = new AbortController();

  constructor(options: CircuitOptions) {
    this.#options = options;
  }

  get state(): CircuitState {
    return this.#state;
  }

  /** Aborted when the circuit opens; once it is closed again, there is a new one. */
  get whileClosed(): AbortSignal {
    return this.#closed.signal;
  }

  succeeded(): void {
    this.#failuresInRow = 0;
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#closed = new AbortController();
  }

  /** `outright`: there was no answer in all the time that was given, which needs no second look. */
  failed({ outright = false }: { readonly outright?: boolean } = {}): void {
    this.#failuresInRow += 1;
    const isEnough = outright || this.#failuresInRow >= this.#options.failures;
    if (this.#state === 'open' || (this.#state === 'closed' && !isEnough)) return;
    this.#state = 'open';
    this.#probeDueMs = this.#options.clock.monotonicMs() + this.#options.probeEveryMs;
    this.#closed.abort();
  }

  /** Whether the one who asks is to find out now if the store is back. True for one at a time. */
  takeProbe(): boolean {
    const nowMs = this.#options.clock.monotonicMs();
    if (this.#state === 'closed' || nowMs < this.#probeDueMs) return false;
    this.#state = 'half-open';
    this.#probeDueMs = nowMs + this.#options.probeEveryMs;
    return true;
  }
}
