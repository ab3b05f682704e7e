/**
 * Leases on reading, and the events that end what they allow (docs/decisions/0006-read-leases.md).
 *
 *   grant    shares the counter of events, commits `lease_until`, answers with the newest event
 *   append   holds the counter, in the transaction of whoever deletes or takes down
 *
 * So for each event and each lease one of two holds: the lease is in the table when the event has been committed, or its
 * holder was told of the event.
 */
import { LpsError } from '@large-payload/core';
import type { Database, Row, Statement } from '../catalog/database.js';
import type { Granted } from './read-lease.js';

export type EventKind = 'delete' | 'takedown';

/** A blob that nobody may serve any more from what he keeps. */
export interface NodeEvent {
  readonly id: bigint;
  readonly kind: EventKind;
  readonly key: string;
  /** The object's name; `key`, or a later generation of it. */
  readonly physicalKey: string;
}

export interface Node {
  readonly id: string;
  readonly kind: 'replica' | 'cache';
  /** For people. */
  readonly name: string;
  /** Whose credential asked, as `Principal.id`; absent for a replica, which asks nobody but Postgres. */
  readonly owner?: string;
}

export interface NodeState extends Node {
  readonly leaseUntil: Date;
  /** All events up to this one have been applied. */
  readonly cursor: bigint;
}

export interface ListedNode extends NodeState {
  readonly startedAt: Date;
  /** When it asked for its lease the last time. */
  readonly renewedAt: Date;
  readonly hasLease: boolean;
  /** Events that it is known not to have applied. */
  readonly behind: number;
}

export interface ReadLeases {
  /**
   * Makes M what the whole installation goes by. Throws CONFIG_INVALID while others hold leases by another one. `isAlone`: no
   * other replica runs, whatever the table says; leases of those that died end.
   */
  agree(isAlone: boolean): Promise<void>;
  /**
   * Lets a node serve what it keeps for `leaseMs` from the time when it *sent* its wish, once it has applied every event up to
   * `newest`. `cursor`: the last one that it has applied. `leaseMs`: less than M, for a node that wants so; the answer's is 0
   * for one that lacks an event older than M: its lease is not prolonged, or whoever waits for it would wait for as long as it
   * asks. Throws CONFIG_INVALID when it wants more than the installation's, FORBIDDEN while somebody else has a lease under its
   * id, and for the id of a node of the other kind.
   */
  grant(node: Node, cursor: bigint, leaseMs?: number): Promise<Granted>;
  /** The number of the newest event. */
  newest(): Promise<bigint>;
  /** The next ones behind `after`, in order; `undefined` when some of those are forgotten: it must forget all that it keeps. */
  events(after: bigint, limit: number): Promise<NodeEvent[] | undefined>;
  /** Those whose lease has not ended, and which have not said that they applied the event. */
  unaware(event: bigint): Promise<NodeState[]>;
  /** Those that are known, the one that was heard of last first, 1,000 at most. */
  list(): Promise<ListedNode[]>;
  /** No more by its own word: it stops. Returns whether this owner had such a node. */
  end(id: string, kind: Node['kind'], owner?: string): Promise<boolean>;
  /** Forgets events and nodes that are so old, at most `limit` of each; never events that a lease may wait for. */
  prune(olderThanMs: number, limit: number): Promise<void>;
}

export interface ReadLeasesOptions {
  readonly database: Database;
  readonly schema: string;
  /** M, in ms. */
  readonly leaseMs: number;
}

/** Every function throws CATALOG_UNAVAILABLE while Postgres does not answer. */
export function openReadLeases({ database, schema, leaseMs }: ReadLeasesOptions): ReadLeases {
  const sql = statements(schema);
  return {
    async agree(isAlone) {
      const others = await database.transaction(async (run) => {
        const [counter] = await run(sql.holdCounter, []);
        if (isAlone) await run(sql.endReplicas, []);
        if (counter?.lease_ms === String(leaseMs)) return undefined;
        const [held] = counter?.lease_ms == null ? [] : await run(sql.countLeases, []);
        const count = Number(held?.count ?? 0);
        if (count > 0) return { leaseMs: Number(counter?.lease_ms), count };
        await run(sql.setLeaseMs, [leaseMs]);
        return undefined;
      });
      if (others !== undefined) throw disagreement(leaseMs, others.leaseMs, others.count);
    },
    async grant({ id, kind, name, owner = null }, cursor, wantedMs = leaseMs) {
      const grantedMs = Math.min(wantedMs, leaseMs);
      const [row] = await database.run(sql.grant, [id, kind, name, grantedMs, cursor, leaseMs, owner]);
      if (wantedMs > leaseMs || row?.is_too_long !== false) {
        throw new LpsError('CONFIG_INVALID', 'leases on reading are shorter in this installation: see --max-staleness');
      }
      if (row.is_granted !== true) throw idInUse(id);
      return { newest: BigInt(row.newest as string), leaseMs: row.is_late === true ? 0 : grantedMs };
    },
    async newest() {
      const [row] = await database.run(sql.newest, []);
      if (row === undefined) throw new LpsError('INTERNAL', 'the counter of events is gone');
      return BigInt(row.last as string);
    },
    async events(after, limit) {
      const rows = await database.run(sql.events, [after, limit]);
      if (rows[0]?.is_forgotten === true) return undefined;
      return rows.filter(({ id }) => id !== null).map(toEvent);
    },
    async unaware(event) {
      return (await database.run(sql.unaware, [event])).map(toNode);
    },
    async list() {
      return (await database.run(sql.list, [])).map((row) => ({
        ...toNode(row),
        startedAt: row.started_at as Date,
        renewedAt: row.renewed_at as Date,
        hasLease: row.has_lease === true,
        behind: Number(row.behind),
      }));
    },
    async end(id, kind, owner) {
      return (await database.run(sql.end, [id, kind, owner ?? null])).length > 0;
    },
    async prune(olderThanMs, limit) {
      await database.run(sql.pruneEvents, [Math.max(olderThanMs, 2 * leaseMs), limit]);
      await database.run(sql.pruneNodes, [Math.max(olderThanMs, 2 * leaseMs), limit]);
    },
  };
}

/** Where each event is told of as it is committed; the payload is the number of the last one. */
export function eventChannel(schema: string): string {
  return `${schema}_event`;
}

function disagreement(leaseMs: number, theirs: number, count: number): LpsError {
  const [mine, others] = [leaseMs / 1000, theirs / 1000];
  return new LpsError(
    'CONFIG_INVALID',
    `--max-staleness is ${mine} s here and ${others} s in the installation, where ${count} processes hold leases by it: ` +
      `give all of them the same, or stop them all first and wait ${others} s`,
  );
}

function idInUse(id: string): LpsError {
  return new LpsError(
    'FORBIDDEN',
    `another node reads under the id ${id}: take another one, or the same credential as before, or wait until its lease ends`,
  );
}

/** Adds events, in the transaction of `run`; whoever listens hears of it. Returns the number of the last one. */
export async function appendEvents(
  run: Database['run'],
  schema: string,
  kind: EventKind,
  blobs: readonly Pick<NodeEvent, 'key' | 'physicalKey'>[],
): Promise<bigint> {
  const values = [kind, blobs.map(({ key }) => key), blobs.map(({ physicalKey }) => physicalKey)];
  const [row] = await run(statements(schema).append, values);
  if (row === undefined) throw new LpsError('INTERNAL', 'the counter of events is gone');
  return BigInt(row.last as string);
}

function statements(schema: string) {
  const [counter, event, node] = [`${schema}.event_counter`, `${schema}.event`, `${schema}.node`];
  const columns = 'id, kind, name, lease_until, cursor';
  return {
    /**
     * $1 id, $2 kind, $3 name, $4 ms, $5 cursor; one ahead of all events knows none of them. $6 M. $7 owner. Nothing is granted
     * for more than M, for the id of a node of the other kind, or while another owner has a lease under it. `now()` is from
     * before it waited for the counter: sooner is safe. Late: it lacks an event older than M.
     */
    grant: named(
      'grant_read_lease',
      `WITH counter AS MATERIALIZED (SELECT last, lease_ms FROM ${counter} FOR SHARE),
       late AS MATERIALIZED (SELECT $5::bigint < (SELECT forgotten FROM ${counter}) OR EXISTS (
         SELECT FROM ${event} WHERE id = $5::bigint + 1 AND at < now() - $6::float8 * interval '1 millisecond'
       ) AS is_late),
       granted AS (
         INSERT INTO ${node} AS n (id, kind, name, owner, lease_until, cursor)
         SELECT $1, $2, $3, $7, now() + CASE WHEN is_late THEN 0 ELSE $4::float8 END * interval '1 millisecond',
           CASE WHEN $5::bigint <= last THEN $5::bigint ELSE 0 END
         FROM counter, late WHERE lease_ms IS NULL OR lease_ms >= $4::float8
         ON CONFLICT (id) DO UPDATE SET renewed_at = now(), cursor = excluded.cursor, name = excluded.name,
           owner = excluded.owner, lease_until = greatest(n.lease_until, excluded.lease_until)
         WHERE n.kind = excluded.kind AND (n.owner IS NOT DISTINCT FROM excluded.owner OR n.lease_until <= now())
         RETURNING id
       )
       SELECT last AS newest, is_late, EXISTS (SELECT FROM granted) AS is_granted,
         lease_ms IS NOT NULL AND lease_ms < $4::float8 AS is_too_long
       FROM counter, late`,
    ),
    newest: named('newest_event', `SELECT last FROM ${counter}`),
    holdCounter: { text: `SELECT lease_ms FROM ${counter} FOR UPDATE` },
    countLeases: { text: `SELECT count(*) FROM ${node} WHERE lease_until > now()` },
    endReplicas: { text: `UPDATE ${node} SET lease_until = now() WHERE kind = 'replica' AND lease_until > now()` },
    /** $1 ms. */
    setLeaseMs: { text: `UPDATE ${counter} SET lease_ms = $1` },
    /** $1 kind, $2 keys, $3 physical keys. */
    append: named(
      'append_events',
      `WITH counted AS (
         UPDATE ${counter} SET last = last + cardinality($2::text[]) RETURNING last
       ), added AS (
         INSERT INTO ${event} (id, kind, key, physical_key)
         SELECT last - cardinality($2::text[]) + at, $1, key, physical_key
         FROM counted, unnest($2::text[], $3::text[]) WITH ORDINALITY AS blobs (key, physical_key, at)
       )
       SELECT last, pg_notify('${eventChannel(schema)}', last::text) FROM counted`,
    ),
    /** $1 behind this one, $2 limit. One row at least. */
    events: named(
      'events_behind',
      `SELECT e.*, $1::bigint < c.forgotten AS is_forgotten FROM ${counter} c
       LEFT JOIN LATERAL (
         SELECT id, kind, key, physical_key FROM ${event} WHERE id > $1 ORDER BY id LIMIT $2
       ) e ON true ORDER BY e.id`,
    ),
    /** $1 event. */
    unaware: named(
      'unaware_nodes',
      `SELECT ${columns} FROM ${node} WHERE lease_until > now() AND cursor < $1 ORDER BY id`,
    ),
    list: named(
      'list_nodes',
      `SELECT ${columns}, started_at, renewed_at, lease_until > now() AS has_lease,
         greatest(0, (SELECT last FROM ${counter}) - cursor) AS behind
       FROM ${node} ORDER BY renewed_at DESC, id LIMIT 1000`,
    ),
    /** $1 id, $2 kind, $3 owner. */
    end: named(
      'end_read_lease',
      `UPDATE ${node} SET lease_until = least(lease_until, now())
       WHERE id = $1 AND kind = $2 AND owner IS NOT DISTINCT FROM $3 RETURNING id`,
    ),
    /** $1 ms, $2 limit. */
    pruneEvents: named(
      'prune_events',
      `WITH old AS (
         DELETE FROM ${event} WHERE id IN (
           SELECT id FROM ${event} WHERE at < now() - $1::float8 * interval '1 millisecond' ORDER BY id LIMIT $2
         ) RETURNING id
       )
       UPDATE ${counter} SET forgotten = greatest(forgotten, (SELECT max(id) FROM old)) WHERE EXISTS (SELECT FROM old)`,
    ),
    pruneNodes: named(
      'prune_nodes',
      `DELETE FROM ${node} WHERE id IN (
         SELECT id FROM ${node} WHERE lease_until < now() - $1::float8 * interval '1 millisecond' LIMIT $2
       )`,
    ),
  };
}

function named(name: string, text: string): Statement {
  return { name, text };
}

function toEvent({ id, kind, key, physical_key }: Row): NodeEvent {
  return {
    id: BigInt(id as string),
    kind: kind as EventKind,
    key: key as string,
    physicalKey: physical_key as string,
  };
}

function toNode({ id, kind, name, lease_until, cursor }: Row): NodeState {
  return {
    id: id as string,
    kind: kind as Node['kind'],
    name: name as string,
    leaseUntil: lease_until as Date,
    cursor: BigInt(cursor as string),
  };
}
