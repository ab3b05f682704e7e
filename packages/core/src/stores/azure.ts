import type { BlobStore } from '../blob-store.js';
import { checked } from '../layers/checked.js';
import { openRawAzureStore } from './azure-store.js';

/** Who we are: any of the credentials of `@azure/identity`, or whatever else gives tokens. */
export interface AzureCredential {
  /** `expiresOnTimestamp`: in ms since 1970. */
  getToken(scope: string): Promise<{ readonly token: string; readonly expiresOnTimestamp: number } | null>;
}

export interface AzureStoreOptions {
  /** It must exist. */
  readonly container: string;
  /** The storage account's name. It, `endpoint` or `connectionString` must be given. */
  readonly account?: string;
  /** The URL of the account's blob service. Default `https://{account}.blob.core.windows.net`. */
  readonly endpoint?: string;
  /** With the account's key or a shared access signature. A secret. */
  readonly connectionString?: string;
  /** Unless there is a connection string. Default: `DefaultAzureCredential` of `@azure/identity`. */
  readonly credential?: AzureCredential;
  /** Put before every blob's name, a `/` at its end included if there is to be one. Default none: the name is the key. */
  readonly prefix?: string;
  /**
   * What is larger than this and comes as a stream goes up in blocks of this size, two of which an upload holds in memory.
   * Default 1 MiB; those of a blob over 48 GiB are larger, since Azure takes no more than 50,000 of them.
   */
  readonly blockBytes?: number;
  /** Connections at a time. Default 64. */
  readonly maxSockets?: number;
  /** In ms. Default 10,000. */
  readonly connectTimeoutMs?: number;
  /** Without a byte in either direction, in ms. Default 30,000. */
  readonly idleTimeoutMs?: number;
}

/**
 * Blobs as block blobs of an Azure container. Azure is told the MD5 of what it is sent and refuses other bytes.
 *
 * Needs the role Storage Blob Data Contributor, for accounts with versions Storage Blob Data Owner or the action
 * `…/blobs/deleteBlobVersion/action`; `settings` tells more to whoever may also read the blob service's properties.
 *
 * `delete` removes every version and every snapshot. Where the account has soft delete, what is deleted can be restored
 * by whoever administers it until its days are over, and nobody can remove it before: for erasure switch soft delete off.
 *
 * `presignGet` signs with the account's key, and where there are tokens with a key that Azure gives out for some days, which
 * needs a role on the whole account (Storage Blob Delegator, or that of above given there and not on the container). With a
 * connection string that has a shared access signature only, it throws NOT_SUPPORTED.
 *
 * Throws CONFIG_INVALID when `@azure/storage-blob` (or `@azure/identity`, for tokens) is not installed or the settings are
 * not enough. Its calls throw STORE_REFUSED (a setting or a right is wrong; `details.azureCode` says which),
 * STORE_UNAVAILABLE (try later), TRY_AGAIN (a conflicting request), DIGEST_MISMATCH, RANGE_NOT_SATISFIABLE, ABORTED.
 */
export async function openAzureStore(options: AzureStoreOptions): Promise<BlobStore> {
  return checked(await openRawAzureStore(options));
}
