/**
 * The HTTP side of the service: routes over a `BlobStore`, and nothing about where the bytes are.
 *
 *   request ─ trace, id ─ route ─ Transfers ─ store
 *                └ any error ─ problem (RFC 9457, or one line of text on /v1 and /v2)
 */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { type BlobStore, LpsError } from '@large-payload/core';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, LogController } from 'fastify';
import type { Logger } from 'pino';
import type { Audit } from '../auth/audit.js';
import { registerAudit } from '../auth/audit-hook.js';
import { type GateOptions, registerGate } from '../auth/gate.js';
import { anonymous } from '../auth/principal.js';
import type { Catalog } from '../catalog/catalog.js';
import { corsHeaders, registerCors } from '../codec/cors.js';
import type { DirectTransfers } from '../direct/direct-transfers.js';
import type { WorkflowAdmin } from '../durable/workflow-admin.js';
import type { Pins } from '../lifecycle/catalog/pins.js';
import type { Metrics } from '../metrics.js';
import type { RunningReads } from '../nodes/running-reads.js';
import { describedRoutes, openapiDocument } from '../openapi/document.js';
import { registerAccess } from '../routes/access.js';
import { type CacheNode, registerCache } from '../routes/cache.js';
import { type CodecRoutesOptions, registerCodec } from '../routes/codec.js';
import { type NodesOptions, registerNodes } from '../routes/nodes.js';
import { type OperationsOptions, registerOperations } from '../routes/operations.js';
import { registerPins } from '../routes/pins.js';
import { registerTakedowns } from '../routes/takedowns.js';
import { registerTouches } from '../routes/touches.js';
import { registerUploads } from '../routes/uploads.js';
import { registerV1, type V1Options } from '../routes/v1.js';
import { registerV2 } from '../routes/v2.js';
import { registerV3 } from '../routes/v3.js';
import { registerWorkflows } from '../routes/workflows.js';
import type { Takedowns } from '../takedown/open-takedowns.js';
import { registerOwnHost } from './own-host.js';
import { type PaceLimits, PaceMonitor } from './pace.js';
import { problemFor, toLpsError } from './problem.js';
import type { TlsFiles } from './tls.js';
import { traceIdOf, withTraceOf } from './trace.js';
import { type TransferLimits, Transfers } from './transfer.js';

export interface AppOptions {
  readonly store: BlobStore;
  readonly limits: TransferLimits & { readonly maxConnections: number };
  readonly pace: PaceLimits;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Absent: none of its routes. */
  readonly operations?: OperationsOptions;
  /** Serves `/v1/blobs/get`. */
  readonly v1?: V1Options | undefined;
  /** Serves `/encode`, `/decode` and `/download`. */
  readonly codec?: CodecRoutesOptions | undefined;
  /** Who may call. Absent: everybody. */
  readonly gate?: GateOptions;
  /** Where it is kept who did what. */
  readonly audit?: Audit | undefined;
  /** The address of a caller is what the proxy in front says it is. */
  readonly behindProxy?: boolean;
  /** Listens on loopback, and asks nobody who he is. */
  readonly isOnLoopback?: boolean;
  /** Answers HTTPS. */
  readonly tls?: TlsFiles;
  /** Past the service. Absent: all bytes go through it. */
  readonly direct?: DirectTransfers;
  /** Where reads are cut off. Absent: nobody ends a read but its client. */
  readonly reads?: RunningReads | undefined;
  /** The newest event that was applied here; `undefined` while that may be old. */
  readonly asOf?: (() => bigint | undefined) | undefined;
  /** Serves `/v3/cache`: this is a cache node. */
  readonly cacheNode?: CacheNode | undefined;
  /** What a route that is not there is answered with. */
  readonly notFound?: (() => LpsError) | undefined;
  /** Serves `/v3/touches`. */
  readonly catalog?: Pick<Catalog, 'lookupMany' | 'touch'> | undefined;
  /** Serves `/v3/nodes` and `/v3/events`. */
  readonly nodes?: NodesOptions | undefined;
  /** Serves `/v3/pins`. */
  readonly pins?: Pins | undefined;
  /** Serves `/v3/takedowns` and `/v3/blocks`. */
  readonly takedowns?: Takedowns | undefined;
  /** Serves `/v3/workflows`. */
  readonly workflows?: WorkflowAdmin;
}

export interface App {
  readonly server: FastifyInstance;
  readonly transfers: Transfers;
  /** Every route: its pattern, and the methods that it takes. */
  readonly routes: ReadonlyMap<string, ReadonlySet<string>>;
}

/**
 * For `http.createServer`. Go's servers take 1 MiB of headers in all, and payload metadata travels in one of them. A limit
 * on the whole request would end honest large uploads: see ./pace.ts.
 */
export const serverOptions = {
  maxHeaderSize: 1024 * 1024,
  requestTimeout: 0,
  headersTimeout: 60_000,
  keepAliveTimeout: 75_000,
} as const;
const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const;

export function createApp(options: AppOptions): App {
  const { maxHeaderSize, headersTimeout } = serverOptions;
  const heads = { maxHeaderSize, headersTimeout };
  const app = Fastify({
    loggerInstance: options.logger,
    logController: new LogController({ disableRequestLogging: true }),
    exposeHeadRoutes: false,
    requestTimeout: serverOptions.requestTimeout,
    trustProxy: options.behindProxy === true ? (_address, hop) => hop === 0 : false,
    keepAliveTimeout: serverOptions.keepAliveTimeout,
    forceCloseConnections: 'idle',
    return503OnClosing: false,
    // the types of a plain server; https is one that speaks TLS first
    ...((options.tls === undefined ? { http: heads } : { https: { ...heads, ...options.tls } }) as {
      http: typeof heads;
    }),
    bodyLimit: 64 * 1024,
    genReqId: requestId,
    clientErrorHandler: refuseConnection,
    frameworkErrors(error, request, reply) {
      // a URL that is none has been through no hook
      if (options.codec !== undefined) reply.headers(corsHeaders(request.headers, options.codec.corsOrigins));
      sendProblem(error, request, reply);
    },
  }) as unknown as FastifyInstance;
  const { store, limits, metrics, reads } = options;
  const transfers = new Transfers(store, limits, new PaceMonitor(options.pace), metrics, reads);
  app.server.maxConnections = options.limits.maxConnections;
  // bodies of blobs are read by nobody but UploadBody
  app.removeContentTypeParser('text/plain');
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));
  // with this listener Node leaves it to us when, and whether, to ask for the body
  app.server.on('checkContinue', (request, response) => app.routing(request, response));

  observeRequests(app, options.metrics);
  if (options.codec !== undefined) registerCors(app, options.codec.corsOrigins); // refusals need them, too
  if (options.isOnLoopback === true) registerOwnHost(app);
  registerGate(app, options.gate ?? {}, transfers);
  if (options.audit !== undefined) registerAudit(app, options.audit);
  app.setErrorHandler(sendProblem);
  app.setNotFoundHandler((request, reply) =>
    sendProblem(options.notFound?.() ?? new LpsError('ROUTE_NOT_FOUND', 'there is no such route'), request, reply),
  );
  const refuseOtherMethods = collectRoutes(app);
  const described = describedRoutes(app);
  if (options.v1 !== undefined) registerV1(app, transfers, options.v1);
  registerV2(app, transfers);
  registerV3(app, transfers, {
    v1: options.v1,
    downloadLifetimeMs: options.direct?.downloadLifetimeMs,
    asOf: options.asOf,
  });
  registerUploads(app, transfers, options.direct?.uploads);
  registerAccess(app);
  if (options.cacheNode !== undefined) registerCache(app, options.cacheNode);
  if (options.catalog !== undefined) registerTouches(app, options.catalog);
  if (options.workflows !== undefined) registerWorkflows(app, options.workflows);
  if (options.nodes !== undefined) registerNodes(app, options.nodes);
  if (options.pins !== undefined) registerPins(app, options.pins);
  if (options.takedowns !== undefined) registerTakedowns(app, options.takedowns);
  if (options.operations !== undefined) registerOperations(app, options.operations, () => openapiDocument(described));
  if (options.codec !== undefined) registerCodec(app, options.codec, reads);
  return { server: app, transfers, routes: refuseOtherMethods() };
}

/** Answers what is not HTTP, in the few words that fit before the connection ends. */
function refuseConnection(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy();
  const [status, reason] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? ['431 Request Header Fields Too Large', 'the headers are larger than 1 MiB']
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? ['408 Request Timeout', 'the head of the request came too slowly']
        : ['400 Bad Request', 'this is not an HTTP/1.1 request'];
  const head = `content-type: text/plain; charset=utf-8\r\ncontent-length: ${reason.length}\r\nconnection: close`;
  socket.end(`HTTP/1.1 ${status}\r\n${head}\r\n\r\n${reason}`);
}

function observeRequests(app: FastifyInstance, metrics: Metrics): void {
  app.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id);
    withTraceOf(request.raw, done);
  });
  app.addHook('onResponse', (request, reply, done) => {
    const route = request.routeOptions.url ?? 'unknown';
    metrics.request({ route, method: request.method, status: reply.raw.statusCode }, reply.elapsedTime / 1000);
    request.log.debug(
      {
        method: request.method,
        route,
        status: reply.raw.statusCode,
        ms: reply.elapsedTime,
        ...callerOf(request),
        ...traceOf(request),
      },
      'answered',
    );
    done();
  });
}

function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const known = toLpsError(error);
  const { status, headers, body } = problemFor(known, request.raw, request.id);
  const level = status >= 500 ? (known.retryable && known.code !== 'INTERNAL' ? 'warn' : 'error') : 'info';
  request.log[level](
    {
      code: known.code,
      method: request.method,
      url: request.url.slice(0, 300),
      ...callerOf(request),
      ...traceOf(request),
      ...(level === 'info' ? {} : { err: known }),
    },
    known.message,
  );
  // a request that no route was found for has not been through the hooks
  reply.code(status).header('x-request-id', request.id).headers(headers).send(Buffer.from(body)); // text would get a charset appended
}

/** Where callers are asked who they are. */
function callerOf(request: FastifyRequest): Record<string, string> {
  // not there on public routes, and where no route was found
  const { principal = anonymous } = (request.caller as FastifyRequest['caller'] | null) ?? {};
  return principal === anonymous ? {} : { caller: principal.id };
}

function traceOf(request: FastifyRequest): Record<string, string> {
  const traceId = traceIdOf(request.headers);
  return traceId === undefined ? {} : { traceId };
}

/** Every path knows its methods; the others are answered 405 with `Allow`. The returned function sees to that, and gives the routes. */
function collectRoutes(app: FastifyInstance): () => ReadonlyMap<string, ReadonlySet<string>> {
  const routes = new Map<string, Set<string>>();
  let isOpen = true;
  app.addHook('onRoute', ({ url, method }) => {
    if (!isOpen) return;
    const known = routes.get(url) ?? new Set();
    for (const one of [method].flat()) known.add(one);
    routes.set(url, known);
  });
  return () => {
    isOpen = false;
    for (const [url, known] of routes) {
      const others = methods.filter((method) => !known.has(method));
      app.route({
        url,
        method: [...others],
        config: { access: 'public' },
        handler: async (_request, reply) => {
          reply.header('allow', [...known].join(', '));
          throw new LpsError('METHOD_NOT_ALLOWED', `this route takes ${[...known].join(', ')}`);
        },
      });
    }
    return routes;
  };
}

const boot = randomBytes(6).toString('hex');
let counter = 0;

/** A caller's own id when it is harmless in logs and headers, else one of ours. */
function requestId(request: { headers: Record<string, string | string[] | undefined> }): string {
  const given = request.headers['x-request-id'];
  if (typeof given === 'string' && /^[\w.:-]{1,100}$/.test(given)) return given;
  counter += 1;
  return `${boot}-${counter}`;
}
