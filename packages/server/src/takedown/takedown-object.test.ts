import { digestOf, memoryStore, metadataDigest } from '@large-payload/core';
import { describe, expect, it } from 'vitest';
import {
  maxNamesPerObject,
  objectsOf,
  parseTakedownObject,
  type TakedownObject,
  takedownsOf,
} from './takedown-object.js';

const digest = digestOf(Buffer.from('secret'));
const key = `/blobs/orders/common/${digest}/${metadataDigest(null)}`;
const takedown: Omit<TakedownObject, 'format'> = {
  id: '7b0e5c3c-7d0e-4a6a-9a5e-0d9a3a1f0c11',
  namespace: 'orders',
  selector: { namespace: 'orders', digest },
  withSameDigest: false,
  isBlocking: true,
  reason: 'asked for',
  requestedBy: 'ann',
  requestedAt: '2026-11-23T12:00:00.000Z',
  acceptedAt: '2026-11-23T12:00:01.000Z',
  names: [
    { key, physicalKey: key, digest, size: 6 },
    { key, physicalKey: `${key}~0123456789abcdef`, digest, size: 6 },
  ],
  blocks: [{ digest, isAnyPrefix: false, prefix: '' }],
};

async function storeWith(objects: readonly { name: string; bytes: Buffer }[]) {
  const store = memoryStore();
  for (const { name, bytes } of objects) await store.put(name, bytes, { digest: digestOf(bytes), size: bytes.length });
  return store;
}

describe('the objects of a takedown', () => {
  it('are read back as they were written', async () => {
    const read: TakedownObject[] = [];
    for await (const one of takedownsOf(await storeWith(objectsOf(takedown)))) read.push(one);
    expect(read).toEqual([{ format: 'large-payload-takedown-object/1', ...takedown }]);
  });

  it('are several when there are many names, and each says whose they are', async () => {
    const names = Array.from(
      { length: maxNamesPerObject * 2 + 1 },
      () => takedown.names[0] as TakedownObject['names'][0],
    );
    const objects = objectsOf({ ...takedown, names });
    expect(objects.map(({ name }) => name)).toEqual(
      ['', '.1', '.2'].map((part) => `.lps/takedowns/${takedown.id}${part}`),
    );
    const counts: number[] = [];
    for await (const one of takedownsOf(await storeWith(objects))) {
      expect(one).toMatchObject({ id: takedown.id, selector: takedown.selector });
      counts.push(one.names.length);
    }
    expect(counts).toEqual([maxNamesPerObject, maxNamesPerObject, 1]);
  });

  it('exist for a takedown that found nothing, too', () => {
    expect(objectsOf({ ...takedown, names: [], blocks: [] })).toHaveLength(1);
  });

  it.each<[string, (one: Omit<TakedownObject, 'format'>) => unknown]>([
    ['another format', (one) => ({ ...one, format: 'x/2' })],
    ['another id than its name', (one) => ({ ...one, id: '7b0e5c3c-7d0e-4a6a-9a5e-0d9a3a1f0c12' })],
    ['a name of another namespace', (one) => ({ ...one, namespace: 'other' })],
    ['a name of another key', (one) => ({ ...one, names: [{ ...one.names[0], physicalKey: `${key.slice(0, -1)}0` }] })],
    [
      'a digest that is not the name’s',
      (one) => ({ ...one, names: [{ ...one.names[0], digest: `${digest.slice(0, -1)}0` }] }),
    ],
    ['a name without its key', (one) => ({ ...one, names: [{ physicalKey: key, digest, size: 1 }] })],
  ])('are refused with %s', (_what, change) => {
    const name = `.lps/takedowns/${takedown.id}`;
    const changed = { format: 'large-payload-takedown-object/1', ...(change(takedown) as object) };
    expect(() => parseTakedownObject(name, JSON.stringify(changed))).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID' }),
    );
    expect(() => parseTakedownObject(name, '{')).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });
});
