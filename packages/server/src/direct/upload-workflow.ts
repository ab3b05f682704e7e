/**
 * One direct upload, durably: whatever becomes of the client, in the end the row and the object agree.
 *
 *   begun        the lease is in the catalog, then this workflow on record, and only then is a URL signed
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

/** For the message: how long after the URL's end it may still come. */
export const finishGraceSeconds = 60;
/** What began in time may end later: S3 checks the signature when a request begins. */
const latePassesSeconds = [60, 3600];

export type UploadWorkflow = SelfRegistering<[upload: DirectUpload, seconds: number], UploadEffects>;

export function uploadWorkflow(
  effects: UploadEffects,
  latePasses: readonly number[] = latePassesSeconds,
): UploadWorkflow {
  return {
    parts: effects,
    register(name, effectsNow) {
      const config = { name, finishGraceSeconds, latePassesSeconds: latePasses };
      return registerS3PresignedUploadWorkflow<DirectUpload>(config, callbacksOver(effectsNow));
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
    headS3Object: async (upload) => (await effectsNow().look(upload)) === 'right',
    fileActivated: async (upload) => void (await effectsNow().commit(upload)),
    fileDeleted: (upload) => effectsNow().settle(upload),
    deleteS3Object: async () => undefined, // see above
    newActiveFile: never,
    putS3Contents: never,
  };
}
