/** Payloads on their way through a codec, a few at a time: nobody knows what one unpacks to before it has. */
import type { Payload, PayloadCodec } from '@temporalio/common';
import { CodecError, failureOf } from './codec-error.js';
import { isPayload, payloadBytes } from './payloads-json.js';

/** Codecs get so many bytes at once, and one payload when it has more. */
const batchBytes = 64 * 1024;
/** What a batch of small payloads becomes at most: zlib makes 1,032 bytes of one. */
export const maxUnpackedBytes = batchBytes * 1032;

/** The batch as the codec made it. Throws CodecError, which says where the batch begins. */
export async function runCodec(
  codec: PayloadCodec,
  direction: 'encode' | 'decode',
  batch: Payload[],
  position: string,
): Promise<Payload[]> {
  try {
    const changed: unknown = await codec[direction](batch);
    if (Array.isArray(changed) && changed.length === batch.length && changed.every(isPayload)) return changed;
    throw new CodecError('CONFIG_INVALID', 'a codec did not return as many payloads as it was given');
  } catch (error) {
    throw failureOf(error, position, `a codec could not ${direction} it; the log has the details`);
  }
}

/** From and to, of payloads that a codec gets together. */
export function* batchesOf(payloads: readonly Payload[]): Generator<readonly [number, number]> {
  let from = 0;
  let bytes = 0;
  // sizes change behind us only: a codec has not seen what lies ahead
  for (let at = 0; at < payloads.length; at += 1) {
    const more = payloadBytes(payloads[at] ?? {});
    if (at > from && bytes + more > batchBytes) {
      yield [from, at];
      [from, bytes] = [at, 0];
    }
    bytes += more;
  }
  if (from < payloads.length) yield [from, payloads.length];
}
