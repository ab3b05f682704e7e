/**
 * Reads what Temporal's own S3 and GCS drivers stored, so that running workflows can move over. Nothing is written.
 *
 *   object      the serialized `Payload` protobuf, of 50 MiB at most
 *   claim data  { bucket, key (S3) or object (GCS), hashAlgorithm: sha256, hashValue: <64 hex> }; of the SDK for Python,
 *               { …, hash_algorithm, hash_value }
 *   its name    v0/ns/{namespace}/wt/{workflow type}/wi/{workflow id}/ri/{run id}/d/sha256/{hashValue}
 *               v0/ns/{namespace}/at/{activity type}/ai/{activity id}/ri/{run id}/d/sha256/{hashValue}
 *               v0/ns/{namespace}/d/sha256/{hashValue}, of Python where the name would be longer than 1,024 bytes
 *               v0/d/sha256/{hashValue}
 *
 * Source: wire.md section 2; @temporalio/external-storage-s3 and -gcs 1.22. The SDKs for Go, Python, Java and .NET write
 * the same.
 */
import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';
import {
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
  type StorageDriverStoreContext,
} from '@temporalio/common';
import type { Limited } from './driver.js';
import { withFailures } from './failure.js';
import { decodePayload } from './payload-proto.js';

/**
 * An object of a bucket: its bytes, whole or as a stream, or `undefined` when there is none. Ready-made: `s3Objects` and
 * `gcsObjects`.
 *
 * An error that it throws is retried until the deadline, unless it carries the status 403 or 404 as the AWS and Google
 * libraries do, or is an `LpsError` that is final.
 */
export type ReadObject = (
  bucket: string,
  name: string,
  signal: AbortSignal,
) => Promise<Uint8Array | Readable | undefined>;

export interface TemporalClaimsOptions {
  /** Every bucket that claims may name. Others are not read, whatever a claim says. */
  readonly buckets: readonly string[];
  readonly read: ReadObject;
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

/**
 * A driver for references that Temporal's S3 driver (`aws.s3driver`) wrote; it only reads.
 *
 *     temporalS3Claims({ buckets: ['payloads'], read: s3Objects(new S3Client({}), GetObjectCommand) })
 */
export function temporalS3Claims(options: TemporalClaimsOptions): ClaimReader {
  return new ClaimReader('aws.s3driver', 'key', s3Segment, options);
}

/**
 * A driver for references that Temporal's GCS driver (`gcp.gcsdriver`) wrote; it only reads.
 *
 *     temporalGcsClaims({ buckets: ['payloads'], read: gcsObjects(new Storage()) })
 */
export function temporalGcsClaims(options: TemporalClaimsOptions): ClaimReader {
  return new ClaimReader('gcp.gcsdriver', 'object', gcsSegment, options);
}

/** Reads with the user's own client of `@aws-sdk/client-s3`, and its command. */
export function s3Objects(
  client: { send(command: object, options: { readonly abortSignal: AbortSignal }): Promise<unknown> },
  GetObjectCommand: new (input: { Bucket: string; Key: string }) => object,
): ReadObject {
  return async (bucket, name, abortSignal) => {
    const command = new GetObjectCommand({ Bucket: bucket, Key: name });
    const { Body } = (await client.send(command, { abortSignal })) as { readonly Body?: Readable };
    return Body;
  };
}

/** Reads with the user's own `Storage` of `@google-cloud/storage`. */
export function gcsObjects(storage: {
  bucket(name: string): { file(name: string): { createReadStream(): Readable } };
}): ReadObject {
  return async (bucket, name) => storage.bucket(bucket).file(name).createReadStream();
}

const mebibyte = 1024 * 1024;
const hourMs = 3_600_000;
const maxNameBytes = 1024;

// What the drivers leave as it is in a segment; the rest they write as %XX.
const s3Segment = "(?:[0-9a-zA-Z!\\-_.*'()]|%[0-9A-F]{2})+";
const gcsSegment = String.raw`(?:[^\u0000-\u001f\u007f-\u009f#[\]*?:"<>|/%]|%[0-9A-F]{2})+`;

interface ClaimedObject {
  readonly claim: StorageDriverClaim;
  readonly id: string;
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
  readonly #buckets: ReadonlySet<string>;
  readonly #readObject: ReadObject;
  readonly #maxBytes: number;
  readonly #deadlineMs: number;
  readonly #clock: Clock;
  readonly #slots: Slots;
  readonly #cache: ByteLru<{ readonly bytes: Uint8Array; readonly expiresMs: number }>;

  /** Throws CONFIG_INVALID. Made by `temporalS3Claims` and `temporalGcsClaims`. */
  constructor(type: string, nameField: 'key' | 'object', segment: string, options: TemporalClaimsOptions) {
    const { buckets, read, name = type, maxBytes = 50 * mebibyte, cacheBytes = 64 * mebibyte } = options;
    const { concurrency = 8, deadlineMs = 8000, clock = systemClock } = options;
    if (buckets.length === 0) throw new LpsError('CONFIG_INVALID', '`buckets` names no bucket');
    for (const [setting, value] of Object.entries({ maxBytes, concurrency, deadlineMs })) {
      if (!Number.isSafeInteger(value) || value < 1) {
        throw new LpsError('CONFIG_INVALID', `\`${setting}\` must be a whole number from 1`);
      }
    }
    if (!(cacheBytes >= 0)) throw new LpsError('CONFIG_INVALID', '`cacheBytes` must be a number of bytes');
    if (name === '') throw new LpsError('CONFIG_INVALID', 'the driver needs a name');
    this.type = type;
    this.name = name;
    this.#nameField = nameField;
    this.#nameShape = objectNames(segment);
    this.#buckets = new Set(buckets);
    this.#readObject = read;
    this.#maxBytes = maxBytes;
    this.#deadlineMs = deadlineMs;
    this.#clock = clock;
    this.#slots = new Slots(concurrency);
    this.#cache = new ByteLru(cacheBytes);
  }

  /** Always throws a non-retryable `ApplicationFailure` of type `LargePayload.NOT_SUPPORTED`. */
  async store(_context: StorageDriverStoreContext, _payloads: Payload[]): Promise<StorageDriverClaim[]> {
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
      const distinct = [...new Map(parsed.map((object) => [object.id, object])).values()];
      const read = await settleAll(distinct, abortSignal, (object, signal) => {
        const download = (): Promise<Uint8Array> => this.#read(object, signal);
        return limiter ? limiter.permit(object.claim, download) : download();
      });
      const bytesOf = new Map(distinct.map(({ id }, index) => [id, read[index]]));
      return parsed.map((object) => decoded(bytesOf.get(object.id), object));
    });
  }

  #parse(claim: StorageDriverClaim): ClaimedObject {
    const { bucket, [this.#nameField]: name, ...data } = claim.claimData;
    // Python's driver writes snake case
    const hashAlgorithm = data.hashAlgorithm ?? data.hash_algorithm;
    const hashValue = data.hashValue ?? data.hash_value;
    if (hashAlgorithm !== 'sha256' || hashValue === undefined || !/^[0-9a-f]{64}$/.test(hashValue)) {
      throw invalid('it has no sha256 digest');
    }
    if (bucket === undefined || !this.#buckets.has(bucket)) {
      throw invalid(`its bucket ${JSON.stringify(`${bucket}`.slice(0, 80))} is not one that this driver was given`);
    }
    const match = name !== undefined && Buffer.byteLength(name) <= maxNameBytes ? this.#nameShape.exec(name) : null;
    if (name === undefined || match === null) throw invalid(`its ${this.#nameField} is not one that the driver makes`);
    if (match[1] !== hashValue) throw invalid(`its ${this.#nameField} and its digest differ`);
    return { claim, id: `${bucket} ${name}`, bucket, name, sha256: hashValue };
  }

  async #read(object: ClaimedObject, signal: AbortSignal): Promise<Uint8Array> {
    const nowMs = this.#clock.monotonicMs();
    const cached = this.#cache.get(object.id);
    if (cached !== undefined && nowMs < cached.expiresMs) return cached.bytes;
    const bytes = await this.#download(object, signal);
    this.#cache.set(object.id, { bytes, expiresMs: nowMs + hourMs }, bytes.length);
    return bytes;
  }

  async #download(object: ClaimedObject, signal: AbortSignal): Promise<Uint8Array> {
    const controller = new AbortController();
    const onAbort = (): void => controller.abort(new LpsError('ABORTED', 'the call was aborted'));
    manyListeners(signal).addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      return await withRetries((attempt) => this.#slots.run(attempt, () => this.#fetch(object, attempt)), {
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

  async #fetch({ bucket, name, sha256 }: ClaimedObject, signal: AbortSignal): Promise<Uint8Array> {
    const details = { bucket, name };
    let bytes: Uint8Array | undefined;
    try {
      const body = await this.#readObject(bucket, name, signal);
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

/** The one capture is the digest. A segment that a file system or a proxy would resolve is none of the drivers' either. */
function objectNames(segment: string): RegExp {
  const value = String.raw`(?!\.{1,2}/)${segment}`;
  const owner = `/ns/${value}(?:/(?:wt/${value}/wi|at/${value}/ai)/${value}/ri/${value})?`;
  return new RegExp(`^v0(?:${owner})?/d/sha256/([0-9a-f]{64})$`, 'u');
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

function decoded(bytes: Uint8Array | undefined, { bucket, name }: ClaimedObject): Payload {
  try {
    return decodePayload(bytes ?? new Uint8Array());
  } catch (cause) {
    throw new LpsError('BLOB_DAMAGED', 'the object of this claim is not a payload', {
      details: { bucket, name },
      cause,
    });
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
