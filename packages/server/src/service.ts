/**
 * The service put together: store → layers → catalog → HTTP, and the timers beside them.
 *
 *   running(observed(catalogued(cached(checked(store)))))       the stores that core opens are checked already
 *
 * Start: database, catalog, store, whose bucket it is, durable work (in the background), HTTP. Close: the other way
 * round, so that a request under way may still begin a workflow.
 */
import { mkdir } from 'node:fs/promises';
import type { Server as TlsServer } from 'node:https';
import {
  type BlobStore,
  type CachedStore,
  cached,
  isLpsError,
  LpsError,
  observed,
  passThrough,
} from '@large-payload/core';
import type { Logger } from 'pino';
import { openAccessControl } from './auth/access-control.js';
import { claimStore } from './bucket-owner.js';
import type { Catalog } from './catalog/catalog.js';
import { openDatabase as openPool } from './catalog/database.js';
import { startEmbeddedPostgres } from './catalog/embedded-postgres.js';
import { ownDataDir } from './catalog/embedded-postgres-owner.js';
import { openCatalog } from './catalog/postgres-catalog.js';
import { type Alarms, catalogued } from './catalogued.js';
import { openCodec } from './codec/configured.js';
import { isLoopback } from './config/checks.js';
import type { Config } from './config/settings.js';
import { openDirectTransfers } from './direct/direct-transfers.js';
import { uploadEffects } from './direct/upload-effects.js';
import { lateUploadMs, openUploadUrls } from './direct/upload-urls.js';
import { embeddedConnections, uploadUrlPoolSize } from './durable/connections.js';
import { type DurableState, startDurable } from './durable/durable.js';
import { removeTemporaryFiles, sweepLeasesTask, tidyFiles } from './durable/housekeeping.js';
import { serviceWorkflows } from './durable/service-workflows.js';
import { createApp } from './http/app.js';
import { addressOf, drain, listen } from './http/listening.js';
import { readTls, renewTls, tlsOf } from './http/tls.js';
import { inSpan } from './http/trace.js';
import { pinsOf } from './lifecycle/catalog/pins.js';
import { openCollection } from './lifecycle/open-collection.js';
import { createMetrics, type Metrics } from './metrics.js';
import { type NodeState, openNodeState } from './nodes/node-state.js';
import { openReplicaNode, whileFresh } from './nodes/replica-node.js';
import { openStore } from './open-store.js';
import { openTakedowns } from './takedown/open-takedowns.js';
import { takedownWorkflowId } from './takedown/takedown-workflow.js';
import { version } from './version.js';

export interface Service {
  /** `http://127.0.0.1:8577`, with the port that was taken. */
  readonly url: string;
  /** Not ready any more; requests under way get `shutdownTimeoutMs` to finish; then everything is let go of. */
  close(): Promise<void>;
}

const claimRetryMs = 2000;

/** Starts everything; what fails on the way is undone. Throws LpsError. */
export async function startService(config: Config, logger: Logger): Promise<Service> {
  const closing: (() => Promise<unknown>)[] = [];
  const closeAll = async (): Promise<void> => {
    for (const close of closing.splice(0).reverse())
      await close().catch((error) => logger.error({ err: error }, 'closing failed'));
  };
  try {
    return await start(config, logger, closing, closeAll);
  } catch (error) {
    await closeAll();
    throw error;
  }
}

async function start(
  config: Config,
  logger: Logger,
  closing: (() => Promise<unknown>)[],
  closeAll: () => Promise<void>,
): Promise<Service> {
  let isFresh = (): boolean => false;
  const database = await openDatabase(config, logger, closing, () => isFresh());
  const { catalog } = database;
  closing.push(() => catalog.close());
  const node = await openReplicaNode({
    ...{ databaseUrl: database.url, schema: config.databaseSchema, leaseMs: config.maxStalenessMs },
    ...{ isAlone: database.isEmbedded, log: logger },
  });
  closing.push(() => node.close());
  isFresh = node.isFresh;
  const store = await openStore(config);
  closing.push(async () => store.close?.());
  if (store.janitor !== undefined) await removeTemporaryFiles(store, 0, logger); // nobody writes yet

  let inFlight = (): number => 0;
  let openUploads = (): number => 0;
  let durableState = (): DurableState => ({ running: false, leads: false, stranded: 0 });
  const metrics = createMetrics({
    uploadsInFlight: () => inFlight(),
    poolStats: () => catalog.stats(),
    directUploads: () => openUploads(),
    durable: () => durableState(),
    readLease: () => node.state(),
  });
  const cache = await withCache(store, config, metrics, logger);
  closing.push(async () => cache?.close?.());
  const kept = cache === undefined ? store : whileFresh(cache, store, isFresh);
  node.hold(catalog, cache, await diskStateOf(config, catalog, logger));
  const owned = await claim(kept, catalog, logger, closing);
  const alarms = alarmsOf(metrics, logger);
  const readable = withCatalog(guarded(kept, owned), store, catalog, config, alarms);
  const layered = node.reads.over(withObserver(readable, metrics, logger));
  const effects = uploadEffects(store, catalog, alarms);

  const access = await openAccessControl(config, database.url, logger, metrics);
  closing.push(() => access.close());
  const collection = await openCollection(config, database.url, catalog.id, store, logger, metrics);
  closing.push(() => collection.close());
  const takedowns = openTakedowns({
    ...{ config, databaseUrl: database.url, isAlone: database.isEmbedded, store, log: logger },
  });
  closing.push(() => takedowns.close());
  const uploadUrls = uploadUrlsOf(config, database.url, logger, closing);
  const durable = startDurable({
    databaseUrl: database.url,
    isAlone: database.isEmbedded,
    schema: config.databaseSchema,
    workflows: serviceWorkflows(effects, takedowns.workflow),
    log: logger,
    replicaTimeoutMs: config.replicaTimeoutMs,
    retentionMs: config.workflowRetentionMs,
    tasks: [
      sweepLeasesTask(store, catalog, logger),
      ...access.tasks,
      ...collection.tasks,
      ...takedowns.tasks,
      uploadUrls.task,
      node.task,
    ],
    onStranded(byVersion) {
      metrics.alarm('workflows_stranded');
      logger.error(
        { alarm: 'workflows_stranded', versions: Object.fromEntries(byVersion) },
        alarmText.workflows_stranded,
      );
    },
  });
  takedowns.connect({
    start: (id) => durable.start('takedown', takedownWorkflowId(id), id),
    workflows: durable.workflows,
  });
  durableState = () => durable.state();
  let drainUntilMs = 0;
  closing.push(() => durable.close(Math.max(0, drainUntilMs - performance.now())));
  closing.push(tidyFiles(store, logger));

  const direct = openDirectTransfers({
    ...{ store: layered, source: store, catalog, effects, durable, urls: uploadUrls, log: logger },
    lifetimeMs: config.directLifetimeMs,
    checkOwner: () => owned.check(),
  });
  openUploads = () => direct.uploads?.open ?? 0;
  const tlsPaths = tlsOf(config);
  const codec = config.codecServer ? await openCodec(config, layered) : undefined;
  if (codec !== undefined) closing.push(() => codec.close());
  let isDraining = false;
  const pace = { idleTimeoutMs: config.idleTimeoutMs, minRate: config.minBytesPerSecond, graceMs: 30_000 };
  const app = createApp({
    store: layered,
    limits: { maxBlobBytes: config.maxBlobBytes, maxUploads: config.maxUploads, maxConnections: config.maxConnections },
    pace,
    logger,
    metrics,
    operations: {
      version,
      ...(config.metrics ? { metrics } : {}),
      ready: async () => {
        if (isDraining) throw new LpsError('TRY_AGAIN', 'the service is stopping');
        owned.check();
        await layered.ready?.();
      },
    },
    ...(config.v1Namespace === undefined ? {} : { v1: { namespace: config.v1Namespace } }),
    workflows: durable.workflows,
    catalog,
    pins: pinsOf(collection.catalog, store),
    takedowns,
    reads: node.reads,
    asOf: node.asOf,
    nodes: node,
    behindProxy: config.tlsTerminatedUpstream,
    isOnLoopback: config.auth === 'none' && isLoopback(config.host),
    gate: access.gate,
    ...(codec === undefined ? {} : { codec: { codec: codec.codec, corsOrigins: config.corsOrigins, pace } }),
    audit: access.audit,
    ...(tlsPaths === undefined ? {} : { tls: await readTls(tlsPaths) }),
    ...(config.directTransfers ? { direct } : {}),
  });
  inFlight = () => app.transfers.uploadsInFlight;

  if (tlsPaths !== undefined) {
    const stop = renewTls(app.server.server as unknown as TlsServer, tlsPaths, logger);
    closing.push(async () => stop());
  }
  await listen(app.server, config);
  closing.push(() => drain(app.server, config.shutdownTimeoutMs));
  return {
    url: addressOf(app.server, config.host, tlsPaths !== undefined),
    async close() {
      isDraining = true;
      node.feed.close(); // its answers have no end of their own
      drainUntilMs = performance.now() + config.shutdownTimeoutMs;
      await closeAll();
    },
  };
}

/** Tests that ask for unsafe times wait no hour for bytes that come late. */
function uploadUrlsOf(
  config: Config,
  url: string,
  logger: Logger,
  closing: (() => Promise<unknown>)[],
): ReturnType<typeof openUploadUrls> {
  const database = openPool({
    ...{ url, maxConnections: uploadUrlPoolSize, statementTimeoutMs: 10_000 },
    log: (line) => logger.debug(line),
  });
  closing.push(() => database.close());
  const lateMs = config.unsafeTimes ? Math.min(lateUploadMs, config.directLifetimeMs) : lateUploadMs;
  return openUploadUrls({ database, schema: config.databaseSchema, lateMs });
}

interface OpenedDatabase {
  readonly catalog: Catalog;
  readonly url: string;
  /** Nobody but this process is on it. */
  readonly isEmbedded: boolean;
}

/** The catalog on the database that the settings name, else on an embedded one: in the data directory, or thrown away. */
async function openDatabase(
  config: Config,
  logger: Logger,
  closing: (() => Promise<unknown>)[],
  mayUseRows: () => boolean,
): Promise<OpenedDatabase> {
  const log = (line: string): void => logger.info(line);
  const isMemory = config.store === 'memory';
  if (isMemory && config.databaseUrl !== undefined) {
    logger.warn('store memory is gone with the process, and so is its catalog: the database URL is not used');
  }
  let url = config.databaseUrl;
  const isEmbedded = isMemory || url === undefined;
  if (isMemory || url === undefined) {
    const maxConnections = embeddedConnections(config.databasePoolSize);
    const postgres = await startEmbeddedPostgres(
      isMemory ? { throwAway: true, maxConnections, log } : { dataDir: config.dataDir, maxConnections, log },
    );
    closing.push(() => postgres.stop());
    postgres.exited.catch((error) => logger.fatal({ err: error }, 'the embedded database was taken over'));
    url = postgres.url;
  } else if (config.store === 'file') {
    // the embedded database would own the directory; without one the files still need one owner
    await mkdir(config.dataDir, { recursive: true });
    const ownership = await ownDataDir(config.dataDir, log);
    closing.push(() => ownership.release());
  }
  const catalog = await openCatalog({
    url,
    pool: { max: config.databasePoolSize },
    graceMs: config.graceMs,
    ...(config.unsafeTimes ? { minGraceMs: 0 } : {}),
    leaseMs: config.leaseTimeMs,
    schema: config.databaseSchema,
    mayUseRows,
    log,
  });
  return { catalog, url, isEmbedded };
}

async function withCache(
  store: BlobStore,
  config: Config,
  metrics: Metrics,
  logger: Logger,
): Promise<CachedStore | undefined> {
  if (config.cacheMemoryBytes === 0 && config.cacheDiskBytes === 0) return undefined;
  const { cacheDir: dir, cacheDiskBytes: maxBytes } = config;
  const below = { ...passThrough(store), close: async () => undefined }; // the cache is closed by itself, before the store
  return cached(below, {
    memory: { maxBytes: config.cacheMemoryBytes },
    ...(maxBytes > 0 ? { disk: { dir, maxBytes } } : {}),
    onLookup: (result) => metrics.cacheLookup(result),
    onError: (error) => logger.warn({ err: error }, 'the disk cache failed'),
  });
}

/** What the disk cache has seen of the events, from one run to the next. */
async function diskStateOf(config: Config, catalog: Catalog, logger: Logger): Promise<NodeState | undefined> {
  if (config.cacheDiskBytes === 0) return undefined;
  return openNodeState({
    ...{ dir: config.cacheDir, upstream: `catalog ${catalog.id}` },
    onError: (error) => logger.warn({ err: error }, 'the disk cache is forgotten at the next start'),
  });
}

interface Ownership {
  /** Throws while it is not known whose the store is. */
  check(): void;
}

/** Claims the store; while it does not answer, tries again in the background, and nothing is stored until it did. */
async function claim(
  store: BlobStore,
  catalog: Catalog,
  logger: Logger,
  closing: (() => Promise<unknown>)[],
): Promise<Ownership> {
  let problem: LpsError | undefined;
  const attempt = async (): Promise<void> => {
    try {
      await claimStore(store, catalog.id);
      problem = undefined;
    } catch (error) {
      if (!isLpsError(error)) throw error;
      problem = error;
    }
  };
  await attempt();
  if (problem?.code === 'CONFIG_INVALID') throw problem;
  if (problem !== undefined) {
    logger.warn({ err: problem }, 'the store does not answer yet: reads are tried, uploads are refused until it does');
    const timer = setInterval(() => {
      void attempt().then(() => {
        if (problem === undefined) clearInterval(timer);
        else logger.warn({ err: problem }, 'the store does not answer yet');
      });
    }, claimRetryMs);
    closing.push(async () => clearInterval(timer));
  }
  return {
    check() {
      if (problem !== undefined) throw problem;
    },
  };
}

/** Refuses puts until the store is known to be ours. */
function guarded(store: BlobStore, owned: Ownership): BlobStore {
  return {
    ...store,
    async put(key, body, expect, options) {
      owned.check();
      return store.put(key, body, expect, options);
    },
  };
}

function withCatalog(store: BlobStore, source: BlobStore, catalog: Catalog, config: Config, alarms: Alarms): BlobStore {
  return catalogued(store, { source, catalog, renewMs: config.leaseTimeMs / 3, alarms });
}

function alarmsOf(metrics: Metrics, logger: Logger): Alarms {
  return {
    raise(kind, details) {
      metrics.alarm(kind);
      logger.error({ alarm: kind, ...details }, alarmText[kind]);
    },
  };
}

const alarmText = {
  damaged: 'a stored object fails its digest: the blob is answered 404 until it is uploaded again',
  missing: 'a stored object is gone: the blob is answered 404 until it is uploaded again',
  catalog_unavailable: 'Postgres does not answer: reads go on from the store, uploads are refused',
  adoption_failed: 'an object that the catalog does not know could not be taken in',
  workflows_stranded:
    'unfinished work of a version that no replica has: start one of that version, see lps workflows list',
} as const;

function withObserver(store: BlobStore, metrics: Metrics, logger: Logger): BlobStore {
  return observed(store, {
    onEvent(event) {
      metrics.storeEvent(event);
      if (event.error !== undefined && event.error.status >= 500) {
        logger.debug({ err: event.error, operation: event.operation }, 'the store failed');
      }
    },
    inSpan,
  });
}
