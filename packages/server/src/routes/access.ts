/** What the credential of a request allows: `GET /v3/access`. */
import type { FastifyInstance } from 'fastify';
import { showAccess } from '../openapi/access.js';

export function registerAccess(app: FastifyInstance): void {
  app.get('/v3/access', { config: { access: 'known', operation: showAccess } }, async (request, reply) => {
    const { id, grants, expiresAt } = request.caller.principal;
    const answer = { subject: id, grants, ...(expiresAt === undefined ? {} : { expiresAt: expiresAt.toISOString() }) };
    return reply.header('cache-control', 'private, no-store').send(answer);
  });
}
