import {
  type Claim,
  formatClaim,
  isClaimPayload,
  LpsError,
  parseClaim,
  parseNamespace,
  serializedPayloadSize,
} from '@large-payload/core';
import type { Payload, PayloadCodec } from '@temporalio/common';
import { type Backend, type OpenBackend, openBackend } from './backend.js';
import { withFailures } from './failure.js';

/** Payloads whose protobuf form is larger are offloaded. Source: the Go codec's default. */
export const defaultMinBytes = 128_000;

export type LargePayloadCodecOptions = Backend & {
  /** The Temporal namespace of the client or worker; the service keeps each one's blobs apart. */
  readonly namespace: string;
  /** Payloads whose serialized form is larger than this many bytes are offloaded. Default 128,000. */
  readonly minBytes?: number;
  /** Reads claims and makes none. */
  readonly decodeOnly?: boolean;
};

/**
 * Keeps large payloads out of the workflow history: a claim of the Go codec, byte for byte, takes their place. Claims
 * that the Go codec made are read, those of version v1 included. Put it last in `payloadCodecs`, so that compression
 * and encryption come before it.
 *
 *     const dataConverter = { payloadCodecs: [new LargePayloadCodec({ url: 'http://127.0.0.1:8577', namespace: 'default' })] };
 *
 * The constructor makes no request, so that a worker starts while the service is down; `connect` also asks whether the
 * service is ready, as the Go codec's `New` does.
 */
export class LargePayloadCodec implements PayloadCodec {
  readonly #backend: OpenBackend;
  readonly #namespace: string;
  readonly #minBytes: number;
  readonly #decodeOnly: boolean;

  /** Throws CONFIG_INVALID, INVALID_KEY for a namespace that cannot be one. */
  constructor(options: LargePayloadCodecOptions) {
    const { namespace, minBytes = defaultMinBytes, decodeOnly = false, ...backend } = options;
    this.#namespace = parseNamespace(namespace);
    if (!Number.isSafeInteger(minBytes) || minBytes < 0) {
      throw new LpsError('CONFIG_INVALID', '`minBytes` must be a number of bytes');
    }
    this.#minBytes = minBytes;
    this.#decodeOnly = decodeOnly;
    this.#backend = openBackend(backend as Backend, namespace);
  }

  /** A codec whose service is known to be ready. Throws SERVICE_UNREACHABLE and whatever else the service answers. */
  static async connect(options: LargePayloadCodecOptions): Promise<LargePayloadCodec> {
    const codec = new LargePayloadCodec(options);
    try {
      await codec.#backend.claimCheck.ready();
    } catch (error) {
      await codec.close();
      throw error;
    }
    return codec;
  }

  /** Claims in place of payloads that are too large; the others as they are. Throws `ApplicationFailure` (failure.ts). */
  async encode(payloads: Payload[]): Promise<Payload[]> {
    if (this.#decodeOnly) return payloads;
    const large = [...payloads.entries()].filter(([, payload]) => this.#isLarge(payload));
    if (large.length === 0) return payloads;
    const deposits = large.map(([, payload]) => payload);
    const claims = await withFailures(undefined, () =>
      this.#backend.claimCheck.depositAll(deposits, { namespace: this.#namespace }),
    );
    return replaced(
      payloads,
      large.map(([index]) => index),
      claims.map(formatClaim),
    );
  }

  /** Payloads in place of claims; the others as they are. Throws `ApplicationFailure` (failure.ts). */
  async decode(payloads: Payload[]): Promise<Payload[]> {
    const marked = [...payloads.entries()].filter(([, payload]) => isClaimPayload(payload));
    if (marked.length === 0) return payloads;
    const redeemed = await withFailures(undefined, () => {
      const claims = marked.map(([, payload]): Claim => parseClaim(payload));
      return this.#backend.claimCheck.redeemAll(claims);
    });
    return replaced(
      payloads,
      marked.map(([index]) => index),
      redeemed,
    );
  }

  /** Lets go of the connections to `url`; a `store` that was given stays open. */
  close(): Promise<void> {
    return this.#backend.close();
  }

  #isLarge(payload: Payload): boolean {
    // a reference to another external storage stays what it is: a claim could not carry its externalPayloads
    if (payload.externalPayloads && payload.externalPayloads.length > 0) return false;
    return serializedPayloadSize(payload) > this.#minBytes;
  }
}

function replaced(payloads: readonly Payload[], indices: readonly number[], by: readonly Payload[]): Payload[] {
  const replacementOf = new Map(indices.map((index, at) => [index, by[at]]));
  return payloads.map((payload, index) => replacementOf.get(index) ?? payload);
}
