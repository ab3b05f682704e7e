import type { Spool } from './flight.js';

/** A download kept in memory, as it came. */
export class MemorySpool implements Spool {
  readonly isInMemory = true;
  readonly chunks: Uint8Array[] = [];
  /** Where each chunk begins. */
  readonly #starts: number[] = [];
  #size = 0;

  write(chunk: Uint8Array): undefined {
    if (chunk.length === 0) return;
    this.chunks.push(chunk);
    this.#starts.push(this.#size);
    this.#size += chunk.length;
  }

  read(offset: number): Uint8Array {
    // readers mostly follow the end, or go from chunk to chunk: both are found in a few steps
    let [low, high] = [0, this.#starts.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#starts[middle] ?? 0) <= offset) low = middle;
      else high = middle - 1;
    }
    const chunk = this.chunks[low] ?? new Uint8Array();
    return chunk.subarray(offset - (this.#starts[low] ?? 0));
  }
}
