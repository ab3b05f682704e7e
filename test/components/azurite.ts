import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { BlobServiceClient, ContainerClient } from '@azure/storage-blob';
import { freePort, type LoggedProcess, retryTakenPorts, spawnLogged, tempDir, waitUntilReady } from './process.ts';
import { skipped } from './require.ts';

/**
 * Known differences from Azure, 3.35.0: no versions; `startFrom` of a list is not looked at; Put Blob with
 * If-None-Match: * is refused where only blocks are staged; a wrong MD5 is InvalidOperation; what is in its memory is
 * written down some seconds later, or when it is told to stop, so a kill loses it.
 */
export interface Azurite {
  /** Of the account: `http://127.0.0.1:PORT/devstoreaccount1`. */
  readonly endpoint: string;
  /** A container that exists already. */
  readonly container: string;
  readonly account: string;
  readonly connectionString: string;
  createContainer(name: string): Promise<void>;
  /** Switches soft delete on in the account's settings; Azurite itself deletes at once all the same. */
  keepDeleted(days: number): Promise<void>;
  /** stop() and kill() keep the blobs and the port. */
  stop(): Promise<void>;
  kill(): Promise<void>;
  /** Starts it again on the same port and the same blobs. */
  restart(): Promise<void>;
}

const account = 'devstoreaccount1';
/** Azurite's own, in its documentation; it is no secret. */
const accountKey = 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==';

/** Azure's blob service on a loopback port, or undefined where it is not installed (see requireOrSkip). */
export async function startAzurite(): Promise<Azurite | undefined> {
  const script = azuriteScript();
  if (script === undefined) return skipped('azure', 'azurite is not installed, `npm ci` does');
  const dir = tempDir('azurite');

  const startOn = async (port: number): Promise<LoggedProcess> => {
    const where = ['--blobHost', '127.0.0.1', '--blobPort', String(port), '--location', dir];
    const args = [script, ...where, '--silent', '--skipApiVersionCheck', '--disableTelemetry'];
    const server = await spawnLogged(process.execPath, args);
    // Any HTTP answer will do: an unsigned request gets 403.
    await waitUntilReady(server, 'azurite', async () => (await fetch(`http://127.0.0.1:${port}/`)).status > 0);
    return server;
  };

  let [port, server] = await retryTakenPorts(async () => {
    const candidate = await freePort();
    return [candidate, await startOn(candidate)] as const;
  });
  const endpoint = `http://127.0.0.1:${port}/${account}`;
  const azurite: Azurite = {
    endpoint,
    container: 'blobs',
    account,
    connectionString: `DefaultEndpointsProtocol=http;AccountName=${account};AccountKey=${accountKey};BlobEndpoint=${endpoint};`,
    async createContainer(name) {
      await (await openContainer(azurite, name)).create();
    },
    async keepDeleted(days) {
      await (await openService(azurite)).setProperties({ deleteRetentionPolicy: { enabled: true, days } });
    },
    stop: () => server.stop(),
    kill: () => server.kill(),
    restart: async () => {
      await server.stop();
      server = await retryTakenPorts(() => startOn(port));
    },
  };
  await azurite.createContainer(azurite.container);
  return azurite;
}

/** Azure's own client, for tests that do what another service would. */
export async function openContainer(azurite: Azurite, name: string = azurite.container): Promise<ContainerClient> {
  return (await openService(azurite)).getContainerClient(name);
}

async function openService({ connectionString }: Azurite): Promise<BlobServiceClient> {
  const sdk = await import('@azure/storage-blob');
  // Azurite closes idle connections after 5 s, and a large upload on one of those breaks off
  const options = { retryOptions: { maxTries: 1 }, keepAliveOptions: { enable: false } };
  return sdk.BlobServiceClient.fromConnectionString(connectionString, options);
}

function azuriteScript(): string | undefined {
  try {
    const path = createRequire(import.meta.url).resolve('azurite/dist/src/blob/main.js');
    return existsSync(path) ? path : undefined;
  } catch {
    return undefined;
  }
}
