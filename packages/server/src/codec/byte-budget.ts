import { LpsError } from '@large-payload/core';

/** Bytes that somebody holds. */
export interface Hold {
  readonly bytes: number;
  /**
   * Holds so many bytes in all, if that is more. Who holds nothing yet waits his turn; who holds something gets the rest
   * at once or OVERLOADED, for two who wait for each other's bytes would wait for ever.
   */
  reach(bytes: number, signal: AbortSignal): Promise<void>;
  /** Lets go of all that is beyond so many bytes. */
  shrink(bytes: number): void;
  release(): void;
}

/** Memory that all requests share, in bytes: whoever finds none waits in a line, and the line has an end. */
export class ByteBudget {
  #free: number;
  readonly #line: { readonly bytes: number; readonly enter: () => void }[] = [];

  constructor(
    readonly totalBytes: number,
    readonly maxWaiting: number,
  ) {
    this.#free = totalBytes;
  }

  get heldBytes(): number {
    return this.totalBytes - this.#free;
  }

  /** Nothing yet. */
  hold(): Hold {
    let bytes = 0;
    let isReleased = false;
    const shrink = (to: number): void => {
      if (bytes <= to) return;
      this.#give(bytes - to);
      bytes = to;
    };
    return {
      get bytes() {
        return bytes;
      },
      reach: async (to, signal) => {
        const more = to - bytes;
        if (more <= 0) return;
        if (bytes === 0) await this.#wait(more, signal);
        else if (more > this.#free) throw overloaded();
        else this.#free -= more; // before those in the line, who have nothing to lose yet
        bytes += more;
        if (isReleased) shrink(0); // the client went while we waited
      },
      shrink,
      release: () => {
        isReleased = true;
        shrink(0);
      },
    };
  }

  async #wait(bytes: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted) throw new LpsError('ABORTED', 'the call was aborted', { cause: signal.reason });
    if (this.#line.length === 0 && bytes <= this.#free) {
      this.#free -= bytes;
      return;
    }
    if (bytes > this.totalBytes || this.#line.length >= this.maxWaiting) throw overloaded();
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        const at = this.#line.indexOf(turn);
        if (at >= 0) this.#line.splice(at, 1);
        reject(new LpsError('ABORTED', 'the call was aborted', { cause: signal.reason }));
        this.#next(); // whoever stood behind may need less
      };
      const enter = (): void => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      };
      const turn = { bytes, enter };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#line.push(turn);
    });
  }

  #give(bytes: number): void {
    this.#free += bytes;
    this.#next();
  }

  #next(): void {
    for (let first = this.#line[0]; first !== undefined && first.bytes <= this.#free; first = this.#line[0]) {
      this.#line.shift();
      this.#free -= first.bytes;
      first.enter();
    }
  }
}

function overloaded(): LpsError {
  return new LpsError('OVERLOADED', 'the codec server has no memory left for this request: try again');
}
