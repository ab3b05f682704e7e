/**
 * The key that signs receipts: Ed25519, PEM (PKCS #8). Given by a file, or made in the data directory at its first use where
 * this process is alone on its catalog. Replicas need one key for all: receipts of one installation are of one signer.
 */
import { createPrivateKey, generateKeyPairSync, randomBytes } from 'node:crypto';
import { chmod, link, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LpsError } from '@large-payload/core';

export interface SigningKeyOptions {
  /** A file that was named. */
  readonly path: string | undefined;
  /** Absent: the key is gone with the process, as its catalog is. */
  readonly dataDir: string | undefined;
  /** Nobody but this process is on the catalog. */
  readonly isAlone: boolean;
}

const fileName = 'takedown-key.pem';

/** Each call reads it, or makes it. It throws CONFIG_INVALID with what to do. */
export function signingKey({ path, dataDir, isAlone }: SigningKeyOptions): () => Promise<string> {
  if (path !== undefined) return async () => checked(path, await read(path));
  if (!isAlone) {
    return async () => {
      throw new LpsError(
        'CONFIG_INVALID',
        'receipts of takedowns are signed, and replicas on one database need one key for all: make it with "openssl genpkey -algorithm ed25519 -out takedown-key.pem", and name it with --takedown-key at each of them',
      );
    };
  }
  if (dataDir === undefined) {
    const key = newKey();
    return async () => key;
  }
  const own = join(dataDir, fileName);
  return async () => checked(own, (await readIfThere(own)) ?? (await make(own)));
}

function newKey(): string {
  return generateKeyPairSync('ed25519').privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
}

/** Whole or not at all; of two that make one, the first one's counts. */
async function make(path: string): Promise<string> {
  const draft = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await writeFile(draft, newKey(), {
      mode: 0o600,
      flag: 'wx',
      flush: true,
    });
    await chmod(draft, 0o600);
    await link(draft, path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  } catch (cause) {
    throw unreadable(path, 'written', cause);
  } finally {
    await rm(draft, { force: true });
  }
  return read(path);
}

async function read(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((cause: unknown) => {
    throw unreadable(path, 'read', cause);
  });
}

async function readIfThere(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return undefined;
    throw unreadable(path, 'read', cause);
  });
}

function checked(path: string, text: string): string {
  let kind: string | undefined;
  try {
    kind = createPrivateKey(text).asymmetricKeyType;
  } catch {
    // said below: its own words may hold a part of the key
  }
  if (kind === 'ed25519') return text;
  throw new LpsError(
    'CONFIG_INVALID',
    `${path} must hold an Ed25519 private key as PEM (PKCS #8), without a passphrase`,
  );
}

function unreadable(path: string, verb: 'read' | 'written', cause: unknown): LpsError {
  const { code } = cause as NodeJS.ErrnoException;
  return new LpsError('CONFIG_INVALID', `the key of receipts, ${path}, cannot be ${verb}: ${code}`, { cause });
}
