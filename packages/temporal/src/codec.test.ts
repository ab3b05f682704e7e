import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import {
  type BlobStore,
  ClaimCheck,
  digestOf,
  type ErrorCode,
  LpsError,
  memoryStore,
  v1ObjectName,
} from '@large-payload/core';
import { ApplicationFailure, type Payload } from '@temporalio/common';
import { describe, expect, it } from 'vitest';
import { LargePayloadCodec } from './codec.js';

interface Vector {
  readonly name: string;
  readonly namespace: string;
  readonly metadata: Record<string, string> | null;
  readonly data: string;
  readonly claim: { readonly metadata: Record<string, string>; readonly data: string };
}

const vectorsFile = new URL('../../../test/vectors/go-codec-v2.json', import.meta.url);
const vectors = JSON.parse(readFileSync(vectorsFile, 'utf8')) as Vector[];

function fromBase64(metadata: Record<string, string> | null): Record<string, Uint8Array> {
  const entries = Object.entries(metadata ?? {});
  return Object.fromEntries(entries.map(([name, value]) => [name, new Uint8Array(Buffer.from(value, 'base64'))]));
}

function plain(size: number): Payload {
  return { metadata: fromBase64({ encoding: 'YmluYXJ5L3BsYWlu' }), data: new Uint8Array(randomBytes(size)) };
}

function failingStore(code: ConstructorParameters<typeof LpsError>[0]): BlobStore {
  const fail = async (): Promise<never> => {
    throw new LpsError(code, 'told to fail');
  };
  return { ...memoryStore(), name: 'failing', put: fail, get: fail, ready: fail };
}

async function failureOf(call: Promise<unknown>): Promise<ApplicationFailure> {
  const error = await call.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (error instanceof ApplicationFailure) return error;
  throw new Error('not an ApplicationFailure', { cause: error });
}

describe('the claims of the Go codec', () => {
  expect(vectors.length).toBeGreaterThan(5);
  for (const vector of vectors) {
    it(`are written and read byte for byte: ${vector.name}`, async () => {
      const store = memoryStore();
      const codec = new LargePayloadCodec({ store, namespace: vector.namespace, minBytes: 0 });
      const payload = {
        metadata: fromBase64(vector.metadata),
        data: new Uint8Array(Buffer.from(vector.data, 'base64')),
      };
      const [claim] = await codec.encode([payload]);
      expect(Buffer.from(claim?.data ?? []).toString('utf8')).toBe(vector.claim.data);
      expect(fromEntries(claim?.metadata)).toEqual(fromEntries(fromBase64(vector.claim.metadata)));
      const goClaim = { metadata: fromBase64(vector.claim.metadata), data: Buffer.from(vector.claim.data) };
      const reader = new LargePayloadCodec({ store, namespace: 'another', decodeOnly: true });
      const [decoded] = await reader.decode([goClaim]);
      expect(fromEntries(decoded?.metadata)).toEqual(fromEntries(payload.metadata));
      expect(Buffer.from(decoded?.data ?? [])).toEqual(Buffer.from(payload.data));
    });
  }

  it('are read in version v1 too, and in no other', async () => {
    const store = memoryStore();
    const data = randomBytes(500);
    const digest = digestOf(data);
    await store.put(v1ObjectName(digest), data, { digest, size: 500 });
    const claim = (version: string): Payload => ({
      metadata: { encoding: Buffer.from('json/plain'), 'temporal.io/remote-codec': Buffer.from(version) },
      data: Buffer.from(JSON.stringify({ metadata: { encoding: 'YQ==' }, size: 500, digest })),
    });
    const codec = new LargePayloadCodec({ store, namespace: 'default' });
    const [payload] = await codec.decode([claim('v1')]);
    expect(Buffer.from(payload?.data ?? [])).toEqual(data);
    expect(await failureOf(codec.decode([claim('v3')]))).toMatchObject({
      type: 'LargePayload.INVALID_CLAIM',
      nonRetryable: true,
    });
  });
});

function fromEntries(metadata: Record<string, Uint8Array> | null | undefined): Record<string, string> {
  return Object.fromEntries(
    Object.entries(metadata ?? {}).map(([name, value]) => [name, Buffer.from(value).toString('base64')]),
  );
}

describe('encode', () => {
  it('offloads what is larger than 128,000 bytes in its serialized form, and keeps the order', async () => {
    const codec = new LargePayloadCodec({ store: memoryStore(), namespace: 'default' });
    // tags and lengths: 2 + (2 + 8) + (2 + 12) for the metadata, 4 for the data
    const [fits, tooLarge] = [plain(128_000 - 30), plain(128_000 - 29)];
    const small = plain(10);
    const encoded = await codec.encode([tooLarge, small, fits, tooLarge]);
    expect(encoded[1]).toBe(small);
    expect(encoded[2]).toBe(fits);
    expect(encoded[0]).toEqual(encoded[3]);
    expect(encoded[0]?.data?.length).toBeLessThan(600);
    expect(await codec.decode(encoded)).toEqual([tooLarge, small, fits, tooLarge]);
  });

  it('leaves everything as it is when it only decodes, and references of another external storage always', async () => {
    const reader = new LargePayloadCodec({ store: failingStore('STORE_FULL'), namespace: 'default', decodeOnly: true });
    const payloads = [plain(200_000)];
    expect(await reader.encode(payloads)).toBe(payloads);
    const codec = new LargePayloadCodec({ store: failingStore('STORE_FULL'), namespace: 'default' });
    const reference = { ...plain(200_000), externalPayloads: [{}] };
    expect(await codec.encode([reference])).toEqual([reference]);
    expect(await codec.encode([])).toEqual([]);
  });
});

describe('failures', () => {
  it('carry the code as their type, and are final only when no retry can help', async () => {
    const expected = {
      BLOB_TOO_LARGE: true,
      INVALID_METADATA: true,
      STORE_UNAVAILABLE: false,
      STORE_REFUSED: false,
    } as const;
    for (const [code, nonRetryable] of Object.entries(expected)) {
      const store = failingStore(code as keyof typeof expected);
      const codec = new LargePayloadCodec({ store, namespace: 'default', deadlineMs: 10 });
      const failure = await failureOf(codec.encode([plain(200_000)]));
      expect(failure).toMatchObject({ type: `LargePayload.${code}`, nonRetryable, cause: { code } });
    }
  });

  it('are not final for an absent blob, which may be undeleted, and are for a damaged one', async () => {
    const store = memoryStore();
    const [claim] = await new LargePayloadCodec({ store, namespace: 'default' }).encode([plain(200_000)]);
    const elsewhere = new LargePayloadCodec({ store: memoryStore(), namespace: 'default' });
    const absent = await failureOf(elsewhere.decode([claim ?? {}]));
    expect(absent).toMatchObject({ type: 'LargePayload.BLOB_NOT_FOUND', nonRetryable: false });
    const damaging: BlobStore = {
      ...store,
      get: async (key) => ({ info: { key, size: 200_000 }, body: new Uint8Array(200_000) }),
    };
    const damaged = await failureOf(
      new LargePayloadCodec({ store: damaging, namespace: 'default' }).decode([claim ?? {}]),
    );
    expect(damaged).toMatchObject({ type: 'LargePayload.BLOB_DAMAGED', nonRetryable: true });
  });
});

describe('what was taken down', () => {
  async function failureOfRead(code: ErrorCode): Promise<{ failure: ApplicationFailure; key: string }> {
    const store = memoryStore();
    const [claim] = await new LargePayloadCodec({ store, namespace: 'default' }).encode([plain(200_000)]);
    const gone: BlobStore = { ...store, get: () => Promise.reject(new LpsError(code, 'erased on request')) };
    const failure = await failureOf(new LargePayloadCodec({ store: gone, namespace: 'default' }).decode([claim ?? {}]));
    return { failure, key: JSON.parse(Buffer.from(claim?.data ?? []).toString()).key };
  }

  it('is a final failure of a type of its own, which says what to do, and about which blob', async () => {
    const { failure, key } = await failureOfRead('BLOB_TAKEN_DOWN');
    expect(failure).toMatchObject({ type: 'LpsBlobTakenDown', nonRetryable: true, cause: { code: 'BLOB_TAKEN_DOWN' } });
    expect(failure.message).toContain(key);
    expect(failure.message).toMatch(/erased on request.*terminate it, or reset it/);
  });

  it('stays final when the SDK says otherwise, as it does of an activity’s input', async () => {
    const { failure } = await failureOfRead('BLOB_TAKEN_DOWN');
    const changed = ApplicationFailure.fromError(failure, { message: 'Failed to parse', nonRetryable: false });
    expect(changed).toMatchObject({ message: 'Failed to parse', type: 'LpsBlobTakenDown', nonRetryable: true });
    const other = ApplicationFailure.fromError((await failureOfRead('BLOB_NOT_FOUND')).failure, {
      nonRetryable: false,
    });
    expect(other.nonRetryable).toBe(false);
  });

  it('may be blocked: then storing it fails for good, and says what to do', async () => {
    const codec = new LargePayloadCodec({ store: failingStore('BLOB_BLOCKED'), namespace: 'default' });
    const failure = await failureOf(codec.encode([plain(200_000)]));
    expect(failure).toMatchObject({ type: 'LargePayload.BLOB_BLOCKED', nonRetryable: true });
    expect(failure.message).toMatch(/blocked.*end the block/);
  });
});

describe('options', () => {
  it('are refused unless there is one backend, a namespace and a sensible threshold', () => {
    const store = memoryStore();
    const claimCheck = new ClaimCheck({ store });
    const wrong: unknown[] = [
      { namespace: 'default' },
      { namespace: 'default', store, claimCheck },
      { namespace: 'default', url: 'http://localhost:1', store },
      { namespace: 'default', url: 'nonsense' },
      { namespace: 'default', url: 'http://localhost:1', headers: { 'bad name': 'x' } },
      { store },
      { namespace: 'a/b', store },
      { namespace: 'default', store, minBytes: -1 },
    ];
    for (const options of wrong) {
      expect(() => new LargePayloadCodec(options as never), JSON.stringify(Object.keys(options as object))).toThrow(
        LpsError,
      );
    }
  });

  it('let several shells share one claim check', async () => {
    const claimCheck = new ClaimCheck({ store: memoryStore() });
    const [claim] = await new LargePayloadCodec({ claimCheck, namespace: 'a' }).encode([plain(200_000)]);
    const [again] = await new LargePayloadCodec({ claimCheck, namespace: 'b' }).decode([claim ?? {}]);
    expect(again?.data?.length).toBe(200_000);
  });

  it('make no request before the first large payload, unless one connects', async () => {
    const options = { url: 'http://127.0.0.1:1', namespace: 'default' };
    const codec = new LargePayloadCodec(options);
    expect(await codec.encode([plain(10)])).toHaveLength(1);
    await codec.close();
    await expect(LargePayloadCodec.connect(options)).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
    const store = memoryStore();
    expect(await LargePayloadCodec.connect({ store, namespace: 'default' })).toBeInstanceOf(LargePayloadCodec);
  });
});
