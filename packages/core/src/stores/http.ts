/**
 * The client of the Large Payload Service, API v3, as a `BlobStore`:
 *
 *   http-service.ts   the requests                        http-answers.ts   what is read from the answers
 *   http-direct.ts    large blobs, past the service
 *
 * Deleting is not offered: what a workflow may still need is not a client's to delete.
 */
import { validateHeaderName, validateHeaderValue } from 'node:http';
import type { BlobStore } from '../blob-store.js';
import { LpsError } from '../errors.js';
import { checked } from '../layers/checked.js';
import type { Clock } from '../retry.js';
import { openTransport, type TransportOptions } from '../transport.js';
import { DirectTransfers, type Transfer } from './http-direct.js';
import { checkedToken, type HttpHeaders, HttpService, joined, type TokenSource } from './http-service.js';

export type { Transfer } from './http-direct.js';
export type { HttpHeaders, TokenSource } from './http-service.js';

export interface HttpStoreOptions extends Omit<TransportOptions, 'errorCode' | 'peerName'> {
  /** Of the service, such as `https://payloads.internal:8577`; may end in a path. */
  readonly url: string;
  /** Sent with every request, `Authorization` for one. A function is called for each request, so that tokens can change. */
  readonly headers?: HttpHeaders | (() => HttpHeaders | Promise<HttpHeaders>);
  /**
   * Sent as `Authorization: Bearer …`. A function is called for each request, so it keeps the token that it got; `refresh`
   * says that the service refused the last one, and then the request is made once more.
   */
  readonly token?: TokenSource;
  /**
   * Blobs of more bytes than this go straight between here and the bucket, when the service offers it: it signs the
   * request, and the bytes do not pass through it. Default: none do. Where that fails, the blob goes through the service
   * in the same call (a stream that is being uploaded: in the next one), and a bucket that cannot be reached within 3 s,
   * or that refuses, is left alone for a minute.
   *
   * The bucket gets none of `headers` and `tls`; its certificate is checked against Node's own authorities, to which
   * NODE_EXTRA_CA_CERTS adds.
   */
  readonly directAboveBytes?: number;
  /**
   * Called once for each blob whose bytes moved: when a put is done, and when the last byte of a get has come. Not for a
   * put of a blob that was there, nor for a range. What it throws is ignored.
   */
  onTransfer?(transfer: Transfer): void;
  readonly clock?: Clock;
}

/** Opens the store; makes no request. Throws CONFIG_INVALID for a URL, a header or a number of bytes that cannot be one. */
export function openHttpStore(options: HttpStoreOptions): BlobStore {
  const { url, headers, token, directAboveBytes, clock, ...transportOptions } = options;
  const base = parseBase(url);
  if (headers !== undefined && typeof headers !== 'function') checkHeaders(headers, token);
  if (typeof token === 'string') checkedToken(token);
  const onTransfer = (transfer: Transfer): void => options.onTransfer?.(transfer);
  const transport = openTransport({ ...transportOptions, errorCode: 'SERVICE_UNREACHABLE' });
  const service = new HttpService(base, { headers, token }, transport);
  const transfers = new DirectTransfers(service, { directAboveBytes, onTransfer, clock, transport: transportOptions });
  const store = checked({
    name: 'http',
    can: { range: true, list: true, delete: false, versions: false },
    // `overwrite` has no place in the API: the service itself knows which blobs are damaged, and then takes the body
    put: (key, body, expect, options) => transfers.put(key, body, expect, options),
    get: (key, options) => transfers.get(key, options),
    head: (key, options) => service.head(key, options),
    stat: (keys, options) => service.stat(keys, options),
    async delete() {
      throw new LpsError('NOT_SUPPORTED', 'blobs are not deleted through the service; ask for a takedown');
    },
    list: (prefix, options) => service.list(prefix, options),
    ready: (options) => service.ready(options),
    close: async () => {
      await Promise.all([transport.close(), transfers.close()]);
    },
  });
  if (directAboveBytes === undefined) return store;
  return { ...store, get: async (key, options) => transfers.retryable(key, await store.get(key, options)) };
}

function parseBase(url: string): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  const plain = parsed?.search === '' && parsed.hash === '' && parsed.username === '' && parsed.password === '';
  if (parsed === undefined || !plain || (parsed.protocol !== 'http:' && parsed.protocol !== 'https:')) {
    throw new LpsError(
      'CONFIG_INVALID',
      'the url of the service must be http or https, without user, query or fragment',
    );
  }
  return parsed.href.replace(/\/+$/, '');
}

function checkHeaders(headers: HttpHeaders, token: TokenSource | undefined): void {
  if (token !== undefined && 'authorization' in joined(headers))
    throw new LpsError('CONFIG_INVALID', 'give `token` or the header Authorization, not both');
  for (const [name, value] of Object.entries(joined(headers))) {
    try {
      validateHeaderName(name);
      validateHeaderValue(name, value);
    } catch {
      // not the cause, which may quote the value: it may be a secret
      throw new LpsError('CONFIG_INVALID', `the header ${JSON.stringify(name)} is not one that HTTP allows`);
    }
  }
}
