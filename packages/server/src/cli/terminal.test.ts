import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from './main.js';
import { progress } from './progress.js';
import { escapeControls, looksBinary, roughBytes } from './terminal.js';

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lps-terminal-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** Collects what is written; says that it is a terminal. */
function screen() {
  const stream = Object.assign(new PassThrough(), { isTTY: true });
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  return { stream, text: () => Buffer.concat(chunks).toString() };
}

/** Runs a command on a terminal. */
async function onTerminal(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const [stdout, stderr] = [screen(), screen()];
  const code = await run([...args, '--store', 'file', '--data-dir', 'data'], {
    stdin: Object.assign(Readable.from([]), { isTTY: true }),
    stdout: stdout.stream,
    stderr: stderr.stream,
    env: {},
    cwd: dir,
    signal: new AbortController().signal,
  });
  return { code, out: stdout.text(), err: stderr.text() };
}

async function put(content: string | Buffer, namespace = 'n'): Promise<string> {
  await writeFile(join(dir, 'file'), content);
  return (await onTerminal('put', 'file', '--namespace', namespace)).out.trim();
}

describe('on a terminal', () => {
  it('text is shown, and anything else only when asked for', async () => {
    expect(await onTerminal('get', await put('grüß dich\n'))).toMatchObject({ code: 0, out: 'grüß dich\n' });
    for (const bytes of [Buffer.of(0, 1, 2), Buffer.of(0xff), Buffer.from('red \u001b[31m')]) {
      const key = await put(bytes);
      expect(await onTerminal('get', key)).toEqual({
        code: 2,
        out: '',
        err: 'lps: this blob is not text; use -o FILE, or --force to see it anyway (INVALID_ARGUMENT)\n',
      });
      expect(await onTerminal('get', key, '--force')).toMatchObject({ code: 0 });
    }
  });

  it('ids cannot act', async () => {
    const key = await put('x', 'evil\u202e\u2028name');
    expect(key).toContain('/blobs/evil\\u{202e}\\u{2028}name/');
    const list = await onTerminal('ls');
    expect(list.out).toContain('/blobs/evil\\u{202e}\\u{2028}name/');
    expect(list.out).not.toContain('\u202e');
  });

  it('a large transfer shows how far it is, and a small one nothing', async () => {
    expect((await onTerminal('get', await put('small'))).err).toBe('');
    await writeFile(join(dir, 'large'), randomBytes(9 * 1024 * 1024));
    const { err } = await onTerminal('put', 'large', '--namespace', 'n');
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the line is written over and over
    expect(err).toMatch(/^\r\u001b\[Ksent \d+\.\d [KM]iB of 9\.0 MiB, \d+(\.\d)? ([KM]i)?B\/s/);
    expect(err.endsWith('\r\u001b[K')).toBe(true);
  });
});

describe('progress', () => {
  it('is shown for what takes longer than a second, and only on a terminal', async () => {
    for (const isTTY of [true, false]) {
      const { stream, text } = screen();
      stream.isTTY = isTTY;
      const counted = progress('sent', 10, { stderr: stream });
      counted.resume();
      counted.write(Buffer.alloc(1));
      await delay(1050);
      expect(text()).toBe('');
      counted.end(Buffer.alloc(9));
      await delay(10);
      expect(text()).toMatch(isTTY ? /sent 10 B of 10 B, \d+ B\/s/ : /^$/);
    }
  });
});

describe('text for people', () => {
  it('has no control characters', () => {
    expect(escapeControls('a\r\n\u001b[2J\u009b\u200e\ud800b')).toBe(
      'a\\u{d}\\u{a}\\u{1b}[2J\\u{9b}\\u{200e}\\u{d800}b',
    );
    expect(escapeControls('größe 漢字 🎉')).toBe('größe 漢字 🎉');
  });

  it('is told from bytes', () => {
    expect(looksBinary(Buffer.from('a\tb\r\nü'))).toBe(false);
    expect(looksBinary(Buffer.from('ü').subarray(0, 1))).toBe(false); // cut by the end of a chunk
    expect(looksBinary(Buffer.from('\u009b'))).toBe(true);
  });

  it('gives sizes a unit', () => {
    expect([0, 999, 1024, 12_900_000, 3 * 1024 ** 4].map(roughBytes)).toEqual([
      '0 B',
      '999 B',
      '1.0 KiB',
      '12.3 MiB',
      '3.0 TiB',
    ]);
  });
});
