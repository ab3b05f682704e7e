/** Objects as every bucket's HTTP interface gives them out: their size, their date, their bytes. */
import type { Readable } from 'node:stream';
import type { BlobInfo, ByteRange, StoredBlob } from '../blob-store.js';
import { discard } from '../body.js';
import { LpsError } from '../errors.js';
import type { TransportResponse } from '../transport.js';

/** Up to here a blob is sent and returned as bytes. */
export const wholeBytes = 256 * 1024;

/** What the answer to a HEAD, or to a GET with or without a range, says about the object. Throws STORE_UNAVAILABLE. */
export function objectInfo(key: string, { status, headers }: TransportResponse, isRange = false): BlobInfo {
  // content-range: bytes 0-99/200000
  const size = isRange ? /^bytes \d+-\d+\/(\d+)$/.exec(headers['content-range'] ?? '')?.[1] : headers['content-length'];
  if (size === undefined || status !== (isRange ? 206 : 200)) throw sizeUnknown(status);
  const modified = headers['last-modified'];
  return { key, size: Number(size), ...(modified === undefined ? {} : { modifiedAt: new Date(modified) }) };
}

/** The answer to a GET as a blob; small ones whole. Throws STORE_UNAVAILABLE and RANGE_NOT_SATISFIABLE. */
export async function objectOf(
  key: string,
  response: TransportResponse,
  range: ByteRange | undefined,
): Promise<StoredBlob> {
  try {
    const info = objectInfo(key, response, range !== undefined);
    // buckets cut a range that ends behind the object
    if (range !== undefined && range.end >= info.size) {
      throw new LpsError('RANGE_NOT_SATISFIABLE', 'the range ends behind the blob');
    }
    const length = range === undefined ? info.size : range.end - range.start + 1;
    // the HTTP parser holds the server to it
    if (response.headers['content-length'] !== String(length)) throw sizeUnknown(response.status);
    return { info, body: length <= wholeBytes ? await collect(response.body, length) : response.body };
  } catch (error) {
    discard(response.body);
    throw error;
  }
}

function sizeUnknown(status: number): LpsError {
  return new LpsError('STORE_UNAVAILABLE', 'the bucket did not say how large the object is', { details: { status } });
}

/** Measured, under `checked`: bytes instead of a stream save 15 % of the CPU of a GET of 200 kB, 27 % at 20 kB. */
export function collect(body: Readable, size: number): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const bytes = Buffer.allocUnsafeSlow(size);
    let at = 0;
    body.on('data', (chunk: Uint8Array) => {
      if (at + chunk.length > size) body.destroy(new LpsError('SIZE_MISMATCH', `more than ${size} bytes`));
      else bytes.set(chunk, at);
      at += chunk.length;
    });
    body.on('end', () => {
      if (at === size) resolve(bytes);
      else reject(new LpsError('SIZE_MISMATCH', `${at} of ${size} bytes arrived`));
    });
    body.on('error', reject);
    body.on('close', () => reject(new LpsError('ABORTED', 'the body was closed before its end')));
  });
}
