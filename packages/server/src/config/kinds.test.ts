import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bytes, duration, formatBytes, formatDuration } from './kinds.js';
import { allSettings } from './settings.js';
import { nearest } from './suggestion.js';

describe('sizes and times', () => {
  it('are written so that they are read back as the same', () => {
    const anySize = bytes(0, Number.MAX_SAFE_INTEGER, '1GiB');
    const anyTime = duration(0, Number.MAX_SAFE_INTEGER, '1s');
    fc.assert(
      fc.property(fc.nat({ max: 2 ** 43 }), fc.constantFrom(1, 1000, 1024), (value, factor) => {
        expect(anySize.schema.parse(formatBytes(value))).toBe(value);
        expect(anySize.schema.parse(formatBytes((value % 4096) * factor ** 3))).toBe((value % 4096) * factor ** 3);
        expect(anyTime.schema.parse(formatDuration(value))).toBe(value);
      }),
    );
  });

  it('are short', () => {
    expect([1024 ** 3, 64 * 1024 ** 2, 200_000, 1500, 0].map(formatBytes)).toEqual([
      '1GiB',
      '64MiB',
      '200kB',
      '1500',
      '0',
    ]);
    expect([604_800_000, 30_000, 1500, 0].map(formatDuration)).toEqual(['7d', '30s', '1500ms', '0s']);
  });

  it('take fractions that come out even', () => {
    const size = bytes(0, 1e12, '1GiB').schema;
    expect(['1.001kB', '0.5KiB', '1 GiB', '64mib'].map((text) => size.parse(text))).toEqual([
      1001,
      512,
      2 ** 30,
      2 ** 26,
    ]);
    expect(size.safeParse('0.3B').success).toBe(false);
  });
});

describe('the table of settings', () => {
  it.each(allSettings)('has a default for %s that is a right value', (_name, setting) => {
    if (setting.default === undefined) return;
    const parsed = setting.kind.schema.parse(setting.default);
    expect(setting.kind.schema.parse(setting.kind.format(parsed))).toEqual(parsed);
  });

  it('has an example for every kind that is a right value itself', () => {
    for (const [name, { kind }] of allSettings) {
      const example = /such as ([^ ,)]+)/.exec(kind.expects)?.[1];
      if (example !== undefined) expect([name, kind.schema.safeParse(example).success]).toEqual([name, true]);
    }
  });

  it('has no flag twice', () => {
    const flags = allSettings.map(([, setting]) => setting.flag);
    expect(new Set(flags).size).toBe(flags.length);
  });
});

describe('suggestions', () => {
  const flags = allSettings.map(([, setting]) => setting.flag);

  it.each([
    ['prot', 'port'],
    ['dataDir', 'data-dir'],
    ['max_blob_byte', 'max-blob-bytes'],
    ['s3-endpint', 's3-endpoint'],
    ['xyzzy', undefined],
    ['', undefined],
  ])('for %s are %s', (unknown, name) => {
    expect(nearest(unknown, flags)).toBe(name);
  });
});
