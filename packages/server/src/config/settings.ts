/**
 * Every setting of the service, in one table. It drives the command line, the environment, the configuration file,
 * `--help`, `lps config print` and docs/config.md.
 *
 * A setting has one name, spelled the way each place spells names:
 *
 *   --max-blob-bytes 1GiB       flag
 *   LPS_MAX_BLOB_BYTES=1GiB     environment
 *   max-blob-bytes: 1GiB        file
 *   config.maxBlobBytes         in the code (with its unit: `idle-timeout` is `idleTimeoutMs`)
 */
import { accessSettings, listeningSettings } from './access-settings.js';
import { cacheNodeSettings } from './cache-node-settings.js';
import { codecSettings } from './codec-settings.js';
import { collectionSettings } from './collection-settings.js';
import { bytes, choice, count, duration, hostname, type Kind, namespace, text, url, yesNo } from './kinds.js';
import { objectStoreSettings } from './object-store-settings.js';
import { takedownSettings } from './takedown-settings.js';

/** In the order in which help and documentation show them. */
export const groups = [
  'Listening',
  'Storage',
  'S3',
  'GCS',
  'Azure',
  'Catalog',
  'Limits',
  'Direct transfers',
  'Authentication',
  'Codec server',
  'Cache',
  'Collection',
  'Cache node',
  'Takedown',
  'Lifecycle',
  'Logs and metrics',
] as const;

export interface Setting<V = unknown> {
  /** Without its dashes; also the name in the configuration file. */
  readonly flag: string;
  readonly kind: Kind<V>;
  readonly group: (typeof groups)[number];
  readonly help: string;
  /** What the flag `--no-…` does, for a yes or no whose default is yes. */
  readonly helpOff?: string;
  /** As text. Without one the setting may stay unset. */
  readonly default?: string;
  /** In words, when the default depends on something. */
  readonly defaultHelp?: string;
  /** Never shown; may be read from a file that `LPS_…_FILE` names. */
  readonly secret?: true;
  /** Variables of other programs, read only when the setting is given nowhere else; the first one that is set counts. */
  readonly also?: readonly string[];
}

const GiB = 1024 ** 3;
const TiB = 1024 ** 4;
const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

export const settings = {
  port: {
    flag: 'port',
    kind: count(0, 65535, 8577),
    group: 'Listening',
    default: '8577',
    help: 'Port to listen on; 0 takes any free one.',
  },
  host: {
    flag: 'host',
    kind: hostname(),
    group: 'Listening',
    default: '127.0.0.1',
    help: 'Address to listen on. Anything beyond this machine also needs --auth required and TLS, or --insecure.',
  },
  insecure: {
    flag: 'insecure',
    kind: yesNo(),
    group: 'Listening',
    default: 'false',
    help: 'Listen beyond this machine although whoever reaches the port can read and write every blob, or tokens can be overheard.',
  },
  tlsTerminatedUpstream: {
    flag: 'tls-terminated-upstream',
    kind: yesNo(),
    group: 'Listening',
    default: 'false',
    help: 'Say that a proxy in front of the service does TLS, and nobody else reaches the port.',
  },
  ...listeningSettings,
  maxConnections: {
    flag: 'max-connections',
    kind: count(1, 1_000_000, 10_000),
    group: 'Listening',
    default: '10000',
    help: 'Open connections; further ones are closed at once.',
  },
  shutdownTimeoutMs: {
    flag: 'shutdown-timeout',
    kind: duration(0, hour, '30s'),
    group: 'Listening',
    default: '30s',
    help: 'Time that requests under way get to finish after SIGTERM.',
  },

  store: {
    flag: 'store',
    kind: choice('file', 'memory', 's3', 'gcs', 'azure'),
    group: 'Storage',
    default: 'file',
    help: 'Where blobs are kept: file is the data directory, memory is gone with the process.',
  },
  dataDir: {
    flag: 'data-dir',
    kind: text({ placeholder: 'dir', expects: 'a directory such as ./data', pattern: /^[^\0]+$/ }),
    group: 'Storage',
    default: './data',
    help: 'Directory for blobs (store file), the embedded database and the disk cache. Made when missing.',
  },

  ...objectStoreSettings,

  databaseUrl: {
    flag: 'database-url',
    kind: url({ schemes: ['postgres:', 'postgresql:'], example: 'postgres://lps@db.example:5432/lps' }),
    group: 'Catalog',
    secret: true,
    defaultHelp: 'an embedded PostgreSQL in the data directory',
    help: 'PostgreSQL for the catalog. All replicas of the service share one.',
  },
  databasePoolSize: {
    flag: 'database-pool-size',
    kind: count(2, 1000, 10),
    group: 'Catalog',
    default: '10',
    help: 'Connections to the database.',
  },
  databaseSchema: {
    flag: 'database-schema',
    kind: text({
      placeholder: 'name',
      expects: 'a lower-case name such as lps (and not one that begins with pg_)',
      pattern: /^(?!pg_)[a-z_][a-z0-9_]{0,62}$/,
    }),
    group: 'Catalog',
    default: 'lps',
    help: 'Schema of the tables. Made when missing.',
  },

  maxBlobBytes: {
    flag: 'max-blob-bytes',
    kind: bytes(1, 5 * TiB, '1GiB'),
    group: 'Limits',
    default: '1GiB',
    help: 'Largest blob that is taken.',
  },
  maxUploads: {
    flag: 'max-uploads',
    kind: count(1, 100_000, 256),
    group: 'Limits',
    default: '256',
    help: 'Uploads at the same time; further ones are answered 503 and come again.',
  },
  idleTimeoutMs: {
    flag: 'idle-timeout',
    kind: duration(second, hour, '30s'),
    group: 'Limits',
    default: '30s',
    help: 'A connection that moves no byte for so long in the middle of a request is closed.',
  },
  minBytesPerSecond: {
    flag: 'min-rate',
    kind: bytes(0, GiB, '1kB'),
    group: 'Limits',
    default: '1kB',
    help: 'A transfer slower than this many bytes a second, on average and after its first 30 s, is ended. 0 is no limit.',
  },

  directTransfers: {
    flag: 'direct-transfers',
    kind: yesNo(),
    group: 'Direct transfers',
    default: 'true',
    help: 'Let clients that ask for it move bytes past the service: uploads with store s3, downloads with s3, gcs and azure.',
    helpOff: 'All bytes go through the service, for clients that do not reach the bucket.',
  },
  directLifetimeMs: {
    flag: 'direct-lifetime',
    kind: duration(second, 15 * minute, '15m'),
    group: 'Direct transfers',
    default: '15m',
    help: 'Time in which such an upload must begin. For a download it is at most 5 m.',
  },

  ...accessSettings,
  ...codecSettings,

  cacheMemoryBytes: {
    flag: 'cache-memory-bytes',
    kind: bytes(0, TiB, '64MiB'),
    group: 'Cache',
    defaultHelp: '128MiB for s3, gcs and azure and in a cache node, none for file and memory',
    help: 'Memory for blobs that were read lately.',
  },
  cacheDiskBytes: {
    flag: 'cache-disk-bytes',
    kind: bytes(0, 1024 * TiB, '10GiB'),
    group: 'Cache',
    default: '0',
    help: 'Disk space for such blobs.',
  },
  cacheDir: {
    flag: 'cache-dir',
    kind: text({ placeholder: 'dir', expects: 'a directory such as /var/cache/lps', pattern: /^[^\0]+$/ }),
    group: 'Cache',
    defaultHelp: 'cache in the data directory, cache-node there for a cache node',
    help: 'Directory of the disk cache.',
  },

  ...cacheNodeSettings,
  ...collectionSettings,
  ...takedownSettings,

  leaseTimeMs: {
    flag: 'lease-time',
    kind: duration(minute, day, '10m'),
    group: 'Lifecycle',
    default: '10m',
    help: 'Time after which an upload that was cut off by a crash is cleaned up.',
  },
  replicaTimeoutMs: {
    flag: 'replica-timeout',
    kind: duration(3 * second, hour, '30s'),
    group: 'Lifecycle',
    default: '30s',
    help: 'Time without a sign of life after which others take over the work of a replica. The same for all of them.',
  },
  workflowRetentionMs: {
    flag: 'workflow-retention',
    kind: duration(hour, 3650 * day, '7d'),
    group: 'Lifecycle',
    default: '7d',
    help: 'Time for which finished workflows are kept, for "lps workflows".',
  },
  v1Namespace: {
    flag: 'v1-namespace',
    kind: namespace(),
    group: 'Lifecycle',
    defaultHelp: 'version 1 claims are not served',
    help: 'Namespace that owns the blobs of version 1 claims, which name none.',
  },

  logLevel: {
    flag: 'log-level',
    kind: choice('trace', 'debug', 'info', 'warn', 'error', 'silent'),
    group: 'Logs and metrics',
    default: 'info',
    help: 'Least important messages that are logged.',
  },
  logFormat: {
    flag: 'log-format',
    kind: choice('auto', 'json', 'pretty'),
    group: 'Logs and metrics',
    default: 'auto',
    help: 'auto is pretty on a terminal and json elsewhere.',
  },
  metrics: {
    flag: 'metrics',
    kind: yesNo(),
    group: 'Logs and metrics',
    default: 'true',
    help: 'Serve Prometheus metrics at /metrics.',
    helpOff: 'Do not serve Prometheus metrics at /metrics.',
  },
} as const satisfies Record<string, Setting>;

export type SettingName = keyof typeof settings;

type ValueOf<S> = S extends { readonly kind: Kind<infer V> }
  ? S extends { readonly default: string }
    ? V
    : V | undefined
  : never;

/** The settings' values; what has no default and was not given is `undefined`. */
export type Values = { readonly [Name in SettingName]: ValueOf<(typeof settings)[Name]> };

/** What the service runs with: `Values` whose defaults that depend on others are filled in. Directories are absolute. */
export type Config = Omit<Values, 'cacheMemoryBytes' | 'cacheDir'> & {
  readonly cacheMemoryBytes: number;
  readonly cacheDir: string;
};

/** Where a value came from; `name` says it to a person. */
export interface Source {
  readonly kind: 'flag' | 'env' | 'file' | 'default';
  /** `--port`, `LPS_PORT`, `lps.yaml:3` or `default`. */
  readonly name: string;
}

/** Every setting with its name in the code, in the order of the table. */
export const allSettings = Object.entries(settings) as readonly (readonly [SettingName, Setting])[];

/** The environment variable of a setting: `max-blob-bytes` → `LPS_MAX_BLOB_BYTES`. */
export function envOf(setting: Pick<Setting, 'flag'>): string {
  return `LPS_${setting.flag.toUpperCase().replaceAll('-', '_')}`;
}

/** What stands in for a default, in help and documentation. */
export function defaultOf(setting: Setting): string {
  if (setting.default === '') return setting.defaultHelp ?? 'none';
  return setting.default ?? setting.defaultHelp ?? 'not set';
}
