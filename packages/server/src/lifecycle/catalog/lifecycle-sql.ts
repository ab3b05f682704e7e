/**
 * Every statement of the collection, for one catalog schema.
 *
 * Lock order: the leader's row, marks, holders, then blob rows by id, then lease rows. Who decides about blobs
 * (`quarantine`, `retire`) does four things in one transaction:
 *
 *   1  the leader's row, FOR SHARE: no later leader can begin before this ends, and none has
 *   2  the marks that permit it, FOR SHARE: they are there, complete, and younger than the rows
 *   3  the blobs, by id, FOR NO KEY UPDATE
 *   4  one conditional UPDATE, with the whole check in it
 *
 * Why the check is safe. READ COMMITTED re-checks a row that it had to wait for, but not what a sub-query found in other
 * tables. So 4 is a statement of its own: its snapshot is younger than the locks of 1 and 3, and whoever adds a reason to
 * keep a blob needs one of these locks before it commits:
 *
 *   a touch       writes the blob's row. It came before 3 and is seen, or waits for the end and revives what is quarantined.
 *                 (One that writes nothing found a live row touched within the touch interval, G/24: too young for 4.)
 *   a lease       is inserted by who holds the blob's row (0001): as a touch.
 *   a pin         is inserted by who holds the leader's row: seen by 4, or it waits for the end, and then revives.
 *   an edge       counts when a mark of 2 found it: committed before that mark ended, so before 1. One that is found later is
 *                 found by a later mark: the blob is readable until then, and `retire` needs two marks that began later.
 *   an edge gone  was not needed any more, whenever that was noticed: with its holder, or lost by it (docs/gc.md).
 *   other marks   (an operator accepts another identity) delete those of 2: wait for the end, or are seen.
 *
 * `state` is never set without both of its times, as in catalog/sql.ts.
 */
import type { Statement } from '../../catalog/database.js';

const ms = (parameter: string): string => `${parameter}::float8 * interval '1 millisecond'`;

const sweptColumns = `b.id, b.namespace, b.prefix, encode(b.digest, 'hex') AS digest,
  encode(b.metadata_digest, 'hex') AS metadata_digest, b.size, b.generation, b.physical_suffix`;

const holderColumns = 'h.id, h.kind, h.external_id, h.cursor, h.is_done, h.gone_at';

const keyText = `'/blobs/' || b.namespace || '/' || CASE b.prefix WHEN '' THEN 'common' ELSE 'custom/' || b.prefix END
  || '/sha256:' || encode(b.digest, 'hex') || '/sha256:' || encode(b.metadata_digest, 'hex')`;

/** `window`: how many rows one statement of a walk looks at, so that none takes long where there is little to find. */
export function lifecycleStatements(schema: string, window: number) {
  return {
    ...markStatements(schema, window),
    ...sweepStatements(schema, window),
    ...sumStatements(schema),
    ...wordStatements(schema),
  };
}

function markStatements(schema: string, window: number) {
  const namespace = `${schema}.temporal_namespace`;
  const holder = `${schema}.holder`;
  const edge = `${schema}.edge`;
  const mark = `${schema}.mark`;
  const namespaceColumns = `n.id AS namespace_row, n.cluster, n.name, n.cluster_id, n.namespace_id AS temporal_id, n.server_version`;
  const markColumns = `m.id, m.started_at, m.ended_at, m.is_complete, m.gaps, m.retention_ms, m.holders, m.scanned`;
  /** As the walk of blobs. The planner cannot know how many a mark has seen, and would read all holders for each page. */
  const walk = (among: string): string => `
    WITH walked AS MATERIALIZED (
      SELECT max(id) AS walked_to, count(*) = ${window} AS has_more FROM (
        SELECT id FROM ${holder} WHERE namespace_id = $1 AND id > $3 ORDER BY id LIMIT ${window}) page
    ), found AS (
      SELECT ${holderColumns} FROM ${holder} h
      WHERE h.namespace_id = $1 AND h.id > $3 AND h.id <= (SELECT walked_to FROM walked) AND h.gone_at IS NULL AND ${among}
      ORDER BY h.id LIMIT $4
    )
    SELECT * FROM walked LEFT JOIN found ON true ORDER BY found.id`;
  return {
    now: named('now', 'SELECT clock_timestamp() AS now'),

    /** $1 cluster, $2 name, $3 cluster id, $4 namespace id, $5 server version. */
    knowNamespace: named(
      'know_namespace',
      `INSERT INTO ${namespace} AS n (cluster, name, cluster_id, namespace_id, server_version) VALUES ($1, $2, $3, $4, $5)
      ON CONFLICT (cluster, name) DO UPDATE SET forgotten_at = NULL, cluster_id = excluded.cluster_id,
        namespace_id = excluded.namespace_id, server_version = excluded.server_version, known_since = now()
        WHERE n.forgotten_at IS NOT NULL`,
    ),
    namespaceNamed: named(
      'namespace_named',
      `SELECT ${namespaceColumns} FROM ${namespace} n WHERE cluster = $1 AND name = $2`,
    ),
    knownNamespaces: named(
      'known_namespaces',
      `SELECT ${namespaceColumns} FROM ${namespace} n WHERE forgotten_at IS NULL ORDER BY cluster, name`,
    ),

    /** Whoever accepts an identity: $1 namespace. From here on no mark of it can begin. */
    lockNamespace: { text: `SELECT id FROM ${namespace} WHERE id = $1 AND forgotten_at IS NULL FOR UPDATE` },
    /** Waits for what is being saved by these marks; nothing can be saved by them later. */
    forgetMarks: { text: `DELETE FROM ${mark} WHERE namespace_id = $1` },
    forgetHolders: {
      text: `WITH forgotten AS (DELETE FROM ${holder} WHERE namespace_id = $1 RETURNING id)
        DELETE FROM ${edge} e USING forgotten WHERE e.holder_id = forgotten.id`,
    },
    /** Their edges stay for a while, as those of any holder that is gone. */
    allGone: { text: `UPDATE ${holder} SET gone_at = now() WHERE namespace_id = $1 AND gone_at IS NULL` },
    forgetNamespace: { text: `UPDATE ${namespace} SET forgotten_at = now() WHERE id = $1` },
    setIdentity: {
      text: `UPDATE ${namespace} SET cluster_id = $2, namespace_id = $3, server_version = $4 WHERE id = $1`,
    },

    /** $1 namespace, $2 epoch, $3 retention in ms. No row: it is not known. now(): before anything was asked. */
    beginMark: {
      text: `INSERT INTO ${mark} AS m (namespace_id, epoch, started_at, retention_ms)
        SELECT n.id, $2, now(), $3 FROM ${namespace} n WHERE n.id = $1 AND n.forgotten_at IS NULL FOR SHARE
        RETURNING ${markColumns}`,
    },
    /** $1 mark. First of whatever is saved by a mark: no row when it has ended or was forgotten. */
    holdMark: { text: `SELECT namespace_id FROM ${mark} WHERE id = $1 AND ended_at IS NULL FOR SHARE` },
    /** $1 mark, $2 complete, $3 gaps, $4 holders, $5 scanned. */
    endMark: {
      text: `UPDATE ${mark} m SET ended_at = greatest(started_at, clock_timestamp()), is_complete = $2, gaps = $3,
        holders = $4, scanned = $5
        WHERE id = $1 AND ended_at IS NULL RETURNING ${markColumns}`,
    },
    /** $1 namespace, $2 limit. What was found before the rows were made again says nothing about them. */
    marksOf: named(
      'marks_of',
      `SELECT ${markColumns} FROM ${mark} m, ${schema}.catalog c
      WHERE m.namespace_id = $1 AND m.ended_at IS NOT NULL AND (c.rebuilt_at IS NULL OR m.started_at > c.rebuilt_at)
      ORDER BY m.id DESC LIMIT $2`,
    ),

    /** $1 how many are kept of each namespace, $2 limit. Those that never ended go with their neighbours. */
    pruneMarks: named(
      'prune_marks',
      `WITH due AS MATERIALIZED (
        SELECT m.id FROM ${namespace} n CROSS JOIN LATERAL (
          SELECT id FROM ${mark} WHERE namespace_id = n.id AND ended_at IS NOT NULL ORDER BY id DESC OFFSET $1 - 1 LIMIT 1
        ) kept JOIN ${mark} m ON m.namespace_id = n.id AND m.id < kept.id ORDER BY m.id LIMIT $2
      ), pruned AS (
        DELETE FROM ${mark} m USING due WHERE m.id = due.id RETURNING m.id
      )
      SELECT count(*)::int AS pruned FROM pruned`,
    ),

    /** $1 mark, $2 namespace, $3 kind, $4 ids, $5 whether closed. They are not gone, and not done while they are open. */
    holdersFound: {
      text: `UPDATE ${holder} h SET gone_at = NULL, is_done = h.is_done AND found.is_closed
        FROM unnest($3::text[], $4::boolean[]) found (id, is_closed)
        WHERE h.namespace_id = $1 AND h.kind = $2 AND h.external_id = found.id
          AND (h.gone_at IS NOT NULL OR (h.is_done AND NOT found.is_closed))`,
    },
    /**
     * As above; one row for each that this mark had not seen. Those that it has seen are left out first: a conflict would
     * lock and log each of them, in every list that only finds what the one before had.
     */
    noteHolders: {
      text: `INSERT INTO ${holder} AS h (namespace_id, kind, external_id, seen_by)
        SELECT DISTINCT $1::bigint, $2, id, $4::bigint FROM unnest($3::text[]) found (id)
        WHERE NOT EXISTS (SELECT FROM ${holder} s
          WHERE s.namespace_id = $1 AND s.kind = $2 AND s.external_id = found.id AND s.seen_by = $4 OFFSET 0)
        ORDER BY id
        ON CONFLICT (namespace_id, kind, external_id) DO UPDATE SET seen_by = $4
          WHERE h.seen_by IS DISTINCT FROM $4
        RETURNING h.id`,
    },
    /**
     * $1 holder, $2 namespace, $3 mark, $4 cursor or null, $5 done, $6 digests, $7 their namespaces, $8 whether they are
     * mutable, $9 whether those are all mutable ones there are. One statement, for one round trip a scan: the mark is locked
     * before the holder. Not open: it has ended or was forgotten; not saved: the holder was forgotten.
     *
     * Edges that are as they should be are left alone. Unless it is done: a scan of an earlier leader may be losing one of them
     * at this moment, and nobody would find it again.
     */
    saveScan: named(
      'save_scan',
      `WITH held AS MATERIALIZED (
        SELECT id FROM ${mark} WHERE id = $3 AND ended_at IS NULL FOR SHARE
      ), saved AS (
        UPDATE ${holder} SET scanned_by = $3, cursor = coalesce($4, cursor), is_done = $5, gone_at = NULL
        WHERE id = $1 AND namespace_id = $2 AND EXISTS (SELECT FROM held) RETURNING id
      ), found AS MATERIALIZED (
        SELECT digest, namespace, bool_and(is_mutable) AS is_mutable
        FROM unnest($6::bytea[], $7::text[], $8::boolean[]) found (digest, namespace, is_mutable) GROUP BY digest, namespace
      ), lost AS (
        UPDATE ${edge} e SET lost_at = now() FROM saved
        WHERE $9 AND e.holder_id = saved.id AND e.is_mutable AND e.lost_at IS NULL
          AND NOT EXISTS (SELECT FROM found f WHERE f.digest = e.digest AND f.namespace = e.namespace)
      ), added AS (
        INSERT INTO ${edge} AS e (holder_id, digest, namespace, is_mutable)
        SELECT saved.id, f.digest, f.namespace, f.is_mutable FROM saved, found f
        WHERE $5 OR NOT EXISTS (SELECT FROM ${edge} e WHERE e.holder_id = saved.id AND e.digest = f.digest
          AND e.namespace = f.namespace AND e.lost_at IS NULL AND (f.is_mutable OR NOT e.is_mutable) OFFSET 0)
        ON CONFLICT (holder_id, digest, namespace) DO UPDATE SET lost_at = NULL, is_mutable = e.is_mutable AND excluded.is_mutable
          WHERE e.lost_at IS NOT NULL OR (e.is_mutable AND NOT excluded.is_mutable)
      )
      SELECT EXISTS (SELECT FROM held) AS is_open, EXISTS (SELECT FROM saved) AS is_saved`,
    ),
    /** $1 holder, whose row is locked: before all that it holds is saved in several parts. */
    loseEdges: { text: `UPDATE ${edge} SET lost_at = now() WHERE holder_id = $1 AND is_mutable AND lost_at IS NULL` },
    /** $1 namespace, $2 mark, $3 behind this id, $4 limit. */
    unseenHolders: named('unseen_holders', walk('h.seen_by IS DISTINCT FROM $2 AND h.scanned_by IS DISTINCT FROM $2')),
    unscannedHolders: named(
      'unscanned_holders',
      walk('h.seen_by = $2 AND NOT h.is_done AND h.scanned_by IS DISTINCT FROM $2'),
    ),
    /** $1 holder. The first time counts. */
    markGone: named('mark_gone', `UPDATE ${holder} SET gone_at = coalesce(gone_at, now()) WHERE id = $1`),
    /** $1 ms, $2 limit. One that is found again meanwhile has no `gone_at` when its lock is had. */
    forgetGone: named(
      'forget_gone',
      `WITH due AS MATERIALIZED (
        SELECT id FROM ${holder} WHERE gone_at <= now() - ${ms('$1')} ORDER BY gone_at, id LIMIT $2 FOR UPDATE
      ), forgotten AS (
        DELETE FROM ${holder} h USING due WHERE h.id = due.id RETURNING h.id
      ), edges AS (
        DELETE FROM ${edge} e USING forgotten WHERE e.holder_id = forgotten.id
      )
      SELECT count(*)::int AS forgotten FROM forgotten`,
    ),
    /** $1 ms, $2 limit. One that is found again meanwhile has no `lost_at` when its holder's lock is had. */
    forgetLost: named(
      'forget_lost',
      `WITH due AS MATERIALIZED (
        SELECT holder_id, digest, namespace FROM ${edge} WHERE lost_at <= now() - ${ms('$1')} ORDER BY lost_at LIMIT $2
      ), held AS MATERIALIZED (
        SELECT id FROM ${holder} WHERE id IN (SELECT holder_id FROM due) ORDER BY id FOR UPDATE
      ), forgotten AS (
        DELETE FROM ${edge} e USING due, held WHERE held.id = due.holder_id AND e.holder_id = due.holder_id
          AND e.digest = due.digest AND e.namespace = due.namespace AND e.lost_at <= now() - ${ms('$1')} RETURNING e.holder_id
      )
      SELECT count(*)::int AS forgotten FROM forgotten`,
    ),
    /** $1 digest, $2 namespace, $3 limit. */
    holdersOf: named(
      'holders_of',
      `WITH found AS (
        SELECT holder_id, bool_and(namespace = '') AS by_digest_alone,
          CASE WHEN bool_and(lost_at IS NOT NULL) THEN max(lost_at) END AS lost_at
        FROM ${edge} WHERE digest = $1 AND namespace IN ('', $2) GROUP BY holder_id ORDER BY holder_id LIMIT $3
      )
      SELECT ${holderColumns}, found.by_digest_alone, found.lost_at, ${namespaceColumns}
      FROM found JOIN ${holder} h ON h.id = found.holder_id JOIN ${namespace} n ON n.id = h.namespace_id ORDER BY h.id`,
    ),
  };
}

function sweepStatements(schema: string, window: number) {
  const blob = `${schema}.blob`;
  // OFFSET 0: each is a look into an index for each blob that is still in question. Left to itself the planner, which cannot
  // know how many those are, reads all edges there are for a page of blobs.
  const unheld = `NOT EXISTS (SELECT FROM ${schema}.edge e WHERE e.digest = b.digest AND e.namespace IN ('', b.namespace) OFFSET 0)
    AND NOT EXISTS (SELECT FROM ${schema}.pin p WHERE p.namespace = b.namespace AND p.key = named.key
      AND (p.expires_at IS NULL OR p.expires_at > now()) OFFSET 0)
    AND NOT EXISTS (SELECT FROM ${schema}.pin p WHERE p.namespace = b.namespace AND p.is_prefix AND starts_with(named.key, p.key)
      AND (p.expires_at IS NULL OR p.expires_at > now()) OFFSET 0)
    AND NOT EXISTS (SELECT FROM ${schema}.lease l WHERE l.blob_id = b.id OFFSET 0)`;
  // $1 namespace, $2 untouched since
  const untouched = `b.namespace = $1 AND b.state = 'live' AND b.touched_at < $2`;
  // $3 before then, $4 for so long
  const expired = `b.namespace = $1 AND b.state = 'quarantined' AND b.touched_at < $2
    AND b.quarantined_at < $3 AND b.quarantined_at <= now() - ${ms('$4')}`;
  /** Looks at a window of rows, in their order, until it has enough of some; always a row, for how far the window goes. */
  const walk = (rows: string, among: string, after: string, limit: string): string => `
    WITH walked AS MATERIALIZED (
      SELECT max(id) AS walked_to, count(*) = ${window} AS has_more FROM (
        SELECT b.id FROM ${blob} b WHERE b.namespace = $1 AND ${rows} AND b.id > ${after} ORDER BY b.id LIMIT ${window}) page
    ), found AS (
      SELECT ${sweptColumns} FROM ${blob} b CROSS JOIN LATERAL (SELECT ${keyText} AS key OFFSET 0) named
      WHERE ${rows} AND b.id > ${after} AND b.id <= (SELECT walked_to FROM walked) AND ${among} AND ${unheld}
      ORDER BY b.id LIMIT ${limit}
    )
    SELECT * FROM walked LEFT JOIN found ON true ORDER BY found.id`;
  /** Of rows that are locked. */
  const change = (set: string, ids: string, among: string): string => `
    UPDATE ${blob} b SET ${set}
    FROM (SELECT b.id, ${keyText} AS key FROM ${blob} b WHERE b.id = ANY(${ids}::bigint[]) OFFSET 0) named
    WHERE b.id = named.id AND ${among} AND ${unheld} RETURNING ${sweptColumns}`;
  return {
    /** $1 namespace, $2 untouched since, $3 behind this id, $4 limit. Locks nothing. */
    candidates: named('candidates', walk('true', untouched, '$3', '$4')),
    /** $1 namespace, $2 untouched since, $3 quarantined before, $4 ms, $5 behind this id, $6 limit. Locks nothing. */
    condemned: named('condemned', walk('b.quarantined_at IS NOT NULL', expired, '$5', '$6')),

    /** $1 ids of marks. One row for each that still counts. */
    holdMarks: {
      text: `SELECT m.id FROM ${schema}.mark m, ${schema}.catalog c
        WHERE m.id = ANY($1::bigint[]) AND m.is_complete AND (c.rebuilt_at IS NULL OR m.started_at > c.rebuilt_at)
        ORDER BY m.id FOR SHARE OF m`,
    },
    /** $1 ids. */
    lockBlobs: { text: `SELECT id FROM ${blob} WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE` },
    /** As `candidates`; $3 ids, all of them locked. */
    quarantine: {
      text: change(`state = 'quarantined', quarantined_at = clock_timestamp(), damaged_at = NULL`, '$3', untouched),
    },
    /** As `condemned`; $5 ids, all of them locked. */
    retire: { text: change(`state = 'deleting', quarantined_at = NULL, damaged_at = NULL`, '$5', expired) },
    /** $1 blobs, $2 generations, $3 physical keys, $4 sizes. */
    addRetired: {
      text: `INSERT INTO ${schema}.retired_object (blob_id, generation, physical_key, size)
        SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::bigint[])`,
    },
    /** $1 behind this blob, $2 limit. A blob may have several generations here: none is cut off. */
    retired: named(
      'retired_objects',
      `SELECT blob_id, generation, physical_key, size FROM ${schema}.retired_object
      WHERE blob_id > $1 ORDER BY blob_id FETCH FIRST $2 ROWS WITH TIES`,
    ),
    /** $1 blob, $2 generation. An upload may have begun the next generation in the blob's row: that is left alone. */
    objectDeleted: named(
      'object_deleted',
      `WITH removed AS (
        DELETE FROM ${schema}.retired_object WHERE blob_id = $1 AND generation = $2 RETURNING blob_id, generation
      )
      UPDATE ${blob} b SET state = 'gone', quarantined_at = NULL, damaged_at = NULL FROM removed
      WHERE b.id = removed.blob_id AND b.generation = removed.generation AND b.state = 'deleting'`,
    ),
    /** $1 to $4 the key's columns. */
    blob: named(
      'blob',
      `SELECT id, size, state, generation, physical_suffix, touched_at,
        (extract(epoch from clock_timestamp() - touched_at) * 1000)::float8 AS age_ms
      FROM ${blob} WHERE namespace = $1 AND prefix = $2 AND digest = $3 AND metadata_digest = $4`,
    ),
    /** As above. */
    undelete: named(
      'undelete',
      `UPDATE ${blob} b SET state = 'live', quarantined_at = NULL, damaged_at = NULL, touched_at = greatest(touched_at, now())
      WHERE namespace = $1 AND prefix = $2 AND digest = $3 AND metadata_digest = $4 AND state = 'quarantined'
      RETURNING id, size, state, generation, physical_suffix, touched_at,
        (extract(epoch from clock_timestamp() - touched_at) * 1000)::float8 AS age_ms`,
    ),
    /** $1 namespace, $2 key, or the beginning of keys, $3 limit. Revives what is quarantined there. */
    revivePinned: {
      text: `WITH due AS MATERIALIZED (
          SELECT b.id FROM ${blob} b WHERE b.namespace = $1 AND b.quarantined_at IS NOT NULL
            AND (${keyText} = $2 OR (right($2, 1) = '/' AND starts_with(${keyText}, $2)))
          ORDER BY b.id LIMIT $3 FOR NO KEY UPDATE
        )
        UPDATE ${blob} b SET state = 'live', quarantined_at = NULL, damaged_at = NULL, touched_at = greatest(touched_at, now())
        FROM due WHERE b.id = due.id AND b.state = 'quarantined' RETURNING b.id`,
    },
    /** $1 to $4 the key's columns. A blob that is pinned was used; no alarm. */
    touchPinned: {
      text: `UPDATE ${blob} SET state = 'live', quarantined_at = NULL, damaged_at = NULL, touched_at = greatest(touched_at, now())
        WHERE namespace = $1 AND prefix = $2 AND digest = $3 AND metadata_digest = $4 AND state IN ('live', 'quarantined')`,
    },
    /** From one namespace to the next in the index, whatever stands between. */
    blobNamespaces: named(
      'blob_namespaces',
      `WITH RECURSIVE found (namespace) AS (
        (SELECT namespace FROM ${blob} ORDER BY namespace LIMIT 1)
        UNION ALL
        SELECT (SELECT b.namespace FROM ${blob} b WHERE b.namespace > found.namespace ORDER BY b.namespace LIMIT 1)
        FROM found WHERE found.namespace IS NOT NULL
      )
      SELECT namespace FROM found WHERE namespace IS NOT NULL`,
    ),
  };
}

function sumStatements(schema: string) {
  return {
    /** $1 namespace or null. One snapshot: a change is in the sums, or still beside them. */
    sums: named(
      'sums',
      `SELECT state, sum(blobs)::text AS blobs, sum(bytes)::text AS bytes FROM (
        SELECT namespace, state, blobs, bytes FROM ${schema}.blob_sum
        UNION ALL SELECT namespace, state, blobs, bytes FROM ${schema}.blob_change
        UNION ALL SELECT namespace, state, 1, size FROM (
          SELECT DISTINCT ON (b.id) b.namespace, b.state, b.size FROM ${schema}.lease l
          JOIN ${schema}.blob b ON b.id = l.blob_id AND b.state = 'uploading') uploading
      ) counted
      WHERE $1::text IS NULL OR namespace = $1 GROUP BY state`,
    ),
    /** $1 limit. Several may fold at once: each takes other changes, and the sums in one order. */
    foldSums: named(
      'fold_sums',
      `WITH taken AS (
        DELETE FROM ${schema}.blob_change WHERE ctid = ANY(ARRAY(
          SELECT ctid FROM ${schema}.blob_change LIMIT $1 FOR UPDATE SKIP LOCKED))
        RETURNING namespace, state, blobs, bytes
      ), folded AS (
        INSERT INTO ${schema}.blob_sum AS s (namespace, state, blobs, bytes)
        SELECT namespace, state, sum(blobs), sum(bytes) FROM taken GROUP BY namespace, state ORDER BY namespace, state
        ON CONFLICT (namespace, state) DO UPDATE SET blobs = s.blobs + excluded.blobs, bytes = s.bytes + excluded.bytes
      )
      SELECT count(*)::int AS folded FROM taken`,
    ),
    /** $1 a time. */
    revivedSince: named('revived_since', `SELECT count(*)::int AS revived FROM ${schema}.revival WHERE at >= $1`),
    /** $1 ms. */
    forgetRevivals: { text: `DELETE FROM ${schema}.revival WHERE at < now() - ${ms('$1')}` },
    nextRound: {
      text: `UPDATE ${schema}.collection SET rounds = rounds + 1, began_at = clock_timestamp(), requested_at = NULL
        RETURNING rounds`,
    },
    roundTimes: named('round_times', `SELECT began_at, requested_at FROM ${schema}.collection`),
    requestRound: { text: `UPDATE ${schema}.collection SET requested_at = clock_timestamp()` },
    /** $1 rounds. */
    raiseRounds: { text: `UPDATE ${schema}.collection SET rounds = greatest(rounds, $1::bigint)` },
    markRebuilt: { text: `UPDATE ${schema}.catalog SET rebuilt_at = clock_timestamp()` },
    rebuiltAt: named('rebuilt_at', `SELECT rebuilt_at FROM ${schema}.catalog`),
    rounds: named('rounds', `SELECT rounds FROM ${schema}.collection`),
  };
}

/** What people say: pins and brakes. */
function wordStatements(schema: string) {
  const pin = `${schema}.pin`;
  const brake = `${schema}.brake`;
  const pinColumns = 'id, key, owner, reason, created_at, expires_at';
  return {
    /** Whoever pins waits for the decisions under way, and they for him. */
    lockLeader: { text: `SELECT epoch FROM ${schema}.leader FOR NO KEY UPDATE` },
    /** $1 id, $2 namespace, $3 key, $4 owner, $5 reason, $6 expiry, $7 time of making, or null for now. */
    addPin: {
      text: `INSERT INTO ${pin} (id, namespace, key, owner, reason, expires_at, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, clock_timestamp()))
        ON CONFLICT (id) DO UPDATE SET id = excluded.id RETURNING ${pinColumns}`,
    },
    /** $1 namespace, $2 a key or a prefix of keys, or null for all. Those that do not keep anything any more are left out. */
    pins: named(
      'pins',
      `SELECT ${pinColumns} FROM ${pin}
      WHERE ($1::text IS NULL OR (namespace = $1 AND (key = $2 OR (is_prefix AND starts_with($2, key))
        OR (right($2, 1) = '/' AND starts_with(key, $2)))))
        AND (expires_at IS NULL OR expires_at > now())
      ORDER BY created_at DESC, id LIMIT 10000`,
    ),
    /** $1 ms, $2 limit. */
    expiredPins: named(
      'expired_pins',
      `SELECT id FROM ${pin} WHERE expires_at <= now() - ${ms('$1')} ORDER BY expires_at, id LIMIT $2`,
    ),
    removePin: named('remove_pin', `DELETE FROM ${pin} WHERE id = $1 RETURNING id`),
    brakes: named(
      'brakes',
      `SELECT kind, namespace, reason, since FROM ${brake} WHERE released_at IS NULL ORDER BY since, id`,
    ),
    /** $1 kind, $2 namespace or '', $3 reason. */
    brake: named(
      'brake',
      `INSERT INTO ${brake} (kind, namespace, reason) VALUES ($1, $2, $3)
      ON CONFLICT (kind, namespace) WHERE released_at IS NULL DO NOTHING`,
    ),
    /** $1 ms, $2 limit. */
    pruneBrakes: named(
      'prune_brakes',
      `WITH pruned AS (
        DELETE FROM ${brake} WHERE id IN (SELECT id FROM ${brake} WHERE released_at <= now() - ${ms('$1')} ORDER BY id LIMIT $2)
        RETURNING id
      )
      SELECT count(*)::int AS pruned FROM pruned`,
    ),
    /** $1 kind, $2 namespace or '', $3 who. */
    release: named(
      'release',
      `UPDATE ${brake} SET released_at = clock_timestamp(), released_by = $3
      WHERE kind = $1 AND namespace = $2 AND released_at IS NULL RETURNING id`,
    ),
  };
}

function named(name: string, text: string): Statement {
  return { name: `lps_gc_${name}`, text: text.trim() };
}
