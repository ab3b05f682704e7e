/**
 * A receipt: what was erased, by whose wish, and how that was proven. A JSON file that people can read, with a signature
 * (JWS, Ed25519) that any JOSE library can check:
 *
 *   { "receipt": { … }, "jws": { "protected": …, "payload": …, "signature": … } }
 *
 * The signed payload is the receipt; the readable copy must say the same, or the file is refused.
 */
import { createHash, createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { LpsError } from '@large-payload/core';
import { FlattenedSign, flattenedVerify } from 'jose';
import { z } from 'zod';

const time = z.iso.datetime();
const count = z.int().min(0);

const receiptSchema = z.strictObject({
  format: z.literal('large-payload-takedown/1'),
  id: z.uuid(),
  /** As it was asked for. */
  selector: z.record(z.string(), z.string()),
  withSameDigest: z.boolean(),
  isBlocked: z.boolean(),
  reason: z.string(),
  requestedBy: z.string(),
  requestedAt: time,
  acceptedAt: time,
  completedAt: time,
  blobs: z.array(z.strictObject({ key: z.string(), digest: z.string(), bytes: count })),
  /** Objects of the store that were deleted, with versions and delete markers. */
  objects: count,
  bytes: count,
  /** What was done, and when, to know that nothing is left. */
  proof: z.array(z.strictObject({ at: time, what: z.string() })),
  /** What the service cannot erase, and what the operator must do about it. */
  outOfReach: z.array(z.string()),
});

export type Receipt = z.output<typeof receiptSchema>;

const signedSchema = z.strictObject({
  receipt: receiptSchema,
  jws: z.strictObject({ protected: z.string(), payload: z.string(), signature: z.string() }),
});

const type = 'large-payload-takedown+jws';

/** The text of the file. `privateKey`: Ed25519, PEM (PKCS #8). */
export async function signReceipt(receipt: Receipt, privateKey: string): Promise<string> {
  const key = createPrivateKey(privateKey);
  const publicKey = createPublicKey(key);
  const jws = await new FlattenedSign(Buffer.from(JSON.stringify(receipt)))
    .setProtectedHeader({ alg: 'EdDSA', typ: type, kid: keyIdOf(publicKey), jwk: publicKey.export({ format: 'jwk' }) })
    .sign(key);
  return `${JSON.stringify({ receipt, jws }, undefined, 2)}\n`;
}

export interface VerifiedReceipt {
  readonly receipt: Receipt;
  /** `SHA256:…` of the public key: whose signature it is, is known only to those who know the key. */
  readonly keyId: string;
}

/**
 * Reads a receipt's file. With `trustedKey` (PEM, SPKI) it must be signed by that one, else by the one that it names itself.
 * Throws INVALID_ARGUMENT for what is no receipt, or not as it was signed.
 */
export async function verifyReceipt(text: string, trustedKey?: string): Promise<VerifiedReceipt> {
  const parsed = signedSchema.safeParse(parseJson(text));
  if (!parsed.success) throw refused('this is no receipt of a takedown');
  const { receipt, jws } = parsed.data;
  const key = trustedKey === undefined ? namedKey(jws.protected) : createPublicKey(trustedKey);
  if (key.asymmetricKeyType !== 'ed25519') throw refused('the key is not of the kind Ed25519');
  const { payload, protectedHeader } = await flattenedVerify(jws, key, { algorithms: ['EdDSA'] }).catch((cause) => {
    throw refused('the signature is not right: the receipt was changed, or is signed by another key', cause);
  });
  if (protectedHeader?.typ !== type) throw refused('this is the signature of something else');
  if (!isDeepStrictEqual(JSON.parse(Buffer.from(payload).toString()), receipt))
    throw refused('the readable part of the receipt was changed');
  return { receipt, keyId: keyIdOf(key) };
}

/** How people compare keys. */
export function keyIdOf(publicKey: KeyObject): string {
  const der = publicKey.export({ format: 'der', type: 'spki' });
  return `SHA256:${createHash('sha256').update(der).digest('base64url')}`;
}

function namedKey(protectedHeader: string): KeyObject {
  try {
    const { jwk } = JSON.parse(Buffer.from(protectedHeader, 'base64url').toString());
    return createPublicKey({ format: 'jwk', key: jwk });
  } catch (cause) {
    throw refused('the receipt does not say whose key it is signed by', cause);
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function refused(message: string, cause?: unknown): LpsError {
  return new LpsError('INVALID_ARGUMENT', message, { cause });
}
