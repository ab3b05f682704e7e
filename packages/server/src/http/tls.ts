/** Certificate and key from files, which may be renewed while the service runs. */
import { readFile, stat } from 'node:fs/promises';
import type { Server } from 'node:https';
import { createSecureContext } from 'node:tls';
import { LpsError } from '@large-payload/core';
import type { Logger } from 'pino';
import type { Config } from '../config/settings.js';

export interface TlsFiles {
  /** PEM. */
  readonly cert: string;
  readonly key: string;
}

export interface TlsPaths {
  readonly certPath: string;
  readonly keyPath: string;
}

const checkEveryMs = 60_000;

/** Where they are, when the settings name both. */
export function tlsOf({ tlsCert, tlsKey }: Pick<Config, 'tlsCert' | 'tlsKey'>): TlsPaths | undefined {
  return tlsCert === undefined || tlsKey === undefined ? undefined : { certPath: tlsCert, keyPath: tlsKey };
}

/** Reads both. Throws CONFIG_INVALID when they cannot be read, or do not belong together. */
export async function readTls({ certPath, keyPath }: TlsPaths): Promise<TlsFiles> {
  const [cert, key] = await Promise.all([readPem(certPath, 'tls-cert'), readPem(keyPath, 'tls-key')]);
  try {
    createSecureContext({ cert, key });
  } catch (cause) {
    throw new LpsError('CONFIG_INVALID', 'tls-cert and tls-key are not a certificate and its key, both in PEM', {
      cause,
    });
  }
  return { cert, key };
}

/** Looks every minute whether the files have changed; new connections then get the new certificate. Returns how to stop. */
export function renewTls(server: Server, paths: TlsPaths, log: Logger, everyMs = checkEveryMs): () => void {
  let seen: string | undefined;
  const look = async (): Promise<void> => {
    const now = await fingerprint(paths);
    if (now === seen) return;
    // also the first time: they may have changed since the start
    server.setSecureContext(await readTls(paths));
    if (seen !== undefined) log.info('the certificate was renewed');
    seen = now;
  };
  const attempt = (): void =>
    void look().catch((error) => log.warn({ err: error }, 'the renewed certificate cannot be used'));
  attempt();
  const timer = setInterval(attempt, everyMs);
  timer.unref();
  return () => clearInterval(timer);
}

async function fingerprint({ certPath, keyPath }: TlsPaths): Promise<string> {
  const stats = await Promise.all([stat(certPath), stat(keyPath)]);
  return stats.map(({ mtimeMs, ino, size }) => `${mtimeMs} ${ino} ${size}`).join();
}

async function readPem(path: string, setting: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new LpsError('CONFIG_INVALID', `${setting}: the file ${JSON.stringify(path)} cannot be read: ${code}`, {
      cause,
    });
  }
}
