import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openWorkplace, type RunOptions, type Workplace } from './lps-fixture.js';

let place: Workplace;
beforeAll(async () => {
  place = await openWorkplace();
});
afterAll(() => place.remove());

/** What is refused: arguments, exit code, the one line on standard error. `FILE`, `KEY` and `DATA` are replaced. */
const refused: readonly (readonly [string, string[], number, string | RegExp, RunOptions?])[] = [
  ['an unknown command', ['serv'], 2, "lps: unknown command 'serv'; did you mean serve? (INVALID_ARGUMENT)"],
  [
    'an unknown flag',
    ['serve', '--prot', '1'],
    2,
    "lps: unknown option '--prot'; did you mean --port? (INVALID_ARGUMENT)",
  ],
  [
    'a flag without its value',
    ['serve', '--port'],
    2,
    /^lps: option '--port <number>' argument missing \(INVALID_ARGUMENT\)$/,
  ],
  ['an argument too many', ['serve', 'now'], 2, /^lps: too many arguments/],
  [
    'a wrong setting',
    ['serve', '--port', 'x'],
    2,
    'lps: --port: "x" is not a whole number from 0 to 65535, such as 8577 (CONFIG_INVALID)',
  ],
  [
    'a wrong variable',
    ['serve'],
    2,
    /^lps: LPS_PORT: "x" is not a whole number .* \(CONFIG_INVALID\)$/,
    { env: { LPS_PORT: 'x' } },
  ],
  [
    'an unknown variable',
    ['serve'],
    2,
    'lps: no such environment variable: LPS_PROT; did you mean LPS_PORT? (CONFIG_INVALID)',
    { env: { LPS_PROT: '1' } },
  ],
  [
    'a missing file of settings',
    ['serve', '--config', 'gone'],
    2,
    'lps: --config: the file "gone" cannot be read: it does not exist (CONFIG_INVALID)',
  ],
  [
    'a directory of settings',
    ['serve', '--config', '.'],
    2,
    'lps: --config: the file "." cannot be read: it is a directory (CONFIG_INVALID)',
  ],
  [
    'an open door',
    ['serve', '--host', '0.0.0.0'],
    2,
    /^lps: --host: 0.0.0.0 can be reached from other machines.*--insecure.*\(CONFIG_INVALID\)$/,
  ],
  ['wrong settings of a print', ['config', 'print', '--grace', '1h'], 2, /^lps: --grace: grace must be at least 1d/],
  ['a put of nothing', ['put', '--namespace', 'n'], 2, "lps: missing required argument 'file' (INVALID_ARGUMENT)"],
  ['a put into no namespace', ['put', 'FILE'], 2, /^lps: required option '--namespace <name>' not specified/],
  [
    'a put into a wrong namespace',
    ['put', 'FILE', '--namespace', 'a/b', 'DATA'],
    2,
    /^lps: the namespace must not hold .* \(INVALID_KEY\)$/,
  ],
  [
    'an escape in a namespace',
    ['put', 'FILE', '--namespace', '\u001b[2J', 'DATA'],
    2,
    /^lps: the namespace must not hold .* \(INVALID_KEY\)$/,
  ],
  [
    'a wrong prefix',
    ['put', 'FILE', '--namespace', 'n', '--prefix', 'a.b', 'DATA'],
    2,
    /^lps: the key prefix may hold only .* \(INVALID_KEY\)$/,
  ],
  [
    'metadata that is no JSON',
    ['put', 'FILE', '--namespace', 'n', '--metadata-json', '{', 'DATA'],
    2,
    `lps: --metadata-json: not JSON; an example of a right value is '{"encoding":"json/plain"}' (INVALID_METADATA)`,
  ],
  [
    'metadata that is a list',
    ['put', 'FILE', '--namespace', 'n', '--metadata-json', '[]', 'DATA'],
    2,
    'lps: --metadata-json: not a JSON object (INVALID_METADATA)',
  ],
  [
    'metadata with a number',
    ['put', 'FILE', '--namespace', 'n', '--metadata-json', '{"a":1}', 'DATA'],
    2,
    'lps: --metadata-json: the value of "a" is not a text (INVALID_METADATA)',
  ],
  [
    'metadata given twice',
    ['put', 'FILE', '--namespace', 'n', '--metadata-json', '{}', '--encoding', 'x', 'DATA'],
    2,
    /cannot be used with option/,
  ],
  [
    'a file that is not there',
    ['put', 'gone', '--namespace', 'n', 'DATA'],
    2,
    'lps: the file "gone" cannot be read: it does not exist (INVALID_ARGUMENT)',
  ],
  ['a directory', ['put', '.', '--namespace', 'n', 'DATA'], 2, 'lps: "." is a directory (INVALID_ARGUMENT)'],
  [
    'a file too large',
    ['put', 'FILE', '--namespace', 'n', '--max-blob-bytes', '3', 'DATA'],
    1,
    'lps: more than 3 bytes (--max-blob-bytes) (BLOB_TOO_LARGE)',
  ],
  [
    'too large an input',
    ['put', '-', '--namespace', 'n', '--max-blob-bytes', '3', 'DATA'],
    1,
    'lps: more than 3 bytes (--max-blob-bytes) (BLOB_TOO_LARGE)',
    { input: 'four' },
  ],
  [
    'the memory store',
    ['put', 'FILE', '--namespace', 'n', '--store', 'memory'],
    2,
    /^lps: the memory store is gone when this command ends/,
  ],
  ['a store without its place', ['ls', '--store', 'gcs'], 2, /^lps: store gcs needs a bucket: --gcs-bucket/],
  [
    'two places',
    ['ls', '--url', 'http://127.0.0.1:1', 'DATA'],
    2,
    'lps: --url and --store name two places; keep one (CONFIG_INVALID)',
  ],
  [
    'a URL that is none',
    ['ls', '--url', 'localhost'],
    2,
    'lps: --url: not the URL of a service, such as http://127.0.0.1:8577 (CONFIG_INVALID)',
  ],
  [
    'a URL with a password',
    ['ls', '--url', 'http://a:hush@b'],
    2,
    'lps: --url: not the URL of a service, such as http://127.0.0.1:8577 (CONFIG_INVALID)',
  ],
  ['a variable that is no URL', ['ls'], 2, /^lps: LPS_URL: not the URL of a service/, { env: { LPS_URL: 'ftp://x' } }],
  [
    'a service that is not there',
    ['ls', '--url', 'http://127.0.0.1:1'],
    1,
    'lps: no service answers at http://127.0.0.1:1; start one with "lps serve", or name one with --url (SERVICE_UNREACHABLE)',
  ],
  ['a blob that is not there', ['get', 'KEY', 'DATA'], 1, /^lps: no blob at \/blobs\/n\/\S+ \(BLOB_NOT_FOUND\)$/],
  ['a key that is none', ['get', '/blobs/x', 'DATA'], 2, /^lps: a key looks like .* \(INVALID_KEY\)$/],
  ['a claim that is none', ['get', '{"size":1}', 'DATA'], 2, /^lps: not a claim: .* \(INVALID_CLAIM\)$/],
  ['an empty standard input', ['get', '-', 'DATA'], 2, /^lps: expected a key .*: it is empty \(INVALID_CLAIM\)$/],
  ['a list of wrong things', ['stat', 'KEY', 'x', 'DATA'], 2, /^lps: expected a key .* \(INVALID_CLAIM\)$/],
  [
    'a limit of nothing',
    ['ls', '--limit', '0', 'DATA'],
    2,
    /^lps: option '--limit <number>' argument '0' is invalid. It must be a whole number/,
  ],
  [
    'a prefix of no namespace',
    ['ls', '--prefix', 'p', 'DATA'],
    2,
    'lps: --prefix needs --namespace (INVALID_ARGUMENT)',
  ],
  ['an escape in an argument', ['get', '\u001b]0;gone\u0007', 'DATA'], 2, /^lps: expected a key .* \(INVALID_CLAIM\)$/],
  ['an escape in a command', ['\u001b[2J'], 2, /^lps: unknown command '\\u\{1b\}\[2J' \(INVALID_ARGUMENT\)$/],
];

describe('what is refused', () => {
  const absentKey = `/blobs/n/common/sha256:${'a'.repeat(64)}/sha256:${'b'.repeat(64)}`;

  it.concurrent.each(refused.map(([title, ...rest]) => ({ title, rest })))('$title', async ({ rest }) => {
    const [args, code, message, options] = rest;
    const path = join(place.dir, 'four');
    await writeFile(path, 'four');
    const filled = args.flatMap((arg) =>
      arg === 'DATA' ? place.onStore() : arg === 'FILE' ? path : arg === 'KEY' ? absentKey : arg,
    );
    const result = await place.lps(filled, options);
    expect(result.out).toBe('');
    expect(result.err.trimEnd()).toMatch(message);
    if (typeof message === 'string') expect(result.err).toBe(`${message}\n`);
    expect(result.err.trimEnd().split('\n')).toHaveLength(1);
    expect(result.code).toBe(code);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: no escape may reach the terminal
    expect(result.err.trimEnd()).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/);
  });

  it('is several settings with a line each, and no stack trace', async () => {
    const result = await place.lps(['serve', '--port', 'x'], { env: { LPS_GRACE: '1h', LPS_X: '1' } });
    expect(result).toMatchObject({ code: 2, out: '' });
    expect(result.err.split('\n')).toEqual([
      'lps: 3 settings are wrong (CONFIG_INVALID)',
      '  no such environment variable: LPS_X',
      '  --port: "x" is not a whole number from 0 to 65535, such as 8577',
      '  LPS_GRACE: grace must be at least 1d',
      '',
    ]);
  });

  it('is a file that cannot be written', async () => {
    const key = (await place.lps(['put', await place.file('w'), '--namespace', 'n', ...place.onStore()])).out.trim();
    const into = async (path: string) => (await place.lps(['get', key, '-o', path, ...place.onStore()])).err;
    expect(await into('no/such/dir')).toMatch(
      /cannot be written: its directory does not exist \(INVALID_ARGUMENT\)\n$/,
    );
    expect(await into('.')).toMatch(/is a directory; name a file in it \(INVALID_ARGUMENT\)\n$/);
  });
});
