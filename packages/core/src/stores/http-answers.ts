/** How the service's answers are read: JSON, problem documents (RFC 9457) with a `code` of ours, headers. */
import type { IncomingHttpHeaders } from 'node:http';
import type { BlobInfo } from '../blob-store.js';
import { readAll } from '../body.js';
import { type ErrorCode, isErrorCode, LpsError } from '../errors.js';
import type { TransportResponse } from '../transport.js';

const maxProblemBytes = 64 * 1024;

/** `undefined` for an absent blob. A 404 of anybody else (a wrong URL, a proxy) must not look like an absent blob. */
export async function absentOrThrow(response: TransportResponse, method: 'GET' | 'HEAD'): Promise<undefined> {
  const error = await problemOf(response);
  // a HEAD has no body to tell the code, but it has the content type of one
  const ours = /^application\/problem\+json\b/i.test(response.headers['content-type'] ?? '');
  if (error.code === 'BLOB_NOT_FOUND' || (method === 'HEAD' && response.status === 404 && ours)) return undefined;
  throw error;
}

export async function problemOf(response: TransportResponse): Promise<LpsError> {
  const { status, headers, body } = response;
  const problem = await readAll(body, maxProblemBytes).then(parseJson, () => undefined);
  const code = isErrorCode(problem?.code) ? problem.code : codeForStatus(status);
  const message =
    typeof problem?.detail === 'string' ? oneLine(problem.detail) : `the service answered with status ${status}`;
  const retryAfterMs = parseRetryAfter(headers['retry-after']);
  return new LpsError(code, message, {
    details: {
      status,
      ...(typeof problem?.requestId === 'string' ? { requestId: problem.requestId } : {}),
      ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    },
  });
}

/** For answers that are not ours: a proxy's, or another version's. */
function codeForStatus(status: number): ErrorCode {
  if (status === 410) return 'BLOB_TAKEN_DOWN';
  if (status === 451) return 'BLOB_BLOCKED';
  if (status === 413) return 'BLOB_TOO_LARGE';
  if (status === 416) return 'RANGE_NOT_SATISFIABLE';
  if (status === 408) return 'TOO_SLOW';
  if (status === 429) return 'RATE_LIMITED';
  if (status === 401) return 'UNAUTHENTICATED';
  if (status === 403) return 'FORBIDDEN';
  if (status === 507) return 'STORE_FULL';
  if (status >= 500 && status !== 501) return 'SERVICE_UNREACHABLE';
  if (status === 404 || status === 405) return 'ROUTE_NOT_FOUND';
  return status >= 400 && status !== 501 ? 'STORE_REFUSED' : 'NOT_SUPPORTED';
}

function parseRetryAfter(value: string | undefined): number | undefined {
  const text = value ?? '';
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  const date = Date.parse(text);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

/** What the head of an answer with a blob says of it; `partial`: of one with a range of it. */
export function infoOf(key: string, headers: IncomingHttpHeaders, partial: boolean): BlobInfo {
  const text = partial ? /\/(\d+)$/.exec(headers['content-range'] ?? '')?.[1] : headers['content-length'];
  return sizedInfo(key, text, headers);
}

/** What a redirect to the bucket says: where the blob is, and what it must turn out to be. */
export function redirectOf(
  key: string,
  headers: IncomingHttpHeaders,
): { readonly url: string; readonly digest: string; readonly info: BlobInfo } {
  const { location: url, 'lps-digest': digest, 'lps-size': size } = headers;
  if (url === undefined || typeof digest !== 'string') throw strange('a redirect');
  return { url, digest, info: sizedInfo(key, String(size), headers) };
}

function sizedInfo(key: string, sizeText: string | undefined, headers: IncomingHttpHeaders): BlobInfo {
  const size = /^\d+$/.test(sizeText ?? '') ? Number(sizeText) : Number.NaN;
  if (!Number.isSafeInteger(size)) throw strange('the size of a blob');
  return {
    key,
    size,
    ...dateOf('modifiedAt', headers['last-modified']),
    ...protectionOf(headers['lps-protected-until']),
    ...asOfOf(headers['lps-as-of']),
  };
}

export function infosOf(answer: Record<string, unknown>): BlobInfo[] {
  if (!Array.isArray(answer.blobs)) throw strange('a list of blobs');
  return answer.blobs.map((blob: unknown): BlobInfo => {
    const { key, size, modifiedAt, protectedUntil } = (blob ?? {}) as Record<string, unknown>;
    if (typeof key !== 'string' || typeof size !== 'number' || !Number.isSafeInteger(size)) throw strange('a blob');
    return { key, size, ...dateOf('modifiedAt', modifiedAt), ...protectionOf(protectedUntil) };
  });
}

export function protectionOf(value: unknown): { readonly protectedUntil?: Date } {
  return dateOf('protectedUntil', value);
}

function asOfOf(value: unknown): { readonly asOf?: bigint } {
  return typeof value === 'string' && /^\d{1,19}$/.test(value) ? { asOf: BigInt(value) } : {};
}

/** A date that cannot be read is none: the blob then counts as not protected. */
function dateOf<Name extends string>(name: Name, value: unknown): { readonly [N in Name]?: Date } {
  const date = typeof value === 'string' ? new Date(value) : undefined;
  if (date === undefined || Number.isNaN(date.getTime())) return {};
  return { [name]: date } as { readonly [N in Name]?: Date };
}

export function parseJson(bytes: Uint8Array): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(bytes).toString('utf8'));
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ').slice(0, 500);
}

/** An answer that API v3 does not know. */
export function strange(what: string): LpsError {
  return new LpsError('SERVICE_UNREACHABLE', `the service did not answer as API v3 does: ${what}`);
}
