import { createHash, type Hash } from 'node:crypto';
import { LpsError } from './errors.js';

/** `sha256:` and 64 lower-case hexadecimal digits: the name of a blob's bytes. */
export type Digest = `sha256:${string}`;

const pattern = /^sha256:[0-9a-f]{64}$/;

/** Whether a text is a digest, to the letter (upper-case hex is not: it would name the same bytes twice). */
export function isDigest(text: unknown): text is Digest {
  return typeof text === 'string' && pattern.test(text);
}

/** The one parser for digests. Throws INVALID_ARGUMENT. */
export function parseDigest(text: unknown): Digest {
  if (isDigest(text)) return text;
  throw new LpsError('INVALID_ARGUMENT', 'digest must be "sha256:" followed by 64 lower-case hexadecimal digits');
}

/** The digest of bytes that are in memory. */
export function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** A running digest, for bytes that arrive in chunks. */
export class DigestStream {
  #hash: Hash = createHash('sha256');

  update(chunk: Uint8Array): void {
    this.#hash.update(chunk);
  }

  /** The digest of everything so far; ends the stream. */
  end(): Digest {
    return `sha256:${this.#hash.digest('hex')}`;
  }
}

/** The 64 hexadecimal digits of a digest. */
export function hexOf(digest: Digest): string {
  return digest.slice('sha256:'.length);
}

/** The 32 bytes of a digest in base64, as S3's checksum headers carry it. */
export function base64Of(digest: Digest): string {
  return Buffer.from(hexOf(digest), 'hex').toString('base64');
}
