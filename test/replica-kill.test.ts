/**
 * Replicas of `lps serve` on one Postgres and one bucket, killed at random under load, over and over, while Postgres and
 * the bucket go away now and then. What was acknowledged is there afterwards, through each of them; every upload that was
 * not finished has come to an end; and catalog and bucket agree, object for object.
 */
import { randomInt } from 'node:crypto';
import { describeWith, startVersitygw, tempDir } from '@large-payload/test-components';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../packages/server/src/catalog/embedded-postgres.ts';
import { objectsIn, rowsIn } from './support/at-rest.ts';
import { again, metric, newSeededBlob, put, read, type SeededBlob } from './support/blobs.ts';
import { killPostgres } from './support/postgres.ts';
import { ReplicaClients, ReplicaLedger, readByRedirect, stalledSend } from './support/replica-load.ts';
import { isLong, scaled } from './support/scale.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

const stages = scaled({ usual: 1, long: 5 });
const killsPerStage = scaled({ usual: 10, long: 20 });
/** Blobs that are acknowledged between two kills, and a few. */
const maxBetweenKills = scaled({ usual: 25, long: 60 });
const replicas = 3;
const clients = 8;
const directLifetimeMs = 60_000;
const lateUploads = 4;
/** For the end of hundreds of workflows; leases are swept each minute. */
const patienceMs = 90_000;
/** Read back through each replica; bucket and catalog are compared in all. */
const maxRead = 2000;

/** One of three, through all its lives. */
class Replica {
  service: RunningService | undefined;
  /** Of its last life: clients do not know that it is over. */
  port = 0;
  readonly dataDir = tempDir('replica');

  constructor(readonly start: (dataDir: string) => Promise<RunningService>) {}

  async up(): Promise<void> {
    this.service = await this.start(this.dataDir);
    this.port = this.service.port;
  }

  async kill(): Promise<void> {
    const { service } = this;
    this.service = undefined;
    await service?.kill();
  }
}

const s3 = await startVersitygw();

describeWith(describe, 'three replicas, killed under load', s3, (s3) => {
  const postgresDir = tempDir('postgres');
  let postgres: EmbeddedPostgres;
  let pool: pg.Pool;
  const ledger = new ReplicaLedger();
  const all = Array.from({ length: replicas }, () => new Replica(start));
  const load = new ReplicaClients(ledger, () => all[randomInt(replicas)]?.port ?? 0);

  beforeAll(async () => {
    await startPostgres();
    await Promise.all(all.map((replica) => replica.up()));
  });
  afterAll(async () => {
    await Promise.all(all.map(({ service }) => service?.stop()));
    await pool?.end();
    await postgres?.stop();
    await s3.stop();
  });

  async function startPostgres(): Promise<void> {
    postgres = await startEmbeddedPostgres({ dataDir: postgresDir, maxConnections: 120 });
    postgres.exited.catch(() => undefined);
    pool ??= new pg.Pool({ connectionString: postgres.url, max: 2 }).on('error', () => undefined);
  }

  /** Again and again while it ends because Postgres is away, as whoever keeps services running does. */
  async function start(dataDir: string): Promise<RunningService> {
    const args = ['--replica-timeout', '3s', '--direct-lifetime', `${directLifetimeMs}ms`];
    const options = { store: s3, dataDir, env: { LPS_DATABASE_URL: postgres.url }, args };
    const deadline = performance.now() + patienceMs; // Postgres is away for as long as the load takes
    for (;;) {
      try {
        return await startService(options);
      } catch (error) {
        if (performance.now() > deadline || !/Postgres|CATALOG_UNAVAILABLE/.test(String(error))) throw error;
        ledger.count('start without Postgres');
      }
    }
  }

  const living = (): Replica[] => all.filter(({ service }) => service !== undefined);

  /** Kills one, and starts it again while the load goes on. */
  async function killOne(restarts: Promise<void>[]): Promise<void> {
    await until('two that live', async () => living().length >= 2 || undefined, 60_000);
    const victims = living();
    for (const { service } of victims)
      if (service?.ended !== undefined) ledger.violations.push(`it ended by itself: ${service.output()}`);
    const victim = victims[randomInt(victims.length)];
    await victim?.kill();
    const restart = async (): Promise<void> => {
      await ledger.more('operations', randomInt(60));
      await victim?.up();
    };
    restarts.push(restart().catch((error: unknown) => void ledger.violations.push(`it did not start: ${error}`)));
  }

  const outages: Record<number, () => Promise<void>> = {
    2: () => killPostgres(postgresDir),
    5: async () => {
      await s3.kill();
      await ledger.more('operations', 20 + randomInt(80));
      await s3.restart();
    },
    8: async () => {
      await postgres.stop();
      await ledger.more('operations', 20 + randomInt(80));
      await startPostgres();
    },
  };

  async function killUnderLoad(): Promise<void> {
    let isOver = false;
    const running = Array.from({ length: clients }, () => load.run(() => isOver));
    const restarts: Promise<void>[] = [];
    for (let round = 0; round < killsPerStage; round++) {
      await ledger.more('acknowledged', 5 + randomInt(maxBetweenKills));
      const outage = outages[round % 10]?.();
      await killOne(restarts);
      await outage;
    }
    await Promise.all(restarts);
    await ledger.more('acknowledged', 5 + randomInt(maxBetweenKills));
    isOver = true;
    await Promise.all(running);
  }

  /** Unfinished uploads and clean-ups, and how many of them wait for a time to come: the message's, or that of a pass. */
  async function unfinished(): Promise<{ uploads: number; cleanUps: number; asleep: number }> {
    const { rows } = await pool.query(
      `SELECT count(*) FILTER (WHERE name = 'directUpload')::int AS uploads,
         count(*) FILTER (WHERE name <> 'directUpload')::int AS "cleanUps",
         count(*) FILTER (WHERE until_ms > extract(epoch FROM now()) * 1000)::int AS asleep
       FROM lps_dbos.workflow_status w LEFT JOIN LATERAL (
         SELECT CASE WHEN function_name = 'DBOS.sleep' THEN output::bigint END AS until_ms
         FROM lps_dbos.operation_outputs o WHERE o.workflow_uuid = w.workflow_uuid ORDER BY function_id DESC LIMIT 1
       ) last_step ON true
       WHERE status IN ('PENDING', 'ENQUEUED', 'DELAYED')`,
    );
    return rows[0];
  }

  const untilAsleep = (): Promise<{ cleanUps: number }> =>
    until(
      'the end of what can end now',
      async () => {
        const found = await unfinished();
        return found.uploads + found.cleanUps === found.asleep ? found : undefined;
      },
      patienceMs,
    );

  /** Nothing runs for hours: every wait is over when the replicas are back, and the lease of every upload. */
  async function awayForHours(): Promise<void> {
    await untilAsleep();
    await Promise.all(all.map((replica) => replica.kill()));
    await pool.query(
      `UPDATE lps_dbos.operation_outputs SET output = '1' WHERE function_name = 'DBOS.sleep' AND workflow_uuid IN
         (SELECT workflow_uuid FROM lps_dbos.workflow_status WHERE status IN ('PENDING', 'ENQUEUED', 'DELAYED'))`,
    );
    await pool.query(`UPDATE lps.lease SET expires_at = now() - interval '1 s'`);
    await Promise.all(all.map((replica) => replica.up()));
  }

  /** Uploads to the bucket that begin in time, and whose last byte comes when they have been given up. */
  async function beginLate(): Promise<{ seeded: SeededBlob; end: () => Promise<string> }[]> {
    const begin = async () => {
      const { seeded, blob } = newSeededBlob(100_000);
      const offer = await until('a direct upload', async () => {
        const offered = await load.begin(seeded);
        return offered?.outcome === 'direct' ? offered : undefined;
      });
      const connection = await stalledSend(offer, blob, 50_000);
      const end = async (): Promise<string> => {
        await connection.write(blob.bytes.subarray(50_000));
        const answer = await connection.until(/\r\n/);
        connection.destroy();
        return answer;
      };
      return { seeded, end };
    };
    return Promise.all(Array.from({ length: lateUploads }, begin));
  }

  /** Every upload that was begun comes to its end: given up, cleaned up, and looked at again for bytes that came late. */
  async function endAllUploads(): Promise<void> {
    const late = await beginLate();
    await awayForHours();
    await until('the end of the uploads', async () => (await unfinished()).uploads === 0 || undefined, patienceMs);
    await untilNoLease();
    const rows = await rowsIn(pool);
    for (const { seeded, end } of late) {
      if (rows.has(seeded.key)) ledger.note('a row of an upload that was given up', seeded, rows.get(seeded.key));
      expect(await end()).toMatch(/^HTTP\/1\.1 200 /);
      ledger.stored.push(seeded);
    }
    for (let laps = 0; (await untilAsleep()).cleanUps > 0; laps++) {
      expect(laps).toBeLessThan(4);
      await awayForHours();
    }
    await untilNoLease();
  }

  const untilNoLease = (): Promise<unknown> =>
    until(
      'the end of every lease',
      async () => (await pool.query('SELECT FROM lps.lease')).rows.length === 0 || undefined,
      patienceMs,
    );

  /** Well, or as an error (nobody came to complete it, or what it needs was away just then) with its clean-up done. */
  async function expectEnded(): Promise<void> {
    const { rows } = await pool.query(
      `SELECT w.name, w.status, c.status AS "cleanUp"
       FROM lps_dbos.workflow_status w
       LEFT JOIN lps_dbos.workflow_status c ON c.workflow_uuid = w.workflow_uuid || '-cleanup'
       WHERE w.status <> 'SUCCESS'`,
    );
    for (const { name, status, cleanUp } of rows) {
      const isGivenUp = name === 'directUpload' && status === 'ERROR' && cleanUp === 'SUCCESS';
      if (!isGivenUp) ledger.violations.push(`${name} ended as ${status}, its clean-up as ${cleanUp}`);
    }
  }

  /** Every object is a live row's, every row is live and has its object, all bytes are right, nothing else is there. */
  async function expectAgreement(): Promise<void> {
    const rows = await rowsIn(pool);
    const objects = objectsIn(s3);
    for (const [key, { state, size }] of rows) {
      const object = objects.get(key);
      if (state !== 'live' || object?.size !== size) ledger.note(`a row that is ${state}`, { key, size }, object);
    }
    for (const [key, { size, digest }] of objects) {
      if (!rows.has(key)) ledger.note('an object without a row', { key, size }, digest);
      if (!key.includes(`/${digest}/`)) ledger.note('an object with wrong bytes', { key, size }, digest);
    }
    for (const blob of ledger.kept())
      if (rows.get(blob.key)?.size !== blob.size) ledger.note('lost', blob, rows.get(blob.key));
    for (const blob of ledger.neverWhole) if (rows.has(blob.key)) ledger.note('never sent whole', blob, 'a row');
  }

  async function expectReadable(blobs: readonly SeededBlob[]): Promise<void> {
    const readAll = async ({ port }: Replica): Promise<void> => {
      for (const blob of blobs) {
        for (const got of [await read(port, blob), await readByRedirect(port, blob)])
          if (!got.isRight) ledger.note('lost to a reader', blob, got);
      }
    };
    await Promise.all(all.map(readAll));
  }

  /** What was sent and not answered can be sent again; what was never sent whole cannot be read. */
  async function expectHonest(): Promise<void> {
    for (const blob of ledger.unanswered.slice(-20)) {
      const answer = await put(all[0]?.port ?? 0, again(blob));
      if (![200, 201].includes(answer.status)) ledger.note('sent again', blob, answer.text);
      await expectReadable([blob]);
    }
    for (const blob of ledger.neverWhole.slice(-200)) {
      const got = await read(all[randomInt(replicas)]?.port ?? 0, blob);
      if (got.status !== 404) ledger.note('readable, and never sent whole', blob, got);
    }
  }

  it.each(Array.from({ length: stages }, (_, index) => index + 1))(
    `lose nothing, leave nothing behind: ${killsPerStage} kills, stage %i`,
    async () => {
      const before = { operations: ledger.operations, acknowledged: ledger.acknowledged.length };
      await killUnderLoad();
      expect(ledger.violations).toEqual([]);
      await endAllUploads();
      await expectEnded();
      await expectAgreement();
      await expectReadable(ledger.kept().slice(-maxRead));
      await expectHonest();
      await until('one leader', async () => {
        const leads = await Promise.all(all.map(({ port }) => metric(port, 'lps_leader')));
        return leads.sort().join() === '0,0,1' || undefined;
      });
      expect(ledger.violations).toEqual([]);
      const operations = ledger.operations - before.operations;
      const acknowledged = ledger.acknowledged.length - before.acknowledged;
      console.log(
        `kill -9 of replicas: ${killsPerStage} kills, ${operations} operations, ${acknowledged} blobs acknowledged, 0 lost, 0 orphans`,
      );
    },
    isLong ? 900_000 : 480_000,
  );
});
