import { isIPv6 } from 'node:net';
import type { SettingName, Source, Values } from './settings.js';

type Sources = Readonly<Record<SettingName, Source>>;
type Check = (values: Partial<Values>, sources: Sources) => string | undefined;

/** What is wrong with settings that are right one by one. */
export function configProblems(values: Partial<Values>, sources: Sources): string[] {
  return checks.flatMap((check) => check(values, sources) ?? []);
}

const checks: readonly Check[] = [
  ({ store }) =>
    store === 'gcs' || store === 'azure' ? `store ${store} is not available yet; use file, memory or s3` : undefined,

  ({ store, s3Bucket }, sources) =>
    store === 's3' && s3Bucket === undefined && sources.s3Bucket.kind === 'default'
      ? 'store s3 needs a bucket: --s3-bucket, LPS_S3_BUCKET or s3-bucket in the file'
      : undefined,

  // a bucket given without --store s3 would silently be stored to disk; BUCKET alone may belong to another program
  (_values, sources) =>
    sources.store.kind === 'default' && sources.s3Bucket.kind !== 'default' && sources.s3Bucket.name !== 'BUCKET'
      ? `${sources.s3Bucket.name} names a bucket, but blobs would go to the data directory; add --store s3 (or file)`
      : undefined,

  ({ s3Encryption, s3KmsKeyId }) =>
    s3KmsKeyId !== undefined && s3Encryption !== undefined && s3Encryption !== 'sse-kms'
      ? 's3-kms-key-id is used only with --s3-encryption sse-kms'
      : undefined,

  ({ host, insecure }, sources) =>
    host !== undefined && !isLoopback(host) && insecure === false
      ? `${sources.host.name}: ${host} can be reached from other machines, and the service does not ask who calls yet; ` +
        'keep host 127.0.0.1, or add --insecure when the network itself keeps others out'
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
