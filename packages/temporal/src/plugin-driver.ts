import { serializedPayloadSize } from '@large-payload/core';
import type {
  ExternalStorage,
  Payload,
  StorageDriver,
  StorageDriverClaim,
  StorageDriverRetrieveContext,
  StorageDriverSelectContext,
  StorageDriverStoreContext,
  StorageDriverTargetInfo,
} from '@temporalio/common';
import type { LargePayloadDriver } from './driver.js';
import type { Outage } from './outage.js';

/**
 * The plugin's driver: `LargePayloadDriver`, with a choice of what it stores, and with what was decided for a heartbeat
 * before the SDK came to it. Such a payload is known by being the same object.
 */
export class PluginDriver implements StorageDriver {
  readonly name: string;
  readonly type: string;
  readonly #driver: LargePayloadDriver;
  readonly #outage: Outage;
  readonly #namespace: () => string;
  readonly #decided = new WeakMap<Payload, StorageDriverClaim | 'inline'>();

  /** `namespace` is that of payloads for which the SDK names none. */
  constructor(driver: LargePayloadDriver, outage: Outage, namespace: () => string) {
    this.name = driver.name;
    this.type = driver.type;
    this.#driver = driver;
    this.#outage = outage;
    this.#namespace = namespace;
  }

  /** This driver, or null while the store is away and the payload is small. */
  select(payload: Payload): this | null {
    return this.#outage.keepsInline(serializedPayloadSize(payload)) ? null : this;
  }

  /** What was decided for a heartbeat's payload; `undefined` for any other. */
  decided(payload: Payload): this | null | undefined {
    const decision = this.#decided.get(payload);
    if (decision === undefined) return undefined;
    return decision === 'inline' ? null : this;
  }

  /**
   * Does what the SDK will do with a payload, and remembers the outcome. What another driver is chosen for is left to it.
   * Throws what `store` throws.
   */
  async prepare(storage: ExternalStorage, payload: Payload, target: StorageDriverTargetInfo): Promise<void> {
    if (serializedPayloadSize(payload) < storage.payloadSizeThreshold) return;
    const selected = storage.driverSelector({ target }, payload);
    if (selected === null) this.#decided.set(payload, 'inline');
    if (selected !== this) return;
    const [claim] = await this.#driver.store({ target }, [payload]);
    if (claim !== undefined) this.#decided.set(payload, claim);
  }

  async store(context: StorageDriverStoreContext, payloads: Payload[]): Promise<StorageDriverClaim[]> {
    const unknown = payloads.filter((payload) => this.#claimOf(payload) === undefined);
    const claims = unknown.length === 0 ? [] : await this.#driver.store(this.#withTarget(context), unknown);
    return payloads.flatMap((payload) => this.#claimOf(payload) ?? claims.shift() ?? []);
  }

  retrieve(context: StorageDriverRetrieveContext, claims: StorageDriverClaim[]): Promise<Payload[]> {
    return this.#driver.retrieve(context, claims);
  }

  #claimOf(payload: Payload): StorageDriverClaim | undefined {
    const decision = this.#decided.get(payload);
    return decision === 'inline' ? undefined : decision;
  }

  #withTarget(context: StorageDriverStoreContext): StorageDriverStoreContext {
    if (context.target?.namespace) return context;
    return { ...context, target: { kind: 'workflow', namespace: this.#namespace() } };
  }
}

/**
 * Who stores a payload, in this order: whoever did already (a heartbeat's), the user's selector, our driver. What the
 * selector gives to a driver that only reads, it gives to ours: that driver's claims are from before.
 */
export function selectorOver(
  ours: PluginDriver,
  theirs: ExternalStorage | undefined,
  readsOnly: (driver: StorageDriver) => boolean,
): (context: StorageDriverSelectContext, payload: Payload) => StorageDriver | null {
  return (context, payload) => {
    const decided = ours.decided(payload);
    if (decided !== undefined) return decided;
    if (theirs === undefined) return ours.select(payload);
    const chosen = theirs.driverSelector(context, payload);
    if (chosen === null || (chosen !== ours && !readsOnly(chosen))) return chosen;
    return ours.select(payload);
  };
}
