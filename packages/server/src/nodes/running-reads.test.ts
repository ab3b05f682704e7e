/** Reads that are cut off: while the row is known and not the bytes, while a stream runs, and in the socket of a slow client. */
import { once } from 'node:events';
import net from 'node:net';
import { Readable } from 'node:stream';
import { type BlobStore, digestOf, keyFor, memoryStore, readAll, type StoredBlob } from '@large-payload/core';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import type { Moment } from '../catalog/row-cache.js';
import { type RunningApp, request, startApp } from '../http/testing.js';
import type { EventKind, NodeEvent } from './read-leases.js';
import { type RunningRead, RunningReads } from './running-reads.js';

const leaseMs = 8000;
/** More than the sockets of a client that does not read take up: some systems give one 32 MiB. */
const bytes = Buffer.alloc(60 * 1024 * 1024, 'x');
const digest = digestOf(bytes);
const key = keyFor('shop', digest, {});
const other = keyFor('shop', digestOf(Buffer.from('other')), {});

const eventOf = (kind: EventKind, of = key): NodeEvent => ({ id: 1n, kind, key: of, physicalKey: `${of}~1` });

/** Both clocks stand where the test puts them. */
function withClock() {
  const clock = { steadyMs: 1000, wallMs: 1000 };
  const lease: { endsAt: Moment } = {
    endsAt: { steadyMs: Number.NEGATIVE_INFINITY, wallMs: Number.NEGATIVE_INFINITY },
  };
  const reads = new RunningReads({ leaseMs, endsAt: () => lease.endsAt, clock: () => ({ ...clock }) });
  const to = (ms: number): void => {
    clock.steadyMs = ms;
    clock.wallMs = ms;
    reads.tick();
  };
  return { clock, lease, reads, to };
}

function codeOf(read: RunningRead): string | undefined {
  let code: string | undefined;
  read.onCut((error) => {
    code = error.code;
  });
  return code;
}

describe('reads under way', () => {
  it('end when their blob is taken down or deleted, whatever generation they asked for', () => {
    const { reads } = withClock();
    const [first, second, third] = [reads.begin(`${key}~0123456789abcdef`), reads.begin(other), reads.begin()];
    reads.cut([eventOf('takedown')]);
    reads.cut([eventOf('delete', other)]);
    expect([first, second, third].map(codeOf)).toEqual(['BLOB_TAKEN_DOWN', 'TRY_AGAIN', undefined]);
    expect(() => first.check()).toThrow('taken down');
    for (const read of [first, second, third]) read.end();
    expect(reads.count).toBe(0);
  });

  it('go on for M after the lease ended, or after their beginning when it had ended before', () => {
    const { lease, reads, to } = withClock();
    lease.endsAt = { steadyMs: 2000, wallMs: 2000 };
    const [withLease, ofWhatever] = [reads.begin(key), reads.begin()];
    to(3000);
    const without = reads.begin(key);
    const codes = () => [withLease, ofWhatever, without].map(codeOf);
    to(1000 + leaseMs - 1001);
    expect(codes()).toEqual([undefined, undefined, undefined]);
    to(1000 + leaseMs - 1000); // the look before its end
    expect(codes()).toEqual([undefined, 'TRY_AGAIN', undefined]);
    to(2000 + leaseMs - 1000);
    expect(codes()).toEqual(['TRY_AGAIN', 'TRY_AGAIN', undefined]);
    lease.endsAt = { steadyMs: 20_000, wallMs: 20_000 }; // it was renewed: events would have cut it
    to(3000 + leaseMs);
    expect(codes()).toEqual(['TRY_AGAIN', 'TRY_AGAIN', undefined]);
    for (const read of [withLease, ofWhatever, without]) read.end();
  });

  it('end when the machine has slept, though nobody has looked yet', () => {
    const { clock, reads } = withClock();
    const read = reads.begin(key);
    clock.wallMs += leaseMs;
    expect(() => read.check()).toThrow('no longer');
    read.end();
  });

  it('are never older than M without a lease, in whatever order', () => {
    const step = fc.record({ kind: fc.constantFrom('begin', 'renew', 'pass', 'sleep'), ms: fc.nat({ max: 999 }) });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const { clock, lease, reads } = withClock();
        const running = new Map<RunningRead, { dueMs: number }>();
        let [nowMs, sinceTickMs] = [0, 0];
        for (const { kind, ms } of steps) {
          if (kind === 'begin') running.set(reads.begin(key), { dueMs: nowMs + leaseMs });
          if (kind === 'renew') {
            lease.endsAt = { steadyMs: clock.steadyMs + leaseMs, wallMs: clock.wallMs + leaseMs };
            for (const one of running.values()) one.dueMs = nowMs + 2 * leaseMs;
          }
          if (kind === 'pass' || kind === 'sleep') {
            nowMs += ms;
            sinceTickMs += ms;
            clock.wallMs += ms;
            if (kind === 'pass') clock.steadyMs += ms;
            if (sinceTickMs >= 1000 || kind === 'sleep') {
              reads.tick();
              sinceTickMs = 0;
            }
          }
          for (const [read, { dueMs }] of running) if (nowMs >= dueMs) expect(() => read.check()).toThrow();
        }
        for (const read of running.keys()) read.end();
        expect(reads.count).toBe(0);
      }),
      { numRuns: 300 },
    );
  });
});

describe('a store whose reads can be cut', () => {
  const never = { endsAt: () => ({ steadyMs: Number.NEGATIVE_INFINITY, wallMs: Number.NEGATIVE_INFINITY }) };
  const storeOf = (get: BlobStore['get']): BlobStore => ({ ...memoryStore(), get });

  it('gives nothing to who had found the row before, and has what it kept meanwhile forgotten again', async () => {
    const reads = new RunningReads({ leaseMs, ...never });
    let found = (_: StoredBlob): void => undefined;
    const body = Readable.from([bytes]);
    const store = reads.over(storeOf(() => new Promise((resolve) => (found = resolve))));
    const [one, two] = [store.get(key), store.get(key)];
    void one.catch(() => undefined);
    const said: string[] = [];
    reads.cut([eventOf('takedown')], ({ physicalKey }) => said.push(physicalKey));
    expect(said).toEqual([]);
    found({ info: { key, size: bytes.length }, body });
    await expect(two).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN' });
    expect([said, body.destroyed]).toEqual([[`${key}~1`], true]);
    expect(reads.count).toBe(1);
  });

  it('answers at once when it is cut, however long the catalog or the store is silent', async () => {
    const reads = new RunningReads({ leaseMs, ...never });
    let fail = (_: Error): void => undefined;
    const store = reads.over(storeOf(() => new Promise((_, reject) => (fail = reject))));
    const read = store.get(key);
    let cleared = 0;
    reads.cutAll(() => {
      cleared += 1;
    });
    await expect(read).rejects.toMatchObject({ code: 'TRY_AGAIN' });
    expect([reads.count, cleared]).toEqual([1, 0]); // what it keeps until it gives up is forgotten again
    fail(new Error('silent'));
    await expect.poll(() => [reads.count, cleared]).toEqual([0, 1]);
  });

  it('forgets all again behind the last of those that were cut with everything', async () => {
    const reads = new RunningReads({ leaseMs, ...never });
    let cleared = 0;
    const [one, two] = [reads.begin(key), reads.begin(other)];
    reads.cutAll(() => {
      cleared += 1;
    });
    one.end();
    one.end();
    expect(cleared).toBe(0);
    two.end();
    expect(cleared).toBe(1);
  });

  it('ends streams, and nothing of a read stays behind', async () => {
    const reads = new RunningReads({ leaseMs, ...never });
    const store = reads.over(storeOf(async () => ({ info: { key, size: 9 }, body: new Readable({ read() {} }) })));
    const cut = (await store.get(key))?.body as Readable;
    reads.cut([eventOf('delete')]);
    await expect(once(cut, 'end')).rejects.toMatchObject({ code: 'TRY_AGAIN' });
    const whole = reads.over(storeOf(async () => ({ info: { key, size: 9 }, body: Readable.from([bytes]) })));
    await readAll((await whole.get(key))?.body as Readable, bytes.length);
    expect(await reads.over(memoryStore()).get(key)).toBeUndefined();
    expect(reads.count).toBe(0);
  });
});

describe('an answer that is cut', () => {
  let app: RunningApp;
  let reads: RunningReads;
  const start = async (get: BlobStore['get']): Promise<void> => {
    reads = new RunningReads({ leaseMs, endsAt: () => ({ steadyMs: 0, wallMs: 0 }) });
    app = await startApp({ store: { ...memoryStore(), get }, reads });
  };
  afterEach(() => app.close());

  /** A client that reads the head, and nothing more until it is told to: how many bytes there are then, and how it ended. */
  async function slowly(
    path: string,
    range?: string,
  ): Promise<{ go: () => Promise<{ bytes: number; error: unknown }> }> {
    const socket = net.connect(app.port, '127.0.0.1');
    socket.write(`GET ${path} HTTP/1.1\r\nhost: 127.0.0.1\r\n${range ? `range: ${range}\r\n` : ''}\r\n`);
    await once(socket, 'readable');
    return {
      async go() {
        let count = 0;
        socket.on('data', (chunk) => {
          count += chunk.length;
        });
        const error = await new Promise((resolve) => socket.once('error', resolve).once('end', () => resolve('end')));
        socket.destroy();
        return { bytes: count, error };
      },
    };
  }

  const path = `/v3/blobs?key=${encodeURIComponent(key)}`;
  const inOnePiece: BlobStore['get'] = async (_, options) => ({
    info: { key, size: bytes.length },
    body: options?.range === undefined ? bytes : bytes.subarray(options.range.start, options.range.end + 1),
  });
  const asStream: BlobStore['get'] = async () => ({
    info: { key, size: bytes.length },
    body: Readable.from(Array.from({ length: 60 }, () => bytes.subarray(0, 1024 * 1024))),
  });

  it.each([
    ['in one piece', inOnePiece],
    ['as a stream', asStream],
  ])('ends at once for a slow client: %s', async (_, get) => {
    await start(get);
    const client = await slowly(path);
    expect(reads.count).toBeGreaterThan(0);
    reads.cut([eventOf('takedown')]);
    const { bytes: received, error } = await client.go();
    expect(received).toBeLessThan(bytes.length);
    expect(error).toMatchObject({ code: 'ECONNRESET' });
    expect(reads.count).toBe(0);
    expect((await request(app.port, '/metrics')).text).not.toMatch(/^lps_http_sent_bytes_total\{/m);
  });

  it('ends a part, too', async () => {
    await start(inOnePiece);
    app.store.head = async () => ({ key, size: bytes.length });
    const client = await slowly(path, 'bytes=1-');
    reads.cutAll();
    expect((await client.go()).error).toMatchObject({ code: 'ECONNRESET' });
  });

  it('ends before the next byte when the machine has slept', async () => {
    let asleepMs = 0;
    const body = new Readable({ read() {} });
    body.push(bytes.subarray(0, 1000));
    const clock = () => ({ steadyMs: 0, wallMs: asleepMs });
    reads = new RunningReads({ leaseMs, endsAt: () => ({ steadyMs: 0, wallMs: 0 }), clock });
    reads.tick = () => undefined; // nobody has looked yet
    app = await startApp({
      store: { ...memoryStore(), get: async () => ({ info: { key, size: 2000 }, body }) },
      reads,
    });
    const client = await slowly(path);
    asleepMs = leaseMs;
    body.push(bytes.subarray(0, 1000));
    const { bytes: received, error } = await client.go();
    expect([received < 2000, error]).toMatchObject([true, { code: 'ECONNRESET' }]);
  });

  it('is a plain error when no byte of it is out', async () => {
    await start(async () => {
      reads.cut([eventOf('takedown')]);
      return { info: { key, size: bytes.length }, body: bytes };
    });
    const { status, text } = await request(app.port, path);
    expect([status, JSON.parse(text).code]).toEqual([410, 'BLOB_TAKEN_DOWN']);
    expect(reads.count).toBe(0);
  });

  it('leaves nothing behind when it was sent, and when the client has gone', async () => {
    await start(inOnePiece);
    expect((await request(app.port, path)).body.length).toBe(bytes.length);
    const socket = net.connect(app.port, '127.0.0.1');
    socket.write(`GET ${path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n`);
    await once(socket, 'readable');
    socket.destroy();
    await expect.poll(() => reads.count).toBe(0);
  });
});
