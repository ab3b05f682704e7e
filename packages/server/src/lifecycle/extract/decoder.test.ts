import type { Clock } from '@large-payload/core';
import type { Payload, PayloadCodec } from '@temporalio/common';
import { describe, expect, it } from 'vitest';
import { restMs } from './decoder.js';
import { goClaim, plain, received } from './extract-fixture.js';
import { openExtractor } from './extractor.js';
import type { Extraction } from './findings.js';

/** Who sleeps gets up when a test says so. */
class Bell implements Clock {
  ms = 0;
  readonly #sleepers = new Set<() => void>();

  monotonicMs(): number {
    return this.ms;
  }

  epochMs(): number {
    return this.ms;
  }

  sleep(ms: number, signal: AbortSignal): Promise<void> {
    const until = this.ms + ms;
    return new Promise((resolve, reject) => {
      const wake = (): void => {
        if (this.ms < until) return;
        this.#sleepers.delete(wake);
        resolve();
      };
      this.#sleepers.add(wake);
      signal.addEventListener('abort', () => {
        this.#sleepers.delete(wake);
        reject(signal.reason);
      });
    });
  }

  get sleepers(): number {
    return this.#sleepers.size;
  }

  advance(ms: number): void {
    this.ms += ms;
    for (const wake of [...this.#sleepers]) wake();
  }
}

/** Waits for an answer that a test gives, or never does. */
class Waiting implements PayloadCodec {
  isStuck = true;
  calls = 0;
  #asked: (() => void) | undefined;

  /** Resolves when it is asked the next time. */
  asked(): Promise<void> {
    return new Promise((resolve) => {
      this.#asked = resolve;
    });
  }

  async encode(payloads: Payload[]): Promise<Payload[]> {
    return payloads;
  }

  decode(payloads: Payload[]): Promise<Payload[]> {
    this.calls += 1;
    this.#asked?.();
    return this.isStuck ? new Promise(() => undefined) : Promise.resolve(payloads);
  }
}

const tooSlow =
  'a payload of the encoding "json/plain" cannot be decoded: a codec gave no answer within 30 s, and is not asked for 5 min then';
const eventType = 'temporal.api.history.v1.HistoryEvent';

describe('a codec that does not answer', () => {
  const clock = new Bell();
  const codec = new Waiting();
  const extractor = openExtractor({ codecs: { preStorage: [codec] }, clock });
  const claim = goClaim('a blob');

  function found(...payloads: Payload[]): Promise<Extraction> {
    const message = received(eventType, { workflowExecutionSignaledEventAttributes: { input: { payloads } } });
    return extractor.extract(eventType, message);
  }

  it('leaves a gap when its time is over, and not before', async () => {
    const asked = codec.asked();
    let isOver = false;
    const finding = found(plain('secret')).finally(() => {
      isOver = true;
    });
    await asked;
    clock.advance(29_999);
    await new Promise((resolve) => setImmediate(resolve));
    expect(isOver).toBe(false);
    clock.advance(1);
    expect(await finding).toEqual({ edges: [], gaps: [tooSlow] });
  });

  it('is not waited for again for each payload there is', async () => {
    codec.calls = 0;
    const many = Array.from({ length: 1000 }, (_, index) => plain(index));
    expect((await found(...many)).gaps).toEqual([tooSlow]);
    expect((await found(plain('another holder'))).gaps).toEqual([tooSlow]);
    expect(codec.calls).toBe(0);
    // what needs no codec is found as ever
    expect(await found(claim.payload)).toEqual({ edges: [claim.edge], gaps: [] });
  });

  it('is asked again later, and nothing is left of it once it answers', async () => {
    clock.advance(restMs);
    codec.isStuck = false;
    expect(await found(plain('secret'))).toEqual({ edges: [], gaps: [] });
    expect(codec.calls).toBeGreaterThan(0);
    expect(clock.sleepers).toBe(0);
  });
});
