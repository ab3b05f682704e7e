/** Takedowns as `lps serve` has them. Temporal's packages are loaded when a takedown is of a workflow, and not before. */
import { type BlobStore, type Digest, isLpsError } from '@large-payload/core';
import type { Logger } from 'pino';
import { openDatabase } from '../catalog/database.js';
import type { Config } from '../config/settings.js';
import { takedownPoolSize } from '../durable/connections.js';
import type { LeaderTask } from '../durable/leader-tasks.js';
import type { WorkflowAdmin } from '../durable/workflow-admin.js';
import type { AskedCluster } from '../lifecycle/collect.js';
import { openReadLeases } from '../nodes/read-leases.js';
import { planTakedown, type TakedownPlan } from './find.js';
import { blobsHeldBy, nobodyAnswers } from './held-blobs.js';
import { outOfReach } from './out-of-reach.js';
import type { Selector } from './selector.js';
import { signingKey } from './signing-key.js';
import { openTakedownCatalog, type Takedown, type TakedownCatalog, type TakedownRequest } from './takedown-catalog.js';
import { TakedownSteps, writeTakedownObject } from './takedown-steps.js';
import { takedownWorkflow, takedownWorkflowId } from './takedown-workflow.js';

export interface Takedowns {
  readonly catalog: Pick<TakedownCatalog, 'get' | 'list' | 'receipt' | 'blocks'>;
  plan(selector: Selector, signal?: AbortSignal): Promise<TakedownPlan>;
  /** Puts it on record, and begins it; the same one again is the same one. Throws CONFIG_INVALID, INVALID_ARGUMENT. */
  request(request: TakedownRequest): Promise<Takedown>;
  /** Without a prefix: under all of them. Returns how many blocks there were. */
  unblock(namespace: string, digest: Digest, prefix: string | undefined): Promise<number>;
}

/** The durable work of the process, once it is there. */
export interface TakedownWork {
  start(id: string): Promise<unknown>;
  readonly workflows: Pick<WorkflowAdmin, 'show'>;
}

export interface OpenedTakedowns extends Takedowns {
  readonly workflow: (id: string) => Promise<void>;
  readonly tasks: readonly LeaderTask[];
  connect(work: TakedownWork): void;
  close(): Promise<void>;
}

export interface TakedownOptions {
  readonly config: Config;
  readonly databaseUrl: string;
  /** Nobody but this process is on the catalog. */
  readonly isAlone: boolean;
  /** The one below every layer. */
  readonly store: BlobStore;
  readonly log: Logger;
}

/** One statement may read a namespace of many million rows. */
const statementTimeoutMs = 600_000;
const beginEveryMs = 5000;

export function openTakedowns({ config, databaseUrl, isAlone, store, log }: TakedownOptions): OpenedTakedowns {
  const { databaseSchema: schema, maxStalenessMs } = config;
  const database = openDatabase({
    ...{ url: databaseUrl, maxConnections: takedownPoolSize, statementTimeoutMs },
    log: (line) => log.debug(line),
  });
  const catalog = openTakedownCatalog({ database, schema });
  const key = signingKey({
    ...{ path: config.takedownKey, isAlone },
    dataDir: config.store === 'memory' ? undefined : config.dataDir,
  });
  const temporal = new AskedTemporal(config);
  const heldBy = (selector: Selector, signal?: AbortSignal) => temporal.heldBy(selector, signal);
  const leases = openReadLeases({ database, schema, leaseMs: maxStalenessMs });
  const steps = new TakedownSteps({ catalog, leases, store, heldBy, outOfReach, signingKey: key });
  let work: TakedownWork | undefined;
  return {
    catalog,
    workflow: takedownWorkflow({ steps, catalog, log, maxStalenessMs }),
    tasks: [beginTask(catalog, () => work)],
    connect(durable) {
      work = durable;
    },
    plan: (selector, signal) =>
      planTakedown(selector, { catalog, store, heldBy, ...(signal === undefined ? {} : { signal }) }),
    async request(request) {
      await key(); // no receipt, no takedown
      if (request.selector.workflowId !== undefined) temporal.check(request.selector);
      const takedown = await catalog.request(request);
      // should this fail, the leader begins it
      if (takedown.state === 'planning')
        await work?.start(takedown.id).catch((error: unknown) => {
          log.info({ err: error, takedown: takedown.id }, 'a takedown is on record, and begins later');
        });
      return takedown;
    },
    async unblock(namespace, digest, prefix) {
      const ends = (block: { readonly digest: string; readonly prefix?: string }): boolean =>
        block.digest === digest && (prefix === undefined || block.prefix === prefix);
      // the store first: a block that is in the catalog alone can be let go of again
      for (const id of await catalog.blockers(namespace, digest)) {
        const takedown = await catalog.get(id);
        if (takedown?.acceptedAt !== undefined) await writeTakedownObject(takedown, catalog, store, ends);
      }
      return catalog.unblock(namespace, digest, prefix);
    },
    async close() {
      await temporal.close();
      await database.close();
    },
  };
}

class AskedTemporal {
  readonly #config: Config;
  #clusters: Promise<readonly AskedCluster[]> | undefined;

  constructor(config: Config) {
    this.#config = config;
  }

  /** Throws CONFIG_INVALID where no cluster is configured. */
  check({ namespace }: Selector): void {
    if (this.#config.clusters === undefined) throw nobodyAnswers(namespace);
  }

  async heldBy(selector: Selector, signal?: AbortSignal): ReturnType<typeof blobsHeldBy> {
    const { clusters: path } = this.#config;
    if (path === undefined) throw nobodyAnswers(selector.namespace);
    const { openClusters } = await import('../lifecycle/open-collection.js');
    this.#clusters ??= openClusters(this.#config, path);
    return blobsHeldBy(selector, await this.#clusters, signal);
  }

  async close(): Promise<void> {
    const clusters = (await this.#clusters?.catch(() => undefined)) ?? [];
    await Promise.all(clusters.map(({ cluster }) => cluster.close()));
  }
}

/** What is on record and has no workflow gets one; of one that cannot go on by itself, it is said what to do. */
function beginTask(catalog: TakedownCatalog, workNow: () => TakedownWork | undefined): LeaderTask {
  return {
    name: 'beginning takedowns',
    everyMs: beginEveryMs,
    async run() {
      const work = workNow();
      if (work === undefined) return;
      for (const id of await catalog.unfinished()) {
        const state = await work.workflows.show(takedownWorkflowId(id)).then(
          (workflow) => workflow.state,
          (error: unknown) => {
            if (isLpsError(error, 'WORKFLOW_NOT_FOUND')) return undefined;
            throw error;
          },
        );
        if (state === undefined) await work.start(id);
        else if (state === 'cancelled' || state === 'given-up')
          await catalog.problem(id, `its workflow is ${state}: lps workflows resume ${takedownWorkflowId(id)}`);
        else if (state === 'failed')
          await catalog.problem(id, `its workflow has failed: lps workflows show ${takedownWorkflowId(id)}`);
      }
    },
  };
}
