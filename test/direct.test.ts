/** Bytes past the service: `lps serve` on real buckets, and clients that know nothing but HTTP. */
import { Readable } from 'node:stream';
import {
  keyFor,
  metadataDigest,
  openHttpStore,
  parseMetadataHeader,
  readAll,
  type Transfer,
} from '@large-payload/core';
import { LargePayloadCodec, LargePayloadDriver } from '@large-payload/temporal';
import { describeWith, startVersitygw } from '@large-payload/test-components';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { codeOf, metric, newBlob, put, read, request, rightRead, sized, type V2Blob } from './support/blobs.ts';
import { type Place, startPlaces, writeS3Object } from './support/places.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

interface Offer {
  readonly outcome: 'present' | 'proxied' | 'direct';
  readonly key: string;
  readonly uploadId: string;
  readonly request: { url: string; method: string; headers: Record<string, string>; expiresAt: string };
  readonly protectedUntil?: string;
}

async function post(port: number, path: string, body?: unknown) {
  const headers = body === undefined ? {} : { 'content-type': 'application/json' };
  const bytes = body === undefined ? undefined : Buffer.from(JSON.stringify(body));
  const answer = await request(port, path, { method: 'POST', headers, ...(bytes && { body: bytes }) });
  return { status: answer.status, code: codeOf(answer), body: JSON.parse(answer.text) as Offer };
}

const offerOf = (port: number, { key, bytes }: V2Blob) => post(port, '/v3/uploads', { key, size: bytes.length });
const complete = (port: number, uploadId: string) => post(port, `/v3/uploads/${uploadId}/complete`);

async function send({ request }: Offer, body: Uint8Array, headers = request.headers): Promise<number> {
  return (await fetch(request.url, { method: request.method, headers, body: Buffer.from(body) })).status;
}

/** Our own client, which moves what is larger than 10 kB past the service. */
function clientOf(port: number) {
  const transfers: Transfer[] = [];
  const onTransfer = (transfer: Transfer) => transfers.push(transfer);
  const store = openHttpStore({ url: `http://127.0.0.1:${port}`, directAboveBytes: 10_000, onTransfer });
  return { store, transfers };
}

/** Workflows run a moment after the service listens; until then uploads go through it. */
async function untilDirect(port: number): Promise<void> {
  await until('direct uploads', async () => (await metric(port, 'lps_durable_running')) === 1 || undefined);
}

/** Told to stop, it does not wait for uploads that nobody will complete. */
const atOnce = ['--shutdown-timeout', '0s'];

const s3 = await startVersitygw();

describeWith(describe, 'uploads past the service', s3, (s3) => {
  let service: RunningService;
  let port: number;
  beforeAll(async () => {
    service = await startService({ store: s3, args: atOnce });
    ({ port } = service);
    await untilDirect(port);
  });
  afterAll(async () => {
    await service?.stop();
    await s3.stop();
  });

  it('go to the bucket, are there once complete, and are not sent again', async () => {
    const blob = newBlob(300_000);
    const before = await metric(port, 'lps_direct_bytes_total{operation="upload"}');
    const { status, body: offer } = await offerOf(port, blob);
    expect({ status, outcome: offer.outcome, key: offer.key }).toEqual({
      status: 201,
      outcome: 'direct',
      key: blob.key,
    });
    const livesMs = Date.parse(offer.request.expiresAt) - Date.now();
    expect(livesMs).toBeGreaterThan(0);
    expect(livesMs).toBeLessThanOrEqual(15 * 60_000);
    expect(await send(offer, blob.bytes)).toBe(200);
    expect((await read(port, sized(blob))).isRight).toBe(true); // the object of an unknown blob, hashed
    const completed = await complete(port, offer.uploadId);
    expect(completed).toMatchObject({ body: { key: blob.key } });
    expect([200, 201]).toContain(completed.status);
    expect(await read(port, sized(blob))).toEqual(rightRead);
    expect(await offerOf(port, blob)).toMatchObject({ status: 200, body: { outcome: 'present', key: blob.key } });
    const other = newBlob(1000);
    const { body: second } = await offerOf(port, other);
    await send(second, other.bytes);
    expect(await complete(port, second.uploadId)).toMatchObject({ status: 201, body: { outcome: 'created' } });
    expect(await complete(port, second.uploadId)).toMatchObject({ status: 200, body: { outcome: 'exists' } });
    expect(await metric(port, 'lps_direct_bytes_total{operation="upload"}')).toBeGreaterThanOrEqual(before + 1000);
  });

  it('are asked for by the parts of a key as well', async () => {
    const blob = newBlob(1000);
    const encoded = { encoding: Buffer.from('json/plain').toString('base64') };
    const header = Buffer.from(JSON.stringify(encoded)).toString('base64');
    const metadata = parseMetadataHeader(header);
    const ask = (more: object) =>
      post(port, '/v3/uploads', { namespace: 'orders', digest: blob.digest, size: 1000, ...more });
    expect((await ask({})).body.key).toBe(keyFor('orders', blob.digest, null));
    expect((await ask({ metadata: encoded })).body.key).toBe(keyFor('orders', blob.digest, metadata));
    const custom = `/blobs/orders/custom/a/b/${blob.digest}/${metadataDigest(null)}`;
    expect((await ask({ prefix: 'a/b' })).body.key).toBe(custom);
    const prefixed = { 'remote-codec/key-prefix': Buffer.from('a').toString('base64') };
    expect((await ask({ metadata: prefixed })).body.key).toContain('/custom/a/');
    expect(await ask({ metadata: prefixed, prefix: 'b' })).toMatchObject({ status: 400, code: 'INVALID_ARGUMENT' });
    for (const wrong of [{ prefix: '../x' }, { namespace: 'a/b' }])
      expect((await ask(wrong)).status, JSON.stringify(wrong)).toBe(400);
    const bodies = [
      {},
      { key: blob.key },
      { key: 'x', size: 1 },
      { key: blob.key, size: -1 },
      { key: blob.key, size: 1.5 },
    ];
    for (const body of [...bodies, [], 'x', null, { key: blob.key, size: 1, more: 1 }])
      expect((await post(port, '/v3/uploads', body)).status, JSON.stringify(body)).toBe(400);
    expect(await post(port, '/v3/uploads', { key: blob.key, size: 2 ** 40 })).toMatchObject({
      status: 413,
      code: 'BLOB_TOO_LARGE',
    });
    expect(await complete(port, 'upload-x')).toMatchObject({ status: 404, code: 'UPLOAD_NOT_FOUND' });
  });

  it('leave nothing of wrong bytes, of another length, or of headers that were changed', async () => {
    const blob = newBlob(5000);
    const { body: offer } = await offerOf(port, blob);
    const wrong = Buffer.from(blob.bytes);
    wrong[9] = (wrong[9] ?? 0) ^ 1;
    const { 'if-none-match': _, ...unconditional } = offer.request.headers;
    const shorter = { ...offer.request.headers, 'content-length': '4999' };
    expect(await send(offer, wrong)).toBe(400);
    expect(await send(offer, blob.bytes, unconditional)).toBe(403);
    expect(await send(offer, blob.bytes.subarray(1), shorter)).toBe(403);
    expect(await complete(port, offer.uploadId)).toMatchObject({ status: 409, code: 'UPLOAD_INCOMPLETE' });
    expect((await read(port, sized(blob))).status).toBe(404);
    expect(await send(offer, blob.bytes)).toBe(200);
    expect((await complete(port, offer.uploadId)).status).toBe(201);
    expect(await read(port, sized(blob))).toEqual(rightRead);
  });

  it('go through the service where a wrong object stands, which is healed so', async () => {
    const blob = newBlob(5000);
    const { body: offer } = await offerOf(port, blob);
    await writeS3Object(s3, s3.bucket, blob.key, newBlob(5000).bytes);
    expect(await send(offer, blob.bytes)).toBe(412);
    expect(await complete(port, offer.uploadId)).toMatchObject({ status: 503, code: 'TRY_AGAIN' });
    expect(await offerOf(port, blob)).toMatchObject({ status: 200, body: { outcome: 'proxied', key: blob.key } });
    expect((await put(port, blob)).status).toBe(201);
    expect(await read(port, sized(blob))).toEqual(rightRead);
  });

  it('are what our own store does with large blobs, by bytes and by streams, there and back', async () => {
    const { store, transfers } = clientOf(port);
    const [small, large, streamed] = [newBlob(5000), newBlob(100_000), newBlob(400_000)];
    for (const [blob, body] of [
      [small, small.bytes],
      [large, large.bytes],
      [streamed, Readable.from([streamed.bytes])],
    ] as const) {
      const expected = { digest: blob.digest, size: blob.bytes.length };
      expect(await store.put(blob.key, body, expected)).toMatchObject({ outcome: 'created' });
      expect(await store.put(blob.key, blob.bytes, expected)).toMatchObject({ outcome: 'exists' });
      const found = await store.get(blob.key);
      expect(found && Buffer.from(await readAll(found.body, 1e6)).equals(blob.bytes)).toBe(true);
    }
    const ways = transfers.map(
      ({ operation, size, way, reason }) => `${operation} ${size} ${way} ${reason?.code ?? ''}`,
    );
    expect(ways.map((way) => way.trim())).toEqual([
      'put 5000 service',
      'get 5000 service',
      'put 100000 direct',
      'get 100000 direct',
      'put 400000 direct',
      'get 400000 direct',
    ]);
    await store.close?.();
  });

  it('are what codec and driver do with large payloads', async () => {
    const transfers: Transfer[] = [];
    const options = {
      url: service.url,
      directAboveBytes: 200_000,
      onTransfer: (done: Transfer) => transfers.push(done),
    };
    const codec = new LargePayloadCodec({ ...options, namespace: 'orders', cacheBytes: 0 });
    const driver = new LargePayloadDriver({ ...options, namespace: 'orders', cacheBytes: 0 });
    const payloads = [150_000, 300_000].map((size) => ({ metadata: {}, data: new Uint8Array(newBlob(size).bytes) }));
    const claims = await codec.encode(payloads);
    expect(claims.map(({ data }) => (data?.length ?? 0) < 1000)).toEqual([true, true]);
    const decoded = await codec.decode(claims);
    expect(payloads.map(({ data }, i) => Buffer.from(data).equals(decoded[i]?.data ?? Buffer.alloc(0)))).toEqual([
      true,
      true,
    ]);
    const references = await driver.store({}, [{ metadata: {}, data: new Uint8Array(newBlob(250_000).bytes) }]);
    expect((await driver.retrieve({}, references))[0]?.data?.length).toBe(250_000);
    const ways = transfers.map(({ operation, size, way }) => `${operation} ${size} ${way}`).sort();
    const large = [250_000, 300_000].flatMap((size) => [`get ${size} direct`, `put ${size} direct`]);
    expect(ways).toEqual(['get 150000 service', 'put 150000 service', ...large].sort());
    await Promise.all([codec.close(), driver.close()]);
  });

  it('go through the service when the object that stands there is wrong, in the same call', async () => {
    const { store, transfers } = clientOf(port);
    const blob = newBlob(100_000);
    await writeS3Object(s3, s3.bucket, blob.key, newBlob(100_000).bytes);
    expect(await store.put(blob.key, blob.bytes, { digest: blob.digest, size: 100_000 })).toMatchObject({
      outcome: 'created',
    });
    expect(transfers).toMatchObject([{ operation: 'put', way: 'service', reason: { code: 'TRY_AGAIN' } }]);
    expect(await read(port, sized(blob))).toEqual(rightRead);
    await store.close?.();
  });

  it('are not offered when the operator says so, and then nor are downloads', async () => {
    await service.stop();
    const args = [...atOnce, '--no-direct-transfers'];
    service = await startService({ store: s3, dataDir: service.dataDir, args });
    ({ port } = service);
    const blob = newBlob(5000);
    expect(await offerOf(port, blob)).toMatchObject({ status: 501, code: 'NOT_SUPPORTED' });
    expect(await complete(port, 'upload-x')).toMatchObject({ status: 501, code: 'NOT_SUPPORTED' });
    expect((await put(port, blob)).status).toBe(201);
    const answer = await request(port, `/v3/blobs?${new URLSearchParams({ key: blob.key, redirect: '1' })}`);
    expect({ status: answer.status, length: answer.body.length }).toEqual({ status: 200, length: 5000 });
    const { store, transfers } = clientOf(port);
    const large = newBlob(100_000);
    await store.put(large.key, large.bytes, { digest: large.digest, size: 100_000 });
    expect(transfers).toMatchObject([{ operation: 'put', way: 'service', reason: { code: 'NOT_SUPPORTED' } }]);
    await store.close?.();
  });
});

describe.each(await startPlaces())('downloads past the service, on $name', (place: Place) => {
  const { options, name } = place;
  let service: RunningService;
  let port: number;
  beforeAll(async () => {
    service = await startService(options);
    ({ port } = service);
  });
  afterAll(() => service?.stop());

  const ask = (blob: V2Blob, redirect: string) =>
    request(port, `/v3/blobs?${new URLSearchParams({ key: blob.key, redirect })}`);

  // a GCS server without credentials gives nothing to sign with (gcs-presign.test.ts has keys)
  if (name === 'file' || name === 'gcs') {
    it('are not offered: the bytes come at once, and uploads go through the service', async () => {
      const blob = newBlob(5000);
      expect((await put(port, blob)).status).toBe(201);
      expect(await ask(blob, '1')).toMatchObject({ status: 200, body: blob.bytes });
      expect(await offerOf(port, newBlob(1))).toMatchObject({ status: 501, code: 'NOT_SUPPORTED' });
    });
    return;
  }

  it('come from a URL of the bucket, from the size on that was asked for', async () => {
    const blob = newBlob(5000);
    expect((await put(port, blob)).status).toBe(201);
    for (const above of ['1', '5000']) {
      const { status, headers, body } = await ask(blob, above);
      expect({ status, length: body.length }).toEqual({ status: 307, length: 0 });
      expect(headers).toMatchObject({
        'lps-digest': blob.digest,
        'lps-size': '5000',
        etag: `"${blob.digest}"`,
        'cache-control': 'private, no-store',
        'lps-protected-until': expect.stringMatching(/^2/),
      });
      const fetched = await fetch(headers.location ?? '');
      expect(Buffer.from(await fetched.arrayBuffer()).equals(blob.bytes)).toBe(true);
    }
    expect(await ask(blob, '5001')).toMatchObject({ status: 200, body: blob.bytes });
    expect(await metric(port, 'lps_direct_bytes_total{operation="download"}')).toBe(10_000);
    for (const wrong of ['0', '-1', 'x', '1.5', ''])
      expect(await ask(blob, wrong).then(codeOf), wrong).toBe('INVALID_ARGUMENT');
    expect(await ask(newBlob(5000), '1').then(codeOf)).toBe('BLOB_NOT_FOUND');
  });

  it('are what our own store does with large blobs', async () => {
    const { store, transfers } = clientOf(port);
    const blob = newBlob(100_000);
    expect((await put(port, blob)).status).toBe(201);
    const found = await store.get(blob.key);
    expect(found && Buffer.from(await readAll(found.body, 1e6)).equals(blob.bytes)).toBe(true);
    expect(transfers).toMatchObject([{ operation: 'get', size: 100_000, way: 'direct' }]);
    await store.close?.();
  });

  it('come from the service for what it does not know yet, and afterwards from the bucket', async () => {
    const blob = newBlob(5000);
    await place.write(blob, blob.bytes);
    expect(await ask(blob, '1')).toMatchObject({ status: 200, body: blob.bytes });
    await until('its adoption', async () => (await ask(blob, '1')).status === 307 || undefined);
  });

  it('of what the bucket has lost fail there, and are told of by the service when it is asked for the bytes', async () => {
    const blob = newBlob(5000);
    expect((await put(port, blob)).status).toBe(201);
    await place.remove(blob);
    const { headers } = await ask(blob, '1');
    expect((await fetch(headers.location ?? '')).status).toBe(404);
    const told = await request(port, `/v3/blobs?${new URLSearchParams({ key: blob.key })}`);
    expect(codeOf(told)).toBe('BLOB_DAMAGED');
    expect(await ask(blob, '1').then(codeOf)).toBe('BLOB_DAMAGED');
    expect((await put(port, blob)).status).toBe(201);
    expect((await ask(blob, '1')).status).toBe(307);
  });
});
