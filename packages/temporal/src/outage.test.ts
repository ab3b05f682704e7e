import { type BlobStore, type Clock, type ErrorCode, LpsError, memoryStore } from '@large-payload/core';
import type { Payload, PayloadCodec } from '@temporalio/common';
import { describe, expect, it } from 'vitest';
import { LargePayloadPlugin, type LargePayloadPluginOptions } from './plugin.js';

const small = 200_000;
const large = 300_000;
const minuteMs = 60_000;

interface Fake {
  readonly store: BlobStore;
  readonly clock: Clock;
  /** With this every put fails; `hangs`: it never answers. */
  failsWith: ErrorCode | 'hangs' | undefined;
  ready: () => Promise<void>;
  puts: number;
  advance(ms: number): void;
}

/** A store that fails when it is told to, and time that passes when it is told to, or when somebody sleeps. */
function fakeStore(): Fake {
  const memory = memoryStore();
  let nowMs = 0;
  const fake: Fake = {
    failsWith: undefined,
    ready: async () => {},
    puts: 0,
    advance: (ms) => {
      nowMs += ms;
    },
    clock: { monotonicMs: () => nowMs, epochMs: () => nowMs, sleep: async (ms) => fake.advance(ms) },
    store: {
      ...memory,
      ready: () => fake.ready(),
      put: async (key, body, expect, options) => {
        fake.puts += 1;
        if (fake.failsWith === 'hangs') return aborted(options?.signal);
        if (fake.failsWith !== undefined) throw new LpsError(fake.failsWith, 'told to fail');
        return memory.put(key, body, expect, options);
      },
    },
  };
  return fake;
}

function aborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    signal?.addEventListener('abort', () => reject(new LpsError('ABORTED', 'the call was aborted')));
  });
}

type Tuned = Partial<Pick<LargePayloadPluginOptions, 'deadlineMs' | 'inlineBelowBytes'>>;

function codecOn(fake: Fake, options: Tuned = {}): PayloadCodec {
  const { store, clock } = fake;
  const plugin = new LargePayloadPlugin({ store, clock, deadlineMs: minuteMs, ...options });
  const [codec] =
    plugin.configureClient({ namespace: 'default' } as Parameters<typeof plugin.configureClient>[0]).dataConverter
      ?.payloadCodecs ?? [];
  if (codec === undefined) throw new Error('no codec');
  return codec;
}

let count = 0;
/** Another one each time. */
function plain(size: number): Payload {
  count += 1;
  return { metadata: { encoding: Buffer.from('binary/plain') }, data: Buffer.alloc(size, `${count}`) };
}

async function isInline(codec: PayloadCodec, payload: Payload): Promise<boolean> {
  const [encoded] = await codec.encode([payload]);
  return encoded === payload;
}

/** Long enough for a background task that needs no I/O. */
function soon(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

async function away(fake: Fake, codec: PayloadCodec): Promise<void> {
  fake.failsWith = 'SERVICE_UNREACHABLE';
  expect(await isInline(codec, plain(small))).toBe(true);
}

describe('while the store can’t be reached', () => {
  it('small payloads stay inline: the first after three attempts, the next ones at once', async () => {
    const fake = fakeStore();
    const codec = codecOn(fake);
    expect(await isInline(codec, plain(small))).toBe(false);
    fake.puts = 0;
    await away(fake, codec);
    expect(fake.puts).toBe(3);
    expect(await isInline(codec, plain(small))).toBe(true);
    expect(fake.puts).toBe(3);
  });

  it('large payloads are tried until the deadline, and fail with the store’s own error', async () => {
    const fake = fakeStore();
    const codec = codecOn(fake);
    await away(fake, codec);
    fake.puts = 0;
    await expect(codec.encode([plain(large)])).rejects.toMatchObject({
      type: 'LargePayload.SERVICE_UNREACHABLE',
      nonRetryable: false,
    });
    expect(fake.puts).toBeGreaterThan(20);
  });

  it('a large payload fails the call, and small ones with it in the same call do not', async () => {
    const fake = fakeStore();
    const codec = codecOn(fake);
    fake.failsWith = 'SERVICE_UNREACHABLE';
    await expect(codec.encode([plain(small), plain(large)])).rejects.toMatchObject({
      type: 'LargePayload.SERVICE_UNREACHABLE',
    });
    const [first, second] = [plain(small), plain(small)];
    expect(await codec.encode([first, second])).toEqual([first, second]);
  });

  it('“small” is what the option says, and nothing when it is 0', async () => {
    const fake = fakeStore();
    const codec = codecOn(fake, { inlineBelowBytes: 400_000 });
    await away(fake, codec);
    expect(await isInline(codec, plain(large))).toBe(true);
    const none = codecOn(fake, { inlineBelowBytes: 0 });
    await expect(none.encode([plain(small)])).rejects.toMatchObject({ type: 'LargePayload.SERVICE_UNREACHABLE' });
    for (const inlineBelowBytes of [-1, Number.NaN, 2 * 1024 * 1024 + 1]) {
      expect(() => codecOn(fake, { inlineBelowBytes })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    }
  });

  it('a store that never answers is away as soon as one deadline has passed', async () => {
    const fake = fakeStore();
    const codec = codecOn(fake, { deadlineMs: 50 });
    fake.failsWith = 'hangs';
    await expect(codec.encode([plain(large)])).rejects.toMatchObject({ type: 'LargePayload.TOO_SLOW' });
    expect(fake.puts).toBe(1);
    expect(await isInline(codec, plain(small))).toBe(true);
    expect(fake.puts).toBe(1);
  });

  it('what does not speak of an outage does not count as one', async () => {
    for (const code of ['STORE_REFUSED', 'BLOB_TOO_LARGE', 'TRY_AGAIN'] as const) {
      const fake = fakeStore();
      const codec = codecOn(fake);
      fake.failsWith = code;
      for (let attempt = 0; attempt < 4; attempt += 1) {
        await expect(codec.encode([plain(small)])).rejects.toMatchObject({ type: `LargePayload.${code}` });
      }
    }
  });
});

describe('when it is back', () => {
  it('the first large payload that comes through ends the outage', async () => {
    const fake = fakeStore();
    const codec = codecOn(fake);
    await away(fake, codec);
    fake.failsWith = undefined;
    expect(await isInline(codec, plain(small))).toBe(true);
    expect(await isInline(codec, plain(large))).toBe(false);
    expect(await isInline(codec, plain(small))).toBe(false);
  });

  it('a probe finds out, started two seconds later by a small payload that does not wait for it', async () => {
    const fake = fakeStore();
    const codec = codecOn(fake);
    await away(fake, codec);
    fake.failsWith = undefined;
    let answer: () => void = () => {};
    let asked = 0;
    fake.ready = () => {
      asked += 1;
      return new Promise((resolve) => {
        answer = resolve;
      });
    };
    fake.advance(1999);
    expect([await isInline(codec, plain(small)), asked]).toEqual([true, 0]);
    fake.advance(1);
    expect([await isInline(codec, plain(small)), asked]).toEqual([true, 1]);
    expect([await isInline(codec, plain(small)), asked]).toEqual([true, 1]);
    answer();
    await soon();
    expect(await isInline(codec, plain(small))).toBe(false);
  });

  it('a probe that fails leaves everything as it is, until the next', async () => {
    const fake = fakeStore();
    const codec = codecOn(fake);
    await away(fake, codec);
    let asked = 0;
    fake.ready = async () => {
      asked += 1;
      throw new LpsError('CATALOG_UNAVAILABLE', 'not yet');
    };
    fake.advance(2000);
    for (let call = 0; call < 3; call += 1) {
      expect(await isInline(codec, plain(small))).toBe(true);
      await soon();
    }
    expect(asked).toBe(1);
    fake.failsWith = undefined;
    fake.ready = async () => {
      throw new LpsError('STORE_REFUSED', 'reached, though a right is missing');
    };
    fake.advance(2000);
    await isInline(codec, plain(small));
    await soon();
    expect(await isInline(codec, plain(small))).toBe(false);
  });

  it('downloads that succeed say nothing about uploads', async () => {
    const fake = fakeStore();
    const codec = codecOn(fake);
    const [claim = {}] = await codec.encode([plain(large)]);
    await away(fake, codec);
    const reader = codecOn(fake);
    expect((await reader.decode([claim]))[0]?.data?.length).toBe(large);
    expect((await codec.decode([claim]))[0]?.data?.length).toBe(large);
    fake.puts = 0;
    expect([await isInline(codec, plain(small)), fake.puts]).toEqual([true, 0]);
  });
});
