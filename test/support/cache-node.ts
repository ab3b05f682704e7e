/** `lps cache` as operators run it: a process of its own. */
import { fileURLToPath } from 'node:url';
import { spawnLogged, tempDir, waitUntilReady } from '@large-payload/test-components';
import { request } from './blobs.ts';
import { until } from './until.ts';

const lps = fileURLToPath(new URL('../../packages/server/bin/lps.js', import.meta.url));

export interface CacheNodeOptions {
  readonly upstream: string;
  /** Default: a new one, removed with this process. */
  readonly cacheDir?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** After the others, so that they win. */
  readonly args?: readonly string[];
}

export interface CacheNodeProcess {
  readonly port: number;
  readonly url: string;
  readonly cacheDir: string;
  output(): string;
  /** SIGTERM; resolves when it is gone. */
  stop(): Promise<void>;
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
}

/** As `lps cache status --json` gives it. */
export interface CacheStatus {
  readonly lease: {
    readonly isFresh: boolean;
    readonly applied: number;
    readonly cleared: number;
    readonly cursor: string;
  };
  readonly memory: { readonly blobs: number; readonly bytes: number };
  readonly disk: { readonly blobs: number; readonly bytes: number };
  readonly served: Readonly<
    Record<'memory' | 'disk' | 'joined' | 'miss', { readonly blobs: number; readonly bytes: number }>
  >;
  readonly touches: { readonly waiting: number; readonly forwarded: number };
}

/** Starts it on a free port and waits until it listens. Throws with its output when it does not. */
export async function startCacheNode(options: CacheNodeOptions): Promise<CacheNodeProcess> {
  const { upstream, cacheDir = tempDir('cache-node'), env = {} } = options;
  const place = ['--port', '0', '--upstream', upstream, '--cache-dir', cacheDir, '--log-format', 'json'];
  const args = [lps, 'cache', ...place, ...(options.args ?? [])];
  const server = await spawnLogged(process.execPath, args, { env: { ...env }, detached: true });
  let port = 0;
  await waitUntilReady(server, 'lps cache', async () => {
    port = Number(/"msg":"listening on http:\/\/127\.0\.0\.1:(\d+)"/.exec(server.output())?.[1] ?? 0);
    return port > 0;
  });
  return {
    ...{ port, url: `http://127.0.0.1:${port}`, cacheDir },
    output: () => server.output(),
    stop: () => server.stop(),
    async kill() {
      if (server.ended === undefined) process.kill(server.pid, 'SIGKILL');
      await until('the end of lps cache', async () => server.ended);
    },
  };
}

export async function statusOf(
  node: { readonly port: number },
  headers: Record<string, string> = {},
): Promise<CacheStatus> {
  const { status, text } = await request(node.port, '/v3/cache', { headers });
  if (status !== 200) throw new Error(`${status} ${text}`);
  return JSON.parse(text) as CacheStatus;
}

/** Until what is kept is served without a question, or not. */
export function untilFresh(node: CacheNodeProcess, isFresh = true, headers = {}): Promise<CacheStatus> {
  return until(`a cache node that is ${isFresh ? '' : 'not '}fresh`, async () => {
    const status = await statusOf(node, headers);
    return status.lease.isFresh === isFresh ? status : undefined;
  });
}
