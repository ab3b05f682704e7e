/**
 * The azure store without the checks of its layer.
 *
 *   put     PUT …/NAME              If-None-Match: *, Content-MD5        what fits into a block
 *           HEAD, then blocks       see azure-blocks.ts; the list of them is committed with If-None-Match: *, after the
 *                                   whole body was right: a body that fails before leaves nothing readable
 *             201 created · 409, 412, InvalidBlockList: another was faster; looked at, then exists
 *   get     GET                     Range when asked · BlobNotFound absent, ContainerNotFound an error
 *   head    HEAD                    Azure names failures in a header
 *   delete  DELETE                  the blob with its snapshots; then a list, and every version in it
 *   list    GET …?comp=list         through the SDK
 *   presign GET …?sv=…&sig=…        by whoever has the URL, see azure-presign.ts
 *
 * A blob's name is `prefix` + key, the key's leading slash included, as the Go service has it.
 */
import type {
  BlobInfo,
  BlobStore,
  Body,
  BucketSettings,
  CallOptions,
  CountOptions,
  Expected,
  GetOptions,
  ListOptions,
  PutOptions,
  PutResult,
  StoredBlob,
} from '../blob-store.js';
import { discard, isBytes } from '../body.js';
import { isLpsError, LpsError } from '../errors.js';
import { openTransport, type Transport, type TransportResponse } from '../transport.js';
import type { AzureStoreOptions } from './azure.js';
import { blockBytesFor, blockList, blockNames, stageBlocks } from './azure-blocks.js';
import { type AzureSdks, openAccess, storageSdk } from './azure-credentials.js';
import { hasAzureCode } from './azure-errors.js';
import { type ContainerListing, openAzureListing } from './azure-listing.js';
import { azurePresignGet } from './azure-presign.js';
import { type AzureRequest, accountSender, containerSender, type SendToContainer } from './azure-request.js';
import { azureSettings } from './azure-settings.js';
import { collect, objectInfo, objectOf } from './http-object.js';
import { md5Of } from './md5.js';

const readyForMs = 1_000;
const defaultBlockBytes = 1024 * 1024;

const installed: AzureSdks = {
  storage: () => import('@azure/storage-blob'),
  identity: () => import('@azure/identity'),
};

/** For tests: the store that believes its caller, with another way to import the SDK. */
export async function openRawAzureStore(options: AzureStoreOptions, sdks: AzureSdks = installed): Promise<BlobStore> {
  const { container, prefix = '', maxSockets, connectTimeoutMs, idleTimeoutMs } = options;
  const transport = openTransport({
    errorCode: 'STORE_UNAVAILABLE',
    peerName: 'the Azure server',
    ...(maxSockets === undefined ? {} : { maxSockets }),
    ...(connectTimeoutMs === undefined ? {} : { connectTimeoutMs }),
    ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
  });
  try {
    const sdk = await storageSdk(sdks);
    const access = await openAccess(options, sdk, sdks);
    const { endpoint } = access;
    const toAccount = accountSender(transport, access);
    const listing = openAzureListing(sdk, { endpoint, container, prefix, send: toAccount });
    const send = containerSender(toAccount, `${endpoint}/${container}`);
    const presignGet = azurePresignGet({
      ...{ sdk, access, container, prefix, timeoutMs: idleTimeoutMs ?? 30_000 },
      getDelegationKey: (startsOn, expiresOn, call) => listing.delegationKey(startsOn, expiresOn, call),
    });
    const store = new AzureStore(options, { transport, endpoint, send, listing, presignGet });
    await store.detectVersions();
    return store;
  } catch (error) {
    await transport.close();
    throw error;
  }
}

interface OpenedContainer {
  readonly transport: Transport;
  readonly endpoint: string;
  readonly send: SendToContainer;
  readonly listing: ContainerListing;
  readonly presignGet: NonNullable<BlobStore['presignGet']>;
}

class AzureStore implements BlobStore {
  readonly name = 'azure';
  readonly can: BlobStore['can'];
  readonly #prefix: string;
  readonly #blockBytes: number;
  /** What answers told; Azure has no question for it. */
  #versioning: 'on' | 'off' | undefined;
  #readyUntil = 0;
  readonly presignGet: NonNullable<BlobStore['presignGet']>;

  constructor(
    options: AzureStoreOptions,
    readonly opened: OpenedContainer,
  ) {
    this.#prefix = options.prefix ?? '';
    this.presignGet = opened.presignGet;
    this.#blockBytes = options.blockBytes ?? defaultBlockBytes;
    const hasVersions = (): boolean => this.#versioning === 'on';
    this.can = {
      range: true,
      list: true,
      delete: true,
      // versions may be switched on while we run; answers show it
      get versions() {
        return hasVersions();
      },
    };
  }

  async detectVersions(): Promise<void> {
    try {
      if (await this.opened.listing.showsVersions()) this.#versioning = 'on';
    } catch (error) {
      // away at the start, or not to be listed: answers show it as well
      if (!isLpsError(error, 'STORE_UNAVAILABLE') && !hasAzureCode(error, 'AuthorizationPermissionMismatch'))
        throw error;
    }
  }

  close(): Promise<void> {
    return this.opened.transport.close();
  }

  async put(key: string, body: Body, expect: Expected, options: PutOptions = {}): Promise<PutResult> {
    const { size } = expect;
    try {
      const blob = isBytes(body) || size > this.#blockBytes ? body : await collect(body, size);
      if (isBytes(blob)) return await this.#putWhole(key, blob, options);
      // a body that is not wanted would only be told so after its last block
      if (!options.overwrite && (await this.head(key, options)) !== undefined) {
        discard(body);
        return { outcome: 'exists' };
      }
      const ids = await stageBlocks(blob, {
        blockBytes: blockBytesFor(size, this.#blockBytes),
        stage: (id, bytes) => this.#stage(key, id, bytes, options),
      });
      return await this.#commit(key, ids, options);
    } catch (error) {
      discard(body);
      throw error;
    }
  }

  async get(key: string, options: GetOptions = {}): Promise<StoredBlob | undefined> {
    const { range, signal } = options;
    const headers = range === undefined ? {} : { range: `bytes=${range.start}-${range.end}` };
    const response = await this.#find({ method: 'GET', name: this.#prefix + key, headers, signal });
    return response && objectOf(key, response, range);
  }

  async head(key: string, options: CallOptions = {}): Promise<BlobInfo | undefined> {
    const response = await this.#find({ method: 'HEAD', name: this.#prefix + key, signal: options.signal });
    return response && objectInfo(key, response);
  }

  async delete(key: string, options: CallOptions = {}): Promise<boolean> {
    const { signal } = options;
    const name = this.#prefix + key;
    const headers = { 'x-ms-delete-snapshots': 'include' };
    const removed = await this.#find({ method: 'DELETE', name, headers, signal });
    if (removed !== undefined) discard(removed.body);
    // where there are versions the blob has only become one of them
    const kept = await this.opened.listing.kept(name, options);
    for (const { versionId: versionid, snapshot } of kept) {
      const query: Record<string, string> = versionid === undefined ? { snapshot: snapshot ?? '' } : { versionid };
      if (versionid !== undefined) this.#versioning = 'on';
      const gone = await this.#find({ method: 'DELETE', name, query, signal });
      if (gone !== undefined) discard(gone.body);
    }
    return removed !== undefined || kept.length > 0;
  }

  countVersions(key: string, options: CountOptions = {}): Promise<number> {
    return this.opened.listing.count(this.#prefix + key, options);
  }

  list(prefix: string, options: ListOptions = {}): AsyncIterable<BlobInfo> {
    return this.opened.listing.blobs(prefix, options);
  }

  async ready(options: CallOptions = {}): Promise<void> {
    if (performance.now() < this.#readyUntil) return;
    const query = { restype: 'container' };
    discard((await this.opened.send({ method: 'HEAD', query, signal: options.signal })).body);
    this.#readyUntil = performance.now() + readyForMs;
  }

  settings(options: CallOptions = {}): Promise<BucketSettings> {
    return azureSettings(this.opened, this.#versioning, options);
  }

  async #putWhole(key: string, bytes: Uint8Array, options: PutOptions): Promise<PutResult> {
    const md5 = md5Of(bytes);
    const headers = {
      ...newBlobHeaders(options),
      'x-ms-blob-type': 'BlockBlob',
      ...(md5 === undefined ? {} : { 'content-md5': md5 }),
    };
    try {
      return await this.#create({ name: this.#prefix + key, headers, body: bytes, signal: options.signal });
    } catch (error) {
      if (options.overwrite || !mayStandThere(error)) throw error;
      if (await this.#standsThere(key, options)) return { outcome: 'exists' };
      if (!hasAzureCode(error, 'BlobAlreadyExists', 'ConditionNotMet')) throw error;
      // Azurite takes blocks that an upload under way or a broken one has staged for a blob; a commit is not refused so
      const id = blockNames()();
      await this.#stage(key, id, bytes, options);
      return this.#commit(key, bytes.length === 0 ? [] : [id], options);
    }
  }

  async #stage(key: string, id: string, bytes: Uint8Array, { signal }: PutOptions): Promise<void> {
    if (bytes.length === 0) return; // Azure has no empty blocks
    const md5 = md5Of(bytes);
    const headers = md5 === undefined ? {} : { 'content-md5': md5 };
    const query = { comp: 'block', blockid: id };
    const request: AzureRequest = { method: 'PUT', name: this.#prefix + key, query, headers, body: bytes, signal };
    discard((await this.opened.send(request)).body);
  }

  async #commit(key: string, ids: readonly string[], options: PutOptions): Promise<PutResult> {
    const headers = { ...newBlobHeaders(options), 'x-ms-blob-content-type': 'application/octet-stream' };
    const query = { comp: 'blocklist' };
    const { signal } = options;
    try {
      return await this.#create({ name: this.#prefix + key, query, headers, body: blockList(ids), signal });
    } catch (error) {
      if (!mayStandThere(error)) throw error;
      if (!options.overwrite && (await this.#standsThere(key, options))) return { outcome: 'exists' };
      throw isLpsError(error, 'STORE_UNAVAILABLE') ? error : lostRace(error);
    }
  }

  async #create(request: Omit<AzureRequest, 'method'>): Promise<PutResult> {
    const response = await this.opened.send({ ...request, method: 'PUT' });
    discard(response.body);
    this.#versioning = response.headers['x-ms-version-id'] === undefined ? 'off' : 'on';
    return { outcome: 'created' };
  }

  async #find(request: AzureRequest): Promise<TransportResponse | undefined> {
    try {
      const response = await this.opened.send(request);
      if (response.headers['x-ms-version-id'] !== undefined) this.#versioning = 'on';
      return response;
    } catch (error) {
      // a 404 of something between us and Azure does not mean that the blob is gone
      if (hasAzureCode(error, 'BlobNotFound')) return undefined;
      throw error;
    }
  }

  async #standsThere(key: string, options: CallOptions): Promise<boolean> {
    try {
      return (await this.head(key, options)) !== undefined;
    } catch {
      // the put's own error says more
      return false;
    }
  }
}

/**
 * Whether a put may have failed because the blob is there: Azure says so, or another put's commit took our blocks from the
 * list, or the answer was lost.
 */
function mayStandThere(error: unknown): error is LpsError {
  if (hasAzureCode(error, 'BlobAlreadyExists', 'ConditionNotMet', 'InvalidBlockList')) return true;
  return isLpsError(error, 'STORE_UNAVAILABLE') && error.details.reset === true;
}

/** Another put was faster, and what it wrote is not there any more, or was to be overwritten. */
function lostRace(cause: LpsError): LpsError {
  return new LpsError('TRY_AGAIN', 'another upload of the blob was faster', { details: cause.details, cause });
}

function newBlobHeaders({ overwrite }: PutOptions): Record<string, string> {
  const type = { 'content-type': 'application/octet-stream' };
  return overwrite ? type : { ...type, 'if-none-match': '*' };
}
