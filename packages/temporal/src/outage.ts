import { type BlobStore, type Clock, isLpsError, LpsError, manyListeners, passThrough } from '@large-payload/core';
import { Circuit } from './circuit.js';

export interface OutageOptions {
  /** Payloads of fewer bytes, serialized, stay inline while the store is away. 0: none does. */
  readonly inlineBelowBytes: number;
  readonly clock: Clock;
}

/** Each attempt counts, and a deposit makes several: a store that is away is noticed within half a second. */
const failuresToOpen = 3;
const probeEveryMs = 2000;
const probeTimeoutMs = 5000;
/** Temporal refuses larger payloads: to keep one inline would only fail later. */
const temporalPayloadLimitBytes = 2 * 1024 * 1024;

/**
 * What becomes of small payloads while the store can't be reached: they stay inline. The codec, the driver's selector
 * and the heartbeats of one plugin share one of these, and so see the same circuit.
 *
 * Large payloads are tried all the same, and the first that comes through closes the circuit. Small ones never wait for
 * a probe: the one that finds it due starts it in the background, and stays inline itself.
 */
export class Outage {
  readonly #inlineBelowBytes: number;
  readonly #circuit: Circuit;
  #probe: () => Promise<void> = async () => {};

  /** Throws CONFIG_INVALID. */
  constructor({ inlineBelowBytes, clock }: OutageOptions) {
    if (!(inlineBelowBytes >= 0 && inlineBelowBytes <= temporalPayloadLimitBytes)) {
      const message = `\`inlineBelowBytes\` must be from 0 to ${temporalPayloadLimitBytes}, the most that Temporal takes`;
      throw new LpsError('CONFIG_INVALID', message);
    }
    this.#inlineBelowBytes = inlineBelowBytes;
    this.#circuit = new Circuit({ failures: failuresToOpen, probeEveryMs, clock });
  }

  get isAway(): boolean {
    return this.#circuit.state !== 'closed';
  }

  /** Aborted when the store is found to be away. */
  get whileReachable(): AbortSignal {
    return manyListeners(this.#circuit.whileClosed);
  }

  /** Whether a payload of so many bytes, serialized, may stay inline when it must. */
  isSmall(bytes: number): boolean {
    return bytes < this.#inlineBelowBytes;
  }

  /** Whether it is to stay inline now. */
  keepsInline(bytes: number): boolean {
    if (!this.isAway || !this.isSmall(bytes)) return false;
    if (this.#circuit.takeProbe()) void this.#probe();
    return true;
  }

  /**
   * The same store, whose uploads tell the circuit how they end. Downloads do not: the service serves them while its
   * catalog is away, and they would close the circuit for uploads that cannot succeed.
   */
  watch(store: BlobStore): BlobStore {
    this.#probe = () => this.#ask(store);
    return {
      ...passThrough(store),
      put: async (key, body, expect, options) => {
        try {
          const result = await store.put(key, body, expect, options);
          this.#circuit.succeeded();
          return result;
        } catch (error) {
          this.#note(error, options?.signal);
          throw error;
        }
      },
    };
  }

  async #ask(store: BlobStore): Promise<void> {
    const signal = AbortSignal.timeout(probeTimeoutMs);
    try {
      // a store that cannot be asked gets the next small payload to prove itself
      await store.ready?.({ signal });
      this.#circuit.succeeded();
    } catch (error) {
      // whoever answers "no" (a right is missing) has been reached
      if (isLpsError(error) && !error.retryable) this.#circuit.succeeded();
      else this.#circuit.failed();
    }
  }

  #note(error: unknown, signal: AbortSignal | undefined): void {
    if (signal?.aborted) {
      // given up by the caller, or because the deadline passed without an answer
      if (isLpsError(signal.reason, 'TOO_SLOW')) this.#circuit.failed({ outright: true });
      return;
    }
    const isOutage = !isLpsError(error) || (error.retryable && error.code !== 'ABORTED' && error.code !== 'TRY_AGAIN');
    if (isOutage) this.#circuit.failed();
  }
}
