import { randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { open, rename, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { isLpsError, LpsError } from '@large-payload/core';
import type { Command } from 'commander';
import { rowsIn } from '../catalog/export-format.js';
import { counted } from './care-options.js';
import { addCatalogTarget, type DatabaseTarget, withDatabase } from './catalog-target.js';
import { statusLine } from './status-line.js';
import type { Terminal } from './terminal.js';

interface ExportFlags {
  readonly output?: string;
}

/** `lps catalog export` */
export function addExport(catalog: Command, terminal: Terminal): void {
  const command = catalog
    .command('export')
    .summary('Write the catalog to a file: its backup.')
    .description(
      'Write the whole catalog, as it is at one moment, to a file or to standard output: JSON lines, packed when the ' +
        "file's name ends in .gz. The blobs themselves stay in the store.",
    )
    .option('-o, --output <file>', 'write to this file, which appears only when it is complete');
  addCatalogTarget(command)
    .addHelpText('after', '\nExample:\n  lps catalog export -o catalog.jsonl.gz --data-dir /var/lib/lps\n')
    .action((flags: ExportFlags) =>
      withDatabase(command, terminal, { create: false }, (target) => run(flags, target, terminal)),
    );
}

async function run(flags: ExportFlags, { url, schema }: DatabaseTarget, terminal: Terminal): Promise<void> {
  const { signal } = terminal;
  const { exportCatalog } = await import('../catalog/export.js'); // and with it what talks to Postgres
  let rows = 0;
  const status = statusLine(terminal, () => ({ text: `${counted(rows, 'row')} written` }));
  const texts = async function* (): AsyncGenerator<string, void> {
    for await (const { text, counts } of exportCatalog({ url, schema, signal })) {
      rows = rowsIn(counts);
      yield text;
    }
  };
  try {
    if (flags.output === undefined)
      return await pipeline(Readable.from(texts()), staysOpen(terminal.stdout), { signal });
    await writeFile(resolve(terminal.cwd, flags.output), texts, signal);
    status.end();
    terminal.stderr.write(`lps: ${counted(rows, 'row')} written to ${flags.output}\n`);
  } finally {
    status.end();
  }
}

/** Standard output is not ours to end. */
function staysOpen(stdout: NodeJS.WritableStream): Writable {
  return new Writable({
    write(chunk: Uint8Array, _encoding, done) {
      if (stdout.write(chunk)) done();
      else stdout.once('drain', done);
    },
  });
}

async function writeFile(path: string, texts: () => AsyncIterable<string>, signal: AbortSignal): Promise<void> {
  if ((await stat(path).catch(() => undefined))?.isDirectory()) {
    throw new LpsError('INVALID_ARGUMENT', `${JSON.stringify(path)} is a directory; name a file in it`);
  }
  const temporary = join(dirname(path), `.${basename(path).slice(0, 100)}.${randomBytes(6).toString('hex')}.part`);
  try {
    const target = createWriteStream(temporary, { flags: 'wx', mode: 0o600 });
    const packed = path.endsWith('.gz') ? [createGzip()] : [];
    await pipeline([Readable.from(texts()), ...packed, target], { signal });
    await makeDurable(temporary);
    await rename(temporary, path);
  } catch (error) {
    await unlink(temporary).catch(() => undefined);
    throw isLpsError(error) || (error as Error).name === 'AbortError' ? error : unwritable(path, error);
  }
}

async function makeDurable(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function unwritable(path: string, cause: unknown): LpsError {
  const code = (cause as NodeJS.ErrnoException).code ?? '';
  const reasons: Record<string, string> = {
    ENOENT: 'its directory does not exist',
    EACCES: 'permission denied',
    ENOSPC: 'the disk is full',
  };
  const reason = reasons[code] ?? (code || 'unknown error');
  return new LpsError('INVALID_ARGUMENT', `the file ${JSON.stringify(path)} cannot be written: ${reason}`, { cause });
}
