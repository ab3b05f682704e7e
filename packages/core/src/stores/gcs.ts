import type { BlobStore } from '../blob-store.js';
import { checked } from '../layers/checked.js';
import { openRawGcsStore } from './gcs-store.js';

export interface GcsStoreOptions {
  /** It must exist. */
  readonly bucket: string;
  /** Put before every object's name, a `/` at its end included if there is to be one. Default none: the name is the key. */
  readonly prefix?: string;
  /**
   * The URL of another server that speaks Google's JSON API, such as an emulator. It is asked without credentials, unless
   * it is Google's own (`*.googleapis.com`) or `keyFile` is given. Default: Google, or `STORAGE_EMULATOR_HOST` of the
   * environment.
   */
  readonly endpoint?: string;
  /**
   * The file of a service account's key, or of another kind of credentials. Default: Application Default Credentials
   * (`GOOGLE_APPLICATION_CREDENTIALS`, gcloud's own, workload identity, the metadata server).
   */
  readonly keyFile?: string;
  /** Connections at a time. Default 64. */
  readonly maxSockets?: number;
  /** In ms. Default 10,000. */
  readonly connectTimeoutMs?: number;
  /** Without a byte in either direction, in ms. Default 30,000. */
  readonly idleTimeoutMs?: number;
}

/**
 * Blobs as objects of a Google Cloud Storage bucket. The bucket is told the MD5 of what is whole in memory and refuses
 * other bytes; of a stream it tells the MD5 that it stored, and an object that came out wrong is removed at once.
 *
 * Needs `storage.objects.create`, `.get`, `.list` and `.delete` (role Storage Object User; without `.list` the bucket
 * answers "denied" where an object is absent), and for `can.versions` and `settings` also `storage.buckets.get`.
 *
 * `delete` removes every generation. What the bucket's soft delete policy keeps (7 days unless it is changed), nobody can
 * remove or read before its time, but whoever administers the bucket can restore it: for erasure set the policy to 0.
 *
 * `presignGet` signs with a service account's key; without one (workload identity, the metadata server) Google does, a
 * request each, and the account needs `iam.serviceAccounts.signBlob` on itself (role Service Account Token Creator). It is
 * absent where the server is asked without credentials, and throws NOT_SUPPORTED with those of no service account.
 *
 * Throws CONFIG_INVALID when `@google-cloud/storage` is not installed or there are no credentials. Its calls throw
 * STORE_REFUSED (a setting or a right is wrong; `details.gcsReason` says which), STORE_UNAVAILABLE (try later),
 * TRY_AGAIN (a conflicting request), DIGEST_MISMATCH, RANGE_NOT_SATISFIABLE, ABORTED.
 */
export async function openGcsStore(options: GcsStoreOptions): Promise<BlobStore> {
  return checked(await openRawGcsStore(options));
}
