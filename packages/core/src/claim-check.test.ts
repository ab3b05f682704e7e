import { randomBytes } from 'node:crypto';
import { getEventListeners } from 'node:events';
import { Readable } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { BlobStore, PutResult } from './blob-store.js';
import type { Payload } from './claim.js';
import { ClaimCheck, type ClaimCheckOptions } from './claim-check.js';
import { digestOf } from './digest.js';
import { type ErrorCode, LpsError } from './errors.js';
import { v1ObjectName } from './key.js';
import { passThrough } from './layers/layer.js';
import type { Clock } from './retry.js';
import { memoryStore } from './stores/memory.js';

const dayMs = 86_400_000;

/** A clock that moves when it is told to, and over pauses by itself. */
class TestClock implements Clock {
  nowMs = 1_000_000;
  readonly pausesMs: number[] = [];

  monotonicMs(): number {
    return this.nowMs;
  }

  epochMs(): number {
    return this.nowMs + 1_700_000_000_000;
  }

  async sleep(ms: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.pausesMs.push(ms);
    this.nowMs += ms;
  }
}

type Operation = 'put' | 'get' | 'stat';

/** A memory store that counts, and can be told to protect blobs like a service, to fail and to wait. */
class Probe {
  readonly clock = new TestClock();
  readonly calls: { operation: Operation; keys: readonly string[]; overwrite?: boolean }[] = [];
  readonly inner = memoryStore();
  /** As a service: what is put, read or asked for is protected for that long. */
  protectMs: number | undefined;
  /** Runs before the call; throws in its place. */
  before: (operation: Operation, key: string, signal: AbortSignal | undefined) => Promise<void> | void = () => {};
  busy = 0;
  mostBusy = 0;

  readonly store: BlobStore = {
    ...passThrough(this.inner),
    name: 'probe',
    put: (key, body, expect, options) =>
      this.#watch('put', [key], options?.signal, options?.overwrite, async (): Promise<PutResult> => {
        const result = await this.inner.put(key, body, expect, options);
        return { ...result, ...this.#protection() };
      }),
    get: (key, options) =>
      this.#watch('get', [key], options?.signal, undefined, async () => {
        const found = await this.inner.get(key, options);
        return found && { ...found, info: { ...found.info, ...this.#protection() } };
      }),
    stat: (keys, options) =>
      this.#watch('stat', keys, options?.signal, undefined, async () => {
        const infos = (await Promise.all(keys.map((key) => this.inner.head(key)))).filter((info) => info !== undefined);
        return new Map(infos.map((info) => [info.key, { ...info, ...this.#protection() }]));
      }),
  };

  check(options: Partial<ClaimCheckOptions> = {}): ClaimCheck {
    return new ClaimCheck({ store: this.store, namespace: 'orders', clock: this.clock, random: () => 0.5, ...options });
  }

  count(operation: Operation): number {
    return this.calls.filter((call) => call.operation === operation).length;
  }

  #protection(): { protectedUntil?: Date } {
    if (this.protectMs === undefined) return {};
    return { protectedUntil: new Date(this.clock.epochMs() + this.protectMs) };
  }

  async #watch<T>(
    operation: Operation,
    keys: readonly string[],
    signal: AbortSignal | undefined,
    overwrite: boolean | undefined,
    call: () => Promise<T>,
  ): Promise<T> {
    this.calls.push({ operation, keys, ...(overwrite === undefined ? {} : { overwrite }) });
    this.busy += 1;
    this.mostBusy = Math.max(this.mostBusy, this.busy);
    try {
      await this.before(operation, keys[0] ?? '', signal);
      return await call();
    } finally {
      this.busy -= 1;
    }
  }
}

function payloadOf(bytes = 70_000, fill?: number): Payload {
  const data = fill === undefined ? randomBytes(bytes) : Buffer.alloc(bytes, fill);
  return { metadata: { encoding: new TextEncoder().encode('binary/plain') }, data: new Uint8Array(data) };
}

function untilAborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    if (signal?.aborted) reject(signal.reason);
    signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

function failing(code: ErrorCode, times: number, details: Record<string, unknown> = {}): () => void {
  let left = times;
  return () => {
    if (left-- > 0) throw new LpsError(code, `told to fail with ${code}`, { details });
  };
}

describe('deposit and redeem', () => {
  it('return the payload that went in, and a claim that is always the same', async () => {
    const probe = new Probe();
    const payload = payloadOf(70_000);
    const claim = await probe.check().deposit(payload);
    expect(claim).toEqual(await probe.check().deposit(payload));
    expect(claim.key).toMatch(/^\/blobs\/orders\/common\/sha256:/);
    expect(claim.size).toBe(70_000);
    expect(await probe.check().redeem(claim)).toEqual(payload);
  });

  it('take empty payloads and ones without metadata', async () => {
    const check = new Probe().check();
    expect(await check.redeem(await check.deposit({}))).toEqual({ metadata: {}, data: new Uint8Array() });
  });

  it('put a deposit under the namespace of the call', async () => {
    const check = new Probe().check();
    expect((await check.deposit(payloadOf(), { namespace: 'other' })).key).toMatch(/^\/blobs\/other\//);
    const bare = new ClaimCheck({ store: memoryStore() });
    await expect(bare.deposit(payloadOf())).rejects.toMatchObject({ code: 'INVALID_KEY' });
  });

  it('read what the first Go service wrote', async () => {
    const probe = new Probe();
    const data = randomBytes(1000);
    const digest = digestOf(data);
    await probe.inner.put(v1ObjectName(digest), data, { digest, size: 1000 });
    const payload = await probe.check().redeem({ metadata: null, size: 1000, digest });
    expect(Buffer.from(payload.data ?? []).equals(data)).toBe(true);
  });

  it('report an absent blob at once', async () => {
    const probe = new Probe();
    const claim = await new Probe().check().deposit(payloadOf());
    await expect(probe.check().redeem(claim)).rejects.toMatchObject({ code: 'BLOB_NOT_FOUND' });
    expect(probe.calls).toHaveLength(1);
  });

  it('report a blob that was taken down at once, and take its upload for done no more', async () => {
    const probe = new Probe();
    probe.protectMs = 3_600_000;
    const check = probe.check({ cacheBytes: 0 });
    const payload = payloadOf();
    const claim = await check.deposit(payload);
    probe.before = failing('BLOB_TAKEN_DOWN', 1);
    await expect(check.redeem(claim)).rejects.toMatchObject({ code: 'BLOB_TAKEN_DOWN' });
    expect(probe.count('get')).toBe(1);
    await check.deposit(payload);
    expect(probe.count('put')).toBe(2);
  });

  it('keep nothing in memory of a blob whose upload is blocked', async () => {
    const probe = new Probe();
    const check = probe.check();
    const payload = payloadOf(1000);
    const claim = await check.deposit(payload);
    await check.redeem(claim);
    expect(probe.count('get')).toBe(0);
    probe.before = failing('BLOB_BLOCKED', 1);
    await expect(check.deposit(payload)).rejects.toMatchObject({ code: 'BLOB_BLOCKED' });
    expect(probe.count('put')).toBe(2);
    await check.redeem(claim);
    expect(probe.count('get')).toBe(1);
  });

  it('refuse a claim whose key and digest differ', async () => {
    const check = new Probe().check();
    const [a, b] = [await check.deposit(payloadOf()), await check.deposit(payloadOf())];
    await expect(check.redeem({ ...a, digest: b.digest })).rejects.toMatchObject({ code: 'INVALID_CLAIM' });
  });
});

describe('wrong bytes', () => {
  const variants: Record<string, (good: Buffer) => { size: number; body: Uint8Array | Readable }> = {
    'one bit off': (good) => ({ size: good.length, body: Buffer.concat([good.subarray(1), Buffer.from('x')]) }),
    'one bit off, as a stream': (good) => ({
      size: good.length,
      body: Readable.from([good.subarray(1), Buffer.from('x')], { objectMode: false }),
    }),
    'too short': (good) => ({ size: good.length - 1, body: good.subarray(1) }),
    'too short a stream': (good) => ({ size: good.length, body: Readable.from([good.subarray(1)]) }),
    'too long a stream': (good) => ({ size: good.length, body: Readable.from([good, Buffer.from('x')]) }),
  };
  for (const [name, wrong] of Object.entries(variants)) {
    it(`are BLOB_DAMAGED and not kept: ${name}`, async () => {
      const probe = new Probe();
      const payload = payloadOf(100_000);
      const claim = await probe.check().deposit(payload);
      const { size, body } = wrong(Buffer.from(payload.data ?? []));
      const store = { ...probe.store, get: async (key: string) => ({ info: { key, size }, body }) };
      const check = new ClaimCheck({ store });
      await expect(check.redeem(claim)).rejects.toMatchObject({ code: 'BLOB_DAMAGED' });
      store.get = probe.inner.get as typeof store.get;
      expect(await check.redeem(claim)).toEqual(payload);
    });
  }

  it('take no memory for a size that is only claimed', async () => {
    const probe = new Probe();
    const claim = await probe.check().deposit(payloadOf());
    const streaming: BlobStore = {
      ...probe.store,
      get: async (key) => ({ info: { key, size: claim.size }, body: Readable.from([Buffer.from('x')]) }),
    };
    const lie = { ...claim, size: 2 ** 50 };
    await expect(new ClaimCheck({ store: streaming }).redeem(lie)).rejects.toMatchObject({ code: 'BLOB_DAMAGED' });
  });

  it('a claim that lies about its size spoils nobody else’s download', async () => {
    const probe = new Probe();
    const payload = payloadOf();
    const claim = await probe.check().deposit(payload);
    const check = probe.check();
    const lie = check.redeem({ ...claim, size: 5 });
    const honest = check.redeem(claim);
    await expect(lie).rejects.toMatchObject({ code: 'BLOB_DAMAGED' });
    expect(await honest).toEqual(payload);
    await expect(check.redeem({ ...claim, size: 5 })).rejects.toMatchObject({ code: 'BLOB_DAMAGED' });
  });
});

describe('the memory', () => {
  it('is filled by deposits and by redemptions', async () => {
    const probe = new Probe();
    const check = probe.check();
    const claim = await check.deposit(payloadOf());
    await check.redeem(claim);
    expect(probe.count('get')).toBe(0);
    const other = probe.check();
    await other.redeem(claim);
    await other.redeem(claim);
    expect(probe.count('get')).toBe(1);
  });

  it('forgets after an hour, whether used or not, and may not be told to keep longer', async () => {
    const probe = new Probe();
    const check = probe.check();
    const claim = await check.deposit(payloadOf());
    for (let minutes = 0; minutes < 59; minutes += 1) {
      probe.clock.nowMs += 60_000;
      await check.redeem(claim);
    }
    expect(probe.count('get')).toBe(0);
    probe.clock.nowMs += 60_000;
    await check.redeem(claim);
    expect(probe.count('get')).toBe(1);
    expect(() => probe.check({ cacheEntryMs: 3_600_001 })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });

  it('is bounded by bytes, and lets go of the least recently used', async () => {
    const probe = new Probe();
    const check = probe.check({ cacheBytes: 250_000 });
    const a = await check.deposit(payloadOf(100_000));
    const b = await check.deposit(payloadOf(100_000));
    await check.redeem(a);
    const c = await check.deposit(payloadOf(100_000));
    await check.depositAll([payloadOf(300_000)]);
    for (const claim of [a, c]) await check.redeem(claim);
    expect(probe.count('get')).toBe(0);
    await check.redeem(b);
    expect(probe.count('get')).toBe(1);
  });

  it('is not reached through any buffer that went in or came out', async () => {
    const probe = new Probe();
    const check = probe.check();
    const payload = payloadOf();
    const original = structuredClone(payload);
    const claim = await check.deposit(payload);
    payload.data?.fill(0);
    payload.metadata?.encoding?.fill(0);
    const first = await check.redeem(claim);
    expect(first).toEqual(original);
    first.data?.fill(0);
    first.metadata?.encoding?.fill(0);
    expect(await check.redeem(claim)).toEqual(original);
    const [one, two] = await probe.check().redeemAll([claim, claim]);
    one?.data?.fill(0);
    expect(two).toEqual(original);
    expect(await probe.check().redeem(claim)).toEqual(original); // the store's own bytes
  });

  it('does not depend on a buffer that the store uses again', async () => {
    const payload = payloadOf();
    const claim = await new Probe().check().deposit(payload);
    const body = Uint8Array.from(payload.data ?? []);
    const store = { ...memoryStore(), get: async () => ({ info: { key: claim.key, size: claim.size }, body }) };
    const check = new ClaimCheck({ store });
    await check.redeem(claim);
    body.fill(0);
    expect(await check.redeem(claim)).toEqual(payload);
  });
});

describe('an upload', () => {
  it('is skipped without a round trip for a minute after the service said that it keeps the blob', async () => {
    const probe = new Probe();
    probe.protectMs = 7 * dayMs;
    const check = probe.check();
    const payload = payloadOf();
    await check.deposit(payload);
    probe.clock.nowMs += 59_000;
    await check.deposit(payload);
    expect(probe.calls.map(({ operation }) => operation)).toEqual(['put']);
  });

  it('is skipped after a stat, and for another minute, when the minute is over', async () => {
    const probe = new Probe();
    probe.protectMs = 7 * dayMs;
    const check = probe.check();
    const payload = payloadOf();
    await check.deposit(payload);
    probe.clock.nowMs += 60_000;
    await check.deposit(payload);
    probe.clock.nowMs += 59_000;
    await check.deposit(payload);
    expect(probe.calls.map(({ operation }) => operation)).toEqual(['put', 'stat']);
  });

  it('is not skipped when the blob is gone, and not beyond half of the protection that is left', async () => {
    const probe = new Probe();
    probe.protectMs = 10_000;
    const check = probe.check();
    const payload = payloadOf();
    const { key } = await check.deposit(payload);
    probe.clock.nowMs += 4999;
    await check.deposit(payload);
    expect(probe.count('stat')).toBe(0);
    probe.clock.nowMs += 1;
    await probe.inner.delete(key);
    await check.deposit(payload);
    expect(probe.calls.map(({ operation }) => operation)).toEqual(['put', 'stat', 'put']);
    expect(await probe.inner.head(key)).toBeDefined();
  });

  it('is skipped as well for what was redeemed, and for no time by a clock that is far ahead', async () => {
    const probe = new Probe();
    probe.protectMs = 7 * dayMs;
    const payload = payloadOf();
    const claim = await probe.check().deposit(payload);
    const check = probe.check();
    await check.redeem(claim);
    await check.deposit(payload);
    expect(probe.calls.map(({ operation }) => operation)).toEqual(['put', 'get']);
    probe.protectMs = -1;
    const late = probe.check();
    await late.deposit(payload);
    await late.deposit(payload);
    expect(probe.calls.map(({ operation }) => operation)).toEqual(['put', 'get', 'put', 'stat', 'put']);
  });

  it('of a blob never seen, or small, is not preceded by a stat', async () => {
    const probe = new Probe();
    const check = probe.check();
    await check.deposit(payloadOf(1_000_000));
    const small = payloadOf(65_536);
    for (let time = 0; time < 3; time += 1) await check.deposit(small);
    expect(probe.count('stat')).toBe(0);
    expect(probe.count('put')).toBe(4);
  });

  it('to a bare store is skipped only when a stat finds the blob', async () => {
    const probe = new Probe();
    const check = probe.check();
    const payload = payloadOf();
    for (let time = 0; time < 3; time += 1) await check.deposit(payload);
    expect(probe.calls.map(({ operation }) => operation)).toEqual(['put', 'stat', 'stat']);
  });

  it('is not skipped for a service that found the blob but does not say that it protects it', async () => {
    const probe = new Probe();
    probe.protectMs = 7 * dayMs;
    const check = probe.check({ skipWindowMs: 0 });
    const payload = payloadOf();
    await check.deposit(payload);
    probe.protectMs = undefined;
    await check.deposit(payload);
    expect(probe.calls.map(({ operation }) => operation)).toEqual(['put', 'stat', 'put']);
  });

  it('is made when the stat fails, and replaces what has the wrong size', async () => {
    const probe = new Probe();
    const check = probe.check();
    const payload = payloadOf();
    await check.deposit(payload);
    probe.before = (operation) => {
      if (operation === 'stat') throw new LpsError('STORE_UNAVAILABLE', 'no');
    };
    await check.deposit(payload);
    expect(probe.calls.map(({ operation }) => operation)).toEqual(['put', 'stat', 'put']);
    probe.before = () => {};
    probe.store.stat = async (keys) => new Map(keys.map((key) => [key, { key, size: 1 }]));
    await check.deposit(payload);
    expect(probe.calls.at(-1)).toMatchObject({ operation: 'put', overwrite: true });
  });

  it('is asked about together with others of the same moment', async () => {
    const probe = new Probe();
    const check = probe.check();
    const payloads = Array.from({ length: 30 }, () => payloadOf(70_000));
    await check.depositAll(payloads);
    await Promise.all([
      check.depositAll(payloads.slice(0, 20)),
      ...payloads.slice(10).map((payload) => check.deposit(payload)),
    ]);
    expect(probe.count('put')).toBe(30);
    expect(probe.calls.filter(({ operation }) => operation === 'stat').map(({ keys }) => keys.length)).toEqual([30]);
  });
});

describe('many at once', () => {
  it('keep their order, go in parallel but bounded, and each distinct one goes once', async () => {
    const probe = new Probe();
    probe.before = () => nextTurn();
    const check = probe.check({ concurrency: 3, cacheBytes: 0 });
    const payloads = Array.from({ length: 12 }, (_, index) => payloadOf(1000 + (index % 6), index % 6));
    const claims = await check.depositAll(payloads);
    expect(claims.map(({ size }) => size)).toEqual(payloads.map(({ data }) => data?.length));
    expect(probe.count('put')).toBe(6);
    expect(probe.mostBusy).toBe(3);
    expect(await check.redeemAll(claims)).toEqual(payloads);
    expect(probe.count('get')).toBe(6);
    expect(probe.mostBusy).toBe(3);
  });

  it('take one permit for each distinct blob, also for one that is in memory', async () => {
    const probe = new Probe();
    const check = probe.check();
    const [a, b] = [payloadOf(), payloadOf()];
    const permitted: unknown[] = [];
    const permit = <T>(item: unknown, operation: () => Promise<T>): Promise<T> => {
      permitted.push(item);
      return operation();
    };
    const claims = await check.depositAll([a, b, a], { permit });
    expect(permitted).toHaveLength(2);
    await check.redeemAll(claims, { permit });
    expect(permitted).toHaveLength(4);
  });

  it('stop when one fails, throw its error, and only when nothing is under way any more', async () => {
    const probe = new Probe();
    const bad = payloadOf();
    const { key } = await new Probe().check().deposit(bad);
    let settled = 0;
    probe.before = async (_, failing, signal) => {
      if (failing === key) throw new LpsError('BLOB_TOO_LARGE', 'no');
      await untilAborted(signal).catch(async (reason) => {
        for (let turn = 0; turn < 5; turn += 1) await nextTurn();
        settled += 1;
        throw reason;
      });
    };
    const payloads = [payloadOf(), payloadOf(), bad, payloadOf()];
    const check = probe.check({ deadlineMs: 3_600_000 }); // nothing but the failure may stop them
    await expect(check.depositAll(payloads)).rejects.toMatchObject({ code: 'BLOB_TOO_LARGE' });
    expect(settled).toBe(3);
    expect(probe.busy).toBe(0);
  });
});

describe('single flight', () => {
  it('sends a blob once for all who deposit it, and fetches it once for all who redeem it', async () => {
    const probe = new Probe();
    probe.before = () => nextTurn();
    const check = probe.check();
    const payload = payloadOf();
    const [claim] = await Promise.all([1, 2, 3].map(() => check.deposit(payload)));
    expect(probe.count('put')).toBe(1);
    const other = probe.check();
    await Promise.all([1, 2, 3].map(() => claim && other.redeem(claim)));
    expect(probe.count('get')).toBe(1);
  });

  it('goes on for the others when one of them aborts, even the first', async () => {
    const probe = new Probe();
    let go = (): void => {};
    probe.before = () => new Promise((resolve) => (go = resolve));
    const check = probe.check();
    const payload = payloadOf();
    const abort = new AbortController();
    const first = check.deposit(payload, { signal: abort.signal });
    const second = check.deposit(payload, { signal: new AbortController().signal });
    await nextTurn();
    abort.abort(new Error('enough'));
    await expect(first).rejects.toMatchObject({ code: 'ABORTED', cause: new Error('enough') });
    go();
    expect((await second).size).toBe(70_000);
    expect(probe.count('put')).toBe(1);
  });

  it('is aborted when the last one has left, and nobody joins it then', async () => {
    const probe = new Probe();
    probe.before = (_, __, signal) => (probe.calls.length === 1 ? untilAborted(signal) : undefined);
    const check = probe.check();
    const payload = payloadOf();
    const abort = new AbortController();
    const first = check.deposit(payload, { signal: abort.signal });
    await nextTurn();
    abort.abort();
    const second = check.deposit(payload);
    await expect(first).rejects.toMatchObject({ code: 'ABORTED' });
    expect((await second).size).toBe(70_000);
    expect(probe.count('put')).toBe(2);
  });

  it('gives whoever joined late its own deadline', async () => {
    const probe = new Probe();
    const { clock } = probe;
    probe.before = failing('STORE_UNAVAILABLE', 1, { retryAfterMs: 9000 });
    const check = probe.check();
    const payload = payloadOf();
    const early = check.deposit(payload);
    const late = check.deposit(payload);
    await expect(early).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect((await late).size).toBe(70_000);
    expect(clock.pausesMs).toEqual([]);
  });
});

describe('retries', () => {
  it('try again what may succeed later, with pauses of full jitter', async () => {
    const probe = new Probe();
    probe.before = failing('SERVICE_UNREACHABLE', 4);
    await probe.check().deposit(payloadOf());
    expect(probe.clock.pausesMs).toEqual([50, 100, 200, 400]);
    const all = new Probe();
    all.before = failing('SERVICE_UNREACHABLE', 4);
    await all.check({ random: () => 0 }).deposit(payloadOf());
    expect(all.clock.pausesMs).toEqual([0, 0, 0, 0]);
  });

  it('give up inside the deadline, with the code of the last error', async () => {
    const probe = new Probe();
    probe.before = failing('OVERLOADED', 1000);
    const started = probe.clock.nowMs;
    await expect(probe.check().deposit(payloadOf())).rejects.toMatchObject({
      code: 'OVERLOADED',
      message: expect.stringMatching(/\(\d+ attempts in \d+ ms\)$/),
    });
    expect(probe.clock.nowMs - started).toBeLessThan(8000);
    expect(probe.count('put')).toBeGreaterThan(5);
  });

  it('are not made for what is permanent', async () => {
    for (const code of ['BLOB_TOO_LARGE', 'STORE_REFUSED', 'STORE_FULL', 'INVALID_METADATA'] as const) {
      const probe = new Probe();
      probe.before = failing(code, 1);
      await expect(probe.check().deposit(payloadOf())).rejects.toMatchObject({ code });
      expect(probe.count('put')).toBe(1);
    }
  });

  it('wait for as long as the service asks for, or not at all when that is too long', async () => {
    const probe = new Probe();
    probe.before = failing('TRY_AGAIN', 1, { retryAfterMs: 3000 });
    await probe.check().deposit(payloadOf());
    expect(probe.clock.pausesMs).toEqual([3050]);
    probe.before = failing('TRY_AGAIN', 1, { retryAfterMs: 8000 });
    await expect(probe.check().deposit(payloadOf())).rejects.toMatchObject({ code: 'TRY_AGAIN' });
    expect(probe.clock.pausesMs).toEqual([3050]);
  });

  it('name errors of other kinds', async () => {
    const probe = new Probe();
    probe.before = () => {
      throw new TypeError('fetch failed');
    };
    await expect(probe.check({ deadlineMs: 10 }).deposit(payloadOf())).rejects.toMatchObject({
      code: 'STORE_UNAVAILABLE',
    });
  });

  it('end a call that hangs at the deadline, also in a store that does not listen', async () => {
    const probe = new Probe();
    probe.before = (_, __, signal) => untilAborted(signal);
    await expect(probe.check({ deadlineMs: 20 }).deposit(payloadOf())).rejects.toMatchObject({ code: 'TOO_SLOW' });
    probe.before = () => new Promise(() => {});
    await expect(probe.check({ deadlineMs: 20 }).deposit(payloadOf())).rejects.toMatchObject({ code: 'TOO_SLOW' });
  });
});

describe('abort', () => {
  it('is honoured before, during and between attempts, and by a body that has stopped', async () => {
    const claim = await new Probe().check().deposit(payloadOf());
    const stuck = { info: { key: claim.key, size: claim.size }, body: new Readable({ read() {} }) };
    const hangs: ((signal: AbortSignal) => Promise<unknown>)[] = [
      (signal) => new Probe().check().deposit(payloadOf(), { signal: AbortSignal.any([signal, AbortSignal.abort()]) }),
      (signal) => {
        const probe = new Probe();
        probe.before = (_, __, signal) => untilAborted(signal);
        return probe.check().redeem(claim, { signal });
      },
      (signal) => {
        const probe = new Probe();
        probe.before = failing('OVERLOADED', 1);
        probe.clock.sleep = (_, signal) => untilAborted(signal);
        return probe.check().deposit(payloadOf(), { signal });
      },
      (signal) => new ClaimCheck({ store: { ...memoryStore(), get: async () => stuck } }).redeem(claim, { signal }),
      (signal) => {
        const probe = new Probe();
        probe.before = (_, __, signal) => untilAborted(signal);
        return probe.check({ concurrency: 1 }).depositAll([payloadOf(), payloadOf()], { signal });
      },
    ];
    for (const hang of hangs) {
      const abort = new AbortController();
      const call = hang(abort.signal);
      const result = expect(call).rejects.toMatchObject({ code: 'ABORTED' });
      await nextTurn();
      abort.abort(new Error('enough'));
      await result;
    }
    expect(stuck.body.destroyed).toBe(true);
  });

  it('is honoured even where nothing would have to be sent or fetched', async () => {
    const probe = new Probe();
    probe.protectMs = 7 * dayMs;
    const check = probe.check();
    const payload = payloadOf();
    const claim = await check.deposit(payload);
    const signal = AbortSignal.abort();
    await expect(check.deposit(payload, { signal })).rejects.toMatchObject({ code: 'ABORTED' });
    await expect(check.redeem(claim, { signal })).rejects.toMatchObject({ code: 'ABORTED' });
  });

  it('leaves no listeners behind, and room for many', async () => {
    const probe = new Probe();
    const check = probe.check();
    const { signal } = new AbortController();
    const warnings: Error[] = [];
    const onWarning = (warning: Error): void => void warnings.push(warning);
    process.on('warning', onWarning);
    await Promise.all(Array.from({ length: 50 }, () => check.deposit(payloadOf(100), { signal })));
    await check.depositAll([payloadOf(100)], { signal });
    await nextTurn();
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
    expect(getEventListeners(signal, 'abort')).toEqual([]);
  });
});
