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
     * $1 to $4 as in lookupMany, $5 sizes, $6 suffixes, $7 times of writing or null, $8 names of the objects. A row that came
     * meanwhile knows better. The last touch of what is new here is now: nobody knows when it was used before. What a
     * takedown erases, or blocks, is not taken in.
     */
    adoptMany: named(
      'adopt_many',
      `
      INSERT INTO ${blob} (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix, created_at)
      SELECT namespace, prefix, digest, metadata_digest, size, 'live', CASE suffix WHEN '' THEN 1 ELSE 2 END, suffix,
        least(now(), coalesce(written_at, now()))
      FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bigint[], $6::text[], $7::timestamptz[], $8::text[])
        found (namespace, prefix, digest, metadata_digest, size, suffix, written_at, name)
      WHERE NOT EXISTS (SELECT FROM ${schema}.takedown_blob WHERE physical_key = found.name)
        AND NOT EXISTS (${blockOf(schema, 'found')})
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
     * The object is right: $1 id, $2 generation, $3 its size, $4 the suffix of its name, $5 its name. Heals a damaged row, corrects a
     * wrong size, follows the object to another name; with $6 also from one that was taken down, to what was uploaded since.
     * All from one version of the row, so no mixture can arise.
     */
    setRight: named(
      'set_right',
      `
      UPDATE ${blob} b SET
        state = CASE WHEN state IN ('damaged', 'taken_down') THEN 'live' ELSE state END, damaged_at = NULL,
        size = $3, physical_suffix = $4, generation = generation + 1,
        created_at = CASE state WHEN 'taken_down' THEN now() ELSE created_at END,
        touched_at = CASE state WHEN 'taken_down' THEN greatest(touched_at, now()) ELSE touched_at END
      WHERE id = $1 AND generation = $2 AND (state IN ('live', 'quarantined', 'damaged')
          OR (state = 'taken_down' AND $6 AND NOT EXISTS (${blockOf(schema, 'b')})))
        AND NOT EXISTS (SELECT FROM ${schema}.takedown_blob WHERE physical_key = $5) RETURNING id`,
    ),

    markRebuilt: named('mark_rebuilt', `UPDATE ${schema}.catalog SET rebuilt_at = now()`),
    renumberEvents: named('renumber_events', renumberEvents(schema)),

    ...takedownStatements(schema, blob),

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

/**
 * The numbers of events go on far behind all that were ever given out by the catalog that was lost: whoever has heard of
 * those forgets everything that it keeps.
 */
export function renumberEvents(schema: string): string {
  const now = '(extract(epoch from now()) * 1000)::bigint';
  return `UPDATE ${schema}.event_counter SET last = greatest(last, ${now}), forgotten = greatest(last, ${now})`;
}

function blockOf(schema: string, row: string): string {
  return `SELECT FROM ${schema}.block k WHERE k.namespace = ${row}.namespace AND k.digest = ${row}.digest
    AND (k.is_any_prefix OR k.prefix = ${row}.prefix)`;
}

function takedownStatements(schema: string, blob: string) {
  const [takedown, names] = [`${schema}.takedown`, `${schema}.takedown_blob`];
  return {
    /**
     * $1 id, $2 namespace, $3 selector, $4 same digest, $5 blocks, $6 reason, $7 by, $8 requested, $9 accepted at, $10 words.
     * Accepted, so it is proven once more. Looked for long ago: what was uploaded since is not meant.
     */
    restoreTakedown: {
      text: `INSERT INTO ${takedown} (id, namespace, selector, with_same_digest, is_blocking, reason, requested_by, requested_at,
          state, accepted_at, looked_at, problem)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'accepted', $9, to_timestamp(0), $10) ON CONFLICT (id) DO NOTHING`,
    },
    /** $1 id, $2 names, $3 keys, $4 sizes. */
    restoreNames: {
      text: `INSERT INTO ${names} (takedown_id, physical_key, key, size)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::bigint[]) ON CONFLICT DO NOTHING RETURNING physical_key`,
    },
    /** $1 id, $2 namespace, $3 digests, $4 any, $5 prefixes. Only with the takedown: a catalog that has it knows what was ended. */
    restoreBlocks: {
      text: `INSERT INTO ${schema}.block (namespace, digest, is_any_prefix, prefix, takedown_id)
        SELECT $2, b.*, $1::uuid FROM unnest($3::bytea[], $4::boolean[], $5::text[]) AS b (digest, is_any_prefix, prefix)
        WHERE EXISTS (SELECT FROM ${takedown} WHERE id = $1::uuid AND event IS NULL AND looked_at = to_timestamp(0))
        ON CONFLICT DO NOTHING RETURNING digest`,
    },
    /** $1 names of objects. With the time from which on an object under another name of the key is new data. */
    erased: named(
      'erased_names',
      `SELECT n.physical_key, max(coalesce(t.accepted_at, 'infinity')) AS accepted_at
       FROM ${names} n JOIN ${takedown} t ON t.id = n.takedown_id WHERE n.physical_key = ANY($1::text[]) GROUP BY 1`,
    ),
    /** $1 to $4 as in lookupMany; `at` is the position in them, from 1. */
    blocked: named(
      'blocked_keys',
      `SELECT wanted.at::int FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[])
        WITH ORDINALITY wanted (namespace, prefix, digest, metadata_digest, at) WHERE EXISTS (${blockOf(schema, 'wanted')})`,
    ),
    /** $1 behind this name, $2 limit. */
    erasedAfter: named(
      'erased_after',
      `SELECT physical_key, max(key) AS key, max(size) AS size FROM ${names} WHERE physical_key > $1
       GROUP BY physical_key ORDER BY physical_key LIMIT $2`,
    ),
    /**
     * $1 to $4 as in lookupMany, $5 sizes, $6 suffixes: rows whose object is one of these are taken down, and so are those
     * of keys that have none. A later generation stays.
     */
    takeDownErased: {
      text: `
      WITH erased AS MATERIALIZED (
        SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bigint[], $6::text[])
          e (namespace, prefix, digest, metadata_digest, size, suffix)
      ), due AS MATERIALIZED (
        SELECT b.id, b.physical_suffix FROM ${blob} b JOIN erased e USING (namespace, prefix, digest, metadata_digest)
        WHERE b.physical_suffix = e.suffix AND b.state NOT IN ('gone', 'taken_down') ORDER BY b.id FOR NO KEY UPDATE OF b
      ), changed AS (
        UPDATE ${blob} b SET state = 'taken_down', quarantined_at = NULL, damaged_at = NULL FROM due
        WHERE b.id = due.id AND b.physical_suffix = due.physical_suffix RETURNING b.id
      ), added AS (
        INSERT INTO ${blob} (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix)
        SELECT DISTINCT ON (namespace, prefix, digest, metadata_digest) namespace, prefix, digest, metadata_digest, size,
          'taken_down', CASE suffix WHEN '' THEN 1 ELSE 2 END, suffix
        FROM erased ORDER BY namespace, prefix, digest, metadata_digest, suffix DESC
        ON CONFLICT DO NOTHING RETURNING id
      )
      SELECT id FROM changed UNION ALL SELECT id FROM added`,
    },
    /** As above. Each name belongs to the row whose object it is. */
    nameErased: {
      text: `UPDATE ${names} t SET blob_id = b.id
        FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bigint[], $6::text[], $7::text[])
          e (namespace, prefix, digest, metadata_digest, size, suffix, name)
        JOIN ${blob} b USING (namespace, prefix, digest, metadata_digest)
        WHERE t.physical_key = e.name AND t.blob_id IS NULL AND b.physical_suffix = e.suffix`,
    },
  };
}

function named(name: string, text: string): Statement {
  return { name: `lps_${name}`, text: text.trim() };
}
