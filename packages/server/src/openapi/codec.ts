/**
 * The codec server's operations. Bodies are read and written by codec/payloads-json.ts, in pieces and within a bound of
 * memory, which no schema does; the tests hold its answers against these schemas.
 */
import type { ErrorCode } from '@large-payload/core';
import { z } from 'zod';
import { bodyLimits } from '../codec/payloads-json.js';
import type { Operation } from './operation.js';

export type CodecVerb = 'encode' | 'decode' | 'download';

/** How `preserveStorageRefs` is read: in any case, and everything but "true" is no. */
export const codecQuery = z.object({
  preserveStorageRefs: z
    .preprocess((text) => typeof text === 'string' && text.toLowerCase() === 'true', z.boolean())
    .default(false)
    .meta({ description: 'Payloads that are stored elsewhere stay references.' }),
});

const payload = z
  .object({
    metadata: z
      .record(z.string(), z.base64())
      .optional()
      .meta({ description: 'Values in base64.', maxProperties: bodyLimits.metadataEntries }),
    data: z.base64().optional(),
    externalPayloads: z
      .array(
        z.object({
          sizeBytes: z
            .string()
            .regex(/^-?\d{1,19}$/)
            .describe('An int64.'),
        }),
      )
      .max(bodyLimits.externalPayloads)
      .optional(),
  })
  .meta({ id: 'Payload', description: 'A Payload of Temporal’s API, in its JSON form.' });

export const payloads = z.object({ payloads: z.array(payload).max(bodyLimits.payloads) }).meta({
  id: 'Payloads',
  examples: [{ payloads: [{ metadata: { encoding: 'anNvbi9wbGFpbg==' }, data: 'MQ==' }] }],
});

const words: Readonly<Record<CodecVerb, { readonly summary: string; readonly description: string }>> = {
  encode: {
    summary: 'Encode payloads, and store those that are large',
    description: 'Stored under the namespace of the path, or of `X-Namespace`, or the only one that the token has.',
  },
  decode: { summary: 'Decode payloads, and fetch those that are stored', description: 'What is no reference passes.' },
  download: { summary: 'Fetch stored payloads', description: 'Each of them must be a reference.' },
};

const errors: readonly ErrorCode[] = [
  ...(['INVALID_KEY', 'INVALID_METADATA', 'INVALID_CLAIM', 'DIGEST_MISMATCH', 'SIZE_MISMATCH', 'FORBIDDEN'] as const),
  ...(['BLOB_NOT_FOUND', 'BLOB_DAMAGED', 'BLOB_BLOCKED', 'CONFIG_INVALID', 'BLOB_TOO_LARGE', 'NOT_SUPPORTED'] as const),
  ...(['OVERLOADED', 'TRY_AGAIN', 'STORE_UNAVAILABLE', 'STORE_REFUSED', 'CATALOG_UNAVAILABLE'] as const),
  ...(['SERVICE_UNREACHABLE', 'TOO_SLOW', 'STORE_FULL'] as const),
];

/** Of `/decode` or, with `inPath`, of `/{namespace}/decode`. */
export function codecOperation(verb: CodecVerb, inPath: boolean): Operation {
  return {
    id: inPath ? `${verb}InNamespace` : verb,
    tag: 'codec',
    ...words[verb],
    ...(inPath ? { path: z.object({ namespace: z.string().meta({ examples: ['orders'] }) }) } : {}),
    query: codecQuery,
    body: payloads,
    answers: { 200: { description: 'As many payloads as came, in their order.', body: payloads } },
    errors,
  };
}
