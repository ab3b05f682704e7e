import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { totalmem } from 'node:os';
import type { Config } from '../config/settings.js';
import { type Finding, fail, ok, warn } from './finding.js';
import { isAtLeast } from './versions.js';
import { sizeText } from './words.js';

export interface RuntimeFacts {
  /** `20.20.2` */
  readonly nodeVersion: string;
  readonly platform: NodeJS.Platform;
  readonly arch: string;
  /** Of Linux systems. */
  readonly libc?: 'glibc' | 'musl';
  /** What this process may take: of the machine, or of its container. Bytes. */
  readonly memoryBytes: number;
}

const require = createRequire(import.meta.url);
/** `>=20.19` */
export const supportedNode = (require('../../package.json') as { engines: { node: string } }).engines.node;

/** The service without its caches; measured with uploads under way. */
const baseMemoryBytes = 256 * 1024 * 1024;

export function runtimeFacts(): RuntimeFacts {
  const { platform, arch } = process;
  const total = totalmem();
  const limit = process.constrainedMemory();
  const isLimited = limit > 0 && limit < total; // without a limit: 0, or more than any machine has
  return {
    nodeVersion: process.versions.node,
    platform,
    arch,
    ...(platform === 'linux' ? { libc: libcOf(arch) } : {}),
    memoryBytes: isLimited ? limit : total,
  };
}

/** By the loader that programs for glibc ask for. */
function libcOf(arch: string): 'glibc' | 'musl' {
  const loaders: Record<string, string> = { x64: '/lib64/ld-linux-x86-64.so.2', arm64: '/lib/ld-linux-aarch64.so.1' };
  const loader = loaders[arch];
  return loader === undefined || existsSync(loader) ? 'glibc' : 'musl';
}

export function judgeRuntime(facts: RuntimeFacts, config?: Config): Finding[] {
  return [node(facts), ...platform(facts, config), ...memory(facts, config)];
}

function node({ nodeVersion }: RuntimeFacts): Finding {
  if (isAtLeast(nodeVersion, supportedNode)) return ok('runtime.node', `Node ${nodeVersion}`);
  const todo = `install a Node of a supported line: ${supportedNode}`;
  return fail('runtime.node', `Node ${nodeVersion} is too old`, todo);
}

function platform({ platform, arch, libc }: RuntimeFacts, config: Config | undefined): Finding[] {
  const name = `${platform} ${arch}${libc === undefined ? '' : `, ${libc}`}`;
  const isEmbedded = config !== undefined && (config.databaseUrl === undefined || config.store === 'memory');
  if (!isEmbedded || (platform !== 'win32' && libc !== 'musl')) return [ok('runtime.platform', name)];
  const todo =
    'set LPS_DATABASE_URL to a PostgreSQL server, or run the service on a Linux with glibc (Debian, Ubuntu …)';
  return [fail('runtime.platform', `there is no embedded PostgreSQL for ${name}`, todo)];
}

function memory({ memoryBytes }: RuntimeFacts, config: Config | undefined): Finding[] {
  const neededBytes = baseMemoryBytes + (config?.cacheMemoryBytes ?? 0);
  const seen = `${sizeText(memoryBytes)} of memory`;
  if (memoryBytes >= neededBytes) return [ok('runtime.memory', seen)];
  const todo = `give it ${sizeText(neededBytes)}, or a smaller --cache-memory-bytes`;
  return [warn('runtime.memory', `only ${seen} for the service and its cache`, todo)];
}
