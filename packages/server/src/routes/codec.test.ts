import { afterEach, describe, expect, it } from 'vitest';
import {
  kinds,
  namespace,
  newWorld,
  plain,
  type RunningCodec,
  startCodec,
  toJson,
  type World,
} from '../codec/codec-fixture.js';
import type { CodecHandlerOptions } from '../codec/handler.js';

const cleanUps: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
});

async function start(world: World = newWorld(), options: Partial<CodecHandlerOptions> = {}): Promise<RunningCodec> {
  const { drivers, claimCheck } = world;
  const codec = await startCodec({ drivers, claimCheck, v1Namespace: namespace, ...options });
  cleanUps.push(() => codec.close());
  return codec;
}

describe('/decode', () => {
  it('resolves every kind of reference, mixed in any order, and passes the rest through', async () => {
    const world = newWorld();
    const codec = await start(world);
    const makers = Object.values(kinds);
    const wanted = [...makers, undefined, ...makers.reverse(), undefined].map((make, index) => ({
      make,
      payload: plain(200 + index),
    }));
    const sent = await Promise.all(wanted.map(({ make, payload }) => make?.(world, payload) ?? payload));
    for (const path of ['/decode', `/${namespace}/decode`, '/decode?preserveStorageRefs=false', '/download']) {
      const some = path === '/download' ? sent.filter((_, index) => wanted[index]?.make) : sent;
      const answer = await codec.post(path, some);
      expect(answer.text.slice(0, 200)).toContain('{"payloads":[');
      expect(answer.status).toBe(200);
      const expected = wanted.filter(({ make }) => path !== '/download' || make).map(({ payload }) => payload);
      expect(answer.text).toBe(toJson(expected));
    }
  });
});
