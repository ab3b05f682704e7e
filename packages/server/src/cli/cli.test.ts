import { randomBytes } from 'node:crypto';
import { mkdtemp, open, readdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { finished, openWorkplace, type Result, sha256, type Workplace } from './lps-fixture.js';

let place: Workplace;
beforeAll(async () => {
  place = await openWorkplace();
});
afterAll(() => place.remove());

describe('lps put, get, stat and ls, straight on the file store', () => {
  it('store a file and read it back by its key', async () => {
    const bytes = randomBytes(3 * 1024 * 1024);
    const path = await place.file(bytes);
    const put = await place.lps(['put', path, '--namespace', 'orders', ...place.onStore()]);
    expect(put).toMatchObject({ code: 0, err: '' });
    expect(put.out).toMatch(new RegExp(`^/blobs/orders/common/sha256:${sha256(bytes)}/sha256:[0-9a-f]{64}\n$`));
    const key = put.out.trim();
    const got = await place.lps(['get', key, ...place.onStore()]);
    expect(got).toMatchObject({ code: 0, err: '' });
    expect(got.stdout.equals(bytes)).toBe(true);
  });

  it('store standard input, and read by the claim that was printed, given on standard input', async () => {
    const bytes = randomBytes(2 * 1024 * 1024 + 1);
    const put = await place.lps(['put', '-', '--namespace', 'orders', '--claim', ...place.onStore()], { input: bytes });
    expect(JSON.parse(put.out)).toMatchObject({ size: bytes.length, digest: `sha256:${sha256(bytes)}` });
    const got = await place.lps(['get', '-', ...place.onStore()], { input: put.out });
    expect(got.stdout.equals(bytes)).toBe(true);
    expect((await readdir(tmpdir())).filter((name) => name.startsWith('lps-put-'))).toEqual([]);
  });

  it('write a file that appears complete, and leave nothing else', async () => {
    const put = await place.lps(['put', await place.file('hello'), '--namespace', 'n', ...place.onStore()]);
    const output = await mkdtemp(join(place.dir, 'out-'));
    const got = await place.lps(['get', put.out.trim(), '-o', join(output, 'copy'), ...place.onStore()]);
    expect(got).toMatchObject({ code: 0, out: '', err: '' });
    expect(await readFile(join(output, 'copy'), 'utf8')).toBe('hello');
    expect(await readdir(output)).toEqual(['copy']);
  });

  it('write no file and leave none behind when the blob is damaged', async () => {
    const bytes = randomBytes(700 * 1024);
    const key = (
      await place.lps(['put', await place.file(bytes), '--namespace', 'damaged', ...place.onStore()])
    ).out.trim();
    const blobs = await readdir(join(place.dir, 'data', 'store'), { recursive: true, withFileTypes: true });
    const found = blobs.find((entry) => entry.isFile() && entry.parentPath.includes('damaged'));
    const damaged = await open(join(found?.parentPath ?? '', found?.name ?? ''), 'r+');
    await damaged.write(Buffer.of((bytes[10] ?? 0) ^ 1), 0, 1, 10);
    await damaged.close();
    const output = await mkdtemp(join(place.dir, 'out-'));
    await writeFile(join(output, 'copy'), 'as it was');
    const got = await place.lps(['get', key, '-o', join(output, 'copy'), ...place.onStore()]);
    expect(got).toMatchObject({ code: 1, err: 'lps: the bytes do not match their digest (BLOB_DAMAGED)\n' });
    expect(await readdir(output)).toEqual(['copy']);
    expect(await readFile(join(output, 'copy'), 'utf8')).toBe('as it was');
    expect((await place.lps(['get', key, ...place.onStore()])).code).toBe(1);
  });

  it('take metadata and a prefix into the key', async () => {
    const path = await place.file('with metadata');
    const json = ['--metadata-json', '{"encoding":"json/plain","a":"ü"}'];
    const put = async (...more: string[]) =>
      (await place.lps(['put', path, '--namespace', 'n', ...more, ...place.onStore()])).out.trim();
    const metadata = await put(...json);
    expect(metadata.endsWith(`/sha256:${sha256('aüencodingjson/plain')}`)).toBe(true);
    expect(await put('--encoding', 'json/plain')).toMatch(`/sha256:${sha256('encodingjson/plain')}`);
    expect(await put('--prefix', 'team/a', ...json)).toMatch(/^\/blobs\/n\/custom\/team\/a\/sha256:/);
  });

  it('say what is there, for people and for scripts', async () => {
    const put = await place.lps([
      'put',
      await place.file('listed'),
      '--namespace',
      'listing',
      '--json',
      ...place.onStore(),
    ]);
    const record = JSON.parse(put.out);
    expect(record).toMatchObject({ size: 6, outcome: 'created', digest: `sha256:${sha256('listed')}` });
    const again = await place.lps([
      'put',
      await place.file('listed'),
      '--namespace',
      'listing',
      '--json',
      ...place.onStore(),
    ]);
    expect(JSON.parse(again.out).outcome).toBe('exists');
    const { key } = record;
    const absent = key.replace(sha256('listed'), sha256('other'));
    const stat = await place.lps(['stat', key, absent, '--json', ...place.onStore()]);
    expect(stat).toMatchObject({ code: 1, err: 'lps: 1 of 2 blobs not found (BLOB_NOT_FOUND)\n' });
    const lines = stat.out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines).toEqual([expect.objectContaining({ key, found: true, size: 6 }), { key: absent, found: false }]);
    const list = await place.lps(['ls', '--namespace', 'listing', ...place.onStore()]);
    expect(list).toMatchObject({ code: 0, err: '' });
    expect(list.out).toMatch(/^ +6 {2}\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ {2}\/blobs\/listing\/common\/\S+\n$/);
    expect((await place.lps(['ls', '--namespace', 'list', ...place.onStore()])).out).toBe('');
    expect((await place.lps(['ls', '--limit', '2', '--json', ...place.onStore()])).out.trim().split('\n')).toHaveLength(
      2,
    );
  });

  it('keep a namespace that would act on a terminal as it is in a pipe', async () => {
    const put = await place.lps(['put', await place.file('x'), '--namespace', 'a\u202eb', ...place.onStore()]);
    expect(put.out).toMatch('/blobs/a\u202eb/');
  });
});

describe('help', () => {
  it('is shown on request, and for no command at all', async () => {
    const help = await place.lps(['--help']);
    expect(help).toMatchObject({ code: 0, err: '' });
    for (const word of ['serve', 'put', 'get', 'stat', 'ls', 'config', 'Exit codes: 0 done'])
      expect(help.out).toContain(word);
    const none = await place.lps([]);
    expect(none).toMatchObject({ code: 2, out: '', err: help.out });
    expect((await place.lps(['help', 'put'])).out).toContain('Usage: lps put [options] <file>');
    expect((await place.lps(['--version'])).out).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it('names the variable and the default of every setting, and fits a terminal', async () => {
    const { out } = await place.lps(['serve', '--help']);
    const others = await Promise.all(['put', 'get', 'stat', 'ls', 'config'].map((name) => place.lps(['help', name])));
    expect(out).toMatch(/--port <number> +Port to listen on; 0 takes any free one\.\n +\[LPS_PORT; default: 8577\]/);
    expect(out).toContain('--no-metrics');
    expect(out).not.toMatch(/^ +--metrics/m);
    expect(
      Math.max(...others.concat({ out } as Result).flatMap((help) => help.out.split('\n').map((line) => line.length))),
    ).toBeLessThanOrEqual(100);
  });
});

describe('lps config print', () => {
  it('shows values and where they came from', async () => {
    const config = await place.file('grace: 8d\n');
    const env = { LPS_DATABASE_URL: 'postgres://u:hush@db/lps', LPS_MAX_UPLOADS: '7' };
    const print = await place.lps(['config', 'print', '--port', '9', '--no-metrics', '--config', config], { env });
    expect(print).toMatchObject({ code: 0, err: '' });
    expect(print.out).toMatch(/^port +9 +--port$/m);
    expect(print.out).toMatch(/^metrics +false +--no-metrics$/m);
    expect(print.out).toMatch(/^max-uploads +7 +LPS_MAX_UPLOADS$/m);
    expect(print.out).toMatch(/^grace +8d +\S+file-\d+:1$/m);
    expect(print.out).not.toContain('hush');
    const json = await place.lps(['config', 'print', '--json'], { env });
    expect(JSON.parse(json.out)['max-uploads']).toEqual({ value: 7, source: 'LPS_MAX_UPLOADS' });
  });
});

describe('a command that is stopped', () => {
  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('by %s ends with %i and leaves nothing behind', async (signal, code) => {
    // a service that begins to answer and never goes on
    const digest = `sha256:${'0'.repeat(64)}`;
    const server = createServer((_request, response) => {
      response.writeHead(200, {
        'content-length': '1000000',
        etag: `"${digest}"`,
        'content-type': 'application/octet-stream',
      });
      response.write(Buffer.alloc(600_000));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const output = await mkdtemp(join(place.dir, 'out-'));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const child = place.start(['get', `/blobs/n/common/${digest}/${digest}`, '-o', join(output, 'copy'), '--url', url]);
    const result = finished(child);
    await expect.poll(() => readdir(output), { timeout: 30_000 }).toHaveLength(1);
    child.kill(signal);
    expect(await result).toMatchObject({ code, out: '', err: 'lps: stopped (ABORTED)\n' });
    expect(await readdir(output)).toEqual([]);
    server.closeAllConnections();
    server.close();
  });

  it('because nobody reads on ends quietly', async () => {
    const key = (
      await place.lps(['put', await place.file(randomBytes(4 * 1024 * 1024)), '--namespace', 'n', ...place.onStore()])
    ).out.trim();
    const child = place.start(['get', key, ...place.onStore()]);
    child.stdout?.once('data', () => child.stdout?.destroy());
    let err = '';
    child.stderr?.on('data', (chunk: Buffer) => (err += chunk.toString()));
    const code = await new Promise((resolve) => child.once('exit', resolve));
    expect({ code, err }).toEqual({ code: 0, err: '' });
  });
});
