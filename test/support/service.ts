/** `lps serve` as operators run it: a process of its own, with a real database and a real store. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import {
  type Azurite,
  type FakeGcs,
  spawnLogged,
  tempDir,
  type Versitygw,
  waitUntilReady,
} from '@large-payload/test-components';
import { copyModelDatabase } from './model-database.ts';
import { killPostgres } from './postgres.ts';
import { until } from './until.ts';

// under `npm test` every process inherits this, and `lps serve` would take two signals at once for npm's doubling of one
delete process.env.npm_lifecycle_event;

export type BucketServer = Versitygw | FakeGcs | Azurite;

export interface ServiceOptions {
  /** Default `file`. A server stands for its bucket. */
  readonly store?: 'file' | 'memory' | BucketServer;
  /** Default: a new one, its database made already, removed with this process. */
  readonly dataDir?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** After the others, so that they win. */
  readonly args?: readonly string[];
  /** The script to run. Default: this workspace's. */
  readonly lps?: string;
}

export interface RunningService {
  /** `http://127.0.0.1:PORT` */
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  readonly dataDir: string;
  /** How it ended, once it has: `exit code 0`, `signal SIGKILL`. */
  readonly ended: string | undefined;
  /** The last 16 kB of what it said. */
  output(): string;
  /** Resolves once it has said so. */
  says(text: string): Promise<void>;
  /** SIGTERM; resolves when it is gone, which takes a SIGKILL after half a minute. */
  stop(): Promise<void>;
  /** Sends a signal, SIGKILL unless told; resolves with how it ended, once it has. */
  kill(signal?: NodeJS.Signals): Promise<string>;
  /** SIGKILL to its process group and to the embedded PostgreSQL, which has a session of its own. */
  killGroup(): Promise<void>;
}

const workspaceLps = fileURLToPath(new URL('../../packages/server/bin/lps.js', import.meta.url));

/** Starts it on a free port and waits until it listens. Throws with its output when it does not. */
export async function startService(options: ServiceOptions = {}): Promise<RunningService> {
  const dataDir = options.dataDir ?? (await newDataDir(options));
  const { args, env } = commandFor({ ...options, dataDir });
  const server = await spawnLogged(process.execPath, args, { env, detached: true });
  let port = 0;
  await waitUntilReady(server, 'lps serve', async () => {
    port = Number(/"msg":"listening on http:\/\/127\.0\.0\.1:(\d+)"/.exec(server.output())?.[1] ?? 0);
    return port > 0;
  });
  const ended = (): Promise<string> => until('the end of lps serve', async () => server.ended, 60_000);
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    pid: server.pid,
    dataDir,
    get ended() {
      return server.ended;
    },
    output: () => server.output(),
    async says(text) {
      await until(`"${text}" in the log`, async () => server.output().includes(text) || undefined);
    },
    stop: () => server.stop(),
    kill(signal = 'SIGKILL') {
      if (server.ended === undefined) process.kill(server.pid, signal);
      return ended();
    },
    async killGroup() {
      process.kill(-server.pid, 'SIGKILL');
      await killPostgres(dataDir);
      await ended();
    },
  };
}

/** As after the first start of a service that has done nothing yet; empty where the database is elsewhere. */
export async function newDataDir({ store, env }: ServiceOptions = {}): Promise<string> {
  const dataDir = tempDir('service');
  if (store !== 'memory' && env?.LPS_DATABASE_URL === undefined) await copyModelDatabase(dataDir);
  return dataDir;
}

/** How a start ended that must not succeed. */
export interface RefusedStart {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Starts a service that refuses; ended by force when it does not within a minute. */
export function refusedStart(options: ServiceOptions & { readonly dataDir: string }): Promise<RefusedStart> {
  const { args, env } = commandFor(options);
  return new Promise((resolve) => {
    const spawned = { env: { ...process.env, ...env }, timeout: 60_000 };
    const child = execFile(process.execPath, args, spawned, (_error, stdout, stderr) => {
      resolve({ exitCode: child.exitCode, stdout, stderr });
    });
  });
}

function commandFor(options: ServiceOptions & { dataDir: string }): { args: string[]; env: Record<string, string> } {
  const { store = 'file', dataDir } = options;
  const common = [options.lps ?? workspaceLps, 'serve', '--port', '0', '--data-dir', dataDir, '--log-format', 'json'];
  const given = [...(options.args ?? [])];
  if (typeof store === 'string') return { args: [...common, '--store', store, ...given], env: { ...options.env } };
  const bucket = bucketOptions(store);
  return { args: [...common, ...bucket.args, ...given], env: { ...bucket.env, ...options.env } };
}

function bucketOptions(server: BucketServer): { args: string[]; env: Record<string, string> } {
  if ('connectionString' in server) {
    const { container, connectionString } = server;
    const env = { LPS_AZURE_CONNECTION_STRING: connectionString };
    return { args: ['--store', 'azure', '--azure-container', container], env };
  }
  if ('prefix' in server) {
    const { bucket, endpoint, prefix } = server;
    const args = ['--store', 'gcs', '--gcs-bucket', bucket, '--gcs-endpoint', endpoint];
    return { args: prefix === '' ? args : [...args, '--gcs-prefix', prefix], env: {} };
  }
  const { bucket, endpoint, region, accessKeyId, secretAccessKey } = server;
  const args = ['--store', 's3', '--s3-bucket', bucket, '--s3-endpoint', endpoint, '--s3-region', region];
  return { args, env: { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } };
}
