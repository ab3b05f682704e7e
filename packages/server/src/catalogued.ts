/**
 * Any store with the catalog beside it: rows, leases, touches, states. To the routes it is a `BlobStore` like any other.
 *
 *   put   begin ── present ──────────────────────────────► exists, body unread   (the store is asked too when a touch was due)
 *           └── lease ── store.put ── created ── commit ─► created
 *                             └────── exists ─── hash it ► exists, or damaged: the next upload takes the body
 *   get   row ── live ── touch when due ── store.get ────► body; a wrong or missing object makes the row damaged
 *           ├── taken down ──────────────────────────────► BLOB_TAKEN_DOWN
 *           ├── absent ─ may it be taken in? ─ store.get, hashed on its way ► body; at its clean end the object is adopted
 *           └── Postgres down ── store, then list {key}~ ► body
 *   presignGet   row, touch, as a get ── the store's own ► a URL; who reads from it checks the bytes
 */
import {
  type BlobInfo,
  type BlobKey,
  type BlobStore,
  type Body,
  type CallOptions,
  type Clock,
  discard,
  type Expected,
  type GetOptions,
  isBytes,
  isLpsError,
  LpsError,
  type PutOptions,
  type PutResult,
  parseKey,
  passThrough,
  type StoredBlob,
  statOf,
  systemClock,
} from '@large-payload/core';
import { type BlobRow, type Catalog, type Lease, takenDown } from './catalog/catalog.js';
import { hashObject } from './hash-object.js';
import { whileLeased } from './kept-lease.js';
import { withoutCatalog } from './nodes/running-reads.js';

/** Told of what an operator must know; `lps_alarms_total` counts them by kind. */
export interface Alarms {
  raise(
    kind: 'damaged' | 'missing' | 'catalog_unavailable' | 'adoption_failed',
    details: Record<string, unknown>,
  ): void;
}

export interface CataloguedOptions {
  /** The store below any cache: what stands there is hashed, not what was read once. Default: the store itself. */
  readonly source?: BlobStore;
  readonly catalog: Catalog;
  readonly alarms: Alarms;
  /** Prolong a lease this often while bytes flow, in ms: well below the lease's own time. */
  readonly renewMs: number;
  /** That time: an upload whose lease was not renewed for so long gives up. Default: three times `renewMs`. */
  readonly leaseMs?: number;
  /** For tests. */
  readonly clock?: Pick<Clock, 'monotonicMs' | 'sleep'>;
}

/** Keys that are not a client's (the service's own objects, v1's) go straight to the store. */
export function catalogued(store: BlobStore, options: CataloguedOptions): BlobStore {
  const layer = new Catalogued(store, options);
  return {
    ...passThrough(store),
    can: { ...store.can, delete: false },
    put: (key, body, expect, putOptions) => layer.put(key, body, expect, putOptions),
    get: (key, getOptions) => layer.get(key, getOptions),
    head: (key, callOptions) => layer.head(key, callOptions),
    stat: (keys, callOptions) => layer.stat(keys, callOptions),
    delete: async () => {
      throw new LpsError('NOT_SUPPORTED', 'a blob is deleted by the collection or by a takedown, not by its key');
    },
    list: (prefix, listOptions) => layer.list(prefix, listOptions),
    ...presigning(layer, options.source ?? store),
    ready: async (callOptions) => {
      await options.catalog.ping();
      await store.ready?.(callOptions);
    },
  };
}

function presigning(layer: Catalogued, source: BlobStore): Pick<BlobStore, 'presignGet'> {
  const { presignGet } = source;
  if (presignGet === undefined) return {};
  return {
    async presignGet(key, options) {
      const physicalKey = await layer.locate(key);
      if (physicalKey === undefined) throw new LpsError('BLOB_NOT_FOUND', 'blob not found');
      return presignGet.call(source, physicalKey, options);
    },
  };
}

class Catalogued {
  readonly #catalog: Catalog;
  readonly #source: BlobStore;
  readonly #clock: Pick<Clock, 'monotonicMs' | 'sleep'>;
  /** One hashing of a stored object at a time, however many wait for it; bounded by the requests under way. */
  readonly #hashing = new Map<string, Promise<number | undefined>>();
  /**
   * Marks under way, by logical key: who was cut off by damage and comes back at once meets the marked row. Bounded by the
   * requests under way.
   */
  readonly #marking = new Map<string, Promise<void>>();

  constructor(
    readonly store: BlobStore,
    readonly options: CataloguedOptions,
  ) {
    this.#catalog = options.catalog;
    this.#source = options.source ?? store;
    this.#clock = options.clock ?? systemClock;
  }

  async put(key: string, body: Body, expect: Expected, options: PutOptions = {}): Promise<PutResult> {
    const blob = parseKey(key);
    if (blob.digest !== expect.digest)
      throw new LpsError('INVALID_ARGUMENT', 'the key and the digest name different bytes');
    await this.#marking.get(key);
    const askedAtMs = this.#clock.monotonicMs();
    const beginning = await this.#catalog.begin(blob, expect.size);
    if (beginning.kind === 'upload') return this.#upload(blob, beginning.lease, askedAtMs, body, expect, options);
    const { row, touched } = beginning;
    if (row.size !== expect.size) {
      throw new LpsError('SIZE_MISMATCH', `the blob of this digest has ${row.size} bytes, not ${expect.size}`);
    }
    if (!touched || (await this.#isThere(row, options)))
      return { outcome: 'exists', protectedUntil: row.protectedUntil };
    // removed behind our back, and marked so: this upload brings it back
    const askedAgainAtMs = this.#clock.monotonicMs();
    const again = await this.#catalog.begin(blob, expect.size);
    if (again.kind === 'present') return { outcome: 'exists', protectedUntil: again.row.protectedUntil };
    return this.#upload(blob, again.lease, askedAgainAtMs, body, expect, options);
  }

  async get(key: string, options: GetOptions = {}): Promise<StoredBlob | undefined> {
    const blob = clientKey(key);
    if (blob === undefined) return this.store.get(key, options);
    const row = await this.#rowOrDown(blob, key);
    if (row === 'down') return this.#getWithoutCatalog(key, options);
    if (row === undefined || row.state === 'uploading')
      return this.#getUnknown(blob, key, row?.physicalKey ?? key, options);
    if (!isReadable(row)) return undefined;
    const used = await this.#touchOrGoOn(row);
    if (!isReadable(used)) return undefined; // it left `live` meanwhile
    const found = await this.#getPhysical(used, options);
    return { body: found.body, info: { ...found.info, key, protectedUntil: used.protectedUntil } };
  }

  /** Where a readable blob lies in the store; a use of it is written down when that is due. Throws while Postgres is away. */
  async locate(key: string): Promise<string | undefined> {
    await this.#marking.get(key);
    const row = await this.#catalog.lookup(parseKey(key));
    if (row === undefined || row.state === 'uploading' || !isReadable(row)) return undefined;
    const used = await this.#touchOrGoOn(row);
    return isReadable(used) ? used.physicalKey : undefined;
  }

  async head(key: string, options: CallOptions = {}): Promise<BlobInfo | undefined> {
    const blob = clientKey(key);
    if (blob === undefined) return this.store.head(key, options);
    const row = await this.#rowOrDown(blob, key);
    if (row === 'down') return this.#headWithoutCatalog(key, options);
    if (row === undefined || row.state === 'uploading') return this.#adopt(blob, row?.physicalKey ?? key, options);
    if (!isReadable(row)) return undefined;
    try {
      return (await this.#use([row], 'read', options)).get(key);
    } catch (error) {
      if (!isLpsError(error, 'CATALOG_UNAVAILABLE')) throw error;
      return this.#headWithoutCatalog(key, options);
    }
  }

  /**
   * Clients ask before they upload. Answers from the catalog alone: an object that it does not know counts as absent, and the
   * upload that follows adopts it.
   */
  async stat(keys: readonly string[], options: CallOptions = {}): Promise<Map<string, BlobInfo>> {
    const blobs = keys.map((key) => parseKey(key));
    try {
      const rows = await this.#catalog.lookupMany(blobs);
      return await this.#use(
        rows.filter((row) => row.state === 'live' || row.state === 'quarantined'),
        'upload',
        options,
      );
    } catch (error) {
      if (!isLpsError(error, 'CATALOG_UNAVAILABLE')) throw error;
      return statOf(this.store, keys, options);
    }
  }

  async *list(prefix: string, options?: Parameters<BlobStore['list']>[1]): AsyncIterable<BlobInfo> {
    for await (const info of this.store.list(prefix, options)) {
      if (!info.key.startsWith('.lps/')) yield { ...info, key: info.key.replace(/~[0-9a-z]{16}$/, '') };
    }
  }

  async #upload(
    blob: BlobKey,
    lease: Lease,
    askedAtMs: number,
    body: Body,
    expect: Expected,
    options: PutOptions,
  ): Promise<PutResult> {
    const { renewMs, leaseMs = 3 * renewMs } = this.options;
    const renew = (): Promise<boolean> => this.#catalog.renew(lease);
    try {
      return await whileLeased({ renew, askedAtMs, leaseMs, renewMs, clock: this.#clock }, (lost) => {
        const signal = options.signal === undefined ? lost : AbortSignal.any([options.signal, lost]);
        return this.#putAndCommit(blob, lease, body, expect, { ...options, signal });
      });
    } catch (error) {
      await this.#catalog.abandon(lease);
      throw error;
    }
  }

  async #putAndCommit(
    blob: BlobKey,
    lease: Lease,
    body: Body,
    expect: Expected,
    options: PutOptions & { readonly signal: AbortSignal },
  ): Promise<PutResult> {
    const { outcome } = await this.store.put(lease.physicalKey, body, expect, {
      ...options,
      overwrite: lease.overwrite,
    });
    if (outcome === 'exists' && !(await this.#isRight(blob, lease, body, expect, options))) {
      throw new LpsError('TRY_AGAIN', 'a damaged object stood here; send the blob again');
    }
    options.signal.throwIfAborted();
    const commit = await this.#catalog.commit(lease, expect.size);
    // sent again it is new data, unless that is blocked
    if (commit === undefined)
      throw new LpsError('TRY_AGAIN', 'the blob was deleted or taken down while it was uploaded; send it again');
    const created = outcome === 'created' && commit.outcome === 'created';
    return { outcome: created ? 'created' : 'exists', protectedUntil: commit.row.protectedUntil };
  }

  /** Whether the object that a put met is right: committed by another upload, or else hashed now, and healed when we can. */
  async #isRight(blob: BlobKey, lease: Lease, body: Body, expect: Expected, options: PutOptions): Promise<boolean> {
    const row = await this.#catalog.lookup(blob);
    if (row?.state === 'live' && row.generation === lease.generation) return true;
    const size = await this.#hash(lease.physicalKey, options);
    if (size === expect.size) return true;
    if (isBytes(body)) {
      await this.store.put(lease.physicalKey, body, expect, { ...options, overwrite: true });
      return true;
    }
    await this.#damaged({ ...lease, id: lease.blobId }, 'damaged');
    return false;
  }

  /** Reads a stored object to its end. Its size when it is right, `undefined` when it is absent or damaged. */
  async #hash(physicalKey: string, options: CallOptions): Promise<number | undefined> {
    let running = this.#hashing.get(physicalKey);
    if (running === undefined) {
      // not the caller's signal: others wait for the same outcome
      running = hashObject(this.#source, physicalKey).finally(() => this.#hashing.delete(physicalKey));
      this.#hashing.set(physicalKey, running);
    }
    const size = await running;
    options.signal?.throwIfAborted();
    return size;
  }

  async #rowOrDown(blob: BlobKey, key: string): Promise<BlobRow | undefined | 'down'> {
    await this.#marking.get(key);
    try {
      return await this.#catalog.lookup(blob);
    } catch (error) {
      if (!isLpsError(error, 'CATALOG_UNAVAILABLE')) throw error;
      this.options.alarms.raise('catalog_unavailable', {});
      return 'down';
    }
  }

  async #touchOrGoOn(row: BlobRow): Promise<BlobRow> {
    if (!row.touchDue && row.state === 'live') return row;
    try {
      return (await this.#catalog.touch([row]))[0] ?? row;
    } catch (error) {
      // reads go on without Postgres; what the row said before still holds
      if (!isLpsError(error, 'CATALOG_UNAVAILABLE')) throw error;
      return row;
    }
  }

  async #getPhysical(row: BlobRow, options: GetOptions): Promise<StoredBlob> {
    let found: StoredBlob | undefined;
    try {
      found = await this.store.get(row.physicalKey, options);
    } catch (error) {
      if (isLpsError(error, 'BLOB_DAMAGED')) await this.#damaged(row, 'damaged');
      throw error;
    }
    if (found === undefined) {
      await this.#damaged(row, 'missing');
      throw new LpsError('BLOB_DAMAGED', 'the blob is known, but the store has lost it; upload it again');
    }
    if (found.info.size !== row.size) {
      discard(found.body);
      await this.#damaged(row, 'damaged');
      throw new LpsError('BLOB_DAMAGED', 'the stored object is not as long as the blob; upload it again');
    }
    if (!isBytes(found.body)) {
      found.body.once('error', (error) => {
        if (isLpsError(error, 'BLOB_DAMAGED')) void this.#damaged(row, 'damaged');
      });
    }
    return found;
  }

  /** An object that the catalog does not know, perhaps of the Go service: served while it is hashed, then adopted. */
  async #getUnknown(
    blob: BlobKey,
    key: string,
    physicalKey: string,
    options: GetOptions,
  ): Promise<StoredBlob | undefined> {
    const named = (found: StoredBlob | undefined) => found && { ...found, info: { ...found.info, key } };
    if (options.range !== undefined) {
      const info = await this.#adopt(blob, physicalKey, options);
      return info && named(await this.store.get(physicalKey, options));
    }
    const found = await this.#source.get(physicalKey, options);
    if (found === undefined) return undefined;
    const wasAsked = await this.#mayTakeIn(blob, physicalKey).catch((error: unknown) => {
      discard(found.body);
      throw error;
    });
    const { size } = found.info;
    if (isBytes(found.body)) await this.#adoptOrGoOn(blob, physicalKey, size);
    else found.body.once('end', () => void this.#adoptOrGoOn(blob, physicalKey, size));
    return wasAsked ? named(found) : withoutCatalog({ ...found, info: { ...found.info, key } });
  }

  async #adopt(blob: BlobKey, physicalKey: string, options: CallOptions): Promise<BlobInfo | undefined> {
    if ((await this.store.head(physicalKey, options)) === undefined) return undefined;
    await this.#mayTakeIn(blob, physicalKey);
    const size = await this.#hash(physicalKey, options);
    if (size === undefined) return undefined;
    const row = await this.#catalog.adopt(blob, physicalKey, size);
    return row && infoOf(row);
  }

  /**
   * Throws BLOB_TAKEN_DOWN, BLOB_BLOCKED. `false`: what Postgres cannot say any more is read as if it had been away before.
   */
  async #mayTakeIn(blob: BlobKey, physicalKey: string): Promise<boolean> {
    try {
      await this.#catalog.mayTakeIn(blob, physicalKey);
      return true;
    } catch (error) {
      if (!isLpsError(error, 'CATALOG_UNAVAILABLE')) throw error;
      return false;
    }
  }

  async #adoptOrGoOn(blob: BlobKey, physicalKey: string, size: number): Promise<void> {
    try {
      await this.#catalog.adopt(blob, physicalKey, size);
    } catch (error) {
      this.options.alarms.raise('adoption_failed', { key: physicalKey, err: error });
    }
  }

  /** Touches rows where that is due, and asks the store about those; what it lost is left out. */
  async #use(rows: readonly BlobRow[], use: 'read' | 'upload', options: CallOptions): Promise<Map<string, BlobInfo>> {
    const due = rows.filter((row) => row.touchDue || row.state !== 'live');
    const touched = new Map((await this.#touchAll(due, use)).map((row) => [row.id, row]));
    const present = await statOf(
      this.store,
      [...touched.values()].map((row) => row.physicalKey),
      options,
    );
    const infos = new Map<string, BlobInfo>();
    for (const before of rows) {
      const row = touched.get(before.id) ?? before;
      if (use === 'read') isReadable(row);
      if (row.state !== 'live') continue; // it left meanwhile, or the touch did not revive it
      if (touched.has(row.id) && !present.has(row.physicalKey)) await this.#damaged(row, 'missing');
      else if (touched.has(row.id) || !due.includes(before)) infos.set(row.key, infoOf(row));
    }
    return infos;
  }

  async #touchAll(rows: readonly BlobRow[], use: 'read' | 'upload'): Promise<BlobRow[]> {
    return rows.length === 0 ? [] : this.#catalog.touch(rows, use);
  }

  async #isThere(row: BlobRow, options: CallOptions): Promise<boolean> {
    const info = await this.store.head(row.physicalKey, options);
    if (info?.size === row.size) return true;
    await this.#damaged(row, info === undefined ? 'missing' : 'damaged');
    return false;
  }

  /** Never throws: when Postgres is away, the next reader finds the damage again. */
  #damaged(
    object: Pick<BlobRow, 'id' | 'generation' | 'key' | 'physicalKey'>,
    kind: 'damaged' | 'missing',
  ): Promise<void> {
    const { key, physicalKey } = object;
    this.options.alarms.raise(kind, { key: physicalKey });
    const marked: Promise<void> = this.#catalog
      .markDamaged(object)
      .catch(() => this.options.alarms.raise('catalog_unavailable', {}))
      .finally(() => {
        if (this.#marking.get(key) === marked) this.#marking.delete(key);
      });
    this.#marking.set(key, marked);
    return marked;
  }

  /** Past every cache: what was taken down meanwhile is gone from the store, and nobody could tell us. */
  async #getWithoutCatalog(key: string, options: GetOptions): Promise<StoredBlob | undefined> {
    const first = await this.#source.get(key, options);
    if (first !== undefined || !this.#source.can.list) return first && withoutCatalog(first);
    for await (const info of this.#source.list(`${key}~`)) {
      const found = await this.#source.get(info.key, options);
      if (found !== undefined) return withoutCatalog({ body: found.body, info: { ...found.info, key } });
    }
    return undefined;
  }

  async #headWithoutCatalog(key: string, options: CallOptions): Promise<BlobInfo | undefined> {
    const found = await this.#getWithoutCatalog(key, options);
    if (found !== undefined) discard(found.body);
    return found?.info;
  }
}

/** Takes a client's key apart; `undefined` for the service's own objects and those of v1. */
function clientKey(key: string): BlobKey | undefined {
  return key.startsWith('/') ? parseKey(key) : undefined;
}

/** What is damaged or was taken down throws, so that it can be told from what never was. */
function isReadable(row: BlobRow): boolean {
  if (row.state === 'taken_down') throw takenDown();
  if (row.state === 'damaged') {
    throw new LpsError('BLOB_DAMAGED', 'the stored bytes are missing or wrong; upload the blob again');
  }
  return row.state === 'live' || row.state === 'quarantined';
}

function infoOf(row: BlobRow): BlobInfo {
  return { key: row.key, size: row.size, protectedUntil: row.protectedUntil };
}
