/**
 * Compares the catalog and the store both ways, and corrects the catalog. The store is only read (but for its mark,
 * `.lps/catalog`, when it has none or is taken over). When the catalog is empty this makes it again from the store alone.
 *
 *   1  whose store is it?              bucket-owner.ts; nothing else is looked at before that is known
 *      what was taken down?            `.lps/takedowns/`: names that are erased, and blocks, into the catalog
 *   2  the objects, in the store's     pages of 500 → their rows in one statement → a verdict on each key (./verdict.ts)
 *      own order                       → one statement adopts what no row knows, and nothing that is erased or blocked
 *      the erased names                rows that mean one are taken down, and keys without a row get one
 *   3  the rows that were there when   those whose object was not among the listed ones: the store is asked for each,
 *      this began, by id               by its name, and what it has lost is damaged
 *
 * Memory: a page, and a bit for each row (./id-set.ts). Stores list in different orders, and none is relied upon: a
 * generation that is listed far from its siblings is a stray instead of a candidate, no more.
 *
 * Absence from a listing is no proof of anything: step 3 asks for each object. A listing that fails ends the run. Before
 * rows are marked the store must prove that it still is the catalog's own.
 *
 * Beside a running service: uploads under way (`uploading`) are left alone; a row that comes, leaves or changes while its
 * object is looked at wins over what was found, since every write names the generation that was read.
 *
 * Nothing touches: known rows keep the time of their last use. What is adopted counts as used now, for it may have been.
 * An empty catalog that is filled here remembers when (`rebuilt_at`): who held what before is not known any more. It gets
 * the pins first that the store keeps (`.lps/pins/`).
 *
 * Nothing is deleted but what stands at a name that a takedown erases: strays, foreign names, objects of v1 and the
 * service's own are counted.
 */
import {
  type BlobInfo,
  type BlobKey,
  type BlobStore,
  formatKey,
  LpsError,
  type ObjectName,
  parseObjectName,
} from '@large-payload/core';
import { claimStore, readOwner, requireOwner, takeOverStore } from '../bucket-owner.js';
import type { CareCatalog, KnownRow, NewObject } from '../catalog/care-catalog.js';
import { type Block, takedownsOf } from '../takedown/takedown-object.js';
import { AtRest } from './at-rest.js';
import { each } from './each.js';
import type { Finding } from './finding.js';
import { IdSet } from './id-set.js';
import { isAtRest } from './scrub.js';
import { Throttle } from './throttle.js';
import { type Group, judgeGroup, judgeRow, type Verdict } from './verdict.js';

export interface ReconcileOptions {
  readonly catalog: CareCatalog;
  /** Below any cache. */
  readonly store: BlobStore;
  /** Nothing is written, neither to the catalog nor to the store. */
  readonly dryRun: boolean;
  /** The id of the lost catalog whose store this one gets. */
  readonly takeOver?: string;
  /** For what has to be hashed. 0: as fast as it goes. */
  readonly maxBytesPerSecond: number;
  readonly concurrency: number;
  readonly signal: AbortSignal;
  /** Takes the pins that the store keeps into an empty catalog; returns how many. Not called in a dry run. */
  readonly restorePins?: () => Promise<number>;
  readonly onFinding?: (finding: Finding) => void;
  readonly onProgress?: (progress: ReconcileProgress) => void;
  /** See ./at-rest.ts. */
  readonly retryMs?: number;
}

export interface ReconcileProgress {
  readonly step: 'objects' | 'rows';
  readonly counts: Readonly<ReconcileCounts>;
  /** Of the rows, 0 to 1, by ids; nobody knows how many objects there will be. */
  readonly fraction?: number;
}

export interface ReconcileCounts extends Record<Finding['kind'], number> {
  /** Objects that were listed, of every kind, and their bytes. */
  objects: number;
  bytes: number;
  /** Of those: not the names of blobs, v1's, the service's own. */
  foreign: number;
  v1: number;
  own: number;
  /** Rows whose object is there. */
  known: number;
  adopted: number;
  adoptedBytes: number;
  uploading: number;
  retired: number;
  /** Of a catalog that was lost. */
  pins: number;
  /** Objects of the store that say what was taken down. */
  takedowns: number;
  /** Rows that meant an erased object, or were made for one. */
  takenDown: number;
  /** Of the damaged ones, how many were not known to be. */
  marked: number;
  hashedBytes: number;
}

const pageObjects = 500;
const pageRows = 500;

/** Runs to the end, or throws what ended it before; what was found by then is written. */
export async function reconcile(options: ReconcileOptions): Promise<ReconcileCounts> {
  const { catalog, store, dryRun, takeOver } = options;
  const wasEmpty = await catalog.isEmpty();
  const owner = await settleOwner(catalog, store, wasEmpty, dryRun, takeOver);
  const run = new Reconciliation(options, dryRun ? withoutWrites(catalog) : catalog, owner, wasEmpty);
  await run.restoreTakedowns();
  if (wasEmpty && !dryRun) run.counts.pins = (await options.restorePins?.()) ?? 0;
  const untilId = await catalog.lastId();
  await run.walkStore();
  run.counts.takenDown = await run.catalog.takeDownErased();
  await run.walkRows(untilId);
  return run.counts;
}

/** Makes sure whose the store is; returns the id that its mark must keep while this runs (none in a dry run on a new one). */
async function settleOwner(
  catalog: CareCatalog,
  store: BlobStore,
  isEmpty: boolean,
  dryRun: boolean,
  takeOver: string | undefined,
): Promise<string | undefined> {
  const owner = await readOwner(store);
  if (owner === catalog.id) return owner; // a second try of a take-over, too
  if (takeOver !== undefined) {
    if (!isEmpty) {
      const message = 'only an empty catalog can take a store over: this one has blobs of another store';
      throw new LpsError('CONFIG_INVALID', message);
    }
    if (dryRun && owner === takeOver) return owner; // another one is refused in the next line
    await takeOverStore(store, takeOver, catalog.id);
    await catalog.markRebuilt();
    return catalog.id;
  }
  // a store of the Go service, say; but where rows are, there was a mark
  if (owner === undefined && isEmpty) {
    if (dryRun) return undefined;
    await claimStore(store, catalog.id);
    return catalog.id;
  }
  await requireOwner(store, catalog.id);
  return owner;
}

/** The same catalog, whose writes say what they would have done. What the store says of takedowns is kept in memory. */
function withoutWrites(catalog: CareCatalog): CareCatalog {
  const restored = new Map<string, { readonly acceptedAt: Date }>();
  const known = (name: string): [string, { readonly acceptedAt: Date }][] => {
    const found = restored.get(name);
    return found === undefined ? [] : [[name, found]];
  };
  const blocks: (Block & { readonly namespace: string })[] = [];
  const isBlocked = ({ namespace, digest, prefix = '' }: BlobKey): boolean =>
    blocks.some(
      (block) =>
        block.namespace === namespace && block.digest === digest && (block.isAnyPrefix || block.prefix === prefix),
    );
  return {
    id: catalog.id,
    isEmpty: () => catalog.isEmpty(),
    lastId: () => catalog.lastId(),
    rowsAfter: (id, untilId, limit) => catalog.rowsAfter(id, untilId, limit),
    lookupMany: (keys) => catalog.lookupMany(keys),
    retiredKeys: (ids) => catalog.retiredKeys(ids),
    adoptMany: async (objects) => objects.length,
    markDamaged: async (rows) => new Set(rows.map(({ id }) => id)),
    setRight: async () => true,
    restoreTakedown: async ({ names, namespace, acceptedAt, blocks: found }) => {
      for (const { physicalKey } of names) restored.set(physicalKey, { acceptedAt: new Date(acceptedAt) });
      blocks.push(...found.map((block) => ({ ...block, namespace })));
    },
    forbidden: async (names, keys) => {
      const { erased, blocked } = await catalog.forbidden(names, keys);
      return {
        erased: new Map([...names.flatMap((name) => known(name)), ...erased]),
        blocked: new Set([...blocked, ...keys.filter(isBlocked).map(formatKey)]),
      };
    },
    takeDownErased: async () => 0,
    markRebuilt: async () => undefined,
    beginScrub: (options) => catalog.beginScrub(options),
    saveScrub: (pass, step) => catalog.saveScrub(pass, step),
    close: () => catalog.close(),
  };
}

class Reconciliation {
  readonly counts: ReconcileCounts = {
    ...{ objects: 0, bytes: 0, foreign: 0, v1: 0, own: 0, known: 0, adopted: 0, adoptedBytes: 0 },
    ...{ uploading: 0, retired: 0, pins: 0, takedowns: 0, takenDown: 0, marked: 0, hashedBytes: 0 },
    ...{ erased: 0, damaged: 0, healed: 0, corrected: 0, moved: 0, unreadable: 0, rejected: 0, stray: 0 },
  };
  readonly #seen = new IdSet();
  readonly #atRest: AtRest;
  #mustMarkRebuilt: boolean;

  constructor(
    readonly options: ReconcileOptions,
    readonly catalog: CareCatalog,
    readonly owner: string | undefined,
    wasEmpty: boolean,
  ) {
    const { store, maxBytesPerSecond, retryMs } = options;
    this.#mustMarkRebuilt = wasEmpty;
    this.#atRest = new AtRest({
      store,
      prove: () => this.#prove(),
      throttle: new Throttle(maxBytesPerSecond),
      onBytes: (bytes) => {
        this.counts.hashedBytes += bytes;
      },
      ...(retryMs === undefined ? {} : { retryMs }),
    });
  }

  async restoreTakedowns(): Promise<void> {
    for await (const takedown of takedownsOf(this.options.store)) {
      this.options.signal.throwIfAborted();
      await this.catalog.restoreTakedown(takedown);
      this.counts.takedowns += 1;
    }
  }

  async walkStore(): Promise<void> {
    const { store, signal, onProgress } = this.options;
    let groups = new Map<string, { key: string; blob: Group['blob']; objects: BlobInfo[] }>();
    let waiting = 0;
    for await (const info of store.list('', { signal })) {
      signal.throwIfAborted();
      const name = this.#count(info);
      if (name?.kind !== 'blob') continue;
      const { generation: _, ...blob } = name.blob;
      const key = formatKey(blob);
      if (waiting >= pageObjects && !groups.has(key)) {
        await this.#settleGroups([...groups.values()]);
        onProgress?.({ step: 'objects', counts: this.counts });
        groups = new Map();
        waiting = 0;
      }
      const group = groups.get(key);
      if (group === undefined) groups.set(key, { key, blob, objects: [info] });
      else group.objects.push(info);
      waiting += 1;
    }
    await this.#settleGroups([...groups.values()]);
    onProgress?.({ step: 'objects', counts: this.counts });
  }

  async walkRows(untilId: bigint): Promise<void> {
    const { concurrency, signal, onProgress } = this.options;
    let afterId = 0n;
    for (;;) {
      const page = await this.catalog.rowsAfter(afterId, untilId, pageRows);
      const last = page.at(-1);
      if (last === undefined) return;
      afterId = last.id;
      const names = page.map(({ physicalKey }) => physicalKey);
      const { erased } = await this.catalog.forbidden(names, []);
      const unseen = page.filter((row) => isAtRest(row) && !this.#seen.has(row.id) && !erased.has(row.physicalKey));
      const judge = (row: KnownRow, either: AbortSignal): Promise<Verdict> =>
        judgeRow(row, undefined, [], this.#atRest, either);
      await this.#act(await each(unseen, concurrency, signal, judge));
      onProgress?.({ step: 'rows', counts: this.counts, fraction: Number(afterId) / Number(untilId) });
    }
  }

  #count(info: BlobInfo): ObjectName | undefined {
    this.counts.objects += 1;
    this.counts.bytes += info.size;
    const name = objectNameOf(info.key);
    if (name === undefined) this.counts.foreign += 1;
    else if (name.kind !== 'blob') this.counts[name.kind] += 1;
    return name;
  }

  async #settleGroups(groups: readonly Group[]): Promise<void> {
    const { concurrency, signal } = this.options;
    const rows = new Map((await this.catalog.lookupMany(groups.map(({ blob }) => blob))).map((row) => [row.key, row]));
    const withOthers = groups.flatMap((group) => {
      const row = rows.get(group.key);
      const isPlain = row === undefined || (isAtRest(row) && group.objects.every(({ key }) => key === row.physicalKey));
      return isPlain ? [] : [row.id];
    });
    const retired = await this.catalog.retiredKeys(withOthers);
    const names = groups.flatMap(({ objects }) => objects.map(({ key }) => key));
    const means = [...rows.values()].map(({ physicalKey }) => physicalKey);
    const absent = groups.filter(({ key }) => (rows.get(key)?.state ?? 'taken_down') === 'taken_down');
    const forbidden = await this.catalog.forbidden(
      [...names, ...means],
      absent.map(({ blob }) => blob),
    );
    const judge = (group: Group, either: AbortSignal): Promise<Verdict> =>
      judgeGroup(group, rows.get(group.key), retired, forbidden, this.#atRest, either);
    await this.#act(await each(groups, concurrency, signal, judge));
  }

  async #act(verdicts: readonly Verdict[]): Promise<void> {
    const damaged = verdicts.flatMap(({ damaged }) => (damaged === undefined ? [] : [damaged]));
    const due = damaged.map(({ row }) => row).filter(({ state }) => state !== 'damaged');
    if (due.length > 0) await this.#prove();
    const marked = await this.catalog.markDamaged(due);
    for (const { row, damage } of damaged) {
      const wasKnown = row.state === 'damaged';
      if (!wasKnown && !marked.has(row.id)) continue; // it has moved on
      const note = wasKnown ? `${damage}, as before` : damage;
      this.#tell({ kind: 'damaged', key: row.physicalKey, note, isNew: !wasKnown });
      if (!wasKnown) this.counts.marked += 1;
    }
    await this.#erase(verdicts.flatMap(({ erased }) => erased ?? []));
    await this.#adopt(verdicts.flatMap(({ adopt }) => (adopt === undefined ? [] : [adopt])));
    for (const verdict of verdicts) await this.#finish(verdict);
  }

  /** What stands again at a name that is erased. */
  async #erase(objects: readonly BlobInfo[]): Promise<void> {
    const { store, dryRun } = this.options;
    if (objects.length === 0) return;
    await this.#prove();
    for (const { key } of objects) {
      if (!dryRun) await store.delete(key);
      this.#tell({ kind: 'erased', key, note: 'it was taken down', isNew: true });
    }
  }

  async #adopt(objects: readonly NewObject[]): Promise<void> {
    if (objects.length === 0) return;
    if (this.#mustMarkRebuilt) await this.catalog.markRebuilt();
    this.#mustMarkRebuilt = false;
    this.counts.adopted += await this.catalog.adoptMany(objects);
    this.counts.adoptedBytes += objects.reduce((sum, { size }) => sum + size, 0);
  }

  async #finish({ seen, right, damaged, findings, uploading, retired }: Verdict): Promise<void> {
    if (seen !== undefined) this.#seen.add(seen.id);
    const isUnknown = damaged !== undefined || findings.some(({ kind }) => kind === 'unreadable');
    if (seen !== undefined && !isUnknown) this.counts.known += 1;
    this.counts.uploading += uploading ?? 0;
    this.counts.retired += retired ?? 0;
    if (right !== undefined && (await this.catalog.setRight(right.row, right.object))) {
      const note = { healed: 'right again', corrected: 'its size', moved: 'a later generation' }[right.kind];
      this.#tell({ kind: right.kind, key: right.object.physicalKey, note, isNew: true });
    }
    for (const finding of findings) this.#tell(finding);
  }

  #tell(finding: Finding): void {
    this.counts[finding.kind] += 1;
    this.options.onFinding?.(finding);
  }

  /** The mark is still there, and still says what it said. */
  async #prove(): Promise<void> {
    if (this.owner !== undefined) await requireOwner(this.options.store, this.owner);
  }
}

function objectNameOf(text: string): ObjectName | undefined {
  try {
    return parseObjectName(text);
  } catch {
    return undefined;
  }
}
