import { LpsError, parseNamespace, parsePrefix } from '@large-payload/core';
import { type Command, InvalidArgumentError } from 'commander';
import { asJson, asText } from './stat.js';
import { addTarget, type Target, withTarget } from './target.js';
import { shown, type Terminal } from './terminal.js';

interface LsFlags {
  readonly namespace?: string;
  readonly prefix?: string;
  readonly limit?: number;
  readonly json?: boolean;
}

/** `lps ls` */
export function addLs(program: Command, terminal: Terminal): void {
  const command = program
    .command('ls')
    .summary('List blobs.')
    .description('List blobs: size in bytes, time of writing, key.')
    .option('--namespace <name>', 'only those of this Temporal namespace')
    .option('--prefix <prefix>', 'only those stored with this prefix (needs --namespace)')
    .option('--limit <number>', 'stop after so many', parseLimit)
    .option('--json', 'print one JSON object a line');
  addTarget(command).action((flags: LsFlags) => withTarget(command, terminal, (target) => ls(flags, target, terminal)));
}

async function ls(flags: LsFlags, target: Target, terminal: Terminal): Promise<void> {
  const { stdout, signal } = terminal;
  const limit = flags.limit ?? Number.POSITIVE_INFINITY;
  let count = 0;
  for await (const info of target.store.list(listingPrefix(flags), { signal })) {
    signal.throwIfAborted();
    const line = flags.json ? asJson(info.key, info) : asText(info.key, info);
    if (!stdout.write(`${shown(line, stdout)}\n`)) await new Promise((done) => stdout.once('drain', done));
    count += 1;
    if (count >= limit) return;
  }
}

function listingPrefix({ namespace, prefix }: LsFlags): string {
  if (namespace === undefined) {
    if (prefix !== undefined) throw new LpsError('INVALID_ARGUMENT', '--prefix needs --namespace');
    return '/blobs/';
  }
  const root = `/blobs/${parseNamespace(namespace)}/`;
  return prefix === undefined ? root : `${root}custom/${parsePrefix(prefix)}/`;
}

function parseLimit(text: string): number {
  const limit = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(limit) && limit > 0) return limit;
  throw new InvalidArgumentError('It must be a whole number above 0, such as 100.');
}
