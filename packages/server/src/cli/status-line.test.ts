import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { type Status, statusLine } from './status-line.js';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** Both streams of a terminal in one text, as a person sees them; or of two files. */
function place(isTTY: boolean, columns = 60) {
  const texts: string[] = [];
  const stream = () => {
    const through = Object.assign(new PassThrough(), { isTTY, columns });
    through.write = ((text: string) => texts.push(text) > 0) as typeof through.write;
    return through;
  };
  return { stdout: stream(), stderr: stream(), text: () => texts.splice(0).join('') };
}

it('on a terminal is one line with a bar, written over and over, and gone in the end', () => {
  const terminal = place(true);
  let status: Status = { text: 'looking' };
  const line = statusLine(terminal, () => status);
  expect(terminal.text()).toBe('');
  vi.advanceTimersByTime(200);
  expect(terminal.text()).toBe('\r\u001b[Klooking');
  status = { text: '12 blobs', fraction: 0.31 };
  vi.advanceTimersByTime(200);
  expect(terminal.text()).toBe('\r\u001b[K[######--------------]  31 %  12 blobs');
  status = { text: '13 blobs', fraction: 0.9999 };
  vi.advanceTimersByTime(200);
  expect(terminal.text()).toBe('\r\u001b[K[####################]  99 %  13 blobs');
  line.end();
  vi.advanceTimersByTime(10_000);
  expect(terminal.text()).toBe('\r\u001b[K');
});

it('on a terminal stays below what is printed, and fits its width', () => {
  const terminal = place(true, 30);
  const line = statusLine(terminal, () => ({ text: 'x'.repeat(100) }));
  line.print('first');
  expect(terminal.text()).toBe('first\n');
  vi.advanceTimersByTime(200);
  expect(terminal.text()).toBe(`\r\u001b[K${'x'.repeat(29)}`);
  line.print('/blobs/a\u202eb');
  expect(terminal.text()).toBe(`\r\u001b[K/blobs/a\\u{202e}b\n\r\u001b[K${'x'.repeat(29)}`);
  line.end();
});

it('elsewhere is a plain line every five seconds', () => {
  const terminal = place(false);
  const line = statusLine(terminal, () => ({ text: '12 blobs', fraction: 0.5 }));
  vi.advanceTimersByTime(4999);
  expect(terminal.text()).toBe('');
  vi.advanceTimersByTime(10_001);
  expect(terminal.text()).toBe('lps: 50 %, 12 blobs\n'.repeat(3));
  line.print('found');
  expect(terminal.text()).toBe('found\n');
  line.end();
  vi.advanceTimersByTime(10_000);
  expect(terminal.text()).toBe('');
});
