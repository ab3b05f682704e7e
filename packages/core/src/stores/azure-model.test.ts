/** The store against a model of Azure Blob Storage in this process, which fails when it is told to. */
import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { afterEach, describe, it } from 'vitest';
import type { BlobStore } from '../blob-store.js';
import { readAll } from '../body.js';
import { testBlobStore } from '../conformance.js';
import type { ErrorCode } from '../errors.js';
import { type AzureStoreOptions, openAzureStore } from './azure.js';
import { blockBytesFor } from './azure-blocks.js';
import { type AzureModel, refuse, startAzureModel } from './azure-model-fixture.js';
import { openRawAzureStore } from './azure-store.js';
import {
  answer,
  cutShort,
  failure,
  type Handler,
  keysOf,
  reset,
  sample,
  silent,
  unheard,
} from './model-server-fixture.js';

const sdks = { storage: () => import('@azure/storage-blob'), identity: () => import('@azure/identity') };
const cleanUps: (() => Promise<void> | undefined)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function withModel(
  more: Partial<AzureStoreOptions> = {},
  prepare: (model: AzureModel) => unknown = () => {},
): Promise<{ model: AzureModel; store: BlobStore }> {
  const model = await startAzureModel();
  cleanUps.push(() => model.stop());
  prepare(model);
  const { connectionString } = model;
  const store = await openRawAzureStore({ connectionString, container: 'container', blockBytes: 100_000, ...more });
  cleanUps.push(() => store.close?.());
  model.seen.length = 0; // those of the opening
  return { model, store };
}

const failing =
  (status: number, code: string): Handler =>
  (_, response) =>
    refuse(response, status, code);

/** What was asked, without the container: `PUT %2Fblobs…?comp=block`. */
function asked({ seen }: AzureModel): string[] {
  return seen.map(({ method, url = '' }) => {
    const comp = /comp=(\w+)/.exec(url)?.[1];
    return comp === undefined ? `${method}` : `${method} ${comp}`;
  });
}

testBlobStore(
  'azure, on a model of Azure with versions',
  async () => {
    const model = await startAzureModel();
    model.versioning = true;
    const { connectionString } = model;
    const store = await openAzureStore({ connectionString, container: 'container', blockBytes: 100_000 });
    return { store, close: () => model.stop() };
  },
  { runner: { describe, it } },
);

describe('azure put', () => {
  it('is one request for what fits into a block, and it lets Azure refuse it', async () => {
    const { model, store } = await withModel({ prefix: 'p' });
    const { key, bytes, expect } = sample();
    assert.equal((await store.put(key, Readable.from([bytes]), expect)).outcome, 'created');
    assert.deepEqual(asked(model), ['PUT']);
    const { headers, url = '' } = model.seen[0] ?? assert.fail();
    assert.ok(url.includes('/container/p%2Fblobs%2Ftests%2F'), url);
    assert.equal(headers['if-none-match'], '*');
    assert.match(headers.authorization ?? '', /^SharedKey account:/);
    assert.deepEqual(model.live(`p${key}`), bytes);
    assert.equal((await store.put(key, bytes, expect)).outcome, 'exists');
    assert.equal((await store.put(key, bytes, expect, { overwrite: true })).outcome, 'created');
    assert.equal(model.seen.at(-1)?.headers['if-none-match'], undefined);
  });

  it('stages blocks, two at most in memory, and commits them after the last byte', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample(350_000);
    let read = 0;
    const body = Readable.from(
      (async function* () {
        for (; read < bytes.length; read += 50_000) {
          const staged = asked(model).filter((one) => one === 'PUT block').length;
          assert.ok(read <= (staged + 2) * 100_000, `${read} bytes read, ${staged} blocks on their way`);
          assert.ok(!asked(model).includes('PUT blocklist'));
          yield bytes.subarray(read, read + 50_000);
        }
      })(),
      { objectMode: false, highWaterMark: 1 },
    );
    assert.equal((await store.put(key, body, expect)).outcome, 'created');
    assert.deepEqual(asked(model), ['HEAD', ...Array.from({ length: 4 }, () => 'PUT block'), 'PUT blocklist']);
    assert.deepEqual(model.live(key), bytes);
  });

  it('takes larger blocks where there would be too many', () => {
    assert.equal(blockBytesFor(1e9, 1024 ** 2), 1024 ** 2);
    assert.ok(5e12 / blockBytesFor(5e12, 1024 ** 2) <= 50_000);
  });

  it('has Azure refuse bytes that changed on their way, whole or in blocks', async () => {
    const { model, store } = await withModel();
    model.corrupt = (bytes) => Buffer.concat([bytes.subarray(1), Buffer.from('x')]);
    for (const size of [1000, 350_000]) {
      const { key, bytes, expect } = sample(size);
      const body = Readable.from([bytes]);
      await failure(store.put(key, body, expect), 'DIGEST_MISMATCH');
      await failure(store.put(key, bytes, expect), 'DIGEST_MISMATCH');
      assert.ok(body.destroyed);
      assert.equal(model.live(key), undefined);
    }
  });

  it('lets go of a body whose block fails while the body is silent', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample(350_000);
    const body = new Readable({ read() {} });
    body.push(bytes.subarray(0, 100_000));
    model.faults.push(model.serve, failing(403, 'AuthorizationFailure'));
    await failure(store.put(key, body, expect), 'STORE_REFUSED');
    assert.ok(body.destroyed);
  });

  it('repeats requests after 503, 500 and resets, three times in all', async () => {
    const { model, store } = await withModel();
    for (const fault of [failing(503, 'ServerBusy'), failing(500, 'InternalError'), reset]) {
      const { key, bytes, expect } = sample(350_000);
      model.faults.push(fault, fault);
      assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
      const other = sample(350_000);
      model.faults.push(model.serve, fault, model.serve, fault);
      assert.equal((await store.put(other.key, Readable.from([other.bytes]), other.expect)).outcome, 'created');
      assert.deepEqual(model.live(other.key), other.bytes);
    }
    model.faults.push(...Array.from({ length: 9 }, () => failing(503, 'ServerBusy')));
    const { key, bytes, expect } = sample();
    await failure(store.put(key, bytes, expect), 'STORE_UNAVAILABLE');
    assert.equal(model.faults.length, 6, 'three tries');
  });

  it('is exists when the first try had succeeded unheard', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample();
    model.faults.push(unheard(model.serve));
    assert.equal((await store.put(key, bytes, expect)).outcome, 'exists');
    const large = sample(150_000);
    model.faults.push(model.serve, model.serve, model.serve, unheard(model.serve));
    assert.equal((await store.put(large.key, Readable.from([large.bytes]), large.expect)).outcome, 'exists');
    assert.deepEqual(model.live(large.key), large.bytes);
  });

  it('commits again what was committed unheard, when it overwrites', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample(150_000);
    model.add(key, Buffer.from('damaged'));
    model.faults.push(model.serve, model.serve, failing(503, 'ServerBusy'));
    assert.equal((await store.put(key, Readable.from([bytes]), expect, { overwrite: true })).outcome, 'created');
    assert.deepEqual(model.live(key), bytes);
  });

  for (const [status, code] of [
    [409, 'BlobAlreadyExists'],
    [412, 'ConditionNotMet'],
    [400, 'InvalidBlockList'],
  ] as const) {
    it(`lost the race with ${code}: the blob exists, if it is there`, async () => {
      const { model, store } = await withModel();
      const { key, bytes, expect } = sample(150_000);
      const another: Handler = (_, response) => {
        model.add(key, bytes);
        refuse(response, status, code);
      };
      model.faults.push(model.serve, model.serve, model.serve, another);
      assert.equal((await store.put(key, Readable.from([bytes]), expect)).outcome, 'exists');
      assert.deepEqual(asked(model).slice(-2), ['PUT blocklist', 'HEAD'], 'asked once');

      const gone = sample(150_000);
      model.faults.push(model.serve, model.serve, model.serve, failing(status, code));
      await failure(store.put(gone.key, Readable.from([gone.bytes]), gone.expect), 'TRY_AGAIN');
      model.faults.push(model.serve, model.serve, failing(status, code));
      const overwrite = store.put(key, Readable.from([bytes]), expect, { overwrite: true });
      await failure(overwrite, 'TRY_AGAIN');
    });
  }

  it('commits bytes as a block where the blocks of another upload are taken for a blob, as Azurite does', async () => {
    const { model, store } = await withModel();
    for (const size of [0, 5000]) {
      const { key, bytes, expect } = sample(size);
      model.faults.push(failing(409, 'BlobAlreadyExists'));
      assert.equal((await store.put(key, bytes, expect)).outcome, 'created');
      assert.deepEqual(model.live(key), bytes);
    }
  });

  it('gives up on a server that is silent', async () => {
    const { model, store } = await withModel({ idleTimeoutMs: 100 });
    const { key, bytes, expect } = sample(150_000);
    model.faults.push(silent);
    assert.equal((await failure(store.put(key, bytes, expect), 'STORE_UNAVAILABLE')).details.timedOut, true);
    model.faults.push(model.serve, silent);
    const body = Readable.from([bytes]);
    assert.equal((await failure(store.put(key, body, expect), 'STORE_UNAVAILABLE')).details.timedOut, true);
    assert.ok(body.destroyed);
    model.faults.push(silent);
    assert.equal((await failure(keysOf(store, '/'), 'STORE_UNAVAILABLE')).details.timedOut, true);
    assert.equal(model.live(key), undefined);
  });

  it('ends when it is aborted, whoever is to move', async () => {
    const { model, store } = await withModel();
    const { key, bytes, expect } = sample(150_000);
    for (const before of [[], [model.serve], [model.serve, model.serve, model.serve]]) {
      const abort = new AbortController();
      model.faults.push(...before, () => abort.abort());
      const body = before.length === 0 ? bytes : Readable.from([bytes]);
      await failure(store.put(key, body, expect, { signal: abort.signal }), 'ABORTED');
    }
    assert.equal(model.live(key), undefined);
  });
});

describe('azure get and head', () => {
  it('fails a body that is cut short', async () => {
    const { model, store } = await withModel();
    for (const size of [1000, 3_000_000]) {
      const { key, bytes } = sample(size);
      model.faults.push(cutShort(bytes));
      const read = async () => readAll((await store.get(key))?.body ?? assert.fail(), 1e9);
      await failure(read(), 'STORE_UNAVAILABLE');
    }
  });

  it('does not take a missing container, or a proxy’s 404, for a missing blob', async () => {
    const { model, store } = await withModel();
    const { key } = sample();
    for (const read of [() => store.get(key), () => store.head(key)]) {
      assert.equal(await read(), undefined);
      model.faults.push((_, response) => answer(response, 404, '<html>nginx</html>'));
      await failure(read(), 'STORE_REFUSED');
      model.faults.push(failing(404, 'ContainerNotFound'));
      assert.match((await failure(read(), 'STORE_REFUSED')).message, /container does not exist/);
    }
  });

  it('takes only answers whose size is known', async () => {
    const { model, store } = await withModel();
    const { key } = sample();
    model.faults.push((_, response) => response.writeHead(200, { 'transfer-encoding': 'chunked' }).end('x'));
    await failure(store.get(key), 'STORE_UNAVAILABLE');
    model.faults.push((_, response) => answer(response, 200, 'all of it'));
    await failure(store.get(key, { range: { start: 0, end: 2 } }), 'STORE_UNAVAILABLE');
  });
});

describe('azure list and delete', () => {
  it('repeats pages that fail, and keeps to its prefix', async () => {
    const { model, store } = await withModel({ prefix: 'p/' });
    const samples = Array.from({ length: 250 }, () => sample(10));
    for (const { key, bytes } of samples) model.add(`p/${key}`, bytes);
    model.add(sample().key, Buffer.from('another’s'));
    model.faults.push(failing(503, 'ServerBusy'), (request) => void request.socket.destroy());
    assert.deepEqual(await keysOf(store, '/blobs/'), samples.map(({ key }) => key).sort());
    model.faults.push(failing(403, 'AuthorizationFailure'));
    const error = await failure(keysOf(store, '/blobs/'), 'STORE_REFUSED');
    assert.equal(error.details.azureCode, 'AuthorizationFailure');
    model.faults.push((_, response) => answer(response, 200, '<html>a captive portal</html>'));
    await failure(keysOf(store, '/blobs/'), 'STORE_UNAVAILABLE');
    await failure(
      keysOf({ ...store, list: (prefix) => store.list(prefix, { signal: AbortSignal.abort() }) }, '/'),
      'ABORTED',
    );
  });

  it('goes on from a key also where the server does not know how', async () => {
    const { model, store } = await withModel();
    const keys = Array.from({ length: 5 }, () => sample(10)).map(({ key, bytes }) => {
      model.add(key, bytes);
      return key;
    });
    const [, second = ''] = keys.sort();
    const withoutStart: Handler = (request, response) => {
      request.url = request.url?.replace(/startFrom=[^&]*/, '') ?? '';
      return model.serve(request, response);
    };
    for (const handler of [model.serve, withoutStart]) {
      model.faults.push(handler);
      const rest: string[] = [];
      for await (const { key } of store.list('/blobs/', { after: second })) rest.push(key);
      assert.deepEqual(rest, keys.slice(2));
    }
  });

  it('removes every version and snapshot, also of versions that were switched on later', async () => {
    const { model, store } = await withModel();
    assert.equal(store.can.versions, false);
    model.versioning = true;
    const { key, bytes, expect } = sample();
    for (let round = 0; round < 3; round += 1) await store.put(key, bytes, expect, { overwrite: true });
    assert.equal(store.can.versions, true);
    model.snapshot(key);
    const neighbour = `${key}~0123456789abcdef`;
    model.add(neighbour, bytes);
    model.add(neighbour, bytes);
    assert.equal(await store.delete(key), true);
    const { current, versions, snapshots } = model.blobs.get(key) ?? assert.fail();
    assert.deepEqual([current, versions, snapshots], [undefined, [], []]);
    assert.equal(model.blobs.get(neighbour)?.versions.length, 1);
    assert.equal(await store.delete(key), false);
  });

  it('counts what stands at a name, and what is soft-deleted or not committed when that is asked for', async () => {
    const { model, store } = await withModel({ prefix: 'p' }, (prepared) => {
      prepared.versioning = true;
      prepared.softDelete = true;
    });
    const { key, bytes, expect } = sample();
    const counts = async () => [
      await store.countVersions?.(key),
      await store.countVersions?.(key, { withUnreachable: true }),
    ];
    for (let round = 0; round < 3; round += 1) await store.put(key, bytes, expect, { overwrite: true });
    model.snapshot(`p${key}`);
    model.add(`p${key}~0123456789abcdef`, bytes);
    assert.deepEqual(await counts(), [4, 4]);
    await store.delete(key);
    assert.deepEqual(await counts(), [0, 4]);
    model.blobs.get(`p${key}`)?.blocks.set('a', bytes);
    assert.deepEqual(await counts(), [0, 5]);
  });

  it('leaves what is put again meanwhile', async () => {
    const { model, store } = await withModel({}, (prepared) => {
      prepared.versioning = true;
    });
    const { key, bytes, expect } = sample();
    await store.put(key, bytes, expect);
    model.faults.push(model.serve, (request, response) => {
      model.add(key, bytes);
      return model.serve(request, response);
    });
    assert.equal(await store.delete(key), true);
    assert.deepEqual(model.blobs.get(key)?.versions, []);
    assert.deepEqual(model.live(key), bytes);
  });

  it('removes versions of what is not readable any more, and does not mind that another does so too', async () => {
    const { model, store } = await withModel({}, (prepared) => {
      prepared.versioning = true;
    });
    const { key, bytes, expect } = sample();
    await store.put(key, bytes, expect);
    await store.delete(key);
    model.blobs.get(key)?.versions.push({ id: 'v1', bytes }, { id: 'v2', bytes });
    model.faults.push(model.serve, model.serve, failing(404, 'BlobNotFound'));
    assert.equal(await store.delete(key), true);
    model.faults.push(failing(409, 'BlobImmutableDueToPolicy'));
    assert.equal((await failure(store.delete(key), 'STORE_REFUSED')).details.azureCode, 'BlobImmutableDueToPolicy');
  });
});

describe('azure settings', () => {
  it('are read from the container, the account, and its answers', async () => {
    const { model, store } = await withModel();
    assert.equal((await store.settings?.())?.versioning, undefined, 'nothing told it yet');
    model.versioning = true;
    const { key, bytes, expect } = sample();
    await store.put(key, bytes, expect);
    model.serviceProperties =
      '<?xml version="1.0"?><StorageServiceProperties><DeleteRetentionPolicy><Enabled>true</Enabled><Days>14</Days>' +
      '</DeleteRetentionPolicy></StorageServiceProperties>';
    model.containerHeaders = { 'x-ms-has-legal-hold': 'true', 'x-ms-has-immutability-policy': 'false' };
    model.faults.push((_, response) => {
      answer(response, 403, '', { date: new Date(Date.now() + 60_000).toUTCString() });
    });
    const { clockSkewMs = 0, ...settings } = (await store.settings?.()) ?? {};
    assert.ok(Math.abs(clockSkewMs - 60_000) <= 1000, `${clockSkewMs}`);
    assert.deepEqual(settings, { versioning: 'on', softDeleteDays: 14, retention: true });
    model.serviceProperties = model.serviceProperties.replace('true', 'false');
    model.containerHeaders = {};
    const none = await store.settings?.();
    assert.deepEqual([none?.softDeleteDays, none?.retention], [0, false]);
  });

  it('are absent where they may not be read', async () => {
    const { model, store } = await withModel();
    const denied = failing(403, 'AuthorizationPermissionMismatch');
    model.faults.push((_, response) => answer(response, 403), denied, denied);
    assert.deepEqual(Object.keys((await store.settings?.()) ?? {}), ['clockSkewMs']);
    await model.stop();
    await failure(store.settings?.(), 'STORE_UNAVAILABLE');
  });
});

describe('azure errors', () => {
  const table: [number, string, ErrorCode][] = [
    [400, 'InvalidHeaderValue', 'STORE_REFUSED'],
    [400, 'Md5Mismatch', 'DIGEST_MISMATCH'],
    [403, 'AuthenticationFailed', 'STORE_REFUSED'],
    [404, 'ContainerNotFound', 'STORE_REFUSED'],
    [409, 'BlobImmutableDueToPolicy', 'STORE_REFUSED'],
    [409, 'ContainerBeingDeleted', 'STORE_UNAVAILABLE'],
    [413, 'RequestBodyTooLarge', 'BLOB_TOO_LARGE'],
    [416, 'InvalidRange', 'RANGE_NOT_SATISFIABLE'],
    [429, '', 'STORE_UNAVAILABLE'],
    [500, 'OperationTimedOut', 'STORE_UNAVAILABLE'],
    [501, 'NotImplemented', 'STORE_REFUSED'],
    [503, 'ServerBusy', 'STORE_UNAVAILABLE'],
    [507, '', 'STORE_FULL'],
  ];
  for (const [status, azureCode, code] of table) {
    it(`calls ${status} ${azureCode} ${code}`, async () => {
      const { model, store } = await withModel();
      const fault: Handler = (_, response) =>
        answer(response, status, '', azureCode === '' ? {} : { 'x-ms-error-code': azureCode });
      model.faults.push(fault, fault, fault);
      const error = await failure(store.get(sample().key), code);
      assert.equal(error.details.status, status);
      if (azureCode !== '') assert.equal(error.details.azureCode, azureCode);
    });
  }

  it('leaves a long wait to the caller', async () => {
    const { model, store } = await withModel();
    model.faults.push((_, response) =>
      answer(response, 503, '', { 'retry-after': '7', 'x-ms-error-code': 'ServerBusy' }),
    );
    assert.equal((await failure(store.get(sample().key), 'STORE_UNAVAILABLE')).details.retryAfterMs, 7000);
    model.faults.push((_, response) =>
      answer(response, 503, '', { 'retry-after': '7', 'x-ms-error-code': 'ServerBusy' }),
    );
    assert.equal((await failure(keysOf(store, '/'), 'STORE_UNAVAILABLE')).details.retryAfterMs, 7000);
    assert.equal(model.seen.length, 2);
  });
});

describe('azure opening', () => {
  it('says what to install', async () => {
    const missing = () => Promise.reject(Object.assign(new Error('no'), { code: 'ERR_MODULE_NOT_FOUND' }));
    const options = { container: 'c', account: 'account' };
    const storage = await failure(openRawAzureStore(options, { ...sdks, storage: missing }), 'CONFIG_INVALID');
    assert.match(storage.message, /npm install @azure\/storage-blob/);
    const identity = await failure(openRawAzureStore(options, { ...sdks, identity: missing }), 'CONFIG_INVALID');
    assert.match(identity.message, /npm install @azure\/identity/);
  });

  it('needs an account, and does not repeat a wrong connection string', async () => {
    await failure(openRawAzureStore({ container: 'c' }), 'CONFIG_INVALID');
    const error = await failure(openRawAzureStore({ container: 'c', connectionString: 'hunter2' }), 'CONFIG_INVALID');
    assert.doesNotMatch(`${error.message} ${String(error.cause)}`, /hunter2/);
  });

  it('goes on without a container that is away, and not with one that does not exist', async () => {
    const down = failing(503, 'ServerBusy');
    const { store } = await withModel({}, ({ faults }) => faults.push(down, down, down));
    await store.ready?.();
    await assert.rejects(withModel({ container: 'no-such' }), /container does not exist/);
  });

  it('signs nothing where the URL itself is the permission', async () => {
    const model = await startAzureModel();
    cleanUps.push(() => model.stop());
    const connectionString = `BlobEndpoint=${model.endpoint}/account;SharedAccessSignature=sv=2023-11-03&sig=abc%3D`;
    const store = await openRawAzureStore({ connectionString, container: 'container' });
    cleanUps.push(() => store.close?.());
    const { key, bytes, expect } = sample();
    await store.put(key, bytes, expect);
    assert.deepEqual(await keysOf(store, '/blobs/'), [key]);
    for (const { url, headers } of model.seen) {
      assert.match(url ?? '', /[?&]sig=abc%3D/);
      assert.equal(headers.authorization, undefined);
    }
  });
});

describe('azure tokens', () => {
  async function withTokens(getToken: () => Promise<{ token: string; expiresOnTimestamp: number } | null>) {
    const model = await startAzureModel();
    cleanUps.push(() => model.stop());
    const options = { endpoint: `${model.endpoint}/account/`, container: 'container', idleTimeoutMs: 100 };
    const store = await openRawAzureStore({ ...options, credential: { getToken } });
    cleanUps.push(() => store.close?.());
    return { model, store };
  }
  const minutes = (count: number): number => Date.now() + count * 60_000;

  it('are asked for once while they last, and again before they end', async () => {
    let count = 0;
    let lasts = 60;
    const { model, store } = await withTokens(async () => ({
      token: `t${++count}`,
      expiresOnTimestamp: minutes(lasts),
    }));
    const { key } = sample();
    await Promise.all([store.get(key), store.get(key)]);
    assert.ok(model.seen.every(({ headers }) => headers.authorization === 'Bearer t1'));
    lasts = 4;
    const ending = await withTokens(async () => ({ token: `t${++count}`, expiresOnTimestamp: minutes(lasts) }));
    ending.model.seen.length = 0;
    await Promise.all([ending.store.get(key), ending.store.get(key)]);
    const [first, second] = ending.model.seen.map(({ headers }) => headers.authorization);
    assert.equal(first, second, 'one at a time is asked for');
    assert.notEqual(first, 'Bearer t2');
  });

  it('are used until their end when there is no new one', async () => {
    let isDown = false;
    const { model, store } = await withTokens(async () => {
      if (isDown) throw new Error('the identity service is down');
      return { token: 'old', expiresOnTimestamp: minutes(4) };
    });
    isDown = true;
    assert.equal(await store.get(sample().key), undefined);
    assert.equal(model.seen.at(-1)?.headers.authorization, 'Bearer old');
  });

  it('are needed at the opening', async () => {
    for (const name of ['CredentialUnavailableError', 'AggregateAuthenticationError']) {
      const none = Object.assign(new Error('EnvironmentCredential is unavailable.\nAnd so on'), { name });
      const error = await failure(
        withTokens(() => Promise.reject(none)),
        'CONFIG_INVALID',
      );
      assert.equal(error.message, 'there are no Azure credentials: EnvironmentCredential is unavailable.');
    }
  });

  it('may not be had for a while, or never come: nothing hangs', async () => {
    for (const getToken of [() => Promise.reject(new Error('no')), async () => null]) {
      const { store } = await withTokens(getToken); // as with a server that is away at the start
      const { key, bytes, expect } = sample(2_000_000);
      const body = Readable.from([bytes]);
      await failure(store.put(key, body, expect), 'STORE_UNAVAILABLE');
      assert.ok(body.destroyed);
    }
    const { store } = await withTokens(() => new Promise(() => {}));
    assert.equal((await failure(store.get(sample().key), 'STORE_UNAVAILABLE')).details.timedOut, true);
    const abort = new AbortController();
    const get = store.get(sample().key, { signal: abort.signal });
    abort.abort();
    await failure(get, 'ABORTED');
  });
});
