import { type BlobStore, digestOf, LpsError, memoryStore } from '@large-payload/core';
import { beforeEach, expect, it } from 'vitest';
import { logicalKey } from '../../catalog/blob-record.js';
import { makeLive, newKey } from '../../catalog/postgres-catalog-fixture.js';
import { type MemoryLifecycle, memoryLifecycle } from './memory-lifecycle.js';
import { type Pins, pinObjects, pinsOf, restorePins } from './pins.js';

const startMs = 1_800_000_000_000;
const about = { owner: 'audit', reason: 'case 4711' };
let now: number;
let store: BlobStore;
let memory: MemoryLifecycle;
let pins: Pins;
beforeEach(() => {
  now = startMs;
  store = memoryStore();
  memory = newCatalog();
  pins = pinsOf(memory.lifecycle, store);
});

function newCatalog(): MemoryLifecycle {
  return memoryLifecycle({ now: () => now, graceMs: 86_400_000 });
}

async function objects(): Promise<string[]> {
  const names: string[] = [];
  for await (const { key } of store.list(pinObjects)) names.push(key);
  return names;
}

async function write(name: string, text: string): Promise<void> {
  const bytes = Buffer.from(text);
  await store.put(`${pinObjects}${name}`, bytes, { digest: digestOf(bytes), size: bytes.length });
}

it('a pin is in the catalog and in the store, and then in neither', async () => {
  const made = await pins.add({ key: '/blobs/orders/', ...about, expiresAt: new Date(startMs + 1000) });
  expect(made).toMatchObject({ key: '/blobs/orders/', ...about, createdAt: new Date(startMs) });
  expect(await pins.list()).toEqual([made]);
  expect(await pins.list(logicalKey(newKey('orders')))).toEqual([made]);
  expect(await pins.list(logicalKey(newKey('other')))).toEqual([]);
  expect(await objects()).toEqual([`${pinObjects}${made.id}`]);
  expect(await pins.remove(made.id)).toBe(true);
  expect([await pins.list(), await objects()]).toEqual([[], []]);
  expect(await pins.remove(made.id)).toBe(false);
});

it('a lost catalog gets the pins back as they were, but for those that are over', async () => {
  const key = newKey('orders');
  const forever = await pins.add({ key: logicalKey(key), ...about });
  const long = await pins.add({ key: '/blobs/orders/custom/a/', ...about, expiresAt: new Date(startMs + 10_000) });
  await pins.add({ key: '/blobs/orders/common/', ...about, expiresAt: new Date(startMs + 1000) });
  now += 5000;
  const rebuilt = newCatalog();
  expect(await restorePins(store, rebuilt.lifecycle)).toBe(2);
  expect(await restorePins(store, rebuilt.lifecycle)).toBe(2);
  const found = await rebuilt.lifecycle.pins();
  expect(found).toHaveLength(2);
  expect(found).toEqual(expect.arrayContaining([forever, long]));
});

it('what does not get into the store is not pinned', async () => {
  const full = { ...store, put: () => Promise.reject(new LpsError('STORE_FULL', 'full')) };
  await expect(pinsOf(memory.lifecycle, full).add({ key: '/blobs/orders/', ...about })).rejects.toMatchObject({
    code: 'STORE_FULL',
  });
  expect(await pins.list()).toEqual([]);
});

it('what cannot be let go of in the store stays pinned, and can be tried again', async () => {
  const made = await pins.add({ key: '/blobs/orders/', ...about });
  const away = { ...store, delete: () => Promise.reject(new LpsError('STORE_UNAVAILABLE', 'away')) };
  await expect(pinsOf(memory.lifecycle, away).remove(made.id)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
  expect(await pins.list()).toEqual([made]);
  // crashed in between: the object is gone, the row is not
  await store.delete(`${pinObjects}${made.id}`);
  expect(await pins.remove(made.id)).toBe(true);
});

it('a pin of a blob keeps it from the time of its object on', async () => {
  const key = newKey('orders');
  await makeLive(memory.catalog, key);
  now += 10 * 86_400_000;
  await pins.add({ key: logicalKey(key), ...about });
  expect(memory.model.blobsByKey.get(logicalKey(key))?.touchedAt).toBe(now);
});

it.each([
  ['another namespace than its own', { key: '/blobs/' }, 'INVALID_KEY'],
  ['no key', { key: 'orders' }, 'INVALID_KEY'],
  ['a time that is over', { key: '/blobs/orders/', expiresAt: new Date(startMs) }, 'INVALID_ARGUMENT'],
  ['a novel', { key: '/blobs/orders/', reason: 'x'.repeat(1001) }, 'INVALID_ARGUMENT'],
])('refuses %s, and writes nothing', async (_what, asked, code) => {
  await expect(pins.add({ ...about, ...asked })).rejects.toMatchObject({ code });
  expect(await objects()).toEqual([]);
});

it('never asks the store for names that are not of pins', async () => {
  for (const id of ['', '../catalog', 'a/b', 'A', 'x'.repeat(200)]) expect(await pins.remove(id), id).toBe(false);
});

it('an object that is no pin stops the rebuild, by its name', async () => {
  for (const text of [
    '',
    '{}',
    '{"key":"orders"}',
    JSON.stringify({ key: '/blobs/', ...about, createdAt: new Date() }),
  ]) {
    await write('6f1f', text);
    await expect(restorePins(store, memory.lifecycle), text).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('.lps/pins/6f1f'),
    });
    await store.delete(`${pinObjects}6f1f`);
  }
});
