/** Pins: what `/v3/pins` takes and answers. */
import { z } from 'zod';
import { type PinKey, parsePinKey } from '../lifecycle/catalog/pin-key.js';
import { maxReasonLength } from '../lifecycle/catalog/pins.js';
import type { Operation } from './operation.js';
import { exampleKey, exampleTime, time } from './schemas.js';

const aboutKey = {
  description: 'The key of a blob, or a prefix of keys in one namespace; that ends with `/`.',
  examples: [exampleKey, '/blobs/orders/custom/reports/'],
};
const words = z.string().min(1).max(maxReasonLength);

export const pinsQuery = z.object({
  key: z
    .string()
    .transform((text): PinKey => parsePinKey(text))
    .optional()
    .meta({ ...aboutKey, description: 'Only the pins that keep this blob, or something below this prefix.' }),
});

/** Parsing throws INVALID_KEY. */
export const pinBody = z
  .strictObject({
    key: z
      .string()
      .meta(aboutKey)
      .transform((text): PinKey => parsePinKey(text)),
    owner: words.optional().meta({ description: 'Who to ask about it; without it the caller.', examples: ['audit'] }),
    reason: words.meta({ examples: ['evidence in case 4711'] }),
    expiresAt: time.optional().describe('Until then it holds; without it until it is removed.'),
  })
  .meta({ id: 'PinRequest', examples: [{ key: '/blobs/orders/custom/reports/', reason: 'evidence in case 4711' }] });
export const pinBodyWords =
  'the body must be {"key","reason","owner","expiresAt"}, with owner and expiresAt (as in 2026-11-23T12:00:00Z) optional';

const pin = z
  .object({
    id: z.string().meta({ examples: ['6f1f0d8a4b7c2e5d9a10'] }),
    key: z.string().meta(aboutKey),
    owner: z.string(),
    reason: z.string(),
    createdAt: time,
    expiresAt: time.optional(),
  })
  .meta({
    id: 'Pin',
    examples: [
      {
        id: '6f1f0d8a4b7c2e5d9a10',
        key: '/blobs/orders/custom/reports/',
        owner: 'audit',
        reason: 'evidence in case 4711',
        createdAt: exampleTime,
      },
    ],
  });

const storeErrors = ['STORE_UNAVAILABLE', 'STORE_REFUSED', 'CATALOG_UNAVAILABLE', 'TRY_AGAIN'] as const;

export const listPins: Operation = {
  id: 'listPins',
  tag: 'pins',
  summary: 'List pins, the newest first',
  description: 'Those that still hold, 10,000 at most. Without `key`: those of all namespaces.',
  query: pinsQuery,
  answers: { 200: { description: 'The pins.', body: z.object({ pins: z.array(pin) }).meta({ id: 'PinList' }) } },
  errors: ['CATALOG_UNAVAILABLE'],
};

export const addPin: Operation = {
  id: 'addPin',
  tag: 'pins',
  summary: 'Keep blobs',
  description:
    'From the answer on, the collection deletes nothing that the pin names, whether it is there or comes later. A takedown does.',
  body: pinBody,
  answers: { 201: { description: 'The pin.', body: pin } },
  errors: [...storeErrors, 'STORE_FULL'],
};

export const removePin: Operation = {
  id: 'removePin',
  tag: 'pins',
  summary: 'Remove a pin',
  path: z.object({ id: z.string().describe('The pin’s.') }),
  answers: {
    200: {
      description: 'Whether there was such a pin in the caller’s namespaces.',
      body: z.object({ removed: z.boolean() }),
    },
  },
  errors: [...storeErrors],
};
