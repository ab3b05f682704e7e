import type { Clock } from '@large-payload/core';
import { describe, expect, it } from 'vitest';
import { Circuit } from './circuit.js';

function manualClock(): Clock & { advance(ms: number): void } {
  let nowMs = 1000;
  return {
    monotonicMs: () => nowMs,
    epochMs: () => nowMs,
    sleep: async () => {},
    advance: (ms) => {
      nowMs += ms;
    },
  };
}

function newCircuit(): { circuit: Circuit; clock: ReturnType<typeof manualClock> } {
  const clock = manualClock();
  return { circuit: new Circuit({ failures: 3, probeEveryMs: 2000, clock }), clock };
}

function opened(): ReturnType<typeof newCircuit> {
  const made = newCircuit();
  made.circuit.failed({ outright: true });
  return made;
}

describe('a circuit', () => {
  it('opens after so many failures in a row, and not when a success comes between them', () => {
    const { circuit } = newCircuit();
    for (const call of ['failed', 'failed', 'succeeded', 'failed', 'failed'] as const) circuit[call]();
    expect(circuit.state).toBe('closed');
    circuit.failed();
    expect(circuit.state).toBe('open');
  });

  it('opens at once when there was no answer in all the time given', () => {
    expect(opened().circuit.state).toBe('open');
  });

  it('gives out one probe at a time, the first when its time has come', () => {
    const { circuit, clock } = opened();
    expect(circuit.takeProbe()).toBe(false);
    clock.advance(1999);
    expect([circuit.takeProbe(), circuit.state]).toEqual([false, 'open']);
    clock.advance(1);
    expect([circuit.takeProbe(), circuit.state]).toEqual([true, 'half-open']);
    expect(circuit.takeProbe()).toBe(false);
  });

  it('has no probe to give while it is closed', () => {
    const { circuit, clock } = newCircuit();
    clock.advance(100_000);
    expect([circuit.takeProbe(), circuit.state]).toEqual([false, 'closed']);
  });

  it('waits again after a probe that failed', () => {
    const { circuit, clock } = opened();
    clock.advance(2500);
    circuit.takeProbe();
    clock.advance(1000);
    circuit.failed();
    expect(circuit.state).toBe('open');
    clock.advance(1999);
    expect(circuit.takeProbe()).toBe(false);
    clock.advance(1);
    expect(circuit.takeProbe()).toBe(true);
  });

  it('does not wait for ever for a probe that never reports', () => {
    const { circuit, clock } = opened();
    clock.advance(2000);
    expect(circuit.takeProbe()).toBe(true);
    clock.advance(2000);
    expect(circuit.takeProbe()).toBe(true);
  });

  it('does not put its probe off when others fail meanwhile', () => {
    const { circuit, clock } = opened();
    clock.advance(1500);
    circuit.failed();
    clock.advance(500);
    expect(circuit.takeProbe()).toBe(true);
  });

  it('closes on any success, and then needs as many failures as before', () => {
    const { circuit } = opened();
    circuit.succeeded();
    expect(circuit.state).toBe('closed');
    circuit.failed();
    circuit.failed();
    expect(circuit.state).toBe('closed');
    circuit.failed();
    expect(circuit.state).toBe('open');
  });

  it('tells by a signal that it opens, and has a new one when it is closed again', () => {
    const { circuit } = newCircuit();
    const first = circuit.whileClosed;
    expect(first.aborted).toBe(false);
    circuit.failed({ outright: true });
    expect(first.aborted).toBe(true);
    expect(circuit.whileClosed.aborted).toBe(true);
    circuit.succeeded();
    expect(circuit.whileClosed.aborted).toBe(false);
  });
});
