/** What a cache node asks its upstream beside blobs: JSON over HTTP, with the node's own token or a caller's. */
import {
  discard,
  isLpsError,
  LpsError,
  openTransport,
  problemOf,
  readAll,
  type TransportOptions,
  type TransportResponse,
} from '@large-payload/core';

export interface UpstreamApiOptions {
  /** Of the service, without a slash at its end. */
  readonly url: string;
  /** The node's own. Absent: upstream asks nobody. */
  readonly token?: string | undefined;
  readonly transport?: TransportOptions;
}

export interface UpstreamCall {
  readonly body?: unknown;
  /** In place of the node's own. */
  readonly token?: string;
  readonly signal?: AbortSignal | undefined;
  /** Until the answer is here, in ms. Default 10,000. */
  readonly timeoutMs?: number;
}

export interface UpstreamApi {
  /** The JSON of an answer, `undefined` when it has none. Throws what upstream says, and SERVICE_UNREACHABLE. */
  json(method: string, path: string, call?: UpstreamCall): Promise<unknown>;
  /** An answer whose body goes on and on. Throws as `json` does. */
  stream(path: string, headers: Readonly<Record<string, string>>, signal: AbortSignal): Promise<TransportResponse>;
  close(): Promise<void>;
}

const maxAnswerBytes = 4 * 1024 * 1024;

export function openUpstreamApi({ url, token: own, transport: options }: UpstreamApiOptions): UpstreamApi {
  const transport = openTransport({ ...options, errorCode: 'SERVICE_UNREACHABLE', peerName: 'the upstream service' });

  async function ask(
    method: string,
    path: string,
    { body, token, signal }: UpstreamCall,
    more: Readonly<Record<string, string>> = {},
  ): Promise<TransportResponse> {
    const bytes = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
    const response = await transport.request({
      method,
      url: `${url}${path}`,
      headers: {
        accept: 'application/json',
        ...authorization(token ?? own),
        ...(bytes === undefined ? {} : { 'content-type': 'application/json', 'content-length': String(bytes.length) }),
        ...more,
      },
      body: bytes,
      signal,
    });
    if (response.status >= 200 && response.status < 300) return response;
    const error = await problemOf(response);
    throw token === undefined ? ownRefusal(error) : error;
  }

  return {
    async json(method, path, call = {}) {
      const timeout = new AbortController();
      const { timeoutMs = 10_000 } = call;
      const late = setTimeout(() => timeout.abort(silent(timeoutMs)), timeoutMs);
      const signal = call.signal === undefined ? timeout.signal : AbortSignal.any([call.signal, timeout.signal]);
      try {
        const { body } = await ask(method, path, { ...call, signal });
        const text = Buffer.from(await readAll(body, maxAnswerBytes)).toString();
        return text === '' ? undefined : parsed(text);
      } catch (error) {
        if (timeout.signal.aborted && isLpsError(error, 'ABORTED')) throw timeout.signal.reason;
        throw error;
      } finally {
        clearTimeout(late);
      }
    },
    async stream(path, headers, signal) {
      const response = await ask('GET', path, { signal }, headers);
      response.body.on('error', () => undefined); // whoever reads hears of it as well
      if (signal.aborted) discard(response.body);
      return response;
    },
    close: () => transport.close(),
  };
}

function authorization(token: string | undefined): Record<string, string> {
  return token === undefined ? {} : { authorization: `Bearer ${token}` };
}

/** What upstream says against the node's own token must not look as if it were said of a caller's. */
export function ownRefusal(error: unknown): unknown {
  if (!isLpsError(error, 'UNAUTHENTICATED') && !isLpsError(error, 'FORBIDDEN')) return error;
  return new LpsError(
    'STORE_REFUSED',
    'the upstream service does not take the token of this cache node: it needs read and write on every namespace',
    { cause: error, details: error.details },
  );
}

function silent(timeoutMs: number): LpsError {
  return new LpsError('SERVICE_UNREACHABLE', `the upstream service did not answer within ${timeoutMs} ms`);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw strange('JSON', cause);
  }
}

/** An answer that is not of API v3. */
export function strange(what: string, cause?: unknown): LpsError {
  return new LpsError('SERVICE_UNREACHABLE', `the upstream service did not answer as API v3 does: ${what}`, { cause });
}
