/**
 * Workflows as operators see them: `lps workflows`, `/v3/workflows`. Inputs and results are not shown: they may hold
 * presigned URLs and other secrets.
 */

import type { DBOSClient, StatusString, WorkflowStatus } from '@dbos-inc/dbos-sdk';
import { LpsError } from '@large-payload/core';
import type { Database } from '../catalog/database.js';
import { replicaStatements } from './replica-sql.js';
import { applicationVersion, compatibleVersions } from './workflows.js';

/** What a workflow is doing. Given up: it failed to get anywhere too often, and waits for `resume`. */
export const workflowStates = ['running', 'queued', 'delayed', 'done', 'failed', 'cancelled', 'given-up'] as const;
export type WorkflowState = (typeof workflowStates)[number];

export interface WorkflowSummary {
  readonly id: string;
  readonly name: string;
  readonly state: WorkflowState;
  /** Of its code. */
  readonly version: string;
  /** Unfinished, and no replica has code that can go on with it. */
  readonly isStranded: boolean;
  /** Where it runs, or ran last. */
  readonly executorId: string | undefined;
  readonly attempts: number;
  readonly createdAt: string;
  readonly updatedAt: string | undefined;
  readonly endedAt: string | undefined;
  /** One line. */
  readonly error: string | undefined;
}

export interface WorkflowStep {
  readonly name: string;
  readonly startedAt: string | undefined;
  readonly endedAt: string | undefined;
  readonly error: string | undefined;
}

export interface WorkflowDetails extends WorkflowSummary {
  readonly steps: readonly WorkflowStep[];
}

export interface WorkflowFilter {
  readonly states?: readonly WorkflowState[];
  readonly limit: number;
  /** How many of the newest to leave out. Default 0. */
  readonly offset?: number;
}

/** Every function throws CATALOG_UNAVAILABLE or TRY_AGAIN while Postgres does not answer. */
export interface WorkflowAdmin {
  /** The newest first. */
  list(filter: WorkflowFilter): Promise<WorkflowSummary[]>;
  /** Throws WORKFLOW_NOT_FOUND. */
  show(id: string): Promise<WorkflowDetails>;
  /** Ends a workflow at its next step, and those that it began. Throws WORKFLOW_NOT_FOUND; INVALID_ARGUMENT when it has ended. */
  cancel(id: string): Promise<WorkflowSummary>;
  /** Lets a cancelled workflow, or one that was given up, go on behind its last finished step. Throws as `cancel`. */
  resume(id: string): Promise<WorkflowSummary>;
}

/** What `DBOS` has in a process that runs workflows, and `DBOSClient` in one that does not. */
export type WorkflowSource = Pick<
  DBOSClient,
  'listWorkflows' | 'listWorkflowSteps' | 'cancelWorkflow' | 'resumeWorkflow'
>;

export interface WorkflowAdminOptions {
  /** Throws TRY_AGAIN while there is none. */
  readonly source: () => WorkflowSource;
  readonly database: Database;
  /** The catalog's. */
  readonly schema: string;
  /** Default: this program's. */
  readonly versions?: readonly string[];
}

const stateOf: Readonly<Record<keyof typeof StatusString, WorkflowState>> = {
  PENDING: 'running',
  ENQUEUED: 'queued',
  DELAYED: 'delayed',
  SUCCESS: 'done',
  ERROR: 'failed',
  CANCELLED: 'cancelled',
  MAX_RECOVERY_ATTEMPTS_EXCEEDED: 'given-up',
};
const unfinished: readonly WorkflowState[] = ['running', 'queued', 'delayed'];
const maxErrorChars = 300;

export function openWorkflowAdmin(options: WorkflowAdminOptions): WorkflowAdmin {
  const { source, database, schema, versions = [applicationVersion, ...compatibleVersions] } = options;
  const sql = replicaStatements(schema);
  const query = async (filter: Parameters<WorkflowSource['listWorkflows']>[0]): Promise<WorkflowSummary[]> => {
    // asked first, because it fails while Postgres is away; DBOS would wait
    const living = await database.run(sql.livingVersions, []);
    const served = new Set([...versions, ...living.map((row) => String(row.application_version))]);
    const found = await source().listWorkflows({ ...filter, loadInput: false });
    return found.map((workflow) => summaryOf(workflow, served));
  };
  const find = async (id: string): Promise<WorkflowSummary> => {
    const [found] = await query({ workflowIDs: [id] });
    if (found === undefined) throw new LpsError('WORKFLOW_NOT_FOUND', 'there is no such workflow');
    return found;
  };
  return {
    async list({ states, limit, offset = 0 }) {
      const filter = states === undefined ? {} : { status: statusesOf(states) };
      return query({ ...filter, limit, offset, sortDesc: true });
    },
    async show(id) {
      const summary = await find(id);
      const steps = (await source().listWorkflowSteps(id)) ?? [];
      return {
        ...summary,
        steps: steps.map(({ name, startedAtEpochMs, completedAtEpochMs, error }) => ({
          name,
          startedAt: timeOf(startedAtEpochMs),
          endedAt: timeOf(completedAtEpochMs),
          error: errorOf(error),
        })),
      };
    },
    async cancel(id) {
      const before = await find(id);
      if (before.state === 'done' || before.state === 'failed') throw refused(`has ended (${before.state})`);
      await source().cancelWorkflow(id, { cancelChildren: true });
      return find(id);
    },
    async resume(id) {
      const before = await find(id);
      if (before.state !== 'cancelled' && before.state !== 'given-up')
        throw refused(`is ${before.state}; only one that was cancelled or given up can be resumed`);
      await source().resumeWorkflow(id);
      return find(id);
    },
  };
}

function refused(why: string): LpsError {
  return new LpsError('INVALID_ARGUMENT', `the workflow ${why}`);
}

function statusesOf(states: readonly WorkflowState[]): (keyof typeof StatusString)[] {
  const all = Object.entries(stateOf) as [keyof typeof StatusString, WorkflowState][];
  return all.filter(([, state]) => states.includes(state)).map(([status]) => status);
}

function summaryOf(workflow: WorkflowStatus, served: ReadonlySet<string>): WorkflowSummary {
  const state = stateOf[workflow.status as keyof typeof StatusString] ?? 'failed';
  const { applicationVersion: version = '' } = workflow;
  return {
    id: workflow.workflowID,
    name: workflow.workflowName,
    state,
    version,
    isStranded: unfinished.includes(state) && !served.has(version),
    executorId: workflow.executorId,
    attempts: workflow.recoveryAttempts ?? 0,
    createdAt: new Date(workflow.createdAt).toISOString(),
    updatedAt: timeOf(workflow.updatedAt),
    endedAt: timeOf(workflow.completedAt),
    error: errorOf(workflow.error),
  };
}

function timeOf(epochMs: number | undefined): string | undefined {
  return epochMs === undefined ? undefined : new Date(epochMs).toISOString();
}

function errorOf(error: unknown): string | undefined {
  if (error === undefined || error === null) return undefined;
  const text = error instanceof Error ? error.message : String((error as { message?: unknown }).message ?? error);
  return text.split('\n')[0]?.slice(0, maxErrorChars);
}
