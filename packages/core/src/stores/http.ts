/**
 * The client of the Large Payload Service, API v3, as a `BlobStore`.
 *
 *   put     PUT  /v3/blobs?key=KEY           201 created, 200 exists   {"key","outcome","protectedUntil"}
 *   get     GET  /v3/blobs?key=KEY           200, or 206 with Range; LPS-Protected-Until
 *   head    HEAD /v3/blobs?key=KEY
 *   stat    POST /v3/blobs/stat              {"keys":[…]} → {"blobs":[{"key","size","protectedUntil"}]}
 *   list    GET  /v3/blobs/list?prefix=&after=&limit=       → {"blobs":[…],"next":KEY|null}
 *   ready   GET  /readyz
 *
 * Errors are problem documents (RFC 9457) with a `code` of ours. A duplicate is answered before its body has come; the
 * transport then stops sending. Deleting is not offered: what a workflow may still need is not a client's to delete.
 */
import { validateHeaderName, validateHeaderValue } from 'node:http';
import type {
  BlobInfo,
  BlobStore,
  Body,
  CallOptions,
  Expected,
  GetOptions,
  ListOptions,
  PutResult,
  StoredBlob,
} from '../blob-store.js';
import { discard, readAll } from '../body.js';
import { type ErrorCode, isErrorCode, isLpsError, LpsError } from '../errors.js';
import { checked } from '../layers/checked.js';
import { openTransport, type Transport, type TransportOptions, type TransportResponse } from '../transport.js';

/** Names and values; several values become several headers of the same name, joined as HTTP allows. */
export type HttpHeaders = Readonly<Record<string, string | readonly string[]>>;

export interface HttpStoreOptions extends Omit<TransportOptions, 'errorCode' | 'peerName'> {
  /** Of the service, such as `https://payloads.internal:8577`; may end in a path. */
  readonly url: string;
  /** Sent with every request, `Authorization` for one. A function is called for each request, so that tokens can change. */
  readonly headers?: HttpHeaders | (() => HttpHeaders | Promise<HttpHeaders>);
}

const maxJsonBytes = 4 * 1024 * 1024; // 1,000 keys of 1,000 bytes, with room
const maxProblemBytes = 64 * 1024;
const maxKeysPerStat = 1000;
const keysPerPage = 1000;

/** Opens the store; makes no request. Throws CONFIG_INVALID for a URL or a header that cannot be one. */
export function openHttpStore(options: HttpStoreOptions): BlobStore {
  const { url, headers, ...transportOptions } = options;
  const base = parseBase(url);
  if (headers !== undefined && typeof headers !== 'function') checkHeaders(headers);
  const service = new Service(base, headers, openTransport({ ...transportOptions, errorCode: 'SERVICE_UNREACHABLE' }));
  return checked({
    name: 'http',
    can: { range: true, list: true, delete: false, versions: false },
    // `overwrite` has no place in the API: the service itself knows which blobs are damaged, and then takes the body
    put: (key, body, expect, options) => service.put(key, body, expect, options),
    get: (key, options) => service.get(key, options),
    head: (key, options) => service.head(key, options),
    stat: (keys, options) => service.stat(keys, options),
    async delete() {
      throw new LpsError('NOT_SUPPORTED', 'blobs are not deleted through the service; ask for a takedown');
    },
    list: (prefix, options) => service.list(prefix, options),
    ready: (options) => service.ready(options),
    close: () => service.transport.close(),
  });
}

interface Call extends CallOptions {
  readonly method: string;
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Body;
}

class Service {
  constructor(
    readonly base: string,
    readonly headers: HttpStoreOptions['headers'],
    readonly transport: Transport,
  ) {}

  async put(key: string, body: Body, expect: Expected, options?: CallOptions): Promise<PutResult> {
    const headers = { 'content-type': 'application/octet-stream', 'content-length': `${expect.size}` };
    const response = await this.#call({
      method: 'PUT',
      path: '/v3/blobs',
      query: { key },
      headers,
      body,
      ...signalOf(options),
    });
    const answer = await this.#json(response, [200, 201]);
    if (answer.outcome !== 'created' && answer.outcome !== 'exists') throw strange('the outcome of a put');
    return { outcome: answer.outcome, ...protectionOf(answer.protectedUntil) };
  }

  async get(key: string, options?: GetOptions): Promise<StoredBlob | undefined> {
    const { range } = options ?? {};
    const headers = range === undefined ? {} : { range: `bytes=${range.start}-${range.end}` };
    const response = await this.#call({
      method: 'GET',
      path: '/v3/blobs',
      query: { key },
      headers,
      ...signalOf(options),
    });
    if (response.status !== (range === undefined ? 200 : 206)) return absentOrThrow(response, 'GET');
    try {
      const info = this.#infoOf(key, response, range !== undefined);
      // the contract: a range lies within the blob; HTTP would shorten one that does not
      if (range !== undefined && range.end >= info.size)
        throw new LpsError('RANGE_NOT_SATISFIABLE', 'the range ends behind the blob');
      return { info, body: response.body };
    } catch (error) {
      discard(response.body);
      throw error;
    }
  }

  async head(key: string, options?: CallOptions): Promise<BlobInfo | undefined> {
    const response = await this.#call({ method: 'HEAD', path: '/v3/blobs', query: { key }, ...signalOf(options) });
    if (response.status !== 200) return absentOrThrow(response, 'HEAD');
    return this.#infoOf(key, response, false);
  }

  async stat(keys: readonly string[], options?: CallOptions): Promise<Map<string, BlobInfo>> {
    const found = new Map<string, BlobInfo>();
    for (let at = 0; at < keys.length; at += maxKeysPerStat) {
      const asked = keys.slice(at, at + maxKeysPerStat);
      const body = Buffer.from(JSON.stringify({ keys: asked }), 'utf8');
      const headers = { 'content-type': 'application/json', 'content-length': `${body.length}` };
      const response = await this.#call({
        method: 'POST',
        path: '/v3/blobs/stat',
        headers,
        body,
        ...signalOf(options),
      });
      for (const info of infosOf(await this.#json(response, [200]))) found.set(info.key, info);
    }
    return found;
  }

  async *list(prefix: string, options?: ListOptions): AsyncIterable<BlobInfo> {
    let after = options?.after;
    do {
      const query = { prefix, limit: `${keysPerPage}`, ...(after === undefined ? {} : { after }) };
      const response = await this.#call({ method: 'GET', path: '/v3/blobs/list', query, ...signalOf(options) });
      const page = await this.#json(response, [200]);
      yield* infosOf(page);
      const next = page.next ?? undefined;
      if (next !== undefined && (typeof next !== 'string' || next === after)) throw strange('the next page of a list');
      after = next;
    } while (after !== undefined);
  }

  async ready(options?: CallOptions): Promise<void> {
    const response = await this.#call({ method: 'GET', path: '/readyz', ...signalOf(options) });
    if (response.status !== 200) throw await problemOf(response);
    await readAll(response.body, maxJsonBytes);
  }

  async #call({ method, path, query, headers, body, signal }: Call): Promise<TransportResponse> {
    // URLSearchParams writes a space as "+", which not every proxy leaves alone
    const search = Object.entries(query ?? {}).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
    const url = `${this.base}${path}${search.length === 0 ? '' : `?${search.join('&')}`}`;
    try {
      const given = typeof this.headers === 'function' ? await this.headers() : this.headers;
      return await this.transport.request({ method, url, headers: { ...joined(given), ...headers }, body, signal });
    } catch (error) {
      if (body !== undefined) discard(body);
      throw error;
    }
  }

  async #json(response: TransportResponse, statuses: readonly number[]): Promise<Record<string, unknown>> {
    if (!statuses.includes(response.status)) throw await problemOf(response);
    const bytes = await readAll(response.body, maxJsonBytes).catch((error: unknown) => {
      throw isLpsError(error, 'BLOB_TOO_LARGE') ? strange('more JSON than it ever sends') : error;
    });
    const value = parseJson(bytes);
    if (value === undefined) throw strange('the answer');
    return value;
  }

  #infoOf(key: string, { headers }: TransportResponse, partial: boolean): BlobInfo {
    const text = partial ? /\/(\d+)$/.exec(headers['content-range'] ?? '')?.[1] : headers['content-length'];
    const size = Number(text ?? Number.NaN);
    if (!Number.isSafeInteger(size)) throw strange('the size of a blob');
    const modified = headers['last-modified'];
    return {
      key,
      size,
      ...(modified === undefined ? {} : dateOf('modifiedAt', modified)),
      ...protectionOf(headers['lps-protected-until']),
    };
  }
}

function signalOf(options: CallOptions | undefined): CallOptions {
  return options?.signal === undefined ? {} : { signal: options.signal };
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

function checkHeaders(headers: HttpHeaders): void {
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

function joined(headers: HttpHeaders | undefined): Record<string, string> {
  const entries = Object.entries(headers ?? {}).map(([name, value]) => [
    name.toLowerCase(),
    typeof value === 'string' ? value : value.join(', '),
  ]);
  return Object.fromEntries(entries);
}

/** `undefined` for an absent blob. A 404 of anybody else (a wrong URL, a proxy) must not look like an absent blob. */
async function absentOrThrow(response: TransportResponse, method: 'GET' | 'HEAD'): Promise<undefined> {
  const error = await problemOf(response);
  // a HEAD has no body to tell the code, but it has the content type of one
  const ours = /^application\/problem\+json\b/i.test(response.headers['content-type'] ?? '');
  if (error.code === 'BLOB_NOT_FOUND' || (method === 'HEAD' && response.status === 404 && ours)) return undefined;
  throw error;
}

async function problemOf(response: TransportResponse): Promise<LpsError> {
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
  if (status === 413) return 'BLOB_TOO_LARGE';
  if (status === 416) return 'RANGE_NOT_SATISFIABLE';
  if (status === 408) return 'TOO_SLOW';
  if (status === 429) return 'OVERLOADED';
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

function infosOf(answer: Record<string, unknown>): BlobInfo[] {
  if (!Array.isArray(answer.blobs)) throw strange('a list of blobs');
  return answer.blobs.map((blob: unknown): BlobInfo => {
    const { key, size, modifiedAt, protectedUntil } = (blob ?? {}) as Record<string, unknown>;
    if (typeof key !== 'string' || typeof size !== 'number' || !Number.isSafeInteger(size)) throw strange('a blob');
    return { key, size, ...dateOf('modifiedAt', modifiedAt), ...protectionOf(protectedUntil) };
  });
}

function protectionOf(value: unknown): { readonly protectedUntil?: Date } {
  return dateOf('protectedUntil', value);
}

/** A date that cannot be read is none: the blob then counts as not protected. */
function dateOf<Name extends string>(name: Name, value: unknown): { readonly [N in Name]?: Date } {
  const date = typeof value === 'string' ? new Date(value) : undefined;
  if (date === undefined || Number.isNaN(date.getTime())) return {};
  return { [name]: date } as { readonly [N in Name]?: Date };
}

function parseJson(bytes: Uint8Array): Record<string, unknown> | undefined {
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

function strange(what: string): LpsError {
  return new LpsError('SERVICE_UNREACHABLE', `the service did not answer as API v3 does: ${what}`);
}
