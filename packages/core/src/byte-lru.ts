/** Entries whose sizes add up to at most `maxBytes`; the least recently used go first. */
export class ByteLru<T> {
  readonly #entries = new Map<string, { value: T; size: number }>();
  #bytes = 0;

  constructor(
    readonly maxBytes: number,
    readonly onEvict?: (key: string, value: T) => void,
  ) {}

  get bytes(): number {
    return this.#bytes;
  }

  /** How many there are. */
  get count(): number {
    return this.#entries.size;
  }

  /** The entry, which becomes the most recently used one. */
  get(key: string): T | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry.value;
  }

  /** Keeps an entry unless it is larger than everything; makes room for it. */
  set(key: string, value: T, size: number): void {
    this.delete(key);
    if (size > this.maxBytes) return;
    this.#entries.set(key, { value, size });
    this.#bytes += size;
    this.shrinkTo(this.maxBytes);
  }

  /** Evicts until what is left takes at most so many bytes. */
  shrinkTo(bytes: number): void {
    for (const [oldest, entry] of this.#entries) {
      if (this.#bytes <= bytes) return;
      this.delete(oldest);
      this.onEvict?.(oldest, entry.value);
    }
  }

  /** Forgets an entry; `onEvict` is not told. */
  delete(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#bytes -= entry.size;
  }

  clear(): void {
    this.#entries.clear();
    this.#bytes = 0;
  }
}
