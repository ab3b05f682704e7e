/** For tests: a catalog and a store with faults, as a service would have left them. */
import { randomBytes } from 'node:crypto';
import {
  type BlobInfo,
  type BlobStore,
  checked,
  digestOf,
  isBytes,
  keyFor,
  LpsError,
  memoryStore,
  newGeneration,
  parseKey,
} from '@large-payload/core';
import { claimStore } from '../bucket-owner.js';
import { type CareCatalog, openCareCatalog } from '../catalog/care-catalog.js';
import type { BlobState, Catalog } from '../catalog/catalog.js';
import { type CatalogFixture, openFixture } from '../catalog/postgres-catalog-fixture.js';
import type { Finding } from './finding.js';
import { type ReconcileCounts, type ReconcileOptions, reconcile } from './reconcile.js';
import { type ScrubOptions, type ScrubReport, scrub } from './scrub.js';

/** What is wrong with the store at the moment. Names of objects. */
export interface Faults {
  /** Read with a flipped bit, so many times; `Infinity` is damage. */
  readonly flips: Map<string, number>;
  /** Reads fail, whatever they ask for. */
  readonly failing: Set<string>;
  isAway: boolean;
  /** A listing fails after so many objects. */
  listFailsAfter: number;
  /** In another order than that of the names. */
  isShuffled: boolean;
  /** Runs before an object (not one of the service's own) is read. */
  onGet: (key: string) => Promise<void> | void;
  /** What was read, in order. */
  readonly gets: string[];
  /** Written so long after the others: by name. */
  readonly modifiedAt: Map<string, Date>;
}

/** A row as it stands in the table. */
export type TableRow = Record<string, unknown> & { readonly id: string; readonly state: BlobState };

export interface Place {
  readonly fixture: CatalogFixture;
  /** As a service has it. */
  readonly catalog: Catalog;
  readonly care: CareCatalog;
  readonly store: BlobStore;
  readonly faults: Faults;
  /** Uploads a blob as a service does; its key. */
  upload(options?: { size?: number; namespace?: string; prefix?: string }): Promise<string>;
  /** Puts an object beside the catalog, at a later generation of its key if that is asked for; its name. */
  object(options?: { key?: string; generation?: string; bytes?: Buffer }): Promise<string>;
  bytesAt(name: string): Buffer;
  rows(): Promise<TableRow[]>;
  row(key: string): Promise<TableRow>;
  /** Changes rows directly. `$1` is the id of the key's row. */
  change(key: string, set: string): Promise<void>;
  scrub(options?: Partial<ScrubOptions>): Promise<ScrubReport & { readonly findings: string[] }>;
  reconcile(options?: Partial<ReconcileOptions>): Promise<ReconcileCounts & { readonly findings: string[] }>;
  close(): Promise<void>;
}

export async function openPlace(url: string): Promise<Place> {
  const fixture = openFixture(url);
  const catalog = await fixture.open({ cacheEntries: 0 });
  const care = await openCareCatalog({ url, schema: fixture.schema });
  const faults: Faults = {
    flips: new Map(),
    failing: new Set(),
    isAway: false,
    listFailsAfter: Number.POSITIVE_INFINITY,
    isShuffled: false,
    onGet: () => undefined,
    gets: [],
    modifiedAt: new Map(),
  };
  const contents = new Map<string, Buffer>();
  const store = checked(withFaults(memoryStore(), faults));
  await claimStore(store, care.id);
  const query = async (text: string, values: unknown[] = []): Promise<TableRow[]> =>
    (await fixture.sql.query<TableRow>(text.replaceAll('blob', `${fixture.schema}.blob`), values)).rows;
  const rowOf = async (key: string): Promise<TableRow> => {
    const { id } = (await catalog.lookup(parseKey(key))) ?? {};
    const [row] = await query('SELECT * FROM blob WHERE id = $1', [id]);
    if (row === undefined) throw new Error(`no row for ${key}`);
    return row;
  };
  const common = { catalog: care, store, maxBytesPerSecond: 0, concurrency: 4, retryMs: 1 };
  const idle = { signal: new AbortController().signal };
  const collect = (): { findings: string[]; onFinding: (finding: Finding) => void } => {
    const findings: string[] = [];
    return { findings, onFinding: ({ kind, note, key }) => findings.push(`${kind}: ${note}: ${key}`) };
  };
  return {
    fixture,
    catalog,
    care,
    store,
    faults,
    async upload({ size = 1000, namespace = 'orders', prefix } = {}) {
      const bytes = randomBytes(size);
      const metadata = prefix === undefined ? null : { 'remote-codec/key-prefix': Buffer.from(prefix) };
      const key = keyFor(namespace, digestOf(bytes), metadata);
      const expect = { digest: digestOf(bytes), size };
      const beginning = await catalog.begin(parseKey(key), size);
      if (beginning.kind !== 'upload') throw new Error('the blob is present');
      await store.put(key, bytes, expect);
      await catalog.commit(beginning.lease, size);
      contents.set(key, bytes);
      return key;
    },
    async object({ key, generation, bytes = key === undefined ? randomBytes(1000) : contents.get(key) } = {}) {
      if (bytes === undefined) throw new Error('no such blob');
      const logical = key ?? keyFor('orders', digestOf(bytes), null);
      const name = generation === undefined ? logical : `${logical}~${generation}`;
      contents.set(logical, bytes);
      await store.put(name, bytes, { digest: digestOf(bytes), size: bytes.length });
      return name;
    },
    bytesAt: (name) => contents.get(name.replace(/~.*/, '')) ?? Buffer.alloc(0),
    rows: () => query('SELECT * FROM blob ORDER BY id'),
    row: rowOf,
    async change(key, set) {
      await query(`UPDATE blob SET ${set} WHERE id = $1`, [(await rowOf(key)).id]);
    },
    async scrub(options = {}) {
      const { findings, onFinding } = collect();
      return { ...(await scrub({ ...common, restart: false, ...idle, onFinding, ...options })), findings };
    },
    async reconcile(options = {}) {
      const { findings, onFinding } = collect();
      return { ...(await reconcile({ ...common, dryRun: false, ...idle, onFinding, ...options })), findings };
    },
    async close() {
      await care.close();
      await fixture.close();
    },
  };
}

/** A name for a later generation. */
export { newGeneration };

function withFaults(store: BlobStore, faults: Faults): BlobStore {
  const check = (key: string): void => {
    if (faults.isAway || faults.failing.has(key)) throw new LpsError('STORE_UNAVAILABLE', 'the store is away');
  };
  const dated = (info: BlobInfo): BlobInfo => {
    const modifiedAt = faults.modifiedAt.get(info.key);
    return modifiedAt === undefined ? info : { ...info, modifiedAt };
  };
  return {
    ...store,
    async get(key, options) {
      if (!key.startsWith('.lps/')) {
        faults.gets.push(key);
        await faults.onGet(key);
      }
      check(key);
      const found = await store.get(key, options);
      const left = faults.flips.get(key) ?? 0;
      if (found === undefined || left === 0 || !isBytes(found.body)) return found;
      faults.flips.set(key, left - 1);
      const body = Buffer.from(found.body);
      body[0] = (body[0] ?? 0) ^ 1;
      return { info: found.info, body };
    },
    async head(key, options) {
      check(key);
      return store.head(key, options);
    },
    async *list(prefix, options) {
      const infos: BlobInfo[] = [];
      for await (const info of store.list(prefix, options)) infos.push(dated(info));
      if (faults.isShuffled)
        infos.sort((a, b) => (digestOf(Buffer.from(a.key)) < digestOf(Buffer.from(b.key)) ? -1 : 1));
      let count = 0;
      for (const info of infos) {
        if (++count > faults.listFailsAfter) throw new LpsError('STORE_UNAVAILABLE', 'the store is away');
        yield info;
      }
    },
  };
}
