/**
 * What in a namespace is not understood, so that marks of it cannot be complete. Each gap is one line: what was found, and
 * what to do.
 */
import proto, { type temporal } from '@temporalio/proto';

export type NamespaceDescription = temporal.api.workflowservice.v1.IDescribeNamespaceResponse;

const { ArchivalState, NamespaceState } = proto.temporal.api.enums.v1;

/** `[major, minor]`, the first and the last whose holders and APIs are known. */
const knownVersions = { first: [1, 24], last: [1, 32] } as const;

/** `accepted` are versions such as `1.33`. */
export function versionGaps(serverVersion: string, accepted: readonly string[]): string[] {
  const [, major, minor] = /^v?(\d+)\.(\d+)\./.exec(serverVersion) ?? [];
  const release = major === undefined ? undefined : `${major}.${minor}`;
  if (release !== undefined && (accepted.includes(release) || isKnown(Number(major), Number(minor)))) return [];
  const { first, last } = knownVersions;
  const range = `${first.join('.')} to ${last.join('.')}`;
  const upgrade = 'use a version of lps that knows it';
  const todo = release === undefined ? upgrade : `${upgrade}, or accept-server-versions: ["${release}"]`;
  return [`the server's version is ${serverVersion === '' ? 'not said' : serverVersion}, known are ${range}: ${todo}`];
}

function isKnown(major: number, minor: number): boolean {
  const { first, last } = knownVersions;
  return major === first[0] && minor >= first[1] && minor <= last[1];
}

/** `clusterName` is what the cluster calls itself. */
export function namespaceGaps(description: NamespaceDescription, clusterName: string): string[] {
  return [...stateGaps(description), ...archivalGaps(description), ...replicationGaps(description, clusterName)];
}

function stateGaps({ namespaceInfo, config }: NamespaceDescription): string[] {
  const state = namespaceInfo?.state ?? NamespaceState.NAMESPACE_STATE_UNSPECIFIED;
  const isUsable =
    state === NamespaceState.NAMESPACE_STATE_REGISTERED || state === NamespaceState.NAMESPACE_STATE_DEPRECATED;
  const shown = NamespaceState[state] ?? `state ${state}`;
  const gaps = isUsable ? [] : [`the namespace is ${shown}: take it out of the clusters file when it is gone`];
  if (retentionMsOf(config) > 0) return gaps;
  return [...gaps, 'the namespace has no retention: closed runs must stay readable for a known time, set one'];
}

export function retentionMsOf(config: NamespaceDescription['config']): number {
  const { seconds, nanos } = config?.workflowExecutionRetentionTtl ?? {};
  return Number(seconds ?? 0) * 1000 + Math.floor((nanos ?? 0) / 1e6);
}

/** The URI stays when archival is turned off, and so do the archives. */
function archivalGaps({ config }: NamespaceDescription): string[] {
  const kinds = [
    ['history', config?.historyArchivalState, config?.historyArchivalUri ?? ''],
    ['visibility', config?.visibilityArchivalState, config?.visibilityArchivalUri ?? ''],
  ] as const;
  return kinds.flatMap(([kind, state = ArchivalState.ARCHIVAL_STATE_DISABLED, uri]) => {
    const isOff = state === ArchivalState.ARCHIVAL_STATE_DISABLED || state === ArchivalState.ARCHIVAL_STATE_UNSPECIFIED;
    if (isOff && uri === '') return [];
    const is = isOff ? 'was on before' : 'is on';
    const where = uri === '' ? '' : ` (${uri})`;
    return [
      `${kind} archival ${is}${where}: archives hold payloads beyond retention and are not read here; only a namespace that never had it can be collected, or one with a plain retention time for its blobs`,
    ];
  });
}

/** A standby shows what it has received, not what is; and copies of it live on their own. */
function replicationGaps(
  { isGlobalNamespace, replicationConfig }: NamespaceDescription,
  clusterName: string,
): string[] {
  const active = replicationConfig?.activeClusterName ?? '';
  const clusters = (replicationConfig?.clusters ?? []).map((one) => one.clusterName ?? '');
  if (isGlobalNamespace === true && active !== clusterName) {
    return [
      `the namespace is active in cluster ${active}, not in this one (${clusterName}): give the address of ${active} in the clusters file`,
    ];
  }
  if (clusters.length > 1) {
    return [
      `the namespace is replicated to ${clusters.length} clusters (${clusters.join(', ')}), and what a standby holds is not read here: remove the others from it, or leave its blobs uncollected`,
    ];
  }
  return [];
}

/** Kinds of holders that exist, and are not read. */
export const unreadKinds = {
  activities:
    'there are standalone activities, and what they hold is not read here: run them in workflows, and wait until they are deleted',
  nexusOperations:
    'there are standalone Nexus operations, and what they hold is not read here: run them in workflows, and wait until they are deleted',
  schedules:
    "there are schedules of the server's newer scheduler (CHASM), which shows nobody the result of the last run that it keeps: create them with history.enableCHASMSchedulerCreation off",
} as const;
