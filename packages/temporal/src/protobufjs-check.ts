/**
 * Temporal's External Storage writes a reference as proto JSON, and that fails ("type must be a Type", which a client
 * sees as "Unexpected error while making gRPC request") when `@temporalio/common` and `@temporalio/proto` load two
 * copies of protobufjs. After a plain `npm install` they do: npm puts the protobufjs 7 of grpc-js at the top, and gives
 * each of the two an 8 of its own. With protobufjs 8 as a direct or peer dependency (ours is one) both find the same.
 * Measured with SDK 1.24.0.
 */
import { LpsError } from '@large-payload/core';
import { ProtobufJsonPayloadConverter } from '@temporalio/common/lib/protobufs.js';
import proto from '@temporalio/proto';

/** Encodes and decodes one reference as the SDK does. Throws CONFIG_INVALID, saying what to install. */
export function assertReferencesCanBeEncoded(roundTrip: () => string | undefined = referenceRoundTrip): void {
  let cause: unknown;
  try {
    if (roundTrip() === 'probe') return;
  } catch (error) {
    cause = error;
  }
  const message =
    'External Storage references cannot be encoded, because several copies of protobufjs are installed: run ' +
    '`npm install protobufjs@^8.7.1` in your application, then `npm ls protobufjs` to see that @temporalio/common and ' +
    '@temporalio/proto share one';
  throw new LpsError('CONFIG_INVALID', message, { cause });
}

/** The driver's name after the round trip of a reference: `probe`, or what went wrong is thrown. */
function referenceRoundTrip(): string | undefined {
  const { ExternalStorageReference } = proto.temporal.api.sdk.v1;
  const converter = new ProtobufJsonPayloadConverter(proto);
  const payload = converter.toPayload(
    ExternalStorageReference.create({ driverName: 'probe', claimData: { key: 'k' } }),
  );
  if (payload === undefined) return undefined;
  return converter.fromPayload<{ driverName?: string }>(payload).driverName;
}
