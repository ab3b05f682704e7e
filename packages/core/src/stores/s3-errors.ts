/** What S3's answers mean in our codes. */
import type { IncomingHttpHeaders } from 'node:http';
import { readAll } from '../body.js';
import { type ErrorCode, isLpsError, LpsError } from '../errors.js';
import type { TransportResponse } from '../transport.js';

/** An answer that is no success, as far as we can tell. HEAD answers have no body, so no code. */
export interface S3Failure {
  readonly status: number;
  /** S3's own name for the failure, such as `AccessDenied`. */
  readonly s3Code?: string | undefined;
  readonly s3Message?: string | undefined;
  readonly requestId?: string | undefined;
  /** After which S3 wants to be asked again. */
  readonly retryAfterMs?: number | undefined;
  /** Where the bucket is, when it is not where we asked. */
  readonly region?: string | undefined;
  /** Whether the object is absent because a delete marker hides its versions. */
  readonly isMarker?: boolean | undefined;
}

const codes: Readonly<Record<string, ErrorCode>> = {
  BadDigest: 'DIGEST_MISMATCH',
  InvalidDigest: 'DIGEST_MISMATCH',
  XAmzContentSHA256Mismatch: 'DIGEST_MISMATCH',
  XAmzContentChecksumMismatch: 'DIGEST_MISMATCH',
  EntityTooLarge: 'BLOB_TOO_LARGE',
  InvalidRange: 'RANGE_NOT_SATISFIABLE',
  ConditionalRequestConflict: 'TRY_AGAIN',
  OperationAborted: 'TRY_AGAIN',
  XMinioStorageFull: 'STORE_FULL',
  XMinioAdminBucketQuotaExceeded: 'STORE_FULL',
  QuotaExceeded: 'STORE_FULL',
  InsufficientCapacity: 'STORE_FULL',
  IncompleteBody: 'STORE_UNAVAILABLE',
  RequestTimeout: 'STORE_UNAVAILABLE',
  // the next request is signed with new keys
  ExpiredToken: 'STORE_UNAVAILABLE',
  TokenRefreshRequired: 'STORE_UNAVAILABLE',
  SlowDown: 'STORE_UNAVAILABLE',
  NotImplemented: 'STORE_REFUSED',
};

const statuses: Readonly<Record<number, ErrorCode>> = {
  408: 'STORE_UNAVAILABLE',
  409: 'TRY_AGAIN',
  413: 'BLOB_TOO_LARGE',
  416: 'RANGE_NOT_SATISFIABLE',
  429: 'STORE_UNAVAILABLE',
  501: 'STORE_REFUSED',
  507: 'STORE_FULL',
};

/** The error that an answer stands for. */
export function s3Error(failure: S3Failure): LpsError {
  const { status, s3Code = `status ${status}`, region } = failure;
  const code = codes[s3Code] ?? statuses[status] ?? (status >= 500 ? 'STORE_UNAVAILABLE' : 'STORE_REFUSED');
  return new LpsError(region === undefined ? code : 'STORE_REFUSED', messageOf(code, s3Code, region), {
    details: { ...failure },
  });
}

function messageOf(code: ErrorCode, s3Code: string, region: string | undefined): string {
  if (region !== undefined) return `the bucket is in region ${region} (${s3Code})`;
  if (s3Code === 'NoSuchBucket') return 'the bucket does not exist (NoSuchBucket)';
  if (s3Code === 'NotImplemented') {
    return 'the S3 server lacks what was asked for; see the settings conditionalPut, checksums, storageClass (NotImplemented)';
  }
  switch (code) {
    case 'DIGEST_MISMATCH':
      return `the bytes do not match their digest (${s3Code})`;
    case 'RANGE_NOT_SATISFIABLE':
      return 'the range does not lie within the blob';
    case 'STORE_FULL':
      return `the bucket is full (${s3Code})`;
    case 'STORE_UNAVAILABLE':
      return `S3 cannot answer now (${s3Code})`;
    case 'TRY_AGAIN':
      return `S3 had a conflicting request (${s3Code})`;
    default:
      return `S3 refused the request (${s3Code})`;
  }
}

/** Reads what an answer says about its failure. */
export async function readFailure(response: TransportResponse, askedRegion: string): Promise<S3Failure> {
  const { status, headers } = response;
  let text = '';
  try {
    text = Buffer.from(await readAll(response.body, 64 * 1024)).toString();
  } catch {
    // the status will have to do
  }
  return {
    status,
    s3Code: elementOf(text, 'Code'),
    s3Message: elementOf(text, 'Message'),
    requestId: single(headers, 'x-amz-request-id'),
    region: otherRegion(status, single(headers, 'x-amz-bucket-region') ?? elementOf(text, 'Region'), askedRegion),
    retryAfterMs: Number(headers['retry-after']) * 1000 || undefined,
    ...(headers['x-amz-delete-marker'] === 'true' ? { isMarker: true } : {}),
  };
}

/** An error of the SDK's (or the transport's, passed through it) as ours. */
export function fromSdk(error: unknown): LpsError {
  if (isLpsError(error)) return error;
  if (!(error instanceof Error)) return new LpsError('STORE_UNAVAILABLE', 'S3 failed', { cause: error });
  const metadata = '$metadata' in error ? (error.$metadata as { httpStatusCode?: number; requestId?: string }) : {};
  const { httpStatusCode: status, requestId } = metadata;
  if (status === undefined || status < 300) {
    const what = error.name === 'CredentialsProviderError' ? 'there are no AWS credentials' : 'S3 cannot be asked';
    return new LpsError('STORE_UNAVAILABLE', `${what} (${error.name})`, { cause: error });
  }
  return s3Error({ status, s3Code: oneLine(error.name), s3Message: oneLine(error.message), requestId });
}

function otherRegion(status: number, region: string | undefined, askedRegion: string): string | undefined {
  // 400: AuthorizationHeaderMalformed, signed for the wrong region
  return region !== undefined && region !== askedRegion && [301, 307, 400].includes(status) ? region : undefined;
}

/** The text of the first such element; S3's error documents are flat, and a full parser is not worth its weight here. */
function elementOf(xml: string, name: string): string | undefined {
  const text = new RegExp(`<${name}>([^<]{1,500})</${name}>`).exec(xml)?.[1];
  return text === undefined ? undefined : oneLine(text);
}

function oneLine(text: string): string {
  // control characters could forge lines of a log
  return text.replace(/\p{Cc}+/gu, ' ').trim();
}

function single(headers: IncomingHttpHeaders, name: string): string | undefined {
  const value = headers[name];
  return Array.isArray(value) ? value[0] : value;
}
