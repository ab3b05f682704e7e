import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { BlobRow } from './catalog.js';
import { moment, RowCache } from './row-cache.js';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function live(id: number, state: BlobRow['state'] = 'live'): { row: BlobRow; dueAt: ReturnType<typeof moment> } {
  const key = `key ${id}`;
  const row = { id: BigInt(id), key, physicalKey: key, size: 1, state, generation: 1, touchDue: false };
  return { row: { ...row, touchedAt: new Date(), protectedUntil: new Date() }, dueAt: moment(1000) };
}

function opened(maxEntries = 10): RowCache {
  const cache = new RowCache(maxEntries);
  cache.open();
  return cache;
}

it('gives a row back until its eviction', () => {
  const cache = opened();
  cache.put(live(1), cache.version);
  expect(cache.get('key 1')?.id).toBe(1n);
  cache.evict(1n);
  expect(cache.get('key 1')).toBeUndefined();
});

it('forgets rows by their keys, or all', () => {
  const cache = opened();
  for (const id of [1, 2, 3]) cache.put(live(id), cache.version);
  cache.forget(['key 1', 'key 9']);
  expect([cache.get('key 1'), cache.get('key 2')?.id]).toEqual([undefined, 2n]);
  cache.forget();
  expect(cache.size).toBe(0);
});

it('says that a touch is due when its time has come', () => {
  const cache = opened();
  cache.put(live(1), cache.version);
  expect(cache.get('key 1')?.touchDue).toBe(false);
  vi.advanceTimersByTime(1000);
  expect(cache.get('key 1')?.touchDue).toBe(true);
});

it('says so as well when the machine slept and only the wall clock went on', () => {
  const cache = opened();
  cache.put({ ...live(1), dueAt: { ...moment(1000), steadyMs: Number.POSITIVE_INFINITY } }, cache.version);
  vi.setSystemTime(Date.now() + 1000);
  expect(cache.get('key 1')?.touchDue).toBe(true);
});

it('does not take in what was read before an eviction or a loss', () => {
  const cache = opened();
  const { version } = cache;
  cache.evict(1n);
  cache.put(live(1), version);
  expect(cache.get('key 1')).toBeUndefined();
  const beforeForgetting = cache.version;
  cache.forget(['key 1']);
  cache.put(live(1), beforeForgetting);
  expect(cache.get('key 1')).toBeUndefined();
  const beforeLoss = cache.version;
  cache.drop();
  cache.open();
  cache.put(live(1), beforeLoss);
  expect(cache.get('key 1')).toBeUndefined();
});

it('takes in live rows only, and only while it is open', () => {
  const cache = opened();
  cache.put(live(1, 'quarantined'), cache.version);
  expect(cache.size).toBe(0);
  cache.put(live(2), cache.version);
  cache.drop();
  cache.put(live(3), cache.version);
  expect([cache.size, cache.get('key 2'), cache.get('key 3')]).toEqual([0, undefined, undefined]);
});

it('lets the least recently used row go', () => {
  const cache = opened(2);
  for (const id of [1, 2]) cache.put(live(id), cache.version);
  cache.get('key 1');
  cache.put(live(3), cache.version);
  expect([1, 2, 3].map((id) => cache.get(`key ${id}`)?.id)).toEqual([1n, undefined, 3n]);
});

it('forgets the id of a key whose row was made anew', () => {
  const cache = opened();
  cache.put(live(1), cache.version);
  cache.put({ ...live(2), row: { ...live(2).row, key: 'key 1' } }, cache.version);
  cache.evict(1n);
  expect(cache.get('key 1')?.id).toBe(2n);
});
