/** Writes down who did what on the routes that say so, before the answer goes out. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { Audit } from './audit.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** What a handler worked on: keys of blobs, ids of workflows. */
    auditSubjects?: readonly string[];
  }
}

/** Whoever could not say who he is, is not written down: he could fill the table. */
export function registerAudit(app: FastifyInstance, audit: Audit): void {
  app.addHook('onSend', async (request, reply) => {
    const { audit: action } = request.routeOptions.config ?? {};
    if (action === undefined || request.caller === null) return;
    const { caller } = request;
    const { namespace } = caller;
    await audit.record({
      principal: caller.principal.id,
      action,
      namespaces: caller.named.length > 0 || namespace === undefined ? caller.named : [namespace],
      subjects: subjectsOf(request),
      status: reply.statusCode,
      requestId: request.id,
      remote: request.ip,
    });
  });
}

function subjectsOf({ auditSubjects, params }: FastifyRequest): readonly string[] {
  const { id } = (params ?? {}) as { readonly id?: string };
  return auditSubjects ?? (id === undefined ? [] : [id]);
}
