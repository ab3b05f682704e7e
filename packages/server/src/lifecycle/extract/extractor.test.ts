import { randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { formatClaim, keyFor } from '@large-payload/core';
import { EncryptionCodec, ZlibCodec } from '@large-payload/temporal';
import type { Payload, PayloadCodec } from '@temporalio/common';
import proto from '@temporalio/proto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type ClaimForm,
  claimForms,
  digestNamed,
  foreignReference,
  goClaim,
  namespace,
  payload,
  plain,
  received,
  wrapped,
} from './extract-fixture.js';
import { type ExtractorOptions, openExtractor } from './extractor.js';
import { type Extraction, tooMuch } from './findings.js';

const { common, history } = proto.temporal.api;
const eventType = 'temporal.api.history.v1.HistoryEvent';
const secret = randomBytes(32);
const encryption = new EncryptionCodec({ keys: { k1: secret }, keyId: 'k1' });
const otherKey = new EncryptionCodec({ keys: { k1: randomBytes(32) }, keyId: 'k1' });
const compression = new ZlibCodec({ always: true });
const claim = goClaim('a blob');

function signal(...payloads: Payload[]): object {
  return received(eventType, { workflowExecutionSignaledEventAttributes: { input: { payloads } } });
}

function found(payloads: Payload | readonly Payload[], options: ExtractorOptions = {}): Promise<Extraction> {
  return openExtractor(options).extract(eventType, signal(...[payloads].flat()));
}

async function encoded(inner: Payload, ...codecs: PayloadCodec[]): Promise<Payload> {
  let current = inner;
  for (const codec of codecs) [current = inner] = await codec.encode([current]);
  return current;
}

const forms = Object.entries(claimForms).map(([name, form]) => [name, form('a blob')] as const);

describe('codecs', () => {
  it.each(forms)('that encrypt and compress hide nothing: %s', async (_, form) => {
    const sealed = await encoded(form.payload, compression, encryption);
    expect(await found(sealed, { codecs: { postStorage: [compression, encryption] } })).toEqual({
      edges: [form.edge],
      gaps: [],
    });
  });

  it('of a proxy are undone first, then those of the workers', async () => {
    const inProxy = await encoded(claim.payload, compression, encryption);
    expect(await found(inProxy, { codecs: { preStorage: [compression], postStorage: [encryption] } })).toEqual({
      edges: [claim.edge],
      gaps: [],
    });
    const proxyFirst = { codecs: { preStorage: [encryption], postStorage: [compression] } };
    const inWorker = await encoded(claim.payload, encryption, compression);
    expect((await found(inWorker, proxyFirst)).edges).toEqual([claim.edge]);
  });

  it('are used again when a payload was encoded twice', async () => {
    const twice = await encoded(claim.payload, compression, encryption, compression, encryption);
    const options = { codecs: { preStorage: [compression, encryption] } };
    expect(await found(twice, options)).toEqual({ edges: [claim.edge], gaps: [] });
  });

  it('get no claim: it is what stays in the history', async () => {
    const refuses: PayloadCodec = {
      encode: async (payloads) => payloads,
      decode: () => Promise.reject(new Error('asked for a blob')),
    };
    expect(await found(claim.payload, { codecs: { preStorage: [refuses] } })).toEqual({
      edges: [claim.edge],
      gaps: [],
    });
  });

  it('do not matter to the metadata that a claim keeps', async () => {
    const digest = digestNamed('a sealed blob');
    const metadata = { encoding: Buffer.from('binary/encrypted'), 'encryption-key-id': Buffer.from('gone') };
    const key = keyFor(namespace, digest, metadata);
    const inside = formatClaim({ metadata, size: 200_000, digest, key });
    const edges = [{ digest, namespace }];
    expect(await found(inside, { codecs: { preStorage: [encryption] } })).toEqual({ edges, gaps: [] });
    expect(await found(inside)).toEqual({ edges, gaps: [] });
  });

  it('that have another key make a gap', async () => {
    const sealed = await encoded(claim.payload, encryption);
    const { edges, gaps } = await found(sealed, { codecs: { preStorage: [otherKey] } });
    expect(edges).toEqual([]);
    expect(gaps).toEqual([
      'a payload of the encoding "binary/encrypted" cannot be decoded: an encrypted payload was changed, or its key is another one',
    ]);
  });

  it('that lost their key make none for an encoding that was declared free of claims', async () => {
    const sealed = await encoded(plain('nothing'), encryption);
    const options = { codecs: { preStorage: [otherKey] }, claimFreeEncodings: ['binary/encrypted'] };
    expect(await found(sealed, options)).toEqual({ edges: [], gaps: [] });
  });

  it('that are not configured make a gap that names the encoding, unless it was declared', async () => {
    const sealed = await encoded(plain('nothing'), encryption);
    const { gaps } = await found(sealed);
    expect(gaps).toEqual([expect.stringContaining('"binary/encrypted"')]);
    expect(await found(sealed, { claimFreeEncodings: ['binary/encrypted'] })).toEqual({ edges: [], gaps: [] });
  });

  it.each<[string, PayloadCodec['decode']]>([
    ['throws', () => Promise.reject(new SyntaxError('"my secret" is no JSON'))],
    [
      'throws at once',
      () => {
        throw new Error('no');
      },
    ],
    ['returns nothing', async () => []],
    ['returns something else', async () => [7] as unknown as Payload[]],
  ])('that %s make a gap', async (_, decode) => {
    const broken: PayloadCodec = { encode: async (payloads) => payloads, decode };
    const { gaps } = await found(plain(1), { codecs: { preStorage: [broken] } });
    expect(gaps).toEqual([
      expect.stringMatching(
        /"json\/plain" cannot be decoded: (its codec threw (Syntax)?Error|a codec did not return as many)/,
      ),
    ]);
    expect(gaps[0]).not.toContain('my secret');
  });

  it('that unpack too much make a gap', async () => {
    const bomb = await encoded(payload('binary/plain', Buffer.alloc(1_000_000)), compression);
    const small = new ZlibCodec({ maxBytes: 10_000 });
    const { gaps } = await found(bomb, { codecs: { preStorage: [small] } });
    expect(gaps).toEqual([expect.stringContaining('"binary/zlib" cannot be decoded')]);
  });

  it('get a copy, so that the message stays what it was', async () => {
    const careless: PayloadCodec = {
      encode: async (payloads) => payloads,
      async decode(payloads) {
        for (const one of payloads) one.data = null;
        return payloads;
      },
    };
    const message = signal(payload('json/plain', JSON.stringify(digestNamed('a blob'))));
    const { edges } = await openExtractor({ codecs: { preStorage: [careless] } }).extract(eventType, message);
    expect(edges).toEqual([{ digest: digestNamed('a blob') }]);
  });
});

describe('encodings', () => {
  it.each(['json/plain', 'json/protobuf', 'binary/plain', 'binary/protobuf', 'binary/null'])(
    '%s is understood',
    async (encoding) => {
      expect(await found(payload(encoding, 'xyz'))).toEqual({ edges: [], gaps: [] });
    },
  );

  it('that are not known, or missing, are gaps', async () => {
    expect((await found(payload('acme/v7', 'xyz'))).gaps).toEqual([expect.stringContaining('"acme/v7"')]);
    expect((await found({ data: Buffer.from('xyz') })).gaps).toEqual([expect.stringContaining('there is none')]);
    expect(await found({})).toEqual({ edges: [], gaps: [] });
  });

  it('are named up to a limit', async () => {
    const many = Array.from({ length: 100 }, (_, index) => payload(`acme/${index}`, 'x'));
    const { gaps } = await found(many);
    expect(gaps).toHaveLength(32);
    expect(gaps.at(-1)).toBe('there are more reasons than are listed');
    const [long = ''] = (await found(payload(`acme/${'x'.repeat(10_000)}`, 'x'))).gaps;
    expect(long.length).toBeLessThan(400);
  });
});

describe('references', () => {
  const hashValue = digestNamed('their object').slice('sha256:'.length);
  const theirs = { bucket: 'b', hashAlgorithm: 'sha256', hashValue };

  it("of Temporal's drivers are not ours", async () => {
    const s3 = foreignReference('aws.s3driver', { ...theirs, key: `v0/d/sha256/${hashValue}` });
    const gcs = foreignReference('gcp.gcsdriver', { ...theirs, object: `v0/ns/x/d/sha256/${hashValue}` });
    expect(await found([s3, gcs])).toEqual({ edges: [], gaps: [] });
  });

  it('of an unknown driver are gaps, unless it was declared', async () => {
    const unknown = foreignReference('acme', { id: '17' });
    expect((await found(unknown)).gaps).toEqual([expect.stringContaining('"driver:acme"')]);
    expect(await found(unknown, { claimFreeEncodings: ['driver:acme'] })).toEqual({ edges: [], gaps: [] });
  });

  it('of a later version of our driver hold what they name, and are gaps', async () => {
    const [, ours] = forms.find(([name]) => name === 'a reference of our driver') ?? [];
    const { driverName, claimData } = JSON.parse(Buffer.from(ours?.payload.data ?? []).toString());
    const { edges, gaps } = await found(foreignReference(driverName, { ...claimData, version: '2' }));
    expect([edges, gaps]).toEqual([[ours?.edge], [expect.stringContaining('a form that is not known')]]);
  });

  it.each([
    ['a claim of a later version', payload('json/plain', '{}', { 'temporal.io/remote-codec': 'v3' })],
    ['a claim without a digest', payload('json/plain', '{"size":1}', { 'temporal.io/remote-codec': 'v2' })],
    ['a reference that is no JSON', payload('json/external-storage-reference', '{')],
  ])('that cannot be read are gaps: %s', async (_, broken) => {
    const { edges, gaps } = await found(broken);
    expect([edges, gaps]).toEqual([[], [expect.stringContaining('cannot be read')]]);
  });
});

describe('what is found by searching', () => {
  it('is a digest without a namespace', async () => {
    const digest = digestNamed('a blob');
    expect(await found(plain({ see: digest }))).toEqual({ edges: [{ digest }], gaps: [] });
  });

  it('leaves out the metadata digest behind a key that was read', async () => {
    const { key } = JSON.parse(Buffer.from(claim.payload.data ?? []).toString());
    const digest = claim.edge.digest;
    const { edges } = await found([claim.payload, plain(key)]);
    expect(edges).toEqual([claim.edge, { digest }]);
    const alone = await found(plain(key));
    expect(alone.edges).toHaveLength(2);
    expect(alone.edges).toContainEqual({ digest });
  });

  it('takes in what was packed into a payload', async () => {
    const digest = digestNamed('a blob');
    const packed = payload('binary/plain', wrapped(Buffer.from(digest), ['zlib', 'base64 in JSON', 'gzip']));
    expect((await found(packed)).edges).toEqual([{ digest }]);
  });

  it('takes in metadata, its names as well', async () => {
    const digest = digestNamed('a blob');
    expect((await found(payload('json/plain', '1', { note: `see ${digest}` }))).edges).toEqual([{ digest }]);
    expect((await found(payload('json/plain', '1', { [digest]: '' }))).edges).toEqual([{ digest }]);
  });

  it('takes in the decoded forms', async () => {
    const digest = digestNamed('a blob');
    const sealed = await encoded(plain({ see: digest }), compression, encryption);
    const { edges } = await found(sealed, { codecs: { preStorage: [compression, encryption] } });
    expect(edges).toEqual([{ digest }]);
  });
});

/** Bytes and texts in which people put payloads. */
const carriers: Readonly<Record<string, (inner: Payload) => Payload>> = {
  'a payload': (inner) => payload('binary/protobuf', common.v1.Payload.encode(inner).finish()),
  'a list of payloads': (inner) => {
    const payloads = [payload('binary/null', ''), plain('before'), inner, plain('behind')];
    return payload('binary/protobuf', common.v1.Payloads.encode({ payloads }).finish());
  },
  'an event': (inner) => {
    const event = { userMetadata: { summary: inner } };
    return payload('binary/protobuf', history.v1.HistoryEvent.encode(event).finish());
  },
  'JSON of a message': (inner) => payload('json/protobuf', JSON.stringify({ args: { payloads: [jsonOf(inner)] } })),
  'JSON, data first': (inner) => {
    const { metadata, data } = jsonOf(inner);
    return payload('json/plain', JSON.stringify([{ data, externalPayloads: [{ sizeBytes: '7' }], metadata }], null, 2));
  },
  'JSON, sizes between': (inner) => {
    const { metadata, data } = jsonOf(inner);
    return payload('json/plain', JSON.stringify({ metadata, externalPayloads: [{ sizeBytes: '7' }], data }));
  },
  'JSON in JSON': (inner) => plain({ text: JSON.stringify({ text: JSON.stringify(jsonOf(inner)) }) }),
  'base64 of a payload, in JSON': (inner) =>
    plain({ body: Buffer.from(common.v1.Payload.encode(inner).finish()).toString('base64') }),
  'JSON, packed': (inner) => payload('binary/plain', gzipSync(`x ${JSON.stringify(jsonOf(inner))} y`)),
  "the input of the server's batch workflow": (inner) =>
    plain({
      Namespace: 'orders',
      BatchType: 'signal',
      SignalParams: { SignalName: 'go', Input: { payloads: [jsonOf(inner)] } },
    }),
};

function jsonOf({ metadata, data }: Payload): { metadata: Record<string, string>; data: string } {
  const entries = Object.entries(metadata ?? {}).map(([name, value]) => [name, Buffer.from(value).toString('base64')]);
  return { metadata: Object.fromEntries(entries), data: Buffer.from(data ?? []).toString('base64') };
}

describe('payloads inside others', () => {
  const pairs = Object.keys(carriers).flatMap((carrier) => forms.map(([name, form]) => [carrier, name, form] as const));

  it.each(pairs)('are read: in %s, %s', async (carrier, _, form) => {
    const { edges, gaps } = await found(carriers[carrier]?.(form.payload) ?? []);
    expect(edges).toContainEqual(form.edge);
    expect(gaps).toEqual([]);
  });

  it.each(Object.keys(carriers))('are decoded by the codecs: in %s', async (carrier) => {
    const sealed = await encoded(claim.payload, encryption);
    const outer = carriers[carrier]?.(sealed) ?? [];
    expect(await found(outer, { codecs: { preStorage: [encryption] } })).toEqual({ edges: [claim.edge], gaps: [] });
    expect((await found(outer)).gaps).toEqual([expect.stringContaining('"binary/encrypted"')]);
  });

  it.each(Object.keys(carriers))('are decoded when the outer one is encrypted, too: in %s', async (carrier) => {
    const codecs = { preStorage: [compression, encryption] };
    const inner = await encoded(claim.payload, compression, encryption);
    const outer = await encoded(carriers[carrier]?.(inner) ?? {}, compression, encryption);
    const { edges, gaps } = await found(outer, { codecs });
    expect([edges, gaps]).toEqual([[claim.edge], []]);
  });

  it('with any order of metadata', async () => {
    const sealed = await encoded(claim.payload, encryption);
    const names = Object.entries(sealed.metadata ?? {});
    const more = ['a', 'b'].map((name) => [name, randomBytes(40)] as [string, Uint8Array]);
    const options = { codecs: { preStorage: [encryption] } };
    await fc.assert(
      fc.asyncProperty(fc.shuffledSubarray([...names, ...more], { minLength: 4 }), async (entries) => {
        const inner = { ...sealed, metadata: Object.fromEntries(entries) };
        for (const carrier of Object.values(carriers)) {
          const { edges } = await found(carrier(inner), options);
          if (edges[0]?.namespace !== namespace) return false;
        }
        return true;
      }),
      { numRuns: 24 },
    );
  });

  it('are not seen in what only looks like one', async () => {
    const other = { metadata: { encoding: 'gzip', charset: 'utf-8' }, data: 'some text' };
    expect(await found(plain(other))).toEqual({ edges: [], gaps: [] });
  });

  it('without data are left alone, whatever their encoding', async () => {
    const empty = { metadata: { encoding: Buffer.from('binary/encrypted').toString('base64') }, data: '' };
    const list = common.v1.Payloads.encode({ payloads: [payload('binary/encrypted', ''), plain(1)] }).finish();
    const codecs = { preStorage: [encryption] };
    expect(await found([plain(empty), payload('binary/protobuf', list)], { codecs })).toEqual({ edges: [], gaps: [] });
  });

  it('are bounded', async () => {
    let nested = (await encoded(plain(1), encryption)) as Payload;
    for (let level = 0; level < 12; level += 1)
      nested = await encoded(payload('binary/protobuf', common.v1.Payload.encode(nested).finish()), encryption);
    expect((await found(nested, { codecs: { preStorage: [encryption] } })).gaps).toEqual([tooMuch]);
  });
});

describe('messages', () => {
  it.each([
    ['a claim', claim.payload, { edges: expect.arrayContaining([claim.edge]), gaps: [] }],
    // what only the type tells
    ['a payload without an encoding', { data: Buffer.from('x') }, { edges: [], gaps: [expect.any(String)] }],
  ])('in an Any are read by their type: %s', async (_, summary, expected) => {
    const value = history.v1.HistoryEvent.encode({ userMetadata: { summary } }).finish();
    const any = { type_url: `type.googleapis.com/${eventType}`, value };
    const message = received('temporal.api.protocol.v1.Message', { body: any });
    expect(await openExtractor().extract('temporal.api.protocol.v1.Message', message)).toEqual(expected);
  });

  it('with fields of a newer server are searched, where the reader keeps those', async () => {
    const bytes = Buffer.from(history.v1.HistoryEvent.encode({ userMetadata: { summary: claim.payload } }).finish());
    // as the field 2000 of an event
    const unknown = Buffer.concat([
      Buffer.from([0x82, 0x7d]),
      Buffer.from([(bytes.length & 0x7f) | 0x80, bytes.length >> 7]),
      bytes,
    ]);
    const message = Object.defineProperty(history.v1.HistoryEvent.create({}), '$unknowns', { value: [unknown] });
    expect((await openExtractor().extract(eventType, message)).edges).toContainEqual(claim.edge);
  });

  it('with payloads that have fields of a newer server are searched, too', async () => {
    const unknown = Buffer.concat([Buffer.from([0x3a, 71]), Buffer.from(digestNamed('a blob'))]);
    const summary = Object.defineProperty(common.v1.Payload.create(plain(1)), '$unknowns', { value: [unknown] });
    const { edges } = await openExtractor().extract(eventType, { userMetadata: { summary } });
    expect(edges).toEqual([{ digest: digestNamed('a blob') }]);
  });

  it('of one holder are collected, each edge once', async () => {
    const other: ClaimForm = goClaim('another');
    const collection = openExtractor().collect();
    await collection.add(eventType, signal(claim.payload, claim.payload));
    await collection.add(eventType, signal(other.payload, claim.payload));
    expect(collection.result()).toEqual({ edges: [claim.edge, other.edge], gaps: [] });
  });

  it('that are no such messages are gaps', async () => {
    const extractor = openExtractor();
    const gapsOf = async (type: string, message: unknown): Promise<readonly string[]> =>
      (await extractor.extract(type, message as object)).gaps;
    expect(await gapsOf('temporal.api.history.v9.Event', {})).toHaveLength(1);
    expect(await gapsOf(eventType, null)).toHaveLength(1);
    expect(await gapsOf(eventType, { userMetadata: 7 })).toHaveLength(1);
    expect(await gapsOf(eventType, { userMetadata: { summary: { data: 'text' } } })).toHaveLength(1);
    expect(await gapsOf(eventType, { userMetadata: { summary: { metadata: { encoding: 7 } } } })).toHaveLength(1);
  });

  it('that are too large, or have no end, are gaps', async () => {
    const failure: Record<string, unknown> = { message: 'again' };
    failure.cause = failure;
    const message = { workflowExecutionFailedEventAttributes: { failure } };
    const extractor = openExtractor({ limits: { partsPerMessage: 1000 } });
    expect((await extractor.extract(eventType, message)).gaps).toEqual([tooMuch]);
  });

  it('that nest deeper than a call can are read', async () => {
    let failure: object = { encodedAttributes: claim.payload };
    for (let level = 0; level < 20_000; level += 1) failure = { cause: failure };
    const message = { workflowExecutionFailedEventAttributes: { failure } };
    expect((await openExtractor().extract(eventType, message)).edges).toEqual([claim.edge]);
  });

  it('of whatever kind do no harm', async () => {
    const codecs = { preStorage: [compression, encryption] };
    const extractor = openExtractor({ codecs });
    const before = Object.getOwnPropertyNames(Object.prototype).join();
    const data = fc.uint8Array({ maxLength: 300 });
    const encoding = fc.constantFrom('json/plain', 'binary/zlib', 'binary/encrypted', 'json/protobuf', '__proto__');
    const names = fc.constantFrom('encoding', 'messageType', 'temporal.io/remote-codec', '__proto__', 'constructor');
    const metadata = fc.dictionary(names, fc.oneof(data, encoding.map(Buffer.from)));
    const anyPayload = fc.record({ metadata, data: fc.oneof(data, fc.json().map(Buffer.from)) });
    await fc.assert(
      fc.asyncProperty(fc.array(anyPayload), fc.anything({ withNullPrototype: true }), async (payloads, anything) => {
        const { edges } = await extractor.extract(eventType, signal(...payloads));
        const second = await extractor.extract(eventType, { userMetadata: anything, taskId: anything });
        return edges.length === 0 && second.edges.length === 0;
      }),
      { numRuns: 500 },
    );
    expect(Object.getOwnPropertyNames(Object.prototype).join()).toBe(before);
  });
});
