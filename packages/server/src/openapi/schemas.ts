/** Schemas that several routes share. Those with an `id` have a name of their own in the document. */
import { type BlobKey, type ErrorCode, errorCodes, parseKey } from '@large-payload/core';
import { z } from 'zod';

const digits = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08';
const noMetadata = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';
export const exampleDigest = `sha256:${digits}`;
export const exampleKey = `/blobs/orders/common/${exampleDigest}/${noMetadata}`;
export const exampleTime = '2026-11-23T12:00:00.000Z';

export const digest = z
  .string()
  .regex(/^sha256:[0-9a-f]{64}$/)
  .meta({ description: 'SHA-256 of the bytes, in lower-case hexadecimal.', examples: [exampleDigest] });

const aboutKeys = {
  description:
    'The name of a blob: `/blobs/{namespace}/common/{digest}/{metadata digest}`, or with `custom/{prefix}` in place of `common`.',
  examples: [exampleKey],
};

/** A key in an answer. */
export const key = z.string().meta(aboutKeys);

export interface ParsedKey {
  readonly text: string;
  readonly blob: BlobKey;
}

/** A key in a body, taken apart. Parsing throws INVALID_KEY. */
export const keyInBody = z.string().meta(aboutKeys).transform(parsedKey);

/** `key` in a query, as text. */
export const keyText = required('key').meta(aboutKeys);

/** `key` in a query, taken apart. Parsing throws INVALID_KEY. */
export const keyInQuery = keyText.transform(parsedKey);

function parsedKey(text: string): ParsedKey {
  return { text, blob: parseKey(text) };
}

/** Bytes. */
export const size = z
  .int()
  .min(0)
  .meta({ description: 'Bytes.', examples: [1048576] });

export const time = z.iso.datetime().meta({ examples: [exampleTime] });

export const protectedUntil = time
  .optional()
  .meta({ description: 'Until then the blob is not collected, whoever does not use it.' });

function required(name: string): z.ZodString {
  const message = `${name} query parameter is required`;
  return z.string(message).min(1, message);
}

/** A number in a query: from `min` to `max`, else INVALID_ARGUMENT with the message. */
export function wholeNumber(min: number, max: number, message: string): z.ZodPreprocess<z.ZodInt> {
  const toNumber = (text: unknown): unknown =>
    typeof text === 'string' && /^\d{1,16}$/.test(text) ? Number(text) : text;
  return z.preprocess(toNumber, z.int(message).min(min, message).max(max, message));
}

/** What `problemFor` of http/problem.ts writes. */
export const problem = z
  .object({
    type: z.string().meta({ examples: ['urn:large-payload:error:blob_not_found'] }),
    title: z.string().describe('The code once more.'),
    status: z.int(),
    detail: z.string().describe('One line for a person; it may change.'),
    code: z.enum(errorCodes as [ErrorCode, ...ErrorCode[]]).describe('What programs branch on.'),
    requestId: z.string().describe('The answer’s `X-Request-Id`, and in the service’s log.'),
  })
  .meta({
    id: 'Problem',
    description: 'An error, after RFC 9457.',
    examples: [
      {
        type: 'urn:large-payload:error:blob_not_found',
        title: 'BLOB_NOT_FOUND',
        status: 404,
        detail: 'blob not found',
        code: 'BLOB_NOT_FOUND',
        requestId: '4944351da13a-7',
      },
    ],
  });

/** Headers of answers. */
export const headers = {
  'Accept-Ranges': z.literal('bytes').describe('A part can be asked for with `Range`.'),
  'Content-Length': z.int().min(0).describe('Bytes of the body.'),
  'Content-Range': z.string().meta({ description: 'Which bytes these are, of how many.', examples: ['bytes 0-9/100'] }),
  ETag: z.string().meta({ description: 'The digest, in quotes.', examples: [`"${exampleDigest}"`] }),
  'LPS-As-Of': z
    .string()
    .regex(/^\d+$/)
    .describe('For cache nodes: the newest deletion or takedown that was known before.'),
  'LPS-Digest': digest,
  'LPS-Protected-Until': time.describe('Until then the blob is not collected, whoever does not use it.'),
  'LPS-Size': size,
  Location: z.url().describe('Where the bytes are, for a short time. Check them against `LPS-Digest`.'),
  'Retry-After': z.int().min(0).describe('Seconds.'),
  'WWW-Authenticate': z.literal('Bearer'),
  'X-Request-Id': z.string().describe('The request’s own `X-Request-Id` if it is a harmless one, else one of ours.'),
} as const satisfies Record<string, z.ZodType>;
export type HeaderName = keyof typeof headers;
