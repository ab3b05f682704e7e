import { isLpsError, LpsError, statusOf } from '@large-payload/core';

/**
 * The Web UI reads 404 from /download as "not configured to download", so a blob that is not there is 424 on these routes
 * (a thing that this request depends on failed), and so is a key that was not given to us. The code stays what it is.
 */
const dependency = 424;

/** An error of the codec server; its status is the code's own, but never 404. */
export class CodecError extends LpsError {
  override get status(): number {
    const status = statusOf(this.code);
    return status === 404 || this.code === 'CONFIG_INVALID' ? dependency : status;
  }
}

/** What a driver or a codec threw, in one line that says which of how many payloads it was about. */
export function failureOf(error: unknown, position: string, otherwise: string): CodecError {
  const known = lpsErrorIn(error);
  const prefix = position === '' ? '' : `${position}: `;
  if (known === undefined) return new CodecError('INTERNAL', `${prefix}${otherwise}`, { cause: error });
  return new CodecError(known.code, `${prefix}${known.message}`, { details: known.details, cause: error });
}

/** `ApplicationFailure`s of our drivers and codecs carry ours as their cause. */
export function lpsErrorIn(error: unknown): LpsError | undefined {
  if (isLpsError(error)) return error;
  const cause: unknown = error instanceof Error ? error.cause : undefined;
  return isLpsError(cause) ? cause : undefined;
}

/** For errors that are about a claim. */
export function invalidClaim(reason: string, cause?: unknown): CodecError {
  return new CodecError('INVALID_CLAIM', reason, cause === undefined ? {} : { cause });
}
