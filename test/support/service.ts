import { fileURLToPath } from 'node:url';
import { spawnLogged, tempDir, waitUntilReady } from '@large-payload/test-components';

export interface RunningService {
  /** `http://127.0.0.1:PORT` */
  readonly url: string;
  readonly pid: number;
  /** The last lines of its log. */
  output(): string;
  stop(): Promise<void>;
  kill(): Promise<void>;
}

const lps = fileURLToPath(new URL('../../packages/server/bin/lps.js', import.meta.url));

/** `lps serve` on a free port, with its files in a directory that is removed with this process. */
export async function startService(args: readonly string[] = []): Promise<RunningService> {
  const dataDir = tempDir('service');
  const given = ['serve', '--port', '0', '--data-dir', dataDir, '--log-format', 'json', ...args];
  const server = await spawnLogged(process.execPath, [lps, ...given]);
  let url: string | undefined;
  await waitUntilReady(server, 'lps serve', async () => {
    url = /"msg":"listening on (http:[^"]+)"/.exec(server.output())?.[1];
    return url !== undefined;
  });
  if (url === undefined) throw new Error('lps serve is ready but said no address');
  const { pid } = server;
  return { url, pid, output: () => server.output(), stop: () => server.stop(), kill: () => server.kill() };
}
