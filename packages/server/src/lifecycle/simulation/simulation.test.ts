/**
 * The collection in a simulated world, seed by seed. A failure names its seed: LPS_TEST_SEED=n runs that one alone, and
 * LPS_TEST_TRACE=all prints its moves. Rounds that crash, and leaders that follow each other, are in it; so are faults of
 * Temporal, and claims that cannot be decoded. What is not: takedowns (takedown.test.ts; ../../nodes/s7.test.ts), cache
 * nodes, row caches of replicas. 5,000 seeds take about three minutes on one core, and 500 on PostgreSQL as long on the other.
 */
import { describe, expect, it } from 'vitest';
import { scaled } from '../../../../../test/support/scale.ts';
import { openMemory } from './catalogs-fixture.js';
import { walk } from './walk-fixture.js';

/** LPS_TEST_TRACE=1 tells how quick it was, and how much happened. */
const say = (text: string): void => {
  if (process.env.LPS_TEST_TRACE !== undefined) console.log(text);
};
const only = process.env.LPS_TEST_SEED;
const seeds = only === undefined ? scaled({ usual: 5000, long: 12_000 }) : 1;
const first = Number(only ?? 1);

describe('the collection in a simulated world, in memory', () => {
  it(`keeps S1 to S6, S8 and S9 for ${seeds} seeds`, { timeout: 3_600_000 }, async () => {
    const sums = new Map<string, number>();
    const began = Date.now();
    for (let seed = first; seed < first + seeds; seed += 1) {
      const { counts } = await walk({ seed, openCatalog: openMemory, moves: 150, hasRest: seed % 3 === 1 });
      for (const [name, count] of Object.entries(counts)) sums.set(name, (sums.get(name) ?? 0) + count);
    }
    const perSecond = ((1000 * seeds) / (Date.now() - began)).toFixed(1);
    say(`${perSecond} seeds/s: ${[...sums].map(([name, count]) => `${name} ${count}`).join(', ')}`);
    // a world in which nothing goes proves nothing
    if (only === undefined) expect(sums.get('deleted')).toBeGreaterThan(seeds);
  });

  it('is the same world again for the same seed', async () => {
    const told = async (): Promise<unknown> => {
      const world = await walk({ seed: 7, openCatalog: openMemory, moves: 150 });
      return { counts: world.counts, now: world.now, lastMoves: world.lastMoves };
    };
    expect(await told()).toEqual(await told());
  });
});
