/**
 * Requests to the service, API v3, and what its answers say.
 *
 *   put     PUT  /v3/blobs?key=KEY           201 created, 200 exists   {"key","outcome","protectedUntil"}
 *   get     GET  /v3/blobs?key=KEY           200, or 206 with Range; LPS-Protected-Until
 *                                 &redirect=N   307 for a blob of N bytes or more: Location, LPS-Digest, LPS-Size
 *   head    HEAD /v3/blobs?key=KEY
 *   stat    POST /v3/blobs/stat              {"keys":[…]} → {"blobs":[{"key","size","protectedUntil"}]}
 *   list    GET  /v3/blobs/list?prefix=&after=&limit=       → {"blobs":[…],"next":KEY|null}
 *   ready   GET  /readyz
 *   begin   POST /v3/uploads                 {"key","size"} → present, proxied, or 201 direct with a request for the bucket
 *   finish  POST /v3/uploads/ID/complete     → as put
 *
 * A duplicate is answered before its body has come; the transport then stops sending.
 */
import type {
  BlobInfo,
  Body,
  CallOptions,
  Expected,
  GetOptions,
  ListOptions,
  PresignedRequest,
  PutResult,
  StoredBlob,
} from '../blob-store.js';
import { discard, isBytes, readAll } from '../body.js';
import { isLpsError, LpsError } from '../errors.js';
import type { Transport, TransportResponse } from '../transport.js';
import { absentOrThrow, infoOf, infosOf, parseJson, problemOf, protectionOf, strange } from './http-answers.js';

/** Names and values; several values become several headers of the same name, joined as HTTP allows. */
export type HttpHeaders = Readonly<Record<string, string | readonly string[]>>;

/** Sent with every request; a function is called for each. */
export type HeaderSource = HttpHeaders | (() => HttpHeaders | Promise<HttpHeaders>);

/** A bearer token, or where to get one; `refresh`: the service has refused the last one. */
export type TokenSource = string | ((request: { readonly refresh: boolean }) => string | Promise<string>);

/** What goes with every request. */
export interface Credentials {
  readonly headers: HeaderSource | undefined;
  readonly token: TokenSource | undefined;
}

/** What the service says to an upload that would go past it. */
export type BegunUpload =
  | { readonly outcome: 'present'; readonly protectedUntil?: Date }
  | { readonly outcome: 'proxied' }
  | { readonly outcome: 'direct'; readonly id: string; readonly request: Pick<PresignedRequest, 'url' | 'headers'> };

const maxJsonBytes = 4 * 1024 * 1024; // 1,000 keys of 1,000 bytes, with room
const maxKeysPerStat = 1000;
const keysPerPage = 1000;

interface Call extends CallOptions {
  readonly method: string;
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Body;
}

export class HttpService {
  #refreshed: Promise<string> | undefined;

  /** `base` is of the service's URL, without a slash at its end. */
  constructor(
    readonly base: string,
    readonly credentials: Credentials,
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
    return putResultOf(await this.#json(response, [200, 201]));
  }

  async get(key: string, options?: GetOptions): Promise<StoredBlob | undefined> {
    return this.blobOf(key, await this.askForBlob(key, options), options);
  }

  /** The answer as it came. `redirectFromBytes`: blobs of so many bytes or more may be answered with 307. */
  async askForBlob(key: string, options?: GetOptions, redirectFromBytes?: number): Promise<TransportResponse> {
    const { range } = options ?? {};
    return this.#call({
      method: 'GET',
      path: '/v3/blobs',
      query: { key, ...(redirectFromBytes === undefined ? {} : { redirect: `${redirectFromBytes}` }) },
      headers: range === undefined ? {} : { range: `bytes=${range.start}-${range.end}` },
      ...signalOf(options),
    });
  }

  /** The blob in an answer. */
  async blobOf(key: string, response: TransportResponse, options?: GetOptions): Promise<StoredBlob | undefined> {
    const { range } = options ?? {};
    if (response.status !== (range === undefined ? 200 : 206)) return absentOrThrow(response, 'GET');
    try {
      const info = infoOf(key, response.headers, range !== undefined);
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
    return infoOf(key, response.headers, false);
  }

  async stat(keys: readonly string[], options?: CallOptions): Promise<Map<string, BlobInfo>> {
    const found = new Map<string, BlobInfo>();
    for (let at = 0; at < keys.length; at += maxKeysPerStat) {
      const asked = keys.slice(at, at + maxKeysPerStat);
      const response = await this.#post('/v3/blobs/stat', { keys: asked }, options);
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

  /** Asks for a way past the service. */
  async beginUpload(key: string, size: number, options?: CallOptions): Promise<BegunUpload> {
    const answer = await this.#json(await this.#post('/v3/uploads', { key, size }, options), [200, 201]);
    if (answer.outcome === 'present') return { outcome: 'present', ...protectionOf(answer.protectedUntil) };
    if (answer.outcome === 'proxied') return { outcome: 'proxied' };
    const { uploadId: id, request } = answer;
    if (answer.outcome !== 'direct' || typeof id !== 'string' || id === '') throw strange('the begin of an upload');
    return { outcome: 'direct', id, request: bucketPutOf(request, size) };
  }

  /** Tells the service that the bucket has the bytes. Throws UPLOAD_NOT_FOUND, UPLOAD_INCOMPLETE and TRY_AGAIN. */
  async completeUpload(id: string, options?: CallOptions): Promise<PutResult> {
    const path = `/v3/uploads/${encodeURIComponent(id)}/complete`;
    const response = await this.#call({ method: 'POST', path, ...signalOf(options) });
    return putResultOf(await this.#json(response, [200, 201]));
  }

  #post(path: string, value: unknown, options: CallOptions | undefined): Promise<TransportResponse> {
    const body = Buffer.from(JSON.stringify(value), 'utf8');
    const headers = { 'content-type': 'application/json', 'content-length': `${body.length}` };
    return this.#call({ method: 'POST', path, headers, body, ...signalOf(options) });
  }

  async #call({ method, path, query, headers, body, signal }: Call): Promise<TransportResponse> {
    // URLSearchParams writes a space as "+", which not every proxy leaves alone
    const search = Object.entries(query ?? {}).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
    const url = `${this.base}${path}${search.length === 0 ? '' : `?${search.join('&')}`}`;
    const request = async (refresh: boolean): Promise<TransportResponse> => {
      const credentials = await this.#credentials(refresh);
      return this.transport.request({ method, url, headers: { ...credentials, ...headers }, body, signal });
    };
    try {
      const response = await request(false);
      const mayRefresh = response.status === 401 && typeof this.credentials.token === 'function';
      if (!mayRefresh || !(body === undefined || isBytes(body))) return response;
      discard(response.body);
      return await request(true);
    } catch (error) {
      if (body !== undefined) discard(body);
      throw error;
    }
  }

  async #credentials(refresh: boolean): Promise<Record<string, string>> {
    const { headers, token } = this.credentials;
    const given = joined(typeof headers === 'function' ? await headers() : headers);
    if (token === undefined) return given;
    const text = typeof token === 'string' ? token : checkedToken(await this.#token(token, refresh));
    return { ...given, authorization: `Bearer ${text}` };
  }

  /** Many requests that are refused at once refresh the token once. */
  async #token(source: Exclude<TokenSource, string>, refresh: boolean): Promise<string> {
    if (!refresh) return source({ refresh });
    this.#refreshed ??= Promise.resolve(source({ refresh })).finally(() => {
      this.#refreshed = undefined;
    });
    return this.#refreshed;
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
}

/** Throws CONFIG_INVALID, without the token in it. */
export function checkedToken(token: unknown): string {
  if (typeof token === 'string' && /^[\w.~+/-]+=*$/.test(token)) return token;
  throw new LpsError('CONFIG_INVALID', 'the token is not a bearer token: letters, digits and -._~+/ only');
}

/** Headers as they are sent: names in lower case. */
export function joined(headers: HttpHeaders | undefined): Record<string, string> {
  const entries = Object.entries(headers ?? {}).map(([name, value]) => [
    name.toLowerCase(),
    typeof value === 'string' ? value : value.join(', '),
  ]);
  return Object.fromEntries(entries);
}

function signalOf(options: CallOptions | undefined): CallOptions {
  return options?.signal === undefined ? {} : { signal: options.signal };
}

function putResultOf({ outcome, protectedUntil }: Record<string, unknown>): PutResult {
  if (outcome !== 'created' && outcome !== 'exists') throw strange('the outcome of a put');
  return { outcome, ...protectionOf(protectedUntil) };
}

/** A request that can carry a body of `size` bytes: one of another length would never end, or end too early. */
function bucketPutOf(value: unknown, size: number): Pick<PresignedRequest, 'url' | 'headers'> {
  const { method, url, headers = {} } = (value ?? {}) as Record<string, unknown>;
  const isRecord = typeof headers === 'object' && headers !== null;
  const pairs = isRecord ? Object.entries(headers as Record<string, unknown>) : [];
  const isText = pairs.every((pair): pair is [string, string] => typeof pair[1] === 'string');
  if (method !== 'PUT' || typeof url !== 'string' || !isRecord || !isText) throw strange('a request for the bucket');
  const complete = { 'content-length': `${size}`, ...joined(headers as Record<string, string>) };
  if (complete['content-length'] !== `${size}`) throw strange('the length of a request for the bucket');
  return { url, headers: complete };
}
