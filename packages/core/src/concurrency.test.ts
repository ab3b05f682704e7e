import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { SingleFlight, Slots, settleAll } from './concurrency.js';

function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));
}

describe('SingleFlight', () => {
  it('lets nobody join a call that is being aborted', async () => {
    const flights = new SingleFlight<string>();
    const abort = new AbortController();
    const first = flights.join('a', abort.signal, ({ signal }) => untilAborted(signal));
    const result = expect(first.result).rejects.toMatchObject({ code: 'ABORTED' });
    abort.abort();
    const second = flights.join('a', undefined, async () => 'again');
    expect(second.leads).toBe(true);
    expect(await second.result).toBe('again');
    await result;
  });

  it('forgets a call that has ended, however it ended', async () => {
    const flights = new SingleFlight<number>();
    const failed = flights.join('a', undefined, async () => {
      throw new Error('no');
    });
    await expect(failed.result).rejects.toThrow('no');
    expect(await flights.join('a', undefined, async () => 1).result).toBe(1);
    expect(await flights.join('a', undefined, async () => 2).result).toBe(2);
  });
});

describe('Slots', () => {
  it('are given in the order of asking, and back after a failure or an abort', async () => {
    const slots = new Slots(1);
    const { signal } = new AbortController();
    const abort = new AbortController();
    const order: string[] = [];
    const run = (name: string, signal: AbortSignal): Promise<unknown> =>
      slots.run(signal, async () => {
        order.push(name);
        await nextTurn();
        if (name === 'b') throw new Error('no');
      });
    const runs = [run('a', signal), run('b', signal), run('never', abort.signal), run('c', signal)];
    abort.abort();
    const outcomes = await Promise.allSettled(runs);
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected', 'fulfilled']);
    expect(order).toEqual(['a', 'b', 'c']);
    await run('d', signal);
  });
});

describe('settleAll', () => {
  it('throws the first failure in time, not in order', async () => {
    const late = settleAll(['first', 'second'], undefined, async (item, signal) => {
      if (item === 'first') await untilAborted(signal).catch(() => nextTurn());
      throw new Error(item);
    });
    await expect(late).rejects.toThrow('second');
  });
});
