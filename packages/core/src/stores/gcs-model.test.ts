/** The store against a model of Google Cloud Storage in this process, which fails when it is told to. */
import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { afterEach, describe, it } from 'vitest';
import type { BlobStore } from '../blob-store.js';
import { readAll } from '../body.js';
import { testBlobStore } from '../conformance.js';
import type { ErrorCode } from '../errors.js';
import { type GcsStoreOptions, openGcsStore } from './gcs.js';
import { type GcsModel, refuse, startGcsModel } from './gcs-model-fixture.js';
import type { GcsSdk } from './gcs-sdk.js';
import { openRawGcsStore } from './gcs-store.js';
import {
  answer,
  cutShort,
  endless,
  failure,
  type Handler,
  keysOf,
  reset,
  sample,
  silent,
  unheard,
} from './model-server-fixture.js';

const cleanUps: (() => Promise<void> | undefined)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function withModel(
  more: Partial<GcsStoreOptions> = {},
  prepare: (model: GcsModel) => unknown = () => {},
): Promise<{ model: GcsModel; store: BlobStore }> {
  const model = await startGcsModel();
  cleanUps.push(() => model.stop());
  prepare(model);
  const store = await openRawGcsStore({ endpoint: model.endpoint, bucket: 'bucket', ...more });
  cleanUps.push(() => store.close?.());
  model.seen.length = 0; // those of the opening
  return { model, store };
}

const failing =
  (status: number, reason: string, message?: string): Handler =>
  (_, response) =>
    refuse(response, status, reason, message);

testBlobStore(
  'gcs, on a model of GCS with versions',
  async () => {
    const model = await startGcsModel();
    model.bucket = { versioning: { enabled: true } };
    const store = await openGcsStore({ endpoint: model.endpoint, bucket: 'bucket' });
    return { store, close: () => model.stop() };
  },
  { runner: { describe, it } },
);

describe('gcs put', () => {
  it('is one request, which lets the bucket refuse it', async () => {
    const { model, store } = await withModel({ prefix: 'p' });
    const { key, bytes, expect } = sample();
    assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
    assert.equal(model.seen.length, 1);
    assert.match(model.seen[0]?.url ?? '', /uploadType=multipart&ifGenerationMatch=0/);
    assert.deepEqual(model.live(`p${key}`), bytes);
    assert.equal((await store.put(key, bytes, expect)).outcome, 'exists');
    assert.equal((await store.put(key, bytes, expect, { overwrite: true })).outcome, 'created');
    assert.doesNotMatch(model.seen[2]?.url ?? '', /ifGenerationMatch/);
  });

  it('has the bucket refuse bytes that changed on their way', async () => {
    const { model, store } = await withModel();
    model.corrupt = (bytes) => Buffer.concat([bytes.subarray(1), Buffer.from('x')]);
    const { key, bytes, expect } = sample();
    await failure(store.put(key, bytes, expect), 'DIGEST_MISMATCH');
    assert.equal(model.live(key), undefined);
    assert.equal(model.seen.length, 1, 'nothing had to be removed');
  });

  it('removes what has another size, where GCS tells no MD5', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample();
    model.faults.push((_, response) => answer(response, 200, JSON.stringify({ size: '49999', generation: '7' })));
    await failure(store.put(key, bytes, expect), 'DIGEST_MISMATCH');
    assert.match(model.seen[1]?.url ?? '', /generation=7$/);
  });

  it('removes a stream that came out wrong, and that one only', async () => {
    const { model, store } = await withModel({}, (prepared) => {
      prepared.bucket = { versioning: { enabled: true } };
    });
    const { key, bytes, expect } = sample(300_000);
    for (const corrupt of [
      (right: Buffer) => Buffer.concat([right.subarray(1), Buffer.from('x')]),
      (right: Buffer) => right.subarray(1),
    ]) {
      model.corrupt = corrupt;
      await failure(store.put(key, Readable.from([bytes]), expect), 'DIGEST_MISMATCH');
      assert.deepEqual(model.objects.get(key), []);
    }
    model.corrupt = (right) => right;
    assert.equal((await store.put(key, Readable.from([bytes]), expect)).outcome, 'created');
  });

  it('repeats bytes after 503 and resets, three times in all, and a stream never', async () => {
    const { model, store } = await withModel();
    for (const fault of [failing(503, 'backendError'), failing(500, 'internalError'), reset]) {
      for (const size of [1000, 300_000]) {
        const { key, bytes, expect } = sample(size);
        model.faults.push(fault, fault);
        assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
        assert.deepEqual(model.live(key), bytes);
      }
      const other = sample(300_000);
      model.faults.push(fault);
      const body = Readable.from([other.bytes]);
      await failure(store.put(other.key, body, other.expect), 'STORE_UNAVAILABLE');
      assert.ok(body.destroyed);
      assert.equal(model.live(other.key), undefined);
    }
    const small = sample(1000);
    model.faults.push(failing(503, 'backendError'));
    assert.equal((await store.put(small.key, Readable.from([small.bytes]), small.expect)).outcome, 'created');
    model.faults.push(...Array.from({ length: 9 }, () => failing(503, 'backendError')));
    const { key, bytes, expect } = sample();
    await failure(store.put(key, bytes, expect), 'STORE_UNAVAILABLE');
    assert.equal(model.faults.length, 6, 'three tries');
  });

  it('answers exists while the body is still flowing', async () => {
    const { model, store } = await withModel();
    model.faults.push(failing(412, 'conditionNotMet'));
    const body = endless();
    const { key, expect } = sample();
    assert.equal((await store.put(key, body, { ...expect, size: 1e9 })).outcome, 'exists');
    assert.ok(body.destroyed);
  });

  it('does not believe a 200 that comes before the bytes', async () => {
    const { model, store } = await withModel();
    model.faults.push((_, response) => answer(response, 200, '{}'));
    const { key, expect } = sample();
    await failure(store.put(key, endless(), { ...expect, size: 1e9 }), 'STORE_UNAVAILABLE');
  });

  it('is exists when the first try had succeeded unheard, or the 412 was lost', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample();
    model.faults.push(unheard(model.serve));
    assert.equal((await store.put(key, bytes, expect)).outcome, 'exists');
    const large = sample(300_000);
    model.add(large.key, large.bytes);
    model.faults.push(reset);
    assert.equal((await store.put(large.key, Readable.from([large.bytes]), large.expect)).outcome, 'exists');
    model.faults.push(reset);
    const mine = sample(300_000);
    await failure(store.put(mine.key, Readable.from([mine.bytes]), mine.expect), 'STORE_UNAVAILABLE');
  });

  it('is exists when GCS wants fewer puts of an object that is there by now', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample(300_000);
    model.add(key, bytes);
    model.faults.push(failing(429, 'rateLimitExceeded'));
    assert.equal((await store.put(key, Readable.from([bytes]), expect)).outcome, 'exists');
    const absent = sample(300_000);
    model.faults.push(failing(429, 'rateLimitExceeded'));
    await failure(store.put(absent.key, Readable.from([absent.bytes]), absent.expect), 'STORE_UNAVAILABLE');
    model.faults.push(failing(429, 'rateLimitExceeded'));
    const again = store.put(key, Readable.from([bytes]), expect, { overwrite: true });
    await failure(again, 'STORE_UNAVAILABLE');
  });

  it('gives up on a server that is silent', async () => {
    const { model, store } = await withModel({ idleTimeoutMs: 100 });
    const { key, bytes, expect } = sample(300_000);
    for (const body of [bytes, Readable.from([bytes])]) {
      model.faults.push(silent);
      const error = await failure(store.put(key, body, expect), 'STORE_UNAVAILABLE');
      assert.equal(error.details.timedOut, true);
      assert.equal(model.faults.length, 0);
    }
    assert.equal(model.seen.length, 2, 'a silence is not waited for again');
  });

  it('ends when it is aborted, whoever is to move', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample(300_000);
    for (const body of [bytes, Readable.from([bytes])]) {
      const abort = new AbortController();
      model.faults.push(() => abort.abort());
      await failure(store.put(key, body, expect, { signal: abort.signal }), 'ABORTED');
    }
    assert.equal(model.live(key), undefined);
  });
});

describe('gcs get and head', () => {
  it('fails a body that is cut short', async () => {
    const { model, store } = await withModel();
    for (const size of [1000, 3_000_000]) {
      const { key, bytes } = sample(size);
      model.faults.push(cutShort(bytes));
      const read = async () => readAll((await store.get(key))?.body ?? assert.fail(), 1e9);
      await failure(read(), 'STORE_UNAVAILABLE');
    }
  });

  it('gives up on a server that is silent, before an answer and within one', async () => {
    const { model, store } = await withModel({ idleTimeoutMs: 100 });
    const { key, bytes } = sample(1_000_000);
    model.faults.push(silent);
    assert.equal((await failure(store.get(key), 'STORE_UNAVAILABLE')).details.timedOut, true);
    model.faults.push((_, response) => {
      response.writeHead(200, { 'content-length': bytes.length });
      response.write(bytes.subarray(0, 10));
    });
    const found = await store.get(key);
    const error = await failure(readAll(found?.body ?? assert.fail(), 1e9), 'STORE_UNAVAILABLE');
    assert.equal(error.details.timedOut, true);
  });

  it('does not take a missing bucket, or a proxy’s 404, for a missing blob', async () => {
    const { model, store } = await withModel();
    const { key } = sample();
    assert.equal(await store.get(key), undefined);
    assert.equal(await store.head(key), undefined);
    assert.equal(model.seen.length, 2, 'GCS says that it is the object');
    const noBucket = 'The specified bucket does not exist.';
    for (const read of [() => store.get(key), () => store.head(key)]) {
      // the description, or the bytes and then it; then the list
      model.faults.push((_, response) => answer(response, 404, '<html>nginx</html>'));
      model.faults.push((_, response) => answer(response, 404, '<html>nginx</html>'));
      await failure(read(), 'STORE_REFUSED');
      model.faults.length = 0;
      model.faults.push(...Array.from({ length: 3 }, () => failing(404, 'notFound', noBucket)));
      assert.match((await failure(read(), 'STORE_REFUSED')).message, /bucket does not exist/);
      model.faults.length = 0;
    }
    // a server that says less, as fake-gcs-server: the bucket is there
    model.faults.push(failing(404, 'notFound', 'Not Found'));
    assert.equal(await store.head(key), undefined);
  });

  it('takes only answers whose size is known', async () => {
    const { model, store } = await withModel();
    const { key } = sample();
    const range = { start: 0, end: 2 };
    model.faults.push((_, response) => response.writeHead(200, { 'transfer-encoding': 'chunked' }).end('x'));
    await failure(store.get(key), 'STORE_UNAVAILABLE');
    // a server that does not know ranges
    model.faults.push((_, response) => answer(response, 200, 'all of it'));
    await failure(store.get(key, { range }), 'STORE_UNAVAILABLE');
    model.faults.push((_, response) => answer(response, 200, '{}'));
    await failure(store.head(key), 'STORE_UNAVAILABLE');
    model.faults.push((_, response) => answer(response, 200, 'no JSON'));
    await failure(store.head(key), 'STORE_UNAVAILABLE');
  });
});

describe('gcs list and delete', () => {
  it('repeats pages that fail, and keeps to its prefix', async () => {
    const { model, store } = await withModel({ prefix: 'p/' });
    const samples = Array.from({ length: 250 }, () => sample(10));
    for (const { key, bytes } of samples) model.add(`p/${key}`, bytes);
    model.add(sample().key, Buffer.from('another’s'));
    model.faults.push(failing(503, 'backendError'), (request) => void request.socket.destroy());
    const keys = samples.map(({ key }) => key).sort();
    assert.deepEqual(await keysOf(store, '/blobs/'), keys);
    model.faults.push(failing(403, 'forbidden'));
    await failure(keysOf(store, '/blobs/'), 'STORE_REFUSED');
  });

  it('removes every generation, the readable one last, also of versions that were switched on later', async () => {
    const { model, store } = await withModel();
    assert.equal(store.can.versions, false);
    model.bucket = { versioning: { enabled: true } };
    const { key, bytes, expect } = sample();
    for (let round = 0; round < 3; round += 1) await store.put(key, bytes, expect, { overwrite: true });
    const generations = model.objects.get(key)?.map(({ generation }) => generation) ?? [];
    model.add(`${key}~0123456789abcdef`, bytes);
    model.seen.length = 0;
    assert.equal(await store.delete(key), true);
    const deleted = model.seen.flatMap(({ method, url }) =>
      method === 'DELETE' ? [url?.split('generation=')[1]] : [],
    );
    assert.deepEqual(deleted, generations);
    assert.deepEqual(model.objects.get(key), []);
    assert.ok(model.live(`${key}~0123456789abcdef`));
    assert.equal(store.can.versions, true);
    assert.equal(await store.delete(key), false);
  });

  it('counts what stands at a name, and what is soft-deleted when that is asked for', async () => {
    const { model, store } = await withModel({ prefix: 'p' });
    model.bucket = { versioning: { enabled: true }, softDeletePolicy: { retentionDurationSeconds: '604800' } };
    const { key, bytes, expect } = sample();
    for (let round = 0; round < 3; round += 1) await store.put(key, bytes, expect, { overwrite: true });
    model.add(`p${key}~0123456789abcdef`, bytes);
    const counts = async () => [
      await store.countVersions?.(key),
      await store.countVersions?.(key, { withUnreachable: true }),
    ];
    assert.deepEqual(await counts(), [3, 3]);
    await store.delete(key);
    assert.deepEqual(await counts(), [0, 3]);
    assert.equal(await store.countVersions?.(`${key}~0123456789abcdef`, { withUnreachable: true }), 1);
  });

  it('does not mind that another deletes at the same time', async () => {
    const { model, store } = await withModel();
    const { key, bytes } = sample();
    model.add(key, bytes);
    model.faults.push(model.serve, failing(404, 'notFound', `No such object: bucket/${key}`));
    assert.equal(await store.delete(key), true);
    // what is protected is not deleted
    model.faults.push(model.serve, failing(403, 'retentionPolicyNotMet'));
    assert.equal((await failure(store.delete(key), 'STORE_REFUSED')).details.gcsReason, 'retentionPolicyNotMet');
  });
});

describe('gcs settings', () => {
  it('are read from the bucket', async () => {
    const { model, store } = await withModel();
    model.bucket = {
      versioning: { enabled: true },
      softDeletePolicy: { retentionDurationSeconds: '604800' },
      retentionPolicy: { retentionPeriod: '100' },
      lifecycle: {
        rule: [
          { action: { type: 'Delete' }, condition: { age: 30, matchesPrefix: ['a/', 'b/'] } },
          { action: { type: 'Delete' }, condition: { daysSinceNoncurrentTime: 7 } },
          { action: { type: 'Delete' }, condition: { numNewerVersions: 2 } },
          { action: { type: 'SetStorageClass', storageClass: 'NEARLINE' }, condition: { age: 90 } },
          { action: { type: 'AbortIncompleteMultipartUpload' }, condition: { age: 1 } },
        ],
      },
    };
    model.faults.push((_, response) => {
      answer(response, 400, '', { date: new Date(Date.now() - 3_600_000).toUTCString() });
    });
    const { clockSkewMs = 0, ...settings } = (await store.settings?.()) ?? {};
    assert.ok(Math.abs(clockSkewMs + 3_600_000) <= 1000, `${clockSkewMs}`);
    assert.deepEqual(settings, {
      versioning: 'on',
      softDeleteDays: 7,
      retention: true,
      lifecycle: [
        { id: 'rule 1', prefix: 'a/', action: 'delete', afterDays: 30 },
        { id: 'rule 1', prefix: 'b/', action: 'delete', afterDays: 30 },
        { id: 'rule 2', prefix: '', action: 'delete-old-versions', afterDays: 7 },
        { id: 'rule 3', prefix: '', action: 'delete-old-versions' },
        { id: 'rule 4', prefix: '', action: 'transition', afterDays: 90, storageClass: 'NEARLINE' },
        { id: 'rule 5', prefix: '', action: 'abort-uploads', afterDays: 1 },
      ],
    });
    model.bucket = { softDeletePolicy: { retentionDurationSeconds: '0' } };
    const plain = await store.settings?.();
    assert.deepEqual([plain?.versioning, plain?.softDeleteDays, plain?.retention], ['off', 0, false]);
  });

  it('are absent where they may not be read', async () => {
    const { model, store } = await withModel({}, ({ faults }) => faults.push(failing(403, 'forbidden')));
    assert.equal(store.can.versions, false);
    model.faults.push((_, response) => answer(response, 400), failing(403, 'forbidden'));
    assert.deepEqual(Object.keys((await store.settings?.()) ?? {}), ['clockSkewMs']);
    await model.stop();
    await failure(store.settings?.(), 'STORE_UNAVAILABLE');
  });
});

describe('gcs errors', () => {
  const table: [number, string, ErrorCode][] = [
    [400, 'invalid', 'STORE_REFUSED'],
    [401, 'authError', 'STORE_REFUSED'],
    [403, 'forbidden', 'STORE_REFUSED'],
    [403, 'rateLimitExceeded', 'STORE_UNAVAILABLE'],
    [404, 'notFound', 'STORE_REFUSED'],
    [408, 'timeout', 'STORE_UNAVAILABLE'],
    [409, 'conflict', 'TRY_AGAIN'],
    [413, 'uploadTooLarge', 'BLOB_TOO_LARGE'],
    [429, 'rateLimitExceeded', 'STORE_UNAVAILABLE'],
    [501, 'notImplemented', 'STORE_REFUSED'],
    [502, '', 'STORE_UNAVAILABLE'],
    [503, 'backendError', 'STORE_UNAVAILABLE'],
    [507, '', 'STORE_FULL'],
  ];
  for (const [status, reason, code] of table) {
    it(`calls ${status} ${reason} ${code}`, async () => {
      const { model, store } = await withModel();
      const { key, bytes, expect } = sample(300_000);
      model.faults.push(failing(status, reason));
      const error = await failure(store.put(key, Readable.from([bytes]), expect), code);
      assert.equal(error.details.status, status);
      if (reason !== '') assert.equal(error.details.gcsReason, reason);
    });
  }

  it('leaves a long wait to the caller', async () => {
    const { model, store } = await withModel();
    model.faults.push((_, response) => answer(response, 503, '', { 'retry-after': '7' }));
    assert.equal((await failure(store.get(sample().key), 'STORE_UNAVAILABLE')).details.retryAfterMs, 7000);
    assert.equal(model.seen.length, 1);
  });
});

describe('gcs opening', () => {
  it('says what to install', async () => {
    const missing = () => Promise.reject(Object.assign(new Error('no'), { code: 'ERR_MODULE_NOT_FOUND' }));
    const error = await failure(openRawGcsStore({ bucket: 'b' }, missing), 'CONFIG_INVALID');
    assert.match(error.message, /npm install @google-cloud\/storage/);
  });

  it('goes on without a bucket that is away, and not with one that does not exist', async () => {
    const down = failing(503, 'backendError');
    const { store } = await withModel({}, ({ faults }) => faults.push(down, down, down));
    await store.ready?.();
    await assert.rejects(withModel({ bucket: 'no-such' }), /bucket does not exist/);
  });
});

describe('gcs credentials', () => {
  /** An SDK whose credentials are those that `headers` gives. */
  function sdkWith(headers: () => Promise<object>, client: () => Promise<unknown> = async () => ({})): GcsSdk {
    return {
      Storage: class {
        readonly apiEndpoint: string;
        readonly authClient = {
          ...{ getClient: client, getRequestHeaders: headers },
          getCredentials: async () => ({}),
          sign: () => assert.fail('nothing is to be signed'),
        };
        constructor({ apiEndpoint = 'https://storage.googleapis.com' }: { apiEndpoint?: string }) {
          this.apiEndpoint = apiEndpoint;
        }
      },
    };
  }

  async function withSdk(sdk: GcsSdk, more: Partial<GcsStoreOptions> = {}) {
    const model = await startGcsModel();
    cleanUps.push(() => model.stop());
    const store = await openRawGcsStore({ endpoint: model.endpoint, bucket: 'bucket', ...more }, async () => sdk);
    cleanUps.push(() => store.close?.());
    return { model, store };
  }

  it('go with every request, also where the library gives them as an object of class Headers', async () => {
    let asked = 0;
    const given = async () =>
      ++asked % 2 ? { Authorization: `Bearer ${asked}` } : new Headers({ Authorization: `Bearer ${asked}` });
    const { model, store } = await withSdk(sdkWith(given), { keyFile: 'key.json' });
    const { key, bytes, expect } = sample();
    await store.put(key, bytes, expect);
    await store.get(key);
    assert.deepEqual(
      model.seen.map(({ headers }) => headers.authorization),
      ['Bearer 1', 'Bearer 2', 'Bearer 3'],
    );
  });

  it('stay away from servers that are not Google’s', async () => {
    const { model, store } = await withSdk(sdkWith(() => assert.fail('asked')));
    await store.get(sample().key);
    assert.ok(model.seen.every(({ headers }) => headers.authorization === undefined));
  });

  it('are needed at the opening', async () => {
    const none = () => Promise.reject(new Error('Could not load the default credentials.'));
    const error = await failure(withSdk(sdkWith(none, none), { keyFile: 'key.json' }), 'CONFIG_INVALID');
    assert.match(error.message, /there are no Google credentials: Could not load/);
  });

  it('may fail later, or never come: the body is let go of, and nothing hangs', async () => {
    let give: () => Promise<object> = async () => ({});
    const { store } = await withSdk(
      sdkWith(() => give()),
      { keyFile: 'key.json', idleTimeoutMs: 100 },
    );
    const { key, bytes, expect } = sample(300_000);
    give = () => Promise.reject(new Error('the metadata server is down'));
    const body = Readable.from([bytes]);
    await failure(store.put(key, body, expect), 'STORE_UNAVAILABLE');
    assert.ok(body.destroyed);
    give = () => new Promise(() => {});
    assert.equal((await failure(store.get(key), 'STORE_UNAVAILABLE')).details.timedOut, true);
    const abort = new AbortController();
    const get = store.get(key, { signal: abort.signal });
    abort.abort();
    await failure(get, 'ABORTED');
  });
});
