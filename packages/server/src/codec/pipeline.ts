/**
 * What the codec server does with payloads, and nothing of HTTP:
 *
 *   encode     preStorage codecs → large ones stored, a reference in their place → postStorage codecs
 *   decode     postStorage codecs backwards → references fetched (or kept, and shown) → preStorage codecs backwards
 *   download   as decode, of references only
 *
 * As many payloads come back as went in, in their order; in place of one that was taken down comes one that says so
 * (placeholder.ts). Sizes are looked at three times: as references state them, before
 * anything is fetched; as the bytes arrive; and after every codec.
 */
import {
  type ClaimCheck,
  formatClaim,
  LpsError,
  manyListeners,
  Slots,
  serializedPayloadSize,
  settleAll,
} from '@large-payload/core';
import type { Payload, PayloadCodec, StorageDriver } from '@temporalio/common';
import { ByteBudget, type Hold } from './byte-budget.js';
import { batchesOf, maxUnpackedBytes, runCodec } from './codec-batches.js';
import { CodecError, failureOf } from './codec-error.js';
import { isPayload, payloadBytes } from './payloads-json.js';
import { isPlaceholder, placeholderFor } from './placeholder.js';
import { formatReference, type Ownership, type Reference, References } from './references.js';

export interface CodecOptions {
  /** That resolve references, by their names. The first one stores what `/encode` offloads. */
  readonly drivers: readonly StorageDriver[];
  /** Of the workers' data converter: they run before a payload is stored, in this order. Default none. */
  readonly preStorage?: readonly PayloadCodec[];
  /** They run on what stays in the history, in this order: those of a proxy, mostly. Default none. */
  readonly postStorage?: readonly PayloadCodec[];
  /** `/encode` offloads payloads of at least so many bytes, serialized. Default 128,000. */
  readonly threshold?: number;
  /** Resolves claims of the Go codec. Default: they are passed through. */
  readonly claimCheck?: ClaimCheck;
  /** What `/encode` writes: a reference of the first driver, or the Go codec's claim. Default `driver`. */
  readonly claims?: 'driver' | 'go';
  /** The namespace that owns the blobs of v1 claims. Default: they are refused. */
  readonly v1Namespace?: string;
  /** Payload bytes in one answer. Default 64 MiB. */
  readonly maxResponseBytes?: number;
  /** Payload bytes in all answers under way; bodies of requests may take a quarter as much beside them. Default 256 MiB. */
  readonly maxMemoryBytes?: number;
  /** What error messages call these two limits. */
  readonly limitNames?: { readonly response: string; readonly memory: string };
}

/** What the caller of one request may do, and whether he is still there. */
export interface CodecCall {
  readonly signal: AbortSignal;
  /** Memory for the answer: `codec.answers.hold()`, released when the answer was sent. */
  readonly hold: Hold;
  /** The one that the request names. `encode` stores under it. */
  readonly namespace?: string | undefined;
  /**
   * Throws FORBIDDEN. Called before anything is fetched or stored, once more when what was fetched turns out to be a claim
   * itself. Without namespaces: whether the caller may do this at all.
   */
  authorize?(owner: Ownership): void;
  /** What is asked for or was stored, for the audit: keys and names of objects. */
  note?(subjects: readonly string[]): void;
}

export interface DecodeCall extends CodecCall {
  readonly preserveStorageRefs?: boolean;
}

export interface Codec {
  encode(payloads: readonly Payload[], call: CodecCall): Promise<Payload[]>;
  decode(payloads: readonly Payload[], call: DecodeCall): Promise<Payload[]>;
  /** Throws INVALID_ARGUMENT unless all of them are references. */
  download(payloads: readonly Payload[], call: CodecCall): Promise<Payload[]>;
  readonly maxResponseBytes: number;
  /** Memory for bodies. */
  readonly bodies: ByteBudget;
  /** Memory for answers. Nobody who holds some may wait for `bodies`. */
  readonly answers: ByteBudget;
}

const MiB = 1024 * 1024;
/** Of a payload beside its data: metadata, mostly. */
const overheadBytes = 1024;
const fetchesAtOnce = 32;
const fetchesPerRequest = 8;
/** Of drivers that find out a size only when they have the bytes: 50 MiB each, for Temporal's own. */
const unsizedFetchesAtOnce = 4;
const maxWaiting = 256;

/** Throws CONFIG_INVALID. */
export function createCodec(options: CodecOptions): Codec {
  return new Pipeline(options);
}

class Pipeline implements Codec {
  readonly bodies: ByteBudget;
  readonly answers: ByteBudget;
  readonly #options: CodecOptions;
  readonly #references: References;
  readonly #threshold: number;
  readonly maxResponseBytes: number;
  readonly #limitNames: { readonly response: string; readonly memory: string };
  readonly #fetches = new Slots(fetchesAtOnce);
  readonly #unsizedFetches = new Slots(unsizedFetchesAtOnce);
  /** What a codec unpacks is counted when it has done so; until then, all of them together stay below the memory's limit. */
  readonly #codecRuns: Slots;

  constructor(options: CodecOptions) {
    const { drivers, claimCheck, v1Namespace, claims = 'driver' } = options;
    if (new Set(drivers.map(({ name }) => name)).size < drivers.length)
      throw new LpsError('CONFIG_INVALID', 'two drivers have the same name');
    if (claims === 'go' && claimCheck === undefined)
      throw new LpsError('CONFIG_INVALID', '`claims: go` needs a `claimCheck`');
    this.#options = options;
    this.#references = new References({ drivers, claimCheck, v1Namespace });
    this.#threshold = byteCount('threshold', options.threshold ?? 128_000, 0);
    const memory = byteCount('maxMemoryBytes', options.maxMemoryBytes ?? 256 * MiB, 1);
    this.maxResponseBytes = byteCount('maxResponseBytes', options.maxResponseBytes ?? 64 * MiB, 1);
    const unpackedBytes = Math.max(this.maxResponseBytes, maxUnpackedBytes);
    this.#codecRuns = new Slots(Math.min(8, Math.max(1, Math.floor(memory / unpackedBytes))));
    this.#limitNames = options.limitNames ?? { response: 'maxResponseBytes', memory: 'maxMemoryBytes' };
    this.answers = new ByteBudget(memory, maxWaiting);
    this.bodies = new ByteBudget(Math.max(MiB, Math.floor(memory / 4)), maxWaiting);
  }

  async encode(payloads: readonly Payload[], call: CodecCall): Promise<Payload[]> {
    call.authorize?.(nobodys);
    const { preStorage = [], postStorage = [] } = this.#options;
    const before = await this.#through(preStorage, 'encode', payloads, call);
    const stored = await this.#offloaded(before, call);
    return this.#through(postStorage, 'encode', stored, call);
  }

  async decode(payloads: readonly Payload[], call: DecodeCall): Promise<Payload[]> {
    const inside = await this.#unwrapped(payloads, call);
    const kept = call.preserveStorageRefs === true ? inside.map((one) => this.#references.isReference(one)) : [];
    if (call.preserveStorageRefs !== true) return this.#decoded(await this.#resolved(inside, call), [], call);
    call.authorize?.(nobodys);
    const shown = inside.map((one, index) => (kept[index] === true ? this.#references.shown(one) : one));
    return this.#decoded(shown, kept, call);
  }

  async download(payloads: readonly Payload[], call: CodecCall): Promise<Payload[]> {
    const inside = await this.#unwrapped(payloads, call);
    if (!inside.every((one) => this.#references.isReference(one)))
      throw new CodecError('INVALID_ARGUMENT', 'all payloads must be references to stored ones');
    return this.#decoded(await this.#resolved(inside, call), [], call);
  }

  #unwrapped(payloads: readonly Payload[], call: CodecCall): Promise<Payload[]> {
    return this.#through([...(this.#options.postStorage ?? [])].reverse(), 'decode', payloads, call);
  }

  /** The codecs of before the storage, backwards, on all but what was kept, and what never was encoded. */
  async #decoded(payloads: readonly Payload[], kept: readonly boolean[], call: CodecCall): Promise<Payload[]> {
    const codecs = [...(this.#options.preStorage ?? [])].reverse();
    const indices = [...payloads.entries()].flatMap(([index, one]) =>
      kept[index] === true || isPlaceholder(one) ? [] : [index],
    );
    const positions = (at: number): string => positionOf(indices[at] ?? 0, payloads);
    const encoded = indices.map((index) => payloads[index] ?? {});
    const decoded = await this.#through(codecs, 'decode', encoded, call, positions);
    const result = [...payloads];
    for (const [at, index] of indices.entries()) result[index] = decoded[at] ?? {};
    return result;
  }

  /** What references stand for in their place, in two rounds: what a driver stored may be a claim of the Go codec. */
  async #resolved(payloads: readonly Payload[], call: CodecCall): Promise<Payload[]> {
    const references = payloads.map((one, index) =>
      this.#references.isReference(one) ? this.#parsed(one, positionOf(index, payloads)) : undefined,
    );
    const fetched = await this.#fetched(payloads, references, call);
    const claims = fetched.map((one, index) =>
      references[index] !== undefined && this.#references.isClaim(one)
        ? this.#parsed(one, positionOf(index, payloads))
        : undefined,
    );
    return claims.every((one) => one === undefined) ? fetched : this.#fetched(fetched, claims, call);
  }

  #parsed(payload: Payload, position: string): Reference {
    try {
      return this.#references.parse(payload);
    } catch (error) {
      throw failureOf(error, position, 'not a reference');
    }
  }

  async #fetched(
    payloads: readonly Payload[],
    references: readonly (Reference | undefined)[],
    call: CodecCall,
  ): Promise<Payload[]> {
    const uses = usesOf(references);
    call.note?.([...uses.values()].map(({ reference }) => reference.subject));
    call.authorize?.(ownership([...uses.values()]));
    if (uses.size === 0) return [...payloads];
    const declared = [...uses.values()].map(({ reference, indices }) => ({
      once: reference.declaredBytes,
      all: reference.declaredBytes * indices.length,
    }));
    const inline = sumOf(payloads.map((one, index) => (references[index] === undefined ? payloadBytes(one) : 0)));
    this.#checkLimit(inline + sumOf(declared.map(({ all }) => all)), call.hold.bytes + uses.size * overheadBytes);
    const before = call.hold.bytes;
    // a size is that of the data: the rest of a payload is held, too
    await call.hold.reach(before + sumOf(declared.map(({ once }) => once + overheadBytes)), call.signal);
    const fetched = await this.#fetchAll(payloads, [...uses.values()], inline, call);
    await call.hold.reach(before + sumOf(fetched.map(payloadBytes)), call.signal);
    const result = [...payloads];
    for (const [at, { indices }] of [...uses.values()].entries()) {
      for (const index of indices) result[index] = fetched[at] ?? {};
    }
    return result;
  }

  /** One payload for each use. */
  #fetchAll(
    payloads: readonly Payload[],
    uses: readonly Use[],
    inlineBytes: number,
    call: CodecCall,
  ): Promise<Payload[]> {
    const own = new Slots(fetchesPerRequest);
    let arrived = inlineBytes;
    return settleAll(uses, manyListeners(call.signal), async ({ reference, indices }, signal) => {
      const payload = await own.run(signal, () =>
        (reference.isSized ? this.#fetches : this.#unsizedFetches).run(signal, () =>
          fetchOne(reference, signal, positionOf(indices[0] ?? 0, payloads)),
        ),
      );
      arrived += payloadBytes(payload) * indices.length;
      this.#checkLimit(arrived);
      return payload;
    });
  }

  /** Payloads after some codecs. One batch at a time, so that no more than a batch is unpacked before it is counted. */
  async #through(
    codecs: readonly PayloadCodec[],
    direction: 'encode' | 'decode',
    payloads: readonly Payload[],
    call: CodecCall,
    positions: (index: number) => string = (index) => positionOf(index, payloads),
  ): Promise<Payload[]> {
    const result = [...payloads];
    let bytes = sumOf(result.map(payloadBytes));
    this.#checkLimit(bytes);
    if (codecs.length > 0) await call.hold.reach(Math.max(1, bytes), call.signal);
    for (const codec of codecs) {
      for (const [from, to] of batchesOf(result)) {
        const batch = result.slice(from, to);
        const run = (): Promise<Payload[]> => runCodec(codec, direction, batch, positions(from));
        const changed = await this.#codecRuns.run(call.signal, run);
        bytes += sumOf(changed.map(payloadBytes)) - sumOf(batch.map(payloadBytes));
        this.#checkLimit(bytes);
        await call.hold.reach(bytes, call.signal);
        result.splice(from, changed.length, ...changed);
      }
    }
    return result;
  }

  async #offloaded(payloads: readonly Payload[], call: CodecCall): Promise<Payload[]> {
    const large = [...payloads.entries()].filter(([, one]) => this.#isLarge(one));
    if (large.length === 0) return [...payloads];
    const result = [...payloads];
    const own = new Slots(fetchesPerRequest);
    await settleAll(large, manyListeners(call.signal), async ([index, payload], signal) => {
      const store = (): Promise<Payload> => this.#stored(payload, call, signal);
      try {
        result[index] = await own.run(signal, () => this.#fetches.run(signal, store));
      } catch (error) {
        throw failureOf(error, positionOf(index, payloads), 'the payload could not be stored');
      }
    });
    return result;
  }

  #isLarge(payload: Payload): boolean {
    const { claims = 'driver', drivers } = this.#options;
    if (this.#references.isReference(payload) || (claims === 'driver' && drivers.length === 0)) return false;
    const bytes = serializedPayloadSize(payload);
    // each as its own SDK does it
    return claims === 'go' ? bytes > this.#threshold : bytes >= this.#threshold;
  }

  async #stored(payload: Payload, { namespace, note }: CodecCall, signal: AbortSignal): Promise<Payload> {
    const { claims, claimCheck, drivers } = this.#options;
    if (claims === 'go' && claimCheck !== undefined) {
      if (namespace === undefined) throw new CodecError('INVALID_ARGUMENT', unnamed);
      const claim = await claimCheck.deposit(payload, { namespace, signal });
      note?.([claim.key]);
      return formatClaim(claim);
    }
    const [driver] = drivers;
    if (driver === undefined) return payload;
    if (namespace === undefined && driver.type === 'large-payload') throw new CodecError('INVALID_ARGUMENT', unnamed);
    const target = namespace === undefined ? {} : { target: { kind: 'workflow', namespace } as const };
    const [claim] = await driver.store({ abortSignal: signal, ...target }, [payload]);
    if (claim === undefined) throw new CodecError('CONFIG_INVALID', `the driver ${driver.name} returned no claim`);
    const { key, object } = claim.claimData;
    note?.([key ?? object ?? driver.name]);
    return formatReference(driver.name, claim.claimData, serializedPayloadSize(payload));
  }

  /** Throws BLOB_TOO_LARGE. */
  #checkLimit(bytes: number, held = 0): void {
    const { response, memory } = this.#limitNames;
    const [limit, name] =
      bytes > this.maxResponseBytes ? [this.maxResponseBytes, response] : [this.answers.totalBytes, memory];
    if (bytes <= this.maxResponseBytes && bytes + held <= this.answers.totalBytes) return;
    const message = `the answer would have ${bytes} bytes of payloads, and ${name} allows ${limit}: ask for fewer payloads at a time`;
    throw new CodecError('BLOB_TOO_LARGE', message);
  }
}

const nobodys: Ownership = { namespaces: [], everywhere: false };
const unnamed = 'name the namespace of what is to be stored: in the path, or as X-Namespace';

interface Use {
  readonly reference: Reference;
  readonly indices: number[];
}

/** The same reference twice is fetched once. */
function usesOf(references: readonly (Reference | undefined)[]): Map<string, Use> {
  const uses = new Map<string, Use>();
  for (const [index, reference] of references.entries()) {
    if (reference === undefined) continue;
    const use = uses.get(reference.identity);
    if (use === undefined) uses.set(reference.identity, { reference, indices: [index] });
    else use.indices.push(index);
  }
  return uses;
}

function ownership(uses: readonly Use[]): Ownership {
  const owners = uses.map(({ reference }) => reference.owner);
  return {
    namespaces: [...new Set(owners.flatMap(({ namespaces }) => namespaces))],
    everywhere: owners.some(({ everywhere }) => everywhere),
  };
}

async function fetchOne(reference: Reference, signal: AbortSignal, position: string): Promise<Payload> {
  try {
    const payload: unknown = await reference.fetch(signal);
    if (isPayload(payload)) return payload;
    throw new CodecError('CONFIG_INVALID', 'the driver returned something that is no payload');
  } catch (error) {
    const placeholder = placeholderFor(error, reference.subject);
    if (placeholder !== undefined) return placeholder;
    throw failureOf(error, position, 'the driver failed; the log has the details');
  }
}

function positionOf(index: number, payloads: readonly unknown[]): string {
  return payloads.length === 1 ? '' : `payload ${index + 1} of ${payloads.length}`;
}

function sumOf(numbers: readonly number[]): number {
  let sum = 0;
  for (const number of numbers) sum += number;
  return sum;
}

function byteCount(name: string, value: number, min: number): number {
  if (Number.isSafeInteger(value) && value >= min) return value;
  throw new LpsError('CONFIG_INVALID', `\`${name}\` must be a number of bytes from ${min}`);
}
