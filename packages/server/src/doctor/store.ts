/** The store as the service would open it: can it be reached, what does it do, what do its settings do. */
import { type BlobStore, type BucketSettings, type CallOptions, isLpsError } from '@large-payload/core';
import type { Config } from '../config/settings.js';
import { fileStoreDir, openStore } from '../open-store.js';
import { judgeBucket } from './bucket-settings.js';
import { judgeForeign, judgeOwner, ownerOf } from './catalog-owner.js';
import { judgeClock } from './clock.js';
import { withoutNewDirectories } from './data-dir.js';
import { type Finding, info, ok } from './finding.js';
import { storeFailure } from './store-failure.js';
import { probeStore } from './store-probe.js';
import { messageOf } from './words.js';

/** Whether it can be used; then what it does, by doing, and what the bucket's settings do. */
export async function checkStore(config: Config, call: CallOptions): Promise<Finding[]> {
  try {
    return await withStore(config, async (store) => {
      const { findings, isUsable } = await reach(store, config, call);
      if (!isUsable) return findings;
      const [done, told] = await Promise.all([probeStore(store, call), askBucket(store, config, call)]);
      return oneClock([...findings, ...done, ...told]);
    });
  } catch (error) {
    if (call.signal?.aborted) throw error;
    return [storeFailure('store.reach', config.store, error)];
  }
}

/** Whether store and catalog belong together. */
export async function checkOwner(config: Config, catalogId: string | undefined): Promise<Finding[]> {
  const found = await withStore(config, ownerOf);
  if ('foreign' in found) return [judgeForeign(found.foreign)];
  return [judgeOwner({ ...found, ...(catalogId === undefined ? {} : { catalogId }) })];
}

/** Opens the store and lets go of it; new directories of a file store go again. */
function withStore<T>(config: Config, run: (store: BlobStore) => Promise<T>): Promise<T> {
  const whole = async (): Promise<T> => {
    const store = await openStore(config);
    try {
      return await run(store);
    } finally {
      await store.close?.();
    }
  };
  return config.store === 'file' ? withoutNewDirectories(fileStoreDir(config.dataDir), whole) : whole();
}

/** The SDK goes by the server's clock, so a wrong one has some requests refused as well: that is the same cause. */
function oneClock(findings: readonly Finding[]): Finding[] {
  const clock = findings.find(({ id }) => id === 'store.clock');
  return findings.filter((finding) => finding.id !== 'store.clock' || finding === clock);
}

async function reach(
  store: BlobStore,
  config: Config,
  call: CallOptions,
): Promise<{ findings: Finding[]; isUsable: boolean }> {
  const clock = judgeClock('store.clock', 'the store', (await settingsOf(store, call))?.clockSkewMs);
  try {
    await store.ready?.(call);
    return { findings: [ok('store.reach', `${nameOf(config)} answers`), ...clock], isUsable: true };
  } catch (error) {
    const cause = await sayingMore(store, error, call);
    // what a wrong clock leads to is not a finding of its own
    const isClock =
      clock.some(({ severity }) => severity === 'fail') && isLpsError(cause) && cause.details.status === 403;
    return { findings: isClock ? clock : [storeFailure('store.reach', store.name, cause), ...clock], isUsable: false };
  }
}

/** A refused HEAD has no body, so no reason; a list has one. */
async function sayingMore(store: BlobStore, error: unknown, call: CallOptions): Promise<unknown> {
  if (!isLpsError(error) || error.details.status !== 403) return error;
  try {
    for await (const _ of store.list('.lps/', call)) break;
    return error;
  } catch (more) {
    return isLpsError(more) ? more : error;
  }
}

async function settingsOf(store: BlobStore, call: CallOptions): Promise<BucketSettings | undefined> {
  try {
    return await store.settings?.(call);
  } catch {
    return undefined; // whether it can be reached is asked next
  }
}

async function askBucket(store: BlobStore, config: Config, call: CallOptions): Promise<Finding[]> {
  // versions show in a store's answers as well, where its settings may not be read
  const seen: BucketSettings = store.can.versions ? { versioning: 'on' } : {};
  if (store.settings === undefined) return [];
  try {
    return judgeBucket({ ...seen, ...(await store.settings(call)) }, prefixOf(config));
  } catch (error) {
    return [info('bucket.settings', `the settings of the bucket cannot be read: ${messageOf(error)}`)];
  }
}

export function prefixOf({ store, s3Prefix, gcsPrefix, azurePrefix }: Config): string {
  return { s3: s3Prefix, gcs: gcsPrefix, azure: azurePrefix }[store as string] ?? '';
}

function nameOf({ store, s3Bucket, gcsBucket, azureContainer }: Config): string {
  const bucket = { s3: s3Bucket, gcs: gcsBucket, azure: azureContainer }[store as string];
  return bucket === undefined ? `store ${store}` : `${store} bucket ${bucket}`;
}
