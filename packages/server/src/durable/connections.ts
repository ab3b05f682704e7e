/** How many connections a process opens beside the catalog's pool; of its own file, because it costs nothing to load. */

/** DBOS' pool: one of them listens. Never the catalog's: one shared pool deadlocks. */
export const durablePoolSize = 8;
/** For what a leader decides, and for reading about replicas. */
export const replicaPoolSize = 2;

/** The lock of the directory, the catalog's listener, the replica's session, the lock around a launch; and the hand tools. */
const others = 12;

/** What an embedded PostgreSQL is started with. */
export function embeddedConnections(catalogPoolSize: number): number {
  return catalogPoolSize + durablePoolSize + replicaPoolSize + others;
}
