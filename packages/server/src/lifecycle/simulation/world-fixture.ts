/**
 * A world in which the production code collects: clients, Temporal, leaders that crash, and a clock, all from one seed.
 *
 *   clients ─ catalogued ┐                      ┌ Collection (marks, permissions, sweeps, deletions) ─ leaders
 *                        ├ catalog and store ───┤
 *   oracle ──────────────┘                      └ the model of Temporal
 *
 * The oracle knows what Temporal can still show, and what was promised to clients, and looks at every decision.
 */
import { type BlobStore, digestOf, isBytes, isLpsError, LpsError, memoryStore, parseKey } from '@large-payload/core';
import { pino } from 'pino';
import { claimStore } from '../../bucket-owner.js';
import type { Catalog, Lease } from '../../catalog/catalog.js';
import { catalogued } from '../../catalogued.js';
import { Collection } from '../collect.js';
import { openExtractor } from '../extract/extractor.js';
import type { HolderKind } from '../holders/holder-kind.js';
import { runsKind } from '../holders/runs.js';
import { schedulesKind } from '../holders/schedules.js';
import type { Fence, LifecycleCatalog, Mark, Permission, SweptBlob } from '../lifecycle-catalog.js';
import type { LifecycleTimes } from '../permission.js';
import { roundsObject } from '../rounds.js';
import type { TemporalCluster, TemporalNamespace } from '../temporal-api.js';
import { Actor, quiet, Turns } from './actors-fixture.js';
import { allBlobs, type SimBlob } from './blobs-fixture.js';
import { SeededRandom } from './random-fixture.js';
import { ModelCluster, type ModelNamespace } from './temporal-model-fixture.js';

export const minute = 60_000;
export const hour = 60 * minute;

const extractor = openExtractor();
export const runKind = runsKind(extractor);
export const scheduleKind = schedulesKind(extractor);

/** Both sides of one catalog, with the world's clock. */
export interface SimCatalog {
  readonly catalog: Catalog;
  readonly lifecycle: LifecycleCatalog;
  lead(): Promise<Fence>;
  /** The world's clock has moved. */
  setTime?(nowMs: number): Promise<void>;
}

export interface WorldTimes extends LifecycleTimes {
  readonly retentionMs: number;
}

/** What a mutant changes: a guard of the production code is taken away from around it. */
export interface Mutation {
  readonly catalog?: (catalog: Catalog, world: World) => Catalog;
  readonly lifecycle?: (lifecycle: LifecycleCatalog, world: World) => LifecycleCatalog;
  readonly store?: (store: BlobStore, world: World) => BlobStore;
  readonly temporal?: (namespace: TemporalNamespace, world: World) => TemporalNamespace;
  readonly times?: Partial<LifecycleTimes>;
  readonly kinds?: readonly HolderKind[];
  readonly isIsolated?: boolean;
}

export interface WorldOptions {
  readonly seed: number;
  readonly openCatalog: (clock: () => number, graceMs: number) => Promise<SimCatalog>;
  readonly times?: Partial<WorldTimes>;
  readonly mutation?: Mutation;
  readonly namespaces?: readonly string[];
}

export class Violation extends Error {
  constructor(
    readonly invariant: string,
    text: string,
    world: World,
  ) {
    super(`${invariant}: ${text} (LPS_TEST_SEED=${world.seed}, move ${world.moves}: ${world.lastMoves.join(', ')})`);
    this.name = 'Violation';
  }
}

export interface Leader {
  readonly actor: Actor;
  readonly fence: Fence;
  readonly collection: Collection;
  readonly abort: AbortController;
}

const storeCalls = ['put', 'get', 'head', 'delete'];

export class World {
  readonly seed: number;
  readonly random: SeededRandom;
  readonly times: WorldTimes;
  readonly turns: Turns;
  readonly temporal: ModelCluster;
  now = Date.UTC(2026, 0, 1);
  moves = 0;
  readonly lastMoves: string[] = [];
  /** Until when clients were told that a blob is protected. */
  readonly promises = new Map<SimBlob, number>();
  readonly pinned = new Map<string, SimBlob>();
  readonly leaders: Leader[] = [];
  readonly clients = new Set<Actor>();
  /** Share of the calls to a Temporal namespace that fail. */
  readonly faults = new Map<string, number>();
  counts = { quarantined: 0, retired: 0, deleted: 0, marks: 0, complete: 0, rounds: 0, turns: 0 };
  violation: Violation | undefined;
  readonly #options: WorldOptions;
  #parts: SimCatalog | undefined;
  #store: BlobStore | undefined;
  readonly #leases = new Map<Actor, Lease>();
  readonly #quarantined = new Map<string, number>();
  readonly #retired = new Set<string>();
  readonly #marks = new Map<bigint, Mark>();
  readonly #faulty = new Set<string>();
  readonly #put = new Set<SimBlob>();

  constructor(options: WorldOptions) {
    const { seed, times = {}, namespaces = ['orders', 'billing'] } = options;
    this.#options = options;
    this.seed = seed;
    this.random = new SeededRandom(seed);
    this.turns = new Turns(this.random);
    const visibilityMs = 10 * minute;
    const retentionMs = times.retentionMs ?? this.random.pick([3 * hour, 6 * hour, 30 * hour]);
    this.times = {
      ...{ graceMs: 24 * hour, quarantineMs: 24 * hour, visibilityMs, retentionMs, lingerMs: 8 * hour },
      ...times,
    };
    const clock = (): number => this.now;
    const pageSize = this.random.pick([1, 2, 5]);
    const model = { clock, random: this.random, visibilityMs: this.times.visibilityMs, retentionMs, pageSize };
    this.temporal = new ModelCluster('prod', namespaces, model);
  }

  async open(): Promise<this> {
    const { mutation = {}, openCatalog } = this.#options;
    const parts = await openCatalog(() => this.now, this.times.graceMs);
    await parts.setTime?.(this.now);
    this.#parts = {
      ...parts,
      lead: () => parts.lead(),
      catalog: mutation.catalog?.(parts.catalog, this) ?? parts.catalog,
      lifecycle: mutation.lifecycle?.(parts.lifecycle, this) ?? parts.lifecycle,
    };
    const store = memoryStore();
    this.#store = mutation.store?.(store, this) ?? store;
    await claimStore(store, parts.catalog.id);
    return this;
  }

  get parts(): SimCatalog {
    if (this.#parts === undefined) throw new Error('open() first');
    return this.#parts;
  }

  get store(): BlobStore {
    if (this.#store === undefined) throw new Error('open() first');
    return this.#store;
  }

  note(move: string): void {
    this.moves += 1;
    this.lastMoves.push(move);
    if (this.lastMoves.length > 12) this.lastMoves.shift();
    if (process.env.LPS_TEST_TRACE === 'all') console.log(`${this.moves} ${new Date(this.now).toISOString()} ${move}`);
  }

  fail(invariant: string, text: string): never {
    this.violation ??= new Violation(invariant, text, this);
    throw this.violation;
  }

  // time

  async advance(ms: number): Promise<void> {
    this.now += ms;
    await this.parts.setTime?.(this.now);
    for (const namespace of this.temporal.all) namespace.tick();
    // a process that lives renews the lease of its upload all the time
    for (const [actor, lease] of this.#leases) {
      if (actor.isDead || !actor.isBusy) this.#leases.delete(actor);
      else await this.parts.catalog.renew(lease);
    }
  }

  /** Lets everybody finish what is under way. */
  async settle(actor?: Actor): Promise<void> {
    do {
      while (await this.takeTurn(actor)) if (this.counts.turns > 100_000) throw new Error('it never ends');
      await quiet();
    } while (this.turns.waiting.some((turn) => actor === undefined || turn.actor === actor));
  }

  async takeTurn(actor?: Actor): Promise<boolean> {
    this.counts.turns += 1;
    const took = await this.turns.take(actor);
    if (this.violation !== undefined) throw this.violation;
    return took;
  }

  // clients

  /** Begins something that a client does, with a service of its own in between, which may have a cache. */
  client(name: string, task: (service: BlobStore) => Promise<void>, cache = this.store): Actor {
    this.note(name);
    const actor = new Actor(name, this.turns);
    this.clients.add(actor);
    const { catalog, store } = this;
    const service = catalogued(actor.wrap(cache, 'store', storeCalls), {
      source: actor.wrap(store, 'store', storeCalls),
      catalog: actor.wrap(this.#leasing(catalog, actor), 'catalog'),
      alarms: { raise: () => undefined },
      renewMs: 2 ** 31 - 1,
    });
    actor.begin(
      async () => {
        try {
          await task(service);
        } finally {
          this.clients.delete(actor);
        }
      },
      (error) => {
        if (!isLpsError(error)) this.violation ??= new Violation('fault', String(error), this);
      },
    );
    return actor;
  }

  get catalog(): Catalog {
    return this.parts.catalog;
  }

  put(blob: SimBlob): Actor {
    return this.client(`put ${blob.name}`, async (service) => {
      const { key, bytes, digest } = blob;
      this.#put.add(blob);
      const { protectedUntil } = await service.put(key, bytes, { digest, size: bytes.length });
      this.promise(blob, protectedUntil);
    });
  }

  head(blob: SimBlob): Actor {
    return this.client(`head ${blob.name}`, async (service) => {
      this.promise(blob, (await service.head(blob.key))?.protectedUntil);
    });
  }

  stat(blob: SimBlob): Actor {
    return this.client(`stat ${blob.name}`, async (service) => {
      this.promise(blob, (await service.stat?.([blob.key]))?.get(blob.key)?.protectedUntil);
    });
  }

  get(blob: SimBlob, cache?: BlobStore): Actor {
    const [began, wasReachable] = [this.now, this.isReachable(blob)];
    const wasPut = this.#put.has(blob);
    return this.client(
      `get ${blob.name}`,
      async (service) => {
        const found = await service.get(blob.key).catch((error: unknown) => {
          if (isLpsError(error, 'BLOB_DAMAGED')) return undefined;
          throw error;
        });
        this.promise(blob, found?.info.protectedUntil);
        if (found !== undefined && !wasPut && !this.#put.has(blob)) this.fail('S8', `${blob.name} was never put`);
        if (found !== undefined && (!isBytes(found.body) || digestOf(found.body) !== blob.digest)) {
          this.fail('S1', `GET of ${blob.name} has other bytes`);
        }
        const isQuick = this.now - began < hour;
        if (found === undefined && isQuick && wasReachable && this.isReachable(blob)) {
          this.fail('S1', `GET of ${blob.name} finds nothing, and Temporal refers to it`);
        }
      },
      cache,
    );
  }

  /** A client was told that a blob is protected until then. */
  promise(blob: SimBlob, until: Date | undefined): void {
    if (until === undefined) return;
    this.promises.set(blob, Math.max(until.getTime(), this.promises.get(blob) ?? 0));
  }

  /** What a client may put into Temporal now (A1). */
  usable(): SimBlob[] {
    return allBlobs.filter((blob) => this.isPromised(blob));
  }

  isPromised(blob: SimBlob): boolean {
    return (this.promises.get(blob) ?? 0) > this.now;
  }

  async pin(blob: SimBlob): Promise<void> {
    this.note(`pin ${blob.name}`);
    const { id } = await this.parts.lifecycle.addPin({ key: blob.key, owner: 'sim', reason: 'kept' });
    this.pinned.set(id, blob);
  }

  async unpin(id: string): Promise<void> {
    this.note('unpin');
    await this.parts.lifecycle.removePin(id);
    this.pinned.delete(id);
  }

  /** What comes back has the same bytes (S5), and is protected. */
  async undelete(blob: SimBlob): Promise<void> {
    this.note(`undelete ${blob.name}`);
    const row = await this.parts.lifecycle.undelete(parseKey(blob.key));
    if (row === undefined) return;
    this.promise(blob, row.protectedUntil);
    const found = await this.store.get(row.physicalKey);
    const isSame = found !== undefined && isBytes(found.body) && digestOf(found.body) === blob.digest;
    if (!isSame || row.state !== 'live') this.fail('S5', `${blob.name} has come back as something else`);
  }

  async expireLeases(): Promise<void> {
    const sizeOf = async (key: string): Promise<number | undefined> => (await this.store.head(key))?.size;
    await this.parts.catalog.sweepLeases(sizeOf, 100);
  }

  // leaders

  get leader(): Leader | undefined {
    return this.leaders.at(-1);
  }

  /** Another one than before; those before it may go on for a while. */
  async lead(): Promise<Leader> {
    this.note('lead');
    const fence = await this.parts.lead();
    const actor = new Actor(`leader ${fence.epoch}`, this.turns);
    const { mutation = {} } = this.#options;
    const lifecycle = actor.wrap(this.#observedLifecycle(this.parts.lifecycle), 'lifecycle');
    const { temporal } = this;
    const cluster: TemporalCluster = {
      name: temporal.name,
      namespaces: async () =>
        temporal.all.map((namespace) => {
          const failing = this.#failing(namespace, fence);
          return actor.wrap(mutation.temporal?.(failing, this) ?? failing, 'temporal');
        }),
      close: async () => undefined,
    };
    const kinds = mutation.kinds ?? [runKind, scheduleKind];
    const { graceMs, quarantineMs, visibilityMs, lingerMs } = { ...this.times, ...mutation.times };
    const collection = new Collection({
      ...{ catalog: lifecycle, catalogId: this.catalog.id, log: silent, maxShare: 1, retention: new Map() },
      store: actor.wrap(this.#observedStore(this.store), 'store', storeCalls),
      clusters: [{ cluster, kinds, blobNamespaces: ['orders', 'billing'], isIsolated: mutation.isIsolated ?? false }],
      times: { graceMs, quarantineMs, visibilityMs, lingerMs },
      acting: new Set(['orders', 'billing']),
    });
    const leader = { actor, fence, collection, abort: new AbortController() };
    this.leaders.push(leader);
    return leader;
  }

  /** Begins a round of a leader. */
  round(leader: Leader): void {
    this.note(`round of ${leader.actor.name}`);
    this.counts.rounds += 1;
    leader.actor.begin(
      async () => {
        await leader.collection.round(leader.fence, leader.abort.signal);
      },
      (error) => {
        if (!isLpsError(error)) this.violation ??= new Violation('fault', String((error as Error).stack), this);
      },
    );
  }

  /** A round from its beginning to its end; nobody else does anything. */
  async wholeRound(): Promise<void> {
    const leader = this.leader ?? (await this.lead());
    this.round(leader);
    await this.settle(leader.actor);
  }

  /** Lets an actor go on until it is about to make a call. `false`: it has ended without. */
  async until(actor: Actor, label: string): Promise<boolean> {
    await quiet();
    while (!this.turns.waitsFor(actor, label)) if (!(await this.takeTurn(actor))) return false;
    return true;
  }

  /** Begins a round of the present leader. */
  async beginRound(): Promise<Actor> {
    const leader = this.leader ?? (await this.lead());
    this.round(leader);
    await quiet();
    return leader.actor;
  }

  // the oracle

  isReachable(blob: SimBlob): boolean {
    for (const namespace of this.temporal.all) {
      for (const carried of namespace.reachable()) if (carried.blob === blob) return true;
    }
    return false;
  }

  expect(is: unknown, expected: unknown, what: string): void {
    if (is !== expected) this.fail('scene', `${what}: ${is}, not ${expected}`);
  }

  /** What stands in the store is from a later round than the database that comes back. */
  async loseDatabase(): Promise<void> {
    const bytes = Buffer.from(JSON.stringify({ catalog: this.catalog.id, rounds: '1000' }));
    const expect = { digest: digestOf(bytes), size: bytes.length };
    await this.store.put(roundsObject, bytes, expect, { overwrite: true });
    await this.lead();
  }

  /** Everything that is still referred to, or promised, can be read. */
  async audit(): Promise<void> {
    const wanted = allBlobs.filter((blob) => this.isPromised(blob) || this.isReachable(blob));
    const rows = new Map(
      (await this.parts.catalog.lookupMany(wanted.map(({ key }) => parseKey(key)))).map((row) => [row.key, row]),
    );
    for (const blob of wanted) {
      const row = rows.get(blob.key);
      const invariant = this.isReachable(blob) ? 'S1' : 'S2';
      if (row === undefined || (row.state !== 'live' && row.state !== 'quarantined')) {
        this.fail(invariant, `${blob.name} is ${row?.state ?? 'unknown'}`);
      }
      const object = await this.store.head(row.physicalKey);
      if (object?.size !== blob.bytes.length) this.fail(invariant, `the object of ${blob.name} is not there`);
    }
  }

  /** The catalog and the store say the same (S9). Returns how many blobs there are. */
  async compare(): Promise<number> {
    const rows = (
      await Promise.all(['orders', 'billing'].map((namespace) => this.parts.catalog.list(namespace, { limit: 100 })))
    ).flat();
    const inCatalog = rows.filter(({ state }) => state === 'live' || state === 'quarantined');
    const expected = inCatalog.map(({ physicalKey, size }) => `${physicalKey} ${size}`).sort();
    const stored: string[] = [];
    for await (const { key, size } of this.store.list('/blobs/')) stored.push(`${key} ${size}`);
    if (stored.sort().join('\n') !== expected.join('\n')) {
      this.fail('S9', `the store has ${stored.join(', ')}, and the catalog ${expected.join(', ')}`);
    }
    return stored.length;
  }

  #decided(what: 'quarantined' | 'retired', fence: Fence, { marks }: Permission, blobs: readonly SweptBlob[]): void {
    if (blobs.length === 0) return;
    if (fence.epoch !== this.leader?.fence.epoch) this.fail('S4', `an earlier leader has ${what} something`);
    for (const id of marks) {
      const mark = this.#marks.get(id);
      if (!mark?.isComplete) this.fail('S3', `something was ${what} after a mark with faults`);
    }
    for (const swept of blobs) {
      const blob = allBlobs.find(({ key }) => key === swept.key);
      if (blob === undefined) continue;
      if (this.isReachable(blob)) this.fail('S1', `${blob.name} was ${what}, and Temporal refers to it`);
      if (this.isPromised(blob))
        this.fail('S2', `${blob.name} was ${what}, and a client was told that it is protected`);
      if ([...this.pinned.values()].includes(blob)) this.fail('S2', `${blob.name} was ${what}, and it is pinned`);
    }
    this.counts[what] += blobs.length;
  }

  #observedLifecycle(inner: LifecycleCatalog): LifecycleCatalog {
    return overriding(inner, {
      beginMark: async (fence, namespace, retentionMs) => {
        this.#faulty.delete(`${namespace.name} ${fence.epoch}`);
        this.counts.marks += 1;
        return inner.beginMark(fence, namespace, retentionMs);
      },
      endMark: async (fence, mark, outcome) => {
        const ended = await inner.endMark(fence, mark, outcome);
        const hasFaults = this.#faulty.has(`${mark.namespace.name} ${fence.epoch}`);
        if (ended.isComplete && hasFaults) this.fail('S3', 'a mark with a fault is complete');
        if (ended.isComplete) this.counts.complete += 1;
        this.#marks.set(ended.id, ended);
        return ended;
      },
      quarantine: async (fence, permission, ids) => {
        const swept = await inner.quarantine(fence, permission, ids);
        this.#decided('quarantined', fence, permission, swept);
        for (const { key } of swept) this.#quarantined.set(key, this.now);
        if (swept.length > 0) this.note(`quarantined ${swept.map(({ key }) => nameOf(key))}`);
        return swept;
      },
      retire: async (fence, permission, quarantineMs, ids) => {
        const swept = await inner.retire(fence, permission, quarantineMs, ids);
        this.#decided('retired', fence, permission, swept);
        for (const { key, physicalKey } of swept) {
          const since = this.#quarantined.get(key);
          if (since === undefined) this.fail('S4', `${nameOf(key)} was retired before it was quarantined`);
          if (this.now - since < this.times.quarantineMs) this.fail('S4', `${nameOf(key)} was retired within Q`);
          for (const id of permission.marks) {
            const began = this.#marks.get(id)?.startedAt.getTime() ?? 0;
            if (began <= since)
              this.fail('S4', `${nameOf(key)} was retired after a mark that began before its quarantine`);
          }
          this.#retired.add(physicalKey);
        }
        if (swept.length > 0) this.note(`retired ${swept.map(({ key }) => nameOf(key))}`);
        return swept;
      },
    });
  }

  #observedStore(inner: BlobStore): BlobStore {
    return overriding(inner, {
      delete: async (key, options) => {
        if (!this.#retired.has(key)) this.fail('S4', `${key} was deleted, and never retired`);
        this.note(`deleted ${nameOf(key)}`);
        const outcome = await inner.delete(key, options);
        this.counts.deleted += 1;
        await this.audit();
        return outcome;
      },
    });
  }

  #leasing(catalog: Catalog, actor: Actor): Catalog {
    return overriding(catalog, {
      begin: async (key, size, leaseMs) => {
        const beginning = await catalog.begin(key, size, leaseMs);
        if (beginning.kind === 'upload') this.#leases.set(actor, beginning.lease);
        return beginning;
      },
    });
  }

  /** Some of the calls fail, and then the mark that made them must not count. */
  #failing(target: ModelNamespace, { epoch }: Fence): TemporalNamespace {
    const { name } = target;
    const failing = (): void => {
      if (!this.random.chance(this.faults.get(name) ?? 0)) return;
      this.#faulty.add(`${name} ${epoch}`);
      throw new LpsError('TEMPORAL_UNAVAILABLE', 'Temporal is away for a moment');
    };
    return new Proxy(target, {
      get: (of, property) => {
        const value: unknown = Reflect.get(of, property, of);
        if (typeof value !== 'function') return value;
        return async (...values: unknown[]) => {
          failing();
          return (value as (...values: unknown[]) => Promise<unknown>).apply(of, values);
        };
      },
    });
  }
}

/** An object whose methods are those of another one, but for some. */
export function overriding<Target extends object>(target: Target, methods: Partial<Target>): Target {
  return new Proxy(target, {
    get: (of, property) => {
      const own = (methods as Record<string | symbol, unknown>)[property];
      if (own !== undefined) return own;
      const value: unknown = Reflect.get(of, property, of);
      return typeof value === 'function' ? value.bind(of) : value;
    },
  });
}

const silent = pino({ level: 'silent' });

function nameOf(key: string): string {
  return allBlobs.find((blob) => key.startsWith(blob.key))?.name ?? key;
}
