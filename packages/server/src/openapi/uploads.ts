/** Uploads past the service: what `/v3/uploads` takes and answers. */
import {
  type BlobKey,
  keyFor,
  LpsError,
  type Metadata,
  parseKey,
  parseNamespace,
  parsePrefix,
} from '@large-payload/core';
import { z } from 'zod';
import { storedBlob } from './blobs.js';
import type { Operation } from './operation.js';
import { digest, exampleDigest, exampleKey, key, keyInBody, protectedUntil, size, time } from './schemas.js';

interface RequestedUpload {
  readonly key: BlobKey;
  /** Bytes. */
  readonly size: number;
}

const byKey = z
  .strictObject({ key: keyInBody, size })
  .transform(({ key, size }): RequestedUpload => ({ key: key.blob, size }));

const byParts = z
  .strictObject({
    namespace: z.string().meta({ examples: ['orders'] }),
    digest,
    size,
    prefix: z
      .string()
      .optional()
      .meta({ description: 'Of the key: `custom/{prefix}`.', examples: ['reports/2026'] }),
    metadata: z.record(z.string(), z.base64()).nullable().optional().describe('Of the payload; values in base64.'),
  })
  .transform(keyOfParts);

/** A blob that is to be uploaded. Parsing throws INVALID_KEY and INVALID_ARGUMENT. */
export const uploadBody = z.union([byKey, byParts]).meta({
  id: 'UploadRequest',
  description: 'A blob by its key, or by what makes one.',
  examples: [
    { key: exampleKey, size: 1048576 },
    { namespace: 'orders', digest: exampleDigest, size: 1048576, metadata: { encoding: 'YmluYXJ5L3BsYWlu' } },
  ],
});
export const uploadBodyWords =
  'the body must be {"key","size"} or {"namespace","digest","size","prefix","metadata"}, with prefix and metadata optional and metadata values in base64';

function keyOfParts(parts: {
  readonly namespace: string;
  readonly digest: string;
  readonly size: number;
  readonly prefix?: string | undefined;
  readonly metadata?: Readonly<Record<string, string>> | null | undefined;
}): RequestedUpload {
  const { namespace, digest, size, prefix } = parts;
  const key = parseKey(keyFor(parseNamespace(namespace), digest, metadataOf(parts.metadata)));
  if (prefix === undefined || prefix === key.prefix) return { key, size };
  if (key.prefix !== undefined) throw new LpsError('INVALID_ARGUMENT', 'the prefix is not that of the metadata');
  return { key: { ...key, prefix: parsePrefix(prefix) }, size };
}

function metadataOf(encoded: Readonly<Record<string, string>> | null | undefined): Metadata | null {
  const entries = Object.entries(encoded ?? {});
  if (entries.length === 0) return null;
  return Object.fromEntries(entries.map(([name, value]) => [name, new Uint8Array(Buffer.from(value, 'base64'))]));
}

const presentUpload = z
  .object({ outcome: z.literal('present'), key, protectedUntil })
  .meta({ id: 'PresentUpload', description: 'The blob is there: nothing has to be sent.' });
const proxiedUpload = z
  .object({ outcome: z.literal('proxied'), key })
  .meta({ id: 'ProxiedUpload', description: 'The bytes of this one go through `PUT /v3/blobs`.' });
const directUpload = z
  .object({
    outcome: z.literal('direct'),
    key,
    uploadId: z.string().meta({ examples: ['upload-5f0c6c58-55f6-4c4f-9d3b-0f5b1a0f9e11'] }),
    request: z
      .object({
        method: z.literal('PUT'),
        url: z.url(),
        headers: z.record(z.string(), z.string()).describe('To be sent as they stand: they are signed.'),
        expiresAt: time,
      })
      .describe('The request by which the bytes go to the bucket.'),
  })
  .meta({ id: 'DirectUpload', description: 'The bytes go to the bucket; then the upload has to be completed.' });

export const beginUpload: Operation = {
  id: 'beginUpload',
  tag: 'uploads',
  summary: 'Ask which way the bytes of a blob are to go',
  body: uploadBody,
  answers: {
    201: { description: 'To the bucket.', body: directUpload },
    200: { description: 'Nowhere, or through the service.', body: z.union([presentUpload, proxiedUpload]) },
  },
  errors: [
    ...(['SIZE_MISMATCH', 'BLOB_NOT_FOUND', 'BLOB_DAMAGED', 'BLOB_TOO_LARGE', 'NOT_SUPPORTED'] as const),
    ...(['BLOB_TAKEN_DOWN', 'BLOB_BLOCKED'] as const),
    ...(['STORE_UNAVAILABLE', 'STORE_REFUSED', 'CATALOG_UNAVAILABLE', 'TRY_AGAIN'] as const),
  ],
};

export const completeUpload: Operation = {
  id: 'completeUpload',
  tag: 'uploads',
  summary: 'Make an uploaded blob readable',
  description: 'When its bytes are in the bucket. It may be called again.',
  path: z.object({ id: z.string().describe('The `uploadId`.') }),
  answers: {
    201: { description: 'The blob is readable now.', body: storedBlob },
    200: { description: 'It was before.', body: storedBlob },
  },
  errors: [
    ...(['UPLOAD_NOT_FOUND', 'UPLOAD_INCOMPLETE', 'NOT_SUPPORTED', 'BLOB_TAKEN_DOWN', 'BLOB_BLOCKED'] as const),
    ...(['STORE_UNAVAILABLE', 'STORE_REFUSED', 'CATALOG_UNAVAILABLE', 'TRY_AGAIN'] as const),
  ],
};
