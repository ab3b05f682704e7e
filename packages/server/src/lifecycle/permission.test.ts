import { describe, expect, it } from 'vitest';
import type { KnownNamespace, Mark } from './lifecycle-catalog.js';
import { type LifecycleTimes, lingerOf, permissionFor } from './permission.js';

const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;
const times: LifecycleTimes = { graceMs: 7 * day, quarantineMs: 7 * day, visibilityMs: 10 * minute, lingerMs: day };
const start = Date.UTC(2026, 10, 23);
const known: KnownNamespace = {
  ...{ id: 1n, cluster: 'prod', name: 'orders' },
  identity: { clusterId: 'c', namespaceId: 'n', serverVersion: '1.32.0' },
};

/** A mark that began and ended so long after the start, in minutes. */
function mark(fromMinutes: number, toMinutes: number, more: Partial<Mark> = {}): Mark {
  return {
    ...{ id: BigInt(fromMinutes), namespace: known, isComplete: true, gaps: [], retentionMs: 3 * day },
    ...{ holders: 1, scanned: 1 },
    startedAt: new Date(start + fromMinutes * minute),
    endedAt: new Date(start + toMinutes * minute),
    ...more,
  };
}

const judge = (...marks: Mark[]) =>
  permissionFor('orders', [{ namespace: known, marks: marks.sort((a, b) => Number(b.id - a.id)) }], times);

describe('a permission', () => {
  it('follows from two complete marks, and counts touches from the grace before the first', () => {
    const { permission } = judge(mark(0, 5), mark(25, 30));
    expect(permission).toEqual({
      blobNamespace: 'orders',
      marks: [0n, 25n],
      firstMarkStartedAt: new Date(start),
      untouchedSince: new Date(start - 7 * day - 2 * hour), // a touch may be an hour late, and a cache node's another one
    });
  });

  it('takes the youngest pair', () => {
    const { permission } = judge(mark(0, 5), mark(25, 30), mark(50, 55), mark(60, 62));
    expect(permission?.marks).toEqual([25n, 60n]);
  });

  it.each([
    ['no mark', [], 'has not been marked'],
    ['one mark', [mark(0, 5)], 'one more complete mark'],
    ['the second too soon', [mark(0, 5), mark(24, 30)], '1200 s apart'],
    ['the second overlapping', [mark(0, 50), mark(25, 60)], 'apart'],
    ['an incomplete one alone', [mark(0, 5, { isComplete: false, gaps: ['no rights'] })], 'no rights'],
    ['the later one incomplete', [mark(0, 5), mark(25, 30, { isComplete: false, gaps: ['why'] })], 'why'],
    ['a later one incomplete', [mark(0, 5), mark(25, 30), mark(60, 61, { isComplete: false, gaps: ['why'] })], 'why'],
    ['the earlier one incomplete', [mark(0, 5, { isComplete: false, gaps: ['why'] }), mark(25, 30)], 'one more'],
    ['marks that outlast the retention', [mark(0, 5), mark(25, 3 * 24 * 60)], 'retention'],
    ['a retention that was short once', [mark(0, 5, { retentionMs: 40 * minute }), mark(25, 30)], 'apart'],
  ])('is not given for %s', (_title, marks, reason) => {
    const { permission, missing } = judge(...marks);
    expect(permission).toBeUndefined();
    expect(missing?.join()).toContain(reason);
  });

  it('is given at 2V between the marks, and with V to spare before the retention', () => {
    const span = (retentionMs: number) => judge(mark(0, 5, { retentionMs }), mark(25, 30, { retentionMs }));
    expect(span(40 * minute).permission).toBeUndefined();
    expect(span(40 * minute + 1).permission).toBeDefined();
  });

  it('lets an incomplete mark lie between the two: it took nothing away', () => {
    const between = mark(10, 12, { isComplete: false, gaps: ['x'] });
    expect(judge(mark(0, 5), between, mark(25, 30)).permission?.marks).toEqual([0n, 25n]);
  });

  it('needs a pair of each namespace that may hold the blobs, and counts from the earliest', () => {
    const other: KnownNamespace = { ...known, id: 2n, name: 'billing' };
    const both = (marks: Mark[]) =>
      permissionFor(
        'orders',
        [
          { namespace: known, marks: [mark(25, 30), mark(0, 5)] },
          { namespace: other, marks },
        ],
        times,
      );
    expect(both([]).missing).toEqual(['prod/billing: it has not been marked yet']);
    expect(both([mark(20, 25), mark(-10, -5)]).permission?.firstMarkStartedAt).toEqual(new Date(start - 10 * minute));
  });

  it('is never given where nobody answers', () => {
    expect(permissionFor('orders', [], times).missing).toEqual(['no cluster answers for this namespace']);
  });
});

describe('the linger of edges', () => {
  it('outlasts two marks that take as long as the longest, and what lies between them', () => {
    expect(lingerOf(times, [])).toBe(day);
    expect(lingerOf(times, [mark(0, 5), mark(10, 10 + 20 * 60), mark(2000, 2005)])).toBe(day + 40 * hour);
  });
});
