/**
 * What a takedown erases, kept in the store as well: a catalog that is lost and made again from the store alone must not
 * bring back what was erased, nor forget what is blocked. Written before the first object is deleted, and again, over the
 * old one, when a block is ended.
 *
 *   .lps/takedowns/7b0e…       {"format":"large-payload-takedown-object/1","id":"7b0e…","namespace":"orders","selector":{…},
 *                               "acceptedAt":"…","names":[{"key","physicalKey","digest","size"}],
 *                               "blocks":[{"digest","isAnyPrefix","prefix"}], …}
 *   .lps/takedowns/7b0e….1     the next names and blocks of a large one; each object says everything else again
 */
import {
  type BlobStore,
  isDigest,
  LpsError,
  parseKey,
  parseNamespace,
  parseObjectName,
  readAll,
} from '@large-payload/core';
import { z } from 'zod';

/** Where the objects are. */
export const takedownObjects = '.lps/takedowns/';

/** Names, and blocks, in one object: about 4 MB, 24 MB with the longest keys. */
export const maxNamesPerObject = 10_000;
const maxObjectBytes = 64 * 1024 * 1024;

const digest = z.custom<`sha256:${string}`>(isDigest);
const time = z.iso.datetime();

/** A name in the store that is never to be served, taken in or written again. */
const erasedName = z
  .strictObject({
    key: z.string(),
    /** `key`, or a later generation of it. */
    physicalKey: z.string(),
    digest,
    /** Bytes. */
    size: z.int().min(0),
  })
  .refine(isOneBlob);

const block = z.strictObject({
  digest,
  /** In the whole namespace; `prefix` is '' then. */
  isAnyPrefix: z.boolean(),
  /** '' for none. */
  prefix: z.string(),
});

const schema = z.strictObject({
  format: z.literal('large-payload-takedown-object/1'),
  id: z.uuid(),
  namespace: z.string().refine((text) => parseNamespace(text) === text),
  /** As it was asked for. */
  selector: z.record(z.string(), z.string()),
  withSameDigest: z.boolean(),
  isBlocking: z.boolean(),
  reason: z.string(),
  requestedBy: z.string(),
  requestedAt: time,
  acceptedAt: time,
  names: z.array(erasedName),
  blocks: z.array(block),
});

export type TakedownObject = Readonly<z.output<typeof schema>>;
export type ErasedName = Readonly<z.output<typeof erasedName>>;
export type Block = Readonly<z.output<typeof block>>;

/** The objects that say it, first of all the one to be written first. */
export function objectsOf(
  takedown: Omit<TakedownObject, 'format'>,
): { readonly name: string; readonly bytes: Buffer }[] {
  const { names, blocks } = takedown;
  const parts = Math.max(1, Math.ceil(Math.max(names.length, blocks.length) / maxNamesPerObject));
  return Array.from({ length: parts }, (_, part) => {
    const [from, to] = [part * maxNamesPerObject, (part + 1) * maxNamesPerObject];
    const content: TakedownObject = {
      format: 'large-payload-takedown-object/1',
      ...takedown,
      names: names.slice(from, to),
      blocks: blocks.slice(from, to),
    };
    return { name: objectName(takedown.id, part), bytes: Buffer.from(JSON.stringify(content)) };
  });
}

function objectName(id: string, part: number): string {
  return `${takedownObjects}${id}${part === 0 ? '' : `.${part}`}`;
}

/**
 * All that a store has. Throws CONFIG_INVALID for an object that is not one of these: what must not come back is not known
 * then.
 */
export async function* takedownsOf(store: Pick<BlobStore, 'list' | 'get'>): AsyncIterable<TakedownObject> {
  for await (const { key } of store.list(takedownObjects)) {
    if (!key.startsWith(takedownObjects)) continue;
    const found = await store.get(key);
    if (found === undefined) throw new LpsError('TRY_AGAIN', `the object ${key} was listed, and is not there`);
    yield parseTakedownObject(key, Buffer.from(await readAll(found.body, maxObjectBytes)).toString('utf8'));
  }
}

/** `name`: of the object that the text stood in. Throws CONFIG_INVALID. */
export function parseTakedownObject(name: string, text: string): TakedownObject {
  try {
    const takedown = schema.parse(JSON.parse(text));
    const [id] = name.slice(takedownObjects.length).split('.');
    if (id === takedown.id && takedown.names.every(({ key }) => parseKey(key).namespace === takedown.namespace)) {
      return takedown;
    }
  } catch (cause) {
    throw new LpsError('CONFIG_INVALID', `the object ${name} is not a takedown of this service`, { cause });
  }
  throw new LpsError('CONFIG_INVALID', `the object ${name} is of another takedown, or of another namespace`);
}

/** Whether the two names and the digest belong together. */
function isOneBlob({ key, physicalKey, digest }: { key: string; physicalKey: string; digest: string }): boolean {
  const isItsObject = physicalKey === key || physicalKey.startsWith(`${key}~`);
  return isItsObject && parseKey(key).digest === digest && parseObjectName(physicalKey).kind === 'blob';
}
