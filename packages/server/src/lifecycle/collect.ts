/**
 * One round of the collection, run by the leader:
 *
 *   is the database as new as the store? ─ mark every namespace of every cluster ─ brakes ─ sweep each blob namespace ─
 *   delete what was retired ─ forget holders that have been gone for long, edges that were lost as long ago, and what nobody
 *   asks for any more
 *
 * All that a round knows is in the catalog, so a leader that dies is followed by one that goes on. Nothing is done twice to
 * a different end: marks begin anew, decisions are conditional, names of objects are used once.
 */
import { type BlobStore, isLpsError } from '@large-payload/core';
import type { Logger } from 'pino';
import { requireOwner } from '../bucket-owner.js';
import { brakesOn, lostHolders, revived, smallerConfiguration } from './brakes.js';
import { pinsOf } from './catalog/pins.js';
import type { HolderKind } from './holders/holder-kind.js';
import { type AnsweringCluster, type JudgeOptions, judge, marksKept } from './judge.js';
import type { Brake, Fence, LifecycleCatalog, Mark, NamespaceName } from './lifecycle-catalog.js';
import { failedMark, markNamespace } from './mark.js';
import { type LifecycleTimes, lingerOf } from './permission.js';
import { beginRound } from './rounds.js';
import { deleteRetired, planSweep, type SweepPlan, sweep, tooMuch } from './sweep.js';
import type { TemporalCluster, TemporalNamespace } from './temporal-api.js';

/** A configured cluster. */
export interface AskedCluster extends Omit<AnsweringCluster, 'name'> {
  readonly cluster: TemporalCluster;
  /** How its holders are found and read: what need not be understood is the cluster's. */
  readonly kinds: readonly HolderKind[];
}

export interface CollectionOptions {
  readonly catalog: LifecycleCatalog;
  readonly catalogId: string;
  /** The store itself, below caches and catalog. */
  readonly store: BlobStore;
  readonly clusters: readonly AskedCluster[];
  readonly times: LifecycleTimes;
  /** Blob namespaces in which something is done; in the others it is only said what would be. */
  readonly acting: ReadonlySet<string>;
  /** Of blob namespaces that no cluster answers for: how long after its last use a blob goes, in ms. */
  readonly retention: ReadonlyMap<string, number>;
  readonly maxShare: number;
  /** What else may be wrong: lifecycle rules of the bucket. One line, or nothing. */
  checkStore?(): Promise<string | undefined>;
  readonly log: Logger;
}

/** What became of one blob namespace in a round. */
export interface NamespaceReport {
  readonly blobNamespace: string;
  readonly isActing: boolean;
  /** Why nothing goes. */
  readonly missing: readonly string[];
  readonly plan?: SweepPlan;
}

export interface RoundReport {
  readonly namespaces: readonly NamespaceReport[];
  readonly deleted: { readonly blobs: number; readonly bytes: number };
}

/** For how long brakes that were let go of, and pins that are over, can be asked about. */
const rememberedMs = 90 * 86_400_000;

/** Rows that one statement forgets. */
const atOnce = 10_000;

export class Collection {
  readonly #options: CollectionOptions;
  readonly #judging: JudgeOptions;

  constructor(options: CollectionOptions) {
    this.#options = options;
    const clusters = options.clusters.map(({ cluster: { name }, ...one }) => ({ ...one, name }));
    this.#judging = { ...options, clusters };
  }

  /** Throws ABORTED when another replica leads, CATALOG_UNAVAILABLE, and what the store throws. */
  async round(fence: Fence, signal: AbortSignal): Promise<RoundReport> {
    const { catalog, store, catalogId, times } = this.#options;
    await requireOwner(store, catalogId);
    // before the next round is on record: a leader that dies in between is followed by one that looks again
    await this.#lookForRevived();
    if (!(await beginRound(catalog, store, fence, catalogId))) {
      await this.#brake({ kind: 'database_restored', reason: 'the database is older than the store' });
    }
    await this.#mark(fence, signal);
    const broken = await this.#options.checkStore?.();
    if (broken !== undefined) await this.#brake({ kind: 'lifecycle_rule', reason: broken });
    const namespaces: NamespaceReport[] = [];
    for (const blobNamespace of await catalog.blobNamespaces()) {
      namespaces.push(await this.#sweep(blobNamespace, fence, signal));
    }
    const deleted = await this.#deleteRetired(signal);
    const lingerMs = lingerOf(times, await this.#lastMarks());
    await untilNone(signal, () => catalog.forgetGone(lingerMs, atOnce));
    await untilNone(signal, () => catalog.forgetLost(lingerMs, atOnce));
    await this.#prune();
    return { namespaces, deleted };
  }

  /** Marks all there is, one namespace after the other in each cluster. */
  async #mark(fence: Fence, signal: AbortSignal): Promise<void> {
    const { catalog, clusters, log } = this.#options;
    const known = await catalog.knownNamespaces();
    const configured = await Promise.all(
      clusters.map(async ({ cluster, kinds }): Promise<readonly NamespaceName[]> => {
        const namespaces = await namespacesOf(cluster, signal);
        if (typeof namespaces === 'string') {
          const ours = known.filter((one) => one.cluster === cluster.name);
          for (const one of ours) await failedMark(catalog, fence, one, namespaces);
          log.warn(
            { cluster: cluster.name, problem: namespaces },
            'a Temporal cluster could not be asked who holds what',
          );
          return ours;
        }
        for (const namespace of namespaces) await this.#markOne(namespace, kinds, fence, signal);
        return namespaces;
      }),
    );
    const smaller = smallerConfiguration(known, configured.flat());
    if (smaller !== undefined) await this.#brake(smaller);
  }

  async #markOne(
    namespace: TemporalNamespace,
    kinds: readonly HolderKind[],
    fence: Fence,
    signal: AbortSignal,
  ): Promise<void> {
    const { catalog, log } = this.#options;
    const { mark, identityChanged } = await markNamespace({ catalog, fence, namespace, kinds, signal });
    const name = `${namespace.cluster}/${namespace.name}`;
    const { isComplete, gaps, holders, scanned } = mark;
    log[isComplete ? 'info' : 'warn']({ namespace: name, isComplete, gaps, holders, scanned }, 'a mark has ended');
    if (identityChanged) {
      await this.#brake({ kind: 'identity_changed', reason: `${name}: ${gaps.join('; ')}` });
    }
    const before = (await catalog.marksOf(mark.namespace, marksKept)).find(
      (one) => one.isComplete && one.id !== mark.id,
    );
    const lost = isComplete && before !== undefined ? lostHolders(before, mark) : undefined;
    if (lost !== undefined) await this.#brake(lost);
  }

  async #sweep(blobNamespace: string, fence: Fence, signal: AbortSignal): Promise<NamespaceReport> {
    const { catalog, times, acting, maxShare, log } = this.#options;
    const isActing = acting.has(blobNamespace);
    const { permission, missing = [] } = await judge(blobNamespace, this.#judging);
    const brakes = brakesOn(await catalog.brakes(), blobNamespace);
    const why = [...missing, ...brakes.map(said)];
    if (permission === undefined) return { blobNamespace, isActing, missing: why };
    const { quarantineMs } = times;
    const plan = await planSweep({ catalog, permission, quarantineMs, signal });
    if (!isActing || brakes.length > 0) return { blobNamespace, isActing, missing: why, plan };
    const reason = tooMuch(plan, maxShare);
    if (reason !== undefined) {
      await this.#brake({ kind: 'too_much', blobNamespace, reason });
      return { blobNamespace, isActing, missing: [reason], plan };
    }
    if (plan.quarantine.blobs + plan.retire.blobs === 0) return { blobNamespace, isActing, missing: [], plan };
    const stops = async (): Promise<Brake[]> => brakesOn(await catalog.brakes(), blobNamespace);
    const isStopped = async (): Promise<boolean> => (await stops()).length > 0;
    const { quarantined, retired } = await sweep({ catalog, fence, permission, quarantineMs, signal, isStopped });
    if (quarantined.blobs + retired.blobs > 0) log.info({ blobNamespace, quarantined, retired }, 'swept');
    return { blobNamespace, isActing, missing: (await stops()).map(said), plan };
  }

  /** What was decided long ago waits as well, while anything stops all namespaces: it cannot be taken back. */
  async #deleteRetired(signal: AbortSignal): Promise<{ blobs: number; bytes: number }> {
    const { catalog, store, catalogId } = this.#options;
    const isStopped = async (): Promise<boolean> =>
      (await catalog.brakes()).some(({ blobNamespace }) => blobNamespace === undefined);
    return deleteRetired({ catalog, store, signal, isStopped, mayDelete: () => requireOwner(store, catalogId) });
  }

  /** What nobody asks for any more. A pin is in the store as well. */
  async #prune(): Promise<void> {
    const { catalog, store } = this.#options;
    await catalog.prune(marksKept, rememberedMs, 10_000);
    const pins = pinsOf(catalog, store);
    for (const id of await catalog.expiredPins(rememberedMs, 1000)) await pins.remove(id);
  }

  /** Since the last round began, whoever led then. */
  async #lookForRevived(): Promise<void> {
    const { catalog } = this.#options;
    const { beganAt } = await catalog.roundTimes();
    const brake = beganAt === undefined ? undefined : await revived(catalog, beganAt);
    if (brake !== undefined) await this.#brake(brake);
  }

  async #lastMarks(): Promise<Mark[]> {
    const { catalog } = this.#options;
    const known = await catalog.knownNamespaces();
    return (await Promise.all(known.map((one) => catalog.marksOf(one, marksKept)))).flat();
  }

  async #brake(brake: Omit<Brake, 'since'>): Promise<void> {
    this.#options.log.error(
      { alarm: 'gc_brake', ...brake },
      'the collection has stopped, until a person has looked: lps gc status',
    );
    await this.#options.catalog.brake(brake);
  }
}

function said({ kind, reason }: Brake): string {
  return `${kind}: ${reason}`;
}

async function untilNone(signal: AbortSignal, forget: () => Promise<number>): Promise<void> {
  while (!signal.aborted && (await forget()) > 0);
}

async function namespacesOf(
  cluster: TemporalCluster,
  signal: AbortSignal,
): Promise<readonly TemporalNamespace[] | string> {
  try {
    return await cluster.namespaces(signal);
  } catch (error) {
    if (!isLpsError(error) || error.code === 'ABORTED') throw error;
    return `${error.message} (${error.code})`;
  }
}
