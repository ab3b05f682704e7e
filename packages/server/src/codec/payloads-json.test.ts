import { isLpsError } from '@large-payload/core';
import proto from '@temporalio/proto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { toJson } from './codec-fixture.js';
import { bodyLimits, formatPayloads, parsePayloads } from './payloads-json.js';

const parse = (text: string): ReturnType<typeof parsePayloads> => parsePayloads(Buffer.from(text));
const format = (text: string): string => [...formatPayloads(parse(text))].join('');

function codeOf(text: string | Buffer): string {
  try {
    parsePayloads(Buffer.from(text as string));
    return 'none';
  } catch (error) {
    return isLpsError(error) && /^[^\n]{1,200}$/.test(error.message) ? error.code : String(error);
  }
}

describe('payloads as proto JSON', () => {
  it('are read as protojson reads them', () => {
    const bytes = (...values: number[]): Uint8Array => new Uint8Array(values);
    const same: [string, object][] = [
      ['{"payloads":[{"data":"-_8="}]}', { data: bytes(251, 255) }],
      ['{"payloads":[{"data":"+/8"}]}', { data: bytes(251, 255) }],
      ['{"payloads":[{"data":null,"metadata":null,"externalPayloads":null}]}', {}],
      ['{"payloads":[{"external_payloads":[{"size_bytes":7}]}]}', { externalPayloads: [{ sizeBytes: 7 }] }],
      [
        '{"payloads":[{"externalPayloads":[{"sizeBytes":"7"},{}]}]}',
        { externalPayloads: [{ sizeBytes: 7 }, { sizeBytes: 0 }] },
      ],
      [
        '{"payloads":[{"externalPayloads":[{"sizeBytes":"9223372036854775807"}]}]}',
        { externalPayloads: [{ sizeBytes: '9223372036854775807' }] },
      ],
      ['{"payloads":[{"data":"AQ==","news":{"a":[1,{}]}}],"more":1}', { data: bytes(1) }],
    ];
    for (const [text, payload] of same) expect([text, parse(text)]).toEqual([text, [payload]]);
  });

  it('are written with standard base64, sizes as text, and nothing that was not there', () => {
    expect(format('{"payloads":[{"external_payloads":[{"size_bytes":-1}],"data":"-_8"},{}]}')).toBe(
      '{"payloads":[{"data":"+/8=","externalPayloads":[{"sizeBytes":"-1"}]},{}]}',
    );
    const large = new Uint8Array(600_001).map((_, index) => index);
    const text = [...formatPayloads([{ data: large }])].join('');
    expect(text).toBe(`{"payloads":[{"data":"${Buffer.from(large).toString('base64')}"}]}`);
  });

  it('are refused in one line when they are something else', () => {
    const wrong = [
      '',
      'x',
      '[]',
      '1',
      'null',
      '{"payloads":{}}',
      '{"payloads":[null]}',
      '{"payloads":[[]]}',
      '{"payloads":["x"]}',
      '{"payloads":[{"data":1}]}',
      '{"payloads":[{"data":"a"}]}',
      '{"payloads":[{"data":"AQ="}]}',
      '{"payloads":[{"data":"A!=="}]}',
      '{"payloads":[{"data":"===="}]}',
      '{"payloads":[{"metadata":[]}]}',
      '{"payloads":[{"metadata":{"a":null}}]}',
      '{"payloads":[{"metadata":{"__proto__":"AA=="}}]}',
      '{"payloads":[{"externalPayloads":{}}]}',
      '{"payloads":[{"externalPayloads":[{"sizeBytes":"9223372036854775808"}]}]}',
      '{"payloads":[{"externalPayloads":[{"sizeBytes":1.5}]}]}',
      '{"payloads":[{"externalPayloads":[],"external_payloads":[]}]}',
      `{"payloads":[${Array(bodyLimits.payloads + 1)
        .fill('{}')
        .join(',')}]}`,
      `{"payloads":[{"metadata":{${Array.from({ length: 257 }, (_, index) => `"${index}":""`).join(',')}}}]}`,
    ];
    for (const text of wrong)
      expect([text.slice(0, 80), codeOf(text)]).toEqual([text.slice(0, 80), 'INVALID_ARGUMENT']);
    expect(codeOf(Buffer.from([0x7b, 0xff, 0x7d]))).toBe('INVALID_ARGUMENT');
  });

  it('cost no more than their bytes: deep nesting and millions of parts are refused before they are parsed', () => {
    const before = process.memoryUsage().heapUsed;
    for (const text of [
      '['.repeat(5_000_000),
      `{"a":${'['.repeat(40)}${']'.repeat(40)}}`,
      `{"payloads":[${'{},'.repeat(5_000_000)}{}]}`,
      `{"payloads":[${'1,'.repeat(5_000_000)}1]}`,
    ]) {
      expect([text.length, codeOf(text)]).toEqual([text.length, 'INVALID_ARGUMENT']);
    }
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(100 * 1024 * 1024);
    // what stands in a text is not structure
    const text = `{"payloads":[{"metadata":{${JSON.stringify('[{"\\'.repeat(100))}:"AA=="}}]}`;
    expect(format(text)).toBe(text);
  });

  it('come out as they went in, whatever they are', () => {
    const bytes = fc.uint8Array({ maxLength: 40 });
    const name = fc.string({ unit: 'binary', maxLength: 12 }).filter((one) => one !== '__proto__');
    const payload = fc.record(
      {
        metadata: fc.dictionary(name, bytes, { maxKeys: 5, noNullPrototype: true }),
        data: bytes,
        externalPayloads: fc.array(fc.record({ sizeBytes: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }) }), {
          minLength: 1,
          maxLength: 3,
        }),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(fc.array(payload, { maxLength: 6 }), (payloads) => {
        const text = toJson(payloads as never);
        expect(format(text)).toBe(text);
      }),
    );
  });

  it('are never more than a refusal, whatever the body is, and no prototype changes', () => {
    const words = [
      '__proto__',
      'constructor',
      'prototype',
      'payloads',
      'metadata',
      'data',
      'externalPayloads',
      'sizeBytes',
      'AA==',
    ];
    const key = fc.oneof(fc.constantFrom(...words), fc.string());
    const { json } = fc.letrec((tie) => ({
      leaf: fc.oneof(key, fc.integer(), fc.double(), fc.boolean(), fc.constant(null)),
      json: fc.oneof(
        { maxDepth: 6 },
        tie('leaf'),
        fc.array(tie('json'), { maxLength: 5 }),
        fc.array(fc.tuple(key, tie('json')), { maxLength: 5 }).map((entries) => ({ entries })),
      ),
    }));
    const write = (value: unknown): string => {
      if (Array.isArray(value)) return `[${value.map(write).join(',')}]`;
      if (typeof value !== 'object' || value === null) return JSON.stringify(value);
      const { entries } = value as { entries: [string, unknown][] };
      return `{${entries.map(([name, one]) => `${JSON.stringify(name)}:${write(one)}`).join(',')}}`;
    };
    const body = fc.oneof(
      json.map((value) => `{"payloads":[${write(value)}]}`),
      fc
        .tuple(json, json)
        .map(([a, b]) => `{"payloads":[{"metadata":${write(a)},"data":${write(b)},"externalPayloads":[${write(b)}]}]}`),
      json.map(write),
      fc.string(),
    );
    const prototypes = [Object.prototype, Array.prototype, Uint8Array.prototype, Function.prototype];
    const before = prototypes.map((one) => Reflect.ownKeys(one).length);
    fc.assert(
      fc.property(body, (text) => {
        expect(['none', 'INVALID_ARGUMENT']).toContain(codeOf(text));
        expect(prototypes.map((one) => Reflect.ownKeys(one).length)).toEqual(before);
      }),
      { numRuns: 2000 },
    );
  });

  it('are read in one pass, however hard their text is to read', () => {
    // with a second pass for each character these would take hours
    const bytes = 8 * 1024 * 1024;
    for (const unit of ['\\\\', '"', '"\\"', '{"a":"', '=', '[{"x":[', '\\"']) {
      const text = `{"payloads":[{"data":"${unit.repeat(bytes / unit.length)}"}]}`;
      expect([unit, codeOf(text)]).toEqual([unit, 'INVALID_ARGUMENT']);
    }
  });

  it('are understood by protobufjs, sizes beyond 2^53 included', () => {
    const { Payload } = proto.temporal.api.common.v1;
    const [payload] = parse('{"payloads":[{"data":"AQ==","externalPayloads":[{"sizeBytes":"9007199254740993"}]}]}');
    const decoded = Payload.decode(Payload.encode(payload ?? {}).finish());
    expect(String(decoded.externalPayloads[0]?.sizeBytes)).toBe('9007199254740993');
  });
});
