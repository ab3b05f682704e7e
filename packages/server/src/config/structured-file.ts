/** Files with structure, in YAML and checked by a schema: the policy, the clusters. (Settings are flat: config-file.ts.) */
import { readFile } from 'node:fs/promises';
import { parseDocument } from 'yaml';
import type { z } from 'zod';
import { configInvalid } from './load.js';

const maxFileBytes = 1024 * 1024;

/** The text of a file that a setting names. Throws CONFIG_INVALID. */
export async function readStructured(setting: string, path: string): Promise<string> {
  return readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw configInvalid([`${setting}: ${path} cannot be read: ${error.code ?? error.message}`]);
  });
}

/** What it says; `name` is for the problems. Throws CONFIG_INVALID with every one of them. */
export function parseStructured<Schema extends z.ZodType>(
  name: string,
  content: string,
  schema: Schema,
): z.output<Schema> {
  if (Buffer.byteLength(content) > maxFileBytes) throw configInvalid([`${name}: larger than 1 MiB`]);
  const document = parseDocument(content, { prettyErrors: true, logLevel: 'silent' });
  if (document.errors.length > 0) throw configInvalid(document.errors.map(({ message }) => unreadable(name, message)));
  const parsed = schema.safeParse(toPlain(name, () => document.toJS({ maxAliasCount: 100 })));
  if (!parsed.success) throw configInvalid(parsed.error.issues.map((issue) => `${name}: ${problemOf(issue)}`));
  return parsed.data;
}

/** Aliases that multiply are refused by the parser itself. */
function toPlain(name: string, read: () => unknown): unknown {
  try {
    return read();
  } catch (error) {
    throw configInvalid([unreadable(name, error instanceof Error ? error.message : '')]);
  }
}

function unreadable(name: string, message: string): string {
  return `${name}: not readable as YAML: ${message.split('\n')[0] ?? ''}`;
}

/** `rules.0.rights.1: …` */
function problemOf({ path, message }: z.core.$ZodIssue): string {
  return path.length === 0 ? message : `${path.map(String).join('.')}: ${message}`;
}
