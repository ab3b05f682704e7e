import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { EventStreamParser, type ServerSentEvent } from './event-stream.js';
import { openUpstreamApi, type UpstreamApi } from './upstream-api.js';
import { type UpstreamLeases, upstreamLeases } from './upstream-leases.js';

const lease = '{"newest":"5","leaseMs":60000}';
const never = new AbortController().signal;

describe('leases from upstream', () => {
  let server: Server;
  let api: UpstreamApi;
  let leases: UpstreamLeases;
  /** Cursors that streams were opened with. */
  let opened: string[];
  let onStream: (response: ServerResponse, cursor: number) => void;
  let onLease: (body: Record<string, unknown>, response: ServerResponse) => void;
  let heard: number;
  /** What was asked about leases. */
  let wishes: string[];
  let renamed: string[];

  beforeEach(async () => {
    [opened, heard, wishes, renamed] = [[], 0, [], []];
    onStream = () => undefined;
    onLease = (_, response) => response.end(lease);
    server = createServer((request, response) => void serve(request, response));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    api = openUpstreamApi({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, token: 'own' });
    leases = open(15_000);
  });
  afterEach(async () => {
    leases.close();
    await api.close();
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  const open = (silenceMs: number): UpstreamLeases =>
    upstreamLeases({
      ...{ api, id: 'n1', name: 'here', maxStalenessMs: 60_000, silenceMs },
      ...{ onEvent: () => (heard += 1), onId: (id) => renamed.push(id) },
    });

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    expect(request.headers.authorization).toBe('Bearer own');
    if (request.url?.startsWith('/v3/events?cursor=')) {
      const cursor = request.url.split('=')[1] ?? '';
      opened.push(cursor);
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.flushHeaders();
      return onStream(response, Number(cursor));
    }
    wishes.push(`${request.method} ${request.url}`);
    if (request.method === 'DELETE') return void response.end('{"ended":true}');
    let text = '';
    for await (const chunk of request) text += chunk;
    onLease(JSON.parse(text), response);
  }
  const event = (id: number, kind = 'delete'): string =>
    `id: ${id}\nevent: ${kind}\ndata: {"key":"/blobs/${id}","physicalKey":"/blobs/${id}~1"}\n\n`;
  const ids = (page: readonly { id: bigint }[] | undefined): number[] | undefined => page?.map(({ id }) => Number(id));

  it('are asked for with the cursor, and follow the events from it on', async () => {
    const asked: unknown[] = [];
    onLease = (body, response) => {
      asked.push(body);
      response.end('{"newest":"5","leaseMs":60000}');
    };
    const streamed = new Promise<ServerResponse>((resolve) => {
      onStream = resolve;
    });
    expect(await leases.grant(5n, never)).toEqual({ newest: 5n, leaseMs: 60_000 });
    expect(asked).toEqual([{ kind: 'cache', name: 'here', cursor: '5', maxStalenessMs: 60_000 }]);
    expect([wishes, renamed]).toEqual([['POST /v3/nodes/n1/lease'], []]);
    const stream = await streamed;
    const page = leases.events(5n, 100, never);
    stream.write(`: still here\n\n${event(6, 'takedown')}`);
    expect(await page).toEqual([{ id: 6n, kind: 'takedown', key: '/blobs/6', physicalKey: '/blobs/6~1' }]);
    stream.write(event(7) + event(8));
    expect(ids(await leases.events(6n, 1, never))).toEqual([7]);
    expect(ids(await leases.events(7n, 10, never))).toEqual([8]);
    expect(opened).toEqual(['5']);
  });

  it('are not believed in when the answer is strange', async () => {
    onLease = (_, response) => response.end('{"newest":5,"leaseMs":"long"}');
    await expect(leases.grant(5n, never)).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
    onLease = (_, response) => response.writeHead(401).end();
    await expect(leases.grant(5n, never)).rejects.toMatchObject({ code: 'STORE_REFUSED' });
  });

  const refuse = (response: ServerResponse): unknown =>
    response.writeHead(403, { 'content-type': 'application/problem+json' }).end('{"code":"FORBIDDEN","detail":"no"}');

  it('are asked for under a new id from then on when another token has one under this', async () => {
    onLease = (_, response) => (wishes.at(-1)?.includes('/n1/') ? refuse(response) : response.end(lease));
    expect(await leases.grant(5n, never)).toEqual({ newest: 5n, leaseMs: 60_000 });
    await leases.grant(5n, never);
    await leases.end(never);
    const [id = ''] = renamed;
    const path = `/v3/nodes/${id}/lease`;
    expect(id).toMatch(/^[0-9a-f-]{36}$/);
    expect(wishes).toEqual(['POST /v3/nodes/n1/lease', `POST ${path}`, `POST ${path}`, `DELETE ${path}`]);
    expect(renamed).toEqual([id]);
  });

  it('are refused under any id to a token without the right', async () => {
    onLease = (_, response) => refuse(response);
    await expect(leases.grant(5n, never)).rejects.toMatchObject({ code: 'STORE_REFUSED' });
    expect([wishes.length, renamed]).toEqual([2, []]);
  });

  it('say so when an event comes that nobody waits for', async () => {
    onStream = (response) => response.write(event(6));
    await leases.grant(5n, never);
    while (heard === 0) await new Promise((resolve) => setImmediate(resolve));
    expect(ids(await leases.events(5n, 10, never))).toEqual([6]);
  });

  it('go on behind the last event when a stream breaks off, and when it leaves one out', async () => {
    onStream = (response, cursor) => {
      if (opened.length === 1) {
        response.write(event(6));
        setImmediate(() => response.destroy());
      } else if (opened.length === 2) response.write(event(cursor + 2));
      else response.write(event(cursor + 1));
    };
    expect(ids(await leases.events(5n, 10, never))).toEqual([6]);
    expect(ids(await leases.events(6n, 10, never))).toEqual([7]);
    expect(opened).toEqual(['5', '6', '6']);
  });

  it('notice a stream that is silent, and open another one', async () => {
    leases.close();
    leases = open(50);
    onStream = (response) => {
      if (opened.length > 1) response.write(event(6));
    };
    expect(ids(await leases.events(5n, 10, never))).toEqual([6]);
    expect(opened.length).toBeGreaterThan(1);
  });

  it('say that events are forgotten, and go on from where they are told to', async () => {
    onStream = (response) => {
      if (opened.length === 1) response.write('id: 90\nevent: reset\ndata: {"newest":"90"}\n\n');
      else response.write(event(91));
    };
    expect(await leases.events(5n, 10, never)).toBeUndefined();
    expect(ids(await leases.events(90n, 10, never))).toEqual([91]);
    expect(opened).toEqual(['5', '90']);
  });

  it('do not wait for longer than they are told to, and then ask anew', async () => {
    const abort = new AbortController();
    onStream = () => abort.abort(new Error('enough'));
    await expect(leases.events(5n, 10, abort.signal)).rejects.toThrow('enough');
    onStream = (response) => response.write(event(6));
    expect(ids(await leases.events(5n, 10, never))).toEqual([6]);
  });
});

describe('an event stream', () => {
  it('is taken apart however it is cut', () => {
    const bytes = Buffer.from(
      ': hello\r\n\r\nid: 1\r\nevent: a\ndata: über\ndata:two\n\nid:2\ndata\n\nevent: empty\n\n',
    );
    const whole = [
      { id: '1', event: 'a', data: 'über\ntwo' },
      { id: '2', event: 'message', data: '' },
      { id: '2', event: 'empty', data: '' },
    ];
    for (let size = 1; size <= bytes.length; size += 1) {
      const seen: ServerSentEvent[] = [];
      const parser = new EventStreamParser((event) => seen.push(event));
      for (let at = 0; at < bytes.length; at += size) parser.push(bytes.subarray(at, at + size));
      expect(seen).toEqual(whole);
    }
  });

  it('is bounded', () => {
    const parser = new EventStreamParser(() => undefined);
    expect(() => parser.push(Buffer.alloc(100_000, 'x'))).toThrow('too long');
  });
});
