/** Uploads past the service: `POST /v3/uploads`, then a PUT to the bucket, then `…/complete`. */
import {
  type BlobKey,
  isDigest,
  keyFor,
  LpsError,
  type Metadata,
  parseKey,
  parseNamespace,
  parsePrefix,
} from '@large-payload/core';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { DirectUploads } from '../direct/direct-uploads.js';
import type { Transfers } from '../http/transfer.js';

const size = z.int().min(0);
const byKey = z.strictObject({ key: z.string(), size });
const byParts = z.strictObject({
  namespace: z.string(),
  digest: z.string(),
  size,
  prefix: z.string().optional(),
  metadata: z.record(z.string(), z.base64()).nullable().optional(),
});
const uncached = { 'cache-control': 'private, no-store' } as const;

/** `uploads` is absent where there are none: then a client knows it from the answer. */
export function registerUploads(app: FastifyInstance, transfers: Transfers, uploads: DirectUploads | undefined): void {
  const { limits, metrics } = transfers;

  const began = {
    right: 'write',
    over: (request: FastifyRequest) => [requestedUpload(request.body).key.namespace],
  } as const;
  app.post('/v3/uploads', { bodyLimit: 1024 * 1024, config: { access: began } }, async (request, reply) => {
    const { key, size } = requestedUpload(request.body);
    if (uploads === undefined) throw notOffered();
    if (size > limits.maxBlobBytes) throw tooLarge(limits.maxBlobBytes);
    const offer = await uploads.begin(key, size);
    if (offer.outcome === 'present') metrics.deduplicated(size);
    return reply
      .code(offer.outcome === 'direct' ? 201 : 200)
      .headers(uncached)
      .send(offer);
  });

  const access = { right: 'write', over: 'handler' } as const;
  app.post<{ Params: { id: string } }>('/v3/uploads/:id/complete', { config: { access } }, async (request, reply) => {
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

/** Throws INVALID_ARGUMENT, INVALID_KEY, INVALID_METADATA. */
function requestedUpload(body: unknown): { key: BlobKey; size: number } {
  const whole = byKey.safeParse(body);
  if (whole.success) return { key: parseKey(whole.data.key), size: whole.data.size };
  const parts = byParts.safeParse(body);
  if (!parts.success || !isDigest(parts.data.digest)) {
    throw new LpsError(
      'INVALID_ARGUMENT',
      'the body must be {"key","size"} or {"namespace","digest","size","prefix","metadata"}, with prefix and metadata optional and metadata values in base64',
    );
  }
  const { namespace, digest, size, prefix } = parts.data;
  const metadata = metadataOf(parts.data.metadata);
  const key = parseKey(keyFor(parseNamespace(namespace), digest, metadata));
  if (prefix === undefined || prefix === key.prefix) return { key, size };
  if (key.prefix !== undefined) throw new LpsError('INVALID_ARGUMENT', 'the prefix is not that of the metadata');
  return { key: { ...key, prefix: parsePrefix(prefix) }, size };
}

function metadataOf(encoded: Readonly<Record<string, string>> | null | undefined): Metadata | null {
  const entries = Object.entries(encoded ?? {});
  if (entries.length === 0) return null;
  return Object.fromEntries(entries.map(([name, value]) => [name, new Uint8Array(Buffer.from(value, 'base64'))]));
}

function notOffered(): LpsError {
  return new LpsError('NOT_SUPPORTED', 'this service takes uploads itself only: PUT /v3/blobs');
}

function tooLarge(maxBlobBytes: number): LpsError {
  return new LpsError('BLOB_TOO_LARGE', `payload exceeds max size of ${maxBlobBytes} bytes`, {
    details: { maxBlobBytes },
  });
}
