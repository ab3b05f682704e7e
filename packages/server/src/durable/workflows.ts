/** The service's durable workflows: what one is, and which version of their code this is. */

/**
 * A workflow of the service. Its input and what it returns are kept as JSON. Whatever it does outside of steps is done
 * again when another replica goes on with it; a step may be done twice, so each is idempotent.
 */
export type Workflow = (input: never) => Promise<unknown>;

/**
 * A workflow that a library registers with DBOS itself. That is done once in a process; `partsNow` gives the parts of the
 * service that runs now (another one may have run before, as in tests).
 */
export interface SelfRegistering<Args extends unknown[], Parts> {
  readonly parts: Parts;
  register(name: string, partsNow: () => Parts): (...args: Args) => Promise<unknown>;
}

// biome-ignore lint/suspicious/noExplicitAny: of any arguments and parts
export type WorkflowTable = Readonly<Record<string, Workflow | SelfRegistering<any, any>>>;

/** What a workflow is begun with. */
export type ArgsOf<Definition> = Definition extends {
  register(name: string, partsNow: never): (...args: infer Args) => unknown;
}
  ? Args
  : Definition extends (...args: infer Args) => unknown
    ? Args
    : [];

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

/** The schema of DBOS' own tables, beside the catalog's. */
export function workflowSchema(schema: string): string {
  return `${schema}_dbos`;
}
