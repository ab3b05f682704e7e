/**
 * The gcs store without the checks of its layer.
 *
 *   put     POST /upload/storage/v1/b/BUCKET/o?uploadType=multipart&ifGenerationMatch=0        see gcs-upload.ts
 *             200 created · 412 exists · 400 wrong MD5, nothing is kept
 *   get     GET  /storage/v1/b/BUCKET/o/NAME?alt=media        Range when asked
 *   head    the same without alt=media: the object's description
 *   delete  GET  /storage/v1/b/BUCKET/o?versions=true         every generation of this name,
 *           DELETE …/o/NAME?generation=N                      each for good, the readable one last
 *   list    GET  /storage/v1/b/BUCKET/o?prefix=…
 *   presign GET  /BUCKET/NAME?X-Goog-…                        by whoever has the URL, see gcs-presign.ts
 *
 * An object's name is `prefix` + key, the key's leading slash included, as the Go service has it.
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
import type { GcsStoreOptions } from './gcs.js';
import { saysNoObject, saysNotFound } from './gcs-errors.js';
import { gcsPresignGet } from './gcs-presign.js';
import { type GcsRequest, gcsSender, readJson, type SendToGcs } from './gcs-request.js';
import { type ImportGcsSdk, type OpenedGcs, openGcsSdk } from './gcs-sdk.js';
import { gcsSettings, keepsVersions } from './gcs-settings.js';
import { gcsUpload } from './gcs-upload.js';
import { collect, objectOf, wholeBytes } from './http-object.js';
import { repeated } from './repeated.js';

const readyForMs = 1_000;

/** For tests: the store that believes its caller, with another way to import the SDK. */
export async function openRawGcsStore(
  options: GcsStoreOptions,
  importSdk: ImportGcsSdk = () => import('@google-cloud/storage'),
): Promise<BlobStore> {
  const { maxSockets, connectTimeoutMs, idleTimeoutMs } = options;
  const transport = openTransport({
    errorCode: 'STORE_UNAVAILABLE',
    peerName: 'the GCS server',
    ...(maxSockets === undefined ? {} : { maxSockets }),
    ...(connectTimeoutMs === undefined ? {} : { connectTimeoutMs }),
    ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
  });
  try {
    const store = new GcsStore(options, await openGcsSdk(options, importSdk), transport);
    await store.detectVersions();
    return store;
  } catch (error) {
    await transport.close();
    throw error;
  }
}

/** As much of an object's description as we ask for. Numbers are texts: they may be larger than JavaScript's. */
interface GcsObject {
  readonly name: string;
  readonly size: string;
  readonly updated?: string;
  readonly generation: string;
  /** When it stopped being the readable one. */
  readonly timeDeleted?: string;
  /** When it was deleted for good, but for the bucket's soft delete policy. */
  readonly softDeleteTime?: string;
  readonly md5Hash?: string;
}

interface GcsPage {
  readonly items?: readonly GcsObject[];
  readonly nextPageToken?: string;
}

class GcsStore implements BlobStore {
  readonly name = 'gcs';
  readonly can: BlobStore['can'];
  readonly #prefix: string;
  readonly #send: SendToGcs;
  #versioned = false;
  #readyUntil = 0;
  /** Absent where there are no credentials that could sign. */
  readonly presignGet?: NonNullable<BlobStore['presignGet']>;

  constructor(
    readonly options: GcsStoreOptions,
    readonly opened: OpenedGcs,
    readonly transport: Transport,
  ) {
    this.#prefix = options.prefix ?? '';
    this.#send = gcsSender(transport, opened, options.bucket);
    const { origin, signing } = opened;
    if (signing !== undefined) {
      this.presignGet = gcsPresignGet({ origin, bucket: options.bucket, prefix: this.#prefix, signing });
    }
    const hasVersions = (): boolean => this.#versioned;
    this.can = {
      range: true,
      list: true,
      delete: true,
      // versions may be switched on while we run; lists show it
      get versions() {
        return hasVersions();
      },
    };
  }

  async detectVersions(): Promise<void> {
    try {
      this.#versioned = await keepsVersions(this.#send);
    } catch (error) {
      // away at the start: lists show it as well
      if (!isLpsError(error, 'STORE_UNAVAILABLE')) throw error;
    }
  }

  close(): Promise<void> {
    return this.transport.close();
  }

  async put(key: string, body: Body, expect: Expected, options: PutOptions = {}): Promise<PutResult> {
    const { overwrite = false, signal } = options;
    const blob = isBytes(body) || expect.size > wholeBytes ? body : await collect(body, expect.size);
    const upload = (): Promise<void> => this.#upload(key, blob, expect.size, options);
    try {
      await (isBytes(blob) ? repeated(signal, upload) : upload());
      return { outcome: 'created' };
    } catch (error) {
      discard(body);
      if (overwrite || !isLpsError(error)) throw error;
      if (error.details.status === 412) return { outcome: 'exists' };
      if (mayStandThere(error) && (await this.#standsThere(key, options))) return { outcome: 'exists' };
      throw error;
    }
  }

  async get(key: string, options: GetOptions = {}): Promise<StoredBlob | undefined> {
    const { range, signal } = options;
    const headers = range === undefined ? {} : { range: `bytes=${range.start}-${range.end}` };
    const request: GcsRequest = { method: 'GET', name: this.#prefix + key, query: { alt: 'media' }, headers, signal };
    let response: TransportResponse;
    try {
      response = await this.#send(request);
    } catch (error) {
      if (!isLpsError(error) || error.details.status !== 404) throw error;
      // in plain text, which others may send as well: only the description is told to be absent in JSON
      if (saysNoObject(error) || (await this.head(key, options)) === undefined) return undefined;
      throw error;
    }
    return objectOf(key, response, range);
  }

  async head(key: string, options: CallOptions = {}): Promise<BlobInfo | undefined> {
    try {
      const query = { fields: 'size,updated' };
      const request: GcsRequest = { method: 'GET', name: this.#prefix + key, query, signal: options.signal };
      return infoOf(key, await readJson<GcsObject>(await this.#send(request)));
    } catch (error) {
      if (!saysNotFound(error)) throw error;
      if (!saysNoObject(error)) await this.#bucketExists(options);
      return undefined;
    }
  }

  async delete(key: string, options: CallOptions = {}): Promise<boolean> {
    const name = this.#prefix + key;
    const generations = await this.#generations(name, { versions: 'true' }, options);
    // one that breaks off leaves what a head still sees
    generations.sort((a, b) => Number(a.timeDeleted === undefined) - Number(b.timeDeleted === undefined));
    for (const { generation, timeDeleted } of generations) {
      if (timeDeleted !== undefined) this.#versioned = true;
      await this.#deleteGeneration(name, generation, options);
    }
    return generations.length > 0;
  }

  async countVersions(key: string, options: CountOptions = {}): Promise<number> {
    const name = this.#prefix + key;
    const { length } = await this.#generations(name, { versions: 'true' }, options);
    if (options.withUnreachable !== true) return length;
    const softDeleted = await this.#generations(name, { softDeleted: 'true' }, options);
    // a server that does not know the question lists what is live
    return length + softDeleted.filter(({ softDeleteTime }) => softDeleteTime !== undefined).length;
  }

  async *list(prefix: string, options: ListOptions = {}): AsyncIterable<BlobInfo> {
    const after = options.after === undefined ? undefined : this.#prefix + options.after;
    const fields = 'items(name,size,updated),nextPageToken';
    const query = { prefix: this.#prefix + prefix, startOffset: after, fields };
    for await (const object of this.#objects(query, options)) {
      // the offset itself is listed, too
      if (object.name !== after) yield infoOf(object.name.slice(this.#prefix.length), object);
    }
  }

  async ready(options: CallOptions = {}): Promise<void> {
    if (performance.now() < this.#readyUntil) return;
    const query = { maxResults: '1', prefix: this.#prefix, fields: 'kind' };
    discard((await this.#send({ method: 'GET', path: 'o', query, signal: options.signal })).body);
    this.#readyUntil = performance.now() + readyForMs;
  }

  settings(options: CallOptions = {}): Promise<BucketSettings> {
    return gcsSettings(this.#send, this.transport, this.opened.origin, options);
  }

  async #upload(key: string, blob: Body, size: number, { overwrite, signal }: PutOptions): Promise<void> {
    const name = this.#prefix + key;
    const { headers, body, md5 } = gcsUpload(name, blob, size);
    const query = {
      uploadType: 'multipart',
      ifGenerationMatch: overwrite ? undefined : '0',
      fields: 'name,size,generation,md5Hash',
    };
    const response = await this.#send({ method: 'POST', path: 'o', isUpload: true, query, headers, body, signal });
    if (!response.sent) {
      discard(response.body);
      throw new LpsError('STORE_UNAVAILABLE', 'GCS answered before it had the bytes');
    }
    const stored = await readJson<GcsObject>(response);
    const sentMd5 = md5();
    const isRight =
      stored.size === String(size) &&
      (sentMd5 === undefined || stored.md5Hash === undefined || stored.md5Hash === sentMd5);
    if (isRight) return;
    await this.#deleteGeneration(name, stored.generation, {});
    throw new LpsError('DIGEST_MISMATCH', 'GCS stored other bytes than those that were sent; they are removed again');
  }

  async #deleteGeneration(name: string, generation: string, { signal }: CallOptions): Promise<void> {
    try {
      discard((await this.#send({ method: 'DELETE', name, query: { generation }, signal })).body);
    } catch (error) {
      if (!saysNotFound(error)) throw error; // another was faster
    }
  }

  /** Of exactly this name. */
  async #generations(name: string, which: GcsRequest['query'], options: CallOptions): Promise<GcsObject[]> {
    const found: GcsObject[] = [];
    const fields = 'items(name,generation,timeDeleted,softDeleteTime),nextPageToken';
    for await (const object of this.#objects({ ...which, prefix: name, fields }, options)) {
      if (object.name === name) found.push(object);
    }
    return found;
  }

  async *#objects(query: GcsRequest['query'], { signal }: CallOptions): AsyncIterable<GcsObject> {
    let pageToken: string | undefined;
    do {
      const request: GcsRequest = {
        method: 'GET',
        path: 'o',
        query: { ...query, maxResults: '1000', pageToken },
        signal,
      };
      const page: GcsPage = await readJson<GcsPage>(await this.#send(request));
      yield* page.items ?? [];
      pageToken = page.nextPageToken;
    } while (pageToken !== undefined);
  }

  async #standsThere(key: string, options: CallOptions): Promise<boolean> {
    try {
      return (await this.head(key, options)) !== undefined;
    } catch {
      // the put's own error says more
      return false;
    }
  }

  async #bucketExists(options: CallOptions): Promise<void> {
    try {
      await this.ready(options);
    } catch (error) {
      // whoever may not list the bucket has at least reached it
      if (!isLpsError(error) || error.details.status !== 403) throw error;
    }
  }
}

/**
 * Whether a put may have failed because the object is there: GCS said 412 and closed the connection while we were
 * sending, so that the answer was lost; or many put one object at once, and it wants fewer requests about one (429).
 */
function mayStandThere(error: LpsError): boolean {
  return error.code === 'TRY_AGAIN' || error.details.reset === true || error.details.status === 429;
}

function infoOf(key: string, { size, updated }: GcsObject): BlobInfo {
  if (!/^\d+$/.test(size)) throw new LpsError('STORE_UNAVAILABLE', 'GCS did not say how large the object is');
  return { key, size: Number(size), ...(updated === undefined ? {} : { modifiedAt: new Date(updated) }) };
}
