import { setImmediate } from 'node:timers/promises';
import type { BlobInfo, BlobStore } from './blob-store.js';
import { ByteLru } from './byte-lru.js';
import { SingleFlight } from './concurrency.js';
import { statOf } from './layers/layer.js';
import type { Clock } from './retry.js';

/** What an entry costs beside its bytes; without it blobs of no bytes would be kept without end. */
const entryOverheadBytes = 512;

/** Blobs' bytes in memory, by key: the least recently used go first, and none lives longer than `entryMs`. */
export class BytesCache {
  readonly #entries: ByteLru<{ readonly bytes: Uint8Array; readonly expiresMs: number }>;

  constructor(
    readonly maxBytes: number,
    readonly entryMs: number,
    readonly clock: Clock,
  ) {
    this.#entries = new ByteLru(maxBytes);
  }

  /** The cache's own bytes: never to be handed out, nor written to. */
  get(key: string): Uint8Array | undefined {
    // a use makes an entry young, but not longer-lived: a takedown must be noticed within entryMs
    const entry = this.#entries.get(key);
    if (entry === undefined || this.clock.monotonicMs() < entry.expiresMs) return entry?.bytes;
    this.#entries.delete(key);
    return undefined;
  }

  /** Keeps what `bytes` returns, unless the key is there already; nobody else may hold on to it. */
  fill(key: string, size: number, bytes: () => Uint8Array): void {
    const cost = size + entryOverheadBytes;
    if (cost > this.maxBytes || this.get(key) !== undefined) return;
    this.#entries.set(key, { bytes: bytes(), expiresMs: this.clock.monotonicMs() + this.entryMs }, cost);
  }

  remove(key: string): void {
    this.#entries.delete(key);
  }
}

/** Of 300 bytes at most each, so about 6 MB. */
const maxKnownKeys = 20_000;

/** The keys that this process saw in the store, and how long each is known to be safe from the sweep. */
export class KnownKeys {
  readonly #skipUntilMs = new Map<string, number>(); // oldest note first
  #protects = false;

  constructor(
    readonly skipWindowMs: number,
    readonly clock: Clock,
  ) {}

  /**
   * Notes that the store has the blob. Uploads are skipped for the window at most, and for half of the time that the
   * service still protects it: whoever gets a claim without a touch has the other half to put it into a workflow.
   * A clock that is off by hours can only shorten that: the window is a minute, the service's grace is days.
   */
  note(key: string, protectedUntil: Date | undefined): void {
    if (protectedUntil !== undefined) this.#protects = true;
    const leftMs = protectedUntil === undefined ? 0 : protectedUntil.getTime() - this.clock.epochMs();
    const skipMs = Math.max(0, Math.min(this.skipWindowMs, leftMs / 2));
    this.#skipUntilMs.delete(key);
    this.#skipUntilMs.set(key, this.clock.monotonicMs() + skipMs);
    const [oldest] = this.#skipUntilMs.keys();
    if (this.#skipUntilMs.size > maxKnownKeys && oldest !== undefined) this.#skipUntilMs.delete(oldest);
  }

  forget(key: string): void {
    this.#skipUntilMs.delete(key);
  }

  /** Whether this process saw the blob before, however long ago. */
  has(key: string): boolean {
    return this.#skipUntilMs.has(key);
  }

  /** Whether an upload may be skipped without asking. */
  isSafe(key: string): boolean {
    return this.clock.monotonicMs() < (this.#skipUntilMs.get(key) ?? 0);
  }

  /**
   * Whether what a stat said stands for an upload. From a service that protects blobs, a blob without protection is no
   * proof of anything (its catalog may be down, and then nothing was touched); on a bare store nothing deletes blobs.
   */
  standsForUpload(info: BlobInfo): boolean {
    if (info.protectedUntil === undefined) return !this.#protects;
    return info.protectedUntil.getTime() > this.clock.epochMs();
  }
}

const maxKeysPerStat = 100;

/** Gathers the questions of one turn of the event loop into one request. */
export class StatBatches {
  readonly #flights = new SingleFlight<Map<string, BlobInfo>>();
  #next: { readonly id: string; readonly keys: Set<string> } | undefined;
  #count = 0;

  constructor(
    readonly store: BlobStore,
    readonly timeoutMs: number,
  ) {}

  /** What the store has at a key. Throws what the store throws, and ABORTED. */
  async ask(key: string, signal: AbortSignal): Promise<BlobInfo | undefined> {
    if (this.#next === undefined || this.#next.keys.size >= maxKeysPerStat) {
      this.#count += 1;
      this.#next = { id: `${this.#count}`, keys: new Set() };
    }
    const batch = this.#next;
    batch.keys.add(key);
    const { result } = this.#flights.join(batch.id, signal, async (controller) => {
      await setImmediate();
      if (this.#next === batch) this.#next = undefined;
      controller.signal.throwIfAborted();
      const timer = setTimeout(() => controller.abort(), this.timeoutMs);
      try {
        return await statOf(this.store, [...batch.keys], { signal: controller.signal });
      } finally {
        clearTimeout(timer);
      }
    });
    return (await result).get(key);
  }
}
