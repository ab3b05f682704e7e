import { describe, expect, it } from 'vitest';
import { ByteBudget } from './byte-budget.js';

const never = new AbortController().signal;

/** What has settled by now, and how. */
async function stateOf(call: Promise<unknown>): Promise<string> {
  const done = call.then(
    () => 'granted',
    (error: { code?: string }) => `${error.code}`,
  );
  const turns = async (): Promise<string> => {
    for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
    return 'waiting';
  };
  return Promise.race([done, turns()]);
}

describe('ByteBudget', () => {
  it('lets those wait who hold nothing, in the order of their coming, and gives back what was released', async () => {
    const budget = new ByteBudget(100, 10);
    const [first, second, third] = [budget.hold(), budget.hold(), budget.hold()];
    await first.reach(60, never);
    const large = second.reach(50, never);
    const small = third.reach(10, never);
    expect([await stateOf(large), await stateOf(small)]).toEqual(['waiting', 'waiting']); // nobody overtakes
    first.shrink(50);
    expect([await stateOf(large), await stateOf(small)]).toEqual(['granted', 'waiting']);
    first.release();
    expect(await stateOf(small)).toBe('granted');
    expect([second.bytes, third.bytes, budget.heldBytes]).toEqual([50, 10, 60]);
    second.release();
    second.release();
    third.release();
    expect(budget.heldBytes).toBe(0);
  });

  it('refuses more to who holds some, when it is not free: he would wait for others who wait for him', async () => {
    const budget = new ByteBudget(100, 10);
    const [first, second] = [budget.hold(), budget.hold()];
    await first.reach(60, never);
    await second.reach(30, never);
    await first.reach(70, never);
    expect(await stateOf(first.reach(71, never))).toBe('OVERLOADED');
    expect(await stateOf(first.reach(10, never))).toBe('granted'); // it is held already
    expect(budget.heldBytes).toBe(100);
  });

  it('refuses what never fits, and whoever comes when the line is long', async () => {
    const budget = new ByteBudget(100, 1);
    expect(await stateOf(budget.hold().reach(101, never))).toBe('OVERLOADED');
    const first = budget.hold();
    await first.reach(100, never);
    const waiting = budget.hold().reach(1, never);
    expect(await stateOf(budget.hold().reach(1, never))).toBe('OVERLOADED');
    first.release();
    expect(await stateOf(waiting)).toBe('granted');
  });

  it('lets go of the place of who leaves, and of what he gets after all', async () => {
    const budget = new ByteBudget(100, 10);
    const first = budget.hold();
    await first.reach(100, never);
    const controller = new AbortController();
    const [leaving, staying, gone] = [budget.hold(), budget.hold(), budget.hold()];
    const left = leaving.reach(90, controller.signal);
    const stays = staying.reach(50, never);
    const late = gone.reach(20, never);
    controller.abort();
    expect(await stateOf(left)).toBe('ABORTED');
    gone.release(); // before he got it
    first.release();
    expect([await stateOf(stays), await stateOf(late)]).toEqual(['granted', 'granted']);
    expect(budget.heldBytes).toBe(50);
    expect(await stateOf(budget.hold().reach(1, controller.signal))).toBe('ABORTED');
  });
});
