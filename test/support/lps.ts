/** `lps …` as operators run it, on a catalog and a store: a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Versitygw } from '@large-payload/test-components';

const bin = fileURLToPath(new URL('../../packages/server/bin/lps.js', import.meta.url));

/** Where the catalog and the blobs are. */
export interface Site {
  /** Default `file`. A gateway stands for its bucket. */
  readonly store?: 'file' | Versitygw;
  readonly dataDir: string;
}

export interface Ran {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
  /** The lines of `--json`. */
  readonly lines: readonly Line[];
  /** The last of them. */
  readonly summary: Record<string, unknown>;
}

export interface Line {
  readonly kind: string;
  readonly note: string;
  readonly key: string;
}

/** Starts a command with the settings of a site. */
export function startLps({ store = 'file', dataDir }: Site, args: readonly string[]): ChildProcess {
  const place = typeof store === 'string' ? ['--store', store] : bucketArgs(store);
  const keys =
    typeof store === 'string'
      ? {}
      : { AWS_ACCESS_KEY_ID: store.accessKeyId, AWS_SECRET_ACCESS_KEY: store.secretAccessKey };
  const env = { PATH: process.env.PATH ?? '', TMPDIR: tmpdir(), ...keys };
  return spawn(process.execPath, [bin, ...args, '--data-dir', dataDir, ...place], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** Runs one to its end. */
export function lps(site: Site, ...args: readonly string[]): Promise<Ran> {
  return ended(startLps(site, args));
}

/** What a command wrote, and how it ended; `null` when a signal ended it. */
export async function ended(child: ChildProcess): Promise<Ran> {
  let [out, err] = ['', ''];
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    err += text;
  });
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  const lines = out.split('\n').flatMap((line): Line[] => (line.startsWith('{') ? [JSON.parse(line)] : []));
  return { code, out, err, lines, summary: { ...lines.at(-1) } };
}

function bucketArgs({ bucket, endpoint, region }: Versitygw): string[] {
  return ['--store', 's3', '--s3-bucket', bucket, '--s3-endpoint', endpoint, '--s3-region', region];
}
