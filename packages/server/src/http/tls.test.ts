/** HTTPS with certificates that are renewed, and clients with tokens over it. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createServer, request as httpsRequest } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { digestOf, keyFor, openHttpStore } from '@large-payload/core';
import { LargePayloadCodec, LargePayloadDriver } from '@large-payload/temporal';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type AccessSite, openAccessSite } from '../auth/access-fixture.js';
import { readTls, renewTls, type TlsPaths } from './tls.js';

const run = promisify(execFile);
let dir: string;
let paths: TlsPaths;

/** A new certificate in the place of the old one, as whoever renews it does: by renaming. */
async function makeCertificate(): Promise<string> {
  const [cert, key] = [join(dir, 'new.crt'), join(dir, 'new.key')];
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  await run('openssl', ['req', '-x509', ...curve, ...names, '-keyout', key, '-out', cert]);
  await rename(key, paths.keyPath);
  await rename(cert, paths.certPath);
  return readFile(paths.certPath, 'utf8');
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lps-tls-'));
  paths = { certPath: join(dir, 'tls.crt'), keyPath: join(dir, 'tls.key') };
  await makeCertificate();
});
afterAll(() => rm(dir, { recursive: true, force: true }));

describe('certificates', () => {
  it('are taken up when they are renewed, and kept when the new ones are of no use', async () => {
    const lines: string[] = [];
    const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(line) });
    const server = createServer(await readTls(paths), (_request, response) => response.end('here'));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const stop = renewTls(server, paths, log, 10);
    const { port } = server.address() as AddressInfo;
    const trusts = (ca: string): Promise<boolean> =>
      new Promise((resolve) => {
        const sent = httpsRequest({ host: '127.0.0.1', port, ca, agent: false }, (response) => {
          response.resume().once('end', () => resolve(true));
        });
        sent.once('error', () => resolve(false)).end();
      });
    const first = await readFile(paths.certPath, 'utf8');
    expect(await trusts(first)).toBe(true);

    await writeFile(paths.certPath, 'no certificate');
    await vi.waitUntil(() => lines.some((line) => line.includes('cannot be used')), { timeout: 30_000 });
    expect(await trusts(first)).toBe(true);

    const second = await makeCertificate();
    await vi.waitUntil(() => trusts(second), { interval: 10, timeout: 30_000 });
    expect(await trusts(first)).toBe(false);
    stop();
    server.close();
    server.closeAllConnections();
  });

  it('are refused at the start when they are none, or are not there', async () => {
    const missing = { ...paths, keyPath: join(dir, 'none.key') };
    await expect(readTls(missing)).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: /tls-key.*ENOENT/ });
    const wrong = join(dir, 'wrong.key');
    await writeFile(wrong, 'not a key');
    await expect(readTls({ ...paths, keyPath: wrong })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});

describe('a service with TLS and authentication', () => {
  let site: AccessSite;
  let ca: string;
  beforeAll(async () => {
    ca = await readFile(paths.certPath, 'utf8');
    site = await openAccessSite({ LPS_TLS_CERT: paths.certPath, LPS_TLS_KEY: paths.keyPath });
  });
  afterAll(() => site?.close());

  it('serves store, codec and driver with a token, or a function that gets one', async () => {
    const { url } = site.service;
    expect(url).toMatch(/^https:/);
    const token = await site.token({ orders: ['read', 'write'] });
    const bytes = randomBytes(300_000);
    const key = keyFor('orders', digestOf(bytes), null);
    const expected = { digest: digestOf(bytes), size: bytes.length };

    const store = openHttpStore({ url, tls: { ca }, token });
    expect((await store.put(key, bytes, expected)).outcome).toBe('created');
    await expect(openHttpStore({ url, token }).head(key)).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
    await expect(openHttpStore({ url, tls: { ca } }).head(key)).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
    const foreign = keyFor('other', digestOf(bytes), null);
    await expect(store.put(foreign, bytes, expected)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(store.get(foreign)).rejects.toMatchObject({ code: 'FORBIDDEN' });

    const asked: boolean[] = [];
    const source = ({ refresh }: { readonly refresh: boolean }): string => {
      asked.push(refresh);
      return refresh ? token : 'lps_000000000000_expired';
    };
    const payload = { metadata: { encoding: Buffer.from('binary/plain') }, data: new Uint8Array(randomBytes(300_000)) };
    const codec = new LargePayloadCodec({ url, tls: { ca }, token: source, namespace: 'orders' });
    expect(await codec.decode(await codec.encode([payload]))).toMatchObject([{ data: payload.data }]);
    expect(asked).toContain(true);

    const driver = new LargePayloadDriver({ url, tls: { ca }, headers: { authorization: `Bearer ${token}` } });
    const target = { kind: 'workflow', namespace: 'orders', id: 'w' } as const;
    const claims = await driver.store({ target }, [payload]);
    expect(await driver.retrieve({}, claims)).toMatchObject([{ data: payload.data }]);
    await Promise.all([store.close?.(), codec.close(), driver.close()]);
  });

  it('speaks no plain HTTP', async () => {
    const plain = openHttpStore({ url: site.service.url.replace('https:', 'http:') });
    await expect(plain.ready?.()).rejects.toMatchObject({ code: 'SERVICE_UNREACHABLE' });
  });
});
