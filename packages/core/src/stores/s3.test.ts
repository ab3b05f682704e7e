import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { DeleteObjectCommand, ListObjectVersionsCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { describeWith, openS3Client, startVersitygw, type Versitygw } from '@large-payload/test-components';
import { afterAll, describe, it } from 'vitest';
import type { BlobStore, PresignedRequest } from '../blob-store.js';
import { readAll } from '../body.js';
import { manyListeners, Slots } from '../concurrency.js';
import { testBlobStore } from '../conformance.js';
import { digestOf } from '../digest.js';
import { isLpsError } from '../errors.js';
import { keyFor } from '../key.js';
import { openS3Store, type S3StoreOptions } from './s3.js';
import { emptySha256, escapePath, s3Presigner, s3Signer } from './s3-signature.js';
import { openRawS3Store } from './s3-store.js';

const gateway = await startVersitygw();
const versioned = await startVersitygw({ versioning: true });
afterAll(async () => {
  await gateway?.stop();
  await versioned?.stop();
});

function optionsFor(server: Versitygw, more: Partial<S3StoreOptions> = {}): S3StoreOptions {
  const { endpoint, region, bucket, accessKeyId, secretAccessKey } = server;
  return { endpoint, region, bucket, credentials: { accessKeyId, secretAccessKey }, ...more };
}

function sample(size = 50_000) {
  const bytes = randomBytes(size);
  const digest = digestOf(bytes);
  return { key: keyFor('tests', digest, null), bytes, expect: { digest, size } };
}

async function fails(promise: Promise<unknown>, code: string, s3Code?: string): Promise<void> {
  await assert.rejects(promise, (error: unknown) => {
    assert.ok(isLpsError(error), String(error));
    assert.equal(error.code, code, error.message);
    if (s3Code !== undefined) assert.equal(error.details.s3Code, s3Code);
    return true;
  });
}

async function keysOf(store: BlobStore, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix)) keys.push(key);
  return keys;
}

const asFiles =
  'versitygw keeps objects as files: no part of a name over 255 bytes, doubled slashes are one; all names: s3-model.test.ts';

type Skips = { test: string; reason: string }[];

function testOnGateway(name: string, server: Versitygw, more: Partial<S3StoreOptions>, skipMore: Skips = []): void {
  const open = async () => {
    const store = await openS3Store(optionsFor(server, more));
    return { store, close: async () => store.close?.() };
  };
  const skip = [{ test: 'keeps names apart and returns them as they were', reason: asFiles }, ...skipMore];
  testBlobStore(name, open, { runner: { describe, it }, skip });
}

if (gateway !== undefined) {
  testOnGateway('s3', gateway, { prefix: 'one' });
  // the keys' own names: this server drops the slash at their beginning when it lists them
  testOnGateway('s3, without a prefix', gateway, {});
  testOnGateway('s3, HEAD before PUT', gateway, { prefix: 'two', conditionalPut: 'head', checksums: false }, [
    {
      test: 'lets one of two own objects win that come at once',
      reason: 'with HEAD before PUT two puts at once may both win, as S3StoreOptions says',
    },
  ]);
}
if (versioned !== undefined) testOnGateway('s3, with versions', versioned, { prefix: 'lps' });

describeWith(describe, 's3 on a real server', gateway, (server) => {
  async function withStore(more: Partial<S3StoreOptions>, run: (store: BlobStore) => Promise<void>): Promise<void> {
    const store = await openRawS3Store(optionsFor(server, more));
    try {
      await run(store);
    } finally {
      await store.close?.();
    }
  }

  for (const checksums of [true, false]) {
    it(`has the bucket refuse wrong bytes, ${checksums ? 'by checksum' : 'by the signature alone'}`, async () => {
      await withStore({ checksums }, async (store) => {
        for (const size of [100, 3_000_000]) {
          const { key, bytes, expect } = sample(size);
          const wrong = Buffer.from(bytes);
          wrong[size >> 1] = (wrong[size >> 1] ?? 0) ^ 1;
          await fails(store.put(key, wrong, expect), 'DIGEST_MISMATCH');
          await fails(store.put(key, Readable.from([wrong]), expect), 'DIGEST_MISMATCH');
          assert.equal(await store.head(key), undefined);
          assert.deepEqual(await keysOf(store, key), []);
        }
      });
    });
  }

  it('signs names of any kind as the server does', async () => {
    await withStore({}, async (store) => {
      for (const name of ['a+b', 'a b', 'a%20b', 'a%2Fb', 'ünï-✓-日本', '~', "*'()!", '*?"<>|:', '&=;@$,', '😀']) {
        const { bytes, expect } = sample(20);
        const key = keyFor(name, expect.digest, null);
        assert.equal((await store.put(key, bytes, expect)).outcome, 'created', name);
        const found = await store.get(key);
        assert.deepEqual(found && Buffer.from(await readAll(found.body, 100)), bytes, name);
        assert.deepEqual(await keysOf(store, `/blobs/${name}/`), [key]);
        assert.equal(await store.delete(key), true);
      }
    });
  });

  it('reports keys and buckets that are not right', async () => {
    const { key } = sample();
    const { accessKeyId, secretAccessKey } = server;
    const right = { accessKeyId, secretAccessKey };
    const open = (more: Partial<S3StoreOptions>) => withStore(more, async (store) => void (await store.get(key)));
    await fails(open({ credentials: { ...right, accessKeyId: 'nobody' } }), 'STORE_REFUSED');
    await fails(open({ credentials: { ...right, secretAccessKey: 'x' } }), 'STORE_REFUSED', 'SignatureDoesNotMatch');
    await fails(open({ bucket: 'no-such-bucket' }), 'STORE_REFUSED', 'NoSuchBucket');
  });

  it('is ready while its bucket is there', async () => {
    await withStore({}, async (store) => store.ready?.());
  });
});

describeWith(describe, 's3 with versions', versioned, (server) => {
  it('tells what the settings of its bucket do', async () => {
    const store = await openS3Store(optionsFor(server));
    const settings = await store.settings?.();
    assert.equal(settings?.versioning, 'on');
    assert.equal(settings?.retention, false);
    assert.ok(Math.abs(settings?.clockSkewMs ?? Number.NaN) <= 1000);
    await store.close?.();
  });

  it('deletes every version and marker of a key, and of no other', async () => {
    const store = await openS3Store(optionsFor(server, { prefix: 'delete' }));
    const client = await openS3Client(server);
    const versionsOf = async (key: string): Promise<number> => {
      const page = await client.send(new ListObjectVersionsCommand({ Bucket: server.bucket, Prefix: `delete${key}` }));
      return (page.Versions?.length ?? 0) + (page.DeleteMarkers?.length ?? 0);
    };
    try {
      assert.equal(store.can.versions, true);
      const { key, bytes, expect } = sample(1000);
      const neighbour = `${key}~0123456789abcdef`;
      await store.put(neighbour, bytes, expect);
      for (let round = 0; round < 3; round += 1) await store.put(key, bytes, expect, { overwrite: true });
      await client.send(new DeleteObjectCommand({ Bucket: server.bucket, Key: `delete${key}` }));
      assert.equal(await versionsOf(key), 5, 'three versions, one marker, the neighbour');
      assert.equal(await store.countVersions?.(key), 4);
      assert.equal(await store.delete(key), true);
      assert.equal(await versionsOf(key), 1);
      assert.equal(await store.countVersions?.(key), 0);
      assert.equal(await store.countVersions?.(neighbour), 1);
      assert.equal(await store.head(key), undefined);
      assert.equal(await store.delete(key), false);
      assert.equal((await store.head(neighbour))?.size, 1000);
    } finally {
      client.destroy();
      await store.close?.();
    }
  });
});

describeWith(describe, 's3 with many versions', versioned, (server) => {
  it('deletes more of them than a list has on a page', async () => {
    const store = await openS3Store(optionsFor(server, { prefix: 'many' }));
    try {
      const { key, bytes, expect } = sample(1);
      const neighbours = [`${key}~0123456789abcdef`, `${key}~fedcba9876543210`];
      for (const name of neighbours) await store.put(name, bytes, expect);
      const slots = new Slots(16);
      const signal = manyListeners(new AbortController().signal);
      const write = () => slots.run(signal, () => store.put(key, bytes, expect, { overwrite: true }));
      await Promise.all(Array.from({ length: 1010 }, write));
      assert.equal(await store.countVersions?.(key), 1010);
      assert.equal(await store.delete(key), true);
      assert.equal(await store.countVersions?.(key), 0);
      for (const name of neighbours) assert.equal(await store.countVersions?.(name), 1);
    } finally {
      await store.close?.();
    }
  });

  it('finds those of an object that is hidden, also where names lose their leading slash and nothing else tells', async () => {
    await server.createBucket('hidden');
    const open = () => openS3Store(optionsFor(server, { bucket: 'hidden' }));
    const store = await open();
    const client = await openS3Client(server);
    const { key, bytes, expect } = sample(10);
    const other = sample(10);
    await store.put(key, bytes, expect);
    await store.put(other.key, other.bytes, other.expect);
    await store.delete(other.key);
    await client.send(new DeleteObjectCommand({ Bucket: 'hidden', Key: key }));
    await store.close?.();
    const later = await open();
    // the marker alone: versitygw lists older versions of such names only once that is gone
    assert.equal(await later.countVersions?.(key), 1);
    assert.equal(await later.delete(key), true);
    assert.equal(await later.countVersions?.(key), 0);
    const left = await client.send(new ListObjectVersionsCommand({ Bucket: 'hidden' }));
    assert.deepEqual([left.Versions, left.DeleteMarkers], [undefined, undefined]);
    client.destroy();
    await later.close?.();
  });
});

describe('s3 signature', () => {
  it('is the one of the AWS SDK', async () => {
    const credentials = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' };
    const now = new Date('2026-02-03T04:05:06.789Z');
    for (const sessionToken of [undefined, 'token/+=']) {
      const keys = { ...credentials, ...(sessionToken === undefined ? {} : { sessionToken }) };
      const client = new S3Client({ region: 'eu-west-3', credentials: keys });
      const signer = await client.config.signer({
        name: 'sigv4',
        signingName: 's3',
        signingRegion: 'eu-west-3',
        properties: {},
      });
      for (const name of ['x', '/blobs/a+b/c', "%20 ~*'()!$&=é✓😀", 'a//b/']) {
        const headers = {
          host: 'bucket.example',
          'if-none-match': '*',
          'x-amz-meta': '  two   spaces ',
          'content-length': '5',
        };
        const path = `/bucket/${escapePath(name)}`;
        const ours = s3Signer('eu-west-3')(
          { method: 'PUT', path, query: 'versionId=a%2Bb', headers, bodySha256: emptySha256 },
          keys,
          now,
        );
        const theirs = await signer.sign(
          {
            method: 'PUT',
            protocol: 'https:',
            hostname: 'bucket.example',
            path,
            query: { versionId: 'a+b' },
            headers: { ...headers, 'x-amz-content-sha256': emptySha256 },
          },
          { signingDate: now },
        );
        assert.equal(ours.authorization, theirs.headers.authorization, name);
        assert.equal(ours['x-amz-date'], theirs.headers['x-amz-date']);
        assert.equal(ours['x-amz-security-token'], sessionToken);
      }
      client.destroy();
    }
  });

  it('changes with the day and with the keys', () => {
    const request = { method: 'GET', path: '/', query: '', headers: { host: 'x' }, bodySha256: emptySha256 };
    const [today, tomorrow] = [new Date('2026-02-03T23:59:59Z'), new Date('2026-02-04T00:00:00Z')];
    const keys = { accessKeyId: 'a', secretAccessKey: 'one' };
    const reused = s3Signer('r');
    for (const [secretAccessKey, now] of [
      ['one', today],
      ['one', tomorrow],
      ['two', tomorrow],
      ['one', today],
    ] as const) {
      const signed = (signer: typeof reused) => signer(request, { ...keys, secretAccessKey }, now).authorization;
      assert.equal(signed(reused), signed(s3Signer('r')));
    }
  });
});

describe('s3 presigned requests', () => {
  it('are signed as in the example of the documentation', () => {
    const keys = { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY' };
    const request = { method: 'GET', path: '/test.txt', headers: { host: 'examplebucket.s3.amazonaws.com' } };
    const query = s3Presigner('us-east-1')(request, keys, 86_400, new Date('2013-05-24T00:00:00Z'));
    assert.equal(
      new URLSearchParams(query).get('X-Amz-Signature'),
      'aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404',
    );
  });

  it('cannot be had where the bucket would not look', async () => {
    const keys = { accessKeyId: 'a', secretAccessKey: 'b' };
    const presigned = { bucket: 'b', endpoint: 'http://127.0.0.1:9', credentials: keys };
    for (const setting of [{ checksums: false }, { conditionalPut: 'head' }] as const) {
      const store = await openS3Store({ ...presigned, ...setting });
      assert.equal(store.presignPut, undefined);
      assert.ok(store.presignGet);
      await store.close?.();
    }
  });

  it('end with the keys that they were signed with', async () => {
    const expiration = new Date(Date.now() + 60_000);
    const credentials = async () => ({ accessKeyId: 'a', secretAccessKey: 'b', sessionToken: 'c', expiration });
    const store = await openS3Store({ bucket: 'b', endpoint: 'http://127.0.0.1:9', credentials });
    const { expiresAt, url } = (await store.presignGet?.(sample().key, { expiresInMs: 900_000 })) ?? {};
    assert.deepEqual(expiresAt, expiration);
    assert.equal(new URL(url ?? '').searchParams.get('X-Amz-Security-Token'), 'c');
    await store.close?.();
  });
});

describeWith(describe, 's3 presigned requests, on a real server', gateway, (server) => {
  const lifetime = { expiresInMs: 60_000 };

  async function presigning(
    run: (store: Required<Pick<BlobStore, 'presignPut' | 'presignGet'>> & BlobStore) => Promise<void>,
  ) {
    const store = await openS3Store(optionsFor(server, { prefix: 'direct/' }));
    const { presignPut, presignGet } = store;
    assert.ok(presignPut && presignGet);
    try {
      await run({ ...store, presignPut, presignGet });
    } finally {
      await store.close?.();
    }
  }

  const send = async ({ method, url, headers }: PresignedRequest, body?: Uint8Array): Promise<Response> =>
    fetch(url, { method, headers, ...(body === undefined ? {} : { body }) });

  it('carry a blob into the bucket and out of it', () =>
    presigning(async (store) => {
      const { key, bytes, expect } = sample(300_000);
      assert.equal((await send(await store.presignPut(key, expect, lifetime), bytes)).status, 200);
      assert.deepEqual(Buffer.from(await readAll((await store.get(key))?.body ?? Buffer.alloc(0), 1e6)), bytes);
      const answer = await send(await store.presignGet(key, lifetime));
      assert.deepEqual(Buffer.from(await answer.arrayBuffer()), bytes);
    }));

  it('keep nothing of wrong bytes, fewer or more of them', () =>
    presigning(async (store) => {
      const { key, bytes, expect } = sample(300_000);
      const wrong = Buffer.from(bytes);
      wrong[7] = (wrong[7] ?? 0) ^ 1;
      const request = await store.presignPut(key, expect, lifetime);
      assert.equal((await send(request, wrong)).status, 400);
      for (const other of [bytes.subarray(1), Buffer.concat([bytes, bytes.subarray(0, 1)])]) {
        // an honest length of other bytes: no longer what was signed
        const headers = { ...request.headers, 'content-length': String(other.length) };
        assert.equal((await send({ ...request, headers }, other)).status, 403);
      }
      assert.equal(await store.head(key), undefined);
    }));

  it('leave alone what stands there', () =>
    presigning(async (store) => {
      const { key, bytes, expect } = sample();
      const request = await store.presignPut(key, expect, lifetime);
      assert.equal((await send(request, bytes)).status, 200);
      assert.equal((await send(request, bytes)).status, 412);
    }));

  it('are refused with anything changed or left out, for another key, or too late', () =>
    presigning(async (store) => {
      const { key, bytes, expect } = sample();
      const request = await store.presignPut(key, expect, lifetime);
      for (const name of ['x-amz-checksum-sha256', 'if-none-match']) {
        const { [name]: _, ...headers } = request.headers;
        assert.equal((await send({ ...request, headers }, bytes)).status, 403, name);
      }
      const forged = { ...request.headers, 'x-amz-checksum-sha256': Buffer.alloc(32).toString('base64') };
      assert.equal((await send({ ...request, headers: forged }, bytes)).status, 403);
      const elsewhere = request.url.replace('/common/', '/custom/');
      assert.equal((await send({ ...request, url: elsewhere }, bytes)).status, 403);

      const { host, origin, pathname: path } = new URL(request.url);
      const past = new Date(Date.now() - 120_000);
      const query = s3Presigner(server.region)(
        { method: 'PUT', path, headers: { ...request.headers, host } },
        server,
        60,
        past,
      );
      assert.equal((await send({ ...request, url: `${origin}${path}?${query}` }, bytes)).status, 403);
      assert.equal(await store.head(key), undefined);
    }));

  it('leave the bucket a digest that a head gives, as every put does, and objects of others have none', () =>
    presigning(async (store) => {
      const [one, two, three] = [sample(), sample(), sample()];
      assert.equal((await send(await store.presignPut(one.key, one.expect, lifetime), one.bytes)).status, 200);
      await store.put(two.key, two.bytes, two.expect);
      for (const { key, expect } of [one, two]) assert.equal((await store.head(key))?.digest, expect.digest);
      const client = await openS3Client(server);
      await client.send(new PutObjectCommand({ Bucket: server.bucket, Key: three.key, Body: three.bytes }));
      client.destroy();
      assert.equal((await store.head(three.key))?.digest, undefined);
    }));

  it('last a second at least', () =>
    presigning(async (store) => {
      const { key, expect } = sample();
      await fails(store.presignPut(key, expect, { expiresInMs: 999 }), 'INVALID_ARGUMENT');
      await fails(store.presignGet(key, { expiresInMs: Number.NaN }), 'INVALID_ARGUMENT');
      await fails(store.presignGet('/etc/passwd', lifetime), 'INVALID_KEY');
      await fails(
        store.presignPut(key, { ...expect, digest: digestOf(Buffer.from('x')) }, lifetime),
        'INVALID_ARGUMENT',
      );
    }));
});
