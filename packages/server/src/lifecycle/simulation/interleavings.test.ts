import { describe, it } from 'vitest';
import { openMemory } from './catalogs-fixture.js';
import { play, scenes } from './scenes-fixture.js';

describe('interleavings that are known to be dangerous, in memory', () => {
  it.each(scenes.map((scene) => [scene.name, scene] as const))('%s', async (_name, scene) => {
    for (let seed = 1; seed <= 5; seed += 1) await play(scene, { seed, openCatalog: openMemory });
  });
});
