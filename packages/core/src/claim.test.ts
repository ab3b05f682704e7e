import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatClaim, isClaimPayload, type Payload, parseClaim, parseClaimJson } from './claim.js';
import { digestOf } from './digest.js';
import { keyFor } from './key.js';
import type { Metadata } from './metadata.js';

interface Vector {
  name: string;
  namespace: string;
  metadata: Record<string, string> | null;
  data: string;
  claim: { metadata: Record<string, string>; data: string };
}

const vectors: Vector[] = JSON.parse(
  readFileSync(new URL('../../../test/vectors/go-codec-v2.json', import.meta.url), 'utf8'),
);
const bytesOf = (metadata: Record<string, string>): Record<string, Uint8Array> =>
  Object.fromEntries(Object.entries(metadata).map(([name, value]) => [name, Buffer.from(value, 'base64')]));

describe('claims of the Go codec', () => {
  it('are all there', () => {
    expect(vectors.length).toBeGreaterThanOrEqual(8);
  });

  it.each(vectors)('$name: written byte for byte', ({ namespace, metadata, data, claim }) => {
    const bytes = Buffer.from(data, 'base64');
    const own = metadata && bytesOf(metadata);
    const digest = digestOf(bytes);
    const payload = formatClaim({ metadata: own, size: bytes.length, digest, key: keyFor(namespace, digest, own) });
    expect(Buffer.from(payload.data ?? []).toString('utf8')).toBe(claim.data);
    expect(bytesOf(claim.metadata)).toEqual(payload.metadata);
  });

  it.each(vectors)('$name: read', ({ namespace, metadata, data, claim }) => {
    const bytes = Buffer.from(data, 'base64');
    const parsed = parseClaim({ metadata: bytesOf(claim.metadata), data: Buffer.from(claim.data) });
    const own = metadata && bytesOf(metadata);
    expect(parsed.metadata && { ...parsed.metadata }).toEqual(own);
    expect(parsed).toMatchObject({
      size: bytes.length,
      digest: digestOf(bytes),
      key: keyFor(namespace, digestOf(bytes), own),
    });
  });
});

const digest = digestOf(Buffer.from('x'));
const key = keyFor('n', digest, null);
const good = { metadata: null, size: 1, digest, key };
const claimPayload = (data: unknown, version = 'v2'): Payload => ({
  metadata: { encoding: Buffer.from('json/plain'), 'temporal.io/remote-codec': Buffer.from(version) },
  data: Buffer.from(typeof data === 'string' ? data : JSON.stringify(data)),
});

describe('parseClaim', () => {
  it('reads v1 claims, which have no key', () => {
    const { key: _, ...v1 } = good;
    expect(parseClaim(claimPayload(v1, 'v1'))).toEqual({ metadata: null, size: 1, digest });
  });

  it('reads field names without regard to case, as Go does', () => {
    expect(parseClaim(claimPayload({ Metadata: null, Size: 1, Digest: digest, KEY: key }))).toEqual(good);
  });

  it('escapes what Go escapes', () => {
    const odd = { 'a<b>&\u2028': Buffer.from('1') };
    const oddKey = keyFor('n<&>', digest, odd);
    const text = Buffer.from(formatClaim({ metadata: odd, size: 1, digest, key: oddKey }).data ?? []).toString();
    expect(text).toContain('"a\\u003cb\\u003e\\u0026\\u2028":"MQ=="');
    expect(text).toContain('/blobs/n\\u003c\\u0026\\u003e/common/');
    expect(parseClaim(claimPayload(text)).key).toBe(oddKey);
  });

  it.each<[string, Payload]>([
    ['another version', claimPayload(good, 'v3')],
    ['no data', claimPayload('')],
    ['no JSON', claimPayload('{')],
    ['a list', claimPayload([])],
    ['a text', claimPayload('"x"')],
    ['a negative size', claimPayload({ ...good, size: -1 })],
    ['a broken size', claimPayload({ ...good, size: 1.5 })],
    ['a size that is a text', claimPayload({ ...good, size: '1' })],
    ['no digest', claimPayload({ ...good, digest: undefined })],
    ['a digest in upper case', claimPayload({ ...good, digest: digest.toUpperCase() })],
    ['no key', claimPayload({ ...good, key: undefined })],
    ['a key with ..', claimPayload({ ...good, key: key.replace('/n/', '/../') })],
    ['the key of another digest', claimPayload({ ...good, key: keyFor('n', digestOf(Buffer.from('y')), null) })],
    ['metadata that is a list', claimPayload({ ...good, metadata: [] })],
    ['metadata with a number', claimPayload({ ...good, metadata: { a: 1 } })],
    ['metadata that is not base64', claimPayload({ ...good, metadata: { a: '!' } })],
    ['3 MB of JSON', claimPayload({ ...good, note: 'x'.repeat(3e6) })],
  ])('refuses a claim with %s', (_what, payload) => {
    expect(() => parseClaim(payload)).toThrow(expect.objectContaining({ code: 'INVALID_CLAIM' }));
  });

  it('knows claims by their marker, also when their prototype is none', () => {
    expect(isClaimPayload(claimPayload(good))).toBe(true);
    expect(isClaimPayload({ metadata: { encoding: Buffer.from('json/plain') } })).toBe(false);
    expect(isClaimPayload({})).toBe(false);
  });

  it('never crashes, and never touches a prototype', () => {
    const before = JSON.stringify(Object.getOwnPropertyNames(Object.prototype));
    fc.assert(
      fc.property(fc.oneof(fc.json(), fc.string(), fc.uint8Array()), (data) => {
        try {
          parseClaimJson(data);
        } catch (error) {
          expect(error).toMatchObject({ code: 'INVALID_CLAIM' });
        }
      }),
      { numRuns: 500 },
    );
    const text = `{"metadata":{"__proto__":"MQ=="},"size":1,"digest":"${digest}","key":"${key}"}`;
    expect(Object.keys(parseClaimJson(text).metadata ?? {})).toEqual(['__proto__']);
    expect(JSON.stringify(Object.getOwnPropertyNames(Object.prototype))).toBe(before);
  });

  it('reads back what it wrote', () => {
    const metadata = fc.dictionary(fc.string({ unit: 'binary' }), fc.uint8Array()).map((record): Metadata | null => {
      const names = Object.keys(record).filter((name) => name !== 'remote-codec/key-prefix');
      return names.length === 0
        ? null
        : Object.fromEntries(names.map((name) => [name, record[name] ?? new Uint8Array()]));
    });
    fc.assert(
      fc.property(metadata, fc.nat(), (own, size) => {
        const claim = { metadata: own, size, digest, key: keyFor('n', digest, own) };
        const read = parseClaim(formatClaim(claim));
        expect(read.key).toBe(claim.key);
        expect(read.size).toBe(size);
        for (const [name, value] of Object.entries(own ?? {})) {
          expect(Buffer.from(read.metadata?.[name] ?? []).equals(Buffer.from(value))).toBe(true);
        }
      }),
    );
  });
});
