/**
 * URLs that were given out for uploads past the service: whoever takes a blob down waits until none of them can bring its
 * object back. A row is committed before its URL is given out.
 */
import { LpsError } from '@large-payload/core';
import type { Lease } from '../catalog/catalog.js';
import type { Database } from '../catalog/database.js';
import type { LeaderTask } from '../durable/leader-tasks.js';

/** The bucket looks at its clock when a request begins: bytes that began in time may come for so long after the end. */
export const lateUploadMs = 3_600_000;

const keptMs = 24 * 3_600_000;
const pruneEveryMs = 3_600_000;
const rowsPerPrune = 10_000;

export interface UploadUrls {
  /**
   * Of a URL that was signed just now and lives for `lifetimeMs`. Throws TRY_AGAIN when the lease is over, or the blob was
   * taken down since: the URL must not be given out then. CATALOG_UNAVAILABLE.
   */
  note(lease: Pick<Lease, 'id' | 'physicalKey'>, lifetimeMs: number): Promise<void>;
  readonly task: LeaderTask;
}

export interface UploadUrlsOptions {
  readonly database: Database;
  readonly schema: string;
  /** Default: `lateUploadMs`. */
  readonly lateMs?: number;
}

export function openUploadUrls({ database, schema, lateMs = lateUploadMs }: UploadUrlsOptions): UploadUrls {
  const url = `${schema}.upload_url`;
  const note = {
    name: 'lps_note_upload_url',
    text: `INSERT INTO ${url} (physical_key, expires_at)
      SELECT $1, clock_timestamp() + $2::float8 * interval '1 millisecond'
      FROM ${schema}.lease l JOIN ${schema}.blob b ON b.id = l.blob_id AND b.generation = l.generation
      WHERE l.id = $3 AND l.expires_at > now() AND b.state <> 'taken_down'
      ON CONFLICT DO NOTHING RETURNING physical_key`,
  };
  const prune = {
    name: 'lps_prune_upload_urls',
    text: `DELETE FROM ${url} WHERE ctid = ANY(ARRAY(SELECT ctid FROM ${url}
        WHERE expires_at < now() - $1::float8 * interval '1 millisecond' ORDER BY expires_at LIMIT $2))
      RETURNING physical_key`,
  };
  return {
    async note({ id, physicalKey }, lifetimeMs) {
      const noted = await database.run(note, [physicalKey, lifetimeMs + lateMs, id]);
      if (noted.length === 0) throw new LpsError('TRY_AGAIN', 'the right to upload has ended; ask for another one');
    },
    task: {
      name: 'forgetting URLs for uploads',
      everyMs: pruneEveryMs,
      async run() {
        while ((await database.run(prune, [keptMs, rowsPerPrune])).length === rowsPerPrune);
      },
    },
  };
}
