/** Interleaving 18, seed by seed: in memory and on PostgreSQL. LPS_TEST_SEED=n plays one alone. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { scaled } from '../../../../../test/support/scale.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../catalog/embedded-postgres.js';
import { memoryLifecycle } from '../catalog/memory-lifecycle.js';
import { openPostgres } from './catalogs-fixture.js';
import { memoryTakedowns } from './memory-takedowns-fixture.js';
import { playTakedown, type TakedownMutation, type TakedownOutcome } from './takedown-scenes-fixture.js';
import { Violation, World } from './world-fixture.js';

const graceMs = 24 * 3_600_000;
const only = process.env.LPS_TEST_SEED;
const first = Number(only ?? 1);
const seedsOf = (amount: { usual: number; long: number }): number[] =>
  only === undefined ? Array.from({ length: scaled(amount) }, (_, at) => first + at) : [first];

async function playInMemory(seed: number, mutation?: TakedownMutation): Promise<TakedownOutcome> {
  let model: ReturnType<typeof memoryLifecycle>['model'] | undefined;
  const openCatalog = async (now: () => number) => {
    const opened = memoryLifecycle({ now, graceMs });
    model = opened.model;
    return { catalog: opened.catalog, lifecycle: opened.lifecycle, lead: async () => opened.lead() };
  };
  const world = await new World({ seed, openCatalog }).open();
  if (model === undefined) throw new Error('no model');
  return playTakedown(world, memoryTakedowns(model, mutation?.memory), mutation);
}

/** Plays in which nothing races prove nothing. */
function expectRaces(outcomes: readonly TakedownOutcome[]): void {
  const codes = new Set(outcomes.flatMap(({ results }) => results.map(({ what, code }) => `${what} ${code}`)));
  for (const code of ['put created', 'put BLOB_BLOCKED', 'get bytes', 'get BLOB_TAKEN_DOWN'])
    expect([...codes]).toContain(code);
  expect(new Set(outcomes.map(({ state }) => state))).toEqual(new Set(['live', 'taken_down']));
}

describe('18 a takedown against uploads and reads, in memory', () => {
  it('leaves nothing of it, and each upload in one of two clean states', { timeout: 600_000 }, async () => {
    const outcomes: TakedownOutcome[] = [];
    for (const seed of seedsOf({ usual: 2000, long: 100_000 })) outcomes.push(await playInMemory(seed));
    if (only === undefined) expectRaces(outcomes);
  });

  it.each(mutations().map((mutation) => [mutation.name, mutation] as const))('is missed: %s', async (_, mutation) => {
    for (let seed = 1; seed <= 2000; seed += 1) {
      try {
        await playInMemory(seed, mutation);
      } catch (error) {
        expect(error).toBeInstanceOf(Violation);
        expect(['18', 'S7']).toContain((error as Violation).invariant);
        return;
      }
    }
    expect.fail('nothing noticed it');
  });
});

function mutations(): TakedownMutation[] {
  const proof = { at: '', what: '' };
  return [
    { name: 'nobody waits for uploads under way', steps: () => ({ writersEnded: async () => proof }) },
    { name: 'it is deleted once, before they have ended', erasesOnce: true },
    { name: 'what is being uploaded is not meant', memory: { without: 'uploading' } },
    { name: 'the rows stay as they are', memory: { leavesRows: true } },
    { name: 'nothing is blocked that should be', forgetsBlocks: true },
  ];
}

describe('18 a takedown against uploads and reads, on PostgreSQL', () => {
  let postgres: EmbeddedPostgres;
  let opened: Awaited<ReturnType<typeof openPostgres>>;
  beforeAll(async () => {
    postgres = await startEmbeddedPostgres({ throwAway: true });
    opened = await openPostgres(postgres.url, graceMs);
  });
  afterAll(async () => {
    await opened?.close();
    await postgres?.stop();
  });

  it('leaves nothing of it, and each upload in one of two clean states', { timeout: 600_000 }, async () => {
    const outcomes: TakedownOutcome[] = [];
    for (const seed of seedsOf({ usual: 60, long: 5000 })) {
      const world = await new World({ seed, openCatalog: opened.openCatalog }).open();
      outcomes.push(await playTakedown(world, opened.takedowns));
    }
    if (only === undefined) expect(new Set(outcomes.map(({ state }) => state))).toContain('taken_down');
  });
});
