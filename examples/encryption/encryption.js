/**
 * What an application adds to its clients and workers: payloads are encrypted, and then those that are large go to the
 * service. So neither the bucket nor Temporal ever sees plain text.
 */
import { readFileSync } from 'node:fs';
import { EncryptionCodec, LargePayloadPlugin } from '@large-payload/temporal';

const { LPS_URL: url = 'http://127.0.0.1:8577', LPS_CODEC_KEYS_FILE: keysFile } = process.env;

export const namespace = process.env.TEMPORAL_NAMESPACE ?? 'default';

export function encryptedPayloads() {
  if (!keysFile) throw new Error('LPS_CODEC_KEYS_FILE names no file: the README says how to make one');
  const keys = readKeys(keysFile);
  const [keyId] = Object.keys(keys);
  // deterministic: the same payload becomes the same bytes, so that it is stored once
  const encryption = new EncryptionCodec({ keys, keyId, deterministic: true });
  return {
    dataConverter: { payloadCodecs: [encryption] },
    // puts its own codec behind those of the data converter
    plugins: [new LargePayloadPlugin({ url })],
  };
}

/**
 * The file that the service reads as well: lines of `id=base64`, the one that encrypts first, those of older payloads
 * after it.
 * @param {string} path
 * @returns {Record<string, Uint8Array>}
 */
function readKeys(path) {
  const lines = readFileSync(path, 'utf8').split('\n');
  const entries = lines.filter((line) => line.includes('=')).map((line) => line.trim().split(/=(.*)/s));
  return Object.fromEntries(entries.map(([id, base64]) => [id, new Uint8Array(Buffer.from(base64, 'base64'))]));
}
