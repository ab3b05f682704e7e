/** Durable workflows, for whoever runs the service: `/v3/workflows`. */
import type { FastifyInstance } from 'fastify';
import type { WorkflowAdmin } from '../durable/workflow-admin.js';
import { queryOf } from '../http/query.js';
import { cancelWorkflow, listWorkflows, resumeWorkflow, showWorkflow, workflowsQuery } from '../openapi/workflows.js';

const access = { right: 'admin', over: 'everywhere' } as const;
const uncached = { 'cache-control': 'private, no-store' } as const;

export function registerWorkflows(app: FastifyInstance, workflows: WorkflowAdmin): void {
  const list = { config: { access, operation: listWorkflows } };
  app.get('/v3/workflows', list, async (request, reply) => {
    const { state: states, limit, offset } = queryOf(request, workflowsQuery);
    const found = await workflows.list({ ...(states === undefined ? {} : { states }), limit, offset });
    const next = found.length === limit ? offset + limit : null;
    return reply.headers(uncached).send({ workflows: found, next });
  });

  const show = { config: { access, operation: showWorkflow } };
  app.get<ById>('/v3/workflows/:id', show, async (request, reply) =>
    reply.headers(uncached).send(await workflows.show(request.params.id)),
  );

  const cancel = { config: { access, audit: 'cancel workflow', operation: cancelWorkflow } };
  app.post<ById>('/v3/workflows/:id/cancel', cancel, async (request, reply) =>
    reply.headers(uncached).send(await workflows.cancel(request.params.id)),
  );

  const resume = { config: { access, audit: 'resume workflow', operation: resumeWorkflow } };
  app.post<ById>('/v3/workflows/:id/resume', resume, async (request, reply) =>
    reply.headers(uncached).send(await workflows.resume(request.params.id)),
  );
}

interface ById {
  Params: { id: string };
}
