/** Takedowns: what `/v3/takedowns` and `/v3/blocks` take and answer. */
import { type Digest, isDigest, parseDigest, parseNamespace } from '@large-payload/core';
import { z } from 'zod';
import { selectorSchema } from '../takedown/selector.js';
import type { Operation } from './operation.js';
import { digest, exampleDigest, exampleTime, key, size, time, wholeNumber } from './schemas.js';

const maxReasonLength = 1000;
const usualPage = 50;
const maxPerPage = 200;
const exampleId = '3f0b7c1e-0a51-4a5e-9f77-2f7b7c1e0a51';
const example = { namespace: 'orders', prefix: 'customer-42' };

/** Lower case, as it is kept. */
const uuid = z.uuid().transform((text) => text.toLowerCase());

const selector = z.unknown().meta({
  description:
    'Which blobs: `namespace`, and one of `key`, `digest`, `prefix`, `uploadedFrom`, `uploadedUntil`, `workflowId` (with `runId`) at least. All of them must match.',
  examples: [example],
});
const selectorAnswer = z.object(selectorSchema.shape).meta({ id: 'TakedownSelector' });

/** `selector` is looked at by `parseSelector`, which says what is wrong. */
export const planBody = z.strictObject({ selector }).meta({ id: 'TakedownPlanRequest' });
export const planBodyWords = 'the body must be {"selector":{"namespace":…, and what is meant}}';

export const takedownBody = z
  .strictObject({
    id: uuid.optional().meta({
      description: 'Of the caller’s choice: the same request again is the same takedown.',
      examples: [exampleId],
    }),
    selector,
    reason: z.string().min(1).max(maxReasonLength).describe('Stands in the receipt.'),
    withSameDigest: z
      .boolean()
      .default(false)
      .describe('Also every other blob of the namespace with the same bytes. They may be somebody else’s.'),
    block: z.boolean().default(false).describe('The same bytes cannot be uploaded again, until that is let go of.'),
  })
  .meta({ id: 'TakedownRequest', examples: [{ id: exampleId, selector: example, reason: 'request 4711' }] });
export const takedownBodyWords =
  'the body must be {"id","selector","reason","withSameDigest","block"}, with id (a UUID), withSameDigest and block optional';

const takedown = z
  .object({
    id: z.uuid(),
    selector: selectorAnswer,
    withSameDigest: z.boolean(),
    block: z.boolean(),
    reason: z.string(),
    requestedBy: z.string(),
    requestedAt: time,
    state: z
      .enum(['planning', 'accepting', 'accepted', 'completed', 'failed'])
      .describe(
        'accepted: reads are answered 410. completed: all is erased, and the receipt is there. failed: nothing was done.',
      ),
    acceptedAt: time.optional(),
    completedAt: time.optional(),
    problem: z.string().optional().describe('What it waits for, or could not do. One line.'),
    objects: z.int().min(0).describe('Objects of the store that it erases.'),
    erased: z.int().min(0).describe('Of them, those that were deleted and looked for.'),
    bytes: size,
  })
  .meta({
    id: 'Takedown',
    examples: [
      {
        ...{ id: exampleId, selector: example, withSameDigest: false, block: false, reason: 'request 4711' },
        ...{
          requestedBy: 'token:ops',
          requestedAt: exampleTime,
          state: 'accepting',
          objects: 2,
          erased: 0,
          bytes: 4096,
        },
      },
    ],
  });

const sums = { count: z.int().min(0), bytes: size };
const meant = z
  .object({ key, physicalKey: z.string(), size, state: z.string(), createdAt: time })
  .meta({ id: 'MeantBlob' });
const plan = z
  .object({
    selector: selectorAnswer,
    blobs: z.object({ ...sums, states: z.record(z.string(), z.int()), first: z.array(meant) }),
    objects: z
      .object({ ...sums, first: z.array(z.object({ key, physicalKey: z.string(), size })) })
      .describe('Objects of the store with matching names that the catalog does not know.'),
    copies: z
      .object({ ...sums, first: z.array(meant) })
      .describe('The same bytes under other keys of the namespace: erased only with `withSameDigest`.'),
    holders: z
      .array(
        z.object({
          cluster: z.string(),
          namespace: z.string(),
          kind: z.string(),
          holder: z.string(),
          isGone: z.boolean(),
          digest,
        }),
      )
      .describe('Who carries claims of them, as the last marks of the collection found. 1,000 at most.'),
    runs: z.array(z.string()).optional().describe('With `workflowId`: the runs that were read in Temporal just now.'),
  })
  .meta({ id: 'TakedownPlan', description: 'What would be erased now. The first 1,000 of each are named.' });

const namespaceText = z
  .string('namespace query parameter is required')
  .transform(parseNamespace)
  .meta({ examples: ['orders'] });

export const takedownsQuery = z.object({
  namespace: namespaceText.optional().meta({ description: 'Only those of this namespace. Without it: of all.' }),
  after: z
    .uuid('after must be the id of a takedown')
    .optional()
    .meta({ description: 'The `next` of the page before.' }),
  limit: wholeNumber(1, maxPerPage, `limit must be a number from 1 to ${maxPerPage}`).default(usualPage),
});

export const blocksQuery = z.object({ namespace: namespaceText });
const digestWords = 'digest must be sha256:{64 digits of lower-case hexadecimal}';
export const unblockQuery = z.object({
  namespace: namespaceText,
  digest: z
    .string(digestWords)
    .refine((text): text is Digest => isDigest(text), digestWords)
    .transform(parseDigest)
    .meta({ examples: [exampleDigest] }),
  prefix: z
    .string()
    .optional()
    .meta({ description: 'Only under this prefix; empty: under none. Without it: every block of these bytes.' }),
});

const path = z.object({ id: z.string().describe('The takedown’s.') });
const storeErrors = ['STORE_UNAVAILABLE', 'STORE_REFUSED', 'NOT_SUPPORTED'] as const;
const planErrors = ['CONFIG_INVALID', 'TEMPORAL_UNAVAILABLE', 'TEMPORAL_REFUSED'] as const;

export const planTakedownOperation: Operation = {
  id: 'planTakedown',
  tag: 'takedowns',
  summary: 'Say what a takedown would erase',
  description: 'Changes nothing. Lists the store where the selector asks for it, which may take minutes.',
  body: planBody,
  answers: { 200: { description: 'What would be erased now.', body: plan } },
  errors: [...storeErrors, ...planErrors],
};

export const createTakedown: Operation = {
  id: 'createTakedown',
  tag: 'takedowns',
  summary: 'Erase blobs',
  description: 'It cannot be undone. `Location` names the takedown, which goes on until all is erased.',
  body: takedownBody,
  answers: { 202: { description: 'It is on record.', body: takedown } },
  errors: ['CONFIG_INVALID'],
};

export const listTakedowns: Operation = {
  id: 'listTakedowns',
  tag: 'takedowns',
  summary: 'List takedowns, the newest first',
  query: takedownsQuery,
  answers: {
    200: {
      description: 'A page of them.',
      body: z
        .object({
          takedowns: z.array(takedown),
          next: z.uuid().nullable().describe('`after` of the next page; null on the last one.'),
        })
        .meta({ id: 'TakedownPage' }),
    },
  },
  errors: [],
};

export const showTakedown: Operation = {
  id: 'showTakedown',
  tag: 'takedowns',
  summary: 'Say how far a takedown is',
  path,
  answers: { 200: { description: 'The takedown.', body: takedown } },
  errors: ['TAKEDOWN_NOT_FOUND'],
};

export const takedownReceipt: Operation = {
  id: 'takedownReceipt',
  tag: 'takedowns',
  summary: 'Get the signed receipt of a takedown that is completed',
  description: '`lps takedown verify` checks it, without the service.',
  path,
  answers: {
    200: {
      description: 'The file, byte for byte.',
      body: z
        .object({
          receipt: z.looseObject({}),
          jws: z.object({ protected: z.string(), payload: z.string(), signature: z.string() }),
        })
        .meta({ id: 'TakedownReceipt' }),
    },
  },
  errors: ['TAKEDOWN_NOT_FOUND'],
};

const block = z
  .object({
    namespace: z.string(),
    digest,
    prefix: z.string().optional().describe('Empty: under none. Absent: under any.'),
    takedownId: z.uuid(),
    createdAt: time,
  })
  .meta({ id: 'Block' });

export const listBlocks: Operation = {
  id: 'listBlocks',
  tag: 'takedowns',
  summary: 'List what may not be uploaded again',
  query: blocksQuery,
  answers: {
    200: { description: 'The first 10,000.', body: z.object({ blocks: z.array(block) }).meta({ id: 'BlockList' }) },
  },
  errors: [],
};

export const unblock: Operation = {
  id: 'unblock',
  tag: 'takedowns',
  summary: 'Let bytes be uploaded again',
  query: unblockQuery,
  answers: { 200: { description: 'How many blocks there were.', body: z.object({ removed: z.int().min(0) }) } },
  errors: [...storeErrors, 'STORE_FULL'],
};
