/**
 * The store against a model of S3 in this process: it keeps names as S3 does, and fails when it is told to.
 * Signatures and checksums are proven on a real server, in s3.test.ts.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { afterEach, describe, it } from 'vitest';
import type { BlobStore } from '../blob-store.js';
import { readAll } from '../body.js';
import { testBlobStore } from '../conformance.js';
import { base64Of, digestOf } from '../digest.js';
import { type ErrorCode, isLpsError, type LpsError } from '../errors.js';
import { keyFor } from '../key.js';
import { openTransport } from '../transport.js';
import { openS3Store, type S3StoreOptions } from './s3.js';
import { openSdk } from './s3-sdk.js';
import { newObjectHeaders, openRawS3Store } from './s3-store.js';

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

interface S3Model {
  readonly endpoint: string;
  readonly objects: Map<string, Buffer>;
  /** Every request so far, without those of the opening. */
  readonly seen: IncomingMessage[];
  /** Each takes one request on an object, in turn, instead of the model. */
  readonly faults: Handler[];
  /** The same for lists and questions about the bucket. */
  readonly listFaults: Handler[];
  /** Of every name that is asked for: kind and version, newest first. */
  readonly versions: ['Version' | 'DeleteMarker', string][];
  /** Under which name an object is kept. */
  nameOf: (name: string) => string;
  /** Serves a request as S3 would. */
  serve: Handler;
  serveList: Handler;
  stop(): Promise<void>;
}

async function startModel(): Promise<S3Model> {
  const server = createServer((request, response) => {
    request.on('error', () => {});
    const { searchParams: query } = new URL(request.url ?? '', 'http://model');
    if (['list-type', 'versioning', 'versions', 'lifecycle', 'object-lock'].some((name) => query.has(name))) {
      (model.listFaults.shift() ?? model.serveList)(request, response);
    } else {
      model.seen.push(request);
      (model.faults.shift() ?? model.serve)(request, response);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const model: S3Model = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    objects: new Map(),
    seen: [],
    faults: [],
    listFaults: [],
    versions: [],
    nameOf: (name) => name,
    serve: (request, response) => void serveObject(model, request, response),
    serveList: ({ url = '' }, response) => {
      answer(response, 200, documentFor(model, new URL(url, 'http://model').searchParams));
    },
    async stop() {
      server.closeAllConnections();
      server.close();
    },
  };
  return model;
}

async function serveObject({ objects, nameOf }: S3Model, request: IncomingMessage, response: ServerResponse) {
  const { method, headers, url = '' } = request;
  const name = nameOf(decodeURIComponent(url.slice('/bucket/'.length)));
  const object = objects.get(name);
  if (method === 'PUT') {
    if (headers['if-none-match'] === '*' && object !== undefined) return refuse(response, 412, 'PreconditionFailed');
    const bytes = Buffer.from(await readAll(request, 2 ** 30).catch(() => Buffer.alloc(0)));
    if (base64Of(digestOf(bytes)) !== headers['x-amz-checksum-sha256']) return refuse(response, 400, 'BadDigest');
    // another may have come while these bytes did
    if (headers['if-none-match'] === '*' && objects.has(name)) return refuse(response, 412, 'PreconditionFailed');
    objects.set(name, bytes);
    return answer(response, 200, '');
  }
  if (name === '') return answer(response, 200, '');
  if (object === undefined) return refuse(response, 404, 'NoSuchKey');
  if (method === 'DELETE') {
    objects.delete(name);
    response.writeHead(204).end();
    return;
  }
  const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? [];
  if (start === undefined) return answer(response, 200, object);
  const part = object.subarray(Number(start), Number(end) + 1);
  response.setHeader('content-range', `bytes ${start}-${Number(start) + part.length - 1}/${object.length}`);
  answer(response, 206, part);
}

function documentFor({ objects, versions }: S3Model, query: URLSearchParams): string {
  if (query.has('versioning')) return '<VersioningConfiguration/>';
  if (!query.has('versions')) return listOf(objects, query);
  const entries = versions.map(
    ([kind, id]) => `<${kind}><Key>${query.get('prefix')}</Key><VersionId>${id}</VersionId></${kind}>`,
  );
  return `<ListVersionsResult><IsTruncated>false</IsTruncated>${entries.join('')}</ListVersionsResult>`;
}

function listOf(objects: Map<string, Buffer>, query: URLSearchParams): string {
  // S3 sorts by UTF-8 bytes; and encodes names as forms do, but for the slash
  const byBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));
  const encode = (name: string): string => new URLSearchParams([['', name]]).toString().slice(1).replaceAll('%2F', '/');
  const after = query.get('continuation-token') ?? query.get('start-after') ?? '';
  const names = [...objects.keys()].filter((name) => name.startsWith(query.get('prefix') ?? '')).sort(byBytes);
  const rest = names.filter((name) => byBytes(name, after) > 0);
  const page = rest.slice(0, Number(query.get('max-keys') ?? 100));
  const contents = page.map(
    (name) => `<Contents><Key>${encode(name)}</Key><Size>${objects.get(name)?.length}</Size></Contents>`,
  );
  const more = page.length < rest.length;
  const token = more ? `<NextContinuationToken>${escapeXml(page.at(-1) ?? '')}</NextContinuationToken>` : '';
  return `<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>${more}</IsTruncated>${token}${contents.join('')}</ListBucketResult>`;
}

function escapeXml(text: string): string {
  return text.replace(/[<>&"]/g, (char) => `&#${char.charCodeAt(0)};`);
}

function answer(response: ServerResponse, status: number, body: string | Buffer): void {
  response.writeHead(status, { 'content-length': Buffer.byteLength(body) }).end(body);
}

function refuse(response: ServerResponse, status: number, code: string, more = ''): void {
  answer(response, status, `<?xml version="1.0"?><Error><Code>${code}</Code><Message>because</Message>${more}</Error>`);
}

const failing =
  (status: number, code: string, more = ''): Handler =>
  (_, response) =>
    refuse(response, status, code, more);
const reset: Handler = (request) => void request.once('data', () => request.socket.resetAndDestroy());

const credentials = { accessKeyId: 'key', secretAccessKey: 'secret' };
const cleanUps: (() => Promise<void> | undefined)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function withModel(
  more: Partial<S3StoreOptions> = {},
  prepare: (model: S3Model) => unknown = () => {},
): Promise<{ model: S3Model; store: BlobStore }> {
  const model = await startModel();
  prepare(model);
  cleanUps.push(() => model.stop());
  const store = await openRawS3Store({ endpoint: model.endpoint, bucket: 'bucket', credentials, ...more });
  cleanUps.push(
    () => model.stop(),
    () => store.close?.(),
  );
  return { model, store };
}

function sample(size = 50_000) {
  const bytes = randomBytes(size);
  const digest = digestOf(bytes);
  return { key: keyFor('tests', digest, null), bytes, expect: { digest, size } };
}

async function readList(store: BlobStore, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix)) keys.push(key);
  return keys;
}

async function failure(promise: Promise<unknown>, code?: ErrorCode): Promise<LpsError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.ok(isLpsError(error), String(error));
  if (code !== undefined) assert.equal(error.code, code, error.message);
  return error;
}

testBlobStore(
  's3, on a model of S3',
  async () => {
    const model = await startModel();
    const store = await openS3Store({ endpoint: model.endpoint, bucket: 'bucket', credentials });
    return { store, close: () => model.stop() };
  },
  { runner: { describe, it } },
);

describe('s3 put', () => {
  it('is one request, with everything that lets the bucket refuse it', async () => {
    const { model, store } = await withModel({
      encryption: { type: 'SSE-KMS', keyId: 'k1' },
      storageClass: 'STANDARD_IA',
    });
    const { key, bytes, expect } = sample();
    assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
    assert.equal(model.seen.length, 1);
    const { headers, url } = model.seen[0] ?? assert.fail();
    assert.equal(url, `/bucket/${key.replaceAll(':', '%3A')}`);
    assert.equal(headers['if-none-match'], '*');
    assert.equal(headers['x-amz-content-sha256'], expect.digest.slice(7));
    assert.equal(headers['x-amz-checksum-sha256'], base64Of(expect.digest));
    assert.equal(headers['content-length'], '50000');
    assert.equal(headers['x-amz-storage-class'], 'STANDARD_IA');
    assert.equal(headers['x-amz-server-side-encryption'], 'aws:kms');
    assert.equal(headers['x-amz-server-side-encryption-aws-kms-key-id'], 'k1');
    await store.put(key, bytes, expect, { overwrite: true });
    assert.equal(model.seen[1]?.headers['if-none-match'], undefined);
  });

  it('asks first where the server knows no conditions', async () => {
    const { model, store } = await withModel({ conditionalPut: 'head', checksums: false, prefix: 'p' });
    const { key, bytes, expect } = sample();
    model.objects.set(`p${key}`, bytes);
    const body = Readable.from([bytes]);
    assert.equal((await store.put(key, body, expect)).outcome, 'exists');
    assert.ok(body.destroyed);
    assert.deepEqual(
      model.seen.map(({ method }) => method),
      ['HEAD'],
    );
    model.objects.clear();
    model.faults.push(failing(404, ''), failing(200, ''), (_, response) => answer(response, 200, ''));
    assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
    const { headers, method } = model.seen.at(-1) ?? assert.fail();
    assert.deepEqual(
      [method, headers['if-none-match'], headers['x-amz-checksum-sha256']],
      ['PUT', undefined, undefined],
    );
  });

  it('repeats bytes after 503 and resets, and a stream never', async () => {
    const { model, store } = await withModel();
    for (const fault of [failing(503, 'SlowDown'), failing(500, 'InternalError'), reset]) {
      const { key, bytes, expect } = sample(300_000);
      model.faults.push(fault, fault);
      assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
      assert.deepEqual(model.objects.get(key), bytes);

      const other = sample(300_000);
      model.faults.push(fault);
      const body = Readable.from([other.bytes]);
      await failure(store.put(other.key, body, other.expect), 'STORE_UNAVAILABLE');
      assert.ok(body.destroyed);
      assert.equal(model.objects.has(other.key), false);
      assert.equal(model.faults.length, 0);
    }
    model.faults.push(...Array.from({ length: 9 }, () => failing(503, 'SlowDown')));
    const { key, bytes, expect } = sample();
    await failure(store.put(key, bytes, expect), 'STORE_UNAVAILABLE');
    assert.equal(model.faults.length, 6, 'three tries');
  });

  it('answers exists while the body is still flowing', async () => {
    const { model, store } = await withModel();
    model.faults.push((_, response) => refuse(response, 412, 'PreconditionFailed'));
    const { key, expect } = sample();
    const endless = new Readable({ read: () => void setImmediate(() => endless.push(Buffer.alloc(1000))) });
    const put = store.put(key, endless, { ...expect, size: 1e9 });
    assert.equal((await put).outcome, 'exists');
    assert.ok(endless.destroyed);
  });

  it('does not believe a 200 that comes before the bytes', async () => {
    const { model, store } = await withModel();
    model.faults.push((_, response) => answer(response, 200, ''));
    const endless = new Readable({ read: () => void setImmediate(() => endless.push(Buffer.alloc(1000))) });
    const { key, expect } = sample();
    await failure(store.put(key, endless, { ...expect, size: 1e9 }), 'STORE_UNAVAILABLE');
  });

  it('is exists when the first try had succeeded unheard', async () => {
    const { model, store } = await withModel({ idleTimeoutMs: 200 });
    const thenReset: Handler = (request, response) => {
      response.writeHead = () => request.socket.resetAndDestroy() as never;
      model.serve(request, response);
    };
    const { key, bytes, expect } = sample();
    model.faults.push(thenReset);
    assert.equal((await store.put(key, bytes, expect)).outcome, 'exists');

    const other = sample();
    const thenSilence: Handler = (request, response) => {
      response.end = () => response;
      response.writeHead = () => response;
      model.serve(request, response);
    };
    model.faults.push(thenSilence);
    const error = await failure(store.put(other.key, other.bytes, other.expect), 'STORE_UNAVAILABLE');
    assert.equal(error.details.timedOut, true, 'a silence is not waited for again');
    assert.equal((await store.put(other.key, other.bytes, other.expect)).outcome, 'exists');
  });

  it('settles a conflict of two puts', async () => {
    const { model, store } = await withModel();
    const conflict = failing(409, 'ConditionalRequestConflict');
    const { key, bytes, expect } = sample(300_000); // a smaller stream is gathered, and can be sent again
    model.faults.push(conflict);
    assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
    model.faults.push(conflict);
    assert.equal((await store.put(key, Readable.from([bytes]), expect)).outcome, 'exists');
    const other = sample(300_000);
    model.faults.push(conflict);
    await failure(store.put(other.key, Readable.from([other.bytes]), other.expect), 'TRY_AGAIN');
  });

  it('gathers a small stream, and sends it again when the server failed', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample(1000);
    model.faults.push(failing(503, 'SlowDown'));
    assert.equal((await store.put(key, Readable.from([bytes]), expect)).outcome, 'created');
    const short = sample(1000);
    await failure(store.put(short.key, Readable.from([short.bytes.subarray(1)]), short.expect), 'SIZE_MISMATCH');
    assert.equal(model.objects.has(short.key), false);
  });

  it('is exists when the 412 was lost with its connection', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample(300_000);
    model.objects.set(key, bytes);
    model.faults.push(reset);
    assert.equal((await store.put(key, Readable.from([bytes]), expect)).outcome, 'exists');
    model.faults.push(reset);
    const mine = sample(300_000);
    await failure(store.put(mine.key, Readable.from([mine.bytes]), mine.expect), 'STORE_UNAVAILABLE');
  });

  it('asks for new keys when the old ones have expired', async () => {
    let asked = 0;
    const provider = async () => ({
      ...credentials,
      accessKeyId: `key${++asked}`,
      expiration: new Date(Date.now() + 1e7),
    });
    const { model, store } = await withModel({ credentials: provider });
    model.faults.push(failing(400, 'ExpiredToken'));
    const { key, bytes, expect } = sample();
    assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
    const used = model.seen.map(({ headers }) => /Credential=(\w+)/.exec(headers.authorization ?? '')?.[1]);
    assert.deepEqual(used, ['key1', 'key2']);
  });

  it('lets go of the body when there are no keys any more', async () => {
    let down = false;
    const provider = async () => {
      if (down) throw new Error('the provider is down');
      return { ...credentials, expiration: new Date(Date.now() + 1000) };
    };
    const { store } = await withModel({ credentials: provider });
    down = true;
    const { key, bytes, expect } = sample();
    const body = Readable.from([bytes]);
    await failure(store.put(key, body, expect), 'STORE_UNAVAILABLE');
    assert.ok(body.destroyed);
  });
});

describe('s3 get and head', () => {
  it('fails a body that is cut short', async () => {
    const { model, store } = await withModel();
    for (const size of [1000, 3_000_000]) {
      const { key, bytes } = sample(size);
      model.objects.set(key, bytes);
      model.faults.push((request, response) => {
        response.writeHead(200, { 'content-length': size });
        response.write(bytes.subarray(0, size / 2), () => request.socket.end());
      });
      const read = async () => readAll((await store.get(key))?.body ?? assert.fail(), 1e9);
      await failure(read(), 'STORE_UNAVAILABLE');
    }
  });

  it('gives up on a server that hangs', async () => {
    const { model, store } = await withModel({ idleTimeoutMs: 100 });
    model.faults.push(() => {});
    assert.equal((await failure(store.get(sample().key), 'STORE_UNAVAILABLE')).details.timedOut, true);
  });

  it('does not take a missing bucket, or a proxy’s 404, for a missing blob', async () => {
    const { model, store } = await withModel();
    const { key } = sample();
    assert.equal(await store.get(key), undefined);
    model.faults.push(failing(404, 'NoSuchBucket'));
    assert.match((await failure(store.get(key), 'STORE_REFUSED')).message, /bucket does not exist/);
    model.faults.push((_, response) => answer(response, 404, '<html>nginx</html>'));
    await failure(store.get(key), 'STORE_REFUSED');
    model.faults.push(failing(404, ''), failing(404, ''));
    await failure(store.head(key), 'STORE_REFUSED');
  });

  it('takes only answers whose size is known', async () => {
    const { model, store } = await withModel();
    const { key } = sample();
    model.faults.push((_, response) => response.writeHead(200, { 'transfer-encoding': 'chunked' }).end('x'));
    await failure(store.get(key), 'STORE_UNAVAILABLE');
    // a server that does not know ranges
    model.faults.push((_, response) => answer(response, 200, 'all of it'));
    await failure(store.get(key, { range: { start: 0, end: 2 } }), 'STORE_UNAVAILABLE');
    model.faults.push((_, response) => {
      response
        .writeHead(206, { 'content-range': 'bytes 0-2/9', 'transfer-encoding': 'chunked' })
        .end('more than three');
    });
    await failure(store.get(key, { range: { start: 0, end: 2 } }), 'STORE_UNAVAILABLE');
  });
});

describe('s3 list and delete', () => {
  it('repeats what the SDK asks, too', async () => {
    const { model, store } = await withModel();
    const { key, bytes } = sample();
    model.objects.set(key, bytes);
    model.listFaults.push(failing(503, 'SlowDown'), (request) => void request.socket.destroy());
    assert.deepEqual(await readList(store, '/blobs/'), [key]);
    model.listFaults.push(failing(403, 'AccessDenied'));
    await failure(readList(store, '/blobs/'), 'STORE_REFUSED');
  });

  it('tells old blobs from new ones on a server that drops leading slashes, and on S3', async () => {
    for (const drops of [true, false]) {
      const { model, store } = await withModel();
      const { key, bytes, expect } = sample();
      const old = `blobs/${expect.digest}`;
      model.objects.set(old, bytes).set('.lps/catalog', bytes);
      if (drops) model.nameOf = (name) => name.replace(/^\//, '');
      else model.objects.set('blobs/elsewhere/common/x', bytes);
      assert.deepEqual(await readList(store, '/blobs/'), [], 'there are none yet');
      await store.put(key, bytes, expect);
      assert.deepEqual(await readList(store, '/blobs/'), [key]);
      assert.deepEqual(await readList(store, `/blobs/tests/`), [key]);
      assert.deepEqual(await readList(store, 'blobs/sha256:'), [old]);
      const others = drops ? [] : ['blobs/elsewhere/common/x'];
      assert.deepEqual((await readList(store, '')).sort(), ['.lps/catalog', key, ...others, old].sort());
    }
  });

  it('notices versions that were switched on after it was opened', async () => {
    const { model, store } = await withModel();
    const { key, bytes } = sample();
    model.objects.set(key, bytes);
    assert.equal(store.can.versions, false);
    model.faults.push((_, response) => {
      response.writeHead(404, { 'x-amz-delete-marker': 'true', 'x-amz-version-id': 'v2' }).end();
    });
    await store.head(key);
    assert.equal(store.can.versions, true);
    model.versions.push(['Version', 'v1'], ['DeleteMarker', 'v2']);
    model.seen.length = 0;
    model.faults.push(...['v1', 'v2'].map((): Handler => (_, response) => void response.writeHead(204).end()));
    model.faults.push(failing(404, ''));
    assert.equal(await store.delete(key), true);
    const deleted = model.seen.flatMap(({ method, url }) => (method === 'DELETE' ? [url?.split('?')[1]] : []));
    assert.deepEqual(deleted, ['versionId=v1', 'versionId=v2'], 'the marker last');
  });

  it('counts the object alone where the server has no versions, and does not guess where it may not ask', async () => {
    const { model, store } = await withModel();
    const { key, bytes } = sample();
    model.objects.set(key, bytes);
    const unknown = [failing(405, 'MethodNotAllowed'), failing(501, 'NotImplemented')];
    await readList(store, ''); // the store learns how names are listed
    for (const answer of unknown) {
      model.listFaults.push(answer);
      assert.equal(await store.countVersions?.(key), 1);
    }
    model.objects.delete(key);
    model.listFaults.push(failing(501, 'NotImplemented'));
    assert.equal(await store.countVersions?.(key), 0);
    model.listFaults.push(failing(403, 'AccessDenied'));
    await failure(store.countVersions?.(key) ?? assert.fail(), 'STORE_REFUSED');
  });

  it('may not know about versions', async () => {
    for (const [status, code] of [
      [403, 'AccessDenied'],
      [501, 'NotImplemented'],
      [405, 'MethodNotAllowed'],
    ] as const) {
      const { store } = await withModel({}, (model) => model.listFaults.push(failing(status, code)));
      assert.equal(store.can.versions, false);
    }
    await assert.rejects(withModel({}, (model) => model.listFaults.push(failing(404, 'NoSuchBucket'))));
  });
});

describe('s3 settings', () => {
  const lifecycle = `<LifecycleConfiguration>
    <Rule><ID>old</ID><Status>Enabled</Status><Filter><Prefix>lps/</Prefix></Filter>
      <Expiration><Days>30</Days></Expiration><NoncurrentVersionExpiration><NoncurrentDays>7</NoncurrentDays></NoncurrentVersionExpiration>
      <Transition><Days>90</Days><StorageClass>GLACIER</StorageClass></Transition></Rule>
    <Rule><ID>tidy</ID><Status>Enabled</Status><Filter/>
      <AbortIncompleteMultipartUpload><DaysAfterInitiation>2</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>
    <Rule><ID>asleep</ID><Status>Disabled</Status><Filter/><Expiration><Days>1</Days></Expiration></Rule>
  </LifecycleConfiguration>`;
  const lock = '<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>';
  const suspended = '<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>';
  const saying =
    (text: string): Handler =>
    (_, response) =>
      answer(response, 200, text);

  it('are read from the bucket', async () => {
    const { model, store } = await withModel();
    model.faults.push((_, response) => {
      response.writeHead(403, { date: new Date(Date.now() + 3_600_000).toUTCString(), 'content-length': 0 }).end();
    });
    model.listFaults.push(saying(suspended), saying(lifecycle), saying(lock));
    const { clockSkewMs = 0, ...settings } = (await store.settings?.()) ?? {};
    assert.ok(Math.abs(clockSkewMs - 3_600_000) <= 1000, `${clockSkewMs}`);
    assert.deepEqual(settings, {
      versioning: 'suspended',
      softDeleteDays: 0,
      lifecycle: [
        { id: 'old', prefix: 'lps/', action: 'delete', afterDays: 30 },
        { id: 'old', prefix: 'lps/', action: 'delete-old-versions', afterDays: 7 },
        { id: 'old', prefix: 'lps/', action: 'transition', afterDays: 90, storageClass: 'GLACIER' },
        { id: 'tidy', prefix: '', action: 'abort-uploads', afterDays: 2 },
      ],
      retention: true,
    });
  });

  it('are absent where they may not be read, and none where there is none', async () => {
    const { model, store } = await withModel();
    const denied = failing(403, 'AccessDenied');
    model.listFaults.push(denied, denied, denied);
    const { clockSkewMs, ...settings } = (await store.settings?.()) ?? {};
    assert.deepEqual(settings, {});
    assert.ok(clockSkewMs !== undefined);
    model.listFaults.push(saying('<VersioningConfiguration/>'));
    model.listFaults.push(failing(404, 'NoSuchLifecycleConfiguration'));
    model.listFaults.push(failing(404, 'ObjectLockConfigurationNotFoundError'));
    const none = await store.settings?.();
    assert.deepEqual([none?.versioning, none?.lifecycle, none?.retention], ['off', [], false]);
  });

  it('need a server that answers', async () => {
    const { model, store } = await withModel();
    model.listFaults.push(failing(404, 'NoSuchBucket'));
    await failure(store.settings?.() ?? assert.fail(), 'STORE_REFUSED');
    await model.stop();
    await failure(store.settings?.() ?? assert.fail(), 'STORE_UNAVAILABLE');
  });
});

describe('s3 errors', () => {
  const table: [number, string, ErrorCode][] = [
    [400, 'BadDigest', 'DIGEST_MISMATCH'],
    [400, 'XAmzContentSHA256Mismatch', 'DIGEST_MISMATCH'],
    [400, 'InvalidStorageClass', 'STORE_REFUSED'],
    [403, 'AccessDenied', 'STORE_REFUSED'],
    [403, 'InvalidAccessKeyId', 'STORE_REFUSED'],
    [403, 'QuotaExceeded', 'STORE_FULL'],
    [507, 'XMinioStorageFull', 'STORE_FULL'],
    [507, '', 'STORE_FULL'],
    [413, 'EntityTooLarge', 'BLOB_TOO_LARGE'],
    [429, 'TooManyRequests', 'STORE_UNAVAILABLE'],
    [501, 'NotImplemented', 'STORE_REFUSED'],
    [502, '', 'STORE_UNAVAILABLE'],
    [503, 'SlowDown', 'STORE_UNAVAILABLE'],
  ];
  for (const [status, s3Code, code] of table) {
    it(`calls ${status} ${s3Code} ${code}`, async () => {
      const { model, store } = await withModel();
      const { key, bytes, expect } = sample(300_000); // a smaller stream is gathered, and can be sent again
      model.faults.push(failing(status, s3Code));
      const error = await failure(store.put(key, Readable.from([bytes]), expect), code);
      assert.equal(error.details.status, status);
      if (s3Code !== '') assert.equal(error.details.s3Code, s3Code);
    });
  }

  it('says in which region the bucket is', async () => {
    const { model, store } = await withModel();
    model.faults.push((_, response) => {
      response.writeHead(301, { 'x-amz-bucket-region': 'eu-west-1', location: `${model.endpoint}/trap` }).end();
    });
    assert.match((await failure(store.get(sample().key), 'STORE_REFUSED')).message, /region eu-west-1/);
    model.faults.push(failing(400, 'AuthorizationHeaderMalformed', '<Region>eu-west-2</Region>'));
    assert.match((await failure(store.get(sample().key), 'STORE_REFUSED')).message, /region eu-west-2/);
    assert.ok(model.seen.every(({ url }) => url !== '/trap'));
  });

  it('leaves a long wait to the caller', async () => {
    const { model, store } = await withModel();
    model.faults.push((_, response) => response.writeHead(503, { 'retry-after': '7', 'content-length': 0 }).end());
    assert.equal((await failure(store.get(sample().key), 'STORE_UNAVAILABLE')).details.retryAfterMs, 7000);
    assert.equal(model.seen.length, 1);
  });
});

describe('s3 opening', () => {
  const importSdk = () => import('@aws-sdk/client-s3');

  it('says what to install', async () => {
    const missing = () => Promise.reject(Object.assign(new Error('no'), { code: 'ERR_MODULE_NOT_FOUND' }));
    const error = await failure(openRawS3Store({ bucket: 'b' }, missing), 'CONFIG_INVALID');
    assert.match(error.message, /npm install @aws-sdk\/client-s3/);
  });

  it('finds the bucket as the SDK does', async () => {
    const transport = openTransport();
    const addressOf = async (options: S3StoreOptions) =>
      (await openSdk({ region: 'eu-west-1', credentials, ...options }, transport, importSdk)).address;
    const aws = await addressOf({ bucket: 'mine' });
    assert.equal(aws.origin + aws.path, 'https://mine.s3.eu-west-1.amazonaws.com');
    assert.deepEqual([aws.isAws, aws.region], [true, 'eu-west-1']);
    const dotted = await addressOf({ bucket: 'my.own' });
    assert.equal(dotted.origin + dotted.path, 'https://s3.eu-west-1.amazonaws.com/my.own');
    const inPath = await addressOf({ bucket: 'mine', pathStyle: true });
    assert.equal(inPath.origin + inPath.path, 'https://s3.eu-west-1.amazonaws.com/mine');
    const other = await addressOf({ bucket: 'mine', endpoint: 'http://s3.example:9000/base/' });
    assert.equal(other.origin + other.path, 'http://s3.example:9000/base/mine');
    assert.deepEqual([other.isAws, other.host], [false, 's3.example:9000']);
    await transport.close();
  });

  it('tiers objects on AWS only', () => {
    assert.equal(newObjectHeaders({ bucket: 'b' }, true)['x-amz-storage-class'], 'INTELLIGENT_TIERING');
    assert.equal(newObjectHeaders({ bucket: 'b' }, false)['x-amz-storage-class'], undefined);
    assert.equal(newObjectHeaders({ bucket: 'b', storageClass: 'X' }, true)['x-amz-storage-class'], 'X');
    const encrypted = newObjectHeaders({ bucket: 'b', encryption: { type: 'SSE-S3' } }, false);
    assert.equal(encrypted['x-amz-server-side-encryption'], 'AES256');
  });

  it('reports settings that are not enough', async () => {
    const noKeys = () => Promise.reject(new Error('no keys here'));
    const error = await failure(openS3Store({ bucket: 'b', region: 'x', credentials: noKeys }), 'CONFIG_INVALID');
    assert.match(error.message, /no keys here/);
  });
});
