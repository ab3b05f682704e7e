import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort, spawnLogged, tempDir, waitUntilReady } from './components.mjs';

const lps = fileURLToPath(new URL('../packages/server/bin/lps.js', import.meta.url));

/**
 * A server under load: `{ url, pid, restart(), remove() }`. A restart keeps its blobs and its port (`pid` changes), except
 * with the memory store; `remove` ends it and removes its blobs.
 */
export async function startOurs({ store, gateway, serve, node }) {
  const dataDir = tempDir('bench-data');
  const bucket = store === 's3' ? await newBucket(gateway) : undefined;
  const start = async (port) => {
    const args = ['serve', '--port', String(port), '--data-dir', dataDir, '--store', store, '--log-level', 'warn'];
    if (bucket !== undefined) args.push('--s3-bucket', bucket.name, '--s3-endpoint', gateway.endpoint);
    if (bucket !== undefined) args.push('--s3-region', gateway.region);
    const server = await spawnLogged(process.execPath, [...node, lps, ...args, ...serve], {
      env: gateway === undefined ? {} : credentials(gateway),
    });
    await waitUntilReady(server, 'lps serve', async () => (await fetch(`http://127.0.0.1:${port}/readyz`)).ok);
    return server;
  };
  return running(start, async () => {
    rmSync(dataDir, { recursive: true, force: true });
    bucket?.remove();
  });
}

/** The same for the user's own command line. */
export async function startPeer({ store, gateway, command }) {
  const bucket = store === 's3' ? await newBucket(gateway) : undefined;
  const start = async (port) => {
    const line = command.replaceAll('{port}', String(port)).replaceAll('{store}', store);
    const env = bucket === undefined ? {} : { ...credentials(gateway), BUCKET: bucket.name };
    const server = await spawnLogged('/bin/sh', ['-c', `exec ${line}`], { env });
    // any HTTP answer will do
    const probe = async () => (await fetch(`http://127.0.0.1:${port}/`)).status > 0;
    await waitUntilReady(server, 'the peer', probe, 20_000);
    return server;
  };
  return running(start, async () => bucket?.remove());
}

async function running(start, clean) {
  const port = await freePort();
  let server = await start(port);
  return {
    url: `http://127.0.0.1:${port}`,
    get pid() {
      return server.pid;
    },
    output: () => server.output(),
    async restart() {
      await server.stop();
      server = await start(port);
    },
    async remove() {
      await server.stop();
      await clean();
    },
  };
}

let buckets = 0;

/** A bucket for one run: a catalog owns its bucket, and an old one would fill the disk. */
async function newBucket(gateway) {
  const name = `bench-${++buckets}`;
  await gateway.createBucket(name);
  return { name, remove: () => rmSync(join(gateway.dir, name), { recursive: true, force: true }) };
}

function credentials({ endpoint, region, accessKeyId, secretAccessKey }) {
  return {
    AWS_REGION: region,
    AWS_ENDPOINT_URL: endpoint,
    AWS_ACCESS_KEY_ID: accessKeyId,
    AWS_SECRET_ACCESS_KEY: secretAccessKey,
  };
}
