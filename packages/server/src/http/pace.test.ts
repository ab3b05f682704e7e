import { describe, expect, it } from 'vitest';
import { PaceMonitor } from './pace.js';

function transfer() {
  const state = { bytes: 0, waits: true, ended: 0 };
  return {
    state,
    transfer: {
      progress: () => state.bytes,
      waitsForClient: () => state.waits,
      tooSlow: () => {
        state.ended += 1;
      },
    },
  };
}

const limits = { idleTimeoutMs: 10_000, minRate: 1000, graceMs: 30_000 };

describe('PaceMonitor', () => {
  it('ends a transfer that moves nothing for the idle time, once', () => {
    const monitor = new PaceMonitor(limits, 1e9);
    const { state, transfer: one } = transfer();
    monitor.watch(one);
    for (let second = 0; second < 9; second += 1) monitor.tick(1000);
    expect(state.ended).toBe(0);
    monitor.tick(1000);
    monitor.tick(1000);
    expect(state.ended).toBe(1);
  });

  it('lets time stand still while the store is waited for', () => {
    const monitor = new PaceMonitor(limits, 1e9);
    const { state, transfer: one } = transfer();
    state.waits = false;
    const stop = monitor.watch(one);
    for (let second = 0; second < 1000; second += 1) monitor.tick(1000);
    expect(state.ended).toBe(0);
    stop();
  });

  it('lets an honest slow upload take an hour', () => {
    const monitor = new PaceMonitor(limits, 1e9);
    const { state, transfer: one } = transfer();
    const stop = monitor.watch(one);
    for (let second = 0; second < 3600; second += 1) {
      state.bytes += 1000;
      monitor.tick(1000);
    }
    expect(state.ended).toBe(0);
    stop();
  });

  it('ends one that trickles, after the grace', () => {
    const monitor = new PaceMonitor(limits, 1e9);
    const { state, transfer: one } = transfer();
    monitor.watch(one);
    for (let second = 0; second < 30; second += 1) {
      state.bytes += 10;
      monitor.tick(1000);
    }
    expect(state.ended).toBe(0);
    state.bytes += 10;
    monitor.tick(1000);
    expect(state.ended).toBe(1);
  });

  it('gives a transfer that begins inside a tick its own time', () => {
    const monitor = new PaceMonitor({ ...limits, idleTimeoutMs: 1000 }, 1e9);
    const { state: second, transfer: later } = transfer();
    monitor.watch({ progress: () => 0, waitsForClient: () => true, tooSlow: () => void monitor.watch(later) });
    monitor.tick(1000);
    expect(second.ended).toBe(0);
    monitor.tick(1000);
    expect(second.ended).toBe(1);
  });
});
