/**
 * The interleavings that are known to be dangerous, each as a small play in the simulated world (gc.md lists them by these
 * numbers; 18, takedowns: takedown-scenes-fixture.ts). The world's oracle looks at every decision meanwhile; a play says what must
 * have become of its blob.
 */
import { type BlobStore, cached, parseKey } from '@large-payload/core';
import { allBlobs, type SimBlob } from './blobs-fixture.js';
import type { ModelNamespace } from './temporal-model-fixture.js';
import { hour, minute, World, type WorldOptions, type WorldTimes } from './world-fixture.js';

export interface Scene {
  readonly name: string;
  readonly times?: Partial<WorldTimes>;
  readonly play: (world: World) => Promise<void>;
}

const [blob, other] = allBlobs as unknown as readonly [SimBlob, SimBlob];

export const scenes: readonly Scene[] = [
  {
    name: '1 an upload of the same blob between the check and the quarantine',
    play: async (world) => {
      await garbage(world);
      await mark(world);
      const leader = await stopAt(world, 'lifecycle.quarantine');
      await finish(world, world.put(blob));
      await world.settle(leader);
      await expectState(world, 'live');
    },
  },
  {
    name: '1 an upload of the same blob between the check and the deletion',
    play: async (world) => {
      await condemned(world);
      const leader = await stopAt(world, 'lifecycle.retire');
      await finish(world, world.put(blob));
      await world.settle(leader);
      await expectState(world, 'live');
    },
  },
  {
    name: '1 an upload of the same blob while its object is deleted',
    play: async (world) => {
      await condemned(world);
      const leader = await stopAt(world, 'store.delete');
      await finish(world, world.put(blob));
      await world.settle(leader);
      await expectState(world, 'live');
    },
  },
  {
    name: '2 a client asks, skips the upload, and relies on it',
    play: async (world) => {
      await quarantined(world);
      await finish(world, world.head(blob));
      await expectState(world, 'live');
      await world.advance((world.promises.get(blob) ?? 0) - world.now - 1);
      orders(world).start([{ blob }]);
      await collectFor(world, 10 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '3 uploaded, stalled until the grace is nearly over, and then started with',
    play: async (world) => {
      await finish(world, world.put(blob));
      await world.wholeRound();
      await world.advance(world.times.graceMs - 30 * minute);
      await mark(world);
      await world.advance((world.promises.get(blob) ?? 0) - world.now - 1);
      const leader = await world.beginRound();
      orders(world).start([{ blob }]);
      await world.settle(leader);
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '4 a parent is read, its child completes into it, and is gone before it is read',
    times: { retentionMs: 2 * hour },
    play: async (world) => {
      const [namespace, elsewhere] = world.temporal.all as readonly [ModelNamespace, ModelNamespace];
      await finish(world, world.put(blob));
      const parent = namespace.start([]);
      const child = elsewhere.start([{ blob }], { parent });
      await world.advance(world.times.graceMs);
      const leader = await stopAt(world, 'lifecycle.saveScan');
      elsewhere.lateMs = 0;
      elsewhere.complete(child, [{ blob }]);
      await world.advance(1);
      elsewhere.deleteRun(child);
      await world.advance(1);
      await world.settle(leader);
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '5 a run is reset at the last moment of its retention, before the first marks',
    play: (world) => resetAtTheEnd(world, false),
  },
  {
    name: '5 a run is reset at the last moment of its retention, between two marks',
    play: (world) => resetAtTheEnd(world, true),
  },
  {
    name: '5 a chain of resets that is always younger than a list, over marks that take too long',
    times: { retentionMs: 70 * minute },
    play: async (world) => {
      const namespace = orders(world);
      const base = await oldRun(world);
      namespace.lateMs = 0;
      namespace.complete(base, []);
      await world.advance(world.times.retentionMs - 1);
      namespace.lateMs = world.times.visibilityMs;
      const first = namespace.reset(base, 9);
      namespace.lateMs = 0;
      namespace.terminate(first);
      await world.advance(1);
      await world.wholeRound();
      await world.advance((first.closedAt ?? 0) + world.times.retentionMs - 1 - world.now);
      namespace.lateMs = world.times.visibilityMs;
      namespace.reset(first, 9);
      namespace.lateMs = 0;
      await world.advance(1);
      await world.wholeRound();
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '6 a run that is not yet listed is the only one that holds it',
    play: async (world) => {
      await quarantined(world);
      await finish(world, world.put(blob));
      orders(world).lateMs = world.times.visibilityMs;
      orders(world).start([{ blob }]);
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '7 runs close while the list is read, and its pages move',
    play: async (world) => {
      const namespace = orders(world);
      namespace.lateMs = 0;
      const early = namespace.start([]);
      const late = namespace.start([]);
      await finish(world, world.put(blob));
      namespace.start([{ blob }]);
      for (let count = 0; count < 9; count += 1) namespace.start([]);
      await world.advance(2 * world.times.graceMs);
      for (const run of [early, late]) {
        const leader = await stopAt(world, 'temporal.listRuns');
        await world.takeTurn(leader);
        if (await world.until(leader, 'temporal.listRuns')) namespace.terminate(run);
        await world.settle(leader);
        await world.advance(25 * minute);
      }
      await expectState(world, 'live');
    },
  },
  {
    name: '8 only a heartbeat holds it',
    play: async (world) => {
      const run = orders(world).start([]);
      orders(world).beginActivity(run, 'a', []);
      await world.advance(world.times.visibilityMs);
      await finish(world, world.put(blob));
      await world.wholeRound();
      orders(world).heartbeat(run, 'a', [{ blob }]);
      await world.advance(2 * world.times.graceMs);
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  ...['temporal.describeRun', 'temporal.historyBackwards'].map((label) => ({
    name: `8 a heartbeat moves into the history while the run is read: ${label}`,
    play: async (world: World) => {
      const namespace = orders(world);
      const run = namespace.start([]);
      namespace.beginActivity(run, 'a', []);
      await finish(world, world.put(blob));
      namespace.heartbeat(run, 'a', [{ blob }]);
      await world.advance(world.times.graceMs + 4 * hour);
      const leader = await stopAt(world, label);
      namespace.endActivity(run, 'a', [], 'timed out');
      await world.settle(leader);
      await collectFor(world, 2 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  })),
  {
    name: '9 a signal is buffered while the run is read',
    play: async (world) => {
      const namespace = orders(world);
      const run = namespace.start([]);
      await finish(world, world.put(blob));
      await world.advance((world.promises.get(blob) ?? 0) - world.now - 1);
      namespace.lateMs = world.times.visibilityMs;
      namespace.signal(run, [{ blob }], true);
      await world.advance(2);
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '10 a schedule is changed between its list and its description',
    play: async (world) => {
      await finish(world, world.put(blob));
      await finish(world, world.put(other));
      orders(world).setSchedule('s', [{ blob }]);
      await world.advance(world.times.graceMs - hour);
      await finish(world, world.head(other));
      const leader = await stopAt(world, 'temporal.describeSchedule');
      orders(world).setSchedule('s', [{ blob: other }]);
      await world.settle(leader);
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live', other);
    },
  },
  {
    name: '10 a schedule fires, and is deleted before it is read again',
    play: async (world) => {
      const namespace = orders(world);
      await finish(world, world.put(blob));
      namespace.setSchedule('s', [{ blob }]);
      await world.advance(world.times.graceMs + 4 * hour);
      await mark(world);
      namespace.lateMs = world.times.visibilityMs;
      namespace.fire('s');
      namespace.deleteSchedule('s');
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '10 a schedule fires, and is changed before it is read again, by rounds that follow at once',
    play: async (world) => {
      const namespace = orders(world);
      await finish(world, world.put(blob));
      await finish(world, world.put(other));
      namespace.setSchedule('s', [{ blob }]);
      await world.advance(world.times.graceMs - hour);
      await finish(world, world.head(other));
      await world.advance(5 * hour);
      await mark(world);
      namespace.lateMs = world.times.visibilityMs;
      namespace.fire('s');
      namespace.setSchedule('s', [{ blob: other }]);
      // none of these sees the run that the schedule has started; the schedule does not have its arguments any more
      for (const ms of [1, minute, minute]) {
        await world.advance(ms);
        await world.wholeRound();
      }
      await world.advance(30 * minute);
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
      await expectState(world, 'live', other);
    },
  },
  {
    name: '10 what a schedule carried before it was changed goes in time, and so does what a heartbeat did',
    play: async (world) => {
      const namespace = orders(world);
      const run = namespace.start([]);
      namespace.beginActivity(run, 'a', []);
      for (const one of [blob, other]) await finish(world, world.put(one));
      namespace.setSchedule('s', [{ blob }]);
      namespace.heartbeat(run, 'a', [{ blob: other }]);
      await world.advance(world.times.graceMs + 4 * hour);
      await collectFor(world, 2 * world.times.quarantineMs);
      for (const one of [blob, other]) await expectState(world, 'live', one);
      namespace.setSchedule('s', []);
      namespace.heartbeat(run, 'a', []);
      await collectFor(world, world.times.lingerMs + 3 * world.times.quarantineMs);
      for (const one of [blob, other]) await expectState(world, 'gone', one);
    },
  },
  {
    name: '11 a batch signal is queued, and nobody has it yet',
    play: async (world) => {
      const namespace = orders(world);
      const targets = [1, 2, 3].map(() => namespace.start([]));
      await finish(world, world.put(blob));
      namespace.lateMs = world.times.visibilityMs;
      await world.advance((world.promises.get(blob) ?? 0) - world.now - 1);
      namespace.batchSignal(targets, [{ blob }]);
      await world.advance(2);
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '12 a deletion is delayed past another upload',
    play: async (world) => {
      await condemned(world);
      const leader = await stopAt(world, 'store.delete');
      world.turns.crash(leader);
      await finish(world, world.put(blob));
      orders(world).start([{ blob }]);
      await world.lead();
      await world.wholeRound();
      await world.turns.arrive();
      await world.audit();
      await expectState(world, 'live');
    },
  },
  ...['lifecycle.quarantine', 'lifecycle.retire', 'lifecycle.endMark'].map((label) => ({
    name: `13 an earlier leader goes on: ${label}`,
    play: async (world: World) => {
      await (label === 'lifecycle.retire' ? condemned(world) : garbage(world));
      if (label === 'lifecycle.quarantine') await mark(world);
      const zombie = await stopAt(world, label);
      const { counts } = world;
      const before = { ...counts };
      await world.lead();
      await world.settle(zombie);
      world.expect(counts.quarantined, before.quarantined, 'what a zombie has quarantined');
      world.expect(counts.retired, before.retired, 'what a zombie has retired');
      world.expect(counts.complete, before.complete, 'marks that a zombie has ended');
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'gone');
    },
  })),
  {
    name: '14 the database fails over, and has lost its last touches',
    play: async (world) => {
      await garbage(world);
      await mark(world);
      // a client was told so by the database that is lost
      world.promise(blob, new Date(world.now + world.times.graceMs));
      await world.loseDatabase();
      await mark(world);
      await mark(world);
      await expectState(world, 'live');
    },
  },
  {
    name: '15 a read that a cache answers is a use like any other',
    play: async (world) => {
      let downloads = 0;
      const counted: BlobStore = {
        ...world.store,
        get: (key, options) => {
          downloads += 1;
          return world.store.get(key, options);
        },
      };
      const cache = await cached(counted, { memory: { maxBytes: 1e6 } });
      await finish(world, world.put(blob));
      await finish(world, world.get(blob, cache));
      await world.advance(world.times.graceMs - 30 * minute);
      await finish(world, world.get(blob, cache));
      if (downloads !== 1) throw new Error('the cache has not answered');
      const until = world.promises.get(blob) ?? 0;
      await collectFor(world, until - world.now - 8 * hour);
      if (world.now >= until) throw new Error('the rounds took too long');
      await world.advance(until - world.now - 1);
      orders(world).start([{ blob }]);
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '16 Temporal fails over to a state of a moment ago',
    play: async (world) => {
      const namespace = orders(world);
      const run = await oldRun(world);
      await mark(world);
      namespace.lateMs = 0;
      const restore = namespace.snapshot();
      namespace.complete(run, [{ blob }]);
      namespace.start([]);
      await world.wholeRound();
      restore();
      await collectFor(world, 3 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '17 leaders crash, each one step later than the one before',
    play: async (world) => {
      await finish(world, world.put(other));
      orders(world).start([{ blob: other }]);
      for (let steps = 1; steps <= 40; steps += 1) {
        const row = await world.parts.catalog.lookup(parseKey(blob.key));
        if (row === undefined || row.state === 'gone') await finish(world, world.put(blob));
        const leader = await world.beginRound();
        for (let step = 0; step < steps && (await world.takeTurn(leader)); step += 1);
        world.turns.crash(leader);
        await world.lead();
        await mark(world);
        await world.turns.arrive();
        await world.audit();
        await world.advance(world.times.graceMs / 3);
      }
      await collectFor(world, world.times.graceMs + 3 * world.times.quarantineMs);
      await expectState(world, 'gone');
      await expectState(world, 'live', other);
      world.expect(await world.compare(), 1, 'blobs that are there');
    },
  },
  {
    name: '19 the clock jumps forward by G in the middle of a mark',
    play: async (world) => {
      const run = await oldRun(world);
      await finish(world, world.put(other));
      const leader = await stopAt(world, 'lifecycle.noteHolders');
      await world.advance(world.times.graceMs);
      await world.settle(leader);
      orders(world).signal(run, []);
      await collectFor(world, world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '19 the clock jumps back between two marks',
    play: async (world) => {
      await oldRun(world);
      await mark(world);
      world.now -= 3 * hour;
      await world.advance(0);
      await finish(world, world.put(other));
      await collectFor(world, world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: '20 the namespace is made anew',
    play: async (world) => {
      await oldRun(world);
      await mark(world);
      orders(world).recreate();
      await keepsWhatIsThere(world);
    },
  },
  {
    name: '20 the address is that of another cluster, which is empty',
    play: async (world) => {
      await oldRun(world);
      await mark(world);
      for (const namespace of world.temporal.all) {
        namespace.clusterId = 'prod-2';
        namespace.empty();
      }
      await keepsWhatIsThere(world);
    },
  },
  {
    name: 'a pin keeps what nobody refers to',
    play: async (world) => {
      await finish(world, world.put(blob));
      await world.pin(blob);
      await world.advance(world.times.graceMs + 4 * hour);
      await collectFor(world, 2 * world.times.quarantineMs);
      await expectState(world, 'live');
      for (const id of [...world.pinned.keys()]) await world.unpin(id);
      await collectFor(world, 2 * world.times.quarantineMs);
      await expectState(world, 'gone');
    },
  },
  {
    name: 'undelete brings back what is quarantined, and its time begins anew',
    play: async (world) => {
      await condemned(world);
      await world.undelete(blob);
      await mark(world);
      await expectState(world, 'live');
      await collectFor(world, world.times.graceMs + 3 * world.times.quarantineMs);
      await expectState(world, 'gone');
    },
  },
  {
    name: 'a read of what is quarantined stops the collection, whoever leads then',
    play: async (world) => {
      await quarantined(world);
      await finish(world, world.get(blob));
      await world.lead();
      await mark(world);
      const kinds = (await world.parts.lifecycle.brakes()).map(({ kind }) => kind);
      world.expect(kinds.includes('revived'), true, 'whether the collection has stopped');
    },
  },
  {
    name: 'two upload the same blob, and one of them stalls for longer than it takes to collect',
    play: async (world) => {
      const slow = world.put(blob);
      world.expect(await world.until(slow, 'store.put'), true, 'whether the upload has begun');
      await finish(world, world.put(blob));
      await collectFor(world, world.times.graceMs + 3 * world.times.quarantineMs);
      await world.settle(slow);
      await world.compare();
    },
  },
  {
    name: 'a namespace that cannot be described may hold everything',
    play: async (world) => {
      const [, billing] = world.temporal.all as readonly [ModelNamespace, ModelNamespace];
      await finish(world, world.put(blob));
      billing.start([{ blob }]);
      world.faults.set('billing', 1);
      await world.advance(world.times.graceMs + 4 * hour);
      await collectFor(world, 2 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: 'a namespace that cannot be described any more may hold what has moved there',
    play: async (world) => {
      const [namespace, billing] = world.temporal.all as readonly [ModelNamespace, ModelNamespace];
      const parent = billing.start([]);
      await finish(world, world.put(blob));
      const child = namespace.start([{ blob }], { parent });
      await world.advance(world.times.graceMs + 4 * hour);
      await mark(world);
      await mark(world);
      world.faults.set('billing', 1);
      namespace.complete(child, [{ blob }]);
      await world.advance(world.times.retentionMs + world.times.lingerMs + hour);
      await collectFor(world, 2 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: 'a claim in another namespace, and that one has a gap',
    play: async (world) => {
      const [, billing] = world.temporal.all as readonly [ModelNamespace, ModelNamespace];
      await finish(world, world.put(blob));
      billing.start([{ blob, sealed: true }]);
      await world.advance(world.times.graceMs + 4 * hour);
      await collectFor(world, 2 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
  {
    name: 'a claim that nobody can decode keeps everything',
    play: async (world) => {
      await finish(world, world.put(blob));
      orders(world).start([{ blob, sealed: true }]);
      await world.advance(world.times.graceMs + 4 * hour);
      await collectFor(world, 2 * world.times.quarantineMs);
      await expectState(world, 'live');
    },
  },
];

export async function play({ play: run, times }: Scene, options: Omit<WorldOptions, 'times'>): Promise<void> {
  await run(await new World({ ...options, times: { retentionMs: 6 * hour, ...times } }).open());
}

// what plays are made of

function orders(world: World): ModelNamespace {
  return world.temporal.all[0] as ModelNamespace;
}

async function finish(world: World, actor: Parameters<World['settle']>[0]): Promise<void> {
  await world.settle(actor);
}

/** A complete mark of everything, and time until the next one may follow. */
async function mark(world: World): Promise<void> {
  await world.wholeRound();
  await world.advance(2 * world.times.visibilityMs + 5 * minute);
}

/** A blob that nobody refers to, older than the grace. */
async function garbage(world: World): Promise<void> {
  await finish(world, world.put(blob));
  await world.advance(world.times.graceMs + 4 * hour);
}

async function quarantined(world: World): Promise<void> {
  await garbage(world);
  await mark(world);
  await mark(world);
  await expectState(world, 'quarantined');
}

/** Quarantined for long enough, and one of the two fresh marks is there. */
async function condemned(world: World): Promise<void> {
  await quarantined(world);
  await world.advance(world.times.quarantineMs);
  await mark(world);
}

async function stopAt(world: World, label: string): Promise<Awaited<ReturnType<World['beginRound']>>> {
  const leader = await world.beginRound();
  if (!(await world.until(leader, label))) world.fail('scene', `the round has never come to ${label}`);
  return leader;
}

/** Rounds, as often as they may follow each other. */
async function collectFor(world: World, ms: number): Promise<void> {
  for (const until = world.now + ms; world.now < until; ) {
    await mark(world);
    await mark(world);
    await world.advance(4 * hour);
    await world.audit();
  }
}

/** An open run that refers to a blob whose grace is over. */
async function oldRun(world: World): Promise<ReturnType<ModelNamespace['start']>> {
  await finish(world, world.put(blob));
  const run = orders(world).start([{ blob }]);
  await world.advance(world.times.graceMs + 4 * hour);
  return run;
}

async function resetAtTheEnd(world: World, isMarkedBefore: boolean): Promise<void> {
  const namespace = orders(world);
  const { visibilityMs, retentionMs } = world.times;
  const base = await oldRun(world);
  // or there would be no holder left, which is a brake of its own
  for (let count = 0; count < 5; count += 1) namespace.start([]);
  namespace.lateMs = 0;
  namespace.complete(base, []);
  await world.advance(retentionMs - 30 * minute);
  if (isMarkedBefore) await world.wholeRound();
  await world.advance((base.closedAt ?? 0) + retentionMs - 1 - world.now);
  namespace.lateMs = visibilityMs;
  namespace.reset(base, 9);
  namespace.lateMs = 0;
  for (const ms of [1, minute, 2 * minute, 30 * minute]) {
    await world.advance(ms);
    await world.wholeRound();
  }
  await collectFor(world, 3 * world.times.quarantineMs);
  await expectState(world, 'live');
}

async function keepsWhatIsThere(world: World): Promise<void> {
  await collectFor(world, 2 * world.times.quarantineMs);
  await expectState(world, 'live');
  const kinds = (await world.parts.lifecycle.brakes()).map(({ kind }) => kind);
  if (!kinds.includes('identity_changed')) world.fail('scene', `the brakes are ${kinds.join(', ')}`);
}

async function expectState(world: World, state: string, of = blob): Promise<void> {
  const row = await world.parts.catalog.lookup(parseKey(of.key));
  world.expect(row?.state, state, `the state of ${of.name}`);
  if (state === 'live' || state === 'quarantined') {
    if ((await world.store.head(row?.physicalKey ?? '')) === undefined) world.fail('S1', `${of.name} has no object`);
  }
}
