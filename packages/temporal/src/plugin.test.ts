import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { gunzipSync, gzipSync } from 'node:zlib';
import { type BlobStore, ClaimCheck, digestOf, memoryStore } from '@large-payload/core';
import type { ClientOptions, ClientPlugin, ConnectionPlugin } from '@temporalio/client';
import {
  type DataConverter,
  ExternalStorage,
  type Payload,
  type PayloadCodec,
  type StorageDriver,
  StorageDriverClaim,
} from '@temporalio/common';
import { decode, ExternalStorageRunner, encode } from '@temporalio/common/lib/internal-non-workflow/index.js';
import {
  type BundlerPlugin,
  bundleWorkflowCode,
  DefaultLogger,
  type NativeConnectionPlugin,
  type ReplayWorkerOptions,
  type WorkerOptions,
  type WorkerPlugin,
} from '@temporalio/worker';
import { describe, expect, it } from 'vitest';
import { LargePayloadPlugin, type LargePayloadPluginOptions, type PluginMode } from './plugin.js';
import { temporalS3Claims } from './temporal-claims.js';

const target = { kind: 'workflow', namespace: 'orders' } as const;

function plain(size: number): Payload {
  return { metadata: { encoding: new TextEncoder().encode('binary/plain') }, data: new Uint8Array(randomBytes(size)) };
}

interface CountedStore extends BlobStore {
  readonly keys: string[];
}

/** A store in memory that tells which keys were put. */
function countedStore(): CountedStore {
  const memory = memoryStore();
  const keys: string[] = [];
  return {
    ...memory,
    keys,
    put: async (key, ...rest) => {
      keys.push(key);
      return memory.put(key, ...rest);
    },
  };
}

function newPlugin(options: Partial<LargePayloadPluginOptions> = {}): LargePayloadPlugin {
  return new LargePayloadPlugin({ store: memoryStore(), ...options } as LargePayloadPluginOptions);
}

const configured = {
  client: (plugin: LargePayloadPlugin, options: ClientOptions) => plugin.configureClient(options),
  worker: (plugin: LargePayloadPlugin, options: ClientOptions) =>
    plugin.configureWorker<WorkerOptions>({ taskQueue: 'q', ...(options as Partial<WorkerOptions>) }),
  replayer: (plugin: LargePayloadPlugin, options: ClientOptions) =>
    plugin.configureReplayWorker<ReplayWorkerOptions>(options as ReplayWorkerOptions),
};
type Role = keyof typeof configured;
const roles = Object.keys(configured) as Role[];

function converterOf(role: Role, plugin: LargePayloadPlugin, dataConverter: DataConverter = {}): DataConverter {
  return configured[role](plugin, { namespace: 'orders', dataConverter }).dataConverter ?? {};
}

/** What leaves for the server, as the SDK makes it: codecs, then External Storage. */
async function sent({ payloadCodecs = [], externalStorage }: DataConverter, payload: Payload): Promise<Payload> {
  const encoded = await encode(payloadCodecs, [payload]);
  const stored = externalStorage
    ? await new ExternalStorageRunner(externalStorage).store(encoded, { target })
    : encoded;
  return stored[0] ?? {};
}

/** And back. */
async function received({ payloadCodecs = [], externalStorage }: DataConverter, payload: Payload): Promise<Payload> {
  const retrieved = externalStorage ? await new ExternalStorageRunner(externalStorage).retrieve([payload]) : [payload];
  const [decoded] = await decode(payloadCodecs, retrieved);
  return decoded ?? {};
}

/** `codec`, `driver:NAME` or `inline`. */
function kindOf(payload: Payload): string {
  if (payload.metadata?.['temporal.io/remote-codec']) return 'codec';
  const messageType = Buffer.from(payload.metadata?.messageType ?? []).toString();
  if (!messageType.endsWith('ExternalStorageReference')) return 'inline';
  return `driver:${(JSON.parse(Buffer.from(payload.data ?? []).toString()) as { driverName: string }).driverName}`;
}

const gzip: PayloadCodec = {
  encode: async (payloads) =>
    payloads.map(({ metadata, data }) => ({
      metadata: { ...metadata, gzip: Buffer.from('1') },
      data: gzipSync(data ?? ''),
    })),
  decode: async (payloads) =>
    payloads.map(({ metadata, data }) =>
      metadata?.gzip
        ? { metadata: { encoding: metadata.encoding ?? new Uint8Array() }, data: gunzipSync(data ?? '') }
        : { metadata: metadata ?? {}, data: data ?? new Uint8Array() },
    ),
};

class TheirDriver implements StorageDriver {
  readonly type = 'theirs';
  readonly #payloads: Payload[] = [];
  constructor(readonly name = 'theirs') {}
  async store(_context: unknown, payloads: Payload[]): Promise<StorageDriverClaim[]> {
    return payloads.map((payload) => new StorageDriverClaim({ index: `${this.#payloads.push(payload) - 1}` }));
  }
  async retrieve(_context: unknown, claims: StorageDriverClaim[]): Promise<Payload[]> {
    return claims.map(({ claimData }) => this.#payloads[Number(claimData.index)] ?? {});
  }
}

describe('the plugin', () => {
  it('fits every list of plugins that the SDK has', () => {
    const plugin = newPlugin();
    const everywhere: ClientPlugin & WorkerPlugin & BundlerPlugin & ConnectionPlugin & NativeConnectionPlugin = plugin;
    expect(everywhere.name).toBe('large-payload');
  });

  it('refuses options that cannot work, when it is made', () => {
    const store = memoryStore();
    const wrong: unknown[] = [
      {},
      { store, url: 'http://127.0.0.1:1' },
      { claimCheck: new ClaimCheck({ store }) },
      { url: 'nonsense' },
      { store, mode: 'both' },
      { store, minBytes: -1 },
      { store, deadlineMs: 0 },
      { store, inlineBelowBytes: 3_000_000 },
      { store, mode: 'driver', driverName: '' },
    ];
    for (const options of wrong) {
      expect(() => new LargePayloadPlugin(options as never), JSON.stringify(options)).toThrow(
        expect.objectContaining({ code: 'CONFIG_INVALID' }),
      );
    }
    expect(() => newPlugin({ namespace: 'a/b' })).toThrow(expect.objectContaining({ code: 'INVALID_KEY' }));
  });

  it('makes no request before the first large payload', async () => {
    const plugin = new LargePayloadPlugin({ url: 'http://127.0.0.1:1' });
    const payload = plain(10);
    expect(await sent(converterOf('client', plugin), payload)).toEqual(payload);
    await plugin.close();
  });
});

describe('the data converter of the user', () => {
  for (const role of roles) {
    for (const mode of ['codec', 'driver'] as const) {
      it(`stays, for a ${role} in mode ${mode}`, async () => {
        const theirs = { payloadConverterPath: '/p.js', failureConverterPath: '/f.js', payloadCodecs: [gzip] };
        const options = { namespace: 'orders', identity: 'me', dataConverter: theirs };
        const result = configured[role](newPlugin({ mode }), options);
        expect(result).toMatchObject({ namespace: 'orders', identity: 'me' });
        expect(result.dataConverter).toMatchObject({ payloadConverterPath: '/p.js', failureConverterPath: '/f.js' });
        const payload = { ...plain(100), data: new Uint8Array(200_000).fill(1) };
        const compressed = await sent(result.dataConverter ?? {}, payload);
        expect(kindOf(compressed)).toBe('inline'); // theirs came first and made it small
        expect(compressed.data?.length).toBeLessThan(1000);
        const back = await received(result.dataConverter ?? {}, compressed);
        expect(digestOf(back.data ?? new Uint8Array())).toBe(digestOf(payload.data));
        expect(theirs.payloadCodecs).toEqual([gzip]);
        expect(options.dataConverter).toBe(theirs);
      });
    }
  }

  for (const mode of ['codec', 'driver'] as const) {
    it(`is the same when it is configured again (${mode})`, async () => {
      const store = countedStore();
      const plugin = newPlugin({ store, mode });
      const once = plugin.configureWorker<WorkerOptions>({ taskQueue: 'q', dataConverter: { payloadCodecs: [gzip] } });
      // by the connection's plugins and the worker's, by the worker for its own client, and by a copy of them all
      expect(plugin.configureWorker(once)).toBe(once);
      const client: ClientOptions = { dataConverter: { ...once.dataConverter } };
      expect(plugin.configureClient(client)).toBe(client);
      const fromConnection = plugin.configureClient<ClientOptions>({});
      expect(plugin.configureClient(fromConnection)).toBe(fromConnection);
      const replayer = { dataConverter: once.dataConverter } as ReplayWorkerOptions;
      expect(plugin.configureReplayWorker(replayer)).toBe(replayer);
      expect(once.interceptors?.activity).toHaveLength(1);
      const payload = plain(200_000);
      const claim = await sent(once.dataConverter ?? {}, payload);
      expect(kindOf(claim)).toBe(mode === 'codec' ? 'codec' : 'driver:large-payload');
      expect(store.keys).toHaveLength(1);
    });
  }

  it('keeps the worker’s other interceptors, ours after them', () => {
    const [theirs, client] = [() => ({}), { workflow: [] }];
    const { interceptors } = newPlugin().configureWorker<WorkerOptions>({
      taskQueue: 'q',
      interceptors: { activity: [theirs], client, workflowModules: ['m'] },
    });
    expect(interceptors).toMatchObject({ client, workflowModules: ['m'] });
    expect(interceptors?.activity?.[0]).toBe(theirs);
    expect(interceptors?.activity).toHaveLength(2);
  });
});

describe('large payloads', () => {
  for (const mode of ['codec', 'driver'] as const) {
    it(`go out from clients and workers in mode ${mode}, and come back everywhere`, async () => {
      const plugin = newPlugin({ mode });
      for (const role of ['client', 'worker'] as const) {
        const payload = plain(200_000);
        const claim = await sent(converterOf(role, plugin), payload);
        expect(kindOf(claim)).toBe(mode === 'codec' ? 'codec' : 'driver:large-payload');
        for (const reader of roles) {
          const back = await received(converterOf(reader, plugin), claim);
          expect(digestOf(back.data ?? new Uint8Array())).toBe(digestOf(payload.data ?? new Uint8Array()));
        }
      }
    });

    it(`are those above \`minBytes\` (${mode})`, async () => {
      // tags and lengths: 2 + (2 + 8) + (2 + 12) for the metadata, 4 for the data
      for (const [options, fits] of [
        [{}, 128_000 - 30],
        [{ minBytes: 50_000 }, 50_000 - 30],
      ] as const) {
        const converter = converterOf('client', newPlugin({ mode, ...options }));
        expect(kindOf(await sent(converter, plain(fits)))).toBe('inline');
        expect(kindOf(await sent(converter, plain(fits + 1)))).not.toBe('inline');
      }
    });

    it(`are not stored by a replay (${mode})`, async () => {
      const store = countedStore();
      const theirs = new ExternalStorage({ drivers: [new TheirDriver()] });
      const converter = converterOf('replayer', newPlugin({ store, mode }), { externalStorage: theirs });
      expect(kindOf(await sent(converter, plain(300_000)))).toBe('inline');
      expect(store.keys).toEqual([]);
    });
  }

  for (const mode of ['codec', 'driver'] as const) {
    it(`are read and not stored when the plugin only decodes (${mode})`, async () => {
      const store = countedStore();
      const claim = await sent(converterOf('client', newPlugin({ store, mode })), plain(200_000));
      expect(store.keys).toHaveLength(1);
      const decoding = newPlugin({ store, mode, decodeOnly: true });
      const theirs = new ExternalStorage({
        drivers: [new TheirDriver()],
        driverSelector: () => decoding.driver ?? null,
        payloadSizeThreshold: 0,
      });
      for (const role of roles) {
        for (const dataConverter of [{}, { externalStorage: theirs }]) {
          const converter = converterOf(role, decoding, dataConverter);
          expect((await received(converter, claim)).data?.length).toBe(200_000);
          expect(kindOf(await sent(converter, plain(300_000)))).toBe('inline');
        }
      }
      expect(store.keys).toHaveLength(1);
    });
  }

  it('are kept under the namespace of each client and worker, or the one that was given', async () => {
    for (const mode of ['codec', 'driver'] as const) {
      const store = countedStore();
      const plugin = newPlugin({ store, mode });
      await sent(plugin.configureClient<ClientOptions>({ namespace: 'orders' }).dataConverter ?? {}, plain(200_000));
      expect(store.keys.at(-1)).toMatch(/^\/blobs\/orders\//);
    }
    const store = countedStore();
    const both = newPlugin({ store });
    await sent(both.configureClient<ClientOptions>({}).dataConverter ?? {}, plain(200_000));
    expect(store.keys.at(-1)).toMatch(/^\/blobs\/default\//);
    const given = newPlugin({ store, namespace: 'shared' });
    await sent(given.configureClient<ClientOptions>({ namespace: 'orders' }).dataConverter ?? {}, plain(200_000));
    expect(store.keys.at(-1)).toMatch(/^\/blobs\/shared\//);
    // the SDK names no target for Nexus
    const driven = newPlugin({ store, mode: 'driver' });
    const { externalStorage } = driven.configureClient<ClientOptions>({ namespace: 'billing' }).dataConverter ?? {};
    if (externalStorage) await new ExternalStorageRunner(externalStorage).store([plain(200_000)]);
    expect(store.keys.at(-1)).toMatch(/^\/blobs\/billing\//);
  });

  it('from mode `codec` are read in mode `driver`', async () => {
    const store = memoryStore();
    const payload = plain(200_000);
    const claim = await sent(converterOf('client', newPlugin({ store })), payload);
    for (const role of roles) {
      const back = await received(converterOf(role, newPlugin({ store, mode: 'driver' })), claim);
      expect(digestOf(back.data ?? new Uint8Array())).toBe(digestOf(payload.data ?? new Uint8Array()));
    }
  });
});

describe('the External Storage of the user', () => {
  const large = 300_000;

  it('stays as it is in mode `codec`', () => {
    const externalStorage = new ExternalStorage({ drivers: [new TheirDriver()] });
    expect(converterOf('client', newPlugin(), { externalStorage }).externalStorage).toBe(externalStorage);
  });

  it('keeps its drivers, its threshold and what its selector chooses, in mode `driver`', async () => {
    const plugin = newPlugin({ mode: 'driver' });
    const theirs = new TheirDriver();
    const other = new TheirDriver('other');
    let choice: StorageDriver | null | undefined;
    const externalStorage = new ExternalStorage({
      drivers: [theirs, other],
      driverSelector: () => choice ?? null,
      payloadSizeThreshold: 250_000,
    });
    for (const role of ['client', 'worker'] as const) {
      const converter = converterOf(role, plugin, { externalStorage });
      for (const [chosen, expected] of [
        [theirs, 'driver:theirs'],
        [other, 'driver:other'],
        [plugin.driver, 'driver:large-payload'],
        [null, 'inline'],
      ] as const) {
        choice = chosen;
        const payload = plain(large);
        const reference = await sent(converter, payload);
        expect(kindOf(reference)).toBe(expected);
        expect((await received(converter, reference)).data?.length).toBe(large);
      }
      choice = plugin.driver;
      expect(kindOf(await sent(converter, plain(200_000)))).toBe('inline');
    }
    expect(externalStorage.drivers).toEqual([theirs, other]);
  });

  it('gives to ours what it chose a driver for that only reads', async () => {
    const before = new TheirDriver();
    const [claim] = await before.store({}, [plain(large)]);
    const s3 = temporalS3Claims({ buckets: ['b'], read: async () => undefined });
    const storages = [
      new ExternalStorage({ drivers: [before] }), // named in `readOnlyDrivers`, too
      new ExternalStorage({ drivers: [s3] }), // which can only read
      undefined,
    ];
    for (const mode of ['codec', 'driver'] as PluginMode[]) {
      const plugin = newPlugin({ mode, minBytes: 270_000, readOnlyDrivers: [before] });
      for (const externalStorage of storages) {
        const converter = converterOf('worker', plugin, externalStorage ? { externalStorage } : {});
        const runner = new ExternalStorageRunner(converter.externalStorage ?? new ExternalStorage({ drivers: [] }));
        expect(kindOf(await sent(converter, plain(large)))).toBe(mode === 'codec' ? 'codec' : 'driver:large-payload');
        // above the SDK's threshold, below ours: not for a driver that only reads
        const expected = mode === 'codec' || externalStorage === undefined ? 'inline' : 'driver:large-payload';
        expect(kindOf(await sent(converter, plain(265_000)))).toBe(expected);
        const reference = { driverName: 'theirs', claimData: claim?.claimData ?? {} };
        const payload = {
          metadata: {
            encoding: Buffer.from('json/protobuf'),
            messageType: Buffer.from('temporal.api.sdk.v1.ExternalStorageReference'),
          },
          data: Buffer.from(JSON.stringify(reference)),
        };
        expect((await runner.retrieve([payload]))[0]?.data?.length).toBe(large);
      }
    }
  });
});

describe('a workflow bundle', () => {
  it('has nothing of the plugin and no built-in of Node', async () => {
    const options = {
      workflowsPath: fileURLToPath(new URL('../../../test/components/fixtures/workflows.ts', import.meta.url)),
      logger: new DefaultLogger('ERROR'),
    };
    const codes: string[] = [];
    for (const mode of ['codec', 'driver'] as const) {
      codes.push((await bundleWorkflowCode({ ...options, plugins: [newPlugin({ mode })] })).code);
    }
    codes.push((await bundleWorkflowCode(options)).code);
    expect(codes[0]).toBe(codes[2]);
    expect(codes[1]).toBe(codes[2]);
    const [code = ''] = codes;
    expect(code).toContain('greeting');
    expect(code).not.toMatch(/large-payload|LpsError|ClaimCheck/);
    expect(code).not.toMatch(/require\(["'](?:node:|fs|http|crypto|stream|net|buffer)/);
    expect(code).not.toMatch(/external ["']?node:|["']node:(?:fs|http|crypto|stream|net|buffer)["']/);
  });
});
