import { Readable } from 'node:stream';
import type { Body } from './blob-store.js';
import { LpsError } from './errors.js';

/** Whether a body is whole in memory. */
export function isBytes(body: Body): body is Uint8Array {
  return body instanceof Uint8Array;
}

/** A stream of a body; bytes become one chunk. */
export function toStream(body: Body): Readable {
  // an array, because Readable.from would iterate a Uint8Array number by number
  return isBytes(body) ? Readable.from(body.length === 0 ? [] : [body], { objectMode: false }) : body;
}

/** All bytes of a body, at most `maxBytes` of them. Throws BLOB_TOO_LARGE, and what the stream fails with. */
export async function readAll(body: Body, maxBytes: number): Promise<Uint8Array> {
  if (isBytes(body)) {
    if (body.length > maxBytes) throw tooLarge(maxBytes);
    return body;
  }
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of body as AsyncIterable<Uint8Array>) {
    size += chunk.length;
    // leaving the loop destroys the stream
    if (size > maxBytes) throw tooLarge(maxBytes);
    chunks.push(chunk);
  }
  return chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, size);
}

/** Lets go of a body that nobody will read. */
export function discard(body: Body): void {
  if (isBytes(body)) return;
  body.on('error', () => {});
  body.destroy();
}

function tooLarge(maxBytes: number): LpsError {
  return new LpsError('BLOB_TOO_LARGE', `more than ${maxBytes} bytes`, { details: { maxBytes } });
}
