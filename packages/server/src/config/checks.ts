import { isIPv6 } from 'node:net';
import { formatDuration } from './kinds.js';
import { envOf, type Setting, type SettingName, type Source, settings, type Values } from './settings.js';

type Sources = Readonly<Record<SettingName, Source>>;
type Check = (values: Partial<Values>, sources: Sources) => string | undefined;

/** What is wrong with settings that are right one by one. */
export function configProblems(values: Partial<Values>, sources: Sources): string[] {
  return checks.flatMap((check) => check(values, sources) ?? []);
}

/** What names the place of each store that is elsewhere. */
export const places = [
  { store: 's3', setting: 's3Bucket', what: 'bucket', group: 'S3' },
  { store: 'gcs', setting: 'gcsBucket', what: 'bucket', group: 'GCS' },
  { store: 'azure', setting: 'azureContainer', what: 'container', group: 'Azure' },
] as const satisfies readonly { store: Values['store']; setting: SettingName; what: string; group: Setting['group'] }[];

/** The settings that are of one store only, as a group. */
export function groupOfStore(store: unknown): Setting['group'] | undefined {
  return places.find((place) => place.store === store)?.group;
}

const minuteMs = 60_000;
const dayMs = 24 * 60 * minuteMs;
const [foreignAccount] = settings.azureAccount.also;

const checks: readonly Check[] = [
  ({ store }, sources) => {
    const place = places.find((candidate) => candidate.store === store);
    if (place === undefined || sources[place.setting].kind !== 'default') return undefined;
    const { flag } = settings[place.setting];
    return `store ${store} needs a ${place.what}: --${flag}, ${envOf({ flag })} or ${flag} in the file`;
  },

  ({ store, azureAccount, azureEndpoint, azureConnectionString }, sources) => {
    const names = ['azureAccount', 'azureEndpoint', 'azureConnectionString'] as const;
    const isGiven = names.some((name) => sources[name].kind !== 'default');
    if (store === 'azure' && !isGiven)
      return 'store azure needs an account: --azure-account or --azure-connection-string';
    const other = azureEndpoint ?? (sources.azureAccount.name === foreignAccount ? undefined : azureAccount);
    return azureConnectionString !== undefined && other !== undefined
      ? 'azure-connection-string says already which account it is; leave out azure-account and azure-endpoint'
      : undefined;
  },

  // a bucket given without its store would silently be stored to disk; BUCKET alone may belong to another program
  (_values, sources) => {
    const named = places.find(
      ({ setting }) => sources[setting].kind !== 'default' && sources[setting].name !== 'BUCKET',
    );
    return sources.store.kind === 'default' && named !== undefined
      ? `${sources[named.setting].name} names a ${named.what}, but blobs would go to the data directory; ` +
          `add --store ${named.store} (or file)`
      : undefined;
  },

  ({ s3Encryption, s3KmsKeyId }) =>
    s3KmsKeyId !== undefined && s3Encryption !== undefined && s3Encryption !== 'sse-kms'
      ? 's3-kms-key-id is used only with --s3-encryption sse-kms'
      : undefined,

  ({ host, insecure, auth, tlsCert, tlsTerminatedUpstream }, sources) => {
    if (host === undefined || isLoopback(host) || insecure !== false) return undefined;
    const reach = `${sources.host.name}: ${host} can be reached from other machines`;
    if (auth === 'none')
      return `${reach}, and nobody is asked who calls; keep host 127.0.0.1, or add --auth required, or --insecure when the network itself keeps others out`;
    return tlsCert === undefined && tlsTerminatedUpstream === false
      ? `${reach}, and tokens would cross the network in the clear; add --tls-cert and --tls-key, --tls-terminated-upstream behind a proxy that does TLS, or --insecure`
      : undefined;
  },

  ({ tlsCert, tlsKey }) =>
    (tlsCert === undefined) !== (tlsKey === undefined) ? 'tls-cert and tls-key belong together' : undefined,

  ({ auth, authIssuer, authJwks, authAudiences }, sources) => {
    const given = (['authIssuer', 'authJwks', 'authAudiences', 'authPolicy'] as const).find(
      (name) => sources[name].kind !== 'default',
    );
    if (given === undefined) return undefined;
    if (auth === 'none') return `${sources[given].name} has no effect with auth none; add --auth required`;
    return authIssuer === undefined || authJwks === undefined || authAudiences?.length === 0
      ? 'JWTs need all three of auth-issuer, auth-audience and auth-jwks'
      : undefined;
  },

  // the collection is sound only with these
  ({ unsafeTimes, ...values }, sources) => {
    const least = { graceMs: dayMs, quarantineMs: dayMs, visibilityMs: minuteMs };
    const names = Object.keys(least) as (keyof typeof least)[];
    const tooShort = names.filter((name) => unsafeTimes === false && (values[name] ?? Infinity) < least[name]);
    const problems = tooShort.map(
      (name) => `${sources[name].name}: ${settings[name].flag} must be at least ${formatDuration(least[name])}`,
    );
    return problems.length === 0 ? undefined : problems.join('; ');
  },

  ({ collect = [], clusters, collectRetention = [] }) =>
    collect.length > 0 && clusters === undefined && collectRetention.length === 0
      ? 'collect needs to know who may hold blobs: --clusters, or --collect-retention for namespaces without a cluster'
      : undefined,

  ({ codecPreStorage = [], codecPostStorage = [], codecKeys }) =>
    [...codecPreStorage, ...codecPostStorage].includes('aes-gcm') && codecKeys === undefined
      ? 'the codec aes-gcm needs keys: LPS_CODEC_KEYS_FILE or LPS_CODEC_KEYS'
      : undefined,

  // an upload that is alive renews its lease with its bytes, so a lease must outlast a pause that is still allowed
  ({ leaseTimeMs, idleTimeoutMs }) =>
    leaseTimeMs !== undefined && idleTimeoutMs !== undefined && leaseTimeMs < 2 * idleTimeoutMs
      ? 'lease-time must be at least twice idle-timeout'
      : undefined,
];

/** Whether an address can be reached from this machine only. */
export function isLoopback(host: string): boolean {
  const name = host.toLowerCase();
  if (name === 'localhost' || /^(::ffff:)?127(\.\d{1,3}){3}$/.test(name)) return true;
  return isIPv6(name) && /^[0:]*:0*1$/.test(name);
}
