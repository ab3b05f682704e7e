/**
 * Signed URLs. fake-gcs-server takes the bytes' names from them and looks at no signature: that one is checked here, against
 * the account's public key and the text that is to be signed by the documentation's rules, made again from the URL alone.
 */
import assert from 'node:assert/strict';
import { createHash, generateKeyPairSync, sign, verify } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Storage } from '@google-cloud/storage';
import { describeWith, type FakeGcs, startFakeGcs } from '@large-payload/test-components';
import { afterAll, afterEach, describe, it, vi } from 'vitest';
import type { BlobStore, PresignedRequest } from '../blob-store.js';
import { keyFor } from '../key.js';
import { checked } from '../layers/checked.js';
import { type GcsStoreOptions, openGcsStore } from './gcs.js';
import { startGcsModel } from './gcs-model-fixture.js';
import type { GcsSdk } from './gcs-sdk.js';
import { openRawGcsStore } from './gcs-store.js';
import {
  answer,
  bodyOf,
  failure,
  type Handler,
  type ModelServer,
  sample,
  startModelServer,
} from './model-server-fixture.js';

const server = await startFakeGcs({ memory: true });
const dir = mkdtempSync(join(tmpdir(), 'lps-gcs-'));
afterAll(async () => {
  await server?.stop();
  rmSync(dir, { recursive: true });
});
const cleanUps: (() => Promise<void> | undefined)[] = [];
afterEach(async () => {
  vi.useRealTimers();
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const account = 'lps@project.iam.gserviceaccount.com';
const lifetime = { expiresInMs: 60_000 };
const dayMs = 24 * 3_600_000;

function fileOf(name: string, content: string | object): string {
  const path = join(dir, name);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

/** Outside of Google's own universe the library shows tokens that it made itself, so nobody has to be asked for one. */
const keyFile = fileOf('key.json', {
  type: 'service_account',
  client_email: account,
  private_key: privateKey.export({ type: 'pkcs8', format: 'pem' }),
  private_key_id: 'one',
  universe_domain: 'universe.localhost',
});
const ofAPerson = { type: 'authorized_user', client_id: 'a', client_secret: 'b', refresh_token: 'c' };

type Presigning = BlobStore & Required<Pick<BlobStore, 'presignGet'>>;

function presigning(store: BlobStore): Presigning {
  cleanUps.push(() => store.close?.());
  const { presignGet } = store;
  assert.ok(presignGet);
  assert.equal(store.presignPut, undefined);
  return { ...store, presignGet };
}

async function opened(options: Partial<GcsStoreOptions>): Promise<Presigning> {
  return presigning(await openGcsStore({ bucket: 'blobs', keyFile, ...options }));
}

/** Whether Google would take the URL, as far as its signature goes: made by the documentation, not by our code. */
function isSigned(url: string, method = 'GET'): boolean {
  const [, host = '', path = '', query = ''] = /^https?:\/\/([^/]+)([^?]*)\?(.*)$/.exec(url) ?? [];
  const pairs = query.split('&').filter((pair) => !pair.startsWith('X-Goog-Signature='));
  const value = (name: string): string => new URLSearchParams(query).get(name) ?? '';
  // reserved characters are escaped, all but the slashes of a path
  assert.doesNotMatch(path, /[^A-Za-z0-9\-._~%/]/);
  assert.deepEqual(pairs, pairs.toSorted());
  assert.equal(value('X-Goog-Algorithm'), 'GOOG4-RSA-SHA256');
  assert.equal(value('X-Goog-SignedHeaders'), 'host');
  const [email, ...scope] = value('X-Goog-Credential').split('/');
  assert.equal(email, account);
  const canonicalRequest = [method, path, pairs.join('&'), `host:${host}`, '', 'host', 'UNSIGNED-PAYLOAD'].join('\n');
  const hash = createHash('sha256').update(canonicalRequest).digest('hex');
  const text = ['GOOG4-RSA-SHA256', value('X-Goog-Date'), scope.join('/'), hash].join('\n');
  return verify('RSA-SHA256', Buffer.from(text), publicKey, Buffer.from(value('X-Goog-Signature'), 'hex'));
}

/** Moves our own clock. */
function setClock(now: string): void {
  vi.useFakeTimers({ toFake: ['Date'], now: Date.parse(now) });
}

describeWith(describe, 'gcs presigned requests, on a server', server, (fake: FakeGcs) => {
  /** fake-gcs-server serves URLs of the XML API under its public name alone. */
  async function makePublic(): Promise<void> {
    const body = JSON.stringify({ publicHost: new URL(fake.endpoint).host });
    const headers = { 'content-type': 'application/json' };
    const response = await fetch(`${fake.endpoint}/_internal/config`, { method: 'PUT', headers, body });
    assert.equal(response.status, 200);
  }

  async function send({ method, url, headers }: PresignedRequest): Promise<Response> {
    assert.equal(method, 'GET');
    assert.deepEqual(headers, {});
    assert.ok(isSigned(url), url);
    return fetch(url);
  }

  it('carry blobs of any name out of the bucket', async () => {
    await makePublic();
    for (const prefix of ['', 'our files/ü%2B']) {
      const store = await opened({ endpoint: fake.endpoint, bucket: fake.bucket, prefix });
      for (const namespace of ['ü', 'a b', '100%', 'a%2Fb', 'a+b', 'what?', '#&=;:@$,', "*'()!~", '日本😀']) {
        const { bytes, expect } = sample(2000);
        const key = keyFor(namespace, expect.digest, null);
        await store.put(key, bytes, expect);
        const response = await send(await store.presignGet(key, lifetime));
        assert.deepEqual(Buffer.from(await response.arrayBuffer()), bytes, prefix + namespace);
        const absent = await store.presignGet(keyFor(namespace, sample().expect.digest, null), lifetime);
        assert.equal((await send(absent)).status, 404);
      }
    }
  });
});

describe('gcs presigned requests', () => {
  // not there: signing with a key asks nobody
  const nowhere = { endpoint: 'http://127.0.0.1:9' };

  it('are those of Google’s SDK, where that can make them', async () => {
    setClock('2026-02-03T04:05:06.789Z');
    const endpoint = 'https://storage.localhost';
    const store = await opened({ endpoint, prefix: 'ü/' });
    const sdk = new Storage({ apiEndpoint: endpoint, keyFilename: keyFile });
    for (const namespace of ['plain', 'a b', 'a%2Fb', "+?#'()*!~;&"]) {
      const key = keyFor(namespace, sample().expect.digest, null);
      const expires = new Date('2026-02-03T05:05:06Z');
      const file = sdk.bucket('blobs').file(`ü/${key}`);
      const [theirs] = await file.getSignedUrl({ version: 'v4', action: 'read', expires });
      const { url, expiresAt } = await store.presignGet(key, { expiresInMs: 3_600_000 });
      assert.equal(new URL(url).pathname, new URL(theirs).pathname);
      assert.deepEqual(Object.fromEntries(new URL(url).searchParams), Object.fromEntries(new URL(theirs).searchParams));
      assert.deepEqual(expiresAt, expires);
    }
  });

  it('are signed for that blob, that host, that time, and to be read', async () => {
    for (const endpoint of ['http://127.0.0.1:9', 'http://127.0.0.1:9/behind/a/proxy']) {
      const store = await opened({ endpoint });
      const { url } = await store.presignGet(sample().key, lifetime);
      assert.ok(url.startsWith(`${endpoint}/blobs//blobs/tests/`), url);
      assert.ok(isSigned(url));
      assert.ok(!isSigned(url, 'PUT') && !isSigned(url, 'DELETE'));
      const changes: [string | RegExp, string][] = [
        ['/common/', '/custom/'],
        ['127.0.0.1', 'localhost'],
        [':9/', '/'],
        ['Expires=60', 'Expires=61'],
        [/Date=\d{4}/, 'Date=2099'],
        ['%2Fauto%2F', '%2Fother%2F'],
      ];
      for (const [from, to] of changes) {
        const elsewhere = url.replace(from, to);
        assert.notEqual(elsewhere, url);
        assert.ok(!isSigned(elsewhere), to);
      }
    }
  });

  it('last whole seconds, from one of them to 7 days, and say when they end', async () => {
    const store = await opened(nowhere);
    const { key } = sample();
    for (const expiresInMs of [999, 0, -1, Number.NaN, Number.POSITIVE_INFINITY, 7 * dayMs + 1000]) {
      await failure(store.presignGet(key, { expiresInMs }), 'INVALID_ARGUMENT');
    }
    for (const [expiresInMs, seconds, end] of [
      [1000, '1', '2026-02-03T23:59:59Z'],
      [1999, '1', '2026-02-03T23:59:59Z'],
      [7 * dayMs, '604800', '2026-02-10T23:59:58Z'],
    ] as const) {
      setClock('2026-02-03T23:59:58.999Z');
      const { url, expiresAt } = await store.presignGet(key, { expiresInMs });
      const query = new URL(url).searchParams;
      assert.equal(query.get('X-Goog-Date'), '20260203T235958Z');
      assert.equal(query.get('X-Goog-Credential'), `${account}/20260203/auto/storage/goog4_request`);
      assert.equal(query.get('X-Goog-Expires'), seconds);
      assert.deepEqual(expiresAt, new Date(end));
    }
  });

  it('are for names that are checked', async () => {
    await failure((await opened(nowhere)).presignGet('/blobs/../x', lifetime), 'INVALID_KEY');
  });

  it('cannot be had where nobody is there to sign them', async () => {
    const model = await startGcsModel();
    cleanUps.push(() => model.stop());
    const store = await openGcsStore({ endpoint: model.endpoint, bucket: 'bucket' });
    cleanUps.push(() => store.close?.());
    assert.equal(store.presignGet, undefined);
  });

  /** The library itself, but its requests to the store show no token, and it asks a model of IAM to sign. */
  function sdkWith(iam?: ModelServer): GcsSdk {
    return {
      Storage: class {
        readonly apiEndpoint: string;
        readonly authClient: InstanceType<GcsSdk['Storage']>['authClient'];
        constructor(options: ConstructorParameters<GcsSdk['Storage']>[0]) {
          const { apiEndpoint, authClient } = new Storage(options);
          this.apiEndpoint = apiEndpoint;
          this.authClient = {
            getClient: () => authClient.getClient(),
            getRequestHeaders: async () => ({}),
            getCredentials: () => authClient.getCredentials(),
            sign: (text) => authClient.sign(text, iam && `${iam.endpoint}/v1/projects/-/serviceAccounts/`),
          };
        }
      },
    };
  }

  async function withIam(serve: Handler, more: Partial<GcsStoreOptions> = {}) {
    const iam = await startModelServer(serve);
    cleanUps.push(() => iam.stop());
    const gcs = await startGcsModel();
    cleanUps.push(() => gcs.stop());
    const federated = fileOf('federated.json', {
      type: 'external_account',
      audience: '//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/provider',
      subject_token_type: 'urn:ietf:params:oauth:token-type:jwt',
      token_url: `${iam.endpoint}/v1/token`,
      service_account_impersonation_url: `${iam.endpoint}/v1/projects/-/serviceAccounts/${account}:generateAccessToken`,
      credential_source: { file: fileOf('subject', 'subject token') },
    });
    const options = { endpoint: gcs.endpoint, bucket: 'bucket', keyFile: federated, ...more };
    return { iam, store: presigning(checked(await openRawGcsStore(options, async () => sdkWith(iam)))) };
  }

  const json = (response: Parameters<Handler>[1], status: number, body: object) =>
    answer(response, status, JSON.stringify(body), { 'content-type': 'application/json' });

  /** Gives tokens for tokens, and signs for whoever shows the last of them. */
  const iamModel: Handler = async (request, response) => {
    const body = (await bodyOf(request))?.toString() ?? '';
    const expireTime = new Date(Date.now() + dayMs / 24).toISOString();
    if (request.url === '/v1/token') {
      return json(response, 200, {
        access_token: 'federated',
        expires_in: 3600,
        token_type: 'Bearer',
        issued_token_type: 'x',
      });
    }
    if (request.url?.endsWith(`/${account}:generateAccessToken`))
      return json(response, 200, { accessToken: 'ours', expireTime });
    assert.ok(request.url?.endsWith(`/${account}:signBlob`), request.url);
    assert.equal(request.headers.authorization, 'Bearer ours');
    const { payload } = JSON.parse(body) as { payload: string };
    const signedBlob = sign('RSA-SHA256', Buffer.from(payload, 'base64'), privateKey).toString('base64');
    return json(response, 200, { keyId: 'google’s', signedBlob });
  };

  it('are signed by Google where the credentials have no key', async () => {
    const { store } = await withIam(iamModel);
    const { url } = await store.presignGet(sample().key, lifetime);
    assert.ok(isSigned(url));
  });

  it('name the right that is missing, and may be had later from a server that is down', async () => {
    let status = 403;
    const { store } = await withIam((request, response) => {
      if (request.url?.endsWith(':signBlob')) return json(response, status, { error: { code: status, message: 'no' } });
      return iamModel(request, response);
    });
    const refused = await failure(store.presignGet(sample().key, lifetime), 'STORE_REFUSED');
    assert.match(refused.message, /iam\.serviceAccounts\.signBlob/);
    status = 429;
    await failure(store.presignGet(sample().key, lifetime), 'STORE_UNAVAILABLE');
  });

  it('wait neither for ever nor beyond an abort', async () => {
    const silentSigner: Handler = (request, response) => {
      if (!request.url?.endsWith(':signBlob')) return iamModel(request, response);
    };
    const { store } = await withIam(silentSigner, { idleTimeoutMs: 200 });
    const { key } = sample();
    assert.equal((await failure(store.presignGet(key, lifetime), 'STORE_UNAVAILABLE')).details.timedOut, true);
    const abort = new AbortController();
    const given = store.presignGet(key, { ...lifetime, signal: abort.signal });
    abort.abort();
    await failure(given, 'ABORTED');
  });

  it('cannot be had with credentials of no service account', async () => {
    const { store } = await withIam(iamModel, { keyFile: fileOf('person.json', ofAPerson) });
    const error = await failure(store.presignGet(sample().key, lifetime), 'NOT_SUPPORTED');
    assert.match(error.message, /service account/);
  });
});
