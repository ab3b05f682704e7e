/** What the extraction may cost. Beyond a limit it stops looking and says so: a gap, so that nothing is collected for it. */
export interface ExtractLimits {
  /** Wrappings that are undone around a digest: JSON strings, base64, compression. */
  readonly depth: number;
  /** Payloads within payloads. */
  readonly payloadDepth: number;
  /** Bytes that unwrapping one payload or field may make. */
  readonly unwrappedBytesPerPayload: number;
  /** The same for a whole message. */
  readonly unwrappedBytesPerMessage: number;
  /** Places of a message that may be tried as the beginning of compressed bytes. */
  readonly streamsPerMessage: number;
  /** Payloads that are found inside other bytes, in a message. */
  readonly embeddedPerMessage: number;
  /** Parts of a message: values of fields, entries, texts. */
  readonly partsPerMessage: number;
  /** Of one result. */
  readonly edges: number;
  /** Different ones, in one result. */
  readonly gaps: number;
  /** That a codec may take for one payload, in ms. */
  readonly decodeMs: number;
}

const MiB = 1024 * 1024;

export const defaultLimits: ExtractLimits = {
  depth: 4,
  payloadDepth: 8,
  unwrappedBytesPerPayload: 64 * MiB,
  unwrappedBytesPerMessage: 256 * MiB,
  streamsPerMessage: 10_000,
  embeddedPerMessage: 10_000,
  partsPerMessage: 1_000_000,
  edges: 100_000,
  gaps: 32,
  decodeMs: 30_000,
};

/** What is left of the limits for one message. */
export class Budget {
  readonly #limits: ExtractLimits;
  #messageBytes: number;
  #payloadBytes: number;
  #streams: number;
  #embedded: number;
  #parts: number;

  constructor(limits: ExtractLimits) {
    this.#limits = limits;
    this.#messageBytes = limits.unwrappedBytesPerMessage;
    this.#payloadBytes = limits.unwrappedBytesPerPayload;
    this.#streams = limits.streamsPerMessage;
    this.#embedded = limits.embeddedPerMessage;
    this.#parts = limits.partsPerMessage;
  }

  /** The next bytes that are unwrapped are another payload's. */
  nextPayload(): void {
    this.#payloadBytes = this.#limits.unwrappedBytesPerPayload;
  }

  /** That may still be unwrapped. */
  get bytes(): number {
    return Math.max(0, Math.min(this.#payloadBytes, this.#messageBytes));
  }

  /** Whether so many bytes may be unwrapped; they count from now on. */
  takeBytes(count: number): boolean {
    if (count > this.bytes) return false;
    this.#payloadBytes -= count;
    this.#messageBytes -= count;
    return true;
  }

  takeStream(): boolean {
    this.#streams -= 1;
    return this.#streams >= 0;
  }

  takeEmbedded(): boolean {
    this.#embedded -= 1;
    return this.#embedded >= 0;
  }

  takePart(): boolean {
    this.#parts -= 1;
    return this.#parts >= 0;
  }
}
