/** What the hand tools have in common: their options, and how they print what they find. */
import { LpsError } from '@large-payload/core';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Finding } from '../care/finding.js';
import { bytes } from '../config/kinds.js';

export interface CareFlags {
  /** Bytes a second, 0 for no limit. */
  readonly maxRate: number;
  readonly concurrency: number;
  readonly json?: boolean;
}

/** A slower one would let connections to a bucket run into their time limits. */
const slowestRate = 256 * 1024;

const rate = bytes(slowestRate, 1024 ** 4, '50MiB');

/** Adds `--max-rate`, `--concurrency` and `--json` to a command. */
export function addCareOptions(command: Command, defaultRate: string): Command {
  return command
    .addOption(
      new Option('--max-rate <rate>', 'read at most so much a second, such as 50MiB/s; 0 is no limit')
        .argParser(parseRate)
        .default(parseRate(defaultRate), defaultRate),
    )
    .addOption(
      new Option('--concurrency <number>', 'objects to read at the same time').argParser(parseConcurrency).default(4),
    )
    .option('--json', 'print one JSON object a line, the summary last');
}

/** `50MiB/s`, `50MiB` or `0` → bytes a second. */
function parseRate(text: string): number {
  if (text === '0') return 0;
  const parsed = rate.schema.safeParse(text.replace(/\/s$/, ''));
  if (!parsed.success) throw new InvalidArgumentError('It must be 0, or 256KiB/s or more, such as 50MiB/s.');
  return parsed.data;
}

function parseConcurrency(text: string): number {
  const number = Number(text);
  if (/^\d+$/.test(text) && number >= 1 && number <= 256) return number;
  throw new InvalidArgumentError('It must be a whole number from 1 to 256.');
}

/** `damaged     wrong bytes           /blobs/…`, or as JSON `{"kind":"damaged","note":"wrong bytes","key":"/blobs/…"}` */
export function findingText({ kind, note, key }: Finding, isJson: boolean | undefined): string {
  if (isJson) return JSON.stringify({ kind, note, key });
  return `${kind.padEnd(10)}  ${note.padEnd(22)}  ${key}`;
}

/** `1 blob`, `2 blobs`. */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${count.toLocaleString('en-US')} ${count === 1 ? one : many}`;
}

/** How a command ends that found damage. */
export function damageFound(count: number): LpsError {
  const what =
    count === 1 ? 'blob is damaged; uploading it again heals it' : 'blobs are damaged; uploading them again heals them';
  return new LpsError('BLOB_DAMAGED', `${count.toLocaleString('en-US')} ${what}`);
}
