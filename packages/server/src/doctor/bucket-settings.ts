/** What a bucket's own settings do to blobs. */
import type { BucketSettings, LifecycleRule } from '@large-payload/core';
import { type Finding, fail, info, ok, warn } from './finding.js';

/** Storage classes from which nothing can be read at once. */
const frozenClasses = new Set(['GLACIER', 'DEEP_ARCHIVE', 'Archive']);

/** `prefix`: what stands before every object's name. */
export function judgeBucket(settings: BucketSettings, prefix: string): Finding[] {
  return [...versioning(settings), ...softDelete(settings), ...retention(settings), ...lifecycle(settings, prefix)];
}

function versioning({ versioning }: BucketSettings): Finding[] {
  if (versioning === undefined) return [unread('whether the bucket keeps versions', 's3:GetBucketVersioning')];
  if (versioning === 'off') return [ok('bucket.versioning', 'no versions')];
  const seen =
    versioning === 'on'
      ? 'the bucket keeps versions: deleting a blob removes each of them, and what is overwritten goes on costing'
      : 'the bucket has kept versions before, and may still hold old ones';
  const todo =
    'grant the right to list and delete versions (s3:ListBucketVersions, s3:DeleteObjectVersion), and add a lifecycle rule for noncurrent versions; or use a bucket without versions';
  return [warn('bucket.versioning', seen, todo)];
}

function softDelete({ softDeleteDays }: BucketSettings): Finding[] {
  if (softDeleteDays === undefined) return [];
  if (softDeleteDays === 0) return [ok('bucket.soft-delete', 'no soft delete')];
  const seen = `deleted objects can be restored for ${days(softDeleteDays)}: until then a takedown has not erased them`;
  return [warn('bucket.soft-delete', seen, 'turn soft delete off, or count its time into what you promise')];
}

function retention({ retention }: BucketSettings): Finding[] {
  if (retention === undefined) return [];
  if (!retention) return [ok('bucket.retention', 'no retention')];
  const seen = 'the bucket keeps objects from being deleted (object lock, retention or hold): deletes may be refused';
  return [
    warn('bucket.retention', seen, 'use a bucket without it: takedowns and the collection must be able to delete'),
  ];
}

function lifecycle({ lifecycle }: BucketSettings, prefix: string): Finding[] {
  if (lifecycle === undefined) return [unread('the lifecycle rules of the bucket', 's3:GetLifecycleConfiguration')];
  const findings = lifecycle.filter((rule) => meetsBlobs(rule.prefix, prefix)).flatMap(judgeRule);
  return findings.length > 0 ? findings : [ok('bucket.lifecycle', 'no rule that touches blobs')];
}

/** Whether one of the prefixes holds the other. A key's own leading slash is part of its name. */
function meetsBlobs(rule: string, prefix: string): boolean {
  return ['/blobs/', 'blobs/', '.lps/'].some((root) => {
    const ours = prefix + root;
    return ours.startsWith(rule) || rule.startsWith(ours);
  });
}

function judgeRule({ id, action, afterDays, storageClass = 'another class' }: LifecycleRule): Finding[] {
  const rule = `the rule ${JSON.stringify(id)}`;
  const when = afterDays === undefined ? '' : ` after ${days(afterDays)}`;
  if (action === 'delete') {
    const todo = 'remove the rule, or give it a prefix that no blob has: only the service knows what is still needed';
    return [fail('bucket.lifecycle', `this bucket deletes blobs by itself${when} (${rule})`, todo)];
  }
  if (action !== 'transition') return []; // what is left of old versions and broken uploads should go
  if (frozenClasses.has(storageClass)) {
    const seen = `${rule} moves blobs to ${storageClass}${when}, from where they cannot be read at once`;
    return [fail('bucket.lifecycle', seen, 'use a class that can be read at once, such as INTELLIGENT_TIERING')];
  }
  return [info('bucket.lifecycle', `${rule} moves blobs to ${storageClass}${when}`)];
}

function unread(what: string, right: string): Finding {
  return info('bucket.settings', `${what} cannot be read`, `allow it (on S3 ${right}), or look for yourself`);
}

function days(count: number): string {
  return count === 1 ? '1 day' : `${Math.round(count * 10) / 10} days`;
}
