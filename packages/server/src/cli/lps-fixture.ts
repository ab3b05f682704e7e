import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The built command, as users run it. */
const bin = fileURLToPath(new URL('../../bin/lps.js', import.meta.url));

export interface Result {
  readonly code: number | null;
  readonly stdout: Buffer;
  readonly out: string;
  readonly err: string;
}

export interface RunOptions {
  readonly env?: Record<string, string>;
  readonly input?: Buffer | string;
}

/** A directory in which commands run, with nothing of this process' environment. */
export interface Workplace {
  readonly dir: string;
  start(args: readonly string[], options?: RunOptions): ChildProcess;
  /** Runs a command to its end. */
  lps(args: readonly string[], options?: RunOptions): Promise<Result>;
  /** A new file, its path. */
  file(content: Buffer | string): Promise<string>;
  /** The flags for the file store of this place. */
  onStore(): string[];
  remove(): Promise<void>;
}

export async function openWorkplace(): Promise<Workplace> {
  const dir = await mkdtemp(join(tmpdir(), 'lps-cli-'));
  let files = 0;
  const start = (args: readonly string[], options: RunOptions = {}): ChildProcess => {
    const env = { PATH: process.env.PATH ?? '', TMPDIR: tmpdir(), ...options.env };
    return spawn(process.execPath, [bin, ...args], { env, cwd: dir });
  };
  return {
    dir,
    start,
    async lps(args, options = {}) {
      const child = start(args, options);
      child.stdin?.on('error', () => {}); // a command that refuses its arguments does not read
      child.stdin?.end(options.input ?? '');
      return finished(child);
    },
    async file(content) {
      files += 1;
      const path = join(dir, `file-${files}`);
      await writeFile(path, content);
      return path;
    },
    onStore: () => ['--store', 'file', '--data-dir', join(dir, 'data')],
    remove: () => rm(dir, { recursive: true, force: true }),
  };
}

/** What a command wrote, and how it ended. */
export async function finished(child: ChildProcess): Promise<Result> {
  const chunks: Buffer[] = [];
  let err = '';
  child.stdout?.on('data', (chunk: Buffer) => chunks.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => {
    err += chunk.toString();
  });
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  const stdout = Buffer.concat(chunks);
  return { code, stdout, out: stdout.toString(), err };
}

export function sha256(bytes: Buffer | string): string {
  return createHash('sha256').update(bytes).digest('hex');
}
