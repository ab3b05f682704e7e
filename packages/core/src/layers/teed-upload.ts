/** An upload whose bytes are also kept, as they pass. */
import type { Readable } from 'node:stream';
import { Passage } from '../passage.js';
import type { Spool } from './flight.js';

/**
 * The source, and a copy of what passes. The copy may hold the source up, and cannot make the upload fail: when it fails
 * itself, the rest passes without it.
 */
export class TeedUpload {
  readonly body: Readable;
  readonly #spool: Pick<Spool, 'write'>;
  #copied = 0;
  #isFailed = false;
  #pending: Promise<void> | undefined;

  constructor(source: Readable, spool: Pick<Spool, 'write'>) {
    this.#spool = spool;
    const passage = new Passage(source, {
      chunk: (chunk) => {
        this.#copy(chunk, () => passage.hold());
        return chunk;
      },
      end: () => undefined,
    });
    this.body = passage;
  }

  /** Bytes in the copy, when nothing is being written to it any more; `undefined` when it failed. */
  async copied(): Promise<number | undefined> {
    await this.#pending;
    return this.#isFailed ? undefined : this.#copied;
  }

  #copy(chunk: Uint8Array, hold: () => () => void): void {
    if (this.#isFailed) return;
    const wait = this.#spool.write(chunk);
    this.#copied += chunk.length;
    if (wait === undefined) return;
    const letGo = hold();
    this.#pending = wait
      .catch(() => {
        this.#isFailed = true;
      })
      .finally(letGo);
  }
}
