/** What a container holds, and what the account tells. The SDK speaks XML for us; its requests go out like all others. */
import type {
  ContainerClient,
  ContainerListBlobsOptions,
  ServiceGetPropertiesResponse,
  UserDelegationKey,
} from '@azure/storage-blob';
import type { BlobInfo, CallOptions, CountOptions, ListOptions } from '../blob-store.js';
import { readAll } from '../body.js';
import { isLpsError, LpsError } from '../errors.js';
import type { SendToAccount } from './azure-request.js';

type StorageSdk = typeof import('@azure/storage-blob');
/** The SDK's request, as much as a client of its needs. */
interface SdkRequest {
  readonly method: string;
  readonly url: string;
  readonly headers: { toJson(): Record<string, string> };
  /** Of its few requests that have one, a text. */
  readonly body?: unknown;
  readonly abortSignal?: AbortSignal;
}
type SdkHttpClient = NonNullable<NonNullable<ConstructorParameters<StorageSdk['Pipeline']>[1]>['httpClient']>;

/** An old version of a blob, or a snapshot of it. */
export interface KeptBlob {
  readonly versionId?: string;
  readonly snapshot?: string;
}

export interface ContainerListing {
  /** Keys, without the store's prefix. */
  blobs(prefix: string, options: ListOptions): AsyncIterable<BlobInfo>;
  /** Of exactly this name, without the readable blob itself. */
  kept(name: string, options: CallOptions): Promise<KeptBlob[]>;
  /** Of exactly this name: the blob, its versions, its snapshots, and what is soft-deleted or was never committed. */
  count(name: string, options: CountOptions): Promise<number>;
  /** Whether the first blob has a version. */
  showsVersions(): Promise<boolean>;
  serviceProperties(options: CallOptions): Promise<ServiceGetPropertiesResponse>;
  /** Only for tokens. */
  delegationKey(startsOn: Date, expiresOn: Date, options: CallOptions): Promise<UserDelegationKey>;
}

export interface AzureListingOptions {
  readonly endpoint: string;
  readonly container: string;
  /** Of every name. */
  readonly prefix: string;
  readonly send: SendToAccount;
}

export function openAzureListing(sdk: StorageSdk, options: AzureListingOptions): ContainerListing {
  const { endpoint, prefix: ownPrefix } = options;
  const pipeline = sdk.newPipeline(new sdk.AnonymousCredential(), {
    httpClient: sdkHttpClient(options.send),
    retryOptions: { maxTries: 1 }, // we repeat ourselves, all requests alike
  });
  const service = new sdk.BlobServiceClient(endpoint, pipeline);
  const container = service.getContainerClient(options.container);

  return {
    async *blobs(prefix, { after, signal }) {
      const from = after === undefined ? undefined : ownPrefix + after;
      const wanted = ownPrefix + prefix;
      // servers that do not know it list from the beginning
      const start = from?.startsWith(wanted) ? { startFrom: from } : {};
      for await (const { name, properties } of blobsOf(container, { prefix: wanted, ...start, ...abortable(signal) })) {
        if (from !== undefined && Buffer.compare(Buffer.from(name), Buffer.from(from)) <= 0) continue;
        const { contentLength: size = 0, lastModified: modifiedAt } = properties;
        yield { key: name.slice(ownPrefix.length), size, modifiedAt };
      }
    },

    async kept(name, { signal }) {
      const found: KeptBlob[] = [];
      const wanted = { prefix: name, includeVersions: true, includeSnapshots: true, ...abortable(signal) };
      for await (const blob of blobsOf(container, wanted)) {
        const { versionId, snapshot, isCurrentVersion } = blob;
        if (blob.name !== name || isCurrentVersion) continue;
        if (snapshot) found.push({ snapshot });
        else if (versionId) found.push({ versionId });
      }
      return found;
    },

    async count(name, { signal, withUnreachable = false }) {
      const unreachable = { includeDeleted: withUnreachable, includeUncommitedBlobs: withUnreachable };
      const all = { includeVersions: true, includeSnapshots: true, ...unreachable };
      let count = 0;
      for await (const blob of blobsOf(container, { prefix: name, ...all, ...abortable(signal) })) {
        if (blob.name === name) count += 1;
      }
      return count;
    },

    async showsVersions() {
      for await (const { versionId } of blobsOf(container, { prefix: ownPrefix, includeVersions: true }, 1)) {
        return versionId !== undefined;
      }
      return false;
    },

    async serviceProperties({ signal }) {
      try {
        return await service.getProperties(abortable(signal));
      } catch (error) {
        throw fromSdk(error);
      }
    },

    async delegationKey(startsOn, expiresOn, { signal }) {
      try {
        return await service.getUserDelegationKey(startsOn, expiresOn, abortable(signal));
      } catch (error) {
        throw fromSdk(error);
      }
    },
  };
}

async function* blobsOf(container: ContainerClient, options: ContainerListBlobsOptions, maxPageSize = 5000) {
  const pages = container.listBlobsFlat(options).byPage({ maxPageSize })[Symbol.asyncIterator]();
  for (;;) {
    const page = await pages.next().catch((error: unknown) => {
      throw fromSdk(error);
    });
    if (page.done) return;
    yield* page.value.segment.blobItems;
  }
}

/** The SDK passes our own errors on; others are of its own, about what it could not read. */
function fromSdk(error: unknown): LpsError {
  if (isLpsError(error)) return error;
  if (error instanceof Error && error.name === 'AbortError') {
    return new LpsError('ABORTED', 'the call was aborted', { cause: error });
  }
  return new LpsError('STORE_UNAVAILABLE', 'Azure did not answer as it should', { cause: error });
}

function abortable(signal: AbortSignal | undefined): { abortSignal?: AbortSignal } {
  return signal === undefined ? {} : { abortSignal: signal };
}

function sdkHttpClient(send: SendToAccount): SdkHttpClient {
  const client = {
    async sendRequest(request: SdkRequest) {
      const { method, url, headers, abortSignal: signal } = request;
      const body = typeof request.body === 'string' ? Buffer.from(request.body) : undefined;
      const response = await send({ method, url, headers: lowerCased(headers.toJson()), body, signal });
      const bodyAsText = Buffer.from(await readAll(response.body, 64 * 1024 * 1024)).toString();
      const toJson = () => response.headers;
      return { request, status: response.status, headers: { toJson }, bodyAsText };
    },
  };
  // of the SDK's two dozen functions of a list of headers it calls one
  return client as unknown as SdkHttpClient;
}

function lowerCased(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
}
