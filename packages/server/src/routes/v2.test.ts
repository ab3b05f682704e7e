import { randomBytes } from 'node:crypto';
import http from 'node:http';
import { type BlobStore, LpsError, memoryStore, passThrough } from '@large-payload/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { get, put, putHead, RawConnection, type RunningApp, request, startApp, v2Blob } from '../http/testing.js';

const octets = { 'content-type': 'application/octet-stream' };
let app: RunningApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

describe('v2: the Go service’s API', () => {
  it('answers its health check to HEAD only', async () => {
    expect(await request(app.port, '/v2/health/head', { method: 'HEAD' })).toMatchObject({ status: 200, text: '' });
    for (const method of ['GET', 'POST', 'PUT', 'DELETE']) {
      expect((await request(app.port, '/v2/health/head', { method })).status).toBe(405);
    }
  });

  it('answers 201 with the key for a new blob, 200 for a present one, and the bytes to a get', async () => {
    const blob = v2Blob(randomBytes(200_000), 'orders', { encoding: Buffer.from('binary/plain') });
    const first = await put(app.port, blob);
    expect(first.status).toBe(201);
    expect(JSON.parse(first.text)).toEqual({ Key: blob.key });
    const second = await put(app.port, blob);
    expect(second.status).toBe(200);
    expect(JSON.parse(second.text)).toEqual({ Key: blob.key });
    const read = await get(app.port, blob);
    expect(read.status).toBe(200);
    expect(read.body.equals(blob.bytes)).toBe(true);
    expect(read.headers).toMatchObject({
      'content-length': '200000',
      'content-type': 'application/octet-stream',
      'cache-control': 'private, no-store',
      'x-content-type-options': 'nosniff',
    });
  });

  it('makes the key as the Go service does, with a prefix and without metadata', async () => {
    const bytes = Buffer.from('p'.repeat(64));
    const prefixed = v2Blob(bytes, 'default', {
      encoding: Buffer.from('binary/plain'),
      'remote-codec/key-prefix': Buffer.from('a/b/c'),
    });
    expect(JSON.parse((await put(app.port, prefixed)).text).Key).toBe(
      '/blobs/default/custom/a/b/c/sha256:153ac90a80490199ae3d9587c40d8d9c069ae1c569af629d68a165af5a72d3af' +
        '/sha256:04d84002f64dd14eae020b01aa984ac621cd0eb1a80e9881b12773313fb2d35f',
    );
    const plain = v2Blob(Buffer.from('plain bytes without any metadata'));
    expect(plain.putHeaders['x-temporal-metadata']).toBe(Buffer.from('null').toString('base64'));
    expect(JSON.parse((await put(app.port, plain)).text).Key).toMatch(/\/sha256:e3b0c442[0-9a-f]{48}7852b855$/);
  });

  const blob = v2Blob(Buffer.from('refused'));
  const putQuery = (query: Record<string, string>): string => `/v2/blobs/put?${new URLSearchParams(query)}`;
  const metadata = (text: string): { 'x-temporal-metadata': string } => ({
    'x-temporal-metadata': Buffer.from(text).toString('base64'),
  });
  it.each<[string, number, string, http.OutgoingHttpHeaders]>([
    ['no content type', 400, blob.putPath, { 'content-type': undefined }],
    ['another content type', 400, blob.putPath, { 'content-type': 'text/plain' }],
    ['more than 1 GiB', 413, blob.putPath, { 'content-length': 1024 ** 3 + 1 }],
    ['no namespace', 400, putQuery({ digest: blob.digest }), {}],
    ['an empty namespace', 400, putQuery({ namespace: '', digest: blob.digest }), {}],
    ['namespace ..', 400, putQuery({ namespace: '..', digest: blob.digest }), {}],
    ['namespace .', 400, putQuery({ namespace: '.', digest: blob.digest }), {}],
    ['a namespace with /', 400, putQuery({ namespace: 'a/b', digest: blob.digest }), {}],
    ['a namespace with \\', 400, putQuery({ namespace: 'a\\b', digest: blob.digest }), {}],
    ['a namespace with a control character', 400, putQuery({ namespace: 'a\nb', digest: blob.digest }), {}],
    ['a namespace that is not UTF-8', 400, `/v2/blobs/put?namespace=%ff&digest=${blob.digest}`, {}],
    ['two namespaces', 400, `${blob.putPath}&namespace=other`, {}],
    ['no digest', 400, putQuery({ namespace: 'n' }), {}],
    ['a digest without sha256:', 400, putQuery({ namespace: 'n', digest: blob.digest.slice(7) }), {}],
    [
      'a digest in upper case',
      400,
      putQuery({ namespace: 'n', digest: `sha256:${blob.digest.slice(7).toUpperCase()}` }),
      {},
    ],
    ['a digest with ../', 400, putQuery({ namespace: 'n', digest: 'sha256:../../../../etc/passwd' }), {}],
    ['another hash', 400, putQuery({ namespace: 'n', digest: `md5:${'0'.repeat(32)}` }), {}],
    ['no metadata', 400, blob.putPath, { 'x-temporal-metadata': undefined }],
    ['metadata that is not base64', 400, blob.putPath, { 'x-temporal-metadata': '{}' }],
    ['metadata in URL-safe base64', 400, blob.putPath, { 'x-temporal-metadata': 'eyJhIjoi_w' }],
    ['metadata without padding', 400, blob.putPath, { 'x-temporal-metadata': 'e30' }],
    ['metadata that is not JSON', 400, blob.putPath, metadata('{')],
    ['metadata that is a list', 400, blob.putPath, metadata('[]')],
    ['metadata with a number', 400, blob.putPath, metadata('{"a":1}')],
    ['metadata with a value that is not base64', 400, blob.putPath, metadata('{"a":"%"}')],
    [
      'a prefix with a dot',
      400,
      blob.putPath,
      metadata(`{"remote-codec/key-prefix":"${Buffer.from('a/../b').toString('base64')}"}`),
    ],
  ])('refuses a put with %s', async (_what, status, path, headers) => {
    const merged = Object.fromEntries(
      Object.entries({ ...blob.putHeaders, ...headers }).filter(([, value]) => value !== undefined),
    );
    // the body is not sent: the answer must not wait for it
    const connection = await RawConnection.open(app.port);
    const lines = Object.entries({ host: 'localhost', ...merged }).map(([name, value]) => `${name}: ${value}\r\n`);
    await connection.write(`PUT ${path} HTTP/1.1\r\n${lines.join('')}\r\n`);
    const received = await connection.until(/\r\n\r\n.+/s);
    expect(received).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(received).toMatch(/content-type: text\/plain/i);
    expect(received.split('\r\n\r\n')[1]).toMatch(/^[^\n]{5,200}$/);
    expect(received).not.toMatch(/ at .*\.js/);
    connection.destroy();
    expect((await get(app.port, blob)).status).toBe(404);
  });

  it('refuses a put without a length with 411', async () => {
    const { 'content-length': _, ...headers } = blob.putHeaders;
    const answer = await request(app.port, blob.putPath, {
      method: 'PUT',
      headers: { ...headers, 'transfer-encoding': 'chunked' },
      body: blob.bytes,
    });
    expect(answer.status).toBe(411);
  });

  const stored = v2Blob(Buffer.from('stored for refused gets'));
  it.each<[string, number, string, http.OutgoingHttpHeaders]>([
    ['no content type', 400, stored.getPath, { 'x-payload-expected-content-length': '23' }],
    ['no expected length', 400, stored.getPath, octets],
    ['a wrong expected length', 400, stored.getPath, { ...octets, 'x-payload-expected-content-length': '22' }],
    [
      'an expected length that is no number',
      400,
      stored.getPath,
      { ...octets, 'x-payload-expected-content-length': '-1' },
    ],
    ['no key', 400, '/v2/blobs/get', stored.getHeaders],
    ['a key that is none', 400, '/v2/blobs/get?key=x', stored.getHeaders],
    ['a key with ..', 400, `/v2/blobs/get?key=/blobs/../common/${stored.digest}/${stored.digest}`, stored.getHeaders],
    ['the service’s own object', 400, '/v2/blobs/get?key=.lps/catalog', stored.getHeaders],
    ['a later generation', 400, `${stored.getPath}~aaaaaaaaaaaaaaaa`, stored.getHeaders],
    ['an absent key', 404, v2Blob(Buffer.from('absent')).getPath, stored.getHeaders],
  ])('refuses a get with %s', async (_what, status, path, headers) => {
    await put(app.port, stored);
    const answer = await request(app.port, path, { headers });
    expect(answer.status).toBe(status);
    expect(answer.headers['content-type']).toMatch(/^text\/plain/);
    expect(answer.text).toMatch(/^[^\n]{5,200}$/);
  });

  it('answers other methods with 405 and Allow', async () => {
    for (const [method, path, allow] of [
      ['POST', '/v2/blobs/put', 'PUT'],
      ['GET', '/v2/blobs/put', 'PUT'],
      ['PUT', '/v2/blobs/get', 'GET'],
      ['HEAD', '/v2/blobs/get', 'GET'],
    ] as const) {
      const answer = await request(app.port, path, { method });
      expect(answer.status).toBe(405);
      expect(answer.headers.allow).toBe(allow);
    }
  });

  it('answers errors as problem documents when the caller accepts JSON', async () => {
    const absent = v2Blob(Buffer.from('absent'));
    const answer = await request(app.port, absent.getPath, {
      headers: { ...absent.getHeaders, accept: 'application/json' },
    });
    expect(answer.headers['content-type']).toBe('application/problem+json');
    expect(JSON.parse(answer.text)).toMatchObject({
      status: 404,
      code: 'BLOB_NOT_FOUND',
      requestId: answer.headers['x-request-id'],
    });
  });

  it('takes metadata of 600 kB in its header, as Go’s server does', async () => {
    const large = v2Blob(Buffer.from('large metadata'), 'default', { note: randomBytes(330_000) });
    expect((await put(app.port, large)).status).toBe(201);
    expect((await get(app.port, large)).body).toEqual(large.bytes);
  });

  it.each(['a+b', 'a b', 'a%20b', 'a%2Bb', '100%', 'ünï-✓', 'ns.with-dots_1', '日本'])(
    'keeps namespace %s as it is',
    async (namespace) => {
      const one = v2Blob(Buffer.from(`in ${namespace}`), namespace);
      expect(JSON.parse((await put(app.port, one)).text).Key).toBe(one.key);
      expect((await get(app.port, one)).body).toEqual(one.bytes);
    },
  );

  it('accepts custom headers whose values the Go codec has query-escaped', async () => {
    const one = v2Blob(Buffer.from('with a token'));
    const answer = await request(app.port, one.putPath, {
      method: 'PUT',
      headers: { ...one.putHeaders, authorization: 'Bearer+token', 'x-custom': 'a%3Db' },
      body: one.bytes,
    });
    expect(answer.status).toBe(201);
  });
});

describe('what the Go service gets wrong', () => {
  it('stores nothing of a body with a wrong digest: 400, then 404, then 201', async () => {
    const blob = v2Blob(randomBytes(150_000));
    const wrong = Buffer.from(blob.bytes);
    wrong[149_999] = (wrong[149_999] ?? 0) ^ 1;
    expect((await put(app.port, blob, wrong)).status).toBe(400);
    expect((await get(app.port, blob)).status).toBe(404);
    expect((await put(app.port, blob)).status).toBe(201);
    expect((await get(app.port, blob)).body.equals(blob.bytes)).toBe(true);
  });

  it('stores nothing of a body that breaks off, is too short or too long', async () => {
    const blob = v2Blob(randomBytes(300_000));
    for (const sent of [0, 1, 100_000, 299_999]) {
      const connection = await RawConnection.open(app.port);
      await connection.write(putHead(blob));
      await connection.write(blob.bytes.subarray(0, sent));
      connection.socket.end();
      await connection.untilClosed();
      expect((await get(app.port, blob)).status).toBe(404);
    }
    expect((await put(app.port, blob, blob.bytes.subarray(1))).status).toBe(400);
    expect((await put(app.port, blob, Buffer.concat([blob.bytes, Buffer.from('x')]))).status).toBe(400);
    expect((await get(app.port, blob)).status).toBe(404);
    expect((await put(app.port, blob)).status).toBe(201);
  });

  it('does not read bytes behind the announced length as part of the blob', async () => {
    const blob = v2Blob(randomBytes(1000));
    const connection = await RawConnection.open(app.port);
    await connection.write(putHead(blob));
    await connection.write(Buffer.concat([blob.bytes, Buffer.from('GARBAGE\r\n\r\n')]));
    expect(await connection.untilClosed()).toMatch(/HTTP\/1.1 400 Bad Request[\s\S]*this is not an HTTP\/1.1 request$/);
    expect([200, 201]).toContain((await put(app.port, blob)).status);
    expect((await get(app.port, blob)).body.equals(blob.bytes)).toBe(true);
  });

  it('sends the blob’s true length, whatever the client announced', async () => {
    const blob = v2Blob(randomBytes(1000));
    await put(app.port, blob);
    const headers = { ...blob.getHeaders, 'x-payload-expected-content-length': '2000' };
    expect((await request(app.port, blob.getPath, { headers })).status).toBe(400);
  });
});

describe('a blob that is present', () => {
  it('is answered 200 to Expect: 100-continue before a byte of the body is asked for', async () => {
    const blob = v2Blob(randomBytes(50_000));
    const first = await RawConnection.open(app.port);
    await first.write(putHead(blob, { expect: '100-continue' }));
    await first.until(/\r\n\r\n/);
    expect(first.received).toBe('HTTP/1.1 100 Continue\r\n\r\n');
    await first.write(blob.bytes);
    expect(await first.until(/201 Created[\s\S]*Key/)).toMatch(/201 Created/);
    first.destroy();

    const second = await RawConnection.open(app.port);
    await second.write(putHead(blob, { expect: '100-continue' }));
    const received = await second.untilClosed();
    expect(received).toMatch(/^HTTP\/1.1 200 OK/);
    expect(received).toMatch(/connection: close/i);
  });

  it('is answered early without Expect, while the body still comes, and the connection stays usable', async () => {
    const blob = v2Blob(randomBytes(3_000_000));
    await put(app.port, blob);
    const connection = await RawConnection.open(app.port);
    await connection.write(putHead(blob));
    await connection.write(blob.bytes.subarray(0, 100_000));
    expect(await connection.until(/"Key"/)).toMatch(/^HTTP\/1.1 200 OK/);
    connection.received = '';
    // a client that sends everything before it reads is not left hanging, and may go on
    await connection.write(blob.bytes.subarray(100_000));
    await connection.write(`HEAD /v2/health/head HTTP/1.1\r\nhost: localhost\r\n\r\n`);
    expect(await connection.until(/\r\n\r\n/)).toMatch(/^HTTP\/1.1 200 OK/);
    connection.destroy();
  });

  it('serves a keep-alive client that puts the same blob many times', async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const blob = v2Blob(randomBytes(1_000_000));
    let connections = 0;
    const count = (): void => {
      connections += 1;
    };
    app.server.server.on('connection', count);
    for (let round = 0; round < 10; round += 1) {
      const answer = await request(app.port, blob.putPath, {
        method: 'PUT',
        headers: blob.putHeaders,
        body: blob.bytes,
        agent,
      });
      expect(answer.status).toBe(round === 0 ? 201 : 200);
    }
    app.server.server.off('connection', count);
    agent.destroy();
    expect(connections).toBe(1);
  });
});

describe('bounds', () => {
  /** A store whose puts wait until they are let go. */
  function gatedStore(): { store: BlobStore; waiting: (() => void)[]; arrived: () => Promise<void> } {
    const inner = memoryStore();
    const waiting: (() => void)[] = [];
    let notify = (): void => {};
    const store: BlobStore = {
      ...passThrough(inner),
      async put(key, body, expect_, options) {
        await new Promise<void>((resolve) => {
          waiting.push(resolve);
          notify();
        });
        return inner.put(key, body, expect_, options);
      },
    };
    const arrived = (): Promise<void> =>
      new Promise((resolve) => {
        notify = resolve;
      });
    return { store, waiting, arrived };
  }

  it('answers 503 with Retry-After beyond the uploads that it takes at once', async () => {
    const { store, waiting, arrived } = gatedStore();
    const small = await startApp({ store, limits: { maxBlobBytes: 1e6, maxUploads: 1, maxConnections: 10 } });
    const [a, b] = [v2Blob(Buffer.from('a')), v2Blob(Buffer.from('b'))];
    const isThere = arrived();
    const first = put(small.port, a);
    await isThere;
    const second = await put(small.port, b);
    expect(second.status).toBe(503);
    expect(second.headers['retry-after']).toBe('1');
    waiting.shift()?.();
    expect((await first).status).toBe(201);
    const third = put(small.port, b);
    await expect.poll(() => waiting.length).toBe(1);
    waiting.shift()?.();
    expect((await third).status).toBe(201);
    await small.close();
  });

  it('answers in plain text with 410 what was taken down, and with 451 what is blocked', async () => {
    const store: BlobStore = {
      ...passThrough(memoryStore()),
      get: () => Promise.reject(new LpsError('BLOB_TAKEN_DOWN', 'the blob was erased on request')),
      put: () => Promise.reject(new LpsError('BLOB_BLOCKED', 'it is forbidden to store it again')),
    };
    const own = await startApp({ store });
    const blob = v2Blob(randomBytes(100));
    expect(await get(own.port, blob)).toMatchObject({ status: 410, text: 'the blob was erased on request' });
    expect(await put(own.port, blob)).toMatchObject({ status: 451, text: 'it is forbidden to store it again' });
    await own.close();
  });

  it('reads the rest of a body that the store let go of, so that the connection stays usable', async () => {
    const store: BlobStore = {
      ...passThrough(memoryStore()),
      async put(_key, body) {
        for await (const _chunk of body as AsyncIterable<Uint8Array>) break;
        throw new LpsError('STORE_FULL', 'the disk is full');
      },
    };
    const full = await startApp({ store });
    const blob = v2Blob(randomBytes(3_000_000));
    const connection = await RawConnection.open(full.port);
    await connection.write(putHead(blob));
    await connection.write(blob.bytes.subarray(0, 100_000));
    expect(await connection.until(/the disk is full/)).toMatch(/^HTTP\/1.1 507 /);
    connection.received = '';
    await connection.write(blob.bytes.subarray(100_000));
    await connection.write('HEAD /v2/health/head HTTP/1.1\r\nhost: localhost\r\n\r\n');
    expect(await connection.until(/\r\n\r\n/)).toMatch(/^HTTP\/1.1 200 OK/);
    connection.destroy();
    await full.close();
  });

  it('cuts the connection when too much of a refused body comes', async () => {
    const blob = v2Blob(Buffer.alloc(1024 * 1024));
    const connection = await RawConnection.open(app.port);
    await connection.write(putHead(blob, { 'content-length': String(64 * 1024 * 1024), 'content-type': 'text/plain' }));
    for (let sent = 0; sent < 64 && !connection.closed; sent += 1) {
      // the write of a connection that was cut never calls back
      await Promise.race([connection.write(blob.bytes), connection.untilClosed()]);
    }
    expect(await connection.untilClosed()).toMatch(/^HTTP\/1.1 400 /);
  });

  it('refuses a body above the limit before it reads it', async () => {
    const small = await startApp({ limits: { maxBlobBytes: 1000, maxUploads: 8, maxConnections: 10 } });
    const blob = v2Blob(randomBytes(1001));
    const connection = await RawConnection.open(small.port);
    await connection.write(putHead(blob, { expect: '100-continue' }));
    expect(await connection.untilClosed()).toMatch(/^HTTP\/1.1 413 /);
    expect((await put(small.port, v2Blob(randomBytes(1000)))).status).toBe(201);
    await small.close();
  });

  /** Two looks, a second apart, without a byte in between: one comes late and alone after a stall of this process. */
  const slowPace = { idleTimeoutMs: 1500, minRate: 0, graceMs: 1e9 };

  it('ends an upload that stalls with 408, stores nothing, and frees its place', async () => {
    const slow = await startApp({
      limits: { maxBlobBytes: 1e6, maxUploads: 1, maxConnections: 10 },
      pace: slowPace,
    });
    const blob = v2Blob(randomBytes(100_000));
    const connection = await RawConnection.open(slow.port);
    await connection.write(putHead(blob));
    await connection.write(blob.bytes.subarray(0, 50_000));
    expect(await connection.until(/\r\n\r\n/)).toMatch(/^HTTP\/1.1 408 /);
    expect((await get(slow.port, blob)).status).toBe(404);
    expect((await put(slow.port, blob)).status).toBe(201);
    connection.destroy();
    await slow.close();
  });

  it('ends a download that nobody reads', async () => {
    const slow = await startApp({ pace: slowPace });
    const blob = v2Blob(randomBytes(64 * 1024 * 1024));
    expect((await put(slow.port, blob)).status).toBe(201);
    const connection = await RawConnection.open(slow.port);
    connection.socket.pause();
    await connection.write(
      `GET ${blob.getPath} HTTP/1.1\r\nhost: localhost\r\n${Object.entries(blob.getHeaders)
        .map(([n, v]) => `${n}: ${v}\r\n`)
        .join('')}\r\n`,
    );
    await expect
      .poll(
        () =>
          slow.server.server.connections ??
          new Promise<number>((resolve) => slow.server.server.getConnections((_e, n) => resolve(n))),
        { timeout: 20_000 },
      )
      .toBe(0);
    await slow.close();
  });
});
