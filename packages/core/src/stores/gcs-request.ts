/** Requests to Google's JSON API about one bucket. */
import type { Body } from '../blob-store.js';
import { discard, readAll } from '../body.js';
import { LpsError } from '../errors.js';
import type { Transport, TransportResponse } from '../transport.js';
import { gcsError, readGcsFailure } from './gcs-errors.js';
import type { OpenedGcs } from './gcs-sdk.js';
import { repeated } from './repeated.js';

export interface GcsRequest {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** The object's name; absent: the bucket itself. */
  readonly name?: string;
  /** Under the bucket, instead of a name: `o` lists. */
  readonly path?: 'o';
  /** Goes where uploads go, and only once. */
  readonly isUpload?: boolean;
  readonly query?: Readonly<Record<string, string | undefined>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Body;
  readonly signal?: AbortSignal | undefined;
}

/** Sends to the bucket. Gives successes; anything else is thrown, with the status in `details.status`. */
export type SendToGcs = (request: GcsRequest) => Promise<TransportResponse>;

export function gcsSender(transport: Transport, { origin, authorize }: OpenedGcs, bucket: string): SendToGcs {
  const bucketPath = `/storage/v1/b/${encodeURIComponent(bucket)}`;

  const sendOnce = async ({ method, name, path, isUpload, query, body, ...request }: GcsRequest) => {
    const { signal } = request;
    try {
      const object = name === undefined ? '' : `/o/${encodeURIComponent(name)}`;
      const place = `${isUpload ? '/upload' : ''}${bucketPath}${path === undefined ? object : `/${path}`}`;
      const headers = { ...request.headers, ...(await authorize(signal)) };
      const url = `${origin}${place}${queryOf(query)}`;
      const response = await transport.request({ method, url, headers, body, signal });
      if (response.status >= 200 && response.status < 300) return response;
      throw gcsError(await readGcsFailure(response));
    } catch (error) {
      if (body !== undefined) discard(body);
      throw error;
    }
  };
  return (request) => {
    // an upload's body is made anew for every try, if there can be another
    if (request.isUpload) return sendOnce(request);
    return repeated(request.signal, () => sendOnce(request));
  };
}

/** The JSON of an answer. Throws STORE_UNAVAILABLE when it has none. */
export async function readJson<T>({ status, body }: TransportResponse): Promise<T> {
  const text = Buffer.from(await readAll(body, 64 * 1024 * 1024)).toString();
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    throw new LpsError('STORE_UNAVAILABLE', 'GCS did not answer in JSON', { details: { status }, cause });
  }
}

function queryOf(query: GcsRequest['query'] = {}): string {
  const given = Object.entries(query).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${encodeURIComponent(value)}`],
  );
  return given.length === 0 ? '' : `?${given.join('&')}`;
}
