/** A payload as protobuf: what codecs and Temporal's own drivers put in the place of another one. */
import type { Payload } from '@temporalio/common';
import proto from '@temporalio/proto';

const { Payload: PayloadProto } = proto.temporal.api.common.v1;

/** The same bytes for the same payload: the names of its metadata are sorted. */
export function encodePayload({ metadata, ...rest }: Payload): Uint8Array {
  const names = Object.keys(metadata ?? {}).sort();
  const sorted = Object.fromEntries(names.map((name) => [name, metadata?.[name] ?? new Uint8Array()]));
  return PayloadProto.encode({ ...rest, metadata: sorted }).finish();
}

/** Bytes of its own for each caller: user code may write to them. Throws what protobufjs throws. */
export function decodePayload(bytes: Uint8Array): Payload {
  const { metadata, data, externalPayloads } = PayloadProto.decode(bytes);
  const plain = Object.entries(metadata).map(([name, value]) => [name, new Uint8Array(value)] as const);
  return {
    metadata: Object.fromEntries(plain),
    data: new Uint8Array(data),
    ...(externalPayloads.length === 0 ? {} : { externalPayloads }),
  };
}

/** `metadata.encoding` as text. */
export function encodingOf({ metadata }: Payload): string | undefined {
  const encoding = metadata?.encoding;
  return encoding === undefined ? undefined : Buffer.from(encoding).toString('utf8');
}
