import { digestOf, keyFor } from '@large-payload/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type RunningApp, startApp } from '../http/testing.js';
import type { CacheStatus } from '../openapi/cache.js';
import { openWorkplace, type Workplace } from './lps-fixture.js';

const status: CacheStatus = {
  ...{ upstream: 'https://payloads.example', id: 'n1', name: 'near\u001b[31m the workers', maxStalenessMs: 60_000 },
  lease: { isFresh: false, endsInMs: 0, cursor: '4711', applied: 3, cleared: 1, problem: 'it is\naway' },
  memory: { bytes: 5000, blobs: 2 },
  disk: { bytes: 7_000_000, blobs: 9 },
  served: {
    memory: { blobs: 5, bytes: 5000 },
    disk: { blobs: 1, bytes: 100 },
    joined: { blobs: 1, bytes: 100 },
    miss: { blobs: 3, bytes: 300 },
  },
  touches: { waiting: 4, forwarded: 5 },
};
const key = keyFor('orders', digestOf(Buffer.from('x')), null);

describe('lps cache', () => {
  let place: Workplace;
  let node: RunningApp;
  let url: string;
  const done: string[] = [];
  beforeAll(async () => {
    place = await openWorkplace();
    const cacheNode = {
      status: () => status,
      forget: (forgotten: string) => done.push(forgotten),
      clear: () => done.push('all'),
    };
    node = await startApp({ cacheNode });
    url = `http://127.0.0.1:${node.port}`;
  });
  afterAll(async () => {
    await node?.close();
    await place?.remove();
  });

  it('status says how a node stands, to people and to programs', async () => {
    const { code, out } = await place.lps(['cache', 'status', '--url', url]);
    expect(code).toBe(0);
    expect(out).toMatch(/^upstream +https:\/\/payloads\.example$/m);
    expect(out).toMatch(/^lease +none: each read is revalidated \(it is.*away\)$/m);
    expect(out).toMatch(/^reads +10: 70\.0 % without upstream$/m);
    expect(out).not.toContain('\u001b');
    expect(JSON.parse((await place.lps(['cache', 'status', '--json', '--url', url])).out)).toEqual(status);
  });

  it('purge forgets one blob, or everything when it is told so', async () => {
    expect((await place.lps(['cache', 'purge', '--key', key, '--url', url])).code).toBe(0);
    expect((await place.lps(['cache', 'purge', '--all', '--url', url])).code).toBe(0);
    expect(done).toEqual([key, 'all']);
    for (const wrong of [[], ['--key', key, '--all'], ['--key', 'x']]) {
      expect((await place.lps(['cache', 'purge', ...wrong, '--url', url])).code).not.toBe(0);
    }
    expect(done).toHaveLength(2);
  });

  it('refuses settings that cannot work', async () => {
    const upstream = ['--upstream', 'http://127.0.0.1:1'];
    for (const [args, text] of [
      [[], 'needs the service that it stands before'],
      [['--upstream', 'ftp://x'], 'is not a URL such as'],
      [[...upstream, '--host', '0.0.0.0'], 'can be reached from other machines'],
      [[...upstream, '--collect', 'x'], "unknown option '--collect'"],
    ] as const) {
      const { code, err } = await place.lps(['cache', ...args]);
      expect([code, err]).toEqual([2, expect.stringContaining(text)]);
    }
    const { err } = await place.lps(['serve', '--upstream', 'http://127.0.0.1:1']);
    expect(err).toContain("unknown option '--upstream'");
  });
});
