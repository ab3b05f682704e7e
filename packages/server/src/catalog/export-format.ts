/**
 * The backup of a catalog: text, one JSON object a line, each ended by a line feed; perhaps all of it under gzip. (Postgres
 * writes the rows, with a blank around each colon.)
 *
 *   {"format":"lps-catalog","version":1,"catalog":"5f0c…","createdAt":"2026-11-21T09:00:00.000000Z","exportedAt":"…"}
 *   {"table":"blob","id":"17","namespace":"orders","prefix":"","digest":"9f86…","metadataDigest":"e3b0…","size":42,
 *    "state":"live","generation":1,"suffix":"","createdAt":"…","touchedAt":"…","quarantinedAt":null,"damagedAt":null}
 *   {"table":"retired_object","blobId":"17","generation":1,"physicalKey":"/blobs/…","size":42,"retiredAt":"…"}
 *   {"table":"takedown","id":"7b0e…","namespace":"orders","selector":{…},…,"state":"completed","receipt":"…"}
 *   {"table":"takedown_blob","takedownId":"7b0e…","physicalKey":"/blobs/…","key":"/blobs/…","blobId":"17","size":42,…}
 *   {"table":"takedown_digest","takedownId":"7b0e…","digest":"9f86…"}
 *   {"table":"block","namespace":"orders","digest":"9f86…","isAnyPrefix":false,"prefix":"","takedownId":"7b0e…","createdAt":"…"}
 *   {"end":{"blob":1,"retired_object":1,"takedown":1,"takedown_blob":1,"takedown_digest":1,"block":1},"sha256":"…"}
 *
 * Times are in UTC, to the microsecond. Rows are in the order of their ids, table by table. The last line counts the
 * rows, and has the SHA-256 of every byte before it: a file that was cut off, or changed, is refused.
 *
 * `version` goes up when there is a line that an older program would misunderstand; a table that it does not know is
 * such a line. Leases, and URLs that were given out for uploads, are not part of it: no upload outlives a restore. Version 1
 * ended with the retired objects.
 */
import { type BlobKey, formatKey, LpsError, parseKey } from '@large-payload/core';
import { z } from 'zod';

export const formatName = 'lps-catalog';
export const formatVersion = 2;

const time = z.string().regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
const id = z.string().regex(/^[1-9]\d{0,18}$/);
const hex = z.string().regex(/^[0-9a-f]{64}$/);
const size = z.number().int().min(0);
const generation = z.number().int().min(1).max(2_147_483_647);

const header = z.object({
  format: z.literal(formatName),
  version: z.number().int(),
  catalog: z.uuid(),
  createdAt: time,
  exportedAt: time,
});

const blobLine = z.strictObject({
  table: z.literal('blob'),
  id,
  namespace: z.string(),
  prefix: z.string(),
  digest: hex,
  metadataDigest: hex,
  size,
  state: z.enum(['uploading', 'live', 'quarantined', 'deleting', 'gone', 'damaged', 'taken_down']),
  generation,
  suffix: z.string().regex(/^(?:[0-9a-z]{16})?$/),
  createdAt: time,
  touchedAt: time,
  quarantinedAt: time.nullable(),
  damagedAt: time.nullable(),
});

const retiredLine = z.strictObject({
  table: z.literal('retired_object'),
  blobId: id,
  generation,
  physicalKey: z.string().min(1),
  size,
  retiredAt: time,
});

const takedownLine = z.strictObject({
  table: z.literal('takedown'),
  id: z.uuid(),
  namespace: z.string(),
  selector: z.record(z.string(), z.unknown()),
  withSameDigest: z.boolean(),
  isBlocking: z.boolean(),
  reason: z.string(),
  requestedBy: z.string(),
  requestedAt: time,
  state: z.enum(['planning', 'accepting', 'accepted', 'completed', 'failed']),
  acceptedAt: time.nullable(),
  completedAt: time.nullable(),
  lookedAt: time.nullable(),
  problem: z.string().nullable(),
  receipt: z.string().nullable(),
});

const takedownBlobLine = z.strictObject({
  table: z.literal('takedown_blob'),
  takedownId: z.uuid(),
  physicalKey: z.string().min(1),
  key: z.string().min(1),
  blobId: id.nullable(),
  size,
  objects: z.number().int().min(0),
  erasedAt: time.nullable(),
});

const takedownDigestLine = z.strictObject({ table: z.literal('takedown_digest'), takedownId: z.uuid(), digest: hex });

const blockLine = z.strictObject({
  table: z.literal('block'),
  namespace: z.string(),
  digest: hex,
  isAnyPrefix: z.boolean(),
  prefix: z.string(),
  takedownId: z.uuid(),
  createdAt: time,
});

const rows = z.number().int();
const endLine = z.strictObject({
  end: z.strictObject({
    blob: rows,
    retired_object: rows,
    takedown: rows.default(0),
    takedown_blob: rows.default(0),
    takedown_digest: rows.default(0),
    block: rows.default(0),
  }),
  sha256: hex,
});

const line = z.union([blobLine, retiredLine, takedownLine, takedownBlobLine, takedownDigestLine, blockLine, endLine]);

export type ExportHeader = z.infer<typeof header>;
export type ExportLine = z.infer<typeof line>;
export type RowLine = Exclude<ExportLine, { end: unknown }>;

/** Rows by table. */
export type ExportCounts = Record<RowLine['table'], number>;

/** In the order in which they are written, and read: what refers to rows comes behind them. */
export const exportTables = [
  ...(['blob', 'retired_object', 'takedown', 'takedown_blob', 'takedown_digest', 'block'] as const),
] satisfies RowLine['table'][];

export function noRows(): ExportCounts {
  return { blob: 0, retired_object: 0, takedown: 0, takedown_blob: 0, takedown_digest: 0, block: 0 };
}

export function rowsIn(counts: Readonly<ExportCounts>): number {
  return exportTables.reduce((sum, table) => sum + counts[table], 0);
}

/** The first line. Throws INVALID_ARGUMENT for what is not an export, or one of a newer program. */
export function parseHeader(text: string): ExportHeader {
  const parsed = header.safeParse(parseJson(text));
  if (!parsed.success) throw refused(1, 'this is not the export of a catalog');
  if (parsed.data.version > formatVersion) {
    throw refused(
      1,
      `a newer program made this export (version ${parsed.data.version}, this one knows ${formatVersion})`,
    );
  }
  return parsed.data;
}

/** Any other line. `number` counts from 1. Throws INVALID_ARGUMENT. */
export function parseLine(text: string, number: number): ExportLine {
  const parsed = line.safeParse(parseJson(text));
  if (!parsed.success) throw refused(number, 'it is not a line of this format');
  if ('table' in parsed.data && parsed.data.table === 'blob') checkKey(parsed.data, number);
  return parsed.data;
}

/** An export that cannot be used: which line, and why. */
export function refused(number: number, reason: string): LpsError {
  return new LpsError('INVALID_ARGUMENT', `line ${number} of the export: ${reason}; nothing was imported`);
}

function checkKey({ namespace, prefix, digest, metadataDigest }: z.infer<typeof blobLine>, number: number): void {
  const key: BlobKey = {
    namespace,
    ...(prefix === '' ? {} : { prefix }),
    digest: `sha256:${digest}`,
    metadataDigest: `sha256:${metadataDigest}`,
  };
  try {
    parseKey(formatKey(key));
  } catch {
    throw refused(number, 'its namespace or prefix is not one');
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
