import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, it } from 'vitest';
import { readAll } from './body.js';
import { isLpsError } from './errors.js';
import { openTransport, type Transport, type TransportOptions } from './transport.js';

const cleanUps: (() => Promise<unknown> | unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

function transport(options: TransportOptions = {}): Transport {
  const opened = openTransport(options);
  cleanUps.push(() => opened.close());
  return opened;
}

async function listening(server: Server): Promise<string> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanUps.push(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function httpServer(listener: RequestListener): Promise<string> {
  return listening(createHttpServer(listener));
}

/** A server below HTTP: called for each request's head, with what came so far of its body. */
function rawServer(onHead: (socket: Socket, head: string, connection: number) => unknown): Promise<string> {
  let connections = 0;
  return listening(
    createServer((socket) => {
      const connection = ++connections;
      let text = '';
      socket.on('data', (chunk: Buffer) => {
        text = text.slice(-100_000) + chunk.toString('latin1'); // bodies may be endless
        const end = text.indexOf('\r\n\r\n');
        if (end < 0 || !/^[A-Z]+ \S+ HTTP/.test(text)) return;
        const head = text.slice(0, end);
        text = '';
        onHead(socket, head, connection);
      });
    }),
  );
}

/** Endless unless `bytes` is given; counts what was taken. */
function source(bytes = Number.POSITIVE_INFINITY, failWith?: Error): Readable & { taken: number } {
  const stream = new Readable({
    read() {
      if (state.taken >= bytes) {
        if (failWith === undefined) this.push(null);
        else this.destroy(failWith);
        return;
      }
      const chunk = Buffer.alloc(Math.min(64 * 1024, bytes - state.taken), 'x');
      state.taken += chunk.length;
      this.push(chunk);
    },
  });
  const state = Object.assign(stream, { taken: 0 });
  return state;
}

async function fails(promise: Promise<unknown>, code: string, check: (error: Error) => boolean = () => true) {
  await assert.rejects(promise, (error: unknown) => {
    assert.ok(isLpsError(error), String(error));
    assert.equal(error.code, code, error.message);
    assert.ok(check(error), error.message);
    return true;
  });
}

/** As a machine does that gives its time to others. */
function holdUp(ms: number): void {
  for (const since = performance.now(); performance.now() - since < ms; );
}

async function eventually(what: string, condition: () => boolean): Promise<void> {
  for (let waited = 0; !condition(); waited += 5) {
    assert.ok(waited < 20_000, `never happened: ${what}`);
    await sleep(5);
  }
}

const text = async (body: Readable): Promise<string> => Buffer.from(await readAll(body, 1e9)).toString();

describe('transport', () => {
  it('sends bytes and streams, and keeps its connection', async () => {
    const connections = new Set<unknown>();
    const url = await httpServer((request, response) => {
      connections.add(request.socket);
      response.setHeader('x-method', request.method ?? '');
      response.setHeader(
        'x-length',
        request.headers['content-length'] ?? request.headers['transfer-encoding'] ?? 'none',
      );
      request.pipe(response);
    });
    const http = transport();
    const ask = async (method: string, body?: Buffer | Readable, headers: Record<string, string> = {}) => {
      const response = await http.request({ method, url: `${url}/x`, headers, body });
      assert.equal(response.status, 200);
      assert.equal(response.headers['x-method'], method);
      return [response.headers['x-length'], (await text(response.body)).length, response.sent];
    };
    assert.deepEqual(await ask('GET'), ['none', 0, true]);
    assert.deepEqual(await ask('PUT', Buffer.alloc(300_000)), ['300000', 300_000, true]);
    assert.deepEqual(await ask('PUT', Buffer.alloc(0), { 'content-length': '0' }), ['0', 0, true]);
    assert.equal((await ask('PUT', source(1e6), { 'content-length': '1000000' }))[1], 1e6);
    assert.equal((await ask('PUT', source(1e6)))[0], 'chunked');
    assert.equal((await ask('PUT', source(0), { 'content-length': '0' }))[1], 0);
    await ask('GET');
    // the echo may answer before the stream is sent, which costs the connection
    assert.ok(connections.size <= 4, `${connections.size} connections`);
  });

  it('keeps one connection for requests one after another', async () => {
    const connections = new Set<unknown>();
    const url = await httpServer((request, response) => {
      connections.add(request.socket);
      request.resume().on('end', () => response.end('done'));
    });
    const http = transport();
    for (let round = 0; round < 10; round += 1) {
      const body = round % 2 === 0 ? Buffer.alloc(200_000) : source(200_000);
      const response = await http.request({ method: 'PUT', url, headers: { 'content-length': '200000' }, body });
      assert.equal(await text(response.body), 'done');
    }
    assert.equal(connections.size, 1);
  });

  it('frees the connection of a response that nobody looks at', async () => {
    const connections = new Set<unknown>();
    const url = await httpServer((request, response) => {
      connections.add(request.socket);
      response.end('x'.repeat(10_000));
    });
    const http = transport({ maxSockets: 1 });
    for (let round = 0; round < 10; round += 1) await http.request({ method: 'GET', url });
    assert.equal(connections.size, 1);
  });

  it('opens no more connections than it may', async () => {
    let most = 0;
    let open = 0;
    const url = await httpServer(async (_, response) => {
      open += 1;
      most = Math.max(most, open);
      await sleep(10);
      open -= 1;
      response.end();
    });
    const http = transport({ maxSockets: 3 });
    await Promise.all(Array.from({ length: 20 }, () => http.request({ method: 'GET', url })));
    assert.equal(most, 3);
  });

  it('sends paths as they are, and returns redirects', async () => {
    const seen: (string | undefined)[] = [];
    const url = await httpServer((request, response) => {
      seen.push(request.url);
      response.writeHead(302, { location: '/elsewhere' }).end();
    });
    const http = transport();
    const paths = ['//a//b', '/a/../b/./c', '/%2F%2e%2E', '/?x=%20+'];
    for (const path of paths) assert.equal((await http.request({ method: 'GET', url: url + path })).status, 302);
    assert.deepEqual(seen, paths);
    for (const bad of ['ftp://x/', 'http://user@x/', 'nonsense', 'http:///x', `${url}?x`, `${url}/ä b`]) {
      await fails(http.request({ method: 'GET', url: bad }), 'INVALID_ARGUMENT');
    }
  });

  it('reports what cannot be reached under the code it was given', async () => {
    const server = createServer();
    const url = await listening(server);
    server.close();
    await fails(transport().request({ method: 'GET', url }), 'SERVICE_UNREACHABLE', ({ message }) =>
      message.includes('ECONNREFUSED'),
    );
    const body = source();
    const http = transport({ errorCode: 'STORE_UNAVAILABLE', peerName: 'the bucket' });
    await fails(http.request({ method: 'PUT', url, body }), 'STORE_UNAVAILABLE', ({ message }) =>
      message.startsWith('the bucket cannot be reached'),
    );
    assert.ok(body.destroyed);
    await http.close();
    await fails(http.request({ method: 'GET', url }), 'STORE_UNAVAILABLE');
  });
});

describe('transport: request bodies', () => {
  it('resolves with an answer that comes before the body is sent', async () => {
    let connections = 0;
    const url = await rawServer((socket, _, connection) => {
      connections = connection;
      socket.write('HTTP/1.1 412 Precondition Failed\r\ncontent-length: 5\r\n\r\nthere');
    });
    const http = transport({ maxSockets: 1 });
    for (let round = 1; round <= 3; round += 1) {
      const body = source();
      const response = await http.request({ method: 'PUT', url, body });
      assert.equal(response.status, 412);
      assert.equal(response.sent, false);
      assert.ok(body.destroyed);
      assert.equal(await text(response.body), 'there');
      // with one socket at most, the next request shows that this one was let go
      await eventually('a new connection', () => connections === round);
    }
  });

  it('resolves with an early answer on a connection that is closed behind it', async () => {
    const url = await rawServer((socket) => socket.end('HTTP/1.1 503 Slow Down\r\ncontent-length: 2\r\n\r\nno'));
    const http = transport();
    for (let round = 0; round < 20; round += 1) {
      const body = source();
      const response = await http.request({ method: 'PUT', url, body });
      assert.equal(response.status, 503);
      assert.equal(await text(response.body), 'no');
      assert.ok(body.destroyed);
    }
  });

  it('fails with the body’s own error, and sends no end of it', async () => {
    let ended = 0;
    let broken = 0;
    const url = await httpServer((request, response) => {
      request.resume().on('end', () => {
        ended += 1;
        response.end();
      });
      request.on('error', () => {
        broken += 1;
      });
    });
    const http = transport();
    const mine = new Error('mine');
    for (const size of [0, 100_000, 10_000_000]) {
      await assert.rejects(http.request({ method: 'PUT', url, body: source(size, mine) }), (error) => error === mine);
    }
    const dead = source();
    dead.on('error', () => {}).destroy(mine);
    await assert.rejects(http.request({ method: 'PUT', url, body: dead }), (error) => error === mine);
    // of the shorter ones nothing may have been sent yet
    await eventually('the server sees it', () => broken >= 1);
    assert.equal(ended, 0);
  });

  it('fails when the body is closed early, too short or too long', async () => {
    let ended = 0;
    const url = await httpServer((request, response) => {
      request.resume().on('end', () => {
        ended += 1;
        response.end();
      });
    });
    const http = transport();
    const closed = source();
    setTimeout(() => closed.destroy(), 20);
    await fails(http.request({ method: 'PUT', url, body: closed }), 'ABORTED');
    const headers = { 'content-length': '100000' };
    await fails(http.request({ method: 'PUT', url, headers, body: source(99_999) }), 'SIZE_MISMATCH');
    await fails(http.request({ method: 'PUT', url, headers, body: source(100_001) }), 'SIZE_MISMATCH');
    const endless = source();
    await fails(http.request({ method: 'PUT', url, headers, body: endless }), 'SIZE_MISMATCH');
    assert.ok(endless.taken < 1_000_000, 'at the first byte too many');
    assert.equal(ended, 0);
  });

  it('takes no more of the body than the peer does', async () => {
    const url = await rawServer((socket) => socket.pause());
    const body = source();
    const sending = transport().request({ method: 'PUT', url, body });
    sending.catch(() => {});
    await eventually('a first byte', () => body.taken > 0);
    // until what lies between the two is full
    for (let before = 0; before !== body.taken; await sleep(200)) {
      before = body.taken;
      assert.ok(before < 32 * 1024 * 1024, `${before} bytes taken`);
    }
  });
});

describe('transport: response bodies', () => {
  it('fails a body that is cut short', async () => {
    const answers = [
      'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf',
      'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n',
      // may be whole, may be cut: nobody can tell
      'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf',
    ];
    for (const answer of answers) {
      const url = await rawServer((socket) => socket.end(answer));
      const response = await transport().request({ method: 'GET', url });
      await fails(text(response.body), 'SERVICE_UNREACHABLE');
    }
  });

  it('fails a body that is cut short before anybody listens to it, without a crash', async () => {
    const url = await rawServer((socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf');
      setTimeout(() => socket.resetAndDestroy(), 10);
    });
    const response = await transport().request({ method: 'GET', url });
    await sleep(50);
    await assert.rejects(text(response.body));
  });

  it('takes no more from the peer than its reader does, and does not time out on a slow reader', async () => {
    let written = 0;
    const url = await httpServer((_, response) => {
      const body = source(64 * 1024 * 1024);
      response.setHeader('content-length', 64 * 1024 * 1024);
      body.on('data', (chunk: Buffer) => {
        written += chunk.length;
      });
      body.pipe(response);
    });
    const response = await transport({ idleTimeoutMs: 400 }).request({ method: 'GET', url });
    await sleep(1_200);
    assert.ok(written < 32 * 1024 * 1024, `${written} bytes written`);
    assert.equal((await text(response.body)).length, 64 * 1024 * 1024);
  });

  it('lets go of the connection when the body is destroyed', async () => {
    let closed = 0;
    const url = await httpServer((request, response) => {
      request.socket.on('close', () => {
        closed += 1;
      });
      response.setHeader('content-length', 1e9);
      source(1e9).pipe(response);
    });
    const http = transport({ maxSockets: 1 });
    for (let round = 1; round <= 3; round += 1) {
      (await http.request({ method: 'GET', url })).body.destroy();
      await eventually('closed', () => closed === round);
    }
  });
});

describe('transport: timeouts and aborts', () => {
  const silent = () => rawServer(() => {});

  it('times out on silence, not on the total time', async () => {
    const url = await rawServer(async (socket, head) => {
      if (head.includes('/silent')) return;
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n');
      for (let at = 0; at < (head.includes('/stalls') ? 3 : 10); at += 1) {
        await sleep(40);
        socket.write('x');
      }
    });
    const http = transport({ idleTimeoutMs: 150 });
    const timedOut = (error: Error): boolean => isLpsError(error) && error.details.timedOut === true;
    await fails(http.request({ method: 'GET', url: `${url}/silent` }), 'SERVICE_UNREACHABLE', timedOut);
    const body = source(300_000);
    await fails(http.request({ method: 'PUT', url: `${url}/silent`, body }), 'SERVICE_UNREACHABLE', timedOut);
    const stalled = await http.request({ method: 'GET', url: `${url}/stalls` });
    await fails(text(stalled.body), 'SERVICE_UNREACHABLE', timedOut);
    const slow = await http.request({ method: 'GET', url: `${url}/slow` });
    assert.equal(await text(slow.body), 'x'.repeat(10));
  });

  it('times out on a silence after a pause of the reader, too', async () => {
    const url = await rawServer((socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n');
      socket.write(Buffer.alloc(300_000));
    });
    const { body } = await transport({ idleTimeoutMs: 100 }).request({ method: 'GET', url });
    await sleep(250);
    await fails(text(body), 'SERVICE_UNREACHABLE', ({ message }) => message.includes('silent for 100 ms'));
  });

  it('takes no time in which the process itself was held up for a silence of the peer', async () => {
    const url = await rawServer(async (socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n');
      await sleep(20);
      holdUp(500);
      socket.write('ok');
    });
    const answered = await transport({ idleTimeoutMs: 200 }).request({ method: 'GET', url });
    assert.equal(await text(answered.body), 'ok');
    const connecting = transport({ connectTimeoutMs: 200 }).request({ method: 'GET', url });
    setImmediate(() => holdUp(500)); // it is under way
    assert.equal((await connecting).status, 200);
  });

  it('calls a body that stalls too slow', async () => {
    const body = new Readable({ read() {} });
    body.push('a few bytes');
    const http = transport({ idleTimeoutMs: 100 });
    await fails(http.request({ method: 'PUT', url: await silent(), body }), 'TOO_SLOW');
    assert.ok(body.destroyed);
  });

  it('gives up on a connection that does not come about', async () => {
    const url = (await silent()).replace('http:', 'https:');
    const http = transport({ connectTimeoutMs: 100 });
    await fails(http.request({ method: 'GET', url }), 'SERVICE_UNREACHABLE', ({ message }) =>
      message.includes('100 ms'),
    );
  });

  it('ends at an abort, wherever it is', async () => {
    const url = await rawServer((socket, head) => {
      if (head.includes('/body')) socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf');
    });
    const http = transport({ maxSockets: 1 });
    const soon = (): AbortSignal => AbortSignal.timeout(30);

    const body = source();
    await fails(http.request({ method: 'PUT', url, body, signal: AbortSignal.abort() }), 'ABORTED');
    assert.ok(body.destroyed);
    const waiting = http.request({ method: 'GET', url, signal: AbortSignal.timeout(150) });
    // the only connection is taken: this one has none yet
    const queued = http.request({ method: 'PUT', url, body: source(), signal: soon() });
    await fails(queued, 'ABORTED');
    await fails(waiting, 'ABORTED');
    const response = await http.request({ method: 'GET', url: `${url}/body`, signal: soon() });
    await fails(text(response.body), 'ABORTED');
  });
});

describe('transport: kept connections', () => {
  const ok = 'HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok';

  /** Answers the first request of each connection and resets it at the second. */
  async function forgetful(): Promise<{ url: string; heads: string[] }> {
    const heads: string[] = [];
    const known = new Set<Socket>();
    const url = await rawServer((socket, head) => {
      heads.push(head.split(' ')[0] ?? '');
      if (known.has(socket)) socket.resetAndDestroy();
      else {
        known.add(socket);
        socket.write(ok);
      }
    });
    return { url, heads };
  }

  it('repeats what met a connection that the server had closed', async () => {
    const { url, heads } = await forgetful();
    const http = transport();
    // several kept connections: all of them are dead for the next ones
    const answers = await Promise.all(Array.from({ length: 4 }, () => http.request({ method: 'GET', url })));
    for (const { body } of answers) await text(body);
    await sleep(10);
    for (const body of [undefined, Buffer.from('bytes')]) {
      const response = await http.request({ method: 'PUT', url, body });
      assert.equal(await text(response.body), 'ok');
    }
    assert.deepEqual(heads.slice(4), ['PUT', 'PUT', 'PUT', 'PUT']);
  });

  it('does not repeat a stream', async () => {
    const { url } = await forgetful();
    const http = transport();
    await text((await http.request({ method: 'GET', url })).body);
    await sleep(10);
    await fails(http.request({ method: 'PUT', url, body: source(1000) }), 'SERVICE_UNREACHABLE');
  });

  it('does not repeat on a new connection, nor when an answer had begun', async () => {
    let requests = 0;
    const url = await rawServer((socket, head) => {
      requests += 1;
      if (head.includes('/first')) socket.write(ok);
      else if (head.includes('/begun')) socket.write('HTTP/1.1 2', () => socket.resetAndDestroy());
      else socket.resetAndDestroy();
    });
    const http = transport();
    await fails(http.request({ method: 'GET', url: `${url}/new` }), 'SERVICE_UNREACHABLE');
    assert.equal(requests, 1);
    await text((await http.request({ method: 'GET', url: `${url}/first` })).body);
    await sleep(10);
    await fails(http.request({ method: 'GET', url: `${url}/begun` }), 'SERVICE_UNREACHABLE');
    assert.equal(requests, 3);
  });
});
