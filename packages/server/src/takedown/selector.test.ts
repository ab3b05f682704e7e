import { digestOf, formatKey, isLpsError, keyFor, parseKey } from '@large-payload/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { listedUnder, namesMatch, parseSelector } from './selector.js';

const digest = digestOf(Buffer.from('a'));
const key = keyFor('orders', digest, null);
const under = (prefix: string, of = digest): ReturnType<typeof parseKey> => ({ ...parseKey(key), prefix, digest: of });

describe('a selector', () => {
  it.each([
    [{}, /namespace/],
    [{ namespace: 'orders' }, /say which blobs/],
    [{ namespace: 'a/b', digest }, /namespace/],
    [{ namespace: 'orders', digest: 'sha256:ab' }, /a digest looks like/],
    [{ namespace: 'orders', key: 'x' }, /a key looks like/],
    [{ namespace: 'billing', key }, /another namespace/],
    [{ namespace: 'orders', prefix: '' }, /prefix/],
    [{ namespace: 'orders', prefix: '/' }, /prefix/],
    [{ namespace: 'orders', prefix: 'a b' }, /prefix/],
    [{ namespace: 'orders', runId: '3f0b7c1e-0a51-4a5e-9f77-2f7b7c1e0a51' }, /runId needs workflowId/],
    [{ namespace: 'orders', uploadedFrom: 'yesterday' }, /uploadedFrom/],
    [
      { namespace: 'orders', uploadedFrom: '2026-11-23T00:00:00Z', uploadedUntil: '2026-11-23T01:00:00+02:00' },
      /before uploadedUntil/,
    ],
    [{ namespace: 'orders', diggest: digest }, /diggest/],
    [null, /object/],
  ])('that says %j is refused', (input, message) => {
    expect(() => parseSelector(input)).toThrow(message);
    try {
      parseSelector(input);
    } catch (error) {
      expect(isLpsError(error)).toBe(true);
    }
  });

  it('matches what all of its parts match', () => {
    const blob = parseKey(key);
    expect(namesMatch(parseSelector({ namespace: 'orders', key }), blob)).toBe(true);
    expect(namesMatch(parseSelector({ namespace: 'orders', key }), { ...blob, generation: '0'.repeat(16) })).toBe(true);
    expect(namesMatch(parseSelector({ namespace: 'orders', digest }), blob)).toBe(true);
    expect(namesMatch(parseSelector({ namespace: 'billing', digest }), blob)).toBe(false);
    expect(namesMatch(parseSelector({ namespace: 'orders', digest, prefix: 'a' }), blob)).toBe(false);
    expect(namesMatch(parseSelector({ namespace: 'orders', key }), under('a'))).toBe(false);
  });

  it('takes a prefix for a path: what is below it belongs to it, what only begins like it does not', () => {
    const selector = parseSelector({ namespace: 'orders', prefix: 'customer-42/' });
    for (const prefix of ['customer-42', 'customer-42/', 'customer-42/invoices', 'customer-42//x'])
      expect([prefix, namesMatch(selector, under(prefix))]).toEqual([prefix, true]);
    for (const prefix of ['customer-421', 'customer-4', '/customer-42', 'x/customer-42', 'CUSTOMER-42'])
      expect([prefix, namesMatch(selector, under(prefix))]).toEqual([prefix, false]);
  });

  it('made of parts of a name matches that name, and lists it', () => {
    const segments = fc.array(fc.constantFrom('a', 'b', 'customer-42', 'customer-421'), { maxLength: 3 });
    const parts = fc.record({ key: fc.boolean(), digest: fc.boolean(), depth: fc.nat({ max: 3 }) });
    fc.assert(
      fc.property(segments, parts, (prefix, { depth, ...chosen }) => {
        const blob = prefix.length === 0 ? parseKey(key) : under(prefix.join('/'));
        const some = {
          ...(chosen.key ? { key: formatKey(blob) } : {}),
          ...(chosen.digest ? { digest: blob.digest } : {}),
          ...(Math.min(depth, prefix.length) > 0 ? { prefix: prefix.slice(0, depth).join('/') } : {}),
        };
        fc.pre(Object.keys(some).length > 0);
        const selector = parseSelector({ namespace: 'orders', ...some });
        expect(namesMatch(selector, blob)).toBe(true);
        for (const name of [formatKey(blob), formatKey({ ...blob, generation: '0'.repeat(16) })])
          expect(listedUnder(selector).some((start) => name.startsWith(start))).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });
});
