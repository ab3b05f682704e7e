/** What a refusal of a store means, and what to do about it. */
import { isLpsError } from '@large-payload/core';
import { type FailingId, type Finding, fail } from './finding.js';
import { messageOf } from './words.js';

const s3Rights: Partial<Record<FailingId, string>> = {
  'store.reach': 's3:ListBucket',
  'store.put': 's3:PutObject',
  'store.conditional-put': 's3:PutObject',
  'store.get': 's3:GetObject',
  'store.range': 's3:GetObject',
  'store.head': 's3:GetObject, s3:ListBucket',
  'store.list': 's3:ListBucket',
  'store.delete': 's3:DeleteObject; with versions s3:ListBucketVersions and s3:DeleteObjectVersion as well',
};

/** The right on S3 that a step needs; other stores have such ones. */
export function rightsFor(id: FailingId): string {
  return s3Rights[id] ?? 'read, write, list, delete';
}

const unknownKey = 'the server does not know this access key: look at AWS_ACCESS_KEY_ID, the profile, or the role';

const todos: Readonly<Record<string, string>> = {
  InvalidAccessKeyId: unknownKey,
  XAdminUserNotFound: unknownKey, // versitygw's word for it
  SignatureDoesNotMatch: 'the secret does not belong to the access key: look at AWS_SECRET_ACCESS_KEY',
  ExpiredToken: 'the session has expired: get new temporary keys',
  NoSuchBucket: 'make the bucket, or correct its name',
  NotImplemented: 'see the settings --s3-conditional-put, --no-s3-checksums and --s3-storage-class',
};

/** The finding for a step that the store answered with an error. */
export function storeFailure(id: FailingId, storeName: string, error: unknown): Finding {
  if (isLpsError(error) && error.details.s3Code === 'RequestTimeTooSkewed') {
    return fail('store.clock', "the store's clock and ours are more than 15 minutes apart", 'set the clocks by NTP');
  }
  const step = id.slice('store.'.length);
  const what = id === 'store.reach' ? `the ${storeName} store cannot be used` : `${step} fails`;
  return fail(id, `${what}: ${messageOf(error)}`, todoFor(id, storeName, error));
}

function todoFor(id: FailingId, storeName: string, error: unknown): string {
  if (!isLpsError(error)) return 'report this, with what you see';
  const { s3Code, status } = error.details;
  const known = typeof s3Code === 'string' ? todos[s3Code] : undefined;
  if (known !== undefined) return known;
  if (storeName === 'file') return 'look at the rights and the room of the data directory (see data-dir above)';
  if (error.code === 'STORE_FULL') return 'make room, or raise the quota';
  if (error.code === 'STORE_UNAVAILABLE')
    return 'look at the endpoint, the network between here and there, and the server itself';
  if (status === 403 || status === 401) {
    return storeName === 's3'
      ? `give the keys the right ${rightsFor(id)}`
      : 'give the account the rights to read, write, list and delete';
  }
  if (error.code === 'CONFIG_INVALID') return 'correct the setting';
  return 'look at the settings of the store, and at its own log';
}
