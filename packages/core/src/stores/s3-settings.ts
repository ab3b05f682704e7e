/** What an S3 bucket's own settings do to blobs. Needs `s3:Get{BucketVersioning,LifecycleConfiguration,BucketObjectLockConfiguration}`. */
import type { LifecycleRule as S3Rule } from '@aws-sdk/client-s3';
import type { BucketSettings, CallOptions, LifecycleRule } from '../blob-store.js';
import { isLpsError } from '../errors.js';
import type { Transport } from '../transport.js';
import { clockSkewMs } from './clock-skew.js';
import { repeated } from './repeated.js';
import { fromSdk } from './s3-errors.js';
import type { OpenedSdk } from './s3-sdk.js';

/** Answers by which S3 says that there is no such setting, as opposed to not telling. */
const noneCodes = new Set<unknown>(['NoSuchLifecycleConfiguration', 'ObjectLockConfigurationNotFoundError']);

export async function s3Settings(
  { sdk, client, address }: OpenedSdk,
  transport: Transport,
  bucket: string,
  options: CallOptions,
): Promise<BucketSettings> {
  const { signal } = options;
  const http = signal === undefined ? {} : { abortSignal: signal };
  const named = { Bucket: bucket };
  const skew = await clockSkewMs(transport, `${address.origin}${address.path || '/'}`, options);
  const versioning = await answer(signal, () => client.send(new sdk.GetBucketVersioningCommand(named), http));
  const lifecycle = await answer(signal, () =>
    client.send(new sdk.GetBucketLifecycleConfigurationCommand(named), http),
  );
  const lock = await answer(signal, () => client.send(new sdk.GetObjectLockConfigurationCommand(named), http));
  return {
    ...(versioning === undefined ? {} : { versioning: versioningOf(versioning?.Status) }),
    ...(lifecycle === undefined ? {} : { lifecycle: lifecycleOf(lifecycle?.Rules) }),
    ...(lock === undefined ? {} : { retention: lock?.ObjectLockConfiguration?.ObjectLockEnabled === 'Enabled' }),
    // deleted is deleted, unless there are versions
    ...(versioning === undefined ? {} : { softDeleteDays: 0 }),
    ...(skew === undefined ? {} : { clockSkewMs: skew }),
  };
}

/** `null`: there is no such setting. `undefined`: we may not ask, or the server does not know the question. */
async function answer<T>(signal: AbortSignal | undefined, ask: () => Promise<T>): Promise<T | null | undefined> {
  try {
    return await repeated(signal, async () => {
      try {
        return await ask();
      } catch (error) {
        throw fromSdk(error);
      }
    });
  } catch (error) {
    if (!isLpsError(error, 'STORE_REFUSED')) throw error;
    if (error.details.s3Code === 'NoSuchBucket') throw error;
    return noneCodes.has(error.details.s3Code) ? null : undefined;
  }
}

function versioningOf(status: string | undefined): 'on' | 'suspended' | 'off' {
  if (status === 'Enabled') return 'on';
  return status === undefined ? 'off' : 'suspended';
}

function lifecycleOf(rules: readonly S3Rule[] = []): LifecycleRule[] {
  return rules.filter(({ Status }) => Status === 'Enabled').flatMap(rulesOf);
}

/** One rule of S3 may do several things. */
function rulesOf(rule: S3Rule, index: number): LifecycleRule[] {
  const {
    ID: id = `rule ${index + 1}`,
    Expiration,
    NoncurrentVersionExpiration,
    AbortIncompleteMultipartUpload,
  } = rule;
  const prefix = rule.Filter?.Prefix ?? rule.Filter?.And?.Prefix ?? rule.Prefix ?? '';
  const found: LifecycleRule[] = [];
  const add = (action: LifecycleRule['action'], days: number | undefined, storageClass?: string): void => {
    found.push({
      id,
      prefix,
      action,
      ...(days === undefined ? {} : { afterDays: days }),
      ...(storageClass === undefined ? {} : { storageClass }),
    });
  };
  // an expiration may also be only of the markers that deletes leave
  if (Expiration?.Days !== undefined || Expiration?.Date !== undefined) add('delete', Expiration.Days);
  if (NoncurrentVersionExpiration !== undefined) add('delete-old-versions', NoncurrentVersionExpiration.NoncurrentDays);
  if (AbortIncompleteMultipartUpload !== undefined) {
    add('abort-uploads', AbortIncompleteMultipartUpload.DaysAfterInitiation);
  }
  for (const { Days, StorageClass } of rule.Transitions ?? []) add('transition', Days, StorageClass);
  return found;
}
