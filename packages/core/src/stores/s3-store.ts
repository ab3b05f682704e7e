/**
 * The s3 store without the checks of its layer.
 *
 *   put     PUT /bucket/key    If-None-Match: *, x-amz-content-sha256 and x-amz-checksum-sha256 = the digest
 *             200 created · 412 exists · 409 two at once: again, or HEAD · 400 BadDigest nothing is kept
 *   get     GET                Range when asked · 404 NoSuchKey absent, NoSuchBucket an error
 *   head    HEAD               404 has no body: absent, once the bucket is known to be there
 *   delete  HEAD, DELETE       with versions: list them, remove each, the readable one and the markers last
 *   list    ListObjectsV2      names URL-encoded, since XML cannot carry every one of them
 *
 * An object's name is `prefix` + key, the key's leading slash included: `/bucket//blobs/…` in a path.
 */

import type {
  BlobInfo,
  BlobStore,
  Body,
  BucketSettings,
  CallOptions,
  CountOptions,
  Expected,
  GetOptions,
  ListOptions,
  PutOptions,
  PutResult,
} from '../blob-store.js';
import { discard, isBytes } from '../body.js';
import { base64Of, type Digest, hexOf } from '../digest.js';
import { isLpsError, LpsError } from '../errors.js';
import { openTransport, type Transport, type TransportResponse } from '../transport.js';
import { collect, objectInfo, objectOf, wholeBytes } from './http-object.js';
import type { S3StoreOptions } from './s3.js';
import { s3Error } from './s3-errors.js';
import { type BucketListing, openListing } from './s3-listing.js';
import { openPresigning } from './s3-presign.js';
import { bucketSender, type SendToBucket } from './s3-request.js';
import { type ImportSdk, isUnanswerable, type OpenedSdk, openSdk } from './s3-sdk.js';
import { s3Settings } from './s3-settings.js';

const readyForMs = 1_000;
const maxPurges = 3;
const absentCodes = new Set<unknown>(['NoSuchKey', 'NoSuchVersion']);

/** For tests: the store that believes its caller, with another way to import the SDK. */
export async function openRawS3Store(
  options: S3StoreOptions,
  importSdk: ImportSdk = () => import('@aws-sdk/client-s3'),
): Promise<BlobStore> {
  const { maxSockets, connectTimeoutMs, idleTimeoutMs } = options;
  const transport = openTransport({
    errorCode: 'STORE_UNAVAILABLE',
    peerName: 'the S3 server',
    ...(maxSockets === undefined ? {} : { maxSockets }),
    ...(connectTimeoutMs === undefined ? {} : { connectTimeoutMs }),
    ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
  });
  try {
    const opened = await openSdk(options, transport, importSdk);
    const store = new S3Store(options, opened, transport);
    await store.detectVersions();
    return store;
  } catch (error) {
    await transport.close();
    throw error;
  }
}

class S3Store implements BlobStore {
  readonly name = 's3';
  readonly can: BlobStore['can'];
  readonly #prefix: string;
  readonly #newObjectHeaders: Readonly<Record<string, string>>;
  readonly #send: SendToBucket;
  readonly #listing: BucketListing;
  #versioned = false;
  #readyUntil = 0;
  /** Absent when the server does not check what a presigned PUT is bound to. */
  readonly presignPut?: NonNullable<BlobStore['presignPut']>;
  readonly presignGet: NonNullable<BlobStore['presignGet']>;

  constructor(
    readonly options: S3StoreOptions,
    readonly opened: OpenedSdk,
    readonly transport: Transport,
  ) {
    this.#prefix = options.prefix ?? '';
    this.#newObjectHeaders = newObjectHeaders(options, opened.address.isAws);
    this.#send = bucketSender(transport, opened.address, opened.keys);
    this.#listing = openListing(opened, {
      bucket: options.bucket,
      prefix: this.#prefix,
      isThere: (name, call, versionId) => this.#isThere(name, versionId, call),
    });
    const { presignPut, presignGet } = openPresigning({
      ...{ address: opened.address, keys: opened.keys },
      ...{ prefix: this.#prefix, newObjectHeaders: this.#newObjectHeaders },
    });
    this.presignGet = presignGet;
    if (options.checksums !== false && options.conditionalPut !== 'head') this.presignPut = presignPut;
    const hasVersions = (): boolean => this.#versioned;
    this.can = {
      range: true,
      list: true,
      delete: true,
      // versions may be switched on while we run; answers show it
      get versions() {
        return hasVersions();
      },
    };
  }

  async detectVersions(): Promise<void> {
    try {
      this.#versioned = await this.#listing.hasVersions();
    } catch (error) {
      // away at the start: answers show it as well, and a delete looks at its own
      if (!isLpsError(error, 'STORE_UNAVAILABLE')) throw error;
    }
  }

  async close(): Promise<void> {
    this.opened.client.destroy();
    await this.transport.close();
  }

  async put(key: string, body: Body, expect: Expected, options: PutOptions = {}): Promise<PutResult> {
    const { overwrite = false, signal } = options;
    const conditional = !overwrite && this.options.conditionalPut !== 'head';
    if (!overwrite && !conditional && (await this.head(key, options)) !== undefined) {
      discard(body);
      return { outcome: 'exists' };
    }
    const headers: Record<string, string> = { ...this.#newObjectHeaders, 'content-length': String(expect.size) };
    if (this.options.checksums !== false) headers['x-amz-checksum-sha256'] = base64Of(expect.digest);
    if (conditional) headers['if-none-match'] = '*';
    try {
      const name = this.#prefix + key;
      const response = await this.#send({
        method: 'PUT',
        name,
        headers,
        body: isBytes(body) || expect.size > wholeBytes ? body : await collect(body, expect.size),
        bodySha256: hexOf(expect.digest),
        signal,
      });
      this.#learn(response);
      if (!response.sent) throw new LpsError('STORE_UNAVAILABLE', 'S3 answered before it had the bytes');
      return { outcome: 'created' };
    } catch (error) {
      if (conditional && isLpsError(error) && error.details.status === 412) return { outcome: 'exists' };
      discard(body);
      if (conditional && mayStandThere(error) && (await this.#standsThere(key, options))) return { outcome: 'exists' };
      throw error;
    }
  }

  async get(key: string, options: GetOptions = {}) {
    const { range, signal } = options;
    const headers = range === undefined ? {} : { range: `bytes=${range.start}-${range.end}` };
    const response = await this.#find({ method: 'GET', name: this.#prefix + key, headers, signal });
    if (response === undefined) return undefined;
    return objectOf(key, response, range);
  }

  async head(key: string, options: CallOptions = {}): Promise<BlobInfo | undefined> {
    const headers = this.options.checksums === false ? {} : { 'x-amz-checksum-mode': 'ENABLED' };
    const response = await this.#find({ method: 'HEAD', name: this.#prefix + key, headers, signal: options.signal });
    if (response !== undefined) return { ...objectInfo(key, response), ...checksumOf(response) };
    // the answer to HEAD does not say whether it is the object or the bucket that is missing
    await this.#bucketExists(options);
    return undefined;
  }

  async delete(key: string, options: CallOptions = {}): Promise<boolean> {
    const name = this.#prefix + key;
    if (this.#versioned) return this.#deleteVersions(key, options);
    const found = await this.head(key, options);
    if (this.#versioned) return this.#deleteVersions(key, options);
    if (found === undefined) return false;
    const response = await this.#find({ method: 'DELETE', name, signal: options.signal });
    if (response !== undefined) this.#learn(response);
    // versions were switched on after we looked: the object has only been hidden
    if (this.#versioned) await this.#deleteVersions(key, options);
    return response !== undefined;
  }

  async countVersions(key: string, options: CountOptions = {}): Promise<number> {
    try {
      return (await this.#listing.versions(key, options)).length;
    } catch (error) {
      // a server that has no such list keeps no versions; who may not see it cannot know
      const hasNoList = isUnanswerable(error) && isLpsError(error) && error.details.status !== 403;
      if (this.#versioned || !hasNoList) throw error;
      return (await this.head(key, options)) === undefined ? 0 : 1;
    }
  }

  list(prefix: string, options: ListOptions = {}): AsyncIterable<BlobInfo> {
    return this.#listing.objects(prefix, options);
  }

  async ready(options: CallOptions = {}): Promise<void> {
    if (performance.now() < this.#readyUntil) return;
    try {
      discard((await this.#send({ method: 'HEAD', signal: options.signal })).body);
    } catch (error) {
      if (isLpsError(error) && error.details.status === 404) throw s3Error({ status: 404, s3Code: 'NoSuchBucket' });
      throw error;
    }
    this.#readyUntil = performance.now() + readyForMs;
  }

  settings(options: CallOptions = {}): Promise<BucketSettings> {
    return s3Settings(this.opened, this.transport, this.options.bucket, options);
  }

  /** Every version of exactly this name: the noncurrent ones first, the current one, then the markers that hid them. */
  async #deleteVersions(key: string, options: CallOptions): Promise<boolean> {
    const name = this.#prefix + key;
    let wasThere = false;
    for (let round = 0; round < maxPurges; round += 1) {
      const versions = await this.#listing.versions(key, options);
      wasThere ||= versions.some(({ isMarker }) => !isMarker);
      // were a marker the first to go, what it hides would be readable again
      for (const { versionId } of [...versions.filter((v) => !v.isMarker), ...versions.filter((v) => v.isMarker)]) {
        await this.#find({ method: 'DELETE', name, versionId, signal: options.signal });
      }
      if ((await this.head(key, options)) === undefined) return wasThere;
    }
    throw new LpsError('TRY_AGAIN', 'the blob came back after each of its versions was removed');
  }

  async #find(request: Parameters<SendToBucket>[0]): Promise<TransportResponse | undefined> {
    try {
      const response = await this.#send(request);
      this.#learn(response);
      return response;
    } catch (error) {
      if (!isLpsError(error) || error.details.status !== 404) throw error;
      if (error.details.isMarker === true) this.#versioned = true;
      // a 404 of something between us and S3 does not mean that the blob is gone
      const isAbsent = request.method === 'HEAD' || absentCodes.has(error.details.s3Code);
      if (!isAbsent) throw error;
      return undefined;
    }
  }

  async #isThere(name: string, versionId: string | undefined, { signal }: CallOptions): Promise<boolean> {
    try {
      return (await this.#find({ method: 'HEAD', name, versionId, signal })) !== undefined;
    } catch (error) {
      // so S3 answers for a marker
      if (versionId !== undefined && isLpsError(error) && error.details.status === 405) return true;
      throw error;
    }
  }

  async #standsThere(key: string, options: CallOptions): Promise<boolean> {
    try {
      return (await this.head(key, options)) !== undefined;
    } catch {
      // the put's own error says more
      return false;
    }
  }

  async #bucketExists(options: CallOptions): Promise<void> {
    try {
      await this.ready(options);
    } catch (error) {
      // whoever may not ask for the bucket has at least reached it
      if (!isLpsError(error) || error.details.status !== 403) throw error;
    }
  }

  #learn({ headers }: TransportResponse): void {
    const version = headers['x-amz-version-id'];
    if ((version !== undefined && version !== 'null') || headers['x-amz-delete-marker'] === 'true')
      this.#versioned = true;
  }
}

/** The SHA-256 that S3 keeps of an object. That of an object in parts is no digest of its bytes: it ends in `-{parts}`. */
function checksumOf({ headers }: TransportResponse): { readonly digest?: Digest } {
  const checksum = String(headers['x-amz-checksum-sha256'] ?? '');
  const isWhole = /^[A-Za-z0-9+/]{43}=$/.test(checksum) && headers['x-amz-checksum-type'] !== 'COMPOSITE';
  return isWhole ? { digest: `sha256:${Buffer.from(checksum, 'base64').toString('hex')}` } : {};
}

/**
 * Whether a put may have failed because the object is there: another put of it was under way, or S3 said 412 and closed
 * the connection while we were sending, so that the answer was lost.
 */
function mayStandThere(error: unknown): boolean {
  return isLpsError(error, 'TRY_AGAIN') || (isLpsError(error, 'STORE_UNAVAILABLE') && error.details.reset === true);
}

/** What new objects are stored with. */
export function newObjectHeaders(options: S3StoreOptions, isAws: boolean): Record<string, string> {
  const { encryption, storageClass = isAws ? 'INTELLIGENT_TIERING' : undefined } = options;
  const headers: Record<string, string> = { 'content-type': 'application/octet-stream' };
  if (storageClass !== undefined) headers['x-amz-storage-class'] = storageClass;
  if (encryption !== undefined) {
    headers['x-amz-server-side-encryption'] = encryption.type === 'SSE-S3' ? 'AES256' : 'aws:kms';
  }
  if (encryption?.type === 'SSE-KMS' && encryption.keyId !== undefined) {
    headers['x-amz-server-side-encryption-aws-kms-key-id'] = encryption.keyId;
  }
  return headers;
}
