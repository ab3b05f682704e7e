/** What direct uploads do to the catalog, by what the bucket says of the object. Each may be done again. */
import { type BlobStore, LpsError, parseKey } from '@large-payload/core';
import type { Catalog, Commit, Lease } from '../catalog/catalog.js';
import type { Alarms } from '../catalogued.js';
import { hashObject } from '../hash-object.js';
import type { DirectUpload } from './upload-workflow.js';

/** `wrong`: somebody else's object stands there, with other bytes than the digest's. */
export type ObjectState = 'right' | 'wrong' | 'absent';

/** Throws STORE_UNAVAILABLE and CATALOG_UNAVAILABLE. */
export interface UploadEffects {
  /** By the bucket's own checksum; where it keeps none, the object is read and hashed. */
  look(upload: DirectUpload): Promise<ObjectState>;
  /** Makes the blob live. Throws TRY_AGAIN when it was deleted, taken down or damaged meanwhile. */
  commit(upload: DirectUpload): Promise<Commit>;
  /** Ends the lease: the blob becomes live when its object is right, else its row goes unless somebody else uploads. */
  settle(upload: DirectUpload): Promise<void>;
  /** The next upload of the blob replaces the object. */
  markDamaged(upload: DirectUpload): Promise<void>;
}

/** `source` is the store below every layer that keeps bytes. */
export function uploadEffects(source: BlobStore, catalog: Catalog, alarms: Alarms): UploadEffects {
  const look = async ({ lease, digest, size }: DirectUpload): Promise<ObjectState> => {
    const info = await source.head(lease.physicalKey);
    if (info === undefined) return 'absent';
    if (info.digest === undefined) return (await hashObject(source, lease.physicalKey)) === size ? 'right' : 'wrong';
    return info.digest === digest && info.size === size ? 'right' : 'wrong';
  };
  return {
    look,
    async commit(upload) {
      const commit = await catalog.commit(leaseOf(upload), upload.size);
      if (commit === undefined)
        throw new LpsError('TRY_AGAIN', 'the blob was deleted while it was uploaded; send it through the service');
      return commit;
    },
    async settle(upload) {
      const { key, physicalKey } = upload.lease;
      if ((await look(upload)) === 'right') await catalog.adopt(parseKey(key), physicalKey, upload.size);
      await catalog.abandon(leaseOf(upload));
    },
    async markDamaged({ lease }) {
      alarms.raise('damaged', { key: lease.physicalKey });
      await catalog.markDamaged({ id: BigInt(lease.blobId), generation: lease.generation });
    },
  };
}

function leaseOf({ lease }: DirectUpload): Lease {
  return { ...lease, blobId: BigInt(lease.blobId), expiresAt: new Date(lease.expiresAt) };
}
