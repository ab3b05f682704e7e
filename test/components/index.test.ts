import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GetObjectCommand, ListObjectVersionsCommand, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import { Client, Connection } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  describeWith,
  freePorts,
  openContainer,
  openS3Client,
  pythonWith,
  requireOrSkip,
  skipped,
  spawnLogged,
  startAzurite,
  startFakeGcs,
  startTemporal,
  startVersitygw,
  tempDir,
  waitUntilReady,
} from './index.ts';

const s3 = await startVersitygw();
const gcs = await startFakeGcs();
const azure = await startAzurite();
const temporal = await startTemporal();
afterAll(async () => {
  await s3?.stop();
  await gcs?.stop();
  await azure?.stop();
  await temporal?.stop();
});

const sha256 = (text: string): string => createHash('sha256').update(text).digest('base64');

describeWith(describe, 'versitygw', s3, (s3) => {
  let client: S3Client;
  beforeAll(async () => {
    client = await openS3Client(s3);
  });
  afterAll(() => client.destroy());

  const put = (key: string, body: string, more: object = {}): Promise<unknown> =>
    client.send(new PutObjectCommand({ Bucket: s3.bucket, Key: key, Body: body, ...more }));
  const get = async (key: string): Promise<string | undefined> => {
    const { Body } = await client.send(new GetObjectCommand({ Bucket: s3.bucket, Key: key }));
    return Body?.transformToString();
  };

  it('keeps an object as a file', async () => {
    await put('a/b', 'hello', { ChecksumSHA256: sha256('hello') });
    expect(await get('a/b')).toBe('hello');
    expect(readFileSync(join(s3.dir, s3.bucket, 'a/b'), 'utf8')).toBe('hello');
  });

  it('refuses bytes that do not match their checksum, and keeps nothing of them', async () => {
    await expect(put('wrong', 'hello', { ChecksumSHA256: sha256('other') })).rejects.toMatchObject({
      name: 'BadDigest',
      $metadata: { httpStatusCode: 400 },
    });
    await expect(get('wrong')).rejects.toMatchObject({ name: 'NoSuchKey' });
  });

  it('refuses to overwrite when told If-None-Match: *', async () => {
    await put('once', 'first', { IfNoneMatch: '*' });
    await expect(put('once', 'second', { IfNoneMatch: '*' })).rejects.toMatchObject({
      name: 'PreconditionFailed',
      $metadata: { httpStatusCode: 412 },
    });
    expect(await get('once')).toBe('first');
  });

  it('keeps its objects and its address over a kill', async () => {
    await put('kept', 'hello');
    const firstPid = s3.pid;
    await s3.kill();
    await s3.restart();
    expect(s3.pid).not.toBe(firstPid);
    expect(await get('kept')).toBe('hello');
  });
});

it.skipIf(!s3)('keeps old versions of an object when asked to', async () => {
  const versioned = await startVersitygw({ versioning: true });
  if (!versioned) throw new Error('versitygw was there a moment ago');
  const client = await openS3Client(versioned);
  const object = { Bucket: versioned.bucket, Key: 'k' };
  await client.send(new PutObjectCommand({ ...object, Body: 'one' }));
  await client.send(new PutObjectCommand({ ...object, Body: 'two' }));
  const { Versions } = await client.send(new ListObjectVersionsCommand({ Bucket: versioned.bucket }));
  expect(Versions).toHaveLength(2);
  client.destroy();
  await versioned.stop();
});

describeWith(describe, 'fake-gcs-server', gcs, (gcs) => {
  const put = (name: string, body: string): Promise<Response> => {
    const query = new URLSearchParams({ uploadType: 'media', name, ifGenerationMatch: '0' });
    return fetch(`${gcs.endpoint}/upload/storage/v1/b/${gcs.bucket}/o?${query}`, { method: 'POST', body });
  };
  const get = async (name: string): Promise<string> =>
    (await fetch(`${gcs.endpoint}/storage/v1/b/${gcs.bucket}/o/${encodeURIComponent(name)}?alt=media`)).text();

  it('keeps an object as a file', async () => {
    await put('lps/a/b', 'hello');
    expect(await get('lps/a/b')).toBe('hello');
    expect(readFileSync(join(gcs.dir, gcs.bucket, 'lps/a/b'), 'utf8')).toBe('hello');
  });

  it('lets one of many uploads win when told ifGenerationMatch=0', async () => {
    const answers = await Promise.all(Array.from({ length: 32 }, (_, index) => put('once', `${index}`)));
    const [winner] = answers.flatMap(({ status }, index) => (status === 200 ? [`${index}`] : []));
    expect(answers.map(({ status }) => status).sort()).toEqual([200, ...Array.from({ length: 31 }, () => 412)]);
    expect(await get('once')).toBe(winner);
  });

  it('keeps its objects and its address over a kill', async () => {
    await put('kept', 'hello');
    await gcs.kill();
    await gcs.restart();
    expect(await get('kept')).toBe('hello');
  });
});

describeWith(describe, 'Azurite', azure, (azure) => {
  const ifAbsent = { conditions: { ifNoneMatch: '*' } };

  it('lets one of many uploads win when told If-None-Match: *', async () => {
    const blob = (await openContainer(azure)).getBlockBlobClient('once');
    const uploads = Array.from({ length: 32 }, (_, index) => blob.upload(String(index % 10), 1, ifAbsent));
    const settled = await Promise.allSettled(uploads);
    const lost = settled.flatMap((one) => (one.status === 'rejected' ? [(one.reason as { code: string }).code] : []));
    expect(lost).toEqual(Array.from({ length: 31 }, () => 'BlobAlreadyExists'));
  });

  it('takes blocks that are not committed for a blob, which the azure store works around', async () => {
    const blob = (await openContainer(azure)).getBlockBlobClient('staged');
    await blob.stageBlock(Buffer.from('id').toString('base64'), 'x', 1);
    expect(await blob.exists()).toBe(false);
    await expect(blob.upload('x', 1, ifAbsent)).rejects.toMatchObject({ code: 'BlobAlreadyExists' });
  });

  it('keeps its blobs and its address when it is stopped', async () => {
    await (await openContainer(azure)).getBlockBlobClient('kept').upload('hello', 5);
    await azure.stop();
    await azure.restart();
    const bytes = await (await openContainer(azure)).getBlockBlobClient('kept').downloadToBuffer();
    expect(String(bytes)).toBe('hello');
  });
});

describeWith(describe, 'Temporal', temporal, (temporal) => {
  beforeAll(() => {
    Runtime.install({ logger: new DefaultLogger('WARN') });
  });

  it.each(['default', 'another-namespace'])('runs a workflow in namespace %s', async (namespace) => {
    await temporal.registerNamespace(namespace);
    const { address } = temporal;
    const connection = await Connection.connect({ address });
    const workerConnection = await NativeConnection.connect({ address });
    const worker = await Worker.create({
      connection: workerConnection,
      namespace,
      taskQueue: 'greetings',
      workflowsPath: fileURLToPath(new URL('./fixtures/workflows.ts', import.meta.url)),
      activities: { greet: async (name: string) => `Hello, ${name}` },
    });
    const client = new Client({ connection, namespace });
    const result = await worker.runUntil(
      client.workflow.execute('greeting', { taskQueue: 'greetings', workflowId: 'greeting-1', args: ['Ada'] }),
    );
    expect(result).toBe('Hello, Ada!');
    await workerConnection.close();
    await connection.close();
  });
});

describe('a component that is missing', () => {
  afterEach(() => {
    vi.unstubAllEnvs();
    vi.restoreAllMocks();
  });

  it('is skipped with a printed reason', () => {
    vi.stubEnv('LPS_TEST_CACHE', tempDir('empty-cache'));
    vi.stubEnv('LPS_REQUIRE', 'temporal');
    const log = vi.spyOn(console, 'log').mockImplementation(() => {});
    expect(requireOrSkip('s3')).toBeUndefined();
    expect(log).toHaveBeenCalledExactlyOnceWith(expect.stringMatching(/^skipped: s3: .*npm run components/));
  });

  it('is skipped so when it is a Python, too, unless LPS_REQUIRE names that', async () => {
    vi.stubEnv('PATH', tempDir('empty-path'));
    vi.stubEnv('LPS_REQUIRE', 's3');
    const log = vi.spyOn(console, 'log').mockImplementation(() => {});
    expect(await pythonWith(['temporalio'])).toBeUndefined();
    expect(log).toHaveBeenCalledExactlyOnceWith(expect.stringMatching(/^skipped: python: .*ENOENT/));
    vi.stubEnv('LPS_REQUIRE', 'python');
    await expect(pythonWith(['temporalio'])).rejects.toThrow('LPS_REQUIRE names python, but: ');
  });

  it('fails the run when LPS_REQUIRE names it', () => {
    vi.stubEnv('LPS_REQUIRE', 'postgres, s3');
    expect(() => skipped('s3', 'no binary')).toThrow('LPS_REQUIRE names s3, but: no binary');
  });
});

describe('a spawned process', () => {
  it('is shown with its output when it ends before it is ready', async () => {
    const child = await spawnLogged('/bin/sh', ['-c', 'echo no luck today >&2; exit 3']);
    const ready = waitUntilReady(child, 'the server', async () => false);
    await expect(ready).rejects.toThrow(/the server: exit code 3\n.*no luck today/);
  });

  it('does not survive the process that spawned it, even a killed one; nor does its directory', async () => {
    const file = JSON.stringify(fileURLToPath(new URL('./process.ts', import.meta.url)));
    // Vite runs the TypeScript: Node 20 cannot.
    const script = `import { runnerImport } from 'vite';
      const { module } = await runnerImport(${file});
      const dir = module.tempDir('orphan');
      const { pid } = await module.spawnLogged('sleep', ['600'], { cwd: dir });
      console.log(JSON.stringify({ dir, pid }));
      process.kill(process.pid, 'SIGKILL');`;
    const parent = await spawnLogged(process.execPath, ['--input-type=module', '-e', script]);
    await expect.poll(() => parent.ended, { timeout: 40_000 }).toBe('signal SIGKILL');
    const { dir, pid } = JSON.parse(parent.output());
    await expect.poll(() => isAlive(pid), { timeout: 30_000 }).toBe(false);
    await expect.poll(() => existsSync(dir), { timeout: 30_000 }).toBe(false);
  }, 120_000);
});

it('finds different free ports', async () => {
  expect(new Set(await freePorts(20)).size).toBe(20);
});

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
