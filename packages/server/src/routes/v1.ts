/** What the Go codec still reads of the first API: blobs that claims without a key name by their digest. */
import { parseDigest, v1ObjectName } from '@large-payload/core';
import type { FastifyInstance } from 'fastify';
import { parseQuery, requiredOf } from '../http/query.js';
import type { Transfers } from '../http/transfer.js';
import { expectedLength, ofLength, requireOctets } from './v2.js';

export interface V1Options {
  /** Whose the blobs are: their names do not say it. Absent: whoever may read everything. */
  readonly namespace?: string;
}

/** Registered only when the operator wants them served. */
export function registerV1(app: FastifyInstance, transfers: Transfers, options: V1Options): void {
  const access = { right: 'read', over: () => v1Namespaces(options) } as const;
  app.get('/v1/blobs/get', { config: { access } }, async (request, reply) => {
    requireOctets(request);
    const digest = parseDigest(requiredOf(parseQuery(request.raw.url ?? ''), 'digest'));
    const expected = expectedLength(request);
    await transfers.answer(request, reply, { key: v1ObjectName(digest) }, ofLength(expected));
  });
}

/** What a blob of version 1 belongs to. */
export function v1Namespaces({ namespace }: V1Options): readonly string[] | 'everywhere' {
  return namespace === undefined ? 'everywhere' : [namespace];
}
