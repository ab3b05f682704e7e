/** The collection as `lps serve` configures it. Temporal's packages are loaded here, and only when there are clusters. */
import { type BlobStore, isLpsError } from '@large-payload/core';
import type { Logger } from 'pino';
import { parseRetention } from '../config/collection-settings.js';
import type { Config } from '../config/settings.js';
import { prefixOf } from '../doctor/store.js';
import { collectionPoolSize } from '../durable/connections.js';
import type { LeaderTask } from '../durable/leader-tasks.js';
import type { Metrics } from '../metrics.js';
import { openLifecycleCatalog } from './catalog/postgres-lifecycle.js';
import { type AskedCluster, Collection, type RoundReport } from './collect.js';
import { watchCollection } from './collection-metrics.js';
import type { LifecycleCatalog } from './lifecycle-catalog.js';
import type { LifecycleTimes } from './permission.js';

export interface OpenedCollection {
  readonly catalog: LifecycleCatalog;
  /** Rounds are among them only when something says who may hold blobs. */
  readonly tasks: readonly LeaderTask[];
  close(): Promise<void>;
}

/** How often the leader looks whether a round is due. */
const pollMs = 5000;
const foldMs = 60_000;

/** From the settings. D: two rounds, should the marks of each take as long as the time between them, and 2V. */
export function timesOf(config: Config): LifecycleTimes {
  const { graceMs, quarantineMs, visibilityMs, collectIntervalMs } = config;
  return { graceMs, quarantineMs, visibilityMs, lingerMs: 4 * collectIntervalMs + 2 * visibilityMs };
}

/** Throws CONFIG_INVALID, CATALOG_UNAVAILABLE. */
export async function openCollection(
  config: Config,
  databaseUrl: string,
  catalogId: string,
  store: BlobStore,
  log: Logger,
  metrics: Metrics,
): Promise<OpenedCollection> {
  const { databaseSchema: schema, graceMs } = config;
  const catalog = await openLifecycleCatalog({
    ...{ url: databaseUrl, schema, graceMs, maxConnections: collectionPoolSize },
    log: (line) => log.warn(line),
  });
  watchCollection(catalog, metrics.registry);
  const retention = retentionOf(config);
  if (config.clusters === undefined && retention.size === 0)
    return { catalog, tasks: [foldTask(catalog)], close: () => catalog.close() };
  for (const [blobNamespace, keptMs] of retention) {
    const days = keptMs / 86_400_000;
    log.warn({ blobNamespace }, `blobs go ${days} d after their last use, also those that a workflow still holds`);
  }
  let clusters: readonly AskedCluster[] = [];
  try {
    clusters = config.clusters === undefined ? [] : await openClusters(config, config.clusters);
  } catch (error) {
    await catalog.close();
    throw error;
  }
  const collection = new Collection({
    ...{ catalog, catalogId, store, clusters, retention, log, times: timesOf(config) },
    acting: new Set(config.collect),
    maxShare: config.collectMaxPercent / 100,
    checkStore: () => lifecycleRule(store, config),
  });
  const tasks = [foldTask(catalog), roundsTask(collection, catalog, config, log)];
  return {
    catalog,
    tasks,
    async close() {
      await Promise.all(clusters.map(({ cluster }) => cluster.close()));
      await catalog.close();
    },
  };
}

export function retentionOf({ collectRetention }: Pick<Config, 'collectRetention'>): Map<string, number> {
  return new Map(
    collectRetention.flatMap((text) => {
      const parsed = parseRetention(text);
      return parsed === undefined ? [] : [[parsed.namespace, parsed.keptMs] as const];
    }),
  );
}

/** Connected when they are first asked. Throws CONFIG_INVALID. */
export async function openClusters(config: Config, path: string): Promise<AskedCluster[]> {
  const { readClusters } = await import('./clusters.js');
  const { openCluster } = await import('./temporal/cluster.js');
  const { openExtractor } = await import('./extract/extractor.js');
  const { runsKind } = await import('./holders/runs.js');
  const { schedulesKind } = await import('./holders/schedules.js');
  const { loadCodecs } = await import('../codec/codec-modules.js');
  const codecs = {
    preStorage: await loadCodecs(config.codecPreStorage, config),
    postStorage: await loadCodecs(config.codecPostStorage, config),
  };
  return (await readClusters(path)).map((settings) => {
    const { blobNamespaces, isIsolated, claimFreeEncodings } = settings;
    const extractor = openExtractor({ codecs, claimFreeEncodings });
    return {
      cluster: openCluster(settings),
      ...(blobNamespaces === undefined ? {} : { blobNamespaces }),
      isIsolated,
      kinds: [runsKind(extractor), schedulesKind(extractor)],
    };
  });
}

/** Every change of a blob leaves a row to be folded into the sums: somebody has to, whether they are read or not. */
function foldTask(catalog: LifecycleCatalog): LeaderTask {
  return {
    name: 'counting blobs by state',
    everyMs: foldMs,
    async run() {
      await catalog.sums();
    },
  };
}

function roundsTask(
  collection: Collection,
  catalog: LifecycleCatalog,
  { collectIntervalMs }: Config,
  log: Logger,
): LeaderTask {
  return {
    name: 'the collection',
    everyMs: Math.min(pollMs, collectIntervalMs),
    async run({ epoch, signal }) {
      if (!(await isDue(catalog, collectIntervalMs))) return;
      const startedMs = performance.now();
      const report = await collection.round({ epoch }, signal);
      const seconds = (performance.now() - startedMs) / 1000;
      log.info(summaryOf(report, seconds), 'a round of the collection has ended');
    },
  };
}

async function isDue(catalog: LifecycleCatalog, intervalMs: number): Promise<boolean> {
  const { beganAt, requestedAt } = await catalog.roundTimes();
  if (beganAt === undefined || requestedAt !== undefined) return true;
  return (await catalog.now()).getTime() - beganAt.getTime() >= intervalMs;
}

function summaryOf({ namespaces, deleted }: RoundReport, seconds: number): Record<string, unknown> {
  const stopped = namespaces.filter(({ missing }) => missing.length > 0).map(({ blobNamespace }) => blobNamespace);
  return { seconds, namespaces: namespaces.length, stopped, deletedBlobs: deleted.blobs, deletedBytes: deleted.bytes };
}

/** A rule of the bucket that takes blobs away: then what is missing was not our doing, and what is there may go any time. */
async function lifecycleRule(store: BlobStore, config: Config): Promise<string | undefined> {
  if (store.settings === undefined) return undefined;
  try {
    const { judgeBucket } = await import('../doctor/bucket-settings.js');
    const findings = judgeBucket(await store.settings(), prefixOf(config));
    return findings.find(({ id, severity }) => id === 'bucket.lifecycle' && severity === 'fail')?.seen;
  } catch (error) {
    if (isLpsError(error)) return undefined; // it may not be read: lps doctor says so
    throw error;
  }
}
