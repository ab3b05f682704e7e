/**
 * The one error type and the one table of codes (docs/errors.md is checked against it both ways).
 *
 * Recognised by a brand and not by `instanceof`: two copies of a package, and workflow sandboxes, must agree.
 */

/** What a code means for whoever meets it. `status` is what HTTP answers, `retryable` whether the same call may succeed later. */
interface ErrorKind {
  readonly status: number;
  readonly retryable: boolean;
}

const kinds = {
  INVALID_ARGUMENT: { status: 400, retryable: false },
  INVALID_KEY: { status: 400, retryable: false },
  INVALID_METADATA: { status: 400, retryable: false },
  INVALID_CLAIM: { status: 400, retryable: false },
  DIGEST_MISMATCH: { status: 400, retryable: false },
  SIZE_MISMATCH: { status: 400, retryable: false },
  UNAUTHENTICATED: { status: 401, retryable: false },
  FORBIDDEN: { status: 403, retryable: false },
  ROUTE_NOT_FOUND: { status: 404, retryable: false },
  BLOB_NOT_FOUND: { status: 404, retryable: false },
  BLOB_DAMAGED: { status: 404, retryable: false },
  WORKFLOW_NOT_FOUND: { status: 404, retryable: false },
  UPLOAD_NOT_FOUND: { status: 404, retryable: false },
  TAKEDOWN_NOT_FOUND: { status: 404, retryable: false },
  METHOD_NOT_ALLOWED: { status: 405, retryable: false },
  TOO_SLOW: { status: 408, retryable: true },
  UPLOAD_INCOMPLETE: { status: 409, retryable: false },
  BLOB_TAKEN_DOWN: { status: 410, retryable: false },
  LENGTH_REQUIRED: { status: 411, retryable: false },
  BLOB_TOO_LARGE: { status: 413, retryable: false },
  RANGE_NOT_SATISFIABLE: { status: 416, retryable: false },
  RATE_LIMITED: { status: 429, retryable: true },
  BLOB_BLOCKED: { status: 451, retryable: false },
  ABORTED: { status: 499, retryable: true },
  INTERNAL: { status: 500, retryable: true },
  CONFIG_INVALID: { status: 500, retryable: false },
  DATA_DIR_IN_USE: { status: 500, retryable: false },
  NOT_SUPPORTED: { status: 501, retryable: false },
  OVERLOADED: { status: 503, retryable: true },
  TRY_AGAIN: { status: 503, retryable: true },
  STORE_UNAVAILABLE: { status: 503, retryable: true },
  STORE_REFUSED: { status: 503, retryable: false },
  CATALOG_UNAVAILABLE: { status: 503, retryable: true },
  SERVICE_UNREACHABLE: { status: 503, retryable: true },
  TEMPORAL_UNAVAILABLE: { status: 503, retryable: true },
  TEMPORAL_REFUSED: { status: 503, retryable: false },
  STORE_FULL: { status: 507, retryable: false },
} as const satisfies Record<string, ErrorKind>;

/** A stable name for a kind of failure; callers branch on this, never on the message. */
export type ErrorCode = keyof typeof kinds;

/** Every code, in the order of the table. */
export const errorCodes = Object.keys(kinds) as readonly ErrorCode[];

/** The HTTP status that answers a code. */
export function statusOf(code: ErrorCode): number {
  return kinds[code].status;
}

/** Whether the same call may succeed when it is made again later. */
export function isRetryable(code: ErrorCode): boolean {
  return kinds[code].retryable;
}

/** Whether a text is one of our codes (as read from the wire). */
export function isErrorCode(text: unknown): text is ErrorCode {
  return typeof text === 'string' && Object.hasOwn(kinds, text);
}

const brand = Symbol.for('@large-payload/error');

/** The error that every function of these packages throws. The message is one line, safe to show to a user. */
export class LpsError extends Error {
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { details?: Readonly<Record<string, unknown>>; cause?: unknown } = {},
  ) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.name = 'LpsError';
    this.code = code;
    this.details = options.details ?? {};
    Object.defineProperty(this, brand, { value: true });
  }

  get retryable(): boolean {
    return isRetryable(this.code);
  }

  get status(): number {
    return statusOf(this.code);
  }
}

/** Whether a caught value is an `LpsError`, of this copy of the package or of another. */
export function isLpsError(error: unknown, code?: ErrorCode): error is LpsError {
  if (typeof error !== 'object' || error === null || !(brand in error)) return false;
  return code === undefined || ('code' in error && error.code === code);
}
