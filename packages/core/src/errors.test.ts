import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { errorCodes, isErrorCode, isLpsError, isRetryable, LpsError, statusOf } from './errors.js';

const page = readFileSync(new URL('../../../docs/errors.md', import.meta.url), 'utf8');
const rows = [...page.matchAll(/^\| `([A-Z_]+)` \| (\d+) \| (yes|no) \| (.+) \| (.+) \|$/gm)];

describe('docs/errors.md', () => {
  it('has every code of the table, in its order, and no other', () => {
    expect(rows.map(([, code]) => code)).toEqual(errorCodes);
  });

  it.each(rows.map(([, code, status, again]) => [code, Number(status), again === 'yes'] as const))(
    '%s',
    (code, status, again) => {
      if (!isErrorCode(code)) throw new Error(`${code} is not in the code`);
      expect(statusOf(code)).toBe(status);
      expect(isRetryable(code)).toBe(again);
    },
  );
});

describe('LpsError', () => {
  it('is recognised by its brand, also when another copy of the package made it', () => {
    const error = new LpsError('BLOB_NOT_FOUND', 'gone', { details: { key: 'k' }, cause: new Error('why') });
    expect(error).toMatchObject({ code: 'BLOB_NOT_FOUND', status: 404, retryable: false, details: { key: 'k' } });
    expect(isLpsError(error)).toBe(true);
    expect(isLpsError(error, 'BLOB_NOT_FOUND')).toBe(true);
    expect(isLpsError(error, 'INTERNAL')).toBe(false);
    const ofAnotherCopy = Object.defineProperty(new Error('x'), Symbol.for('@large-payload/error'), { value: true });
    expect(isLpsError(ofAnotherCopy)).toBe(true);
    for (const other of [new Error('x'), null, undefined, 'x', { code: 'INTERNAL' }])
      expect(isLpsError(other)).toBe(false);
  });

  it('knows codes from other words', () => {
    expect(isErrorCode('STORE_FULL')).toBe(true);
    for (const other of ['toString', '__proto__', '', 5, undefined]) expect(isErrorCode(other)).toBe(false);
  });
});
