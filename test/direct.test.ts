/** Bytes past the service: `lps serve` on real buckets, and clients that know nothing but HTTP. */
import { keyFor, metadataDigest, parseMetadataHeader } from '@large-payload/core';
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

/** Workflows run a moment after the service listens; until then uploads go through it. */
async function untilDirect(port: number): Promise<void> {
  await until('direct uploads', async () => (await metric(port, 'lps_durable_running')) === 1 || undefined);
}

const s3 = await startVersitygw();

describeWith(describe, 'uploads past the service', s3, (s3) => {
  let service: RunningService;
  let port: number;
  beforeAll(async () => {
    service = await startService({ store: s3 });
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

  it('are not offered when the operator says so, and then nor are downloads', async () => {
    await service.stop();
    service = await startService({ store: s3, dataDir: service.dataDir, args: ['--no-direct-transfers'] });
    ({ port } = service);
    const blob = newBlob(5000);
    expect(await offerOf(port, blob)).toMatchObject({ status: 501, code: 'NOT_SUPPORTED' });
    expect(await complete(port, 'upload-x')).toMatchObject({ status: 501, code: 'NOT_SUPPORTED' });
    expect((await put(port, blob)).status).toBe(201);
    const answer = await request(port, `/v3/blobs?${new URLSearchParams({ key: blob.key, redirect: '1' })}`);
    expect({ status: answer.status, length: answer.body.length }).toEqual({ status: 200, length: 5000 });
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

  if (name === 'file') {
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
