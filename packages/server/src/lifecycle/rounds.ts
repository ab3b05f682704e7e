/**
 * Whether the database is older than the store: one that was restored, or failed over without its last writes, has
 * forgotten touches, holders and quarantines. The store keeps how many rounds the collection has made:
 *
 *   .lps/rounds    {"catalog":"5f0c…","rounds":"42"}
 *
 * The object is written before anything is decided in a round, so a database that comes back from before it has fewer.
 */
import { type BlobStore, digestOf, readAll } from '@large-payload/core';
import type { Fence, LifecycleCatalog } from './lifecycle-catalog.js';

export const roundsObject = '.lps/rounds';

/**
 * Begins a round. `false`: the database has seen fewer rounds than the store knows of; from now on it counts as rebuilt, and
 * a person has to look.
 */
export async function beginRound(
  catalog: LifecycleCatalog,
  store: BlobStore,
  fence: Fence,
  catalogId: string,
): Promise<boolean> {
  const known = await readRounds(store);
  const isOlder = known > (await catalog.rounds());
  if (isOlder) await catalog.noteRestored(fence, known);
  const rounds = await catalog.nextRound(fence);
  await writeRounds(store, catalogId, rounds);
  return !isOlder;
}

async function readRounds(store: BlobStore): Promise<bigint> {
  const found = await store.get(roundsObject);
  if (found === undefined) return 0n;
  const text = Buffer.from(await readAll(found.body, 4096)).toString('utf8');
  const { rounds } = JSON.parse(text) as { readonly rounds?: unknown };
  return typeof rounds === 'string' && /^\d{1,18}$/.test(rounds) ? BigInt(rounds) : 0n;
}

async function writeRounds(store: BlobStore, catalog: string, rounds: bigint): Promise<void> {
  const bytes = Buffer.from(JSON.stringify({ catalog, rounds: `${rounds}` }));
  await store.put(roundsObject, bytes, { digest: digestOf(bytes), size: bytes.length }, { overwrite: true });
}
