/**
 * A small HTTP/1.1 client over Node's own: what the s3 and the http store need, and no more.
 *
 *     request ──► body flows out, with back-pressure ──► response head: the promise resolves ──► body flows in
 *        │                  │                                   │                                    │
 *     refused,          the body fails: its own error;      may come before the request's        cut short: the stream
 *     no route: code    nothing moves: code, TOO_SLOW       body is sent; sending stops          errors, never ends
 *
 * Redirects are never followed (an upstream that can redirect us could make us fetch anything with our credentials).
 */
import {
  Agent,
  type ClientRequest,
  request as httpRequest,
  type IncomingHttpHeaders,
  type IncomingMessage,
} from 'node:http';
import { request as httpsRequest, Agent as TlsAgent } from 'node:https';
import type { Socket } from 'node:net';
import { Readable } from 'node:stream';
import type { SecureContextOptions } from 'node:tls';
import type { Body } from './blob-store.js';
import { discard, isBytes } from './body.js';
import { type ErrorCode, isLpsError, LpsError } from './errors.js';

export interface TransportOptions {
  /** Connections to one origin at a time; further requests wait for one. Default 64. */
  readonly maxSockets?: number;
  /** To resolve the name, connect and finish the TLS handshake, in ms. Default 10,000. */
  readonly connectTimeoutMs?: number;
  /** Without a byte in either direction while the peer is to move, in ms. There is no total limit. Default 30,000. */
  readonly idleTimeoutMs?: number;
  /** How long an unused connection is kept, in ms. Default 4,000: below the 5 s after which Node's own servers close it. */
  readonly keepAliveMs?: number;
  /** The code of every error that is the connection's. Default SERVICE_UNREACHABLE. */
  readonly errorCode?: ErrorCode;
  /** What error messages call the peer. Default: its host. */
  readonly peerName?: string;
  /** Certificate authorities, and the client's own certificate, for https. */
  readonly tls?: Pick<SecureContextOptions, 'ca' | 'cert' | 'key' | 'passphrase'> & {
    readonly rejectUnauthorized?: boolean;
  };
}

export interface TransportRequest {
  readonly method: string;
  /** Sent as it stands: nothing is normalised or escaped. */
  readonly url: string | URL;
  readonly headers?: Readonly<Record<string, string>>;
  /**
   * A stream goes out chunked unless `content-length` is given; then it must have exactly that many bytes. It is
   * destroyed when it was not needed to its end.
   */
  readonly body?: Body | undefined;
  /** Ends the request, or the response's body, with ABORTED. */
  readonly signal?: AbortSignal | undefined;
}

export interface TransportResponse {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  /** To be read to its end or destroyed; up to 64 KiB nobody needs to look at it. Fails when it is cut short. */
  readonly body: Readable;
  /** Whether the whole request body had been handed over when the response came. */
  readonly sent: boolean;
}

export interface Transport {
  /**
   * One request, any status. Throws what the request's body failed with, ABORTED, TOO_SLOW (the request's body stalled),
   * SIZE_MISMATCH (it is not `content-length` bytes), or `errorCode`, with `details.timedOut` when the peer was silent and
   * `details.reset` when it broke off. A peer that answers early and closes at once may be heard, or seen to break off:
   * what it had sent is lost when a write fails first.
   * A kept connection that turns out to be closed is replaced once, unless a stream was being sent on it.
   */
  request(request: TransportRequest): Promise<TransportResponse>;
  /** Ends every connection; what is under way fails. */
  close(): Promise<void>;
}

const responseBufferBytes = 64 * 1024;

/** A client with its own connections. */
export function openTransport(options: TransportOptions = {}): Transport {
  const settings: Settings = {
    connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
    idleTimeoutMs: options.idleTimeoutMs ?? 30_000,
    errorCode: options.errorCode ?? 'SERVICE_UNREACHABLE',
    peerName: options.peerName,
  };
  const common = { maxSockets: options.maxSockets ?? 64, scheduling: 'lifo', ...options.tls } as const;
  const kept = { ...common, keepAlive: true, timeout: options.keepAliveMs ?? 4_000 };
  const agents = { http: new Agent(kept), https: new TlsAgent(kept) };
  // for what met a closed connection: the next kept one may be closed as well, when the server was restarted
  const fresh = { http: new Agent(common), https: new TlsAgent(common) };
  const targetOf = targetParser();
  let closed = false;

  return {
    async request(request) {
      const { body } = request;
      if (closed) {
        if (body !== undefined) discard(body);
        throw new LpsError(settings.errorCode, 'the transport is closed');
      }
      const target = targetOf(request.url);
      try {
        return await new Promise((resolve, reject) => new Exchange(settings, target, request, agents, resolve, reject));
      } catch (error) {
        const repeatable = body === undefined || isBytes(body);
        if (!repeatable || !isLpsError(error) || error.details.staleConnection !== true) throw error;
        return await new Promise((resolve, reject) => new Exchange(settings, target, request, fresh, resolve, reject));
      }
    },
    async close() {
      closed = true;
      for (const agent of [agents.http, agents.https, fresh.http, fresh.https]) agent.destroy();
    },
  };
}

interface Settings {
  readonly connectTimeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly errorCode: ErrorCode;
  readonly peerName: string | undefined;
}

interface Origin {
  readonly secure: boolean;
  readonly host: string;
  readonly hostname: string;
  readonly port: string;
}

interface Target {
  readonly origin: Origin;
  readonly path: string;
}

/** Takes URLs apart, each origin once. `new URL` on the path would resolve dots in it, and S3 signs what is sent. */
function targetParser(): (url: string | URL) => Target {
  const origins = new Map<string, Origin>();
  return (url) => {
    const text = typeof url === 'string' ? url : url.href;
    const slash = text.indexOf('/', 'https://'.length);
    const head = slash < 0 ? text : text.slice(0, slash);
    let origin = origins.get(head);
    if (origin === undefined) {
      origin = parseOrigin(head);
      if (origins.size >= 100) origins.clear();
      origins.set(head, origin);
    }
    return { origin, path: slash < 0 ? '/' : text.slice(slash) };
  };
}

function parseOrigin(text: string): Origin {
  if (!/^https?:\/\/[^/\\?#@\s]+$/i.test(text) || !URL.canParse(text)) {
    throw new LpsError(
      'INVALID_ARGUMENT',
      'a URL must be http or https, without user name, its path beginning with "/"',
    );
  }
  const url = new URL(text);
  const secure = url.protocol === 'https:';
  // brackets belong to the URL, not to an IPv6 address
  const hostname = url.hostname.replace(/^\[|\]$/g, '');
  return { secure, host: url.host, hostname, port: url.port || (secure ? '443' : '80') };
}

/** One request on one connection, from its first byte to the last of its response. */
class Exchange {
  readonly #request: ClientRequest;
  readonly #source: Readable | undefined;
  readonly #announcedBytes: number | undefined;
  #handedOver = 0; // bytes of the source
  #sent: boolean; // the request's body is handed over, or there is none
  #socket: Socket | undefined;
  #bytesReadBefore = 0; // by earlier exchanges on the same socket
  #halfSilentAt: string | undefined; // how far the socket was when half of a silence was over
  #connected = false;
  #response: ResponseBody | undefined;
  #over = false;

  constructor(
    readonly settings: Settings,
    readonly target: Target,
    readonly ask: TransportRequest,
    agents: { readonly http: Agent; readonly https: TlsAgent },
    readonly resolve: (response: TransportResponse) => void,
    readonly reject: (error: unknown) => void,
  ) {
    const { body, signal, headers } = ask;
    this.#source = body === undefined || isBytes(body) ? undefined : body;
    this.#sent = this.#source === undefined;
    const length = headers?.['content-length'];
    this.#announcedBytes = length === undefined ? undefined : Number(length);
    this.#request = this.#open(agents);
    this.#listen();
    if (signal?.aborted) this.#onAbort();
    else {
      signal?.addEventListener('abort', this.#onAbort, { once: true });
      this.#send(body);
    }
  }

  #open(agents: { readonly http: Agent; readonly https: TlsAgent }): ClientRequest {
    const { method, headers } = this.ask;
    const { origin, path } = this.target;
    const { hostname, port, secure } = origin;
    const timeout = this.settings.idleTimeoutMs;
    const options = { method, hostname, port, path, timeout, ...(headers === undefined ? {} : { headers }) };
    try {
      return secure
        ? httpsRequest({ ...options, agent: agents.https })
        : httpRequest({ ...options, agent: agents.http });
    } catch (cause) {
      if (this.#source !== undefined) discard(this.#source);
      throw new LpsError('INVALID_ARGUMENT', 'the request cannot be sent as HTTP', { cause });
    }
  }

  #listen(): void {
    this.#request
      .on('socket', (socket) => this.#onSocket(socket))
      .on('response', (message) => this.#onResponse(message))
      .on('error', (error) => this.#onError(error));
  }

  #onSocket(socket: Socket): void {
    this.#socket = socket;
    this.#bytesReadBefore = socket.bytesRead;
    this.#connected = this.#request.reusedSocket;
    // not the request's event of that name, which comes only once
    socket.on('timeout', this.#onTimeout);
    this.#watch();
    if (this.#connected) return;
    socket.once(this.target.origin.secure ? 'secureConnect' : 'connect', () => {
      this.#connected = true;
      this.#watch();
    });
  }

  /**
   * A silence is waited for in two halves: a process that was itself held up, or suspended, finds its timers over, and gets
   * to see what has come meanwhile before the second one begins.
   */
  #watch(halfSilentAt?: string): void {
    const { idleTimeoutMs, connectTimeoutMs } = this.settings;
    this.#halfSilentAt = halfSilentAt;
    this.#socket?.setTimeout(Math.ceil((this.#connected ? idleTimeoutMs : connectTimeoutMs) / 2));
  }

  #send(body: Body | undefined): void {
    const source = this.#source;
    if (source === undefined) this.#request.end(body);
    else if (source.errored) this.#fail(source.errored);
    else if (source.destroyed || source.readableEnded) this.#fail(closedEarly());
    else {
      this.#request.on('drain', () => this.#sent || source.resume());
      source.on('data', this.#onChunk).on('end', this.#onSourceEnd);
      source.on('error', this.#fail).on('close', this.#onSourceClose);
    }
  }

  readonly #onChunk = (chunk: Uint8Array): void => {
    this.#handedOver += chunk.length;
    if (this.#announcedBytes !== undefined && this.#handedOver > this.#announcedBytes) this.#fail(this.#wrongSize());
    else if (!this.#request.write(chunk)) this.#source?.pause();
  };

  readonly #onSourceEnd = (): void => {
    if (this.#announcedBytes !== undefined && this.#handedOver !== this.#announcedBytes) {
      // the peer would wait for the rest
      this.#fail(this.#wrongSize());
      return;
    }
    this.#sent = true;
    this.#request.end();
  };

  readonly #onSourceClose = (): void => {
    if (!this.#sent) this.#fail(closedEarly());
  };

  #onResponse(message: IncomingMessage): void {
    if (this.#over) {
      message.destroy();
      return;
    }
    const { statusCode: status = 0, headers } = message;
    const sent = this.#sent;
    if (!sent) this.#stopSending();
    // delimited by the end of the connection: an end and a cut look the same
    const unsized = headers['content-length'] === undefined && headers['transfer-encoding'] === undefined;
    const trusted = !unsized || status >= 300 || status === 204 || this.ask.method === 'HEAD';
    const body = new ResponseBody(
      message,
      () => this.#onResponseEnd(body, trusted),
      () => this.#onResponseClose(),
    );
    this.#response = body;
    message.on('error', (error) => this.#fail(this.#unreachable(error)));
    this.resolve({ status, headers, body, sent });
  }

  #onResponseEnd(body: ResponseBody, trusted: boolean): void {
    if (!trusted) {
      this.#fail(new LpsError(this.settings.errorCode, `${this.#peer()} sent a body of unknown length`));
      return;
    }
    const request = this.#request;
    this.#finish();
    // Half a request is on its way: nothing else can be sent on this connection. Bytes that were handed over at once may
    // be told as written one turn of the loop later than the response that they caused.
    if (!request.writableEnded) request.destroy();
    else if (!request.writableFinished) setImmediate(() => request.writableFinished || request.destroy());
    body.push(null);
  }

  /** The reader destroyed the body before its end. */
  #onResponseClose(): void {
    if (this.#over) return;
    this.#finish();
    this.#request.destroy();
  }

  readonly #onTimeout = (): void => {
    if (this.#over) return;
    if (this.#response !== undefined && this.#response.readableLength > 0) {
      // the peer is not to move: our reader has not taken what came
      this.#watch();
      return;
    }
    const { bytesRead, bytesWritten, writableLength } = this.#socket ?? {};
    const isAt = `${bytesRead} ${bytesWritten} ${writableLength}`;
    if (isAt !== this.#halfSilentAt) {
      this.#watch(isAt);
      return;
    }
    const { idleTimeoutMs, connectTimeoutMs, errorCode } = this.settings;
    const details = { timedOut: true };
    const waitsForSource = !this.#sent && this.#request.writableLength === 0 && this.#connected;
    if (waitsForSource) this.#fail(new LpsError('TOO_SLOW', `the body stalled for ${idleTimeoutMs} ms`, { details }));
    else if (this.#connected) {
      this.#fail(new LpsError(errorCode, `${this.#peer()} was silent for ${idleTimeoutMs} ms`, { details }));
    } else {
      this.#fail(new LpsError(errorCode, `${this.#peer()} did not connect within ${connectTimeoutMs} ms`, { details }));
    }
  };

  #onError(error: Error): void {
    // once there is a response it tells how it ends; the rest of a request that was answered early may well break off
    if (this.#response === undefined) this.#fail(this.#unreachable(error));
  }

  readonly #onAbort = (): void => {
    this.#fail(new LpsError('ABORTED', 'the call was aborted', { cause: this.ask.signal?.reason }));
  };

  readonly #fail = (error: unknown): void => {
    if (this.#over) return;
    this.#finish();
    this.#stopSending();
    this.#request.destroy();
    if (this.#response === undefined) this.reject(error);
    else this.#response.destroy(error instanceof Error ? error : new Error(String(error)));
  };

  #finish(): void {
    this.#over = true;
    this.#socket?.off('timeout', this.#onTimeout);
    this.ask.signal?.removeEventListener('abort', this.#onAbort);
  }

  #stopSending(): void {
    const source = this.#source;
    if (source === undefined || this.#sent) return;
    source.off('data', this.#onChunk).off('end', this.#onSourceEnd);
    source.off('error', this.#fail).off('close', this.#onSourceClose);
    discard(source);
  }

  #wrongSize(): LpsError {
    const details = { expected: this.#announcedBytes, size: this.#handedOver };
    return new LpsError('SIZE_MISMATCH', `the body is not of the ${this.#announcedBytes} bytes announced`, { details });
  }

  #unreachable(error: NodeJS.ErrnoException): LpsError {
    const code = error.code ?? error.message;
    const reset = code === 'ECONNRESET' || code === 'EPIPE';
    const unanswered = this.#response === undefined && this.#socket?.bytesRead === this.#bytesReadBefore;
    const staleConnection = reset && unanswered && this.#request.reusedSocket;
    const what = this.#connected ? 'broke off' : 'cannot be reached';
    return new LpsError(this.settings.errorCode, `${this.#peer()} ${what} (${code})`, {
      details: {
        host: this.target.origin.host,
        ...(reset ? { reset } : {}),
        ...(staleConnection ? { staleConnection } : {}),
      },
      cause: error,
    });
  }

  #peer(): string {
    return this.settings.peerName ?? this.target.origin.host;
  }
}

function closedEarly(): LpsError {
  return new LpsError('ABORTED', 'the body was closed before its end');
}

/** A response's bytes; unlike Node's message it fails with our errors, and never goes unnoticed when it is cut short. */
class ResponseBody extends Readable {
  readonly #message: IncomingMessage;
  readonly #onClose: () => void;

  constructor(message: IncomingMessage, onEnd: () => void, onClose: () => void) {
    super({ highWaterMark: responseBufferBytes });
    this.#message = message;
    this.#onClose = onClose;
    message.on('data', (chunk: Uint8Array) => {
      if (!this.push(chunk)) message.pause();
    });
    message.on('end', onEnd);
    // a reader that does not care, of a 200 without content for one, must not crash the process
    this.on('error', () => {});
  }

  override _read(): void {
    this.#message.resume();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#onClose();
    done(error);
  }
}
