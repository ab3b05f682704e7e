import proto from '@temporalio/proto';
import { describe, expect, it } from 'vitest';
import { type NamespaceDescription, namespaceGaps, retentionMsOf, versionGaps } from './gaps.js';

const { ArchivalState, NamespaceState } = proto.temporal.api.enums.v1;

const usual: NamespaceDescription = {
  namespaceInfo: { name: 'a', id: 'id', state: NamespaceState.NAMESPACE_STATE_REGISTERED },
  config: { workflowExecutionRetentionTtl: { seconds: 3600 as never, nanos: 500_000_000 } },
  replicationConfig: { activeClusterName: 'here', clusters: [{ clusterName: 'here' }] },
  isGlobalNamespace: false,
};

const config = (more: NamespaceDescription['config']) => ({ ...usual, config: { ...usual.config, ...more } });

describe('gaps of a namespace', () => {
  it('are none for a usual one', () => {
    expect(namespaceGaps(usual, 'here')).toEqual([]);
    expect(namespaceGaps({ ...usual, isGlobalNamespace: true }, 'here')).toEqual([]);
    expect(retentionMsOf(usual.config)).toBe(3_600_500);
  });

  it.each<[string, NamespaceDescription, RegExp]>([
    [
      'history archival',
      config({ historyArchivalState: ArchivalState.ARCHIVAL_STATE_ENABLED, historyArchivalUri: 's3://b' }),
      /^history archival is on \(s3:\/\/b\): .*only a namespace that never had it/,
    ],
    [
      'visibility archival without a URI',
      config({ visibilityArchivalState: ArchivalState.ARCHIVAL_STATE_ENABLED }),
      /^visibility archival is on: /,
    ],
    [
      'archival that was turned off',
      config({ historyArchivalState: ArchivalState.ARCHIVAL_STATE_DISABLED, historyArchivalUri: 's3://b' }),
      /^history archival was on before \(s3:\/\/b\): /,
    ],
    [
      'archival in a state that is not known',
      config({ historyArchivalState: 9 as never }),
      /^history archival is on: /,
    ],
    ['no retention', { ...usual, config: {} }, /^the namespace has no retention: /],
    [
      'a namespace that is being deleted',
      { ...usual, namespaceInfo: { state: NamespaceState.NAMESPACE_STATE_DELETED } },
      /^the namespace is NAMESPACE_STATE_DELETED: take it out/,
    ],
    [
      'a standby',
      {
        ...usual,
        isGlobalNamespace: true,
        replicationConfig: { activeClusterName: 'east', clusters: [{ clusterName: 'here' }, { clusterName: 'east' }] },
      },
      /^the namespace is active in cluster east, not in this one \(here\): give the address of east/,
    ],
    [
      'copies in other clusters',
      {
        ...usual,
        isGlobalNamespace: true,
        replicationConfig: { activeClusterName: 'here', clusters: [{ clusterName: 'here' }, { clusterName: 'east' }] },
      },
      /^the namespace is replicated to 2 clusters \(here, east\)/,
    ],
  ])('name %s, in one line', (_what, description, expected) => {
    const gaps = namespaceGaps(description, 'here');
    expect(gaps).toHaveLength(1);
    expect(gaps[0]).toMatch(expected);
    expect(gaps[0]).not.toContain('\n');
  });
});

describe('versions of the server', () => {
  it.each(['1.24.0', '1.29.1', '1.32.0', 'v1.32.9', '1.32.0-rc1'])('%s is known', (version) => {
    expect(versionGaps(version, [])).toEqual([]);
  });

  it.each(['1.23.9', '1.33.0', '2.24.0', '0.32.0', '', 'dev'])('%j is not', (version) => {
    expect(versionGaps(version, [])).toEqual([expect.stringContaining('known are 1.24 to 1.32: ')]);
  });

  it('are known when an operator says so', () => {
    expect(versionGaps('1.33.4', ['1.33'])).toEqual([]);
    expect(versionGaps('1.34.0', ['1.33'])).toEqual([expect.stringContaining('accept-server-versions: ["1.34"]')]);
  });
});
