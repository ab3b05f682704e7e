/**
 * S7: after a takedown is complete no node serves a byte of it, whatever connections break, processes die and machines sleep.
 * Walks of a model from seeds (s7-model-fixture.ts), and plays of what they meet rarely; LPS_TEST_SEED=n runs one walk alone.
 */
import { describe, expect, it } from 'vitest';
import { scaled } from '../../../../test/support/scale.ts';
import { SeededRandom } from '../lifecycle/simulation/random-fixture.js';
import { allGuards, type Guards, keys, Leak, leaseMs, S7Model, uploadMs } from './s7-model-fixture.js';

const only = process.env.LPS_TEST_SEED;
const first = Number(only ?? 1);
const seeds = only === undefined ? scaled({ usual: 1500, long: 200_000 }) : 1;
const moves = 250;

type Move = readonly [weight: number, run: (model: S7Model, random: SeededRandom) => void];

const anyMove: readonly Move[] = [
  [6, (model, random) => model.pass(random.pick([1, 3, 10, 20, random.below(leaseMs), leaseMs]))],
  [0.5, (model, random) => model.sleep(random.pick(model.nodes), random.pick([10, leaseMs, 3 * leaseMs]))],
  [8, (model, random) => model.ask(random.pick(model.nodes), random.pick(model.replicas))],
  [16, (model, random) => model.deliver(random.below(1000))],
  [8, (model, random) => model.read(random.pick(model.nodes), random.pick(model.replicas), random.pick(keys))],
  [6, (model, random) => model.finish(random.below(1000))],
  [3, (model, random) => model.upload(random.pick(keys), random.pick(model.nodes), random.pick(model.replicas))],
  [4, (model, random) => model.uploadOn(random.below(1000), 'write')],
  [1, (model, random) => model.uploadOn(random.below(1000), 'renew')],
  [3, (model, random) => model.uploadOn(random.below(1000), 'commit')],
  [3, (model, random) => model.uploadOn(random.below(1000), 'answer')],
  [1.5, (model, random) => model.takeDown(random.pick(keys))],
  [8, (model) => model.work()],
  [1, (model, random) => connect(model, random, false)],
  [2, (model, random) => connect(model, random, true)],
  [0.4, (model, random) => model.restart(random.pick(model.nodes), random.chance(0.5))],
  [0.5, (model) => model.prune()],
];

function connect(model: S7Model, random: SeededRandom, isConnected: boolean): void {
  random.pick(model.nodes).isConnected = isConnected;
}

/** Some moves are rare in one walk and frequent in another, so that they meet. */
function walk(seed: number, guards: Guards): S7Model {
  const model = new S7Model(guards, seed % 2 === 0);
  const random = new SeededRandom(seed);
  const weighed = anyMove.map(([weight, run]) => [weight * random.pick([0.2, 1, 1, 3]), run] as const);
  const sum = weighed.reduce((total, [weight]) => total + weight, 0);
  for (let move = 0; move < moves; move += 1) {
    let at = random.next() * sum;
    const [, run] =
      weighed.find(([weight]) => {
        at -= weight;
        return at < 0;
      }) ??
      weighed[0] ??
      [];
    run?.(model, random);
    model.check();
  }
  return model;
}

const [key] = keys;

/** The people of a play; each step is followed by a look at all of them. */
function stage(guards: Guards) {
  const model = new S7Model(guards, true);
  const [r1, r2] = model.replicas as [S7Model['nodes'][number], S7Model['nodes'][number]];
  const [c1] = model.caches as [S7Model['nodes'][number]];
  const step = (run: () => void): void => {
    run();
    model.check();
  };
  /** A wish that arrives, and whose answer does. */
  const renew = (node: S7Model['nodes'][number], via = r1): void => {
    step(() => model.ask(node, via));
    step(() => model.deliver(0));
    step(() => model.deliver(0));
  };
  const put = (at = r1): void => {
    step(() => model.upload(key, at, r1));
    for (const name of ['write', 'commit', 'answer'] as const) step(() => model.uploadOn(0, name));
  };
  /** Until it is complete: everybody whose name is given says every 30 ms what he has applied. */
  const complete = (...renewing: S7Model['nodes'][number][]): void => {
    const before = model.counts.completed;
    for (let round = 0; round < 100 && model.counts.completed === before; round += 1) {
      for (const node of renewing) renew(node);
      step(() => model.work());
      step(() => model.pass(30));
    }
    expect(model.counts.completed).toBe(before + 1);
  };
  return { model, r1, r2, c1, step, renew, put, complete };
}

const plays: readonly { name: string; guard?: keyof Guards; play: (guards: Guards) => void }[] = [
  {
    name: 'a cache node hears of it from one replica, and reads it from another one that has not heard of it',
    guard: 'comparesCursors',
    play(guards) {
      const { model, r1, r2, c1, step, renew, put, complete } = stage(guards);
      for (const node of [r1, r2, c1]) renew(node);
      put();
      step(() => model.read(r2, r2, key)); // it knows the row now
      step(() => model.finish(0));
      step(() => model.takeDown(key));
      for (const node of [r1, c1]) renew(node);
      step(() => model.read(c1, r2, key));
      step(() => model.finish(0));
      complete(r1, r2, c1);
    },
  },
  {
    name: 'and gives it out slowly',
    guard: 'boundsWhatItCannotKeep',
    play(guards) {
      const { model, r1, r2, c1, step, renew, put, complete } = stage(guards);
      for (const node of [r1, r2, c1]) renew(node);
      put();
      step(() => model.read(r2, r2, key));
      step(() => model.finish(0));
      step(() => model.takeDown(key));
      for (const node of [r1, c1]) renew(node);
      step(() => model.read(c1, r2, key));
      step(() => model.finish(1)); // all of it is with the node
      complete(r1, r2, c1);
    },
  },
  {
    name: 'a replica that has heard of it loses Postgres, and a slow client reads it from the store',
    guard: 'boundsReadsWithoutCatalog',
    play(guards) {
      const { model, r1, r2, step, renew, put, complete } = stage(guards);
      for (const node of [r1, r2]) renew(node);
      put();
      step(() => model.takeDown(key));
      step(() => model.pass(1));
      for (const node of [r1, r2, r2]) renew(node);
      r2.isConnected = false;
      step(() => model.read(r2, r2, key));
      complete(r1);
    },
  },
  {
    name: 'a cache node reads it from a replica without Postgres, while it has a lease of its own',
    guard: 'keepsOnlyWithCatalog',
    play(guards) {
      const { model, r1, r2, c1, step, renew, put, complete } = stage(guards);
      for (const node of [r1, r2, c1]) renew(node);
      put();
      step(() => model.takeDown(key));
      for (const node of [r1, r2, c1, r2, c1]) renew(node);
      r2.isConnected = false;
      step(() => model.read(c1, r2, key));
      step(() => model.finish(0));
      complete(r1, c1);
    },
  },
  {
    name: 'a cache node comes back when the event is forgotten',
    guard: 'clearsWhenBehind',
    play(guards) {
      const { model, r1, c1, step, renew, put, complete } = stage(guards);
      for (const node of [r1, c1]) renew(node);
      put();
      step(() => model.read(c1, r1, key));
      step(() => model.finish(0));
      c1.isConnected = false;
      step(() => model.takeDown(key));
      complete(r1);
      step(() => model.prune());
      c1.isConnected = true;
      renew(c1);
      renew(c1);
    },
  },
  {
    name: 'an upload through a cache node is answered after the event',
    guard: 'keepsNothingLate',
    play(guards) {
      const { model, r1, c1, step, renew, complete } = stage(guards);
      for (const node of [r1, c1]) renew(node);
      step(() => model.upload(key, c1, r1));
      for (const name of ['write', 'commit'] as const) step(() => model.uploadOn(0, name));
      step(() => model.takeDown(key));
      renew(c1);
      step(() => model.uploadOn(0, 'answer'));
      complete(r1, c1);
    },
  },
  {
    name: 'an upload writes its object when that was deleted, and a replica without Postgres reads it',
    guard: 'waitsAfterEachDeletion',
    play(guards) {
      const { model, r1, r2, step, complete } = stage(guards);
      step(() => model.upload(key, r1, r1));
      step(() => model.takeDown(key));
      step(() => model.work());
      r2.isConnected = false;
      step(() => model.uploadOn(0, 'write'));
      step(() => model.pass(uploadMs)); // its lease has ended
      step(() => model.read(r2, r2, key));
      complete();
    },
  },
  {
    name: 'an upload writes its object when that was deleted',
    guard: 'waitsForUploads',
    play(guards) {
      const { model, r1, step, renew, complete } = stage(guards);
      renew(r1);
      step(() => model.upload(key, r1, r1));
      step(() => model.takeDown(key));
      for (let round = 0; round < 6; round += 1) {
        renew(r1);
        step(() => model.work());
        step(() => model.pass(30));
      }
      step(() => model.uploadOn(0, 'write'));
      complete(r1);
    },
  },
];

describe('a takedown among replicas, cache nodes and uploads', () => {
  it(`leaves nobody who serves it, in ${seeds} walks`, { timeout: 3_600_000 }, () => {
    const sums = { completed: 0, served: 0, uploads: 0, cut: 0 };
    for (let seed = first; seed < first + seeds; seed += 1) {
      try {
        const { counts } = walk(seed, allGuards);
        for (const name of Object.keys(sums) as (keyof typeof sums)[]) sums[name] += counts[name];
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
      }
    }
    if (process.env.LPS_TEST_TRACE !== undefined) console.log(sums);
    // a model in which nothing happens proves nothing
    if (only !== undefined) return;
    expect(sums.completed).toBeGreaterThan(seeds / 4);
    expect(sums.served).toBeGreaterThan(seeds);
    expect(sums.cut).toBeGreaterThan(seeds / 20);
  });

  it.each(plays)('leaves nobody who serves it: $name', ({ play }) => play(allGuards));

  const played = new Map(plays.map(({ guard, play }) => [guard, play]));
  it.each(Object.keys(allGuards) as (keyof Guards)[])('is not safe without the guard: %s', (guard) => {
    const guards = { ...allGuards, [guard]: false };
    const play = played.get(guard);
    if (play !== undefined) {
      expect(() => play(guards)).toThrow(Leak);
      return;
    }
    for (let seed = 1; seed <= 3000; seed += 1) {
      try {
        walk(seed, guards);
      } catch (error) {
        if (process.env.LPS_TEST_TRACE !== undefined) console.log(`${guard}: seed ${seed}, ${String(error)}`);
        expect(error).toBeInstanceOf(Leak);
        return;
      }
    }
    expect.fail('nothing noticed it');
  });
});
