/** The Go Large Payload Service's API, v2 (docs/wire.md): its own clients work unchanged. */
import {
  formatKey,
  keyFor,
  LpsError,
  parseKey,
  parseMetadataHeader,
  parseNamespace,
  type StoredBlob,
} from '@large-payload/core';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { parseQuery, requiredOf } from '../http/query.js';
import type { BlobHead, Transfers } from '../http/transfer.js';

export function registerV2(app: FastifyInstance, transfers: Transfers): void {
  app.head('/v2/health/head', { config: { access: 'public' } }, async (_request, reply) => reply.code(200).send());

  app.put(
    '/v2/blobs/put',
    { config: { access: { right: 'write', over: namespaceInQuery } } },
    async (request, reply) => {
      const { key, outcome } = await transfers.receive(request, reply, () => {
        requireOctets(request);
        const query = parseQuery(request.raw.url ?? '');
        const namespace = requiredOf(query, 'namespace');
        const digest = requiredOf(query, 'digest');
        const header = request.headers['x-temporal-metadata'];
        const metadata = parseMetadataHeader(typeof header === 'string' ? header : undefined);
        const blobKey = keyFor(namespace, digest, metadata);
        return { key: blobKey, digest: parseKey(blobKey).digest };
      });
      // the field's name as the Go service writes it
      return reply.code(outcome === 'created' ? 201 : 200).send({ Key: key });
    },
  );

  app.get('/v2/blobs/get', { config: { access: { right: 'read', over: keyInQuery } } }, async (request, reply) => {
    requireOctets(request);
    const expected = expectedLength(request);
    const key = formatKey(parseKey(requiredOf(parseQuery(request.raw.url ?? ''), 'key')));
    await transfers.answer(request, reply, { key }, ofLength(expected));
  });
}

function namespaceInQuery({ raw }: FastifyRequest): readonly string[] {
  return [parseNamespace(requiredOf(parseQuery(raw.url ?? ''), 'namespace'))];
}

/** The namespace of the key that the query names. */
function keyInQuery({ raw }: FastifyRequest): readonly string[] {
  return [parseKey(requiredOf(parseQuery(raw.url ?? ''), 'key')).namespace];
}

/** The Go service asks for this header on gets too. */
export function requireOctets(request: FastifyRequest): void {
  if (request.headers['content-type'] !== 'application/octet-stream') {
    throw new LpsError(
      'INVALID_ARGUMENT',
      'missing or incorrect Content-Type header: it must be application/octet-stream',
    );
  }
}

/** The length that a client of v1 or v2 must announce for what it reads. */
export function expectedLength(request: FastifyRequest): number {
  const header = request.headers['x-payload-expected-content-length'];
  if (header === undefined || header === '') {
    throw new LpsError('INVALID_ARGUMENT', 'the X-Payload-Expected-Content-Length header is required');
  }
  if (typeof header !== 'string' || !/^\d{1,15}$/.test(header)) {
    throw new LpsError('INVALID_ARGUMENT', 'the X-Payload-Expected-Content-Length header is not a number of bytes');
  }
  return Number(header);
}

/** The answer with a blob, if it is as long as the client expects. */
export function ofLength(expected: number): (blob: StoredBlob) => BlobHead {
  return ({ info: { size } }) => {
    if (size !== expected) throw new LpsError('SIZE_MISMATCH', `the blob has ${size} bytes, not ${expected}`);
    return { status: 200, length: expected };
  };
}
