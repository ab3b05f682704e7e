/** What facts mean, for those that no test can make: other machines, other buckets, other databases. */
import type { BucketSettings, LifecycleRule } from '@large-payload/core';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../config/load.js';
import type { Config } from '../config/settings.js';
import { judgeBucket } from './bucket-settings.js';
import { judgeClock } from './clock.js';
import { type DataDirFacts, judgeDataDir, usesDataDir } from './data-dir.js';
import type { Finding } from './finding.js';
import { judgeLimits } from './limits.js';
import { judgePostgres } from './postgres.js';
import type { PostgresFacts } from './postgres-facts.js';
import { judgeProject } from './project.js';
import type { InstalledPackage } from './project-graph.js';
import { judgeRuntime, type RuntimeFacts } from './runtime.js';
import { judgeSettings } from './settings.js';
import { isAtLeast } from './versions.js';

const MiB = 1024 * 1024;

function config(env: Record<string, string> = {}): Config {
  return loadConfig({ env }).config;
}

/** `warn bucket.versioning`, … without what is right. */
function problems(findings: readonly Finding[]): string[] {
  return findings.filter(({ severity }) => severity !== 'ok').map(({ severity, id }) => `${severity} ${id}`);
}

function seen(findings: readonly Finding[]): string {
  return findings.map((finding) => finding.seen).join('\n');
}

describe('who may call', () => {
  const tls = { LPS_TLS_CERT: 'crt', LPS_TLS_KEY: 'key' };
  it.each([
    ['on loopback', {}, []],
    ['beyond, nobody is asked', { LPS_INSECURE: 'true' }, ['warn settings.access']],
    ['beyond, tokens in the clear', { LPS_INSECURE: 'true', LPS_AUTH: 'required' }, ['warn settings.access']],
    ['beyond, with TLS', { LPS_AUTH: 'required', ...tls }, []],
    ['beyond, behind a proxy', { LPS_AUTH: 'required', LPS_TLS_TERMINATED_UPSTREAM: 'true' }, []],
  ])('%s', (title, env, expected) => {
    const host = title === 'on loopback' ? {} : { LPS_HOST: '0.0.0.0' };
    expect(problems(judgeSettings(config({ ...host, ...env })))).toEqual(expected);
  });
});

describe('the runtime', () => {
  const good: RuntimeFacts = {
    nodeVersion: '20.20.2',
    platform: 'linux',
    arch: 'x64',
    libc: 'glibc',
    memoryBytes: 1024 * MiB,
  };

  it.each([
    ['18.20.4', ['fail runtime.node']],
    ['20.18.9', ['fail runtime.node']],
    ['20.19.0', []],
    ['26.1.0', []],
  ])('Node %s', (nodeVersion, expected) => {
    const findings = judgeRuntime({ ...good, nodeVersion }, config());
    expect(problems(findings)).toEqual(expected);
    if (expected.length > 0) expect(seen(findings)).toContain(`Node ${nodeVersion} is too old`);
  });

  it('has no embedded database with musl or Windows, and needs none with a database URL', () => {
    for (const other of [{ libc: 'musl' as const }, { platform: 'win32' as const, arch: 'x64' }]) {
      expect(problems(judgeRuntime({ ...good, ...other }, config()))).toEqual(['fail runtime.platform']);
      const external = config({ LPS_DATABASE_URL: 'postgres://db/lps' });
      expect(problems(judgeRuntime({ ...good, ...other }, external))).toEqual([]);
      expect(problems(judgeRuntime({ ...good, ...other }, undefined))).toEqual([]);
    }
  });

  it('must have room for the cache', () => {
    const small = { ...good, memoryBytes: 384 * MiB };
    expect(problems(judgeRuntime(small, config({ LPS_CACHE_MEMORY_BYTES: '128MiB' })))).toEqual([]);
    expect(problems(judgeRuntime(small, config({ LPS_CACHE_MEMORY_BYTES: '129MiB' })))).toEqual([
      'warn runtime.memory',
    ]);
  });
});

describe('the data directory', () => {
  const good: DataDirFacts = { path: '/data', exists: true, freeBytes: 9000 * MiB, isTemporary: false };
  const judge = (facts: Partial<DataDirFacts>, env = {}): string[] =>
    problems(judgeDataDir({ ...good, ...facts }, config(env)));

  it('may be full, or nearly', () => {
    expect(judge({})).toEqual([]);
    expect(judge({ freeBytes: 99 * MiB })).toEqual(['fail data-dir.space']);
    expect(judge({ freeBytes: 1023 * MiB })).toEqual(['warn data-dir.space']);
    expect(judge({ freeBytes: 1500 * MiB }, { LPS_MAX_BLOB_BYTES: '2GiB' })).toEqual(['warn data-dir.space']);
  });

  it('may be where nothing lasts, or where locks do not hold', () => {
    for (const fileSystem of ['network', 'memory', 'overlay'] as const) {
      expect(judge({ fileSystem })).toEqual(['warn data-dir.file-system']);
    }
    expect(judge({ isTemporary: true })).toEqual(['warn data-dir.file-system']);
  });

  it.each([
    ['EROFS', /read-only/],
    ['ENOSPC', /the disk is full/],
    ['EDQUOT', /quota/],
    ['ELOOP', /ELOOP/],
  ])('cannot be written: %s', (refusal, words) => {
    const findings = judgeDataDir({ ...good, refusal }, config());
    expect(problems(findings)).toEqual(['fail data-dir.writable']);
    expect(seen(findings)).toMatch(words);
  });

  it('matters only where something lasting is in it', () => {
    expect(usesDataDir(config())).toBe(true);
    const bucket = { LPS_STORE: 's3', LPS_S3_BUCKET: 'b' };
    expect(usesDataDir(config(bucket))).toBe(true);
    expect(usesDataDir(config({ ...bucket, LPS_DATABASE_URL: 'postgres://db/lps' }))).toBe(false);
    expect(usesDataDir(config({ LPS_STORE: 'memory' }))).toBe(false);
  });
});

describe('a bucket', () => {
  const good: BucketSettings = { versioning: 'off', softDeleteDays: 0, retention: false, lifecycle: [] };
  const judge = (settings: Partial<BucketSettings>, prefix = ''): string[] =>
    problems(judgeBucket({ ...good, ...settings }, prefix));
  const rule = (more: Partial<LifecycleRule>): Partial<BucketSettings> => ({
    lifecycle: [{ id: 'tidy', prefix: '', action: 'delete', afterDays: 30, ...more }],
  });

  it('is sound, or its settings are its own business to tell', () => {
    expect(judge({})).toEqual([]);
    expect(problems(judgeBucket({}, ''))).toEqual(['info bucket.settings', 'info bucket.settings']);
  });

  it('keeps what is deleted', () => {
    expect(judge({ versioning: 'on' })).toEqual(['warn bucket.versioning']);
    expect(judge({ versioning: 'suspended' })).toEqual(['warn bucket.versioning']);
    expect(judge({ softDeleteDays: 7 })).toEqual(['warn bucket.soft-delete']);
    expect(judge({ retention: true })).toEqual(['warn bucket.retention']);
  });

  it('deletes by itself, where its rule meets our names', () => {
    expect(judge(rule({}))).toEqual(['fail bucket.lifecycle']);
    for (const prefix of ['/', '/blobs/', '/blobs/orders/', 'blobs/', '.lps/', '.']) {
      expect(judge(rule({ prefix })), prefix).toEqual(['fail bucket.lifecycle']);
    }
    for (const prefix of ['logs/', '/logs/', '/blobs-old/']) expect(judge(rule({ prefix })), prefix).toEqual([]);
    expect(judge(rule({ prefix: 'ours/' }), 'ours/')).toEqual(['fail bucket.lifecycle']);
    expect(judge(rule({ prefix: 'ours/.lps/' }), 'ours/')).toEqual(['fail bucket.lifecycle']);
    expect(judge(rule({ prefix: '/blobs/' }), 'ours/')).toEqual([]);
  });

  it('tidies up what no blob is, and moves blobs', () => {
    for (const action of ['delete-old-versions', 'abort-uploads'] as const) expect(judge(rule({ action }))).toEqual([]);
    const transition = (storageClass: string): string[] => judge(rule({ action: 'transition', storageClass }));
    for (const frozen of ['GLACIER', 'DEEP_ARCHIVE', 'Archive']) {
      expect(transition(frozen)).toEqual(['fail bucket.lifecycle']);
    }
    for (const warm of ['GLACIER_IR', 'STANDARD_IA', 'ARCHIVE', 'Cool']) {
      expect(transition(warm)).toEqual(['info bucket.lifecycle']);
    }
  });
});

describe('Postgres', () => {
  const good: PostgresFacts = {
    versionNumber: 180_004,
    encoding: 'UTF8',
    connections: { limit: 97, usedByOthers: 5 },
    statementTimeoutMs: 0,
    notDurable: [],
    clockSkewMs: 3,
    migrations: 'current',
    listens: true,
  };
  const needs = { poolSize: 10, schema: 'lps', name: 'Postgres at db:5432/lps', isThrowAway: false };
  const judge = (facts: Partial<PostgresFacts>): string[] => problems(judgePostgres({ ...good, ...facts }, needs));

  it.each<[string, Partial<PostgresFacts>, string[]]>([
    ['is sound', {}, []],
    ['is too old', { versionNumber: 140_018 }, ['fail postgres.version']],
    ['is not in UTF-8', { encoding: 'LATIN1' }, ['fail postgres.version']],
    [
      'is a standby, which is not blamed for the rest',
      { readOnly: 'standby', listens: false },
      ['fail postgres.read-only'],
    ],
    ['is behind a pooler in transaction mode', { listens: false }, ['warn postgres.listen']],
    ['is behind a pooler that refuses time limits', { poolRefusal: 'unsupported' }, ['fail postgres.pooler']],
    ['can hold 36 connections', { connections: { limit: 36, usedByOthers: 0 } }, ['fail postgres.connections']],
    ['has 36 connections left', { connections: { limit: 97, usedByOthers: 61 } }, ['warn postgres.connections']],
    ['has 37 connections left', { connections: { limit: 97, usedByOthers: 60 } }, []],
    ['was changed by hand', { migrations: 'other' }, ['fail postgres.migrations']],
    ['is to be brought up to date', { migrations: 'behind' }, ['info postgres.migrations']],
    ['cuts statements off', { statementTimeoutMs: 9999 }, ['warn postgres.statement-timeout']],
    ['forgets', { notDurable: ['fsync'] }, ['warn postgres.durability']],
    ['has another time', { clockSkewMs: -120_000 }, ['warn postgres.clock']],
  ])('%s', (_title, facts, expected) => {
    expect(judge(facts)).toEqual(expected);
  });
});

describe('clocks', () => {
  it.each([
    [0, undefined, 'clocks agree'],
    [60_000, undefined, 'clocks agree'],
    [-61_000, 'warn', 'the clock of the store is 1 minutes behind ours'],
    [15 * 60_000, 'warn', 'the clock of the store is 15 minutes ahead of ours'],
    [15 * 60_000 + 1, 'fail', 'the clock of the store is 15 minutes ahead of ours'],
    [-3 * 3_600_000, 'fail', 'the clock of the store is 3 hours behind ours'],
  ])('%i ms apart', (skewMs, severity, words) => {
    const findings = judgeClock('store.clock', 'the store', skewMs);
    expect(problems(findings)).toEqual(severity === undefined ? [] : [`${severity} store.clock`]);
    expect(seen(findings)).toContain(words);
  });

  it('say nothing where a server does not tell', () => {
    expect(judgeClock('store.clock', 'the store', undefined)).toEqual([]);
  });
});

describe('limits', () => {
  it.each([
    [128_000, 1024 * MiB, []],
    [256 * 1024, 1024 * MiB, []],
    [256 * 1024 + 1, 1024 * MiB, ['warn limits.threshold']],
    [2 * MiB, 1024 * MiB, ['warn limits.threshold']],
    [2 * MiB + 1, 1024 * MiB, ['fail limits.threshold']],
    [500, 1024 * MiB, ['warn limits.threshold']],
    [128_000, 2 * MiB, []],
    [128_000, 2 * MiB - 1, ['warn limits.max-blob-bytes']],
    [128_000, 128_000, ['fail limits.max-blob-bytes']],
  ])('a threshold of %i with blobs up to %i', (thresholdBytes, maxBlobBytes, expected) => {
    expect(problems(judgeLimits({ thresholdBytes, maxBlobBytes }))).toEqual(expected);
  });
});

describe('a project', () => {
  const at = (name: string, more: Partial<InstalledPackage> = {}): InstalledPackage => ({
    name,
    version: '1.24.0',
    dir: `/p/node_modules/${name}`,
    missing: [],
    finds: new Map(),
    ...more,
  });
  const judge = (packages: readonly InstalledPackage[], nodeVersion = '20.20.0'): string[] => {
    const root = at('worker', { dir: '/p' });
    return problems(
      judgeProject({ root, packages: new Map([root, ...packages].map((one) => [one.dir, one])) }, nodeVersion),
    );
  };

  it('uses Temporal alone', () => {
    expect(judge([at('@temporalio/common')])).toEqual(['info project.packages']);
  });

  it('runs on a Node that is too old for it', () => {
    const ours = at('@large-payload/temporal', { engine: '>=20.19' });
    expect(judge([ours], '20.18.1')).toEqual(['fail project.node']);
    expect(judge([at('@large-payload/temporal', { engine: '^18 || >=20' })], '16.0.0')).toEqual([]);
    expect(judge([at('@large-payload/core'), at('left-pad', { engine: '>=99' })])).toEqual([]);
  });

  it('has two of our core', () => {
    const core = at('@large-payload/core');
    expect(judge([core, { ...core, dir: '/p/node_modules/x/node_modules/@large-payload/core' }])).toEqual([
      'warn project.core-copies',
    ]);
  });

  it('has one protobufjs for all, and an old one', () => {
    const old = at('protobufjs', { version: '7.5.4' });
    const finds = new Map([['protobufjs', old.dir]]);
    const sdk = [at('@temporalio/common', { finds }), at('@temporalio/proto', { finds })];
    expect(judge([at('@large-payload/temporal'), ...sdk, old])).toEqual(['fail project.protobufjs']);
  });

  it('has an SDK of the next major version', () => {
    const next = at('@temporalio/common', { version: '2.0.0' });
    expect(judge([at('@large-payload/temporal'), next])).toEqual(['fail project.sdk']);
  });
});

it('compares versions by number, as far as the least one goes', () => {
  for (const [version, least] of [
    ['1.24.0', '1.24'],
    ['1.100.0', '1.24'],
    ['2.0.0', '1.24'],
    ['v20.19.0', '>=20.19'],
  ]) {
    expect(isAtLeast(version ?? '', least ?? ''), version).toBe(true);
  }
  for (const [version, least] of [
    ['1.23.9', '1.24'],
    ['1.3.0', '1.24'],
    ['0.99.0', '1'],
    ['', '1'],
  ]) {
    expect(isAtLeast(version ?? '', least ?? ''), version).toBe(false);
  }
});
