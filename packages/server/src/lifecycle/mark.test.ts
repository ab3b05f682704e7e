/** When a mark has listed enough. What it does with what it finds is shown by the simulation. */
import { beforeEach, describe, expect, it } from 'vitest';
import { type MemoryLifecycle, memoryLifecycle } from './catalog/memory-lifecycle.js';
import type { FoundHolder, HolderKind } from './holders/holder-kind.js';
import { markNamespace } from './mark.js';
import type { TemporalNamespace } from './temporal-api.js';

describe('a mark', () => {
  let site: MemoryLifecycle;
  let scanned: string[] = [];
  let lists = 0;

  beforeEach(() => {
    site = memoryLifecycle({ now: () => 0, graceMs: 1000 });
    scanned = [];
    lists = 0;
  });

  const run = (at: number): FoundHolder => ({ id: `w\nr${at}`, isClosed: false, startedAt: at });

  async function mark(listed: (list: number) => FoundHolder[]) {
    const kind: HolderKind = {
      name: 'run',
      async *list() {
        lists += 1;
        for (const found of listed(lists)) yield [found];
      },
      async scan(_namespace, id) {
        scanned.push(id);
        return { isClosed: false, edges: [], cursor: '1', gaps: [] };
      },
    };
    const described = { clusterId: 'c', namespaceId: 'n', serverVersion: '1', retentionMs: 1000, gaps: [] };
    const namespace = { cluster: 'c', name: 'n', describe: async () => described } as unknown as TemporalNamespace;
    const { signal } = new AbortController();
    return markNamespace({ catalog: site.lifecycle, fence: site.lead(), namespace, kinds: [kind], signal });
  }

  it('of a namespace in which runs start all the time is complete, and has read all that it saw', async () => {
    // one more in each list
    const outcome = await mark((list) => Array.from({ length: 3 + list }, (_, at) => run(at)));
    expect(outcome.mark).toMatchObject({ isComplete: true, gaps: [], holders: 5, scanned: 5 });
    expect(lists).toBe(2);
    expect(scanned.sort()).toEqual([0, 1, 2, 3, 4].map((at) => run(at).id));
  });

  it('lists again for one that was there before, or may have been, and was not shown', async () => {
    const late = (list: number): FoundHolder[] => {
      if (list === 2) return [run(3)];
      if (list === 3) return [{ id: 'w\nwho knows when', isClosed: false }];
      return list === 5 ? [run(11)] : [];
    };
    const outcome = await mark((list) => [run(1), run(10), ...late(list)]);
    expect(outcome.mark).toMatchObject({ isComplete: true, holders: 4 });
    expect(lists).toBe(4);
  });

  it('ends with a gap when such ones come again and again', async () => {
    const outcome = await mark((list) => [run(1000), run(list)]);
    expect(outcome.mark).toMatchObject({ isComplete: false, gaps: ['after 20 lists there were still new holders'] });
    expect(lists).toBe(20);
  });
});
