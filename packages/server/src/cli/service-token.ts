import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { configInvalid } from '../config/load.js';
import type { Terminal } from './terminal.js';

/** For the help of whatever asks a service. */
export const tokenHelp = 'A service that asks who calls gets the token in LPS_TOKEN, or in the file LPS_TOKEN_FILE.';

/** No flag: those are seen in the list of processes. Throws CONFIG_INVALID. */
export function serviceToken({ env, cwd }: Pick<Terminal, 'env' | 'cwd'>): string | undefined {
  const { LPS_TOKEN: token, LPS_TOKEN_FILE: path } = env;
  if (token && path) throw configInvalid(['LPS_TOKEN and LPS_TOKEN_FILE are both set; keep one']);
  if (token) return token.trim();
  if (!path) return undefined;
  try {
    return readFileSync(resolve(cwd, path), 'utf8').trim();
  } catch (error) {
    throw configInvalid([`LPS_TOKEN_FILE: the file cannot be read: ${(error as NodeJS.ErrnoException).code}`]);
  }
}
