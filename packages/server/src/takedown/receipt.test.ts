import { generateKeyPairSync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { type Receipt, signReceipt, verifyReceipt } from './receipt.js';

function newKey(kind: 'ed25519' | 'ed448' = 'ed25519') {
  const pair = kind === 'ed25519' ? generateKeyPairSync('ed25519') : generateKeyPairSync('ed448');
  return {
    secret: pair.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
    open: pair.publicKey.export({ format: 'pem', type: 'spki' }).toString(),
  };
}

const receipt: Receipt = {
  format: 'large-payload-takedown/1',
  id: '3f0b7c1e-0a51-4a5e-9f77-2f7b7c1e0a51',
  selector: { namespace: 'orders', prefix: 'customer-42' },
  withSameDigest: false,
  isBlocked: true,
  reason: 'request 4711 of the customer',
  requestedBy: 'token ops',
  requestedAt: '2026-11-23T12:00:00.000Z',
  acceptedAt: '2026-11-23T12:00:01.000Z',
  completedAt: '2026-11-23T12:16:00.000Z',
  blobs: [{ key: '/blobs/orders/custom/customer-42/…', digest: 'sha256:…', bytes: 1234 }],
  objects: 2,
  bytes: 2468,
  proof: [{ at: '2026-11-23T12:15:59.000Z', what: 'no version is left in the store' }],
  outOfReach: ['memory caches of workers, for an hour'],
};

describe('a receipt', () => {
  it('is right as it was signed, and says whose key that was', async () => {
    const { secret, open } = newKey();
    const text = await signReceipt(receipt, secret);
    const { receipt: read, keyId } = await verifyReceipt(text);
    expect(read).toEqual(receipt);
    expect(await verifyReceipt(text, open)).toEqual({ receipt, keyId });
    expect(keyId).toMatch(/^SHA256:[\w-]{43}$/);
    expect(text).toContain('"reason": "request 4711 of the customer"');
  });

  it('is refused when anything of it was changed: each byte of the file, one after the other', async () => {
    const { secret, open } = newKey();
    const text = await signReceipt(receipt, secret);
    let refusals = 0;
    for (let at = 0; at < text.length; at += 1) {
      // another character of the same kind, so that most of them are JSON still
      const changed = text.slice(0, at) + (text[at] === 'a' ? 'b' : 'a') + text.slice(at + 1);
      const outcome = await verifyReceipt(changed, open).then(
        ({ receipt: read }) => read,
        () => undefined,
      );
      if (outcome === undefined) refusals += 1;
      // white space between the parts says nothing
      else expect(outcome).toEqual(receipt);
    }
    expect(refusals).toBeGreaterThan(text.trim().length * 0.9);
  });

  it('is refused when the readable part says something else, or another key has signed it', async () => {
    const { secret } = newKey();
    const text = await signReceipt(receipt, secret);
    await expect(verifyReceipt(text.replace('request 4711', 'request 4712'))).rejects.toThrow(/readable part/);
    await expect(verifyReceipt(text, newKey().open)).rejects.toThrow(/another key/);
    // all of it made anew by somebody else: only the key tells
    const forged = await signReceipt({ ...receipt, blobs: [] }, newKey().secret);
    expect((await verifyReceipt(forged)).keyId).not.toBe((await verifyReceipt(text)).keyId);
    await expect(verifyReceipt(text, newKey('ed448').open)).rejects.toThrow(/Ed25519/);
    for (const junk of ['', '{}', '[]', 'null', '{"receipt":{},"jws":{}}'])
      await expect(verifyReceipt(junk)).rejects.toThrow(/no receipt/);
  });

  it('is refused when its signature is one of something else, or asks for no signature', async () => {
    const { secret, open } = newKey();
    const signed = JSON.parse(await signReceipt(receipt, secret));
    const none = Buffer.from(JSON.stringify({ alg: 'none' })).toString('base64url');
    const bare = JSON.stringify({ ...signed, jws: { ...signed.jws, protected: none, signature: '' } });
    await expect(verifyReceipt(bare, open)).rejects.toThrow(/signature is not right/);
    const { FlattenedSign } = await import('jose');
    const { createPrivateKey } = await import('node:crypto');
    const jws = await new FlattenedSign(Buffer.from(JSON.stringify(receipt)))
      .setProtectedHeader({ alg: 'EdDSA', typ: 'JWT' })
      .sign(createPrivateKey(secret));
    await expect(verifyReceipt(JSON.stringify({ receipt, jws }), open)).rejects.toThrow(/something else/);
  });
});
