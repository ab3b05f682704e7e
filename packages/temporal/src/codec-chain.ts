import type { Payload, PayloadCodec } from '@temporalio/common';
import type { SerializationContext } from '@temporalio/common/lib/converter/serialization-context.js';

/**
 * A worker's codecs as one, which also knows payloads that were encoded before their time: those of heartbeats
 * (heartbeats.ts). They are known by being the same object, so that a codec that never encodes twice alike (encryption)
 * runs once, and the SDK gets what was stored.
 */
export class CodecChain implements PayloadCodec {
  readonly #codecs: readonly PayloadCodec[];
  readonly #prepared = new WeakMap<Payload, Payload>();

  /** In the order of encoding. */
  constructor(codecs: readonly PayloadCodec[]) {
    this.#codecs = codecs;
  }

  /** From now on `payload` is encoded as `encoded`, without running a codec. */
  remember(payload: Payload, encoded: Payload): void {
    this.#prepared.set(payload, encoded);
  }

  async encode(payloads: Payload[], context?: SerializationContext): Promise<Payload[]> {
    const prepared = payloads.flatMap((payload) => this.#prepared.get(payload) ?? []);
    if (prepared.length === payloads.length) return prepared;
    return encodeThrough(this.#codecs, payloads, context);
  }

  async decode(payloads: Payload[], context?: SerializationContext): Promise<Payload[]> {
    let decoded = payloads;
    for (const codec of [...this.#codecs].reverse()) decoded = await codec.decode(decoded, context);
    return decoded;
  }
}

/** Through each codec, the first one first. */
export async function encodeThrough(
  codecs: readonly PayloadCodec[],
  payloads: Payload[],
  context: SerializationContext | undefined,
): Promise<Payload[]> {
  let encoded = payloads;
  for (const codec of codecs) encoded = await codec.encode(encoded, context);
  return encoded;
}
