/** Uploads past the service: `POST /v3/uploads`, then a PUT to the bucket, then `…/complete`. */
import { LpsError } from '@large-payload/core';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import type { DirectUploads } from '../direct/direct-uploads.js';
import { bodyOf } from '../http/query.js';
import type { Transfers } from '../http/transfer.js';
import { beginUpload, completeUpload, uploadBody, uploadBodyWords } from '../openapi/uploads.js';

const uncached = { 'cache-control': 'private, no-store' } as const;

/** `uploads` is absent where there are none: then a client knows it from the answer. */
export function registerUploads(app: FastifyInstance, transfers: Transfers, uploads: DirectUploads | undefined): void {
  const { limits, metrics } = transfers;

  const began = {
    right: 'write',
    over: (request: FastifyRequest) => [requestedUpload(request).key.namespace],
  } as const;
  const begin = { bodyLimit: 1024 * 1024, config: { access: began, operation: beginUpload } };
  app.post('/v3/uploads', begin, async (request, reply) => {
    const { key, size } = requestedUpload(request);
    if (uploads === undefined) throw notOffered();
    if (size > limits.maxBlobBytes) throw tooLarge(limits.maxBlobBytes);
    const offer = await uploads.begin(key, size);
    if (offer.outcome === 'present') metrics.deduplicated(size);
    return reply
      .code(offer.outcome === 'direct' ? 201 : 200)
      .headers(uncached)
      .send(offer);
  });

  const complete = { config: { access: { right: 'write', over: 'handler' }, operation: completeUpload } } as const;
  app.post<{ Params: { id: string } }>('/v3/uploads/:id/complete', complete, async (request, reply) => {
    if (uploads === undefined) throw notOffered();
    const { key, outcome, protectedUntil, size } = await uploads.complete(request.params.id, (namespace) =>
      request.caller.may(namespace),
    );
    if (outcome === 'created') metrics.direct('upload', size);
    return reply
      .code(outcome === 'created' ? 201 : 200)
      .headers(uncached)
      .send({ key, outcome, protectedUntil });
  });
}

/** Throws INVALID_ARGUMENT, INVALID_KEY. */
function requestedUpload(request: FastifyRequest): z.output<typeof uploadBody> {
  return bodyOf(request, uploadBody, uploadBodyWords);
}

function notOffered(): LpsError {
  return new LpsError('NOT_SUPPORTED', 'this service takes uploads itself only: PUT /v3/blobs');
}

function tooLarge(maxBlobBytes: number): LpsError {
  return new LpsError('BLOB_TOO_LARGE', `payload exceeds max size of ${maxBlobBytes} bytes`, {
    details: { maxBlobBytes },
  });
}
