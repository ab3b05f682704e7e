import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { tempDir } from '@large-payload/test-components';
import { describe, expect, it } from 'vitest';
import { keyIdOf } from './receipt.js';
import { signingKey } from './signing-key.js';

const idOf = (pem: string): string => keyIdOf(createPublicKey(pem));

describe('the key of receipts', () => {
  it('is made at its first use, for its owner alone, and is the same one from then on', async () => {
    const dataDir = tempDir('key');
    const keys = await Promise.all(
      Array.from({ length: 5 }, () => signingKey({ path: undefined, dataDir, isAlone: true })()),
    );
    expect(new Set(keys).size).toBe(1);
    expect(statSync(join(dataDir, 'takedown-key.pem')).mode & 0o777).toBe(0o600);
  });

  it('is the one that is named', async () => {
    const path = join(tempDir('key'), 'own.pem');
    const { privateKey } = generateKeyPairSync('ed25519');
    const pem = privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
    writeFileSync(path, pem);
    expect(idOf(await signingKey({ path, dataDir: tempDir('key'), isAlone: false })())).toBe(idOf(pem));
  });

  it.each([
    ['is there not', undefined, /cannot be read: ENOENT/],
    ['is of another kind', generateKeyPairSync('ed448').privateKey, /must hold an Ed25519 private key/],
    ['is no key', 'secret words', /^(?!.*secret words).*must hold an Ed25519 private key/],
  ])('is refused when it %s', async (_what, content, message) => {
    const path = join(tempDir('key'), 'own.pem');
    const text = typeof content === 'object' ? content.export({ format: 'pem', type: 'pkcs8' }) : content;
    if (text !== undefined) writeFileSync(path, text);
    const key = signingKey({ path, dataDir: undefined, isAlone: true });
    await expect(key()).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringMatching(message) });
  });

  it('must be named where others may be on the database', async () => {
    const key = signingKey({ path: undefined, dataDir: tempDir('key'), isAlone: false });
    await expect(key()).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/--takedown-key/),
    });
  });

  it('is gone with the process where the catalog is', async () => {
    const key = signingKey({ path: undefined, dataDir: undefined, isAlone: true });
    expect(await key()).toBe(await key());
  });
});
