import { type FileHandle, unlink } from 'node:fs/promises';
import { LpsError } from '../errors.js';
import type { Spool } from './flight.js';

export interface SpoolFileEvents {
  /** The disk failed. */
  onError(error: unknown): void;
  /** The file is closed, and removed unless it was moved. */
  onClose(): void;
}

const bufferBytes = 256 * 1024;

/** A download kept in a file. What was written last is read from memory, the rest from the file. */
export class SpoolFile implements Spool {
  readonly isInMemory = false;
  /** Whether the file has another name now, and is somebody else's. */
  wasMoved = false;
  readonly #handle: FileHandle;
  readonly #events: SpoolFileEvents;
  readonly #buffer = Buffer.allocUnsafeSlow(bufferBytes);
  #buffered = 0;
  /** Bytes in the file. */
  #flushed = 0;

  constructor(
    handle: FileHandle,
    readonly path: string,
    events: SpoolFileEvents,
  ) {
    this.#handle = handle;
    this.#events = events;
  }

  write(chunk: Uint8Array): Promise<void> | undefined {
    const room = bufferBytes - this.#buffered;
    if (chunk.length > room) return this.#writeThrough(chunk);
    this.#buffer.set(chunk, this.#buffered);
    this.#buffered += chunk.length;
    return undefined;
  }

  read(offset: number): Uint8Array | Promise<Uint8Array> {
    // a copy: the buffer is used again
    if (offset >= this.#flushed) return Buffer.from(this.#buffer.subarray(offset - this.#flushed, this.#buffered));
    return this.#readFile(offset, Math.min(bufferBytes, this.#flushed - offset));
  }

  /** Everything is in the file. Returns how many bytes that are. Throws what the file system does. */
  async flush(): Promise<number> {
    await this.#append(this.#buffer.subarray(0, this.#buffered));
    this.#buffered = 0;
    return this.#flushed;
  }

  /** Nobody reads from it any more. Never throws. */
  async close(): Promise<void> {
    await this.#handle.close().catch(() => {});
    if (!this.wasMoved) await unlink(this.path).catch(() => {});
    this.#events.onClose();
  }

  async #writeThrough(chunk: Uint8Array): Promise<void> {
    try {
      await this.flush();
      await this.#append(chunk);
    } catch (cause) {
      this.#events.onError(cause);
      throw new LpsError('TRY_AGAIN', 'the disk cache failed; read the blob again', { cause });
    }
  }

  async #append(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#handle.write(bytes, done, bytes.length - done, this.#flushed + done);
      done += bytesWritten;
    }
    this.#flushed += bytes.length;
  }

  async #readFile(offset: number, length: number): Promise<Uint8Array> {
    const bytes = Buffer.allocUnsafe(length);
    const { bytesRead } = await this.#handle.read(bytes, 0, length, offset);
    if (bytesRead === 0) throw new LpsError('TRY_AGAIN', 'the disk cache has lost bytes; read the blob again');
    return bytes.subarray(0, bytesRead);
  }
}
