/**
 * Replicas of `lps serve` that collect, on one PostgreSQL and one bucket, each behind proxies of its own: so that the
 * leader can be held in the middle of a statement, of a request to the bucket, or of a question to Temporal.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type TemporalServer, tempDir, type Versitygw } from '@large-payload/test-components';
import pg from 'pg';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../packages/server/src/catalog/embedded-postgres.ts';
import { type BucketProxy, startBucketProxy } from './bucket-proxy.ts';
import { type GrpcProxy, startGrpcProxy } from './grpc-proxy.ts';
import { type RunningService, startService } from './service.ts';
import { type StatementProxy, startStatementProxy } from './statement-proxy.ts';
import { until } from './until.ts';

export interface CollectionSiteOptions {
  readonly temporal: TemporalServer;
  readonly s3: Versitygw;
  readonly replicas: number;
  /** For `lps serve`: its times. */
  readonly args: readonly string[];
}

/** One of them, through all its lives. */
export class CollectingReplica {
  service: RunningService | undefined;
  #temporal: GrpcProxy | undefined;
  readonly #dataDir = tempDir('collecting');

  constructor(
    readonly statements: StatementProxy,
    readonly options: CollectionSiteOptions,
    readonly bucketEndpoint: string,
  ) {}

  async up(): Promise<void> {
    // a new proxy as well: what a dead client did not take stays with its session, and is in the way of the next one
    await this.#temporal?.close();
    const { temporal, s3, args } = this.options;
    this.#temporal = await startGrpcProxy(temporal.address);
    const { address } = this.#temporal;
    const clusters = join(this.#dataDir, 'clusters.yaml');
    writeFileSync(clusters, `clusters: [{ name: dev, address: "${address}", namespaces: [${temporal.namespace}] }]\n`);
    const collecting = ['--unsafe-times', '--clusters', clusters, '--collect', temporal.namespace];
    this.service = await startService({
      store: { ...s3, endpoint: this.bucketEndpoint },
      dataDir: this.#dataDir,
      env: { LPS_DATABASE_URL: this.statements.url },
      args: [...collecting, '--replica-timeout', '3s', ...args],
    });
  }

  /** In front of Temporal, in this life. */
  get temporal(): GrpcProxy {
    if (this.#temporal === undefined) throw new Error('it has never been up');
    return this.#temporal;
  }

  /** Of the life that it is in, or was in. */
  get port(): number {
    return this.service?.port ?? 0;
  }

  signal(name: NodeJS.Signals): void {
    if (this.service?.ended === undefined) process.kill(this.service?.pid ?? 0, name);
  }

  /** For good. */
  async close(): Promise<void> {
    await this.service?.kill(); // it may be stopped
    await this.statements.close();
    await this.#temporal?.close();
  }
}

export class CollectionSite {
  private constructor(
    readonly replicas: readonly CollectingReplica[],
    readonly bucket: BucketProxy,
    /** Past the proxies. */
    readonly pool: pg.Pool,
    readonly postgres: EmbeddedPostgres,
  ) {}

  static async open(options: CollectionSiteOptions): Promise<CollectionSite> {
    const { s3, replicas: count } = options;
    const postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 60 * count });
    postgres.exited.catch(() => undefined);
    const pool = new pg.Pool({ connectionString: postgres.url, max: 3 }).on('error', () => undefined);
    const bucket = await startBucketProxy(s3);
    const one = async () => new CollectingReplica(await startStatementProxy(postgres.url), options, bucket.endpoint);
    const replicas = await Promise.all(Array.from({ length: count }, one));
    await Promise.all(replicas.map((replica) => replica.up()));
    return new CollectionSite(replicas, bucket, pool, postgres);
  }

  async close(): Promise<void> {
    await Promise.all(this.replicas.map((replica) => replica.close()));
    await this.bucket.close();
    await this.pool.end();
    await this.postgres.stop();
  }

  /** Who leads, as the catalog knows: `undefined` while it is a process that has ended. */
  async leader(): Promise<{ replica: CollectingReplica; epoch: number } | undefined> {
    const { rows } = await this.pool.query(
      'SELECT epoch::int AS epoch, pid FROM lps.leader JOIN lps.replica USING (executor_id)',
    );
    const replica = this.replicas.find(({ service }) => service?.pid === rows[0]?.pid && service?.ended === undefined);
    return replica && { replica, epoch: rows[0].epoch };
  }

  untilLed(what: string, isRight: (replica: CollectingReplica) => boolean = () => true): Promise<CollectingReplica> {
    const ask = async () => {
      const found = await this.leader();
      return found !== undefined && isRight(found.replica) ? found.replica : undefined;
    };
    return until(what, ask, 60_000);
  }

  /** Whether a leader came to where it is to be held, and leads still; `false` once another one leads, or it is too late. */
  async untilReached(reached: Promise<unknown>, replica: CollectingReplica, timeoutMs: number): Promise<boolean> {
    const since = performance.now();
    let isReached = false;
    const reach = (): void => {
      isReached = true;
    };
    reached.then(reach, () => undefined);
    while (performance.now() - since < timeoutMs) {
      const wasReached = isReached;
      const leader = await this.leader();
      if (leader !== undefined && leader.replica !== replica) return false;
      if (wasReached && leader !== undefined) return true;
      await delay(50);
    }
    return false;
  }

  async rounds(): Promise<number> {
    const { rows } = await this.pool.query('SELECT rounds::int AS rounds FROM lps.collection');
    return rows[0].rounds;
  }

  /** Until so many more have begun: one that was under way is over then. */
  async moreRounds(count: number): Promise<void> {
    const target = (await this.rounds()) + count;
    await until(`${count} rounds`, async () => ((await this.rounds()) >= target ? true : undefined), 60_000);
  }

  /** Kinds of brakes that are set, or were. */
  async brakes(): Promise<string[]> {
    const { rows } = await this.pool.query('SELECT kind, reason FROM lps.brake ORDER BY id');
    return rows.map(({ kind, reason }) => `${kind}: ${reason}`);
  }
}
