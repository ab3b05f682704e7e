import { createHash } from 'node:crypto';
import type { Digest } from './digest.js';
import { LpsError } from './errors.js';

/** A payload's metadata: name → bytes. `null` and an empty record mean the same: none. */
export type Metadata = Readonly<Record<string, Uint8Array>>;

/** The metadata name whose value puts a blob under `custom/{prefix}` (wire.md section 1). */
export const keyPrefixName = 'remote-codec/key-prefix';

/** Go's server accepts 1 MiB of headers in all; base64 of JSON of base64 fits well inside it. */
export const maxMetadataHeaderBytes = 1024 * 1024;

const strictBase64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** Decodes padded standard base64, refusing what Node would quietly skip. `undefined` when it is not base64. */
export function decodeBase64(text: string): Buffer | undefined {
  return strictBase64.test(text) ? Buffer.from(text, 'base64') : undefined;
}

/** The names of metadata in the order of their UTF-8 bytes (JavaScript's own order is by UTF-16 units). */
export function sortedNames(metadata: Metadata): string[] {
  return Object.keys(metadata)
    .map((name) => ({ name, bytes: Buffer.from(name, 'utf8') }))
    .sort((a, b) => Buffer.compare(a.bytes, b.bytes))
    .map(({ name }) => name);
}

/** The metadata digest of a key: SHA-256 over names and values in order, no separators. Source: the Go service, v2. */
export function metadataDigest(metadata: Metadata | null | undefined): Digest {
  const hash = createHash('sha256');
  for (const name of sortedNames(metadata ?? {})) {
    hash.update(name, 'utf8');
    hash.update(metadata?.[name] ?? new Uint8Array());
  }
  return `sha256:${hash.digest('hex')}`;
}

/** Metadata from an object of name → base64, as JSON carries it. `null` is none. Throws INVALID_METADATA. */
export function metadataFromJson(value: unknown): Metadata | null {
  if (value === null) return null;
  if (typeof value !== 'object' || Array.isArray(value)) {
    throw new LpsError('INVALID_METADATA', 'metadata must be a JSON object of names to base64 values, or null');
  }
  const metadata: Record<string, Uint8Array> = Object.create(null);
  for (const [name, encoded] of Object.entries(value)) {
    // Go writes a nil byte slice as null
    const bytes = encoded === null ? Buffer.alloc(0) : typeof encoded === 'string' ? decodeBase64(encoded) : undefined;
    if (bytes === undefined) throw new LpsError('INVALID_METADATA', 'a metadata value is not base64');
    metadata[name] = bytes;
  }
  return metadata;
}

/** The one parser for the `X-Temporal-Metadata` header: base64 of the JSON object. Throws INVALID_METADATA. */
export function parseMetadataHeader(header: string | undefined): Metadata | null {
  if (header === undefined || header === '') {
    throw new LpsError('INVALID_METADATA', 'the X-Temporal-Metadata header is required');
  }
  const bytes = header.length <= maxMetadataHeaderBytes ? decodeBase64(header) : undefined;
  if (bytes === undefined) throw new LpsError('INVALID_METADATA', 'the X-Temporal-Metadata header is not base64');
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new LpsError('INVALID_METADATA', 'the X-Temporal-Metadata header does not hold JSON', { cause });
  }
  return metadataFromJson(value);
}

/** The header's value for some metadata; the inverse of `parseMetadataHeader`. */
export function formatMetadataHeader(metadata: Metadata | null | undefined): string {
  return Buffer.from(metadataToJson(metadata), 'utf8').toString('base64');
}

/** The JSON text that Go's encoder writes for a `map[string][]byte`, byte for byte; `null` when there is none. */
export function metadataToJson(metadata: Metadata | null | undefined): string {
  const names = sortedNames(metadata ?? {});
  if (names.length === 0) return 'null';
  const entries = names.map((name) => {
    const value = Buffer.from(metadata?.[name] ?? []).toString('base64');
    return `${goJsonString(name)}:"${value}"`;
  });
  return `{${entries.join(',')}}`;
}

const goEscapes = /[<>&\u2028\u2029]/g;

/** A JSON string as Go's encoder writes it: like JavaScript's, with `<`, `>`, `&`, U+2028 and U+2029 escaped. */
export function goJsonString(text: string): string {
  return JSON.stringify(wellFormed(text)).replace(
    goEscapes,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** Lone surrogates become U+FFFD, as they do on their way through UTF-8. */
function wellFormed(text: string): string {
  return Buffer.from(text, 'utf8').toString('utf8');
}
