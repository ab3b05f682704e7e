/** What a monitor of the collection wants to know, read from the catalog when it asks: every replica tells the same. */
import { setTimeout as delay } from 'node:timers/promises';
import { Gauge, type Registry } from 'prom-client';
import { nameOf } from './brakes.js';
import type { LifecycleCatalog } from './lifecycle-catalog.js';

const patienceMs = 2000;

/** While Postgres does not answer, the last numbers stand. */
export function watchCollection(catalog: LifecycleCatalog, registry: Registry): void {
  const registers = [registry];
  const marked = { labelNames: ['namespace'], registers } as const;
  const complete = new Gauge({
    ...{ name: 'lps_collection_mark_complete', help: 'Whether the last mark of a Temporal namespace was complete' },
    ...marked,
  });
  const seconds = new Gauge({
    ...{ name: 'lps_collection_mark_seconds', help: 'How long the last mark of a Temporal namespace took' },
    ...marked,
  });
  const completedAt = new Gauge({
    name: 'lps_collection_last_complete_mark_timestamp_seconds',
    help: 'When the last complete mark of a Temporal namespace ended',
    ...marked,
  });
  const bytes = new Gauge({
    ...{ name: 'lps_collection_bytes', help: 'Bytes of blobs, by state' },
    ...{ labelNames: ['state'], registers },
  });
  const brakes = new Gauge({
    ...{ name: 'lps_collection_brakes', help: 'What has stopped the collection until a person looks' },
    ...{ labelNames: ['kind'], registers },
  });
  let reading: Promise<void> | undefined;
  const refresh = async (): Promise<void> => {
    for (const namespace of await catalog.knownNamespaces()) {
      const [last, ...earlier] = await catalog.marksOf(namespace, 50);
      if (last?.endedAt === undefined) continue;
      const label = { namespace: nameOf(namespace) };
      complete.set(label, Number(last.isComplete));
      seconds.set(label, (last.endedAt.getTime() - last.startedAt.getTime()) / 1000);
      const whole = [last, ...earlier].find(({ isComplete }) => isComplete);
      if (whole?.endedAt !== undefined) completedAt.set(label, whole.endedAt.getTime() / 1000);
    }
    for (const [state, sum] of await catalog.sums()) bytes.set({ state }, sum.bytes);
    brakes.reset();
    for (const { kind } of await catalog.brakes()) brakes.inc({ kind });
  };
  new Gauge({
    name: 'lps_collection_revived',
    help: 'Quarantined blobs that were read within the last day: holders that were missed',
    registers,
    async collect() {
      const read = async (): Promise<void> => {
        const dayAgo = new Date((await catalog.now()).getTime() - 86_400_000);
        this.set(await catalog.revivedSince(dayAgo));
        await refresh();
      };
      // the other metrics do not wait for Postgres
      reading ??= read()
        .catch(() => undefined)
        .finally(() => {
          reading = undefined;
        });
      await Promise.race([reading, delay(patienceMs, undefined, { ref: false })]);
    },
  });
}
