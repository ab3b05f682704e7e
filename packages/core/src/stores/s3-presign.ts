/**
 * Requests to a bucket that somebody else sends.
 *
 * A PUT binds everything that makes it safe as *signed headers*: the length, the SHA-256 that the bucket then checks, and
 * `If-None-Match: *`. Whoever changes or leaves out one of them is refused for a wrong signature.
 */
import type { BlobStore, Expected, PresignedRequest, PresignOptions } from '../blob-store.js';
import { base64Of } from '../digest.js';
import { LpsError } from '../errors.js';
import type { BucketAddress, OpenedSdk } from './s3-sdk.js';
import { escapePath, type Presigner, s3Presigner } from './s3-signature.js';

/** S3's own limit for what is signed with keys that last. */
const maxSeconds = 7 * 24 * 3600;

export interface PresigningBucket {
  readonly address: BucketAddress;
  readonly keys: OpenedSdk['keys'];
  /** Of an object's name: `prefix` + key. */
  readonly prefix: string;
  readonly newObjectHeaders: Readonly<Record<string, string>>;
}

export function openPresigning(bucket: PresigningBucket): Required<Pick<BlobStore, 'presignPut' | 'presignGet'>> {
  const sign = s3Presigner(bucket.address.region);
  return {
    presignPut: (key, expect, options) =>
      presigned(bucket, sign, 'PUT', key, { ...bucket.newObjectHeaders, ...boundTo(expect) }, options),
    presignGet: (key, options) => presigned(bucket, sign, 'GET', key, {}, options),
  };
}

function boundTo({ digest, size }: Expected): Record<string, string> {
  return { 'content-length': String(size), 'x-amz-checksum-sha256': base64Of(digest), 'if-none-match': '*' };
}

async function presigned(
  { address, keys, prefix }: PresigningBucket,
  sign: Presigner,
  method: 'PUT' | 'GET',
  key: string,
  headers: Readonly<Record<string, string>>,
  { expiresInMs }: PresignOptions,
): Promise<PresignedRequest> {
  const seconds = Math.floor(expiresInMs / 1000);
  if (!(seconds >= 1 && seconds <= maxSeconds)) {
    throw new LpsError('INVALID_ARGUMENT', `a presigned request lasts from 1 s to ${maxSeconds} s`);
  }
  const path = `${address.path}/${escapePath(prefix + key)}`;
  const keysNow = await keys();
  const now = new Date(Math.floor(Date.now() / 1000) * 1000); // what is signed are whole seconds
  const query = sign({ method, path, headers: { ...headers, host: address.host } }, keysNow, seconds, now);
  const endsAt = Math.min(now.getTime() + seconds * 1000, keysNow.expiration?.getTime() ?? Number.POSITIVE_INFINITY);
  return { method, url: `${address.origin}${path}?${query}`, headers, expiresAt: new Date(endsAt) };
}
