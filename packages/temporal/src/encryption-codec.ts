/**
 * Encryption, in the format of Temporal's samples (the same in every language):
 *
 *   metadata  encoding: binary/encrypted
 *             encryption-key-id: {id}
 *   data      nonce, 12 bytes ‖ AES-256-GCM of the serialized payload ‖ tag, 16 bytes
 *
 * Random nonces make every encryption of a payload another blob, so nothing is ever uploaded once only. `deterministic`
 * takes the nonce from the payload itself (HMAC-SHA256 under a key derived from the encryption key): the same payload
 * under the same key is the same blob. It tells an onlooker that two payloads are equal, and nothing else; two different
 * payloads share a nonce with a probability of 2^-32 after 2^32 payloads.
 */
import { createCipheriv, createDecipheriv, createHmac, randomBytes } from 'node:crypto';
import { LpsError } from '@large-payload/core';
import type { Payload, PayloadCodec } from '@temporalio/common';
import { withFailures } from './failure.js';
import { decodePayload, encodePayload, encodingOf } from './payload-proto.js';

export interface EncryptionCodecOptions {
  /** By their ids: 32 bytes each. Those of older payloads stay here until no workflow needs them. */
  readonly keys: Readonly<Record<string, Uint8Array>>;
  /** Of the key that encrypts. */
  readonly keyId: string;
  /** The same payload becomes the same bytes, so that its blob is stored once. Default false. */
  readonly deterministic?: boolean;
}

const encoding = 'binary/encrypted';
const keyIdName = 'encryption-key-id';
const cipherName = 'aes-256-gcm';
const keyBytes = 32;
const nonceBytes = 12;
const tagBytes = 16;

interface Key {
  readonly cipher: Buffer;
  /** For nonces. */
  readonly nonce: Buffer;
}

/** Put it behind compression, and before offloading: the bucket then holds no plain text. */
export class EncryptionCodec implements PayloadCodec {
  readonly #keys: ReadonlyMap<string, Key>;
  readonly #keyId: string;
  readonly #current: Key;
  readonly #deterministic: boolean;

  /** Throws CONFIG_INVALID. */
  constructor({ keys, keyId, deterministic = false }: EncryptionCodecOptions) {
    this.#keys = new Map(Object.entries(keys).map(([id, bytes]) => [id, keyOf(id, bytes)]));
    const current = this.#keys.get(keyId);
    if (current === undefined) throw new LpsError('CONFIG_INVALID', `there is no key ${JSON.stringify(keyId)}`);
    this.#keyId = keyId;
    this.#current = current;
    this.#deterministic = deterministic;
  }

  async encode(payloads: Payload[]): Promise<Payload[]> {
    return payloads.map((payload) => {
      const plain = encodePayload(payload);
      const nonce = this.#deterministic ? nonceFor(plain, this.#current) : randomBytes(nonceBytes);
      const cipher = createCipheriv(cipherName, this.#current.cipher, nonce, { authTagLength: tagBytes });
      const data = Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
      const metadata = { encoding: Buffer.from(encoding), [keyIdName]: Buffer.from(this.#keyId) };
      return { metadata, data: new Uint8Array(data) };
    });
  }

  /**
   * Payloads of other encodings as they are. Throws `ApplicationFailure` (failure.ts) with CONFIG_INVALID for a key that
   * is not here, BLOB_DAMAGED for what was changed or has another key.
   */
  async decode(payloads: Payload[]): Promise<Payload[]> {
    return withFailures(undefined, async () =>
      payloads.map((payload) => {
        if (encodingOf(payload) !== encoding) return payload;
        return decrypted(payload.data ?? new Uint8Array(), this.#keyFor(payload));
      }),
    );
  }

  #keyFor({ metadata }: Payload): Key {
    const id = Buffer.from(metadata?.[keyIdName] ?? []).toString('utf8');
    const key = this.#keys.get(id);
    if (key !== undefined) return key;
    throw new LpsError(
      'CONFIG_INVALID',
      `a payload is encrypted with the key ${JSON.stringify(id.slice(0, 80))}, which is not here`,
    );
  }
}

function keyOf(id: string, bytes: Uint8Array): Key {
  if (bytes.length !== keyBytes)
    throw new LpsError(
      'CONFIG_INVALID',
      `the key ${JSON.stringify(id)} must have ${keyBytes} bytes, not ${bytes.length}`,
    );
  const cipher = Buffer.from(bytes);
  return { cipher, nonce: createHmac('sha256', cipher).update('large-payload nonce').digest() };
}

function nonceFor(plain: Uint8Array, { nonce }: Key): Buffer {
  return createHmac('sha256', nonce).update(plain).digest().subarray(0, nonceBytes);
}

function decrypted(data: Uint8Array, key: Key): Payload {
  try {
    const decipher = createDecipheriv(cipherName, key.cipher, data.subarray(0, nonceBytes), {
      authTagLength: tagBytes,
    });
    decipher.setAuthTag(data.subarray(-tagBytes));
    const body = data.subarray(nonceBytes, Math.max(nonceBytes, data.length - tagBytes));
    return decodePayload(Buffer.concat([decipher.update(body), decipher.final()]));
  } catch (cause) {
    throw new LpsError('BLOB_DAMAGED', 'an encrypted payload was changed, or its key is another one', { cause });
  }
}
