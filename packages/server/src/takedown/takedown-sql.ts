/**
 * Statements of takedowns, for one catalog schema. Those that look for rows are built for the selector, so that each is
 * planned for what it asks; they are not prepared.
 *
 * Lock order of an acceptance: the takedown's row, blob rows by id, the counter of events (nodes/read-leases.ts) last and
 * for a moment: whoever asks for a lease on reading waits for it.
 */
import { parseKey } from '@large-payload/core';
import { keyColumns } from '../catalog/blob-record.js';
import type { Statement } from '../catalog/database.js';
import type { Selector } from './selector.js';

export const keyText = `'/blobs/' || b.namespace || '/' || CASE b.prefix WHEN '' THEN 'common' ELSE 'custom/' || b.prefix END
  || '/sha256:' || encode(b.digest, 'hex') || '/sha256:' || encode(b.metadata_digest, 'hex')`;
const physicalText = `${keyText} || CASE b.physical_suffix WHEN '' THEN '' ELSE '~' || b.physical_suffix END`;

/** A condition over a row `b`, with its parameters from $1 on. */
export interface Condition {
  readonly text: string;
  readonly values: readonly unknown[];
}

/** Rows that a selector means; `digests`: what the runs hold that it names, where it names some. */
export function meant(selector: Selector, digests: readonly Buffer[] | undefined): Condition {
  const { namespace, key, digest, prefix, uploadedFrom, uploadedUntil } = selector;
  const values: unknown[] = [];
  const parts: string[] = [];
  const add = (part: (place: string) => string, value: unknown): void => {
    values.push(value);
    parts.push(part(`$${values.length}`));
  };
  add((at) => `b.namespace = ${at}`, namespace);
  if (key !== undefined) {
    const [, ofKey, digestOfKey, metadataDigest] = keyColumns(parseKey(key));
    add((at) => `b.prefix = ${at}`, ofKey);
    add((at) => `b.digest = ${at}`, digestOfKey);
    add((at) => `b.metadata_digest = ${at}`, metadataDigest);
  }
  // "0" is the character behind "/"
  if (prefix !== undefined) {
    const below = (at: string): string => `(b.prefix = ${at}::text OR starts_with(b.prefix, ${at}::text || '/'))`;
    add((at) => `b.prefix >= ${at}::text AND b.prefix < ${at}::text || '0' AND ${below(at)}`, prefix);
  }
  if (digest !== undefined) add((at) => `b.digest = ${at}`, Buffer.from(digest.slice('sha256:'.length), 'hex'));
  if (uploadedFrom !== undefined) add((at) => `b.created_at >= ${at}::timestamptz`, uploadedFrom);
  if (uploadedUntil !== undefined) add((at) => `b.created_at < ${at}::timestamptz`, uploadedUntil);
  if (digests !== undefined) add((at) => `b.digest = ANY(${at}::bytea[])`, digests);
  return { text: parts.join(' AND '), values };
}

/** Rows of a namespace with one of these digests. */
export function ofDigests(namespace: string, digests: readonly Buffer[]): Condition {
  return { text: 'b.namespace = $1 AND b.digest = ANY($2::bytea[])', values: [namespace, digests] };
}

export function takedownStatements(schema: string) {
  const [takedown, names, blob] = [`${schema}.takedown`, `${schema}.takedown_blob`, `${schema}.blob`];
  const blocking = (rows: string, takedownId: string, isAny: string): string => `
    INSERT INTO ${schema}.block (namespace, digest, is_any_prefix, prefix, takedown_id)
    SELECT DISTINCT b.namespace, b.digest, ${isAny}::boolean, CASE WHEN ${isAny} THEN '' ELSE b.prefix END, ${takedownId}::uuid
    FROM ${blob} ${rows} ON CONFLICT DO NOTHING`;
  return {
    /** $1 takedown, $2 ids, $3 whether under any prefix. */
    blockRows: { text: blocking('b WHERE b.id = ANY($2::bigint[])', '$1', '$3') },
    ...requestStatements(schema, takedown, names),
    ...acceptStatements(schema, takedown, names, blob),
    ...eraseStatements(schema, names, blob),
    /** Behind a row, in the order of the index blob_key; the parameters of `where`, then prefix, digest, metadata digest, limit. */
    page: ({ text, values }: Condition): Statement => {
      const [prefix, digest, metadataDigest, limit] = [1, 2, 3, 4].map((at) => `$${values.length + at}`);
      return {
        text: `SELECT b.id, b.size, b.state, b.created_at, b.prefix, b.digest AS digest_bytes, b.metadata_digest AS metadata_bytes,
            ${keyText} AS key, ${physicalText} AS physical_key
          FROM ${blob} b WHERE ${text} AND (b.prefix, b.digest, b.metadata_digest) > (${prefix}, ${digest}, ${metadataDigest})
          ORDER BY b.prefix, b.digest, b.metadata_digest LIMIT ${limit}`,
      };
    },
    /**
     * Of which something may be in the store: of what is gone, earlier objects; of what was taken down, what is not erased yet.
     * The parameters of `where`, then a time or null, and a limit.
     */
    ids: ({ text, values }: Condition): Statement => {
      const [before, limit] = [1, 2].map((at) => `$${values.length + at}`);
      return {
        text: `SELECT b.id::text FROM ${blob} b WHERE ${text}
          AND (${before}::timestamptz IS NULL OR b.created_at <= ${before}::timestamptz)
          AND (b.state NOT IN ('gone', 'taken_down')
            OR EXISTS (SELECT FROM ${schema}.retired_object r WHERE r.blob_id = b.id)
            OR EXISTS (SELECT FROM ${names} o WHERE o.blob_id = b.id AND o.erased_at IS NULL))
          LIMIT ${limit}`,
      };
    },
    /** In any state. The parameters of `where`, then the takedown, and whether under any prefix. */
    blockMeant: ({ text, values }: Condition): Statement => {
      const [takedownId, isAny] = [1, 2].map((at) => `$${values.length + at}`);
      return { text: blocking(`b WHERE ${text}`, takedownId ?? '', isAny ?? '') };
    },
    /** $1 names of objects. Those that are a row's own, or wait for their deletion. */
    knownNames: named(
      'takedown_known_names',
      `SELECT o.name FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::text[])
         AS o (name, namespace, prefix, digest, metadata_digest, suffix)
       JOIN ${blob} b USING (namespace, prefix, digest, metadata_digest)
       WHERE (b.physical_suffix = o.suffix AND b.state NOT IN ('gone', 'taken_down'))
         OR EXISTS (SELECT FROM ${schema}.retired_object r WHERE r.blob_id = b.id AND r.physical_key = o.name)`,
    ),
    /** $1 beginning of a name, $2 behind this name, $3 limit. Whoever has such a URL can still bring an object of that name. */
    urlNames: named(
      'takedown_url_names',
      `SELECT DISTINCT physical_key FROM ${schema}.upload_url
       WHERE expires_at > now() AND starts_with(physical_key, $1) AND physical_key > $2 ORDER BY physical_key LIMIT $3`,
    ),
    /** $1 namespace, $2 digests, $3 limit. */
    holders: named(
      'takedown_holders',
      `SELECT DISTINCT n.cluster, n.name, h.kind, h.external_id, h.gone_at, encode(e.digest, 'hex') AS digest
       FROM ${schema}.edge e JOIN ${schema}.holder h ON h.id = e.holder_id
         JOIN ${schema}.temporal_namespace n ON n.id = h.namespace_id
       WHERE e.digest = ANY($2::bytea[]) AND e.namespace IN ('', $1) ORDER BY 1, 2, 4 LIMIT $3`,
    ),
  };
}

function requestStatements(schema: string, takedown: string, names: string) {
  const columns = `t.id, t.namespace, t.selector, t.with_same_digest, t.is_blocking, t.reason, t.requested_by, t.requested_at,
    t.state, t.accepted_at, t.completed_at, t.problem, t.event::text, t.receipt IS NOT NULL AS has_receipt`;
  const counted = `LEFT JOIN LATERAL (
      SELECT count(*) AS names, count(*) FILTER (WHERE erased_at IS NOT NULL) AS erased, coalesce(sum(size), 0) AS bytes
      FROM ${names} WHERE takedown_id = t.id
    ) c ON true`;
  return {
    /** $1 id, $2 namespace, $3 selector, $4 same digest, $5 blocks, $6 reason, $7 by. */
    request: named(
      'takedown_request',
      `INSERT INTO ${takedown} (id, namespace, selector, with_same_digest, is_blocking, reason, requested_by, state)
       VALUES ($1, $2, $3, $4, $5, $6, $7, 'planning') ON CONFLICT (id) DO NOTHING RETURNING id`,
    ),
    one: named('takedown_one', `SELECT ${columns}, c.* FROM ${takedown} t ${counted} WHERE t.id = $1`),
    /** $1 namespaces or null, $2 and $3 time and id of the last one, or null; $4 limit. The newest first. */
    list: named(
      'takedown_list',
      `SELECT ${columns}, c.* FROM (
         SELECT * FROM ${takedown} WHERE ($1::text[] IS NULL OR namespace = ANY($1))
           AND ($3::uuid IS NULL OR (requested_at, id) < ((SELECT requested_at FROM ${takedown} WHERE id = $3), $3))
         ORDER BY requested_at DESC, id DESC LIMIT $2
       ) t ${counted} ORDER BY t.requested_at DESC, t.id DESC`,
    ),
    unfinished: named(
      'takedown_unfinished',
      `SELECT id FROM ${takedown} WHERE state IN ('planning', 'accepting', 'accepted') ORDER BY id LIMIT 1000`,
    ),
    receipt: named('takedown_receipt', `SELECT receipt FROM ${takedown} WHERE id = $1`),
    /** $1 id, $2 words or null. */
    problem: named(
      'takedown_problem',
      `UPDATE ${takedown} SET problem = $2 WHERE id = $1 AND problem IS DISTINCT FROM $2 AND state <> 'failed'`,
    ),
    /** $1 id, $2 why. Only before anything was done. */
    fail: named(
      'takedown_fail',
      `UPDATE ${takedown} SET state = 'failed', problem = $2 WHERE id = $1 AND state = 'planning'`,
    ),
    setAccepted: named(
      'takedown_accepted',
      `UPDATE ${takedown} SET state = 'accepted', accepted_at = clock_timestamp(), problem = NULL
       WHERE id = $1 AND state = 'accepting'`,
    ),
    /** $1 id, $2 receipt, $3 when. */
    complete: named(
      'takedown_complete',
      `UPDATE ${takedown} SET state = 'completed', completed_at = $3, receipt = $2, problem = NULL
       WHERE id = $1 AND state = 'accepted'`,
    ),
    now: named('takedown_now', 'SELECT clock_timestamp() AS now'),
    /** $1 id, $2 digests. */
    addDigests: named(
      'takedown_add_digests',
      `INSERT INTO ${schema}.takedown_digest (takedown_id, digest) SELECT $1, unnest($2::bytea[]) ON CONFLICT DO NOTHING`,
    ),
    digests: named('takedown_digests', `SELECT digest FROM ${schema}.takedown_digest WHERE takedown_id = $1`),
    /** $1 id, $2 names, $3 keys, $4 sizes. Objects that the catalog does not know. */
    addObjects: named(
      'takedown_add_objects',
      `INSERT INTO ${names} (takedown_id, physical_key, key, size)
       SELECT $1, * FROM unnest($2::text[], $3::text[], $4::bigint[]) ON CONFLICT DO NOTHING`,
    ),
    /** $1 namespace, $2 limit. */
    blocks: named(
      'takedown_blocks',
      `SELECT namespace, encode(digest, 'hex') AS digest, is_any_prefix, prefix, takedown_id, created_at
       FROM ${schema}.block WHERE namespace = $1 ORDER BY digest, is_any_prefix, prefix LIMIT $2`,
    ),
    blocksOf: named(
      'takedown_blocks_of',
      `SELECT namespace, encode(digest, 'hex') AS digest, is_any_prefix, prefix, takedown_id, created_at
       FROM ${schema}.block WHERE takedown_id = $1`,
    ),
    blockers: named(
      'takedown_blockers',
      `SELECT DISTINCT takedown_id FROM ${schema}.block WHERE namespace = $1 AND digest = $2`,
    ),
    /** $1 namespace, $2 digest, $3 prefix or null for all of them. */
    unblock: named(
      'takedown_unblock',
      `DELETE FROM ${schema}.block WHERE namespace = $1 AND digest = $2
         AND ($3::text IS NULL OR (prefix = $3 AND NOT is_any_prefix)) RETURNING takedown_id`,
    ),
  };
}

function acceptStatements(schema: string, takedown: string, names: string, blob: string) {
  return {
    lock: { text: `SELECT state, looked_at, event::text FROM ${takedown} WHERE id = $1 FOR UPDATE` },
    objectsWithoutRow: {
      text: `SELECT physical_key, key, size FROM ${names} WHERE takedown_id = $1 AND blob_id IS NULL ORDER BY key`,
    },
    /** $1 to $4 the columns of keys, $5 sizes, $6 suffixes. Their names are never taken in from now on. */
    addRows: {
      text: `INSERT INTO ${blob} AS b (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix)
        SELECT namespace, prefix, digest, metadata_digest, size, 'taken_down', CASE suffix WHEN '' THEN 1 ELSE 2 END, suffix
        FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bigint[], $6::text[])
          AS o (namespace, prefix, digest, metadata_digest, size, suffix)
        ORDER BY namespace, prefix, digest, metadata_digest ON CONFLICT DO NOTHING`,
    },
    /** $1 keys' columns as above: rows of the keys. */
    rowsOf: {
      text: `SELECT b.id::text FROM ${blob} b JOIN unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[])
        AS o (namespace, prefix, digest, metadata_digest) USING (namespace, prefix, digest, metadata_digest)`,
    },
    /** $1 ids. */
    lockRows: {
      text: `SELECT count(*) FROM (SELECT FROM ${blob} WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE) l`,
    },
    digestsOfRows: { text: `SELECT DISTINCT digest FROM ${blob} WHERE id = ANY($1::bigint[])` },
    /**
     * $1 takedown, $2 ids that are meant; all of them locked. The names of their objects: the present one, earlier ones that
     * wait for their deletion, and those that another takedown is still erasing. Returns the new ones.
     */
    addNames: {
      text: `INSERT INTO ${names} AS t (takedown_id, physical_key, key, blob_id, size)
        SELECT DISTINCT ON (physical_key) $1::uuid, physical_key, key, id, size FROM (
          SELECT ${physicalText} AS physical_key, ${keyText} AS key, b.id, b.size
          FROM ${blob} b WHERE b.id = ANY($2::bigint[]) AND b.state NOT IN ('gone', 'taken_down')
          UNION ALL
          SELECT r.physical_key, ${keyText}, b.id, r.size
          FROM ${schema}.retired_object r JOIN ${blob} b ON b.id = r.blob_id WHERE b.id = ANY($2::bigint[])
          UNION ALL
          SELECT o.physical_key, o.key, o.blob_id, o.size FROM ${names} o JOIN ${takedown} other ON other.id = o.takedown_id
          WHERE o.blob_id = ANY($2::bigint[]) AND other.state IN ('accepting', 'accepted') AND other.id <> $1::uuid
        ) found ORDER BY physical_key
        ON CONFLICT (takedown_id, physical_key)
          DO UPDATE SET blob_id = excluded.blob_id, size = greatest(t.size, excluded.size) WHERE t.blob_id IS NULL
        RETURNING physical_key, key`,
    },
    /** $1 takedown, $2 keys' ids that only an object of theirs brought in. Theirs is the row when its object is the one. */
    nameRows: {
      text: `UPDATE ${names} t SET blob_id = b.id FROM ${blob} b
        WHERE t.takedown_id = $1 AND t.blob_id IS NULL AND b.id = ANY($2::bigint[]) AND t.physical_key = ${physicalText}`,
    },
    /** $1 takedown, $2 ids. */
    takeDown: {
      text: `UPDATE ${blob} b SET state = 'taken_down', quarantined_at = NULL, damaged_at = NULL
        WHERE b.state NOT IN ('gone', 'taken_down') AND (b.id = ANY($2::bigint[])
          OR b.id IN (SELECT blob_id FROM ${names} WHERE takedown_id = $1 AND physical_key = ${physicalText}))`,
    },
    namesOf: { text: `SELECT physical_key, key FROM ${names} WHERE takedown_id = $1 ORDER BY physical_key` },
    countNames: { text: `SELECT count(*)::int AS names FROM ${names} WHERE takedown_id = $1` },
    /** $1 takedown, $2 namespace, $3 digests, $4 whether under any prefix, $5 prefix. */
    blockDigests: {
      text: `INSERT INTO ${schema}.block (namespace, digest, is_any_prefix, prefix, takedown_id)
        SELECT $2, digest, $4::boolean, $5, $1::uuid FROM unnest($3::bytea[]) digest ON CONFLICT DO NOTHING`,
    },
    /** $1 takedown, $2 event. Behind everything else of the transaction: a row of later than this came after it. */
    setLooked: {
      text: `UPDATE ${takedown} SET state = 'accepting', event = $2, problem = NULL, xact = NULL,
          looked_at = coalesce(looked_at, clock_timestamp()) WHERE id = $1`,
    },
    /** $1 takedown. In a transaction of its own, behind that one: every number given out before is a smaller one. */
    setXact: named('takedown_xact', `UPDATE ${takedown} SET xact = pg_current_xact_id() WHERE id = $1`),
    /**
     * $1 takedown. Whether every transaction, and every statement of a catalog, has ended that began before the look: one
     * that has written nothing yet has no number, but a snapshot.
     */
    settled: named(
      'takedown_settled',
      `SELECT pg_snapshot_xmin(pg_current_snapshot()) > t.xact AND NOT EXISTS (
         SELECT FROM pg_stat_activity a WHERE a.datname = current_database() AND a.application_name = 'lps catalog'
           AND a.pid <> pg_backend_pid() AND a.backend_xmin IS NOT NULL AND age(a.backend_xmin) >= age(t.xact::xid)
       ) AS is_settled FROM ${takedown} t WHERE t.id = $1`,
    ),
  };
}

function eraseStatements(schema: string, names: string, blob: string) {
  return {
    /** $1 takedown, $2 behind this name, $3 limit. */
    names: named(
      'takedown_names',
      `SELECT physical_key, key, size FROM ${names} WHERE takedown_id = $1 AND physical_key > $2 ORDER BY physical_key LIMIT $3`,
    ),
    /** $1 takedown, $2 names, $3 objects. What was counted once stays, when it is done again. */
    counted: named(
      'takedown_counted',
      `UPDATE ${names} t SET objects = greatest(t.objects, o.objects)
       FROM unnest($2::text[], $3::int[]) AS o (name, objects) WHERE t.takedown_id = $1 AND t.physical_key = o.name`,
    ),
    /** $1 takedown, $2 names. */
    erased: named(
      'takedown_erased',
      `UPDATE ${names} SET erased_at = clock_timestamp() WHERE takedown_id = $1 AND physical_key = ANY($2::text[])`,
    ),
    /** $1 takedown. What may still write one of its objects: uploads through the service, and URLs. */
    writers: named(
      'takedown_writers',
      `SELECT (
         SELECT count(*)::int FROM ${schema}.lease l JOIN ${blob} b ON b.id = l.blob_id
         WHERE l.blob_id IN (SELECT blob_id FROM ${names} WHERE takedown_id = $1)
           AND (b.state = 'taken_down' OR l.generation < b.generation) AND l.expires_at > now()
       ) AS leases, (
         SELECT count(*)::int FROM ${schema}.upload_url u JOIN ${names} t ON t.physical_key = u.physical_key
         WHERE t.takedown_id = $1 AND u.expires_at > now()
       ) AS urls, (
         SELECT max(u.expires_at) FROM ${schema}.upload_url u JOIN ${names} t ON t.physical_key = u.physical_key
         WHERE t.takedown_id = $1
       ) AS urls_until`,
    ),
    /** $1 takedown. */
    sums: named(
      'takedown_sums',
      `SELECT coalesce(sum(objects), 0)::text AS objects, coalesce(sum(size) FILTER (WHERE objects > 0), 0)::text AS bytes
       FROM ${names} WHERE takedown_id = $1`,
    ),
  };
}

function named(name: string, text: string): Statement {
  return { name: `lps_${name}`, text };
}
