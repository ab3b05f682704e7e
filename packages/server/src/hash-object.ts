import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type BlobStore, isBytes, isLpsError } from '@large-payload/core';

/**
 * Reads a stored object to its end, through the checks of the store's layer. Its size in bytes when it is right,
 * `undefined` when it is absent or damaged.
 */
export async function hashObject(store: BlobStore, physicalKey: string): Promise<number | undefined> {
  try {
    const found = await store.get(physicalKey);
    if (found === undefined) return undefined;
    if (!isBytes(found.body)) await pipeline(found.body, new Writable({ write: (_chunk, _encoding, done) => done() }));
    return found.info.size;
  } catch (error) {
    if (isLpsError(error, 'BLOB_DAMAGED')) return undefined;
    throw error;
  }
}
