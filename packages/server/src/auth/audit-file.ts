/**
 * The audit's lines, in the order in which they came. Whatever rotates the file may rename or remove it: within a second a
 * new one is begun at the path. The lines are the system's when `append` resolves; a crash of this process loses none of
 * them, a loss of power may.
 */
import { type FileHandle, open, stat } from 'node:fs/promises';
import { LpsError } from '@large-payload/core';
import { configInvalid } from '../config/load.js';

export interface AuditFileOptions {
  /** Milliseconds since 1970. */
  readonly clock: () => number;
  readonly onLost: (entries: number, error: unknown) => void;
}

export interface AuditFile {
  /** Resolves when the line is written or lost. `line` holds no line break. */
  append(line: string): Promise<void>;
  close(): Promise<void>;
}

interface Waiting {
  readonly line: string;
  readonly done: () => void;
}

const maxWaitingLength = 16 * 1024 * 1024;
const lengthAtOnce = 1024 * 1024;
const checkEveryMs = 1000;

/** Throws CONFIG_INVALID when the file cannot be opened for appending. */
export async function openAuditFile(path: string, options: AuditFileOptions): Promise<AuditFile> {
  const file = new AppendedFile(path, options);
  try {
    await file.reopen();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw configInvalid([`audit-log: ${path} cannot be written: ${reason}`]);
  }
  return file;
}

class AppendedFile implements AuditFile {
  readonly #path: string;
  readonly #options: AuditFileOptions;
  readonly #waiting: Waiting[] = [];
  #waitingLength = 0;
  #writing: Promise<void> | undefined;
  #handle: FileHandle | undefined;
  #checkedAt = 0;
  #isLineCut = false;

  constructor(path: string, options: AuditFileOptions) {
    this.#path = path;
    this.#options = options;
  }

  async append(line: string): Promise<void> {
    if (this.#waitingLength + line.length > maxWaitingLength) {
      this.#options.onLost(1, new LpsError('OVERLOADED', 'too many lines are waiting'));
      return;
    }
    await new Promise<void>((done) => {
      this.#waiting.push({ line, done });
      this.#waitingLength += line.length;
      this.#writing ??= this.#write();
    });
  }

  async close(): Promise<void> {
    await this.#writing;
    await this.#handle?.close();
    this.#handle = undefined;
  }

  async reopen(): Promise<FileHandle> {
    const old = this.#handle;
    this.#handle = undefined;
    await old?.close();
    // readable by nobody else: it says who reads what
    this.#handle = await open(this.#path, 'a', 0o600);
    this.#checkedAt = this.#options.clock();
    return this.#handle;
  }

  async #write(): Promise<void> {
    for (let batch = this.#next(); batch.length > 0; batch = this.#next()) {
      try {
        const handle = await this.#current();
        const text = batch.map(({ line }) => `${line}\n`).join('');
        await handle.appendFile(this.#isLineCut ? `\n${text}` : text);
        this.#isLineCut = false;
      } catch (error) {
        await this.#lose(batch.length, error);
      }
      for (const { done } of batch) done();
    }
    // in the same breath as the last look at what waits
    this.#writing = undefined;
  }

  #next(): Waiting[] {
    let length = 0;
    let count = 0;
    for (const { line } of this.#waiting) {
      if (count > 0 && length + line.length > lengthAtOnce) break;
      length += line.length;
      count += 1;
    }
    this.#waitingLength -= length;
    return this.#waiting.splice(0, count);
  }

  /** The file that has the path now. */
  async #current(): Promise<FileHandle> {
    const handle = this.#handle;
    if (handle === undefined) return this.reopen();
    const since = this.#options.clock() - this.#checkedAt;
    if (since >= 0 && since < checkEveryMs) return handle;
    this.#checkedAt = this.#options.clock();
    const [ours, theirs] = await Promise.all([handle.stat(), stat(this.#path).catch(() => undefined)]);
    return ours.ino === theirs?.ino && ours.dev === theirs.dev ? handle : this.reopen();
  }

  /** A full disk may have taken a part of a line: the next one begins on its own. */
  async #lose(lines: number, error: unknown): Promise<void> {
    this.#isLineCut = true;
    this.#options.onLost(lines, error);
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close().catch(() => undefined);
  }
}
