/** The faults of a Temporal that cannot be read; what a real one answers is in test/takedown-workflow.test.ts. */
import { type Digest, digestOf, LpsError } from '@large-payload/core';
import { describe, expect, it } from 'vitest';
import type { AskedCluster } from '../lifecycle/collect.js';
import type { HolderKind, Scan } from '../lifecycle/holders/holder-kind.js';
import type { TemporalNamespace } from '../lifecycle/temporal-api.js';
import { blobsHeldBy } from './held-blobs.js';
import { parseSelector } from './selector.js';

const runId = '3f0b7c1e-0a51-4a5e-9f77-2f7b7c1e0a51';
const digest: Digest = digestOf(Buffer.from('x'));
const whole: Scan = { isClosed: true, edges: [{ digest }], cursor: '', gaps: [] };

interface Faults {
  readonly names?: readonly string[];
  readonly blobNamespaces?: readonly string[];
  readonly isIsolated?: boolean;
  readonly gaps?: readonly string[];
  readonly scan?: HolderKind['scan'];
}

function cluster({ names = ['orders'], gaps = [], scan = async () => whole, ...more }: Faults): AskedCluster {
  const namespaces = names.map((name) => {
    const described = { clusterId: 'c', namespaceId: 'n', serverVersion: '1.30.0', retentionMs: 1, gaps };
    const listRuns = async () => ({ items: [{ workflowId: 'w', runId, isClosed: true }] });
    return { cluster: 'prod', name, describe: async () => described, listRuns, describeRun: async () => undefined };
  }) as unknown as TemporalNamespace[];
  return {
    ...{ isIsolated: false, ...more },
    cluster: { name: 'prod', namespaces: async () => namespaces, close: async () => undefined },
    kinds: [{ name: 'run', scan } as unknown as HolderKind],
  };
}

const held = (faults: Faults, more: object = {}) =>
  blobsHeldBy(parseSelector({ namespace: 'orders', workflowId: 'w', ...more }), [cluster(faults)]);

describe('what a workflow holds', () => {
  it('is what its runs hold, in the namespace of the blobs', async () => {
    const edges = [{ digest }, { digest: digestOf(Buffer.from('y')), namespace: 'billing' }];
    const scan = async () => ({ ...whole, edges });
    expect(await held({ scan })).toEqual({ digests: [digest], runs: [`w ${runId}`] });
    expect(await held({ scan }, { runId })).toEqual({ digests: [digest], runs: [`w ${runId}`] });
  });

  it.each([
    ['nobody answers for the namespace', { names: ['billing'] }, 'CONFIG_INVALID', /--clusters/],
    ['it answers for others only', { blobNamespaces: ['billing'] }, 'CONFIG_INVALID', /--clusters/],
    ['the namespace is not understood', { gaps: ['it has an archive'] }, 'TEMPORAL_REFUSED', /an archive/],
    ['a run is not understood', { scan: async () => ({ ...whole, gaps: ['odd'] }) }, 'TEMPORAL_REFUSED', /odd/],
    ['there is no such run', { scan: async () => undefined }, 'INVALID_ARGUMENT', /no workflow w/],
  ] satisfies [string, Faults, string, RegExp][])('is refused when %s', async (_what, faults, code, message) => {
    await expect(held(faults)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('is refused when Temporal is away', async () => {
    const scan = async () => {
      throw new LpsError('TEMPORAL_UNAVAILABLE', 'away');
    };
    await expect(held({ scan })).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
  });

  it('is looked for in every namespace of the cluster, unless they are isolated', async () => {
    const seen: string[] = [];
    const scan: HolderKind['scan'] = async ({ name }) => {
      seen.push(name);
      return whole;
    };
    await held({ names: ['orders', 'other'], scan });
    expect(seen).toEqual(['orders', 'other']);
    await held({ names: ['orders', 'other'], isIsolated: true, scan });
    expect(seen).toEqual(['orders', 'other', 'orders']);
  });
});
