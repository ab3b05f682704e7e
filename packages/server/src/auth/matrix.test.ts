/**
 * Every route there is × every kind of credential. The routes come from the router itself: one that is added later, and is
 * not in the table below, fails here.
 */
import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { digestOf, keyFor } from '@large-payload/core';
import { describeWith, startVersitygw, tempDir } from '@large-payload/test-components';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type RunningCacheNode, startCacheNode } from '../cache/cache-service.js';
import { createCodec } from '../codec/pipeline.js';
import { loadConfig } from '../config/load.js';
import { type Answer, type RequestOptions, request, startApp, v2Blob } from '../http/testing.js';
import { type AccessSite, openAccessSite, root } from './access-fixture.js';
import { type Right, rights } from './principal.js';

interface Example {
  /** What the route must ask for. `everywhere`: on every namespace. */
  readonly needs: 'nothing' | 'any token' | { readonly right: Right; readonly everywhere?: true };
  /** A request that is about a namespace. */
  readonly request: (namespace: string) => RequestOptions & { readonly path: string };
  /** What a namespace of others is answered with, where it is not 403. */
  readonly foreign?: number;
  /** Nothing but the header names a namespace. */
  readonly hasOneName?: true;
}

const octets = { 'content-type': 'application/octet-stream' };
const json = (value: unknown): Required<Pick<RequestOptions, 'headers' | 'body'>> => {
  const body = Buffer.from(JSON.stringify(value));
  return { headers: { 'content-type': 'application/json', 'content-length': body.length }, body };
};
const bytes = randomBytes(100);
const keyOf = (namespace: string): string => keyFor(namespace, digestOf(bytes), null);
const query = (values: Record<string, string>): string => `?${new URLSearchParams(values)}`;
const claim = (namespace: string) => ({
  metadata: { encoding: btoa('json/plain'), 'temporal.io/remote-codec': btoa('v2') },
  data: btoa(JSON.stringify({ metadata: null, size: bytes.length, digest: digestOf(bytes), key: keyOf(namespace) })),
});
const payloads = (namespace: string) => json({ payloads: [claim(namespace)] });
const post = { method: 'POST' };
const uploadIds: Record<string, string> = {};
const pinIds: Record<string, string> = {};
const takedownIds: Record<string, string> = { orders: randomUUID(), other: randomUUID() };
const absentBlob = (namespace: string) => ({ namespace, digest: digestOf(Buffer.from('no blob')) });

const codecExamples = (action: string, right: Right): Record<string, Example> => ({
  [`POST /${action}`]: {
    needs: { right },
    ...(action === 'encode' ? { hasOneName: true } : {}),
    request: (namespace) => {
      const { headers, ...rest } = payloads(namespace);
      return { ...post, path: `/${action}`, ...rest, headers: { ...headers, 'x-namespace': namespace } };
    },
  },
  [`POST /:namespace/${action}`]: {
    needs: { right },
    request: (namespace) => ({ ...post, path: `/${namespace}/${action}`, ...payloads(namespace) }),
  },
});

const examples: Record<string, Example> = {
  'GET /healthz': { needs: 'nothing', request: () => ({ path: '/healthz' }) },
  'GET /readyz': { needs: 'nothing', request: () => ({ path: '/readyz' }) },
  'HEAD /v2/health/head': { needs: 'nothing', request: () => ({ method: 'HEAD', path: '/v2/health/head' }) },
  'GET /version': { needs: 'any token', request: () => ({ path: '/version' }) },
  'GET /openapi.json': { needs: 'any token', request: () => ({ path: '/openapi.json' }) },
  'GET /metrics': { needs: 'any token', request: () => ({ path: '/metrics' }) },
  'GET /v3/access': { needs: 'any token', request: () => ({ path: '/v3/access' }) },
  'POST /v3/touches': {
    needs: { right: 'read' },
    request: (namespace) => ({
      ...post,
      path: '/v3/touches',
      ...json({ touches: [{ key: keyOf(namespace), agoMs: 0 }] }),
    }),
  },
  'GET /v1/blobs/get': {
    needs: { right: 'read' },
    request: () => ({
      path: `/v1/blobs/get${query({ digest: digestOf(bytes) })}`,
      headers: { ...octets, 'x-payload-expected-content-length': '100' },
    }),
  },
  'PUT /v2/blobs/put': {
    needs: { right: 'write' },
    request: (namespace) => {
      const { putPath, putHeaders } = v2Blob(bytes, namespace);
      return { method: 'PUT', path: putPath, headers: putHeaders, body: bytes };
    },
  },
  'GET /v2/blobs/get': {
    needs: { right: 'read' },
    request: (namespace) => {
      const { getPath, getHeaders } = v2Blob(bytes, namespace);
      return { path: getPath, headers: getHeaders };
    },
  },
  'PUT /v3/blobs': {
    needs: { right: 'write' },
    request: (namespace) => ({
      method: 'PUT',
      path: `/v3/blobs${query({ key: keyOf(namespace) })}`,
      headers: { ...octets, 'content-length': bytes.length },
      body: bytes,
    }),
  },
  'HEAD /v3/blobs': {
    needs: { right: 'read' },
    request: (namespace) => ({ method: 'HEAD', path: `/v3/blobs${query({ key: keyOf(namespace) })}` }),
  },
  'GET /v3/blobs': {
    needs: { right: 'read' },
    request: (namespace) => ({ path: `/v3/blobs${query({ key: keyOf(namespace) })}` }),
  },
  'POST /v3/blobs/stat': {
    needs: { right: 'read' },
    request: (namespace) => ({ ...post, path: '/v3/blobs/stat', ...json({ keys: [keyOf(namespace)] }) }),
  },
  'GET /v3/blobs/list': {
    needs: { right: 'read' },
    request: (namespace) => ({ path: `/v3/blobs/list${query({ prefix: `/blobs/${namespace}/` })}` }),
  },
  'POST /v3/uploads': {
    needs: { right: 'write' },
    request: (namespace) => ({ ...post, path: '/v3/uploads', ...json({ key: keyOf(namespace), size: 100 }) }),
  },
  'POST /v3/uploads/:id/complete': {
    needs: { right: 'write' },
    request: (namespace) => ({ ...post, path: `/v3/uploads/${uploadIds[namespace]}/complete` }),
    foreign: 404,
  },
  'GET /v3/workflows': { needs: { right: 'admin', everywhere: true }, request: () => ({ path: '/v3/workflows' }) },
  'GET /v3/workflows/:id': {
    needs: { right: 'admin', everywhere: true },
    request: () => ({ path: '/v3/workflows/x' }),
  },
  'POST /v3/workflows/:id/cancel': {
    needs: { right: 'admin', everywhere: true },
    request: () => ({ ...post, path: '/v3/workflows/x/cancel' }),
  },
  'POST /v3/workflows/:id/resume': {
    needs: { right: 'admin', everywhere: true },
    request: () => ({ ...post, path: '/v3/workflows/x/resume' }),
  },
  'GET /v3/nodes': { needs: { right: 'read', everywhere: true }, request: () => ({ path: '/v3/nodes' }) },
  'POST /v3/nodes/:id/lease': {
    needs: { right: 'read', everywhere: true },
    request: () => ({ ...post, path: '/v3/nodes/x/lease', ...json({ name: 'test', cursor: '0' }) }),
  },
  'DELETE /v3/nodes/:id/lease': {
    needs: { right: 'read', everywhere: true },
    request: () => ({ method: 'DELETE', path: '/v3/nodes/x/lease' }),
  },
  'GET /v3/events': {
    needs: { right: 'read', everywhere: true },
    request: () => ({ path: `/v3/events${query({ cursor: '0', follow: 'false' })}` }),
  },
  'GET /v3/pins': {
    needs: { right: 'write' },
    request: (namespace) => ({ path: `/v3/pins${query({ key: `/blobs/${namespace}/` })}` }),
  },
  'POST /v3/pins': {
    needs: { right: 'write' },
    request: (namespace) => ({ ...post, path: '/v3/pins', ...json({ key: keyOf(namespace), reason: 'test' }) }),
  },
  'DELETE /v3/pins/:id': {
    needs: { right: 'write' },
    request: (namespace) => ({ method: 'DELETE', path: `/v3/pins/${pinIds[namespace]}` }),
    foreign: 200, // as one that does not exist
  },
  'POST /v3/takedowns/plan': {
    needs: { right: 'admin' },
    request: (namespace) => ({ ...post, path: '/v3/takedowns/plan', ...json({ selector: absentBlob(namespace) }) }),
  },
  'POST /v3/takedowns': {
    needs: { right: 'admin' },
    request: (namespace) => {
      const body = { id: takedownIds[namespace], selector: absentBlob(namespace), reason: 'test' };
      return { ...post, path: '/v3/takedowns', ...json(body) };
    },
  },
  'GET /v3/takedowns': {
    needs: { right: 'admin' },
    request: (namespace) => ({ path: `/v3/takedowns${query({ namespace })}` }),
  },
  'GET /v3/takedowns/:id': {
    needs: { right: 'admin' },
    request: (namespace) => ({ path: `/v3/takedowns/${takedownIds[namespace]}` }),
    foreign: 404,
  },
  'GET /v3/takedowns/:id/receipt': {
    needs: { right: 'admin' },
    request: (namespace) => ({ path: `/v3/takedowns/${takedownIds[namespace]}/receipt` }),
    foreign: 404,
  },
  'GET /v3/blocks': {
    needs: { right: 'admin' },
    request: (namespace) => ({ path: `/v3/blocks${query({ namespace })}` }),
  },
  'DELETE /v3/blocks': {
    needs: { right: 'admin' },
    request: (namespace) => ({
      method: 'DELETE',
      path: `/v3/blocks${query({ namespace, digest: digestOf(Buffer.from('no blob')) })}`,
    }),
  },
  ...codecExamples('encode', 'write'),
  ...codecExamples('decode', 'decode'),
  ...codecExamples('download', 'decode'),
};

/** Of a cache node, which asks the service who calls. */
const nodeExamples: Record<string, Example> = {
  ...Object.fromEntries(
    Object.entries(examples).filter(([route]) =>
      /\/(?:healthz|readyz|version|openapi.json|metrics|access|head|get|put)$|\/v3\/(?:blobs|uploads)/.test(route),
    ),
  ),
  'GET /v3/cache': { needs: { right: 'admin', everywhere: true }, request: () => ({ path: '/v3/cache' }) },
  'POST /v3/cache/purge': {
    needs: { right: 'admin', everywhere: true },
    request: () => ({ ...post, path: '/v3/cache/purge', ...json({ all: true }) }),
  },
};
const complete = examples['POST /v3/uploads/:id/complete'];
// there are none, whoever asks
if (complete !== undefined) nodeExamples['POST /v3/uploads/:id/complete'] = { ...complete, foreign: 501 };
const walked: [string, Example, boolean][] = [
  ...Object.entries(examples).map(([route, example]): [string, Example, boolean] => [route, example, false]),
  ...Object.entries(nodeExamples).map(([route, example]): [string, Example, boolean] => [
    `${route} of a cache node`,
    example,
    true,
  ]),
];

const bucket = await startVersitygw();
afterAll(() => bucket?.stop());

function writeSigningKey(): string {
  const path = join(tempDir('key'), 'takedown-key.pem');
  const { privateKey } = generateKeyPairSync('ed25519');
  writeFileSync(path, privateKey.export({ format: 'pem', type: 'pkcs8' }));
  return path;
}

describeWith(describe, 'every route', bucket, (bucket) => {
  let site: AccessSite;
  let node: RunningCacheNode;
  const credentials: Record<string, string> = {};
  /** By right: on the namespace `orders`, and on `other`. */
  const own = {} as Record<Right, string>;
  const others = {} as Record<Right, string>;
  const both = {} as Record<Right, string>;
  const everywhere = {} as Record<Right, string>;

  const askAt = (
    port: number,
    example: Example,
    namespace: string,
    authorization?: string,
    headers = {},
  ): Promise<Answer> => {
    const { path, ...options } = example.request(namespace);
    const given = authorization === undefined ? {} : { authorization };
    return request(port, path, { ...options, headers: { ...options.headers, ...given, ...headers } });
  };

  const beginUpload = async (namespace: string): Promise<string | undefined> => {
    const { body, headers } = json({ key: keyFor(namespace, digestOf(randomBytes(16)), null), size: 100 });
    const authorization = both.write;
    const begun = await request(site.port, '/v3/uploads', { ...post, body, headers: { ...headers, authorization } });
    return JSON.parse(begun.text).uploadId;
  };

  beforeAll(async () => {
    vi.stubEnv('AWS_ACCESS_KEY_ID', bucket.accessKeyId).stubEnv('AWS_SECRET_ACCESS_KEY', bucket.secretAccessKey);
    site = await openAccessSite({
      LPS_STORE: 's3',
      LPS_S3_BUCKET: bucket.bucket,
      LPS_S3_ENDPOINT: bucket.endpoint,
      LPS_S3_REGION: bucket.region,
      LPS_V1_NAMESPACE: 'orders',
      LPS_TAKEDOWN_KEY: writeSigningKey(),
    });
    const { issuer } = site;
    const all = { '*': rights };
    const bearer = async (token: string | Promise<string>): Promise<string> => `Bearer ${await token}`;
    const valid = await site.token(all);
    const revoked = await site.token(all);
    await site.access.tokens.revoke(revoked.split('_')[1] ?? '');
    const expired = await site.token(all, new Date(Date.now() + 60_000));
    const sql = new pg.Client({ connectionString: site.postgres.url });
    await sql.connect();
    await sql.query(
      `UPDATE ${site.schema}.access_token SET expires_at = now() - interval '1 s' WHERE expires_at IS NOT NULL`,
    );
    await sql.end();
    expect(
      (await request(site.port, '/version', { headers: { authorization: await bearer(issuer.token(root)) } })).status,
    ).toBe(200);
    Object.assign(credentials, {
      'an empty header': '',
      'another scheme': `Basic ${btoa('a:b')}`,
      'no token': 'Bearer ',
      garbage: 'Bearer garbage',
      'a static token with another secret': await bearer(`${valid.slice(0, -6)}AAAAAA`),
      'an unknown static token': await bearer(valid.replace(/_[a-z0-9]+_/, '_000000000000_')),
      'an expired static token': await bearer(expired),
      'a revoked static token': await bearer(revoked),
      'an expired JWT': await bearer(issuer.token(root, { expired: true })),
      'a JWT of another audience': await bearer(issuer.token({ ...root, aud: 'someone-else' })),
      'a JWT of another issuer': await bearer(issuer.token({ ...root, iss: 'https://other.test' })),
      'a JWT signed by another key': await bearer(issuer.foreign()),
      'a JWT without a signature': await bearer(issuer.unsigned()),
      'a JWT signed with the public key': await bearer(issuer.symmetric()),
    });
    for (const right of rights) {
      own[right] = await bearer(site.token({ orders: [right] }));
      others[right] = await bearer(issuer.token({ grants: { other: [right] } }));
      both[right] = await bearer(site.token({ orders: [right], other: [right] }));
      everywhere[right] = await bearer(site.token({ '*': [right] }));
    }
    const { config } = loadConfig({
      env: {
        LPS_PORT: '0',
        LPS_AUTH: 'required',
        LPS_UPSTREAM: site.service.url,
        LPS_UPSTREAM_TOKEN: await site.token({ '*': ['read', 'write'] }),
        LPS_V1_NAMESPACE: 'orders',
      },
    });
    node = await startCacheNode({ ...config, upstream: site.service.url }, pino({ level: 'silent' }));
    // durable work starts in the background; until then the service takes uploads itself
    for (const namespace of ['orders', 'other']) {
      uploadIds[namespace] = await vi.waitUntil(() => beginUpload(namespace), { interval: 50, timeout: 20_000 });
      const { body, headers } = json({ key: keyOf(namespace), reason: 'test' });
      const takedown = { id: takedownIds[namespace], selector: absentBlob(namespace), reason: 'test' };
      const asked = { ...post, ...json(takedown) };
      const headersOf = { ...asked.headers, authorization: both.admin };
      expect((await request(site.port, '/v3/takedowns', { ...asked, headers: headersOf })).status).toBe(202);
      const pinned = { ...post, body, headers: { ...headers, authorization: both.write } };
      pinIds[namespace] = JSON.parse((await request(site.port, '/v3/pins', pinned)).text).id;
    }
  });
  afterAll(async () => {
    await node?.close();
    await site?.close();
    vi.unstubAllEnvs();
  });

  it('is in the table', async () => {
    const parts = {
      workflows: {} as never,
      pins: {} as never,
      nodes: {} as never,
      catalog: {} as never,
      takedowns: {} as never,
      direct: { downloadLifetimeMs: 1, uploads: {} as never },
    };
    const codec = { codec: createCodec({ drivers: [] }), corsOrigins: [] };
    const app = await startApp({ ...parts, v1: {}, codec });
    const routes = [...app.routes].flatMap(([url, methods]) => [...methods].map((method) => `${method} ${url}`));
    await app.close();
    expect(routes.filter((route) => !route.startsWith('OPTIONS ')).sort()).toEqual(Object.keys(examples).sort());
  });

  it('of a cache node is in the table', async () => {
    const app = await startApp({ v1: {}, cacheNode: {} as never });
    const routes = [...app.routes].flatMap(([url, methods]) => [...methods].map((method) => `${method} ${url}`));
    await app.close();
    expect(routes.sort()).toEqual(Object.keys(nodeExamples).sort());
  });

  describe.each(walked)('%s', (_route, example, isOfNode) => {
    const { needs, foreign = 403 } = example;
    const ask = (...args: [Example, string, string?, object?]): Promise<Answer> =>
      askAt(isOfNode ? Number(new URL(node.url).port) : site.port, ...args);
    const right = typeof needs === 'object' ? needs.right : 'read';

    it('refuses whoever cannot say who he is', async () => {
      for (const [kind, authorization] of [...Object.entries(credentials), ['nothing', undefined] as const]) {
        const { status, headers, text } = await ask(example, 'orders', authorization);
        if (needs === 'nothing') expect(status, kind).toBe(200);
        else {
          expect(status, kind).toBe(401);
          expect(headers['www-authenticate'], kind).toBe('Bearer');
          expect(text).not.toMatch(/expired|revoked|audience|signature/);
        }
      }
    });

    it('lets in whoever has the right, and asks for no more', async () => {
      const token = needs !== 'nothing' && typeof needs === 'object' && needs.everywhere ? everywhere : own;
      for (const authorization of [token[right], token[right].replace(' ', '+')]) {
        const { status, text } = await ask(example, 'orders', authorization);
        expect([401, 403, 429, 500], text).not.toContain(status);
      }
    });

    it('refuses whoever has other rights, or has it elsewhere', async () => {
      if (typeof needs === 'string') return;
      for (const wrong of rights.filter((one) => one !== right)) {
        expect((await ask(example, 'orders', everywhere[wrong])).status, wrong).toBe(403);
      }
      if (needs.everywhere) expect((await ask(example, 'orders', both[right])).status).toBe(403);
      else expect((await ask(example, 'orders', others[right])).status).toBe(foreign);
    });

    it('refuses what names two namespaces', async () => {
      if (typeof needs === 'string' || needs.everywhere || example.hasOneName) return;
      const { status } = await ask(example, 'orders', both[right], { 'x-namespace': 'other' });
      expect(status).toBe(foreign);
    });
  });
});
