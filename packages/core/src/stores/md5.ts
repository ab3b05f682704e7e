import { createHash, type Hash } from 'node:crypto';

/**
 * What GCS and Azure check bytes on their way with: against accidents, on top of our own digest. Absent where OpenSSL is
 * told to refuse it (FIPS).
 */
export function newMd5(): Hash | undefined {
  try {
    return createHash('md5');
  } catch {
    return undefined;
  }
}

/** As the clouds write it: base64. */
export function md5Of(bytes: Uint8Array): string | undefined {
  return newMd5()?.update(bytes).digest('base64');
}
