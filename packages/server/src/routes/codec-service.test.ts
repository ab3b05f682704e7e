/** The codec's routes among those of the service: who may call them, and clients who hold on to its memory. */
import { ClaimCheck, formatClaim, LpsError, memoryStore } from '@large-payload/core';
import { LargePayloadDriver } from '@large-payload/temporal';
import type { Payload } from '@temporalio/common';
import { afterEach, describe, expect, it } from 'vitest';
import type { Authenticator, Principal, Right } from '../auth/principal.js';
import { namespace, plain, toJson } from '../codec/codec-fixture.js';
import { type Codec, createCodec } from '../codec/pipeline.js';
import { formatReference } from '../codec/references.js';
import type { AppOptions } from '../http/app.js';
import { type Answer, RawConnection, type RunningApp, request, startApp } from '../http/testing.js';

const cleanUps: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
});

const ui = 'http://localhost:8233';

interface Site extends RunningApp {
  readonly codec: Codec;
  readonly claimCheck: ClaimCheck;
}

async function start(options: Partial<AppOptions> = {}, idleTimeoutMs = 30_000): Promise<Site> {
  const store = memoryStore();
  const claimCheck = new ClaimCheck({ store, cacheBytes: 0 });
  const drivers = [new LargePayloadDriver({ claimCheck })];
  const codec = createCodec({ drivers, claimCheck, threshold: 100, v1Namespace: namespace });
  const pace = { idleTimeoutMs, minRate: 0, graceMs: 30_000 };
  const app = await startApp({ store, codec: { codec, corsOrigins: [ui], pace }, ...options });
  cleanUps.push(() => app.close());
  return { ...app, codec, claimCheck };
}

function post({ port }: Site, path: string, payloads: readonly Payload[], headers = {}): Promise<Answer> {
  const body = Buffer.from(toJson(payloads));
  return request(port, path, { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body });
}

/** `orders.decode` may decode in orders; `a~b.write` may write in both; `all.decode` everywhere. */
const authenticator: Authenticator = {
  async authenticate(token): Promise<Principal> {
    const [, namespaces, right] = /^([\w~]+)\.(\w+)$/.exec(token) ?? [];
    if (namespaces === undefined) throw new LpsError('UNAUTHENTICATED', 'no such token');
    return {
      id: token,
      grants: [{ namespaces: namespaces === 'all' ? ['*'] : namespaces.split('~'), rights: [right as Right] }],
    };
  },
};
const bearer = (token: string): Record<string, string> => ({ authorization: `Bearer ${token}` });

describe('the codec’s routes', () => {
  it('need the right on every namespace that a request reads, and say the same whether a blob is there or not', async () => {
    const site = await start({ gate: { authenticator } });
    const claimOf = async (one: string): Promise<Payload> =>
      formatClaim(await site.claimCheck.deposit(plain(), { namespace: one }));
    const [orders, other] = [await claimOf('orders'), await claimOf('other')];
    const gone = await site.claimCheck.deposit(plain(), { namespace: 'other' });
    await site.store.delete(gone.key);
    const nobodys = formatReference('aws.s3driver', { key: 'v0/d/sha256/x' }, 1);
    const cases: [number, string, readonly Payload[], Record<string, string>][] = [
      [200, '/decode', [orders], bearer('orders.decode')],
      [200, '/decode', [orders, other], bearer('orders~other.decode')],
      [200, '/decode', [orders, other], bearer('all.decode')],
      [200, '/decode', [plain(5)], bearer('orders.decode')],
      [403, '/decode', [plain(5)], bearer('orders~other.decode')], // whose keys?
      [200, '/decode', [plain(5)], { ...bearer('orders~other.decode'), 'x-namespace': 'other' }],
      [403, '/decode', [orders, other], bearer('orders.decode')],
      [403, '/decode', [formatClaim(gone)], bearer('orders.decode')],
      [403, '/other/decode', [orders], bearer('orders~other.decode')],
      [403, '/decode', [orders], { ...bearer('orders~other.decode'), 'x-namespace': 'other' }],
      [403, '/decode', [orders], bearer('orders.read')],
      [403, '/decode', [orders], bearer('orders.write')],
      [403, '/download', [orders], bearer('other.decode')],
      [400, '/decode', [nobodys], bearer('all.decode')],
      [401, '/decode', [orders], {}],
      [401, '/decode', [orders], bearer('none')],
      [200, '/encode', [plain()], bearer('orders.write')],
      [200, '/other/encode', [plain()], bearer('orders~other.write')],
      [403, '/other/encode', [plain()], bearer('orders.write')],
      [403, '/encode', [plain(5)], bearer('orders~other.write')],
      [403, '/encode', [plain()], bearer('orders.decode')],
    ];
    for (const [status, path, payloads, headers] of cases) {
      const answer = await post(site, path, payloads, { ...headers, origin: ui });
      expect([path, headers, answer.status], answer.text).toEqual([path, headers, status]);
      expect(answer.headers['access-control-allow-origin']).toBe(ui); // refusals are read by the page, too
    }
    const absent = await post(site, '/decode', [formatClaim(gone)], {
      ...bearer('orders.decode'),
      'x-request-id': '1',
    });
    const there = await post(site, '/decode', [other], { ...bearer('orders.decode'), 'x-request-id': '1' });
    expect([absent.text, Object.keys(absent.headers)]).toEqual([there.text, Object.keys(there.headers)]);
    expect(site.codec.answers.heldBytes).toBe(0);
  });

  it('answer a preflight without a credential', async () => {
    const site = await start({ gate: { authenticator } });
    const headers = { origin: ui, 'access-control-request-method': 'POST' };
    const answer = await request(site.port, '/decode', { method: 'OPTIONS', headers });
    expect([answer.status, answer.headers['access-control-allow-origin']]).toEqual([204, ui]);
  });

  it('leave bodies of other routes as they were', async () => {
    const { port } = await start();
    const stat = (body: string): Promise<Answer> =>
      request(port, '/v3/blobs/stat', {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: Buffer.from(body),
      });
    expect((await stat('{"keys":[]}')).text).toBe('{"blobs":[]}');
    expect((await stat('{"keys":[],"__proto__":{}}')).status).toBe(400);
    expect((await stat(`{"keys":[]${' '.repeat(3_000_000)}}`)).status).toBe(400);
  });
});

/** Two looks at how a transfer goes, a second apart: one comes late and alone after a stall of this process. */
const slowMs = 1500;

describe('memory', () => {
  it('is given back when a client does not send what he announced', async () => {
    const { port, codec } = await start({}, slowMs);
    const connection = await RawConnection.open(port);
    await connection.write(
      'POST /decode HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{',
    );
    await expect.poll(() => codec.bodies.heldBytes).toBe(1_000_000);
    await connection.untilClosed();
    await expect.poll(() => codec.bodies.heldBytes).toBe(0);
  });

  it('is given back when a client does not read his answer', async () => {
    const site = await start({}, slowMs);
    const claim = await site.claimCheck.deposit(plain(20_000_000), { namespace });
    const body = toJson([formatClaim(claim)]);
    const connection = await RawConnection.open(site.port);
    connection.socket.pause();
    await connection.write(
      `POST /decode HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    await expect.poll(() => site.codec.answers.heldBytes, { timeout: 10_000 }).toBeGreaterThan(20_000_000);
    await expect.poll(() => site.codec.answers.heldBytes, { timeout: 20_000 }).toBe(0);
    connection.destroy();
    expect(site.codec.bodies.heldBytes).toBe(0);
  });
});
