import { randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { digestNamed, goClaim, wrapped, wrappings } from './extract-fixture.js';
import { type Extraction, Findings, tooMuch } from './findings.js';
import { Budget, defaultLimits, type ExtractLimits } from './limits.js';
import { Search } from './search.js';

const digest = digestNamed('a blob');
const names = Object.keys(wrappings);

function searched(bytes: Uint8Array, limits: Partial<ExtractLimits> = {}): Extraction {
  const all = { ...defaultLimits, ...limits };
  const findings = new Findings(all);
  new Search({ findings, budget: new Budget(all), depth: all.depth, onPayload: () => {} }).run(bytes);
  return findings.result();
}

function digestsIn(bytes: Uint8Array, limits: Partial<ExtractLimits> = {}): string[] {
  return searched(bytes, limits).edges.map((edge) => edge.digest);
}

describe('the search finds a digest', () => {
  const hex = digest.slice('sha256:'.length);

  it.each([
    ['alone', digest],
    ['without its algorithm', hex],
    ['in capitals', hex.toUpperCase()],
    ['in a text', `the blob is ${digest}, or was`],
    ['as the name of an object', `blobs/${digest}`],
    ['in a URL', `https://lps/v3/blobs?key=%2Fblobs%2Forders%2Fcommon%2Fsha256%3A${hex}%2Fx`],
    ['behind a letter that could be a digit of it', `blob${hex}`],
    ['before one', `${hex}e`],
    ['among others in a row', `${digestNamed('x').slice(7)}${hex}${digestNamed('y').slice(7)}`],
    ['at the end of something else', `\u0000\u0001${hex}`],
  ])('%s', (_, text) => {
    expect(digestsIn(Buffer.from(text))).toContain(digest);
  });

  it.each([`${hex.slice(1)}`, `${hex.slice(0, 40)} ${hex.slice(40)}`, hex.replace(/.$/, 'g')])(
    'but not in %s',
    (text) => {
      expect(searched(Buffer.from(text))).toEqual({ edges: [], gaps: [] });
    },
  );

  const wraps = names.flatMap((outer) => [[outer], ...names.map((inner) => [inner, outer])]);
  it.each(wraps.map((wrap) => [wrap.join(', in '), wrap] as const))('in %s', (_, wrap) => {
    expect(digestsIn(wrapped(Buffer.from(`{"key":"${digest}"}`), wrap))).toContain(digest);
  });

  it('in whatever nesting of four', () => {
    const claim = Buffer.from(goClaim('a blob').payload.data ?? []);
    const nesting = fc
      .array(fc.constantFrom(...names), { maxLength: 4 })
      // this one is two: base64, and a JSON string around it
      .filter((wrap) => wrap.length + wrap.filter((name) => name === 'base64 with escaped slashes').length <= 4);
    fc.assert(
      fc.property(
        nesting,
        fc.uint8Array({ maxLength: 60 }),
        fc.uint8Array({ maxLength: 60 }),
        (wrap, before, after) => {
          const bytes = Buffer.concat([before, Buffer.from('|'), wrapped(claim, wrap), Buffer.from('|'), after]);
          return digestsIn(bytes).includes(digest);
        },
      ),
      { numRuns: 1500 },
    );
  });

  it('but no deeper than it was told', () => {
    const bytes = wrapped(Buffer.from(digest), ['base64', 'gzip', 'base64']);
    expect(digestsIn(bytes, { depth: 3 })).toEqual([digest]);
    expect(digestsIn(bytes, { depth: 2 })).toEqual([]);
  });

  it('in base64 that begins behind letters, digits and slashes of something else', () => {
    for (const before of ['a', '/b', 'abc', 'path/to/', 'v1_']) {
      expect(digestsIn(Buffer.from(`${before}${Buffer.from(digest).toString('base64')}`))).toEqual([digest]);
    }
  });

  it('in compressed bytes that were cut off, or have something behind them', () => {
    const packed = gzipSync(`${digest}${randomBytes(5000).toString('hex')} ${digest}`);
    expect(digestsIn(packed.subarray(0, 3000))).toContain(digest);
    expect(digestsIn(Buffer.concat([packed, randomBytes(100)]))).toContain(digest);
  });

  it('in several streams, one behind the other', () => {
    const streams = ['a', 'b', 'c'].map((name) => wrapped(Buffer.from(digestNamed(name)), ['zlib']));
    expect(digestsIn(Buffer.concat(streams))).toEqual(['a', 'b', 'c'].map(digestNamed));
  });
});

describe('the search is bounded', () => {
  const mebibyte = 1024 * 1024;

  it('by the bytes that it unpacks', () => {
    const bomb = gzipSync(Buffer.alloc(100 * mebibyte));
    expect(searched(bomb)).toEqual({ edges: [], gaps: [tooMuch] });
    expect(searched(gzipSync(gzipSync(gzipSync(Buffer.alloc(100 * mebibyte)))))).toEqual({
      edges: [],
      gaps: [tooMuch],
    });
    expect(searched(gzipSync(Buffer.alloc(10 * mebibyte)))).toEqual({ edges: [], gaps: [] });
  });

  it('by the bytes that it unwraps, of one payload and of all', () => {
    const text = wrapped(Buffer.from(`${randomBytes(3000).toString('hex')} ${digest}`), ['base64']);
    expect(searched(text, { unwrappedBytesPerPayload: 2000 }).gaps).toEqual([tooMuch]);
    expect(searched(text, { unwrappedBytesPerMessage: 2000 }).gaps).toEqual([tooMuch]);
    expect(searched(text).gaps).toEqual([]);
  });

  it('by what was unpacked in vain, too', () => {
    const limits = { ...defaultLimits, unwrappedBytesPerPayload: mebibyte };
    const budget = new Budget(limits);
    const search = new Search({ findings: new Findings(limits), budget, depth: 4, onPayload: () => {} });
    search.run(gzipSync(Buffer.alloc(2 * mebibyte)));
    expect(budget.bytes).toBe(0);
  });

  it('by the memory that unpacking takes', () => {
    const bomb = gzipSync(Buffer.alloc(256 * mebibyte), { level: 1 });
    const before = process.resourceUsage().maxRSS;
    expect(searched(bomb, { unwrappedBytesPerPayload: mebibyte }).gaps).toEqual([tooMuch]);
    expect(process.resourceUsage().maxRSS - before).toBeLessThan(64 * 1024); // in KiB
  });

  it('by the number of edges', () => {
    const many = Array.from({ length: 20 }, (_, index) => digestNamed(`${index}`)).join(' ');
    const { edges, gaps } = searched(Buffer.from(many), { edges: 10 });
    expect([edges.length, gaps]).toEqual([10, [tooMuch]]);
  });

  it('by the places that look like compressed bytes', () => {
    const lures = Buffer.concat(Array.from({ length: 200 }, () => Buffer.from([0x78, 0x9c, 0x03, 0xff, 0x80, 0x81])));
    expect(searched(lures, { streamsPerMessage: 50 }).gaps).toEqual([tooMuch]);
    expect(searched(lures).gaps).toEqual([]);
  });

  it('by the payloads that are inside', () => {
    const one = Buffer.from('{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"MTIz"} ');
    expect(searched(Buffer.concat([one, one, one]), { embeddedPerMessage: 2 }).gaps).toEqual([tooMuch]);
  });

  it('by the sizes beside one payload', () => {
    const sizes = ',"externalPayloads":[]'.repeat(50_000);
    const behind = `{"metadata":{"encoding":"anNvbi9wbGFpbg=="}${sizes},"data":"MQ=="}`;
    const before = `{"data":"MQ=="${sizes},"metadata":{"encoding":"anNvbi9wbGFpbg=="}}`;
    expect(searched(Buffer.from(behind + before))).toEqual({ edges: [], gaps: [] });
  });

  it.each([
    ['one letter', 'A'],
    ['hexadecimal digits', 'abcdef0123456789'],
    ['quotes', '"'],
    ['backslashes', '\\'],
    ['escapes', '\\u005c'],
    ['escaped quotes', '\\"a'],
    ['starts of streams', 'x\u009c'],
    ['starts of streams as text', 'x^'],
    ['starts of lists', '[{"metadata":{'],
    ['metadata', '"metadata":{"encoding":"'],
    ['whole metadata', '{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"externalPayloads":[],'],
    ['payloads', '{"metadata":{"encoding":"anNvbi9wbGFpbg=="},"data":"MQ=="}'],
    ['entries', '\n\u0016\n\u0008encoding\u0012\njson/plain'],
    ['lines of base64', `${'QUJD'.repeat(19)}\n`],
    ['base64 of the like', 'eJx4nHic'],
  ])('with a mebibyte of %s', (_, part) => {
    const bytes = Buffer.from(part.repeat(Math.ceil(mebibyte / part.length)), 'latin1');
    const { edges, gaps } = searched(bytes);
    expect(edges.length).toBeLessThan(5);
    expect(gaps.filter((gap) => gap !== tooMuch)).toEqual([]);
  });

  it('whatever the bytes are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 5000, size: 'max' }), (bytes) => {
        const { edges, gaps } = searched(bytes);
        return edges.length < 10 && gaps.length === 0;
      }),
    );
    for (let run = 0; run < 20; run += 1) expect(searched(randomBytes(mebibyte)).edges).toEqual([]);
  });
});
