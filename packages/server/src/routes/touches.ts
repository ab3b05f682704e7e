/** Reads that a cache node answered by itself: `POST /v3/touches`. */
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import type { Catalog } from '../catalog/catalog.js';
import { bodyOf } from '../http/query.js';
import { touchBlobs, touchesBody, touchesBodyWords } from '../openapi/touches.js';

export function registerTouches(app: FastifyInstance, catalog: Pick<Catalog, 'lookupMany' | 'touch'>): void {
  const over = (request: FastifyRequest): string[] => [
    ...new Set(touchesOf(request).map(({ key: { blob } }) => blob.namespace)),
  ];
  const config = { access: { right: 'read', over }, operation: touchBlobs } as const;
  app.post('/v3/touches', { bodyLimit: 2 * 1024 * 1024, config }, async (request, reply) => {
    const touches = touchesOf(request);
    const ago = new Map<string, number>();
    for (const { key, agoMs } of touches) ago.set(key.text, Math.min(agoMs, ago.get(key.text) ?? agoMs));
    const rows = await catalog.lookupMany(touches.map(({ key }) => key.blob));
    const there = rows.filter(({ state }) => state === 'live' || state === 'quarantined');
    const due = there.filter(({ touchDue }) => touchDue);
    if (due.length > 0) await catalog.touch(due, 'read', ({ key }) => ago.get(key) ?? 0);
    return reply.header('cache-control', 'private, no-store').send({ known: there.length });
  });
}

function touchesOf(request: FastifyRequest): z.output<typeof touchesBody>['touches'] {
  return bodyOf(request, touchesBody, touchesBodyWords).touches;
}
