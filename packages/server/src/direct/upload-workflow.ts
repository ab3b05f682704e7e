/**
 * One direct upload, durably: whatever becomes of the client, in the end the row and the object agree.
 *
 *   begun        the lease is in the catalog, then this workflow on record, and only then is the URL given out
 *   completed    `DirectUploads.complete` has committed the lease; the message `uploadfinish` ends the workflow
 *   given up     no message within the URL's life: `settle` now, and twice more for bytes that arrive late
 *
 * Built on the presigned upload of @large-payload/dbos. Its file is this upload, named by its id, since the same object may
 * be uploaded again at any time. Its row is the lease. Its object is nobody's to delete: by now it may be somebody else's
 * blob as well. What `settle` finds right becomes live, as in the sweep of leases, and is collected when nobody needs it.
 */

import type { Digest } from '@large-payload/core';
import { type FileRecord, registerS3PresignedUploadWorkflow, type S3WorkflowCallbacks } from '@large-payload/dbos';
import type { Lease } from '../catalog/catalog.js';
import type { SelfRegistering } from '../durable/workflows.js';
import type { UploadEffects } from './upload-effects.js';

/** What is kept of an upload, as JSON; nothing in it is secret. */
export interface DirectUpload extends FileRecord {
  /** The upload's id, which is the workflow's. */
  readonly key: string;
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  readonly lease: Omit<Lease, 'blobId' | 'expiresAt'> & { readonly blobId: string; readonly expiresAt: string };
}

/** What a step returns is kept for ever, and rows are no JSON. */
const nothing = (): void => {};

export interface UploadPatience {
  /** How long after the URL's end the message may still come. */
  readonly finishGraceSeconds: number;
  /** When to settle again after the URL's end: S3 looks at its time when a request begins, and the bytes may end later. */
  readonly latePassesSeconds: readonly number[];
}

export const usualPatience: UploadPatience = { finishGraceSeconds: 60, latePassesSeconds: [60, 3600] };

export type UploadWorkflow = SelfRegistering<[upload: DirectUpload, seconds: number], UploadEffects>;

export function uploadWorkflow(effects: UploadEffects, patience = usualPatience): UploadWorkflow {
  return {
    parts: effects,
    register(name, effectsNow) {
      return registerS3PresignedUploadWorkflow<DirectUpload>({ name, ...patience }, callbacksOver(effectsNow));
    },
  };
}

function callbacksOver(effectsNow: () => UploadEffects): S3WorkflowCallbacks<DirectUpload> {
  const never = async (): Promise<never> => {
    throw new Error('a direct upload sends nothing itself');
  };
  return {
    databaseSteps: true,
    newPendingFile: async () => undefined, // the lease was there before the workflow
    createPresignedPost: async () => ({ url: '', fields: {} }), // signed by whoever answers the client, and kept nowhere
    headS3Object: async () => true, // looked at by what follows
    fileActivated: (upload) => effectsNow().activate(upload).then(nothing),
    fileDeleted: (upload) => effectsNow().settle(upload),
    deleteS3Object: async () => undefined, // see above
    newActiveFile: never,
    putS3Contents: never,
  };
}
