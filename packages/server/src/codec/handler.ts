/** The codec server in anyone's Node HTTP server, with any drivers and codecs, and without anything else of the service. */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { LpsError } from '@large-payload/core';
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, LogController } from 'fastify';
import { checkedPath, pathBelow } from '../http/base-path.js';
import { type HandlerLogger, loggerOver } from '../http/handler-logger.js';
import { problemFor, toLpsError } from '../http/problem.js';
import { registerCodec } from '../routes/codec.js';
import { codecPaths, corsHeaders, registerCors } from './cors.js';
import { type CodecOptions, createCodec } from './pipeline.js';

export interface CodecHandlerOptions extends CodecOptions {
  /** Origins whose pages may call, such as `http://localhost:8233`. Default none. */
  readonly corsOrigins?: readonly string[];
  /**
   * Where the routes begin in the URLs that the handler sees: with `/codec` they are `/codec/decode` … Default: at the root.
   * Not needed where a framework takes its mount path off (`app.use('/codec', handler)`).
   */
  readonly basePath?: string;
  /** Larger bodies of requests are refused, in bytes. Default that of a full answer, or a quarter of `maxMemoryBytes` if less. */
  readonly maxRequestBytes?: number;
  /** Default: nothing is logged. */
  readonly logger?: HandlerLogger;
}

/** For `http.createServer`, `app.use` of Express and Connect, and whatever hands over Node's own two objects. */
export interface CodecHandler {
  (request: IncomingMessage, response: ServerResponse, next?: (error?: unknown) => void): void;
  /** Whether a request of this URL (path and query, `basePath` included) is answered here, whatever its method. */
  serves(url: string): boolean;
}

/**
 * `POST /encode`, `/decode` and `/download`, also below `/{namespace}`, as Temporal's Web UI and CLI call them.
 *
 *     http.createServer(codecRoutes({ drivers: [driver], preStorage: [new ZlibCodec()] })).listen(8081, '127.0.0.1');
 *
 * Nobody is asked who he is: put it behind something that does, or on loopback. The path's namespace or `X-Namespace` is
 * the one that `/encode` stores under. Drivers and codecs stay their owner's; nothing has to be closed here. Throws
 * CONFIG_INVALID.
 */
export function codecRoutes(options: CodecHandlerOptions): CodecHandler {
  const basePath = checkedPath(options.basePath ?? '');
  const app = appFor(options);
  const ready = app.ready();
  const serves = (url: string): boolean => isCodecPath(pathBelow(basePath, url));
  const handle = (request: IncomingMessage, response: ServerResponse, next?: (error?: unknown) => void): void => {
    const { url = '/' } = request;
    if (next !== undefined && !serves(url)) return void next();
    request.url = pathBelow(basePath, url) ?? '/'; // at the root there is no route
    void ready.then(() => app.routing(request, response));
  };
  return Object.assign(handle, { serves });
}

function appFor(options: CodecHandlerOptions): FastifyInstance {
  const { corsOrigins = [] } = options;
  const send = (error: unknown, request: FastifyRequest, reply: FastifyReply): void =>
    sendError(toLpsError(error), request, reply.headers(corsHeaders(request.headers, corsOrigins)));
  const app = Fastify({
    loggerInstance: loggerOver(options.logger ?? {}),
    logController: new LogController({ disableRequestLogging: true }),
    exposeHeadRoutes: false,
    bodyLimit: 64 * 1024,
    genReqId: () => randomUUID(),
    frameworkErrors: send,
  }) as unknown as FastifyInstance;
  app.removeContentTypeParser('text/plain');
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));
  app.setErrorHandler(send);
  app.setNotFoundHandler((request, reply) =>
    send(new LpsError('ROUTE_NOT_FOUND', 'there is no such route'), request, reply),
  );
  registerCors(app, corsOrigins);
  const { maxRequestBytes } = options;
  registerCodec(app, {
    codec: createCodec(options),
    corsOrigins,
    ...(maxRequestBytes === undefined ? {} : { maxRequestBytes }),
  });
  for (const url of codecPaths) refuseOtherMethods(app, url);
  return app;
}

function refuseOtherMethods(app: FastifyInstance, url: string): void {
  app.route({
    url,
    method: ['GET', 'HEAD', 'PUT', 'PATCH', 'DELETE'],
    handler: async (_request, reply) => {
      reply.header('allow', 'POST, OPTIONS');
      throw new LpsError('METHOD_NOT_ALLOWED', 'this route takes POST, OPTIONS');
    },
  });
}

function sendError(error: LpsError, request: FastifyRequest, reply: FastifyReply): void {
  const { status, headers, body } = problemFor(error, request.raw, request.id);
  const level = status >= 500 ? 'error' : 'info';
  request.log[level]({ code: error.code, ...(level === 'error' ? { err: error } : {}) }, error.message);
  reply.code(status).headers(headers).send(Buffer.from(body)); // text would get a charset appended
}

function isCodecPath(url: string | undefined): boolean {
  const path = url?.split('?', 1)[0] ?? '';
  return /^(?:\/[^/]+)?\/(?:encode|decode|download)$/.test(path);
}
