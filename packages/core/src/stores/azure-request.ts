/** Requests to a container. */
import type { Body } from '../blob-store.js';
import { discard, isBytes } from '../body.js';
import type { Transport, TransportResponse } from '../transport.js';
import type { AzureAccess } from './azure-credentials.js';
import { azureError } from './azure-errors.js';
import { repeated } from './repeated.js';

export interface AzureRequest {
  readonly method: 'PUT' | 'GET' | 'HEAD' | 'DELETE';
  /** The blob's name; absent: the container itself. */
  readonly name?: string;
  readonly query?: Readonly<Record<string, string>>;
  /** Lower-case names. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  readonly signal?: AbortSignal | undefined;
}

/** A request to any place of the account. */
export interface AccountRequest {
  readonly method: string;
  /** With its query, without a shared access signature. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: Body | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Sends. Gives successes; anything else is thrown, with the status in `details.status`. */
export type SendToContainer = (request: AzureRequest) => Promise<TransportResponse>;
export type SendToAccount = (request: AccountRequest) => Promise<TransportResponse>;

/** The version of the protocol whose rules are ours; the SDK's own requests have theirs. */
export const protocolVersion = '2023-11-03';

export function accountSender(transport: Transport, { sas, authorize }: AzureAccess): SendToAccount {
  const sendOnce = async ({
    method,
    url,
    headers: given,
    body,
    signal,
  }: AccountRequest): Promise<TransportResponse> => {
    const headers: Record<string, string> = {
      'x-ms-version': protocolVersion,
      ...given,
      'x-ms-date': new Date().toUTCString(),
    };
    const authorization = await authorize({ method, url, headers }, signal);
    if (authorization !== undefined) headers.authorization = authorization;
    const signedUrl = sas === '' ? url : `${url}${url.includes('?') ? '&' : '?'}${sas}`;
    const response = await transport.request({ method, url: signedUrl, headers, body, signal });
    if (response.status >= 200 && response.status < 300) return response;
    throw azureError(response);
  };
  return async (request) => {
    const { body, signal } = request;
    if (body === undefined || isBytes(body)) return repeated(signal, () => sendOnce(request));
    try {
      return await sendOnce(request); // a stream is gone after the first try
    } catch (error) {
      discard(body);
      throw error;
    }
  };
}

/** `containerUrl`: without a slash at its end. */
export function containerSender(send: SendToAccount, containerUrl: string): SendToContainer {
  return ({ method, name, query = {}, headers = {}, body, signal }) => {
    // every slash of a name escaped, as the Go SDK does it: those at its beginning and doubled ones belong to it
    const place = name === undefined ? containerUrl : `${containerUrl}/${encodeURIComponent(name)}`;
    const pairs = Object.entries(query).map(([key, value]) => `${key}=${encodeURIComponent(value)}`);
    const url = pairs.length === 0 ? place : `${place}?${pairs.join('&')}`;
    const length = method === 'PUT' ? { 'content-length': String(body?.length ?? 0) } : {};
    return send({ method, url, headers: { ...headers, ...length }, body, signal });
  };
}
