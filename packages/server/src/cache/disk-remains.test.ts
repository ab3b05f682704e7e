/** A file of the disk cache that cannot be removed: the next process must not serve it as if no event had named it. */
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestOf, keyFor, memoryStore, passThrough } from '@large-payload/core';
import { expect, it } from 'vitest';
import type { NodeEvent } from '../nodes/read-leases.js';
import { openCachedUpstream } from './cached-upstream.js';

const bytes = Buffer.alloc(2000, 'x');
const digest = digestOf(bytes);
const key = keyFor('shop', digest, {});

async function filesBelow(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true, recursive: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

it.each([
  { name: 'that is removed', isStuck: false },
  { name: 'that cannot be removed', isStuck: true },
])('the cursor moves behind a file $name: $isStuck', async ({ isStuck }) => {
  const dir = await mkdtemp(join(tmpdir(), 'lps-remains-'));
  const memory = memoryStore();
  await memory.put(key, bytes, { digest, size: bytes.length });
  const events: NodeEvent[] = [];
  const cursors: bigint[] = [];
  let wake = (): void => undefined;
  const node = await openCachedUpstream({
    upstream: {
      ...passThrough(memory),
      async get(name, options) {
        const found = await memory.get(name, options);
        return found && { ...found, info: { ...found.info, asOf: BigInt(events.length) } };
      },
    },
    cache: { disk: { dir, maxBytes: 1e6 } },
    leases: (onEvent) => {
      wake = onEvent;
      return {
        grant: async () => ({ newest: BigInt(events.length), leaseMs: 60_000 }),
        events: async (after) => events.slice(Number(after)),
        end: async () => undefined,
      };
    },
    maxStalenessMs: 60_000,
    cursor: 0n,
    onCursor: (cursor) => cursors.push(cursor),
    touches: { hasRoom: () => true, add: () => undefined },
  });
  await node.store.get(key);
  await expect.poll(() => filesBelow(join(dir, 'blobs')).catch(() => [])).toHaveLength(1);
  const [file = ''] = await filesBelow(join(dir, 'blobs'));
  if (isStuck) {
    await rm(file);
    await mkdir(file); // cannot be unlinked
  }
  events.push({ id: 1n, kind: 'takedown', key, physicalKey: key });
  wake();
  await expect.poll(() => node.lease.state().cursor).toBe(1n);
  expect(await node.close()).toBe(!isStuck);
  expect(cursors).toEqual(isStuck ? [] : [1n]);
  await rm(dir, { recursive: true });
});
