import { describe, expect, it } from 'vitest';
import { createLogger } from './logging.js';

function linesOf(
  logFormat: 'auto' | 'json' | 'pretty',
  isTTY: boolean,
  write: (log: ReturnType<typeof createLogger>) => void,
): string {
  let text = '';
  const destination = { isTTY, write: (chunk: string) => (text += chunk) };
  write(createLogger({ logLevel: 'info', logFormat }, destination));
  return text;
}

describe('the log', () => {
  it('is JSON lines off a terminal and pretty on one', () => {
    const line = linesOf('auto', false, (log) => log.info({ port: 1 }, 'listening'));
    expect(JSON.parse(line)).toMatchObject({ level: 'info', msg: 'listening', port: 1 });
    expect(linesOf('auto', true, (log) => log.info('listening'))).toMatch(/INFO.*listening/);
    expect(() => JSON.parse(linesOf('json', true, (log) => log.info('x')))).not.toThrow();
    expect(linesOf('pretty', false, (log) => log.info({ port: 1 }, 'x'))).toMatch(
      /^\[\d\d:\d\d:\d\d\.\d+\] INFO: x \{"port":1\}\n$/,
    );
  });

  it('leaves out what is less important than asked for', () => {
    expect(linesOf('json', false, (log) => log.debug('x'))).toBe('');
  });

  it('hides credentials', () => {
    const headers = { authorization: 'Bearer hush', 'authorization-extras': 'hush', cookie: 'hush', accept: 'all' };
    for (const format of ['json', 'pretty'] as const) {
      const text = linesOf(format, false, (log) => {
        log.info({
          headers,
          req: { headers },
          request: { headers },
          authorization: 'hush',
          config: { databaseUrl: 'hush' },
        });
      });
      expect(text).not.toContain('hush');
      expect(text).toContain('(hidden)');
      expect(text).toContain('all');
    }
  });

  it('holds no bytes of payloads', () => {
    const bytes = Buffer.from('PAYLOAD');
    const text = linesOf('json', false, (log) => log.info({ bytes, payload: { data: bytes }, chunks: [bytes] }, 'x'));
    expect(JSON.parse(text)).toMatchObject({
      bytes: '(7 bytes)',
      payload: { data: '(7 bytes)' },
      chunks: ['(7 bytes)'],
    });
  });

  it('cannot be used to write to the terminal of whoever reads it', () => {
    const evil = 'a\u001b[31mb\r\nc\u009b2J\u202e';
    const text = linesOf('pretty', false, (log) => log.info({ id: evil, [evil]: 1 }, evil));
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
    expect(text.trimEnd()).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e]/);
  });
});
