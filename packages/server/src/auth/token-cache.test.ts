/** What no real Postgres shows on demand: one that hangs, floods of made-up ids, a clock that goes back. */
import { LpsError } from '@large-payload/core';
import { expect, it } from 'vitest';
import { TokenCache, type TokenCacheOptions } from './token-cache.js';
import type { TokenRecord } from './token-records.js';

const known = (id: string): TokenRecord => ({
  id,
  name: id,
  grants: [],
  createdAt: new Date(0),
  expiresAt: undefined,
  revokedAt: undefined,
  lastUsedOn: undefined,
  secretHash: Buffer.alloc(32),
  isUsedToday: true,
});

/** A table that holds ids which begin with `k`, and counts. */
function setUp(options: Partial<TokenCacheOptions> = {}) {
  const state = { now: 1_000_000, reads: [] as string[], outages: 0, find: async (id: string) => table(id) };
  const table = (id: string): TokenRecord | undefined => (id.startsWith('k') ? known(id) : undefined);
  const cache = new TokenCache({
    find: (id) => {
      state.reads.push(id);
      return state.find(id);
    },
    clock: () => state.now,
    onOutage: () => state.outages++,
    ...options,
  });
  return { cache, state };
}
const down = async (): Promise<never> => {
  throw new LpsError('CATALOG_UNAVAILABLE', 'down');
};

it('keeps known records whatever is made up', async () => {
  const { cache, state } = setUp({ maxRecords: 2, maxUnknown: 3 });
  await cache.get('k1');
  for (let n = 0; n < 100; n++) expect(await cache.get(`x${n}`)).toBeUndefined();
  state.reads = [];
  expect(await cache.get('k1')).toMatchObject({ id: 'k1' });
  for (const id of ['x99', 'x98', 'x97']) await cache.get(id);
  expect(state.reads).toEqual([]);
  await cache.get('x96'); // was pushed out
  expect(state.reads).toEqual(['x96']);
});

it('lets go of the record that was used least lately', async () => {
  const { cache, state } = setUp({ maxRecords: 2 });
  for (const id of ['k1', 'k2', 'k1', 'k3', 'k1']) await cache.get(id);
  expect(state.reads).toEqual(['k1', 'k2', 'k3']);
  await cache.get('k2');
  expect(state.reads).toEqual(['k1', 'k2', 'k3', 'k2']);
});

it('looks a few unknown ids up at a time, lets a few wait, and refuses the rest; a known one passes them', async () => {
  const { cache, state } = setUp({ maxLookups: 2, maxWaiting: 3 });
  await cache.get('k1');
  state.now += 10_000;
  state.reads = [];
  const answers: (() => void)[] = [];
  state.find = (id) =>
    id === 'k1' ? Promise.resolve(known(id)) : new Promise((resolve) => answers.push(() => resolve(undefined)));
  const strangers = ['a', 'b', 'c', 'd', 'e', 'e'].map((id) => cache.get(id));
  await expect(cache.get('f')).rejects.toMatchObject({ code: 'OVERLOADED' });
  expect(state.reads).toEqual(['a', 'b']);
  expect(await cache.get('k1')).toMatchObject({ id: 'k1' });
  for (const later of ['c', 'd', 'e']) {
    answers.shift()?.();
    await expect.poll(() => state.reads.at(-1), { timeout: 30_000 }).toBe(later);
  }
  for (const answer of answers) answer();
  expect(await Promise.all(strangers)).toEqual(Array(6).fill(undefined));
  expect(state.reads).toEqual(['a', 'b', 'k1', 'c', 'd', 'e']);
  state.find = async () => undefined;
  await cache.get('f'); // all turns were given back
  await Promise.all(['g', 'h'].map((id) => cache.get(id)));
});

it('gives turns back when lookups fail', async () => {
  const { cache, state } = setUp({ maxLookups: 1, maxWaiting: 10 });
  state.find = down;
  const results = await Promise.allSettled(['a', 'b', 'c'].map((id) => cache.get(id)));
  expect(results.every(({ status }) => status === 'rejected')).toBe(true);
  state.find = async (id) => known(id);
  expect(await cache.get('a')).toMatchObject({ id: 'a' }); // and a failure is not remembered
});

it('does not wait for a Postgres that hangs when it knows the record, and asks it again only later', async () => {
  const { cache, state } = setUp();
  await cache.get('k1');
  state.now += 10_000;
  state.find = () => new Promise(() => undefined);
  expect(await cache.get('k1')).toMatchObject({ id: 'k1' });
  expect(state).toMatchObject({ outages: 1, reads: ['k1', 'k1'] });
  state.now += 4999;
  for (let n = 0; n < 100; n++) await cache.get('k1');
  expect(state).toMatchObject({ outages: 1, reads: ['k1', 'k1'] });
});

it('a refusal by the table itself is final: no stale record stands in for it', async () => {
  const { cache, state } = setUp();
  await cache.get('k1');
  state.now += 10_000;
  state.find = async () => undefined;
  expect(await cache.get('k1')).toBeUndefined();
  state.find = down;
  state.now += 10_000;
  await expect(cache.get('k1')).rejects.toMatchObject({ code: 'CATALOG_UNAVAILABLE' });
});

it('a defect is no outage', async () => {
  const { cache, state } = setUp();
  await cache.get('k1');
  state.now += 10_000;
  state.find = async () => {
    throw new LpsError('INTERNAL', 'refused a statement');
  };
  await expect(cache.get('k1')).rejects.toMatchObject({ code: 'INTERNAL' });
});

it('a clock that was set back makes nothing fresh', async () => {
  const { cache, state } = setUp();
  await cache.get('k1');
  state.now -= 60_000;
  await cache.get('k1');
  expect(state.reads).toEqual(['k1', 'k1']);
});
