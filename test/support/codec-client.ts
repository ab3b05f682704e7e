/** The codec server as Temporal's Web UI and CLI ask it: proto-JSON over POST. */
import type { Payload } from '@temporalio/common';

/** Bytes as base64, int64 as a string. */
export interface PayloadJson {
  readonly metadata: Readonly<Record<string, string>>;
  readonly data: string;
  readonly externalPayloads?: readonly { readonly sizeBytes: string }[];
}

export interface CodecAnswer {
  readonly status: number;
  readonly payloads?: readonly PayloadJson[];
  /** Of an error. */
  readonly text?: string;
}

export function payloadToJson({ metadata, data, externalPayloads }: Payload): PayloadJson {
  const base64 = (bytes: Uint8Array | null | undefined): string => Buffer.from(bytes ?? []).toString('base64');
  const sizes = (externalPayloads ?? []).map(({ sizeBytes }) => ({ sizeBytes: `${sizeBytes ?? 0}` }));
  return {
    metadata: Object.fromEntries(Object.entries(metadata ?? {}).map(([name, value]) => [name, base64(value)])),
    data: base64(data),
    ...(sizes.length > 0 ? { externalPayloads: sizes } : {}),
  };
}

/** `path`: `default/decode`, `download?preserveStorageRefs=true` … */
export async function askCodec(
  url: string,
  path: string,
  payloads: readonly Payload[],
  headers: Readonly<Record<string, string>> = {},
): Promise<CodecAnswer> {
  const response = await fetch(`${url}/${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify({ payloads: payloads.map(payloadToJson) }),
  });
  const { status } = response;
  if (!response.ok) return { status, text: await response.text() };
  const { payloads: answered } = (await response.json()) as { readonly payloads: readonly PayloadJson[] };
  return { status, payloads: answered };
}
