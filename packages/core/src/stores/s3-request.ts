/** Signed requests to one bucket, and the rules by which they are repeated. */
import type { Body } from '../blob-store.js';
import { isBytes } from '../body.js';
import type { Transport, TransportResponse } from '../transport.js';
import { repeated } from './repeated.js';
import { readFailure, s3Error } from './s3-errors.js';
import type { BucketAddress, OpenedSdk } from './s3-sdk.js';
import { emptySha256, escapePath, escapeQuery, s3Signer } from './s3-signature.js';

export interface BucketRequest {
  readonly method: 'PUT' | 'GET' | 'HEAD' | 'DELETE';
  /** The object's name; absent: the bucket itself. */
  readonly name?: string;
  readonly versionId?: string | undefined;
  /** Lower-case names. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Body;
  /** Of the body; 64 hexadecimal digits. */
  readonly bodySha256?: string;
  readonly signal?: AbortSignal | undefined;
}

/** Sends to the bucket. Gives successes; anything else is thrown, with the status in `details.status`. */
export type SendToBucket = (request: BucketRequest) => Promise<TransportResponse>;

export function bucketSender(transport: Transport, address: BucketAddress, keys: OpenedSdk['keys']): SendToBucket {
  const sign = s3Signer(address.region);
  let refreshKeys = false; // the last ones were refused as expired

  const sendOnce = async (request: BucketRequest): Promise<TransportResponse> => {
    const { method, name, versionId, body, signal } = request;
    const path = name === undefined ? address.path || '/' : `${address.path}/${escapePath(name)}`;
    const query = versionId === undefined ? '' : `versionId=${escapeQuery(versionId)}`;
    const headers = { ...request.headers, host: address.host };
    const signing = keys(refreshKeys);
    refreshKeys = false;
    const bodySha256 = request.bodySha256 ?? emptySha256;
    const signed = sign({ method, path, query, headers, bodySha256 }, await signing);
    const url = `${address.origin}${path}${query === '' ? '' : `?${query}`}`;
    const response = await transport.request({ method, url, headers: signed, body, signal });
    if (response.status >= 200 && response.status < 300) return response;
    const failure = await readFailure(response, address.region);
    refreshKeys = failure.s3Code === 'ExpiredToken' || failure.s3Code === 'TokenRefreshRequired';
    throw s3Error(failure);
  };
  return (request) => {
    // a stream is gone after the first try
    if (request.body !== undefined && !isBytes(request.body)) return sendOnce(request);
    return repeated(request.signal, () => sendOnce(request));
  };
}
