/**
 * What a person may paste to name a blob:
 *
 *   /blobs/orders/common/sha256:…/sha256:…                       a key
 *   {"metadata":…,"size":…,"digest":"sha256:…","key":"/blobs/…"}  the text of a claim of the Go codec
 *   {"metadata":{"encoding":"anNvbi9wbGFpbg==",…},"data":"eyJt…"}  the payload around it, as Temporal's UI and CLI show it
 *   {"payloads":[…]}                                             the same, one of it in a list
 *   eyJtZXRhZGF0YSI6…                                             base64 of any of these
 */
import {
  type Claim,
  type Digest,
  decodeBase64,
  isLpsError,
  LpsError,
  type Metadata,
  metadataFromJson,
  parseClaim,
  parseClaimJson,
  parseKey,
  v1ObjectName,
} from '@large-payload/core';

/** A blob that was named by a key or a claim. */
export interface Reference {
  /** The name under which the store has it: a key, or for claims of version 1 the object's name. */
  readonly key: string;
  readonly digest: Digest;
  /** Bytes, when a claim says so. */
  readonly size?: number;
}

const maxReferenceBytes = 4 * 1024 * 1024;
/** A list, in it a payload, in it a claim; and base64 around some of them. */
const maxDepth = 6;

/** The one parser for what a person pastes. Throws INVALID_KEY or INVALID_CLAIM. */
export function parseReference(pasted: string): Reference {
  if (pasted.length > maxReferenceBytes) throw notAReference('it is too long');
  return parseText(pasted.trim(), maxDepth);
}

function parseText(text: string, depth: number): Reference {
  if (depth === 0) throw notAReference('it is nested too deeply');
  if (text === '') throw notAReference('it is empty');
  if (text.startsWith('/')) return ofKey(text);
  if (/^[{["]/.test(text)) return parseJson(text, depth);
  const decoded = decodeBase64(text.replace(/\s+/g, ''));
  const inner = decoded === undefined ? undefined : asText(decoded);
  if (inner === undefined || !/^\s*[/{["]/.test(inner)) throw notAReference('it is none of these');
  return parseText(inner.trim(), depth - 1);
}

function parseJson(text: string, depth: number): Reference {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw notAReference('it begins like JSON, but is not complete', cause);
  }
  if (typeof value === 'string') return parseText(value.trim(), depth - 1);
  const single = onlyElement(value);
  if (single !== undefined) return parseText(JSON.stringify(single), depth - 1);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw notAReference('it names no blob');
  const record = value as Record<string, unknown>;
  return Object.hasOwn(record, 'data') ? ofPayload(record) : ofClaim(parseClaimJson(text));
}

/** The element of a list of one, or of `{"payloads":[…]}` with one. */
function onlyElement(value: unknown): unknown {
  const list: unknown =
    typeof value === 'object' && value !== null && Object.hasOwn(value, 'payloads')
      ? (value as { payloads: unknown }).payloads
      : value;
  if (!Array.isArray(list)) return undefined;
  if (list.length !== 1) throw notAReference(`it holds ${list.length} payloads; paste one of them`);
  return list[0];
}

function ofPayload(record: Record<string, unknown>): Reference {
  const { data } = record;
  const bytes = typeof data === 'string' ? decodeBase64(data) : undefined;
  if (bytes === undefined) throw notAReference('the data of the payload is not base64');
  const metadata = payloadMetadata(record.metadata);
  if (isStorageReference(metadata)) return ofStorageReference(bytes);
  if (metadata === null || !Object.hasOwn(metadata, 'temporal.io/remote-codec')) {
    throw notAReference('this payload is itself the value, not a claim for one that was stored elsewhere');
  }
  return ofClaim(parseClaim({ metadata, data: bytes }));
}

function payloadMetadata(value: unknown): Record<string, Uint8Array> | null {
  try {
    const metadata: Metadata | null = metadataFromJson(value ?? null);
    return metadata === null ? null : { ...metadata };
  } catch (cause) {
    throw notAReference('the metadata of the payload is not a map of names to base64', cause);
  }
}

function isStorageReference(metadata: Metadata | null): boolean {
  const type = metadata !== null && Object.hasOwn(metadata, 'messageType') ? metadata.messageType : undefined;
  return Buffer.from(type ?? []).toString('latin1') === 'temporal.api.sdk.v1.ExternalStorageReference';
}

/** `{"driverName":…,"claimData":{"key":"/blobs/…",…}}`, as our driver for External Storage writes it. */
function ofStorageReference(bytes: Uint8Array): Reference {
  let key: unknown;
  try {
    key = JSON.parse(asText(bytes) ?? '')?.claimData?.key;
  } catch (cause) {
    throw notAReference('the reference in this payload does not hold JSON', cause);
  }
  if (typeof key !== 'string') throw notAReference('this reference was not written by the large payload driver');
  return ofKey(key);
}

function ofKey(text: string): Reference {
  return { key: text, digest: parseKey(text).digest };
}

function ofClaim(claim: Claim): Reference {
  return { key: claim.key ?? v1ObjectName(claim.digest), digest: claim.digest, size: claim.size };
}

function asText(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function notAReference(reason: string, cause?: unknown): LpsError {
  const message = `expected a key (/blobs/…) or a claim as Temporal shows it: ${reason}`;
  return new LpsError('INVALID_CLAIM', message, isLpsError(cause) || cause === undefined ? {} : { cause });
}
