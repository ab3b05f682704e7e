import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { LpsError } from '@large-payload/core';
import type { PaceMonitor } from './pace.js';

/** Bytes of a refused upload that are still read and thrown away, so that its answer arrives; then the connection is cut. */
const maxRefusedBytes = 16 * 1024 * 1024;

/**
 * A request's body as a stream that can be let go of without harm to the connection.
 *
 * `Expect: 100-continue` is answered with 100 only when somebody begins to read. When the stream is destroyed early (the
 * blob is present, or the upload is refused), the rest of the body is read and dropped: a client that sends before it
 * reads is not left hanging, and the connection stays usable.
 */
export class UploadBody extends Readable {
  #bytes = 0;
  #reading = false;
  #done = false;
  #stopWatching: (() => void) | undefined;

  constructor(
    readonly request: IncomingMessage,
    readonly response: ServerResponse,
    readonly pace: PaceMonitor,
  ) {
    super({ highWaterMark: 256 * 1024 });
    request.on('close', this.#onClose);
    this.on('error', () => {}); // whoever reads sees it; when nobody does, it must not end the process
  }

  /** Whether the client waits for a 100 that was never sent: then no body will come. */
  get isUnasked(): boolean {
    return !this.#reading && this.#waitsForContinue();
  }

  override _read(): void {
    if (!this.#reading) this.#begin();
    this.request.resume();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.request.off('data', this.#onData);
    this.request.off('end', this.#onEnd);
    if (!this.#done && !this.isUnasked) this.#drain();
    else this.#stopWatching?.();
    done(error);
  }

  #begin(): void {
    this.#reading = true;
    if (this.#waitsForContinue()) this.response.writeContinue();
    this.request.on('data', this.#onData);
    this.request.on('end', this.#onEnd);
    this.#stopWatching = this.pace.watch({
      progress: () => this.#bytes,
      waitsForClient: () => !this.request.isPaused(),
      tooSlow: () => this.destroy(new LpsError('TOO_SLOW', 'the upload came too slowly')),
    });
  }

  /** Node itself has sent the 100 in a server that leaves `checkContinue` to it; only this field of its tells. */
  #waitsForContinue(): boolean {
    const { request, response } = this;
    return request.headers.expect?.toLowerCase() === '100-continue' && Reflect.get(response, '_sent100') !== true;
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#bytes += chunk.length;
    if (!this.push(chunk)) this.request.pause();
  };

  readonly #onEnd = (): void => {
    this.#done = true;
    this.#stopWatching?.();
    this.push(null);
  };

  readonly #onClose = (): void => {
    this.#stopWatching?.();
    // `complete` is false when the connection broke off inside the body
    if (!this.request.complete) this.destroy(new LpsError('ABORTED', 'the client broke the upload off'));
  };

  /** Reads on for nobody. The connection is cut when that takes too long, or too much of a refused body comes. */
  #drain(): void {
    const { request, response } = this;
    if (request.complete || request.destroyed) return;
    this.#stopWatching?.();
    const start = this.#bytes;
    const cut = (): void => {
      request.socket.destroy();
    };
    const stop = this.pace.watch({ progress: () => this.#bytes, waitsForClient: () => true, tooSlow: cut });
    request.on('data', (chunk: Buffer) => {
      this.#bytes += chunk.length;
      if (response.statusCode >= 400 && this.#bytes - start > maxRefusedBytes) cut();
    });
    request.once('end', stop);
    request.once('close', stop);
    request.resume();
  }
}
