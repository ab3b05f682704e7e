import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { digestOf, parseDigest } from './digest.js';
import { isLpsError } from './errors.js';
import {
  formatKey,
  newGeneration,
  parseKey,
  parseNamespace,
  parseObjectName,
  parsePrefix,
  v1ObjectName,
} from './key.js';
import { formatMetadataHeader, metadataDigest, parseMetadataHeader, sortedNames } from './metadata.js';
import { nameOf, pathOf } from './stores/file-path.js';

const digest = digestOf(Buffer.from('x'));
const md = metadataDigest(null);

describe('parseDigest', () => {
  it.each([
    undefined,
    null,
    1,
    '',
    'sha256:',
    digest.slice(7),
    digest.toUpperCase(),
    `${digest}0`,
    digest.slice(0, -1),
    ` ${digest}`,
    `${digest}\n`,
    digest.replace('sha256', 'sha512'),
  ])('refuses %j', (text) => {
    expect(() => parseDigest(text)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });
});

describe('parseNamespace', () => {
  it.each(['', '.', '..', 'a/b', '/', '\\', 'a\\b', '\0', 'a\n', '\u007f', '\u0085', '\ud800', undefined, 5])(
    'refuses %j',
    (text) => {
      expect(() => parseNamespace(text)).toThrow(expect.objectContaining({ code: 'INVALID_KEY' }));
    },
  );
  it.each(['a', '...', 'a+b', '100%', 'a b', ' ', 'ünï', '日本', '😀', '~', '%2e%2e'])('takes %j', (text) => {
    expect(parseNamespace(text)).toBe(text);
  });
});

describe('parsePrefix', () => {
  it.each(['', 'a.b', 'a b', 'ü', 'a\n', '..', '%2F', 'a:b', '~'])('refuses %j', (text) => {
    expect(() => parsePrefix(text)).toThrow(expect.objectContaining({ code: 'INVALID_KEY' }));
  });
});

describe('parseKey', () => {
  const key = `/blobs/n/common/${digest}/${md}`;
  it.each([
    '',
    '/',
    key.slice(1),
    `${key}/`,
    `${key}~${newGeneration()}`,
    key.replace('/n/', '//'),
    key.replace('/n/', '/../'),
    key.replace('/n/', '/a/b/'),
    key.replace('common', 'other'),
    key.replace('common', 'custom'),
    key.replace('common', 'common/x'),
    key.replace('common', 'custom/../x'),
    key.replace(md, 'x'),
    key.replace(digest, digest.toUpperCase()),
    `/blobs/${'x'.repeat(900)}/common/${digest}/${md}`,
    undefined,
    {},
  ])('refuses %j', (text) => {
    expect(() => parseKey(text)).toThrow(expect.objectContaining({ code: 'INVALID_KEY' }));
  });

  it('takes keys apart, prefixes with slashes anywhere included', () => {
    for (const prefix of ['a', '/', '//', 'a/', '/a//b', 'common', '-']) {
      const text = `/blobs/n/custom/${prefix}/${digest}/${md}`;
      expect(parseKey(text)).toEqual({ namespace: 'n', prefix, digest, metadataDigest: md });
      expect(formatKey(parseKey(text))).toBe(text);
    }
  });

  it('is the inverse of formatKey, and names of files the inverse of paths', () => {
    const namespace = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 60 }).filter((text) => {
      try {
        return parseNamespace(text) === text;
      } catch {
        return false;
      }
    });
    const prefix = fc.option(fc.stringMatching(/^[0-9a-zA-Z_\-/]{1,300}$/), { nil: undefined });
    fc.assert(
      fc.property(namespace, prefix, fc.boolean(), (ns, p, later) => {
        const blob = {
          namespace: ns,
          ...(p === undefined ? {} : { prefix: p }),
          digest,
          metadataDigest: md,
          ...(later ? { generation: newGeneration() } : {}),
        };
        const name = formatKey(blob);
        expect(parseObjectName(name)).toEqual({ kind: 'blob', blob });
        const path = pathOf(name);
        for (const part of [...path.directories, path.file]) {
          expect(part).toMatch(/^(?!\.)[a-z0-9_.%+~-]{1,201}$/);
        }
        expect(nameOf([...path.directories, path.file])).toBe(name);
      }),
      { numRuns: 300 },
    );
  });
});

describe('parseObjectName', () => {
  it('knows the first API’s objects and the service’s own', () => {
    expect(parseObjectName(v1ObjectName(digest))).toEqual({ kind: 'v1', digest });
    expect(parseObjectName('.lps/catalog')).toEqual({ kind: 'own', path: 'catalog' });
  });
  it.each(['blobs/x', '.lps/', '.lps/../x', '.lps/.x', '.lps/A', 'catalog', '.lps/a//b'])('refuses %j', (text) => {
    expect(() => parseObjectName(text)).toThrow(expect.objectContaining({ code: 'INVALID_KEY' }));
  });
});

describe('metadata', () => {
  it('is hashed in the order of UTF-8 bytes, not of UTF-16 units', () => {
    // U+FFFD comes before U+1F600 in UTF-8, behind its surrogates in UTF-16
    expect(sortedNames({ '\u{1f600}': Buffer.alloc(0), '\ufffd': Buffer.alloc(0), a: Buffer.alloc(0) })).toEqual([
      'a',
      '\ufffd',
      '\u{1f600}',
    ]);
  });

  it('has the empty digest when there is none', () => {
    expect(metadataDigest(null)).toBe('sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855');
    expect(metadataDigest({})).toBe(metadataDigest(undefined));
  });

  it('survives its header, and no header crashes the parser', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.uint8Array()), (record) => {
        const read = parseMetadataHeader(formatMetadataHeader(record));
        expect(metadataDigest(read)).toBe(metadataDigest(record));
      }),
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.base64String(),
          fc.json().map((text) => Buffer.from(text).toString('base64')),
        ),
        (text) => {
          try {
            parseMetadataHeader(text);
          } catch (error) {
            expect(isLpsError(error, 'INVALID_METADATA')).toBe(true);
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  it('keeps a name that would change prototypes as a name', () => {
    const header = Buffer.from('{"__proto__":"MQ=="}').toString('base64');
    expect(Object.keys(parseMetadataHeader(header) ?? {})).toEqual(['__proto__']);
    expect(({} as Record<string, unknown>)['0']).toBeUndefined();
  });
});
