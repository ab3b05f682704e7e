/** The service's durable workflows: what there is, and which version of their code this is. */

/**
 * A workflow of the service. Its input and what it returns are kept as JSON. Whatever it does outside of steps is done
 * again when another replica goes on with it; a step may be done twice, so each is idempotent.
 */
export type Workflow = (input: never) => Promise<unknown>;

export type WorkflowTable = Readonly<Record<string, Workflow>>;

/** Of all durable work, for DBOS. Several applications may share one Postgres. */
export const applicationName = 'lps';

/**
 * Goes up when a workflow is changed so that one begun by the older code cannot be gone on with: a step added, removed or
 * in another place. Work of a version that is not compatible needs a program of that version, so a release that leaves
 * one behind brings no migration of the catalog: the older program would not start.
 */
export const applicationVersion = '1';

/** Older versions whose unfinished work this code can go on with. The others' work waits for a replica of theirs. */
export const compatibleVersions: readonly string[] = [];

/** Every workflow of the service, by the name under which it is kept: a name is never given to another one. */
export const workflows = {} as const satisfies WorkflowTable;

/** The schema of DBOS' own tables, beside the catalog's. */
export function workflowSchema(schema: string): string {
  return `${schema}_dbos`;
}
