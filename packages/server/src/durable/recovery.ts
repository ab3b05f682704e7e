/**
 * Unfinished work of replicas that are gone, and of older code. The only file that reaches into DBOS: it recovers by
 * itself only the work of its own executor id and version. recovery.test.ts pins what is relied on here.
 *
 * A gone executor id never comes back (replicas.ts), and DBOS refuses the next checkpoint of an execution whose
 * workflow was put back into the queue. So to resume the work of a gone id is right at any time, by anyone, and again.
 */
import { DBOS, type WorkflowStatus } from '@dbos-inc/dbos-sdk';
import { DBOSExecutor } from '@dbos-inc/dbos-sdk/internal/dbos-executor';
import type { Row, Statement } from '../catalog/database.js';
import { notRunning } from './runtime.js';
import { applicationName, workflowSchema } from './workflows.js';

const notEnded = ['PENDING', 'ENQUEUED', 'DELAYED'] as const;
const ended = ['SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'] as const;
const atOnce = 500;
const withoutContent = { loadInput: false, loadOutput: false } as const;

/**
 * Puts what these executors were running back into the queue of this process' version, from where any replica of that
 * version goes on with it. Finished steps are not repeated, deadlines stay. Returns the ids of the workflows; none the
 * second time.
 */
export async function resumeWorkOf(goneIds: readonly string[]): Promise<string[]> {
  const executor = DBOSExecutor.globalInstance;
  if (executor === undefined || !DBOS.isInitialized()) throw notRunning();
  const handles = await executor.recoverPendingWorkflows([...goneIds]);
  return handles.map(({ workflowID }) => workflowID);
}

/** Those of these executors that left work running, of this process' version. */
export async function withRunningWork(goneIds: readonly string[], applicationVersion: string): Promise<string[]> {
  if (goneIds.length === 0) return [];
  const found = await DBOS.listWorkflows({
    status: 'PENDING',
    executorId: [...goneIds],
    applicationVersion,
    limit: 10_000,
    ...withoutContent,
  });
  return [...new Set(found.flatMap(({ executorId }) => executorId ?? []))];
}

/**
 * One statement, to be run in the leader's transaction: unfinished work of versions that this code can go on with ($2,
 * of which no replica is left) becomes this version's ($1). DBOS has no call for it.
 */
export function adoptVersions(schema: string): Statement {
  return {
    text: `UPDATE "${workflowSchema(schema)}".workflow_status w SET application_version = $1
      WHERE w.application_version = ANY($2::text[]) AND w.application_name = '${applicationName}'
        AND w.status IN ('PENDING', 'ENQUEUED', 'DELAYED')
        AND NOT EXISTS (SELECT FROM ${schema}.replica r
          WHERE r.gone_at IS NULL AND r.application_version = w.application_version)
      RETURNING w.workflow_uuid`,
  };
}

/** Unfinished workflows by the version of their code; counts stop at 10,000 in all. */
export async function unfinishedByVersion(): Promise<Map<string, number>> {
  const found = await DBOS.listWorkflows({ status: [...notEnded], limit: 10_000, ...withoutContent });
  const counts = new Map<string, number>();
  for (const { applicationVersion = '' } of found)
    counts.set(applicationVersion, (counts.get(applicationVersion) ?? 0) + 1);
  return counts;
}

/** Those of these executors that any unfinished workflow names. */
export async function namedByUnfinished(executorIds: readonly string[]): Promise<string[]> {
  if (executorIds.length === 0) return [];
  const found = await DBOS.listWorkflows({
    status: [...notEnded],
    executorId: [...executorIds],
    limit: 10_000,
    ...withoutContent,
  });
  return [...new Set(found.flatMap(({ executorId }) => executorId ?? []))];
}

/** Removes workflows that ended before a moment, with what their steps returned; returns how many. */
export async function removeEnded(before: Date, signal: AbortSignal): Promise<number> {
  let removed = 0;
  while (!signal.aborted) {
    const found: WorkflowStatus[] = await DBOS.listWorkflows({
      status: [...ended],
      completedBefore: before.toISOString(),
      limit: atOnce,
      ...withoutContent,
    });
    // by SQL what the steps returned would stay, and replay under an id that is used again
    if (found.length > 0) await DBOS.deleteWorkflows(found.map(({ workflowID }) => workflowID));
    removed += found.length;
    if (found.length < atOnce) break;
  }
  return removed;
}

/** The executor ids of rows about replicas. */
export function idsOf(rows: readonly Row[]): string[] {
  return rows.map(({ executor_id: id }) => String(id));
}
