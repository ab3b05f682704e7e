/** Random calls, on PostgreSQL and in memory: what is answered, and what the rows are then, must be the same. */
import { type BlobKey, isLpsError } from '@large-payload/core';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { logicalKey } from '../../catalog/blob-record.js';
import type { Lease } from '../../catalog/catalog.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../catalog/embedded-postgres.js';
import { newKey } from '../../catalog/postgres-catalog-fixture.js';
import type { Fence, HolderRow, KnownNamespace, Mark, Permission, Pin } from '../lifecycle-catalog.js';
import { emptying } from '../simulation/catalogs-fixture.js';
import type { LifecycleHarness } from './lifecycle-contract-fixture.js';
import { openMemoryHarness } from './memory-lifecycle-fixture.js';
import { openPostgresHarness, type PostgresHarness } from './postgres-lifecycle-fixture.js';

const numRuns = process.env.LPS_TEST_SCALE === 'long' ? 1000 : 25;
const quarantineMs = 36_000_000;
const namespaces = ['orders', 'billing'] as const;
const outcome = { isComplete: true, gaps: [], holders: 0, scanned: 0 };
/** No sum of them is the grace, or the time in quarantine: the clock of one of the two stands still. */
const passes = [1_100_000, 3_700_000, 47_100_000, 91_300_000] as const;

const moves = [
  ...(['begin', 'upload', 'commit late', 'abandon', 'renew', 'sweep leases', 'touch', 'adopt', 'damage'] as const),
  ...([
    'mark',
    'mark with a gap',
    'hold',
    'hold by digest',
    'gone',
    'forget gone',
    'forget lost',
    'accept identity',
  ] as const),
  ...(['quarantine', 'retire', 'delete', 'undelete', 'pin', 'pin a prefix', 'pin for an hour', 'unpin'] as const),
  ...(['another leader', 'old leader', 'rebuilt', 'let time pass', 'let time pass', 'round'] as const),
  ...(['take down', 'block', 'unblock', 'ask to take in'] as const),
  ...(['upload', 'mark', 'mark', 'quarantine', 'retire'] as const), // more often
] as const;
type Move = (typeof moves)[number];
interface Step {
  readonly move: Move;
  readonly key: number;
  readonly pick: number;
}

/** One of the two, and what was seen of it. Everything that is compared is in words that mean the same in both. */
class Side {
  readonly #leases: Lease[] = [];
  readonly #pins: Pin[] = [];
  #fence: Fence = { epoch: '0' };
  #before: Fence = { epoch: '0' };
  #namespace: KnownNamespace | undefined;

  constructor(
    readonly harness: LifecycleHarness,
    readonly keys: readonly BlobKey[],
    readonly name: string,
  ) {}

  async do({ move, key: at, pick }: Step): Promise<unknown> {
    const key = this.keys[at % this.keys.length];
    if (key === undefined) return undefined;
    const answer = await this.#moves[move](key, pick).catch((error: unknown) =>
      isLpsError(error) ? error.code : Promise.reject(error),
    );
    return { answer, rows: await this.#rows() };
  }

  async #rows(): Promise<unknown> {
    const { lifecycle } = this.harness;
    const rows = await Promise.all(this.keys.map((key) => this.harness.read(key)));
    const pins = (await lifecycle.pins()).filter(({ owner }) => owner === this.name);
    return {
      rows: rows.map((row) => row && [row.state, row.generation, row.leases]),
      held: await Promise.all(
        this.keys.map(async (key) => (await lifecycle.holdersOf(key, 99)).map(({ lostAt }) => lostAt !== undefined)),
      ),
      pins: pins.length,
    };
  }

  async start(): Promise<void> {
    this.#fence = await this.harness.lead();
    const identity = { clusterId: 'c-1', namespaceId: 'n-1', serverVersion: '1' };
    this.#namespace = await this.harness.lifecycle.knowNamespace({ cluster: 'main', name: this.name }, identity);
  }

  get #known(): KnownNamespace {
    if (this.#namespace === undefined) throw new Error('not started');
    return this.#namespace;
  }

  async #permission(blobNamespace: string): Promise<Permission | undefined> {
    const [second, first] = (await this.harness.lifecycle.marksOf(this.#known, 9)).filter((mark) => mark.isComplete);
    if (first === undefined || second === undefined) return undefined;
    return {
      blobNamespace,
      untouchedSince: new Date(first.startedAt.getTime() - this.harness.graceMs),
      firstMarkStartedAt: first.startedAt,
      marks: [first.id, second.id],
    };
  }

  async #mark(work: (mark: Mark) => Promise<unknown>, end: Partial<typeof outcome> = {}): Promise<unknown> {
    const { lifecycle } = this.harness;
    const mark = await lifecycle.beginMark(this.#fence, this.#known, 1000);
    const answer = await work(mark);
    await lifecycle.endMark(this.#fence, mark, { ...outcome, ...end });
    return answer;
  }

  async #holder(mark: Mark, pick: number): Promise<HolderRow | undefined> {
    const { lifecycle } = this.harness;
    const externalId = `w${pick % 4}`;
    await lifecycle.noteHolders(mark, 'run', [{ id: externalId, isClosed: pick % 2 === 0 }]);
    const unscanned = await lifecycle.unscannedHolders(mark, 0n, 9);
    const unseen = await lifecycle.unseenHolders(mark, 0n, 9);
    return [...unscanned, ...unseen].find((holder) => holder.externalId === externalId);
  }

  async #swept(work: (permission: Permission, ids: bigint[]) => Promise<readonly { key: string }[]>): Promise<unknown> {
    const rows = await Promise.all(this.keys.map((key) => this.harness.read(key)));
    const ids = rows.flatMap((row) => (row === undefined ? [] : [row.id]));
    const swept: string[] = [];
    for (const namespace of namespaces) {
      const permission = await this.#permission(namespace);
      if (permission === undefined) return 'no permission';
      swept.push(...(await work(permission, ids)).map(({ key }) => key));
    }
    return swept.sort();
  }

  async #pin(key: string, forMs?: number): Promise<unknown> {
    const { lifecycle } = this.harness;
    const expiresAt = forMs === undefined ? {} : { expiresAt: new Date((await lifecycle.now()).getTime() + forMs) };
    this.#pins.push(await lifecycle.addPin({ key, owner: this.name, reason: 'a test', ...expiresAt }));
    return 'pinned';
  }

  readonly #moves: Record<Move, (key: BlobKey, pick: number) => Promise<unknown>> = {
    begin: async (key) => {
      const beginning = await this.harness.catalog.begin(key, 10);
      if (beginning.kind === 'present') return ['present', beginning.touched];
      this.#leases.push(beginning.lease);
      return [beginning.lease.generation, beginning.lease.overwrite];
    },
    upload: async (key) => {
      const beginning = await this.harness.catalog.begin(key, 10);
      if (beginning.kind === 'present') return ['present', beginning.touched];
      return (await this.harness.catalog.commit(beginning.lease, 10))?.outcome;
    },
    'commit late': async (_key, pick) => {
      const lease = this.#leases[pick % (this.#leases.length || 1)];
      return lease && (await this.harness.catalog.commit(lease, 11))?.outcome;
    },
    abandon: async (_key, pick) => {
      const [lease] = this.#leases.splice(pick % (this.#leases.length || 1), 1);
      return lease && this.harness.catalog.abandon(lease);
    },
    renew: async (_key, pick) => {
      const lease = this.#leases[pick % (this.#leases.length || 1)];
      return lease && this.harness.catalog.renew(lease);
    },
    'sweep leases': (_key, pick) => this.harness.catalog.sweepLeases(async () => (pick % 2 === 0 ? 10 : undefined), 99),
    touch: async (key) => {
      const row = await this.harness.catalog.lookup(key);
      return row && (await this.harness.catalog.touch([row])).map(({ state, touchDue }) => [state, touchDue]);
    },
    adopt: async (key) => (await this.harness.catalog.adopt(key, logicalKey(key), 10))?.state,
    damage: async (key) => {
      const row = await this.harness.catalog.lookup(key);
      return row && this.harness.catalog.markDamaged(row);
    },
    mark: () => this.#mark(async () => 'marked'),
    'mark with a gap': () => this.#mark(async () => 'marked', { isComplete: false, gaps: ['a gap'] as never }),
    hold: (key, pick) => this.#hold(key, pick, { namespace: key.namespace }),
    'hold by digest': (key, pick) => this.#hold(key, pick, {}),
    gone: (_key, pick) =>
      this.#mark(async (mark) => {
        const holder = await this.#holder(mark, pick);
        return holder && this.harness.lifecycle.markGone(holder);
      }),
    'forget gone': () => this.harness.lifecycle.forgetGone(3_600_000, 99),
    'forget lost': () => this.harness.lifecycle.forgetLost(3_600_000, 99),
    'accept identity': () => this.harness.lifecycle.acceptIdentity(this.#known, this.#known.identity),
    quarantine: async () => {
      const { lifecycle } = this.harness;
      const swept = await this.#swept((permission, ids) => lifecycle.quarantine(this.#fence, permission, ids));
      await this.harness.pass(1000); // as for `rebuilt`
      return swept;
    },
    retire: () =>
      this.#swept((permission, ids) => this.harness.lifecycle.retire(this.#fence, permission, quarantineMs, ids)),
    delete: async () => {
      const rows = await Promise.all(this.keys.map((key) => this.harness.read(key)));
      const own = new Set(rows.map((row) => row?.id));
      const retired = (await this.harness.lifecycle.retired(0n, 1000)).filter(({ blobId }) => own.has(blobId));
      for (const object of retired) await this.harness.lifecycle.objectDeleted(object);
      return retired.map(({ generation }) => generation).sort();
    },
    undelete: async (key) => (await this.harness.lifecycle.undelete(key))?.state,
    pin: (key) => this.#pin(logicalKey(key)),
    'pin a prefix': (key) => this.#pin(`/blobs/${key.namespace}/common/`),
    'pin for an hour': (key) => this.#pin(`/blobs/${key.namespace}/`, 3_600_000),
    unpin: async (_key, pick) => {
      const [pin] = this.#pins.splice(pick % (this.#pins.length || 1), 1);
      return pin && this.harness.lifecycle.removePin(pin.id);
    },
    'take down': (key) => this.harness.takeDown(key),
    block: (key) => this.harness.block(key),
    unblock: (key) => this.harness.unblock(key),
    'ask to take in': (key) => this.harness.catalog.mayTakeIn(key, logicalKey(key)),
    'another leader': async () => {
      this.#before = this.#fence;
      this.#fence = await this.harness.lead();
    },
    'old leader': async () => {
      const permission = await this.#permission('orders');
      const old = this.#before;
      return permission && this.harness.lifecycle.quarantine(old, permission, []);
    },
    rebuilt: async (_key, pick) => {
      if (pick % 4 !== 0) return;
      await this.harness.rebuilt();
      await this.harness.pass(1000); // a mark at the same moment, where the clock stands still, would be no later
    },
    'let time pass': (_key, pick) => this.harness.pass(passes[pick % passes.length] ?? 0),
    round: async () => {
      const before = await this.harness.lifecycle.rounds();
      return (await this.harness.lifecycle.nextRound(this.#fence)) - before;
    },
  };

  #hold(key: BlobKey, pick: number, edge: { namespace?: string }): Promise<unknown> {
    return this.#mark(async (mark) => {
      const holder = await this.#holder(mark, pick);
      if (holder === undefined) return 'none';
      const edges = [{ digest: key.digest, ...edge, isMutable: pick > 2 }];
      const whole = pick % 5 === 0 ? {} : { cursor: `${pick}` };
      await this.harness.lifecycle.saveScan(mark, holder, { edges, ...whole, isDone: pick % 3 === 0 });
      return [holder.cursor, holder.isDone];
    });
  }
}

let postgres: EmbeddedPostgres;
let stored: PostgresHarness;
let empty: () => Promise<void>;
beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  stored = await openPostgresHarness(postgres.url);
  empty = await emptying(stored.fixture.sql, stored.fixture.schema);
});
afterAll(async () => {
  await stored?.close();
  await postgres?.stop();
});

const step: fc.Arbitrary<Step> = fc.record({
  move: fc.constantFrom(...moves),
  key: fc.nat({ max: 3 }),
  pick: fc.nat({ max: 11 }),
});

async function compare(steps: readonly Step[]): Promise<void> {
  const keys = [newKey('orders'), newKey('orders'), newKey('billing'), newKey('billing')];
  await empty();
  const [one, other] = [new Side(stored, keys, 'it'), new Side(openMemoryHarness(), keys, 'it')];
  await one.start();
  await other.start();
  for (const [at, each] of steps.entries()) {
    const expected = await one.do(each);
    expect(await other.do(each), `step ${at}: ${each.move}`).toEqual(expected);
  }
}

it('the same calls have the same answers', { timeout: numRuns * 20_000 }, async () => {
  const property = fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 40, size: 'max' }), compare);
  const at = (move: Move, pick = 0): Step => ({ move, key: 0, pick });
  const ages = Array.from({ length: 8 }, () => at('let time pass', 3));
  // marked in the very moment of the quarantine, as one of the two sees it
  const markedAtOnce = [at('upload'), ...ages, at('mark'), at('mark'), at('quarantine'), at('mark')];
  const examples: [Step[]][] = [[[...markedAtOnce, at('let time pass', 2), at('mark'), at('retire')]]];
  await fc.assert(property, { numRuns, endOnFailure: true, examples });
});
