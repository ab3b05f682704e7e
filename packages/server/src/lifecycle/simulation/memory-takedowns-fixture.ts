/** What a takedown's steps ask of the catalog, in memory, for one blob or a few: the same rules as takedown-catalog.ts. */
import { type Digest, parseKey } from '@large-payload/core';
import { namesMatch } from '../../takedown/selector.js';
import type { Takedown, TakedownCatalog } from '../../takedown/takedown-catalog.js';
import type { MemoryBlob, MemoryModel } from '../catalog/memory-model.js';

export interface MemoryTakedownsOptions {
  /** For mutants: rows in this state are not meant. */
  readonly without?: MemoryBlob['state'];
  /** For mutants: the names are noted, and the rows stay as they are. */
  readonly leavesRows?: boolean;
}

type Asked = Pick<
  TakedownCatalog,
  'request' | 'get' | 'accept' | 'settled' | 'setAccepted' | 'names' | 'counted' | 'erased' | 'writers' | 'now'
>;

export function memoryTakedowns(model: MemoryModel, options: MemoryTakedownsOptions = {}): TakedownCatalog {
  let takedown: Takedown | undefined;
  let lookedAt: number | undefined;
  const names = new Map<string, { physicalKey: string; key: string; size: number }>();
  const sums = { objects: 0, erased: 0, bytes: 0, hasReceipt: false };

  /** What is not blocked and came since the first look is new data. */
  function isMeant(row: MemoryBlob): boolean {
    if (takedown === undefined || row.state === options.without) return false;
    const isNew = lookedAt !== undefined && !takedown.isBlocking;
    return !isNew && row.state !== 'gone' && row.state !== 'taken_down' && namesMatch(takedown.selector, row.blob);
  }

  function takeDown(row: MemoryBlob): void {
    const physicalKey = model.physicalKey(row);
    names.set(physicalKey, { physicalKey, key: row.key, size: row.size });
    model.erased.add(physicalKey);
    if (options.leavesRows !== true) model.become(row, 'taken_down');
  }

  function block(key: string): void {
    const { namespace, digest } = parseKey(key);
    if (!model.blocks.some((one) => one.digest === digest)) model.blocks.push({ namespace, digest, prefix: undefined });
  }

  const asked: Asked = {
    async request(request) {
      takedown = { ...request, ...sums, state: 'planning', requestedAt: new Date(model.now()) };
      return takedown;
    },
    get: async () => takedown,
    async accept() {
      const rows = [...model.blobs.values()].filter(isMeant);
      for (const row of rows) takeDown(row);
      if (takedown?.isBlocking) {
        for (const { key } of names.values()) block(key);
        const digest = takedown.selector.digest as Digest | undefined;
        if (digest !== undefined && names.size === 0 && takedown.selector.key !== undefined)
          block(takedown.selector.key);
      }
      lookedAt ??= model.now();
      return { event: 0n, added: rows.length };
    },
    settled: async () => true,
    setAccepted: async () => undefined,
    names: async (_id, after) => [...names.values()].filter(({ physicalKey }) => physicalKey > after),
    counted: async () => undefined,
    erased: async () => undefined,
    async writers() {
      const now = model.now();
      const leases = [...model.leases.values()].filter(({ blobId, expiresAt, generation }) => {
        const row = model.blobs.get(blobId);
        return row !== undefined && isOfNames(row, generation) && expiresAt > now;
      });
      return { leases: leases.length, urls: 0 };
    },
    now: async () => new Date(model.now()),
  };

  /** Whether a lease is of an object that is erased: a newer generation of the row is not. */
  function isOfNames(row: MemoryBlob, generation: number): boolean {
    const isNewer = row.generation > generation || row.state === 'taken_down';
    return (isNewer || names.has(model.physicalKey(row))) && [...names.values()].some(({ key }) => key === row.key);
  }

  return asked as TakedownCatalog;
}
