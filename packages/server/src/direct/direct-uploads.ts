/**
 * Uploads whose bytes go from the client to the bucket, past the service.
 *
 *   begin      present? ─ catalog.begin ─ lease ─ URL and workflow on record ─ URL given out ─► the client puts the bytes
 *   complete   the object's own checksum ─ right ─ catalog.commit ─► live; the workflow is told
 *                                        ├ wrong ─ marked damaged: the next upload goes through the service, and heals it
 *                                        └ absent
 *
 * Nothing is readable before the commit, and the bucket takes no other bytes than those of the digest.
 */
import { randomUUID } from 'node:crypto';
import {
  type BlobInfo,
  type BlobKey,
  type BlobStore,
  formatKey,
  isLpsError,
  LpsError,
  type PresignedRequest,
  parseKey,
  statOf,
} from '@large-payload/core';
import type { Logger } from 'pino';
import type { Catalog, Lease } from '../catalog/catalog.js';
import type { UploadEffects } from './upload-effects.js';
import type { UploadUrls } from './upload-urls.js';
import { type DirectUpload, usualPatience } from './upload-workflow.js';

/** What a client is to do. */
export type UploadOffer =
  | { readonly outcome: 'present'; readonly key: string; readonly protectedUntil?: Date }
  /** The bytes of this blob go through the service. */
  | { readonly outcome: 'proxied'; readonly key: string }
  | {
      readonly outcome: 'direct';
      readonly key: string;
      readonly uploadId: string;
      readonly request: PresignedRequest;
    };

export interface CompletedUpload {
  readonly key: string;
  /** Bytes. */
  readonly size: number;
  readonly outcome: 'created' | 'exists';
  readonly protectedUntil: Date;
}

export interface DirectUploads {
  /**
   * Looks what stands at the key, and offers a way. Throws SIZE_MISMATCH when the blob is there with another size,
   * BLOB_NOT_FOUND when it was taken down, STORE_UNAVAILABLE, CATALOG_UNAVAILABLE.
   */
  begin(key: BlobKey, size: number): Promise<UploadOffer>;
  /**
   * Makes the blob live, once its object is in the bucket; may be called again. Throws UPLOAD_NOT_FOUND,
   * UPLOAD_INCOMPLETE, TRY_AGAIN when the bytes must come through the service.
   */
  complete(uploadId: string, mayUse?: (namespace: string) => boolean): Promise<CompletedUpload>;
  /** Begun in this process and not ended. */
  readonly open: number;
}

/** The durable part; all of it throws TRY_AGAIN while no workflow can run, CATALOG_UNAVAILABLE while Postgres is away. */
export interface UploadWorkflows {
  /** Resolves when the workflow is on record; `ended` when it is over. */
  start(upload: DirectUpload, seconds: number): Promise<{ readonly ended: Promise<void> }>;
  find(uploadId: string): Promise<DirectUpload | undefined>;
  /** Tells it that the upload is complete. */
  finish(uploadId: string): Promise<void>;
}

export interface DirectUploadOptions {
  /** The layered one: its `stat` says what is present. */
  readonly store: BlobStore;
  /** Of the bucket itself. */
  readonly presignPut: NonNullable<BlobStore['presignPut']>;
  readonly catalog: Catalog;
  readonly effects: UploadEffects;
  readonly log: Logger;
  readonly workflows: UploadWorkflows;
  readonly urls: Pick<UploadUrls, 'note'>;
  /** How long a URL can be used. */
  readonly lifetimeMs: number;
  /** Uploads that this process waits for; more go through the service. Default 1,000. */
  readonly maxOpen?: number;
  /** Throws while the bucket is not known to be ours. */
  readonly checkOwner: () => void;
}

/** So that no sweep of leases comes before the workflow's own end. */
const leaseMarginMs = 60_000;

export function openDirectUploads(options: DirectUploadOptions): DirectUploads {
  return new Uploads(options);
}

class Uploads implements DirectUploads {
  #open = 0;

  constructor(readonly options: DirectUploadOptions) {}

  get open(): number {
    return this.#open;
  }

  async begin(blob: BlobKey, size: number): Promise<UploadOffer> {
    const { catalog, store, lifetimeMs, maxOpen = 1000, checkOwner } = this.options;
    checkOwner();
    const key = formatKey(blob);
    // what is there is asked for by the layers, which look into the bucket too when that is due
    const found = (await statOf(store, [key])).get(key);
    if (found !== undefined) return present(key, size, found);
    if (this.#open >= maxOpen) return { outcome: 'proxied', key };
    this.#open += 1;
    let ended = Promise.resolve();
    try {
      const leaseMs = lifetimeMs + usualPatience.finishGraceSeconds * 1000 + leaseMarginMs;
      const beginning = await catalog.begin(blob, size, leaseMs);
      if (beginning.kind === 'present') return present(key, size, beginning.row);
      const started = await this.#offer(blob, size, beginning.lease);
      ended = started.ended;
      return started.offer;
    } finally {
      void ended.finally(() => {
        this.#open -= 1;
      });
    }
  }

  async #offer(blob: BlobKey, size: number, lease: Lease): Promise<Offered> {
    const { presignPut, catalog, urls, workflows, lifetimeMs } = this.options;
    const uploadId = `upload-${randomUUID()}`;
    const { key, physicalKey } = lease;
    try {
      // a signed upload replaces nothing
      if (lease.overwrite) return await this.#proxied(lease);
      const request = await presignPut(physicalKey, { digest: blob.digest, size }, { expiresInMs: lifetimeMs });
      await urls.note(lease, lifetimeMs);
      const { ended } = await workflows.start(recordOf(uploadId, blob, size, lease), lifetimeMs / 1000);
      return { offer: { outcome: 'direct', key, uploadId, request }, ended };
    } catch (error) {
      if (isLpsError(error, 'TRY_AGAIN')) return await this.#proxied(lease); // no durable work yet, or taken down since
      await catalog.abandon(lease);
      throw error;
    }
  }

  async #proxied(lease: Lease): Promise<Offered> {
    await this.options.catalog.abandon(lease);
    return { offer: { outcome: 'proxied', key: lease.key }, ended: Promise.resolve() };
  }

  async complete(uploadId: string, mayUse = (_namespace: string): boolean => true): Promise<CompletedUpload> {
    const { workflows, effects, log } = this.options;
    const upload = await workflows.find(uploadId);
    // one that is someone else's is as good as none
    if (upload === undefined || !mayUse(parseKey(upload.lease.key).namespace))
      throw new LpsError('UPLOAD_NOT_FOUND', 'there is no such upload');
    const { outcome, row } = await effects.activate(upload);
    // should this fail, the workflow ends when its time is over, and finds the blob live
    await workflows
      .finish(uploadId)
      .catch((error: unknown) => log.debug({ err: error, uploadId }, 'the workflow of an upload could not be told'));
    return { key: row.key, size: row.size, outcome, protectedUntil: row.protectedUntil };
  }
}

interface Offered {
  readonly offer: UploadOffer;
  /** When nobody waits for it any more. */
  readonly ended: Promise<void>;
}

function present(key: string, size: number, found: Pick<BlobInfo, 'size' | 'protectedUntil'>): UploadOffer {
  if (found.size !== size)
    throw new LpsError('SIZE_MISMATCH', `the blob of this digest has ${found.size} bytes, not ${size}`);
  const { protectedUntil } = found;
  return { outcome: 'present', key, ...(protectedUntil === undefined ? {} : { protectedUntil }) };
}

function recordOf(uploadId: string, { digest }: BlobKey, size: number, lease: Lease): DirectUpload {
  const { id, generation, key, physicalKey, overwrite } = lease;
  return {
    key: uploadId,
    digest,
    size,
    lease: {
      id,
      blobId: String(lease.blobId),
      generation,
      key,
      physicalKey,
      overwrite,
      expiresAt: lease.expiresAt.toISOString(),
    },
  };
}
