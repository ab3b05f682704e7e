/** How many connections a process opens beside the catalog's pool; of its own file, because it costs nothing to load. */

/** DBOS' pool: one of them listens. Never the catalog's: one shared pool deadlocks. */
export const durablePoolSize = 8;
/** For what a leader decides, and for reading about replicas. */
export const replicaPoolSize = 2;

/** Never the catalog's either: two look for unknown tokens, one writes the audit, one is for the rest. */
export const accessPoolSize = 4;

/** The collection's: its statements walk. */
export const collectionPoolSize = 3;

/** Takedowns': one may take minutes. */
export const takedownPoolSize = 2;

/** For the URLs of direct uploads. */
export const uploadUrlPoolSize = 2;

/** Leases on reading: one renews them, one answers cache nodes. */
export const readLeasePoolSize = 2;

/** The catalog's two listeners, the replica's session, the lock around a launch. */
const single = 4;
/** The lock of the data directory, hand tools beside the service, and what Postgres keeps for its administrator. */
const others = 10;

/** How many connections one `lps serve` opens at most. */
export function serviceConnections(catalogPoolSize: number): number {
  const beside = durablePoolSize + replicaPoolSize + accessPoolSize + collectionPoolSize;
  return catalogPoolSize + beside + takedownPoolSize + uploadUrlPoolSize + readLeasePoolSize + single;
}

/** What an embedded PostgreSQL is started with. */
export function embeddedConnections(catalogPoolSize: number): number {
  return serviceConnections(catalogPoolSize) + others;
}
