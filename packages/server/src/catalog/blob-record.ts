/** Between a row of the table `blob` and a `BlobRow`; between a key and its columns. */
import { type BlobKey, type Digest, formatKey, hexOf, LpsError } from '@large-payload/core';
import type { BlobState } from './catalog.js';
import type { Row } from './database.js';
import { type LiveRow, type Moment, moment } from './row-cache.js';

/** What turns a time of the last touch into a promise. */
export interface Protection {
  readonly graceMs: number;
  readonly touchIntervalMs: number;
}

/** namespace, prefix ('' for none), digest, metadata digest: the first four parameters of every statement by key. */
export function keyColumns(key: BlobKey): [string, string, Buffer, Buffer] {
  return [key.namespace, key.prefix ?? '', bytesOf(key.digest), bytesOf(key.metadataDigest)];
}

export function bytesOf(digest: Digest): Buffer {
  return Buffer.from(hexOf(digest), 'hex');
}

/** The logical key, whatever generation was asked for. */
export function logicalKey({ generation: _, ...key }: BlobKey): string {
  return formatKey(key);
}

export function physicalKeyOf(key: string, suffix: string): string {
  return suffix === '' ? key : `${key}~${suffix}`;
}

/** The part of a physical key behind the "~"; '' for the first generation. Throws INVALID_KEY when it is of another key. */
export function suffixOf(key: string, physicalKey: string): string {
  if (physicalKey === key) return '';
  if (physicalKey.startsWith(`${key}~`)) return physicalKey.slice(key.length + 1);
  throw new LpsError('INVALID_KEY', 'the object does not belong to this key');
}

/** The key in a row of the statement `list` or `claimExpired`. */
export function keyOf(row: Row, namespace: string): string {
  const prefix = String(row.prefix);
  return formatKey({
    namespace,
    ...(prefix === '' ? {} : { prefix }),
    digest: `sha256:${String(row.digest)}`,
    metadataDigest: `sha256:${String(row.metadata_digest)}`,
  });
}

/** `askedAt` is a moment before the statement was sent: so `touchDue` comes early rather than late. */
export function toLiveRow(row: Row, key: string, protection: Protection, askedAt: Moment): LiveRow {
  const state = row.state as BlobState;
  const touchedAt = row.touched_at as Date;
  const untilDueMs = protection.touchIntervalMs - Number(row.age_ms);
  return {
    dueAt: moment(untilDueMs, askedAt),
    row: {
      id: BigInt(String(row.id)),
      key,
      physicalKey: physicalKeyOf(key, String(row.physical_suffix)),
      size: Number(row.size),
      state,
      generation: Number(row.generation),
      touchedAt,
      protectedUntil: new Date(touchedAt.getTime() + protection.graceMs),
      touchDue: state === 'quarantined' || untilDueMs <= 0,
    },
  };
}
