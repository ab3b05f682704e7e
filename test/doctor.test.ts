/** `lps doctor` on set-ups that are broken for real: each cause is named, and nothing else is blamed. */
import { execFile, spawnSync } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { chmodSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { DeleteObjectCommand, PutBucketPolicyCommand, type S3Client } from '@aws-sdk/client-s3';
import { digestOf, openFileStore, openS3Store } from '@large-payload/core';
import {
  describeWith,
  freePort,
  openS3Client,
  requireOrSkip,
  skipped,
  spawnLogged,
  startVersitygw,
  tempDir,
  type Versitygw,
  waitUntilReady,
} from '@large-payload/test-components';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { startEmbeddedPostgres } from '../packages/server/src/catalog/embedded-postgres.ts';
import { type Faults, startFaultProxy } from './support/fault-proxy.ts';
import { goodProject, hoistedProject, makePnpmProject, makeProject, twoCommonsProject } from './support/projects.ts';
import { startService } from './support/service.ts';

const lps = fileURLToPath(new URL('../packages/server/bin/lps.js', import.meta.url));
const severities = ['fail', 'warn', 'info'] as const;

interface Finding {
  readonly id: string;
  readonly severity: 'ok' | (typeof severities)[number];
  readonly seen: string;
  readonly todo?: string;
}

interface Diagnosis {
  readonly exitCode: number | null;
  readonly findings: readonly Finding[];
  readonly stderr: string;
}

interface DoctorOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** As a user who may not do everything. */
  readonly uid?: number;
}

/** A place where nothing is, and which others may enter. */
function newDir(): string {
  const dir = tempDir('doctor');
  chmodSync(dir, 0o755);
  chmodSync(dirname(dir), 0o711);
  return dir;
}

/** Root may write everywhere, so another user has to run it; who must reach this Node and the program. */
function canRunAs(uid: number): boolean {
  const { status } = spawnSync(process.execPath, [lps, '--version'], { uid, gid: uid, cwd: '/' });
  if (status !== 0) skipped('another user', 'who cannot reach Node or the program from where they are');
  return status === 0;
}

async function doctor(args: readonly string[], options: DoctorOptions = {}): Promise<Diagnosis> {
  const { env, cwd = newDir(), uid } = options;
  const all = ['doctor', '--json', ...args];
  return new Promise((resolve, reject) => {
    const spawned = {
      cwd,
      env: { PATH: process.env.PATH ?? '', ...env },
      ...(uid === undefined ? {} : { uid, gid: uid }),
    };
    const child = execFile(process.execPath, [lps, ...all], spawned, (error, stdout, stderr) => {
      if (stdout === '') return reject(error ?? new Error(stderr));
      const lines = stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Finding & { kind?: string });
      expect(lines.at(-1)).toMatchObject({ kind: 'summary' });
      resolve({ exitCode: child.exitCode, findings: lines.slice(0, -1), stderr });
    });
  });
}

function ids({ findings }: Diagnosis, severity: Finding['severity']): string[] {
  return findings.filter((finding) => finding.severity === severity).map(({ id }) => id);
}

/** One cause, named by its id, in words, with what to do; nothing else fails. */
function expectCause(diagnosis: Diagnosis, id: string, seen: RegExp, todo: RegExp): void {
  const { findings, stderr, exitCode } = diagnosis;
  expect({ failed: ids(diagnosis, 'fail'), stderr, exitCode }).toEqual({ failed: [id], stderr: '', exitCode: 1 });
  const found = findings.find((finding) => finding.severity === 'fail');
  expect(found?.seen).toMatch(seen);
  expect(found?.todo).toMatch(todo);
}

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

let postgres: Awaited<ReturnType<typeof startEmbeddedPostgres>>;
beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
});
afterAll(() => postgres.stop());

/** Runs statements as the owner of the database. */
async function sql(...statements: string[]): Promise<void> {
  const client = new pg.Client({ connectionString: postgres.url });
  await client.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}

/** A new user of the database, and the URL with which it comes. */
async function newRole(): Promise<{ role: string; url: string }> {
  const role = `r${randomBytes(6).toString('hex')}`;
  await sql(`CREATE ROLE ${role} LOGIN`);
  return { role, url: postgres.url.replace('lps@', `${role}@`) };
}

/** A file store below a directory of its own, and the shared database: nothing wrong with them. */
function sound(dir = newDir()): string[] {
  return ['--data-dir', join(dir, 'data'), '--database-url', postgres.url];
}

describe('a new set-up', () => {
  it('is found sound, and left as it was', async () => {
    const cwd = newDir();
    const diagnosis = await doctor([], { cwd });
    expect(diagnosis.exitCode).toBe(0);
    // the directory of tests is one that systems clear
    expect([ids(diagnosis, 'fail'), ids(diagnosis, 'warn')]).toEqual([[], ['data-dir.file-system']]);
    const done = ['put', 'conditional-put', 'get', 'range', 'head', 'list', 'checksum', 'delete'];
    expect(ids(diagnosis, 'ok')).toEqual(expect.arrayContaining(done.map((step) => `store.${step}`)));
    expect(ids(diagnosis, 'ok')).toEqual(
      expect.arrayContaining(['postgres.rights', 'postgres.listen', 'catalog.owner']),
    );
    expect(readdirSync(cwd)).toEqual([]);
  });

  it('is told to people in a few lines, with what to do', async () => {
    const { stdout } = await promisify(execFile)(process.execPath, [lps, 'doctor', ...sound()], {
      env: { PATH: process.env.PATH ?? '', LPS_HOST: '0.0.0.0', LPS_INSECURE: 'true' },
    });
    expect(stdout.split('\n').length).toBeLessThan(25);
    expect(stdout).toMatch(/^runtime +ok {4}Node \d+\./m);
    expect(stdout).toMatch(/^ +warn {2}listens on 0\.0\.0\.0:8577 and asks nobody/m);
    expect(stdout).toMatch(/→ add --auth required and TLS, or let only your workers reach the port/);
    expect(stdout).toMatch(/\n3 warnings\. /);
    expect(stdout).not.toContain('\u001b');
  });
});

describe('a service that runs', () => {
  it('is asked, and neither it nor its database is disturbed', async () => {
    const service = await startService({});
    cleanUps.push(() => service.stop());
    const diagnosis = await doctor(['--data-dir', service.dataDir, '--url', service.url]);
    expect({ failed: ids(diagnosis, 'fail'), exitCode: diagnosis.exitCode }).toEqual({ failed: [], exitCode: 0 });
    const seen = Object.fromEntries(diagnosis.findings.map(({ id, seen }) => [id, seen]));
    expect(seen['data-dir.in-use']).toContain(`pid ${service.pid}`);
    expect(seen['postgres.reach']).toMatch(/of the running service/);
    expect(seen['catalog.owner']).toMatch(/belong together/);
    expect(ids(diagnosis, 'ok')).toEqual(expect.arrayContaining(['service.reach', 'service.ready', 'service.version']));
    expect((await fetch(`${service.url}/readyz`)).status).toBe(200);
    expect(service.ended).toBeUndefined();
  });

  it('is looked for in vain where there is none', async () => {
    const diagnosis = await doctor([...sound(), '--url', `http://127.0.0.1:${await freePort()}`]);
    expectCause(diagnosis, 'service.reach', /no service answers at .*ECONNREFUSED/, /lps serve/);
  });

  it('is not anything that answers', async () => {
    const proxy = await startFaultProxy('http://127.0.0.1:1', { instead: () => ({ status: 200, body: '<html>' }) });
    cleanUps.push(() => proxy.close());
    expectCause(
      await doctor([...sound(), '--url', proxy.url]),
      'service.reach',
      /is no Large Payload Service/,
      /--url/,
    );
  });
});

describe('settings', () => {
  it('are wrong: each one is named, and the rest is looked at all the same', async () => {
    const cwd = makeProject(goodProject);
    const diagnosis = await doctor(['--port', 'x', '--grace', '1s'], { cwd });
    expect(ids(diagnosis, 'fail')).toEqual(['settings.valid', 'settings.valid']);
    expect(diagnosis.findings.map(({ seen }) => seen).join()).toMatch(/--port: "x" is not.*--grace: grace must be/);
    expect(ids(diagnosis, 'ok')).toEqual(expect.arrayContaining(['runtime.node', 'project.sdk']));
  });

  it('are too large for Temporal', async () => {
    const diagnosis = await doctor([...sound(), '--threshold', '3MB']);
    expectCause(diagnosis, 'limits.threshold', /up to 3MB stay inline, and Temporal refuses/, /128,000/);
  });

  it('leave nothing between the threshold and the largest blob', async () => {
    const diagnosis = await doctor([...sound(), '--max-blob-bytes', '100kB']);
    expectCause(diagnosis, 'limits.max-blob-bytes', /up to 100kB, and only payloads above 128kB/, /--max-blob-bytes/);
  });
});

describe('the data directory', () => {
  const isRoot = process.geteuid?.() === 0;
  const unprivileged = isRoot ? { uid: 65534 } : {};
  const mayRun = !isRoot || canRunAs(65534);

  it.runIf(mayRun)('cannot be written', async () => {
    const dataDir = join(newDir(), 'data');
    await openFileStore({ dir: join(dataDir, 'store') });
    chmodSync(dataDir, 0o555);
    const diagnosis = await doctor(['--data-dir', dataDir], unprivileged);
    expectCause(diagnosis, 'data-dir.writable', /cannot be written by uid \d+: permission denied/, /chown/);
  });

  it('cannot be made', async () => {
    const dir = newDir();
    writeFileSync(join(dir, 'file'), '');
    const diagnosis = await doctor(['--data-dir', join(dir, 'file', 'data')]);
    expectCause(diagnosis, 'data-dir.writable', /cannot be made .*: a file is in its place/, /--data-dir/);
    if (isRoot && mayRun) {
      const refused = await doctor(['--data-dir', join(dir, 'data')], unprivileged);
      expectCause(refused, 'data-dir.writable', /cannot be made by uid 65534: permission denied/, /chown/);
    }
  });

  it('holds the store of another catalog', async () => {
    const dir = newDir();
    const store = await openFileStore({ dir: join(dir, 'data', 'store') });
    await claim(store, 'another');
    const words = /belongs to the catalog another, and this database has none yet: the service would not start/;
    expectCause(await doctor(sound(dir)), 'catalog.owner', words, /--take-over another/);
  });
});

/** As another catalog does it. */
async function claim(store: Pick<Awaited<ReturnType<typeof openFileStore>>, 'put'>, catalog: string): Promise<void> {
  const bytes = Buffer.from(JSON.stringify({ catalog }));
  await store.put('.lps/catalog', bytes, { digest: digestOf(bytes), size: bytes.length });
}

describe('Postgres', () => {
  const withDatabase = (url: string, ...more: string[]): Promise<Diagnosis> =>
    doctor(['--data-dir', join(newDir(), 'data'), '--database-url', url, ...more]);

  it('cannot be reached', async () => {
    const diagnosis = await withDatabase(`postgres://me:hush@127.0.0.1:${await freePort()}/lps`);
    expectCause(
      diagnosis,
      'postgres.reach',
      /^Postgres at 127\.0\.0\.1:\d+\/lps cannot be reached: nothing listens/,
      /URL/,
    );
    expect(JSON.stringify(diagnosis)).not.toContain('hush');
  });

  it('has no such database', async () => {
    const diagnosis = await withDatabase(postgres.url.replace('/lps?', '/other?'));
    expectCause(diagnosis, 'postgres.reach', /the database does not exist/, /CREATE DATABASE/);
  });

  it('gives the user no rights to make tables', async () => {
    const diagnosis = await withDatabase((await newRole()).url);
    expectCause(
      diagnosis,
      'postgres.rights',
      /may not make the tables: permission denied for database/,
      /GRANT CREATE/,
    );
  });

  it('gives the user no rights to the tables that are there', async () => {
    const service = await startService({ env: { LPS_DATABASE_URL: postgres.url, LPS_DATABASE_SCHEMA: 'made' } });
    await service.stop();
    const owned = ['--data-dir', service.dataDir, '--database-schema', 'made', '--database-url'];
    expect(ids(await doctor([...owned, postgres.url]), 'fail')).toEqual([]);
    const { role, url } = await newRole();
    await sql(`GRANT USAGE ON SCHEMA made TO ${role}`, `GRANT SELECT ON ALL TABLES IN SCHEMA made TO ${role}`);
    const diagnosis = await doctor([...owned, url]);
    expectCause(diagnosis, 'postgres.rights', /may not use the tables: permission denied for table/, /grant/);
  });

  it('takes no writes', async () => {
    const { role, url } = await newRole();
    await sql(`GRANT CREATE ON DATABASE lps TO ${role}`, `ALTER ROLE ${role} SET default_transaction_read_only = on`);
    expectCause(await withDatabase(url), 'postgres.read-only', /read-only by default/, /default_transaction_read_only/);
  });

  it('cuts statements off', async () => {
    const { role, url } = await newRole();
    await sql(`GRANT CREATE ON DATABASE lps TO ${role}`, `ALTER ROLE ${role} SET statement_timeout = '2s'`);
    const diagnosis = await withDatabase(url);
    expect([ids(diagnosis, 'fail'), ids(diagnosis, 'warn')]).toEqual([
      [],
      ['data-dir.file-system', 'postgres.statement-timeout', 'postgres.durability'],
    ]);
  });

  it('has too few connections for the pool', async () => {
    const diagnosis = await withDatabase(postgres.url, '--database-pool-size', '500');
    expectCause(diagnosis, 'postgres.connections', /the service opens 527/, /--database-pool-size/);
  });

  it('has the tables of a newer program', async () => {
    const schema = 'newer';
    await sql(`CREATE SCHEMA ${schema}`, `CREATE TABLE ${schema}.migration (version integer, checksum text)`);
    await sql(`INSERT INTO ${schema}.migration VALUES (9999, 'x')`);
    for (const name of ['blob', 'lease', 'retired_object', 'catalog'])
      await sql(`CREATE TABLE ${schema}.${name} (id int)`);
    const diagnosis = await withDatabase(postgres.url, '--database-schema', schema);
    expectCause(diagnosis, 'postgres.migrations', /a newer program has been here/, /start that one/);
  });
});

const s3 = await startVersitygw();
const versioned = await startVersitygw({ versioning: true });
afterAll(async () => {
  await s3?.stop();
  await versioned?.stop();
});

describeWith(describe, 'a bucket', s3, (gateway) => {
  type Place = Pick<Versitygw, 'endpoint' | 'bucket' | 'accessKeyId' | 'secretAccessKey'>;

  function onBucket(place: Partial<Place> = {}, ...more: string[]): Promise<Diagnosis> {
    const { endpoint, bucket, accessKeyId, secretAccessKey } = { ...gateway, ...place };
    return doctor([...sound(), '--store', 's3', '--s3-bucket', bucket, '--s3-endpoint', endpoint, ...more], {
      env: { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey },
    });
  }

  async function behind(faults: Faults): Promise<{ endpoint: string }> {
    const proxy = await startFaultProxy(gateway.endpoint, faults);
    cleanUps.push(() => proxy.close());
    return { endpoint: proxy.url };
  }

  async function withClient(run: (client: S3Client) => Promise<unknown>): Promise<void> {
    const client = await openS3Client(gateway);
    await run(client).finally(() => client.destroy());
  }

  async function objectsIn(place: Versitygw): Promise<string[]> {
    const { endpoint, bucket, accessKeyId, secretAccessKey } = place;
    const store = await openS3Store({ endpoint, bucket, credentials: { accessKeyId, secretAccessKey } });
    const keys: string[] = [];
    for await (const { key } of store.list('.lps/')) keys.push(key);
    await store.close?.();
    return keys;
  }

  it('that is sound is found so, and nothing stays in it', async () => {
    const diagnosis = await onBucket();
    expect([ids(diagnosis, 'fail'), ids(diagnosis, 'warn')]).toEqual([[], ['postgres.durability']]);
    expect(diagnosis.findings).toContainEqual({
      id: 'store.checksum',
      severity: 'ok',
      seen: 'wrong bytes are refused',
    });
    expect(ids(diagnosis, 'ok')).toEqual(expect.arrayContaining(['store.clock', 'store.delete', 'bucket.versioning']));
    expect(await objectsIn(gateway)).toEqual([]);
  });

  it('is asked with a wrong secret', async () => {
    const diagnosis = await onBucket({ secretAccessKey: 'wrong' });
    expectCause(diagnosis, 'store.reach', /SignatureDoesNotMatch/, /AWS_SECRET_ACCESS_KEY/);
  });

  it('is asked with an unknown key', async () => {
    const diagnosis = await onBucket({ accessKeyId: 'nobody' });
    expectCause(
      diagnosis,
      'store.reach',
      /S3 refused the request \((InvalidAccessKeyId|XAdminUserNotFound)\)/,
      /AWS_ACCESS_KEY_ID/,
    );
  });

  it('does not exist', async () => {
    expectCause(await onBucket({ bucket: 'nonesuch' }), 'store.reach', /does not exist/, /make the bucket/);
  });

  it('is on a server that does not run', async () => {
    const diagnosis = await onBucket({ endpoint: `http://127.0.0.1:${await freePort()}` });
    expectCause(diagnosis, 'store.reach', /cannot be reached \(ECONNREFUSED\)/, /endpoint/);
  });

  it('belongs to another catalog', async () => {
    await gateway.createBucket('foreign');
    const { endpoint, accessKeyId, secretAccessKey } = gateway;
    const store = await openS3Store({ endpoint, bucket: 'foreign', credentials: { accessKeyId, secretAccessKey } });
    await claim(store, randomUUID());
    await store.close?.();
    expectCause(await onBucket({ bucket: 'foreign' }), 'catalog.owner', /belongs to the catalog/, /lps catalog import/);
  });

  it('is on a server that ignores If-None-Match', async () => {
    const overwriting = await behind({
      async before({ method, url = '', headers }) {
        if (method !== 'PUT' || headers['if-none-match'] === undefined) return;
        const [, Bucket = '', ...name] = decodeURIComponent(url).split('/');
        await withClient((client) => client.send(new DeleteObjectCommand({ Bucket, Key: name.join('/') })));
      },
    });
    const diagnosis = await onBucket(overwriting);
    expectCause(diagnosis, 'store.conditional-put', /ignores If-None-Match/, /--s3-conditional-put head/);
    expect(ids(await onBucket(overwriting, '--s3-conditional-put', 'head'), 'fail')).toEqual([]);
    expect(await objectsIn(gateway)).toEqual([]);
  });

  it('is on a server that refuses If-None-Match', async () => {
    const refusing = await behind({
      instead: ({ headers }) =>
        headers['if-none-match'] === undefined
          ? undefined
          : { status: 501, body: '<Error><Code>NotImplemented</Code></Error>' },
    });
    const diagnosis = await onBucket(refusing);
    expectCause(
      diagnosis,
      'store.conditional-put',
      /refuses puts with If-None-Match.*NotImplemented/,
      /--s3-conditional-put head/,
    );
  });

  it('is on a server whose clock is 20 minutes ahead', async () => {
    const ahead = await behind({
      answer: (headers) => ({ ...headers, date: new Date(Date.now() + 20 * 60_000).toUTCString() }),
    });
    expectCause(await onBucket(ahead), 'store.clock', /20 minutes ahead of ours/, /NTP/);
  });

  it('is on a server that refuses us because of the time', async () => {
    const refusing = await behind({
      instead: ({ headers }) =>
        headers.authorization === undefined
          ? undefined
          : { status: 403, body: '<Error><Code>RequestTimeTooSkewed</Code></Error>' },
    });
    expectCause(await onBucket(refusing), 'store.clock', /more than 15 minutes apart/, /NTP/);
  });

  it('deletes blobs by itself', async () => {
    const rule = (id: string, prefix: string): string =>
      `<Rule><ID>${id}</ID><Status>Enabled</Status><Filter><Prefix>${prefix}</Prefix></Filter><Expiration><Days>30</Days></Expiration></Rule>`;
    const tidying = await behind({
      instead: ({ method, url = '' }) =>
        method === 'GET' && /\?lifecycle/.test(url)
          ? {
              status: 200,
              body: `<LifecycleConfiguration>${rule('logs', 'logs/')}${rule('tidy', '')}</LifecycleConfiguration>`,
            }
          : undefined,
    });
    const words = /^this bucket deletes blobs by itself after 30 days \(the rule "tidy"\)$/;
    expectCause(await onBucket(tidying), 'bucket.lifecycle', words, /remove the rule/);
  });

  it('lets nothing be deleted: what is left behind is named', async () => {
    const keeping = await behind({
      instead: ({ method }) =>
        method === 'DELETE' ? { status: 403, body: '<Error><Code>AccessDenied</Code></Error>' } : undefined,
    });
    const diagnosis = await onBucket(keeping);
    const [object = ''] = await objectsIn(gateway);
    await withClient((client) => client.send(new DeleteObjectCommand({ Bucket: gateway.bucket, Key: object })));
    expect(object).toMatch(/^\.lps\/doctor\/\w{16}-put$/);
    expectCause(diagnosis, 'store.delete', /delete fails: .*AccessDenied/, /s3:DeleteObject.*then remove the object/);
    expect(diagnosis.findings.find(({ id }) => id === 'store.delete')?.todo).toContain(object);
  });

  describeWith(describe, 'with versions', versioned, (server) => {
    it('is warned of, and nothing stays in it, not even a version', async () => {
      const diagnosis = await onBucket(server);
      expect([ids(diagnosis, 'fail'), ids(diagnosis, 'warn')]).toEqual([
        [],
        ['bucket.versioning', 'postgres.durability'],
      ]);
      const found = diagnosis.findings.find(({ id }) => id === 'bucket.versioning');
      expect(found?.seen).toMatch(/keeps versions/);
      expect(found?.todo).toMatch(/s3:DeleteObjectVersion/);
      expect(await objectsIn(server)).toEqual([]);
    });
  });

  it('may only be read', async () => {
    const reader = await startWithReader();
    const diagnosis = await onBucket(reader);
    expectCause(diagnosis, 'store.put', /put fails: .*AccessDenied/, /s3:PutObject/);
    expect(ids(diagnosis, 'ok')).not.toContain('store.delete');
  });

  /** Another server, one that knows users, with one who may only read. */
  async function startWithReader(): Promise<Place> {
    const binary = requireOrSkip('s3') ?? '';
    const port = await freePort();
    const endpoint = `http://127.0.0.1:${port}`;
    const root = { accessKeyId: 'root', secretAccessKey: randomUUID() };
    const reader = { accessKeyId: 'reader', secretAccessKey: randomUUID() };
    const args = ['--port', `127.0.0.1:${port}`, '--quiet', '--iam-dir', tempDir('iam'), 'posix', tempDir('s3')];
    const env = { ROOT_ACCESS_KEY: root.accessKeyId, ROOT_SECRET_KEY: root.secretAccessKey };
    const server = await spawnLogged(binary, args, { env });
    cleanUps.push(() => server.stop());
    await waitUntilReady(server, 'versitygw', async () => (await fetch(endpoint)).status > 0);
    const newUser = ['--access', reader.accessKeyId, '--secret', reader.secretAccessKey, '--role', 'user'];
    await promisify(execFile)(binary, ['admin', 'create-user', ...newUser], {
      env: {
        ADMIN_ACCESS_KEY_ID: root.accessKeyId,
        ADMIN_SECRET_ACCESS_KEY: root.secretAccessKey,
        ADMIN_REGION: 'us-east-1',
        ADMIN_ENDPOINT_URL: endpoint,
      },
    });
    const place = { ...gateway, ...root, endpoint };
    const bucket = 'readable';
    const { CreateBucketCommand } = await import('@aws-sdk/client-s3');
    const client = await openS3Client(place);
    await client.send(new CreateBucketCommand({ Bucket: bucket }));
    const statement = {
      Effect: 'Allow',
      Principal: { AWS: [reader.accessKeyId] },
      Action: ['s3:GetObject', 's3:ListBucket', 's3:GetBucketVersioning', 's3:ListBucketVersions'],
      Resource: [`arn:aws:s3:::${bucket}`, `arn:aws:s3:::${bucket}/*`],
    };
    const policy = JSON.stringify({ Version: '2012-10-17', Statement: [statement] });
    await client.send(new PutBucketPolicyCommand({ Bucket: bucket, Policy: policy }));
    client.destroy();
    return { endpoint, bucket, ...reader };
  }
});

describe('a worker project', () => {
  const inProject = (cwd: string): Promise<Diagnosis> => doctor(sound(), { cwd });

  it('that is sound is found so, as npm and as pnpm lay it out, and here', async () => {
    const own = fileURLToPath(new URL('../examples/quickstart', import.meta.url));
    for (const dir of [makeProject(goodProject), makePnpmProject(), own]) {
      const diagnosis = await inProject(dir);
      expect(ids(diagnosis, 'fail'), dir).toEqual([]);
      const wanted = ['project.sdk', 'project.protobufjs', 'project.temporal-copies', 'project.node'];
      expect(ids(diagnosis, 'ok'), dir).toEqual(expect.arrayContaining(wanted));
    }
  });

  it('has protobufjs 7 at the top, so that references cannot be written', async () => {
    const words =
      /have a protobufjs each; protobufjs 7\.5\.4 stands at the top: External Storage cannot write references/;
    expectCause(
      await inProject(makeProject(hoistedProject)),
      'project.protobufjs',
      words,
      /npm install protobufjs@\^8/,
    );
  });

  it('has two @temporalio/common', async () => {
    const words = /2 copies of @temporalio\/common: 1\.24\.0 in node_modules\/@temporalio\/common, 1\.24\.1 in /;
    expectCause(
      await inProject(makeProject(twoCommonsProject)),
      'project.temporal-copies',
      words,
      /npm ls @temporalio\/common/,
    );
  });

  it('lacks a package that another one needs', async () => {
    const { 'node_modules/@temporalio/proto': _, ...rest } = goodProject;
    const packages = { ...rest, 'node_modules/@temporalio/common': { version: '1.24.0' } };
    const diagnosis = await doctor([...sound(), '--project', makeProject(packages)]);
    expect(new Set(ids(diagnosis, 'fail'))).toEqual(new Set(['project.missing']));
    expect(diagnosis.findings.find(({ id }) => id === 'project.missing')).toMatchObject({
      seen: '@large-payload/temporal needs @temporalio/proto >=1.24 <2, which is not installed',
      todo: 'npm install @temporalio/proto@">=1.24 <2"',
    });
  });

  it('has an SDK that is too old', async () => {
    const old = { ...goodProject, 'node_modules/@temporalio/common': { version: '1.13.2' } };
    expectCause(
      await inProject(makeProject(old)),
      'project.sdk',
      /Temporal SDK 1\.13\.2: it must be 1\.24/,
      /npm install/,
    );
  });

  it('is not where it was said to be', async () => {
    const diagnosis = await doctor([...sound(), '--project', newDir()]);
    expectCause(diagnosis, 'project.readable', /holds no package\.json/, /--project/);
  });

  it('is not run: nothing of it is loaded', () => {
    const walk = readFileSync(new URL('../packages/server/src/doctor/project-graph.ts', import.meta.url), 'utf8');
    expect(walk).not.toMatch(/\brequire\b\(|import\(|createRequire/);
  });
});
