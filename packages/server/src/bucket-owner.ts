/**
 * One bucket, one catalog: the object `.lps/catalog` names the catalog that a store belongs to. Two embedded databases
 * on one bucket would collect each other's blobs.
 *
 *   .lps/catalog    {"catalog":"5f0c…"}
 *
 * When a catalog is lost, the store is given to a new one by name: the new id goes into the store, and not the old id
 * into the new catalog. So, should the old catalog turn out to be alive, its services are refused at their next start,
 * and whoever asks here before deleting finds out; with one id in two databases nobody ever would.
 */
import { type BlobStore, digestOf, LpsError, readAll } from '@large-payload/core';

/** The object's name. */
export const ownerObject = '.lps/catalog';

/** Claims the store for a catalog, or finds that it is claimed. Throws CONFIG_INVALID when another catalog has it. */
export async function claimStore(store: BlobStore, catalogId: string): Promise<void> {
  const owner = (await readOwner(store)) ?? (await writeOwner(store, catalogId));
  if (owner !== catalogId) throw belongsToAnother(store, owner, catalogId);
}

/** Throws CONFIG_INVALID unless the store belongs to this catalog; writes nothing. */
export async function requireOwner(store: BlobStore, catalogId: string): Promise<void> {
  const owner = await readOwner(store);
  if (owner === catalogId) return;
  if (owner !== undefined) throw belongsToAnother(store, owner, catalogId);
  throw new LpsError(
    'CONFIG_INVALID',
    `this ${store.name} store holds no object ${ownerObject}: it is not the one that the catalog was made for, or it is ` +
      'not all there',
    { details: { catalogId } },
  );
}

/** Gives the store of a lost catalog to another one. Throws CONFIG_INVALID when it is not `lostId` that has it. */
export async function takeOverStore(store: BlobStore, lostId: string, catalogId: string): Promise<void> {
  const owner = await readOwner(store);
  if (owner === undefined || owner !== lostId) {
    const whose = owner === undefined ? 'to no catalog' : `to the catalog ${owner}`;
    throw new LpsError('CONFIG_INVALID', `this ${store.name} store does not belong to ${lostId}, but ${whose}`);
  }
  const bytes = contentFor(catalogId);
  await store.put(ownerObject, bytes, { digest: digestOf(bytes), size: bytes.length }, { overwrite: true });
  // of two at once the later one has it
  await requireOwner(store, catalogId);
}

/** The id of the catalog that has the store. Throws CONFIG_INVALID when something else stands there. */
export async function readOwner(store: BlobStore): Promise<string | undefined> {
  const found = await store.get(ownerObject);
  if (found === undefined) return undefined;
  const text = Buffer.from(await readAll(found.body, 4096)).toString('utf8');
  try {
    const { catalog } = JSON.parse(text) as { catalog?: unknown };
    if (typeof catalog === 'string') return catalog;
  } catch {
    // falls through: what is there is not ours
  }
  throw new LpsError(
    'CONFIG_INVALID',
    `the object ${ownerObject} in the ${store.name} store was not written by this service`,
  );
}

async function writeOwner(store: BlobStore, catalogId: string): Promise<string | undefined> {
  const bytes = contentFor(catalogId);
  const { outcome } = await store.put(ownerObject, bytes, { digest: digestOf(bytes), size: bytes.length });
  // another replica, or another catalog, was quicker
  return outcome === 'created' ? catalogId : readOwner(store);
}

function contentFor(catalogId: string): Buffer {
  return Buffer.from(JSON.stringify({ catalog: catalogId }));
}

function belongsToAnother(store: BlobStore, owner: string | undefined, catalogId: string): LpsError {
  return new LpsError(
    'CONFIG_INVALID',
    `this ${store.name} store belongs to another catalog (${owner}); use the database that it was made with. When that is ` +
      'lost for good and no service uses it any more: "lps catalog import" of its export, or, without one, ' +
      `"lps catalog reconcile --take-over ${owner}"`,
    { details: { owner, catalogId } },
  );
}
