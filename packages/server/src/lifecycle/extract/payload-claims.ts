/**
 * What a payload claims, when it stands for another one:
 *
 *   claim of the Go codec   metadata temporal.io/remote-codec: v1 (a digest alone) or v2 (a key)
 *   reference               {"driverName":"large-payload","claimData":{"version":"1","key":"/blobs/…",…}}
 *                           by shape: any driver name, our claim data; Temporal's own are someone else's objects
 *
 * References are written in several ways: see codec/references.ts, which resolves them.
 */
import {
  type BlobKey,
  type Digest,
  isClaimPayload,
  isDigest,
  parseClaim,
  parseKey,
  remoteCodecName,
} from '@large-payload/core';
import type { Payload } from '@temporalio/common';
import { quoted } from './findings.js';

export interface PayloadClaim {
  readonly key?: BlobKey;
  /** Of a claim that has no key. */
  readonly digest?: Digest;
  /** Digests in the payload that are explained by this. */
  readonly known: ReadonlySet<Digest>;
  /** Why it may claim more than this. */
  readonly gap?: string;
}

const messageType = 'temporal.api.sdk.v1.ExternalStorageReference';
const earlyEncoding = 'json/external-storage-reference';
const maxReferenceBytes = 2 * 1024 * 1024;
const ourFields = 'key,metadata,size,version';

/** `undefined`: it stands for itself. `claimFree` names drivers as `driver:{name}`. */
export function claimOf(payload: Payload, claimFree: ReadonlySet<string>): PayloadClaim | undefined {
  if (isClaimPayload(payload)) return goClaim(payload);
  const isReference =
    metadataText(payload, 'encoding') === earlyEncoding || metadataText(payload, 'messageType') === messageType;
  if (!isReference && (payload.externalPayloads?.length ?? 0) === 0) return undefined;
  const reference = referenceIn(payload.data);
  if (reference !== undefined) return driverClaim(reference, claimFree);
  // sizes of external payloads are also kept by codecs that wrap a reference
  return isReference ? { known: new Set(), gap: 'a reference to a stored payload cannot be read' } : undefined;
}

/** As text, when it is short enough to be a name. */
export function metadataText({ metadata }: Payload, name: string): string | undefined {
  const value = metadata != null && Object.hasOwn(metadata, name) ? metadata[name] : undefined;
  return value instanceof Uint8Array ? Buffer.from(value.subarray(0, 256)).toString('utf8') : undefined;
}

function goClaim(payload: Payload): PayloadClaim {
  try {
    const { digest, key } = parseClaim(payload);
    return key === undefined ? { digest, known: new Set([digest]) } : keyClaim(parseKey(key));
  } catch (error) {
    return { known: new Set(), gap: `a claim of the Go codec cannot be read: ${(error as Error).message}` };
  }
}

function keyClaim(key: BlobKey): PayloadClaim {
  return { key, known: new Set([key.digest, key.metadataDigest]) };
}

interface Reference {
  readonly driverName: string;
  readonly data: Readonly<Record<string, unknown>>;
}

function driverClaim({ driverName, data }: Reference, claimFree: ReadonlySet<string>): PayloadClaim {
  const key = keyIn(data.key);
  if (key !== undefined) {
    const isKnown = data.version === '1' && Object.keys(data).sort().join() === ourFields;
    if (isKnown || driverName === remoteCodecName) return keyClaim(key);
    return { ...keyClaim(key), gap: `a reference of the driver ${quoted(driverName)} has a form that is not known` };
  }
  if (driverName === remoteCodecName && isDigest(data.digest))
    return { digest: data.digest, known: new Set([data.digest]) };
  const theirs = temporalsDigest(data);
  if (theirs !== undefined) return { known: new Set([theirs]) };
  if (claimFree.has(`driver:${driverName}`)) return { known: new Set() };
  const gap = `a reference of the driver ${quoted(driverName)} is not understood: declare "driver:${driverName.slice(0, 80)}" free of claims if it never refers to this service`;
  return { known: new Set(), gap };
}

function keyIn(text: unknown): BlobKey | undefined {
  try {
    return parseKey(text);
  } catch {
    return undefined;
  }
}

/** That of an object in a bucket of Temporal's drivers: `{bucket, key or object, hashAlgorithm, hashValue}`. */
function temporalsDigest({ bucket, key, object, hashAlgorithm, hashValue }: Reference['data']): Digest | undefined {
  const digest = `sha256:${hashValue}`;
  const name = key ?? object;
  const isTheirs = typeof bucket === 'string' && typeof name === 'string' && name.startsWith('v0/');
  return isTheirs && hashAlgorithm === 'sha256' && isDigest(digest) ? digest : undefined;
}

function referenceIn(data: Uint8Array | null | undefined): Reference | undefined {
  if (data == null || data.length > maxReferenceBytes) return undefined;
  const record = objectOf(parsed(data));
  const driverName = record?.driverName ?? record?.driver_name;
  const early = record?.driverClaim ?? record?.driver_claim;
  const claim = early === undefined ? record : objectOf(early);
  const claimData = objectOf(claim?.claimData ?? claim?.claim_data ?? {});
  if (typeof driverName !== 'string' || claimData === undefined) return undefined;
  return { driverName, data: claimData };
}

function parsed(data: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(data));
  } catch {
    return undefined;
  }
}

function objectOf(value: unknown): Record<string, unknown> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}
