import { randomBytes } from 'node:crypto';
import { digestOf, keyFor, parseKey } from '@large-payload/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, type RunningApp, request, startApp } from '../http/testing.js';
import { MemoryCatalog } from '../lifecycle/catalog/memory-catalog.js';
import { MemoryModel } from '../lifecycle/catalog/memory-model.js';

const hourMs = 3_600_000;

describe('POST /v3/touches', () => {
  let nowMs = 1_800_000_000_000;
  const model = new MemoryModel({ graceMs: 24 * hourMs, now: () => nowMs });
  const catalog = new MemoryCatalog(model);
  let app: RunningApp;
  beforeAll(async () => {
    app = await startApp({ catalog });
  });
  afterAll(() => app.close());

  const tell = (touches: unknown): Promise<Answer> => {
    const body = Buffer.from(JSON.stringify({ touches }));
    const headers = { 'content-type': 'application/json', 'content-length': body.length };
    return request(app.port, '/v3/touches', { method: 'POST', headers, body });
  };
  const stored = async (): Promise<string> => {
    const key = keyFor('orders', digestOf(randomBytes(8)), null);
    const beginning = await catalog.begin(parseKey(key), 8);
    if (beginning.kind === 'upload') await catalog.commit(beginning.lease, 8);
    return key;
  };
  const touchedAt = async (key: string): Promise<number | undefined> =>
    (await catalog.lookup(parseKey(key)))?.touchedAt.getTime();

  it('writes down what is due, and leaves out what is not there', async () => {
    const [used, absent] = [await stored(), keyFor('orders', digestOf(randomBytes(8)), null)];
    nowMs += 2 * hourMs;
    const young = await stored();
    const { status, text } = await tell([used, young, absent, used].map((key) => ({ key, agoMs: 5000 })));
    expect([status, JSON.parse(text)]).toEqual([200, { known: 2 }]);
    expect(await touchedAt(used)).toBe(nowMs);
    expect((await tell([])).status).toBe(200);
  });

  it('refuses what is no list of touches, and too many of them', async () => {
    const key = await stored();
    const wrong = [{}, [{ key }], [{ key, agoMs: -1 }], [{ key, agoMs: 0.5 }], [{ key: 'x', agoMs: 0 }]];
    for (const touches of [...wrong, Array(1001).fill({ key, agoMs: 0 })]) {
      expect((await tell(touches)).status).toBe(400);
    }
    expect((await tell(Array(1000).fill({ key, agoMs: 0 }))).status).toBe(200);
  });
});
