import { afterAll, describe, expect, it } from 'vitest';
import { type Answer, request } from '../http/testing.js';
import { type RunningCodec, startCodec } from './codec-fixture.js';

const ui = 'http://localhost:8233';
const started: Promise<RunningCodec> = startCodec({
  drivers: [],
  corsOrigins: [ui, 'https://ui.example'],
  maxRequestBytes: 1000,
});
afterAll(async () => (await started).close());

async function ask(method: string, path: string, headers: Record<string, string>, body = ''): Promise<Answer> {
  const { port } = await started;
  return request(port, path, { method, headers, body: Buffer.from(body) });
}

const json = { 'content-type': 'application/json' };
const allowed = { 'access-control-allow-origin': ui, 'access-control-allow-credentials': 'true', vary: 'Origin' };

function corsOf({ headers }: Answer): string[] {
  return Object.keys(headers).filter((name) => name.startsWith('access-control-'));
}

describe('a page of the Web UI', () => {
  it('asks before it calls, and is told what it may send', async () => {
    for (const path of ['/encode', '/decode?preserveStorageRefs=true', '/download', '/orders/decode']) {
      const answer = await ask('OPTIONS', path, {
        origin: ui,
        'access-control-request-method': 'POST',
        'access-control-request-headers': 'authorization,authorization-extras,content-type,x-namespace',
        'access-control-request-private-network': 'true',
      });
      expect([answer.status, answer.text]).toEqual([204, '']);
      expect(answer.headers).toMatchObject({
        ...allowed,
        'access-control-allow-methods': 'POST',
        'access-control-allow-private-network': 'true',
      });
      const names = String(answer.headers['access-control-allow-headers']).split(', ');
      expect(names).toEqual(
        expect.arrayContaining(['authorization', 'authorization-extras', 'content-type', 'x-namespace']),
      );
    }
  });

  it('reads answers and errors alike', async () => {
    const answers: [number, Answer][] = [
      [200, await ask('POST', '/decode', { origin: ui, ...json }, '{"payloads":[]}')],
      [400, await ask('POST', '/decode', { origin: ui, ...json }, '{')],
      [400, await ask('POST', '/decode', { origin: ui, 'content-type': 'text/plain' }, '{}')],
      [404, await ask('POST', '/elsewhere', { origin: ui, ...json }, '{}')],
      [405, await ask('GET', '/decode', { origin: ui })],
      [413, await ask('POST', '/decode', { origin: ui, ...json }, ' '.repeat(2000))],
      [400, await ask('POST', '/%ff/decode', { origin: ui, ...json }, '{}')],
    ];
    for (const [status, answer] of answers) {
      expect([status, answer.status]).toEqual([status, status]);
      expect(answer.headers).toMatchObject(allowed);
    }
  });

  it('of another origin is told nothing', async () => {
    for (const origin of ['http://localhost:8234', 'https://ui.example.evil', 'https://UI.example', 'null', '*']) {
      const preflight = await ask('OPTIONS', '/decode', { origin, 'access-control-request-method': 'POST' });
      const answer = await ask('POST', '/decode', { origin, ...json }, '{}');
      expect([preflight.status, corsOf(preflight), corsOf(answer)]).toEqual([204, [], []]);
      expect([preflight.headers.vary, answer.headers.vary]).toEqual(['Origin', 'Origin']);
    }
    expect(corsOf(await ask('POST', '/decode', json, '{}'))).toEqual([]);
  });

  it('cannot post without asking first', async () => {
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', '']) {
      const answer = await ask(
        'POST',
        '/decode',
        { origin: ui, ...(type === '' ? {} : { 'content-type': type }) },
        '{}',
      );
      expect([type, answer.status, answer.text]).toEqual([type, 400, 'the Content-Type must be application/json']);
    }
  });
});
