/** Pins: `/v3/pins`. Who may write in a namespace may keep what is in it. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import { bodyOf, queryOf } from '../http/query.js';
import { parsePinKey } from '../lifecycle/catalog/pin-key.js';
import type { Pins } from '../lifecycle/catalog/pins.js';
import { addPin, listPins, pinBody, pinBodyWords, pinsQuery, removePin } from '../openapi/pins.js';

const uncached = { 'cache-control': 'private, no-store' } as const;

export function registerPins(app: FastifyInstance, pins: Pins): void {
  const listed = { right: 'write', over: listedNamespaces } as const;
  app.get('/v3/pins', { config: { access: listed, operation: listPins } }, async (request, reply) => {
    const { key } = queryOf(request, pinsQuery);
    return reply.headers(uncached).send({ pins: await pins.list(key?.key) });
  });

  const added = { right: 'write', over: (request: FastifyRequest) => [askedPin(request).key.namespace] } as const;
  const add = { config: { access: added, audit: 'add pin', operation: addPin } };
  app.post('/v3/pins', add, async (request, reply) => {
    const { key, owner = request.caller.principal.id, reason, expiresAt } = askedPin(request);
    request.auditSubjects = [key.key];
    const pin = await pins.add({
      ...{ key: key.key, owner, reason },
      ...(expiresAt === undefined ? {} : { expiresAt: new Date(expiresAt) }),
    });
    return reply.code(201).headers(uncached).send(pin);
  });

  const remove = {
    config: { access: { right: 'write', over: 'handler' }, audit: 'remove pin', operation: removePin },
  } as const;
  app.delete<{ Params: { id: string } }>('/v3/pins/:id', remove, async (request, reply) => {
    const { id } = request.params;
    const pin = (await pins.list()).find((one) => one.id === id);
    // a pin of others answers as one that is not there
    const namespace = pin && parsePinKey(pin.key).namespace;
    if (namespace === undefined || !request.caller.may(namespace))
      return reply.headers(uncached).send({ removed: false });
    request.caller.require([namespace]);
    request.auditSubjects = [id, pin?.key ?? ''];
    return reply.headers(uncached).send({ removed: await pins.remove(id) });
  });
}

function listedNamespaces(request: FastifyRequest): readonly string[] | 'everywhere' {
  const { key } = queryOf(request, pinsQuery);
  return key === undefined ? 'everywhere' : [key.namespace];
}

function askedPin(request: FastifyRequest): z.output<typeof pinBody> {
  return bodyOf(request, pinBody, pinBodyWords);
}
