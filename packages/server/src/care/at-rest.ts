/**
 * Looks at objects where they lie, below any cache, and tells damage from a store that fails:
 *
 *   right        read to its end, and the digest matched
 *   missing      the store said so twice
 *   wrong        it failed its digest twice
 *   unreadable   the store failed, again and again, on this object alone: nothing is known about it
 *   (thrown)     the store as a whole does not answer, or is not ours any more: the run ends, nothing is marked
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type BlobInfo, type BlobStore, discard, isBytes, isLpsError, LpsError } from '@large-payload/core';
import type { Throttle } from './throttle.js';

export interface Missing {
  readonly kind: 'missing';
}
export interface Unreadable {
  readonly kind: 'unreadable';
  readonly error: unknown;
}
/** `size`: what lies there, in bytes. */
export type Hashed =
  | { readonly kind: 'right'; readonly size: number }
  | { readonly kind: 'wrong'; readonly size: number }
  | Missing
  | Unreadable;
export type Looked = { readonly kind: 'there'; readonly info: BlobInfo } | Missing | Unreadable;

export interface AtRestOptions {
  readonly store: BlobStore;
  readonly throttle: Throttle;
  /** Throws unless the store answers and still is the one that the catalog belongs to. */
  readonly prove: () => Promise<void>;
  /** Told of every piece that was read. */
  readonly onBytes?: (bytes: number) => void;
  /** Before a read is tried again, times 1, 5, … Default 200 ms. */
  readonly retryMs?: number;
}

const attempts = 3;
/** So many in a row are not so many broken objects. */
const maxUnreadableInARow = 100;

export class AtRest {
  #unreadableInARow = 0;

  constructor(readonly options: AtRestOptions) {}

  /** Reads an object to its end. */
  hash(physicalKey: string, signal: AbortSignal): Promise<Hashed> {
    return this.#untilKnown(signal, async () => {
      const first = await this.#hashOnce(physicalKey, signal);
      // a byte may have been flipped on its way, and not at rest
      return first.kind === 'right' ? first : this.#hashOnce(physicalKey, signal);
    });
  }

  /** Whether an object is there, without reading it. */
  look(physicalKey: string, signal: AbortSignal): Promise<Looked> {
    return this.#untilKnown<Looked>(signal, async () => {
      const info = (await this.#head(physicalKey, signal)) ?? (await this.#head(physicalKey, signal));
      return info === undefined ? { kind: 'missing' } : { kind: 'there', info };
    });
  }

  #head(physicalKey: string, signal: AbortSignal): Promise<BlobInfo | undefined> {
    return this.options.store.head(physicalKey, { signal });
  }

  async #hashOnce(physicalKey: string, signal: AbortSignal): Promise<Hashed> {
    const { store } = this.options;
    try {
      const found = await store.get(physicalKey, { signal });
      if (found === undefined) return { kind: 'missing' };
      await this.#readToEnd(found.body, signal);
      return { kind: 'right', size: found.info.size };
    } catch (error) {
      if (!isLpsError(error, 'BLOB_DAMAGED')) throw error;
      const info = await this.#head(physicalKey, signal);
      return info === undefined ? { kind: 'missing' } : { kind: 'wrong', size: info.size };
    }
  }

  async #readToEnd(body: Parameters<typeof discard>[0], signal: AbortSignal): Promise<void> {
    const { throttle, onBytes } = this.options;
    if (isBytes(body)) {
      await throttle.take(body.length, signal);
      return onBytes?.(body.length);
    }
    try {
      for await (const chunk of body as AsyncIterable<Uint8Array>) {
        signal.throwIfAborted(); // whatever the store does with signals
        await throttle.take(chunk.length, signal);
        onBytes?.(chunk.length);
      }
    } finally {
      discard(body);
    }
  }

  async #untilKnown<T>(signal: AbortSignal, ask: () => Promise<T>): Promise<T | Unreadable> {
    const { retryMs = 200, prove } = this.options;
    for (let attempt = 1; ; attempt++) {
      try {
        const answer = await ask();
        this.#unreadableInARow = 0;
        return answer;
      } catch (error) {
        signal.throwIfAborted();
        if (attempt < attempts) {
          await delay(retryMs * 5 ** (attempt - 1), undefined, { signal });
          continue;
        }
        await prove();
        this.#unreadableInARow += 1;
        if (this.#unreadableInARow > maxUnreadableInARow) throw nothingReadable(error);
        return { kind: 'unreadable', error };
      }
    }
  }
}

function nothingReadable(cause: unknown): LpsError {
  const reason = isLpsError(cause) ? `: ${cause.message}` : '';
  return new LpsError(
    'STORE_UNAVAILABLE',
    `${maxUnreadableInARow} objects in a row could not be read, so the run ends here${reason}`,
    { cause },
  );
}
