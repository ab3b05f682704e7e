/** As simulation.test.ts and interleavings.test.ts, on the statements that run in production. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { scaled } from '../../../../../test/support/scale.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../catalog/embedded-postgres.js';
import { openPostgres } from './catalogs-fixture.js';
import { play, scenes } from './scenes-fixture.js';
import { walk } from './walk-fixture.js';
import { hour } from './world-fixture.js';

/** LPS_TEST_TRACE=1 tells how quick it was, and how much happened. */
const say = (text: string): void => {
  if (process.env.LPS_TEST_TRACE !== undefined) console.log(text);
};
const only = process.env.LPS_TEST_SEED;
const seeds = only === undefined ? scaled({ usual: 500, long: 3000 }) : 1;
const first = Number(only ?? 1);

let postgres: EmbeddedPostgres;
let opened: Awaited<ReturnType<typeof openPostgres>>;

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  opened = await openPostgres(postgres.url, 24 * hour);
});
afterAll(async () => {
  await opened?.close();
  await postgres?.stop();
});

describe('the collection in a simulated world, on PostgreSQL', () => {
  it(`keeps S1 to S6, S8 and S9 for ${seeds} seeds`, { timeout: 3_600_000 }, async () => {
    let deleted = 0;
    const began = Date.now();
    for (let seed = first; seed < first + seeds; seed += 1) {
      const { counts } = await walk({ seed, openCatalog: opened.openCatalog, moves: 40, hasRest: seed % 4 === 1 });
      deleted += counts.deleted;
    }
    say(`${((1000 * seeds) / (Date.now() - began)).toFixed(1)} seeds/s: deleted ${deleted}`);
    if (only === undefined) expect(deleted).toBeGreaterThan(seeds / 4);
  });

  it.each(scenes.map((scene) => [scene.name, scene] as const))('%s', async (_name, scene) => {
    await play(scene, { seed: 1, openCatalog: opened.openCatalog });
  });
});
