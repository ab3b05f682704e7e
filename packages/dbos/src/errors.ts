/**
 * KEY_TAKEN: the key belongs to another file, or is still being cleaned up. NOT_FINISHED: nobody said in time that the
 * upload is there, or somebody said that it is not. NOT_UPLOADED: said to be there, and is not. WRONG_CONTENT: not the
 * size or the SHA-256 that was announced. ROW_GONE: deleted while it was being uploaded. TIMED_OUT: a callback did not
 * return. CLEANED_UP: this workflow was given up, nothing of it is left.
 */
export type S3WorkflowErrorCode =
  | 'INVALID_ARGUMENT'
  | 'CONTENT_TOO_LARGE'
  | 'CONTENT_GONE'
  | 'KEY_TAKEN'
  | 'NOT_FINISHED'
  | 'NOT_UPLOADED'
  | 'WRONG_CONTENT'
  | 'ROW_GONE'
  | 'TIMED_OUT'
  | 'CLEANED_UP';

/**
 * What the workflows throw beside the errors of the callbacks. Tell them by `code`: DBOS revives an error that it has
 * stored as a plain `Error`, with its name, message and code, so `instanceof` does not hold.
 */
export class S3WorkflowError extends Error {
  readonly code: S3WorkflowErrorCode;

  constructor(code: S3WorkflowErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'S3WorkflowError';
    this.code = code;
  }
}

/** The codes of DBOS's own errors that are not failures of a callback (its `error.js`). */
const dbosCodes = { conflict: 5, cancelled: 24, unexpectedStep: 26, nondeterminism: 37 } as const;

/** Another execution owns the workflow now: this one must stop, without a trace. */
export function isLostOwnership(error: unknown): boolean {
  return dbosCodeOf(error) === dbosCodes.conflict;
}

/** The workflow itself was cancelled, by hand or by its deadline; not one that it waits for. */
export function isCancelled(error: unknown, workflowID: string): boolean {
  return dbosCodeOf(error) === dbosCodes.cancelled && propertyOf(error, 'workflowID') === workflowID;
}

/** A replay does something else than what was recorded: it must not go on. */
export function isOffTrack(error: unknown): boolean {
  const code = dbosCodeOf(error);
  return code === dbosCodes.unexpectedStep || code === dbosCodes.nondeterminism;
}

/**
 * The callback says that the key is somebody else's: our KEY_TAKEN, a unique constraint (23505), `If-None-Match` (412).
 * The latter two may also come from an own earlier attempt: see `Run.isFirst`.
 */
export function isKeyTaken(error: unknown): boolean {
  return (
    propertyOf(error, 'code') === 'KEY_TAKEN' ||
    sqlStateOf(error) === '23505' ||
    propertyOf(propertyOf(error, '$metadata'), 'httpStatusCode') === 412
  );
}

/**
 * The database has rolled the statement back and would do so again: data exceptions (22), constraints (23), wrong or
 * forbidden statements (42), views (44), `raise exception` of a trigger (P0).
 */
export function isRefusedByDatabase(error: unknown): boolean {
  return /^(22|23|42|44|P0)/.test(sqlStateOf(error) ?? '');
}

/** S3's "there is no such object", from HEAD or GET. */
export function isNotFound(error: unknown): boolean {
  const name = propertyOf(error, 'name');
  return (
    name === 'NotFound' || name === 'NoSuchKey' || propertyOf(propertyOf(error, '$metadata'), 'httpStatusCode') === 404
  );
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error);
}

const maxCauses = 10;

/** Some clients wrap the driver's error. */
function sqlStateOf(error: unknown): string | undefined {
  let current = error;
  for (let depth = 0; depth < maxCauses && current !== undefined; depth++) {
    const code = propertyOf(current, 'code');
    if (typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code)) return code;
    current = propertyOf(current, 'cause');
  }
  return undefined;
}

function dbosCodeOf(error: unknown): unknown {
  return propertyOf(error, 'dbosErrorCode');
}

function propertyOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}
