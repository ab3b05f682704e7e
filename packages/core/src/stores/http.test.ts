import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BlobStore } from '../blob-store.js';
import { discard, readAll } from '../body.js';
import { testBlobStore } from '../conformance.js';
import { digestOf, parseDigest } from '../digest.js';
import { keyFor, v1ObjectName } from '../key.js';
import { openHttpStore } from './http.js';
import { apiV3, bucketOf } from './http-model-fixture.js';
import { memoryStore } from './memory.js';

type Handler = (request: IncomingMessage, response: ServerResponse) => unknown;

async function listen(handler: Handler): Promise<{ url: string; close(): Promise<void> }> {
  const server: Server = createServer((request, response) => {
    Promise.resolve(handler(request, response)).catch(() => response.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const close = async (): Promise<void> => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close };
}

const skip = [
  { test: 'deletes, and takes the blob again', reason: 'the service is asked for a takedown instead' },
  { test: 'keeps generations beside the first', reason: 'generations are the service’s own business' },
  { test: 'keeps its own objects', reason: 'so are its own objects' },
  { test: 'lists everything', reason: 'it lists one namespace at a time' },
  { test: 'lets one of two own objects win that come at once', reason: 'so are its own objects' },
];

testBlobStore(
  'http',
  async () => {
    const service = await listen(apiV3(memoryStore()));
    const store = openHttpStore({ url: service.url });
    const close = async (): Promise<void> => {
      await store.close?.();
      await service.close();
    };
    return { store, close };
  },
  { runner: { describe, it }, skip },
);

testBlobStore(
  'http, past the service',
  async () => {
    const memory = memoryStore();
    const bucket = await listen(bucketOf(memory));
    const service = await listen(apiV3(memory, bucket.url));
    const store = openHttpStore({ url: service.url, directAboveBytes: 0 });
    const close = async (): Promise<void> => {
      await store.close?.();
      await service.close();
      await bucket.close();
    };
    return { store, close };
  },
  { runner: { describe, it }, skip },
);

const bytes = randomBytes(300_000);
const expected = { digest: digestOf(bytes), size: bytes.length };
const key = keyFor('a b+c', expected.digest, null);

describe('the http store', () => {
  let handler: Handler;
  let service: Awaited<ReturnType<typeof listen>>;
  let store: BlobStore;
  let requests: { line: string; headers: IncomingMessage['rawHeaders'] }[];

  beforeEach(async () => {
    requests = [];
    handler = apiV3(memoryStore());
    service = await listen((request, response) => {
      requests.push({ line: `${request.method} ${request.url}`, headers: request.rawHeaders });
      return handler(request, response);
    });
    store = openHttpStore({ url: `${service.url}/` });
  });
  afterEach(async () => {
    await store.close?.();
    await service.close();
  });

  function answer(status: number, headers: Record<string, string>, body: string | Buffer = ''): void {
    handler = (_, response) => void response.writeHead(status, headers).end(body);
  }

  function problem(status: number, code: string, headers: Record<string, string> = {}): void {
    const body = JSON.stringify({
      type: 'about:blank',
      title: 'x',
      status,
      detail: 'it\nsays so',
      code,
      requestId: 'r9',
    });
    answer(status, { 'content-type': 'application/problem+json; charset=utf-8', ...headers }, body);
  }

  it('speaks API v3', async () => {
    const put = await store.put(key, bytes, expected);
    expect(put).toMatchObject({ outcome: 'created', protectedUntil: expect.any(Date) });
    expect((await store.head(key))?.protectedUntil).toBeInstanceOf(Date);
    expect((await store.stat?.([key]))?.get(key)).toMatchObject({ size: 300_000, protectedUntil: expect.any(Date) });
    const found = await store.get(key);
    expect(found?.info).toMatchObject({ key, size: 300_000, protectedUntil: expect.any(Date) });
    if (found) discard(found.body);
    await store.ready?.();
    const query = `key=%2Fblobs%2Fa%20b%2Bc%2Fcommon%2F${key.split('/').slice(4).map(encodeURIComponent).join('%2F')}`;
    expect(requests.map(({ line }) => line)).toEqual([
      `PUT /v3/blobs?${query}`,
      `HEAD /v3/blobs?${query}`,
      'POST /v3/blobs/stat',
      `GET /v3/blobs?${query}`,
      'GET /readyz',
    ]);
  });

  it('asks for at most 1,000 keys at a time', async () => {
    await store.put(key, bytes, expected);
    const absent = Array.from({ length: 2500 }, (_, at) => keyFor(`n${at}`, expected.digest, null));
    expect([...((await store.stat?.([...absent, key])) ?? [])].map(([key]) => key)).toEqual([key]);
    expect(requests.filter(({ line }) => line.startsWith('POST'))).toHaveLength(3);
  });

  it('reads what the first Go service wrote', async () => {
    const memory = memoryStore();
    handler = apiV3(memory);
    const name = v1ObjectName(parseDigest(expected.digest));
    await memory.put(name, bytes, expected);
    const found = await store.get(name);
    expect(found && Buffer.from(await readAll(found.body, 1e6)).equals(bytes)).toBe(true);
  });

  it('sends its headers with every request, several of a name too, and asks anew for those of a function', async () => {
    const listed = openHttpStore({
      url: service.url,
      headers: { authorization: 'Bearer a b', 'x-team': ['one', 'two'] },
    });
    await listed.head(key);
    expect(requests[0]?.headers).toEqual(expect.arrayContaining(['authorization', 'Bearer a b', 'x-team', 'one, two']));
    let count = 0;
    const asked = openHttpStore({ url: service.url, headers: async () => ({ authorization: `Bearer ${++count}` }) });
    await asked.head(key);
    await asked.put(key, bytes, expected);
    expect(requests.at(-1)?.headers).toEqual(expect.arrayContaining(['authorization', 'Bearer 2']));
    expect(() => openHttpStore({ url: service.url, headers: { a: 'secret\n' } })).toThrow(/^(?!.*secret)/);
    await Promise.all([listed.close?.(), asked.close?.()]);
  });

  it('refuses addresses that cannot be a service’s', () => {
    for (const url of ['', 'localhost:8577', 'ftp://x', 'http://user:pw@x', 'http://x/?a=1', 'http://x/#a']) {
      expect(() => openHttpStore({ url }), url).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    }
  });

  it('reads the code, the message and the request id of a problem', async () => {
    problem(413, 'BLOB_TOO_LARGE');
    await expect(store.put(key, bytes, expected)).rejects.toMatchObject({
      code: 'BLOB_TOO_LARGE',
      message: 'it says so',
      details: { status: 413, requestId: 'r9' },
    });
    problem(404, 'BLOB_DAMAGED');
    await expect(store.get(key)).rejects.toMatchObject({ code: 'BLOB_DAMAGED' });
    problem(410, 'BLOB_TAKEN_DOWN');
    await expect(store.get(key)).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN' });
    await expect(store.head(key)).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN' });
    problem(451, 'BLOB_BLOCKED');
    await expect(store.put(key, bytes, expected)).rejects.toMatchObject({ code: 'BLOB_BLOCKED' });
  });

  it('hands on how long to wait', async () => {
    problem(503, 'OVERLOADED', { 'retry-after': '7' });
    await expect(store.stat?.([key])).rejects.toMatchObject({ code: 'OVERLOADED', details: { retryAfterMs: 7000 } });
  });

  it('sends its token, and asks for another one when that is refused', async () => {
    const fixed = openHttpStore({ url: service.url, token: 'abc.def' });
    answer(404, {});
    await expect(fixed.head(key)).rejects.toMatchObject({ code: 'ROUTE_NOT_FOUND' });
    expect(requests.at(-1)?.headers).toEqual(expect.arrayContaining(['authorization', 'Bearer abc.def']));

    const asked: boolean[] = [];
    const valid = 'new';
    let calls = 0;
    let allWait = (): void => {};
    const waiting = new Promise<void>((resolve) => {
      allWait = resolve;
    });
    const provided = openHttpStore({
      url: service.url,
      headers: () => {
        calls += 1;
        if (calls === 6) setImmediate(allWait); // all three were refused
        return {};
      },
      token: async ({ refresh }) => {
        asked.push(refresh);
        if (refresh) await waiting;
        return refresh ? valid : 'old';
      },
    });
    handler = async (request, response) => {
      request.resume();
      await once(request, 'end');
      const isValid = request.headers.authorization === `Bearer ${valid}`;
      response.writeHead(isValid ? 201 : 401).end(isValid ? '{"outcome":"created"}' : '');
    };
    await Promise.all([1, 2, 3].map(() => provided.put(key, bytes, expected)));
    expect(asked.filter((refresh) => refresh)).toHaveLength(1);
    // a stream is gone
    const put = provided.put(key, Readable.from([bytes]), expected);
    await expect(put).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
    await Promise.all([fixed.close?.(), provided.close?.()]);
  });

  it('refuses what is no token, without repeating it', async () => {
    const wrong = 'se cret\n';
    expect(() => openHttpStore({ url: service.url, token: wrong })).toThrow(/^(?!.*cret).*token/s);
    const headers = { Authorization: 'Bearer x' };
    expect(() => openHttpStore({ url: service.url, token: 'x', headers })).toThrow(/not both/);
    const provided = openHttpStore({ url: service.url, token: () => wrong });
    await expect(provided.head(key)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await provided.close?.();
  });

  it('names answers of others by their status, and never takes a wrong address for an absent blob', async () => {
    const codes = {
      404: 'ROUTE_NOT_FOUND',
      410: 'BLOB_TAKEN_DOWN',
      451: 'BLOB_BLOCKED',
      413: 'BLOB_TOO_LARGE',
      429: 'RATE_LIMITED',
      502: 'SERVICE_UNREACHABLE',
      401: 'UNAUTHENTICATED',
      403: 'FORBIDDEN',
    };
    for (const [status, code] of Object.entries(codes)) {
      answer(Number(status), { 'content-type': 'text/html' }, '<html>');
      await expect(store.get(key), status).rejects.toMatchObject({ code });
      await expect(store.head(key), status).rejects.toMatchObject({ code });
      await expect(store.put(key, bytes, expected), status).rejects.toMatchObject({ code });
    }
    problem(404, 'NO_CODE_OF_OURS');
    await expect(store.get(key)).rejects.toMatchObject({ code: 'ROUTE_NOT_FOUND' });
  });

  it('follows no redirect', async () => {
    answer(307, { location: `${service.url}/elsewhere` });
    await expect(store.get(key)).rejects.toMatchObject({ code: 'NOT_SUPPORTED' });
    expect(requests).toHaveLength(1);
  });

  it('does not believe an answer that is not of the API', async () => {
    for (const body of ['', 'ok', '[]', '{"outcome":"maybe"}', `{"blobs":[{"key":1}]}`]) {
      answer(200, { 'content-type': 'application/json' }, body);
      await expect(store.put(key, bytes, expected), body).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
      await expect(store.stat?.([key]), body).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
    }
    answer(200, {}, JSON.stringify({ blobs: [], padding: 'x'.repeat(5_000_000) }));
    await expect(store.stat?.([key])).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
    answer(200, { 'transfer-encoding': 'chunked' }, bytes);
    await expect(store.get(key)).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
  });

  it('takes a body that breaks off for a failed connection, and a wrong one for damage', async () => {
    handler = (_, response) => {
      response
        .writeHead(200, { 'content-length': bytes.length })
        .write(bytes.subarray(0, 200_000), () => response.destroy());
    };
    const cut = await store.get(key);
    await expect(cut && readAll(cut.body, 1e6)).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
    answer(200, { 'content-length': '300000' }, Buffer.concat([bytes.subarray(1), Buffer.from('x')]));
    const wrong = await store.get(key);
    await expect(wrong && readAll(wrong.body, 1e6)).rejects.toMatchObject({ code: 'BLOB_DAMAGED' });
  });

  it('does not send the rest of a body that the service answered without', async () => {
    await store.put(key, bytes, expected);
    let sentBytes = 0;
    const endless = new Readable({
      read() {
        sentBytes += 65_536;
        setImmediate(() => this.push(bytes.subarray(0, 65_536)));
      },
    });
    const put = await store.put(key, endless, { ...expected, size: 1e9, digest: expected.digest });
    expect(put.outcome).toBe('exists');
    expect(sentBytes).toBeLessThan(1e8);
    expect(endless.destroyed).toBe(true);
  });

  it('is aborted by its signal, and unreachable when nobody listens', async () => {
    handler = () => {};
    const abort = new AbortController();
    const hanging = store.get(key, { signal: abort.signal });
    const result = expect(hanging).rejects.toMatchObject({ code: 'ABORTED' });
    setImmediate(() => abort.abort());
    await result;
    const nobody = openHttpStore({ url: 'http://127.0.0.1:1' });
    await expect(nobody.put(key, bytes, expected)).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
    await expect(nobody.ready?.()).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
    await expect(nobody.delete(key)).rejects.toMatchObject({ code: 'NOT_SUPPORTED' });
  });
});
