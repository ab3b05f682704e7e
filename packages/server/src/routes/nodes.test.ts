/** Leases on reading over HTTP, and events as they come, on a real Postgres. */
import { setMaxListeners } from 'node:events';
import http from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Database, openDatabase } from '../catalog/database.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { openFixture } from '../catalog/postgres-catalog-fixture.js';
import { type RunningApp, request, startApp } from '../http/testing.js';
import { EventFeed } from '../nodes/event-feed.js';
import { appendEvents, openReadLeases, type ReadLeases } from '../nodes/read-leases.js';

/** Far longer than a test: none ends by itself. */
const leaseMs = 60_000;
/** Of the feed: its heart-beat is a quarter. */
const feedLeaseMs = 2000;

let postgres: EmbeddedPostgres;
let fixture: ReturnType<typeof openFixture>;
let database: Database;
let schema: string;
let leases: ReadLeases;
let feed: EventFeed;
let app: RunningApp;

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  fixture = openFixture(postgres.url);
  await fixture.open();
  ({ schema } = fixture);
  database = openDatabase({ url: postgres.url, maxConnections: 4, statementTimeoutMs: 10_000, log: () => undefined });
  leases = openReadLeases({ database, schema, leaseMs });
});
afterAll(async () => {
  await database?.close();
  await fixture?.close();
  await postgres?.stop();
});
beforeEach(async () => {
  feed = new EventFeed({ leases, leaseMs: feedLeaseMs, maxListeners: 2 });
  app = await startApp({ nodes: { leases, feed, maxStuckMs: 300 } });
});
afterEach(async () => {
  feed.close();
  await app.close();
});

const append = (...names: string[]) =>
  database.transaction((run) =>
    appendEvents(
      run,
      schema,
      'takedown',
      names.map((name) => ({ key: `/blobs/${name}`, physicalKey: `/blobs/${name}~1` })),
    ),
  );
const ask = (id: string, body: unknown) =>
  request(app.port, `/v3/nodes/${id}/lease`, {
    ...{ method: 'POST', headers: { 'content-type': 'application/json' } },
    body: Buffer.from(JSON.stringify(body)),
  });
const end = async (id: string) => (await request(app.port, `/v3/nodes/${id}/lease`, { method: 'DELETE' })).text;

/** An answer without an end: the text that has come, and when it ended. */
function follow(path: string, headers: http.OutgoingHttpHeaders = {}) {
  const listened = { text: '', isOver: false, status: 0, type: '', close: () => sent.destroy() };
  const sent = http.get({ host: '127.0.0.1', port: app.port, path, headers }, (response) => {
    listened.status = response.statusCode ?? 0;
    listened.type = String(response.headers['content-type']);
    response.setEncoding('utf8').on('data', (text) => (listened.text += text));
    response.on('close', () => (listened.isOver = true));
  });
  sent.on('error', () => (listened.isOver = true));
  return listened;
}

const told = (id: bigint, name: string) =>
  `id: ${id}\nevent: takedown\ndata: {"key":"/blobs/${name}","physicalKey":"/blobs/${name}~1"}\n\n`;

describe('leases on reading, over HTTP', () => {
  it('are given, listed, and given back', async () => {
    const newest = await leases.newest();
    const { status, text } = await ask('n-1', { name: 'here', cursor: String(newest), maxStalenessMs: 30_000 });
    expect([status, JSON.parse(text)]).toEqual([200, { newest: String(newest), leaseMs: 30_000 }]);
    const listed = JSON.parse((await request(app.port, '/v3/nodes')).text).nodes;
    expect(listed).toMatchObject([{ id: 'n-1', kind: 'cache', name: 'here', hasLease: true, cursor: String(newest) }]);
    expect(JSON.parse(await end('n-1'))).toEqual({ ended: true });
    expect((await leases.list())[0]?.hasLease).toBe(false);
    expect(JSON.parse(await end('n-2'))).toEqual({ ended: false });
  });

  it('are refused for longer than the installation’s, for a replica’s id, and for what is no node', async () => {
    await leases.grant({ id: 'r-1', kind: 'replica', name: 'a replica' }, 0n);
    const good = { name: 'x', cursor: '0' };
    expect((await ask('n-1', { ...good, maxStalenessMs: leaseMs + 1 })).status).toBe(400);
    expect((await ask('r-1', good)).status).toBe(403);
    expect((await ask('a%20b', good)).status).toBe(400);
    expect((await ask('n-1', { ...good, cursor: 7 })).status).toBe(400);
    expect(JSON.parse(await end('r-1'))).toEqual({ ended: false });
    expect((await leases.list()).find(({ id }) => id === 'r-1')?.hasLease).toBe(true);
  });
});

describe('leases on reading, of several callers', () => {
  let guarded: RunningApp;
  beforeEach(async () => {
    const grants = [{ namespaces: ['*'], rights: ['read'] }] as const;
    const authenticate = async (id: string) => ({ id: `token:${id}`, grants });
    guarded = await startApp({ nodes: { leases, feed }, gate: { authenticator: { authenticate } } });
  });
  afterEach(() => guarded.close());
  const send = (token: string, method: 'POST' | 'DELETE', cursor = 0n) =>
    request(guarded.port, '/v3/nodes/n-9/lease', {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        ...(method === 'POST' ? { 'content-type': 'application/json' } : {}),
      },
      ...(method === 'POST' ? { body: Buffer.from(JSON.stringify({ name: token, cursor: String(cursor) })) } : {}),
    });
  const waitedFor = async (event: bigint) => (await leases.unaware(event)).some(({ id }) => id === 'n-9');

  it('are each of its own caller, until they end: nobody else makes a takedown not wait for the node', async () => {
    const newest = await leases.newest();
    expect((await send('its-own', 'POST', newest)).status).toBe(200);
    const event = await append('told');
    const { status, text } = await send('another', 'POST', event);
    expect([status, JSON.parse(text)]).toEqual([403, expect.objectContaining({ code: 'FORBIDDEN' })]);
    expect(JSON.parse((await send('another', 'DELETE')).text)).toEqual({ ended: false });
    expect(await waitedFor(event)).toBe(true);
    expect((await send('its-own', 'POST', newest)).status).toBe(200);
    expect(await waitedFor(event)).toBe(true);
    expect(JSON.parse((await send('its-own', 'DELETE')).text)).toEqual({ ended: true });
    expect(await waitedFor(event)).toBe(false);
    expect((await send('another', 'POST', event)).status).toBe(200);
    expect((await send('its-own', 'POST', event)).status).toBe(403);
    expect(JSON.parse((await send('another', 'DELETE')).text)).toEqual({ ended: true });
  });
});

describe('events, over HTTP', () => {
  it('come from the cursor on, and then as they happen', async () => {
    const first = await append('1');
    const listener = follow(`/v3/events?cursor=${first - 1n}`);
    await expect.poll(() => listener.text).toContain(told(first, '1'));
    expect([listener.status, listener.type]).toEqual([200, 'text/event-stream; charset=utf-8']);
    const [second] = [await append('2')];
    feed.wake();
    await expect.poll(() => listener.text).toContain(told(second, '2'));
    await expect.poll(() => listener.text).toContain(': still here\n\n');
    await append('3'); // nobody says so: the heart-beat finds it
    await expect.poll(() => listener.text).toContain(told(second + 1n, '3'));
    listener.close();
    await expect.poll(() => feed.listeners).toBe(0);
  });

  it('go on where Last-Event-ID says, or with what is new, and end where that is asked for', async () => {
    const newest = await append('4', '5', '6');
    const once = 'follow=false';
    const whole = await request(app.port, `/v3/events?cursor=${newest - 3n}&${once}`);
    expect(whole.text).toBe(told(newest - 2n, '4') + told(newest - 1n, '5') + told(newest, '6'));
    const headers = { 'last-event-id': String(newest - 1n) };
    expect((await request(app.port, `/v3/events?cursor=0&${once}`, { headers })).text).toBe(told(newest, '6'));
    expect((await request(app.port, `/v3/events?${once}`)).text).toBe('');
    expect((await request(app.port, `/v3/events?${once}`, { headers: { 'last-event-id': 'x' } })).status).toBe(400);
    expect(feed.listeners).toBe(0);
  });

  it('begin with a reset when some behind the cursor are forgotten', async () => {
    const newest = await append('7');
    await fixture.sql.query(`UPDATE ${schema}.event SET at = now() - interval '1 hour'`);
    await leases.prune(0, 1000);
    const { text } = await request(app.port, `/v3/events?cursor=${newest - 1n}&follow=false`);
    expect(text).toBe(`id: ${newest}\nevent: reset\ndata: {"newest":"${newest}"}\n\n`);
  });

  it('are for so many listeners, and for none when the service stops', async () => {
    const listeners = [follow('/v3/events'), follow('/v3/events')];
    await expect.poll(() => feed.listeners).toBe(2);
    expect((await request(app.port, '/v3/events')).status).toBe(503);
    feed.close();
    await expect.poll(() => listeners.every(({ isOver }) => isOver)).toBe(true);
    expect((await request(app.port, '/v3/events')).status).toBe(503);
    expect(feed.listeners).toBe(0);
  });

  it('are not kept for a listener that does not read', async () => {
    const names = Array.from({ length: 200 }, (_, at) => `${at}-${'n'.repeat(20_000)}`);
    const before = await leases.newest();
    for (let round = 0; round < 4; round++) await append(...names);
    const sent = http.get({ host: '127.0.0.1', port: app.port, path: `/v3/events?cursor=${before}` });
    sent.on('error', () => undefined);
    const [response] = (await new Promise<unknown[]>((resolve) => sent.once('response', (...all) => resolve(all)))) as [
      http.IncomingMessage,
    ];
    response.pause();
    response.on('error', () => undefined);
    await expect.poll(() => feed.listeners).toBe(0);
  });

  it('share one statement among those who stand at the same place', async () => {
    let asked = 0;
    const counting = {
      newest: () => leases.newest(),
      async events(after: bigint, limit: number) {
        asked += 1;
        await delay(1);
        return leases.events(after, limit);
      },
    };
    const own = new EventFeed({ leases: counting, leaseMs: feedLeaseMs });
    const stop = new AbortController();
    setMaxListeners(0, stop.signal);
    const cursor = await leases.newest();
    const followers = Array.from({ length: 20 }, () => own.follow(cursor, stop.signal).next());
    await append('8');
    own.wake();
    const items = await Promise.all(followers);
    expect(items.every(({ value }) => value?.kind === 'events')).toBe(true);
    expect(asked).toBeLessThanOrEqual(2);
    stop.abort();
    own.close();
  });
});
