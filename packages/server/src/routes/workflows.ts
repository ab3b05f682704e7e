/** Durable workflows, for whoever runs the service: `/v3/workflows`. */
import { LpsError } from '@large-payload/core';
import type { FastifyInstance } from 'fastify';
import { type WorkflowAdmin, type WorkflowState, workflowStates } from '../durable/workflow-admin.js';
import { parseQuery } from '../http/query.js';

const maxPerPage = 1000;
const usualPage = 100;
const access = { right: 'admin', over: 'everywhere' } as const;
const admin = { config: { access } } as const;
const uncached = { 'cache-control': 'private, no-store' } as const;

export function registerWorkflows(app: FastifyInstance, workflows: WorkflowAdmin): void {
  app.get('/v3/workflows', admin, async (request, reply) => {
    const query = parseQuery(request.raw.url ?? '');
    const states = statesOf(query.get('state'));
    const limit = wholeNumber(query.get('limit'), 'limit', 1, maxPerPage) ?? usualPage;
    const offset = wholeNumber(query.get('offset'), 'offset', 0, 1_000_000) ?? 0;
    const found = await workflows.list({ ...(states === undefined ? {} : { states }), limit, offset });
    const next = found.length === limit ? offset + limit : null;
    return reply.headers(uncached).send({ workflows: found, next });
  });

  app.get<ById>('/v3/workflows/:id', admin, async (request, reply) =>
    reply.headers(uncached).send(await workflows.show(request.params.id)),
  );

  app.post<ById>('/v3/workflows/:id/cancel', { config: { access, audit: 'cancel workflow' } }, async (request, reply) =>
    reply.headers(uncached).send(await workflows.cancel(request.params.id)),
  );

  app.post<ById>('/v3/workflows/:id/resume', { config: { access, audit: 'resume workflow' } }, async (request, reply) =>
    reply.headers(uncached).send(await workflows.resume(request.params.id)),
  );
}

interface ById {
  Params: { id: string };
}

/** `running,queued` → the states. Throws INVALID_ARGUMENT. */
function statesOf(text: string | undefined): WorkflowState[] | undefined {
  if (text === undefined) return undefined;
  return text.split(',').map((word) => {
    const state = workflowStates.find((known) => known === word);
    if (state === undefined)
      throw new LpsError('INVALID_ARGUMENT', `state must be one or several of ${workflowStates.join(', ')}`);
    return state;
  });
}

function wholeNumber(text: string | undefined, name: string, min: number, max: number): number | undefined {
  if (text === undefined) return undefined;
  const number = /^\d{1,7}$/.test(text) ? Number(text) : -1;
  if (number >= min && number <= max) return number;
  throw new LpsError('INVALID_ARGUMENT', `${name} must be a number from ${min} to ${max}`);
}
