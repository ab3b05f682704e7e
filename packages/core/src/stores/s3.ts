import type { BlobStore } from '../blob-store.js';
import { checked } from '../layers/checked.js';
import { openRawS3Store } from './s3-store.js';

/** Keys to sign with. Temporary ones have a token, and should say when they expire so that they are renewed before. */
export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
  readonly expiration?: Date;
}

export interface S3StoreOptions {
  /** It must exist. */
  readonly bucket: string;
  /** Default: the environment's or the profile's; with an endpoint the environment's or `us-east-1`. */
  readonly region?: string;
  /** The URL of an S3 server other than AWS. Default: AWS, or `AWS_ENDPOINT_URL_S3` of the environment. */
  readonly endpoint?: string;
  /**
   * The bucket in the path (`https://host/bucket/…`) instead of the host's name. Default: with an endpoint true; on AWS
   * as the SDK does it, in the host's name unless that holds dots. Both reach the same objects.
   */
  readonly pathStyle?: boolean;
  /** For new objects. Default on AWS `INTELLIGENT_TIERING`, as the Go service wrote them; elsewhere the server's own. */
  readonly storageClass?: string;
  /** Put before every object's name, a `/` at its end included if there is to be one. Default none: the name is the key. */
  readonly prefix?: string;
  /** Encryption at rest of new objects. Default: the bucket's own setting. */
  readonly encryption?: { readonly type: 'SSE-S3' } | { readonly type: 'SSE-KMS'; readonly keyId?: string };
  /**
   * How an object that is there is left alone. `if-none-match` (default): the server decides, in the same request.
   * `head` is for servers without conditional writes: it is looked for before every put. Two puts of one key at the same
   * moment may then both write and both be told `created`: harmless for blobs, whose bytes are the same, but two services
   * that start on one new bucket at the same moment may both take it for theirs.
   */
  readonly conditionalPut?: 'if-none-match' | 'head';
  /**
   * Sends `x-amz-checksum-sha256`, which the server checks and keeps with the object. Default true. Without it the
   * server still has the bytes' digest in the signature.
   */
  readonly checksums?: boolean;
  /** Default: the AWS SDK's chain (environment, profile, web identity, container, instance). */
  readonly credentials?: S3Credentials | (() => Promise<S3Credentials>);
  /** Connections at a time. Default 64. */
  readonly maxSockets?: number;
  /** In ms. Default 10,000. */
  readonly connectTimeoutMs?: number;
  /** Without a byte in either direction, in ms. Default 30,000. */
  readonly idleTimeoutMs?: number;
}

/**
 * Blobs as objects of an S3 bucket. The bucket itself refuses wrong bytes: their digest is in the signature and in
 * `x-amz-checksum-sha256`.
 *
 * Needs `s3:GetObject`, `s3:PutObject`, `s3:DeleteObject` and `s3:ListBucket` (without the last S3 answers "denied" where
 * an object is absent); for buckets with versions also `s3:GetBucketVersioning`, `s3:ListBucketVersions` and
 * `s3:DeleteObjectVersion`.
 *
 * Throws CONFIG_INVALID when `@aws-sdk/client-s3` is not installed or the settings are not enough. Its calls throw
 * STORE_REFUSED (a setting or a right is wrong; `details.s3Code` says which), STORE_UNAVAILABLE (try later), STORE_FULL,
 * TRY_AGAIN (a conflicting request), DIGEST_MISMATCH, RANGE_NOT_SATISFIABLE, ABORTED.
 */
export async function openS3Store(options: S3StoreOptions): Promise<BlobStore> {
  return checked(await openRawS3Store(options));
}
