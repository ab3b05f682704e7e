/**
 * How a static token is written:
 *
 *   lps_k3v9x2m4abcd_9fQ…      id: 12 letters a-z and digits 2-7; secret: 32 random bytes in base64url (43 characters)
 *
 * The id is no secret: it is what `lps token list` and the audit show.
 */
import { createHash, randomBytes } from 'node:crypto';

export const tokenPrefix = 'lps_';

export interface TokenParts {
  readonly id: string;
  /** SHA-256 of the 32 secret bytes. */
  readonly secretHash: Buffer;
}

const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';
const pattern = /^lps_([a-z2-7]{12})_([A-Za-z0-9_-]{43})$/;
const idPattern = /^[a-z2-7]{12}$/;

/** A new token, and what is kept of it. */
export function newToken(): TokenParts & { readonly text: string } {
  const id = Array.from(randomBytes(12), (byte) => alphabet.charAt(byte % alphabet.length)).join('');
  const secret = randomBytes(32);
  return { id, secretHash: hashOf(secret), text: `${tokenPrefix}${id}_${secret.toString('base64url')}` };
}

/** Takes a token apart; `undefined` when it is not written so. */
export function parseToken(text: string): TokenParts | undefined {
  const [, id, secretText] = pattern.exec(text) ?? [];
  if (id === undefined || secretText === undefined) return undefined;
  const secret = Buffer.from(secretText, 'base64url');
  // one text for one secret: the last character has bits to spare
  return secret.toString('base64url') === secretText ? { id, secretHash: hashOf(secret) } : undefined;
}

/** Whether a text could be the id of a token. */
export function isTokenId(text: string): boolean {
  return idPattern.test(text);
}

function hashOf(secret: Buffer): Buffer {
  return createHash('sha256').update(secret).digest();
}
