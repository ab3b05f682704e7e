import type { BlobKey } from '@large-payload/core';
import { expect, it } from 'vitest';
import { logicalKey } from '../../catalog/blob-record.js';
import type { Catalog } from '../../catalog/catalog.js';
import { type StatesSite, testCatalogStates } from '../../catalog/catalog-states-fixture.js';
import { newKey } from '../../catalog/postgres-catalog-fixture.js';
import { memoryLifecycle } from './memory-lifecycle.js';
import { openMemoryHarness } from './memory-lifecycle-fixture.js';

function open(): { catalog: Catalog; fixture: StatesSite } {
  const harness = openMemoryHarness();
  const { model, catalog } = harness;
  const rowOf = (key: BlobKey) => model.blobsByKey.get(logicalKey(key));
  return {
    catalog,
    fixture: {
      force: harness.force,
      read: harness.read,
      async age(key, byMs) {
        const row = rowOf(key);
        if (row !== undefined) row.touchedAt -= byMs;
      },
      async block({ namespace, digest, prefix = '' }, { anyPrefix = false } = {}) {
        model.blocks.push({ namespace, digest, prefix: anyPrefix ? undefined : prefix });
      },
      async erase(key, physicalKey = logicalKey(key)) {
        model.erased.add(physicalKey);
      },
      async expireLeases() {
        for (const lease of model.leases.values()) lease.expiresAt = model.now() - 1000;
      },
      async removeLeases() {
        model.leases.clear();
      },
    },
  };
}

testCatalogStates('memory', open);

it('answers the same calls in the same way', async () => {
  const keys = [newKey(), newKey()];
  const answers = async (): Promise<unknown[]> => {
    const { catalog, model } = memoryLifecycle({ now: () => 1_800_000_000_000, graceMs: 86_400_000 });
    const seen: unknown[] = [];
    for (const key of keys) {
      const beginning = await catalog.begin(key, 10);
      if (beginning.kind === 'upload') seen.push(beginning, await catalog.commit(beginning.lease, 10));
      const row = model.blobsByKey.get(logicalKey(key));
      if (row !== undefined) model.become(row, 'deleting');
      seen.push(await catalog.begin(key, 10));
    }
    return seen;
  };
  expect(await answers()).toEqual(await answers());
});
