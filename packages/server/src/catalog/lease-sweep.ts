/**
 * Ends leases whose holder died. Claim, ask the store, settle: nothing is locked while the store is asked, and what
 * the store said counts only for the generation and the lease that it was asked about.
 *
 *   object present   the row becomes live, with the object's own size: the row's is what an uploader announced; unless it must
 *                    not be stored again: then as absent, and the object is one that the catalog does not know
 *   object absent    the lease goes, and the row unless somebody else uploads or has committed
 */

import { keyOf, physicalKeyOf } from './blob-record.js';
import type { Database, Row } from './database.js';
import type { statements } from './sql.js';

type Statements = ReturnType<typeof statements>;

/** The bytes of the object at a physical key, when it is there and right. */
export type SizeOf = (physicalKey: string) => Promise<number | undefined>;

/** How long a sweeper may take before another one may claim the same leases. */
const claimMs = 120_000;
const questionsAtOnce = 8;

/** Returns how many leases ended. When `sizeOf` fails, that lease is left for later and the first error is thrown at the end. */
export async function sweepLeases(database: Database, sql: Statements, sizeOf: SizeOf, limit: number): Promise<number> {
  const claims = await database.run(sql.claimExpired, [limit, claimMs]);
  const errors: unknown[] = [];
  let ended = 0;
  const work = async (): Promise<void> => {
    for (let claim = claims.pop(); claim !== undefined; claim = claims.pop()) {
      try {
        if (await settle(database, sql, claim, sizeOf)) ended++;
      } catch (error) {
        errors.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(questionsAtOnce, claims.length) }, work));
  if (errors.length > 0) throw errors[0];
  return ended;
}

async function settle(database: Database, sql: Statements, claim: Row, sizeOf: SizeOf): Promise<boolean> {
  // Not `uploading` in this generation any more: there is nothing to find out.
  if (claim.namespace !== null) {
    const suffix = String(claim.physical_suffix);
    const size = await sizeOf(physicalKeyOf(keyOf(claim, String(claim.namespace)), suffix));
    if (size !== undefined) {
      const values = [claim.blob_id, claim.generation, suffix, claim.id, claim.epoch, size];
      const [settled] = await database.run(sql.settlePresent, values);
      if (settled?.is_blocked !== true) return settled?.ended === 1;
    }
  }
  return endLease(database, sql, claim);
}

/** Ends a lease without a commit, and with it a row that nothing else holds. `epoch` null: whoever claimed it. */
export function endLease(database: Database, sql: Statements, lease: Row): Promise<boolean> {
  return database.transaction(async (run) => {
    // The lock comes first: a lease given meanwhile by `begin` is committed by then, so the later statements see it.
    await run(sql.lockBlob, [lease.blob_id]);
    const ended = await run(sql.endLease, [lease.id, lease.epoch]);
    if (ended.length > 0) await run(sql.removeUnused, [lease.blob_id, lease.generation]);
    return ended.length > 0;
  });
}
