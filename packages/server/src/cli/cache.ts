import { join } from 'node:path';
import { LpsError, parseKey } from '@large-payload/core';
import type { Command } from 'commander';
import type { CacheNodeConfig } from '../cache/cache-service.js';
import { formatDuration } from '../config/kinds.js';
import { configInvalid, loadConfig } from '../config/load.js';
import type { Setting } from '../config/settings.js';
import { createLogger } from '../logging.js';
import type { CacheStatus } from '../openapi/cache.js';
import { addServiceUrl, serviceClient } from './service-client.js';
import { addSettings, givenSettings } from './setting-options.js';
import { stopSignal } from './stop-signal.js';
import { escapeControls, roughBytes, type Terminal } from './terminal.js';

const mib = 1024 * 1024;

/** `lps cache`, and what is said to a running one. */
export function addCache(program: Command, terminal: Terminal): void {
  const command = program
    .command('cache')
    .summary('Run a cache node near the workers.')
    .description(
      'Run a cache node in front of a service, until it is told to stop: the same API for blobs, with what was read ' +
        'and written lately kept in memory and on a disk.',
    );
  addSettings(command, isReadByCacheNodes)
    .addHelpText(
      'after',
      `
Who calls is asked for a token when the node has one of its own for the service (--upstream-token);
the service says what the caller's token allows.

Examples:
  lps cache --upstream http://127.0.0.1:8577 --port 8578
  LPS_UPSTREAM_TOKEN_FILE=/run/secrets/lps lps cache --upstream https://payloads.example \\
    --cache-dir /var/cache/lps --cache-disk-bytes 50GiB --cache-memory-bytes 1GiB
  lps cache status --url http://127.0.0.1:8578
  lps cache purge --all --url http://127.0.0.1:8578
`,
    )
    .action(() => runNode(nodeConfig(command, terminal)));
  addStatus(command, terminal);
  addPurge(command, terminal);
}

const readNames = ['max-staleness', 'v1-namespace', 'auth', 'token-rate', 'token-concurrency', 'data-dir'];
const readGroups: readonly Setting['group'][] = ['Listening', 'Cache', 'Cache node', 'Limits', 'Logs and metrics'];

function isReadByCacheNodes({ flag, group }: Setting): boolean {
  return readGroups.includes(group) || readNames.includes(flag);
}

/** The defaults of a cache node where they are not those of a service. */
function nodeConfig(command: Command, terminal: Terminal): CacheNodeConfig {
  const { config, sources } = loadConfig({ flags: givenSettings(command), env: terminal.env, cwd: terminal.cwd });
  const { upstream } = config;
  if (upstream === undefined) throw configInvalid(['a cache node needs the service that it stands before: --upstream']);
  const isUsual = (name: keyof typeof sources): boolean => sources[name].kind === 'default';
  return {
    ...config,
    upstream,
    ...(isUsual('auth') && config.upstreamToken !== undefined ? { auth: 'required' as const } : {}),
    ...(isUsual('cacheDir') ? { cacheDir: join(config.dataDir, 'cache-node') } : {}),
    ...(isUsual('cacheMemoryBytes') ? { cacheMemoryBytes: 128 * mib } : {}),
  };
}

async function runNode(config: CacheNodeConfig): Promise<void> {
  const log = createLogger(config);
  process.prependListener('uncaughtException', (error) => log.fatal({ err: error }, 'the cache node ends: a defect'));
  const stop = stopSignal((signal) => log.info(`${signal}: finishing the requests under way; once more ends at once`));
  const { startCacheNode } = await import('../cache/cache-service.js');
  const node = await startCacheNode(config, log);
  await stop;
  await node.close();
  log.info('stopped');
}

function addStatus(cache: Command, terminal: Terminal): void {
  const command = cache
    .command('status')
    .summary('Say how a running cache node stands.')
    .description('Say how a running cache node stands: its lease, what it keeps, what it served from where.')
    .option('--json', 'print one JSON object');
  addServiceUrl(command).action(async ({ json }: { readonly json?: boolean }) => {
    const status = await serviceClient(command, terminal).ask<CacheStatus>('GET', '/v3/cache');
    terminal.stdout.write(json ? `${JSON.stringify(status)}\n` : linesOf(status));
  });
}

function addPurge(cache: Command, terminal: Terminal): void {
  const command = cache
    .command('purge')
    .summary('Make a running cache node forget.')
    .description('Make a running cache node forget a blob, or everything. The blobs themselves stay where they are.')
    .option('--key <key>', 'this blob')
    .option('--all', 'everything');
  addServiceUrl(command).action(async ({ key, all }: { readonly key?: string; readonly all?: boolean }) => {
    if ((key === undefined) === (all === undefined)) throw configInvalid(['give --key or --all']);
    if (key !== undefined) parseKey(key);
    const { purged } = await serviceClient(command, terminal).ask<{ purged?: boolean }>(
      'POST',
      '/v3/cache/purge',
      key === undefined ? { all: true } : { key },
    );
    if (purged !== true) throw new LpsError('SERVICE_UNREACHABLE', 'what answers there is not a cache node');
    terminal.stdout.write(key === undefined ? 'everything is forgotten\n' : `forgotten: ${escapeControls(key)}\n`);
  });
}

function linesOf({ upstream, id, name, lease, maxStalenessMs, memory, disk, served, touches }: CacheStatus): string {
  const blobs = Object.values(served).reduce((sum, one) => sum + one.blobs, 0);
  const asked = served.miss?.blobs ?? 0;
  const ratio = blobs === 0 ? 'nothing yet' : `${(100 * (1 - asked / blobs)).toFixed(1)} % without upstream`;
  const rows: [string, string][] = [
    ['upstream', escapeControls(upstream)],
    ['node', `${escapeControls(name)} (${id})`],
    [
      'lease',
      lease.isFresh
        ? `fresh, ends in ${formatDuration(Math.round(lease.endsInMs / 1000) * 1000)} of ${formatDuration(maxStalenessMs)}`
        : `none: each read is revalidated${lease.problem === undefined ? '' : ` (${escapeControls(lease.problem)})`}`,
    ],
    ['events', `up to ${lease.cursor}; ${lease.applied} applied, everything forgotten ${lease.cleared} times`],
    ['memory', `${memory.blobs} blobs, ${roughBytes(memory.bytes)}`],
    ['disk', `${disk.blobs} blobs, ${roughBytes(disk.bytes)}`],
    ['reads', `${blobs}: ${ratio}`],
    ...Object.entries(served).map(([from, one]): [string, string] => [
      `  ${from}`,
      `${one.blobs} blobs, ${roughBytes(one.bytes)}`,
    ]),
    ['uses told', `${touches.forwarded}, ${touches.waiting} waiting`],
  ];
  return rows.map(([title, text]) => `${title.padEnd(10)} ${text}\n`).join('');
}
