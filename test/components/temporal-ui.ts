import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort, type LoggedProcess, retryTakenPorts, spawnLogged, tempDir, waitUntilReady } from './process.ts';
import { requireOrSkip } from './require.ts';
import type { TemporalServer } from './temporal.ts';

export interface TemporalUiOptions {
  readonly temporal: TemporalServer;
  /** What the pages call with `/encode`, `/decode` and `/download` behind it. */
  readonly codecEndpoint?: string;
  /** The user's token goes to the codec server, too: over https only, and only with `issuer`. */
  readonly passAccessToken?: boolean;
  /** Turns the sign-in on. Only its `/.well-known/openid-configuration` is read here. */
  readonly issuer?: string;
  /** Default: a free one. */
  readonly port?: number;
}

export interface TemporalUi {
  /** `http://127.0.0.1:PORT`, which is also the origin of its requests to the codec server. */
  readonly url: string;
  stop(): Promise<void>;
}

/** Temporal's Web UI on a loopback port, or undefined where there is none (see requireOrSkip). */
export async function startTemporalUi(options: TemporalUiOptions): Promise<TemporalUi | undefined> {
  const binary = requireOrSkip('temporal-ui');
  if (binary === undefined) return undefined;
  const { port } = options;
  if (port !== undefined) return startOn(binary, port, options);
  return retryTakenPorts(async () => startOn(binary, await freePort(), options));
}

async function startOn(binary: string, port: number, options: TemporalUiOptions): Promise<TemporalUi> {
  const url = `http://127.0.0.1:${port}`;
  const dir = tempDir('temporal-ui');
  // JSON is YAML. It reads base.yaml and the file of its environment, here the same one.
  writeFileSync(join(dir, 'base.yaml'), JSON.stringify(settings(url, port, options)));
  const server: LoggedProcess = await spawnLogged(binary, ['--root', dir, '--config', '.', '--env', 'base', 'start']);
  await waitUntilReady(server, 'the Web UI of Temporal', async () => {
    const { ok } = await fetch(`${url}/api/v1/settings`);
    return ok;
  });
  return { url, stop: () => server.stop() };
}

function settings(url: string, port: number, options: TemporalUiOptions): object {
  const { temporal, codecEndpoint = '', passAccessToken = false, issuer } = options;
  const provider = { type: 'oidc', providerUrl: issuer, clientId: 'web-ui', clientSecret: 'none', scopes: ['openid'] };
  return {
    temporalGrpcAddress: temporal.address,
    host: '127.0.0.1',
    port,
    enableUi: true,
    defaultNamespace: temporal.namespace,
    disableNewsFetch: true,
    cors: { cookieInsecure: true, allowOrigins: [url] },
    codec: { endpoint: codecEndpoint, passAccessToken },
    auth:
      issuer === undefined
        ? { enabled: false }
        : { enabled: true, providers: [{ ...provider, callbackUrl: `${url}/auth/sso/callback` }] },
  };
}
