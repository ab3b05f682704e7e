/** Who is asked for a namespace of blobs. What follows from the marks is permission.test.ts's. */
import { describe, expect, it } from 'vitest';
import { type AnsweringCluster, judge } from './judge.js';
import type { KnownNamespace, Mark } from './lifecycle-catalog.js';

const hour = 3_600_000;
const times = { graceMs: hour, quarantineMs: hour, visibilityMs: 0, lingerMs: 0 };

/** A catalog that knows these, each with a pair of complete marks. */
function judged(blobNamespace: string, clusters: readonly AnsweringCluster[], names: readonly string[]) {
  const known = names.map((text): KnownNamespace => {
    const [cluster = '', name = ''] = text.split('/');
    return { id: 1n, cluster, name, identity: { clusterId: 'c', namespaceId: 'n', serverVersion: '1' } };
  });
  const mark = (at: number, namespace: KnownNamespace) =>
    ({
      id: BigInt(at),
      namespace,
      startedAt: new Date(at),
      endedAt: new Date(at + 1),
      isComplete: true,
      gaps: [],
      retentionMs: 9 * hour,
    }) as unknown as Mark;
  const catalog = {
    knownNamespaces: async () => known,
    marksOf: async (namespace: KnownNamespace) => [mark(20, namespace), mark(10, namespace)],
    rebuiltAt: async () => undefined,
    now: async () => new Date(100),
  };
  return judge(blobNamespace, { catalog, clusters, retention: new Map([['plain', hour]]), times });
}

const one = { name: 'one', isIsolated: false };
const two = { name: 'two', isIsolated: false };

describe('a namespace of blobs', () => {
  it('may be swept by what all namespaces of its clusters say', async () => {
    const { permission } = await judged('orders', [one, two], ['one/orders', 'one/billing', 'two/orders']);
    expect(permission?.marks).toHaveLength(6);
  });

  it('waits for a cluster of which nothing is known: it may answer for any namespace', async () => {
    const missing = ['the cluster two has not been reached yet'];
    expect(await judged('orders', [one, two], ['one/orders'])).toEqual({ missing });
    expect(await judged('plain', [one, two], ['one/orders'])).toEqual({ missing });
    expect(await judged('orders', [one, { ...two, blobNamespaces: ['orders'] }], ['one/orders'])).toEqual({ missing });
  });

  it('does not wait for one that answers for others only', async () => {
    const { permission } = await judged('orders', [one, { ...two, blobNamespaces: ['billing'] }], ['one/orders']);
    expect(permission?.marks).toHaveLength(2);
  });

  it('that nobody answers for is kept, but for a plain retention', async () => {
    expect(await judged('other', [one], ['one/orders'])).toEqual({
      missing: ['no cluster answers for this namespace'],
    });
    expect((await judged('plain', [one], ['one/orders'])).permission?.marks).toEqual([]);
  });
});
