/**
 * The claim check: a payload goes in and a claim comes out, and the other way round. The codec and the driver are thin
 * shells over it.
 *
 *   deposit   digest → key → known to be safe? ─yes→ claim
 *                                │ no
 *                            seen before, and large? ─yes→ one stat for all such keys of this moment ─there→ claim
 *                                │ no                                                            │ absent
 *                              PUT, retried inside the deadline  ←───────────────────────────────┘
 *   redeem    key → in memory? → else GET, size and digest checked → payload
 *
 * Only a blob that this process has seen is asked for before it is sent. One never seen is most likely new, and a stat
 * would be a round trip for nothing; should the service have it all the same, it answers the PUT before the body has
 * come. A blob seen before is most likely still there, and the stat (which touches it) saves sending it and the
 * connection that an early answer costs. Small blobs are PUT at once: that is a single round trip either way.
 */
import type { BlobStore, CallOptions, StoredBlob } from './blob-store.js';
import { isBytes } from './body.js';
import type { Claim, Payload } from './claim.js';
import { BytesCache, KnownKeys, StatBatches } from './claim-check-cache.js';
import { abortedError, manyListeners, SingleFlight, Slots, settleAll } from './concurrency.js';
import { digestOf } from './digest.js';
import { isLpsError, LpsError } from './errors.js';
import { keyFor, parseKey, parseNamespace, v1ObjectName } from './key.js';
import type { Metadata } from './metadata.js';
import { type Clock, systemClock, withRetries } from './retry.js';

/** A claim as `deposit` makes it. */
export type KeyedClaim = Claim & { readonly key: string };

export interface ClaimCheckOptions {
  /**
   * Where the blobs are: a service (`openHttpStore`, whose `directAboveBytes` lets large ones bypass it), or a bucket or
   * disk directly. Closing it is its opener's business.
   */
  readonly store: BlobStore;
  /** The Temporal namespace of deposits that name no other. */
  readonly namespace?: string;
  /** Memory for blobs, so that replays need no download. Default 64 MiB; 0 keeps none. */
  readonly cacheBytes?: number;
  /** Uploads and downloads at a time, past a service or through it. Default 8. */
  readonly concurrency?: number;
  /**
   * Time, in ms, for all of one deposit or redemption: its turn, its retries, a try past the service and then one through
   * it. Default 8,000: a workflow task has 10,000.
   */
  readonly deadlineMs?: number;
  /** How long an upload is skipped without asking after the service said that it keeps the blob. Default 60,000. */
  readonly skipWindowMs?: number;
  /** How long a blob stays in memory. Default, and at most, an hour: a taken-down blob must be forgotten. */
  readonly cacheEntryMs?: number;
  readonly clock?: Clock;
  /** Numbers from 0 up to 1, for the jitter of retries. */
  readonly random?: () => number;
}

export interface DepositOptions extends CallOptions {
  /** In place of the option `namespace`. */
  readonly namespace?: string;
}

/** Runs one blob's transfer when it may. Called once for each distinct blob of a call, never one inside another. */
export type Permit<Item> = <T>(item: Item, operation: () => Promise<T>) => Promise<T>;

const hourMs = 3_600_000;
/** Below, a PUT costs no more than the stat that might save it. */
const statAboveBytes = 64 * 1024;

/**
 * Errors of all functions are `LpsError`s with the store's code: permanent ones at once, transient ones after the
 * deadline; ABORTED when the signal was aborted.
 *
 * Buffers are never shared: what goes into memory is copied, and so is what comes out of it. The SDK hands a
 * payload's bytes to user code, which may write to them, and with shared bytes that would change the next replay.
 * A copy costs a fraction of the digest.
 */
export class ClaimCheck {
  readonly #store: BlobStore;
  readonly #namespace: string | undefined;
  readonly #deadlineMs: number;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #slots: Slots;
  readonly #cache: BytesCache;
  readonly #known: KnownKeys;
  readonly #stats: StatBatches;
  readonly #deposits = new SingleFlight<void>();
  readonly #redemptions = new SingleFlight<Uint8Array>();

  /** Throws CONFIG_INVALID for a setting out of its range, INVALID_KEY for a namespace that cannot be one. */
  constructor(options: ClaimCheckOptions) {
    const { store, namespace, clock = systemClock, random = Math.random } = options;
    this.#store = store;
    this.#namespace = namespace === undefined ? undefined : parseNamespace(namespace);
    this.#clock = clock;
    this.#random = random;
    this.#deadlineMs = within('deadlineMs', options.deadlineMs ?? 8000, 1, hourMs);
    this.#slots = new Slots(within('concurrency', options.concurrency ?? 8, 1, 1024));
    const cacheBytes = within('cacheBytes', options.cacheBytes ?? 64 * 1024 * 1024, 0, Number.MAX_SAFE_INTEGER);
    this.#cache = new BytesCache(cacheBytes, within('cacheEntryMs', options.cacheEntryMs ?? hourMs, 0, hourMs), clock);
    this.#known = new KnownKeys(within('skipWindowMs', options.skipWindowMs ?? 60_000, 0, hourMs), clock);
    // a stat only saves bytes: when it is slow, most of the deadline must be left for sending them
    this.#stats = new StatBatches(store, this.#deadlineMs / 4);
  }

  /** Stores a payload's blob, unless it is stored. The claim is deterministic: same namespace and payload, same claim. */
  async deposit(payload: Payload, options: DepositOptions = {}): Promise<KeyedClaim> {
    const deposit = this.#prepare(payload, options.namespace);
    await this.#deposit(deposit, options.signal);
    return deposit.claim;
  }

  /**
   * Deposits many payloads at once; claims in the order of the payloads. The same payload twice is stored once. The
   * first failure aborts the others, and is thrown when nothing is under way any more.
   */
  async depositAll(
    payloads: readonly Payload[],
    options: DepositOptions & { readonly permit?: Permit<Payload> } = {},
  ): Promise<KeyedClaim[]> {
    const { permit = runAtOnce, signal, namespace } = options;
    const deposits = payloads.map((payload) => this.#prepare(payload, namespace));
    const distinct = new Map(deposits.map((deposit) => [deposit.claim.key, deposit]));
    await settleAll([...distinct.values()], signal, (deposit, signal) =>
      permit(deposit.payload, () => this.#deposit(deposit, signal)),
    );
    return deposits.map(({ claim }) => claim);
  }

  /** The payload that a claim stands for. Throws BLOB_NOT_FOUND, BLOB_DAMAGED when the store's bytes are not the claim's. */
  async redeem(claim: Claim, options: CallOptions = {}): Promise<Payload> {
    const key = keyOfClaim(claim);
    return payloadOf(claim, await this.#redeem(claim, key, options.signal));
  }

  /** Redeems many claims at once; as `depositAll`. */
  async redeemAll<C extends Claim>(
    claims: readonly C[],
    options: CallOptions & { readonly permit?: Permit<C> } = {},
  ): Promise<Payload[]> {
    const { permit = runAtOnce, signal } = options;
    const keys = claims.map(keyOfClaim);
    const distinct = [...new Map(claims.map((claim, index) => [keys[index] ?? '', claim]))];
    const blobs = await settleAll(distinct, signal, ([key, claim], signal) =>
      permit(claim, () => this.#redeem(claim, key, signal)),
    );
    const bytesOf = new Map(distinct.map(([key], index) => [key, blobs[index]]));
    return claims.map((claim, index) => payloadOf(claim, bytesOf.get(keys[index] ?? '') ?? new Uint8Array()));
  }

  /** Throws unless the store can take blobs now. */
  async ready(options: CallOptions = {}): Promise<void> {
    await this.#store.ready?.(options);
  }

  #prepare(payload: Payload, namespace = this.#namespace): Deposit {
    const data = payload.data ?? new Uint8Array();
    const metadata = copyOfMetadata(payload.metadata);
    const digest = digestOf(data);
    const key = keyFor(parseNamespace(namespace), digest, metadata);
    return { payload, data, claim: { metadata, size: data.length, digest, key } };
  }

  async #deposit(deposit: Deposit, signal: AbortSignal | undefined): Promise<void> {
    const { claim, data } = deposit;
    if (signal?.aborted) throw abortedError(signal);
    if (!this.#known.isSafe(claim.key)) {
      await this.#once(this.#deposits, claim.key, signal, (controller, deadlineMs) =>
        this.#send(deposit, controller, deadlineMs),
      );
    }
    this.#cache.fill(claim.key, data.length, () => new Uint8Array(data));
  }

  /** Puts the blob into the store, asking first where that is likely to spare the bytes. */
  async #send({ claim, data }: Deposit, controller: AbortController, deadlineMs: number): Promise<void> {
    const { key, digest, size } = claim;
    let ask = size > statAboveBytes && this.#known.has(key);
    let overwrite = false;
    const attempt = async (signal: AbortSignal): Promise<void> => {
      const info = ask ? await this.#stats.ask(key, signal).catch(() => undefined) : undefined;
      ask = false;
      overwrite ||= info !== undefined && info.size !== size; // damaged: a plain put would leave it so
      if (info?.size === size && this.#known.standsForUpload(info)) {
        this.#known.note(key, info.protectedUntil);
        return;
      }
      const put = () => this.#store.put(key, data, { digest, size }, { signal, ...(overwrite ? { overwrite } : {}) });
      const { protectedUntil } = await this.#slots.run(signal, () => this.#unlessErased(key, put));
      this.#known.note(key, protectedUntil);
    };
    await this.#retry(attempt, 'put', controller, deadlineMs);
  }

  async #redeem(claim: Claim, key: string, signal: AbortSignal | undefined): Promise<Uint8Array> {
    if (signal?.aborted) throw abortedError(signal);
    const cached = this.#cache.get(key);
    if (cached !== undefined) return checkSize(cached, claim);
    // the size is part of the flight's name: a claim that lies about it must not spoil the others' download
    return this.#once(this.#redemptions, `${key} ${claim.size}`, signal, (controller, deadlineMs) =>
      this.#retry(
        (signal) => this.#slots.run(signal, () => this.#fetch(claim, key, signal)),
        'get',
        controller,
        deadlineMs,
      ),
    );
  }

  async #fetch(claim: Claim, key: string, signal: AbortSignal): Promise<Uint8Array> {
    const found = await this.#unlessErased(key, () => this.#store.get(key, { signal }));
    if (found === undefined) {
      this.#forget(key);
      throw new LpsError('BLOB_NOT_FOUND', 'the store does not have the blob of this claim', { details: { key } });
    }
    const bytes = await readExactly(found, claim, signal);
    if (digestOf(bytes) !== claim.digest) throw damaged(key, 'they do not match their digest');
    this.#known.note(key, found.info.protectedUntil);
    this.#cache.fill(key, bytes.length, () => bytes);
    return bytes;
  }

  /** Keeps nothing of a blob that was taken down, nor takes its upload for done. */
  async #unlessErased<T>(key: string, call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      if (!isLpsError(error, 'BLOB_TAKEN_DOWN') && !isLpsError(error, 'BLOB_BLOCKED')) throw error;
      this.#forget(key);
      throw new LpsError(error.code, error.message, { details: { ...error.details, key }, cause: error });
    }
  }

  #forget(key: string): void {
    this.#known.forget(key);
    this.#cache.remove(key);
  }

  #retry<T>(
    attempt: (signal: AbortSignal) => Promise<T>,
    operation: string,
    controller: AbortController,
    deadlineMs: number,
  ): Promise<T> {
    const { name: storeName } = this.#store;
    const [clock, random] = [this.#clock, this.#random];
    return withRetries(attempt, { controller, deadlineMs, storeName, operation, clock, random });
  }

  /** One call a key at a time. Whoever joined a call that ran into its own, earlier deadline goes on until his. */
  async #once<T>(
    flights: SingleFlight<T>,
    key: string,
    signal: AbortSignal | undefined,
    run: (controller: AbortController, deadlineMs: number) => Promise<T>,
  ): Promise<T> {
    const started = this.#clock.monotonicMs();
    const leftMs = (): number => this.#deadlineMs - (this.#clock.monotonicMs() - started);
    for (;;) {
      const { leads, result } = flights.join(key, signal, (controller) => run(controller, leftMs()));
      try {
        return await result;
      } catch (error) {
        const mayGoOn = !leads && isLpsError(error) && error.retryable && !signal?.aborted;
        if (!mayGoOn || leftMs() <= 0) throw error;
      }
    }
  }
}

interface Deposit {
  readonly payload: Payload;
  readonly data: Uint8Array;
  readonly claim: KeyedClaim;
}

function runAtOnce<T>(_item: unknown, operation: () => Promise<T>): Promise<T> {
  return operation();
}

/** The object that holds a claim's blob. Throws INVALID_CLAIM when its key and digest differ. */
function keyOfClaim(claim: Claim): string {
  if (claim.key === undefined) return v1ObjectName(claim.digest);
  if (parseKey(claim.key).digest !== claim.digest) {
    throw new LpsError('INVALID_CLAIM', 'not a claim: its key and its digest differ');
  }
  return claim.key;
}

function copyOfMetadata(metadata: Metadata | null | undefined): Metadata | null {
  const entries = Object.entries(metadata ?? {});
  return entries.length === 0
    ? null
    : Object.fromEntries(entries.map(([name, value]) => [name, new Uint8Array(value)]));
}

/** A payload of its own for each caller. No metadata is an empty record, as a protobuf decoder makes it. */
function payloadOf(claim: Claim, bytes: Uint8Array): Payload {
  const metadata = copyOfMetadata(claim.metadata) ?? {};
  return { metadata: { ...metadata }, data: new Uint8Array(checkSize(bytes, claim)) };
}

function checkSize(bytes: Uint8Array, claim: Claim): Uint8Array {
  if (bytes.length === claim.size) return bytes;
  throw damaged(keyOfClaim(claim), `there are ${bytes.length} of them and not ${claim.size}`);
}

function damaged(key: string, reason: string): LpsError {
  return new LpsError('BLOB_DAMAGED', `the stored bytes are not those of the claim: ${reason}`, { details: { key } });
}

/** Bytes that nobody else holds, exactly as many as the claim says. */
async function readExactly({ info, body }: StoredBlob, claim: Claim, signal: AbortSignal): Promise<Uint8Array> {
  if (isBytes(body)) return new Uint8Array(checkSize(body, claim));
  const onAbort = (): void => void body.destroy(abortedError(signal));
  manyListeners(signal).addEventListener('abort', onAbort, { once: true });
  try {
    if (signal.aborted) onAbort();
    // before memory is taken for what a claim merely says
    if (info.size !== claim.size) throw damaged(info.key, `there are ${info.size} of them and not ${claim.size}`);
    const bytes = new Uint8Array(claim.size);
    let size = 0;
    for await (const chunk of body as AsyncIterable<Uint8Array>) {
      if (size + chunk.length > bytes.length) throw damaged(info.key, `there are more than ${claim.size}`);
      bytes.set(chunk, size);
      size += chunk.length;
    }
    return checkSize(bytes.subarray(0, size), claim);
  } finally {
    signal.removeEventListener('abort', onAbort);
    body.destroy();
  }
}

function within(name: string, value: number, min: number, max: number): number {
  if (Number.isFinite(value) && value >= min && value <= max) return value;
  throw new LpsError('CONFIG_INVALID', `${name} must be a number from ${min} to ${max}`, {
    details: { [name]: value },
  });
}
