/** Three `lps serve` on one Postgres and one bucket: no shared disk, no sticky routing, and one of them leads. */
import { DBOSClient } from '@dbos-inc/dbos-sdk';
import { describeWith, startVersitygw } from '@large-payload/test-components';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startEmbeddedPostgres } from '../packages/server/src/catalog/embedded-postgres.ts';
import { newBlob, put, read, request, rightRead, sized } from './support/blobs.ts';
import { lps } from './support/lps.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

interface Offer {
  readonly uploadId: string;
  readonly request: { readonly url: string; readonly headers: Record<string, string> };
}

const timeoutMs = 3000;
const s3 = await startVersitygw();

describeWith(describe, 'three replicas on one bucket', s3, (s3) => {
  let postgres: Awaited<ReturnType<typeof startEmbeddedPostgres>>;
  let pool: pg.Pool;
  let services: RunningService[];
  const started = new Set<RunningService>();

  const start = async (): Promise<RunningService> => {
    const env = { LPS_DATABASE_URL: postgres.url };
    const service = await startService({ store: s3, env, args: ['--replica-timeout', `${timeoutMs}ms`] });
    started.add(service);
    return service;
  };

  beforeAll(async () => {
    postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 120 });
    postgres.exited.catch(() => undefined);
    pool = new pg.Pool({ connectionString: postgres.url, max: 3 });
    pool.on('error', () => undefined);
    services = await Promise.all([start(), start(), start()]);
  });
  afterAll(async () => {
    for (const service of started) await service.stop();
    await pool?.end();
    await postgres?.stop();
    await s3.stop();
  });

  const livingReplicas = async (): Promise<number> =>
    (await pool.query('SELECT FROM lps.replica WHERE gone_at IS NULL')).rows.length;
  const gauge = async ({ port }: RunningService, name: string): Promise<number> => {
    const { text } = await request(port, '/metrics');
    return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1]);
  };
  const leaders = async (): Promise<RunningService[]> => {
    const led = await Promise.all(services.map((service) => gauge(service, 'lps_leader')));
    return services.filter((_, index) => led[index] === 1);
  };
  const untilOneLeads = (): Promise<RunningService> =>
    until('one leader', async () => {
      const [leader, ...others] = await leaders();
      return others.length === 0 ? leader : undefined;
    });
  const goneOf = async (service: RunningService): Promise<unknown[]> => {
    const { rows } = await pool.query('SELECT gone_at FROM lps.replica WHERE pid = $1 ORDER BY started_at', [
      service.pid,
    ]);
    return rows.map(({ gone_at: goneAt }) => goneAt);
  };
  const untilGone = (service: RunningService): Promise<unknown> =>
    until('its end, noticed', async () => ((await goneOf(service))[0] !== null ? true : undefined));
  /** The workflow of a direct upload that is complete. */
  const uploaded = async (): Promise<string> => {
    const [{ port = 0 } = {}] = services;
    const { key, bytes } = newBlob(1000);
    const post = (path: string, value?: object): Promise<Response> =>
      fetch(`http://127.0.0.1:${port}/v3/uploads${path}`, {
        method: 'POST',
        ...(value && { headers: { 'content-type': 'application/json' }, body: JSON.stringify(value) }),
      });
    const { uploadId, request: signed } = (await (await post('', { key, size: bytes.length })).json()) as Offer;
    await fetch(signed.url, { method: 'PUT', headers: signed.headers, body: Buffer.from(bytes) });
    expect((await post(`/${uploadId}/complete`)).status).toBe(201);
    await until('its end', async () => {
      const text = 'SELECT status FROM lps_dbos.workflow_status WHERE workflow_uuid = $1';
      return (await pool.query(text, [uploadId])).rows[0]?.status === 'SUCCESS' || undefined;
    });
    return uploadId;
  };
  const expectServed = async (): Promise<void> => {
    const blobs = services.map(() => newBlob(50_000));
    await Promise.all(
      blobs.map(async (blob, index) => {
        expect((await put(services[index]?.port ?? 0, blob)).status).toBe(201);
      }),
    );
    for (const { port } of services) for (const blob of blobs) expect(await read(port, sized(blob))).toEqual(rightRead);
  };

  it('start all at once on an empty database, run workflows, and have one leader', async () => {
    for (const service of services)
      await until('durable work', async () => ((await gauge(service, 'lps_durable_running')) === 1 ? true : undefined));
    await untilOneLeads();
    await until('three that live', async () => (await livingReplicas()) === 3 || undefined);
    await expectServed();
  });

  it('answer for workflows over HTTP and on the command line', async () => {
    for (const { port } of services) {
      const { status, text } = await request(port, '/v3/workflows?state=running,queued');
      expect({ status, body: JSON.parse(text) }).toEqual({ status: 200, body: { workflows: [], next: null } });
    }
    const site = { store: s3, dataDir: services[0]?.dataDir ?? '' };
    const ran = await lps(site, 'workflows', 'list', '--database-url', postgres.url);
    expect(ran).toMatchObject({ code: 0, out: '', err: '' });
  });

  it('tell of work that no replica has code for, until it is cancelled', async () => {
    const client = await DBOSClient.create({
      systemDatabaseUrl: postgres.url,
      systemDatabaseSchemaName: 'lps_dbos',
      applicationName: 'lps',
    });
    const old = { workflowName: 'gone', queueName: '_dbos_internal_queue', workflowID: 'left', appVersion: '0' };
    await client.enqueue(old);
    await client.destroy();
    /** By whoever leads then. */
    const untilCounted = (count: number): Promise<RunningService> =>
      until(`${count} stranded`, async () => {
        const leader = await untilOneLeads();
        return (await gauge(leader, 'lps_workflows_stranded')) === count ? leader : undefined;
      });
    const leader = await untilCounted(1);
    expect((await request(leader.port, '/metrics')).text).toMatch(/^lps_alarms_total\{kind="workflows_stranded"\} 1$/m);
    const site = { store: s3, dataDir: leader.dataDir };
    const listed = await lps(site, 'workflows', 'list', '--database-url', postgres.url);
    expect(listed.out).toMatch(/^queued .* gone {2}left {2}stranded\n$/);
    const cancelled = await lps(site, 'workflows', 'cancel', 'left', '--database-url', postgres.url);
    expect(cancelled).toMatchObject({ code: 0, out: expect.stringMatching(/^state {5}cancelled$/m) });
    await untilCounted(0);
  });

  it('have another leader when theirs is killed, and take the dead one for gone within the bound', async () => {
    const leader = await untilOneLeads();
    // what an upload leaves that a crash has cut off
    await pool.query(
      `INSERT INTO lps.lease (blob_id, size, generation, expires_at) VALUES (0, 1, 1, now() - interval '1 s')`,
    );
    await leader.kill();
    services = services.filter((service) => service !== leader);
    expect(await untilOneLeads()).not.toBe(leader);
    await untilGone(leader);
    await until('its housekeeping, done by the next one', async () => {
      const { rows } = await pool.query('SELECT FROM lps.lease WHERE blob_id = 0');
      return rows.length === 0 || undefined;
    });
    await expectServed();
    services.push(await start());
    await untilOneLeads();
  });

  it('sweep and forget nothing without a leader, and everything that is due when there is one', async () => {
    const leader = await untilOneLeads();
    const [old, recent] = [await uploaded(), await uploaded()];
    const day = 24 * 3_600_000;
    await pool.query('UPDATE lps_dbos.workflow_status SET completed_at = completed_at - $2 WHERE workflow_uuid = $1', [
      old,
      8 * day, // a day more than the usual retention
    ]);
    const known = async (): Promise<string[]> => {
      const text = 'SELECT workflow_uuid AS id FROM lps_dbos.workflow_status WHERE workflow_uuid = ANY($1)';
      return (await pool.query(text, [[old, recent]])).rows.map(({ id }) => id).sort();
    };
    const leases = async (): Promise<number> =>
      (await pool.query('SELECT FROM lps.lease WHERE blob_id = 0')).rows.length;
    const usurper = await pool.connect();
    try {
      const taken = usurper.query("SELECT pg_advisory_lock(hashtextextended('lps leader of lps', 0))");
      await until('a place in the queue', async () => {
        const waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'";
        return (await pool.query(waiting)).rows.length > 0 || undefined;
      });
      await leader.kill();
      await taken;
      services = services.filter((service) => service !== leader);
      await pool.query(
        `INSERT INTO lps.lease (blob_id, size, generation, expires_at) VALUES (0, 1, 1, now() - interval '1 s')`,
      );
      const fresh = await start();
      services.push(fresh);
      await until('durable work', async () => ((await gauge(fresh, 'lps_durable_running')) === 1 ? true : undefined));
      await expectServed();
      expect(await leaders()).toEqual([]);
      expect(await leases()).toBe(1);
      expect(await known()).toEqual([old, recent].sort());
    } finally {
      usurper.release(true);
    }
    await untilOneLeads();
    await until('the sweep', async () => ((await leases()) === 0 ? true : undefined));
    await until('the end of the old workflow', async () => ((await known()).length === 1 ? true : undefined));
    expect(await known()).toEqual([recent]);
  });

  it('have another leader when theirs is stopped for a while, which then comes back as one of them', async () => {
    const leader = await untilOneLeads();
    services = services.filter((service) => service !== leader);
    process.kill(leader.pid, 'SIGSTOP');
    try {
      expect(await untilOneLeads()).not.toBe(leader);
      await untilGone(leader);
      await expectServed();
    } finally {
      process.kill(leader.pid, 'SIGCONT');
    }
    services.push(leader);
    await until('its new life', async () => ((await goneOf(leader)).at(-1) === null ? true : undefined));
    await until('durable work', async () => ((await gauge(leader, 'lps_durable_running')) === 1 ? true : undefined));
    const lives = await goneOf(leader);
    expect(lives.slice(0, -1)).toEqual(expect.arrayContaining([expect.any(Date)]));
    expect(lives.slice(0, -1)).not.toContain(null);
    await untilOneLeads();
    await expectServed();
  });

  it('say goodbye when they are told to end', async () => {
    const leader = await untilOneLeads();
    services = services.filter((service) => service !== leader);
    expect(await leader.kill('SIGTERM')).toBe('exit code 0');
    await until('its goodbye', async () => ((await goneOf(leader)).at(-1) !== null ? true : undefined));
    const text =
      'SELECT gone_at - seen_at < $2::float8 * interval \'1 ms\' AS "isEarly" FROM lps.replica WHERE pid = $1';
    const { rows } = await pool.query(`${text} ORDER BY started_at`, [leader.pid, timeoutMs]);
    expect(rows.at(-1)).toEqual({ isEarly: true }); // nobody declared it so
    await untilOneLeads();
    await expectServed();
  });
});
