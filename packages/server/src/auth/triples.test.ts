/**
 * Generated (token, verb, key) triples against a small model of who may do what: nobody gets through without a right, nobody
 * who has it is refused, and to whoever is refused a blob that is there looks like one that is not.
 */
import { randomBytes } from 'node:crypto';
import { digestOf, formatClaim, keyFor, keyPrefixName } from '@large-payload/core';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, type RequestOptions, request } from '../http/testing.js';
import { type AccessSite, openAccessSite } from './access-fixture.js';
import { type Right, rights } from './principal.js';

const triples = process.env.LPS_TEST_SCALE === 'long' ? 10_000 : 2000;

const namespaces = ['orders', 'orders-eu', 'ordersx', 'Orders', 'other'] as const;
const patterns = [...namespaces, 'orders-*', 'ord*', '*'] as const;
type Grants = readonly { readonly pattern: string; readonly right: Right }[];

interface Blob {
  readonly namespace: string;
  readonly bytes: Buffer;
  readonly metadata: Record<string, Uint8Array> | null;
  readonly key: string;
}

function newBlob(namespace: string, prefix?: string): Blob {
  const bytes = randomBytes(64);
  const metadata = prefix === undefined ? null : { [keyPrefixName]: Buffer.from(prefix) };
  return { namespace, bytes, metadata, key: keyFor(namespace, digestOf(bytes), metadata) };
}

type Call = RequestOptions & { readonly path: string };

const json = (path: string, value: unknown): Call => {
  const body = Buffer.from(JSON.stringify(value));
  return { path, method: 'POST', body, headers: { 'content-type': 'application/json', 'content-length': body.length } };
};
const query = (values: Record<string, string>): string => `?${new URLSearchParams(values)}`;
const octets = { 'content-type': 'application/octet-stream' };

function claimOf({ bytes, metadata, key }: Blob): unknown {
  const { metadata: marks, data } = formatClaim({ metadata, size: bytes.length, digest: digestOf(bytes), key });
  const encoded = Object.entries(marks ?? {}).map(([name, value]) => [name, Buffer.from(value).toString('base64')]);
  return { payloads: [{ metadata: Object.fromEntries(encoded), data: Buffer.from(data ?? []).toString('base64') }] };
}

interface Verb {
  readonly right: Right;
  call(blob: Blob): Call;
  /** Whether an answer is what a caller with the right gets for a blob that is there. */
  isRight(answer: Answer, blob: Blob): boolean;
}

const verbs: Record<string, Verb> = {
  'v2 get': {
    right: 'read',
    call: ({ key }) => ({
      path: `/v2/blobs/get${query({ key })}`,
      headers: { ...octets, 'x-payload-expected-content-length': '64' },
    }),
    isRight: ({ status, body }, { bytes }) => status === 200 && body.equals(bytes),
  },
  'v3 get': {
    right: 'read',
    call: ({ key }) => ({ path: `/v3/blobs${query({ key })}` }),
    isRight: ({ status, body }, { bytes }) => status === 200 && body.equals(bytes),
  },
  'v3 get of a range': {
    right: 'read',
    call: ({ key }) => ({ path: `/v3/blobs${query({ key })}`, headers: { range: 'bytes=0-9' } }),
    isRight: ({ status, body }) => status === 206 && body.length === 10,
  },
  'v3 get with If-None-Match': {
    right: 'read',
    call: ({ key }) => ({ path: `/v3/blobs${query({ key })}`, headers: { 'if-none-match': '*' } }),
    isRight: ({ status }) => status === 304,
  },
  'v3 head': {
    right: 'read',
    call: ({ key }) => ({ method: 'HEAD', path: `/v3/blobs${query({ key })}` }),
    isRight: ({ status }) => status === 200,
  },
  stat: {
    right: 'read',
    call: ({ key }) => json('/v3/blobs/stat', { keys: [key] }),
    isRight: ({ status, text }, { key }) => status === 200 && text.includes(key),
  },
  list: {
    right: 'read',
    call: ({ namespace }) => ({ path: `/v3/blobs/list${query({ prefix: `/blobs/${namespace}/` })}` }),
    isRight: ({ status, text }, { key }) => status === 200 && text.includes(key),
  },
  'v3 put': {
    right: 'write',
    call: ({ key, bytes }) => ({
      ...{ method: 'PUT', path: `/v3/blobs${query({ key })}`, body: bytes },
      headers: { ...octets, 'content-length': bytes.length },
    }),
    isRight: ({ status }) => status === 200,
  },
  'begin upload': {
    right: 'write',
    call: ({ key, bytes }) => json('/v3/uploads', { key, size: bytes.length }),
    isRight: ({ status }) => status === 501, // the store is a disk
  },
  decode: {
    right: 'decode',
    call: (blob) => json('/decode', claimOf(blob)),
    isRight: ({ status, text }, { bytes }) => status === 200 && text.includes(bytes.toString('base64')),
  },
  'decode below the namespace': {
    right: 'decode',
    call: (blob) => json(`/${blob.namespace}/decode`, claimOf(blob)),
    isRight: ({ status, text }, { bytes }) => status === 200 && text.includes(bytes.toString('base64')),
  },
  download: {
    right: 'decode',
    call: (blob) => json('/download?preserveStorageRefs=true', claimOf(blob)),
    isRight: ({ status, text }, { bytes }) => status === 200 && text.includes(bytes.toString('base64')),
  },
};

const grantsOf = fc.uniqueArray(
  fc.record({ pattern: fc.constantFrom(...patterns), right: fc.constantFrom(...rights) }),
  { minLength: 1, maxLength: 4, selector: ({ pattern, right }) => `${pattern} ${right}` },
);

function mayBe(grants: Grants, right: Right, namespace: string): boolean {
  return grants.some(
    (grant) =>
      grant.right === right &&
      (grant.pattern.endsWith('*') ? namespace.startsWith(grant.pattern.slice(0, -1)) : grant.pattern === namespace),
  );
}

/** What a caller can see of an answer, without what differs from one request to the next. */
function seen({ status, headers, text }: Answer): unknown {
  const { date: _, ...rest } = headers;
  return { status, headers: rest, text };
}

describe('tokens, verbs and keys', () => {
  let site: AccessSite;
  let tokens: { readonly grants: Grants; readonly text: string }[];
  const present = new Map<string, Blob[]>();
  const absent = new Map<string, Blob[]>();

  beforeAll(async () => {
    site = await openAccessSite();
    const samples = fc.sample(grantsOf, { numRuns: 40, seed: 20261123 });
    tokens = await Promise.all(samples.map(async (grants) => ({ grants, text: await tokenOf(grants) })));
    const root = await site.token({ '*': ['write'] });
    for (const namespace of namespaces) {
      const blobs = [newBlob(namespace), newBlob(namespace, 'team/a')];
      present.set(namespace, blobs);
      absent.set(namespace, [newBlob(namespace), newBlob(namespace, 'team/a')]);
      for (const blob of blobs) expect((await send(verbOf('v3 put').call(blob), root)).status).toBe(201);
    }
  });
  afterAll(() => site?.close());

  async function tokenOf(grants: Grants): Promise<string> {
    const byPattern: Record<string, Right[]> = {};
    for (const { pattern, right } of grants) byPattern[pattern] = [...(byPattern[pattern] ?? []), right];
    return site.token(byPattern);
  }

  function verbOf(name: string): Verb {
    const verb = verbs[name];
    if (verb === undefined) throw new Error(`no verb ${name}`);
    return verb;
  }

  function send({ path, ...call }: Call, token: string, stated?: string): Promise<Answer> {
    // the service's own ids grow longer
    const given = { ...call.headers, authorization: `Bearer ${token}`, 'x-request-id': 'same' };
    const headers = stated === undefined ? given : { ...given, 'x-namespace': stated };
    return request(site.port, path, { ...call, headers });
  }

  it(`agree with the model, ${triples} of them`, async () => {
    const counts = { allowed: 0, refused: 0 };
    const triple = fc.record({
      token: fc.nat(39),
      verb: fc.constantFrom(...Object.keys(verbs)),
      namespace: fc.constantFrom(...namespaces),
      blob: fc.nat(1),
      stated: fc.constantFrom('none', 'the same', 'the same', ...namespaces),
    });
    await fc.assert(
      fc.asyncProperty(triple, async ({ token, verb: name, namespace, blob, stated: header }) => {
        const stated = header === 'none' ? undefined : header === 'the same' ? namespace : header;
        const verb = verbOf(name);
        const { grants = [], text = '' } = tokens[token] ?? {};
        const there = present.get(namespace)?.[blob] ?? newBlob(namespace);
        const answer = await send(verb.call(there), text, stated);
        const isAllowed = mayBe(grants, verb.right, namespace) && (stated ?? namespace) === namespace;
        if (isAllowed) {
          counts.allowed += 1;
          expect(verb.isRight(answer, there), answer.text).toBe(true);
          return;
        }
        counts.refused += 1;
        expect(answer.status).toBe(403);
        const missing = absent.get(namespace)?.[blob] ?? newBlob(namespace);
        expect(seen(await send(verb.call(missing), text, stated))).toEqual(seen(answer));
      }),
      { numRuns: triples, seed: Number(process.env.LPS_TEST_SEED ?? Date.now() % 2 ** 31) },
    );
    expect(Math.min(counts.allowed, counts.refused)).toBeGreaterThan(triples / 20);
  }, 600_000);

  it('need a right on each of several namespaces', async () => {
    const [orders, other] = [present.get('orders')?.[0], present.get('other')?.[0]];
    const keys = [orders?.key, other?.key];
    const one = await site.token({ orders: ['read'] });
    const both = await site.token({ orders: ['read'], other: ['read'] });
    expect((await send(json('/v3/blobs/stat', { keys }), one)).status).toBe(403);
    expect((await send(json('/v3/blobs/stat', { keys }), both)).status).toBe(200);
    expect((await send(json('/v3/blobs/stat', { keys }), both, 'orders')).status).toBe(403);
  });

  it('list no more than one namespace for whoever has no right on all', async () => {
    const one = await site.token({ 'ord*': ['read'] });
    const all = await site.token({ '*': ['read'] });
    for (const prefix of ['/blobs/', '/blobs/ord', '/blobs/orders']) {
      const path = `/v3/blobs/list${query({ prefix })}`;
      expect((await send({ path }, one)).status, prefix).toBe(403);
      expect((await send({ path }, one, 'orders')).status, prefix).toBe(403);
      expect([200, 501], prefix).toContain((await send({ path }, all)).status);
    }
  });
});
