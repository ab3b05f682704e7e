import type { BlobStore } from '@large-payload/core';
import type { CareCatalog } from '../catalog/care-catalog.js';
import { takedownsOf } from '../takedown/takedown-object.js';

/**
 * After an import: what the store says of takedowns goes into the catalog, and rows whose object is erased are taken down.
 * Returns how many objects said something. Throws CONFIG_INVALID for one that is not of this service.
 */
export async function restoreTakedowns(
  store: BlobStore,
  catalog: Pick<CareCatalog, 'restoreTakedown' | 'takeDownErased'>,
): Promise<number> {
  let count = 0;
  for await (const takedown of takedownsOf(store)) {
    await catalog.restoreTakedown(takedown);
    count += 1;
  }
  if (count > 0) await catalog.takeDownErased();
  return count;
}
