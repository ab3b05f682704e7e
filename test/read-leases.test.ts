/**
 * Leases on reading, on two real replicas with caches, one of them behind a network that can be cut. That a cache answers is
 * seen in its metrics; that none does, by taking the object out of the bucket behind everybody's back.
 *
 * A lease of a second may end at any moment of a busy machine: then reads go to the bucket until it is renewed, or are cut. So
 * what needs a lease is asked until there is one, and an object is taken out only when nobody needs it any more.
 */
import { once } from 'node:events';
import net from 'node:net';
import { DeleteObjectCommand, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import { describeWith, openS3Client, startVersitygw, tempDir } from '@large-payload/test-components';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Database, openDatabase } from '../packages/server/src/catalog/database.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../packages/server/src/catalog/embedded-postgres.ts';
import { appendEvents, openReadLeases } from '../packages/server/src/nodes/read-leases.ts';
import { metric, newBlob, put, read, request, sized, type V2Blob } from './support/blobs.ts';
import { type Cuttable, startCuttable } from './support/cuttable.ts';
import { type RunningService, refusedStart, startService } from './support/service.ts';
import { until } from './support/until.ts';

const leaseMs = 1000;
/** More than the sockets of a client that does not read take up: some systems give one 32 MiB. */
const largeBytes = 60 * 1024 * 1024;
const args = ['--max-staleness', `${leaseMs}ms`, '--idle-timeout', '5m', '--min-rate', '0'];
const large = ['--cache-memory-bytes', '1GiB'];

const s3 = await startVersitygw();

describeWith(describe, 'leases on reading, of two replicas on one bucket', s3, (s3) => {
  let postgres: EmbeddedPostgres;
  let database: Database;
  let client: S3Client;
  let network: Cuttable;
  /** `far` is the one that can be cut off from Postgres. */
  let [near, far]: RunningService[] = [];
  const cleanUps: (() => unknown)[] = [];

  const startOn = (url: string, caches = large): Promise<RunningService> =>
    startService({ store: s3, env: { LPS_DATABASE_URL: url }, args: [...args, ...caches] });

  beforeAll(async () => {
    postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 120 });
    const { port, pathname, searchParams, username } = new URL(postgres.url);
    network = await startCuttable(() => ({ path: `${searchParams.get('host')}/.s.PGSQL.${port}` }));
    database = openDatabase({ url: postgres.url, maxConnections: 2, statementTimeoutMs: 60_000, log: () => undefined });
    client = await openS3Client(s3);
    near = await startOn(postgres.url);
    far = await startOn(`postgresql://${username}@127.0.0.1:${network.port}${pathname}?sslmode=disable`);
  });
  afterEach(async () => {
    network.heal();
    for (const cleanUp of cleanUps.splice(0)) await cleanUp();
    for (const service of both()) await untilFresh(service);
  });
  afterAll(async () => {
    for (const service of [near, far]) await service?.stop();
    await database?.close();
    await network?.close();
    await postgres?.stop();
    client?.destroy();
    await s3.stop();
  });

  const both = (): RunningService[] => [near, far].filter((service) => service !== undefined);
  const leases = () => openReadLeases({ database, schema: 'lps', leaseMs });
  const freshOf = async ({ port }: RunningService): Promise<number> =>
    Number(/^lps_read_lease_fresh (\d)$/m.exec((await request(port, '/metrics')).text)?.[1]);
  const untilFresh = (service: RunningService): Promise<true> =>
    until('a lease on reading', async () => ((await freshOf(service)) === 1 ? true : undefined));
  const takeOut = ({ key }: V2Blob) =>
    client.send(new DeleteObjectCommand({ Bucket: s3.bucket, Key: key.replace(/^\//, '') }));
  const putBack = ({ key, bytes }: V2Blob) =>
    client.send(new PutObjectCommand({ Bucket: s3.bucket, Key: key.replace(/^\//, ''), Body: bytes }));
  const tell = (kind: 'delete' | 'takedown', { key }: V2Blob) =>
    database.transaction((run) => appendEvents(run, 'lps', kind, [{ key, physicalKey: key }]));

  const lookups = ({ port }: RunningService, result: 'memory' | 'disk' | 'miss'): Promise<number> =>
    metric(port, `lps_cache_lookups_total{result="${result}"}`);

  /** Until it is answered from what is kept. Returns how often a cache was asked in vain meanwhile. */
  async function untilKept(
    service: RunningService,
    blob: V2Blob,
    place: 'memory' | 'disk' = 'memory',
  ): Promise<number> {
    const misses = await lookups(service, 'miss');
    await until(
      `a read from ${place}`,
      async () => {
        const before = await lookups(service, place);
        const { isRight } = await read(service.port, sized(blob));
        return isRight && (await lookups(service, place)) > before ? true : undefined;
      },
      60_000,
    );
    return (await lookups(service, 'miss')) - misses;
  }

  /** Both replicas answer it from memory. */
  async function kept(size = 50_000): Promise<V2Blob> {
    const blob = newBlob(size);
    expect((await put(both()[0]?.port ?? 0, blob)).status).toBe(201);
    for (const service of both()) await untilKept(service, blob);
    return blob;
  }

  /** Its status, asked again as clients do when a read was cut. */
  const statusOf = ({ port }: RunningService, blob: V2Blob): Promise<number> =>
    until('an answer', async () => {
      const { status } = await read(port, sized(blob));
      return status === 'broken' || status === 503 ? undefined : status;
    });

  /** A client that has read the beginning, and reads no more until it is told to: how that ended. */
  function slowReader({ port }: RunningService, { key }: V2Blob): Promise<() => Promise<number | 'whole'>> {
    return until('an answer that has begun', async () => {
      const socket = net.connect(port, '127.0.0.1');
      cleanUps.push(() => socket.destroy());
      socket.write(`GET /v3/blobs?${new URLSearchParams({ key })} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n`);
      await once(socket, 'readable');
      const begun: Buffer = socket.read() ?? Buffer.of();
      socket.on('error', () => undefined);
      if (!begun.toString('latin1').startsWith('HTTP/1.1 200 ')) return void socket.destroy();
      return async () => {
        let bytes = begun.length;
        socket.on('data', (chunk) => {
          bytes += chunk.length;
        });
        if (!socket.closed) await new Promise((resolve) => socket.once('close', resolve)); // by whatever error
        return bytes >= largeBytes ? 'whole' : bytes;
      };
    });
  }

  /** Lines of its log that say so, of the last ones that are kept of it. */
  const breaksOf = (service: RunningService): Set<string> => {
    const lines = service.output().split('\n');
    return new Set(lines.filter((line) => line.startsWith('{"level') && line.includes('the answer broke off')));
  };

  /** Bytes that were on their way when it was cut; asked for when the server has said in its log that it broke off. */
  const brokenOff = async (service: RunningService, before: ReadonlySet<string>): Promise<void> => {
    await until('the cut', async () => [...breaksOf(service)].some((line) => !before.has(line)) || undefined);
  };

  it('are held by both, by name, and what one is told both forget', async () => {
    const blob = await kept();
    const names = async () => {
      const held = (await leases().list()).filter(({ hasLease }) => hasLease);
      return held.map(({ kind, name }) => [kind, name.split(':')[1]]).sort();
    };
    const expected = both().map(({ pid }) => ['replica', String(pid)]);
    await expect.poll(names).toEqual(expected.sort());
    await takeOut(blob);
    const event = await tell('delete', blob);
    await until('their word that they know', async () =>
      (await leases().unaware(event)).length === 0 ? true : undefined,
    );
    for (const service of both()) expect(await statusOf(service, blob)).toBe(404);
  });

  it('cut off who reads what is taken down, on both', { timeout: 180_000 }, async () => {
    // from memory, in one piece: no cache has a hand in it any more
    const blob = await kept(largeBytes);
    const before = both().map(breaksOf);
    const readers = await Promise.all(both().map((service) => slowReader(service, blob)));
    await tell('takedown', blob);
    await Promise.all(both().map((service, index) => brokenOff(service, before[index] ?? new Set())));
    for (const reader of readers) expect(await reader()).not.toBe('whole');
  });

  it('are what memory is read by, also while Postgres answers everything else', async () => {
    const blobs = [await kept(), await kept()];
    for (const blob of blobs) await takeOut(blob);
    await database.transaction(async (run) => {
      await run({ text: 'SELECT FROM lps.event_counter FOR UPDATE' }, []); // nobody is granted one meanwhile
      for (const [index, service] of both().entries()) {
        await until('the end of its lease', async () => ((await freshOf(service)) === 0 ? true : undefined));
        expect(await statusOf(service, blobs[index] as V2Blob)).toBe(404);
      }
    });
  });

  it.each(['refused', 'silent'] as const)(
    'are lost with Postgres (%s): nothing more from memory, and no long read',
    async (how) => {
      const service = far as RunningService;
      const blob = await kept();
      const long = newBlob(largeBytes);
      expect((await put(both()[0]?.port ?? 0, long)).status).toBe(201);
      const before = breaksOf(service);
      const reader = await slowReader(service, long);
      network.cut(how);
      await until('the end of its lease', async () => ((await freshOf(service)) === 0 ? true : undefined));
      // of those who read, only it: the other one still has what it keeps
      expect(await untilKept(near as RunningService, blob)).toBe(0);
      await takeOut(blob);
      // 404: the store alone was asked. 503: Postgres was waited for longer than a read may take without a lease
      expect((await read(service.port, sized(blob))).status).not.toBe(200);
      await putBack(blob);
      await brokenOff(service, before);
      expect(await reader()).not.toBe('whole');
      // the lease has ended where it was granted, too, without a word from its holder
      await until('one lease', async () =>
        (await leases().list()).filter(({ hasLease }) => hasLease).length === 1 ? true : undefined,
      );
      network.heal();
      expect(await untilKept(service, blob)).toBe(0); // nothing has happened meanwhile
    },
  );

  it('come back with every event that was missed', async () => {
    const service = far as RunningService;
    const blob = await kept();
    await takeOut(blob);
    network.cut('refused');
    const event = await tell('delete', blob);
    await until('nobody who does not know', async () =>
      (await leases().unaware(event)).length === 0 ? true : undefined,
    );
    network.heal();
    await untilFresh(service);
    expect(await statusOf(service, blob)).toBe(404);
  });

  it('end at once with a replica that stops', async () => {
    const third = await startOn(postgres.url);
    const ofThird = async () => (await leases().list()).find(({ name }) => name.endsWith(`:${third.pid}`));
    await until('its lease', async () => (await ofThird())?.hasLease || undefined);
    await third.stop();
    expect((await ofThird())?.hasLease).toBe(false);
  });

  it('leave what is on a disk to the next process, but for what happened meanwhile', async () => {
    const onDisk = ['--cache-memory-bytes', '0', '--cache-disk-bytes', '1GiB', '--cache-dir', tempDir('kept')];
    const restarted = async (): Promise<RunningService> => {
      const service = await startOn(postgres.url, onDisk);
      cleanUps.push(() => service.stop());
      await untilFresh(service);
      return service;
    };
    const [blob, deleted] = [newBlob(50_000), newBlob(50_000)];
    const first = await restarted();
    for (const one of [blob, deleted]) {
      expect((await put(first.port, one)).status).toBe(201);
      await untilKept(first, one, 'disk');
    }
    await first.stop();
    await takeOut(deleted);
    await tell('delete', deleted);
    const second = await restarted();
    expect(await untilKept(second, blob, 'disk')).toBe(0);
    expect(await statusOf(second, deleted)).toBe(404);
  });

  it('are as long everywhere: another time is refused while one is held', async () => {
    // one that does not end in the midst of it
    const text = `INSERT INTO lps.node (id, kind, name, lease_until, cursor) VALUES ('held', 'cache', 'held', now() + interval '1 hour', 0)`;
    await database.run({ text }, []);
    cleanUps.push(() => database.run({ text: `DELETE FROM lps.node WHERE id = 'held'` }, []));
    const { exitCode, stderr, stdout } = await refusedStart({
      ...{ store: s3, dataDir: near?.dataDir ?? '', env: { LPS_DATABASE_URL: postgres.url } },
      args: ['--max-staleness', '5s'],
    });
    expect(exitCode).not.toBe(0);
    expect(`${stderr}${stdout}`).toContain('--max-staleness is 5 s here and 1 s in the installation');
  });
});
