import { freePort, type LoggedProcess, retryTakenPorts, spawnLogged, tempDir, waitUntilReady } from './process.ts';
import { requireOrSkip } from './require.ts';

export interface FakeGcsOptions {
  /**
   * Objects in memory instead of in files: any name as it is, and versions; but they are gone with the process. As files,
   * names lose a leading slash and doubled ones, and no part of a name may be over 255 bytes.
   */
  memory?: boolean;
}

/**
 * Known differences from GCS, v1.56.1: an upload of type `media` holds the whole server up while its body comes
 * (multipart ones do not); absent objects and absent buckets are told apart by no word; no softDeletePolicy, lifecycle or
 * retention; no credentials are asked for.
 */
export interface FakeGcs {
  readonly endpoint: string;
  /** A bucket that exists already. */
  readonly bucket: string;
  /** Of every name, so that none begins with a slash where that would get lost. */
  readonly prefix: string;
  /** The objects as files: `<dir>/<bucket>/<name>`, for tests that damage them. */
  readonly dir: string;
  createBucket(name: string, options?: { versioning?: boolean }): Promise<void>;
  /** stop() and kill() keep the port, and objects that are files. */
  stop(): Promise<void>;
  kill(): Promise<void>;
  /** Starts it again on the same port and the same objects. */
  restart(): Promise<void>;
}

/** A server that speaks GCS's JSON API on a loopback port, or undefined where there is none (see requireOrSkip). */
export async function startFakeGcs(options: FakeGcsOptions = {}): Promise<FakeGcs | undefined> {
  const binary = requireOrSkip('gcs');
  if (binary === undefined) return undefined;
  const dir = tempDir('gcs');

  const startOn = async (port: number): Promise<LoggedProcess> => {
    const kept = options.memory ? ['-backend', 'memory'] : ['-backend', 'filesystem', '-filesystem-root', dir];
    const args = ['-scheme', 'http', '-host', '127.0.0.1', '-port', String(port), '-log-level', 'warn', ...kept];
    const server = await spawnLogged(binary, args);
    const health = `http://127.0.0.1:${port}/_internal/healthcheck`;
    await waitUntilReady(server, 'fake-gcs-server', async () => (await fetch(health)).ok);
    return server;
  };

  let [port, server] = await retryTakenPorts(async () => {
    const candidate = await freePort();
    return [candidate, await startOn(candidate)] as const;
  });
  const endpoint = `http://127.0.0.1:${port}`;
  const gcs: FakeGcs = {
    endpoint,
    bucket: 'blobs',
    prefix: options.memory ? '' : 'lps',
    dir,
    createBucket: (name, { versioning = false } = {}) => createBucket(endpoint, name, versioning),
    stop: () => server.stop(),
    kill: () => server.kill(),
    restart: async () => {
      await server.stop();
      server = await retryTakenPorts(() => startOn(port));
    },
  };
  await gcs.createBucket(gcs.bucket);
  return gcs;
}

async function createBucket(endpoint: string, name: string, versioning: boolean): Promise<void> {
  const body = JSON.stringify({ name, versioning: { enabled: versioning } });
  const headers = { 'content-type': 'application/json' };
  const response = await fetch(`${endpoint}/storage/v1/b?project=tests`, { method: 'POST', headers, body });
  if (!response.ok) throw new Error(`bucket ${name}: ${response.status} ${await response.text()}`);
}
