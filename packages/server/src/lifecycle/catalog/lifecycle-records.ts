/** Between rows of the collection's tables and what they stand for. */
import { keyOf, physicalKeyOf } from '../../catalog/blob-record.js';
import type { Row } from '../../catalog/database.js';
import type { HolderKind } from '../holders/holder-kind.js';
import type {
  Brake,
  BrakeKind,
  HolderOfBlob,
  HolderRow,
  KnownNamespace,
  Mark,
  Pin,
  RetiredObject,
  SweptBlob,
} from '../lifecycle-catalog.js';

export function toKnownNamespace(row: Row): KnownNamespace {
  return {
    id: BigInt(String(row.namespace_row)),
    cluster: String(row.cluster),
    name: String(row.name),
    identity: {
      clusterId: String(row.cluster_id),
      namespaceId: String(row.temporal_id),
      serverVersion: String(row.server_version),
    },
  };
}

export function toMark(row: Row, namespace: KnownNamespace): Mark {
  return {
    id: BigInt(String(row.id)),
    namespace,
    startedAt: row.started_at as Date,
    ...(row.ended_at === null ? {} : { endedAt: row.ended_at as Date }),
    isComplete: row.is_complete === true,
    gaps: row.gaps as string[],
    retentionMs: Number(row.retention_ms),
    holders: Number(row.holders),
    scanned: Number(row.scanned),
  };
}

export function toHolder(row: Row): HolderRow {
  return {
    id: BigInt(String(row.id)),
    kind: row.kind as HolderKind['name'],
    externalId: String(row.external_id),
    ...(row.cursor === null ? {} : { cursor: String(row.cursor) }),
    isDone: row.is_done === true,
    ...(row.gone_at === null ? {} : { goneAt: row.gone_at as Date }),
  };
}

export function toHolderOfBlob(row: Row): HolderOfBlob {
  return {
    namespace: toKnownNamespace(row),
    holder: toHolder(row),
    isByDigestAlone: row.by_digest_alone === true,
    ...(row.lost_at === null ? {} : { lostAt: row.lost_at as Date }),
  };
}

export function toSwept(row: Row): SweptBlob {
  const key = keyOf(row, String(row.namespace));
  return {
    id: BigInt(String(row.id)),
    key,
    physicalKey: physicalKeyOf(key, String(row.physical_suffix)),
    generation: Number(row.generation),
    size: Number(row.size),
  };
}

export function toRetired(row: Row): RetiredObject {
  return {
    blobId: BigInt(String(row.blob_id)),
    generation: Number(row.generation),
    physicalKey: String(row.physical_key),
    size: Number(row.size),
  };
}

export function toPin(row: Row): Pin {
  return {
    id: String(row.id),
    key: String(row.key),
    owner: String(row.owner),
    reason: String(row.reason),
    createdAt: row.created_at as Date,
    ...(row.expires_at === null ? {} : { expiresAt: row.expires_at as Date }),
  };
}

export function toBrake(row: Row): Brake {
  return {
    kind: row.kind as BrakeKind,
    ...(row.namespace === '' ? {} : { blobNamespace: String(row.namespace) }),
    reason: String(row.reason),
    since: row.since as Date,
  };
}
