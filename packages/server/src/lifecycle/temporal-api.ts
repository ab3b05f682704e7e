/**
 * What the marks need of Temporal, and no more: so that a simulation can stand in for a cluster. Messages are those of
 * `@temporalio/proto`, decoded, with `$unknowns` where a newer server has written fields that it does not have. Every call
 * is one request, honours the rate limit of the cluster, has a deadline, and is asked again below where that may help, for a
 * bounded time. It throws LpsError: `TEMPORAL_UNAVAILABLE` (may pass, but has not), `TEMPORAL_REFUSED` (credentials, rights,
 * a namespace that is not there), `ABORTED`.
 */
import type { temporal } from '@temporalio/proto';

export type HistoryEvent = temporal.api.history.v1.IHistoryEvent;
export type DescribedRun = temporal.api.workflowservice.v1.IDescribeWorkflowExecutionResponse;
export type DescribedSchedule = temporal.api.workflowservice.v1.IDescribeScheduleResponse;

export interface RunId {
  readonly workflowId: string;
  readonly runId: string;
}

export interface ListedRun extends RunId {
  readonly isClosed: boolean;
  /** By the cluster's clock, in ms since 1970. */
  readonly startedAt?: number;
}

export interface Page<Item> {
  readonly items: readonly Item[];
  /** Absent on the last one. */
  readonly next?: Uint8Array;
  /** Fields of a newer server beside the items, where an answer is searched for claims. */
  readonly unknown?: readonly Uint8Array[];
}

/** What tells one cluster, and one namespace, from another of the same address or name. */
export interface Identity {
  readonly clusterId: string;
  readonly namespaceId: string;
  /** `1.32.0` */
  readonly serverVersion: string;
}

/** What a namespace is, and what in it is not understood. */
export interface DescribedNamespace extends Identity {
  /** How long closed runs can be read, in ms. */
  readonly retentionMs: number;
  /** Why marks of it cannot be complete: archives, kinds of holders or a version that are not known; with what to do. */
  readonly gaps: readonly string[];
}

export interface TemporalNamespace {
  /** The cluster's name in the configuration. */
  readonly cluster: string;
  readonly name: string;
  describe(): Promise<DescribedNamespace>;
  /** Open and closed ones, those of system workflows (batch jobs, schedules) as well. At most 1,000 a page. */
  listRuns(next?: Uint8Array): Promise<Page<ListedRun>>;
  /** `undefined` for NotFound. */
  describeRun(run: RunId): Promise<DescribedRun | undefined>;
  /** The newest events first, at most 256 a page. `undefined` for NotFound. */
  historyBackwards(run: RunId, next?: Uint8Array): Promise<Page<HistoryEvent> | undefined>;
  listSchedules(next?: Uint8Array): Promise<Page<string>>;
  describeSchedule(id: string): Promise<DescribedSchedule | undefined>;
}

export interface TemporalCluster {
  readonly name: string;
  /** The namespaces that the configuration names, or all there are. Calls to them end with the signal. */
  namespaces(signal?: AbortSignal): Promise<readonly TemporalNamespace[]>;
  close(): Promise<void>;
}
