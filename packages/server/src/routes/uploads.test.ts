/** What `/v3/uploads` takes and answers; uploads themselves are in ../direct/direct-uploads.test.ts. */
import { type BlobKey, digestOf, formatKey, keyFor, LpsError, metadataDigest } from '@large-payload/core';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { CompletedUpload, DirectUploads, UploadOffer } from '../direct/direct-uploads.js';
import { type Answer, type RunningApp, request, startApp } from '../http/testing.js';

const digest = digestOf(Buffer.from('an upload'));
const key = keyFor('orders', digest, null);
const protectedUntil = new Date(Date.UTC(2030, 0, 1));
let offer: UploadOffer;
let completed: Pick<CompletedUpload, 'outcome'>;
let asked: { key: BlobKey; size: number } | undefined;

/** Answers as it is told. */
const uploads: DirectUploads = {
  open: 0,
  async begin(key, size) {
    asked = { key, size };
    return offer;
  },
  async complete(uploadId) {
    if (uploadId !== 'upload-1') throw new LpsError('UPLOAD_NOT_FOUND', 'there is no such upload');
    return { key, size: 9, protectedUntil, ...completed };
  },
};

let app: RunningApp;
let without: RunningApp;
beforeAll(async () => {
  app = await startApp({ direct: { downloadLifetimeMs: 1000, uploads } });
  without = await startApp();
});
beforeEach(() => {
  asked = undefined;
  offer = { outcome: 'proxied', key };
  completed = { outcome: 'created' };
});
afterAll(async () => {
  await app.close();
  await without.close();
});

function post(path: string, body: unknown, { port } = app): Promise<Answer> {
  const bytes = Buffer.from(JSON.stringify(body));
  const headers = { 'content-type': 'application/json', 'content-length': bytes.length };
  return request(port, path, { method: 'POST', headers, body: bytes });
}

describe('POST /v3/uploads', () => {
  it.each<[number, UploadOffer]>([
    [200, { outcome: 'present', key, protectedUntil }],
    [200, { outcome: 'present', key }],
    [200, { outcome: 'proxied', key }],
    [
      201,
      {
        outcome: 'direct',
        key,
        uploadId: 'upload-1',
        request: { method: 'PUT', url: 'https://bucket.example/o?s=1', headers: { a: 'b' }, expiresAt: protectedUntil },
      },
    ],
  ])('answers %i for what is offered', async (status, offered) => {
    offer = offered;
    const answer = await post('/v3/uploads', { key, size: 9 });
    expect([answer.status, answer.headers['cache-control']]).toEqual([status, 'private, no-store']);
    expect(JSON.parse(answer.text)).toEqual(JSON.parse(JSON.stringify(offered)));
  });

  it('takes a key, or what makes one', async () => {
    const parts = { namespace: 'orders', digest, size: 9 };
    const metadata = { encoding: Buffer.from('x') };
    const encoded = { encoding: 'eA==' };
    const named = { namespace: 'orders', digest, metadataDigest: metadataDigest(metadata) };
    for (const [body, wanted] of [
      [{ key, size: 9 }, key],
      [parts, key],
      [{ ...parts, metadata: null }, key],
      [{ ...parts, metadata: {} }, key],
      [{ ...parts, metadata: encoded }, formatKey(named)],
      [{ ...parts, metadata: encoded, prefix: 'a/b' }, formatKey({ ...named, prefix: 'a/b' })],
    ] as const) {
      expect((await post('/v3/uploads', body)).status).toBe(200);
      expect(asked && [formatKey(asked.key), asked.size]).toEqual([wanted, 9]);
    }
  });

  it.each([
    ['nothing', {}, 'INVALID_ARGUMENT'],
    ['a list', [], 'INVALID_ARGUMENT'],
    ['no size', { key }, 'INVALID_ARGUMENT'],
    ['a size below nothing', { key, size: -1 }, 'INVALID_ARGUMENT'],
    ['a size with a fraction', { key, size: 1.5 }, 'INVALID_ARGUMENT'],
    ['both forms', { key, namespace: 'orders', digest, size: 9 }, 'INVALID_ARGUMENT'],
    ['no digest', { namespace: 'orders', digest: 'sha256:x', size: 9 }, 'INVALID_ARGUMENT'],
    ['metadata that is not base64', { namespace: 'orders', digest, size: 9, metadata: { a: '*' } }, 'INVALID_ARGUMENT'],
    [
      'two prefixes',
      { namespace: 'orders', digest, size: 9, prefix: 'a', metadata: prefixed('b') },
      'INVALID_ARGUMENT',
    ],
    ['no key', { key: '/blobs/orders', size: 9 }, 'INVALID_KEY'],
    ['no namespace', { namespace: 'a/b', digest, size: 9 }, 'INVALID_KEY'],
    ['no prefix', { namespace: 'orders', digest, size: 9, prefix: 'a b' }, 'INVALID_KEY'],
    ['too much', { key, size: 1024 ** 3 + 1 }, 'BLOB_TOO_LARGE'],
  ])('refuses %s', async (_what, body, code) => {
    expect(JSON.parse((await post('/v3/uploads', body)).text)).toMatchObject({ code });
    expect(asked).toBeUndefined();
  });
});

describe('POST /v3/uploads/:id/complete', () => {
  it.each([
    [201, 'created'],
    [200, 'exists'],
  ] as const)('answers %i for a blob that %s', async (status, outcome) => {
    completed = { outcome };
    const answer = await post('/v3/uploads/upload-1/complete', {});
    expect(answer.status).toBe(status);
    expect(JSON.parse(answer.text)).toEqual({ key, outcome, protectedUntil: protectedUntil.toISOString() });
  });

  it('knows only what was begun', async () => {
    expect(JSON.parse((await post('/v3/uploads/upload-2/complete', {})).text)).toMatchObject({
      code: 'UPLOAD_NOT_FOUND',
    });
  });
});

it('without direct uploads a client learns it from the answer', async () => {
  for (const path of ['/v3/uploads', '/v3/uploads/upload-1/complete']) {
    const answer = await post(path, { key, size: 9 }, without);
    expect([answer.status, JSON.parse(answer.text).code]).toEqual([501, 'NOT_SUPPORTED']);
  }
});

function prefixed(prefix: string): Record<string, string> {
  return { 'remote-codec/key-prefix': Buffer.from(prefix).toString('base64') };
}
