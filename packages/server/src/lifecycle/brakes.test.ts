import { describe, expect, it } from 'vitest';
import { brakesOn, lostHolders, smallerConfiguration } from './brakes.js';
import type { Brake, KnownNamespace, Mark } from './lifecycle-catalog.js';

const namespace: KnownNamespace = {
  ...{ id: 1n, cluster: 'prod', name: 'orders' },
  identity: { clusterId: 'c', namespaceId: 'n', serverVersion: '1.32.0' },
};
const mark = (holders: number): Mark => ({
  ...{ id: 1n, namespace, startedAt: new Date(0), isComplete: true, gaps: [], retentionMs: 1, scanned: 0 },
  holders,
});

describe('brakes', () => {
  it.each([
    [100, 70, undefined],
    [100, 69, 'holders_lost'],
    [100, 0, 'holders_lost'],
    [9, 1, undefined], // of few, a few are many
    [9, 0, 'holders_lost'],
    [0, 0, undefined],
    [0, 5, undefined],
  ])('of %i holders before and %i now', (was, is, kind) => {
    expect(lostHolders(mark(was), mark(is))?.kind).toBe(kind);
  });

  it('name the namespaces that are not configured any more', () => {
    const other = { cluster: 'prod', name: 'billing' };
    expect(smallerConfiguration([namespace, other], [namespace, other])).toBeUndefined();
    expect(smallerConfiguration([namespace], [namespace, other])).toBeUndefined();
    expect(smallerConfiguration([namespace, other], [namespace])?.reason).toContain('prod/billing');
    expect(smallerConfiguration([namespace], [{ ...namespace, cluster: 'other' }])?.reason).toContain('prod/orders');
  });

  it('of one namespace leave the others alone', () => {
    const since = new Date(0);
    const all: Brake = { kind: 'paused', reason: 'all', since };
    const one: Brake = { kind: 'too_much', reason: 'one', since, blobNamespace: 'orders' };
    expect(brakesOn([all, one], 'orders')).toEqual([all, one]);
    expect(brakesOn([all, one], 'billing')).toEqual([all]);
  });
});
