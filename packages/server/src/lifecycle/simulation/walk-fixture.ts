/** One run of the simulated world from a seed: moves of everybody at random, and then a rest in which all garbage must go. */
import { marksKept } from '../judge.js';
import { lingerOf } from '../permission.js';
import { quiet } from './actors-fixture.js';
import { allBlobs, type SimBlob } from './blobs-fixture.js';
import type { Carried, ModelNamespace, ModelRun } from './temporal-model-fixture.js';
import { carriedBy } from './temporal-model-fixture.js';
import { hour, minute, World, type WorldOptions } from './world-fixture.js';

export interface WalkOptions extends WorldOptions {
  /** Moves of clients, Temporal and the clock. */
  readonly moves: number;
  /** Whether it ends with the rest in which all garbage goes (S6). Default: yes. */
  readonly hasRest?: boolean;
}

/** What a seed is about: most have only some of the moves, so that they meet more often. */
interface Theme {
  readonly pool: readonly SimBlob[];
  readonly moves: readonly Move[];
  readonly temporalMoves: readonly NamedMove[];
  readonly sealed: number;
  /** No round before this move: the first marks find what is old already. */
  readonly firstRound: number;
}

/** Throws a Violation that names the seed. */
export async function walk(options: WalkOptions): Promise<World> {
  const world = await new World(options).open();
  const { random } = world;
  const theme = themeOf(world, options.moves);
  for (let move = 0; move < options.moves; move += 1) {
    await makeMove(world, theme, move);
    // while somebody is at work, most of what happens is that
    const turns = random.below(12);
    for (let turn = 0; turn < turns && (await world.takeTurn()); turn += 1);
    if (move % 50 === 0) await world.audit();
  }
  await world.settle();
  await world.audit();
  if (options.hasRest ?? true) await rest(world);
  return world;
}

function themeOf(world: World, length: number): Theme {
  const { random } = world;
  for (const { name } of world.temporal.all) {
    if (random.chance(0.15)) world.faults.set(name, random.pick([0.002, 0.02, 0.2, 1]));
  }
  const some = <Item>(items: readonly Item[], share: number): Item[] => items.filter(() => random.chance(share));
  const factor = (): number => random.pick([0.1, 0.5, 1, 1, 2]);
  const share = random.pick([0.2, 0.5, 1]);
  return {
    pool: some(allBlobs, random.pick([0.25, 0.5, 1])).concat(random.pick(allBlobs)),
    moves: moves.map(([weight, run]) => [weight * factor(), run]),
    temporalMoves: [random.pick(starts), ...some(temporalMoves, share), ...some(temporalMoves, share)],
    sealed: random.chance(0.12) ? 0.2 : 0,
    firstRound: random.chance(0.25) ? random.below(length) : 0,
  };
}

type Move = readonly [weight: number, run: (world: World, theme: Theme) => unknown];

const moves: readonly Move[] = [
  [1.5, (world, { pool }) => world.put(world.random.pick(pool))],
  [1, (world, { pool }) => world.head(world.random.pick(pool))],
  [0.5, (world, { pool }) => world.stat(world.random.pick(pool))],
  [1, (world, { pool }) => world.get(world.random.pick(pool))],
  [14, temporalMove],
  [7, pass],
  [1.5, stallNearGrace],
  [1.5, resetNearRetention],
  [4, uploadAndUse],
  [3, pairOfRounds],
  [0.3, crashLeader],
  [0.3, (world) => world.lead()],
  [0.2, crashClient],
  [0.4, pins],
  [0.3, (world, { pool }) => world.undelete(world.random.pick(pool))],
  [1, (world) => world.turns.arrive()],
  [1, (world) => world.expireLeases()],
  [1, release],
];

async function makeMove(world: World, theme: Theme, move: number): Promise<void> {
  if (move >= theme.firstRound && world.random.chance(0.06)) return round(world);
  const weights = theme.moves.reduce((sum, [weight]) => sum + weight, 0);
  let at = world.random.next() * weights;
  for (const [weight, run] of theme.moves) {
    at -= weight;
    if (at < 0) {
      await run(world, theme);
      return;
    }
  }
}

async function pass(world: World): Promise<void> {
  const { random, times } = world;
  const isMarking = world.leaders.some(({ actor }) => actor.isBusy && !actor.isDead);
  const { visibilityMs, graceMs } = times;
  const ms = isMarking
    ? random.pick([
        random.below(visibilityMs),
        random.below(visibilityMs),
        visibilityMs,
        random.below(random.chance(0.1) ? graceMs : hour),
      ])
    : random.pick([25 * minute, 40 * minute, 2 * hour, random.below(graceMs), Math.round(graceMs / 2), graceMs]);
  world.note(`pass ${Math.round(ms / minute)} min`);
  await world.advance(ms);
}

/** Until just before a promise ends; and then it is relied on. */
async function stallNearGrace(world: World): Promise<void> {
  const blob = world.random.pickOrNone(world.usable());
  if (blob === undefined) return;
  const until = world.promises.get(blob) ?? 0;
  if (world.random.chance(0.7)) return;
  world.note(`stall until ${blob.name} is hardly protected`);
  await world.advance(until - 1 - world.now);
  if (!world.isPromised(blob)) return;
  world.note(`start with ${blob.name}`);
  world.random.pick(world.temporal.all).start([{ blob }]);
}

/** As most claims come to be: nobody touches the blob again. */
async function uploadAndUse(world: World, { pool, temporalMoves: named }: Theme): Promise<void> {
  const blob = world.random.pick(pool);
  await world.settle(world.put(blob));
  if (!world.isPromised(blob)) return;
  const namespace = world.random.pick(world.temporal.all);
  const [name, run] = world.random.pick(named);
  const what = run(world, namespace, () => [{ blob }]);
  if (what !== undefined) world.note(`${namespace.name}: ${name} ${what}`);
}

/** Marks that belong together, while Temporal goes on. */
async function pairOfRounds(world: World, theme: Theme): Promise<void> {
  if (world.moves < theme.firstRound) return;
  for (const _ of [1, 2]) {
    const leader = world.leader ?? (await world.lead());
    if (leader.actor.isDead || leader.actor.isBusy) return;
    world.round(leader);
    await quiet();
    for (let turn = 0; turn < 400 && leader.actor.isBusy && (await world.takeTurn()); turn += 1) {
      if (world.random.chance(0.02)) temporalMove(world, theme);
    }
    await world.advance(2 * world.times.visibilityMs + world.random.below(10 * minute));
  }
}

/** A closed run is reset at the last moment at which it can be. */
async function resetNearRetention(world: World): Promise<void> {
  const namespace = world.random.pick(world.temporal.all);
  const run = world.random.pickOrNone(namespace.closed());
  const endsAt = (run?.closedAt ?? 0) + namespace.retentionMs;
  if (run === undefined || run.isSystem || endsAt <= world.now) return;
  await world.advance(endsAt - 1 - world.now);
  world.note(`${namespace.name}: reset at the last moment ${reset(namespace, run, 9)}`);
  await world.advance(world.random.below(world.times.visibilityMs));
  if (world.random.chance(0.5)) await round(world);
}

async function round(world: World): Promise<void> {
  const leader = world.leader ?? (await world.lead());
  if (leader.actor.isDead) await world.lead();
  else if (!leader.actor.isBusy) world.round(leader);
  // most rounds are not broken into
  if (world.random.chance(0.5)) {
    const turns = world.random.below(60);
    for (let turn = 0; turn < turns; turn += 1) if (!(await world.takeTurn(leader.actor))) return;
  }
}

function crashLeader(world: World): void {
  const leader = world.leader;
  if (leader === undefined || !leader.actor.isBusy) return;
  world.note(`crash of ${leader.actor.name}`);
  world.turns.crash(leader.actor);
}

function crashClient(world: World): void {
  const client = world.random.pickOrNone([...world.clients]);
  if (client === undefined) return;
  world.note(`crash of ${client.name}`);
  world.turns.crash(client);
}

async function pins(world: World, { pool }: Theme): Promise<void> {
  const [id] = [...world.pinned.keys()];
  if (id !== undefined && world.random.chance(0.6)) await world.unpin(id);
  else await world.pin(world.random.pick(pool));
}

async function release(world: World): Promise<void> {
  for (const { kind, blobNamespace } of await world.parts.lifecycle.brakes()) {
    world.note(`release ${kind}`);
    await world.parts.lifecycle.release(kind, blobNamespace, 'a person');
  }
}

function temporalMove(world: World, theme: Theme): void {
  const { random } = world;
  const namespace = random.pick(world.temporal.all);
  const carried = (): Carried[] => {
    const blob = random.pickOrNone(world.usable());
    if (blob === undefined || random.chance(0.15)) return [];
    return [{ blob, sealed: random.chance(theme.sealed) }];
  };
  const [name, run] = random.pick(theme.temporalMoves);
  const what = run(world, namespace, carried);
  if (what !== undefined) world.note(`${namespace.name}: ${name} ${what}`);
}

type TemporalMove = (world: World, namespace: ModelNamespace, carried: () => Carried[]) => string | undefined;

type NamedMove = readonly [name: string, move: TemporalMove];

const starts: readonly NamedMove[] = [
  ['start', (_world, namespace, carried) => said(carried(), (input) => namespace.start(input))],
  [
    'start',
    (_world, namespace, carried) => said(carried(), (input) => namespace.start(input, { inherited: { memo: input } })),
  ],
  [
    'signal with start',
    (_world, namespace, carried) => said(carried(), (input) => namespace.signal(namespace.start([]), input)),
  ],
];

const temporalMoves: readonly NamedMove[] = [
  ['signal', onOpen((namespace, run, input, random) => namespace.signal(run, input, random.chance(0.5)))],
  ['update', onOpen((namespace, run, input) => namespace.update(run, input))],
  ['marker', onOpen((namespace, run, input) => namespace.marker(run, input))],
  ['activity', onOpen((namespace, run, input) => namespace.beginActivity(run, 'a', input))],
  ['heartbeat', onOpen((namespace, run, input) => namespace.heartbeat(run, 'a', input))],
  ['heartbeat', onOpen((namespace, run, input) => namespace.heartbeat(run, 'a', input))],
  ['activity retry', onOpen((namespace, run, input) => namespace.retryActivity(run, 'a', input))],
  [
    'activity end',
    onOpen((namespace, run, input, random) =>
      namespace.endActivity(run, 'a', input, random.pick(['done', 'failed', 'timed out'])),
    ),
  ],
  [
    'child',
    onOpen((namespace, run, input, random, world) => {
      namespace.marker(run, input);
      (random.chance(0.7) ? namespace : random.pick(world.temporal.all)).start(input, { parent: run });
    }),
  ],
  ['complete', onOpen((namespace, run, input) => namespace.complete(run, input))],
  ['complete', onOpen((namespace, run, input) => namespace.complete(run, input))],
  ['fail', onOpen((namespace, run, input) => namespace.fail(run, input))],
  ['terminate', onOpen((namespace, run) => namespace.terminate(run))],
  ['continue as new', onOpen((namespace, run, input) => namespace.continueAsNew(run, input))],
  ['retry', onOpen((namespace, run, input) => namespace.retry(run, input))],
  ['cron', onOpen((namespace, run, input) => namespace.cron(run, input))],
  ['cron', onOpen((namespace, run, input) => namespace.cron(run, input))],
  [
    'reset',
    ({ random }, namespace) =>
      reset(namespace, random.pickOrNone([...namespace.open(), ...namespace.closed()]), random.below(6)),
  ],
  ['reset', ({ random }, namespace) => reset(namespace, random.pickOrNone(namespace.closed()), random.below(6))],
  [
    'schedule',
    ({ random }, namespace, carried) => said(carried(), (input) => namespace.setSchedule(`s${random.below(3)}`, input)),
  ],
  ['fire', fire],
  ['fire', fire],
  ['delete schedule', deleteSchedule],
  [
    'batch signal',
    (_world, namespace, carried) =>
      said(carried(), (input) => namespace.batchSignal(namespace.open().slice(0, 3), input)),
  ],
  ['delete', deleteRun],
];

function said(input: Carried[], run: (input: Carried[]) => unknown): string {
  run(input);
  return input.map(({ blob, sealed }) => `${blob.name}${sealed ? ' (sealed)' : ''}`).join(' ');
}

function onOpen(
  run: (namespace: ModelNamespace, run: ModelRun, input: Carried[], random: World['random'], world: World) => unknown,
): TemporalMove {
  return (world, namespace, carried) => {
    const open = world.random.pickOrNone(namespace.open());
    if (open === undefined) return undefined;
    return `${open.runId} ${said(carried(), (input) => run(namespace, open, input, world.random, world))}`;
  };
}

function reset(namespace: ModelNamespace, run: ModelRun | undefined, count: number): string | undefined {
  if (run === undefined || run.isSystem) return undefined;
  return `${run.runId} to ${namespace.reset(run, count).runId}`;
}

function fire({ random }: World, namespace: ModelNamespace): string | undefined {
  const id = random.pickOrNone([...namespace.schedules.keys()]);
  if (id === undefined) return undefined;
  namespace.fire(id, random.chance(0.3));
  return id;
}

/** A schedule that is deleted is gone at once: what it has just started must be listed before its claims are safe without it. */
function deleteSchedule(world: World, namespace: ModelNamespace): string | undefined {
  const id = world.random.pickOrNone([...namespace.schedules.keys()]);
  const schedule = id === undefined ? undefined : namespace.schedules.get(id);
  if (id === undefined || schedule === undefined) return undefined;
  namespace.schedules.delete(id);
  if (areHeldElsewhere(world, [...schedule.action, ...schedule.buffered.flat()])) return id;
  namespace.schedules.set(id, schedule);
  return undefined;
}

/** Only what A3 leaves: a holder may be deleted when what it held is held elsewhere for long, or by nobody. */
function deleteRun(world: World, namespace: ModelNamespace): string | undefined {
  const run = world.random.pickOrNone([...namespace.open(), ...namespace.closed()]);
  if (run === undefined || !areHeldElsewhere(world, [...carriedBy(run)], run)) return undefined;
  namespace.deleteRun(run);
  return run.runId;
}

function areHeldElsewhere(world: World, carried: readonly Carried[], but?: ModelRun): boolean {
  return carried.every(({ blob }) => {
    const since = world.temporal.all.flatMap((namespace) => namespace.carriersOf(blob, but));
    return (
      since.length === 0 || Math.min(...since) <= world.now - world.times.retentionMs - 4 * world.times.visibilityMs
    );
  });
}

/** No faults, no clients, everything closed: after G + Q + 4 marks (and what the edges linger) nothing is left (S6, S9). */
async function rest(world: World): Promise<void> {
  const { graceMs, quarantineMs, visibilityMs, retentionMs } = world.times;
  world.note('rest');
  world.faults.clear();
  await world.settle();
  while (world.turns.onTheWire.length > 0) await world.turns.arrive();
  await world.audit();
  for (const namespace of world.temporal.all) {
    for (const run of namespace.open()) namespace.terminate(run);
    namespace.schedules.clear();
  }
  await world.advance(10 * visibilityMs);
  for (const id of [...world.pinned.keys()]) await world.unpin(id);
  await world.lead();
  await world.advance(retentionMs + 2 * visibilityMs);
  await world.advance(2 * visibilityMs);
  const rounds = [
    0,
    await lingering(world),
    graceMs + 3 * hour,
    3 * visibilityMs,
    quarantineMs,
    3 * visibilityMs,
    3 * visibilityMs,
  ];
  for (const ms of rounds) {
    await world.advance(ms);
    await release(world);
    await world.expireLeases();
    await world.wholeRound();
  }
  const left = await world.compare();
  if (left > 0) world.fail('S6', `${left} blobs are left`);
}

/** How long the edges of what is gone are kept, in ms. */
async function lingering({ parts: { lifecycle }, times }: World): Promise<number> {
  const known = await lifecycle.knownNamespaces();
  const marks = await Promise.all(known.map((namespace) => lifecycle.marksOf(namespace, marksKept)));
  return lingerOf(times, marks.flat());
}
