import { describe, expect, it } from 'vitest';
import { openMemory } from './catalogs-fixture.js';
import { type Mutant, mutants } from './mutants-fixture.js';
import { play, scenes } from './scenes-fixture.js';
import { walk } from './walk-fixture.js';
import { Violation } from './world-fixture.js';

const seeds = 150;

/** The first violation, within so many seeds. */
async function caught({ mutation, patch, scene }: Mutant): Promise<Violation | undefined> {
  const openCatalog = (now: () => number, graceMs: number) => openMemory(now, graceMs, patch);
  const played = scenes.find(({ name }) => name === scene);
  for (let seed = 1; seed <= (played === undefined ? seeds : 5); seed += 1) {
    try {
      if (played === undefined) await walk({ seed, openCatalog, mutation, moves: 150 });
      else await play(played, { seed, openCatalog, mutation });
    } catch (error) {
      // anything else would be an error of the mutant's
      if (error instanceof Violation && error.invariant !== 'fault') return error;
      throw error;
    }
  }
  return undefined;
}

describe('a guard that is taken away is missed when', () => {
  it.each(mutants.map((mutant) => [mutant.name, mutant] as const))('%s', async (_name, mutant) => {
    if (mutant.scene !== undefined) expect(scenes.map(({ name }) => name)).toContain(mutant.scene);
    const violation = await caught(mutant);
    if (process.env.LPS_TEST_TRACE !== undefined) console.log(`${mutant.name}: ${violation?.message}`);
    expect(violation).toBeDefined();
  });
});
