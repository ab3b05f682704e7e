import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { finished, openWorkplace, type Result, type Workplace } from './lps-fixture.js';

let place: Workplace;
beforeAll(async () => {
  place = await openWorkplace();
});
afterAll(() => place.remove());

describe('lps serve', () => {
  async function serve(
    env: Record<string, string> = {},
  ): Promise<{ child: ChildProcess; url: string; result: Promise<Result> }> {
    const child = place.start(['serve', '--port', '0', '--store', 'memory', '--log-format', 'json'], { env });
    const result = finished(child);
    const url = await new Promise<string>((resolve, reject) => {
      let text = '';
      child.stdout?.on('data', (chunk: Buffer) => {
        text += chunk.toString();
        const found = /"msg":"listening on (http:\/\/127\.0\.0\.1:\d+)"/.exec(text)?.[1];
        if (found !== undefined) resolve(found);
      });
      child.once('exit', () => reject(new Error(`ended before it listened: ${text}`)));
    });
    return { child, url, result };
  }

  /** An upload that has begun and does not go on: the service waits for it when it drains. */
  async function stalledUpload(url: string): Promise<{ end(): void }> {
    const digest = `sha256:${'0'.repeat(64)}`;
    const path = `/v2/blobs/put?namespace=n&digest=${digest}`;
    const headers = {
      'content-type': 'application/octet-stream',
      'content-length': 1000,
      'x-temporal-metadata': Buffer.from('null').toString('base64'),
      expect: '100-continue',
    };
    const upload = request(`${url}${path}`, { method: 'PUT', headers });
    upload.on('error', () => {});
    await new Promise((resolve) => upload.once('continue', resolve).flushHeaders());
    upload.write('some');
    return { end: () => upload.destroy() };
  }

  /** Resolves when a service that was told to stop has begun to. */
  async function isStopping(url: string): Promise<void> {
    const isReady = async (): Promise<boolean> => (await fetch(`${url}/readyz`).catch(() => undefined))?.ok === true;
    await vi.waitUntil(async () => !(await isReady()), { timeout: 30_000 });
  }

  it('says where it listens, serves the other commands, and ends with 0 when it is told to stop', async () => {
    const { child, url, result } = await serve();
    const bytes = randomBytes(300_000);
    const put = await place.lps(['put', '-', '--namespace', 'n', '--url', url], { input: bytes });
    expect(put).toMatchObject({ code: 0, err: '' });
    const got = await place.lps(['get', put.out.trim()], { env: { LPS_URL: url } });
    expect(got.stdout.equals(bytes)).toBe(true);
    expect((await place.lps(['stat', put.out.trim(), '--url', url])).code).toBe(0);
    expect((await place.lps(['ls', '--namespace', 'n', '--url', url])).out).toContain(put.out.trim());
    child.kill('SIGTERM');
    expect(await result).toMatchObject({ code: 0, err: '' });
  });

  it.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const)('waits for an upload under way after %s, and ends with %i at the second one', async (signal, code) => {
    const { child, url, result } = await serve();
    const upload = await stalledUpload(url);
    child.kill(signal);
    await isStopping(url); // two that nobody has looked at yet would be one
    await delay(200);
    expect(child.exitCode).toBe(null);
    child.kill(signal);
    expect((await result).code).toBe(code);
    upload.end();
  });

  it('takes the two signals that npm makes of one Ctrl-C for one', async () => {
    const { child, url, result } = await serve({ npm_lifecycle_event: 'start' });
    const upload = await stalledUpload(url);
    // of two kinds and in one go: neither swallowed by the other, nor ever too far apart
    child.kill('SIGINT');
    child.kill('SIGTERM');
    await isStopping(url);
    await delay(200);
    expect(child.exitCode).toBe(null);
    upload.end();
    expect(await result).toMatchObject({ code: 0, err: '' });
  });

  it('says in one line that its port is taken', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const result = await place.lps(['serve', '--port', `${port}`, '--store', 'memory', '--log-level', 'silent']);
    expect(result).toMatchObject({ code: 2, out: '' });
    expect(result.err).toMatch(/^lps: port \d+ is in use; [^\n]*\(CONFIG_INVALID\)\n$/);
    server.close();
  });
});
