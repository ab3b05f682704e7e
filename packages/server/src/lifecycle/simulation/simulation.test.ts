import { describe, expect, it } from 'vitest';
import { memoryLifecycle } from '../catalog/memory-lifecycle.js';
import { walk } from './walk-fixture.js';
import type { SimCatalog } from './world-fixture.js';

async function openMemory(now: () => number, graceMs: number): Promise<SimCatalog> {
  const { catalog, lifecycle, lead } = memoryLifecycle({ now, graceMs });
  return { catalog, lifecycle, lead: async () => lead() };
}

describe('sim', () => {
  it('holds', { timeout: 300_000 }, async () => {
    const first = Number(process.env.LPS_TEST_SEED ?? 1);
    const count = process.env.LPS_TEST_SEED === undefined ? Number(process.env.SEEDS ?? 20) : 1;
    const sums: Record<string, number> = {};
    const began = Date.now();
    for (let seed = first; seed < first + count; seed += 1) {
      const world = await walk({ seed, openCatalog: openMemory, moves: 150 });
      for (const [name, value] of Object.entries(world.counts)) sums[name] = (sums[name] ?? 0) + value;
    }
    console.log(sums, (count * 1000) / (Date.now() - began), 'seeds/s');
    expect(true).toBe(true);
  });
});
