/** Rounds without Temporal: what a plain retention takes, and what stops it. The rest is in simulation/. */
import { randomBytes } from 'node:crypto';
import { type BlobStore, digestOf, keyFor, memoryStore, parseKey } from '@large-payload/core';
import { pino } from 'pino';
import { beforeEach, describe, expect, it } from 'vitest';
import { claimStore } from '../bucket-owner.js';
import type { BlobState } from '../catalog/catalog.js';
import { type MemoryLifecycle, memoryLifecycle } from './catalog/memory-lifecycle.js';
import { pinObjects, pinsOf } from './catalog/pins.js';
import { Collection, type CollectionOptions } from './collect.js';
import type { LifecycleCatalog } from './lifecycle-catalog.js';

const hour = 3_600_000;
const day = 24 * hour;
const catalogId = 'catalog-1';

describe('rounds with a plain retention', () => {
  let nowMs: number;
  let store: ReturnType<typeof memoryStore>;
  let site: MemoryLifecycle;
  let collection: Collection;

  beforeEach(async () => {
    nowMs = Date.UTC(2026, 10, 23);
    store = memoryStore();
    site = memoryLifecycle({ now: () => nowMs, graceMs: day });
    await claimStore(store, catalogId);
    collection = new Collection(optionsWith(store));
  });

  function optionsWith(bucket: BlobStore): CollectionOptions {
    return {
      ...{ catalog: site.lifecycle, catalogId, store: bucket, clusters: [], maxShare: 1 },
      times: { graceMs: day, quarantineMs: day, visibilityMs: 0, lingerMs: 0 },
      acting: new Set(['orders']),
      retention: new Map([['orders', 3 * day]]),
      log: pino({ level: 'silent' }),
    };
  }

  const round = () => collection.round(site.lead(), new AbortController().signal);
  const later = (ms: number): void => {
    nowMs += ms;
  };

  async function newBlob(): Promise<string> {
    const bytes = randomBytes(10);
    const expected = { digest: digestOf(bytes), size: bytes.length };
    const key = keyFor('orders', expected.digest, null);
    const beginning = await site.catalog.begin(parseKey(key), bytes.length);
    if (beginning.kind !== 'upload') throw new Error('it is there');
    await store.put(key, bytes, expected);
    await site.catalog.commit(beginning.lease, bytes.length);
    return key;
  }

  const stateOf = async (key: string) => (await site.lifecycle.blob(parseKey(key)))?.state;

  it('quarantine and delete what was not used for so long, and for as long as a use may be late', async () => {
    const key = await newBlob();
    later(3 * day + hour);
    await round();
    expect(await stateOf(key)).toBe('live');
    later(hour + 1);
    await round();
    expect(await stateOf(key)).toBe('quarantined');
    later(day);
    await round();
    expect([await stateOf(key), await store.head(key)]).toEqual(['gone', undefined]);
  });

  it('take nothing whose uses a rebuilt catalog has forgotten', async () => {
    const key = await newBlob();
    later(10 * day);
    await site.lifecycle.noteRestored(site.lead(), 0n);
    await round();
    later(3 * day);
    const { namespaces } = await round();
    expect(await stateOf(key)).toBe('live');
    expect(namespaces[0]?.missing.join()).toContain('rebuilt');
    later(3 * hour);
    await round();
    expect(await stateOf(key)).toBe('quarantined');
  });

  it('delete no object while anything stops all namespaces, and go on afterwards', async () => {
    const key = await newBlob();
    later(4 * day);
    await round();
    later(day);
    const broken = new Collection(optionsWith({ ...store, delete: () => Promise.reject(new Error('away')) }));
    await expect(broken.round(site.lead(), new AbortController().signal)).rejects.toThrow('away');
    expect(await stateOf(key)).toBe('deleting');

    await site.lifecycle.brake({ kind: 'holders_lost', reason: 'a person has to look' });
    await round();
    expect(await store.head(key)).toBeDefined();
    await site.lifecycle.release('holders_lost', undefined, 'a test');
    await round();
    expect([await stateOf(key), await store.head(key)]).toEqual(['gone', undefined]);
  });

  /** The catalog, on which somebody sets a brake just behind a call of this method. */
  function braking(
    method: 'candidates' | 'quarantine' | 'condemned',
    brake: { blobNamespace?: string },
  ): LifecycleCatalog {
    const inner = site.lifecycle;
    return new Proxy(inner, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name, target);
        if (typeof value !== 'function') return value;
        return async (...values: unknown[]) => {
          const answer: unknown = await value.apply(inner, values);
          if (name === method) await inner.brake({ kind: 'paused', reason: 'wait', ...brake });
          return answer;
        };
      },
    });
  }
  const roundOn = (catalog: LifecycleCatalog, bucket: BlobStore = store) =>
    new Collection({ ...optionsWith(bucket), catalog }).round(site.lead(), new AbortController().signal);
  const blobsIn = async (state: BlobState) => (await site.lifecycle.sums('orders')).get(state)?.blobs ?? 0;

  it.each([{}, { blobNamespace: 'orders' }])('end their sweep where a brake is set meanwhile: %j', async (brake) => {
    for (let count = 0; count < 501; count += 1) await newBlob();
    later(4 * day);
    const { namespaces } = await roundOn(braking('candidates', brake));
    expect(await blobsIn('quarantined')).toBe(0);
    expect(namespaces[0]?.missing).toEqual(['paused: wait']);
    await site.lifecycle.release('paused', brake.blobNamespace, 'a test');
    await roundOn(braking('quarantine', brake));
    expect(await blobsIn('quarantined')).toBe(500);
    await site.lifecycle.release('paused', brake.blobNamespace, 'a test');
    later(2 * day);
    await roundOn(braking('condemned', brake));
    expect([await blobsIn('quarantined'), await blobsIn('live')]).toEqual([500, 1]);
  });

  it('go on sweeping where the brake is on another namespace', async () => {
    await newBlob();
    later(4 * day);
    await roundOn(braking('candidates', { blobNamespace: 'billing' }));
    expect(await blobsIn('quarantined')).toBe(1);
  });

  it('delete no more than a few objects once a brake is set on all', async () => {
    for (let count = 0; count < 30; count += 1) await newBlob();
    later(4 * day);
    await round();
    later(2 * day);
    const stopping: BlobStore = {
      ...store,
      async delete(key) {
        await site.lifecycle.brake({ kind: 'paused', reason: 'wait' });
        return store.delete(key);
      },
    };
    const { deleted } = await roundOn(site.lifecycle, stopping);
    expect(deleted.blobs).toBe(8);
    expect([await blobsIn('deleting'), await blobsIn('gone')]).toEqual([22, 8]);
    await site.lifecycle.release('paused', undefined, 'a test');
    await round();
    expect(await blobsIn('gone')).toBe(30);
  });

  it('forget pins that have been over for long, in the store as well', async () => {
    const pins = pinsOf(site.lifecycle, store);
    const pin = { key: '/blobs/orders/', owner: 'a person', reason: 'a test' };
    const old = await pins.add({ ...pin, expiresAt: new Date(nowMs + day) });
    const young = await pins.add({ ...pin, expiresAt: new Date(nowMs + 2 * day) });
    later(91 * day);
    await round();
    expect(await store.head(`${pinObjects}${old.id}`)).toBeUndefined();
    expect(await site.lifecycle.removePin(old.id)).toBe(false);
    expect(await store.head(`${pinObjects}${young.id}`)).toBeDefined();
    expect(await site.lifecycle.removePin(young.id)).toBe(true);
  });

  it('stop when what was in quarantine has been read, whoever led before', async () => {
    const key = await newBlob();
    later(4 * day);
    await round();
    later(hour);
    const row = await site.catalog.lookup(parseKey(key));
    await site.catalog.touch(row === undefined ? [] : [row]);
    later(hour);
    await new Collection(optionsWith(store)).round(site.lead(), new AbortController().signal);
    expect((await site.lifecycle.brakes()).map(({ kind }) => kind)).toEqual(['revived']);
  });
});
