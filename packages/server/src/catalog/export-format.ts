/**
 * The backup of a catalog: text, one JSON object a line, each ended by a line feed; perhaps all of it under gzip. (Postgres
 * writes the rows, with a blank around each colon.)
 *
 *   {"format":"lps-catalog","version":1,"catalog":"5f0c…","createdAt":"2026-11-21T09:00:00.000000Z","exportedAt":"…"}
 *   {"table":"blob","id":"17","namespace":"orders","prefix":"","digest":"9f86…","metadataDigest":"e3b0…","size":42,
 *    "state":"live","generation":1,"suffix":"","createdAt":"…","touchedAt":"…","quarantinedAt":null,"damagedAt":null}
 *   {"table":"retired_object","blobId":"17","generation":1,"physicalKey":"/blobs/…","size":42,"retiredAt":"…"}
 *   {"end":{"blob":1,"retired_object":1},"sha256":"…"}
 *
 * Times are in UTC, to the microsecond. Rows are in the order of their ids, table by table. The last line counts the
 * rows, and has the SHA-256 of every byte before it: a file that was cut off, or changed, is refused.
 *
 * `version` goes up when there is a line that an older program would misunderstand; a table that it does not know is
 * such a line. Leases are not part of it: no upload outlives a restore.
 */
import { type BlobKey, formatKey, LpsError, parseKey } from '@large-payload/core';
import { z } from 'zod';

export const formatName = 'lps-catalog';
export const formatVersion = 1;

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

const endLine = z.strictObject({
  end: z.strictObject({ blob: z.number().int(), retired_object: z.number().int() }),
  sha256: hex,
});

const line = z.union([blobLine, retiredLine, endLine]);

export type ExportHeader = z.infer<typeof header>;
export type ExportLine = z.infer<typeof line>;
export type RowLine = Exclude<ExportLine, { end: unknown }>;

/** Rows by table. */
export type ExportCounts = Record<RowLine['table'], number>;

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
