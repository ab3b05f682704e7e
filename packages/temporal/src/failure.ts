import { type ErrorCode, isLpsError, type LpsError } from '@large-payload/core';
import { ApplicationFailure } from '@temporalio/common';

/**
 * What the SDK (1.24) does with what a codec or a driver throws, read from its source:
 *
 * | thrown in                               | outcome                                                                 |
 * |-----------------------------------------|-------------------------------------------------------------------------|
 * | workflow task, codec or driver          | the *task* fails and is tried again, whatever was thrown: never the workflow |
 * | activity's result, codec or driver      | `ensureApplicationFailure`: the attempt fails, for good when `nonRetryable` |
 * | activity's input, driver                | the same                                                                |
 * | activity's input, codec                 | the attempt fails, `nonRetryable` is overwritten with false (see `toTemporalFailure`) |
 * | heartbeat, codec                        | the activity is cancelled (HEARTBEAT_DETAILS_CONVERSION_FAILED)           |
 * | heartbeat, driver                       | nothing catches it: the worker's `run()` rejects                        |
 * | heartbeat, with the plugin              | it never gets that far: the heartbeat is skipped (heartbeats.ts)        |
 * | client, codec                           | the call rejects with it                                                |
 * | client, driver                          | the call rejects with a `ServiceError`, it being the `cause`             |
 *
 * So a permanent failure can be told from a transient one in activities only, by `nonRetryable`; what is transient must
 * never carry it, or one restart of the service would fail workflows through their activities. (The SDK after 1.24
 * wraps a driver's error, `cause` being ours: `nonRetryable` is then lost, and the retry policy decides.)
 */

/** What no retry of an activity can mend: it is about the payload or the claim itself. */
const permanentCodes: ReadonlySet<ErrorCode> = new Set([
  'BLOB_TOO_LARGE',
  'BLOB_DAMAGED',
  'BLOB_TAKEN_DOWN',
  'BLOB_BLOCKED',
  'DIGEST_MISMATCH',
  'SIZE_MISMATCH',
  'INVALID_ARGUMENT',
  'INVALID_CLAIM',
  'INVALID_KEY',
  'INVALID_METADATA',
] satisfies ErrorCode[]);
// Not here, though the store gives up on them at once: BLOB_NOT_FOUND, STORE_REFUSED, STORE_FULL, CONFIG_INVALID and
// their like. An operator mends those (a wrong URL, an expired key, an undelete) while Temporal keeps trying.

/** The type of the failure when a payload was erased on request. */
export const takenDownType = 'LpsBlobTakenDown';

/**
 * The failure for Temporal: type `LargePayload.<CODE>`, and `LpsBlobTakenDown` for what was erased on request, for
 * `nonRetryableErrorTypes` and for whoever catches it; `cause` is the `LpsError`. Anything else than an `LpsError` is
 * returned as it is.
 *
 * What was erased never comes back, so that failure stays non-retryable also where the SDK would say otherwise: it assigns
 * `nonRetryable: false` to a failure of a codec in an activity's input.
 */
export function toTemporalFailure(error: unknown): unknown {
  if (!isLpsError(error)) return error;
  const isErased = error.code === 'BLOB_TAKEN_DOWN';
  const failure = ApplicationFailure.create({
    message: messageOf(error),
    type: isErased ? takenDownType : `LargePayload.${error.code}`,
    nonRetryable: permanentCodes.has(error.code),
    cause: error,
  });
  if (!isErased) return failure;
  return Object.defineProperty(failure, 'nonRetryable', { enumerable: true, get: () => true, set: () => undefined });
}

/** A workflow task that fails with it is tried again and again, and its message is all that a person sees of it. */
function messageOf({ code, message, details }: LpsError): string {
  const blob = typeof details.key === 'string' ? ` (${details.key})` : '';
  if (code === 'BLOB_TAKEN_DOWN') {
    return (
      `a payload was erased on request (taken down) and never comes back${blob}. A workflow that still needs it cannot go ` +
      'on: terminate it, or reset it to a point before it was used'
    );
  }
  if (code === 'BLOB_BLOCKED') {
    return (
      `a payload may not be stored${blob}: these bytes were taken down, and are blocked. A workflow that sends them cannot ` +
      'go on: terminate it, change what it sends and reset it, or end the block (lps takedown)'
    );
  }
  return message;
}

/**
 * Runs a transfer and translates what it throws. When the SDK aborted it because a sibling failed, the sibling's own
 * failure is thrown: the SDK reports the first in the order of payloads, which may be the one that was only aborted.
 */
export async function withFailures<T>(signal: AbortSignal | undefined, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    const reason: unknown = signal?.aborted && isLpsError(error, 'ABORTED') ? signal.reason : undefined;
    throw reason instanceof ApplicationFailure ? reason : toTemporalFailure(error);
  }
}
