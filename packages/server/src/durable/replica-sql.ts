/** Every statement about replicas and their leader, for one catalog schema. Times are Postgres' own. */
import type { Statement } from '../catalog/database.js';

const ms = (parameter: string): string => `${parameter}::float8 * interval '1 millisecond'`;

export function replicaStatements(schema: string) {
  const replica = `${schema}.replica`;
  const leader = `${schema}.leader`;
  return {
    /** $1 executor id, $2 application version, $3 service version, $4 host, $5 pid. No row: this id is gone for ever. */
    register: one(`INSERT INTO ${replica} AS r (executor_id, application_version, service_version, host, pid)
      VALUES ($1, $2, $3, $4, $5)
      ON CONFLICT (executor_id) DO UPDATE SET seen_at = greatest(r.seen_at, clock_timestamp()) WHERE r.gone_at IS NULL
      RETURNING pg_backend_pid() AS backend`),
    /** $1 executor id. No row: gone. */
    beat: one(`UPDATE ${replica} r SET seen_at = greatest(r.seen_at, clock_timestamp())
      WHERE executor_id = $1 AND gone_at IS NULL RETURNING pg_backend_pid() AS backend`),
    /** $1 executor id. */
    sayGoodbye: one(`UPDATE ${replica} SET gone_at = clock_timestamp() WHERE executor_id = $1 AND gone_at IS NULL`),

    /** $1 the name of the lock. Held by the session until it ends. */
    tryLead: one('SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS leads'),
    /** $1 executor id. Waits for the transactions of the leader before. */
    newEpoch: one(`UPDATE ${leader} SET epoch = epoch + 1, executor_id = $1, since = clock_timestamp()
      RETURNING epoch, since`),
    /** $1 epoch. No row: another one leads. The lock keeps a new leader waiting until this transaction ends. */
    holdEpoch: one(`SELECT clock_timestamp() AS now FROM ${leader} WHERE epoch = $1 FOR SHARE`),

    /** $1 the leader's executor id, $2 silence in ms, $3 since when the leader leads. */
    declareGone: one(`UPDATE ${replica} SET gone_at = clock_timestamp()
      WHERE gone_at IS NULL AND executor_id <> $1
        AND greatest(seen_at, $3::timestamptz) <= clock_timestamp() - ${ms('$2')}
      RETURNING executor_id, application_version, seen_at`),
    /** $1 application versions. */
    goneOf: one(
      `SELECT executor_id FROM ${replica} WHERE gone_at IS NOT NULL AND application_version = ANY($1::text[])`,
    ),
    /** $1 ms, $2 ids that still have unfinished work. */
    removeOld: one(`DELETE FROM ${replica}
      WHERE gone_at < clock_timestamp() - ${ms('$1')} AND NOT executor_id = ANY($2::text[]) RETURNING executor_id`),
    goneBefore: one(`SELECT executor_id FROM ${replica} WHERE gone_at < clock_timestamp() - ${ms('$1')}`),
    livingVersions: one(`SELECT DISTINCT application_version FROM ${replica} WHERE gone_at IS NULL`),
  } as const;
}

function one(text: string): Statement {
  return { text };
}
