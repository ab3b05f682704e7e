/**
 * One download that many read, each from its beginning and at its own pace.
 *
 *   source ── pump ──► spool ──► reader, reader, …       a reader that comes late finds in the spool what it missed
 *
 * The pump waits for the spool alone, never for a reader. When the last reader has left before the end, so does the pump.
 */
import { Readable } from 'node:stream';
import type { BlobInfo } from '../blob-store.js';
import { LpsError } from '../errors.js';

/** Where a download is kept while it is read. */
export interface Spool {
  /** Takes the next bytes. A promise: nothing more until it is settled. */
  write(chunk: Uint8Array): Promise<void> | undefined;
  /** What follows `offset` (bytes), at most up to what was written; never empty while there is something. */
  read(offset: number): Uint8Array | Promise<Uint8Array>;
  /** Whether the bytes cannot have changed since they were written. */
  readonly isInMemory: boolean;
}

export interface FlightEvents {
  /** All bytes are in the spool. */
  onEnd(): void;
  /** Nobody reads any more, and the pump has stopped: the spool may go. Comes once, after `onEnd` if that comes. */
  onOver(): void;
}

export class Flight {
  readonly info: BlobInfo;
  readonly #source: Readable;
  readonly #spool: Spool;
  readonly #events: FlightEvents;
  readonly #readers = new Set<FlightReader>();
  #hadReaders = false;
  #written = 0;
  #state: 'waiting' | 'flowing' | 'ended' | 'failed' = 'waiting';

  /** `source` must be verified: what comes to its end is taken to be right. */
  constructor(info: BlobInfo, source: Readable, spool: Spool, events: FlightEvents) {
    this.info = info;
    this.#source = source;
    this.#spool = spool;
    this.#events = events;
  }

  get isInMemory(): boolean {
    return this.#spool.isInMemory;
  }

  get isOver(): boolean {
    return this.#state === 'ended' || this.#state === 'failed';
  }

  /** Another reader, from the first byte on, of a flight that is not over. It must be read to its end or destroyed. */
  read(): Readable {
    const reader = new FlightReader(this);
    this.#hadReaders = true;
    this.#readers.add(reader);
    return reader;
  }

  /** Ends it when nobody ever read. */
  endIfUnread(): void {
    if (!this.#hadReaders) this.abort(new LpsError('ABORTED', 'nobody reads any more'));
  }

  /** Ends it for everybody who has not read to the end. */
  abort(error: Error): void {
    if (!this.isOver) {
      this.#source.destroy();
      this.#fail(error);
    } else {
      for (const reader of [...this.#readers]) reader.destroy(error);
    }
  }

  /** For readers: what follows an offset; `undefined` while there is nothing yet. */
  next(offset: number): Uint8Array | Promise<Uint8Array> | undefined {
    if (this.#state === 'waiting') this.#start();
    return offset < this.#written ? this.#spool.read(offset) : undefined;
  }

  /** For readers: whether one that has read so far is at the end. */
  isAtEnd(offset: number): boolean {
    return this.#state === 'ended' && offset === this.#written;
  }

  /** For readers. */
  leave(reader: FlightReader): void {
    if (!this.#readers.delete(reader) || this.#readers.size > 0) return;
    if (this.isOver) {
      this.#events.onOver();
    } else {
      this.#source.destroy();
      this.#fail(new LpsError('ABORTED', 'nobody reads any more'));
    }
  }

  #start(): void {
    this.#state = 'flowing';
    const source = this.#source;
    const fail = (error: Error): void => {
      source.destroy();
      this.#fail(error);
    };
    source.on('data', (chunk: Uint8Array) => {
      if (this.isOver) return;
      const wait = this.#spool.write(chunk);
      const written = (): void => {
        this.#written += chunk.length;
        this.#wake();
      };
      if (wait === undefined) return written();
      source.pause();
      wait.then(() => {
        written();
        source.resume();
      }, fail);
    });
    source.on('end', () => {
      if (this.isOver) return;
      this.#state = 'ended';
      this.#events.onEnd();
      this.#wake();
    });
    source.on('error', fail);
    source.on('close', () => fail(new LpsError('ABORTED', 'the download was closed before its end')));
  }

  #fail(error: Error): void {
    if (this.isOver) return;
    this.#state = 'failed';
    const readers = [...this.#readers];
    this.#readers.clear();
    for (const reader of readers) reader.destroy(error);
    this.#events.onOver();
  }

  #wake(): void {
    for (const reader of this.#readers) reader.wake();
  }
}

class FlightReader extends Readable {
  readonly #flight: Flight;
  #offset = 0;
  #isWanting = false;
  #isReading = false;

  constructor(flight: Flight) {
    super({ highWaterMark: 256 * 1024 });
    this.#flight = flight;
    // a flight may fail before anybody listens; whoever reads afterwards still gets the error
    this.on('error', () => {});
  }

  override _read(): void {
    this.#isWanting = true;
    this.wake();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#flight.leave(this);
    done(error);
  }

  /** There may be more. */
  wake(): void {
    while (this.#isWanting && !this.#isReading && !this.destroyed) {
      const found = this.#flight.next(this.#offset);
      if (found === undefined) {
        this.#endIfAtEnd();
        return;
      }
      if (found instanceof Promise) this.#await(found);
      else this.#pass(found);
    }
  }

  #endIfAtEnd(): void {
    if (!this.#flight.isAtEnd(this.#offset)) return;
    this.#isWanting = false;
    this.push(null);
  }

  #await(found: Promise<Uint8Array>): void {
    this.#isReading = true;
    found.then(
      (chunk) => {
        this.#isReading = false;
        if (this.destroyed) return;
        this.#pass(chunk);
        this.wake();
      },
      (error) => this.destroy(error),
    );
  }

  #pass(chunk: Uint8Array): void {
    this.#offset += chunk.length;
    this.#isWanting = this.push(chunk);
  }
}
