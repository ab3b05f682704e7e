import type { WorkflowConfig } from '@dbos-inc/dbos-sdk';
import type { FileRecord, S3WorkflowCallbacks } from './callbacks.js';
import { S3WorkflowError } from './errors.js';

/** How a workflow is registered with DBOS, and how patient it is. */
export interface S3WorkflowConfig extends WorkflowConfig {
  /** Unique within its class; recovery finds the workflow by it. */
  name?: string;
  className?: string;
  ctorOrProto?: object;
  /** The same settings of DBOS as in this object, as the old library took them. */
  config?: WorkflowConfig;
  /** How long a callback may take; after that the effect of the call is unknown, and everything is cleaned up. */
  timeoutsMs?: Partial<TimeoutsMs>;
  /** How long a failed workflow waits for its clean-up before it throws; the clean-up goes on in any case. Default 10 s. */
  waitForCleanUpMs?: number;
  /** Pauses of the clean-up between its attempts: they double from `first` (100 ms) to `max` (5 min). */
  retryMs?: { first?: number; max?: number };
  /**
   * When to clean again after something may still arrive: so many seconds after a presigned post has expired, or after
   * a call that did not return. Default 60 and 3600: a slow upload that began in time goes on after the post's end.
   */
  latePassesSeconds?: readonly number[];
  /** How long after its post's end a presigned upload still waits for the message that it is finished. Default 60. */
  finishGraceSeconds?: number;
  /** The largest string or bytes that an upload takes; larger contents go by `{ path }`. Default 256 KiB. */
  maxInlineBytes?: number;
  /** Of a delete workflow: the longest life of a post that may be in use; the object is deleted again after it. */
  postLifetimeSeconds?: number;
}

export interface TimeoutsMs {
  /** newActiveFile, newPendingFile, fileActivated, fileDeleted. Default 1 min. */
  database: number;
  /** createPresignedPost, headS3Object, deleteS3Object. Default 1 min. */
  storage: number;
  /** putS3Contents, validateS3Upload. Default 1 h. */
  transfer: number;
}

/** The configuration with its defaults in place. */
export interface Settings {
  readonly timeoutsMs: TimeoutsMs;
  readonly waitForCleanUpMs: number;
  readonly firstRetryMs: number;
  readonly maxRetryMs: number;
  readonly latePassesMs: readonly number[];
  readonly finishGraceSeconds: number;
  readonly maxInlineBytes: number;
  readonly postLifetimeMs: number;
}

/** A workflow's registration under `name`: what DBOS takes, and nothing else. */
export interface Names {
  readonly name: string;
  readonly className: string;
  readonly registration: WorkflowConfig & { className?: string; ctorOrProto?: object };
}

const minute = 60_000;
/** A recovery that is given up leaves things half done: practically never. */
const maxRecoveryAttempts = 1_000_000;

export function settingsOf(config: S3WorkflowConfig): Settings {
  const settings = {
    timeoutsMs: { database: minute, storage: minute, transfer: 60 * minute, ...config.timeoutsMs },
    waitForCleanUpMs: config.waitForCleanUpMs ?? 10_000,
    firstRetryMs: config.retryMs?.first ?? 100,
    maxRetryMs: config.retryMs?.max ?? 5 * minute,
    latePassesMs: [...(config.latePassesSeconds ?? [60, 3600])].sort((a, b) => a - b).map((seconds) => seconds * 1000),
    finishGraceSeconds: config.finishGraceSeconds ?? 60,
    maxInlineBytes: config.maxInlineBytes ?? 256 * 1024,
    postLifetimeMs: (config.postLifetimeSeconds ?? 0) * 1000,
  };
  const { timeoutsMs, latePassesMs, ...numbers } = settings;
  for (const value of [...Object.values(numbers), ...Object.values(timeoutsMs), ...latePassesMs]) {
    if (!(value >= 0 && value <= 2 ** 31 - 1)) {
      throw new S3WorkflowError('INVALID_ARGUMENT', `${value} in the configuration of an S3 workflow is out of range`);
    }
  }
  return settings;
}

export function namesOf(config: S3WorkflowConfig, defaultName: string): Names {
  const { name = defaultName, className, ctorOrProto, inputSchema, serialization } = config;
  const registration: Names['registration'] = { maxRecoveryAttempts };
  const given = { ...config.config, className, ctorOrProto, inputSchema, serialization };
  for (const [key, value] of Object.entries(given))
    if (value !== undefined) Object.assign(registration, { [key]: value });
  if (config.maxRecoveryAttempts !== undefined) registration.maxRecoveryAttempts = config.maxRecoveryAttempts;
  return { name, className: className ?? classNameOf(ctorOrProto), registration };
}

function classNameOf(ctorOrProto: object | undefined): string {
  if (typeof ctorOrProto === 'function') return ctorOrProto.name;
  return ctorOrProto?.constructor.name ?? '';
}

/**
 * The README of the old library passes `(config, callbacks)`, its code once took `(callbacks, config)` and
 * `(callbacks, config, names)`.
 */
export function inOrder<R extends FileRecord, Options>(
  given: readonly (S3WorkflowConfig | S3WorkflowCallbacks<R, Options> | undefined)[],
): { config: S3WorkflowConfig; callbacks: S3WorkflowCallbacks<R, Options> } {
  const callbacks = given.find(isCallbacks<R, Options>);
  if (callbacks === undefined) throw new S3WorkflowError('INVALID_ARGUMENT', 'An S3 workflow needs its callbacks');
  const config: S3WorkflowConfig = {};
  for (const part of given) if (part !== callbacks) Object.assign(config, part);
  return { config, callbacks };
}

function isCallbacks<R extends FileRecord, Options>(
  value: S3WorkflowConfig | S3WorkflowCallbacks<R, Options> | undefined,
): value is S3WorkflowCallbacks<R, Options> {
  return value !== undefined && 'deleteS3Object' in value;
}
