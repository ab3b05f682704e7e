import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type HttpStoreOptions, memoryStore, readAll, systemClock, type Transfer } from '@large-payload/core';
import type { Payload } from '@temporalio/common';
import { decode, ExternalStorageRunner, encode } from '@temporalio/common/lib/internal-non-workflow/index.js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LargePayloadCodec } from './codec.js';
import { externalStorage } from './driver.js';
import { LargePayloadPlugin } from './plugin.js';

let server: Server;
let url: string;
/** Method and path of every request. */
let lines: string[];
let isBucketDown: boolean;
let transfers: Transfer[];
let nowMs: number;

beforeEach(async () => {
  lines = [];
  transfers = [];
  isBucketDown = false;
  nowMs = 0;
  const blobs = new Map<string, Uint8Array>();
  server = createServer((request, response) => void serve(blobs, request, response));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await once(server, 'close');
});

/** A service and its bucket in one, for one upload at a time. */
async function serve(blobs: Map<string, Uint8Array>, request: IncomingMessage, response: ServerResponse) {
  const { pathname, searchParams } = new URL(request.url ?? '', url);
  const line = `${request.method} ${pathname}`;
  lines.push(line);
  const body = await readAll(request, 1e7);
  const key = searchParams.get('key') ?? '';
  const blob = blobs.get(key);
  const bucketUrl = (key: string) => `${url}/bucket?key=${encodeURIComponent(key)}`;
  const json = (value: unknown) => response.writeHead(201).end(JSON.stringify(value));
  if (line === 'POST /v3/uploads') {
    const { key } = JSON.parse(Buffer.from(body).toString()) as { key: string };
    return json({
      outcome: 'direct',
      key,
      uploadId: 'u',
      request: { method: 'PUT', url: bucketUrl(key), headers: {} },
    });
  }
  if (line === 'POST /v3/uploads/u/complete') return json({ outcome: 'created' });
  if (pathname === '/bucket' && isBucketDown) return response.writeHead(503).end();
  if (request.method === 'PUT') {
    blobs.set(key, body);
    return json({ outcome: 'created' });
  }
  if (blob === undefined) return response.writeHead(500).end();
  if (!searchParams.has('redirect')) return response.writeHead(200, { 'content-length': blob.length }).end(blob);
  const digest = /sha256:[0-9a-f]{64}/.exec(key)?.[0] ?? '';
  const headers = { location: bucketUrl(key), 'lps-digest': digest, 'lps-size': blob.length, 'content-length': 0 };
  return response.writeHead(307, headers).end();
}

function plain(): Payload {
  return { metadata: { encoding: Buffer.from('binary/plain') }, data: new Uint8Array(randomBytes(200_000)) };
}

/** For each, what stores a payload and then reads it again, without memory. */
const shells: Record<string, (options: HttpStoreOptions) => (payload: Payload) => Promise<void>> = {
  codec: (options) => {
    const codec = new LargePayloadCodec({ ...options, namespace: 'orders', cacheBytes: 0, skipWindowMs: 0 });
    return async (payload) => {
      await codec.decode(await codec.encode([payload]));
    };
  },
  driver: (options) => {
    const runner = new ExternalStorageRunner(externalStorage({ ...options, cacheBytes: 0, skipWindowMs: 0 }));
    return async (payload) => {
      await runner.retrieve(await runner.store([payload], { target: { kind: 'workflow', namespace: 'orders' } }));
    };
  },
  plugin: (options) => {
    const plugin = new LargePayloadPlugin({ ...options, cacheBytes: 0, skipWindowMs: 0 });
    const { dataConverter } = plugin.configureClient<{ dataConverter?: { payloadCodecs?: LargePayloadCodec[] } }>({});
    const codecs = dataConverter?.payloadCodecs ?? [];
    return async (payload) => {
      await decode(codecs, await encode(codecs, [payload]));
    };
  },
};

describe('a service', () => {
  for (const [name, open] of Object.entries(shells)) {
    it(`lets large payloads of the ${name} go straight to the bucket, and through it while that is down`, async () => {
      const run = open({
        url,
        directAboveBytes: 150_000,
        onTransfer: (transfer) => transfers.push(transfer),
        clock: { ...systemClock, monotonicMs: () => nowMs },
      });
      const told = () => transfers.splice(0).map(({ operation, way }) => `${operation} ${way}`);
      await run(plain());
      expect(told()).toEqual(['put direct', 'get direct']);
      expect(lines).toContain('PUT /bucket');
      expect(lines).not.toContain('PUT /v3/blobs');
      isBucketDown = true;
      await run(plain());
      expect(told()).toEqual(['put service', 'get service']);
      isBucketDown = false;
      nowMs = 60_000; // the clock of the claim check is the store's
      await run(plain());
      expect(told()).toEqual(['put direct', 'get direct']);
    });

    it(`is refused a threshold for the ${name} that is no number of bytes`, () => {
      expect(() => open({ url, directAboveBytes: -1 })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    });
  }

  it('and a store of one’s own do not go together', () => {
    const store = memoryStore();
    // the clock is the claim check's, and may be given with either
    const plugin = new LargePayloadPlugin({ store, clock: systemClock });
    expect(plugin.name).toBe('large-payload');
    // @ts-expect-error: only a service sends clients to the bucket
    const codec = new LargePayloadCodec({ store, namespace: 'orders', directAboveBytes: 1 });
    expect(codec).toBeInstanceOf(LargePayloadCodec);
  });
});
