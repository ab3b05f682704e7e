import { deflateSync } from 'node:zlib';
import { type BlobStore, ClaimCheck, isLpsError, LpsError, passThrough } from '@large-payload/core';
import { LargePayloadDriver, ZlibCodec } from '@large-payload/temporal';
import type { Payload, PayloadCodec, StorageDriver } from '@temporalio/common';
import proto from '@temporalio/proto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { byDriver, kinds, namespace, newWorld, plain, type World } from './codec-fixture.js';
import { type Codec, type CodecCall, type CodecOptions, createCodec, type DecodeCall } from './pipeline.js';
import { formatReference, type Ownership } from './references.js';

const KiB = 1024;
const MiB = 1024 * KiB;

function codecOf({ drivers, claimCheck }: World, options: Partial<CodecOptions> = {}): Codec {
  return createCodec({ drivers, claimCheck, v1Namespace: namespace, ...options });
}

function callOf(codec: Codec, more: Partial<DecodeCall> = {}): DecodeCall {
  return { signal: new AbortController().signal, hold: codec.answers.hold(), ...more };
}

async function failure(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'none';
  } catch (error) {
    return isLpsError(error) ? `${error.status} ${error.code}: ${error.message}` : String(error);
  }
}

describe('what was taken down', () => {
  /** Its blobs are taken down as soon as `takenDown` has their keys. */
  function worldWithout(): { world: World; takenDown: Set<string> } {
    const base = newWorld();
    const takenDown = new Set<string>();
    const store: BlobStore = {
      ...passThrough(base.store),
      get: async (key, options) => {
        if (takenDown.has(key)) throw new LpsError('BLOB_TAKEN_DOWN', 'erased on request');
        return base.store.get(key, options);
      },
    };
    const claimCheck = new ClaimCheck({ store, namespace, cacheBytes: 0, skipWindowMs: 0 });
    return { world: { ...base, store, claimCheck, drivers: [new LargePayloadDriver({ claimCheck })] }, takenDown };
  }

  const textOf = (bytes: Uint8Array | null | undefined): string => Buffer.from(bytes ?? []).toString('utf8');

  it.each(['our driver', 'a Go claim'] as const)(
    'has a placeholder, and the rest of the page stays (%s)',
    async (kind) => {
      const { world, takenDown } = worldWithout();
      // a codec that would stumble over what it has not made
      const strict: PayloadCodec = {
        encode: async (payloads) =>
          payloads.map((one) => ({ ...one, metadata: { ...one.metadata, own: Buffer.from('1') } })),
        decode: async (payloads) =>
          payloads.map((one) => {
            if (one.metadata?.own === undefined) throw new Error('not mine');
            const { own: _, ...metadata } = one.metadata;
            return { ...one, metadata };
          }),
      };
      const codec = codecOf(world, { preStorage: [strict] });
      const [first, second] = [plain(), plain()];
      const [one, other] = await strict.encode([first, second]);
      const sent = [await kinds[kind](world, one ?? {}), await kinds[kind](world, other ?? {})];
      const noted: string[] = [];
      await codec.decode(sent, callOf(codec, { note: (subjects) => noted.push(...subjects) }));
      takenDown.add(noted[0] ?? '');
      for (const call of ['decode', 'download'] as const) {
        const [placeholder, kept] = await codec[call](sent, callOf(codec));
        expect(kept).toEqual(second);
        expect(textOf(placeholder?.metadata?.encoding)).toBe('json/plain');
        expect(textOf(placeholder?.metadata?.['large-payload/placeholder'])).toBe('taken_down');
        expect(JSON.parse(textOf(placeholder?.data))).toBe(
          `This payload was erased on request (taken down) and cannot be shown any more: ${noted[0]}`,
        );
      }
    },
  );

  it('fails the page for any other reason', async () => {
    const { world } = worldWithout();
    const codec = codecOf(world);
    const sent = await kinds['our driver'](world, plain());
    const empty = codecOf({ ...newWorld() });
    expect(await failure(codec.decode([sent], callOf(codec)))).toBe('none');
    expect(await failure(empty.decode([sent], callOf(empty)))).toMatch(/^424 BLOB_NOT_FOUND/);
  });
});

describe('who may see what', () => {
  it('is asked with every namespace that is read, before anything is', async () => {
    const world = newWorld();
    const codec = codecOf(world);
    const elsewhere = { drivers: [new LargePayloadDriver({ claimCheck: world.claimCheck })] };
    const sent = [
      ...(await Promise.all(Object.values(kinds).map((make) => make(world, plain())))),
      await byDriver(elsewhere.drivers[0] as StorageDriver, plain(), 'naïve ns'),
      plain(),
    ];
    const asked: Ownership[] = [];
    const noted: string[] = [];
    await codec.decode(
      sent,
      callOf(codec, {
        authorize: (owner) => {
          expect(world.reads).toEqual([]);
          asked.push(owner);
        },
        note: (subjects) => noted.push(...subjects),
      }),
    );
    expect(asked).toEqual([{ namespaces: [namespace, 'naïve ns'], everywhere: false }]);
    expect(noted).toHaveLength(sent.length - 1);
    expect(noted[0]).toMatch(/^\/blobs\/orders\/common\//);
  });

  it('is asked again when what was fetched is a claim itself', async () => {
    const world = newWorld();
    const codec = codecOf(world);
    const hidden = await new ClaimCheck({ store: world.store, namespace: 'secret' }).deposit(plain());
    const claim = {
      metadata: { 'temporal.io/remote-codec': Buffer.from('v2') },
      data: Buffer.from(JSON.stringify({ ...hidden, metadata: null })),
    };
    const reference = await kinds['our driver'](world, claim);
    const asked: string[] = [];
    const authorize = ({ namespaces }: Ownership): void => {
      asked.push(...namespaces);
      if (namespaces.includes('secret')) throw new Error('forbidden');
    };
    expect(await failure(codec.decode([reference], callOf(codec, { authorize })))).toBe('Error: forbidden');
    expect(asked).toEqual([namespace, 'secret']);
  });

  it('is everyone’s business where a reference names nobody', async () => {
    const world = newWorld();
    const codec = codecOf(world);
    const claimOf = (key: string): Payload => {
      const hashValue = 'ab'.repeat(32);
      const name = key.replace('{hash}', hashValue);
      return formatReference('aws.s3driver', { bucket: 'theirs', key: name, hashAlgorithm: 'sha256', hashValue }, 1);
    };
    const ownerOf = async (payload: Payload): Promise<unknown> => {
      let seen: Ownership | undefined;
      const authorize = (owner: Ownership): void => {
        seen = owner;
        throw new Error('stop');
      };
      const message = await failure(codec.download([payload], callOf(codec, { authorize })));
      return seen ?? message;
    };
    const everywhere = { namespaces: [], everywhere: true };
    expect(await ownerOf(claimOf('v0/d/sha256/{hash}'))).toEqual(everywhere);
    expect(await ownerOf(claimOf('v0/ns/null/wt/a/wi/b/ri/c/d/sha256/{hash}'))).toEqual(everywhere);
    expect(await ownerOf(claimOf('v0/ns/a%20b/wt/a/wi/b/ri/c/d/sha256/{hash}'))).toEqual({
      namespaces: ['a b'],
      everywhere: false,
    });
    expect(await ownerOf(claimOf('v0/ns/%ff/wt/a/wi/b/ri/c/d/sha256/{hash}'))).toMatch(/INVALID_CLAIM/);
    const codecOfOthers = codecOf({ ...world, drivers: [{ ...storedBy(world), name: 'x', type: 'x' }] });
    const seen: Ownership[] = [];
    await codecOfOthers
      .download(
        [formatReference('x', { key: '/blobs/a' }, 1)],
        callOf(codecOfOthers, { authorize: (owner) => void seen.push(owner) }),
      )
      .catch(() => {});
    expect(seen).toEqual([everywhere]);
  });

  it('is asked without a namespace when nothing is read, for codecs hold keys', async () => {
    const world = newWorld();
    const codec = codecOf(world);
    const asked: Ownership[] = [];
    const call = (): Partial<CodecCall> => ({ authorize: (owner) => void asked.push(owner) });
    await codec.decode([plain()], callOf(codec, call()));
    await codec.decode(
      [await kinds['our driver'](world, plain())],
      callOf(codec, { ...call(), preserveStorageRefs: true }),
    );
    await codec.encode([plain()], callOf(codec, call()));
    expect(asked).toEqual(Array(3).fill({ namespaces: [], everywhere: false }));
  });
});

function storedBy(world: World): StorageDriver {
  const [driver] = world.drivers;
  if (driver === undefined) throw new Error('no driver');
  return {
    name: driver.name,
    type: driver.type,
    store: driver.store.bind(driver),
    retrieve: driver.retrieve.bind(driver),
  };
}

describe('the limit of an answer', () => {
  it('is looked at before anything is fetched, as references state their sizes', async () => {
    for (const make of Object.values(kinds)) {
      const world = newWorld();
      const reads: string[] = [];
      const spied = counting(world.store, reads);
      const codec = codecOf(
        { ...worldOver(spied), objects: world.objects, reads: world.reads },
        { maxResponseBytes: 100 * KiB },
      );
      const reference = await make(world, plain(60 * KiB));
      const failed = await failure(codec.decode([reference, plain(50 * KiB)], callOf(codec)));
      expect(failed).toMatch(
        /^413 BLOB_TOO_LARGE: the answer would have \d{6} bytes of payloads, and maxResponseBytes allows 102400: ask for fewer/,
      );
      expect([...reads, ...world.reads]).toEqual([]);
      expect(codec.answers.heldBytes).toBe(0);
    }
  });

  it('counts the same reference as often as it is asked for', async () => {
    const world = newWorld();
    const codec = codecOf(world, { maxResponseBytes: 100 * KiB });
    const reference = await kinds['Temporal’s S3 driver'](world, plain(30 * KiB));
    expect(await failure(codec.decode(Array(4).fill(reference), callOf(codec)))).toMatch(/^413 /);
    expect(world.reads).toEqual([]);
    expect(await failure(codec.decode(Array(3).fill(reference), callOf(codec)))).toBe('none');
  });

  it('is looked at again when the bytes are there: what a reference states is not trusted', async () => {
    const world = newWorld();
    const codec = codecOf(world, { maxResponseBytes: 100 * KiB });
    const lies = await Promise.all(
      Array.from({ length: 40 }, async (_, index): Promise<Payload> => {
        const { metadata, data } = await kinds['Temporal’s S3 driver'](world, plain(30 * KiB + index));
        return { metadata: metadata ?? {}, data: data ?? new Uint8Array() };
      }),
    );
    expect(await failure(codec.decode(lies.slice(0, 3), callOf(codec)))).toBe('none');
    world.reads.length = 0;
    expect(await failure(codec.decode(lies, callOf(codec)))).toMatch(/^413 BLOB_TOO_LARGE: the answer would have/);
    expect(world.reads.length).toBeLessThan(10); // the others are not fetched any more
  });

  it('is looked at after every codec, and a bomb is not unpacked beyond it', async () => {
    const world = newWorld();
    const zlib = new ZlibCodec({ maxBytes: MiB });
    const codec = codecOf(world, { preStorage: [zlib], maxResponseBytes: MiB });
    expect(await failure(codec.decode([bomb(64 * MiB)], callOf(codec)))).toMatch(
      /^413 BLOB_TOO_LARGE: a compressed payload has more than/,
    );
    const small = bomb(300 * KiB);
    expect(await failure(codec.decode(Array(3).fill(small), callOf(codec)))).toBe('none');
    const nested = await new ZlibCodec().encode([small]);
    expect(
      await failure(
        codecOf(world, { preStorage: [zlib, zlib], postStorage: [zlib], maxResponseBytes: 200 * KiB }).decode(
          nested,
          callOf(codec),
        ),
      ),
    ).toMatch(/^413 /);
    const many = Array<Payload>(1000).fill(small);
    const call = callOf(codec);
    expect(await failure(codec.decode(many, call))).toMatch(/^413 BLOB_TOO_LARGE: the answer would have/);
    expect(call.hold.bytes).toBeLessThanOrEqual(MiB);
    // a stored one
    const stored = await kinds['our driver'](world, bomb(64 * MiB));
    expect(await failure(codec.decode([stored], callOf(codec)))).toMatch(/^413 /);
  });

  it('is one of the memory, too', async () => {
    const world = newWorld();
    const codec = codecOf(world, { maxResponseBytes: MiB, maxMemoryBytes: 100 * KiB });
    const reference = await kinds['our driver'](world, plain(120 * KiB));
    expect(await failure(codec.decode([reference], callOf(codec)))).toMatch(/^413 .*maxMemoryBytes allows 102400/);
  });
});

/** A payload of many zeroes, packed. */
function bomb(bytes: number): Payload {
  const { Payload: PayloadProto } = proto.temporal.api.common.v1;
  const data = deflateSync(PayloadProto.encode({ data: new Uint8Array(bytes) }).finish());
  return { metadata: { encoding: Buffer.from('binary/zlib') }, data: new Uint8Array(data) };
}

function worldOver(store: BlobStore): World {
  const claimCheck = new ClaimCheck({ store, namespace, cacheBytes: 0, concurrency: 100 });
  return {
    ...newWorld(),
    store,
    claimCheck,
    drivers: [new LargePayloadDriver({ claimCheck }), ...newWorld().drivers.slice(1)],
  };
}

function counting(store: BlobStore, reads: string[]): BlobStore {
  return {
    ...passThrough(store),
    get: (key, options) => {
      reads.push(key);
      return store.get(key, options);
    },
  };
}

describe('memory and turns', () => {
  it('are shared by all requests: who finds none waits, and gets his turn when an answer is sent', async () => {
    const world = newWorld();
    const codec = codecOf(world, { maxMemoryBytes: 100 * KiB, maxResponseBytes: 100 * KiB });
    const reference = await kinds['our driver'](world, plain(60 * KiB));
    const [first, second] = [callOf(codec), callOf(codec)];
    await codec.decode([reference], first);
    let done = false;
    const waiting = codec.decode([reference], second).then(() => {
      done = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect([done, codec.answers.heldBytes]).toEqual([false, first.hold.bytes]);
    first.hold.release();
    await waiting;
    second.hold.release();
    expect(codec.answers.heldBytes).toBe(0);
  });

  it('are given up when the client goes: no further blob is fetched', async () => {
    const world = newWorld();
    const started: string[] = [];
    const controller = new AbortController();
    const store: BlobStore = {
      ...passThrough(world.store),
      get: (key, { signal } = {}) => {
        if (started.push(key) === 8) queueMicrotask(() => controller.abort(new Error('gone')));
        return new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason)));
      },
    };
    const references = await Promise.all(
      Array.from({ length: 50 }, (_, index) => kinds['our driver'](world, plain(100 + index))),
    );
    const codec = codecOf(worldOver(store));
    expect(await failure(codec.decode(references, callOf(codec, { signal: controller.signal })))).toMatch(/ABORTED/);
    expect(started).toHaveLength(8); // at most so many at once
  });

  it('do not let one failing blob leave others under way', async () => {
    const world = newWorld();
    let underWay = 0;
    const store: BlobStore = {
      ...passThrough(world.store),
      get: async (key, options) => {
        underWay += 1;
        try {
          return await world.store.get(key, options);
        } finally {
          underWay -= 1;
        }
      },
    };
    const references = await Promise.all(
      Array.from({ length: 20 }, (_, index) => kinds['our driver'](world, plain(100 + index))),
    );
    const absent = await kinds['our driver'](newWorld(), plain());
    const codec = codecOf(worldOver(store));
    expect(await failure(codec.decode([...references, absent], callOf(codec)))).toMatch(
      /^424 BLOB_NOT_FOUND: payload 21 of 21: /,
    );
    expect(underWay).toBe(0);
  });
});

describe('what nobody knows the size of', () => {
  it('is fetched by a few at a time, of all requests together', async () => {
    const atOnce = counter();
    const slow: StorageDriver = {
      name: 'slow',
      type: 'slow',
      store: async () => [],
      retrieve: (_context, claims) => atOnce.run(async () => claims.map(() => plain(10))),
    };
    const codec = codecOf({ ...newWorld(), drivers: [slow] });
    const references = Array.from({ length: 20 }, (_, index) => formatReference('slow', { key: `${index}` }, 10));
    await Promise.all([1, 2, 3].map(() => codec.download(references, callOf(codec))));
    expect(atOnce.most).toBe(4);
  });

  it('is unpacked by as few codecs at a time as the memory has answers', async () => {
    const atOnce = counter();
    const preStorage = [
      { encode: async (all: Payload[]) => all, decode: (all: Payload[]) => atOnce.run(async () => all) },
    ];
    const sizes = { maxResponseBytes: 64 * MiB, maxMemoryBytes: 200 * MiB };
    const codec = codecOf(newWorld(), { preStorage, ...sizes });
    await Promise.all(Array.from({ length: 20 }, () => codec.decode([plain(10)], callOf(codec))));
    expect(atOnce.most).toBe(3);
  });
});

/** How many of its tasks ran at the same time. */
function counter(): { most: number; run<T>(task: () => Promise<T>): Promise<T> } {
  let running = 0;
  return {
    most: 0,
    async run(task) {
      running += 1;
      this.most = Math.max(this.most, running);
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
      return task();
    },
  };
}

describe('references', () => {
  it('are resolved or refused, whatever they say, and no prototype changes', async () => {
    const world = newWorld();
    const codec = codecOf(world);
    const good = await Promise.all(Object.values(kinds).map((make) => make(world, plain())));
    const value = fc.oneof(
      fc.string(),
      fc.constantFrom('sha256', 'theirs', '1', '__proto__', 'v2', '..', '/blobs/a/common/x/y'),
    );
    const claim = fc.dictionary(
      fc.oneof(
        fc.constantFrom(
          'key',
          'object',
          'bucket',
          'hashValue',
          'hashAlgorithm',
          'size',
          'version',
          'metadata',
          '__proto__',
          'constructor',
        ),
        fc.string(),
      ),
      value,
    );
    const name = fc.constantFrom(
      'large-payload',
      'aws.s3driver',
      'gcp.gcsdriver',
      'temporal.io/remote-codec',
      '__proto__',
      'constructor',
      'x',
    );
    const made = fc
      .tuple(name, claim, fc.integer())
      .map(([driver, claimData, size]) => formatReference(driver, claimData, size));
    const bent = fc
      .tuple(fc.constantFrom(...good), fc.nat(), fc.nat(255))
      .map(([{ metadata, data }, at, byte]): Payload => {
        const copy = new Uint8Array(data ?? []);
        copy[at % copy.length] = byte;
        return { ...(metadata ? { metadata } : {}), data: copy };
      });
    const early = fc.json().map(
      (text): Payload => ({
        metadata: { encoding: Buffer.from('json/external-storage-reference') },
        data: Buffer.from(text),
      }),
    );
    const before = Reflect.ownKeys(Object.prototype).length;
    const codes =
      /^none$|^(?:400 INVALID_CLAIM|424 BLOB_NOT_FOUND|424 BLOB_DAMAGED|400 INVALID_ARGUMENT|413 BLOB_TOO_LARGE): [^\n]{1,300}$/;
    await fc.assert(
      fc.asyncProperty(fc.oneof(made, bent, early), fc.boolean(), async (payload, preserveStorageRefs) => {
        const call = callOf(codec, { preserveStorageRefs });
        expect(await failure(codec.decode([payload], call))).toMatch(codes);
        call.hold.release();
        expect(Reflect.ownKeys(Object.prototype)).toHaveLength(before);
      }),
      { numRuns: 1000 },
    );
    expect(codec.answers.heldBytes).toBe(0);
  });
});

describe('settings', () => {
  it('that cannot be are refused', () => {
    const world = newWorld();
    const [driver] = world.drivers;
    const wrong: Partial<CodecOptions>[] = [
      { drivers: [driver, driver] as StorageDriver[] },
      { claims: 'go', claimCheck: undefined as never },
      { threshold: -1 },
      { maxResponseBytes: 0 },
      { maxMemoryBytes: Number.NaN },
    ];
    for (const options of wrong)
      expect(() => codecOf(world, options)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });
});
