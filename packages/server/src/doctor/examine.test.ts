import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadConfig } from '../config/load.js';
import { examine } from './examine.js';

it('gives up a check that does not end, and tells what the others found', async () => {
  const sockets = new Set<Socket>();
  const silent = createServer((socket) => sockets.add(socket)).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const { port } = silent.address() as AddressInfo;
  const dir = await mkdtemp(join(tmpdir(), 'lps-examine-'));
  try {
    const { config } = loadConfig({
      env: { LPS_DATA_DIR: join(dir, 'data'), LPS_DATABASE_URL: `postgres://127.0.0.1:${port}/lps` },
    });
    // for the others it is plenty, and Postgres would be given up after five seconds
    const findings = await examine({ settings: config, timeoutMs: 4000 });
    expect(findings.filter(({ severity }) => severity === 'fail')).toEqual([
      expect.objectContaining({ id: 'doctor.unfinished', seen: 'the check of Postgres was not done after 4 s' }),
    ]);
    expect(findings.map(({ id }) => id)).toEqual(
      expect.arrayContaining(['store.put', 'store.delete', 'limits.threshold']),
    );
  } finally {
    for (const socket of sockets) socket.destroy();
    silent.close();
    await rm(dir, { recursive: true, force: true });
  }
});

it('says that a check broke off, and goes on with the others', async () => {
  const config = loadConfig({ env: { LPS_STORE: 'memory' } }).config;
  const broken = new Proxy(config, {
    get(target, name) {
      if (name === 'host') throw new Error('no host');
      return Reflect.get(target, name);
    },
  });
  const findings = await examine({ settings: broken });
  expect(findings.filter(({ severity }) => severity === 'fail')).toEqual([
    expect.objectContaining({ id: 'doctor.unfinished', seen: 'the check of settings broke off: no host' }),
  ]);
  expect(findings.map(({ id }) => id)).toEqual(expect.arrayContaining(['runtime.node', 'postgres.reach']));
});
