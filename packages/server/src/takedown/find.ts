/**
 * What a selector means, in the catalog and in the store.
 *
 *   rows        by the catalog; at the acceptance they are looked for once more
 *   objects     by a list of the store: names that match, and that the catalog does not know
 *   copies      of the same bytes under other keys of the namespace: told, and erased only when that is asked for
 *   holders     who carries claims of them, by the last marks of the collection: told
 *
 * A workflow is asked for in Temporal at that moment; the rows are those of the digests that it holds.
 */
import { type BlobKey, type BlobStore, type Digest, isLpsError, parseKey, parseObjectName } from '@large-payload/core';
import type { BlobState } from '../catalog/catalog.js';
import { maxBlobs, tooMany } from './acceptance.js';
import type { HeldBlobs } from './held-blobs.js';
import { listedUnder, namesMatch, type Selector } from './selector.js';
import {
  type BlobHolder,
  type ErasedName,
  keyOfName,
  type MeantBlob,
  type Place,
  type TakedownCatalog,
  type TakedownRequest,
} from './takedown-catalog.js';

/** What of each is named; all of it is counted. */
export const namedInPlan = 1000;

export interface Named<Item> {
  readonly count: number;
  readonly bytes: number;
  /** The first 1,000. */
  readonly first: readonly Item[];
}

export interface TakedownPlan {
  readonly selector: Selector;
  readonly blobs: Named<MeantBlob> & { readonly states: Readonly<Partial<Record<BlobState, number>>> };
  /** Objects that match by their names, and that the catalog does not know. */
  readonly objects: Named<ErasedName>;
  /** Of the same bytes, elsewhere in the namespace. */
  readonly copies: Named<MeantBlob>;
  /** By the last marks; the first 1,000. With a workflow: besides its own runs. */
  readonly holders: readonly BlobHolder[];
  /** `{workflow id} {run id}`: what was read in Temporal just now. */
  readonly runs?: readonly string[];
}

export interface FindOptions {
  readonly catalog: Pick<TakedownCatalog, 'rows' | 'copies' | 'known' | 'holders'>;
  /** The one below every layer. */
  readonly store: Pick<BlobStore, 'list' | 'can'>;
  /** What the runs of a workflow hold; throws when it cannot be known as a whole. */
  readonly heldBy: (selector: Selector, signal?: AbortSignal) => Promise<HeldBlobs>;
  readonly signal?: AbortSignal;
}

const pageSize = 1000;
const maxListedDigests = 100;

/** What would be erased now, and what else there is of it. Changes nothing. */
export async function planTakedown(selector: Selector, options: FindOptions): Promise<TakedownPlan> {
  const held = selector.workflowId === undefined ? undefined : await options.heldBy(selector, options.signal);
  const blobs = new Counted<MeantBlob>();
  const states: Partial<Record<BlobState, number>> = {};
  const keys = new Set<string>();
  const digests = new Set<Digest>();
  for await (const blob of rowsOf((after) => options.catalog.rows(selector, held?.digests, after, pageSize))) {
    // what is gone is erased already
    if (blob.state === 'gone' || blob.state === 'taken_down') continue;
    blobs.add(blob);
    keys.add(blob.key);
    digests.add(parseKey(blob.key).digest);
    states[blob.state] = (states[blob.state] ?? 0) + 1;
  }
  const objects = new Counted<ErasedName>();
  for await (const found of unknownObjects(selector, held?.digests, options)) {
    objects.add(found);
    digests.add(parseKey(found.key).digest);
  }
  const copies = await copiesOf(selector.namespace, [...digests], keys, options);
  const holders = await options.catalog.holders(selector.namespace, [...digests], namedInPlan);
  const runs = held?.runs;
  return {
    ...{ selector, copies: copies.named(), objects: objects.named(), blobs: { ...blobs.named(), states } },
    holders: holders.filter(({ holder }) => runs?.includes(holder) !== true),
    ...(runs === undefined ? {} : { runs }),
  };
}

/**
 * Before the acceptance: puts on record what its statements cannot find, so that it is the same however often it is tried.
 * Returns how many objects the catalog did not know. Throws what a plan throws.
 */
export async function prepareTakedown(
  { id, selector, withSameDigest }: Pick<TakedownRequest, 'id' | 'selector' | 'withSameDigest'>,
  options: FindOptions & { readonly catalog: TakedownCatalog },
): Promise<number> {
  const { catalog, signal } = options;
  const held = selector.workflowId === undefined ? undefined : await options.heldBy(selector, signal);
  if (held !== undefined) await catalog.addDigests(id, held.digests);
  const digests = new Set<Digest>();
  if (withSameDigest) {
    for await (const { key } of rowsOf((after) => catalog.rows(selector, held?.digests, after, pageSize)))
      digests.add(parseKey(key).digest);
  }
  let count = await record(id, unknownObjects(selector, held?.digests, options), catalog, digests);
  await record(id, namesOfUrls(selector, held?.digests, catalog), catalog, digests);
  if (withSameDigest && digests.size > 0) {
    const everywhere: Selector = { namespace: selector.namespace };
    count += await record(id, unknownObjects(everywhere, [...digests], options), catalog, new Set());
    await record(id, namesOfUrls(everywhere, [...digests], catalog), catalog, new Set());
  }
  return count;
}

async function record(
  id: string,
  found: AsyncIterable<ErasedName>,
  catalog: Pick<TakedownCatalog, 'addObjects'>,
  digests: Set<Digest>,
): Promise<number> {
  let count = 0;
  let page: ErasedName[] = [];
  for await (const object of found) {
    count += 1;
    digests.add(parseKey(object.key).digest);
    if (page.push(object) < pageSize) continue;
    await catalog.addObjects(id, page);
    page = [];
  }
  if (page.length > 0) await catalog.addObjects(id, page);
  return count;
}

/** Objects whose names match, and that are no row's. A store that cannot list has none that we know of. */
async function* unknownObjects(
  selector: Selector,
  digests: readonly Digest[] | undefined,
  { catalog, store, signal }: FindOptions,
): AsyncGenerator<ErasedName> {
  if (!store.can.list) return;
  const wanted = digests && new Set(digests);
  let page: ErasedName[] = [];
  const unknown = async (): Promise<ErasedName[]> => {
    const asked = page;
    page = [];
    const known = await catalog.known(asked.map(({ physicalKey }) => physicalKey));
    return asked.filter(({ physicalKey }) => !known.has(physicalKey));
  };
  for (const prefix of prefixesFor(selector, digests)) {
    for await (const { key: name, size, modifiedAt } of store.list(prefix, signal === undefined ? {} : { signal })) {
      const blob = blobOf(name);
      if (blob === undefined || !namesMatch(selector, blob) || wanted?.has(blob.digest) === false) continue;
      if (!isInTime(selector, modifiedAt)) continue;
      if (page.push({ physicalKey: name, key: keyOfName(name), size }) === pageSize) yield* await unknown();
    }
  }
  if (page.length > 0) yield* await unknown();
}

/**
 * Names under which bytes can still come by a URL that was given out, when neither row nor object may be there any more. Not
 * of a time: nothing of them is uploaded yet.
 */
async function* namesOfUrls(
  selector: Selector,
  digests: readonly Digest[] | undefined,
  catalog: Pick<TakedownCatalog, 'urlNames'>,
): AsyncGenerator<ErasedName> {
  if (selector.uploadedFrom !== undefined || selector.uploadedUntil !== undefined) return;
  const wanted = digests && new Set(digests);
  for (let after: string | undefined = ''; after !== undefined; ) {
    const page: string[] = await catalog.urlNames(selector.namespace, after, pageSize);
    for (const name of page) {
      const blob = blobOf(name);
      if (blob === undefined || !namesMatch(selector, blob) || wanted?.has(blob.digest) === false) continue;
      yield { physicalKey: name, key: keyOfName(name), size: 0 };
    }
    after = page.length < pageSize ? undefined : page.at(-1);
  }
}

/** Where few digests are wanted, only their own names, and what stands under a prefix. */
function prefixesFor(selector: Selector, digests: readonly Digest[] | undefined): readonly string[] {
  const { namespace, key, digest, prefix } = selector;
  const isByDigest = key === undefined && digest === undefined && prefix === undefined && digests !== undefined;
  if (!isByDigest || digests.length > maxListedDigests) return listedUnder(selector);
  return [...digests.map((one) => `/blobs/${namespace}/common/${one}/`), `/blobs/${namespace}/custom/`];
}

function blobOf(name: string): BlobKey | undefined {
  try {
    const parsed = parseObjectName(name);
    return parsed.kind === 'blob' ? parsed.blob : undefined;
  } catch (error) {
    if (isLpsError(error)) return undefined; // not one of ours
    throw error;
  }
}

/** An object that says nothing of its time is meant by no time. */
function isInTime({ uploadedFrom, uploadedUntil }: Selector, at: Date | undefined): boolean {
  if (uploadedFrom === undefined && uploadedUntil === undefined) return true;
  if (at === undefined) return false;
  const isLate = uploadedUntil !== undefined && at.getTime() >= Date.parse(uploadedUntil);
  return !isLate && (uploadedFrom === undefined || at.getTime() >= Date.parse(uploadedFrom));
}

async function copiesOf(
  namespace: string,
  digests: readonly Digest[],
  meant: ReadonlySet<string>,
  { catalog }: FindOptions,
): Promise<Counted<MeantBlob>> {
  const copies = new Counted<MeantBlob>();
  if (digests.length === 0) return copies;
  for await (const blob of rowsOf((after) => catalog.copies(namespace, digests, after, pageSize))) {
    if (!meant.has(blob.key) && blob.state !== 'gone' && blob.state !== 'taken_down') copies.add(blob);
  }
  return copies;
}

async function* rowsOf(
  read: (after: Place | undefined) => Promise<{ readonly blobs: MeantBlob[]; readonly next?: Place }>,
): AsyncGenerator<MeantBlob> {
  for (let after: Place | undefined; ; ) {
    const { blobs, next } = await read(after);
    yield* blobs;
    if (next === undefined) return;
    after = next;
  }
}

class Counted<Item extends { readonly size: number }> {
  readonly #first: Item[] = [];
  #count = 0;
  #bytes = 0;

  add(item: Item): void {
    this.#count += 1;
    this.#bytes += item.size;
    if (this.#count > maxBlobs) throw tooMany();
    if (this.#first.length < namedInPlan) this.#first.push(item);
  }

  named(): Named<Item> {
    return { count: this.#count, bytes: this.#bytes, first: this.#first };
  }
}
