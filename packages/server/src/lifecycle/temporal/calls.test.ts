/** Calls that fail, on a connection that does what a test says; against a real server: test/lifecycle-temporal.test.ts. */
import type { Clock } from '@large-payload/core';
import type { Connection } from '@temporalio/client';
import { describe, expect, it } from 'vitest';
import { type Call, Calls } from './calls.js';
import { grpcStatus } from './grpc-failure.js';

const deadlineMs = 30_000;

/** Nobody waits; the clock has moved instead. Notes how long the sleeps were, and what ends them. */
class JumpingClock implements Clock {
  ms = 0;
  readonly sleeps: number[] = [];
  onSleep: (() => void) | undefined;

  monotonicMs(): number {
    return this.ms;
  }

  epochMs(): number {
    return this.ms;
  }

  async sleep(ms: number, signal: AbortSignal): Promise<void> {
    this.onSleep?.();
    signal.throwIfAborted();
    this.sleeps.push(ms);
    this.ms += ms;
  }
}

/** Hands on the signal and the deadline of each request. */
class FakeConnection {
  signal: AbortSignal | undefined;
  readonly deadlines: number[] = [];

  withAbortSignal<T>(signal: AbortSignal, run: () => Promise<T>): Promise<T> {
    this.signal = signal;
    return run();
  }

  withDeadline<T>(deadline: number, run: () => Promise<T>): Promise<T> {
    this.deadlines.push(deadline - Date.now());
    return run();
  }
}

function failure(status: number, details = 'as told'): Error {
  return Object.assign(new Error(details), { code: status, details });
}

function world({ random = 1 } = {}) {
  const clock = new JumpingClock();
  const connection = new FakeConnection();
  const calls = new Calls({
    ...{ cluster: 'dev', requestsPerSecond: 50, clock, deadlineMs, random: () => random },
    connection: connection as unknown as Connection,
  });
  let asked = 0;
  const call = (ask: (attempt: number) => Promise<string>, more: Partial<Call<string>> = {}): Call<string> => ({
    ...{ method: 'ListSchedules', namespace: 'orders', ...more },
    ask: () => {
      asked += 1;
      return ask(asked);
    },
  });
  return { clock, connection, calls, call, asked: () => asked };
}

const passing = Object.entries(grpcStatus).filter(
  ([name]) => !/^(UNAUTHENTICATED|PERMISSION_DENIED|INVALID_ARGUMENT|UNIMPLEMENTED|NOT_FOUND)$/.test(name),
);

describe('calls to a cluster', () => {
  it.each(passing)('that fail with %s are made again, later and later', async (_name, status) => {
    const { clock, connection, calls, call, asked } = world();
    const answer = calls.call(
      call(async (attempt) => {
        if (attempt < 5) throw failure(status);
        return 'an answer';
      }),
    );
    expect(await answer).toBe('an answer');
    expect(asked()).toBe(5);
    expect(clock.ms).toBeGreaterThanOrEqual(250 + 500 + 1000 + 2000);
    expect(connection.deadlines).toHaveLength(5);
    for (const ms of connection.deadlines) expect(Math.abs(ms - deadlineMs)).toBeLessThan(5000);
  });

  it.each(['UNAUTHENTICATED', 'PERMISSION_DENIED', 'INVALID_ARGUMENT', 'UNIMPLEMENTED', 'NOT_FOUND'] as const)(
    'that are refused with %s are not',
    async (name) => {
      const { calls, call, asked } = world();
      const refused = call(() => Promise.reject(failure(grpcStatus[name])));
      await expect(calls.call(refused)).rejects.toMatchObject({ code: 'TEMPORAL_REFUSED' });
      expect(asked()).toBe(1);
    },
  );

  it('whose answer is too large, or no answer at all, are not either', async () => {
    for (const error of [
      failure(grpcStatus.RESOURCE_EXHAUSTED, 'Received message larger than max (99 vs 64)'),
      new TypeError('a bug'),
    ]) {
      const { calls, call, asked } = world();
      await expect(calls.call(call(() => Promise.reject(error)))).rejects.toMatchObject({
        code: 'TEMPORAL_UNAVAILABLE',
      });
      expect(asked()).toBe(1);
    }
  });

  it('are given up after ten attempts', async () => {
    const { clock, calls, call, asked } = world({ random: 0 });
    const failing = call(() => Promise.reject(failure(grpcStatus.UNAVAILABLE)));
    await expect(calls.call(failing)).rejects.toMatchObject({
      code: 'TEMPORAL_UNAVAILABLE',
      message:
        'dev: ListSchedules of orders: UNAVAILABLE: as told; does the cluster run, at the address in the clusters file?',
    });
    expect(asked()).toBe(10);
    expect(clock.sleeps).toEqual([125, 250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
  });

  it('are given up four deadlines after they failed first', async () => {
    const { clock, calls, call, asked } = world();
    const hanging = call(async () => {
      clock.ms += deadlineMs;
      throw failure(grpcStatus.DEADLINE_EXCEEDED);
    });
    await expect(calls.call(hanging)).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
    expect(asked()).toBe(5);
    expect(clock.ms).toBeLessThanOrEqual(6 * deadlineMs);
  });

  it('are made once each while the cluster is away for long, and again when it is back', async () => {
    const { clock, calls, call, asked } = world();
    const away = call(async () => {
      clock.ms += deadlineMs;
      throw failure(grpcStatus.DEADLINE_EXCEEDED);
    });
    await expect(calls.call(away)).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
    const before = asked();
    clock.ms += 3_600_000;
    await expect(calls.call(away)).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
    expect(asked()).toBe(before + 1);
    expect(await calls.call(call(async () => 'an answer'))).toBe('an answer');
    await expect(calls.call(away)).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
    expect(asked()).toBe(before + 2 + 5);
  });

  it('are not all made again at the same moment', async () => {
    const { clock, calls, call } = world({ random: 0 });
    await calls.call(
      call(async (attempt) => {
        if (attempt === 1) throw failure(grpcStatus.UNAVAILABLE);
        return '';
      }),
    );
    expect(clock.sleeps).toEqual([125]);
  });

  it('wait together when the cluster is busy', async () => {
    const { clock, calls, call } = world();
    const busy = call(async (attempt) => {
      if (attempt === 1) throw failure(grpcStatus.RESOURCE_EXHAUSTED, 'rate limit exceeded');
      return '';
    });
    await calls.call(busy);
    await calls.call(call(async () => ''));
    expect(clock.sleeps).toEqual([250, 20]);
  });

  it('end with their signal: in a pause, and while they wait for an answer', async () => {
    const { clock, connection, calls, call, asked } = world();
    const controller = new AbortController();
    const signal = calls.until(controller.signal);
    clock.onSleep = () => controller.abort();
    const failing = call(() => Promise.reject(failure(grpcStatus.UNAVAILABLE)), { signal });
    await expect(calls.call(failing)).rejects.toMatchObject({ code: 'ABORTED' });
    expect(asked()).toBe(1);
    expect(clock.sleeps).toEqual([]);
    await expect(calls.call(call(async () => '', { signal }))).rejects.toMatchObject({ code: 'ABORTED' });
    expect(asked()).toBe(1);

    const next = new AbortController();
    const hanging = call(
      () =>
        new Promise((_resolve, reject) => {
          connection.signal?.addEventListener('abort', () => reject(failure(grpcStatus.CANCELLED)));
          next.abort();
        }),
      { signal: calls.until(next.signal) },
    );
    await expect(calls.call(hanging)).rejects.toMatchObject({ code: 'ABORTED' });
    // others go on
    expect(await calls.call(call(async () => 'an answer'))).toBe('an answer');
    calls.close();
    await expect(calls.call(call(async () => ''))).rejects.toMatchObject({
      code: 'ABORTED',
      message: expect.stringContaining('the connection is closed'),
    });
  });
});
