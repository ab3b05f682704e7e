import { type Payload, serializedPayloadSize } from '@large-payload/core';

export interface FoundPayload {
  readonly metadata: Record<string, Uint8Array>;
  readonly data: Uint8Array;
}

/** Every payload anywhere in a message of Temporal's API, as it stands there: no codec in between. */
export function* payloadsIn(value: unknown): Generator<FoundPayload> {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return;
  if ('metadata' in value && 'data' in value && value.data instanceof Uint8Array) yield value as FoundPayload;
  for (const inner of Object.values(value)) yield* payloadsIn(inner);
}

/**
 * What stands for a payload: `codec`, a claim of the Go codec; `driver:NAME`, an External Storage reference; `inline`,
 * the payload itself.
 */
export function kindOf({ metadata, data }: Payload): string {
  if (metadata?.['temporal.io/remote-codec']) return 'codec';
  const messageType = Buffer.from(metadata?.messageType ?? []).toString();
  if (messageType !== 'temporal.api.sdk.v1.ExternalStorageReference') return 'inline';
  return `driver:${(JSON.parse(Buffer.from(data ?? []).toString()) as { readonly driverName: string }).driverName}`;
}

/** Payloads in a message, by kind; of the inline ones only those of more than `aboveBytes`. */
export function countKinds(message: unknown, aboveBytes: number): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const payload of payloadsIn(message)) {
    const kind = kindOf(payload);
    if (kind === 'inline' && serializedPayloadSize(payload) <= aboveBytes) continue;
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
}
