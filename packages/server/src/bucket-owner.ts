/**
 * One bucket, one catalog: the object `.lps/catalog` names the catalog that a store belongs to. Two embedded databases
 * on one bucket would collect each other's blobs.
 *
 *   .lps/catalog    {"catalog":"5f0c…"}
 */
import { type BlobStore, digestOf, LpsError, readAll } from '@large-payload/core';

const objectName = '.lps/catalog';

/** Claims the store for a catalog, or finds that it is claimed. Throws CONFIG_INVALID when another catalog has it. */
export async function claimStore(store: BlobStore, catalogId: string): Promise<void> {
  const owner = (await readOwner(store)) ?? (await writeOwner(store, catalogId));
  if (owner === catalogId) return;
  throw new LpsError(
    'CONFIG_INVALID',
    `this ${store.name} store belongs to another catalog (${owner}); use the database that it was made with, or, when that ` +
      `is lost for good and nothing else uses the store, delete the object ${objectName} to let this catalog take it over`,
    { details: { owner, catalogId } },
  );
}

async function writeOwner(store: BlobStore, catalogId: string): Promise<string | undefined> {
  const bytes = Buffer.from(JSON.stringify({ catalog: catalogId }));
  const { outcome } = await store.put(objectName, bytes, { digest: digestOf(bytes), size: bytes.length });
  // another replica, or another catalog, was quicker
  return outcome === 'created' ? catalogId : readOwner(store);
}

async function readOwner(store: BlobStore): Promise<string | undefined> {
  const found = await store.get(objectName);
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
    `the object ${objectName} in the ${store.name} store was not written by this service`,
  );
}
