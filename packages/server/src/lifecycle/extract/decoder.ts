/**
 * A codec of the operator's, with a limit to its patience: it may ask a service for keys, and that may never answer. One that
 * did not answer is left alone for a while, or a mark would wait as long again for each payload there is.
 */
import { type Clock, LpsError } from '@large-payload/core';
import type { Payload, PayloadCodec } from '@temporalio/common';
import { runCodec } from '../../codec/codec-batches.js';

/** How long a codec is left alone that gave no answer. */
export const restMs = 300_000;

export class Decoder {
  readonly #codec: PayloadCodec;
  readonly #limitMs: number;
  readonly #clock: Clock;
  #restsUntil = Number.NEGATIVE_INFINITY;

  /** `limitMs` is for one payload. */
  constructor(codec: PayloadCodec, limitMs: number, clock: Clock) {
    this.#codec = codec;
    this.#limitMs = limitMs;
    this.#clock = clock;
  }

  /** Throws what is wrong, for an operator: TOO_SLOW, or what the codec throws. */
  async decode(payload: Payload): Promise<Payload> {
    if (this.#clock.monotonicMs() < this.#restsUntil) throw this.#tooSlow();
    const ended = new AbortController();
    const isLate = this.#clock.sleep(this.#limitMs, ended.signal).then(
      () => true,
      () => false,
    );
    try {
      // a copy goes to the codec: it is code of other people
      const decoding = runCodec(this.#codec, 'decode', [{ ...payload }], '');
      const decoded = await Promise.race([decoding, isLate]);
      if (typeof decoded !== 'boolean') return decoded[0] ?? payload;
    } finally {
      ended.abort();
    }
    this.#restsUntil = this.#clock.monotonicMs() + restMs;
    throw this.#tooSlow();
  }

  /** The same for all payloads: a mark names each reason once. */
  #tooSlow(): LpsError {
    const [limit, rest] = [this.#limitMs / 1000, restMs / 60_000];
    return new LpsError('TOO_SLOW', `a codec gave no answer within ${limit} s, and is not asked for ${rest} min then`);
  }
}
