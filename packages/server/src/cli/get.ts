import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { pipeline, type Readable } from 'node:stream';
import { discard, LpsError, readAll, toStream } from '@large-payload/core';
import type { Command } from 'commander';
import { progress } from './progress.js';
import { parseReference, type Reference } from './reference.js';
import { addTarget, type Target, withTarget } from './target.js';
import { looksBinary, type Terminal } from './terminal.js';

interface GetFlags {
  readonly output?: string;
  readonly force?: boolean;
}

const maxPastedBytes = 4 * 1024 * 1024;

/** `lps get KEY|CLAIM|-` */
export function addGet(program: Command, terminal: Terminal): void {
  const command = program
    .command('get')
    .summary('Read a blob, named by its key or by a claim.')
    .description(
      'Read a blob and check every byte of it. Name it by its key, or paste a claim: the JSON text of the claim, or the ' +
        "payload as Temporal's Web UI or CLI shows it. With - the key or claim is read from standard input.",
    )
    .argument('<key|claim>', 'key or claim, or - for standard input')
    .option('-o, --output <file>', 'write to this file, which appears only when the blob is complete and right')
    .option('--force', 'write to the terminal even what is not text');
  addTarget(command)
    .addHelpText('after', '\nExamples:\n  lps get /blobs/orders/common/sha256:9f86…/sha256:e3b0… -o report.pdf\n')
    .action((pasted: string, flags: GetFlags) =>
      withTarget(command, terminal, async (target) =>
        get(await readReference(pasted, terminal), flags, target, terminal),
      ),
    );
}

/** What was pasted, from the argument or, for `-`, from standard input. */
export async function readReference(pasted: string, terminal: Terminal): Promise<Reference> {
  if (pasted !== '-') return parseReference(pasted);
  const bytes = await readAll(terminal.stdin as Readable, maxPastedBytes);
  return parseReference(Buffer.from(bytes).toString('utf8'));
}

async function get(reference: Reference, flags: GetFlags, target: Target, terminal: Terminal): Promise<void> {
  const found = await target.store.get(reference.key, { signal: terminal.signal });
  if (found === undefined) throw new LpsError('BLOB_NOT_FOUND', `no blob at ${reference.key}`);
  const { size } = found.info;
  const source = toStream(found.body);
  if (reference.size !== undefined && reference.size !== size) {
    discard(source);
    throw new LpsError('BLOB_DAMAGED', `the claim says ${reference.size} bytes, and the blob has ${size}`);
  }
  const counted = progress('received', size, terminal);
  const body = pipeline(source, counted, () => {});
  // whatever the store does with signals, a stop is a stop
  const stop = (): void => void body.destroy(new LpsError('ABORTED', 'stopped'));
  terminal.signal.addEventListener('abort', stop, { once: true });
  try {
    if (flags.output !== undefined) await writeFile(resolve(terminal.cwd, flags.output), body);
    else await writeOut(body, flags, terminal);
  } finally {
    terminal.signal.removeEventListener('abort', stop);
    discard(body);
  }
}

/** Every store's bytes are checked on their way, and a wrong body never ends cleanly: the rename says it was right. */
async function writeFile(path: string, body: Readable): Promise<void> {
  if ((await stat(path).catch(() => undefined))?.isDirectory()) {
    throw new LpsError('INVALID_ARGUMENT', `${JSON.stringify(path)} is a directory; name a file in it`);
  }
  const temporary = join(dirname(path), `.${basename(path).slice(0, 100)}.${randomBytes(6).toString('hex')}.part`);
  const handle = await open(temporary, 'wx').catch((cause: NodeJS.ErrnoException) => {
    throw unwritable(path, cause);
  });
  try {
    await writeAll(handle, path, body);
    await rename(temporary, path).catch((cause: NodeJS.ErrnoException) => {
      throw unwritable(path, cause);
    });
  } catch (error) {
    await unlink(temporary).catch(() => {});
    throw error;
  }
}

async function writeAll(handle: FileHandle, path: string, body: Readable): Promise<void> {
  try {
    for await (const chunk of body as AsyncIterable<Uint8Array>) {
      try {
        for (let rest = chunk; rest.length > 0; ) rest = rest.subarray((await handle.write(rest)).bytesWritten);
      } catch (cause) {
        throw unwritable(path, cause as NodeJS.ErrnoException);
      }
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function writeOut(body: Readable, flags: GetFlags, terminal: Terminal): Promise<void> {
  const { stdout } = terminal;
  for await (const chunk of body as AsyncIterable<Uint8Array>) {
    if (stdout.isTTY && !flags.force && looksBinary(chunk)) {
      throw new LpsError('INVALID_ARGUMENT', 'this blob is not text; use -o FILE, or --force to see it anyway');
    }
    if (!stdout.write(chunk)) await drained(stdout, terminal.signal);
  }
}

/** Resolves when the reader of our output wants more; it may also go away (`| head`), which `main` sees to. */
async function drained(stdout: NodeJS.WritableStream, signal: AbortSignal): Promise<void> {
  await new Promise<void>((done) => {
    const next = (): void => {
      for (const event of ['drain', 'close', 'error']) stdout.removeListener(event, next);
      signal.removeEventListener('abort', next);
      done();
    };
    for (const event of ['drain', 'close', 'error']) stdout.once(event, next);
    signal.addEventListener('abort', next, { once: true });
  });
}

function unwritable(path: string, cause: NodeJS.ErrnoException): LpsError {
  const reasons: Record<string, string> = {
    ENOENT: 'its directory does not exist',
    EACCES: 'permission denied',
    ENOSPC: 'the disk is full',
  };
  const reason = reasons[cause.code ?? ''] ?? cause.code ?? 'unknown error';
  return new LpsError('INVALID_ARGUMENT', `the file ${JSON.stringify(path)} cannot be written: ${reason}`, { cause });
}
