/**
 * GETs of a bucket's objects that somebody else sends: URLs of Google's XML API, signed with version 4.
 *
 *   signature = RSA(service account's key, "GOOG4-RSA-SHA256" \n time \n scope \n hex SHA-256 of the canonical request)
 *
 * Google's library signs, with the account's key where it has it, else by asking Google (IAM's signBlob). The URL is our
 * own: the SDK leaves out an endpoint's port and path. A PUT cannot be had: nothing binds it to a SHA-256.
 *
 * Source: https://cloud.google.com/storage/docs/authentication/canonical-requests, …/signatures
 */
import { createHash } from 'node:crypto';
import type { BlobStore } from '../blob-store.js';
import { LpsError } from '../errors.js';
import type { GcsSigning } from './gcs-sdk.js';
import { escapePath, escapeQuery } from './s3-signature.js';

/** GCS's own limit. */
const maxSeconds = 7 * 24 * 3600;

export interface PresigningGcsBucket {
  /** Where requests go, without a slash at its end. */
  readonly origin: string;
  readonly bucket: string;
  /** Of an object's name: `prefix` + key. */
  readonly prefix: string;
  readonly signing: GcsSigning;
}

export function gcsPresignGet(given: PresigningGcsBucket): NonNullable<BlobStore['presignGet']> {
  const { origin, bucket, prefix, signing } = given;
  const { host, pathname } = new URL(origin);
  const bucketPath = `${pathname.replace(/\/+$/, '')}/${escapeQuery(bucket)}`;

  return async (key, { expiresInMs, signal }) => {
    const seconds = Math.floor(expiresInMs / 1000);
    if (!(seconds >= 1 && seconds <= maxSeconds)) {
      throw new LpsError('INVALID_ARGUMENT', `a presigned request lasts from 1 s to ${maxSeconds} s`);
    }
    const account = await signing.account(signal);
    const now = Math.floor(Date.now() / 1000) * 1000; // as it is told to GCS
    const time = new Date(now).toISOString().replace(/\.\d+|[-:]/g, ''); // 20261123T073412Z
    const scope = `${time.slice(0, 8)}/auto/storage/goog4_request`;
    const path = `${bucketPath}/${escapePath(prefix + key)}`;
    const query = queryOf({
      'X-Goog-Algorithm': 'GOOG4-RSA-SHA256',
      'X-Goog-Credential': `${account}/${scope}`,
      'X-Goog-Date': time,
      'X-Goog-Expires': String(seconds),
      'X-Goog-SignedHeaders': 'host',
    });
    const canonical = `GET\n${path}\n${query}\nhost:${host}\n\nhost\nUNSIGNED-PAYLOAD`;
    const digest = createHash('sha256').update(canonical).digest('hex');
    const signature = await signing.sign(`GOOG4-RSA-SHA256\n${time}\n${scope}\n${digest}`, signal);
    const url = `${new URL(origin).origin}${path}?${query}&X-Goog-Signature=${signature.toString('hex')}`;
    return { method: 'GET', url, headers: {}, expiresAt: new Date(now + seconds * 1000) };
  };
}

/** `pairs`: their names sorted. */
function queryOf(pairs: Readonly<Record<string, string>>): string {
  return Object.entries(pairs)
    .map(([name, value]) => `${name}=${escapeQuery(value)}`)
    .join('&');
}
