import { isLpsError, LpsError } from '@large-payload/core';
import { describe, expect, it } from 'vitest';
import { whileLeased } from './kept-lease.js';

/** A clock that goes on when it is told to; who sleeps is woken in the order of the times. */
class TestClock {
  nowMs = 0;
  readonly #sleepers = new Set<{ readonly atMs: number; readonly wake: () => void }>();

  monotonicMs(): number {
    return this.nowMs;
  }

  sleep(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const sleeper = { atMs: this.nowMs + ms, wake: resolve };
      this.#sleepers.add(sleeper);
      const onAbort = (): void => {
        this.#sleepers.delete(sleeper);
        reject(signal.reason);
      };
      if (signal.aborted) onAbort();
      else signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  async pass(ms: number): Promise<void> {
    const untilMs = this.nowMs + ms;
    for (;;) {
      await settled();
      const next = [...this.#sleepers].sort((one, other) => one.atMs - other.atMs)[0];
      if (next === undefined || next.atMs > untilMs) break;
      this.#sleepers.delete(next);
      this.nowMs = Math.max(this.nowMs, next.atMs);
      next.wake();
    }
    this.nowMs = untilMs;
    await settled();
  }

  get sleepers(): number {
    return this.#sleepers.size;
  }
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const away = (): Promise<boolean> => Promise.reject(new LpsError('CATALOG_UNAVAILABLE', 'away'));

function leased(renew: (clock: TestClock) => Promise<boolean>) {
  const clock = new TestClock();
  clock.nowMs = 100;
  let finish: (value: string) => void = () => undefined;
  const seen: { signal?: AbortSignal; outcome?: unknown } = {};
  const lease = { renew: () => renew(clock), askedAtMs: 0, leaseMs: 3000, renewMs: 1000, clock };
  const ended = whileLeased(lease, (signal) => {
    seen.signal = signal;
    return new Promise<string>((resolve, reject) => {
      finish = resolve;
      signal.addEventListener('abort', () => reject(new Error('aborted')), { once: true });
    });
  }).then(
    (value) => {
      seen.outcome = value;
    },
    (error: unknown) => {
      seen.outcome = isLpsError(error) ? error.code : error;
    },
  );
  return { clock, seen, ended, finish: (value: string) => finish(value) };
}

describe('an upload while its lease is renewed', () => {
  it('goes on for as long as it is, and leaves nothing behind', async () => {
    const { clock, seen, ended, finish } = leased(async () => true);
    await clock.pass(100_000);
    expect(seen.signal?.aborted).toBe(false);
    finish('stored');
    await ended;
    expect(seen.outcome).toBe('stored');
    expect(clock.sleepers).toBe(0);
  });

  it('gives up when the lease could not be renewed for its time, counted from when it was asked for', async () => {
    const { clock, seen, ended } = leased(away);
    await clock.pass(2899); // it was 100 when this began
    expect(seen.signal?.aborted).toBe(false);
    await clock.pass(1);
    expect(seen.signal?.aborted).toBe(true);
    await ended;
    expect(seen.outcome).toBe('CATALOG_UNAVAILABLE');
  });

  it('counts a renewal from when it was sent, not from its answer', async () => {
    let sent = 0;
    const { clock, seen } = leased(async (at) => {
      sent += 1;
      if (sent > 1) return away();
      await at.sleep(1500, new AbortController().signal);
      return true;
    });
    await clock.pass(3999); // sent at 1100, so it holds until 4100
    expect(seen.signal?.aborted).toBe(false);
    await clock.pass(1);
    expect(seen.signal?.aborted).toBe(true);
  });

  it('gives up at its end though the renewal hangs', async () => {
    const { clock, seen, ended } = leased(() => new Promise(() => undefined));
    await clock.pass(2900);
    await ended;
    expect(seen.outcome).toBe('CATALOG_UNAVAILABLE');
  });

  it('gives up at once when the lease is gone', async () => {
    const { clock, seen, ended } = leased(async () => false);
    await clock.pass(1000);
    await ended;
    expect(seen.outcome).toBe('TRY_AGAIN');
  });

  it('fails as the upload does while the lease holds', async () => {
    const lease = { renew: away, askedAtMs: 0, leaseMs: 3000, renewMs: 1000, clock: new TestClock() };
    const failed = whileLeased(lease, () => Promise.reject(new LpsError('STORE_FULL', 'full')));
    await expect(failed).rejects.toMatchObject({ code: 'STORE_FULL' });
  });
});
