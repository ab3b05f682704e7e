/** For tests: the catalog in memory, with a clock that stands still until it is moved. */
import { logicalKey } from '../../catalog/blob-record.js';
import type { LifecycleHarness } from './lifecycle-contract-fixture.js';
import { memoryLifecycle } from './memory-lifecycle.js';
import type { MemoryModel } from './memory-model.js';

export interface MemoryHarness extends LifecycleHarness {
  readonly model: MemoryModel;
}

const dayMs = 86_400_000;

export function openMemoryHarness(): MemoryHarness {
  let now = Date.now();
  const { catalog, lifecycle, model, lead } = memoryLifecycle({ now: () => now, graceMs: dayMs });
  return {
    catalog,
    lifecycle,
    model,
    graceMs: dayMs,
    lead: async () => lead(),
    async pass(ms) {
      now += ms;
    },
    async read(key) {
      const row = model.blobsByKey.get(logicalKey(key));
      if (row === undefined) return undefined;
      const leases = [...model.leases.values()].filter(({ blobId }) => blobId === row.id).length;
      const { id, state, generation, touchedAt } = row;
      return { id, state, generation, physicalKey: model.physicalKey(row), touchedAt: new Date(touchedAt), leases };
    },
    async force(key, state, { generation = 1, suffix = '' } = {}) {
      const known = model.blobsByKey.get(logicalKey(key));
      if (state === 'absent') {
        if (known !== undefined) model.remove(known);
        return;
      }
      const row = known ?? model.add(key, { size: 1, state, generation, suffix });
      Object.assign(row, { generation, suffix });
      model.become(row, state);
    },
    async takeDown(key) {
      const row = model.blobsByKey.get(logicalKey(key));
      if (row === undefined || row.state === 'gone' || row.state === 'taken_down') return;
      model.erased.add(model.physicalKey(row));
      model.become(row, 'taken_down');
    },
    async block({ namespace, digest, prefix = '' }) {
      model.blocks.push({ namespace, digest, prefix });
    },
    async unblock({ digest }) {
      const others = model.blocks.filter((block) => block.digest !== digest);
      model.blocks.splice(0, model.blocks.length, ...others);
    },
    async rebuilt() {
      model.rebuiltAt = now;
    },
    async close() {},
  };
}
