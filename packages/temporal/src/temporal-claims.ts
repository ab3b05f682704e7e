/**
 * Reads what Temporal's own S3 and GCS drivers stored, so that running workflows can move over. Nothing is written.
 *
 *   object      the serialized `Payload` protobuf, of 50 MiB at most
 *   claim data  { bucket, key (S3) or object (GCS), hashAlgorithm: sha256, hashValue: <64 hex> }
 *   its name    v0/ns/{namespace}/wt/{workflow type}/wi/{workflow id}/ri/{run id}/d/sha256/{hashValue}
 *               v0/ns/{namespace}/at/{activity type}/ai/{activity id}/ri/{run id}/d/sha256/{hashValue}
 *               v0/d/sha256/{hashValue}
 *
 * Source: wire.md section 2; @temporalio/external-storage-s3 and -gcs 1.22. The SDKs for Go, Python, Java and .NET write
 * the same.
 */
import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';
import {
  type BlobStore,
  ByteLru,
  type Clock,
  isBytes,
  LpsError,
  manyListeners,
  named,
  Slots,
  settleAll,
  systemClock,
  withRetries,
} from '@large-payload/core';
import {
  ApplicationFailure,
  type Payload,
  type StorageDriver,
  type StorageDriverClaim,
  type StorageDriverRetrieveContext,
} from '@temporalio/common';
import proto from '@temporalio/proto';
import type { Limited } from './driver.js';
import { withFailures } from './failure.js';

/**
 * An object of a bucket: its bytes, whole or as a stream, or `undefined` when there is none. With the AWS SDK, for one:
 *
 *     async (bucket, key, signal) => {
 *       const command = new GetObjectCommand({ Bucket: bucket, Key: key });
 *       return (await s3.send(command, { abortSignal: signal })).Body as Readable;
 *     }
 *
 * An error that it throws is retried, unless it is an `LpsError` that is final or has the status 403 or 404 of the AWS
 * and Google libraries.
 */
export type ReadObject = (
  bucket: string,
  name: string,
  signal: AbortSignal,
) => Promise<Uint8Array | Readable | undefined>;

export interface TemporalClaimsOptions {
  /** Every bucket that claims may name, and how it is read: by a function, or as a store that was opened on it. */
  readonly buckets: Readonly<Record<string, ReadObject | BlobStore>>;
  /** The `driverName` of the references. Default: that of Temporal's driver. */
  readonly name?: string;
  /** Larger objects are refused. Default 50 MiB, as Temporal's drivers do. */
  readonly maxBytes?: number;
  /** Memory for objects, so that replays need no download. Default 64 MiB; 0 keeps none. */
  readonly cacheBytes?: number;
  /** Downloads at a time. Default 8. */
  readonly concurrency?: number;
  /** Time for one object with all retries, in ms. Default 8,000: a workflow task has 10,000. */
  readonly deadlineMs?: number;
  readonly clock?: Clock;
}

/** A driver for references that Temporal's S3 driver (`aws.s3driver`) wrote; it only reads. */
export function temporalS3Claims(options: TemporalClaimsOptions): ClaimReader {
  return new ClaimReader('aws.s3driver', 'key', s3Segment, options);
}

/** A driver for references that Temporal's GCS driver (`gcp.gcsdriver`) wrote; it only reads. */
export function temporalGcsClaims(options: TemporalClaimsOptions): ClaimReader {
  return new ClaimReader('gcp.gcsdriver', 'object', gcsSegment, options);
}

const mebibyte = 1024 * 1024;
const hourMs = 3_600_000;
const maxNameBytes = 1024;
const { Payload: PayloadProto } = proto.temporal.api.common.v1;

// What the drivers leave as it is in a segment; the rest they write as %XX.
const s3Segment = "(?:[0-9a-zA-Z!\\-_.*'()]|%[0-9A-F]{2})+";
const gcsSegment = String.raw`(?:[^\u0000-\u001f\u007f-\u009f#[\]*?:"<>|/%]|%[0-9A-F]{2})+`;

interface ObjectClaim {
  readonly bucket: string;
  readonly name: string;
  readonly sha256: string;
}

/**
 * A `StorageDriver` that resolves claims and makes none. Works without a worker, too: `retrieve({}, claims)`.
 *
 * A claim comes from a workflow history, so it is not trusted: only buckets that were named are read, only names that
 * the drivers make, and only bytes with the claim's digest are returned.
 */
export class ClaimReader implements StorageDriver {
  readonly name: string;
  readonly type: string;
  readonly #nameField: 'key' | 'object';
  readonly #nameShape: RegExp;
  readonly #buckets: ReadonlyMap<string, ReadObject>;
  readonly #maxBytes: number;
  readonly #deadlineMs: number;
  readonly #clock: Clock;
  readonly #slots: Slots;
  readonly #cache: ByteLru<{ readonly bytes: Uint8Array; readonly expiresMs: number }>;

  /** Throws CONFIG_INVALID. Made by `temporalS3Claims` and `temporalGcsClaims`. */
  constructor(type: string, nameField: 'key' | 'object', segment: string, options: TemporalClaimsOptions) {
    const { buckets, name = type, maxBytes = 50 * mebibyte, cacheBytes = 64 * mebibyte } = options;
    const { concurrency = 8, deadlineMs = 8000, clock = systemClock } = options;
    if (Object.keys(buckets).length === 0) throw new LpsError('CONFIG_INVALID', '`buckets` names no bucket');
    for (const [setting, value] of Object.entries({ maxBytes, concurrency, deadlineMs })) {
      if (!Number.isSafeInteger(value) || value < 1) {
        throw new LpsError('CONFIG_INVALID', `\`${setting}\` must be a whole number from 1`);
      }
    }
    this.type = type;
    this.name = name;
    this.#nameField = nameField;
    this.#nameShape = objectNames(segment);
    this.#buckets = new Map(Object.entries(buckets).map(([bucket, reader]) => [bucket, readerOf(reader)]));
    this.#maxBytes = maxBytes;
    this.#deadlineMs = deadlineMs;
    this.#clock = clock;
    this.#slots = new Slots(concurrency);
    this.#cache = new ByteLru(cacheBytes);
  }

  /** Always throws a non-retryable `ApplicationFailure` of type `LargePayload.NOT_SUPPORTED`. */
  async store(): Promise<StorageDriverClaim[]> {
    const message = `the driver ${this.name} only reads what Temporal's own driver stored: store with LargePayloadPlugin`;
    throw ApplicationFailure.create({
      message,
      type: 'LargePayload.NOT_SUPPORTED',
      nonRetryable: true,
      cause: new LpsError('NOT_SUPPORTED', message),
    });
  }

  /**
   * One payload a claim, in order. Throws `ApplicationFailure` (failure.ts) with INVALID_CLAIM, BLOB_NOT_FOUND,
   * BLOB_DAMAGED, BLOB_TOO_LARGE or what the reader threw.
   */
  async retrieve(
    context: StorageDriverRetrieveContext & Limited<StorageDriverClaim>,
    claims: StorageDriverClaim[],
  ): Promise<Payload[]> {
    const { abortSignal, limiter } = context;
    return withFailures(abortSignal, async () => {
      const parsed = claims.map((claim) => this.#parse(claim));
      const distinct = [...new Map(claims.map((claim, index) => [idOf(parsed[index]), claim]))];
      const byId = new Map(parsed.map((claim) => [idOf(claim), claim]));
      const objects = await settleAll(distinct, abortSignal, ([id, original], signal) => {
        const read = (): Promise<Uint8Array> => this.#read(id, byId.get(id), signal);
        return limiter ? limiter.permit(original, read) : read();
      });
      const bytesOf = new Map(distinct.map(([id], index) => [id, objects[index]]));
      return parsed.map((claim) => decoded(bytesOf.get(idOf(claim)), claim));
    });
  }

  #parse({ claimData }: StorageDriverClaim): ObjectClaim {
    const { bucket, hashAlgorithm, hashValue } = claimData;
    const name = claimData[this.#nameField];
    if (hashAlgorithm !== 'sha256' || hashValue === undefined || !/^[0-9a-f]{64}$/.test(hashValue)) {
      throw invalid('it has no sha256 digest');
    }
    if (bucket === undefined || !this.#buckets.has(bucket)) {
      throw invalid(`its bucket ${JSON.stringify(`${bucket}`.slice(0, 80))} is not one that this driver was given`);
    }
    const match = name !== undefined && Buffer.byteLength(name) <= maxNameBytes ? this.#nameShape.exec(name) : null;
    if (name === undefined || match === null) throw invalid(`its ${this.#nameField} is not one that the driver makes`);
    if (match[1] !== hashValue) throw invalid(`its ${this.#nameField} and its digest differ`);
    return { bucket, name, sha256: hashValue };
  }

  async #read(id: string, claim: ObjectClaim | undefined, signal: AbortSignal): Promise<Uint8Array> {
    const nowMs = this.#clock.monotonicMs();
    const cached = this.#cache.get(id);
    if (cached !== undefined && nowMs < cached.expiresMs) return cached.bytes;
    if (claim === undefined) throw new LpsError('INTERNAL', 'a claim was lost');
    const bytes = await this.#download(claim, signal);
    this.#cache.set(id, { bytes, expiresMs: nowMs + hourMs }, bytes.length);
    return bytes;
  }

  async #download(claim: ObjectClaim, signal: AbortSignal): Promise<Uint8Array> {
    const controller = new AbortController();
    const onAbort = (): void => controller.abort(new LpsError('ABORTED', 'the call was aborted'));
    manyListeners(signal).addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      return await withRetries((attempt) => this.#slots.run(attempt, () => this.#fetch(claim, attempt)), {
        controller,
        deadlineMs: this.#deadlineMs,
        storeName: this.name,
        operation: 'get',
        clock: this.#clock,
        random: Math.random,
      });
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #fetch({ bucket, name, sha256 }: ObjectClaim, signal: AbortSignal): Promise<Uint8Array> {
    const details = { bucket, name };
    const read = this.#buckets.get(bucket);
    let bytes: Uint8Array | undefined;
    try {
      const body = await read?.(bucket, name, signal);
      bytes = body === undefined ? undefined : await collect(body, this.#maxBytes, signal);
    } catch (error) {
      const status = statusOf(error);
      if (status === 403)
        throw new LpsError('STORE_REFUSED', 'the bucket refused the download', { details, cause: error });
      if (status !== 404) throw named(error, this.name, 'get');
    }
    if (bytes === undefined)
      throw new LpsError('BLOB_NOT_FOUND', 'the bucket does not have the object of this claim', { details });
    if (createHash('sha256').update(bytes).digest('hex') !== sha256) {
      throw new LpsError('BLOB_DAMAGED', 'the stored bytes are not those of the claim', { details });
    }
    return bytes;
  }
}

function idOf(claim: ObjectClaim | undefined): string {
  return claim === undefined ? '' : `${claim.bucket} ${claim.name}`;
}

/** The one capture is the digest. A segment that a file system or a proxy would resolve is none of the drivers' either. */
function objectNames(segment: string): RegExp {
  const value = String.raw`(?!\.{1,2}/)${segment}`;
  const owner = `/ns/${value}/(?:wt/${value}/wi|at/${value}/ai)/${value}/ri/${value}`;
  return new RegExp(`^v0(?:${owner})?/d/sha256/([0-9a-f]{64})$`, 'u');
}

function readerOf(reader: ReadObject | BlobStore): ReadObject {
  if (typeof reader === 'function') return reader;
  return async (_bucket, name, signal) => (await reader.get(name, { signal }))?.body;
}

/** Throws BLOB_TOO_LARGE before more than `maxBytes` have come. */
async function collect(body: Uint8Array | Readable, maxBytes: number, signal: AbortSignal): Promise<Uint8Array> {
  const tooLarge = (): LpsError => new LpsError('BLOB_TOO_LARGE', `the object has more than ${maxBytes} bytes`);
  if (isBytes(body)) {
    if (body.length > maxBytes) throw tooLarge();
    return new Uint8Array(body);
  }
  const onAbort = (): void => void body.destroy(signal.reason instanceof Error ? signal.reason : undefined);
  signal.addEventListener('abort', onAbort, { once: true });
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of body as AsyncIterable<Uint8Array>) {
      size += chunk.length;
      if (size > maxBytes) throw tooLarge();
      chunks.push(chunk);
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    body.destroy();
  }
  return new Uint8Array(Buffer.concat(chunks, size));
}

/** Bytes of its own for each caller: user code may write to them. */
function decoded(bytes: Uint8Array | undefined, claim: ObjectClaim): Payload {
  try {
    const { metadata, data, externalPayloads } = PayloadProto.decode(new Uint8Array(bytes ?? []));
    const plain = Object.entries(metadata).map(([name, value]) => [name, new Uint8Array(value)] as const);
    return {
      metadata: Object.fromEntries(plain),
      data: new Uint8Array(data),
      ...(externalPayloads.length === 0 ? {} : { externalPayloads }),
    };
  } catch (cause) {
    const details = { bucket: claim.bucket, name: claim.name };
    throw new LpsError('BLOB_DAMAGED', 'the object of this claim is not a payload', { details, cause });
  }
}

/** Where the AWS SDK and Google's library say what the server answered. */
function statusOf(error: unknown): number | undefined {
  if (typeof error !== 'object' || error === null) return undefined;
  if ('$metadata' in error && typeof error.$metadata === 'object' && error.$metadata !== null) {
    const { httpStatusCode } = error.$metadata as { readonly httpStatusCode?: unknown };
    return typeof httpStatusCode === 'number' ? httpStatusCode : undefined;
  }
  return 'code' in error && typeof error.code === 'number' ? error.code : undefined;
}

function invalid(reason: string): LpsError {
  return new LpsError('INVALID_CLAIM', `not a claim of Temporal's driver: ${reason}`);
}
