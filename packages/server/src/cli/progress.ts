import { Transform, type TransformCallback } from 'node:stream';
import { roughBytes, type Terminal } from './terminal.js';

const patienceMs = 1000;
const bigBytes = 8 * 1024 * 1024;
const refreshMs = 200;

/**
 * Passes bytes on and, on a terminal, shows how many went by: once the transfer takes longer than a second or is bigger
 * than 8 MiB. The line is gone when the stream is.
 */
export function progress(what: string, totalBytes: number | undefined, terminal: Pick<Terminal, 'stderr'>): Transform {
  const { stderr } = terminal;
  const startedMs = performance.now();
  let doneBytes = 0;
  let shownMs = Number.NEGATIVE_INFINITY;

  const show = (): void => {
    const nowMs = performance.now();
    const isWorthwhile = nowMs - startedMs > patienceMs || Math.max(doneBytes, totalBytes ?? 0) > bigBytes;
    if (!isWorthwhile || nowMs - shownMs < refreshMs) return;
    shownMs = nowMs;
    const rate = (doneBytes / Math.max(1, nowMs - startedMs)) * 1000;
    const of = totalBytes === undefined ? '' : ` of ${roughBytes(totalBytes)}`;
    stderr.write(`\r\u001b[K${what} ${roughBytes(doneBytes)}${of}, ${roughBytes(Math.round(rate))}/s`);
  };

  return new Transform({
    transform(chunk: Uint8Array, _encoding: BufferEncoding, done: TransformCallback) {
      doneBytes += chunk.length;
      if (stderr.isTTY) show();
      done(null, chunk);
    },
    destroy(error, done) {
      if (shownMs > 0) stderr.write('\r\u001b[K');
      done(error);
    },
  });
}
