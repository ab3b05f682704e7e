/** What of direct transfers this service offers. */
import type { BlobStore } from '@large-payload/core';
import type { Logger } from 'pino';
import type { Catalog } from '../catalog/catalog.js';
import type { Durable } from '../durable/durable.js';
import type { serviceWorkflows } from '../durable/service-workflows.js';
import { type DirectUploads, openDirectUploads } from './direct-uploads.js';
import { maxDownloadLifetimeMs } from './lifetimes.js';
import type { UploadEffects } from './upload-effects.js';
import type { UploadUrls } from './upload-urls.js';

export interface DirectTransfers {
  /** How long a download's URL can be used. It works where the store can sign one. */
  readonly downloadLifetimeMs: number;
  /** Absent where the bucket cannot be made to check what it takes, or there is no catalog. */
  readonly uploads?: DirectUploads;
}

export interface DirectTransferOptions {
  /** The layered one. */
  readonly store: BlobStore;
  /** The one below every layer that keeps bytes. */
  readonly source: BlobStore;
  readonly catalog: Catalog;
  readonly effects: UploadEffects;
  readonly durable: Pick<Durable<ReturnType<typeof serviceWorkflows>>, 'start' | 'argsOf' | 'send'>;
  readonly urls: Pick<UploadUrls, 'note'>;
  readonly lifetimeMs: number;
  /** Throws while the bucket is not known to be ours. */
  readonly checkOwner: () => void;
  readonly log: Logger;
}

export function openDirectTransfers(options: DirectTransferOptions): DirectTransfers {
  const { source, lifetimeMs } = options;
  const presignPut = source.presignPut?.bind(source);
  return {
    downloadLifetimeMs: Math.min(lifetimeMs, maxDownloadLifetimeMs),
    ...(presignPut && { uploads: openDirectUploads({ ...options, presignPut, workflows: workflowsOver(options) }) }),
  };
}

function workflowsOver({ durable }: DirectTransferOptions): Parameters<typeof openDirectUploads>[0]['workflows'] {
  return {
    start: (upload, seconds) => durable.start('directUpload', upload.key, upload, seconds),
    find: async (uploadId) => (await durable.argsOf('directUpload', uploadId))?.[0],
    finish: (uploadId) => durable.send(uploadId, 'uploadfinish', true),
  };
}
