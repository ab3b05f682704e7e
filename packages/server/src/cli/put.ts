import { randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pipeline, type Readable } from 'node:stream';
import {
  DigestStream,
  discard,
  type Expected,
  formatClaim,
  keyFor,
  keyPrefixName,
  LpsError,
  type Metadata,
} from '@large-payload/core';
import { type Command, Option } from 'commander';
import { progress } from './progress.js';
import { addTarget, type Target, withTarget } from './target.js';
import { shown, type Terminal } from './terminal.js';

interface PutFlags {
  readonly namespace: string;
  readonly encoding?: string;
  readonly metadataJson?: string;
  readonly prefix?: string;
  readonly claim?: boolean;
  readonly json?: boolean;
}

const chunkBytes = 1024 * 1024;

/** `lps put FILE|-` */
export function addPut(program: Command, terminal: Terminal): void {
  const command = program
    .command('put')
    .summary('Store a file as a blob and print its key.')
    .description('Store a file, or with - standard input, as a blob and print its key.')
    .argument('<file>', 'file to store, or - for standard input')
    .requiredOption('--namespace <name>', 'Temporal namespace that the blob belongs to')
    .addOption(new Option('--encoding <text>', 'encoding in the metadata of the payload (default: binary/plain)'))
    .addOption(
      new Option(
        '--metadata-json <json>',
        `metadata of the payload as plain text: '{"encoding":"json/plain"}'`,
      ).conflicts('encoding'),
    )
    .option('--prefix <prefix>', 'keep the blob under this prefix of the namespace')
    .addOption(
      new Option('--claim', 'print the claim that stands for the payload in a workflow history').conflicts('json'),
    )
    .option('--json', 'print key, digest, size and outcome as JSON');
  addTarget(command)
    .addHelpText(
      'after',
      '\nExamples:\n  lps put report.pdf --namespace orders\n  pg_dump db | lps put - --namespace orders\n',
    )
    .action((file: string, flags: PutFlags) =>
      withTarget(command, terminal, (target) => put(file, flags, target, terminal)),
    );
}

async function put(file: string, flags: PutFlags, target: Target, terminal: Terminal): Promise<void> {
  const metadata = metadataOf(flags);
  keyFor(flags.namespace, `sha256:${'0'.repeat(64)}`, metadata); // refused before anything is read
  const source = await openSource(file, target.config.maxBlobBytes, terminal);
  try {
    const expect = await source.measure();
    const key = keyFor(flags.namespace, expect.digest, metadata);
    const body = withProgress(source.read(), expect.size, terminal);
    const { outcome, protectedUntil } = await target.store
      .put(key, body, expect, { signal: terminal.signal })
      .finally(() => discard(body));
    const claim = Buffer.from(formatClaim({ metadata, ...expect, key }).data ?? []).toString('utf8');
    const record = { key, ...expect, outcome, ...(protectedUntil === undefined ? {} : { protectedUntil }), claim };
    const text = flags.json ? JSON.stringify(record) : flags.claim ? claim : key;
    terminal.stdout.write(`${shown(text, terminal.stdout)}\n`);
  } finally {
    await source.close();
  }
}

function withProgress(body: Readable, size: number, terminal: Terminal): Readable {
  const counted = progress('sent', size, terminal);
  return pipeline(body, counted, () => {});
}

function metadataOf(flags: PutFlags): Metadata {
  const texts = flags.metadataJson === undefined ? {} : parseMetadata(flags.metadataJson);
  if (flags.metadataJson === undefined) texts.encoding = flags.encoding ?? 'binary/plain';
  if (flags.prefix !== undefined) {
    if (texts[keyPrefixName] !== undefined) throw badMetadata(`"${keyPrefixName}" and --prefix say the same; keep one`);
    texts[keyPrefixName] = flags.prefix;
  }
  const metadata: Record<string, Uint8Array> = Object.create(null);
  for (const [name, value] of Object.entries(texts)) metadata[name] = Buffer.from(value, 'utf8');
  return metadata;
}

function parseMetadata(json: string): Record<string, string> {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw badMetadata(`not JSON; an example of a right value is '{"encoding":"json/plain"}'`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw badMetadata('not a JSON object');
  const texts: Record<string, string> = Object.create(null);
  for (const [name, entry] of Object.entries(value)) {
    if (typeof entry !== 'string') throw badMetadata(`the value of ${JSON.stringify(name)} is not a text`);
    texts[name] = entry;
  }
  return texts;
}

function badMetadata(reason: string): LpsError {
  return new LpsError('INVALID_METADATA', `--metadata-json: ${reason}`);
}

/** Bytes that can be read twice: once for the digest, which an upload begins with, and once to send them. */
interface Source {
  measure(): Promise<Expected>;
  read(): Readable;
  close(): Promise<void>;
}

async function openSource(file: string, maxBytes: number, terminal: Terminal): Promise<Source> {
  if (file === '-') return spool(terminal.stdin, maxBytes, terminal);
  const path = resolve(terminal.cwd, file);
  const handle = await open(path, 'r').catch((cause: NodeJS.ErrnoException) => {
    throw unreadable(file, cause);
  });
  const stat = await handle.stat();
  if (stat.isFile()) return fromHandle(handle, maxBytes, terminal, stat.size);
  await handle.close();
  if (stat.isDirectory()) throw new LpsError('INVALID_ARGUMENT', `${JSON.stringify(file)} is a directory`);
  // a pipe or a device can be read only once
  return spool(createReadStream(path), maxBytes, terminal);
}

function fromHandle(handle: FileHandle, maxBytes: number, terminal: Terminal, size: number): Source {
  const read = (): Readable => handle.createReadStream({ start: 0, autoClose: false, highWaterMark: chunkBytes });
  return {
    async measure() {
      checkSize(size, maxBytes);
      const digest = new DigestStream();
      let readBytes = 0;
      for await (const chunk of read() as AsyncIterable<Uint8Array>) {
        terminal.signal.throwIfAborted();
        digest.update(chunk);
        readBytes += chunk.length;
        checkSize(readBytes, maxBytes);
      }
      return { digest: digest.end(), size: readBytes };
    },
    read,
    close: () => handle.close(),
  };
}

/** Writes a stream to a temporary file while hashing it. The file has no name any more where the system allows that. */
async function spool(input: NodeJS.ReadableStream, maxBytes: number, terminal: Terminal): Promise<Source> {
  const path = join(tmpdir(), `lps-put-${randomUUID()}`);
  const handle = await open(path, 'wx+', 0o600).catch((cause: NodeJS.ErrnoException) => {
    throw unreadable(path, cause);
  });
  // at once, so that nothing stays however this process ends; Windows refuses, and `close` tries again
  await rm(path, { force: true }).catch(() => {});
  const close = async (): Promise<void> => {
    await handle.close();
    await rm(path, { force: true }).catch(() => {});
  };
  try {
    const expect = await copyTo(handle, input, maxBytes, terminal.signal);
    return { ...fromHandle(handle, maxBytes, terminal, expect.size), measure: async () => expect, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function copyTo(
  handle: FileHandle,
  input: NodeJS.ReadableStream,
  maxBytes: number,
  signal: AbortSignal,
): Promise<Expected> {
  const digest = new DigestStream();
  let size = 0;
  const stop = (): void => void (input as Readable).destroy(new LpsError('ABORTED', 'stopped'));
  signal.addEventListener('abort', stop, { once: true });
  try {
    for await (const chunk of input as AsyncIterable<Buffer>) {
      signal.throwIfAborted();
      size += chunk.length;
      checkSize(size, maxBytes);
      digest.update(chunk);
      await writeFully(handle, chunk);
    }
  } finally {
    signal.removeEventListener('abort', stop);
  }
  return { digest: digest.end(), size };
}

async function writeFully(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  let rest = chunk;
  try {
    while (rest.length > 0) rest = rest.subarray((await handle.write(rest)).bytesWritten);
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code === 'ENOSPC' ? 'its disk is full' : 'it cannot be written';
    throw new LpsError('STORE_FULL', `standard input is kept in ${tmpdir()} for a moment, and ${reason}`, { cause });
  }
}

function checkSize(size: number, maxBytes: number): void {
  if (size > maxBytes) throw new LpsError('BLOB_TOO_LARGE', `more than ${maxBytes} bytes (--max-blob-bytes)`);
}

function unreadable(file: string, cause: NodeJS.ErrnoException): LpsError {
  const reasons: Record<string, string> = { ENOENT: 'it does not exist', EACCES: 'permission denied' };
  const reason = reasons[cause.code ?? ''] ?? cause.code ?? 'unknown error';
  return new LpsError('INVALID_ARGUMENT', `the file ${JSON.stringify(file)} cannot be read: ${reason}`, { cause });
}
