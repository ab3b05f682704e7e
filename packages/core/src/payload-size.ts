import type { Payload } from './claim.js';

/** Temporal's `Payload` with the sizes that an External Storage reference carries beside it. */
export interface SizedPayload extends Payload {
  externalPayloads?: readonly { sizeBytes?: { toString(): string } | null }[] | null;
}

/**
 * The bytes of a payload in the protobuf wire format, without encoding it: what thresholds are compared with.
 *
 *   message Payload { map<string, bytes> metadata = 1; bytes data = 2; repeated ExternalPayloadDetails external_payloads = 3; }
 *   message ExternalPayloadDetails { int64 size_bytes = 1; }
 *
 * A map entry always has both its fields; elsewhere what is empty or zero is left out.
 * Source: temporal/api/common/v1/message.proto.
 */
export function serializedPayloadSize(payload: SizedPayload): number {
  let size = 0;
  for (const [name, value] of Object.entries(payload.metadata ?? {})) {
    size += fieldSize(fieldSize(Buffer.byteLength(name, 'utf8')) + fieldSize(value.length));
  }
  const dataBytes = payload.data?.length ?? 0;
  if (dataBytes > 0) size += fieldSize(dataBytes);
  for (const { sizeBytes } of payload.externalPayloads ?? []) {
    const value = BigInt(sizeBytes?.toString() ?? 0);
    // a negative int64 is written as its two's complement, in ten bytes
    size += fieldSize(value === 0n ? 0 : 1 + varintSize(BigInt.asUintN(64, value)));
  }
  return size;
}

/** A length-delimited field whose number is below 16: tag, length, content. */
function fieldSize(contentBytes: number): number {
  return 1 + varintSize(BigInt(contentBytes)) + contentBytes;
}

function varintSize(value: bigint): number {
  let size = 1;
  for (let rest = value >> 7n; rest > 0n; rest >>= 7n) size += 1;
  return size;
}
