/**
 * A cache node put together: `lps cache`, a service of blobs in front of another one (docs/caching.md).
 *
 *   HTTP ─ gate (upstream says who it is) ─ reads that can be cut ─ cache, by a lease ─ http store ─► upstream
 *
 * Start: the directory, what is known of it, upstream, the lease (in the background), HTTP. Close: the other way round.
 */
import { mkdir } from 'node:fs/promises';
import type { Server as TlsServer } from 'node:https';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { isLpsError, type Lookup, LpsError, observed, openHttpStore } from '@large-payload/core';
import type { Logger } from 'pino';
import type { GateOptions } from '../auth/gate.js';
import { CallerLimits } from '../auth/limits.js';
import { mayEverywhere, type Principal } from '../auth/principal.js';
import { ownDataDir } from '../catalog/embedded-postgres-owner.js';
import { isLoopback } from '../config/checks.js';
import { configInvalid } from '../config/load.js';
import type { Config } from '../config/settings.js';
import { createApp } from '../http/app.js';
import { addressOf, drain, listen } from '../http/listening.js';
import { readTls, renewTls, tlsOf } from '../http/tls.js';
import { inSpan } from '../http/trace.js';
import { createMetrics, type Metrics } from '../metrics.js';
import { type NodeState, openNodeState } from '../nodes/node-state.js';
import { accessAnswer } from '../openapi/access.js';
import type { CacheStatus } from '../openapi/cache.js';
import { version } from '../version.js';
import { type CacheMetrics, watchCache } from './cache-metrics.js';
import { type CachedUpstream, openCachedUpstream } from './cached-upstream.js';
import { TouchForwarder } from './touch-forwarder.js';
import { upstreamAuthenticator } from './upstream-access.js';
import { openUpstreamApi, type UpstreamApi } from './upstream-api.js';
import { upstreamLeases } from './upstream-leases.js';

/** `cacheDir` is the node's own; nobody else's, not even a service's on the same machine. */
export type CacheNodeConfig = Config & { readonly upstream: string };

export interface RunningCacheNode {
  /** `http://127.0.0.1:8577`, with the port that was taken. */
  readonly url: string;
  /** Not ready any more; requests under way get `shutdownTimeoutMs` to finish; what was read is told upstream. */
  close(): Promise<void>;
}

type Closing = (() => Promise<unknown>)[];

/** Starts everything; what fails on the way is undone. Throws LpsError. */
export async function startCacheNode(config: CacheNodeConfig, log: Logger): Promise<RunningCacheNode> {
  const closing: Closing = [];
  const closeAll = async (): Promise<void> => {
    for (const close of closing.splice(0).reverse())
      await close().catch((error) => log.error({ err: error }, 'closing failed'));
  };
  try {
    return await start(config, log, closing, closeAll);
  } catch (error) {
    await closeAll();
    throw error;
  }
}

async function start(
  config: CacheNodeConfig,
  log: Logger,
  closing: Closing,
  closeAll: () => Promise<void>,
): Promise<RunningCacheNode> {
  const url = config.upstream.replace(/\/+$/, '');
  const dir = await ownedDir(config, log, closing);
  const api = openUpstreamApi({ url, token: config.upstreamToken });
  closing.push(() => api.close());
  await checkToken(api, url, log);
  const state = await openNodeState({
    ...{ dir, upstream: url },
    onError: (error) =>
      log.warn({ err: error }, 'the cursor could not be written down: after a crash all is forgotten'),
  });
  let inFlight = (): number => 0;
  const metrics = createMetrics({ uploadsInFlight: () => inFlight() });
  const parts = openParts(config, url, dir, api, state, metrics, log, closing);
  const { blobs, served, touches } = await parts;

  let isDraining = false;
  const tls = tlsOf(config);
  const app = createApp({
    store: blobs.store,
    reads: blobs.reads,
    limits: { maxBlobBytes: config.maxBlobBytes, maxUploads: config.maxUploads, maxConnections: config.maxConnections },
    pace: { idleTimeoutMs: config.idleTimeoutMs, minRate: config.minBytesPerSecond, graceMs: 30_000 },
    logger: log,
    metrics,
    operations: {
      version,
      ...(config.metrics ? { metrics } : {}),
      ready: async () => {
        if (isDraining) throw new LpsError('TRY_AGAIN', 'the cache node is stopping');
        await blobs.store.ready?.();
      },
    },
    ...(config.v1Namespace === undefined ? {} : { v1: { namespace: config.v1Namespace } }),
    behindProxy: config.tlsTerminatedUpstream,
    isOnLoopback: config.auth === 'none' && isLoopback(config.host),
    gate: gateOf(config, api),
    cacheNode: {
      status: () => statusOf(config, url, state.id, blobs, served, touches),
      forget: (key) => blobs.forget(key),
      clear: () => blobs.clear(),
    },
    notFound: () => new LpsError('ROUTE_NOT_FOUND', `a cache node serves blobs alone; for anything else ask ${url}`),
    ...(tls === undefined ? {} : { tls: await readTls(tls) }),
  });
  inFlight = () => app.transfers.uploadsInFlight;
  if (tls !== undefined) {
    const stop = renewTls(app.server.server as unknown as TlsServer, tls, log);
    closing.push(async () => stop());
  }
  await listen(app.server, config);
  closing.push(() => drain(app.server, config.shutdownTimeoutMs));
  return {
    url: addressOf(app.server, config.host, tls !== undefined),
    async close() {
      isDraining = true;
      await closeAll();
    },
  };
}

/** Where the disk cache is: nobody else's. `undefined`: there is none. */
async function ownedDir(config: CacheNodeConfig, log: Logger, closing: Closing): Promise<string | undefined> {
  if (config.cacheDiskBytes === 0) return undefined;
  const { cacheDir: dir } = config;
  try {
    await mkdir(dir, { recursive: true });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new LpsError('CONFIG_INVALID', `the cache directory ${dir} cannot be used: ${code}`, { cause });
  }
  const ownership = await ownDataDir(dir, (line) => log.info(line));
  closing.push(() => ownership.release());
  return dir;
}

/** Says at once what would fail later. An upstream that is away now is none of it. */
async function checkToken(api: UpstreamApi, url: string, log: Logger): Promise<void> {
  let answer: unknown;
  try {
    answer = await api.json('GET', '/v3/access', { timeoutMs: 5000 });
  } catch (error) {
    if (isLpsError(error, 'STORE_REFUSED'))
      throw configInvalid([`${url} does not take upstream-token: ${(error.cause as Error).message}`]);
    log.warn({ err: error }, 'upstream does not answer yet: reads fail until it does');
    return;
  }
  const parsed = accessAnswer.safeParse(answer);
  if (!parsed.success) throw configInvalid([`what answers at ${url} is no service that takes cache nodes`]);
  const principal: Principal = { id: parsed.data.subject, grants: parsed.data.grants };
  const missing = (['read', 'write'] as const).filter((right) => !mayEverywhere(principal, right));
  if (missing.length === 0) return;
  throw configInvalid([
    `upstream-token lacks ${missing.join(' and ')} on every namespace: "lps token create --namespace '*' --right read --right write"`,
  ]);
}

type Served = Record<Lookup, { blobs: number; bytes: number }>;

interface Parts {
  readonly blobs: CachedUpstream;
  readonly served: Served;
  readonly touches: TouchForwarder;
}

async function openParts(
  config: CacheNodeConfig,
  url: string,
  dir: string | undefined,
  api: UpstreamApi,
  state: NodeState,
  metrics: Metrics,
  log: Logger,
  closing: Closing,
): Promise<Parts> {
  const { maxStalenessMs, upstreamToken: token } = config;
  const served = Object.fromEntries(
    (['memory', 'disk', 'joined', 'miss'] as const).map((result) => [result, { blobs: 0, bytes: 0 }]),
  ) as Served;
  const upstream = openHttpStore({
    url,
    ...(token === undefined ? {} : { token }),
    maxSockets: Math.max(64, config.maxUploads),
  });
  closing.push(async () => upstream.close?.());
  const touches = new TouchForwarder({
    api,
    onError: (error) => log.warn({ err: error }, 'upstream was not told of reads; it is told again'),
  });
  let watch: CacheMetrics | undefined;
  const blobs = await openCachedUpstream({
    upstream: observed(upstream, {
      onEvent(event) {
        metrics.storeEvent(event);
        if (event.error !== undefined) watch?.upstreamError(event.error.code);
      },
      inSpan,
    }),
    cache: {
      memory: { maxBytes: config.cacheMemoryBytes },
      ...(dir === undefined ? {} : { disk: { dir: join(dir, 'kept'), maxBytes: config.cacheDiskBytes } }),
      onError: (error) => log.warn({ err: error }, 'the disk cache failed'),
      onEvict: (place) => watch?.evicted(place),
    },
    leases: (onEvent) =>
      upstreamLeases({
        onId(id) {
          log.warn({ id }, 'upstream keeps the id of this node for another token: it goes on under a new one');
          void state.rename(id);
        },
        ...{ api, id: state.id, name: config.nodeName ?? hostname(), maxStalenessMs, onEvent },
        silenceMs: Math.max(1000, Math.min(15_000, maxStalenessMs)),
      }),
    maxStalenessMs,
    ...(state.cursor === undefined ? {} : { cursor: state.cursor }),
    onCursor: (cursor) => void state.save(cursor),
    touches,
    onServe(result, info) {
      served[result].blobs += 1;
      served[result].bytes += info.size;
      watch?.served(result, info);
    },
    onProblem(problem) {
      if (problem === undefined) log.info('upstream grants leases on reading again');
      else log.warn({ err: problem }, 'no lease on reading: soon each read is revalidated upstream');
    },
  });
  watch = watchCache(metrics, {
    ...{ lease: () => blobs.lease.state(), touches: () => touches.state(), kept: blobs.kept, maxStalenessMs },
  });
  closing.push(async () => {
    await touches.close();
    const { cursor, cleared } = blobs.lease.state();
    const isGone = await blobs.close();
    await state.close(!isGone || (state.cursor === undefined && cleared === 0) ? undefined : cursor);
  });
  return { blobs, served, touches };
}

function gateOf(config: CacheNodeConfig, api: UpstreamApi): GateOptions {
  if (config.auth === 'none') return {};
  return {
    authenticator: upstreamAuthenticator({ api, maxAgeMs: config.maxStalenessMs }),
    limits: new CallerLimits({ rate: config.tokenRate, concurrency: config.tokenConcurrency }),
  };
}

function statusOf(
  config: CacheNodeConfig,
  upstream: string,
  id: string,
  { lease, kept }: CachedUpstream,
  served: Served,
  touches: TouchForwarder,
): CacheStatus {
  const { cursor, problem, ...others } = lease.state();
  return {
    ...{ upstream, id, name: config.nodeName ?? hostname() },
    lease: {
      ...others,
      cursor: String(cursor),
      ...(problem === undefined ? {} : { problem: problem instanceof Error ? problem.message : String(problem) }),
    },
    maxStalenessMs: config.maxStalenessMs,
    ...kept(),
    served,
    touches: touches.state(),
  };
}
