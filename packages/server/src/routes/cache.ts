/** A cache node, for whoever runs it: `/v3/cache`. The service has no such routes. */
import type { FastifyInstance } from 'fastify';
import { bodyOf } from '../http/query.js';
import { type CacheStatus, purgeBody, purgeBodyWords, purgeCache, showCache } from '../openapi/cache.js';

export interface CacheNode {
  status(): CacheStatus;
  forget(key: string): void;
  clear(): void;
}

const uncached = { 'cache-control': 'private, no-store' } as const;
const operators = { right: 'admin', over: 'everywhere' } as const;

export function registerCache(app: FastifyInstance, node: CacheNode): void {
  app.get('/v3/cache', { config: { access: operators, operation: showCache } }, async (_request, reply) =>
    reply.headers(uncached).send(node.status()),
  );

  app.post('/v3/cache/purge', { config: { access: operators, operation: purgeCache } }, async (request, reply) => {
    const asked = bodyOf(request, purgeBody, purgeBodyWords);
    if ('key' in asked) node.forget(asked.key);
    else node.clear();
    request.log.warn({ purged: asked, caller: request.caller.principal.id }, 'purged by hand');
    return reply.headers(uncached).send({ purged: true });
  });
}
