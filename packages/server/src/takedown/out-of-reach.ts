/** What a takedown cannot erase: for the receipt, one sentence each, with what the operator must do about it. */
import type { BlobStore, BucketSettings } from '@large-payload/core';

/** Stores whose buckets have settings of their own. */
type Bucket = 's3' | 'gcs' | 'azure';

/** Asks the store for its settings now. Throws STORE_UNAVAILABLE when its server cannot be reached. */
export async function outOfReach(store: BlobStore): Promise<string[]> {
  const settings = (await store.settings?.()) ?? {};
  return [...(isBucket(store.name) ? ofBucket(store.name, settings) : ofDisk(store.name)), ...always];
}

/** Whatever the store is. */
const always: readonly string[] = [
  'Workers keep payloads that they have read in memory, for one hour at most: to be sooner, restart them.',
  'Backups and exports of the bucket and of the catalog’s database: delete them, or the blobs in them, by your own rules.',
  'Downloads that were begun by a presigned URL before the objects were deleted, and whatever else was read before: ask those who read it.',
  'The claims in workflow histories, the catalog’s row, the audit, this receipt and logs (of the service, of proxies, of the bucket) name the key and the digest, never the bytes: they end with the retention of each.',
];

const retentionSettings: Readonly<Record<Bucket, string>> = {
  s3: 'object lock',
  gcs: 'a retention policy, object retention or holds',
  azure: 'an immutability policy or a legal hold',
};

function ofBucket(bucket: Bucket, settings: BucketSettings): string[] {
  return [
    ...softDeleted(bucket, settings),
    ...versions(bucket, settings),
    ...retained(bucket, settings),
    ...unfinished(bucket, settings),
    'Copies in other buckets (replication, inventories, transfers): whether there are any, the service cannot see. Deletions of versions are not replicated: delete the same names there.',
  ];
}

function softDeleted(bucket: Bucket, { softDeleteDays, versioning }: BucketSettings): string[] {
  if (bucket === 's3' || softDeleteDays === 0) return [];
  const todo =
    bucket === 'gcs'
      ? 'set the bucket’s soft delete policy to 0 before the next takedown (gcloud storage buckets update --clear-soft-delete)'
      : 'switch soft delete off before the next takedown (az storage account blob-service-properties update --enable-delete-retention false)';
  if (softDeleteDays === undefined) {
    return [
      `Soft delete: the service may not ask whether the ${place(bucket)} keeps deleted objects. Look it up, and ${todo}.`,
    ];
  }
  const what = versioning === 'on' ? 'the deleted objects and their versions' : 'the deleted objects';
  return [
    `Soft delete: the ${place(bucket)} keeps ${what} for ${days(softDeleteDays)} more. Nobody can read or remove them meanwhile, but whoever administers it can restore them: do not, and ${todo}.`,
  ];
}

function versions(bucket: Bucket, { versioning }: BucketSettings): string[] {
  if (versioning === 'off') return [];
  if (versioning !== undefined) {
    return [
      `Versions: the ${place(bucket)} keeps old versions. Those of the names in this receipt were deleted and looked for; those of blobs that were deleted before this takedown knew their names were not: add a rule that deletes old versions.`,
    ];
  }
  return [
    `Versions: the service could not see whether the ${place(bucket)} keeps old versions. Look for some of the names in this receipt, and delete them.`,
  ];
}

function retained(bucket: Bucket, { retention }: BucketSettings): string[] {
  if (retention === false) return [];
  const setting = retentionSettings[bucket];
  if (retention === true) {
    return [
      `Retention: the ${place(bucket)} has ${setting}. What it protects cannot be deleted before its time, and then this takedown would not be complete; copies that it made by itself are not listed: let its administrator look.`,
    ];
  }
  return [
    `Retention: the service may not ask whether the ${place(bucket)} has ${setting}. Look it up: what it protects is not deleted.`,
  ];
}

/** Bytes that were sent and never became an object. */
function unfinished(bucket: Bucket, { lifecycle = [] }: BucketSettings): string[] {
  if (bucket === 'gcs') return [];
  if (bucket === 'azure') {
    return [
      'Blocks of uploads that broke off: nobody can read them, and Azure discards them a week after the last one of their blob.',
    ];
  }
  const isTidied = lifecycle.some(({ action, prefix }) => action === 'abort-uploads' && prefix === '');
  if (isTidied) return [];
  return [
    'Parts of multipart uploads, which this service never makes but other software may: list them (aws s3api list-multipart-uploads) and abort them, or add a lifecycle rule that does.',
  ];
}

function ofDisk(name: string): string[] {
  if (name !== 'file') return [];
  return [
    'What deleted files leave on the disk until it is overwritten, and snapshots of the file system: encrypt the disk, delete the snapshots.',
  ];
}

function isBucket(name: string): name is Bucket {
  return Object.hasOwn(retentionSettings, name);
}

/** What has the setting. */
function place(bucket: Bucket): string {
  return bucket === 'azure' ? 'storage account' : 'bucket';
}

function days(count: number): string {
  const rounded = Math.ceil(count);
  return rounded === 1 ? 'one day' : `${rounded} days`;
}
