/**
 * Which blobs the runs of a workflow hold, asked of Temporal at that moment. What cannot be read as a whole is refused: a
 * takedown that leaves some out would look as if it had erased all.
 */
import { type Digest, LpsError } from '@large-payload/core';
import type { AskedCluster } from '../lifecycle/collect.js';
import type { TemporalNamespace } from '../lifecycle/temporal-api.js';
import type { Selector } from './selector.js';

export interface HeldBlobs {
  readonly digests: readonly Digest[];
  /** `{workflow id} {run id}` of those that were read. */
  readonly runs: readonly string[];
}

/**
 * `clusters`: all that are configured. Throws CONFIG_INVALID when none of them answers for the namespace,
 * INVALID_ARGUMENT when there is no such workflow or run, TEMPORAL_REFUSED for what is not understood,
 * TEMPORAL_UNAVAILABLE.
 */
export async function blobsHeldBy(
  { namespace: blobNamespace, workflowId = '', runId }: Selector,
  clusters: readonly AskedCluster[],
  signal?: AbortSignal,
): Promise<HeldBlobs> {
  const digests = new Set<Digest>();
  const runs: string[] = [];
  const asked = await answering(blobNamespace, clusters, signal);
  if (asked.length === 0) throw nobodyAnswers(blobNamespace);
  for (const { namespace, cluster } of asked) {
    const { gaps } = await namespace.describe();
    if (gaps.length > 0) throw notWhole(`${cluster.cluster.name}/${namespace.name}`, gaps);
    const kind = cluster.kinds.find(({ name }) => name === 'run');
    for (const id of await runsOf(namespace, workflowId, runId)) {
      const scan = await kind?.scan(namespace, `${workflowId}\n${id}`, undefined);
      if (scan === undefined) continue; // gone, or never there
      if (scan.gaps.length > 0) throw notWhole(`run ${id} of workflow ${workflowId}`, scan.gaps);
      runs.push(`${workflowId} ${id}`);
      for (const { digest, namespace: ofKey = blobNamespace } of scan.edges)
        if (ofKey === blobNamespace) digests.add(digest);
    }
  }
  if (runs.length > 0) return { digests: [...digests], runs };
  const what = runId === undefined ? `workflow ${workflowId}` : `run ${runId} of workflow ${workflowId}`;
  throw new LpsError('INVALID_ARGUMENT', `Temporal has no ${what}; its blobs can be named by key or digest`);
}

interface Asked {
  readonly cluster: AskedCluster;
  readonly namespace: TemporalNamespace;
}

/** As in lifecycle/judge.ts: of a cluster that answers all namespaces, or the one of the name where they are isolated. */
async function answering(
  blobNamespace: string,
  clusters: readonly AskedCluster[],
  signal: AbortSignal | undefined,
): Promise<Asked[]> {
  const asked: Asked[] = [];
  for (const cluster of clusters) {
    if (cluster.blobNamespaces?.includes(blobNamespace) === false) continue;
    const all = await cluster.cluster.namespaces(signal);
    const ofItsName = all.filter(({ name }) => name === blobNamespace);
    if (cluster.blobNamespaces === undefined && ofItsName.length === 0) continue;
    const namespaces = cluster.isIsolated && ofItsName.length > 0 ? ofItsName : all;
    asked.push(...namespaces.map((namespace) => ({ cluster, namespace })));
  }
  return asked;
}

/** All of a workflow's id that are listed, and its present one, which a list may not show yet. */
async function runsOf(
  namespace: TemporalNamespace,
  workflowId: string,
  runId: string | undefined,
): Promise<ReadonlySet<string>> {
  if (runId !== undefined) return new Set([runId]);
  const runs = new Set<string>();
  const present = await namespace.describeRun({ workflowId, runId: '' });
  const id = present?.workflowExecutionInfo?.execution?.runId;
  if (id) runs.add(id);
  for (let next: Uint8Array | undefined; ; ) {
    const page = await namespace.listRuns(next);
    for (const run of page.items) if (run.workflowId === workflowId) runs.add(run.runId);
    next = page.next;
    if (next === undefined) return runs;
  }
}

export function nobodyAnswers(namespace: string): LpsError {
  return new LpsError(
    'CONFIG_INVALID',
    `no Temporal cluster is configured that answers for the namespace ${namespace}: see --clusters, or name the blobs by key or digest`,
  );
}

function notWhole(what: string, gaps: readonly string[]): LpsError {
  return new LpsError('TEMPORAL_REFUSED', `${what} cannot be read as a whole: ${gaps.join('; ')}`);
}
