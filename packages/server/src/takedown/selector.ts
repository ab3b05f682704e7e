/**
 * Which blobs a takedown is about: all parts must match. Each is within one namespace, because who asks has a right there.
 *
 *   { namespace: orders, prefix: customer-42 }      customer-42 and customer-42/invoices, not customer-421
 *   { namespace: orders, workflowId: w-1 }          what the runs of that workflow hold, asked of Temporal at that moment
 */
import {
  type BlobKey,
  formatKey,
  isDigest,
  LpsError,
  parseKey,
  parseNamespace,
  parsePrefix,
} from '@large-payload/core';
import { z } from 'zod';

const text = z.string().min(1).max(1000);

/** As it is asked for, in a body or by flags. */
export const selectorSchema = z.strictObject({
  namespace: z.string().transform(parseNamespace),
  key: z
    .string()
    .transform((key) => formatKey(parseKey(key)))
    .optional(),
  digest: z.string().refine(isDigest, 'a digest looks like sha256:{64 digits of lower-case hexadecimal}').optional(),
  prefix: z
    .string()
    .transform((prefix) => parsePrefix(prefix.replace(/\/+$/, '')))
    .optional(),
  uploadedFrom: z.iso.datetime({ offset: true }).optional(),
  uploadedUntil: z.iso.datetime({ offset: true }).optional(),
  workflowId: text.optional(),
  runId: z.uuid().optional(),
});

export type Selector = z.output<typeof selectorSchema>;

/** Throws INVALID_ARGUMENT with all that is wrong, INVALID_KEY for names. */
export function parseSelector(input: unknown): Selector {
  const parsed = selectorSchema.safeParse(input);
  if (!parsed.success) {
    throw new LpsError(
      'INVALID_ARGUMENT',
      parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; '),
    );
  }
  const problem = problemOf(parsed.data);
  if (problem !== undefined) throw new LpsError('INVALID_ARGUMENT', problem);
  return parsed.data;
}

function problemOf({ namespace, ...selector }: Selector): string | undefined {
  const { key, runId, workflowId, uploadedFrom, uploadedUntil } = selector;
  if (Object.values(selector).every((part) => part === undefined)) {
    return 'say which blobs: key, digest, prefix, uploadedFrom, uploadedUntil or workflowId';
  }
  if (key !== undefined && parseKey(key).namespace !== namespace) return 'the key is of another namespace';
  if (runId !== undefined && workflowId === undefined) return 'runId needs workflowId';
  if (
    uploadedFrom !== undefined &&
    uploadedUntil !== undefined &&
    Date.parse(uploadedFrom) >= Date.parse(uploadedUntil)
  )
    return 'uploadedFrom must be before uploadedUntil';
  return undefined;
}

/** Whether a name is meant, as far as names tell: times and workflows are looked up elsewhere. */
export function namesMatch({ namespace, key, digest, prefix }: Selector, blob: BlobKey): boolean {
  if (blob.namespace !== namespace) return false;
  if (key !== undefined && formatKey(withoutGeneration(blob)) !== key) return false;
  if (digest !== undefined && blob.digest !== digest) return false;
  return prefix === undefined || isBelow(blob.prefix, prefix);
}

/** The beginnings of names under which everything that is meant stands in a store: what has to be listed. */
export function listedUnder({ namespace, key, digest, prefix }: Selector): readonly string[] {
  if (key !== undefined) return [key]; // and its later generations, {key}~…
  if (prefix !== undefined) return [`/blobs/${namespace}/custom/${prefix}/`];
  // a digest may stand under any prefix
  return digest === undefined
    ? [`/blobs/${namespace}/`]
    : [`/blobs/${namespace}/common/${digest}/`, `/blobs/${namespace}/custom/`];
}

/** Slashes at the ends of a prefix do not tell one from another. */
function isBelow(prefix: string | undefined, wanted: string): boolean {
  return prefix === wanted || prefix?.startsWith(`${wanted}/`) === true;
}

function withoutGeneration({ generation: _, ...blob }: BlobKey): BlobKey {
  return blob;
}
