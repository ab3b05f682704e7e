/** What the Go codec still reads of the first API: blobs that claims without a key name by their digest. */
import { parseDigest, v1ObjectName } from '@large-payload/core';
import type { FastifyInstance } from 'fastify';
import { parseQuery, requiredOf } from '../http/query.js';
import type { Transfers } from '../http/transfer.js';
import { expectedLength, present, requireOctets } from './v2.js';

/** Registered only when the operator says whose those blobs are: their names carry no namespace. */
export function registerV1(app: FastifyInstance, transfers: Transfers): void {
  app.get('/v1/blobs/get', async (request, reply) => {
    requireOctets(request);
    const digest = parseDigest(requiredOf(parseQuery(request.raw.url ?? ''), 'digest'));
    const expected = expectedLength(request);
    const blob = await transfers.store.get(v1ObjectName(digest));
    await transfers.send(request, reply, present(blob, expected), { status: 200, length: expected });
  });
}
