import type { CallContext } from './callbacks.js';
import { S3WorkflowError } from './errors.js';

export interface Call {
  readonly name: string;
  readonly timeoutMs: number;
  readonly uploadID: string | undefined;
  readonly isFirst?: boolean;
  /** Told when the callback ends, in whatever way, after it was given up: what it did is not cleaned up yet. */
  readonly endedLate?: () => void;
}

/** Calls a callback, and gives it up with TIMED_OUT after `timeoutMs`. */
export async function callWithin<T>(call: Call, callback: (context: CallContext) => Promise<T>): Promise<T> {
  const { name, timeoutMs, uploadID, isFirst, endedLate = () => undefined } = call;
  const controller = new AbortController();
  const context = {
    signal: controller.signal,
    ...(uploadID === undefined ? {} : { uploadID }),
    ...(isFirst === undefined ? {} : { isFirst }),
  };
  const tooLate = new S3WorkflowError('TIMED_OUT', `${name} did not return within ${timeoutMs} ms`);
  let timer: NodeJS.Timeout | undefined;
  const timedOut = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(tooLate);
      controller.abort(tooLate);
    }, timeoutMs);
  });
  const running = (async () => callback(context))();
  try {
    return await Promise.race([running, timedOut]);
  } catch (error) {
    if (error === tooLate) running.then(endedLate, endedLate);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
