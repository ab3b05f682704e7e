/** What direct uploads do to the catalog, by what the bucket says of the object. Each may be done again. */
import { type BlobStore, isLpsError, LpsError, parseKey } from '@large-payload/core';
import type { Catalog, Commit, Lease } from '../catalog/catalog.js';
import type { Alarms } from '../catalogued.js';
import { hashObject } from '../hash-object.js';
import type { DirectUpload } from './upload-workflow.js';

/** Throws STORE_UNAVAILABLE and CATALOG_UNAVAILABLE. */
export interface UploadEffects {
  /**
   * Makes the blob live, its object being right. Throws UPLOAD_INCOMPLETE when there is no object, TRY_AGAIN when it is a
   * wrong one (the next upload then replaces it), or the blob was deleted or taken down meanwhile; BLOB_BLOCKED.
   */
  activate(upload: DirectUpload): Promise<Commit>;
  /** Ends the lease: the blob becomes live when its object is right, else its row goes unless somebody else uploads. */
  settle(upload: DirectUpload): Promise<void>;
}

/** `source` is the store below every layer that keeps bytes. */
export function uploadEffects(source: BlobStore, catalog: Catalog, alarms: Alarms): UploadEffects {
  /** By the bucket's own checksum; where it keeps none, the object is read and hashed. */
  const look = async ({ lease, digest, size }: DirectUpload): Promise<'right' | 'wrong' | 'absent'> => {
    const info = await source.head(lease.physicalKey);
    if (info === undefined) return 'absent';
    if (info.digest === undefined) return (await hashObject(source, lease.physicalKey)) === size ? 'right' : 'wrong';
    return info.digest === digest && info.size === size ? 'right' : 'wrong';
  };
  return {
    async activate(upload) {
      const state = await look(upload);
      if (state === 'absent') throw new LpsError('UPLOAD_INCOMPLETE', 'the bytes of this upload are not in the bucket');
      const { blobId, generation, physicalKey } = upload.lease;
      if (state === 'wrong') {
        alarms.raise('damaged', { key: physicalKey });
        await catalog.markDamaged({ id: BigInt(blobId), generation });
        throw new LpsError('TRY_AGAIN', 'a damaged object stood here; send the blob through the service');
      }
      const commit = await catalog.commit(leaseOf(upload), upload.size);
      if (commit !== undefined) return commit;
      throw new LpsError('TRY_AGAIN', 'the blob was deleted while it was uploaded; send it through the service');
    },
    async settle(upload) {
      const { key, physicalKey } = upload.lease;
      if ((await look(upload)) === 'right') {
        await catalog.adopt(parseKey(key), physicalKey, upload.size).catch((error: unknown) => {
          if (!isLpsError(error, 'BLOB_BLOCKED')) throw error; // it is never served, and the upload is over
        });
      }
      await catalog.abandon(leaseOf(upload));
    },
  };
}

function leaseOf({ lease }: DirectUpload): Lease {
  return { ...lease, blobId: BigInt(lease.blobId), expiresAt: new Date(lease.expiresAt) };
}
