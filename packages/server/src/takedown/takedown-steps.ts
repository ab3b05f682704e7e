/**
 * What the workflow of a takedown does, each by itself, and each to be done again without harm. A step that cannot go on
 * yet says what it waits for; one that fails throws.
 */
import { type BlobStore, digestOf, LpsError, parseKey, settleAll } from '@large-payload/core';
import type { ReadLeases } from '../nodes/read-leases.js';
import { type FindOptions, prepareTakedown } from './find.js';
import { type Receipt, signReceipt } from './receipt.js';
import type { ErasedName, Takedown, TakedownCatalog } from './takedown-catalog.js';
import { objectsOf } from './takedown-object.js';

export interface StepOptions {
  readonly catalog: TakedownCatalog;
  readonly leases: Pick<ReadLeases, 'unaware'>;
  /** The one below every layer. */
  readonly store: BlobStore;
  readonly heldBy: FindOptions['heldBy'];
  /** Sentences for the receipt. */
  readonly outOfReach: (store: BlobStore) => Promise<string[]>;
  /** Ed25519, PEM (PKCS #8). Throws CONFIG_INVALID. */
  readonly signingKey: () => Promise<string>;
}

/** When something was found to be so. */
export interface Proof {
  readonly at: string;
  readonly what: string;
}

/** A part of the objects. */
export interface ErasedBatch {
  /** Absent at the end. */
  readonly next?: string;
  readonly names: number;
  readonly at: string;
}

/** What was found of a part of the objects. */
export interface StandingBatch {
  /** Absent at the end. */
  readonly next?: string;
  readonly found: number;
}

/** Not yet. */
export interface Waiting {
  readonly waitsFor: string;
}

const namesPerBatch = 500;
const namesPerPage = 5000;
const concurrency = 16;
const never = new AbortController().signal;

export class TakedownSteps {
  readonly #options: StepOptions;

  constructor(options: StepOptions) {
    this.#options = options;
  }

  /** Finds what only a list of the store, or Temporal, can tell. */
  async find(id: string): Promise<Proof> {
    const { catalog, store, heldBy } = this.#options;
    const takedown = await this.#takedown(id);
    // after a loss of the catalog: what the store has beside its names was uploaded since, and is not meant
    if (takedown.state !== 'planning') return this.#proof('it was accepted before; its names were read from the store');
    const count = await prepareTakedown(takedown, { catalog, store, heldBy });
    return this.#proof(`the store was listed: objects that the catalog did not know: ${count}`);
  }

  /** Returns the number of the last event. */
  async accept(id: string): Promise<string> {
    return String((await this.#options.catalog.accept(id)).event);
  }

  async settled(id: string): Promise<Waiting | Proof> {
    if (!(await this.#options.catalog.settled(id)))
      return { waitsFor: 'the end of older transactions in the database, which may have missed it' };
    return this.#proof(
      'the rows are taken down; every transaction that began before has ended, and they were looked for again',
    );
  }

  async nodesTold(event: string): Promise<Waiting | Proof> {
    const unaware = await this.#options.leases.unaware(BigInt(event));
    if (unaware.length > 0) return { waitsFor: `word, or the end of the lease, of ${unaware.map(nameOf).join(', ')}` };
    return this.#proof(
      'every replica and cache node has said that it forgot the blobs, or may serve nothing that it keeps',
    );
  }

  async accepted(id: string): Promise<Proof> {
    await this.#options.catalog.setAccepted(id);
    return this.#proof('accepted: reads are answered 410');
  }

  /** Into the store, for whoever makes a lost catalog anew. */
  async keep(id: string): Promise<Proof> {
    const { catalog, store } = this.#options;
    await writeTakedownObject(await this.#takedown(id), catalog, store);
    return this.#proof('what is erased was written down in the store, at .lps/takedowns/');
  }

  async eraseBatch(id: string, after: string): Promise<ErasedBatch> {
    const { catalog } = this.#options;
    const batch = (await catalog.names(id, after, namesPerBatch)).map(({ physicalKey }) => physicalKey);
    const counts = new Map<string, number>();
    await inSlices(batch, async (name) => void counts.set(name, await this.#standingAt(name)));
    await catalog.counted(id, counts);
    await inSlices(batch, (name) => this.#erase(name));
    await catalog.erased(id, batch);
    const last = batch.length === namesPerBatch ? batch.at(-1) : undefined;
    const at = (await catalog.now()).toISOString();
    return { names: batch.length, at, ...(last === undefined ? {} : { next: last }) };
  }

  /** Of one batch of its names, how many objects, versions and markers stand there now. */
  async standing(id: string, after: string): Promise<StandingBatch> {
    const batch = (await this.#options.catalog.names(id, after, namesPerBatch)).map(({ physicalKey }) => physicalKey);
    let found = 0;
    await inSlices(batch, async (name) => {
      found += await this.#standingAt(name);
    });
    const last = batch.length === namesPerBatch ? batch.at(-1) : undefined;
    return { found, ...(last === undefined ? {} : { next: last }) };
  }

  async writersEnded(id: string): Promise<Waiting | Proof> {
    const { leases, urls, urlsUntil } = await this.#options.catalog.writers(id);
    const waits = [
      ...(leases > 0 ? [`the end of ${leases} uploads under way`] : []),
      ...(urls > 0 ? [`the end of ${urls} URLs for uploads that were given out, at ${urlsUntil?.toISOString()}`] : []),
    ];
    if (waits.length > 0) return { waitsFor: waits.join(', and ') };
    return this.#proof('no upload of these objects is under way, and no URL for one can be used');
  }

  async complete(id: string, proof: readonly Proof[]): Promise<void> {
    const { catalog, store, outOfReach, signingKey } = this.#options;
    const takedown = await this.#takedown(id);
    if (takedown.state === 'completed') return;
    const completedAt = await catalog.now();
    const receipt: Receipt = {
      format: 'large-payload-takedown/1',
      id,
      selector: takedown.selector as Record<string, string>,
      withSameDigest: takedown.withSameDigest,
      isBlocked: takedown.isBlocking,
      reason: takedown.reason,
      requestedBy: takedown.requestedBy,
      requestedAt: takedown.requestedAt.toISOString(),
      acceptedAt: (takedown.acceptedAt ?? completedAt).toISOString(),
      completedAt: completedAt.toISOString(),
      blobs: await this.#blobsOf(id),
      ...(await catalog.sums(id)),
      proof: [...proof],
      outOfReach: await outOfReach(store),
    };
    await catalog.complete(id, await signReceipt(receipt, await signingKey()), completedAt);
  }

  async #blobsOf(id: string): Promise<Receipt['blobs']> {
    const blobs = new Map<string, Receipt['blobs'][number]>();
    for await (const { key, size } of namesOf(this.#options.catalog, id)) {
      blobs.set(key, { key, digest: parseKey(key).digest, bytes: Math.max(size, blobs.get(key)?.bytes ?? 0) });
    }
    return [...blobs.values()];
  }

  async #erase(name: string): Promise<void> {
    const { store } = this.#options;
    await store.delete(name);
    // looked for with the store's own eyes: an answer to a deletion proves nothing
    if ((await this.#standingAt(name)) > 0)
      throw new LpsError('STORE_UNAVAILABLE', 'an object is there after it was deleted');
  }

  /** Objects, versions and markers. */
  async #standingAt(name: string): Promise<number> {
    const { store } = this.#options;
    const isThere = (await store.head(name)) === undefined ? 0 : 1;
    return Math.max(isThere, (await store.countVersions?.(name)) ?? 0);
  }

  async #takedown(id: string): Promise<Takedown> {
    const takedown = await this.#options.catalog.get(id);
    if (takedown === undefined) throw new LpsError('INTERNAL', 'the takedown is not in the catalog');
    return takedown;
  }

  async #proof(what: string): Promise<Proof> {
    return { at: (await this.#options.catalog.now()).toISOString(), what };
  }
}

/** Also when a block was ended: over the old one. `without`: blocks that are about to end. */
export async function writeTakedownObject(
  takedown: Takedown,
  catalog: Pick<TakedownCatalog, 'names' | 'blocksOf'>,
  store: Pick<BlobStore, 'put'>,
  without: (block: { readonly digest: string; readonly prefix?: string }) => boolean = () => false,
): Promise<void> {
  const { id, selector, withSameDigest, isBlocking, reason, requestedBy, requestedAt, acceptedAt } = takedown;
  const names = [];
  for await (const name of namesOf(catalog, id)) names.push({ ...name, digest: parseKey(name.key).digest });
  const blocks = (await catalog.blocksOf(id)).filter((block) => !without(block));
  const objects = objectsOf({
    ...{ id, namespace: selector.namespace, selector: selector as Record<string, string> },
    ...{ withSameDigest, isBlocking, reason, requestedBy, names },
    requestedAt: requestedAt.toISOString(),
    acceptedAt: (acceptedAt ?? requestedAt).toISOString(),
    blocks: blocks.map(({ digest, prefix }) => ({
      ...{ digest, isAnyPrefix: prefix === undefined, prefix: prefix ?? '' },
    })),
  });
  for (const { name, bytes } of objects)
    await store.put(name, bytes, { digest: digestOf(bytes), size: bytes.length }, { overwrite: true });
}

async function* namesOf(catalog: Pick<TakedownCatalog, 'names'>, id: string): AsyncGenerator<ErasedName> {
  for (let after = ''; ; ) {
    const page = await catalog.names(id, after, namesPerPage);
    yield* page;
    const last = page.length === namesPerPage ? page.at(-1) : undefined;
    if (last === undefined) return;
    after = last.physicalKey;
  }
}

async function inSlices<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  for (let at = 0; at < items.length; at += concurrency)
    await settleAll(items.slice(at, at + concurrency), never, work);
}

function nameOf({ kind, name }: { readonly kind: string; readonly name: string }): string {
  return `${kind === 'cache' ? 'the cache node' : 'the replica'} ${name}`;
}
