/**
 * Claims of the Go codec, byte for byte (wire.md section 1):
 *
 *   metadata  encoding: json/plain, temporal.io/remote-codec: v2
 *   data      {"metadata":{"encoding":"anNvbi9wbGFpbg=="},"size":42,"digest":"sha256:…","key":"/blobs/…"}
 *
 * v1 claims have no key; they are read, never written.
 */
import { type Digest, isDigest } from './digest.js';
import { LpsError } from './errors.js';
import { parseKey } from './key.js';
import { goJsonString, type Metadata, metadataFromJson, metadataToJson } from './metadata.js';

/** Temporal's `Payload`, in its structural form: what this package needs of it. */
export interface Payload {
  metadata?: Record<string, Uint8Array> | null;
  data?: Uint8Array | null;
}

/** What stays in the workflow history in place of a payload. `key` is absent only in claims of version v1. */
export interface Claim {
  readonly metadata: Metadata | null;
  /** Bytes of the blob. */
  readonly size: number;
  readonly digest: Digest;
  readonly key?: string;
}

/** The metadata name that marks a claim of the Go codec. */
export const remoteCodecName = 'temporal.io/remote-codec';

const maxClaimBytes = 2 * 1024 * 1024;

/** Whether a payload is marked as a claim of the Go codec, of any version. */
export function isClaimPayload(payload: Payload): boolean {
  return Object.hasOwn(payload.metadata ?? {}, remoteCodecName);
}

/** The payload that stays in the history: a claim as the Go codec writes it. */
export function formatClaim(claim: Claim & { readonly key: string }): Required<Payload> {
  const text =
    `{"metadata":${metadataToJson(claim.metadata)},"size":${claim.size},` +
    `"digest":${goJsonString(claim.digest)},"key":${goJsonString(claim.key)}}`;
  return {
    metadata: { encoding: Buffer.from('json/plain'), [remoteCodecName]: Buffer.from('v2') },
    data: Buffer.from(text, 'utf8'),
  };
}

/** The one parser for a claim that is a payload. Throws INVALID_CLAIM. */
export function parseClaim(payload: Payload): Claim {
  const version = Buffer.from(payload.metadata?.[remoteCodecName] ?? []).toString('utf8');
  if (version !== 'v1' && version !== 'v2') {
    throw new LpsError('INVALID_CLAIM', `this claim's version is not known: ${JSON.stringify(version.slice(0, 20))}`);
  }
  return parseClaimJson(payload.data ?? new Uint8Array(), version);
}

/** A claim from its JSON text, as a person may paste it. Throws INVALID_CLAIM. */
export function parseClaimJson(data: Uint8Array | string, version?: 'v1' | 'v2'): Claim {
  const record = parseJsonObject(data);
  // Go reads field names without regard to case
  const field = (name: string): unknown =>
    record[name] ?? Object.entries(record).find(([other]) => other.toLowerCase() === name)?.[1];
  const size = field('size');
  const digest = field('digest');
  const key = field('key');
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) throw invalid('its size is not a number');
  if (!isDigest(digest)) throw invalid('its digest is not "sha256:" and 64 hexadecimal digits');
  const metadata = field('metadata') ?? null;
  const claim = { metadata: metadataFromClaim(metadata), size, digest };
  if (version === 'v1' || (version === undefined && key === undefined)) return claim;
  return { ...claim, key: keyFromClaim(key, digest) };
}

function keyFromClaim(key: unknown, digest: Digest): string {
  let parsed: ReturnType<typeof parseKey>;
  try {
    parsed = parseKey(key);
  } catch (cause) {
    throw invalid('its key is not a key', cause);
  }
  if (parsed.digest !== digest) throw invalid('its key and its digest differ');
  return key as string; // parseKey takes texts only
}

function metadataFromClaim(value: unknown): Metadata | null {
  try {
    return metadataFromJson(value);
  } catch (cause) {
    throw invalid('its metadata is not a map of names to base64', cause);
  }
}

function parseJsonObject(data: Uint8Array | string): Record<string, unknown> {
  if (data.length > maxClaimBytes) throw invalid(`it is longer than ${maxClaimBytes} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(typeof data === 'string' ? data : new TextDecoder('utf-8', { fatal: true }).decode(data));
  } catch (cause) {
    throw invalid('it does not hold JSON', cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid('it is not a JSON object');
  return value as Record<string, unknown>;
}

function invalid(reason: string, cause?: unknown): LpsError {
  return new LpsError('INVALID_CLAIM', `not a claim: ${reason}`, cause === undefined ? {} : { cause });
}
