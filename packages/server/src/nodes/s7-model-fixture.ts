/**
 * A takedown among replicas, cache nodes, uploads and broken connections, as docs/decisions/0006-read-leases.md has it: a
 * model in one process, with the clocks that the steps say. What each node believes is the production code's (ReadLease,
 * RunningReads); Postgres, the store and the network are the model's.
 *
 * Each message arrives when a step says so, or never. Nothing here waits.
 */
import type { Moment } from '../catalog/row-cache.js';
import { type Granted, ReadLease } from './read-lease.js';
import type { NodeEvent } from './read-leases.js';
import { type RunningRead, RunningReads } from './running-reads.js';

/** M, in ms of the model. */
export const leaseMs = 100;
/** Of an upload's lease: longer than M, or waiting for M would hide that nobody waits for uploads. */
export const uploadMs = 250;
export const keys = ['/blobs/a', '/blobs/b'] as const;

/** What may be taken away, to see that it is missed. */
export interface Guards {
  /** Accepted only when each lease was renewed with the event, or has ended. */
  readonly waitsForReadLeases: boolean;
  readonly waitsForUploads: boolean;
  /** M after the last deletion. */
  readonly waitsForReadsWithoutLease: boolean;
  /** It is deleted until there was nothing to delete. */
  readonly deletesAgain: boolean;
  /** Also after a later one that found something: somebody without the catalog may have begun to read that. */
  readonly waitsAfterEachDeletion: boolean;
  readonly appendsEvents: boolean;
  /** A node forgets what an event names. */
  readonly forgets: boolean;
  /** Reads under way of it are cut. */
  readonly cutsReads: boolean;
  /** A read or an upload leaves nothing in a cache when an event of its blob was applied meanwhile. */
  readonly keepsNothingLate: boolean;
  /** A lease counts from when it was asked for. */
  readonly countsFromAsking: boolean;
  /** A lease counts only with every event applied that was known when it was granted. */
  readonly appliesFirst: boolean;
  /** Without a lease a replica reads past its caches. */
  readonly passesCaches: boolean;
  /** Without a lease a cache node asks upstream before it serves what it keeps. */
  readonly revalidates: boolean;
  /** What was read without the catalog is kept nowhere. */
  readonly keepsOnlyWithCatalog: boolean;
  /** A cache node keeps nothing from a replica that has not applied the last event of the blob that the node knows. */
  readonly comparesCursors: boolean;
  /** Nor does it give it out for longer than M, slow as its client may be: no event will cut that read. */
  readonly boundsWhatItCannotKeep: boolean;
  /** What is read without the catalog ends M after its beginning, also when a lease has not ended yet. */
  readonly boundsReadsWithoutCatalog: boolean;
  /** Everything is forgotten when events were missed that are forgotten by now. */
  readonly clearsWhenBehind: boolean;
  /** An upload gives up before its lease ends. */
  readonly uploadsGiveUp: boolean;
  /** A commit looks whether its object was taken down. */
  readonly commitsLook: boolean;
}

export const allGuards: Guards = {
  ...{ waitsForReadLeases: true, waitsForUploads: true, waitsForReadsWithoutLease: true, deletesAgain: true },
  ...{ appendsEvents: true, forgets: true, cutsReads: true, keepsNothingLate: true, countsFromAsking: true },
  ...{ appliesFirst: true, passesCaches: true, revalidates: true, clearsWhenBehind: true },
  ...{ uploadsGiveUp: true, commitsLook: true, keepsOnlyWithCatalog: true, comparesCursors: true },
  ...{ waitsAfterEachDeletion: true, boundsWhatItCannotKeep: true, boundsReadsWithoutCatalog: true },
};

type Generation = string;

interface Upload {
  readonly key: string;
  readonly object: Generation;
  /** Postgres believes in it until then. */
  leaseUntil: number;
  /** Its replica believes in it until then. */
  believedUntil: number;
  readonly replica: ModelNode;
  isStored: boolean;
  /** And its client, or the cache node, has not heard of it yet. */
  isCommitted: boolean;
  isOver: boolean;
  /** A cache node that keeps what goes through it. */
  readonly through?: { readonly node: ModelNode; readonly since: string };
}

interface Row {
  state: 'live' | 'uploading' | 'taken down';
  object: Generation;
}

/** An object to somebody who reads it. */
interface Reading {
  readonly node: ModelNode;
  readonly key: string;
  readonly handle: RunningRead;
  /** As the holder of `handle`: bytes go on while this is set. */
  object: Generation | undefined;
  readonly isFromStore: boolean;
  /** The last event that its source had applied when it began; absent: nobody may keep it. */
  readonly seen: bigint | undefined;
  readonly appliedBefore: string;
  /** Of a cache node: ends with it. */
  readonly upstream?: Reading;
  isCut: boolean;
}

interface Wish {
  readonly node: ModelNode;
  /** A cache node's goes through this replica. */
  readonly via: ModelNode | undefined;
  readonly sentAt: Moment;
  readonly cursor: bigint;
  readonly life: number;
  granted?: Granted;
  /** The events behind the cursor, as they were when it was granted; `undefined`: some are forgotten. */
  page?: readonly NodeEvent[] | undefined;
}

interface ModelNode {
  readonly name: string;
  readonly kind: 'replica' | 'cache';
  /** To Postgres; that of a cache node: to the replicas, each of its requests to any of them. */
  isConnected: boolean;
  readonly offsetMs: number;
  /** Which of its clocks may be wrong. */
  steadyLostMs: number;
  lease: ReadLease;
  reads: RunningReads;
  /** By key: the object. On its disk: a crash leaves it. */
  readonly kept: Map<string, Generation>;
  /** Rows that are live, of a replica; in memory. */
  readonly rows: Map<string, Generation>;
  /** The last event of a key that was applied; and how often everything was forgotten. */
  readonly applied: Map<string, bigint>;
  cleared: number;
  /** Counts its starts. */
  life: number;
  /** Whether its cursor says what the kept has seen. */
  isCursorKnown: boolean;
}

interface Takedown {
  readonly key: string;
  readonly objects: Generation[];
  readonly event: bigint;
  state: 'accepting' | 'accepted' | 'completed';
  /** When an object was deleted the last time, or looked for the first time. */
  deletedAt?: number;
}

/** Somebody is served what nobody may be served. */
export class Leak extends Error {}

export class S7Model {
  now = 0;
  readonly replicas: readonly ModelNode[];
  readonly caches: readonly ModelNode[];
  readonly completed = new Set<Generation>();
  readonly counts = { completed: 0, served: 0, uploads: 0, cut: 0 };
  readonly #store = new Set<Generation>();
  readonly #rows = new Map<string, Row>();
  readonly #taken = new Set<Generation>();
  readonly #events: NodeEvent[] = [];
  #forgotten = 0n;
  #newest = 0n;
  readonly #nodes = new Map<ModelNode, { leaseUntil: number; cursor: bigint }>();
  readonly #uploads: Upload[] = [];
  readonly #readings: Reading[] = [];
  readonly #wishes: Wish[] = [];
  #takedown: Takedown | undefined;
  #generations = 0;
  /** What happened last, for whoever looks for the reason of a leak. */
  readonly notes: string[] = [];

  /** `isBlocking`: what was taken down cannot be uploaded again. */
  constructor(
    readonly guards: Guards,
    readonly isBlocking: boolean,
  ) {
    this.replicas = [this.#node('replica', '1', 500), this.#node('replica', '2', -3000)];
    this.caches = [this.#node('cache', '1', 70_000), this.#node('cache', '2', -20)];
  }

  get nodes(): readonly ModelNode[] {
    return [...this.replicas, ...this.caches];
  }

  /** Time passes for all. A node's steady clock may miss some of it: it slept. */
  pass(ms: number): void {
    this.now += ms;
    for (const { reads } of this.nodes) reads.tick();
    for (const upload of this.#uploads) if (this.#givesUp(upload)) upload.isOver = true;
  }

  sleep(node: ModelNode, ms: number): void {
    node.steadyLostMs += ms;
    this.pass(ms);
  }

  /** Its process ends, and begins again with what is on its disk. */
  restart(node: ModelNode, remembersCursor: boolean): void {
    this.#note(`${node.name} restarts`);
    for (const reading of this.#readings) if (reading.node === node || reading.upstream?.node === node) end(reading);
    for (const upload of this.#uploads)
      if (upload.replica === node || upload.through?.node === node) upload.isOver = true;
    node.life += 1;
    node.rows.clear();
    node.isCursorKnown = remembersCursor && node.isCursorKnown;
    node.lease = new ReadLease(node.isCursorKnown ? node.lease.cursor : 0n);
    node.reads = this.#readsOf(node);
  }

  // ── leases on reading

  ask(node: ModelNode, replica: ModelNode): void {
    const { lease, life } = node;
    const via = node.kind === 'cache' ? replica : undefined;
    this.#wishes.push({ node, via, sentAt: this.#clock(node), cursor: lease.cursor, life });
  }

  /** One wish arrives, or its answer does; when the connection is down, it is lost. */
  deliver(at: number): void {
    const wish = this.#wishes[at % Math.max(1, this.#wishes.length)];
    if (wish === undefined) return;
    const { node } = wish;
    const isLost = wish.life !== node.life || !node.isConnected || wish.via?.isConnected === false;
    if (wish.granted === undefined && !isLost) {
      this.#grant(wish);
      return;
    }
    this.#wishes.splice(this.#wishes.indexOf(wish), 1);
    if (!isLost && wish.granted !== undefined) this.#heard(wish, wish.granted);
  }

  #grant(wish: Wish): void {
    const { node, cursor } = wish;
    this.#note(`${node.name} is granted, cursor ${cursor}`);
    const known = this.#nodes.get(node);
    this.#nodes.set(node, { leaseUntil: Math.max(known?.leaseUntil ?? 0, this.now + leaseMs), cursor });
    wish.granted = { newest: this.#newest, leaseMs };
    wish.page = cursor < this.#forgotten ? undefined : this.#events.filter(({ id }) => id > cursor);
  }

  #heard({ node, sentAt, cursor, page }: Wish, granted: Granted): void {
    const { lease } = node;
    if (!node.isCursorKnown) {
      this.#clear(node, granted.newest);
    } else if (page === undefined) {
      if (this.guards.clearsWhenBehind) this.#clear(node, granted.newest);
      else lease.applied(granted.newest);
    } else if (this.guards.appliesFirst && cursor <= lease.cursor) {
      for (const event of page) if (event.id > lease.cursor) this.#apply(node, event);
    }
    this.#note(`${node.name} hears of ${granted.newest}`);
    const from = this.guards.countsFromAsking ? sentAt : this.#clock(node);
    const newest = this.guards.appliesFirst ? granted.newest : lease.cursor;
    lease.granted(from, { newest, leaseMs });
  }

  #apply(node: ModelNode, event: NodeEvent): void {
    if (this.guards.forgets) {
      node.kept.delete(event.key);
      node.rows.delete(event.key);
    }
    if (this.guards.cutsReads) node.reads.cut([event]);
    node.applied.set(event.key, event.id);
    node.lease.applied(event.id);
  }

  #clear(node: ModelNode, newest: bigint): void {
    node.kept.clear();
    node.rows.clear();
    node.reads.cutAll();
    node.cleared += 1;
    node.isCursorKnown = true;
    node.lease.restarted(newest);
  }

  /** Events that every lease has ended without, or applied. */
  prune(): void {
    const old = this.#events[0];
    if (old === undefined) return;
    const isWaitedFor = [...this.#nodes.values()].some(
      ({ leaseUntil, cursor }) => leaseUntil > this.now && cursor < old.id,
    );
    if (isWaitedFor || this.#takedown?.state === 'accepting') return;
    this.#events.shift();
    this.#forgotten = old.id;
  }

  // ── reads

  /** A client begins to read; at a cache node, which asks this replica when it must. */
  read(node: ModelNode, replica: ModelNode, key: string): void {
    const reading = this.#begin(node, replica, key);
    if (reading === undefined) return;
    for (const one of reading.upstream === undefined ? [reading] : [reading, reading.upstream]) {
      this.#readings.push(one);
      one.handle.onCut(() => this.#cut(one));
    }
    this.counts.served += 1;
    const { object, isFromStore, seen } = reading;
    const from = isFromStore ? `from the store, by ${reading.upstream?.node.name} at ${seen}` : 'from what it keeps';
    this.#note(`${node.name} serves ${object} ${from}`);
  }

  #begin(node: ModelNode, replica: ModelNode, key: string): Reading | undefined {
    return node.kind === 'replica' ? this.#readReplica(node, key) : this.#readCache(node, replica, key);
  }

  #readReplica(node: ModelNode, key: string): Reading | undefined {
    const handle = node.reads.begin(key);
    const isFresh = this.#isFresh(node);
    const cached = isFresh || !this.guards.passesCaches ? node.rows.get(key) : undefined;
    if (cached === undefined && !node.isConnected) return this.#readStore(node, key, handle);
    const row = cached === undefined ? this.#rows.get(key) : undefined;
    if (cached === undefined && row?.state !== 'live') return refused(handle);
    const object = cached ?? row?.object ?? '';
    if (isFresh) node.rows.set(key, object);
    const seen = isFresh ? node.lease.cursor : undefined;
    if (node.kept.get(key) === object) return this.#reading(node, key, handle, { object, isFromStore: false, seen });
    if (!this.#store.has(object)) return refused(handle);
    return this.#reading(node, key, handle, { object, isFromStore: true, seen });
  }

  /** Without the catalog: whatever stands there, the newest generation of it. */
  #readStore(node: ModelNode, key: string, begun: RunningRead): Reading | undefined {
    const object = this.#objectsOf(key).at(-1);
    if (object === undefined) return refused(begun);
    const handle = this.guards.boundsReadsWithoutCatalog ? unbound(begun, node.reads) : begun;
    const seen = this.guards.keepsOnlyWithCatalog ? undefined : node.lease.cursor;
    return this.#reading(node, key, handle, { object, isFromStore: true, seen });
  }

  #readCache(node: ModelNode, replica: ModelNode, key: string): Reading | undefined {
    let handle = node.reads.begin(key);
    const kept = node.kept.get(key);
    if (kept !== undefined && (this.#isFresh(node) || this.#isStillUpstream(node, replica, key)))
      return this.#reading(node, key, handle, { object: kept, isFromStore: false, seen: undefined });
    const upstream = node.isConnected ? this.#readReplica(replica, key) : undefined;
    if (upstream === undefined) return refused(handle);
    const { object, seen } = upstream;
    if (this.guards.boundsWhatItCannotKeep && !this.#isAsNew(node, key, seen)) {
      handle = unbound(handle, node.reads);
    }
    return { ...this.#reading(node, key, handle, { object, isFromStore: true, seen }), upstream };
  }

  /** Whether a replica knew of the last event of the blob that the node knows, when it began to answer. */
  #isAsNew({ applied }: ModelNode, key: string, seen: bigint | undefined): boolean {
    return seen !== undefined && seen >= (applied.get(key) ?? 0n);
  }

  /** A HEAD, sent after the read began. */
  #isStillUpstream(node: ModelNode, replica: ModelNode, key: string): boolean {
    if (!this.guards.revalidates) return true;
    if (!node.isConnected) return false;
    const head = this.#readReplica(replica, key);
    head?.handle.end();
    return head !== undefined;
  }

  #reading(
    node: ModelNode,
    key: string,
    handle: RunningRead,
    what: Pick<Reading, 'object' | 'isFromStore' | 'seen'>,
  ): Reading {
    return { node, key, handle, ...what, appliedBefore: this.#appliedOf(node, key), isCut: false };
  }

  #objectsOf(key: string): Generation[] {
    return [...this.#store].filter((object) => object.startsWith(`${key}~`)).sort();
  }

  /** One of them comes to its end; what came from elsewhere is kept. */
  finish(at: number): void {
    const open = this.#readings.filter(({ object }) => object !== undefined);
    const reading = open[at % Math.max(1, open.length)];
    if (reading === undefined) return;
    this.#note(`${reading.node.name} has read ${reading.object}${this.#mayKeep(reading) ? ', and keeps it' : ''}`);
    if (this.#mayKeep(reading)) reading.node.kept.set(reading.key, reading.object ?? '');
    end(reading);
    if (reading.upstream !== undefined) end(reading.upstream);
  }

  #mayKeep({ node, key, isFromStore, seen, appliedBefore, upstream }: Reading): boolean {
    if (!isFromStore || seen === undefined) return false;
    if (this.guards.comparesCursors && upstream !== undefined && !this.#isAsNew(node, key, seen)) return false;
    return !this.guards.keepsNothingLate || this.#appliedOf(node, key) === appliedBefore;
  }

  #cut(reading: Reading): void {
    if (reading.object !== undefined) this.counts.cut += 1;
    reading.isCut = true;
    end(reading);
    if (reading.upstream !== undefined) end(reading.upstream);
    for (const other of this.#readings) if (other.upstream === reading && !other.isCut) this.#cut(other);
  }

  // ── uploads

  /** A client begins to upload, at a replica, perhaps through a cache node. */
  upload(key: string, at: ModelNode, via: ModelNode): void {
    const replica = at.kind === 'cache' ? via : at;
    const isReached = replica.isConnected && at.isConnected;
    const row = this.#rows.get(key);
    if (!isReached || row?.state === 'live' || (this.isBlocking && row?.state === 'taken down')) return;
    const isNew = row === undefined || row.state === 'taken down';
    const object = isNew ? `${key}~${String(++this.#generations).padStart(6, '0')}` : row.object;
    if (isNew) this.#rows.set(key, { state: 'uploading', object });
    const until = this.now + uploadMs;
    const through = at === replica ? {} : { through: { node: at, since: this.#appliedOf(at, key) } };
    this.#note(`upload of ${object} at ${at.name}`);
    this.#uploads.push({
      ...{
        key,
        object,
        replica,
        leaseUntil: until,
        believedUntil: until,
        isStored: false,
        isCommitted: false,
        isOver: false,
        ...through,
      },
    });
  }

  /** One of them does its next step: renews its lease, writes its object, commits, or its answer comes. */
  uploadOn(at: number, step: 'renew' | 'write' | 'commit' | 'answer'): void {
    const open = this.#uploads.filter(({ isOver }) => !isOver);
    const upload = open[at % Math.max(1, open.length)];
    if (upload === undefined) return;
    this.#note(`${step} of the upload of ${upload.object} (${upload.through?.node.name})`);
    if (step === 'renew') {
      this.#renew(upload);
      return;
    }
    if (step === 'write') {
      if (upload.isCommitted) return;
      upload.isStored = true;
      this.#store.add(upload.object);
      return;
    }
    if (step === 'answer') {
      if (upload.isCommitted) this.#answer(upload);
      return;
    }
    if (upload.isStored && !upload.isCommitted && upload.replica.isConnected) this.#commit(upload);
  }

  #renew(upload: Upload): void {
    if (upload.isCommitted || !upload.replica.isConnected || upload.leaseUntil <= this.now) return;
    upload.leaseUntil = this.now + uploadMs;
    upload.believedUntil = this.now + uploadMs;
  }

  #commit(upload: Upload): void {
    const { key, object } = upload;
    upload.leaseUntil = this.now;
    if (this.guards.commitsLook && this.#taken.has(object)) {
      upload.isOver = true; // BLOB_TAKEN_DOWN
      return;
    }
    upload.isCommitted = true;
    this.#rows.set(key, { state: 'live', object });
    this.counts.uploads += 1;
  }

  #answer(upload: Upload): void {
    const { key, object, through } = upload;
    upload.isOver = true;
    if (through === undefined || !through.node.isConnected) return;
    const isLate = this.guards.keepsNothingLate && this.#appliedOf(through.node, key) !== through.since;
    if (!isLate) through.node.kept.set(key, object);
  }

  #givesUp({ believedUntil, isCommitted }: Upload): boolean {
    return this.guards.uploadsGiveUp && !isCommitted && believedUntil <= this.now;
  }

  // ── the takedown

  takeDown(key: string): void {
    const row = this.#rows.get(key);
    if (this.#takedown !== undefined || row === undefined || row.state === 'taken down') return;
    const objects = [...new Set([row.object, ...this.#objectsOf(key)])];
    for (const object of objects) this.#taken.add(object);
    row.state = 'taken down';
    if (this.guards.appendsEvents) this.#append(key, row.object);
    this.#note(`takedown of ${objects}, event ${this.#newest}`);
    this.#takedown = { key, objects, event: this.#newest, state: 'accepting' };
  }

  #append(key: string, physicalKey: string): void {
    this.#newest += 1n;
    this.#events.push({ id: this.#newest, kind: 'takedown', key, physicalKey });
  }

  /** The workflow does what it can do now. */
  work(): void {
    const takedown = this.#takedown;
    if (takedown === undefined) return;
    if (takedown.state === 'accepting' && !this.#isAccepted(takedown)) return;
    takedown.state = 'accepted';
    if (takedown.deletedAt === undefined) {
      this.#erase(takedown);
      return;
    }
    const isWaitingForUploads = this.#uploads.some(
      ({ object, leaseUntil }) => takedown.objects.includes(object) && leaseUntil > this.now,
    );
    if (this.guards.waitsForUploads && isWaitingForUploads) return;
    if (this.guards.waitsForReadsWithoutLease && this.now < takedown.deletedAt + leaseMs) return;
    const isLeft = takedown.objects.some((object) => this.#store.has(object));
    if (this.guards.deletesAgain && isLeft) {
      this.#erase(takedown);
      if (this.guards.waitsAfterEachDeletion) return;
    }
    takedown.state = 'completed';
    this.#note(`completed, ${takedown.objects}`);
    for (const object of takedown.objects) this.completed.add(object);
    this.counts.completed += 1;
    this.#takedown = undefined;
  }

  #isAccepted({ event }: Takedown): boolean {
    if (!this.guards.waitsForReadLeases) return true;
    return ![...this.#nodes.values()].some(({ leaseUntil, cursor }) => leaseUntil > this.now && cursor < event);
  }

  #erase(takedown: Takedown): void {
    this.#note(`deleted ${takedown.objects}`);
    for (const object of takedown.objects) this.#store.delete(object);
    takedown.deletedAt = this.now;
  }

  // ── what must hold

  /** S7: nobody serves a byte of it, nor would if he were asked, whatever connection is lost next. */
  check(): void {
    for (const [at, { object }] of [...this.#readings.entries()].reverse()) {
      if (object === undefined) this.#readings.splice(at, 1);
    }
    for (const { node, object, key } of this.#readings) {
      if (object !== undefined && this.completed.has(object) && !this.#isBack(key))
        throw this.#leak(`${node.name} goes on to serve ${object} of ${key}`);
    }
    for (const key of keys.filter((one) => !this.#isBack(one))) {
      for (const replica of this.replicas) this.#checkWould(replica, replica, key);
      for (const node of this.caches) for (const replica of this.replicas) this.#checkWould(node, replica, key);
    }
    for (const [key, { state, object }] of this.#rows) {
      if (state === 'live' && this.completed.has(object)) throw this.#leak(`${key} is live again, as ${object}`);
    }
    for (const object of this.completed)
      if (this.#store.has(object)) throw this.#leak(`${object} is in the store again`);
  }

  /** The same bytes came again, and are not erased again: nodes know blobs by their keys, and may serve them. */
  #isBack(key: string): boolean {
    return this.#rows.get(key)?.state !== 'taken down' || this.#takedown?.key === key;
  }

  #checkWould(node: ModelNode, replica: ModelNode, key: string): void {
    const reading = this.#begin(node, replica, key);
    const { object } = reading ?? {};
    if (reading !== undefined) end(reading);
    if (reading?.upstream !== undefined) end(reading.upstream);
    if (object !== undefined && this.completed.has(object)) throw this.#leak(`${node.name} would serve ${object}`);
  }

  // ── the rest

  #leak(message: string): Leak {
    return new Leak([message, ...this.notes].join('\n'));
  }

  #note(text: string): void {
    this.notes.push(`${this.now} ${text}`);
    if (this.notes.length > 60) this.notes.shift();
  }

  #node(kind: ModelNode['kind'], number: string, offsetMs: number): ModelNode {
    const node: ModelNode = {
      ...{
        name: `${kind} ${number}`,
        kind,
        offsetMs,
        isConnected: true,
        steadyLostMs: 0,
        cleared: 0,
        life: 0,
        isCursorKnown: true,
      },
      ...{ lease: new ReadLease(0n), kept: new Map(), rows: new Map(), applied: new Map() },
      reads: undefined as unknown as RunningReads,
    };
    node.reads = this.#readsOf(node);
    return node;
  }

  #readsOf(node: ModelNode): RunningReads {
    return new RunningReads({ leaseMs, endsAt: () => node.lease.endsAt, clock: () => this.#clock(node) });
  }

  #clock({ offsetMs, steadyLostMs }: ModelNode): Moment {
    return { steadyMs: this.now + offsetMs - steadyLostMs, wallMs: this.now + 1e6 };
  }

  #isFresh(node: ModelNode): boolean {
    return node.lease.isFresh(this.#clock(node));
  }

  /** Changes when something of the key is forgotten. */
  #appliedOf({ applied, cleared }: ModelNode, key: string): string {
    return `${applied.get(key)} ${cleared}`;
  }
}

/** A read that ends M after its beginning, whatever happens. */
function unbound(begun: RunningRead, reads: RunningReads): RunningRead {
  begun.end();
  return reads.begin();
}

function refused(handle: RunningRead): undefined {
  handle.end();
  return undefined;
}

function end(reading: Reading): void {
  reading.object = undefined;
  reading.handle.end();
}
