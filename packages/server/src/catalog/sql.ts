/**
 * Every statement of the catalog. Each is one transaction, READ COMMITTED, and safe alone:
 *
 * - What a decision is made of is read with the row's lock held (`ON CONFLICT DO UPDATE`, or `before … FOR NO KEY
 *   UPDATE`, which both see the newest version), never from the statement's snapshot. The one exception is a live row
 *   that was touched a moment ago: nothing is written then, and the answer was true when the statement began.
 * - `state` is never set without both of its times: Postgres checks constraints on the version in the statement's
 *   snapshot before it finds that there is a newer one, so a mixture of the two must pass as well.
 * - Lock order: blob rows, by id, then lease rows. So `lease` is only written from a CTE that has the blob's row.
 * - Times are Postgres' own. `greatest` because a statement that waited for a lock has an older now() than the one it
 *   waited for, and because clocks jump.
 */
import type { Statement } from './database.js';

/** The columns of a `BlobRow`; the key is known to whoever asks, except when listing. */
function columns(table: string): string {
  const names = ['id', 'size', 'state', 'generation', 'physical_suffix', 'touched_at'].map(
    (name) => `${table}.${name}`,
  );
  return `${names.join(', ')}, (extract(epoch from clock_timestamp() - ${table}.touched_at) * 1000)::float8 AS age_ms`;
}

const names = 'id, size, state, generation, physical_suffix, touched_at, age_ms';
const byKey = 'namespace = $1 AND prefix = $2 AND digest = $3 AND metadata_digest = $4';
const ms = (parameter: string): string => `${parameter} * interval '1 millisecond'`;

/** The statements for one schema; the parameters stand beside each, and $1 to $4 are the key's columns where it has one. */
export function statements(schema: string) {
  const blob = `${schema}.blob`;
  const lease = `${schema}.lease`;
  /** What may not be stored again. The names that takedowns erase are those of `erased`. */
  const blocked = `SELECT 1 FROM ${schema}.block WHERE namespace = $1 AND digest = $3 AND (is_any_prefix OR prefix = $2)`;
  const erased = (name: string): string => `EXISTS (SELECT FROM ${schema}.takedown_blob WHERE physical_key = ${name})`;
  const startsAnew = `b.state IN ('deleting', 'gone', 'taken_down')`;

  /**
   * $5 size, $6 new suffix, $7 touch interval, $8 lease time, $9 key. One row; its id is null when nothing was written:
   * blocked, or (`is_blocked` false) to be tried again, the row having been taken down while this waited for it. Blocks come
   * in the transaction that takes down, so whose snapshot has one has the other.
   */
  const begin = named(
    'begin',
    `
    WITH fresh AS MATERIALIZED (
      SELECT ${columns('b')} FROM ${blob} b
      WHERE ${byKey} AND state = 'live' AND touched_at > now() - ${ms('$7::float8')}
    ), blocked AS MATERIALIZED (${blocked}
    ), written AS (
      INSERT INTO ${blob} AS b (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix)
      SELECT $1, $2, $3, $4, $5, 'uploading', 1 + erased::int, CASE WHEN erased THEN $6 ELSE '' END
      FROM (SELECT ${erased('$9')} AS erased) name
      WHERE NOT EXISTS (SELECT FROM fresh) AND (NOT EXISTS (SELECT FROM blocked)
        OR EXISTS (SELECT FROM ${blob} WHERE ${byKey} AND state IN ('live', 'quarantined')))
      ON CONFLICT (namespace, prefix, digest, metadata_digest) DO UPDATE SET
        state = CASE WHEN b.state = 'quarantined' THEN 'live' WHEN ${startsAnew} THEN 'uploading' ELSE b.state END,
        quarantined_at = NULL,
        generation = b.generation + (${startsAnew})::int,
        physical_suffix = CASE WHEN ${startsAnew} THEN $6 ELSE b.physical_suffix END,
        size = CASE WHEN ${startsAnew} THEN $5 ELSE b.size END,
        created_at = CASE WHEN ${startsAnew} THEN now() ELSE b.created_at END,
        touched_at = CASE WHEN b.state = 'damaged' THEN b.touched_at ELSE greatest(b.touched_at, now()) END
      WHERE b.state IN ('live', 'quarantined') OR (NOT EXISTS (SELECT FROM blocked) AND (b.state <> 'taken_down'
        OR EXISTS (SELECT FROM ${blob} s WHERE s.id = b.id AND s.generation = b.generation AND s.state = 'taken_down')))
      RETURNING ${columns('b')}
    ), leased AS (
      INSERT INTO ${lease} (blob_id, generation, size, expires_at)
      SELECT id, generation, $5, clock_timestamp() + ${ms('$8::float8')} FROM written WHERE state IN ('uploading', 'damaged')
      RETURNING id AS lease_id, expires_at
    )
    SELECT found.*, CASE WHEN found.id IS NULL THEN EXISTS (SELECT FROM blocked) END AS is_blocked
    FROM (SELECT) one LEFT JOIN (
      SELECT fresh.*, NULL::bigint AS lease_id, NULL::timestamptz AS expires_at, false AS touched FROM fresh
      UNION ALL
      SELECT written.*, lease_id, expires_at, true FROM written LEFT JOIN leased ON true
    ) found ON true`,
  );

  /**
   * $5 size, $6 generation, $7 suffix, $8 overwrite, $9 lease id, $10 physical key. One row: `was` is the state before, null
   * when the row had vanished; `id` is null when nothing was written: blocked, erased, refused, or (`was` null as well) to be
   * tried again. What stands is used, and nothing stored: a block says nothing of it.
   */
  const commit = named(
    'commit',
    `
    WITH before AS MATERIALIZED (
      SELECT id, state, generation, physical_suffix FROM ${blob} WHERE ${byKey} FOR NO KEY UPDATE
    ), blocked AS MATERIALIZED (${blocked}
    ), updated AS (
      UPDATE ${blob} b SET
        state = 'live', quarantined_at = NULL, damaged_at = NULL,
        generation = b.generation + (before.state = 'damaged')::int,
        size = CASE WHEN before.state IN ('uploading', 'damaged') THEN $5 ELSE b.size END,
        touched_at = greatest(b.touched_at, now())
      FROM before
      WHERE b.id = before.id AND (
        before.state IN ('live', 'quarantined')
        OR (NOT EXISTS (SELECT FROM blocked) AND before.generation = $6
          AND ((before.state = 'uploading' AND before.physical_suffix = $7) OR (before.state = 'damaged' AND $8))))
      RETURNING ${columns('b')}
    ), inserted AS (
      INSERT INTO ${blob} AS b (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix)
      SELECT $1, $2, $3, $4, $5, 'live', $6, $7 WHERE NOT EXISTS (SELECT FROM before)
        AND NOT EXISTS (SELECT FROM blocked) AND NOT ${erased('$10')}
      ON CONFLICT DO NOTHING
      RETURNING ${columns('b')}
    ), settled AS (
      SELECT * FROM updated UNION ALL SELECT * FROM inserted
    ), ended AS (
      DELETE FROM ${lease} l USING settled WHERE l.id = $9
    )
    SELECT settled.*, (SELECT state FROM before) AS was, CASE WHEN settled.id IS NULL THEN EXISTS (SELECT FROM blocked) END AS is_blocked,
      CASE WHEN settled.id IS NULL THEN ${erased('$10')} END AS is_erased
    FROM (SELECT) one LEFT JOIN settled ON true`,
  );

  /** $5 size, $6 generation of a new row, $7 suffix, $8 physical key. As with commit; `exists` rows come back as they are. */
  const adopt = named(
    'adopt',
    `
    WITH before AS MATERIALIZED (
      SELECT ${columns('b')} FROM ${blob} b WHERE ${byKey} FOR NO KEY UPDATE
    ), blocked AS MATERIALIZED (${blocked}
    ), updated AS (
      UPDATE ${blob} b SET
        state = 'live', quarantined_at = NULL, damaged_at = NULL, size = $5,
        generation = b.generation + (before.state = 'damaged')::int,
        touched_at = greatest(b.touched_at, now())
      FROM before
      WHERE b.id = before.id AND before.state IN ('uploading', 'damaged') AND before.physical_suffix = $7
        AND NOT EXISTS (SELECT FROM blocked)
      RETURNING ${columns('b')}
    ), inserted AS (
      INSERT INTO ${blob} AS b (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix)
      SELECT $1, $2, $3, $4, $5, 'live', $6, $7 WHERE NOT EXISTS (SELECT FROM before)
        AND NOT EXISTS (SELECT FROM blocked) AND NOT ${erased('$8')}
      ON CONFLICT DO NOTHING
      RETURNING ${columns('b')}
    ), settled AS (
      SELECT * FROM updated UNION ALL SELECT * FROM inserted
      UNION ALL SELECT * FROM before WHERE state IN ('live', 'quarantined')
    )
    SELECT settled.*, (SELECT state FROM before) AS was, CASE WHEN settled.id IS NULL THEN EXISTS (SELECT FROM blocked) END AS is_blocked,
      CASE WHEN settled.id IS NULL THEN ${erased('$8')} END AS is_erased
    FROM (SELECT) one LEFT JOIN settled ON true`,
  );

  /** $1 namespace, $2 prefix, $3 digest, $4 physical key. Whether an object that the catalog does not know may be served, and taken in. */
  const strange = named('strange', `SELECT EXISTS (${blocked}) AS is_blocked, ${erased('$4')} AS is_erased`);

  /**
   * $1 ids, $2 touch interval, $3 whether it is a read: then a revival is one that the collection did not expect, and is
   * noted for it. $4 how long ago each of them was used, in ms, or null for now: what was quarantined since then was used
   * before, and its revival says nothing. Rows that are neither live nor quarantined come back as they are.
   */
  const touch = named(
    'touch',
    `
    WITH fresh AS MATERIALIZED (
      SELECT ${columns('b')} FROM ${blob} b
      WHERE id = ANY($1::bigint[]) AND state = 'live' AND touched_at > now() - ${ms('$2::float8')}
    ), due AS MATERIALIZED (
      SELECT ${columns('b')}, b.quarantined_at FROM ${blob} b
      WHERE id = ANY($1::bigint[]) AND NOT EXISTS (SELECT FROM fresh WHERE fresh.id = b.id)
      ORDER BY id FOR NO KEY UPDATE
    ), touched AS (
      UPDATE ${blob} b SET
        state = 'live', quarantined_at = NULL, damaged_at = NULL, touched_at = greatest(b.touched_at, now())
      FROM due WHERE b.id = due.id AND due.state IN ('live', 'quarantined')
      RETURNING ${columns('b')}
    ), revived AS (
      INSERT INTO ${schema}.revival (blob_id, generation)
      SELECT id, generation FROM due LEFT JOIN unnest($1::bigint[], $4::float8[]) AS used (id, ago_ms) USING (id)
      WHERE state = 'quarantined' AND $3::boolean AND (ago_ms IS NULL OR quarantined_at <= now() - ${ms('ago_ms')})
    )
    SELECT ${names} FROM fresh UNION ALL SELECT ${names} FROM touched
    UNION ALL SELECT ${names} FROM due WHERE state NOT IN ('live', 'quarantined')`,
  );

  const lookup = named('lookup', `SELECT ${columns('b')} FROM ${blob} b WHERE ${byKey}`);

  /** $1 to $4 are arrays; `at` is the position in them, from 1. */
  const lookupMany = named(
    'lookup_many',
    `
    SELECT wanted.at::int, ${columns('b')}
    FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[]) WITH ORDINALITY wanted (namespace, prefix, digest, metadata_digest, at)
    JOIN ${blob} b USING (namespace, prefix, digest, metadata_digest)`,
  );

  /** $1 id, $2 generation. The trigger tells the other replicas. (An upload may meet a wrong object of somebody else.) */
  const markDamaged = named(
    'mark_damaged',
    `
    UPDATE ${blob} SET state = 'damaged', damaged_at = now(), quarantined_at = NULL
    WHERE id = $1 AND generation = $2 AND state IN ('live', 'quarantined', 'uploading')`,
  );

  /**
   * In the order of the index blob_key. $1 namespace, $2 to $4 the row to go on behind, $5 and $6 bounds of the column
   * `prefix` (within which all keys lie that start with $7), $8 limit.
   */
  const list = named(
    'list',
    `
    SELECT ${columns('b')}, prefix, encode(digest, 'hex') AS digest, encode(metadata_digest, 'hex') AS metadata_digest
    FROM ${blob} b
    WHERE namespace = $1 AND (prefix, digest, metadata_digest) > ($2, $3, $4) AND prefix >= $5 AND prefix < $6
      AND starts_with(CASE prefix WHEN '' THEN 'common' ELSE 'custom/' || prefix END
        || '/sha256:' || encode(digest, 'hex') || '/sha256:' || encode(metadata_digest, 'hex'), $7)
    ORDER BY prefix, digest, metadata_digest LIMIT $8`,
  );

  return { begin, commit, adopt, strange, touch, lookup, lookupMany, markDamaged, list, ...leaseStatements(schema) };
}

function leaseStatements(schema: string) {
  const [blob, lease] = [`${schema}.blob`, `${schema}.lease`];
  return {
    /** $1 lease, $2 lease time, $3 physical key. A sweeper that has claimed it meanwhile will leave it. None: taken down. */
    renew: named(
      'renew',
      `
      UPDATE ${lease} l SET epoch = epoch + 1, expires_at = clock_timestamp() + ${ms('$2::float8')}
      WHERE id = $1 AND NOT EXISTS (SELECT FROM ${blob} WHERE id = l.blob_id AND state = 'taken_down')
        AND NOT EXISTS (SELECT FROM ${schema}.takedown_blob WHERE physical_key = $3) RETURNING id`,
    ),
    /** $1 limit, $2 time for the sweeper. Locks nothing beyond the statement: a crashed sweeper's claims expire. */
    claimExpired: named(
      'claim_expired',
      `
      WITH expired AS (
        SELECT id FROM ${lease} WHERE expires_at < clock_timestamp() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
      ), claimed AS (
        UPDATE ${lease} l SET epoch = epoch + 1, expires_at = clock_timestamp() + ${ms('$2::float8')}
        FROM expired WHERE l.id = expired.id
        RETURNING l.id, l.blob_id, l.generation, l.epoch
      )
      SELECT claimed.*, b.namespace, b.prefix, encode(b.digest, 'hex') AS digest,
        encode(b.metadata_digest, 'hex') AS metadata_digest, b.physical_suffix
      FROM claimed LEFT JOIN ${blob} b
        ON b.id = claimed.blob_id AND b.generation = claimed.generation AND b.state = 'uploading'`,
    ),
    /**
     * The object is there. $1 blob, $2 generation, $3 suffix, $4 lease, $5 epoch, $6 size. True whoever else uploads. Of what
     * must not be stored again nothing is revived, and the lease is still to be ended.
     */
    settlePresent: named(
      'settle_present',
      `
      WITH blocked AS MATERIALIZED (
        SELECT FROM ${schema}.block k JOIN ${blob} b ON b.namespace = k.namespace AND b.digest = k.digest
        WHERE b.id = $1 AND (k.is_any_prefix OR k.prefix = b.prefix)
      ), revived AS (
        UPDATE ${blob} SET state = 'live', size = $6, touched_at = greatest(touched_at, now())
        WHERE id = $1 AND generation = $2 AND physical_suffix = $3 AND state = 'uploading'
          AND NOT EXISTS (SELECT FROM blocked) RETURNING id
      ), revived_first AS (SELECT count(*) FROM revived), ended AS (
        DELETE FROM ${lease} USING revived_first WHERE id = $4 AND epoch = $5 AND NOT EXISTS (SELECT FROM blocked) RETURNING id
      )
      SELECT (SELECT count(*) FROM ended)::int AS ended, EXISTS (SELECT FROM blocked) AS is_blocked`,
    ),
    /** First of the transaction that ends a lease: from here on nobody can begin or commit. $1 blob. */
    lockBlob: { text: `SELECT id FROM ${blob} WHERE id = $1 FOR UPDATE` },
    /** $1 lease, $2 epoch or null for any. */
    endLease: { text: `DELETE FROM ${lease} WHERE id = $1 AND epoch = coalesce($2, epoch) RETURNING id` },
    /** $1 blob, $2 generation. A later generation's row stays: its predecessor's name must not be used again. */
    removeUnused: {
      text: `DELETE FROM ${blob} b
        WHERE id = $1 AND generation = $2 AND generation = 1 AND physical_suffix = '' AND state = 'uploading'
          AND NOT EXISTS (SELECT FROM ${lease} WHERE blob_id = b.id)`,
    },
    ping: { text: `SELECT id::text FROM ${lease.replace(/lease$/, 'catalog')}` },
  };
}

function named(name: string, text: string): Statement {
  return { name: `lps_${name}`, text: text.trim() };
}
