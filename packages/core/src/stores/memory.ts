import type { BlobInfo, BlobStore, Body } from '../blob-store.js';
import { readAll } from '../body.js';
import { LpsError } from '../errors.js';
import { checked } from '../layers/checked.js';

export interface MemoryStoreOptions {
  /** The sum of all blobs' bytes that is never exceeded. Default 1 GiB. */
  readonly maxBytes?: number;
}

/** Blobs in this process' memory, gone with it: for trying things out and for tests. Throws STORE_FULL. */
export function memoryStore(options: MemoryStoreOptions = {}): BlobStore {
  const maxBytes = options.maxBytes ?? 1024 ** 3;
  const blobs = new Map<string, { bytes: Uint8Array; modifiedAt: Date }>();
  let usedBytes = 0; // stored and under way

  const infoOf = (key: string): BlobInfo | undefined => {
    const blob = blobs.get(key);
    return blob && { key, size: blob.bytes.length, modifiedAt: blob.modifiedAt };
  };
  const remove = (key: string): boolean => {
    usedBytes -= blobs.get(key)?.bytes.length ?? 0;
    return blobs.delete(key);
  };
  const reserve = (size: number): void => {
    if (usedBytes + size > maxBytes) {
      throw new LpsError('STORE_FULL', `the memory store holds at most ${maxBytes} bytes`, { details: { maxBytes } });
    }
    usedBytes += size;
  };

  return checked({
    name: 'memory',
    can: { range: true, list: true, delete: true, versions: false },
    async put(key, body: Body, expect, options) {
      if (!options?.overwrite && blobs.has(key)) return { outcome: 'exists' };
      reserve(expect.size);
      try {
        // a copy: the caller may use its buffer again
        const bytes = Uint8Array.from(await readAll(body, expect.size));
        options?.signal?.throwIfAborted();
        if (!options?.overwrite && blobs.has(key)) {
          usedBytes -= expect.size; // another put was first
          return { outcome: 'exists' };
        }
        remove(key);
        blobs.set(key, { bytes, modifiedAt: new Date() });
      } catch (error) {
        usedBytes -= expect.size;
        throw error;
      }
      return { outcome: 'created' };
    },
    async get(key, options) {
      const info = infoOf(key);
      const bytes = blobs.get(key)?.bytes;
      if (info === undefined || bytes === undefined) return undefined;
      const { range } = options ?? {};
      if (range === undefined) return { info, body: bytes };
      if (range.end >= bytes.length) throw new LpsError('RANGE_NOT_SATISFIABLE', 'the range ends behind the blob');
      return { info, body: bytes.subarray(range.start, range.end + 1) };
    },
    async head(key) {
      return infoOf(key);
    },
    async delete(key) {
      return remove(key);
    },
    async *list(prefix, { after = '' } = {}) {
      for (const key of [...blobs.keys()].sort()) {
        const info = key.startsWith(prefix) && key > after ? infoOf(key) : undefined;
        if (info !== undefined) yield info;
      }
    },
  });
}
