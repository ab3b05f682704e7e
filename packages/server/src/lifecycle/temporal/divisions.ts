/**
 * What List shows under `TemporalNamespaceDivision`: system workflows under a name (`TemporalScheduler`,
 * `TemporalBatcher`), and what is no workflow at all under the number of its archetype (temporalio/temporal, chasm:
 * the farm hash of `library.component`).
 */
import type { temporal } from '@temporalio/proto';

type ListedExecution = temporal.api.workflow.v1.IWorkflowExecutionInfo;

const attribute = 'TemporalNamespaceDivision';
/** `scheduler.scheduler` */
export const schedulerArchetype = '403648407';
/** `workflow.workflow` */
const workflowArchetype = '2918170192';

export const allDivisions = `${attribute} IS NOT NULL`;
export const schedulersOnly = `${attribute} = '${schedulerArchetype}'`;

/** The number of what is no workflow; `undefined` for runs. */
export function foreignArchetype({ searchAttributes }: ListedExecution): string | undefined {
  const data = searchAttributes?.indexedFields?.[attribute]?.data;
  const archetype = /^"?(\d+)"?$/.exec(Buffer.from(data ?? []).toString())?.[1];
  return archetype === workflowArchetype ? undefined : archetype;
}
