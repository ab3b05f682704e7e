/** A cache node, for whoever runs it: what `/v3/cache` takes and answers. */
import { parseKey } from '@large-payload/core';
import { z } from 'zod';
import type { Operation } from './operation.js';
import { exampleKey } from './schemas.js';

const kept = z.object({ bytes: z.int().min(0), blobs: z.int().min(0) });

export const cacheStatus = z
  .object({
    upstream: z.string(),
    id: z.string().describe('This node’s, as the service knows it.'),
    name: z.string(),
    lease: z.object({
      isFresh: z.boolean().describe('Whether what is kept is served without a question.'),
      endsInMs: z.number().min(0),
      cursor: z.string().describe('The last deletion or takedown that was applied.'),
      applied: z.int(),
      cleared: z.int().describe('How often everything was forgotten since the start.'),
      problem: z.string().optional().describe('Why no lease can be had.'),
    }),
    maxStalenessMs: z.number(),
    memory: kept,
    disk: kept,
    served: z.record(z.string(), z.object({ blobs: z.int(), bytes: z.int() })),
    touches: z.object({ waiting: z.int(), forwarded: z.int() }),
  })
  .meta({ id: 'CacheStatus' });
export type CacheStatus = z.output<typeof cacheStatus>;

/** Parsing throws INVALID_KEY. */
export const purgeBody = z.union([
  z.strictObject({
    key: z
      .string()
      .meta({ examples: [exampleKey] })
      .transform((text) => {
        parseKey(text);
        return text;
      }),
  }),
  z.strictObject({ all: z.literal(true) }),
]);
export const purgeBodyWords = 'the body must be {"key"} or {"all":true}';

export const showCache: Operation = {
  id: 'showCache',
  tag: 'cache',
  summary: 'How this cache node stands',
  answers: { 200: { description: 'At this moment.', body: cacheStatus } },
  errors: [],
};

export const purgeCache: Operation = {
  id: 'purgeCache',
  tag: 'cache',
  summary: 'Forget a blob, or everything',
  description: 'On this node alone, and only what it keeps: the blobs stay where they are.',
  body: purgeBody,
  answers: { 200: { description: 'It is forgotten.', body: z.object({ purged: z.literal(true) }) } },
  errors: [],
};
