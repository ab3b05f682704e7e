import { describe, expect, it } from 'vitest';
import { testBlobStore } from '../conformance.js';
import { digestOf } from '../digest.js';
import { keyFor } from '../key.js';
import { memoryStore } from './memory.js';

testBlobStore('memory', async () => ({ store: memoryStore(), close: async () => {} }), { runner: { describe, it } });

describe('the memory store', () => {
  it('is full at its bound, and takes blobs again after a delete', async () => {
    const store = memoryStore({ maxBytes: 10 });
    const blob = (text: string) => {
      const bytes = Buffer.from(text);
      const digest = digestOf(bytes);
      return [keyFor('n', digest, null), bytes, { digest, size: bytes.length }] as const;
    };
    await store.put(...blob('123456'));
    await expect(store.put(...blob('abcdef'))).rejects.toMatchObject({ code: 'STORE_FULL' });
    await store.delete(blob('123456')[0]);
    expect(await store.put(...blob('abcdef'))).toEqual({ outcome: 'created' });
  });
});
