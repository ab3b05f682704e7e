import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RunningApp, request, startApp } from './testing.js';

describe('a service that asks nobody who he is', () => {
  let app: RunningApp;
  beforeAll(async () => {
    app = await startApp({ isOnLoopback: true });
  });
  afterAll(() => app?.close());
  const ask = async (host: string): Promise<number> =>
    (await request(app.port, '/version', { headers: { host } })).status;

  it('answers for its addresses and for localhost', async () => {
    for (const host of [
      'localhost',
      'LOCALHOST:8577',
      'lps.localhost:1',
      '127.0.0.1',
      '127.0.0.1:8577',
      '[::1]:8577',
      '10.1.2.3',
    ])
      expect(await ask(host), host).toBe(200);
  });

  it('answers for no name that a web page could have', async () => {
    for (const host of [
      'evil.example',
      'evil.example:8577',
      'localhost.evil.example',
      '127.0.0.1.evil.example',
      '[evil]',
      'x',
    ])
      expect(await ask(host), host).toBe(403);
  });
});
