import type { Server } from 'node:http';
import { promisify } from 'node:util';
import { type BlobStore, type Clock, digestOf, keyFor, memoryStore, systemClock } from '@large-payload/core';
import { describe, expect, it, vi } from 'vitest';
import { RawConnection, request, startApp } from '../http/testing.js';
import { CallerLimits } from './limits.js';
import { anonymous } from './principal.js';

const caller = (id: string) => ({ ...anonymous, id });
const connections = (server: Server): Promise<number> => promisify(server.getConnections.bind(server))();
const limited = expect.objectContaining({ code: 'RATE_LIMITED', retryable: true });

describe('limits of a caller', () => {
  it('let bursts of two seconds through, then as many a second as they say, each caller for himself', () => {
    let nowMs = 0;
    const clock: Clock = { ...systemClock, monotonicMs: () => nowMs };
    const limits = new CallerLimits({ rate: 5, concurrency: 0, clock });
    const passed = (id: string): number => {
      for (let count = 0; ; count += 1) {
        try {
          limits.enter(caller(id));
        } catch (error) {
          expect(error).toEqual(limited);
          return count;
        }
      }
    };
    expect(passed('a')).toBe(10);
    expect(passed('b')).toBe(10);
    nowMs += 1000;
    expect(passed('a')).toBe(5);
    nowMs += 100;
    expect(passed('a')).toBe(0);
    nowMs += 100;
    expect(passed('a')).toBe(1);
    nowMs += 3_600_000;
    expect(passed('a')).toBe(10);
  });

  it('take no more requests at the same time than they say, and more when some are over', () => {
    const limits = new CallerLimits({ rate: 0, concurrency: 2 });
    const [leave] = [limits.enter(caller('a')), limits.enter(caller('a'))];
    expect(() => limits.enter(caller('a'))).toThrow(limited);
    limits.enter(caller('b'));
    leave?.();
    limits.enter(caller('a'));
    expect(() => limits.enter(caller('a'))).toThrow(limited);
  });

  it('are given back when a client goes away while he is asked who he is', async () => {
    const limits = new CallerLimits({ rate: 0, concurrency: 1 });
    let isSlow = true;
    let asked = (): void => {};
    const isAsked = new Promise<void>((resolve) => {
      asked = resolve;
    });
    let answer = (): void => {};
    const isAnswered = new Promise<void>((resolve) => {
      answer = resolve;
    });
    const authenticate = async (id: string) => {
      asked();
      if (isSlow) await isAnswered;
      return caller(id);
    };
    const app = await startApp({ gate: { authenticator: { authenticate }, limits } });
    const connection = await RawConnection.open(app.port);
    await connection.write('GET /version HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer a\r\n\r\n');
    await isAsked;
    connection.destroy();
    await vi.waitUntil(async () => (await connections(app.server.server)) === 0, { interval: 5, timeout: 30_000 });
    isSlow = false;
    answer();
    const { status } = await request(app.port, '/version', { headers: { authorization: 'Bearer a' } });
    expect(status).toBe(200);
    await app.close();
  });

  it('are told with 429 and when to come again, and given back when a request ends, however it does', async () => {
    const limits = new CallerLimits({ rate: 0, concurrency: 1 });
    const authenticator = { authenticate: async (id: string) => caller(id) };
    let open = (): void => {};
    const isOpen = new Promise<void>((resolve) => {
      open = resolve;
    });
    let asked = 0;
    const store: BlobStore = {
      ...memoryStore(),
      async head() {
        asked += 1;
        await isOpen;
        return undefined;
      },
    };
    const app = await startApp({ gate: { authenticator, limits }, store });
    const key = keyFor('orders', digestOf(Buffer.from('x')), null);
    const ask = (path: string, method = 'GET') =>
      request(app.port, path, { method, headers: { authorization: 'Bearer a' } });
    const first = ask(`/v3/blobs?key=${key}`, 'HEAD');
    await vi.waitUntil(() => asked === 1, { timeout: 30_000 });
    const refused = await ask('/version');
    expect([refused.status, refused.headers['retry-after']]).toEqual([429, '1']);
    open();
    expect((await first).status).toBe(404);
    // the place is free again when the connection's side of the answer is done, also after errors
    for (let round = 0; round < 3; round += 1) {
      await expect.poll(async () => (await ask('/v3/blobs/list?limit=x')).status, { interval: 5 }).toBe(400);
    }
    await app.close();
  });
});
