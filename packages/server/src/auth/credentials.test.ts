import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bearerToken, maxTokenLength } from './credentials.js';

const unauthenticated = expect.objectContaining({ code: 'UNAUTHENTICATED' });

/** Go's url.QueryEscape. */
function queryEscape(text: string): string {
  return encodeURIComponent(text)
    .replaceAll('%20', '+')
    .replace(/[!'()*]/g, (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`);
}

describe('bearerToken', () => {
  it.each([
    ['Bearer abc.def-_~', 'abc.def-_~'],
    ['bearer abc', 'abc'],
    ['BEARER abc', 'abc'],
    ['Bearer   abc  ', 'abc'],
    ['Bearer a+b/c==', 'a+b/c=='],
    ['Bearer+abc.def-_~', 'abc.def-_~'],
    ['bearer+a%2Bb%2Fc%3D%3D', 'a+b/c=='],
  ])('%j holds %j', (header, token) => {
    expect(bearerToken(header)).toBe(token);
  });

  it.each([
    undefined,
    '',
    'Bearer',
    'Bearer ',
    'Bearer+',
    'Bearer\tabc',
    'Bearer: abc',
    'Bearerabc',
    'Bearer%20abc',
    ' Bearer abc',
    'Basic YTpi',
    'Digest abc',
    'abc',
    'Bearer a b',
    'Bearer a,b',
    'Bearer a%2Bb', // escaped, but only a part of it
    'Bearer+a+b',
    'Bearer+a b',
    'Bearer+a/b',
    'Bearer+%2', // cut off
    'Bearer+%2f%3d', // Go writes upper case
    'Bearer+%FF',
    'Bearer+%00',
    'Bearer+%20abc',
    'Bearer+%C3%BC',
    'Bearer ü',
    'Bearer =',
    'Bearer abc, Bearer def',
    `Bearer ${'a'.repeat(maxTokenLength + 1)}`,
    `Bearer ${'a'.repeat(1_000_000)}`,
    `Bearer+${'%41'.repeat(maxTokenLength + 1)}`,
  ])('header %# is refused', (header) => {
    expect(() => bearerToken(header)).toThrow(unauthenticated);
  });

  it('takes the longest token that there may be, either way', () => {
    const token = `${'+'.repeat(maxTokenLength)}`;
    expect(bearerToken(`Bearer ${token}`)).toBe(token);
    expect(bearerToken(queryEscape(`Bearer ${token}`))).toBe(token);
  });

  it('finds every token again, sent plainly or as the Go codec does', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[A-Za-z0-9._~+/-]{1,200}={0,2}$/), (token) => {
        expect(bearerToken(`Bearer ${token}`)).toBe(token);
        expect(bearerToken(queryEscape(`Bearer ${token}`))).toBe(token);
      }),
    );
  });

  it('answers any header with a token or UNAUTHENTICATED, and never tells what was sent', () => {
    const header = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.string().map((text) => `Bearer ${text}`),
      fc.stringMatching(/^[%+a-f0-9]{0,30}$/).map((text) => `Bearer+${text}`),
    );
    fc.assert(
      fc.property(header, (text) => {
        try {
          expect(bearerToken(text)).toMatch(/^[A-Za-z0-9._~+/-]+=*$/);
        } catch (error) {
          expect(error).toEqual(unauthenticated);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
