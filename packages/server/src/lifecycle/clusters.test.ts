import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isLpsError } from '@large-payload/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readApiKey, readClusters } from './clusters.js';

let dir: string;
let path: string;
const pem = '-----BEGIN SOMETHING-----\n';

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lps-clusters-'));
  path = join(dir, 'clusters.yaml');
  const files = {
    'ca.pem': pem,
    'client.pem': pem,
    'client.key': pem,
    'api.key': 'secret-key\n',
    'text.txt': 'two words',
  };
  await Promise.all(Object.entries(files).map(([name, text]) => writeFile(join(dir, name), text)));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

async function read(content: string) {
  await writeFile(path, content);
  return readClusters(path);
}

const one = (lines: string) => read(`clusters:\n  - { name: a, address: "t:7233", namespaces: all, ${lines} }`);

async function problemsOf(content: string): Promise<readonly string[]> {
  const error = await read(content).catch((caught: unknown) => caught);
  if (!isLpsError(error, 'CONFIG_INVALID')) throw new Error('not refused', { cause: error });
  return (error.details.problems as string[]).map((problem) => problem.replaceAll(path, 'FILE'));
}

const problemsOfOne = (lines: string) =>
  problemsOf(`clusters:\n  - { name: a, address: "t:7233", namespaces: all, ${lines} }`);

describe('the clusters file', () => {
  it('says where clusters are, and for whom they answer', async () => {
    const [first, second] = await read(`clusters:
  - name: production
    address: temporal.example.com
    tls: { ca: ca.pem, cert: client.pem, key: client.key, server-name: temporal }
    api-key-file: api.key
    namespaces: [payments, orders]
    blob-namespaces: [payments]
    isolated-namespaces: true
    requests-per-second: 12.5
    request-timeout-seconds: 0.5
    claim-free-encodings: [binary/custom]
    accept-server-versions: ["1.33"]
    ui-address: https://temporal.example.com/ui/
  - { name: b, address: "[::1]:7234", namespaces: all }`);
    expect(first).toEqual({
      name: 'production',
      address: 'temporal.example.com:7233',
      tls: {
        ca: Buffer.from(pem),
        client: { cert: Buffer.from(pem), key: Buffer.from(pem) },
        serverName: 'temporal',
      },
      apiKeyFile: join(dir, 'api.key'),
      namespaces: ['payments', 'orders'],
      blobNamespaces: ['payments'],
      isIsolated: true,
      requestsPerSecond: 12.5,
      requestTimeoutMs: 500,
      claimFreeEncodings: ['binary/custom'],
      acceptServerVersions: ['1.33'],
      uiAddress: 'https://temporal.example.com/ui',
    });
    expect(second).toEqual({
      name: 'b',
      address: '[::1]:7234',
      namespaces: 'all',
      isIsolated: false,
      requestsPerSecond: 50,
      claimFreeEncodings: [],
      acceptServerVersions: [],
    });
  });

  it('turns TLS on for an API key, and off only towards this machine', async () => {
    expect(await one('api-key-file: api.key')).toMatchObject([{ tls: {} }]);
    expect((await one('tls: false'))[0]?.tls).toBeUndefined();
    expect(await problemsOfOne('api-key-file: api.key, tls: false')).toEqual([
      'FILE: clusters.0.tls: an API key is sent over TLS only, unless the address is one of this machine',
    ]);
    const near = 'clusters: [{ name: a, address: "127.0.0.1:1", namespaces: all, api-key-file: api.key, tls: false }]';
    expect((await read(near))[0]?.tls).toBeUndefined();
  });

  it('names every problem, and where it is', async () => {
    const problems = await problemsOf(`clusters:
  - { name: a, address: "https://t:7233", namespaces: [] , colour: red }
  - { name: "a b", address: "t:70000", namespaces: [x, x], requests-per-second: 0 }
  - { address: t }`);
    for (const where of [
      'clusters.0.address: must be host:port, without a scheme',
      'clusters.0.namespaces: ',
      'clusters.0: Unrecognized key: "colour"',
      'clusters.1.name: must be letters',
      'clusters.1.address: must be host:port',
      'clusters.1.namespaces: ',
      'clusters.1.requests-per-second: ',
      'clusters.2.name: ',
      'clusters.2.namespaces: ',
    ])
      expect(problems.some((problem) => problem.startsWith(`FILE: ${where}`)) || [where, problems]).toBe(true);
  });

  it.each([
    ['tls: { cert: client.pem }', 'clusters.0.tls: '],
    ['tls: { ca: nowhere.pem }', 'clusters.0.tls.ca: nowhere.pem cannot be read: ENOENT'],
    ['tls: { ca: text.txt }', 'clusters.0.tls.ca: text.txt is not PEM'],
    ['tls: yes please', 'clusters.0.tls: must be true, false, or files'],
    ['api-key-file: text.txt', 'clusters.0.api-key-file: '],
    ['api-key-file: nowhere', 'clusters.0.api-key-file: '],
    ['api-key: secret', 'clusters.0: Unrecognized key: "api-key"'],
    ['accept-server-versions: [1.30]', 'clusters.0.accept-server-versions.0: must be a text, in quotes'],
    ['accept-server-versions: ["1.33.0"]', 'clusters.0.accept-server-versions.0: must be as "1.33"'],
    ['blob-namespaces: ["a/b"]', 'clusters.0.blob-namespaces.0: '],
    ['claim-free-encodings: [x, x]', 'clusters.0.claim-free-encodings: names the same one twice'],
  ])('refuses %s', async (lines, problem) => {
    const problems = await problemsOfOne(lines);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(new RegExp(`^FILE: ${problem.replaceAll('.', '\\.')}`));
  });

  it('gathers what is wrong with the files that it names', async () => {
    expect(await problemsOfOne('tls: { ca: nowhere.pem }, api-key-file: nowhere.key')).toHaveLength(2);
  });

  it.each(['', 'clusters: []', 'clusters: 1', '[]', 'other: 1'])('refuses %j', async (content) => {
    expect(await problemsOf(content)).toHaveLength(content === 'other: 1' ? 2 : 1);
  });

  it('refuses names that are taken', async () => {
    const twice = 'clusters: [{ name: a, address: t, namespaces: all }, { name: a, address: u, namespaces: all }]';
    expect(await problemsOf(twice)).toEqual(['FILE: clusters.1.name: is taken already']);
  });

  it('says what is wrong with it as a file', async () => {
    expect((await problemsOf('clusters: ['))[0]).toMatch(/^FILE: not readable as YAML: /);
    expect(await problemsOf(`# ${'x'.repeat(1024 * 1024)}`)).toEqual(['FILE: larger than 1 MiB']);
    await expect(readClusters(join(dir, 'no.yaml'))).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: `clusters: ${join(dir, 'no.yaml')} cannot be read: ENOENT`,
    });
  });

  it('never shows what stands in the file of a key', async () => {
    await writeFile(join(dir, 'two.key'), 'first-secret\nsecond-secret');
    const error = await readApiKey(join(dir, 'two.key')).catch((caught: Error) => caught);
    expect(`${error}`).toContain('must hold an API key on one line');
    expect(`${error}`).not.toContain('secret');
    expect(await readApiKey(join(dir, 'api.key'))).toBe('secret-key');
  });
});
