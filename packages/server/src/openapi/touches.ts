/** Uses that are told later: what `/v3/touches` takes and answers. */
import { z } from 'zod';
import type { Operation } from './operation.js';
import { exampleKey, keyInBody } from './schemas.js';

const maxTouches = 1000;
const weekMs = 7 * 86_400_000;

/** Parsing throws INVALID_KEY. */
export const touchesBody = z
  .strictObject({
    touches: z
      .array(
        z.strictObject({
          key: keyInBody,
          agoMs: z.int().min(0).max(weekMs).describe('How long ago the blob was read, in milliseconds.'),
        }),
      )
      .max(maxTouches),
  })
  .meta({ id: 'TouchRequest', examples: [{ touches: [{ key: exampleKey, agoMs: 4200 }] }] });
export const touchesBodyWords = `the body must be {"touches":[{"key","agoMs"}]}, at most ${maxTouches} of them, with agoMs from 0 to ${weekMs}`;

export const touchBlobs: Operation = {
  id: 'touchBlobs',
  tag: 'blobs',
  summary: 'Tell of reads that something in between has answered',
  description:
    'Cache nodes do, every few seconds. The blobs count as used now; keys of blobs that are not there are left out.',
  body: touchesBody,
  answers: {
    200: {
      description: 'They are written down, where that was due.',
      body: z.object({ known: z.int().min(0).describe('How many of the blobs are there.') }),
    },
  },
  errors: [],
};
