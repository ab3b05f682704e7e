/** What may go from a blob namespace now, or what is missing: from what the catalog knows, without asking Temporal. */
import type { KnownNamespace, LifecycleCatalog } from './lifecycle-catalog.js';
import {
  type Judgement,
  type LifecycleTimes,
  type MarkedNamespace,
  permissionFor,
  untouchedBefore,
} from './permission.js';

/** A configured cluster, and for whom it answers. */
export interface AnsweringCluster {
  readonly name: string;
  /** Absent: for the blob namespaces that are called as its own are. */
  readonly blobNamespaces?: readonly string[];
  /** No workflow of one namespace starts, signals or calls one of another. */
  readonly isIsolated: boolean;
}

export interface JudgeOptions {
  readonly catalog: Pick<LifecycleCatalog, 'knownNamespaces' | 'marksOf' | 'rebuiltAt' | 'now'>;
  readonly clusters: readonly AnsweringCluster[];
  /** Of blob namespaces that no cluster answers for: how long after its last use a blob goes, in ms. */
  readonly retention: ReadonlyMap<string, number>;
  readonly times: LifecycleTimes;
}

/** How far back the marks of a namespace are looked at. */
export const marksKept = 50;

/** What a permission for a blob namespace follows from, or what is missing. */
export async function judge(blobNamespace: string, options: JudgeOptions): Promise<Judgement> {
  const { catalog, retention, times } = options;
  const known = await catalog.knownNamespaces();
  const unreached = unreachedFor(blobNamespace, known, options);
  if (unreached.length > 0) return { missing: unreached.map((name) => `the cluster ${name} has not been reached yet`) };
  const answering = await answeringFor(blobNamespace, known, options);
  const keptMs = retention.get(blobNamespace);
  const judgement =
    answering.length === 0 && keptMs !== undefined
      ? await byRetention(blobNamespace, keptMs, options)
      : permissionFor(blobNamespace, answering, times);
  const rebuiltAt = await catalog.rebuiltAt();
  const { permission } = judgement;
  if (permission === undefined || rebuiltAt === undefined || permission.untouchedSince > rebuiltAt) return judgement;
  return {
    missing: [
      `the catalog was rebuilt at ${rebuiltAt.toISOString()}: uses before that are not known, and count as of then`,
    ],
  };
}

/** Clusters of which nothing is known yet: they may answer for this namespace, and hold anything. */
function unreachedFor(
  blobNamespace: string,
  known: readonly KnownNamespace[],
  { clusters }: Pick<JudgeOptions, 'clusters'>,
): string[] {
  return clusters
    .filter(({ blobNamespaces }) => blobNamespaces?.includes(blobNamespace) ?? true)
    .map(({ name }) => name)
    .filter((name) => !known.some(({ cluster }) => cluster === name));
}

/** Where no cluster is asked. */
async function byRetention(
  blobNamespace: string,
  keptMs: number,
  { catalog, times }: JudgeOptions,
): Promise<Judgement> {
  const now = await catalog.now();
  const untouchedSince = untouchedBefore(now, Math.max(keptMs, times.graceMs));
  return { permission: { blobNamespace, untouchedSince, firstMarkStartedAt: now, marks: [] } };
}

/**
 * All Temporal namespaces that may hold blobs of a blob namespace, with their last marks: of each cluster that answers for
 * it all of them (children, signals and Nexus cross namespaces), or only the one of its name where they are isolated.
 */
async function answeringFor(
  blobNamespace: string,
  known: readonly KnownNamespace[],
  { catalog, clusters }: JudgeOptions,
): Promise<MarkedNamespace[]> {
  const answering = clusters.flatMap(
    ({ name: cluster, blobNamespaces, isIsolated }): MarkedNamespace['namespace'][] => {
      const ours = known.filter((one) => one.cluster === cluster);
      const ofItsName = ours.filter(({ name }) => name === blobNamespace);
      const answers = blobNamespaces?.includes(blobNamespace) ?? ofItsName.length > 0;
      if (!answers) return [];
      return isIsolated && ofItsName.length > 0 ? ofItsName : ours;
    },
  );
  return Promise.all(
    answering.map(async (namespace) => {
      const one = known.find(({ cluster, name }) => cluster === namespace.cluster && name === namespace.name);
      return { namespace, marks: one === undefined ? [] : await catalog.marksOf(one, marksKept) };
    }),
  );
}
