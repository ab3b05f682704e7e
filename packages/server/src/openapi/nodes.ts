/** Processes that keep blobs: what `/v3/nodes` and `/v3/events` take and answer. */
import { z } from 'zod';
import type { Operation } from './operation.js';
import { exampleTime, time } from './schemas.js';

const aboutNumber = { description: 'The number of an event, in decimal digits.', examples: ['4711'] };
const eventNumber = z
  .string()
  .regex(/^\d{1,18}$/, 'a cursor is the number of an event, in decimal digits')
  .meta(aboutNumber);
const cursor = eventNumber.transform((text) => BigInt(text));
const nodeId = z
  .string()
  .regex(/^[\w.:-]{1,100}$/, 'a node’s id has at most 100 letters, digits and any of _ . : -')
  .meta({ description: 'The node’s own: random, and new when it has lost what it kept.', examples: ['7c9e6679'] });

export const nodePath = z.object({ id: nodeId });

export const leaseBody = z
  .strictObject({
    kind: z.literal('cache').optional(),
    name: z
      .string()
      .min(1)
      .max(200)
      .meta({ description: 'For people: a host, a region.', examples: ['cache near the workers'] }),
    cursor: cursor.describe('The last event that it has applied.'),
    maxStalenessMs: z
      .int()
      .min(1)
      .optional()
      .meta({ description: 'How long the lease shall last, in ms; without it as long as this service lets it.' }),
  })
  .meta({
    id: 'ReadLeaseRequest',
    examples: [{ name: 'cache near the workers', cursor: '4711', maxStalenessMs: 60000 }],
  });
export const leaseBodyWords =
  'the body must be {"name","cursor","maxStalenessMs"}, cursor in decimal digits as text, maxStalenessMs optional';

export const eventsQuery = z.object({
  cursor: cursor
    .optional()
    .describe('Events behind this one; `Last-Event-ID` comes before it. Without both: what comes from now on.'),
  follow: z
    .enum(['true', 'false'])
    .optional()
    .meta({ description: 'With `false` the answer ends behind the last event there is.' }),
});

const node = z
  .object({
    id: nodeId,
    kind: z.enum(['replica', 'cache']),
    name: z.string(),
    startedAt: time,
    renewedAt: time.meta({ description: 'When it asked for its lease the last time.' }),
    leaseUntil: time,
    hasLease: z.boolean().meta({ description: 'Whether it may answer reads from what it keeps.' }),
    cursor: eventNumber,
    behind: z.int().min(0).meta({ description: 'Events that it is not known to have applied.' }),
  })
  .meta({
    id: 'Node',
    examples: [
      {
        ...{ id: '7c9e6679', kind: 'cache', name: 'cache near the workers', startedAt: exampleTime },
        ...{ renewedAt: exampleTime, leaseUntil: exampleTime, hasLease: true, cursor: '4711', behind: 0 },
      },
    ],
  });

export const leaseNode: Operation = {
  id: 'leaseNode',
  tag: 'nodes',
  summary: 'Ask for a lease on reading',
  description:
    'The node may answer reads from what it keeps for `leaseMs` from when it sent this, as soon as it has applied every event up to `newest`. It asks again in time. `leaseMs` is 0 for a node that lacks an old event: it applies what it lacks, and asks again. While a lease lasts its id is its owner’s, whose credential asked for it first: anybody else is answered `FORBIDDEN`.',
  path: nodePath,
  body: leaseBody,
  answers: {
    200: {
      description: 'The lease.',
      body: z
        .object({ newest: eventNumber, leaseMs: z.number().min(0) })
        .meta({ id: 'ReadLease', examples: [{ newest: '4711', leaseMs: 60000 }] }),
    },
  },
  errors: ['CATALOG_UNAVAILABLE'],
};

export const endNodeLease: Operation = {
  id: 'endNodeLease',
  tag: 'nodes',
  summary: 'Give the lease back',
  description:
    'The node answers nothing more from what it keeps: nobody need wait for it. Only its owner, whose credential asked for the lease, can say so.',
  path: nodePath,
  answers: {
    200: {
      description: 'Whether the caller has such a node.',
      body: z.object({ ended: z.boolean() }),
    },
  },
  errors: ['CATALOG_UNAVAILABLE'],
};

export const listNodes: Operation = {
  id: 'listNodes',
  tag: 'nodes',
  summary: 'List replicas and cache nodes',
  description: 'Those that keep blobs, the one that was heard of last first, 1,000 at most; gone ones for a day.',
  answers: { 200: { description: 'The nodes.', body: z.object({ nodes: z.array(node) }).meta({ id: 'NodeList' }) } },
  errors: ['CATALOG_UNAVAILABLE'],
};

export const followEvents: Operation = {
  id: 'followEvents',
  tag: 'nodes',
  summary: 'Hear what was deleted and taken down',
  description:
    'Server-sent events (`text/event-stream`): `id` is the event’s number, `event` is `takedown` or `delete`, `data` is `{"key","physicalKey"}`. `event: reset` means that events behind the cursor are forgotten: forget all that is kept; its `id` is the newest event, behind which the answer goes on. A comment comes every few seconds. The answer ends after ten minutes, and when the service stops: come again with `Last-Event-ID`.',
  query: eventsQuery,
  headers: z.object({ 'last-event-id': eventNumber.optional() }),
  answers: { 200: { description: 'The events.' } },
  errors: ['CATALOG_UNAVAILABLE', 'OVERLOADED', 'TRY_AGAIN'],
};
