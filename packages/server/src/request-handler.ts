/**
 * The routes of the service in anyone's Node HTTP server, over any `BlobStore`, without Postgres (docs/embedding.md).
 *
 *   request ─ basePath taken off ─ not ours? next(), else 404 ─ the same routes as `lps serve` ─ observed(checked(store))
 *
 * What only the catalog can do is missing: leases, states, touches, takedowns and the collection.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Server as TlsServer } from 'node:https';
import { type BlobStore, checked, LpsError, observed } from '@large-payload/core';
import { settings } from './config/settings.js';
import { maxDownloadLifetimeMs } from './direct/lifetimes.js';
import { type App, createApp } from './http/app.js';
import { attachContinue } from './http/attach-continue.js';
import { checkedPath, pathBelow } from './http/base-path.js';
import { type HandlerLogger, loggerOver } from './http/handler-logger.js';
import { problemFor } from './http/problem.js';
import { inSpan } from './http/trace.js';
import { createMetrics } from './metrics.js';
import { version } from './version.js';

export { serverOptions } from './http/app.js';
export type { HandlerLogger } from './http/handler-logger.js';

export interface RequestHandlerOptions {
  /** Where the blobs are. It stays the caller's: `close` leaves it open. */
  readonly store: BlobStore;
  /**
   * Where the routes begin in the URLs that the handler sees: with `/payloads` they are `/payloads/v2/blobs/put` …
   * Default: at the root. Not needed where a framework takes its mount path off (`app.use('/payloads', handler)`).
   */
  readonly basePath?: string;
  /** Larger uploads are refused before a byte is read. Default 1 GiB, as every limit here as in `lps serve`. */
  readonly maxBlobBytes?: number;
  /** Uploads at the same time; more are answered 503. Default 256. */
  readonly maxUploads?: number;
  /** A transfer that moves no byte for so long is ended, in ms. Default 30,000. */
  readonly idleTimeoutMs?: number;
  /** A transfer slower than that, on average after its first 30 s, is ended. Bytes a second; default 1000, 0 for none. */
  readonly minBytesPerSecond?: number;
  /** Serves `/v1/blobs/get`: blobs by digest alone, whoever they belong to. Default false. */
  readonly v1?: boolean;
  /** Answers `GET /v3/blobs?redirect=N` with URLs of the bucket, where the store can sign them. Default true. */
  readonly directDownloads?: boolean;
  /** Serves `/healthz`, `/readyz`, `/version` and `/openapi.json`. Default true; `ready()` of an `openHttpStore` needs it. */
  readonly operations?: boolean;
  /** Serves `/metrics`, with a registry of the handler's own. Default false. */
  readonly metrics?: boolean;
  /** Default: nothing is logged. */
  readonly logger?: HandlerLogger;
}

/** For `http.createServer`, `app.use` of Express and Connect, and whatever hands over Node's own two objects. */
export interface RequestHandler {
  (request: IncomingMessage, response: ServerResponse, next?: (error?: unknown) => void): void;
  /** Whether a request of this URL (path and query, `basePath` included) is answered here, whatever its method. */
  serves(url: string): boolean;
  /**
   * Leaves it to the routes to ask for bodies that clients announce with `Expect: 100-continue`, so that a blob that is
   * there is not sent again. All requests still go through the server's own listeners. `path` is where the routes begin
   * in the server's URLs, default `basePath`. Throws CONFIG_INVALID when the server has a `checkContinue` listener of
   * someone else's.
   */
  attach(server: Server | TlsServer, path?: string): void;
  /** Requests that come from now on get 503; resolves when those under way are answered. The server is closed by its owner. */
  close(): Promise<void>;
}

/** Makes a handler; nothing listens, runs or is shared with other handlers. Throws CONFIG_INVALID. */
export function createRequestHandler(options: RequestHandlerOptions): RequestHandler {
  const basePath = checkedPath(options.basePath ?? '');
  let isClosing = false;
  const app = appFor(options, () => isClosing);
  const ready = app.server.ready();
  const underWay = new Set<ServerResponse>();
  let onIdle = (): void => {};
  let closed: Promise<void> | undefined;

  const serves = (url: string, base = basePath): boolean => {
    const path = pathBelow(base, url);
    return path !== undefined && app.routes.has(path.split('?', 1)[0] ?? '');
  };
  const handle = (request: IncomingMessage, response: ServerResponse, next?: (error?: unknown) => void): void => {
    const { url = '/' } = request;
    if (next !== undefined && !serves(url)) return void next();
    const path = pathBelow(basePath, url);
    if (path === undefined)
      return void refuse(request, response, new LpsError('ROUTE_NOT_FOUND', 'there is no such route'));
    if (isClosing) return void refuse(request, response, stopping());
    underWay.add(response);
    response.once('close', () => {
      underWay.delete(response);
      if (underWay.size === 0) onIdle();
    });
    takePath(request, path);
    void ready.then(() => app.server.routing(request, response));
  };
  return Object.assign(handle, {
    serves: (url: string) => serves(url),
    attach: (server: Server | TlsServer, path = basePath) => {
      const base = checkedPath(path);
      attachContinue(server, (url) => serves(url, base));
    },
    close: () => {
      isClosing = true;
      const idle = new Promise<void>((resolve) => {
        onIdle = resolve;
        if (underWay.size === 0) resolve();
      });
      closed ??= idle.then(() => app.server.close());
      return closed;
    },
  });
}

function appFor(options: RequestHandlerOptions, isClosing: () => boolean): App {
  const metrics = createMetrics({ uploadsInFlight: () => app.transfers.uploadsInFlight }, { process: false });
  const store = observed(checked(options.store), { onEvent: (event) => metrics.storeEvent(event), inSpan });
  const ready = async (): Promise<void> => {
    if (isClosing()) throw stopping();
    await store.ready?.();
  };
  const app = createApp({
    store,
    limits: {
      maxBlobBytes: limitOf('maxBlobBytes', options.maxBlobBytes),
      maxUploads: limitOf('maxUploads', options.maxUploads),
      maxConnections: 0, // of a server that never listens
    },
    pace: {
      idleTimeoutMs: limitOf('idleTimeoutMs', options.idleTimeoutMs),
      minRate: limitOf('minBytesPerSecond', options.minBytesPerSecond),
      graceMs: 30_000,
    },
    logger: loggerOver(options.logger ?? {}),
    metrics,
    ...(options.operations === false
      ? {}
      : { operations: { version, ready, ...(options.metrics === true ? { metrics } : {}) } }),
    ...(options.v1 === true ? { v1: {} } : {}),
    ...(options.directDownloads === false ? {} : { direct: { downloadLifetimeMs: maxDownloadLifetimeMs } }),
  });
  return app;
}

/** A limit that was given, or the one that `lps serve` has by default; within the same bounds. */
function limitOf(
  name: 'maxBlobBytes' | 'maxUploads' | 'idleTimeoutMs' | 'minBytesPerSecond',
  given: number | undefined,
): number {
  const { kind, default: standard } = settings[name];
  const parsed = kind.schema.safeParse(given === undefined ? standard : kind.format(given));
  if (parsed.success) return parsed.data;
  throw new LpsError('CONFIG_INVALID', `${name}: ${given} is not ${kind.expects}`);
}

/** As Express and Connect do it, so that their loggers show the whole URL. */
function takePath(request: IncomingMessage & { originalUrl?: string }, path: string): void {
  request.originalUrl ??= request.url ?? path;
  request.url = path;
}

function stopping(): LpsError {
  return new LpsError('TRY_AGAIN', 'the service is stopping');
}

/** For what does not reach the routes. The connection is of no further use: a body may be on its way. */
function refuse(request: IncomingMessage, response: ServerResponse, error: LpsError): void {
  const requestId = randomUUID();
  const { status, headers, body } = problemFor(error, request, requestId);
  response.writeHead(status, { ...headers, 'x-request-id': requestId, connection: 'close' });
  response.end(body);
}
