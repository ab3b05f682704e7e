import type { AddressInfo } from 'node:net';
import { memoryStore } from '@large-payload/core';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Audit } from '../auth/audit.js';
import type { Principal } from '../auth/principal.js';
import { logicalKey } from '../catalog/blob-record.js';
import { newKey } from '../catalog/postgres-catalog-fixture.js';
import { createApp } from '../http/app.js';
import { type Answer, request } from '../http/testing.js';
import { memoryLifecycle } from '../lifecycle/catalog/memory-lifecycle.js';
import { pinsOf } from '../lifecycle/catalog/pins.js';
import { createMetrics } from '../metrics.js';
import { checkAnswers } from '../openapi/testing.js';
import { registerPins } from './pins.js';

/** Tokens are the names of these. */
const callers: Record<string, Principal['grants']> = {
  orders: [{ namespaces: ['orders'], rights: ['write'] }],
  other: [{ namespaces: ['other'], rights: ['write'] }],
  all: [{ namespaces: ['*'], rights: ['write'] }],
  reader: [{ namespaces: ['*'], rights: ['read', 'decode', 'admin'] }],
};
const audited: unknown[] = [];
const store = memoryStore();
const { lifecycle } = memoryLifecycle({ now: () => Date.now(), graceMs: 86_400_000 });
let port: number;
let close: () => Promise<void>;

beforeAll(async () => {
  const app = createApp({
    store,
    limits: { maxBlobBytes: 1024, maxUploads: 4, maxConnections: 100 },
    pace: { idleTimeoutMs: 30_000, minRate: 1000, graceMs: 30_000 },
    logger: pino({ level: 'silent' }),
    metrics: createMetrics({ uploadsInFlight: () => 0, poolStats: () => ({ total: 0, idle: 0, waiting: 0 }) }),
    gate: {
      authenticator: { authenticate: async (token) => ({ id: `token:${token}`, grants: callers[token] ?? [] }) },
    },
    audit: { record: async (entry: unknown) => void audited.push(entry) } as unknown as Audit,
  }).server;
  registerPins(app, pinsOf(lifecycle, store));
  const faults = checkAnswers(app);
  await app.listen({ port: 0, host: '127.0.0.1' });
  port = (app.server.address() as AddressInfo).port;
  close = async () => {
    await app.close();
    expect(faults).toEqual([]);
  };
});
afterAll(() => close());

function send(caller: string, method: string, path: string, value?: unknown): Promise<Answer> {
  const body = value === undefined ? undefined : Buffer.from(JSON.stringify(value));
  const headers = {
    authorization: `Bearer ${caller}`,
    ...(body && { 'content-type': 'application/json', 'content-length': body.length }),
  };
  return request(port, `/v3/pins${path}`, { method, headers, ...(body && { body }) });
}

const json = ({ text }: Answer): Record<string, unknown> => JSON.parse(text);
const listed = async (caller: string, key: string) =>
  (json(await send(caller, 'GET', `?key=${encodeURIComponent(key)}`)).pins as { id: string }[]).map(({ id }) => id);

it('a pin is made, found by what it keeps, and removed', async () => {
  const key = logicalKey(newKey('orders'));
  const expiresAt = '2999-01-01T00:00:00.000Z';
  const first = await send('orders', 'POST', '', { key, reason: 'case 4711', owner: 'audit', expiresAt });
  expect([first.status, first.headers['cache-control']]).toEqual([201, 'private, no-store']);
  expect(json(first)).toMatchObject({ key, owner: 'audit', reason: 'case 4711', expiresAt });
  const second = await send('orders', 'POST', '', { key: '/blobs/orders/common/', reason: 'all of it' });
  expect(json(second)).toMatchObject({ owner: 'token:orders' });
  const [one, two] = [String(json(first).id), String(json(second).id)];
  expect((await listed('orders', key)).sort()).toEqual([one, two].sort());
  expect(await listed('orders', logicalKey(newKey('orders')))).toEqual([two]);
  expect((await listed('orders', '/blobs/orders/')).sort()).toEqual([one, two].sort());
  expect((json(await send('all', 'GET', '')).pins as unknown[]).length).toBe(2);
  expect(json(await send('orders', 'DELETE', `/${one}`))).toEqual({ removed: true });
  expect(json(await send('orders', 'DELETE', `/${one}`))).toEqual({ removed: false });
  expect(await listed('orders', key)).toEqual([two]);
  const of = (action: string, subjects: string[]) => ({
    principal: 'token:orders',
    action,
    namespaces: ['orders'],
    subjects,
  });
  expect(audited).toMatchObject([
    of('add pin', [key]),
    of('add pin', ['/blobs/orders/common/']),
    of('remove pin', [one, key]),
    { action: 'remove pin', subjects: [one] },
  ]);
});

describe('whoever may not write in a namespace', () => {
  it('neither pins in it nor sees what is pinned', async () => {
    const pin = { key: '/blobs/orders/', reason: 'mine' };
    for (const caller of ['other', 'reader']) {
      expect((await send(caller, 'POST', '', pin)).status, caller).toBe(403);
      expect((await send(caller, 'GET', `?key=${pin.key}`)).status, caller).toBe(403);
    }
    for (const caller of ['orders', 'reader']) expect((await send(caller, 'GET', '')).status, caller).toBe(403);
  });

  it('cannot remove a pin, nor find out that there is one', async () => {
    const made = json(await send('orders', 'POST', '', { key: '/blobs/orders/', reason: 'mine' }));
    for (const id of [String(made.id), 'never-there']) {
      const { status, text } = await send('other', 'DELETE', `/${id}`);
      expect([status, text]).toEqual([200, '{"removed":false}']);
    }
    expect((await send('reader', 'DELETE', `/${made.id}`)).status).toBe(403);
    expect((await lifecycle.pins()).map(({ id }) => id)).toContain(made.id);
  });
});

it.each([
  [{ key: '/blobs/orders/' }, 'INVALID_ARGUMENT'],
  [{ reason: 'why' }, 'INVALID_ARGUMENT'],
  [{ key: '/blobs/orders/', reason: '' }, 'INVALID_ARGUMENT'],
  [{ key: '/blobs/orders/', reason: 'why', until: 'tomorrow' }, 'INVALID_ARGUMENT'],
  [{ key: '/blobs/orders/', reason: 'why', expiresAt: 'tomorrow' }, 'INVALID_ARGUMENT'],
  [{ key: '/blobs/orders/', reason: 'why', expiresAt: '2020-01-01T00:00:00Z' }, 'INVALID_ARGUMENT'],
  [{ key: '/blobs/', reason: 'why' }, 'INVALID_KEY'],
  [{ key: '/blobs/orders', reason: 'why' }, 'INVALID_KEY'],
])('%j is refused', async (body, code) => {
  const answer = await send('all', 'POST', '', body);
  expect([answer.status, json(answer).code]).toEqual([400, code]);
});
