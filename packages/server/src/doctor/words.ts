import { isLpsError } from '@large-payload/core';
import { roughBytes } from '../cli/terminal.js';

/** `734 B`, `12.3 MiB`; whole numbers without a fraction. */
export function sizeText(bytes: number): string {
  return roughBytes(bytes).replace('.0 ', ' ');
}

/** The message of any thrown value, and for ours the reason below it where that says more. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  if (!isLpsError(error) || !(cause instanceof Error) || isLpsError(cause) || cause.message === '')
    return error.message;
  return error.message.includes(cause.message) ? error.message : `${error.message}: ${cause.message}`;
}
