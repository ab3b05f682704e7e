/** In the SDK's own MockActivityEnvironment, and with the SDK's own encoding and storing behind it. */
import { randomBytes } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { type BlobStore, type ErrorCode, LpsError, memoryStore, statOf } from '@large-payload/core';
import type { Client } from '@temporalio/client';
import {
  type DataConverter,
  defaultPayloadConverter,
  type LoadedDataConverter,
  type Payload,
  type PayloadCodec,
  RawValue,
} from '@temporalio/common';
import {
  decode,
  ExternalStorageRunner,
  encodeToPayload,
  loadDataConverter,
} from '@temporalio/common/lib/internal-non-workflow/index.js';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger, type LogEntry, type WorkerOptions } from '@temporalio/worker';
import { describe, expect, it } from 'vitest';
import { LargePayloadPlugin, type PluginMode } from './plugin.js';

const large = 300_000;

/** A store whose puts wait for `open`, and fail as they are told to. */
class GatedStore {
  readonly #memory = memoryStore();
  #open: (() => void)[] = [];
  isOpen = true;
  failsWith: ErrorCode | undefined;
  puts = 0;
  readonly store: BlobStore = {
    ...this.#memory,
    put: async (key, body, expect, options) => {
      this.puts += 1;
      if (!this.isOpen) await new Promise<void>((resolve) => this.#open.push(resolve));
      if (this.failsWith) throw new LpsError(this.failsWith, 'told to fail');
      return this.#memory.put(key, body, expect, options);
    },
    stat: async (keys, options) => {
      if (this.failsWith) throw new LpsError(this.failsWith, 'told to fail');
      return statOf(this.#memory, keys, options);
    },
  };

  open(): void {
    this.isOpen = true;
    for (const open of this.#open.splice(0)) open();
  }
}

interface Setup {
  readonly env: MockActivityEnvironment;
  /** What the SDK got to send. */
  readonly beats: unknown[];
  readonly log: LogEntry[];
  readonly converter: LoadedDataConverter;
  readonly gated: GatedStore;
  /** Resolves when the SDK got that many. */
  got(count: number): Promise<void>;
}

interface SetupOptions {
  readonly mode?: PluginMode;
  readonly dataConverter?: DataConverter;
  /** With the worker's client, as in a worker; a MockActivityEnvironment has none unless it is given one. */
  readonly withClient?: boolean;
  readonly isLocal?: boolean;
}

function setup({ mode = 'codec', dataConverter = {}, withClient = false, isLocal = false }: SetupOptions = {}): Setup {
  const gated = new GatedStore();
  const plugin = new LargePayloadPlugin({ store: gated.store, mode, deadlineMs: 1000 });
  const options = plugin.configureWorker<WorkerOptions>({ taskQueue: 'mock', dataConverter });
  const converter = loadDataConverter(options.dataConverter);
  const [beats, log]: [unknown[], LogEntry[]] = [[], []];
  const client = {
    options: { loadedDataConverter: converter },
    withAbortSignal: (_signal: AbortSignal, run: () => unknown) => run(),
  } as unknown as Client;
  const env = new MockActivityEnvironment(
    { isLocal },
    {
      interceptors: options.interceptors?.activity ?? [],
      logger: new DefaultLogger('WARN', (entry) => log.push(entry)),
      ...(withClient ? { client } : {}),
    },
  );
  env.on('heartbeat', (details: unknown) => void beats.push(details));
  const got = async (count: number): Promise<void> => {
    while (beats.length < count) await new Promise((resolve) => env.once('heartbeat', resolve));
  };
  return { env, beats, log, converter, gated, got };
}

/** Its first byte tells which one it is. */
function details(mark: number, size = large): Uint8Array {
  return new Uint8Array(size).fill(mark);
}

function marks(beats: readonly unknown[]): unknown[] {
  return beats.map((beat) => (beat instanceof Uint8Array ? beat[0] : beat));
}

/** What the SDK's worker does with the details of a heartbeat before it sends them. */
async function encodedBySdk(converter: LoadedDataConverter, beat: unknown): Promise<Payload> {
  const context = { type: 'activity', namespace: 'test', activityId: 'test', isLocal: false } as const;
  const payload = await encodeToPayload(converter, beat, context);
  const { externalStorage } = converter;
  const target = { kind: 'workflow', namespace: 'test' } as const;
  const stored = externalStorage
    ? await new ExternalStorageRunner(externalStorage).store([payload], { target })
    : [payload];
  return stored[0] ?? {};
}

async function decodedBySdk(converter: LoadedDataConverter, payload: Payload): Promise<unknown> {
  const { externalStorage, payloadCodecs } = converter;
  const retrieved = externalStorage ? await new ExternalStorageRunner(externalStorage).retrieve([payload]) : [payload];
  const [plain] = await decode(payloadCodecs, retrieved);
  return converter.payloadConverter.fromPayload(plain ?? {});
}

/** As `toEqual`, which takes a second for so many bytes. */
function isSame(actual: unknown, expected: unknown): boolean {
  return isDeepStrictEqual(actual, expected);
}

/** Never encodes twice alike, as encryption does. */
function saltingCodec(): PayloadCodec & { encoded: number } {
  const codec = {
    encoded: 0,
    encode: async (payloads: Payload[]) => {
      codec.encoded += payloads.length;
      return payloads.map(({ metadata, data }) => ({
        metadata: { ...metadata, salted: Buffer.from('yes') },
        data: Buffer.concat([randomBytes(16), data ?? new Uint8Array()]),
      }));
    },
    decode: async (payloads: Payload[]) =>
      payloads.map(({ metadata, data }) => ({
        metadata: metadata ?? {},
        data: data?.subarray(16) ?? new Uint8Array(),
      })),
  };
  return codec;
}

describe('heartbeats', () => {
  it('with small details go out at once', async () => {
    const { env, beats } = setup();
    await env.run(async () => {
      env.context.heartbeat('first');
      expect(beats).toEqual(['first']);
      env.context.heartbeat();
      expect(beats).toEqual(['first', undefined]);
    });
  });

  it('with large details go out once these are stored, and of several the latest', async () => {
    const { env, beats, gated, got } = setup();
    await env.run(async () => {
      gated.isOpen = false;
      for (const mark of [1, 2, 3]) env.context.heartbeat(details(mark));
      expect(beats).toEqual([]);
      gated.open();
      await got(2);
      expect(marks(beats)).toEqual([1, 3]);
      expect(gated.puts).toBe(2);
    });
  });

  it('with small details do not overtake large ones', async () => {
    const { env, beats, gated, got } = setup();
    await env.run(async () => {
      gated.isOpen = false;
      env.context.heartbeat(details(1));
      env.context.heartbeat('small');
      gated.open();
      await got(2);
      expect(marks(beats)).toEqual([1, 'small']);
    });
  });

  for (const mode of ['codec', 'driver'] as const) {
    it(`whose details cannot be stored are skipped with a warning, and the next go out (${mode})`, async () => {
      const { env, beats, gated, log, got } = setup({ mode });
      await env.run(async () => {
        gated.failsWith = 'STORE_REFUSED';
        env.context.heartbeat(details(1));
        env.context.heartbeat('after it');
        await got(1);
        expect(beats).toEqual(['after it']);
        expect(log).toHaveLength(1);
        expect(log[0]).toMatchObject({
          message: 'Heartbeat skipped: its details could not be stored',
          meta: { code: 'STORE_REFUSED', detailsBytes: large, activityId: 'test' },
        });
        gated.failsWith = undefined;
        env.context.heartbeat(details(2));
        await got(2);
        expect(marks(beats)).toEqual(['after it', 2]);
      });
    });
  }

  it('go out before the activity fails, only the latest, and not any more when it succeeds', async () => {
    for (const [fails, expected] of [
      [true, [3]],
      [false, []],
    ] as const) {
      const { env, beats, gated } = setup();
      gated.isOpen = false;
      const run = env.run(async () => {
        for (const mark of [1, 2, 3]) env.context.heartbeat(details(mark));
        setImmediate(() => gated.open());
        if (fails) throw new Error('told to');
      });
      await (fails ? expect(run).rejects.toThrow('told to') : run);
      gated.open();
      await new Promise((resolve) => setImmediate(resolve));
      expect(marks(beats)).toEqual(expected);
    }
  });

  it('of local activities are left alone: the SDK does not send them', async () => {
    const { env, beats, gated } = setup({ isLocal: true });
    await env.run(async () => env.context.heartbeat(details(1)));
    expect([marks(beats), gated.puts]).toEqual([[1], 0]);
  });

  it('that cannot be converted or encoded reach the SDK as they are, which does what it does', async () => {
    const failing: PayloadCodec = {
      encode: async () => {
        throw new Error('no key');
      },
      decode: async (payloads) => payloads,
    };
    const { env, beats, log, got } = setup({ dataConverter: { payloadCodecs: [failing] } });
    const circular: { self?: unknown } = {};
    circular.self = circular;
    await env.run(async () => {
      env.context.heartbeat(details(1));
      await got(1);
      env.context.heartbeat(circular);
      await got(2);
    });
    expect([marks(beats), log]).toEqual([[1, circular], []]);
  });

  it('that cannot be converted take the place of those on their way', async () => {
    const { env, beats, gated } = setup();
    const circular: { self?: unknown } = {};
    circular.self = circular;
    await env.run(async () => {
      gated.isOpen = false;
      env.context.heartbeat(details(1));
      env.context.heartbeat(circular);
      gated.open();
      await new Promise((resolve) => setImmediate(resolve));
    });
    expect(beats).toEqual([circular]);
  });
});

describe('in a worker, the SDK encodes and stores the details', () => {
  for (const mode of ['codec', 'driver'] as const) {
    it(`without the store, even with a codec that never encodes alike (${mode})`, async () => {
      const salting = saltingCodec();
      const { env, beats, gated, converter, got } = setup({
        mode,
        withClient: true,
        dataConverter: { payloadCodecs: [salting] },
      });
      await env.run(async () => {
        env.context.heartbeat(details(5));
        await got(1);
      });
      gated.failsWith = 'STORE_REFUSED';
      const claim = await encodedBySdk(converter, beats[0]);
      expect([gated.puts, salting.encoded]).toEqual([1, 1]);
      expect(claim.data?.length).toBeLessThan(1000);
      expect(isSame(await decodedBySdk(converter, claim), details(5))).toBe(true);
      // another heartbeat of the same details is another payload
      await expect(encodedBySdk(converter, details(5))).rejects.toMatchObject({ type: 'LargePayload.STORE_REFUSED' });
    });

    it(`as they were at the heartbeat, whatever the activity wrote into them since (${mode})`, async () => {
      const { env, beats, gated, converter, got } = setup({ mode, withClient: true });
      const progress = { step: 1, page: 'x'.repeat(large) };
      const page = details(1);
      await env.run(async () => {
        env.context.heartbeat(progress);
        await got(1);
        progress.step = 2;
        env.context.heartbeat(page);
        page.fill(2);
        await got(2);
      });
      gated.failsWith = 'STORE_REFUSED';
      for (const [index, expected] of [{ ...progress, step: 1 }, details(1)].entries()) {
        expect(beats[index]).toBeInstanceOf(RawValue);
        const claim = await encodedBySdk(converter, beats[index]);
        expect(isSame(await decodedBySdk(converter, claim), expected)).toBe(true);
      }
    });
  }

  it('inline while the store is away, though it comes back before the SDK asks', async () => {
    const { env, beats, gated, converter, got } = setup({ mode: 'driver', withClient: true });
    const small = 200_000;
    await env.run(async () => {
      gated.failsWith = 'STORE_UNAVAILABLE';
      env.context.heartbeat(details(1));
      env.context.heartbeat(details(2, small));
      await got(1);
    });
    gated.failsWith = undefined;
    await encodedBySdk(converter, details(3)); // a large one that comes through: no outage any more
    expect((await encodedBySdk(converter, details(4, small))).data?.length).toBeLessThan(1000);
    gated.failsWith = 'STORE_REFUSED';
    expect((await encodedBySdk(converter, beats[0])).data?.length).toBe(small);
  });

  it('by a converter of the user’s own that knows no RawValue, from the details themselves', async () => {
    const { env, beats, converter, got } = setup({ withClient: true });
    const plainJson = {
      toPayload: (value: unknown) => ({ metadata: {}, data: Buffer.from(JSON.stringify(value)) }),
      fromPayload: defaultPayloadConverter.fromPayload.bind(defaultPayloadConverter),
    };
    Object.assign(converter, { payloadConverter: plainJson });
    const progress = { page: 'x'.repeat(large) };
    await env.run(async () => {
      env.context.heartbeat(progress);
      await got(1);
    });
    expect(beats).toEqual([progress]);
  });
});
