/** URLs with shared access signatures. Azurite checks them; keys for tokens come from a model, since Azurite wants HTTPS. */
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { type Azurite, describeWith, startAzurite } from '@large-payload/test-components';
import { afterAll, afterEach, describe, it, vi } from 'vitest';
import type { BlobStore, PresignedRequest } from '../blob-store.js';
import { keyFor } from '../key.js';
import { type AzureStoreOptions, openAzureStore } from './azure.js';
import { type AzureModel, delegate, refuse, startAzureModel } from './azure-model-fixture.js';
import { failure, type Handler, sample } from './model-server-fixture.js';

const azurite = await startAzurite();
afterAll(async () => {
  await azurite?.stop();
});
const cleanUps: (() => Promise<void> | undefined)[] = [];
afterEach(async () => {
  vi.useRealTimers();
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const oddNames = ['ü', 'a b', '100%', 'a%2Fb', 'a+b', 'what?', '#&=;:@$,', "*'()!~", '日本😀'];
const lifetime = { expiresInMs: 60_000 };
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

type Presigning = BlobStore & Required<Pick<BlobStore, 'presignGet'>>;

async function opened(options: Partial<AzureStoreOptions>): Promise<Presigning> {
  const store = await openAzureStore({ container: 'blobs', ...options });
  cleanUps.push(() => store.close?.());
  const { presignGet } = store;
  assert.ok(presignGet);
  assert.equal(store.presignPut, undefined);
  return { ...store, presignGet };
}

/** With nothing but the URL. */
async function send({ method, url, headers }: PresignedRequest): Promise<Response> {
  assert.equal(method, 'GET');
  assert.deepEqual(headers, {});
  return fetch(url);
}

async function bytesFrom(request: PresignedRequest): Promise<Buffer> {
  const answer = await send(request);
  assert.equal(answer.status, 200, await (answer.ok ? undefined : answer.text()));
  return Buffer.from(await answer.arrayBuffer());
}

/** Moves our own clock; other processes keep theirs. */
function setClock(now: number): void {
  vi.useFakeTimers({ toFake: ['Date'], now });
}

/** Whoever has a URL can send that request, until it ends, and no other. */
async function refusesAnythingElse(
  presign: (store: Presigning, key: string) => Promise<PresignedRequest>,
  store: Presigning,
) {
  const [one, other] = [sample(1000), sample(1000)];
  for (const { key, bytes, expect } of [one, other]) await store.put(key, bytes, expect);
  const request = await presign(store, one.key);
  const { url } = request;
  const same = { ...request, url: changed(url, 'sp', (rights) => rights) };
  for (const right of [request, same]) assert.deepEqual(await bytesFrom(right), one.bytes);

  const changes = {
    'another blob': url.replace(encodeURIComponent(one.key), encodeURIComponent(other.key)),
    'a later end': changed(url, 'se', (end) => new Date(Date.parse(end) + 1000).toISOString().replace('.000', '')),
    'more rights': changed(url, 'sp', () => 'rwd'),
    'the container': changed(url, 'sr', () => 'c'),
    'another signature': changed(url, 'sig', (signature) =>
      signature.replace(/./, (char) => (char === 'A' ? 'B' : 'A')),
    ),
    'no signature': url.replace(/&sig=[^&]*/, ''),
    'no end': url.replace(/&se=[^&]*/, ''),
  };
  for (const [what, elsewhere] of Object.entries(changes)) {
    assert.notEqual(elsewhere, url, what);
    assert.equal((await fetch(elsewhere)).status, 403, what);
  }
  for (const method of ['PUT', 'DELETE']) {
    const headers = { 'x-ms-blob-type': 'BlockBlob' };
    const body = method === 'PUT' ? { body: 'x' } : {};
    assert.equal((await fetch(url, { method, headers, ...body })).status, 403, method);
  }
  setClock(Date.now() - 61_000);
  assert.equal((await send(await presign(store, one.key))).status, 403, 'too late');
}

function changed(url: string, name: string, change: (value: string) => string): string {
  const { origin, pathname, searchParams } = new URL(url);
  searchParams.set(name, change(searchParams.get(name) ?? ''));
  return `${origin}${pathname}?${searchParams}`;
}

describeWith(describe, 'azure presigned requests, with the account’s key', azurite, (server) => {
  const open = (more: Partial<AzureStoreOptions> = {}) =>
    opened({ connectionString: server.connectionString, ...more });

  it('carry blobs of any name out of the container', async () => {
    const store = await open({ prefix: 'our files/ü%2B' });
    for (const namespace of oddNames) {
      const { bytes, expect } = sample(2000);
      const key = keyFor(namespace, expect.digest, null);
      await store.put(key, bytes, expect);
      assert.deepEqual(await bytesFrom(await store.presignGet(key, lifetime)), bytes, namespace);
    }
  });

  it('are refused with anything changed or left out, for another blob, for more than reading, or too late', async () => {
    await refusesAnythingElse((store, key) => store.presignGet(key, lifetime), await open());
  });

  it('last whole seconds, from one of them to 7 days, and say when they end', async () => {
    const store = await open();
    const { key } = sample();
    for (const expiresInMs of [999, 0, -1, Number.NaN, Number.POSITIVE_INFINITY, 7 * dayMs + 1000]) {
      await failure(store.presignGet(key, { expiresInMs }), 'INVALID_ARGUMENT');
    }
    for (const expiresInMs of [1000, 1999, 900_000, 7 * dayMs]) {
      const asked = Date.now();
      const { url, expiresAt } = await store.presignGet(key, { expiresInMs });
      assert.equal(Date.parse(new URL(url).searchParams.get('se') ?? ''), expiresAt.getTime());
      const early = Math.floor(expiresInMs / 1000) * 1000 + asked - expiresAt.getTime();
      assert.ok(early < 1000 && expiresAt.getTime() <= Date.now() + expiresInMs, `${expiresInMs}: ${early} ms early`);
    }
  });

  it('are for names that are checked', async () => {
    await failure((await open()).presignGet('/blobs/../x', lifetime), 'INVALID_KEY');
  });
});

describe('azure presigned requests', () => {
  async function withModel(more: Partial<AzureStoreOptions> = {}): Promise<{ model: AzureModel; store: Presigning }> {
    const model = await startAzureModel();
    cleanUps.push(() => model.stop());
    const credential = { getToken: async () => ({ token: 'token', expiresOnTimestamp: Date.now() + hourMs }) };
    const endpoint = `${model.endpoint}/devstoreaccount1`;
    const store = await opened({ endpoint, container: 'container', credential, ...more });
    model.seen.length = 0; // those of the opening
    return { model, store };
  }
  const refused: Handler = (_, response) => refuse(response, 403, 'AuthorizationPermissionMismatch');
  const keyEndOf = ({ url }: PresignedRequest): number => Date.parse(new URL(url).searchParams.get('ske') ?? '');

  it('travel over HTTPS alone, unless the endpoint does not', async () => {
    const key = Buffer.from('the key').toString('base64');
    const { store: plain } = await withModel();
    const down = 'DefaultEndpointsProtocol=https;AccountName=account;BlobEndpoint=https://127.0.0.1:9/account';
    const secure = await opened({ connectionString: `${down};AccountKey=${key}`, idleTimeoutMs: 100 });
    const protocolOf = async (store: Presigning): Promise<string | null> =>
      new URL((await store.presignGet(sample().key, lifetime)).url).searchParams.get('spr');
    assert.equal(await protocolOf(plain), 'https,http');
    assert.equal(await protocolOf(secure), 'https');
  });

  it('cannot be had with a shared access signature, nor for an account without a name', async () => {
    const model = await startAzureModel();
    cleanUps.push(() => model.stop());
    const connectionString = `BlobEndpoint=${model.endpoint}/account;SharedAccessSignature=sv=2023-11-03&sig=abc%3D`;
    const bySignature = await opened({ connectionString, container: 'container' });
    const error = await failure(bySignature.presignGet(sample().key, lifetime), 'NOT_SUPPORTED');
    assert.match(error.message, /shared access signature/);
    assert.doesNotMatch(error.message, /abc/);

    const credential = { getToken: async () => ({ token: 'token', expiresOnTimestamp: Date.now() + hourMs }) };
    const elsewhere = { endpoint: 'https://blobs.localhost:9', container: 'container', credential };
    await failure((await opened(elsewhere)).presignGet(sample().key, lifetime), 'NOT_SUPPORTED');
    const named = await opened({ ...elsewhere, account: 'account' });
    await failure(named.presignGet(sample().key, lifetime), 'STORE_UNAVAILABLE');
  });

  it('share one key while it lasts, and get a new one before it ends', async () => {
    const { model, store } = await withModel();
    const { key } = sample();
    const began = Date.now();
    const [first] = await Promise.all([store.presignGet(key, lifetime), store.presignGet(key, lifetime)]);
    await store.presignGet(key, { expiresInMs: dayMs });
    assert.equal(model.seen.length, 1);
    const keyEnd = keyEndOf(first);
    const keyStart = Date.parse(new URL(first.url).searchParams.get('skt') ?? '');
    // Azure's clock may be some minutes before ours or behind it
    assert.ok(keyStart < began - hourMs / 6, 'it has begun');
    assert.ok(keyEnd > began + 6 * dayMs && keyEnd < began + 7 * dayMs - hourMs / 6, 'it does not last too long');

    setClock(keyEnd - 61_000);
    assert.equal(keyEndOf(await store.presignGet(key, lifetime)), keyEnd);
    setClock(keyEnd - 59_000);
    const later = await store.presignGet(key, lifetime);
    assert.ok(keyEndOf(later) > keyEnd + 6 * dayMs);
    assert.equal(model.seen.length, 2);
  });

  it('end with their key, which is not replaced for a few minutes more', async () => {
    const { model, store } = await withModel();
    const { key } = sample();
    for (const wait of [0, hourMs - 60_000]) {
      setClock(Date.now() + wait);
      const request = await store.presignGet(key, { expiresInMs: 7 * dayMs });
      assert.equal(request.expiresAt.getTime(), keyEndOf(request));
      assert.ok(request.expiresAt.getTime() < Date.now() + 7 * dayMs);
    }
    assert.equal(model.seen.length, 1);
    setClock(Date.now() + hourMs);
    await store.presignGet(key, { expiresInMs: 7 * dayMs });
    assert.equal(model.seen.length, 2);
  });

  it('get a new key when a young one is about to end', async () => {
    const { model, store } = await withModel();
    const { delegationKey } = model;
    model.delegationKey = (times) => {
      times.expiry = `${new Date(Date.now() + 600_000).toISOString().slice(0, 19)}Z`;
      return delegationKey(times);
    };
    const presign = () => store.presignGet(sample().key, { expiresInMs: 900_000 });
    const first = await presign();
    assert.equal(first.expiresAt.getTime(), keyEndOf(first));
    setClock(Date.now() + 100_000);
    assert.equal(keyEndOf(await presign()), keyEndOf(first));
    setClock(Date.now() + 100_000);
    assert.ok(keyEndOf(await presign()) > keyEndOf(first));
  });

  it('need a key: what refuses it, is told, and a key that is of no use is none', async () => {
    const { model, store } = await withModel();
    const { key } = sample();
    model.faults.push(refused);
    const error = await failure(store.presignGet(key, lifetime), 'STORE_REFUSED');
    assert.equal(error.details.azureCode, 'AuthorizationPermissionMismatch');
    const { delegationKey } = model;
    model.delegationKey = (times) => {
      setClock(Date.parse(times.expiry));
      return delegationKey(times);
    };
    await failure(store.presignGet(key, lifetime), 'STORE_UNAVAILABLE');
    model.delegationKey = delegationKey;
    await store.presignGet(key, lifetime);
  });

  it('may be given up without taking the key from others', async () => {
    const { model, store } = await withModel();
    const { key } = sample();
    let go = (): void => {};
    const held = new Promise<void>((resolve) => {
      go = resolve;
    });
    model.faults.push(async (request, response) => {
      await held;
      return model.serve(request, response);
    });
    const abort = new AbortController();
    const givenUp = store.presignGet(key, { ...lifetime, signal: abort.signal });
    const other = store.presignGet(key, lifetime);
    abort.abort();
    await failure(givenUp, 'ABORTED');
    go();
    assert.ok(keyEndOf(await other) > Date.now());
    assert.equal(model.seen.length, 1);
  });

  describeWith(describe, 'with a key that Azure gave for a token', azurite, (server: Azurite) => {
    /** Azurite gives delegation keys over HTTPS only, but its keys are known, and it checks what they sign. */
    function azuriteKey({ start, expiry }: { start: string; expiry: string }): string {
      const { getUserDelegationKeyValue } = createRequire(import.meta.resolve('azurite/package.json'))(
        './dist/src/blob/utils/utils.js',
      ) as { getUserDelegationKeyValue(...of: string[]): string };
      return getUserDelegationKeyValue(delegate.oid, delegate.tid, start, expiry, '2023-11-03');
    }

    it('are taken as those of the account’s key', async () => {
      const { model, store: byToken } = await withModel({ prefix: 'p ü/', container: 'container' });
      model.delegationKey = azuriteKey;
      await server.createContainer('container');
      const { connectionString } = server;
      const byKey = await opened({ connectionString, prefix: 'p ü/', container: 'container' });
      const presign = async (_: Presigning, key: string): Promise<PresignedRequest> => {
        const request = await byToken.presignGet(key, lifetime);
        return { ...request, url: request.url.replace(model.endpoint, new URL(server.endpoint).origin) };
      };
      for (const namespace of oddNames) {
        const { bytes, expect } = sample(2000);
        const key = keyFor(namespace, expect.digest, null);
        await byKey.put(key, bytes, expect);
        assert.deepEqual(await bytesFrom(await presign(byKey, key)), bytes, namespace);
      }
      await refusesAnythingElse(presign, byKey);
    });
  });
});
