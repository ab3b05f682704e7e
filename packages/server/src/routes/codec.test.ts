import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { ClaimCheck, digestOf, memoryStore } from '@large-payload/core';
import { EncryptionCodec, externalStorage, ZlibCodec } from '@large-payload/temporal';
import type { Payload, PayloadCodec, StorageDriver } from '@temporalio/common';
import { ExternalStorageRunner } from '@temporalio/common/lib/internal-non-workflow/external-storage-runner.js';
import { encodeReferencePayload } from '@temporalio/common/lib/internal-non-workflow/extstore-helpers.js';
import { afterEach, describe, expect, it } from 'vitest';
import {
  kinds,
  namespace,
  newWorld,
  plain,
  type RunningCodec,
  startCodec,
  toJson,
  type World,
} from '../codec/codec-fixture.js';
import type { CodecHandlerOptions } from '../codec/handler.js';

const cleanUps: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0)) await cleanUp();
});

async function start(world: World = newWorld(), options: Partial<CodecHandlerOptions> = {}): Promise<RunningCodec> {
  const { drivers, claimCheck } = world;
  const codec = await startCodec({ drivers, claimCheck, v1Namespace: namespace, ...options });
  cleanUps.push(() => codec.close());
  return codec;
}

const text = (payload: Payload | undefined): string => Buffer.from(payload?.data ?? []).toString();
const meta = (payload: Payload | undefined, name: string): string =>
  Buffer.from(payload?.metadata?.[name] ?? []).toString();

describe('/decode', () => {
  it('resolves every kind of reference, mixed in any order, and passes the rest through', async () => {
    const world = newWorld();
    const codec = await start(world);
    const makers = Object.values(kinds);
    const wanted = [...makers, undefined, ...[...makers].reverse(), undefined].map((make, index) => ({
      make,
      payload: plain(200 + index),
    }));
    const sent = await Promise.all(wanted.map(({ make, payload }) => make?.(world, payload) ?? payload));
    for (const path of ['/decode', `/${namespace}/decode`, '/decode?preserveStorageRefs=false', '/download']) {
      const isWanted = ({ make }: { make?: unknown }): boolean => path !== '/download' || make !== undefined;
      const some = sent.filter((_, index) => isWanted(wanted[index] ?? {}));
      const answer = await codec.post(path, some);
      expect([answer.status, answer.headers['content-type']]).toEqual([200, 'application/json']);
      expect(answer.text).toBe(toJson(wanted.filter(isWanted).map(({ payload }) => payload)));
    }
  });

  it('fetches the same reference once, and answers it as often as it was asked for', async () => {
    const world = newWorld();
    const codec = await start(world);
    const payload = plain();
    const reference = await kinds['Temporal’s S3 driver'](world, payload);
    const answer = await codec.post('/decode', [reference, plain(1), reference]);
    expect(answer.payloads.map(({ data }) => data?.length)).toEqual([300, 1, 300]);
    expect(world.reads).toHaveLength(1);
  });

  it('passes what it does not know through, as it came', async () => {
    const codec = await start();
    const bodies = [
      '{"payloads":[]}',
      '{"payloads":[{}]}',
      '{"payloads":[{"metadata":{}}]}',
      '{"payloads":[{"data":""}]}',
      '{"payloads":[{"metadata":{"encoding":"YmluYXJ5L251bGw="}},{"metadata":{"b":"","a":"AA==","é\\n":"/+8="},"data":"AAECAwQ="}]}',
    ];
    for (const body of bodies) expect((await codec.post('/decode', body)).text).toBe(body);
    expect((await codec.post('/decode', '{}')).text).toBe('{"payloads":[]}');
  });

  it('keeps references with preserveStorageRefs, in the form that the Web UI has a download button for', async () => {
    const world = newWorld();
    const codec = await start(world, { preStorage: [new ZlibCodec({ always: true })] });
    const payload = plain(5000);
    for (const [title, make] of Object.entries(kinds)) {
      const packed = await new ZlibCodec({ always: true }).encode([payload]);
      const reference = await make(world, packed[0] ?? {});
      const { status, payloads } = await codec.post('/decode?preserveStorageRefs=true', [reference, ...packed]);
      expect([title, status]).toEqual([title, 200]);
      const [shown, inline] = payloads;
      expect(text(inline)).toBe(text(payload));
      expect(meta(shown, 'encoding')).toBe('json/protobuf');
      expect(meta(shown, 'messageType')).toBe('temporal.api.sdk.v1.ExternalStorageReference');
      const parsed = JSON.parse(text(shown)) as { driverName?: unknown; claimData?: object };
      expect(Object.keys(parsed)).toEqual(['driverName', 'claimData']);
      expect(Number(shown?.externalPayloads?.[0]?.sizeBytes)).toBeGreaterThan(200);
      // the button sends what the history has; whoever sends what he was shown gets the same
      for (const asked of [reference, shown ?? {}]) {
        const answer = await codec.post('/download?preserveStorageRefs=true', [asked]);
        expect([title, answer.text]).toEqual([title, toJson([payload])]);
      }
    }
    expect(world.reads.length).toBeGreaterThan(0);
  });

  it('reads nothing for references that it keeps, and shows a broken one as it is', async () => {
    const world = newWorld();
    const codec = await start(world);
    const reference = await kinds['Temporal’s S3 driver'](world, plain());
    const broken = { metadata: { 'temporal.io/remote-codec': Buffer.from('v2') }, data: Buffer.from('{') };
    const answer = await codec.post('/decode?preserveStorageRefs=true', [reference, broken]);
    expect(answer.text).toBe(toJson([reference, broken]));
    expect(world.reads).toEqual([]);
  });

  it('runs the codecs in the opposite order, around the storage', async () => {
    const world = newWorld();
    const preStorage = [new ZlibCodec({ always: true }), encryption('inner')];
    const postStorage = [encryption('outer')];
    const codec = await start(world, { preStorage, postStorage, threshold: 1000 });
    const payloads = [plain(20), plain(3000), plain(0)];
    const encoded = await codec.post('/encode', payloads, { 'x-namespace': namespace });
    expect(encoded.payloads.map((one) => meta(one, 'encoding'))).toEqual(Array(3).fill('binary/encrypted'));
    expect(encoded.payloads.map((one) => meta(one, 'encryption-key-id'))).toEqual(Array(3).fill('outer'));
    expect((await codec.post('/decode', encoded.payloads)).text).toBe(toJson(payloads));
    // the button sends the payload as the history has it
    expect((await codec.post('/download', encoded.payloads.slice(1, 2))).text).toBe(toJson(payloads.slice(1, 2)));
    const kept = await codec.post('/decode?preserveStorageRefs=true', encoded.payloads);
    expect(kept.payloads.map((one) => meta(one, 'encoding'))).toEqual([
      'binary/plain',
      'json/protobuf',
      'binary/plain',
    ]);
  });

  it('resolves a claim of the Go codec that a driver stored', async () => {
    const world = newWorld();
    const codec = await start(world);
    const payload = plain();
    const nested = await kinds['our driver'](world, await kinds['a Go claim'](world, payload));
    expect((await codec.post('/decode', [nested, plain(1)])).payloads[0]?.data).toEqual(payload.data);
  });

  it('answers with one line what it cannot resolve, and never with 404', async () => {
    const world = newWorld();
    const codec = await start(world, { preStorage: [encryption('here')] });
    const reference = await kinds['our driver'](world, plain());
    const { driverName, claimData } = JSON.parse(text(reference)) as { driverName: string; claimData: Claim };
    const of = (name: string, claim: Claim): Payload =>
      encodeReferencePayload({ driverName: name, claim: { claimData: claim }, sizeBytes: 1 });
    const theirs = JSON.parse(text(await kinds['Temporal’s S3 driver'](world, plain()))) as { claimData: Claim };
    const digest = createHash('sha256').update('other').digest('hex');
    const absent = `/blobs/${namespace}/common/sha256:${digest}/sha256:${digest}`;
    const damaged = await kinds['Temporal’s GCS driver'](world, plain());
    world.objects.set([...world.objects.keys()].at(-1) ?? '', Buffer.from('no payload'));
    const [encrypted] = await encryption('elsewhere').encode([plain()]);
    const wrong: [string, Payload, number, RegExp][] = [
      ['driver', of('s3.mine', claimData), 400, /^there is no driver "s3.mine" here$/],
      ['key', of(driverName, { ...claimData, key: '../../etc/passwd' }), 400, /its key is not a key/],
      ['size', of(driverName, { ...claimData, size: '299' }), 424, /the stored bytes are not those of the claim/],
      ['absent', of(driverName, { ...claimData, key: absent }), 424, /the store does not have the blob of this claim/],
      ['bucket', of('aws.s3driver', { ...theirs.claimData, bucket: 'ours' }), 400, /bucket "ours" is not one/],
      ['damaged', damaged, 424, /the stored bytes are not those of the claim/],
      ['key id', encrypted ?? {}, 424, /key "elsewhere", which is not here/],
      ['no JSON', { ...reference, data: Buffer.from('{') }, 400, /does not hold JSON/],
      ['no driver', { ...reference, data: Buffer.from('{}') }, 400, /names no driver/],
      [
        'version',
        { metadata: { 'temporal.io/remote-codec': Buffer.from('v3') }, data: Buffer.from('{}') },
        400,
        /version/,
      ],
    ];
    for (const [title, payload, status, words] of wrong) {
      for (const path of title === 'key id' ? ['/decode'] : ['/decode', '/download']) {
        const answer = await codec.post(path, [payload]);
        expect({ title, status: answer.status, text: answer.text }).toEqual({
          title,
          status,
          text: expect.stringMatching(words),
        });
        expect(answer.text).toMatch(/^[^\n]{1,200}$/);
        expect(answer.headers['content-type']).toBe('text/plain; charset=utf-8');
      }
    }
    const many = await codec.post('/decode', [plain(1), of('nobody', {})]);
    expect([many.status, many.text]).toEqual([400, 'payload 2 of 2: there is no driver "nobody" here']);
    expect(world.reads.filter((name) => name.startsWith('ours'))).toEqual([]);
  });

  it('refuses v1 claims unless it knows whose they are', async () => {
    const world = newWorld();
    const { drivers, claimCheck } = world;
    const codec = await startCodec({ drivers, claimCheck });
    cleanUps.push(() => codec.close());
    const answer = await codec.post('/decode', [await kinds['a v1 claim'](world, plain())]);
    expect([answer.status, answer.text]).toEqual([400, expect.stringContaining('--v1-namespace')]);
  });

  it('says what failed in other people’s drivers and codecs, and nothing of why', async () => {
    const broken = {
      name: 'broken',
      type: 'broken',
      store: async () => [],
      retrieve: async (): Promise<Payload[]> => {
        throw new Error('secret of the bucket');
      },
    } satisfies StorageDriver;
    const codecs: [PayloadCodec, number][] = [
      [{ encode: async (all) => all, decode: async () => [] }, 424],
      [{ encode: async (all) => all, decode: async () => [null] as unknown as Payload[] }, 424],
      [{ encode: async (all) => all, decode: () => Promise.reject(new Error('secret')) }, 500],
    ];
    for (const [preStorage, status] of codecs) {
      const codec = await start(newWorld(), { preStorage: [preStorage] });
      const answer = await codec.post('/decode', [plain()]);
      expect([answer.status, answer.text]).toEqual([status, expect.not.stringContaining('secret')]);
    }
    const codec = await start(newWorld(), { drivers: [broken] });
    const reference = encodeReferencePayload({ driverName: 'broken', claim: { claimData: {} }, sizeBytes: 1 });
    const answer = await codec.post('/decode', [reference]);
    expect([answer.status, answer.text]).toEqual([500, 'the driver failed; the log has the details']);
  });
});

type Claim = Record<string, string>;

function encryption(keyId: string): EncryptionCodec {
  return new EncryptionCodec({ keys: { [keyId]: createHash('sha256').update(keyId).digest() }, keyId });
}

describe('/download', () => {
  it('takes references only', async () => {
    const world = newWorld();
    const codec = await start(world);
    const answer = await codec.post('/download', [await kinds['our driver'](world, plain()), plain()]);
    expect([answer.status, answer.text]).toEqual([400, 'all payloads must be references to stored ones']);
    expect((await codec.post('/download', [])).text).toBe('{"payloads":[]}');
  });
});

describe('/encode', () => {
  it('writes references that the SDK reads', async () => {
    const world = newWorld();
    const codec = await start(world);
    const payloads = [plain(127_000), plain(128_000), plain(5), { data: new Uint8Array(200_000) }];
    const { payloads: encoded } = await codec.post(`/${namespace}/encode`, payloads);
    expect(encoded.map((one) => meta(one, 'encoding'))).toEqual([
      'binary/plain',
      'json/protobuf',
      'binary/plain',
      'json/protobuf',
    ]);
    const storage = externalStorage({ claimCheck: world.claimCheck });
    const runner = new ExternalStorageRunner(storage);
    const own = await runner.store(payloads, { target: { kind: 'workflow', namespace } });
    expect(toJson(encoded)).toBe(toJson(own)); // byte for byte what a worker writes
    const decoded = await runner.retrieve(encoded);
    const digests = (all: readonly Payload[]): string[] => all.map(({ data }) => digestOf(data ?? new Uint8Array()));
    expect(digests(decoded)).toEqual(digests(payloads));
    expect((await codec.post('/decode', encoded)).payloads.map(({ data }) => data?.length)).toEqual([
      127_000, 128_000, 5, 200_000,
    ]);
  });

  it('writes the Go codec’s claims when it is told to, byte for byte', async () => {
    const url = new URL('../../../../test/vectors/go-codec-v2.json', import.meta.url);
    const vectors = JSON.parse(readFileSync(url, 'utf8')) as Vector[];
    for (const vector of vectors) {
      const { codec, claimCheck } = await goCodec();
      const body = JSON.stringify({
        payloads: [{ ...(vector.metadata ? { metadata: vector.metadata } : {}), data: vector.data }],
      });
      const { status, payloads } = await codec.post('/encode', body, {
        'x-namespace': Buffer.from(vector.namespace, 'utf8').toString('latin1'),
      });
      expect([vector.name, status, text(payloads[0])]).toEqual([vector.name, 200, vector.claim.data]);
      expect(meta(payloads[0], 'temporal.io/remote-codec')).toBe('v2');
      const answer = await codec.post('/decode', payloads);
      expect(answer.payloads[0]?.data).toEqual(new Uint8Array(Buffer.from(vector.data, 'base64')));
      expect(claimCheck).toBeDefined();
    }
  });

  it('stores under the namespace of the path or the header, which must agree', async () => {
    const world = newWorld();
    const driver = world.drivers[0] as StorageDriver;
    const claims: string[] = [];
    const spied = {
      name: driver.name,
      type: driver.type,
      async store(...args: Parameters<StorageDriver['store']>) {
        const stored = await driver.store(...args);
        claims.push(...stored.map(({ claimData }) => claimData.key ?? ''));
        return stored;
      },
      retrieve: driver.retrieve.bind(driver),
    } satisfies StorageDriver;
    const codec = await start(world, { drivers: [spied], threshold: 100 });
    for (const [path, headers] of [
      ['/a%20b/encode', {}],
      ['/encode', { 'x-namespace': 'a b' }],
      ['/a%20b/encode', { 'x-namespace': 'a b' }],
    ] as const) {
      expect((await codec.post(path, [plain()], headers)).status).toBe(200);
      expect(claims.pop()).toMatch(/^\/blobs\/a b\/common\//);
    }
    const conflict = await codec.post('/a/encode', [plain()], { 'x-namespace': 'b' });
    expect(conflict.status).toBe(403);
    const none = await codec.post('/encode', [plain()]);
    expect([none.status, none.text]).toEqual([400, expect.stringContaining('X-Namespace')]);
    expect((await codec.post('/encode', [plain(10)])).status).toBe(200); // nothing to be stored
    expect((await codec.post('/a%2Fb/encode', [plain()])).status).toBe(400);
    expect(claims).toEqual([]);
  });

  it('leaves references as they are', async () => {
    const world = newWorld();
    const codec = await start(world, { threshold: 0 });
    for (const make of Object.values(kinds)) {
      const reference = await make(world, plain());
      expect((await codec.post('/encode', [reference])).text).toBe(toJson([reference]));
    }
  });
});

interface Vector {
  readonly name: string;
  readonly namespace: string;
  readonly metadata: Record<string, string> | null;
  readonly data: string;
  readonly claim: { readonly data: string };
}

async function goCodec(): Promise<{ codec: RunningCodec; claimCheck: ClaimCheck }> {
  const claimCheck = new ClaimCheck({ store: memoryStore() });
  const codec = await startCodec({ drivers: [], claimCheck, claims: 'go', threshold: 0 });
  cleanUps.push(() => codec.close());
  return { codec, claimCheck };
}
