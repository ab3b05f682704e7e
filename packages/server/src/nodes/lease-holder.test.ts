/** The loop that holds leases, against a model of Postgres' side, step by step. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { holdReadLease, type Keeper, type LeaseHolder, type LeaseSource } from './lease-holder.js';
import type { NodeEvent } from './read-leases.js';

const leaseMs = 100;

/** Three clocks: Postgres' own, and the two of the holder's machine, of which the steady one stands still in its sleep. */
class Clocks {
  postgresMs = 1_000_000;
  wallMs = 5000;
  steadyMs = 0;

  pass(ms: number, isAsleep = false): void {
    this.postgresMs += ms;
    this.wallMs += ms;
    if (!isAsleep) this.steadyMs += ms;
  }
}

/** What Postgres knows: events, and one lease. */
class Granter {
  last = 0n;
  forgotten = 0n;
  leaseUntilMs = Number.NEGATIVE_INFINITY;
  cursor = 0n;
  ended = false;
  constructor(readonly clocks: Clocks) {}

  append(): void {
    this.last += 1n;
  }

  grant(cursor: bigint): { newest: bigint; leaseMs: number } {
    this.leaseUntilMs = Math.max(this.leaseUntilMs, this.clocks.postgresMs + leaseMs);
    this.cursor = cursor;
    return { newest: this.last, leaseMs };
  }

  events(after: bigint, limit: number): NodeEvent[] | undefined {
    if (after < this.forgotten) return undefined;
    const page: NodeEvent[] = [];
    for (let id = after + 1n; id <= this.last && page.length < limit; id += 1n) page.push(event(id));
    return page;
  }

  /** Whether a takedown of this event still waits for the holder. */
  waitsFor(id: bigint): boolean {
    return this.leaseUntilMs > this.clocks.postgresMs && this.cursor < id;
  }
}

const event = (id: bigint): NodeEvent => ({ id, kind: 'takedown', key: `/${id}`, physicalKey: `/${id}~` });

/** Calls on their way: each goes out and comes back when a step says so. */
class Wire {
  readonly #waiting: (() => void)[] = [];

  async call<T>(answer: () => T): Promise<T> {
    await this.#hop();
    const value = answer(); // throws for a step of its own: what arrives is lost
    await this.#hop();
    return value;
  }

  step(): void {
    this.#waiting.shift()?.();
  }

  fail = false;

  #hop(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push(() => (this.fail ? reject(new Error('cut off')) : resolve()));
    });
  }
}

/** Keeps whatever exists; `since`: events up to this one are known to it. */
class Kept implements Keeper {
  known = 0n;
  cleared = 0;
  constructor(readonly granter: Granter) {}

  forget(events: readonly NodeEvent[]): void {
    for (const { id } of events) {
      expect(id).toBe(this.known + 1n);
      this.known = id;
    }
  }

  clear(): void {
    this.cleared += 1;
    this.known = this.granter.last; // what is kept from now on is from now
  }
}

interface World {
  readonly clocks: Clocks;
  readonly granter: Granter;
  readonly wire: Wire;
  readonly kept: Kept;
  readonly holder: LeaseHolder;
  /** Ends the pause that the holder makes, if it makes one. */
  readonly elapse: () => void;
  /** How long the pauses were to be that it made. */
  readonly pausesMs: number[];
}

function world({ pageSize = 2, cursor }: { pageSize?: number; cursor?: bigint } = {}): World {
  const clocks = new Clocks();
  const granter = new Granter(clocks);
  const wire = new Wire();
  const kept = new Kept(granter);
  const pausesMs: number[] = [];
  let elapse = (): void => undefined;
  const source: LeaseSource = {
    grant: (told) => wire.call(() => granter.grant(told)),
    events: (after, limit) => wire.call(() => granter.events(after, Math.min(limit, pageSize))),
    end: async () => {
      granter.ended = true;
    },
  };
  const holder = holdReadLease({
    ...{ source, keeper: kept, leaseMs },
    ...(cursor === undefined ? {} : { cursor }),
    clock: () => ({ steadyMs: clocks.steadyMs, wallMs: clocks.wallMs }),
    pause: (ms, signal) =>
      new Promise((resolve) => {
        pausesMs.push(ms);
        elapse = resolve;
        signal.addEventListener('abort', () => resolve(), { once: true });
      }),
  });
  return { clocks, granter, wire, kept, holder, elapse: () => elapse(), pausesMs };
}

/** Lets the holder do all that it can do by itself. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 30; turn++) await Promise.resolve();
}

/** Until nothing is on its way, and the holder has nothing more to say. */
async function caughtUp({ wire, elapse, granter, holder }: World): Promise<void> {
  for (let turn = 0; turn < 100; turn++) {
    wire.step();
    elapse();
    await settled();
    if (holder.isFresh() && granter.cursor === granter.last) return;
  }
  throw new Error('it does not catch up');
}

describe('the holder of leases on reading', () => {
  it('never believes in a lease that nobody waits for any more, whatever is late, lost, asleep or forgotten', async () => {
    const kinds = ['step', 'step', 'step', 'elapse', 'event', 'wait', 'sleep', 'cut', 'mend', 'prune', 'wake'] as const;
    const step = fc.record({ kind: fc.constantFrom(...kinds), ms: fc.nat({ max: 80 }) });
    let believed = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 80 }),
        fc.option(fc.constant(0n), { nil: undefined }),
        async (steps, cursor) => {
          const here = world(cursor === undefined ? {} : { cursor });
          const { clocks, granter, wire, kept, holder } = here;
          await settled();
          for (const { kind, ms } of steps) {
            if (kind === 'step') wire.step();
            if (kind === 'elapse') here.elapse();
            if (kind === 'event') granter.append();
            if (kind === 'wait') clocks.pass(ms);
            if (kind === 'sleep') clocks.pass(ms, true);
            if (kind === 'cut' || kind === 'mend') wire.fail = kind === 'cut';
            if (kind === 'prune') granter.forgotten = granter.last;
            if (kind === 'wake') holder.wake();
            await settled();
            if (!holder.isFresh()) continue;
            believed += 1;
            if (kept.known < granter.last) expect(granter.waitsFor(kept.known + 1n)).toBe(true);
          }
          const closed = holder.close();
          await settled();
          await closed;
          expect([holder.isFresh(), granter.ended]).toEqual([false, true]);
        },
      ),
      { numRuns: 1500 },
    );
    expect(believed).toBeGreaterThan(100);
  });

  it('applies what it missed page by page, and says so at once', async () => {
    const here = world({ cursor: 0n });
    for (let count = 0; count < 5; count++) here.granter.append();
    await caughtUp(here);
    expect([here.kept.known, here.kept.cleared, here.granter.cursor]).toEqual([5n, 0, 5n]);
    expect(Math.max(...here.pausesMs)).toBeLessThan(leaseMs / 4);
    expect(here.holder.state()).toMatchObject({ isFresh: true, cursor: 5n, applied: 5, cleared: 0 });
    await here.holder.close();
  });

  it('forgets everything when its cursor is forgotten, when it knows none, and when it is ahead of all events', async () => {
    for (const { cursor, forgotten } of [
      { cursor: 1n, forgotten: 3n },
      { forgotten: 0n },
      { cursor: 9n, forgotten: 0n },
    ]) {
      const here = world(cursor === undefined ? {} : { cursor });
      for (let count = 0; count < 5; count++) here.granter.append();
      here.granter.forgotten = forgotten;
      await caughtUp(here);
      expect([here.kept.cleared, here.holder.state().cursor]).toEqual([1, 5n]);
      await here.holder.close();
    }
  });

  it('forgets everything when an event is missing between two', async () => {
    const here = world({ cursor: 0n });
    const { granter } = here;
    const all = granter.events.bind(granter);
    granter.events = (after, limit) => all(after, limit)?.filter(({ id }) => id !== 2n);
    for (let count = 0; count < 3; count++) granter.append();
    await caughtUp(here);
    expect(here.kept.cleared).toBe(1);
    await here.holder.close();
  });

  it('gets no lease while it lacks an old event, and asks again when it has applied that', async () => {
    const asked: [bigint, boolean][] = [];
    const forgotten: bigint[] = [];
    let heard = (): void => undefined;
    const granted = new Promise<void>((resolve) => {
      heard = resolve;
    });
    const holder = holdReadLease({
      source: {
        grant: async (cursor) => {
          asked.push([cursor, holder.isFresh()]);
          return { newest: 2n, leaseMs: cursor < 2n ? 0 : 60_000 };
        },
        events: async () => [event(1n), event(2n)],
        end: async () => undefined,
      },
      keeper: { forget: (events) => forgotten.push(...events.map(({ id }) => id)), clear: () => undefined },
      ...{ leaseMs: 60_000, cursor: 0n },
      async pause(ms) {
        if (ms > 1000) heard(); // it has what it wants
        await (ms > 1000 ? new Promise<void>((resolve) => setTimeout(resolve, 50)) : undefined);
      },
    });
    await granted;
    expect(asked).toEqual([
      [0n, false],
      [2n, false],
    ]);
    expect([forgotten, holder.isFresh()]).toEqual([[1n, 2n], true]);
    await holder.close();
  });

  it('tells of a source that fails, of its answers again, and of the first cursor', async () => {
    const told: unknown[] = [];
    const cursors: bigint[] = [];
    let fails = true;
    let heard = (): void => undefined;
    const answered = new Promise<void>((resolve) => {
      heard = resolve;
    });
    const holder = holdReadLease({
      source: {
        grant: async () => {
          if (fails) throw new Error('away');
          return { newest: 0n, leaseMs };
        },
        events: async () => [],
        end: async () => undefined,
      },
      keeper: { forget: () => undefined, clear: () => undefined },
      leaseMs,
      onCursor: (cursor) => cursors.push(cursor),
      onProblem(problem) {
        told.push(problem);
        fails = false;
        if (problem === undefined) heard();
      },
    });
    await answered;
    expect(told).toEqual([expect.objectContaining({ message: 'away' }), undefined]);
    expect(holder.state().problem).toBeUndefined();
    expect(cursors).toEqual([0n]); // where nothing has ever happened, too
    await holder.close();
  });
});
