/** Where an issuer's keys come from. */
import { type FileHandle, open, stat } from 'node:fs/promises';
import type { JSONWebKeySet } from 'jose';
import type { KeySource } from './jwt-keys.js';

const maxBytes = 256 * 1024;
const timeoutMs = 5000;

/** A JWKS URL. Redirects are not followed: the keys come from where the configuration says, or not at all. */
export function remoteKeys(url: string): KeySource {
  return {
    name: url,
    maxAgeMs: 600_000,
    retryMs: 30_000,
    async load() {
      const signal = AbortSignal.timeout(timeoutMs);
      const response = await fetch(url, { redirect: 'error', signal, headers: { accept: 'application/json' } });
      if (response.status !== 200) {
        await response.body?.cancel();
        throw new Error(`the issuer answered ${response.status}`);
      }
      return parsed(await boundedText(response));
    },
  };
}

/** A JWKS file, looked at again when its time of change is another one. */
export function fileKeys(path: string): KeySource {
  let readAtMtime: bigint | undefined;
  return {
    name: path,
    maxAgeMs: 10_000,
    retryMs: 10_000,
    async load() {
      const { mtimeNs } = await stat(path, { bigint: true });
      if (mtimeNs === readAtMtime) return undefined;
      const set = parsed(await readBounded(path));
      readAtMtime = mtimeNs;
      return set;
    },
  };
}

async function boundedText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of response.body ?? []) {
    length += chunk.length;
    if (length > maxBytes) throw tooLarge(); // and the body is cancelled
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

async function readBounded(path: string): Promise<string> {
  const file: FileHandle = await open(path, 'r');
  try {
    const buffer = Buffer.alloc(maxBytes + 1);
    let length = 0;
    for (;;) {
      const { bytesRead } = await file.read(buffer, length, buffer.length - length, length);
      length += bytesRead;
      if (length > maxBytes) throw tooLarge();
      if (bytesRead === 0) return buffer.toString('utf8', 0, length);
    }
  } finally {
    await file.close();
  }
}

function tooLarge(): Error {
  return new Error(`more than ${maxBytes} bytes of keys`);
}

/** Whether it is a JWKS is for jose to say. */
function parsed(text: string): JSONWebKeySet {
  try {
    return JSON.parse(text) as JSONWebKeySet;
  } catch {
    throw new Error('the keys are not JSON');
  }
}
