import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BlobStore } from '../blob-store.js';
import { discard, readAll } from '../body.js';
import { ClaimCheck } from '../claim-check.js';
import { digestOf, parseDigest } from '../digest.js';
import { type ErrorCode, LpsError } from '../errors.js';
import { v1ObjectName } from '../key.js';
import type { Clock } from '../retry.js';
import type { Transport, TransportRequest } from '../transport.js';
import { type HttpStoreOptions, openHttpStore, type Transfer } from './http.js';
import { DirectTransfers } from './http-direct.js';
import { apiV3, bucketOf, redirectHeaders, refuse, sendProblem } from './http-model-fixture.js';
import { HttpService } from './http-service.js';
import { memoryStore } from './memory.js';
import {
  answer,
  cutShort,
  failure,
  type Handler,
  type ModelServer,
  reset,
  sample,
  silent,
  startModelServer,
  unheard,
} from './model-server-fixture.js';

const token = 'Bearer of-the-service';
const minuteMs = 60_000;

let memory: BlobStore;
/** What the service does unless it is told otherwise. */
let serve: Handler;
let bucket: ModelServer;
let service: ModelServer;
let transfers: Transfer[];
let nowMs: number;
let opened: BlobStore[];

const clock: Clock = {
  monotonicMs: () => nowMs,
  epochMs: () => Date.now(),
  sleep: async (ms) => {
    nowMs += ms;
  },
};

beforeEach(async () => {
  memory = memoryStore();
  bucket = await startModelServer(bucketOf(memory));
  serve = apiV3(memory, bucket.endpoint);
  service = await startModelServer(serve);
  transfers = [];
  nowMs = 0;
  opened = [];
});
afterEach(async () => {
  for (const store of opened) await store.close?.();
  await service.stop();
  await bucket.stop();
});

function open(options: Partial<HttpStoreOptions> = {}): BlobStore {
  const store = openHttpStore({
    url: service.endpoint,
    headers: { authorization: token, 'x-team': 'ours' },
    directAboveBytes: 10_000,
    onTransfer: (transfer) => transfers.push(transfer),
    clock,
    ...options,
  });
  opened.push(store);
  return store;
}

function linesOf({ seen }: ModelServer): string[] {
  return seen.map(({ method, url = '' }) => `${method} ${url.replace(/[?].*/, '').replace(/upload%20\d/, 'ID')}`);
}

/** `put direct`, or `get service STORE_REFUSED`. */
function told(): string[] {
  return transfers.map(({ operation, way, reason }) => [operation, way, reason?.code].filter(Boolean).join(' '));
}

/** Of the bytes that are read. (A test runner compares buffers byte by byte, slowly.) */
async function digestAt(store: BlobStore, key: string): Promise<string | undefined> {
  const found = await store.get(key);
  return found && digestOf(await readAll(found.body, 1e7));
}

function closeOf(socket: Socket | undefined): Promise<unknown> {
  return new Promise((resolve) => (socket?.closed === false ? socket.once('close', resolve) : resolve(undefined)));
}

/** As `sample`, in the store and known to the service. */
async function stored(store: BlobStore, size?: number): Promise<ReturnType<typeof sample>> {
  const blob = sample(size);
  await store.put(blob.key, blob.bytes, blob.expect);
  transfers.length = 0;
  service.seen.length = 0;
  bucket.seen.length = 0;
  return blob;
}

const problem =
  (code: ErrorCode): Handler =>
  (_, response) =>
    sendProblem(response, new LpsError(code, 'told to'));

/** A service that sends an upload to this address. */
const sendingTo =
  (url: string): Handler =>
  (_, response) => {
    const begun = { outcome: 'direct', uploadId: 'u', request: { method: 'PUT', url, headers: {} } };
    answer(response, 201, JSON.stringify(begun));
  };

describe('a put past the service', () => {
  it('gives large blobs to the bucket, and small ones to the service', async () => {
    const store = open();
    const [large, small] = [sample(10_001), sample(10_000)];
    const result = await store.put(large.key, large.bytes, large.expect);
    expect(result).toEqual({ outcome: 'created', protectedUntil: expect.any(Date) });
    await store.put(small.key, small.bytes, small.expect);
    expect(linesOf(service)).toEqual(['POST /v3/uploads', 'POST /v3/uploads/ID/complete', 'PUT /v3/blobs']);
    expect(linesOf(bucket)).toHaveLength(1);
    expect(transfers).toEqual([
      { operation: 'put', key: large.key, size: 10_001, way: 'direct' },
      { operation: 'put', key: small.key, size: 10_000, way: 'service' },
    ]);
    for (const { key, bytes } of [large, small]) expect(await digestAt(memory, key)).toBe(digestOf(bytes));
  });

  it('sends the bucket what was signed, and nothing of the service’s', async () => {
    const { key, bytes, expect: expected } = sample();
    await open().put(key, bytes, expected);
    const [request] = bucket.seen;
    expect(Object.keys(request?.headers ?? {}).sort()).toEqual([
      'connection',
      'content-length',
      'host',
      'if-none-match',
      'x-amz-checksum-sha256',
    ]);
    expect(service.seen.every(({ headers }) => headers.authorization === token)).toBe(true);
  });

  it('sends streams as well', async () => {
    const { key, bytes, expect: expected } = sample(300_000);
    await open().put(key, Readable.from([bytes.subarray(0, 70_000), bytes.subarray(70_000)]), expected);
    expect(told()).toEqual(['put direct']);
    expect(await digestAt(memory, key)).toBe(digestOf(bytes));
  });

  it('sends nothing of a blob that is there, and tells of nothing', async () => {
    const store = open();
    const { key, bytes, expect: expected } = await stored(store);
    expect(await store.put(key, bytes, expected)).toEqual({ outcome: 'exists', protectedUntil: expect.any(Date) });
    const stream = Readable.from([bytes]);
    expect((await store.put(key, stream, expected)).outcome).toBe('exists');
    expect(stream.destroyed).toBe(true);
    expect([bucket.seen, transfers]).toEqual([[], []]);
  });

  it('leaves to the service what that wants, and what is to be replaced', async () => {
    const store = open();
    const blobs = [sample(), sample()] as const;
    service.faults.push((_, response) => answer(response, 200, JSON.stringify({ outcome: 'proxied' })));
    await store.put(blobs[0].key, blobs[0].bytes, blobs[0].expect);
    await store.put(blobs[1].key, blobs[1].bytes, blobs[1].expect, { overwrite: true });
    expect(linesOf(service)).toEqual(['POST /v3/uploads', 'PUT /v3/blobs', 'PUT /v3/blobs']);
    expect(told()).toEqual(['put service NOT_SUPPORTED', 'put service NOT_SUPPORTED']);
  });

  for (const code of ['NOT_SUPPORTED', 'ROUTE_NOT_FOUND', 'METHOD_NOT_ALLOWED'] as const) {
    it(`asks a service that offers none (${code}) again after ten minutes`, async () => {
      const store = open();
      service.faults.push(problem(code));
      for (const lateMs of [0, 599_999]) {
        nowMs = lateMs;
        const { key, bytes, expect: expected } = sample();
        await store.put(key, bytes, expected);
      }
      expect(told()).toEqual([`put service ${code}`, `put service ${code}`]);
      nowMs = 600_000;
      const { key, bytes, expect: expected } = sample();
      await store.put(key, Readable.from([bytes]), expected);
      expect(told()[2]).toBe('put direct');
    });
  }

  it('fails as a put does when the service says no, and sends the bucket nothing', async () => {
    const store = open();
    for (const code of ['BLOB_TOO_LARGE', 'INVALID_KEY', 'OVERLOADED', 'CATALOG_UNAVAILABLE'] as const) {
      const { key, bytes, expect: expected } = sample();
      const stream = Readable.from([bytes]);
      service.faults.push(problem(code));
      await failure(store.put(key, stream, expected), code);
      expect(stream.destroyed).toBe(true);
    }
    expect([bucket.seen, transfers]).toEqual([[], []]);
  });

  it('does not believe an answer that is not of the API', async () => {
    const store = open();
    const { key, bytes, expect: expected } = sample();
    const request = { method: 'PUT', url: `${bucket.endpoint}/x`, headers: {} };
    for (const wrong of [
      {},
      { outcome: 'direct', request },
      { outcome: 'direct', uploadId: 'u', request: { ...request, method: 'POST' } },
      { outcome: 'direct', uploadId: 'u', request: { ...request, url: 1 } },
      { outcome: 'direct', uploadId: 'u', request: { ...request, headers: { 'content-length': 50_000 } } },
      { outcome: 'direct', uploadId: 'u', request: { ...request, headers: { 'Content-Length': '49999' } } },
    ]) {
      service.faults.push((_, response) => answer(response, 201, JSON.stringify(wrong)));
      await failure(store.put(key, bytes, expected), 'SERVICE_UNREACHABLE');
    }
    expect(bucket.seen).toEqual([]);
  });
});

describe('a bucket that does not take a blob', () => {
  const faults: readonly [string, Handler, ErrorCode][] = [
    ['says 403', (_, response) => refuse(response, 403, 'AccessDenied'), 'STORE_REFUSED'],
    ['says 400', (_, response) => refuse(response, 400, 'BadDigest'), 'STORE_REFUSED'],
    ['says 500', (_, response) => refuse(response, 500, 'InternalError'), 'STORE_UNAVAILABLE'],
    ['says 204', (_, response) => answer(response, 204), 'STORE_REFUSED'],
    ['breaks off', reset, 'STORE_UNAVAILABLE'],
    ['is silent', silent, 'STORE_UNAVAILABLE'],
    [
      'redirects',
      (_, response) => answer(response, 307, '', { location: `${bucket.endpoint}/elsewhere` }),
      'STORE_REFUSED',
    ],
  ];
  for (const [name, fault, code] of faults) {
    it(`costs nobody a blob when it ${name}, and is left alone for a minute`, async () => {
      const store = open({ idleTimeoutMs: name === 'is silent' ? 200 : 5000 });
      bucket.faults.push(fault);
      const [first, second, third] = [sample(), sample(), sample()];
      expect((await store.put(first.key, first.bytes, first.expect)).outcome).toBe('created');
      expect(await digestAt(memory, first.key)).toBe(first.expect.digest);
      nowMs = minuteMs - 1;
      await store.put(second.key, second.bytes, second.expect);
      expect(told()).toEqual([`put service ${code}`, `put service ${code}`]);
      expect(bucket.seen).toHaveLength(1);
      nowMs = minuteMs;
      await store.put(third.key, third.bytes, third.expect);
      expect(told()[2]).toBe('put direct');
    });
  }

  it('costs nobody a blob when nobody listens there', async () => {
    await bucket.stop();
    const { key, bytes, expect: expected } = sample();
    await open().put(key, bytes, expected);
    expect(told()).toEqual(['put service STORE_UNAVAILABLE']);
    expect(transfers[0]?.reason?.message).toMatch(/the bucket cannot be reached/);
  });

  it('says why, as far as the bucket did, and no secret', async () => {
    bucket.faults.push((_, response) => refuse(response, 403, 'AccessDenied'));
    const { key, bytes, expect: expected } = sample();
    await open().put(key, bytes, expected);
    expect(transfers[0]?.reason?.message).toBe('the bucket answered with status 403 (AccessDenied)');
    expect(JSON.stringify(transfers)).not.toContain('s3cret');
  });

  it('keeps gets as they are', async () => {
    const store = open();
    const { key } = await stored(store);
    bucket.faults.push((_, response) => refuse(response, 403, 'AccessDenied'));
    const other = sample();
    await store.put(other.key, other.bytes, other.expect);
    await digestAt(store, key);
    expect(told()).toEqual(['put service STORE_REFUSED', 'get direct']);
  });

  it('fails a stream, which goes through the service the next time', async () => {
    const store = open();
    const faulty: readonly Handler[] = [
      (_, response) => refuse(response, 403, 'AccessDenied'),
      (_, response) => refuse(response, 409, 'ConditionalRequestConflict'),
      reset,
    ];
    for (const fault of faulty) {
      bucket.faults.push(fault);
      const { key, bytes, expect: expected } = sample(500_000);
      const stream = Readable.from([bytes]);
      expect((await failure(store.put(key, stream, expected), 'STORE_UNAVAILABLE')).retryable).toBe(true);
      expect(stream.destroyed).toBe(true);
      await store.put(key, Readable.from([bytes]), expected);
      expect(told().at(-1)).toMatch(/^put service STORE_/);
      nowMs += minuteMs;
    }
  });

  it('is not blamed for what the sender did', async () => {
    const store = open();
    const { key, bytes, expect: expected } = sample(300_000);
    const wrong = Buffer.concat([bytes.subarray(1), Buffer.from('x')]);
    await failure(store.put(key, Readable.from([wrong]), expected), 'DIGEST_MISMATCH');
    await failure(store.put(key, Readable.from([bytes.subarray(1)]), expected), 'SIZE_MISMATCH');
    const breaksOff = Readable.from(
      (async function* () {
        yield bytes.subarray(0, 100_000);
        throw new LpsError('STORE_UNAVAILABLE', 'the sender’s own');
      })(),
    );
    expect((await failure(store.put(key, breaksOff, expected))).message).toBe('the sender’s own');
    await store.put(key, bytes, expected);
    expect(told()).toEqual(['put direct']);
  });

  it('is not blamed for a sender that stalls', async () => {
    const store = open({ idleTimeoutMs: 200 });
    const { key, bytes, expect: expected } = sample(300_000);
    const stalling = new Readable({ read() {} });
    stalling.push(bytes.subarray(0, 100_000));
    await failure(store.put(key, stalling, expected), 'TOO_SLOW');
    await store.put(key, bytes, expected);
    expect(told()).toEqual(['put direct']);
  });

  it('is not blamed for having closed a connection that was kept', async () => {
    const store = open();
    await stored(store);
    bucket.faults.push((request) => request.socket.resetAndDestroy());
    const { key, bytes, expect: expected } = sample(300_000);
    await failure(store.put(key, Readable.from([bytes]), expected), 'STORE_UNAVAILABLE');
    const next = sample();
    await store.put(next.key, next.bytes, next.expect);
    expect(told()).toEqual(['put direct']);
  });

  it('is not asked at an address that is none of a bucket’s', async () => {
    const store = open();
    for (const url of ['', 'not a URL', '/relative', 'ftp://127.0.0.1/x', 'file:///etc/passwd']) {
      const { key, bytes, expect: expected } = sample();
      service.faults.push(sendingTo(url));
      await store.put(key, Readable.from([bytes]), expected);
      const next = sample(); // nor does the service begin another upload
      await store.put(next.key, next.bytes, next.expect);
      expect(told().splice(-2)).toEqual(['put service STORE_REFUSED', 'put service STORE_REFUSED']);
      nowMs += minuteMs;
    }
    const { key, bytes, expect: expected } = sample();
    const stream = Readable.from([bytes]);
    service.faults.push(sendingTo('http://user:secret@127.0.0.1/x'));
    await failure(store.put(key, stream, expected), 'STORE_UNAVAILABLE');
    expect(stream.destroyed).toBe(true);
  });

  it('is shown no certificate of the service’s clients, and trusted no more than others', async () => {
    const hellos: number[] = [];
    const tlsServer = createServer((socket) => {
      socket
        .on('error', () => {})
        .once('data', (data) => {
          hellos.push(data[0] ?? 0);
          socket.destroy();
        });
    });
    tlsServer.listen(0, '127.0.0.1');
    await once(tlsServer, 'listening');
    service.faults.push(sendingTo(`https://127.0.0.1:${(tlsServer.address() as AddressInfo).port}/x`));
    // whoever used these could not even say hello
    const store = open({ tls: { cert: 'not a certificate', key: 'not a key', rejectUnauthorized: false } });
    const { key, bytes, expect: expected } = sample();
    await store.put(key, bytes, expected);
    expect([hellos, told()]).toEqual([[0x16], ['put service STORE_UNAVAILABLE']]);
    tlsServer.close();
  });

  it('may have the object all the same: the service finds out', async () => {
    const store = open();
    const take = bucketOf(memory);
    for (const body of [(bytes: Buffer) => bytes, (bytes: Buffer) => Readable.from([bytes])]) {
      const { key, bytes, expect: expected } = sample();
      bucket.faults.push(unheard(take));
      expect((await store.put(key, body(bytes), expected)).outcome).toBe('created');
    }
    expect(told()).toEqual(['put direct', 'put direct']);
  });

  it('is asked once more when two uploads met there', async () => {
    const store = open();
    const conflict: Handler = (_, response) => refuse(response, 409, 'ConditionalRequestConflict');
    const [first, second, third] = [sample(), sample(), sample()];
    bucket.faults.push(conflict);
    await store.put(first.key, first.bytes, first.expect);
    bucket.faults.push(conflict, conflict);
    await store.put(second.key, second.bytes, second.expect);
    await store.put(third.key, third.bytes, third.expect);
    expect(told()).toEqual(['put direct', 'put service STORE_UNAVAILABLE', 'put direct']);
  });

  it('has an object there already: the service says whether it is the right one', async () => {
    const store = open();
    const { key, bytes, expect: expected } = sample();
    await memory.put(key, bytes, expected);
    expect((await store.put(key, bytes, expected)).outcome).toBe('created'); // an object that nobody had acknowledged
    const wrong = sample();
    bucket.faults.push((_, response) => refuse(response, 412, 'PreconditionFailed'));
    service.faults.push(serve, problem('TRY_AGAIN'));
    await store.put(wrong.key, wrong.bytes, wrong.expect);
    const other = sample();
    bucket.faults.push((_, response) => refuse(response, 412, 'PreconditionFailed'));
    service.faults.push(serve, (_, response) => answer(response, 200, JSON.stringify({ outcome: 'exists' })));
    expect((await store.put(other.key, other.bytes, other.expect)).outcome).toBe('exists');
    expect(told()).toEqual(['put direct', 'put service TRY_AGAIN']);
  });
});

describe('the end of an upload', () => {
  for (const code of ['TRY_AGAIN', 'UPLOAD_INCOMPLETE', 'UPLOAD_NOT_FOUND', 'ROUTE_NOT_FOUND'] as const) {
    it(`goes through the service when that says ${code}`, async () => {
      const store = open();
      const { key, bytes, expect: expected } = sample();
      service.faults.push(serve, problem(code));
      expect((await store.put(key, bytes, expected)).outcome).toBe('exists');
      expect(linesOf(service).at(-1)).toBe('PUT /v3/blobs');
      const next = sample(); // the bucket is as good as before
      await store.put(next.key, next.bytes, next.expect);
      expect(told()).toEqual(['put direct']);
    });

    it(`fails a stream when the service says ${code}, and the next one goes through it`, async () => {
      const store = open();
      const { key, bytes, expect: expected } = sample();
      service.faults.push(serve, problem(code));
      expect((await failure(store.put(key, Readable.from([bytes]), expected))).retryable).toBe(true);
      await store.put(key, Readable.from([bytes]), expected);
      expect(linesOf(service).at(-1)).toBe('PUT /v3/blobs');
      expect(bucket.seen).toHaveLength(1);
    });
  }

  it('fails as it is when its answer is lost; the next attempt finds the blob', async () => {
    const store = open();
    const { key, bytes, expect: expected } = sample();
    service.faults.push(serve, unheard(serve), unheard(serve)); // twice: what met a closed connection is sent again
    const lost = await failure(store.put(key, bytes, expected), 'SERVICE_UNREACHABLE');
    expect(lost.retryable).toBe(true);
    expect(linesOf(service)).not.toContain('PUT /v3/blobs');
    expect((await store.put(key, bytes, expected)).outcome).toBe('exists');
    for (const code of ['CATALOG_UNAVAILABLE', 'STORE_UNAVAILABLE'] as const) {
      const other = sample();
      service.faults.push(serve, problem(code));
      await failure(store.put(other.key, other.bytes, other.expect), code);
    }
  });
});

describe('a get past the service', () => {
  it('reads large blobs from the bucket, and small ones from the service', async () => {
    const store = open();
    const [large, small] = [await stored(store, 10_001), await stored(store, 10_000)];
    const found = await store.get(large.key);
    expect(found?.info).toEqual({ key: large.key, size: 10_001, protectedUntil: expect.any(Date) });
    expect(transfers).toEqual([]); // nothing has moved yet
    expect(found && digestOf(await readAll(found.body, 1e6))).toBe(digestOf(large.bytes));
    expect(await digestAt(store, small.key)).toBe(digestOf(small.bytes));
    expect(transfers).toEqual([
      { operation: 'get', key: large.key, size: 10_001, way: 'direct' },
      { operation: 'get', key: small.key, size: 10_000, way: 'service' },
    ]);
    expect(service.seen.map(({ url }) => new URL(url ?? '', 'http://x').searchParams.get('redirect'))).toEqual([
      '10001',
      '10001',
    ]);
    expect(bucket.seen.map(({ headers }) => Object.keys(headers).sort())).toEqual([['connection', 'host']]);
  });

  it('reads what the first Go service wrote', async () => {
    const { bytes, expect: expected } = sample();
    const name = v1ObjectName(parseDigest(expected.digest));
    await memory.put(name, bytes, expected);
    expect(await digestAt(open(), name)).toBe(expected.digest);
    expect(told()).toEqual(['get direct']);
  });

  it('reads parts of a blob from the service, and tells of none', async () => {
    const store = open();
    const { key, bytes } = await stored(store);
    const found = await store.get(key, { range: { start: 0, end: 20_000 } });
    expect(found && digestOf(await readAll(found.body, 1e6))).toBe(digestOf(bytes.subarray(0, 20_001)));
    expect(service.seen[0]?.url).not.toContain('redirect');
    expect([bucket.seen, transfers]).toEqual([[], []]);
  });

  it('finds nothing where nothing is, and says when the service moved the blob itself', async () => {
    const store = open();
    expect(await store.get(sample().key)).toBeUndefined();
    const { key, bytes } = await stored(store);
    service.faults.push((_, response) => answer(response, 200, bytes));
    await digestAt(store, key);
    expect(told()).toEqual(['get service NOT_SUPPORTED']);
  });

  const faults: readonly [string, Handler, ErrorCode, { isLeftAlone: boolean }][] = [
    ['says 403', (_, response) => refuse(response, 403, 'AccessDenied'), 'STORE_REFUSED', { isLeftAlone: true }],
    ['says 503', (_, response) => refuse(response, 503, 'SlowDown'), 'STORE_UNAVAILABLE', { isLeftAlone: true }],
    ['says 404', (_, response) => refuse(response, 404, 'NoSuchKey'), 'STORE_REFUSED', { isLeftAlone: false }],
    ['has a shorter object', (_, response) => answer(response, 200, 'x'), 'STORE_UNAVAILABLE', { isLeftAlone: false }],
    [
      'does not say how long it is',
      (_, response) => void response.writeHead(200).end(randomBytes(50_000)),
      'STORE_UNAVAILABLE',
      { isLeftAlone: false },
    ],
    ['breaks off', (request) => request.socket.resetAndDestroy(), 'STORE_UNAVAILABLE', { isLeftAlone: true }],
    ['is silent', silent, 'STORE_UNAVAILABLE', { isLeftAlone: true }],
    [
      'redirects',
      (_, response) => answer(response, 302, '', { location: `${bucket.endpoint}/elsewhere` }),
      'STORE_REFUSED',
      { isLeftAlone: true },
    ],
  ];
  for (const [name, fault, code, { isLeftAlone }] of faults) {
    it(`asks the service in the same call when the bucket ${name}`, async () => {
      const store = open({ idleTimeoutMs: name === 'is silent' ? 200 : 5000 });
      const { key, bytes } = await stored(store);
      bucket.faults.push(fault, fault); // the second for a kept connection that broke off
      expect(await digestAt(store, key)).toBe(digestOf(bytes));
      expect(told()).toEqual([`get service ${code}`]);
      expect(linesOf(bucket).every((line) => !line.includes('elsewhere'))).toBe(true);
      bucket.faults.length = 0;
      nowMs = minuteMs - 1;
      expect(await digestAt(store, key)).toBe(digestOf(bytes));
      expect(told()[1]).toBe(isLeftAlone ? `get service ${code}` : 'get direct');
      nowMs = minuteMs;
      expect(await digestAt(store, key)).toBe(digestOf(bytes));
      expect(told()[2]).toBe('get direct');
    });
  }

  it('asks the service in the same call when nobody listens', async () => {
    const store = open();
    const { key, bytes } = await stored(store);
    await bucket.stop();
    expect(await digestAt(store, key)).toBe(digestOf(bytes));
    expect(told()).toEqual(['get service STORE_UNAVAILABLE']);
  });

  it('believes no redirect that is not of the API', async () => {
    const other = sample();
    const wrong: Record<string, string | undefined>[] = [
      { location: undefined },
      { location: '' },
      { location: 'not a URL' },
      { location: '/relative' },
      { location: 'ftp://127.0.0.1/x' },
      { location: 'file:///etc/passwd' },
      { location: 'http://user:secret@127.0.0.1/x' },
      { 'lps-digest': undefined },
      { 'lps-digest': other.expect.digest },
      { 'lps-size': undefined },
      { 'lps-size': 'many' },
      { 'lps-size': '-1' },
    ];
    const store = open();
    const { key, bytes } = await stored(store);
    for (const change of wrong) {
      const headers = Object.entries({ ...redirectHeaders(bucket.endpoint, key, bytes.length), ...change });
      const given = Object.fromEntries(headers.filter((pair): pair is [string, string] => pair[1] !== undefined));
      service.faults.push((_, response) => void response.writeHead(307, given).end());
      expect(await digestAt(store, key), JSON.stringify(change)).toBe(digestOf(bytes));
      const isAddress = /^(?!http:)/.test(change.location ?? 'http:');
      expect(told().at(-1), JSON.stringify(change)).toMatch(isAddress ? 'get service STORE_REFUSED' : /^get service /);
      nowMs += minuteMs;
    }
    expect(bucket.seen).toEqual([]);
    expect(transfers).toHaveLength(wrong.length);
  });

  it('fails a reader whose bytes break off; the next one asks the service', async () => {
    const store = open();
    const { key, bytes } = await stored(store, 500_000);
    bucket.faults.push(cutShort(bytes));
    const cut = await failure(digestAt(store, key), 'STORE_UNAVAILABLE');
    expect(cut.retryable).toBe(true);
    expect(told()).toEqual([]);
    nowMs = minuteMs - 1;
    expect(await digestAt(store, key)).toBe(digestOf(bytes));
    nowMs = minuteMs;
    expect(await digestAt(store, key)).toBe(digestOf(bytes));
    expect(told()).toEqual(['get service STORE_UNAVAILABLE', 'get direct']);
  });

  it('fails a reader of wrong bytes; the next one asks the service, however late, and others need not', async () => {
    const store = open();
    const [{ key, bytes }, other] = [await stored(store), await stored(store)];
    bucket.faults.push((_, response) => answer(response, 200, randomBytes(bytes.length)));
    expect((await failure(digestAt(store, key), 'STORE_UNAVAILABLE')).retryable).toBe(true);
    expect(await digestAt(store, other.key)).toBe(digestOf(other.bytes));
    nowMs += 10 * minuteMs;
    transfers.length = 0;
    expect(await digestAt(store, key)).toBe(digestOf(bytes));
    expect(await digestAt(store, key)).toBe(digestOf(bytes));
    expect(told()).toEqual(['get service BLOB_DAMAGED', 'get direct']);
  });

  it('lets go of the bucket’s body when the reader does', async () => {
    const store = open();
    const { key } = await stored(store, 2_000_000);
    const found = await store.get(key);
    const closed = closeOf(bucket.seen[0]?.socket);
    if (found) discard(found.body);
    await closed;
    await digestAt(store, key);
    expect(told()).toEqual(['get direct']); // and holds nothing against the bucket
  });
});

describe('a bucket over http', () => {
  it('is not used when the service is over https', async () => {
    const { key, bytes, expect: expected } = sample();
    const asked: string[] = [];
    const headersOf = (url: string) => ({
      ...redirectHeaders(bucket.endpoint, key, bytes.length),
      ...(url.includes('redirect') ? {} : { 'content-length': `${bytes.length}` }),
    });
    const bodies: Record<string, () => [number, Buffer]> = {
      'POST /v3/uploads': () => {
        const request = { method: 'PUT', url: `${bucket.endpoint}/x`, headers: {} };
        return [201, Buffer.from(JSON.stringify({ outcome: 'direct', uploadId: 'u', request }))];
      },
      'PUT /v3/blobs': () => [201, Buffer.from('{"outcome":"created"}')],
      'GET /v3/blobs': () => [asked.at(-1)?.includes('redirect') ? 307 : 200, bytes],
    };
    const transport: Transport = {
      async request({ method, url }: TransportRequest) {
        asked.push(`${method} ${url}`);
        const [status, body] = bodies[`${method} ${new URL(url).pathname}`]?.() ?? [500, Buffer.alloc(0)];
        return { status, headers: headersOf(`${url}`), body: Readable.from([body]), sent: true };
      },
      async close() {},
    };
    const direct = new DirectTransfers(
      new HttpService('https://service', { headers: undefined, token: undefined }, transport),
      {
        directAboveBytes: 0,
        onTransfer: (transfer) => transfers.push(transfer),
        clock,
        transport: {},
      },
    );
    await direct.put(key, bytes, expected);
    const found = await direct.get(key);
    expect(found && digestOf(await readAll(found.body, 1e6))).toBe(digestOf(bytes));
    expect(told()).toEqual(['put service STORE_REFUSED', 'get service STORE_REFUSED']);
    expect(bucket.seen).toEqual([]);
    await direct.close();
  });
});

describe('a transfer past the service', () => {
  it('ends when it is aborted, and the bucket is blamed only when its time was up', async () => {
    const store = open();
    const { key } = await stored(store);
    const put = (signal: AbortSignal): Promise<unknown> => {
      const { key, bytes, expect: expected } = sample();
      return store.put(key, bytes, expected, { signal });
    };
    const get = (signal: AbortSignal): Promise<unknown> => store.get(key, { signal });
    for (const [name, call] of Object.entries({ put, get })) {
      for (const reason of [undefined, new LpsError('TOO_SLOW', 'no time left')]) {
        const controller = new AbortController();
        const reached = new Promise((resolve) => bucket.faults.push(resolve));
        const aborted = failure(call(controller.signal), 'ABORTED');
        await reached;
        controller.abort(reason);
        await aborted;
        transfers.length = 0;
        await digestAt(store, key);
        await put(new AbortController().signal);
        const blamed = reason === undefined ? undefined : name;
        const wayOf = (operation: string) => (operation === blamed ? 'service STORE_UNAVAILABLE' : 'direct');
        expect(told()).toEqual([`get ${wayOf('get')}`, `put ${wayOf('put')}`]);
        nowMs += minuteMs;
      }
    }
  });

  it('blames the bucket for a body that was not done in time', async () => {
    const store = open();
    const { key, bytes } = await stored(store);
    const controller = new AbortController();
    bucket.faults.push((_, response) => {
      response.writeHead(200, { 'content-length': bytes.length }).write(bytes.subarray(0, 20_000));
    });
    const found = await store.get(key, { signal: controller.signal });
    controller.abort(new DOMException('no time left', 'TimeoutError'));
    await failure(found && readAll(found.body, 1e6), 'ABORTED');
    await digestAt(store, key);
    expect(told()).toEqual(['get service STORE_UNAVAILABLE']);
  });

  it('is not harmed by who is told of it', async () => {
    const listeners: ((transfer: Transfer) => void)[] = [
      () => {
        throw new Error('theirs');
      },
      async () => {
        throw new Error('theirs, later');
      },
    ];
    for (const onTransfer of listeners) {
      const store = open({ onTransfer });
      const { key, bytes } = await stored(store);
      expect(await digestAt(store, key)).toBe(digestOf(bytes));
    }
  });

  it('is told of without any of them, too', async () => {
    const { directAboveBytes: _, ...rest } = { directAboveBytes: 0 };
    const store = openHttpStore({ url: service.endpoint, onTransfer: (transfer) => transfers.push(transfer), ...rest });
    opened.push(store);
    const { key, bytes, expect: expected } = sample();
    await store.put(key, bytes, expected);
    await store.put(key, bytes, expected);
    await digestAt(store, key);
    expect(told()).toEqual(['put service', 'get service']);
    expect(service.seen.every(({ url }) => !url?.includes('redirect'))).toBe(true);
  });

  it('fails when the store is closed', async () => {
    const store = open();
    const { key } = await stored(store, 5_000_000);
    const found = await store.get(key);
    await store.close?.();
    await failure(found && readAll(found.body, 1e7), 'STORE_UNAVAILABLE');
    await failure(store.get(key), 'SERVICE_UNREACHABLE');
  });

  it('is refused a threshold that is no number of bytes', () => {
    for (const directAboveBytes of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, '1' as never, null as never]) {
      expect(() => open({ directAboveBytes }), String(directAboveBytes)).toThrow(
        expect.objectContaining({ code: 'CONFIG_INVALID' }),
      );
    }
  });
});

describe('a claim check past the service', () => {
  function check(): ClaimCheck {
    return new ClaimCheck({ store: open(), namespace: 'tests', cacheBytes: 0 });
  }
  const payload = (): { data: Buffer; metadata: Record<string, never> } => ({
    data: randomBytes(50_000),
    metadata: {},
  });

  it('deposits and redeems', async () => {
    const claims = check();
    const payloads = Array.from({ length: 20 }, payload);
    const deposited = await claims.depositAll(payloads);
    const redeemed = await claims.redeemAll(deposited);
    expect(redeemed.map(({ data }) => digestOf(data ?? Buffer.alloc(0)))).toEqual(
      payloads.map(({ data }) => digestOf(data)),
    );
    expect(new Set(told())).toEqual(new Set(['put direct', 'get direct']));
  });

  it('loses nothing to a bucket that fails, nor to one that sends wrong bytes', async () => {
    const claims = check();
    const original = payload();
    bucket.faults.push((_, response) => refuse(response, 503, 'SlowDown'));
    const claim = await claims.deposit(original);
    expect(told()).toEqual(['put service STORE_UNAVAILABLE']);
    bucket.faults.push((_, response) => answer(response, 200, randomBytes(50_000)));
    expect(digestOf((await claims.redeem(claim)).data ?? Buffer.alloc(0))).toBe(digestOf(original.data));
    expect(told().slice(1)).toEqual(['get direct', 'get service BLOB_DAMAGED']);
  });

  it('has time left for the service when the bucket cannot be reached', async () => {
    const held = createServer(() => {}); // as a firewall that drops what is sent: nobody says hello
    held.listen(0, '127.0.0.1');
    await once(held, 'listening');
    service.faults.push(sendingTo(`https://127.0.0.1:${(held.address() as AddressInfo).port}/x`));
    const claims = new ClaimCheck({ store: open({ connectTimeoutMs: 60_000 }), namespace: 'tests' });
    await claims.deposit(payload());
    expect(told()).toEqual(['put service STORE_UNAVAILABLE']);
    held.close();
  });

  it('gives up at its deadline on a bucket that is silent, and does not lose the next one’s time to it', async () => {
    const store = open();
    const [hurried, patient] = [500, 60_000].map(
      (deadlineMs) => new ClaimCheck({ store, namespace: 'tests', cacheBytes: 0, deadlineMs }),
    );
    bucket.faults.push(silent);
    await failure(hurried?.deposit(payload()), 'TOO_SLOW');
    await patient?.deposit(payload());
    expect(told()).toEqual(['put service STORE_UNAVAILABLE']);
  });
});
