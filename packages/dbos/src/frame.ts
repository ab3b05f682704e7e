/** What the parts of a workflow hand to each other. */
import type { CallContext, FileRecord, S3WorkflowCallbacks } from './callbacks.js';
import type { CleanUp } from './clean-up.js';
import type { Names, Settings, TimeoutsMs } from './settings.js';

/** One registered workflow. */
export interface Frame<R extends FileRecord, Options> {
  readonly kind: 'upload' | 'delete';
  readonly names: Names;
  readonly settings: Settings;
  readonly callbacks: S3WorkflowCallbacks<R, Options>;
  readonly cleanUp: CleanUp<R>;
  /** The step that is recorded when nothing is left to do. */
  readonly lastEffect: string;
  readonly leftBy: LeftBy;
}

/** What there may be of a file. */
export interface Left {
  readonly row: boolean;
  readonly object: boolean;
  /** Until when something may begin to arrive from elsewhere, in ms of UNIX time. */
  readonly openUntilMs: number;
}

/** What an earlier execution may have left, by what it has recorded. */
export type LeftBy = (steps: readonly RecordedStep[]) => Left;

export interface RecordedStep {
  readonly name: string;
  readonly output: unknown;
  readonly error: Error | null;
}

/** One execution of a workflow. */
export interface Run<R extends FileRecord> {
  readonly rec: R;
  /** No earlier execution of the same workflow can have done anything: an error is then the first call's own. */
  readonly isFirst: boolean;
  /** What this execution may have made, and a clean-up has to look for. */
  row: boolean;
  object: boolean;
  openUntilMs: number;
  /** What is somebody else's, or has to stay: no clean-up touches it. */
  readonly keep: Set<'row' | 'object'>;
  /** Calls a callback of the table; `done` marks the last effect of a workflow. */
  database(name: DatabaseCallback, callback: Callback, done?: 'done'): Promise<void>;
  /** Calls a callback of the bucket as a step. */
  step<T>(name: string, timeout: keyof TimeoutsMs, callback: Callback<T>): Promise<T>;
}

export type DatabaseCallback = 'newActiveFile' | 'newPendingFile' | 'fileActivated' | 'fileDeleted';
export type Callback<T = unknown> = (context: CallContext) => Promise<T>;

/** How a clean-up answered. */
export interface Undone {
  /** The first pass is over, and this is what deleteS3Object returned. */
  readonly cleaned?: { readonly returned: unknown };
}

export const cleanUpID = (workflowID: string): string => `${workflowID}-cleanup`;
