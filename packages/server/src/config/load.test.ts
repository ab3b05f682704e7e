import { isLpsError } from '@large-payload/core';
import { describe, expect, it } from 'vitest';
import { type LoadOptions, loadConfig } from './load.js';

/** Files by path, as `readFile` of the options. */
function files(contents: Record<string, string>): Required<Pick<LoadOptions, 'readFile'>> {
  return {
    readFile(path) {
      const content = contents[path];
      if (content === undefined) throw Object.assign(new Error('no such file'), { code: 'ENOENT' });
      return content;
    },
  };
}

function load(options: LoadOptions = {}) {
  return loadConfig({ env: {}, cwd: '/srv', ...files({}), ...options });
}

function problemsOf(options: LoadOptions): string[] {
  try {
    load(options);
  } catch (error) {
    if (!isLpsError(error, 'CONFIG_INVALID')) throw error;
    return error.details.problems as string[];
  }
  return [];
}

describe('where a value comes from', () => {
  const everywhere = {
    flags: { port: '1', config: 'lps.yaml' },
    env: { LPS_PORT: '2' },
    ...files({ '/srv/lps.yaml': 'port: 3\n' }),
  };

  it('is the flag first, then the environment, then the file, then the default', () => {
    const { flags, env, readFile } = everywhere;
    expect(load({ flags, env, readFile })).toMatchObject({
      config: { port: 1 },
      sources: { port: { name: '--port' } },
    });
    const withoutFlag = load({ flags: { config: flags.config }, env, readFile });
    expect(withoutFlag).toMatchObject({ config: { port: 2 }, sources: { port: { name: 'LPS_PORT' } } });
    const fileOnly = load({ flags: { config: flags.config }, readFile });
    expect(fileOnly).toMatchObject({ config: { port: 3 }, sources: { port: { name: 'lps.yaml:1' } } });
    expect(load()).toMatchObject({ config: { port: 8577 }, sources: { port: { name: 'default' } } });
  });

  it('names the file by LPS_CONFIG too, and the flag wins', () => {
    const { readFile } = files({ '/srv/a.yaml': 'port: 3\n', '/etc/b.yaml': 'port: 4\n' });
    expect(load({ env: { LPS_CONFIG: '/etc/b.yaml' }, readFile }).config.port).toBe(4);
    expect(load({ flags: { config: 'a.yaml' }, env: { LPS_CONFIG: '/etc/b.yaml' }, readFile }).config.port).toBe(3);
  });

  it('takes variables of other programs only when the setting is given nowhere else', () => {
    const others = { BUCKET: 'go', AWS_REGION: 'aws-1', AWS_DEFAULT_REGION: 'aws-2', AWS_ENDPOINT_URL: 'http://aws' };
    const s3 = { LPS_STORE: 's3' };
    expect(load({ env: { ...s3, ...others } })).toMatchObject({
      config: { s3Bucket: 'go', s3Region: 'aws-1', s3Endpoint: 'http://aws' },
      sources: { s3Bucket: { name: 'BUCKET' }, s3Region: { name: 'AWS_REGION' } },
    });
    expect(load({ env: { ...s3, ...others, AWS_ENDPOINT_URL_S3: 'http://s3' } }).config.s3Endpoint).toBe('http://s3');
    const ours = { LPS_S3_BUCKET: 'ours', LPS_S3_REGION: 'eu-1' };
    expect(load({ env: { ...s3, ...others, ...ours } }).config).toMatchObject({ s3Bucket: 'ours', s3Region: 'eu-1' });
    const { readFile } = files({ '/srv/f': 's3-bucket: filed\ns3-region: eu-2\n' });
    const config = load({ flags: { config: 'f' }, env: { ...s3, ...others }, readFile }).config;
    expect(config).toMatchObject({ s3Bucket: 'filed', s3Region: 'eu-2' });
  });

  it('takes the environment of the Go service for every store that it has', () => {
    const go = { BUCKET: 'go-bucket', AZURE_STORAGE_ACCOUNT_NAME: 'goaccount' };
    expect(load({ flags: { store: 'gcs' }, env: go }).config).toMatchObject({ gcsBucket: 'go-bucket' });
    const azure = { azureContainer: 'go-bucket', azureAccount: 'goaccount' };
    expect(load({ flags: { store: 'azure' }, env: go }).config).toMatchObject(azure);
    // a connection string of ours counts more
    const env = { ...go, LPS_AZURE_CONNECTION_STRING: 'AccountName=mine;AccountKey=x' };
    expect(load({ flags: { store: 'azure' }, env }).config.azureConnectionString).toBe('AccountName=mine;AccountKey=x');
    // names that only S3 allows are nobody's business while another store is used
    expect(load({ flags: { store: 'memory' }, env: { BUCKET: 'My_Bucket' } }).config.gcsBucket).toBeUndefined();
  });

  it('does not care what other programs mean by their variables unless the S3 store reads them', () => {
    expect(load({ env: { BUCKET: 'a bucket of water', AWS_ENDPOINT_URL: '' } }).config.s3Bucket).toBeUndefined();
    expect(problemsOf({ env: { BUCKET: 'a bucket of water', LPS_STORE: 's3' } })).toEqual([
      expect.stringContaining('BUCKET: "a bucket of water" is not the name of a bucket'),
    ]);
  });

  it('takes an empty variable as not set', () => {
    expect(load({ env: { LPS_PORT: '', LPS_S3_PREFIX: '', LPS_CONFIG: '' } }).config.port).toBe(8577);
  });

  it('reads a secret from a file', () => {
    const url = 'postgres://lps:hush@db/lps';
    const loaded = load({ env: { LPS_DATABASE_URL_FILE: '/run/db' }, ...files({ '/run/db': `${url}\n` }) });
    expect(loaded.config.databaseUrl).toBe(url);
    expect(loaded.sources.databaseUrl.name).toBe('LPS_DATABASE_URL_FILE');
  });

  it('leaves the variables of the tests and of Kubernetes alone', () => {
    const env = {
      LPS_REQUIRE: 's3',
      LPS_TEST_SCALE: 'long',
      LPS_URL: 'http://elsewhere',
      LPS_PORT: 'tcp://10.0.0.1:8577',
      LPS_PORT_8577_TCP_ADDR: '10.0.0.1',
      LPS_SERVICE_HOST: '10.0.0.1',
      LPS_CONSOLE_SERVICE_PORT_HTTP: '80',
      LPS_CONSOLE_PORT: 'tcp://10.0.0.2:80',
    };
    expect(load({ env }).config.port).toBe(8577);
  });
});

describe('what a value may be', () => {
  it('is a size, a time, or yes or no, the same in every place', () => {
    const yaml = 'max-blob-bytes: 64MiB\nidle-timeout: 5m\nmetrics: off\nmax-uploads: 7\ns3-bucket: "007"\n';
    const { config } = load({ flags: { config: 'f' }, env: { LPS_STORE: 'file' }, ...files({ '/srv/f': yaml }) });
    expect(config).toMatchObject({ maxBlobBytes: 67_108_864, idleTimeoutMs: 300_000, metrics: false, maxUploads: 7 });
    expect(config.s3Bucket).toBe('007');
    const env = { LPS_MAX_BLOB_BYTES: '200kB', LPS_GRACE: '30d', LPS_METRICS: 'no', LPS_CACHE_MEMORY_BYTES: '1.5GiB' };
    expect(load({ env }).config).toMatchObject({
      maxBlobBytes: 200_000,
      graceMs: 30 * 86_400_000,
      metrics: false,
      cacheMemoryBytes: 1.5 * 1024 ** 3,
    });
    expect(load({ flags: { metrics: false, insecure: true, 'min-rate': '0' } }).config).toMatchObject({
      metrics: false,
      insecure: true,
      minBytesPerSecond: 0,
    });
  });

  it('starts relative paths at the working directory', () => {
    expect(load({ flags: { 'data-dir': 'x/y' } }).config).toMatchObject({
      dataDir: '/srv/x/y',
      cacheDir: '/srv/x/y/cache',
    });
    expect(load({ flags: { 'data-dir': '/d', 'cache-dir': 'c' } }).config).toMatchObject({
      dataDir: '/d',
      cacheDir: '/srv/c',
    });
  });

  it('gives a store that is far away a cache in memory by default', () => {
    expect(load().config.cacheMemoryBytes).toBe(0);
    const s3 = { store: 's3', 's3-bucket': 'b' };
    expect(load({ flags: s3 }).config.cacheMemoryBytes).toBe(128 * 1024 ** 2);
    expect(load({ flags: { ...s3, 'cache-memory-bytes': '0' } }).config.cacheMemoryBytes).toBe(0);
  });

  it('allows to listen on this machine under any of its names, and elsewhere when told so', () => {
    for (const host of ['localhost', '127.0.0.1', '127.1.2.3', '::1', '0:0:0:0:0:0:0:1', '::ffff:127.0.0.1']) {
      expect(load({ flags: { host } }).config.host).toBe(host);
    }
    expect(load({ flags: { host: '0.0.0.0', insecure: true } }).config.insecure).toBe(true);
  });
});

/** What is refused: how it is given, and what is said about it. One problem each. */
const refused: readonly (readonly [string, LoadOptions, string])[] = [
  // flags
  ['an unknown flag', { flags: { prot: '1' } }, 'no such flag: --prot; did you mean --port?'],
  ['an unknown flag like no other', { flags: { quux: '1' } }, 'no such flag: --quux'],
  [
    'a port that is a word',
    { flags: { port: 'http' } },
    '--port: "http" is not a whole number from 0 to 65535, such as 8577',
  ],
  [
    'a port out of range',
    { flags: { port: '65536' } },
    '--port: "65536" is not a whole number from 0 to 65535, such as 8577',
  ],
  ['a negative number', { flags: { port: '-1' } }, '--port: "-1" is not'],
  ['a number with an exponent', { flags: { 'max-uploads': '1e3' } }, '--max-uploads: "1e3" is not a whole number'],
  ['an empty value', { flags: { port: '' } }, '--port: "" is not a whole number'],
  [
    'a size with a wrong unit',
    { flags: { 'max-blob-bytes': '1 gigabyte' } },
    'is not a size from 1 to 5TiB, such as 1GiB',
  ],
  ['a size with a bare letter', { flags: { 'max-blob-bytes': '1G' } }, '--max-blob-bytes: "1G" is not a size'],
  ['a size that is no whole number of bytes', { flags: { 'max-blob-bytes': '1.5' } }, 'is not a size'],
  ['a size of nothing', { flags: { 'max-blob-bytes': '0' } }, 'is not a size'],
  ['a size beyond numbers', { flags: { 'cache-disk-bytes': '9999999999TiB' } }, 'is not a size from 0 to 1024TiB'],
  [
    'a time without a unit',
    { flags: { 'idle-timeout': '30' } },
    '--idle-timeout: "30" is not a time from 1s to 1h, such as 30s',
  ],
  ['a grace below its floor', { flags: { grace: '23h' } }, '--grace: grace must be at least 1d'],
  ['an unknown store', { flags: { store: 'disk' } }, '--store: "disk" is not one of file, memory, s3, gcs, azure'],
  ['a store in capitals', { flags: { store: 'S3' } }, '--store: "S3" is not one of file'],
  [
    's3 without a bucket',
    { flags: { store: 's3' } },
    'store s3 needs a bucket: --s3-bucket, LPS_S3_BUCKET or s3-bucket in the file',
  ],
  [
    'gcs without a bucket',
    { flags: { store: 'gcs' } },
    'store gcs needs a bucket: --gcs-bucket, LPS_GCS_BUCKET or gcs-bucket in the file',
  ],
  [
    'azure without a container',
    { flags: { store: 'azure', 'azure-account': 'mine' } },
    'store azure needs a container: --azure-container, LPS_AZURE_CONTAINER or azure-container in the file',
  ],
  [
    'azure without an account',
    { flags: { store: 'azure', 'azure-container': 'blobs' } },
    'store azure needs an account: --azure-account or --azure-connection-string',
  ],
  [
    'two accounts',
    {
      flags: { store: 'azure', 'azure-container': 'blobs', 'azure-account': 'mine' },
      env: { LPS_AZURE_CONNECTION_STRING: 'AccountName=a;AccountKey=b==' },
    },
    'azure-connection-string says already which account it is',
  ],
  [
    'a connection string that is none',
    { env: { LPS_AZURE_CONNECTION_STRING: 'hunter2' } },
    'LPS_AZURE_CONNECTION_STRING: the value is not a connection string such as',
  ],
  [
    'a container with a capital',
    { flags: { store: 'azure', 'azure-account': 'mine', 'azure-container': 'Blobs' } },
    '--azure-container: "Blobs" is not the name of a container',
  ],
  [
    'a container without azure',
    { flags: { 'azure-container': 'blobs' } },
    '--azure-container names a container, but blobs would go to the data directory; add --store azure (or file)',
  ],
  [
    'a bucket without gcs',
    { flags: { 'gcs-bucket': 'blobs' } },
    '--gcs-bucket names a bucket, but blobs would go to the data directory; add --store gcs (or file)',
  ],
  [
    'a bucket without s3',
    { flags: { 's3-bucket': 'b' } },
    '--s3-bucket names a bucket, but blobs would go to the data directory',
  ],
  [
    'a bucket with a space',
    { flags: { store: 's3', 's3-bucket': 'a b' } },
    '--s3-bucket: "a b" is not the name of a bucket',
  ],
  [
    'an endpoint that is no URL',
    { flags: { 's3-endpoint': 'minio:9000' } },
    '--s3-endpoint: "minio:9000" is not a URL such as http',
  ],
  [
    'a password in the endpoint',
    { flags: { 's3-endpoint': 'http://a:b@minio' } },
    'is not a URL such as http://127.0.0.1:9000',
  ],
  ['a prefix that climbs', { flags: { 's3-prefix': 'a/../b' } }, '--s3-prefix: "a/../b" is not a prefix of letters'],
  ['a prefix that begins with a slash', { flags: { 's3-prefix': '/a' } }, 'not beginning with "/"'],
  [
    'a key without its encryption',
    { flags: { 's3-kms-key-id': 'k' } },
    's3-kms-key-id is used only with --s3-encryption sse-kms',
  ],
  ['a host that is a URL', { flags: { host: 'http://x' } }, '--host: "http://x" is not an address such as 127.0.0.1'],
  ['a host that is almost an address', { flags: { host: '127.0.0.256' } }, '--host: "127.0.0.256" is not an address'],
  ['an open door', { flags: { host: '0.0.0.0' } }, '--host: 0.0.0.0 can be reached from other machines'],
  ['an open door, version 6', { flags: { host: '::' } }, '--host: :: can be reached from other machines'],
  [
    'a namespace with a slash',
    { flags: { 'v1-namespace': 'a/b' } },
    '--v1-namespace: "a/b" is not a namespace such as orders',
  ],
  [
    'a schema of the system',
    { flags: { 'database-schema': 'pg_catalog' } },
    '--database-schema: "pg_catalog" is not a lower-case name',
  ],
  ['a schema with a quote', { flags: { 'database-schema': 'a"b' } }, 'is not a lower-case name such as lps'],
  [
    'a lease shorter than a pause',
    { flags: { 'lease-time': '1m', 'idle-timeout': '31s' } },
    'lease-time must be at least twice idle-timeout',
  ],
  // environment
  [
    'an unknown variable',
    { env: { LPS_DATADIR: 'x' } },
    'no such environment variable: LPS_DATADIR; did you mean LPS_DATA_DIR?',
  ],
  [
    'a file for what is no secret',
    { env: { LPS_PORT_FILE: '/x' } },
    'no such environment variable: LPS_PORT_FILE; only secrets are read from files, so set LPS_PORT itself',
  ],
  ['a wrong variable', { env: { LPS_METRICS: 'maybe' } }, 'LPS_METRICS: "maybe" is not true or false'],
  [
    'a variable named like a method',
    { env: { LPS_METRICS: 'constructor' } },
    'LPS_METRICS: "constructor" is not true or false',
  ],
  [
    'a secret given twice',
    { env: { LPS_DATABASE_URL: 'postgres://a', LPS_DATABASE_URL_FILE: '/f' } },
    'LPS_DATABASE_URL and LPS_DATABASE_URL_FILE are both set; keep one',
  ],
  [
    'a secret in a missing file',
    { env: { LPS_DATABASE_URL_FILE: '/f' } },
    'LPS_DATABASE_URL_FILE: the file "/f" cannot be read: it does not exist',
  ],
  [
    'a database that is no URL',
    { env: { LPS_DATABASE_URL: 'host=db password=hush' } },
    'LPS_DATABASE_URL: the value is not a URL such as postgres://',
  ],
  [
    'a database of another kind',
    { env: { LPS_DATABASE_URL: 'mysql://u:hush@db/x' } },
    'LPS_DATABASE_URL: the value is not a URL such as postgres://',
  ],
  // the configuration file
  [
    'a missing file',
    { flags: { config: 'gone.yaml' } },
    '--config: the file "gone.yaml" cannot be read: it does not exist',
  ],
  [
    'a missing file of the environment',
    { env: { LPS_CONFIG: '/gone' } },
    'LPS_CONFIG: the file "/gone" cannot be read: it does not exist',
  ],
  ['an unknown name', inFile('# x\nport: 1\ndataDir: x\n'), 'f:3: no such setting: "dataDir"; did you mean data-dir?'],
  ['a wrong value', inFile('\nport: many\n'), 'f:2: port: "many" is not a whole number'],
  ['a map for a value', inFile('port:\n  a: 1\n'), 'f:1: port has no plain value'],
  ['a list for a value', inFile('port: [1]\n'), 'f:1: port has no plain value'],
  [
    'no value',
    inFile('s3-bucket:\n'),
    'f:1: s3-bucket has no plain value; write one behind the colon, or remove the line',
  ],
  ['a name given twice', inFile('port: 1\nport: 2\n'), 'f:2: this name is given twice'],
  ['what is no YAML', inFile('port: "1\n'), 'f:2: not readable as YAML: Missing closing "quote'],
  ['a list', inFile('- port\n'), 'f:1: the file must hold lines such as "port: 8577"'],
  ['a text', inFile('port 8577\n'), 'f:1: the file must hold lines such as "port: 8577"'],
  ['a file too large', inFile(`# ${'x'.repeat(1024 * 1024)}\n`), 'f: larger than 1 MiB'],
  ['the prototype', inFile('__proto__: 1\n'), 'f:1: no such setting: "__proto__"'],
  ['an alias', inFile('port: &a 1\nmax-uploads: *a\n'), 'f:2: max-uploads has no plain value'],
];

function inFile(content: string): LoadOptions {
  return { flags: { config: 'f' }, ...files({ '/srv/f': content }) };
}

describe('what is refused', () => {
  it.each(refused)('%s', (_title, options, message) => {
    expect(problemsOf(options)).toEqual([expect.stringContaining(message)]);
  });

  it('is refused all at once', () => {
    const problems = problemsOf({
      flags: { port: 'x', config: 'f' },
      env: { LPS_GRACE: '1h', LPS_PROT: '1' },
      ...files({ '/srv/f': 'stoer: s3\nhost: 0.0.0.0\n' }),
    });
    expect(problems).toHaveLength(5);
    expect(problems.join('\n')).toMatch(/--port.*LPS_GRACE.*/s);
  });

  it('never repeats a secret', () => {
    const { readFile } = files({ '/srv/f': 'database-url: mysql://u:hush@db\n' });
    const said = [
      problemsOf({ env: { LPS_DATABASE_URL: 'mysql://u:hush@db' } }),
      problemsOf({ flags: { 'database-url': 'hush' } }),
      problemsOf({ flags: { config: 'f' }, readFile }),
    ];
    expect(said.every((problems) => problems.length === 1)).toBe(true);
    expect(JSON.stringify(said)).not.toContain('hush');
  });
});
