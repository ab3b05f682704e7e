import { digestOf, formatClaim, isLpsError, keyFor } from '@large-payload/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseReference } from './reference.js';

const digest = digestOf(Buffer.from('hello'));
const metadata = { encoding: Buffer.from('binary/plain') };
const key = keyFor('orders', digest, metadata);
const payload = formatClaim({ metadata, size: 5, digest, key });
const claimText = Buffer.from(payload.data ?? []).toString();
const base64 = (text: string | Uint8Array): string => Buffer.from(text).toString('base64');
const encoded = (fields: Record<string, string>) =>
  Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, base64(value)]));
const payloadJson = {
  metadata: encoded({ encoding: 'json/plain', 'temporal.io/remote-codec': 'v2' }),
  data: base64(claimText),
};
const storageReference = {
  metadata: encoded({ encoding: 'json/protobuf', messageType: 'temporal.api.sdk.v1.ExternalStorageReference' }),
  data: base64(JSON.stringify({ driverName: 'd', claimData: { key } })),
  externalPayloads: [{ sizeBytes: '5' }],
};

describe('a blob is named by', () => {
  it.each([
    ['its key', key],
    ['its key with white space around', `  ${key}\n`],
    ['the text of its claim', claimText],
    ['the claim as JSON in a JSON text', JSON.stringify(claimText)],
    ['the payload', JSON.stringify(payloadJson)],
    ['the payload, printed nicely', JSON.stringify(payloadJson, null, 2)],
    ['a list of one', JSON.stringify([payloadJson])],
    ['payloads of one', JSON.stringify({ payloads: [payloadJson] })],
    ['base64 of the claim', base64(claimText)],
    ['base64 of the payload', base64(JSON.stringify(payloadJson))],
    ['base64 in lines', base64(claimText).replace(/(.{76})/g, '$1\n')],
    ['a reference of External Storage', JSON.stringify(storageReference)],
  ])('%s', (_title, pasted) => {
    expect(parseReference(pasted)).toMatchObject({ key, digest });
  });

  it('a claim of version 1, which has no key', () => {
    const v1 = JSON.stringify({ metadata: null, size: 5, digest });
    const inPayload = JSON.stringify({
      ...payloadJson,
      metadata: encoded({ 'temporal.io/remote-codec': 'v1' }),
      data: base64(v1),
    });
    for (const pasted of [v1, inPayload])
      expect(parseReference(pasted)).toEqual({ key: `blobs/${digest}`, digest, size: 5 });
  });
});

describe('refused as a name of a blob is', () => {
  const nested = (levels: number): string => (levels === 0 ? key : JSON.stringify(nested(levels - 1)));
  it.each([
    ['nothing', '', 'it is empty'],
    ['a word', 'report.pdf', 'it is none of these'],
    ['a digest alone', digest, 'it is none of these'],
    ['base64 of something else', base64('hello world'), 'it is none of these'],
    ['base64 of bytes', base64(Uint8Array.of(0x80, 0xfe)), 'it is none of these'],
    ['a path that is no key', '/blobs/../../etc/passwd', 'a key looks like'],
    ['a key with a generation', `${key}~0123456789abcdef`, 'a key looks like'],
    ['half of a claim', claimText.slice(0, -5), 'it begins like JSON, but is not complete'],
    [
      'a claim whose key and digest differ',
      claimText.replace(`"digest":"${digest}"`, `"digest":"sha256:${'0'.repeat(64)}"`),
      'differ',
    ],
    ['a number in a list', '[1]', 'it is none of these'],
    ['an empty list', '[]', 'it holds 0 payloads; paste one of them'],
    ['several payloads', JSON.stringify({ payloads: [payloadJson, payloadJson] }), 'it holds 2 payloads'],
    [
      'a payload that is no claim',
      JSON.stringify({ metadata: encoded({ encoding: 'json/plain' }), data: base64('1') }),
      'is itself the value',
    ],
    [
      'a claim of a later version',
      JSON.stringify({ ...payloadJson, metadata: encoded({ 'temporal.io/remote-codec': 'v9' }) }),
      'version is not known',
    ],
    ['data that is not base64', JSON.stringify({ ...payloadJson, data: '§' }), 'not base64'],
    ['metadata that is no map', JSON.stringify({ ...payloadJson, metadata: [1] }), 'not a map of names to base64'],
    [
      'a reference of another driver',
      JSON.stringify({ ...storageReference, data: base64('{"claimData":{"bucket":"b"}}') }),
      'was not written by',
    ],
    ['a reference without JSON', JSON.stringify({ ...storageReference, data: base64('{') }), 'does not hold JSON'],
    ['nothing but brackets', '['.repeat(100_000), 'not complete'],
    ['deep nesting', nested(7), 'nested too deeply'],
    ['too much', ' '.repeat(5 * 1024 * 1024), 'too long'],
    ['the prototype', '{"__proto__":{"data":"x","metadata":{}}}', 'not a claim'],
  ])('%s', (_title, pasted, message) => {
    expect(() => parseReference(pasted)).toThrow(message);
  });

  it('anything else, with an error of ours', () => {
    const tried = fc.oneof(
      fc.string(),
      fc.json(),
      fc.base64String(),
      fc.json().map(base64),
      fc.string().map((text) => `/blobs/${text}`),
    );
    fc.assert(
      fc.property(tried, (text) => {
        try {
          parseReference(text);
        } catch (error) {
          expect(isLpsError(error)).toBe(true);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
