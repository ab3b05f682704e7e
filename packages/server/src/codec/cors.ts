/**
 * Cross-origin requests of Temporal's Web UI, which calls the codec server from its users' browsers.
 *
 * Only origins that were named get an answer that a browser shows them, only on the routes of the codec server (and where
 * there is no route at all), on errors as well. Never `*`: the UI may send credentials, and `*` would let every page read
 * what a signed-in user can decode.
 */
import type { IncomingHttpHeaders } from 'node:http';
import type { FastifyInstance } from 'fastify';

/** The paths, as fastify knows them. */
export const codecPaths: readonly string[] = ['encode', 'decode', 'download'].flatMap((verb) => [
  `/${verb}`,
  `/:namespace/${verb}`,
]);

// wire.md section 3: what the Web UI sends, and what tracing adds to it
const allowedHeaders = [
  'content-type',
  'x-namespace',
  'authorization',
  'authorization-extras',
  'traceparent',
  'tracestate',
  'x-request-id',
].join(', ');

/** Adds the headers to answers. To be called before anything that may refuse a request: errors need them, too. */
export function registerCors(app: FastifyInstance, origins: readonly string[]): void {
  app.addHook('onRequest', (request, reply, done) => {
    const { url } = request.routeOptions;
    if (url === undefined || codecPaths.includes(url)) reply.headers(corsHeaders(request.headers, origins));
    done();
  });
}

/** For any answer on those routes, a preflight's included. */
export function corsHeaders(headers: IncomingHttpHeaders, origins: readonly string[]): Record<string, string> {
  const { origin } = headers;
  if (origin === undefined || !origins.includes(origin)) return { vary: 'Origin' };
  return {
    vary: 'Origin',
    'access-control-allow-origin': origin,
    'access-control-allow-credentials': 'true',
    'access-control-expose-headers': 'retry-after, x-request-id',
  };
}

/** What a preflight gets beside them; nothing for an origin that was not named. */
export function preflightHeaders(headers: IncomingHttpHeaders, origins: readonly string[]): Record<string, string> {
  const isAllowed = headers.origin !== undefined && origins.includes(headers.origin);
  if (!isAllowed || headers['access-control-request-method'] === undefined) return {};
  return {
    'access-control-allow-methods': 'POST',
    'access-control-allow-headers': allowedHeaders,
    'access-control-max-age': '600',
    // Chrome asks this before a public page may call a private address: the UI in the cloud, the codec server at home
    ...(headers['access-control-request-private-network'] === 'true'
      ? { 'access-control-allow-private-network': 'true' }
      : {}),
  };
}
