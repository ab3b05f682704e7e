import { type Claim, LpsError, type Permit } from '@large-payload/core';
import {
  ExternalStorage,
  type Payload,
  type StorageDriver,
  StorageDriverClaim,
  type StorageDriverRetrieveContext,
  type StorageDriverStoreContext,
} from '@temporalio/common';
import { type Backend, type OpenBackend, openBackend } from './backend.js';
import { formatClaimData, parseClaimData } from './driver-claim.js';
import { withFailures } from './failure.js';
import { assertReferencesCanBeEncoded } from './protobufjs-check.js';

export type LargePayloadDriverOptions = Backend & {
  /** The Temporal namespace of payloads for which the SDK names none (Nexus). */
  readonly namespace?: string;
  /** Written into every reference, which only a driver of this name can resolve. Default `large-payload`. */
  readonly name?: string;
};

/**
 * The SDK after 1.24 passes this, and warns about a driver that does not use it: every transfer runs inside a permit,
 * one for each blob, never one inside another (that would deadlock).
 */
export interface Limited<Item> {
  readonly limiter?: { permit<T>(item: Item, operation: () => Promise<T>): Promise<T> };
}

/** Payloads of at least this many bytes, serialized. The SDK's own 262,144 lets 20 results break a 4 MB message. */
export const defaultPayloadSizeThreshold = 128_000;

/**
 * A driver for Temporal's External Storage.
 *
 *     const dataConverter = { externalStorage: externalStorage({ url: 'http://127.0.0.1:8577' }) };
 *
 * Makes no request when it is constructed. A heartbeat whose details cannot be stored ends the worker (SDK 1.24 does not
 * catch what a driver throws there): transfers are retried for `deadlineMs` first, but keep heartbeat details small. With
 * `LargePayloadPlugin` the worker lives.
 */
export class LargePayloadDriver implements StorageDriver {
  readonly name: string;
  readonly type = 'large-payload';
  readonly #backend: OpenBackend;
  readonly #namespace: string | undefined;

  /** Throws CONFIG_INVALID, also when references cannot be encoded in this installation (see protobufjs-check.ts). */
  constructor(options: LargePayloadDriverOptions) {
    const { namespace, name = 'large-payload', ...backend } = options;
    if (name === '') throw new LpsError('CONFIG_INVALID', 'the driver needs a name');
    assertReferencesCanBeEncoded();
    this.name = name;
    this.#namespace = namespace;
    this.#backend = openBackend(backend as Backend, namespace);
  }

  /** One claim a payload, in order. Throws `ApplicationFailure` (failure.ts). */
  async store(
    context: StorageDriverStoreContext & Limited<Payload>,
    payloads: Payload[],
  ): Promise<StorageDriverClaim[]> {
    const namespace = context.target?.namespace || this.#namespace;
    const claims = await withFailures(context.abortSignal, () =>
      this.#backend.claimCheck.depositAll(payloads, {
        ...(namespace === undefined ? {} : { namespace }),
        ...callOptions<Payload>(context),
      }),
    );
    return claims.map((claim) => new StorageDriverClaim(formatClaimData(claim)));
  }

  /** One payload a claim, in order. Throws `ApplicationFailure` (failure.ts). */
  async retrieve(
    context: StorageDriverRetrieveContext & Limited<StorageDriverClaim>,
    claims: StorageDriverClaim[],
  ): Promise<Payload[]> {
    const { limiter } = context;
    return withFailures(context.abortSignal, () => {
      const originals = new Map<Claim, StorageDriverClaim>(
        claims.map((claim) => [parseClaimData(claim.claimData), claim]),
      );
      const permit: Permit<Claim> = (claim, operation) => {
        const original = originals.get(claim);
        return limiter && original ? limiter.permit(original, operation) : operation();
      };
      return this.#backend.claimCheck.redeemAll([...originals.keys()], { ...callOptions(context), permit });
    });
  }

  /** Lets go of the connections to `url`; a `store` that was given stays open. */
  close(): Promise<void> {
    return this.#backend.close();
  }
}

/** External Storage with this driver alone, for `dataConverter.externalStorage`. */
export function externalStorage(
  options: LargePayloadDriverOptions & {
    /** Payloads whose serialized form has at least this many bytes are offloaded. Default 128,000. */
    readonly payloadSizeThreshold?: number;
  },
): ExternalStorage {
  const { payloadSizeThreshold = defaultPayloadSizeThreshold, ...driver } = options;
  return new ExternalStorage({
    drivers: [new LargePayloadDriver(driver as LargePayloadDriverOptions)],
    payloadSizeThreshold,
  });
}

function callOptions<Item>(context: { readonly abortSignal?: AbortSignal } & Limited<Item>): {
  signal?: AbortSignal;
  permit?: Permit<Item>;
} {
  const { abortSignal, limiter } = context;
  return {
    ...(abortSignal === undefined ? {} : { signal: abortSignal }),
    ...(limiter === undefined ? {} : { permit: (item, operation) => limiter.permit(item, operation) }),
  };
}
