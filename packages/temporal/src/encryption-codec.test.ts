import { randomBytes, webcrypto } from 'node:crypto';
import type { Payload } from '@temporalio/common';
import { describe, expect, it } from 'vitest';
import { EncryptionCodec } from './encryption-codec.js';
import { encodePayload } from './payload-proto.js';

const key = randomBytes(32);
const codec = new EncryptionCodec({ keys: { main: key }, keyId: 'main' });

function payload(text: string): Payload {
  return { metadata: { encoding: Buffer.from('json/plain') }, data: Buffer.from(text) };
}

function plain({ metadata, data }: Payload): unknown {
  const entries = Object.entries(metadata ?? {}).map(([name, value]) => [name, Buffer.from(value).toString()]);
  return { metadata: Object.fromEntries(entries), data: Buffer.from(data ?? []).toString() };
}

/** As Temporal's sample for TypeScript does it: with the web's own cryptography. */
async function sample(one: Payload, mode: 'encrypt' | 'decrypt'): Promise<Uint8Array> {
  const aes = await webcrypto.subtle.importKey('raw', key, 'AES-GCM', false, ['encrypt', 'decrypt']);
  if (mode === 'encrypt') {
    const iv = randomBytes(12);
    const sealed = await webcrypto.subtle.encrypt({ name: 'AES-GCM', iv }, aes, encodePayload(one));
    return Buffer.concat([iv, Buffer.from(sealed)]);
  }
  const data = Buffer.from(one.data ?? []);
  return new Uint8Array(
    await webcrypto.subtle.decrypt({ name: 'AES-GCM', iv: data.subarray(0, 12) }, aes, data.subarray(12)),
  );
}

describe('the encryption codec', () => {
  it('gives back what went in, in order, and shows nothing of it', async () => {
    const payloads = [payload('top secret'), payload(''), { metadata: {}, data: Buffer.from('top secret') }];
    const encoded = await codec.encode(payloads);
    for (const one of encoded) {
      expect(plain(one)).toMatchObject({ metadata: { encoding: 'binary/encrypted', 'encryption-key-id': 'main' } });
      expect(Buffer.from(one.data ?? []).includes('secret')).toBe(false);
      expect(Buffer.from(one.data ?? []).includes('json/plain')).toBe(false);
    }
    expect((await codec.decode(encoded)).map(plain)).toEqual(payloads.map(plain));
  });

  it('reads what the samples write, and they read what it writes', async () => {
    const one = payload('shared');
    const metadata = { encoding: Buffer.from('binary/encrypted'), 'encryption-key-id': Buffer.from('main') };
    const [read] = await codec.decode([{ metadata, data: await sample(one, 'encrypt') }]);
    expect(read && plain(read)).toEqual(plain(one));
    const [written] = await codec.encode([one]);
    expect(Buffer.from(await sample(written ?? {}, 'decrypt'))).toEqual(Buffer.from(encodePayload(one)));
  });

  it('leaves payloads of other encodings as they are', async () => {
    const one = payload('x');
    expect((await codec.decode([one]))[0]).toBe(one);
    const bare = { data: Buffer.from('x') };
    expect((await codec.decode([bare]))[0]).toBe(bare);
  });

  it('never encrypts twice alike, unless it is deterministic', async () => {
    const one = payload('same');
    const [first, second] = await codec.encode([one, one]);
    expect(first).not.toEqual(second);
    const steady = new EncryptionCodec({ keys: { main: key }, keyId: 'main', deterministic: true });
    const [a, b, other] = await steady.encode([one, { ...one, metadata: { ...one.metadata } }, payload('other')]);
    expect(a).toEqual(b);
    expect(Buffer.from(a?.data ?? []).subarray(0, 12)).not.toEqual(Buffer.from(other?.data ?? []).subarray(0, 12));
    expect((await codec.decode([a ?? {}])).map(plain)).toEqual([plain(one)]);
    const elsewhere = new EncryptionCodec({ keys: { main: randomBytes(32) }, keyId: 'main', deterministic: true });
    expect((await elsewhere.encode([one]))[0]).not.toEqual(a);
  });

  it('reads with older keys, and says which key it does not have', async () => {
    const rotated = new EncryptionCodec({ keys: { next: randomBytes(32), main: key }, keyId: 'next' });
    const [old] = await codec.encode([payload('old')]);
    const [fresh] = await rotated.encode([payload('new')]);
    expect((await rotated.decode([old ?? {}, fresh ?? {}])).map(plain)).toEqual(
      [payload('old'), payload('new')].map(plain),
    );
    await expect(codec.decode([fresh ?? {}])).rejects.toMatchObject({
      type: 'LargePayload.CONFIG_INVALID',
      nonRetryable: false, // it may be deployed any moment
      message: 'a payload is encrypted with the key "next", which is not here',
    });
  });

  it('refuses what was changed, cut, or sealed with another key', async () => {
    const [one] = await codec.encode([payload('whole')]);
    const data = Buffer.from(one?.data ?? []);
    const damaged = { type: 'LargePayload.BLOB_DAMAGED', nonRetryable: true };
    for (let at = 0; at < data.length; at++) {
      const changed = Buffer.from(data);
      changed[at] = (changed[at] ?? 0) ^ 1;
      await expect(codec.decode([{ ...one, data: changed }])).rejects.toMatchObject(damaged);
    }
    for (let length = 0; length < data.length; length++)
      await expect(codec.decode([{ ...one, data: data.subarray(0, length) }])).rejects.toMatchObject(damaged);
    const other = new EncryptionCodec({ keys: { main: randomBytes(32) }, keyId: 'main' });
    await expect(other.decode([one ?? {}])).rejects.toMatchObject(damaged);
  });

  it('takes keys of 32 bytes only, and one of them to encrypt with', () => {
    expect(() => new EncryptionCodec({ keys: { main: randomBytes(16) }, keyId: 'main' })).toThrow('32 bytes, not 16');
    expect(() => new EncryptionCodec({ keys: { main: key }, keyId: 'other' })).toThrow('there is no key "other"');
    expect(() => new EncryptionCodec({ keys: { main: key }, keyId: 'constructor' })).toThrow('there is no key');
  });
});
