/**
 * The body of an upload in one request, which GCS commits when all of it has come and never before:
 *
 *     --BOUNDARY
 *     content-type: application/json
 *
 *     {"name":"/blobs/orders/common/sha256:9f86…/sha256:e3b0…","md5Hash":"…"}        md5Hash: of bytes, not of streams
 *     --BOUNDARY
 *     content-type: application/octet-stream
 *
 *     the blob's bytes
 *     --BOUNDARY--
 *
 * There is nothing to clean up after one that broke off, as there would be after a resumable upload.
 */
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import type { Body } from '../blob-store.js';
import { isBytes } from '../body.js';
import { Passage } from '../passage.js';
import { wholeBytes } from './http-object.js';
import { md5Of, newMd5 } from './md5.js';

export interface GcsUpload {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Body;
  /** Base64, of what was sent; a stream's once it has ended. */
  md5(): string | undefined;
}

/** `size`: of the blob, in bytes. */
export function gcsUpload(name: string, blob: Body, size: number): GcsUpload {
  const boundary = randomBytes(16).toString('hex');
  const md5Hash = isBytes(blob) ? md5Of(blob) : undefined;
  const head = Buffer.from(
    `--${boundary}\r\ncontent-type: application/json; charset=utf-8\r\n\r\n${JSON.stringify({ name, md5Hash })}\r\n` +
      `--${boundary}\r\ncontent-type: application/octet-stream\r\n\r\n`,
  );
  const tail = Buffer.from(`\r\n--${boundary}--\r\n`);
  const headers = {
    'content-type': `multipart/related; boundary=${boundary}`,
    'content-length': String(head.length + size + tail.length),
  };
  if (!isBytes(blob)) {
    const hash = newMd5();
    return { headers, body: between(head, blob, tail, hash), md5: () => hash?.digest('base64') };
  }
  // larger ones are not copied
  const parts = [head, blob, tail].filter(({ length }) => length > 0);
  const body = size <= wholeBytes ? Buffer.concat(parts) : Readable.from(parts, { objectMode: false });
  return { headers, body, md5: () => md5Hash };
}

function between(head: Buffer, blob: Readable, tail: Buffer, hash: ReturnType<typeof newMd5>): Readable {
  let before: Buffer | undefined = head;
  const withHead = (chunk: Uint8Array): Uint8Array => {
    const bytes = before === undefined ? chunk : Buffer.concat([before, chunk]);
    before = undefined;
    return bytes;
  };
  return new Passage(blob, {
    chunk(chunk) {
      hash?.update(chunk);
      return withHead(chunk);
    },
    end: () => withHead(tail),
  });
}
