/**
 * Interleaving 18: a takedown against uploads and reads of the same blob, on the production code (catalogued, the catalog's
 * statements, the steps of a takedown), call by call in any order.
 *
 *   S7    when it is complete, no object of its names stands in the store, now or ever, and no read gets bytes of one
 *   18    an upload that races ends in one of two clean states: refused, or a new generation that can be read
 */
import { digestOf, isBytes, isLpsError, parseKey } from '@large-payload/core';
import type { TakedownCatalog } from '../../takedown/takedown-catalog.js';
import { type StepOptions, TakedownSteps } from '../../takedown/takedown-steps.js';
import { Actor } from './actors-fixture.js';
import { allBlobs, type SimBlob } from './blobs-fixture.js';
import type { MemoryTakedownsOptions } from './memory-takedowns-fixture.js';
import { minute, Violation, type World } from './world-fixture.js';

/** What may be taken away. */
export interface TakedownMutation {
  readonly name: string;
  readonly steps?: (steps: TakedownSteps) => Pick<TakedownSteps, 'writersEnded'>;
  /** How the catalog in memory takes rows down. */
  readonly memory?: MemoryTakedownsOptions;
  /** Nothing is blocked that should be. */
  readonly forgetsBlocks?: boolean;
  /** Of what was deleted before the last writer ended, nothing is looked for again. */
  readonly erasesOnce?: boolean;
}

interface Play {
  readonly world: World;
  readonly blob: SimBlob;
  readonly steps: TakedownSteps;
  readonly isBlocking: boolean;
  readonly mutation: TakedownMutation | undefined;
  /** Of objects. */
  names: readonly string[];
  /** When it was taken down: live, or on its way. */
  wasThere: boolean;
  isAccepted: boolean;
  isCompleted: boolean;
  readonly results: { readonly what: string; readonly beganAfter: boolean; readonly code: string }[];
}

export interface TakedownOutcome {
  readonly state: string | undefined;
  readonly results: Play['results'];
}

const id = '11111111-2222-4333-8444-555555555555';

/** Throws a Violation that names the seed. */
export async function playTakedown(
  world: World,
  takedowns: TakedownCatalog,
  mutation?: TakedownMutation,
): Promise<TakedownOutcome> {
  const { random } = world;
  const [blob] = allBlobs as readonly [SimBlob];
  const isBlocking = random.chance(0.5);
  const play: Play = {
    ...{
      world,
      blob,
      isBlocking,
      mutation,
      names: [],
      wasThere: false,
      isAccepted: false,
      isCompleted: false,
      results: [],
    },
    steps: new TakedownSteps(stepOptions(world, takedowns)),
  };
  if (random.chance(0.7)) {
    world.put(blob);
    await world.settle();
  }
  const selector = random.pick([
    { namespace: blob.namespace, key: blob.key },
    { namespace: blob.namespace, digest: blob.digest },
  ]);
  const isAsked = isBlocking && mutation?.forgetsBlocks !== true;
  const asked = { id, selector, withSameDigest: false, isBlocking: isAsked, reason: 'sim', requestedBy: 'sim' };
  await takedowns.request(asked);
  let takedown: Actor | undefined;
  for (let move = 0; move < 60; move += 1) {
    const chance = random.next();
    if (chance < 0.1) put(play);
    else if (chance < 0.2) read(play);
    else if (chance < 0.25) crash(play);
    else if (chance < 0.4 && takedown === undefined) takedown = begin(play, takedowns);
    else await world.takeTurn();
    await look(play);
  }
  takedown ??= begin(play, takedowns);
  while (takedown.isBusy) {
    await world.settle();
    await look(play);
    if (takedown.isBusy) await world.advance(11 * minute); // leases of the dead end
  }
  if (isBlocking || random.chance(0.5)) put(play);
  read(play);
  await world.settle();
  await look(play);
  return { state: await endsClean(play), results: play.results };
}

function stepOptions(world: World, catalog: TakedownCatalog): StepOptions {
  return {
    ...{ catalog, store: world.store, leases: { unaware: async () => [] } },
    heldBy: async () => [] as never,
    outOfReach: async () => [],
    signingKey: async () => '',
  };
}

/** The steps of the workflow, each call in its turn. */
function begin(play: Play, catalog: TakedownCatalog): Actor {
  const { world, steps, mutation } = play;
  const writers = mutation?.steps?.(steps) ?? steps;
  const actor = new Actor('takedown', world.turns);
  const waiting = waitersOf(world);
  const work = async (): Promise<void> => {
    const turn = actor.wrap(
      {
        accept: async () => {
          const row = await world.parts.catalog.lookup(parseKey(play.blob.key));
          play.wasThere ||= row !== undefined && !play.isAccepted;
          await steps.accept(id);
          play.isAccepted = true;
          play.names = (await catalog.names(id, '', 100)).map(({ physicalKey }) => physicalKey);
        },
        erase: () => steps.eraseBatch(id, ''),
        writers: async () => 'waitsFor' in (await writers.writersEnded(id)),
        done: async () => {
          play.isCompleted = true;
        },
      },
      'takedown',
    );
    await turn.accept();
    await turn.accept(); // what an older transaction brought in
    await turn.erase();
    while (await turn.writers()) await new Promise((resolve) => waiting.add(resolve));
    if (mutation?.erasesOnce !== true) await turn.erase();
    await turn.done();
  };
  actor.begin(work, (error) => {
    world.violation ??= new Violation('fault', String(error), world);
  });
  return actor;
}

/** Whoever waits until time has passed. */
const waiters = new WeakMap<World, Set<(value: unknown) => void>>();

function waitersOf(world: World): Set<(value: unknown) => void> {
  const known = waiters.get(world);
  if (known !== undefined) return known;
  const waiting = new Set<(value: unknown) => void>();
  const advance = world.advance.bind(world);
  world.advance = async (ms) => {
    await advance(ms);
    for (const resolve of waiting) resolve(undefined);
    waiting.clear();
  };
  waiters.set(world, waiting);
  return waiting;
}

function put(play: Play): void {
  const { world, blob, isAccepted, results } = play;
  world.client('put', async (service) => {
    const { key, bytes, digest } = blob;
    const code = await service.put(key, bytes, { digest, size: bytes.length }).then(({ outcome }) => outcome, codeOf);
    results.push({ what: 'put', beganAfter: isAccepted, code });
    if (isAccepted && isBlocked(play) && (code === 'created' || code === 'exists'))
      world.fail('18', 'a blob was uploaded that is blocked');
    if (isAccepted && !play.isBlocking && code === 'BLOB_TAKEN_DOWN')
      world.fail('18', 'an upload that began after the takedown is refused, and nothing is blocked');
  });
}

function read(play: Play): void {
  const { world, blob, results, isCompleted } = play;
  world.client('get', async (service) => {
    const found = await service.get(blob.key).catch((error: unknown) => codeOf(error));
    const code = found === undefined ? 'absent' : typeof found === 'string' ? found : 'bytes';
    results.push({ what: 'get', beganAfter: play.isAccepted, code });
    if (typeof found !== 'object') return;
    if (!isBytes(found.body) || digestOf(found.body) !== blob.digest) world.fail('S1', 'a read gives other bytes');
    if (isCompleted && isBlocked(play)) world.fail('S7', 'a read gives bytes when the takedown is complete');
  });
}

/** What was not there is not blocked. */
function isBlocked({ isBlocking, wasThere }: Play): boolean {
  return isBlocking && wasThere;
}

/** A client's replica dies. */
function crash({ world }: Play): void {
  const client = world.random.pickOrNone([...world.clients]);
  if (client === undefined) return;
  world.note(`crash of ${client.name}`);
  world.turns.crash(client);
}

async function look({ world, blob, names, isAccepted, isCompleted }: Play): Promise<void> {
  const row = await world.parts.catalog.lookup(parseKey(blob.key));
  const isReadable = row?.state === 'live' || row?.state === 'quarantined';
  if (isAccepted && isReadable && names.includes(row.physicalKey))
    world.fail('18', `${row.physicalKey} was taken down, and is ${row.state}`);
  if (!isCompleted) return;
  for (const name of names) {
    if ((await world.store.head(name)) !== undefined) world.fail('S7', `${name} stands in the store`);
  }
}

async function endsClean({ world, blob, names }: Play): Promise<string | undefined> {
  await world.advance(11 * minute);
  await world.expireLeases();
  const row = await world.parts.catalog.lookup(parseKey(blob.key));
  if (row?.state === 'live') {
    const found = await world.store.get(row.physicalKey);
    const isRight = found !== undefined && isBytes(found.body) && digestOf(found.body) === blob.digest;
    if (!isRight || names.includes(row.physicalKey)) world.fail('18', 'a new generation cannot be read');
  } else if (row !== undefined && row.state !== 'taken_down' && row.state !== 'uploading') {
    world.fail('18', `the row ends as ${row.state}`);
  }
  return row?.state;
}

function codeOf(error: unknown): string {
  if (!isLpsError(error)) throw error;
  return error.code;
}
