/** Objects and claims are made by Temporal's own drivers. */
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { type Clock, LpsError } from '@large-payload/core';
import {
  ApplicationFailure,
  type Payload,
  type StorageDriver,
  StorageDriverClaim,
  type StorageDriverTargetInfo,
} from '@temporalio/common';
import { GcsStorageDriver } from '@temporalio/external-storage-gcs';
import { S3StorageDriver } from '@temporalio/external-storage-s3';
import { describe, expect, it } from 'vitest';
import {
  gcsObjects,
  type ReadObject,
  s3Objects,
  type TemporalClaimsOptions,
  temporalGcsClaims,
  temporalS3Claims,
} from './temporal-claims.js';

const mebibyte = 1024 * 1024;

/** Bucket and object names, each as `bucket name`. */
type Objects = Map<string, Uint8Array>;

interface Kind {
  readonly title: string;
  readonly nameField: string;
  readonly theirs: (objects: Objects) => StorageDriver;
  readonly ours: (options: TemporalClaimsOptions) => ReturnType<typeof temporalS3Claims>;
}

const kinds: Kind[] = [
  {
    title: 'S3',
    nameField: 'key',
    theirs: (objects) => {
      const client = {
        objectExists: async (bucket: string, key: string) => objects.has(`${bucket} ${key}`),
        putObject: async (bucket: string, key: string, data: Uint8Array) => void objects.set(`${bucket} ${key}`, data),
        getObject: async (bucket: string, key: string) => objects.get(`${bucket} ${key}`) ?? new Uint8Array(),
      };
      return of122(new S3StorageDriver({ client, bucket: 'payloads' }));
    },
    ours: temporalS3Claims,
  },
  {
    title: 'GCS',
    nameField: 'object',
    theirs: (objects) => {
      const client = {
        save: async (bucket: string, name: string, data: Uint8Array) => void objects.set(`${bucket} ${name}`, data),
        download: async (bucket: string, name: string) => objects.get(`${bucket} ${name}`) ?? new Uint8Array(),
      };
      return of122(new GcsStorageDriver({ client, bucket: 'payloads' }));
    },
    ours: temporalGcsClaims,
  },
];

/** They are pinned to @temporalio/common 1.22, whose classes are others to the compiler; the shapes are the same. */
function of122(driver: unknown): StorageDriver {
  return driver as StorageDriver;
}

function plain(size: number): Payload {
  return { metadata: { encoding: new TextEncoder().encode('binary/plain') }, data: new Uint8Array(randomBytes(size)) };
}

const read =
  (objects: Objects): ReadObject =>
  async (bucket, name) =>
    objects.get(`${bucket} ${name}`);

async function codeOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'none';
  } catch (error) {
    return error instanceof ApplicationFailure ? `${error.type}${error.nonRetryable ? ', final' : ''}` : String(error);
  }
}

/** Sleeps pass at once. */
function fastClock(): Clock {
  let nowMs = 0;
  const sleep = async (ms: number): Promise<void> => {
    nowMs += ms;
  };
  return { monotonicMs: () => nowMs, epochMs: () => nowMs, sleep };
}

for (const { title, nameField, theirs, ours } of kinds) {
  describe(`claims of Temporal’s ${title} driver`, () => {
    const awkward = 'a/b c%d~é..#?*[]"<>|:\u0001';
    const targets: (StorageDriverTargetInfo | undefined)[] = [
      { kind: 'workflow', namespace: 'default', type: 'order', id: 'order-1', runId: '0193-aa' },
      { kind: 'workflow', namespace: awkward, type: awkward, id: awkward },
      { kind: 'activity', namespace: 'default', type: 'charge', id: '7', runId: 'r' },
      { kind: 'activity', namespace: 'default' },
      undefined,
    ];

    it('are resolved, in order, whatever they were stored for', async () => {
      const objects: Objects = new Map();
      const driver = theirs(objects);
      const reader = ours({ buckets: ['payloads'], read: read(objects) });
      expect([reader.name, reader.type]).toEqual([driver.name, driver.type]);
      for (const target of targets) {
        const payloads = [plain(300), plain(0), { data: new Uint8Array([1]) }, plain(20_000)];
        const claims = await driver.store({ ...(target ? { target } : {}) }, payloads);
        const copies = [...claims, ...claims].map(({ claimData }) => new StorageDriverClaim({ ...claimData }));
        const expected = payloads.map(({ metadata, data }) => ({ metadata: metadata ?? {}, data }));
        expect(await reader.retrieve({}, copies)).toEqual([...expected, ...expected]);
      }
    });

    async function stored(size = 300): Promise<{ objects: Objects; claim: StorageDriverClaim; payload: Payload }> {
      const objects: Objects = new Map();
      const payload = plain(size);
      const target = { kind: 'workflow', namespace: 'default', type: 'order', id: 'order-1' } as const;
      const [claim] = await theirs(objects).store({ target }, [payload]);
      if (claim === undefined) throw new Error('no claim');
      return { objects, claim, payload };
    }

    it('are resolved as the SDK for Python writes them', async () => {
      const { objects, claim, payload } = await stored();
      const { bucket = '', hashValue = '', [nameField]: name = '' } = claim.claimData;
      // what it falls back to for names that would be too long
      const short = `v0/ns/default/d/sha256/${hashValue}`;
      objects.set(`${bucket} ${short}`, objects.get(`${bucket} ${name}`) ?? new Uint8Array());
      const hash = { hash_algorithm: 'sha256', hash_value: hashValue };
      const claims = [name, short].map((one) => new StorageDriverClaim({ bucket, [nameField]: one, ...hash }));
      const expected = { metadata: payload.metadata, data: payload.data };
      const reader = ours({ buckets: ['payloads'], read: read(objects) });
      expect(await reader.retrieve({}, claims)).toEqual([expected, expected]);
      const differing = new StorageDriverClaim({ bucket, [nameField]: short, ...hash, hash_value: '0'.repeat(64) });
      await expect(reader.retrieve({}, [differing])).rejects.toMatchObject({ type: 'LargePayload.INVALID_CLAIM' });
    });

    it('are refused, without a request, unless the driver could have made them', async () => {
      const { claim } = await stored();
      const good = claim.claimData;
      const name = good[nameField] ?? '';
      const { [nameField]: _, ...withoutName } = good;
      const wrong: Record<string, string>[] = [
        {},
        withoutName,
        { ...good, bucket: 'another' },
        { ...good, bucket: '' },
        { ...good, hashAlgorithm: 'md5' },
        { ...good, hashValue: good.hashValue?.toUpperCase() ?? '' },
        { ...good, hashValue: 'a'.repeat(64) },
        { ...good, [nameField]: `${name}x` },
        { ...good, [nameField]: `/${name}` },
        { ...good, [nameField]: `x${name}` },
        { ...good, [nameField]: name.replace('v0/', 'v1/') },
        { ...good, [nameField]: name.replace('/order-1/', '/order-1/more/') },
        { ...good, [nameField]: name.replace('/order-1/', '/../') },
        { ...good, [nameField]: name.replace('/order-1/', '/a"b/') },
        { ...good, [nameField]: name.replace('/order-1/', '/a%zz/') },
        { ...good, [nameField]: name.replace('/order-1/', '//') },
        { ...good, [nameField]: name.replace('/wi/', '/ai/') },
        { ...good, [nameField]: name.replace('/order-1/', `/${'i'.repeat(1000)}/`) },
        { ...good, [nameField]: `secrets/${good.hashValue}` },
      ];
      let requests = 0;
      const reader = ours({
        buckets: ['payloads'],
        read: async () => {
          requests += 1;
          return undefined;
        },
      });
      for (const claimData of wrong) {
        const call = reader.retrieve({}, [new StorageDriverClaim(claimData)]);
        expect(await codeOf(call), JSON.stringify(claimData)).toBe('LargePayload.INVALID_CLAIM, final');
      }
      expect(requests).toBe(0);
      expect(await codeOf(reader.retrieve({}, [claim]))).toBe('LargePayload.BLOB_NOT_FOUND');
    });

    it('give no bytes but their own', async () => {
      const { objects, claim } = await stored();
      const [[id, bytes] = ['', new Uint8Array()]] = objects;
      const reader = ours({ buckets: ['payloads'], read: read(objects) });
      for (const damaged of [bytes.subarray(1), new Uint8Array(), Buffer.concat([bytes, Buffer.from('x')])]) {
        objects.set(id, damaged);
        expect(await codeOf(reader.retrieve({}, [claim]))).toBe('LargePayload.BLOB_DAMAGED, final');
      }
      objects.set(id, bytes);
      expect(await codeOf(reader.retrieve({}, [claim]))).toBe('none');
    });

    it('are refused when the object is too large, before more than that has come', async () => {
      const { objects, claim } = await stored(mebibyte);
      const [bytes = new Uint8Array()] = objects.values();
      let taken = 0;
      const body = (): Readable => {
        taken = 0;
        return new Readable({
          read() {
            this.push(bytes.subarray(taken, taken + 1000));
            taken += 1000;
          },
        });
      };
      const small = { buckets: ['payloads'], maxBytes: 100_000 };
      expect(await codeOf(ours({ ...small, read: read(objects) }).retrieve({}, [claim]))).toBe(
        'LargePayload.BLOB_TOO_LARGE, final',
      );
      expect(await codeOf(ours({ ...small, read: async () => body() }).retrieve({}, [claim]))).toBe(
        'LargePayload.BLOB_TOO_LARGE, final',
      );
      expect(taken).toBeLessThan(200_000);
    });

    it('are tried again until the deadline, unless the answer is final', async () => {
      const { objects, claim, payload } = await stored();
      let failures: unknown[] = [];
      let requests = 0;
      const reader = (): StorageDriver =>
        ours({
          buckets: ['payloads'],
          clock: fastClock(),
          read: async (bucket, name) => {
            requests += 1;
            const failure = failures.shift();
            if (failure !== undefined) throw failure;
            return objects.get(`${bucket} ${name}`);
          },
        });
      failures = [
        new Error('reset'),
        { $metadata: { httpStatusCode: 503 } },
        new LpsError('STORE_UNAVAILABLE', 'away'),
      ];
      expect(await reader().retrieve({}, [claim])).toEqual([payload]);
      expect(requests).toBe(4);
      for (const [failure, code] of [
        [{ $metadata: { httpStatusCode: 404 } }, 'LargePayload.BLOB_NOT_FOUND'],
        [{ code: 404 }, 'LargePayload.BLOB_NOT_FOUND'],
        [{ $metadata: { httpStatusCode: 403 } }, 'LargePayload.STORE_REFUSED'],
        [{ code: 403 }, 'LargePayload.STORE_REFUSED'],
        [new LpsError('STORE_REFUSED', 'no'), 'LargePayload.STORE_REFUSED'],
      ] as const) {
        [failures, requests] = [[failure], 0];
        expect([await codeOf(reader().retrieve({}, [claim])), requests]).toEqual([code, 1]);
      }
      failures = Array.from({ length: 1000 }, () => new Error('reset'));
      expect(await codeOf(reader().retrieve({}, [claim]))).toBe('LargePayload.STORE_UNAVAILABLE');
    });

    it('are downloaded once for many replays, and their bytes are never shared', async () => {
      const { objects, claim, payload } = await stored();
      let requests = 0;
      const options: TemporalClaimsOptions = {
        buckets: ['payloads'],
        read: async (bucket, name) => {
          requests += 1;
          return objects.get(`${bucket} ${name}`);
        },
      };
      const reader = ours(options);
      const [first] = await reader.retrieve({}, [claim, claim]);
      first?.data?.fill(0);
      first?.metadata?.encoding?.fill(0);
      expect(await reader.retrieve({}, [claim])).toEqual([payload]);
      expect(requests).toBe(1);
      const uncached = ours({ ...options, cacheBytes: 0 });
      await uncached.retrieve({}, [claim]);
      await uncached.retrieve({}, [claim]);
      expect(requests).toBe(3);
    });

    it('stop when the SDK aborts', async () => {
      const { claim } = await stored();
      const controller = new AbortController();
      let signal: AbortSignal | undefined;
      const reader = ours({
        buckets: ['payloads'],
        read: (_bucket, _name, given) => {
          signal = given;
          setImmediate(() => controller.abort());
          return new Promise((_, reject) => given.addEventListener('abort', () => reject(given.reason)));
        },
      });
      expect(await codeOf(reader.retrieve({ abortSignal: controller.signal }, [claim]))).toBe('LargePayload.ABORTED');
      expect(signal?.aborted).toBe(true);
    });

    it('are never made', async () => {
      const reader = ours({ buckets: ['payloads'], read: async () => undefined });
      expect(await codeOf(reader.store({}, [plain(1)]))).toBe('LargePayload.NOT_SUPPORTED, final');
    });

    it('take one permit for each object', async () => {
      const { objects, claim } = await stored();
      const items: unknown[] = [];
      const limiter = {
        permit: async <T>(item: unknown, operation: () => Promise<T>): Promise<T> => {
          items.push(item);
          return operation();
        },
      };
      const context = { limiter };
      await ours({ buckets: ['payloads'], read: read(objects) }).retrieve(context, [claim, claim]);
      expect(items).toEqual([claim]);
    });
  });
}

describe('ready-made readers', () => {
  it('use the client that they are given', async () => {
    class GetObjectCommand {
      constructor(readonly input: { Bucket: string; Key: string }) {}
    }
    const { signal } = new AbortController();
    const sent: unknown[] = [];
    const send = async (command: object, options: { readonly abortSignal: AbortSignal }): Promise<unknown> => {
      sent.push([(command as GetObjectCommand).input, options.abortSignal]);
      return { Body: Readable.from([Buffer.from('body')]) };
    };
    const s3 = await s3Objects({ send }, GetObjectCommand)('b', 'k', signal);
    expect(sent).toEqual([[{ Bucket: 'b', Key: 'k' }, signal]]);
    expect(s3).toBeInstanceOf(Readable);
    const asked: string[] = [];
    const storage = {
      bucket: (bucket: string) => ({
        file: (name: string) => ({
          createReadStream: () => {
            asked.push(`${bucket} ${name}`);
            return Readable.from([Buffer.from('body')]);
          },
        }),
      }),
    };
    expect(await gcsObjects(storage)('b', 'k', signal)).toBeInstanceOf(Readable);
    expect(asked).toEqual(['b k']);
  });

  it('are refused without a bucket, or with settings out of range', () => {
    const wrong: Partial<TemporalClaimsOptions>[] = [
      { buckets: [] },
      { maxBytes: 0 },
      { concurrency: 0 },
      { deadlineMs: 0 },
      { cacheBytes: Number.NaN },
      { name: '' },
    ];
    for (const options of wrong) {
      const make = () => temporalS3Claims({ buckets: ['b'], read: async () => undefined, ...options });
      expect(make, JSON.stringify(options)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    }
  });
});
