/**
 * Guards of the production code, each taken away from around it: what is wrapped says nothing, or lies. The simulation
 * must notice every one of them, or it proves nothing.
 */
import type { BlobStore } from '@large-payload/core';
import type { MemoryModel } from '../catalog/memory-model.js';
import type { Mark, Permission } from '../lifecycle-catalog.js';
import { hour, type Mutation, overriding, runKind, scheduleKind } from './world-fixture.js';

export interface Mutant {
  readonly name: string;
  readonly mutation: Mutation;
  /** The play (scenes-fixture.ts) that notices it; without one, random walks do. */
  readonly scene?: string;
  /** What cannot be changed from around the catalog in memory. */
  readonly patch?: (model: MemoryModel) => void;
}

const long = new Date(8_000_000_000_000);

export const mutants: readonly Mutant[] = [
  {
    name: 'a HEAD is not written down as a use',
    mutation: {
      catalog: (catalog, world) =>
        overriding(catalog, {
          touch: async (rows) => {
            const now = await catalog.lookupMany([]);
            return [...now, ...rows].map((row) => ({
              ...row,
              protectedUntil: new Date(world.now + world.times.graceMs),
            }));
          },
        }),
    },
  },
  {
    name: 'a read is not written down as a use',
    scene: '15 a read that a cache answers is a use like any other',
    mutation: {
      catalog: (catalog, world) =>
        overriding(catalog, {
          touch: async (rows, by) => {
            if (by === 'upload') return catalog.touch(rows, by);
            const protectedUntil = new Date(world.now + world.times.graceMs);
            return rows.map((row) => ({ ...row, protectedUntil }));
          },
        }),
    },
  },
  {
    name: 'an upload that meets its blob is not written down as a use',
    mutation: {
      catalog: (catalog, world) =>
        overriding(catalog, {
          begin: async (key, size, leaseMs) => {
            const row = await catalog.lookup(key);
            if (row?.state !== 'live') return catalog.begin(key, size, leaseMs);
            const protectedUntil = new Date(world.now + world.times.graceMs);
            return { kind: 'present', row: { ...row, protectedUntil }, touched: false };
          },
        }),
    },
  },
  {
    name: 'one mark is enough',
    scene: '5 a run is reset at the last moment of its retention, before the first marks',
    mutation: {
      lifecycle: (lifecycle) =>
        overriding(lifecycle, {
          marksOf: async (namespace, limit) => {
            const marks = await lifecycle.marksOf(namespace, limit);
            return marks.flatMap((mark) => [mark, shifted(mark, -hour)]);
          },
        }),
    },
  },
  {
    name: 'no 2V between the marks, and no V at their end',
    scene: '5 a run is reset at the last moment of its retention, before the first marks',
    mutation: { times: { visibilityMs: 0 } },
  },
  {
    name: 'marks may be further apart than the retention',
    scene: '5 a chain of resets that is always younger than a list, over marks that take too long',
    mutation: {
      lifecycle: (lifecycle) =>
        overriding(lifecycle, {
          marksOf: async (namespace, limit) =>
            (await lifecycle.marksOf(namespace, limit)).map((mark) => ({ ...mark, retentionMs: 1e15 })),
        }),
    },
  },
  {
    name: 'the grace is ignored',
    mutation: permitting((permission) => ({ ...permission, untouchedSince: permission.firstMarkStartedAt })),
  },
  {
    name: 'what is touched may go',
    mutation: permitting((permission) => ({ ...permission, untouchedSince: long })),
  },
  {
    name: 'marks that began before the quarantine are fresh enough',
    mutation: permitting((permission) => ({ ...permission, firstMarkStartedAt: long })),
  },
  {
    name: 'what is quarantined may go at once',
    mutation: {
      lifecycle: (lifecycle) =>
        overriding(lifecycle, {
          condemned: (permission, _quarantineMs, after, limit) => lifecycle.condemned(permission, 0, after, limit),
          retire: (fence, permission, _quarantineMs, ids) => lifecycle.retire(fence, permission, 0, ids),
        }),
    },
  },
  {
    name: 'the mutable state is not read',
    scene: '8 only a heartbeat holds it',
    mutation: {
      temporal: (namespace) =>
        overriding(namespace, {
          describeRun: async (run) => {
            const described = await namespace.describeRun(run);
            return described && { ...described, pendingActivities: [] };
          },
        }),
    },
  },
  {
    name: 'only the first page of a list is read',
    scene: '7 runs close while the list is read, and its pages move',
    mutation: {
      temporal: (namespace) =>
        overriding(namespace, { listRuns: async (next) => ({ items: (await namespace.listRuns(next)).items }) }),
    },
  },
  {
    name: 'an open run is read once',
    mutation: {
      lifecycle: (lifecycle) =>
        overriding(lifecycle, {
          saveScan: (mark, holder, scan) => lifecycle.saveScan(mark, holder, { ...scan, isDone: true }),
          noteHolders: (mark, kind, found) =>
            lifecycle.noteHolders(
              mark,
              kind,
              found.map(({ id }) => ({ id, isClosed: true })),
            ),
        }),
    },
  },
  {
    name: 'new holders are noted, and not read',
    mutation: { lifecycle: (lifecycle) => overriding(lifecycle, { unscannedHolders: async () => [] }) },
  },
  {
    name: 'schedules are not listed',
    mutation: { kinds: [runKind] },
  },
  {
    name: 'runs are not listed',
    mutation: { kinds: [scheduleKind] },
  },
  {
    name: 'who is not listed is gone, and its edges with it',
    scene: '5 a run is reset at the last moment of its retention, between two marks',
    mutation: {
      lifecycle: (lifecycle) =>
        overriding(lifecycle, {
          unseenHolders: async (mark, after, limit) => {
            for (const holder of await lifecycle.unseenHolders(mark, after, limit)) await lifecycle.markGone(holder);
            await lifecycle.forgetGone(0, 1000);
            return [];
          },
        }),
    },
  },
  {
    name: 'edges of what is gone are dropped at once, and who was gone unread is no gap',
    scene: '5 a run is reset at the last moment of its retention, between two marks',
    mutation: {
      lifecycle: (lifecycle) =>
        overriding(lifecycle, {
          forgetGone: (_lingerMs, limit) => lifecycle.forgetGone(0, limit),
          endMark: (fence, mark, outcome) => {
            const gaps = outcome.gaps.filter((gap) => !gap.includes('gone before it was read'));
            return lifecycle.endMark(fence, mark, { ...outcome, gaps, isComplete: gaps.length === 0 });
          },
        }),
    },
  },
  {
    name: 'edges of a schedule that was changed go at once',
    scene: '10 a schedule fires, and is changed before it is read again, by rounds that follow at once',
    mutation: {
      lifecycle: (lifecycle) =>
        overriding(lifecycle, { forgetLost: (_lingerMs, limit) => lifecycle.forgetLost(0, limit) }),
    },
  },
  {
    name: 'an error of a list is taken for its end',
    mutation: {
      temporal: (namespace) =>
        overriding(namespace, { listRuns: (next) => namespace.listRuns(next).catch(() => ({ items: [] })) }),
    },
  },
  {
    name: 'gaps are ignored',
    mutation: {
      lifecycle: (lifecycle) =>
        overriding(lifecycle, {
          endMark: (fence, mark, outcome) => lifecycle.endMark(fence, mark, { ...outcome, gaps: [], isComplete: true }),
        }),
    },
  },
  {
    name: 'pins are ignored',
    scene: 'a pin keeps what nobody refers to',
    mutation: {
      lifecycle: (lifecycle) =>
        overriding(lifecycle, {
          addPin: async (pin) => {
            const made = await lifecycle.addPin(pin);
            await lifecycle.removePin(made.id);
            return made;
          },
        }),
    },
  },
  {
    name: 'leases are ignored',
    scene: 'two upload the same blob, and one of them stalls for longer than it takes to collect',
    mutation: {},
    patch: (model) => {
      model.hasLease = () => false;
    },
  },
  {
    name: 'the fence is ignored',
    scene: '13 an earlier leader goes on: lifecycle.quarantine',
    mutation: {
      lifecycle: (lifecycle, world) => {
        const latest = () => world.leader?.fence ?? { epoch: '0' };
        return overriding(lifecycle, {
          quarantine: (_fence, permission, ids) => lifecycle.quarantine(latest(), permission, ids),
          retire: (_fence, permission, ms, ids) => lifecycle.retire(latest(), permission, ms, ids),
          beginMark: (_fence, namespace, ms) => lifecycle.beginMark(latest(), namespace, ms),
          endMark: (_fence, mark, outcome) => lifecycle.endMark(latest(), mark, outcome),
          nextRound: () => lifecycle.nextRound(latest()),
        });
      },
    },
  },
  {
    name: 'the name of an object is used again',
    scene: '12 a deletion is delayed past another upload',
    mutation: { store: withoutGenerations },
  },
  {
    name: 'only the namespace of the same name is asked',
    scene: 'a claim in another namespace, and that one has a gap',
    mutation: { isIsolated: true },
  },
  {
    name: 'another cluster at the same address is taken for the same one',
    scene: '20 the address is that of another cluster, which is empty',
    mutation: believing(),
  },
  {
    name: 'a namespace that was made anew is taken for the same one',
    scene: '20 the namespace is made anew',
    mutation: believing(),
  },
  {
    name: 'a database that is older than the store goes on as if nothing had happened',
    scene: '14 the database fails over, and has lost its last touches',
    mutation: { lifecycle: (lifecycle) => overriding(lifecycle, { rounds: async () => 10_000n }) },
  },
  {
    name: 'a namespace that was never described is not missed',
    scene: 'a namespace that cannot be described may hold everything',
    mutation: {
      lifecycle: (lifecycle) =>
        overriding(lifecycle, {
          knownNamespaces: async () =>
            (await lifecycle.knownNamespaces()).filter(({ identity }) => identity.clusterId !== ''),
        }),
    },
  },
];

/** Whatever says where it is from. */
function believing(): Mutation {
  return {
    lifecycle: (lifecycle) =>
      overriding(lifecycle, {
        knowNamespace: async (name, identity) => ({ ...(await lifecycle.knowNamespace(name, identity)), identity }),
      }),
  };
}

function permitting(change: (permission: Permission) => Permission): Mutation {
  return {
    lifecycle: (lifecycle) =>
      overriding(lifecycle, {
        candidates: (permission, after, limit) => lifecycle.candidates(change(permission), after, limit),
        quarantine: (fence, permission, ids) => lifecycle.quarantine(fence, change(permission), ids),
        condemned: (permission, ms, after, limit) => lifecycle.condemned(change(permission), ms, after, limit),
        retire: (fence, permission, ms, ids) => lifecycle.retire(fence, change(permission), ms, ids),
      }),
  };
}

function shifted(mark: Mark, ms: number): Mark {
  const moved = (date: Date): Date => new Date(date.getTime() + ms);
  return {
    ...mark,
    startedAt: moved(mark.startedAt),
    ...(mark.endedAt === undefined ? {} : { endedAt: moved(mark.endedAt) }),
    retentionMs: 1e15,
  };
}

function withoutGenerations(store: BlobStore): BlobStore {
  const plain = (key: string): string => key.replace(/~[0-9a-z]{16}$/, '');
  return overriding(store, {
    put: (key, body, expect, options) => store.put(plain(key), body, expect, options),
    get: (key, options) => store.get(plain(key), options),
    head: (key, options) => store.head(plain(key), options),
    delete: (key, options) => store.delete(plain(key), options),
  });
}
