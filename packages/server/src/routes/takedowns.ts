/** Takedowns: `/v3/takedowns`, and what is blocked: `/v3/blocks`. Who may administer a namespace may erase in it. */
import { randomUUID } from 'node:crypto';
import { LpsError, parsePrefix } from '@large-payload/core';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { bodyOf, queryOf } from '../http/query.js';
import {
  blocksQuery,
  createTakedown,
  listBlocks,
  listTakedowns,
  planBody,
  planBodyWords,
  planTakedownOperation,
  showTakedown,
  takedownBody,
  takedownBodyWords,
  takedownReceipt,
  takedownsQuery,
  unblock,
  unblockQuery,
} from '../openapi/takedowns.js';
import type { Takedowns } from '../takedown/open-takedowns.js';
import { parseSelector, type Selector } from '../takedown/selector.js';
import type { Takedown } from '../takedown/takedown-catalog.js';

const uncached = { 'cache-control': 'private, no-store' } as const;
const maxBlocks = 10_000;

export function registerTakedowns(app: FastifyInstance, takedowns: Takedowns): void {
  const { catalog } = takedowns;
  const overSelector = {
    right: 'admin',
    over: (request: FastifyRequest) => [askedSelector(request).namespace],
  } as const;

  const planned = { config: { access: overSelector, operation: planTakedownOperation } };
  app.post('/v3/takedowns/plan', planned, async (request, reply) => {
    return reply.headers(uncached).send(await takedowns.plan(askedSelector(request)));
  });

  const created = { config: { access: overSelector, audit: 'take down', operation: createTakedown } };
  app.post('/v3/takedowns', created, async (request, reply) => {
    const { id = randomUUID(), reason, withSameDigest, block } = bodyOf(request, takedownBody, takedownBodyWords);
    request.auditSubjects = [id];
    const selector = askedSelector(request);
    const requestedBy = request.caller.principal.id;
    const takedown = await takedowns.request({ id, selector, withSameDigest, isBlocking: block, reason, requestedBy });
    return reply.code(202).headers(uncached).header('location', `/v3/takedowns/${id}`).send(shownOf(takedown));
  });

  const listed = { right: 'admin', over: listedNamespaces } as const;
  app.get('/v3/takedowns', { config: { access: listed, operation: listTakedowns } }, async (request, reply) => {
    const { namespace, after, limit } = queryOf(request, takedownsQuery);
    const found = await catalog.list({ namespaces: namespace === undefined ? undefined : [namespace], after, limit });
    const next = found.length === limit ? (found.at(-1)?.id ?? null) : null;
    return reply.headers(uncached).send({ takedowns: found.map(shownOf), next });
  });

  const byHandler = { right: 'admin', over: 'handler' } as const;
  /** One of others answers as one that is not there. */
  const find = async (request: FastifyRequest<{ Params: { id: string } }>): Promise<Takedown> => {
    const { success, data: id } = z.uuid().safeParse(request.params.id);
    const takedown = success ? await catalog.get(id) : undefined;
    if (takedown === undefined || !request.caller.may(takedown.selector.namespace)) throw notFound();
    request.caller.require([takedown.selector.namespace]);
    return takedown;
  };

  const one = { config: { access: byHandler, operation: showTakedown } };
  app.get<{ Params: { id: string } }>('/v3/takedowns/:id', one, async (request, reply) => {
    return reply.headers(uncached).send(shownOf(await find(request)));
  });

  const receipt = { config: { access: byHandler, audit: 'read takedown receipt', operation: takedownReceipt } };
  app.get<{ Params: { id: string } }>('/v3/takedowns/:id/receipt', receipt, async (request, reply) => {
    const { id, state } = await find(request);
    const text = await catalog.receipt(id);
    if (text === undefined)
      throw new LpsError('TAKEDOWN_NOT_FOUND', `there is no receipt yet: the takedown is ${state}`);
    return reply.headers(uncached).type('application/json; charset=utf-8').send(text);
  });

  const blocksOf = {
    right: 'admin',
    over: (request: FastifyRequest) => [queryOf(request, blocksQuery).namespace],
  } as const;
  app.get('/v3/blocks', { config: { access: blocksOf, operation: listBlocks } }, async (request, reply) => {
    const { namespace } = queryOf(request, blocksQuery);
    return reply.headers(uncached).send({ blocks: await catalog.blocks(namespace, maxBlocks) });
  });

  const removed = {
    right: 'admin',
    over: (request: FastifyRequest) => [queryOf(request, unblockQuery).namespace],
  } as const;
  const remove = { config: { access: removed, audit: 'unblock', operation: unblock } };
  app.delete('/v3/blocks', remove, async (request, reply) => {
    const { namespace, digest, prefix } = queryOf(request, unblockQuery);
    request.auditSubjects = [digest];
    const under = prefix === undefined || prefix === '' ? prefix : parsePrefix(prefix);
    return reply.headers(uncached).send({ removed: await takedowns.unblock(namespace, digest, under) });
  });
}

function listedNamespaces(request: FastifyRequest): readonly string[] | 'everywhere' {
  const { namespace } = queryOf(request, takedownsQuery);
  return namespace === undefined ? 'everywhere' : [namespace];
}

/** Throws INVALID_ARGUMENT, INVALID_KEY. */
function askedSelector(request: FastifyRequest): Selector {
  const [schema, words] =
    request.routeOptions.url === '/v3/takedowns/plan' ? [planBody, planBodyWords] : [takedownBody, takedownBodyWords];
  return parseSelector(bodyOf(request, schema, words).selector);
}

function shownOf({ isBlocking, hasReceipt: _, ...takedown }: Takedown): object {
  return { ...takedown, block: isBlocking };
}

function notFound(): LpsError {
  return new LpsError('TAKEDOWN_NOT_FOUND', 'there is no such takedown');
}
