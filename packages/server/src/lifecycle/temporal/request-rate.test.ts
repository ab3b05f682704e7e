import type { Clock } from '@large-payload/core';
import { describe, expect, it } from 'vitest';
import { RequestRate } from './request-rate.js';

/** Sleepers get up at once, and the clock has moved as far. */
function jumpingClock(): Clock & { now: number } {
  const clock = {
    now: 0,
    monotonicMs: () => clock.now,
    epochMs: () => clock.now,
    async sleep(ms: number, signal: AbortSignal) {
      signal.throwIfAborted();
      clock.now += ms;
    },
  };
  return clock;
}

const never = new AbortController().signal;

async function take(rate: RequestRate, times: number): Promise<void> {
  for (let taken = 0; taken < times; taken += 1) await rate.take(never);
}

describe('the rate of requests', () => {
  it('lets one second of requests go at once, and the others one after the other', async () => {
    const clock = jumpingClock();
    const rate = new RequestRate(10, clock);
    await take(rate, 10);
    expect(clock.now).toBe(0);
    await take(rate, 20);
    expect(clock.now).toBeCloseTo(2000);
  });

  it('gives nothing back for a long time without requests but one second of them', async () => {
    const clock = jumpingClock();
    const rate = new RequestRate(10, clock);
    await take(rate, 30);
    clock.now += 3_600_000;
    const since = clock.now;
    await take(rate, 10);
    expect(clock.now).toBe(since);
    await take(rate, 1);
    expect(clock.now - since).toBeCloseTo(100);
  });

  it('waits out a pause, and goes on without a burst', async () => {
    const clock = jumpingClock();
    const rate = new RequestRate(10, clock);
    rate.pause(5000);
    await take(rate, 1);
    expect(clock.now).toBeCloseTo(5000);
    await take(rate, 1);
    expect(clock.now).toBeCloseTo(5100);
  });

  it('lets nobody wait who has given up', async () => {
    const rate = new RequestRate(1, jumpingClock());
    await take(rate, 1);
    await expect(rate.take(AbortSignal.abort())).rejects.toThrow();
  });

  it('makes a slow rate possible', async () => {
    const clock = jumpingClock();
    const rate = new RequestRate(1, clock);
    await take(rate, 3);
    expect(clock.now).toBeCloseTo(2000);
  });
});
