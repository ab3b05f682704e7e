/**
 * A replica as a holder of leases on reading: asks Postgres, hears of events by NOTIFY, forgets rows and blobs, cuts reads.
 *
 *   fresh       rows from the row cache, blobs from memory and disk
 *   not fresh   rows from Postgres, blobs from the store; while Postgres is away from the store alone, for M at most
 */
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { BlobStore, CachedStore } from '@large-payload/core';
import type { Logger } from 'pino';
import type { Catalog } from '../catalog/catalog.js';
import { openDatabase } from '../catalog/database.js';
import { listenForRowEvents } from '../catalog/row-events.js';
import { readLeasePoolSize } from '../durable/connections.js';
import type { LeaderTask } from '../durable/leader-tasks.js';
import { EventFeed } from './event-feed.js';
import { holdReadLease, type Keeper, type LeaseHolder, type LeaseSource, type LeaseState } from './lease-holder.js';
import type { NodeState } from './node-state.js';
import { never } from './read-lease.js';
import { eventChannel, type Node, openReadLeases, type ReadLeases } from './read-leases.js';
import { RunningReads } from './running-reads.js';

export interface ReplicaNodeOptions {
  readonly databaseUrl: string;
  readonly schema: string;
  /** M, in ms. */
  readonly leaseMs: number;
  /** No other replica runs on this database. */
  readonly isAlone: boolean;
  readonly log: Logger;
}

export interface ReplicaNode {
  /** Whether rows and blobs that are kept here may be used now. */
  isFresh(): boolean;
  readonly reads: RunningReads;
  readonly leases: ReadLeases;
  /** For cache nodes that want to hear of events. */
  readonly feed: EventFeed;
  readonly task: LeaderTask;
  state(): LeaseState;
  /** The newest event that was applied here; `undefined` while that may be old. */
  asOf(): bigint | undefined;
  /**
   * From now on leases are held; until then nothing is fresh. `cache`: where blobs are kept, if anywhere. `disk`: what its files
   * have seen of the events; without it they are forgotten first.
   */
  hold(catalog: Catalog, cache: CachedStore | undefined, disk: NodeState | undefined): void;
  /** After the last write to the cache. */
  close(): Promise<void>;
}

/** A lease is asked for again while it lasts. */
const statementTimeoutMs = 10_000;
const pruneEveryMs = 60_000;
const prunedAtOnce = 20_000;
/** A node that was away for longer forgets everything. */
const eventsKeptMs = 24 * 3_600_000;

const saveLaterMs = 1000;

const nobody: LeaseState = { isFresh: false, endsInMs: 0, cursor: 0n, applied: 0, cleared: 0 };

/** Throws CONFIG_INVALID when the installation goes by another M, CATALOG_UNAVAILABLE. */
export async function openReplicaNode(options: ReplicaNodeOptions): Promise<ReplicaNode> {
  const { databaseUrl: url, schema, leaseMs, isAlone, log } = options;
  const database = openDatabase({
    ...{ url, maxConnections: readLeasePoolSize },
    statementTimeoutMs: Math.min(statementTimeoutMs, leaseMs),
    log: (line) => log.debug(line),
  });
  const leases = openReadLeases({ database, schema, leaseMs });
  try {
    await leases.agree(isAlone);
  } catch (error) {
    await database.close();
    throw error;
  }
  let holder: LeaseHolder | undefined;
  let saved = async (): Promise<void> => undefined;
  const reads = new RunningReads({ leaseMs, endsAt: () => holder?.endsAt() ?? never });
  const feed = new EventFeed({ leases, leaseMs });
  const hear = (): void => {
    holder?.wake();
    feed.wake();
  };
  const listener = listenForRowEvents({
    ...{ url, channel: eventChannel(schema), log: (line: string) => log.debug(line) },
    ...{ onUp: hear, onDown: () => undefined, onEvict: hear },
  });
  return {
    isFresh: () => holder?.isFresh() ?? false,
    ...{ reads, leases, feed },
    task: {
      name: 'forgetting old events',
      everyMs: pruneEveryMs,
      run: () => leases.prune(eventsKeptMs, prunedAtOnce),
    },
    state: () => holder?.state() ?? nobody,
    asOf: () => (holder?.isFresh() ? holder.state().cursor : undefined),
    hold(catalog, cache, disk) {
      const place = new SavedCursor(disk);
      saved = () => place.close();
      holder = holdReadLease({
        ...(disk?.cursor === undefined ? {} : { cursor: disk.cursor }),
        onCursor: (cursor) => place.moved(cursor),
        source: sourceOf(leases),
        keeper: keeperOf(catalog, cache, reads),
        leaseMs,
        onProblem(problem) {
          if (problem === undefined) log.info('this replica holds leases on reading again');
          else log.warn({ err: problem }, 'the lease on reading is not renewed: soon reads go past every cache');
        },
      });
    },
    async close() {
      feed.close();
      await listener.close();
      await holder?.close();
      await saved();
      await database.close();
    },
  };
}

/** Written a little later: then the files that an event names are gone, and many events are one write. */
class SavedCursor {
  #cursor: bigint | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(readonly disk: NodeState | undefined) {
    this.#cursor = disk?.cursor;
  }

  moved(cursor: bigint): void {
    this.#cursor = cursor;
    if (this.disk === undefined) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.disk?.save(this.#cursor ?? cursor);
    }, saveLaterMs).unref();
  }

  async close(): Promise<void> {
    clearTimeout(this.#timer);
    await this.disk?.close(this.#cursor);
  }
}

/** Leases from Postgres itself. */
function sourceOf(leases: ReadLeases): LeaseSource {
  const node: Node = { id: randomUUID(), kind: 'replica', name: `${hostname()}:${process.pid}` };
  return {
    grant: (cursor) => leases.grant(node, cursor),
    events: (after, limit) => leases.events(after, limit),
    async end() {
      await leases.end(node.id, node.kind);
    },
  };
}

function keeperOf(catalog: Catalog, cache: CachedStore | undefined, reads: RunningReads): Keeper {
  return {
    forget(events) {
      catalog.forgetRows(events.map(({ key }) => key));
      for (const { physicalKey } of events) cache?.forget(physicalKey);
      reads.cut(events, ({ physicalKey }) => cache?.forget(physicalKey));
    },
    clear() {
      catalog.forgetRows();
      cache?.clear();
      reads.cutAll(() => cache?.clear());
    },
  };
}

/** Reads from `kept` while that is allowed, else from what it keeps things of. */
export function whileFresh(kept: BlobStore, source: BlobStore, isFresh: () => boolean): BlobStore {
  return { ...kept, get: (key, options) => (isFresh() ? kept : source).get(key, options) };
}
