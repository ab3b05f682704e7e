import {
  type Claim,
  formatClaim,
  isClaimPayload,
  type KeyedClaim,
  LpsError,
  parseClaim,
  parseNamespace,
  serializedPayloadSize,
} from '@large-payload/core';
import type { Payload, PayloadCodec } from '@temporalio/common';
import { type Backend, type OpenBackend, openBackend } from './backend.js';
import { withFailures } from './failure.js';
import type { Outage } from './outage.js';

/** Payloads whose protobuf form is larger are offloaded. Source: the Go codec's default. */
export const defaultMinBytes = 128_000;

export type LargePayloadCodecOptions = Backend & {
  /** The Temporal namespace of the client or worker; the service keeps each one's blobs apart. */
  readonly namespace: string;
  /** Payloads whose serialized form is larger than this many bytes are offloaded. Default 128,000. */
  readonly minBytes?: number;
  /** Reads claims and makes none. */
  readonly decodeOnly?: boolean;
  /** Which payloads stay inline while the store can't be reached. Default none: they fail. Set by the plugin. */
  readonly outage?: Outage;
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
  readonly #outage: Outage | undefined;

  /** Throws CONFIG_INVALID, INVALID_KEY for a namespace that cannot be one. */
  constructor(options: LargePayloadCodecOptions) {
    const { namespace, minBytes = defaultMinBytes, decodeOnly = false, outage, ...backend } = options;
    this.#namespace = parseNamespace(namespace);
    if (!Number.isSafeInteger(minBytes) || minBytes < 0) {
      throw new LpsError('CONFIG_INVALID', '`minBytes` must be a number of bytes');
    }
    this.#minBytes = minBytes;
    this.#decodeOnly = decodeOnly;
    this.#outage = outage;
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
    const offloaded = payloads.filter((payload) => this.#isOffloaded(payload));
    if (offloaded.length === 0) return payloads;
    const claims = await withFailures(undefined, () => this.#deposit(offloaded));
    return payloads.map((payload) => {
      const claim = claims.get(payload);
      return claim === undefined ? payload : formatClaim(claim);
    });
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

  #isOffloaded(payload: Payload): boolean {
    // a reference to another external storage stays what it is: a claim could not carry its externalPayloads
    if (payload.externalPayloads && payload.externalPayloads.length > 0) return false;
    const bytes = serializedPayloadSize(payload);
    return bytes > this.#minBytes && !this.#outage?.keepsInline(bytes);
  }

  /** The claims of the payloads; those that stay inline after all are absent. */
  async #deposit(payloads: readonly Payload[]): Promise<Map<Payload, KeyedClaim>> {
    const outage = this.#outage;
    if (outage === undefined) return this.#depositAll(payloads);
    const isSmall = (payload: Payload): boolean => outage.isSmall(serializedPayloadSize(payload));
    const small = payloads.filter(isSmall);
    // apart from each other: the small ones give up when the circuit opens, the large ones when the deadline passes
    const deposits = await Promise.allSettled([
      this.#depositAll(payloads.filter((payload) => !isSmall(payload))),
      this.#depositAll(small, outage.whileReachable).catch((error: unknown) => {
        if (outage.isAway) return new Map<Payload, KeyedClaim>();
        throw error;
      }),
    ]);
    return new Map(
      deposits.flatMap((deposit) => {
        if (deposit.status === 'rejected') throw deposit.reason;
        return [...deposit.value];
      }),
    );
  }

  async #depositAll(payloads: readonly Payload[], signal?: AbortSignal): Promise<Map<Payload, KeyedClaim>> {
    const claims = await this.#backend.claimCheck.depositAll(payloads, {
      namespace: this.#namespace,
      ...(signal === undefined ? {} : { signal }),
    });
    return new Map(payloads.flatMap((payload, index) => (claims[index] ? [[payload, claims[index]] as const] : [])));
  }
}

function replaced(payloads: readonly Payload[], indices: readonly number[], by: readonly Payload[]): Payload[] {
  const replacementOf = new Map(indices.map((index, at) => [index, by[at]]));
  return payloads.map((payload, index) => replacementOf.get(index) ?? payload);
}
