import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { type BlobStore, ClaimCheck, passThrough } from '@large-payload/core';
import { LargePayloadDriver } from '@large-payload/temporal';
import { afterEach, describe, expect, it } from 'vitest';
import { RawConnection, request } from '../http/testing.js';
import { kinds, namespace, newWorld, plain, startCodec, toJson } from './codec-fixture.js';
import { type CodecHandlerOptions, codecRoutes } from './handler.js';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
});

async function listen(listener: http.RequestListener): Promise<number> {
  const server = http.createServer(listener).listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanUps.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

const headers = { 'content-type': 'application/json' };
const post = (port: number, path: string, body = '{}', more = {}): ReturnType<typeof request> =>
  request(port, path, { method: 'POST', headers: { ...headers, ...more }, body: Buffer.from(body) });

describe('codecRoutes in someone’s own server', () => {
  it('answer below a path, and leave the rest to others', async () => {
    const handler = codecRoutes({ drivers: [], basePath: '/codec/' });
    const others = (_request: unknown, response: http.ServerResponse): void => void response.writeHead(418).end();
    const port = await listen((request, response) => handler(request, response, () => others(request, response)));
    for (const path of ['/codec/decode', '/codec/orders/decode', '/codec/decode?preserveStorageRefs=true']) {
      expect([path, (await post(port, path)).status, handler.serves(path)]).toEqual([path, 200, true]);
    }
    for (const path of ['/decode', '/codecdecode', '/codec', '/codec/', '/codec/a/b/decode', '/codec/decoded']) {
      expect([path, (await post(port, path)).status, handler.serves(path)]).toEqual([path, 418, false]);
    }
    const alone = await listen(codecRoutes({ drivers: [], basePath: '/codec' }));
    expect((await post(alone, '/decode')).status).toBe(404);
    expect((await post(alone, '/codec/decode')).status).toBe(200);
    const get = await request(alone, '/codec/decode');
    expect([get.status, get.headers.allow, get.text]).toEqual([405, 'POST, OPTIONS', 'this route takes POST, OPTIONS']);
  });

  it('are made of settings that can be', () => {
    const wrong: Partial<CodecHandlerOptions>[] = [{ basePath: 'codec' }, { threshold: 0.5 }, { claims: 'go' }];
    for (const options of wrong) {
      expect(() => codecRoutes({ drivers: [], ...options })).toThrow(
        expect.objectContaining({ code: 'CONFIG_INVALID' }),
      );
    }
  });

  it('answer an error as a problem to who wants JSON', async () => {
    const port = await listen(codecRoutes({ drivers: [] }));
    const answer = await post(port, '/decode', '[]', { accept: 'application/json' });
    expect(JSON.parse(answer.text)).toMatchObject({ status: 400, code: 'INVALID_ARGUMENT' });
  });

  it('log what failed, for whoever runs them', async () => {
    const lines: string[] = [];
    const broken = {
      name: 'x',
      type: 'x',
      store: async () => [],
      retrieve: () => Promise.reject(new Error('the bucket is gone')),
    };
    const logger = { error: (fields: Record<string, unknown>) => void lines.push(String((fields.err as Error).cause)) };
    const port = await listen(codecRoutes({ drivers: [broken], logger }));
    const data = Buffer.from('{"driverName":"x","claimData":{}}').toString('base64');
    const answer = await post(port, '/decode', `{"payloads":[{"data":"${data}","externalPayloads":[{}]}]}`);
    expect([answer.status, lines]).toEqual([500, ['Error: the bucket is gone']]);
  });
});

describe('a request', () => {
  it('has to be JSON, not compressed, of a bounded size', async () => {
    const port = await listen(codecRoutes({ drivers: [], maxRequestBytes: 1000 }));
    expect((await post(port, '/decode', '{}', { 'content-type': 'application/json; charset=utf-8' })).status).toBe(200);
    expect((await post(port, '/decode', '{}', { 'content-type': 'application/jsonx' })).status).toBe(400);
    expect((await post(port, '/decode', '')).text).toContain('not proto JSON');
    const packed = await post(port, '/decode', 'x', { 'content-encoding': 'gzip' });
    expect([packed.status, packed.text]).toEqual([400, 'the body must not be compressed']);
    const large = await post(port, '/decode', `{}${' '.repeat(1000)}`);
    expect([large.status, large.text]).toEqual([413, 'the request body has more than 1000 bytes']);
    const chunked = await new Promise<number | undefined>((resolve, reject) => {
      const sent = http.request({ host: '127.0.0.1', port, path: '/decode', method: 'POST', headers }, (response) =>
        resolve(response.resume().statusCode),
      );
      sent.on('error', reject);
      sent.write(' '.repeat(600));
      sent.end(' '.repeat(600));
    });
    expect(chunked).toBeGreaterThanOrEqual(400);
    const twice = await post(port, '/decode?preserveStorageRefs=true&preserveStorageRefs=false');
    expect(twice.status).toBe(400);
  });

  it('is asked for its body when it waits to be', async () => {
    const handler = codecRoutes({ drivers: [] });
    const server = http.createServer(handler).on('checkContinue', handler).listen(0, '127.0.0.1');
    await once(server, 'listening');
    cleanUps.push(() => server.close());
    const connection = await RawConnection.open((server.address() as AddressInfo).port);
    await connection.write(
      'POST /decode HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n',
    );
    await connection.until(/HTTP\/1\.1 100 Continue/);
    await connection.write('{}');
    expect(await connection.untilClosed()).toMatch(/HTTP\/1\.1 200 OK[\s\S]*\{"payloads":\[\]\}/);
  });

  it('whose client goes away fetches nothing more, and gives its memory back', async () => {
    const world = newWorld();
    const references = await Promise.all(
      Array.from({ length: 30 }, (_, index) => kinds['our driver'](world, plain(100 + index))),
    );
    let reads = 0;
    let aborted = 0;
    const allAborted = withResolvers();
    const started = withResolvers();
    const store: BlobStore = {
      ...passThrough(world.store),
      get: (_key, { signal } = {}) => {
        reads += 1;
        if (reads === 8) started.resolve();
        return new Promise((_resolve, reject) =>
          signal?.addEventListener('abort', () => {
            aborted += 1;
            if (aborted === 8) allAborted.resolve();
            reject(signal.reason);
          }),
        );
      },
    };
    const claimCheck = new ClaimCheck({ store, namespace, cacheBytes: 0 });
    const codec = await startCodec({ drivers: [new LargePayloadDriver({ claimCheck })] });
    cleanUps.push(() => codec.close());
    const connection = await RawConnection.open(codec.port);
    const body = toJson(references);
    await connection.write(
      `POST /decode HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    await started.promise;
    connection.destroy();
    await allAborted.promise;
    expect([reads, aborted]).toEqual([8, 8]);
  });
});

function withResolvers(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve = (): void => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}
