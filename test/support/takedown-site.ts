/**
 * An installation whose parts can be cut off and killed: replicas of `lps serve` on one PostgreSQL and one bucket, and cache
 * nodes in front of them, each with a network of its own.
 *
 *   replica ──(cuttable)── PostgreSQL        cache node ──(cuttable)── any replica that lives
 *      └────── bucket
 */
import { generateKeyPairSync } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type LoggedProcess,
  spawnLogged,
  tempDir,
  type Versitygw,
  waitUntilReady,
} from '@large-payload/test-components';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../packages/server/src/catalog/embedded-postgres.ts';
import { type Cuttable, startCuttable } from './cuttable.ts';
import { type RunningService, startService } from './service.ts';
import { until } from './until.ts';

const lps = fileURLToPath(new URL('../../packages/server/bin/lps.js', import.meta.url));

/** A process of the installation, through all its lives. */
export interface SiteNode {
  readonly name: string;
  readonly kind: 'replica' | 'cache';
  /** Between it and what it depends on. */
  readonly network: Cuttable;
  /** Of its last life: clients do not know that it is over. */
  readonly port: number;
  readonly isUp: boolean;
  /** What it said in this life. */
  output(): string;
  /** SIGKILL. */
  kill(): Promise<void>;
  start(): Promise<void>;
  stop(): Promise<void>;
}

export interface TakedownSite {
  readonly replicas: readonly SiteNode[];
  readonly caches: readonly SiteNode[];
  readonly nodes: readonly SiteNode[];
  readonly postgres: EmbeddedPostgres;
  /** A replica that lives, and whose connections are whole. */
  whole(): SiteNode;
  stop(): Promise<void>;
}

export interface SiteOptions {
  readonly store: Versitygw;
  readonly maxStaleness: string;
}

export async function startTakedownSite({ store, maxStaleness }: SiteOptions): Promise<TakedownSite> {
  const postgres = await startEmbeddedPostgres({ dataDir: tempDir('postgres'), maxConnections: 150 });
  const keyFile = newKeyFile();
  const times = ['--max-staleness', maxStaleness, '--unsafe-times', '--replica-timeout', '3s'];
  const args = [...times, '--takedown-key', keyFile, ...cacheSizes];
  const replicas: SiteNode[] = [];
  const caches: SiteNode[] = [];
  for (const number of [1, 2, 3]) replicas.push(await newReplica(number, postgres.url, store, args));
  const [maker, ...others] = replicas;
  await maker?.start(); // it makes the catalog
  const living = (): SiteNode[] => replicas.filter(({ isUp }) => isUp);
  let turn = 0;
  const anyReplica = () => {
    turn += 1;
    const port = living()[turn % Math.max(1, living().length)]?.port;
    return port === undefined ? undefined : { host: '127.0.0.1', port };
  };
  for (const number of [1, 2, 3]) caches.push(await newCache(number, anyReplica, maxStaleness));
  await Promise.all([...others, ...caches].map((node) => node.start()));
  const nodes = [...replicas, ...caches];
  return {
    ...{ replicas, caches, nodes, postgres },
    whole() {
      const found = replicas.find(({ isUp, network }) => isUp && !network.isCut);
      if (found === undefined) throw new Error('no replica is whole');
      return found;
    },
    async stop() {
      for (const { network } of nodes) network.heal();
      await Promise.all(caches.map((node) => node.stop()));
      await Promise.all(replicas.map((node) => node.stop()));
      await Promise.all(nodes.map(({ network }) => network.close()));
      await postgres.stop();
    },
  };
}

/** PostgreSQL lets go of a session, and of its locks, when its client does not answer: as `tcp_keepalives_idle` has it. */
const keepAliveMs = 2000;

/** One for all replicas. */
function newKeyFile(): string {
  const file = join(tempDir('takedown-key'), 'key.pem');
  const { privateKey } = generateKeyPairSync('ed25519');
  writeFileSync(file, privateKey.export({ type: 'pkcs8', format: 'pem' }));
  return file;
}

const cacheSizes = ['--cache-memory-bytes', '8MiB', '--cache-disk-bytes', '256MiB'];

async function newReplica(number: number, url: string, store: Versitygw, args: string[]): Promise<SiteNode> {
  const { username, port, pathname, searchParams } = new URL(url);
  const path = `${searchParams.get('host')}/.s.PGSQL.${port}`;
  const network = await startCuttable(() => ({ path }), keepAliveMs);
  const dataDir = tempDir('replica');
  const databaseUrl = `postgresql://${username}@127.0.0.1:${network.port}${pathname}?sslmode=disable`;
  return siteNode(`replica ${number}`, 'replica', network, async () => {
    const service: RunningService = await startService({
      store,
      dataDir,
      env: { LPS_DATABASE_URL: databaseUrl },
      args,
    });
    return { ...service, output: () => service.output(), kill: () => service.kill(), stop: () => service.stop() };
  });
}

async function newCache(
  number: number,
  target: () => { host: string; port: number } | undefined,
  maxStaleness: string,
): Promise<SiteNode> {
  const network = await startCuttable(target);
  const dataDir = tempDir('cache-node');
  const upstream = ['--upstream', `http://127.0.0.1:${network.port}`, '--max-staleness', maxStaleness];
  const args = [lps, 'cache', ...upstream, '--port', '0', '--data-dir', dataDir, '--log-format', 'json', ...cacheSizes];
  return siteNode(`cache node ${number}`, 'cache', network, async () => {
    const started: LoggedProcess = await spawnLogged(process.execPath, args, { detached: true });
    let port = 0;
    await waitUntilReady(started, 'lps cache', async () => {
      port = Number(/"msg":"listening on http:\/\/127\.0\.0\.1:(\d+)"/.exec(started.output())?.[1] ?? 0);
      return port > 0;
    });
    return {
      port,
      output: () => started.output(),
      stop: () => started.stop(),
      async kill() {
        process.kill(started.pid, 'SIGKILL');
        await until('the end of lps cache', async () => started.ended, 60_000);
      },
    };
  });
}

interface Life {
  readonly port: number;
  output(): string;
  kill(): Promise<unknown>;
  stop(): Promise<void>;
}

function siteNode(name: string, kind: SiteNode['kind'], network: Cuttable, begin: () => Promise<Life>): SiteNode {
  let life: Life | undefined;
  let port = 0;
  return {
    ...{ name, kind, network },
    get port() {
      return port;
    },
    get isUp() {
      return life !== undefined;
    },
    output: () => life?.output() ?? '',
    async start() {
      life = await begin();
      port = life.port;
    },
    async kill() {
      const killed = life;
      life = undefined;
      await killed?.kill();
    },
    async stop() {
      const stopped = life;
      life = undefined;
      await stopped?.stop();
    },
  };
}
