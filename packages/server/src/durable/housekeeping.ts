/**
 * Small work on a timer. Expired leases belong to the catalog, so one replica is enough: a task of the leader. (Two at a
 * time would do no harm: a sweeper settles only the leases that it claimed.) Temporary files belong to the disk of one
 * process, which alone may say that nobody writes them: each process cares for its own.
 */
import type { BlobStore } from '@large-payload/core';
import type { Logger } from 'pino';
import type { Catalog } from '../catalog/catalog.js';
import { hashObject } from '../hash-object.js';
import type { OpenedStore } from '../open-store.js';
import type { LeaderTask } from './leader-tasks.js';

const everyMs = 60_000;
const leasesPerRound = 1000;
const oldTemporaryFileMs = 3_600_000;

/** Ends the leases of uploads that were cut off. */
export function sweepLeasesTask(store: BlobStore, catalog: Catalog, log: Logger): LeaderTask {
  return {
    name: 'cleaning up uploads that were cut off',
    everyMs,
    async run() {
      const ended = await catalog.sweepLeases(
        // hashed, not just asked for: what stands there may be another writer's
        (physicalKey) => hashObject(store, physicalKey),
        leasesPerRound,
      );
      if (ended > 0) log.info({ leases: ended }, 'uploads that were cut off have been cleaned up');
    },
  };
}

/** Removes temporary files that nobody writes any more, now and then; the returned function ends it. */
export function tidyFiles(store: OpenedStore, log: Logger): () => Promise<void> {
  let running: Promise<void> = Promise.resolve();
  const round = (): Promise<void> =>
    removeTemporaryFiles(store, oldTemporaryFileMs, log).catch((error: unknown) =>
      log.warn({ err: error }, 'removing temporary files failed; it runs again'),
    );
  const timer = setInterval(() => {
    running = running.then(round);
  }, everyMs).unref();
  return async () => {
    clearInterval(timer);
    await running;
  };
}

export async function removeTemporaryFiles(store: OpenedStore, olderThanMs: number, log: Logger): Promise<void> {
  const removed = (await store.janitor?.({ olderThanMs })) ?? 0;
  if (removed > 0) log.info({ files: removed }, 'temporary files of broken-off uploads have been removed');
}
