import { randomBytes } from 'node:crypto';
import type { S3Client } from '@aws-sdk/client-s3';
import { freePort, type LoggedProcess, retryTakenPorts, spawnLogged, tempDir, waitUntilReady } from './process.ts';
import { requireOrSkip } from './require.ts';

export interface VersitygwOptions {
  /** Buckets keep old versions of their objects. */
  versioning?: boolean;
}

export interface Versitygw {
  readonly endpoint: string;
  readonly region: 'us-east-1';
  /** A bucket that exists already. */
  readonly bucket: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** The objects as files: `<dir>/<bucket>/<key>`, for tests that damage them. */
  readonly dir: string;
  /** Of the process that runs now: another one after restart(). */
  readonly pid: number;
  createBucket(name: string): Promise<void>;
  /** stop() and kill() keep the objects and the port. */
  stop(): Promise<void>;
  kill(): Promise<void>;
  /** Starts it again on the same port and the same objects. */
  restart(): Promise<void>;
}

/** A real S3 server on a loopback port, or undefined where there is none (see requireOrSkip). */
export async function startVersitygw(options: VersitygwOptions = {}): Promise<Versitygw | undefined> {
  const binary = requireOrSkip('s3');
  if (binary === undefined) return undefined;

  const dir = tempDir('s3');
  const versioningArgs = options.versioning ? ['--versioning-dir', tempDir('s3-versions')] : [];
  // Random keys: should another server sit on our port, it refuses us instead of answering for us.
  const accessKeyId = randomBytes(8).toString('hex');
  const secretAccessKey = randomBytes(16).toString('hex');

  const startOn = async (port: number): Promise<LoggedProcess> => {
    // AWS keeps connections open; versitygw closes them after each response unless told.
    const args = ['--port', `127.0.0.1:${port}`, '--keep-alive', '--quiet', 'posix', ...versioningArgs, dir];
    const env = { ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey };
    const server = await spawnLogged(binary, args, { env });
    // Any HTTP answer will do: an unsigned request gets 403.
    await waitUntilReady(server, 'versitygw', async () => (await fetch(`http://127.0.0.1:${port}/`)).status > 0);
    return server;
  };

  let [port, server] = await retryTakenPorts(async () => {
    const candidate = await freePort();
    return [candidate, await startOn(candidate)] as const;
  });
  const gateway: Versitygw = {
    endpoint: `http://127.0.0.1:${port}`,
    region: 'us-east-1',
    bucket: 'blobs',
    accessKeyId,
    secretAccessKey,
    dir,
    get pid() {
      return server.pid;
    },
    createBucket: (name) => createBucket(gateway, name, options.versioning ?? false),
    stop: () => server.stop(),
    kill: () => server.kill(),
    restart: async () => {
      await server.stop();
      server = await retryTakenPorts(() => startOn(port));
    },
  };
  await gateway.createBucket(gateway.bucket);
  return gateway;
}

/** A client with the settings for S3 off AWS; the caller destroys it. */
export async function openS3Client(gateway: Versitygw): Promise<S3Client> {
  const { S3Client } = await import('@aws-sdk/client-s3');
  const { endpoint, region, accessKeyId, secretAccessKey } = gateway;
  return new S3Client({
    endpoint,
    region,
    credentials: { accessKeyId, secretAccessKey },
    forcePathStyle: true,
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
}

async function createBucket(gateway: Versitygw, name: string, versioning: boolean): Promise<void> {
  const { CreateBucketCommand, PutBucketVersioningCommand } = await import('@aws-sdk/client-s3');
  const client = await openS3Client(gateway);
  try {
    await client.send(new CreateBucketCommand({ Bucket: name }));
    if (versioning) {
      const enabled = { Bucket: name, VersioningConfiguration: { Status: 'Enabled' as const } };
      await client.send(new PutBucketVersioningCommand(enabled));
    }
  } finally {
    client.destroy();
  }
}
