import { memoryStore } from '@large-payload/core';
import { beforeEach, describe, expect, it } from 'vitest';
import { memoryLifecycle } from './catalog/memory-lifecycle.js';
import { beginRound, roundsObject } from './rounds.js';

const graceMs = 86_400_000;

describe('rounds', () => {
  let nowMs = 1_000_000;
  let store: ReturnType<typeof memoryStore>;
  const open = () => memoryLifecycle({ now: () => nowMs, graceMs });
  let site: ReturnType<typeof open>;
  const begin = (one = site) => beginRound(one.lifecycle, store, one.lead(), 'catalog-1');
  beforeEach(() => {
    store = memoryStore();
    site = open();
  });

  it('are counted in the database and in the store', async () => {
    expect([await begin(), await begin()]).toEqual([true, true]);
    expect(await site.lifecycle.rounds()).toBe(2n);
    expect(await store.head(roundsObject)).toBeDefined();
  });

  it('show a database that is older than the store, once, and let go of what it knew', async () => {
    await begin();
    await begin();
    const restored = open();
    nowMs += 1000;
    expect(await begin(restored)).toBe(false);
    expect(await restored.lifecycle.rebuiltAt()).toEqual(new Date(nowMs));
    // a person has looked, or not: that is the brake's affair
    nowMs += 1000;
    expect(await begin(restored)).toBe(true);
    expect(await restored.lifecycle.rebuiltAt()).toEqual(new Date(nowMs - 1000));
    expect(await restored.lifecycle.rounds()).toBe(4n);
  });

  it('are not confused by a store that has lost its object', async () => {
    await begin();
    await store.delete(roundsObject);
    expect(await begin()).toBe(true);
  });
});
