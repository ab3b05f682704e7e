import { randomBytes } from 'node:crypto';
import {
  type BlobStore,
  digestOf,
  LpsError,
  memoryStore,
  openHttpStore,
  passThrough,
  v1ObjectName,
} from '@large-payload/core';
import { testBlobStore } from '@large-payload/core/conformance';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { putHead, RawConnection, type RunningApp, request, startApp, v2Blob } from '../http/testing.js';

const octets = { 'content-type': 'application/octet-stream' };
let app: RunningApp;
beforeAll(async () => {
  app = await startApp();
});
afterAll(() => app.close());

const noDelete = 'the service deletes nothing by key: takedowns and the collection do';
testBlobStore(
  'http, against the service’s /v3',
  async () => {
    const own = await startApp();
    const store = await openHttpStore({ url: `http://127.0.0.1:${own.port}` });
    return {
      store,
      close: async () => {
        await store.close?.();
        await own.close();
      },
    };
  },
  {
    runner: { describe, it },
    skip: [
      { test: 'deletes, and takes the blob again', reason: noDelete },
      { test: 'keeps its own objects', reason: 'the service keeps its own objects to itself' },
      { test: 'lists everything', reason: 'the service lists one namespace at a time' },
      {
        test: 'lets one of two own objects win that come at once',
        reason: 'the service keeps its own objects to itself',
      },
      { test: 'keeps generations beside the first', reason: 'generations are the service’s affair' },
    ],
  },
);

const pathOf = (key: string): string => `/v3/blobs?${new URLSearchParams({ key })}`;

async function stored(size: number): Promise<ReturnType<typeof v2Blob>> {
  const blob = v2Blob(randomBytes(size));
  const answer = await request(app.port, pathOf(blob.key), { method: 'PUT', headers: octets, body: blob.bytes });
  expect(answer.status).toBe(201);
  return blob;
}

describe('v3 blobs', () => {
  it('are put by key: 201 and created, then 200 and exists', async () => {
    const blob = v2Blob(randomBytes(10_000));
    const put = () => request(app.port, pathOf(blob.key), { method: 'PUT', headers: octets, body: blob.bytes });
    expect(JSON.parse((await put()).text)).toEqual({ key: blob.key, outcome: 'created' });
    const again = await put();
    expect(again.status).toBe(200);
    expect(JSON.parse(again.text)).toMatchObject({ outcome: 'exists' });
  });

  it('are read whole, with their digest as ETag', async () => {
    const blob = await stored(100_000);
    const answer = await request(app.port, pathOf(blob.key));
    expect(answer.status).toBe(200);
    expect(answer.body.equals(blob.bytes)).toBe(true);
    expect(answer.headers).toMatchObject({
      etag: `"${blob.digest}"`,
      'accept-ranges': 'bytes',
      'content-length': '100000',
      'cache-control': 'private, no-store',
      'content-disposition': 'attachment',
      'x-content-type-options': 'nosniff',
    });
    const head = await request(app.port, pathOf(blob.key), { method: 'HEAD' });
    expect(head).toMatchObject({ status: 200, text: '' });
    expect(head.headers).toMatchObject({ etag: `"${blob.digest}"`, 'content-length': '100000' });
  });

  it('are answered with 410 once they were taken down, and refused with 451 while they are blocked', async () => {
    const fails = async (code: 'BLOB_TAKEN_DOWN' | 'BLOB_BLOCKED'): Promise<never> => {
      throw new LpsError(code, 'erased on request');
    };
    const store: BlobStore = {
      ...passThrough(memoryStore()),
      get: () => fails('BLOB_TAKEN_DOWN'),
      head: () => fails('BLOB_TAKEN_DOWN'),
      stat: async () => new Map(),
      put: () => fails('BLOB_BLOCKED'),
    };
    const own = await startApp({ store });
    const blob = v2Blob(randomBytes(100));
    const path = pathOf(blob.key);
    const answers = [
      await request(own.port, path),
      await request(own.port, path, { headers: { range: 'bytes=0-9' } }),
      await request(own.port, path, { headers: { 'if-none-match': '*' } }),
      await request(own.port, path, { method: 'PUT', headers: octets, body: blob.bytes }),
    ];
    expect(answers.map(({ status, text }) => [status, JSON.parse(text).code])).toEqual([
      ...Array.from({ length: 3 }, () => [410, 'BLOB_TAKEN_DOWN']),
      [451, 'BLOB_BLOCKED'],
    ]);
    expect(await request(own.port, path, { method: 'HEAD' })).toMatchObject({ status: 410, text: '' });
    const client = openHttpStore({ url: `http://127.0.0.1:${own.port}` });
    await expect(client.head(blob.key)).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN' });
    await expect(client.get(blob.key)).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN' });
    expect((await client.stat?.([blob.key]))?.size).toBe(0);
    await client.close?.();
    await own.close();
  });

  it('are not sent again to who has them', async () => {
    const blob = await stored(1000);
    for (const header of [`"${blob.digest}"`, `"x", "${blob.digest}"`, '*']) {
      const answer = await request(app.port, pathOf(blob.key), { headers: { 'if-none-match': header } });
      expect(answer).toMatchObject({ status: 304, text: '' });
    }
    expect((await request(app.port, pathOf(blob.key), { headers: { 'if-none-match': '"x"' } })).status).toBe(200);
    const absent = v2Blob(Buffer.from('never stored'));
    expect((await request(app.port, pathOf(absent.key), { headers: { 'if-none-match': '*' } })).status).toBe(404);
  });

  it.each([
    ['bytes=0-0', 0, 0],
    ['bytes=10-19', 10, 19],
    ['bytes=90-', 90, 99],
    ['bytes=-10', 90, 99],
    ['bytes=-1000', 0, 99],
    ['bytes=0-1000', 0, 99],
  ])('are sent in part for %s', async (range, start, end) => {
    const blob = await stored(100);
    const answer = await request(app.port, pathOf(blob.key), { headers: { range } });
    expect(answer.status).toBe(206);
    expect(answer.headers['content-range']).toBe(`bytes ${start}-${end}/100`);
    expect(answer.body.equals(blob.bytes.subarray(start, end + 1))).toBe(true);
  });

  it.each(['bytes=100-', 'bytes=-0', 'bytes=500-600'])('are refused in part for %s', async (range) => {
    const blob = await stored(100);
    const answer = await request(app.port, pathOf(blob.key), { headers: { range } });
    expect(answer.status).toBe(416);
    expect(answer.headers['content-range']).toBe('bytes */100');
    expect(JSON.parse(answer.text)).toMatchObject({ code: 'RANGE_NOT_SATISFIABLE' });
  });

  it.each(['bytes=5-4', 'bytes=a-b', 'items=0-1', 'bytes=0-1,3-4', 'bytes=-'])(
    'are sent whole for %s',
    async (range) => {
      const blob = await stored(100);
      expect((await request(app.port, pathOf(blob.key), { headers: { range } })).status).toBe(200);
    },
  );

  it('are sent whole when If-Range names other bytes', async () => {
    const blob = await stored(100);
    const headers = { range: 'bytes=0-9', 'if-range': `"${blob.digest}"` };
    expect((await request(app.port, pathOf(blob.key), { headers })).status).toBe(206);
    expect((await request(app.port, pathOf(blob.key), { headers: { ...headers, 'if-range': '"x"' } })).status).toBe(
      200,
    );
  });

  it('answer Expect: 100-continue early when they are present', async () => {
    const blob = await stored(1000);
    const connection = await RawConnection.open(app.port);
    const head = putHead(blob, { expect: '100-continue' }).replace(blob.putPath, pathOf(blob.key));
    await connection.write(head);
    expect(await connection.untilClosed()).toMatch(/^HTTP\/1.1 200 OK[\s\S]*"outcome":"exists"/);
  });

  it('are asked for many at a time', async () => {
    const [a, b] = [await stored(10), await stored(20)];
    const absent = v2Blob(Buffer.from('absent')).key;
    const answer = await request(app.port, '/v3/blobs/stat', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: Buffer.from(JSON.stringify({ keys: [a.key, absent, b.key] })),
    });
    expect(JSON.parse(answer.text)).toEqual({
      blobs: [
        { key: a.key, size: 10 },
        { key: b.key, size: 20 },
      ],
    });
  });

  it('are listed page by page', async () => {
    const blobs = await Promise.all(
      Array.from({ length: 5 }, async (_, index) => {
        const blob = v2Blob(randomBytes(10 + index), 'listed');
        await request(app.port, pathOf(blob.key), { method: 'PUT', headers: octets, body: blob.bytes });
        return blob.key;
      }),
    );
    const seen: string[] = [];
    for (let after: string | null = ''; after !== null; ) {
      const query = new URLSearchParams({ prefix: '/blobs/listed/', limit: '2', ...(after === '' ? {} : { after }) });
      const page = JSON.parse((await request(app.port, `/v3/blobs/list?${query}`)).text);
      seen.push(...page.blobs.map(({ key }: { key: string }) => key));
      after = page.next;
    }
    expect(seen).toEqual(blobs.sort());
  });
});

describe('v3 refuses', () => {
  const blob = v2Blob(Buffer.from('refused'));
  const json = { 'content-type': 'application/json' };
  const stat = (body: string): [string, string, string, number, string, Record<string, string>, string] => [
    `a stat of ${body.slice(0, 30)}`,
    'POST',
    '/v3/blobs/stat',
    400,
    'INVALID_ARGUMENT',
    json,
    body,
  ];
  it.each<[string, string, string, number, string, Record<string, string>, string]>([
    ['a put without a key', 'PUT', '/v3/blobs', 400, 'INVALID_ARGUMENT', octets, 'refused'],
    ['a put to a key that is none', 'PUT', pathOf('/etc/passwd'), 400, 'INVALID_KEY', octets, 'refused'],
    ['a put to the service’s own object', 'PUT', pathOf('.lps/catalog'), 400, 'INVALID_KEY', octets, 'refused'],
    ['a put to an object of v1', 'PUT', pathOf(v1ObjectName(blob.digest)), 400, 'INVALID_KEY', octets, 'refused'],
    [
      'a put of another type',
      'PUT',
      pathOf(blob.key),
      400,
      'INVALID_ARGUMENT',
      { 'content-type': 'text/html' },
      'refused',
    ],
    ['a put of other bytes', 'PUT', pathOf(blob.key), 400, 'DIGEST_MISMATCH', octets, 'refusee'],
    ['a get of an absent blob', 'GET', pathOf(blob.key), 404, 'BLOB_NOT_FOUND', {}, ''],
    ['a get of the service’s own object', 'GET', pathOf('.lps/catalog'), 400, 'INVALID_KEY', {}, ''],
    [
      'a get of an object of v1, unless told whose it is',
      'GET',
      pathOf(v1ObjectName(blob.digest)),
      400,
      'INVALID_KEY',
      {},
      '',
    ],
    ['a delete', 'DELETE', pathOf(blob.key), 405, 'METHOD_NOT_ALLOWED', {}, ''],
    ['an unknown route', 'GET', '/v3/nothing', 404, 'ROUTE_NOT_FOUND', {}, ''],
    ['a path that is not percent-encoded', 'GET', '/%zz', 400, 'INVALID_ARGUMENT', {}, ''],
    ['a list of its own objects', 'GET', '/v3/blobs/list?prefix=.lps/', 400, 'INVALID_ARGUMENT', {}, ''],
    ['a list behind nothing', 'GET', '/v3/blobs/list?after=x', 400, 'INVALID_KEY', {}, ''],
    ['a list of none', 'GET', '/v3/blobs/list?limit=0', 400, 'INVALID_ARGUMENT', {}, ''],
    ['a list of too many', 'GET', '/v3/blobs/list?limit=1001', 400, 'INVALID_ARGUMENT', {}, ''],
    stat('{'),
    stat('[]'),
    stat('{}'),
    stat('{"keys":"x"}'),
    stat('{"keys":[1]}'),
    stat('{"keys":[],"more":1}'),
    stat(JSON.stringify({ keys: Array.from({ length: 1001 }, () => blob.key) })),
    stat(`{"keys":["${'x'.repeat(3e6)}"]}`),
    ['a stat of a key that is none', 'POST', '/v3/blobs/stat', 400, 'INVALID_KEY', json, '{"keys":["x"]}'],
  ])('%s', async (_what, method, path, status, code, headers, body) => {
    const answer = await request(app.port, path, {
      method,
      headers: { ...headers, 'content-length': Buffer.byteLength(body) },
      body: Buffer.from(body),
    });
    expect(answer.status).toBe(status);
    expect(answer.headers['content-type']).toBe('application/problem+json');
    const problem = JSON.parse(answer.text);
    expect(problem).toMatchObject({ status, code, title: code, requestId: answer.headers['x-request-id'] });
    expect(problem.detail).toMatch(/^[^\n]{5,200}$/);
    expect(answer.text).not.toMatch(/\.js:|node_modules/);
  });
});

describe('v1', () => {
  it('serves objects of the first Go service when the operator says whose they are', async () => {
    const bytes = Buffer.from('an old payload');
    const digest = digestOf(bytes);
    const store = memoryStore();
    await store.put(v1ObjectName(digest), bytes, { digest, size: bytes.length });
    const old = await startApp({ store, v1: {} });
    const path = `/v1/blobs/get?${new URLSearchParams({ digest })}`;
    const headers = { ...octets, 'x-payload-expected-content-length': String(bytes.length) };
    expect((await request(old.port, path, { headers })).body).toEqual(bytes);
    expect((await request(old.port, path, { headers: octets })).status).toBe(400);
    expect((await request(old.port, '/v1/blobs/get?digest=x', { headers })).status).toBe(400);
    expect((await request(old.port, `/v1/blobs/get?digest=${digestOf(Buffer.from('y'))}`, { headers })).status).toBe(
      404,
    );
    expect((await request(old.port, path, { method: 'PUT', headers })).status).toBe(405);
    expect((await request(old.port, pathOf(v1ObjectName(digest)))).body).toEqual(bytes);
    await old.close();
    expect((await request(app.port, path, { headers })).status).toBe(404);
  });
});

describe('operations', () => {
  it('say that the service is alive, ready, what it is and how it does', async () => {
    expect((await request(app.port, '/healthz')).status).toBe(200);
    expect((await request(app.port, '/readyz')).status).toBe(200);
    expect(JSON.parse((await request(app.port, '/version')).text)).toMatchObject({
      name: 'large-payload-service',
      api: ['v2', 'v3'],
    });
    await stored(10);
    const { text, headers } = await request(app.port, '/metrics');
    expect(headers['content-type']).toMatch(/^text\/plain/);
    expect(text).toMatch(/lps_http_requests_total\{route="\/v3\/blobs",method="PUT",status="201"\} \d/);
    expect(text).toMatch(/lps_nodejs_eventloop_lag_seconds \d/);
  });

  it('keep a harmless request id, and make one for others', async () => {
    const given = await request(app.port, '/healthz', { headers: { 'x-request-id': 'abc-1' } });
    expect(given.headers['x-request-id']).toBe('abc-1');
    const bad = await request(app.port, '/healthz', {
      headers: { 'x-request-id': 'a b"[31m' },
    });
    expect(bad.headers['x-request-id']).toMatch(/^[0-9a-f]{12}-\d+$/);
  });
});

describe('redirects', () => {
  const expiresAt = new Date(Date.now() + 60_000);

  async function withPresigning(presignGet: NonNullable<BlobStore['presignGet']>) {
    const own = await startApp({
      store: { ...memoryStore(), presignGet },
      direct: { downloadLifetimeMs: 60_000 },
    });
    const blob = v2Blob(randomBytes(1000));
    await request(own.port, blob.putPath, { method: 'PUT', headers: blob.putHeaders, body: blob.bytes });
    const get = (headers = {}) =>
      request(own.port, `/v3/blobs?${new URLSearchParams({ key: blob.key, redirect: '1' })}`, { headers });
    return { blob, get, close: () => own.close() };
  }

  it('are not needed for what the caller has already', async () => {
    const url = 'https://bucket.example/object?signed';
    const { blob, get, close } = await withPresigning(async () => ({ method: 'GET', url, headers: {}, expiresAt }));
    expect(await get()).toMatchObject({ status: 307, headers: { location: url } });
    expect(await get({ 'if-none-match': `"${blob.digest}"` })).toMatchObject({ status: 304, text: '' });
    await close();
  });

  it('give way to the bytes when a URL cannot be signed, or needs more than itself', async () => {
    let asked = 0;
    const outcomes = [
      async () => {
        throw new LpsError('STORE_UNAVAILABLE', 'not now');
      },
      async () => ({ method: 'GET' as const, url: 'https://x.example', headers: { 'x-needed': '1' }, expiresAt }),
      async () => {
        throw new LpsError('NOT_SUPPORTED', 'never');
      },
    ];
    const { blob, get, close } = await withPresigning(() => (outcomes[asked++] ?? (() => Promise.reject()))());
    for (let round = 0; round < 6; round++) expect(await get()).toMatchObject({ status: 200, body: blob.bytes });
    expect(asked).toBe(3); // after a "never" nobody asks again
    await close();
  });
});

describe('what a service with leases says to cache nodes', () => {
  it('is the newest event that it knew of before it looked, and nothing while that may be old', async () => {
    let asOf: bigint | undefined = 12_345_678_901_234_567n;
    const own = await startApp({ asOf: () => asOf });
    const store = openHttpStore({ url: `http://127.0.0.1:${own.port}` });
    const blob = v2Blob(randomBytes(100));
    await store.put(blob.key, blob.bytes, { digest: blob.digest, size: 100 });
    expect((await store.get(blob.key))?.info.asOf).toBe(asOf);
    asOf = undefined;
    expect((await store.get(blob.key))?.info.asOf).toBeUndefined();
    await store.close?.();
    await own.close();
  });
});
