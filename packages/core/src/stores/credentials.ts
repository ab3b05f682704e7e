/** Credentials come from the libraries of the clouds, which find them in their own ways over the network. */
import { LpsError } from '../errors.js';

export interface CredentialsRequest {
  /** For messages: `Google`, `Azure`. */
  readonly cloud: string;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Asks a library for credentials, but waits neither for ever nor beyond an abort. Throws ABORTED, and STORE_UNAVAILABLE
 * with the library's error as its cause.
 */
export async function askForCredentials<T>(request: CredentialsRequest, ask: () => Promise<T>): Promise<T> {
  const { cloud, timeoutMs, signal } = request;
  let timer: NodeJS.Timeout | undefined;
  let onAbort = (): void => {};
  const givenUp = new Promise<never>((_, reject) => {
    const message = `no ${cloud} credentials came within ${timeoutMs} ms`;
    const late = new LpsError('STORE_UNAVAILABLE', message, { details: { timedOut: true } });
    timer = setTimeout(() => reject(late), timeoutMs);
    onAbort = () => reject(new LpsError('ABORTED', 'the call was aborted', { cause: signal?.reason }));
    if (signal?.aborted) onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
  });
  const asked = ask().catch((cause: unknown) => {
    throw new LpsError('STORE_UNAVAILABLE', `the ${cloud} credentials cannot be had now`, { cause });
  });
  try {
    return await Promise.race([asked, givenUp]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}
