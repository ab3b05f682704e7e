/**
 * What a permission allows to be done in one blob namespace (gc.md, rules 4 to 7):
 *
 *   live ──quarantine──► quarantined ──Q, fresh marks──► deleting ──object deleted──► gone
 *              └ any touch, until the very last moment: live again
 *
 * The checks themselves are in the catalog's statements: what stands here only decides in which order they are run.
 */
import { type BlobStore, LpsError, settleAll } from '@large-payload/core';
import type { Fence, LifecycleCatalog, Permission, StateSum, SweptBlob } from './lifecycle-catalog.js';

export interface SweepOptions {
  readonly catalog: LifecycleCatalog;
  readonly fence: Fence;
  readonly permission: Permission;
  /** Q, in ms. */
  readonly quarantineMs: number;
  readonly signal: AbortSignal;
  /** Whether a brake was set meanwhile: asked before each batch, because a sweep may take hours. */
  isStopped(): Promise<boolean>;
}

/** What would be done, or was. */
export interface Sweep {
  readonly quarantined: StateSum;
  readonly retired: StateSum;
}

export interface SweepPlan {
  readonly quarantine: StateSum;
  readonly retire: StateSum;
  /** Bytes that are live or quarantined now. */
  readonly totalBytes: number;
}

const batch = 500;
/** A store takes 10 ms and more for one, and a batch of them is a matter of waiting. */
const deletesAtOnce = 8;
/** Below, a share says nothing: a handful of blobs is always a large part of a small namespace. */
const minBrakeBlobs = 100;

/** Counts; changes nothing. */
export async function planSweep(options: Omit<SweepOptions, 'fence' | 'isStopped'>): Promise<SweepPlan> {
  const { catalog, permission, quarantineMs } = options;
  const sums = await catalog.sums(permission.blobNamespace);
  const quarantine = await total(options, (after) => catalog.candidates(permission, after, batch));
  const retire = await total(options, (after) => catalog.condemned(permission, quarantineMs, after, batch));
  const totalBytes = (sums.get('live')?.bytes ?? 0) + (sums.get('quarantined')?.bytes ?? 0);
  return { quarantine, retire, totalBytes };
}

/** Why a person should look before anything of a plan is done: it is more than this share of the namespace's bytes. */
export function tooMuch(plan: SweepPlan, maxShare: number): string | undefined {
  const { quarantine, totalBytes } = plan;
  if (quarantine.blobs < minBrakeBlobs || quarantine.bytes <= maxShare * totalBytes) return undefined;
  const percent = (100 * quarantine.bytes) / Math.max(1, totalBytes);
  return `${quarantine.blobs} blobs, ${percent.toFixed(1)} % of the bytes, would go at once (more than ${100 * maxShare} %)`;
}

/** Quarantines, and retires what has been in quarantine for long enough. Throws ABORTED. */
export async function sweep(options: SweepOptions): Promise<Sweep> {
  const { catalog, fence, permission, quarantineMs } = options;
  // first what was decided long ago: what is quarantined now must wait for marks that begin later
  const retired = await act(
    options,
    (after) => catalog.condemned(permission, quarantineMs, after, batch),
    (ids) => catalog.retire(fence, permission, quarantineMs, ids),
  );
  const quarantined = await act(
    options,
    (after) => catalog.candidates(permission, after, batch),
    (ids) => catalog.quarantine(fence, permission, ids),
  );
  return { quarantined, retired };
}

/**
 * Deletes the objects of retired generations: their names are never used again, so it may be done late, twice, and by
 * whoever leads. Returns how many; throws what the store throws.
 */
export async function deleteRetired(options: {
  readonly catalog: LifecycleCatalog;
  readonly store: Pick<BlobStore, 'delete'>;
  readonly signal: AbortSignal;
  /** Throws unless the bucket is still this catalog's; asked for each page of the list. */
  mayDelete(): Promise<void>;
  /** Whether a brake was set meanwhile: asked before each few of them. */
  isStopped(): Promise<boolean>;
}): Promise<StateSum> {
  const { catalog, store, signal, mayDelete, isStopped } = options;
  const deleted = { blobs: 0, bytes: 0 };
  for (let after = 0n; ; ) {
    const objects = await catalog.retired(after, batch);
    const last = objects.at(-1);
    if (last === undefined) return deleted;
    await mayDelete();
    for (let at = 0; at < objects.length; at += deletesAtOnce) {
      throwIfAborted(signal);
      if (await isStopped()) return deleted;
      await settleAll(objects.slice(at, at + deletesAtOnce), signal, async (object) => {
        await store.delete(object.physicalKey);
        await catalog.objectDeleted(object);
        deleted.blobs += 1;
        deleted.bytes += object.size;
      });
    }
    after = last.blobId;
  }
}

async function total(
  { signal }: Pick<SweepOptions, 'signal'>,
  read: (after: bigint) => Promise<SweptBlob[]>,
): Promise<StateSum> {
  const sum = { blobs: 0, bytes: 0 };
  for await (const blobs of pages(signal, read)) add(sum, blobs);
  return sum;
}

async function act(
  { signal, isStopped }: Pick<SweepOptions, 'signal' | 'isStopped'>,
  read: (after: bigint) => Promise<SweptBlob[]>,
  decide: (ids: readonly bigint[]) => Promise<SweptBlob[]>,
): Promise<StateSum> {
  const sum = { blobs: 0, bytes: 0 };
  for await (const blobs of pages(signal, read)) {
    if (await isStopped()) break;
    add(sum, await decide(blobs.map(({ id }) => id)));
  }
  return sum;
}

async function* pages(signal: AbortSignal, read: (after: bigint) => Promise<SweptBlob[]>): AsyncGenerator<SweptBlob[]> {
  for (let after = 0n; ; ) {
    throwIfAborted(signal);
    const blobs = await read(after);
    const last = blobs.at(-1);
    if (last === undefined) return;
    yield blobs;
    after = last.id;
  }
}

function add(sum: { blobs: number; bytes: number }, blobs: readonly SweptBlob[]): void {
  sum.blobs += blobs.length;
  sum.bytes += blobs.reduce((bytes, { size }) => bytes + size, 0);
}

function throwIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new LpsError('ABORTED', 'the sweep was broken off', { cause: signal.reason });
}
