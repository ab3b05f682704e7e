/** What the answers of Google Cloud Storage mean in our codes. */
import { readAll } from '../body.js';
import { type ErrorCode, isLpsError, LpsError } from '../errors.js';
import type { TransportResponse } from '../transport.js';

/** An answer that is no success, as far as we can tell. */
export interface GcsFailure {
  readonly status: number;
  /** GCS's own name for the failure, such as `conditionNotMet`; only its JSON answers have one. */
  readonly gcsReason?: string | undefined;
  readonly gcsMessage?: string | undefined;
  /** After which GCS wants to be asked again. */
  readonly retryAfterMs?: number | undefined;
}

const reasons: Readonly<Record<string, ErrorCode>> = {
  // GCS limits rates, and says so with 403 as well as with 429
  rateLimitExceeded: 'STORE_UNAVAILABLE',
  userRateLimitExceeded: 'STORE_UNAVAILABLE',
  quotaExceeded: 'STORE_UNAVAILABLE',
  uploadTooLarge: 'BLOB_TOO_LARGE',
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
export function gcsError(failure: GcsFailure): LpsError {
  const { status, gcsReason = `status ${status}` } = failure;
  const code = codeOf(failure);
  return new LpsError(code, messageOf(code, status, gcsReason), { details: { ...failure } });
}

/** Whether GCS says in so many words that there is no such object. */
export function saysNoObject(error: LpsError): boolean {
  return error.details.status === 404 && String(error.details.gcsMessage).startsWith('No such object');
}

/** Whether something is not there, object or bucket, and GCS itself says so: a proxy's 404 has no reason. */
export function saysNotFound(error: unknown): error is LpsError {
  return isLpsError(error) && error.details.status === 404 && error.details.gcsReason === 'notFound';
}

function codeOf({ status, gcsReason = '', gcsMessage = '' }: GcsFailure): ErrorCode {
  // "Provided MD5 hash "…" doesn't match calculated MD5 hash "…"."
  if (status === 400 && /(MD5|CRC32C).* match calculated/i.test(gcsMessage)) return 'DIGEST_MISMATCH';
  return reasons[gcsReason] ?? statuses[status] ?? (status >= 500 ? 'STORE_UNAVAILABLE' : 'STORE_REFUSED');
}

function messageOf(code: ErrorCode, status: number, reason: string): string {
  if (status === 404) return `the bucket does not exist, or is not what answers (${reason})`;
  switch (code) {
    case 'DIGEST_MISMATCH':
      return `the bytes do not match their MD5 (${reason})`;
    case 'RANGE_NOT_SATISFIABLE':
      return 'the range does not lie within the blob';
    case 'STORE_FULL':
      return `the bucket is full (${reason})`;
    case 'STORE_UNAVAILABLE':
      return `GCS cannot answer now (${reason})`;
    case 'TRY_AGAIN':
      return `GCS had a conflicting request (${reason})`;
    default:
      return `GCS refused the request (${reason})`;
  }
}

/**
 * Reads what an answer says about its failure:
 *
 *     {"error":{"code":412,"message":"At least one …","errors":[{"domain":"global","reason":"conditionNotMet", …}]}}
 *     No such object: bucket/name                         to a GET of an object's bytes
 */
export async function readGcsFailure({ status, headers, body }: TransportResponse): Promise<GcsFailure> {
  let text = '';
  try {
    text = Buffer.from(await readAll(body, 64 * 1024)).toString();
  } catch {
    // the status will have to do
  }
  return { status, ...parse(text), retryAfterMs: Number(headers['retry-after']) * 1000 || undefined };
}

function parse(text: string): Pick<GcsFailure, 'gcsReason' | 'gcsMessage'> {
  try {
    const { error } = JSON.parse(text) as { error: { message?: unknown; errors?: { reason?: unknown }[] } };
    return { gcsReason: oneLine(error.errors?.[0]?.reason), gcsMessage: oneLine(error.message) };
  } catch {
    return { gcsMessage: oneLine(text) };
  }
}

function oneLine(text: unknown): string | undefined {
  // control characters could forge lines of a log
  return typeof text === 'string'
    ? text
        .slice(0, 500)
        .replace(/\p{Cc}+/gu, ' ')
        .trim() || undefined
    : undefined;
}
