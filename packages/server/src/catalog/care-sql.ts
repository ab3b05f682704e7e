/**
 * The statements of the hand tools. The rules of sql.ts hold here too: each is one transaction and safe alone, decides
 * only on what it holds the lock of, takes blob rows in the order of their ids, and lets Postgres tell the time.
 *
 * None of them touches: `touched_at` of a row that exists is never written.
 */
import type { Statement } from './database.js';

const columns = `b.id, b.namespace, b.prefix, encode(b.digest, 'hex') AS digest,
  encode(b.metadata_digest, 'hex') AS metadata_digest, b.size, b.state, b.generation, b.physical_suffix`;

export function careStatements(schema: string) {
  const blob = `${schema}.blob`;
  const scrub = `${schema}.scrub`;
  return {
    isEmpty: named('is_empty', `SELECT NOT EXISTS (SELECT FROM ${blob}) AS empty`),

    lastId: named('last_id', `SELECT coalesce(max(id), 0)::text AS id FROM ${blob}`),

    /** $1 behind this id, $2 up to this one, $3 limit. Every state, so that a page never takes long. */
    rowsAfter: named('rows_after', `SELECT ${columns} FROM ${blob} b WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3`),

    /** $1 to $4 are arrays: namespaces, prefixes, digests, metadata digests. */
    lookupMany: named(
      'care_lookup_many',
      `
      SELECT ${columns}
      FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[]) wanted (namespace, prefix, digest, metadata_digest)
      JOIN ${blob} b USING (namespace, prefix, digest, metadata_digest)`,
    ),

    /** $1 blob ids. What is about to be deleted. */
    retired: named('retired', `SELECT physical_key FROM ${schema}.retired_object WHERE blob_id = ANY($1::bigint[])`),

    /**
     * $1 to $4 as in lookupMany, $5 sizes, $6 suffixes, $7 times of writing or null. A row that came meanwhile knows
     * better. The last touch of what is new here is now: nobody knows when it was used before.
     */
    adoptMany: named(
      'adopt_many',
      `
      INSERT INTO ${blob} (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix, created_at)
      SELECT namespace, prefix, digest, metadata_digest, size, 'live', CASE suffix WHEN '' THEN 1 ELSE 2 END, suffix,
        least(now(), coalesce(written_at, now()))
      FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bigint[], $6::text[], $7::timestamptz[])
        found (namespace, prefix, digest, metadata_digest, size, suffix, written_at)
      ORDER BY namespace, prefix, digest, metadata_digest
      ON CONFLICT DO NOTHING RETURNING id`,
    ),

    /** $1 ids, $2 generations: what was found out about another generation does not count. */
    markDamagedMany: named(
      'mark_damaged_many',
      `
      WITH due AS MATERIALIZED (
        SELECT b.id FROM ${blob} b
        JOIN unnest($1::bigint[], $2::int[]) found (id, generation) ON b.id = found.id AND b.generation = found.generation
        WHERE b.state IN ('live', 'quarantined') ORDER BY b.id FOR NO KEY UPDATE OF b
      )
      UPDATE ${blob} b SET state = 'damaged', damaged_at = now(), quarantined_at = NULL
      FROM due WHERE b.id = due.id RETURNING b.id`,
    ),

    /**
     * The object is right: $1 id, $2 generation, $3 its size, $4 the suffix of its name. Heals a damaged row, corrects a
     * wrong size, follows the object to another name. All from one version of the row, so no mixture can arise.
     */
    setRight: named(
      'set_right',
      `
      UPDATE ${blob} SET
        state = CASE state WHEN 'damaged' THEN 'live' ELSE state END, damaged_at = NULL,
        size = $3, physical_suffix = $4, generation = generation + 1
      WHERE id = $1 AND generation = $2 AND state IN ('live', 'quarantined', 'damaged') RETURNING id`,
    ),

    markRebuilt: named('mark_rebuilt', `UPDATE ${schema}.catalog SET rebuilt_at = now()`),

    /** First of the transactions about a pass: one process at a time gets past it. */
    lockScrub: { text: `SELECT * FROM ${scrub} FOR UPDATE` },
    /** Two processes may meet in the insert: the second one gets the conflict, and finds the first one's row. */
    newScrub: {
      text: `INSERT INTO ${scrub} (until_id) SELECT coalesce(max(id), 0) FROM ${blob} ON CONFLICT DO NOTHING`,
    },
    goOnWithScrub: { text: `UPDATE ${scrub} SET epoch = epoch + 1 RETURNING *` },
    restartScrub: {
      text: `UPDATE ${scrub} SET epoch = epoch + 1, started_at = now(), saved_at = now(), finished_at = NULL,
        after_id = 0, until_id = (SELECT coalesce(max(id), 0) FROM ${blob}),
        blobs = 0, bytes = 0, damaged = 0, marked = 0, healed = 0, unreadable = 0, elapsed_ms = 0
        RETURNING *`,
    },
    /** $1 to $8 what to add, in the order of the columns; $1 is the new position, $9 whether that was the last step. */
    saveScrub: {
      text: `UPDATE ${scrub} SET saved_at = now(), after_id = $1, blobs = blobs + $2, bytes = bytes + $3,
        damaged = damaged + $4, marked = marked + $5, healed = healed + $6, unreadable = unreadable + $7,
        elapsed_ms = elapsed_ms + $8, finished_at = CASE WHEN $9 THEN now() END
        RETURNING *`,
    },
  };
}

function named(name: string, text: string): Statement {
  return { name: `lps_${name}`, text: text.trim() };
}
