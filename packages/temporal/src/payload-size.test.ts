import { serializedPayloadSize } from '@large-payload/core';
import proto from '@temporalio/proto';
import fc from 'fast-check';
import Long from 'long';
import { expect, it } from 'vitest';

const { Payload } = proto.temporal.api.common.v1;

const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 300 }),
  fc.constantFrom(127, 128, 16_383, 16_384, 70_000).map((size) => new Uint8Array(size)),
);
const data = fc.option(bytes, { nil: undefined });
const metadata = fc.dictionary(fc.oneof(fc.string({ unit: 'binary' }), fc.constant('encoding')), bytes, { maxKeys: 5 });
const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const externalPayloads = fc.array(fc.record({ sizeBytes: int64.map((value) => Long.fromString(`${value}`)) }), {
  maxLength: 3,
});

it('is the length of the protobuf encoding', () => {
  fc.assert(
    fc.property(metadata, data, externalPayloads, (metadata, data, externalPayloads) => {
      const payload = { metadata, externalPayloads, ...(data === undefined ? {} : { data }) };
      expect(serializedPayloadSize(payload)).toBe(Payload.encode(payload).finish().length);
    }),
    { numRuns: 500 },
  );
});

it('does not count what an encoder leaves out', () => {
  expect(serializedPayloadSize({})).toBe(0);
  expect(serializedPayloadSize({ metadata: null, data: null, externalPayloads: null })).toBe(0);
  expect(serializedPayloadSize({ data: new Uint8Array() })).toBe(0);
  expect(serializedPayloadSize({ externalPayloads: [{}, { sizeBytes: 0 }] })).toBe(4);
  expect(serializedPayloadSize({ metadata: { '': new Uint8Array() } })).toBe(6);
});
