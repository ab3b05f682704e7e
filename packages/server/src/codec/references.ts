/**
 * What stands for a payload that is kept elsewhere, in all its forms:
 *
 *   reference     metadata  encoding: json/protobuf, messageType: temporal.api.sdk.v1.ExternalStorageReference
 *                 data      {"driverName":"large-payload","claimData":{…}}, externalPayloads: [{sizeBytes}]
 *   early SDKs'   metadata  encoding: json/external-storage-reference
 *                 data      {"driver_name":"aws.s3driver","driver_claim":{"claim_data":{…}}}
 *   Go claim      metadata  temporal.io/remote-codec: v1 or v2 (core's claim.ts)
 *
 * To the Web UI only the first is one with a download button: with `preserveStorageRefs` the others are shown in its
 * form, a Go claim under the driver name `temporal.io/remote-codec`. What was shown so is resolved, too.
 */
import {
  type Claim,
  type ClaimCheck,
  isClaimPayload,
  type KeyedClaim,
  parseClaim,
  parseClaimJson,
  parseKey,
  remoteCodecName,
  v1ObjectName,
} from '@large-payload/core';
import type { Payload, StorageDriver } from '@temporalio/common';
import { invalidClaim } from './codec-error.js';

/** Whose bytes a reference asks for. `everywhere`: it names no namespace, so its blob may be anyone's. */
export interface Ownership {
  readonly namespaces: readonly string[];
  readonly everywhere: boolean;
}

/** A reference taken apart. */
export interface Reference {
  /** The same text, the same payload. */
  readonly identity: string;
  /** For the audit: the key or the object's name. */
  readonly subject: string;
  /** Bytes, as the reference says. 0: it does not. */
  readonly declaredBytes: number;
  /** Whether whoever fetches it checks the size before he takes memory for it. */
  readonly isSized: boolean;
  readonly owner: Ownership;
  fetch(signal: AbortSignal): Promise<Payload>;
}

export interface ReferencesOptions {
  readonly drivers: readonly StorageDriver[];
  /** For claims of the Go codec. Absent: they are payloads like any other. */
  readonly claimCheck?: ClaimCheck | undefined;
  /** Whose the claims of version v1 are. Absent: they are refused. */
  readonly v1Namespace?: string | undefined;
}

const messageType = 'temporal.api.sdk.v1.ExternalStorageReference';
const encodings = { reference: 'json/protobuf', early: 'json/external-storage-reference' } as const;
const maxReferenceBytes = 2 * 1024 * 1024;

export class References {
  readonly #drivers: ReadonlyMap<string, StorageDriver>;
  readonly #claimCheck: ClaimCheck | undefined;
  readonly #v1Namespace: string | undefined;

  constructor({ drivers, claimCheck, v1Namespace }: ReferencesOptions) {
    this.#drivers = new Map(drivers.map((driver) => [driver.name, driver]));
    this.#claimCheck = claimCheck;
    this.#v1Namespace = v1Namespace;
  }

  /** Whether a payload stands for another one. */
  isReference(payload: Payload): boolean {
    return isDriverReference(payload) || this.isClaim(payload);
  }

  /** Whether it is a claim of the Go codec, and one that is resolved here. */
  isClaim(payload: Payload): boolean {
    return this.#claimCheck !== undefined && isClaimPayload(payload);
  }

  /** Throws INVALID_CLAIM. */
  parse(payload: Payload): Reference {
    if (this.#claimCheck !== undefined && isClaimPayload(payload)) {
      return this.#ofClaim(parseClaim(payload), this.#claimCheck);
    }
    const { driverName, claimData } = parseReference(payload);
    if (driverName === remoteCodecName && this.#claimCheck !== undefined) {
      return this.#ofClaim(claimOf(claimData), this.#claimCheck);
    }
    const driver = this.#drivers.get(driverName);
    if (driver === undefined) throw invalidClaim(`there is no driver ${quoted(driverName)} here`);
    return ofDriver(driver, claimData, payload);
  }

  /** The payload as the Web UI knows a reference. What cannot be parsed stays what it is: a page has other things to show. */
  shown(payload: Payload): Payload {
    try {
      if (this.isClaim(payload)) {
        const claim = parseClaim(payload);
        return formatReference(remoteCodecName, claimDataOf(claim), claim.size);
      }
      if (textOf(payload, 'encoding') !== encodings.early) return payload;
      const { driverName, claimData } = parseReference(payload);
      return { ...formatReference(driverName, claimData, 0), externalPayloads: payload.externalPayloads ?? [] };
    } catch {
      return payload;
    }
  }

  #ofClaim(claim: Claim, claimCheck: ClaimCheck): Reference {
    const namespace = claim.key === undefined ? this.#v1Namespace : parseKey(claim.key).namespace;
    if (namespace === undefined) {
      throw invalidClaim('a claim of version v1 names no namespace, and none was configured (--v1-namespace)');
    }
    const subject = claim.key ?? v1ObjectName(claim.digest);
    return {
      identity: JSON.stringify([remoteCodecName, claimDataOf(claim)]),
      subject,
      declaredBytes: claim.size,
      isSized: true,
      owner: { namespaces: [namespace], everywhere: false },
      fetch: (signal) => claimCheck.redeem(claim, { signal }),
    };
  }
}

/** A reference as the SDKs write it. */
export function formatReference(
  driverName: string,
  claimData: Readonly<Record<string, string>>,
  sizeBytes: number,
): Payload {
  return {
    metadata: { encoding: Buffer.from(encodings.reference), messageType: Buffer.from(messageType) },
    data: Buffer.from(JSON.stringify({ driverName, claimData }), 'utf8'),
    // a number is an int64 to protobufjs, though not to its types
    externalPayloads: [{ sizeBytes }] as unknown as NonNullable<Payload['externalPayloads']>,
  };
}

function isDriverReference(payload: Payload): boolean {
  const encoding = textOf(payload, 'encoding');
  if (encoding === encodings.reference && textOf(payload, 'messageType') === messageType) return true;
  return encoding === encodings.early || (payload.externalPayloads?.length ?? 0) > 0;
}

interface DriverReference {
  readonly driverName: string;
  readonly claimData: Readonly<Record<string, string>>;
}

function parseReference({ data }: Payload): DriverReference {
  if ((data?.length ?? 0) > maxReferenceBytes) throw invalidClaim('not a reference: it is too long');
  const record = objectOf(parseJson(data ?? new Uint8Array()));
  const driverName = record.driverName ?? record.driver_name;
  if (typeof driverName !== 'string' || driverName === '') throw invalidClaim('not a reference: it names no driver');
  const early = record.driverClaim ?? record.driver_claim;
  const claim = early === undefined ? record : objectOf(early);
  const claimData = Object.entries(objectOf(claim.claimData ?? claim.claim_data ?? {}));
  for (const [name, value] of claimData) {
    if (typeof value !== 'string' || name === '__proto__')
      throw invalidClaim('not a reference: its claim is not of texts');
  }
  return { driverName, claimData: Object.fromEntries(claimData) as Record<string, string> };
}

function ofDriver(driver: StorageDriver, claimData: Readonly<Record<string, string>>, payload: Payload): Reference {
  const claimedBytes = /^\d{1,15}$/.test(claimData.size ?? '') ? Number(claimData.size) : 0;
  const isOurs = driver.type === 'large-payload';
  return {
    identity: JSON.stringify([driver.name, Object.entries(claimData).sort()]),
    subject: (claimData.key ?? claimData.object ?? driver.name).slice(0, 1024),
    declaredBytes: Math.max(isOurs ? claimedBytes : 0, statedBytes(payload)),
    isSized: isOurs,
    owner: ownerOf(driver.type, claimData),
    async fetch(abortSignal) {
      const fetched = await driver.retrieve({ abortSignal }, [{ claimData: { ...claimData } }]);
      const [only] = fetched;
      if (fetched.length !== 1 || only === undefined)
        throw invalidClaim(`the driver ${quoted(driver.name)} returned ${fetched.length} payloads for one claim`);
      return only;
    },
  };
}

/** Whose the bytes are, where the claim of a driver of this type says so. Throws INVALID_CLAIM. */
function ownerOf(type: string, claimData: Readonly<Record<string, string>>): Ownership {
  if (type === 'large-payload') return { namespaces: [namespaceOfKey(claimData.key)], everywhere: false };
  const name = type === 'aws.s3driver' ? claimData.key : type === 'gcp.gcsdriver' ? claimData.object : undefined;
  const segment = name === undefined ? undefined : /^v0\/ns\/([^/]{1,1000})\//.exec(name)?.[1];
  // `null` is what Temporal's drivers write for a namespace that they were not told
  if (segment === undefined || segment === 'null') return { namespaces: [], everywhere: true };
  return { namespaces: [unescaped(segment)], everywhere: false };
}

function namespaceOfKey(key: string | undefined): string {
  try {
    return parseKey(key).namespace;
  } catch (cause) {
    throw invalidClaim('not a claim of this driver: its key is not a key', cause);
  }
}

function unescaped(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch (cause) {
    throw invalidClaim("not a claim of Temporal's driver: its name is not percent-encoded", cause);
  }
}

/** A Go claim as text, the way our driver writes its claims. */
function claimDataOf(claim: Claim | KeyedClaim): Record<string, string> {
  const { metadata, size, digest, key } = claim;
  const encoded = Object.entries(metadata ?? {}).map(([name, value]) => [name, Buffer.from(value).toString('base64')]);
  return {
    version: key === undefined ? 'v1' : 'v2',
    ...(key === undefined ? {} : { key }),
    size: String(size),
    digest,
    metadata: JSON.stringify(metadata === null ? null : Object.fromEntries(encoded)),
  };
}

function claimOf({ version, key, size, digest, metadata }: Readonly<Record<string, string>>): Claim {
  const isNumber = /^\d{1,15}$/.test(size ?? '');
  const parsed = {
    metadata: parseJson(Buffer.from(metadata ?? 'null')),
    size: isNumber ? Number(size) : -1,
    digest,
    key,
  };
  return parseClaimJson(JSON.stringify(parsed), version === 'v1' ? 'v1' : 'v2');
}

/** What the sizes beside a reference say. They are not trusted: enough to refuse early, no more. */
function statedBytes({ externalPayloads }: Payload): number {
  const sizes = (externalPayloads ?? []).map(({ sizeBytes }) => Number(sizeBytes ?? 0));
  const total = sizes.reduce((sum, size) => sum + Math.max(0, size), 0);
  return Number.isFinite(total) ? total : Number.MAX_SAFE_INTEGER;
}

function textOf({ metadata }: Payload, name: string): string | undefined {
  const value = metadata != null && Object.hasOwn(metadata, name) ? metadata[name] : undefined;
  return value === undefined || value.length > 256 ? undefined : Buffer.from(value).toString('utf8');
}

function parseJson(data: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(data));
  } catch (cause) {
    throw invalidClaim('not a reference: it does not hold JSON', cause);
  }
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw invalidClaim('not a reference: it is not a JSON object');
}

function quoted(name: string): string {
  return JSON.stringify(name.slice(0, 80));
}
