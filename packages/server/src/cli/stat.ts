import { type BlobInfo, LpsError, statOf } from '@large-payload/core';
import type { Command } from 'commander';
import { parseReference, type Reference } from './reference.js';
import { addTarget, type Target, withTarget } from './target.js';
import { shown, type Terminal } from './terminal.js';

interface StatFlags {
  readonly json?: boolean;
}

/** `lps stat KEY|CLAIM...` */
export function addStat(program: Command, terminal: Terminal): void {
  const command = program
    .command('stat')
    .summary('Say whether blobs are there, and how big they are.')
    .description('Say of each blob whether it is there, how big it is and since when. Ends with 1 when one is missing.')
    .argument('<key|claim...>', 'keys or claims')
    .option('--json', 'print one JSON object a line');
  addTarget(command).action((pasted: string[], flags: StatFlags) =>
    withTarget(command, terminal, (target) => stat(pasted.map(parseReference), flags, target, terminal)),
  );
}

async function stat(
  references: readonly Reference[],
  flags: StatFlags,
  target: Target,
  terminal: Terminal,
): Promise<void> {
  const keys = references.map(({ key }) => key);
  const found = await statOf(target.store, keys, { signal: terminal.signal });
  for (const key of keys) {
    const info = found.get(key);
    const line = flags.json ? asJson(key, info) : asText(key, info);
    terminal.stdout.write(`${shown(line, terminal.stdout)}\n`);
  }
  const missing = keys.filter((key) => !found.has(key)).length;
  if (missing > 0) throw new LpsError('BLOB_NOT_FOUND', `${missing} of ${keys.length} blobs not found`);
}

/** `{"key":…,"found":true,"size":42,"modifiedAt":"…","protectedUntil":"…"}` */
export function asJson(key: string, info: BlobInfo | undefined): string {
  if (info === undefined) return JSON.stringify({ key, found: false });
  const { size, modifiedAt, protectedUntil } = info;
  return JSON.stringify({ key, found: true, size, modifiedAt, protectedUntil });
}

/** Size, time and key, in columns that line up: the key comes last because it is long. */
export function asText(key: string, info: BlobInfo | undefined): string {
  const size = info === undefined ? 'not found' : String(info.size);
  const time = info?.modifiedAt?.toISOString().replace(/\.\d+Z$/, 'Z') ?? '';
  return `${size.padStart(13)}  ${time.padEnd(20)}  ${key}`;
}
