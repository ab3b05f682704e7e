import { Readable } from 'node:stream';
import { LpsError } from './errors.js';

/** What a `Passage` does with what flows through it. What either function throws, the reader gets. */
export interface PassageSteps {
  /** Each chunk of the source; what it returns is passed on. */
  chunk(chunk: Uint8Array): Uint8Array | undefined;
  /** The source's end; what it returns goes out last. */
  end(): Uint8Array | undefined;
}

/**
 * A stream over another one, with less between them than a Transform in a pipeline has: every byte goes through here.
 *
 * Back-pressure, errors and destruction pass through. The source is left alone until somebody reads: a store that answers
 * `exists` without reading must not make a client send its body. A source that closes before its end is an error.
 */
export class Passage extends Readable {
  readonly #source: Readable;
  readonly #steps: PassageSteps;
  #isConnected = false;
  #isOver = false;
  #holds = 0;

  constructor(source: Readable, steps: PassageSteps) {
    super({ highWaterMark: 256 * 1024 });
    this.#source = source;
    this.#steps = steps;
    // an abort may come before the store reads, while nobody listens: that must not end the process; whoever reads
    // afterwards still gets the error
    this.on('error', () => {});
  }

  /** Lets nothing more in until the returned function is called. */
  hold(): () => void {
    this.#holds += 1;
    this.#source.pause();
    return () => {
      this.#holds -= 1;
      if (this.#holds === 0 && !this.#isOver) this.#source.resume();
    };
  }

  override _read(): void {
    if (!this.#isConnected) this.#connect();
    if (this.#holds === 0) this.#source.resume();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#isOver = true;
    this.#source.destroy();
    done(error);
  }

  #connect(): void {
    this.#isConnected = true;
    const source = this.#source;
    if (source.errored) {
      this.destroy(source.errored);
      return;
    }
    source.on('data', (chunk: Uint8Array) => {
      if (!this.#pass(() => this.#steps.chunk(chunk))) source.pause();
    });
    source.on('end', () => {
      this.#isOver = true;
      this.#pass(() => this.#steps.end());
      this.push(null);
    });
    source.on('error', (error) => this.destroy(error));
    source.on('close', () => {
      if (!this.#isOver) this.destroy(new LpsError('ABORTED', 'the body was closed before its end'));
    });
    if (source.destroyed && !source.readableEnded) source.emit('close');
  }

  #pass(step: () => Uint8Array | undefined): boolean {
    if (this.destroyed) return false;
    try {
      const out = step();
      return out === undefined || this.push(out);
    } catch (error) {
      this.destroy(error as Error);
      return false;
    }
  }
}
