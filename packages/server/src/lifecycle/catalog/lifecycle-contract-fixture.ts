/**
 * What every catalog of the collection keeps to, as tests: run on PostgreSQL and on the model in memory, on which the
 * simulation runs. Races of real transactions: postgres-lifecycle-races.test.ts.
 */
import { randomBytes } from 'node:crypto';
import type { BlobKey } from '@large-payload/core';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { logicalKey } from '../../catalog/blob-record.js';
import type { BlobState, Catalog } from '../../catalog/catalog.js';
import { beginUpload, makeLive, newKey } from '../../catalog/postgres-catalog-fixture.js';
import type { Edge } from '../edge.js';
import type { Fence, HolderRow, KnownNamespace, LifecycleCatalog, Mark, Permission } from '../lifecycle-catalog.js';

export interface HarnessRow {
  readonly id: bigint;
  readonly state: BlobState;
  readonly generation: number;
  readonly physicalKey: string;
  readonly touchedAt: Date;
  readonly leases: number;
}

/** A catalog, both sides of it, whose time can be moved. Walks look at 3 rows at a time. */
export interface LifecycleHarness {
  readonly catalog: Catalog;
  readonly lifecycle: LifecycleCatalog;
  /** Of the catalog; a touch is due after a 24th of it. */
  readonly graceMs: number;
  /** Another leader than before. */
  lead(): Promise<Fence>;
  /** Lets time pass; times that were read before may be wrong then. */
  pass(ms: number): Promise<void>;
  read(key: BlobKey): Promise<HarnessRow | undefined>;
  /** Puts a key's row into a state as if something had. */
  force(key: BlobKey, state: BlobState | 'absent', options?: { generation?: number; suffix?: string }): Promise<void>;
  /** As a takedown does: the row, if there is one that has something to erase, and the name of its object. */
  takeDown(key: BlobKey): Promise<void>;
  /** Forbids that the bytes are stored again, under the key's prefix. */
  block(key: BlobKey): Promise<void>;
  unblock(key: BlobKey): Promise<void>;
  /** The rows were made again, as of now. */
  rebuilt(): Promise<void>;
  close(): Promise<void>;
}

const hourMs = 3_600_000;
const quarantineMs = 10 * hourMs;
const identity = { clusterId: 'c-1', namespaceId: 'n-1', serverVersion: '1.32.0' };

let harness: LifecycleHarness;
let catalog: Catalog;
let lifecycle: LifecycleCatalog;
let fence: Fence;
let orders: string;

export function testLifecycleCatalog(name: string, open: () => Promise<LifecycleHarness>): void {
  describe(`the collection's catalog: ${name}`, () => {
    beforeAll(async () => {
      harness = await open();
      ({ catalog, lifecycle } = harness);
    });
    beforeEach(async () => {
      orders = `orders-${randomBytes(4).toString('hex')}`;
      fence = await harness.lead();
    });
    afterAll(() => harness?.close());
    describe('namespaces', testNamespaces);
    describe('marks', testMarks);
    describe('holders', testHolders);
    describe('what is due', testDue);
    describe('quarantine', testQuarantine);
    describe('retire', testRetire);
    describe('every state × every operation', testStates);
    describe('behind the decision', testAfter);
    describe('sums and counts', testSums);
    describe('pins', testPins);
    describe('brakes', testBrakes);
  });
}

// moves

async function known(): Promise<KnownNamespace> {
  return lifecycle.knowNamespace({ cluster: 'main', name: `t-${randomBytes(4).toString('hex')}` }, identity);
}

const complete = { isComplete: true, gaps: [], holders: 0, scanned: 0 };

async function completeMark(namespace: KnownNamespace): Promise<void> {
  await lifecycle.endMark(fence, await lifecycle.beginMark(fence, namespace, 48 * hourMs), complete);
}

/** That of two complete marks, an hour apart, made now. */
async function permit(blobNamespace = orders): Promise<Permission> {
  const namespace = await known();
  await completeMark(namespace);
  await harness.pass(hourMs);
  await completeMark(namespace);
  return permissionOf(namespace, blobNamespace);
}

async function permissionOf(namespace: KnownNamespace, blobNamespace: string): Promise<Permission> {
  const [second, first] = await lifecycle.marksOf(namespace, 2);
  if (first === undefined || second === undefined) throw new Error('there are no two marks');
  return {
    blobNamespace,
    untouchedSince: new Date(first.startedAt.getTime() - harness.graceMs),
    firstMarkStartedAt: first.startedAt,
    marks: [first.id, second.id],
  };
}

/** A blob that was not touched for longer than the grace. */
async function garbage(key = newKey(orders)): Promise<BlobKey> {
  await makeLive(catalog, key);
  await harness.pass(2 * harness.graceMs);
  return key;
}

/** Garbage in quarantine for long enough, and the permission to retire it. */
async function condemnedGarbage(key = newKey(orders)): Promise<{ key: BlobKey; id: bigint; permission: Permission }> {
  await garbage(key);
  const id = await idOf(key);
  const [done] = await lifecycle.quarantine(fence, await permit(key.namespace), [id]);
  if (done === undefined) throw new Error('it was not quarantined');
  await harness.pass(quarantineMs + hourMs);
  return { key, id, permission: await permit(key.namespace) };
}

async function idOf(key: BlobKey): Promise<bigint> {
  const row = await harness.read(key);
  if (row === undefined) throw new Error('there is no row');
  return row.id;
}

/** Of all its edges; `null` when it has none. */
async function lostAt(key: BlobKey): Promise<Date | undefined | null> {
  const [found, ...others] = await lifecycle.holdersOf(key, 9);
  if (others.length > 0) throw new Error('it has several holders');
  return found === undefined ? null : found.lostAt;
}

async function stateOf(key: BlobKey): Promise<BlobState | undefined> {
  return (await harness.read(key))?.state;
}

const asMutable = (edge: Edge): Edge => ({ ...edge, isMutable: true });

/** A holder that has these edges. */
async function hold(edges: readonly Edge[]): Promise<{ mark: Mark; holder: HolderRow; namespace: KnownNamespace }> {
  const namespace = await known();
  const mark = await lifecycle.beginMark(fence, namespace, 48 * hourMs);
  await lifecycle.noteHolders(mark, 'run', [{ id: 'w\nr', isClosed: false }]);
  const [holder] = await lifecycle.unscannedHolders(mark, 0n, 10);
  if (holder === undefined) throw new Error('there is no holder');
  await lifecycle.saveScan(mark, holder, { edges, cursor: '7', isDone: false });
  return { mark, holder, namespace };
}

const ids = (rows: readonly { readonly id: bigint }[]): bigint[] => rows.map(({ id }) => id);
const aborted = expect.objectContaining({ code: 'ABORTED' });
const refused = expect.objectContaining({ code: 'INVALID_ARGUMENT' });

// tests

function testNamespaces(): void {
  it('keeps the identity of the first time', async () => {
    const name = { cluster: 'main', name: `t-${orders}` };
    const first = await lifecycle.knowNamespace(name, identity);
    expect(first).toMatchObject({ ...name, identity });
    expect(await lifecycle.knowNamespace(name, { ...identity, namespaceId: 'n-2' })).toEqual(first);
    expect((await lifecycle.knownNamespaces()).filter(({ name }) => name === first.name)).toEqual([first]);
  });

  it('is forgotten by a person: its holders are gone from then on, and its marks permit nothing', async () => {
    const key = await garbage();
    const { namespace, mark, holder } = await hold([{ digest: key.digest }]);
    const names = async (): Promise<bigint[]> => (await lifecycle.knownNamespaces()).map(({ id }) => id);
    await completeMark(namespace);
    await harness.pass(hourMs);
    await completeMark(namespace);
    const permission = await permissionOf(namespace, orders);
    expect(await lifecycle.forgetNamespace(namespace)).toBe(true);
    expect(await lifecycle.forgetNamespace(namespace)).toBe(false);
    expect(await names()).not.toContain(namespace.id);
    expect(await lifecycle.marksOf(namespace, 9)).toEqual([]);
    await expect(lifecycle.quarantine(fence, permission, [])).rejects.toEqual(aborted);
    await expect(lifecycle.beginMark(fence, namespace, 1)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(lifecycle.saveScan(mark, holder, { edges: [], isDone: true })).rejects.toEqual(aborted);
    await expect(lifecycle.acceptIdentity(namespace, identity)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    // its edges stay for a while
    await lifecycle.forgetGone(2 * hourMs, 9);
    expect((await lifecycle.holdersOf(key, 9))[0]?.holder.goneAt).toBeInstanceOf(Date);
    // it is configured again
    const another = { ...identity, namespaceId: 'n-2' };
    expect(await lifecycle.knowNamespace(namespace, another)).toEqual({ ...namespace, identity: another });
    expect(await names()).toContain(namespace.id);
    const again = await lifecycle.beginMark(fence, namespace, hourMs);
    await lifecycle.noteHolders(again, 'run', [{ id: 'w\nr', isClosed: false }]);
    await harness.pass(3 * hourMs);
    await lifecycle.forgetGone(2 * hourMs, 9);
    expect(await lifecycle.holdersOf(key, 9)).toMatchObject([{ holder: { id: holder.id, cursor: '7' } }]);
    await lifecycle.forgetNamespace(namespace);
    await harness.pass(3 * hourMs);
    await lifecycle.forgetGone(2 * hourMs, 9);
    expect(await lifecycle.holdersOf(key, 9)).toEqual([]);
  });

  it('forgets holders, edges and marks of an identity when another one is accepted', async () => {
    const key = await garbage();
    const { namespace, mark, holder } = await hold([{ digest: key.digest }]);
    const other = await hold([{ digest: newKey().digest }]);
    await lifecycle.endMark(fence, mark, complete);
    const open = await lifecycle.beginMark(fence, namespace, hourMs);
    await lifecycle.acceptIdentity(namespace, { ...identity, namespaceId: 'n-2' });
    const now = (await lifecycle.knownNamespaces()).find(({ id }) => id === namespace.id);
    expect(now?.identity.namespaceId).toBe('n-2');
    expect(await lifecycle.marksOf(namespace, 10)).toEqual([]);
    expect(await lifecycle.holdersOf(key, 10)).toEqual([]);
    expect(ids(await lifecycle.candidates(await permit(), 0n, 9))).toEqual([await idOf(key)]);
    await expect(lifecycle.saveScan(open, holder, { edges: [], isDone: true })).rejects.toEqual(aborted);
    await expect(lifecycle.noteHolders(open, 'run', [{ id: 'late', isClosed: true }])).rejects.toEqual(aborted);
    await expect(lifecycle.endMark(fence, open, complete)).rejects.toEqual(aborted);
    expect(ids(await lifecycle.unscannedHolders(other.mark, 0n, 10))).toEqual([]);
    await lifecycle.saveScan(other.mark, other.holder, { edges: [], isDone: false }); // of another namespace: still there
  });
}

function testMarks(): void {
  it('lists those that have ended, the newest first', async () => {
    const namespace = await known();
    const gaps = ['a payload cannot be read'];
    const first = await lifecycle.beginMark(fence, namespace, 48 * hourMs);
    expect(first).toMatchObject({ namespace, isComplete: false, retentionMs: 48 * hourMs, gaps: [] });
    expect(first.endedAt).toBeUndefined();
    const ended = await lifecycle.endMark(fence, first, { isComplete: false, gaps, holders: 5, scanned: 4 });
    expect(ended).toMatchObject({ id: first.id, isComplete: false, gaps, holders: 5, scanned: 4 });
    expect(ended.endedAt?.getTime()).toBeGreaterThanOrEqual(ended.startedAt.getTime());
    await completeMark(namespace);
    await lifecycle.beginMark(fence, namespace, hourMs);
    const marks = await lifecycle.marksOf(namespace, 10);
    expect(marks).toMatchObject([{ isComplete: true }, { id: first.id, isComplete: false }]);
    expect(await lifecycle.marksOf(namespace, 1)).toEqual(marks.slice(0, 1));
    expect(await lifecycle.marksOf(await known(), 10)).toEqual([]);
  });

  it('ends once, and takes nothing behind its end', async () => {
    const { mark, holder } = await hold([]);
    await lifecycle.endMark(fence, mark, complete);
    await expect(lifecycle.endMark(fence, mark, complete)).rejects.toEqual(aborted);
    await expect(lifecycle.saveScan(mark, holder, { edges: [], isDone: true })).rejects.toEqual(aborted);
    await expect(lifecycle.noteHolders(mark, 'run', [])).rejects.toEqual(aborted);
  });

  it('needs a namespace that is known', async () => {
    const nowhere = { id: 999_999_999n, cluster: 'main', name: 'nowhere', identity };
    await expect(lifecycle.beginMark(fence, nowhere, hourMs)).rejects.toEqual(refused);
    await expect(lifecycle.acceptIdentity(nowhere, identity)).rejects.toEqual(refused);
  });

  it('is one of the newest so many of its namespace, or nobody asks for it any more', async () => {
    const [namespace, other] = [await known(), await known()];
    const ended: Mark[] = [];
    for (let count = 0; count < 5; count += 1) {
      await lifecycle.beginMark(fence, namespace, hourMs); // of a leader that died
      const mark = await lifecycle.beginMark(fence, namespace, hourMs);
      ended.unshift(await lifecycle.endMark(fence, mark, complete));
    }
    await completeMark(other);
    const open = await lifecycle.beginMark(fence, namespace, hourMs);
    while ((await lifecycle.prune(3, hourMs, 2)).marks > 0);
    expect((await lifecycle.marksOf(namespace, 9)).map(({ id }) => id)).toEqual(ended.slice(0, 3).map(({ id }) => id));
    expect(await lifecycle.marksOf(other, 9)).toHaveLength(1);
    await lifecycle.endMark(fence, open, complete);
  });

  it('leaves out those that began before the rows were made again', async () => {
    const namespace = await known();
    await completeMark(namespace);
    const open = await lifecycle.beginMark(fence, namespace, hourMs);
    await harness.pass(1000);
    await harness.rebuilt();
    expect((await lifecycle.rebuiltAt())?.getTime()).toBeLessThanOrEqual((await lifecycle.now()).getTime());
    await harness.pass(1000);
    await lifecycle.endMark(fence, open, complete);
    expect(await lifecycle.marksOf(namespace, 10)).toEqual([]);
    await completeMark(namespace);
    expect(await lifecycle.marksOf(namespace, 10)).toHaveLength(1);
  });

  it('belongs to the leader: one from before decides nothing', async () => {
    const key = await garbage();
    const condemned = await condemnedGarbage();
    const namespace = await known();
    const mark = await lifecycle.beginMark(fence, namespace, hourMs);
    const permission = await permit();
    const old = fence;
    const rounds = await lifecycle.rounds();
    const id = await idOf(key);
    fence = await harness.lead();
    const decisions = [
      lifecycle.beginMark(old, namespace, hourMs),
      lifecycle.endMark(old, mark, complete),
      lifecycle.quarantine(old, permission, [id]),
      lifecycle.retire(old, condemned.permission, quarantineMs, [condemned.id]),
      lifecycle.nextRound(old),
      lifecycle.noteRestored(old, 10n ** 9n),
    ];
    for (const decision of await Promise.allSettled(decisions)) {
      expect(decision).toEqual({ status: 'rejected', reason: aborted });
    }
    expect(await lifecycle.marksOf(namespace, 10)).toEqual([]);
    expect([await stateOf(key), await stateOf(condemned.key)]).toEqual(['live', 'quarantined']);
    expect(await lifecycle.rounds()).toBe(rounds);
    expect(await lifecycle.quarantine(fence, permission, [await idOf(key)])).toHaveLength(1);
  });
}

function testHolders(): void {
  const found = (...names: string[]) => names.map((id) => ({ id, isClosed: false }));

  it('counts those that a mark had not seen', async () => {
    const namespace = await known();
    const mark = await lifecycle.beginMark(fence, namespace, hourMs);
    expect(await lifecycle.noteHolders(mark, 'run', found('a', 'b'))).toBe(2);
    expect(await lifecycle.noteHolders(mark, 'run', found('c', 'b'))).toBe(1);
    expect(await lifecycle.noteHolders(mark, 'schedule', found('b'))).toBe(1);
    expect(await lifecycle.noteHolders(mark, 'run', [])).toBe(0);
    const next = await lifecycle.beginMark(fence, namespace, hourMs);
    expect(await lifecycle.noteHolders(next, 'run', found('a', 'd'))).toBe(2);
    const many = Array.from({ length: 1001 }, (_, at) => `${at}`);
    await expect(lifecycle.noteHolders(next, 'run', found(...many))).rejects.toEqual(refused);
    expect(await lifecycle.noteHolders(next, 'run', found(...many.slice(1)))).toBe(1000);
  });

  it('gives out what is to be scanned, page by page, once a mark', async () => {
    const namespace = await known();
    const mark = await lifecycle.beginMark(fence, namespace, hourMs);
    await lifecycle.noteHolders(mark, 'run', found('a', 'b', 'c'));
    const page = await lifecycle.unscannedHolders(mark, 0n, 2);
    const rest = await lifecycle.unscannedHolders(mark, page[1]?.id ?? 0n, 2);
    const [a, b, c] = [...page, ...rest];
    expect([a?.externalId, b?.externalId, c?.externalId]).toEqual(['a', 'b', 'c']);
    expect(a).toMatchObject({ kind: 'run', isDone: false });
    expect([a?.cursor, a?.goneAt]).toEqual([undefined, undefined]);
    if (a === undefined || b === undefined || c === undefined) return;
    await lifecycle.saveScan(mark, a, { edges: [], cursor: '5', isDone: false });
    await lifecycle.saveScan(mark, b, { edges: [], cursor: '6', isDone: true });
    expect(ids(await lifecycle.unscannedHolders(mark, 0n, 9))).toEqual([c.id]);
    const next = await lifecycle.beginMark(fence, namespace, hourMs);
    expect(await lifecycle.unscannedHolders(next, 0n, 9)).toEqual([]); // no list of this mark has them
    await lifecycle.noteHolders(next, 'run', [...found('a', 'c'), { id: 'b', isClosed: true }]);
    expect(await lifecycle.unscannedHolders(next, 0n, 9)).toMatchObject([{ id: a.id, cursor: '5' }, { id: c.id }]);
    // a list that says it is open is believed, and not what was found before
    await lifecycle.noteHolders(next, 'run', found('b'));
    expect(ids(await lifecycle.unscannedHolders(next, 0n, 9))).toEqual([a.id, b.id, c.id]);
  });

  it('keeps the cursor of a scan that has none', async () => {
    const { mark, holder, namespace } = await hold([]);
    await lifecycle.saveScan(mark, holder, { edges: [], isDone: false });
    const next = await lifecycle.beginMark(fence, namespace, hourMs);
    expect(await lifecycle.unseenHolders(next, 0n, 9)).toMatchObject([{ id: holder.id, cursor: '7' }]);
  });

  it('gives out what no list showed, done or not, until it is asked for or gone', async () => {
    const namespace = await known();
    const first = await lifecycle.beginMark(fence, namespace, hourMs);
    await lifecycle.noteHolders(first, 'run', found('a', 'b', 'c', 'd'));
    const [a, b, c, d] = await lifecycle.unscannedHolders(first, 0n, 9);
    if (a === undefined || b === undefined || c === undefined || d === undefined) throw new Error('too few');
    expect(await lifecycle.unseenHolders(first, 0n, 9)).toEqual([]);
    await lifecycle.saveScan(first, a, { edges: [], cursor: '1', isDone: true });
    const mark = await lifecycle.beginMark(fence, namespace, hourMs);
    await lifecycle.noteHolders(mark, 'run', found('b'));
    expect(ids(await lifecycle.unseenHolders(mark, 0n, 2))).toEqual([a.id, c.id]);
    expect(ids(await lifecycle.unseenHolders(mark, c.id, 2))).toEqual([d.id]);
    await lifecycle.saveScan(mark, a, { edges: [], cursor: '1', isDone: true });
    await lifecycle.markGone(c);
    expect(ids(await lifecycle.unseenHolders(mark, 0n, 9))).toEqual([d.id]);
    // gone, and listed again
    await lifecycle.noteHolders(mark, 'run', found('c'));
    const back = await lifecycle.unscannedHolders(mark, 0n, 9);
    expect(ids(back)).toEqual([b.id, c.id]);
    expect(back[1]?.goneAt).toBeUndefined();
  });

  it('forgets what has been gone for long enough, with its edges', async () => {
    const key = await garbage();
    const { holder, mark } = await hold([{ digest: key.digest }, { digest: newKey().digest, namespace: orders }]);
    const linger = 5 * hourMs;
    await lifecycle.markGone(holder);
    await harness.pass(3 * hourMs);
    await lifecycle.markGone(holder); // the first time counts
    await lifecycle.forgetGone(linger, 100);
    expect(await lifecycle.holdersOf(key, 9)).toHaveLength(1);
    expect((await lifecycle.holdersOf(key, 9))[0]?.holder.goneAt).toBeInstanceOf(Date);
    await harness.pass(3 * hourMs);
    expect(await lifecycle.candidates(await permit(), 0n, 9)).toEqual([]);
    expect(await lifecycle.forgetGone(linger, 100)).toBe(1);
    expect(await lifecycle.forgetGone(linger, 100)).toBe(0);
    expect(await lifecycle.holdersOf(key, 9)).toEqual([]);
    expect(ids(await lifecycle.candidates(await permit(), 0n, 9))).toEqual([await idOf(key)]);
    await expect(lifecycle.saveScan(mark, holder, { edges: [], isDone: true })).rejects.toEqual(aborted);
  });

  it('forgets no more than the limit, and nothing that was found again', async () => {
    const namespace = await known();
    const mark = await lifecycle.beginMark(fence, namespace, hourMs);
    await lifecycle.noteHolders(mark, 'run', found('a', 'b', 'c', 'd'));
    const rows = await lifecycle.unscannedHolders(mark, 0n, 9);
    for (const row of rows) await lifecycle.markGone(row);
    await harness.pass(10 * hourMs);
    await lifecycle.noteHolders(mark, 'run', found('a'));
    const [, b] = rows;
    if (b !== undefined) await lifecycle.saveScan(mark, b, { edges: [], cursor: '1', isDone: false });
    expect(await lifecycle.forgetGone(hourMs, 1)).toBe(1);
    expect(await lifecycle.forgetGone(hourMs, 10)).toBe(1);
    expect((await lifecycle.unscannedHolders(mark, 0n, 9)).map(({ externalId }) => externalId)).toEqual(['a']);
  });

  it('says who holds a blob, and who perhaps', async () => {
    const key = newKey(orders);
    const sure = await hold([{ digest: key.digest, namespace: orders }, { digest: key.digest }]);
    const perhaps = await hold([{ digest: key.digest }]);
    await hold([{ digest: key.digest, namespace: 'another' }]);
    await hold([{ digest: newKey().digest, namespace: orders }]);
    const holders = await lifecycle.holdersOf(key, 9);
    expect(holders).toMatchObject([
      { namespace: sure.namespace, holder: { id: sure.holder.id, cursor: '7' }, isByDigestAlone: false },
      { namespace: perhaps.namespace, holder: { id: perhaps.holder.id }, isByDigestAlone: true },
    ]);
    expect(await lifecycle.holdersOf(key, 1)).toHaveLength(1);
  });

  it('loses a mutable edge that a whole scan does not find again, and forgets it in time', async () => {
    const [gone, kept] = [await garbage(), await garbage()];
    const edge = (key: BlobKey): Edge => ({ digest: key.digest, namespace: orders, isMutable: true });
    const { mark, holder } = await hold([edge(gone), edge(kept)]);
    expect(await lostAt(gone)).toBeUndefined();
    await lifecycle.saveScan(mark, holder, { edges: [edge(kept)], cursor: '8', isDone: false });
    const since = await lostAt(gone);
    expect(since).toBeInstanceOf(Date);
    await lifecycle.saveScan(mark, holder, { edges: [edge(kept)], cursor: '9', isDone: false }); // the first time counts
    expect(await lostAt(gone)).toEqual(since);
    await harness.pass(3 * hourMs);
    expect(await lifecycle.forgetLost(5 * hourMs, 100)).toBe(0);
    expect(await lifecycle.candidates(await permit(), 0n, 9)).toEqual([]);
    await harness.pass(3 * hourMs);
    expect(await lifecycle.forgetLost(5 * hourMs, 100)).toBe(1);
    expect(await lifecycle.holdersOf(gone, 9)).toEqual([]);
    expect(await lostAt(kept)).toBeUndefined();
    expect(ids(await lifecycle.candidates(await permit(), 0n, 9))).toEqual([await idOf(gone)]);
  });

  it('loses nothing by a scan that is not whole, nor what was ever found where nothing changes', async () => {
    const [state, history] = [newKey(orders), newKey(orders)];
    const mutable = [state, history].map(({ digest }): Edge => ({ digest, isMutable: true }));
    const { mark, holder } = await hold([...mutable, { digest: history.digest }]);
    await lifecycle.saveScan(mark, holder, { edges: [], isDone: false });
    expect(await lostAt(state)).toBeUndefined();
    await lifecycle.saveScan(mark, holder, { edges: [], cursor: '8', isDone: false });
    expect(await lostAt(state)).toBeInstanceOf(Date);
    expect(await lostAt(history)).toBeUndefined();
    await lifecycle.saveScan(mark, holder, { edges: mutable, isDone: false });
    await harness.pass(9 * hourMs);
    expect(await lifecycle.forgetLost(hourMs, 100)).toBe(0);
    // a heartbeat that was moved into the history
    await lifecycle.saveScan(mark, holder, { edges: [{ digest: state.digest }], cursor: '9', isDone: false });
    await lifecycle.saveScan(mark, holder, { edges: mutable, cursor: '9', isDone: false });
    await lifecycle.saveScan(mark, holder, { edges: [], cursor: '9', isDone: true });
    expect([await lostAt(state), await lostAt(history)]).toEqual([undefined, undefined]);
  });

  it('keeps what was lost and found again, by a holder that is closed as well', async () => {
    const key = newKey(orders);
    const edges = [{ digest: key.digest, isMutable: true }];
    for (const isDone of [false, true]) {
      const { mark, holder } = await hold(edges);
      await lifecycle.saveScan(mark, holder, { edges: [], cursor: '8', isDone: false });
      expect(await lostAt(key)).toBeInstanceOf(Date);
      await harness.pass(2 * hourMs);
      await lifecycle.saveScan(mark, holder, { edges, cursor: '9', isDone });
      await lifecycle.forgetLost(hourMs, 100);
      expect(await lostAt(key)).toBeUndefined();
      await lifecycle.markGone(holder);
      await harness.pass(hourMs);
      await lifecycle.forgetGone(hourMs, 100);
    }
  });

  it('loses thousands of edges at once, and forgets no more than the limit', async () => {
    const many = Array.from({ length: 6000 }, () => ({ digest: newKey().digest, namespace: orders, isMutable: true }));
    const { mark, holder } = await hold(many);
    await lifecycle.saveScan(mark, holder, { edges: many.slice(0, 5999), cursor: '8', isDone: false });
    await harness.pass(hourMs);
    expect(await lifecycle.forgetLost(hourMs, 9999)).toBe(1);
    await lifecycle.saveScan(mark, holder, { edges: many.slice(0, 5), cursor: '9', isDone: false });
    await harness.pass(hourMs);
    expect(await lifecycle.forgetLost(hourMs, 10)).toBe(10);
    expect(await lifecycle.forgetLost(hourMs, 9999)).toBe(5984);
    expect(await lostAt({ ...newKey(orders), digest: many[4]?.digest ?? newKey().digest })).toBeUndefined();
  });

  it('keeps edges over scans, and takes thousands at once', async () => {
    const many = Array.from({ length: 12_000 }, () => ({ digest: newKey().digest, namespace: orders }));
    const { mark, holder } = await hold([...many, ...many.slice(0, 10), ...many.slice(0, 10).map(asMutable)]);
    await lifecycle.saveScan(mark, holder, { edges: many.slice(5, 20), cursor: '8', isDone: true });
    for (const { digest } of [many[0], many[11_999]].flatMap((edge) => edge ?? [])) {
      expect(await lifecycle.holdersOf({ ...newKey(orders), digest }, 9)).toHaveLength(1);
    }
  });
}

function testDue(): void {
  it('walks a namespace in the order of ids, a page at a time, whatever lies between', async () => {
    const keys = Array.from({ length: 12 }, () => newKey(orders));
    for (const key of keys) await makeLive(catalog, key);
    await garbage(newKey(`${orders}-not`));
    const permission = await permit();
    const rows = await catalog.list(orders, { limit: 100 });
    // in the middle a run of rows that are longer than what one statement looks at
    const all = ids(rows).sort((one, other) => (one < other ? -1 : 1));
    const used = all.slice(3, 10);
    await catalog.touch(rows.filter(({ id }) => used.includes(id)));
    const due = all.filter((id) => !used.includes(id));
    const pages: bigint[][] = [];
    for (let after = 0n; ; ) {
      const page = ids(await lifecycle.candidates(permission, after, 2));
      if (page.length === 0) break;
      pages.push(page);
      after = page.at(-1) ?? 0n;
    }
    expect(pages).toEqual([due.slice(0, 2), due.slice(2, 4), due.slice(4)].filter((page) => page.length > 0));
    const [first] = await lifecycle.candidates(permission, 0n, 1);
    const row = rows.find(({ id }) => id === first?.id);
    expect(first).toEqual({
      id: row?.id,
      key: row?.key,
      physicalKey: row?.physicalKey,
      generation: 1,
      size: 10,
    });
  });

  it('walks what is condemned in the same way', async () => {
    const keys = Array.from({ length: 8 }, () => newKey(orders));
    for (const key of keys) await makeLive(catalog, key);
    await harness.pass(2 * harness.graceMs);
    const all = ids(await lifecycle.candidates(await permit(), 0n, 100));
    expect(all).toHaveLength(8);
    expect(ids(await lifecycle.quarantine(fence, await permit(), all))).toEqual(all);
    expect(await lifecycle.condemned(await permit(), quarantineMs, 0n, 100)).toEqual([]);
    await harness.pass(quarantineMs + hourMs);
    const permission = await permit();
    expect(ids(await lifecycle.condemned(permission, quarantineMs, 0n, 5))).toEqual(all.slice(0, 5));
    expect(ids(await lifecycle.condemned(permission, quarantineMs, all[4] ?? 0n, 5))).toEqual(all.slice(5));
    expect(await lifecycle.candidates(permission, 0n, 100)).toEqual([]);
  });

  it('takes at most 1,000 at once', async () => {
    const many = Array.from({ length: 1001 }, (_, at) => BigInt(at + 1_000_000));
    const permission = await permit();
    await expect(lifecycle.quarantine(fence, permission, many)).rejects.toEqual(refused);
    await expect(lifecycle.retire(fence, permission, quarantineMs, many)).rejects.toEqual(refused);
    expect(await lifecycle.quarantine(fence, permission, [])).toEqual([]);
    expect(await lifecycle.retire(fence, permission, quarantineMs, [])).toEqual([]);
  });
}

interface Reason {
  /** Gives it to a blob, or makes another permission. */
  readonly give: (key: BlobKey, permission: Permission) => Promise<unknown>;
  readonly keeps: boolean;
}

const owner = { owner: 'me', reason: 'a test' };
async function pinFor(key: string, forMs?: number): Promise<void> {
  const expiresAt = forMs === undefined ? {} : { expiresAt: new Date((await lifecycle.now()).getTime() + forMs) };
  await lifecycle.addPin({ key, ...owner, ...expiresAt });
}

/** What keeps a blob, whatever its state, and what does not. A pin of the key itself touches: see the tests of pins. */
const reasons: Record<string, Reason> = {
  nothing: { give: async () => undefined, keeps: false },
  'an edge of its namespace': {
    give: (key) => hold([{ digest: key.digest, namespace: key.namespace }]),
    keeps: true,
  },
  'an edge by digest alone': { give: (key) => hold([{ digest: key.digest }]), keeps: true },
  'an edge of another namespace': {
    give: (key) => hold([{ digest: key.digest, namespace: 'another' }]),
    keeps: false,
  },
  'an edge of another digest': {
    give: (key) => hold([{ digest: newKey().digest, namespace: key.namespace }]),
    keeps: false,
  },
  'a pin of its namespace': { give: (key) => pinFor(`/blobs/${key.namespace}/`), keeps: true },
  'a pin of its kind of keys': { give: (key) => pinFor(`/blobs/${key.namespace}/common/`), keeps: true },
  'a pin of other keys': {
    give: async (key) => {
      await pinFor(`/blobs/${key.namespace}/custom/a/`);
      await pinFor(`/blobs/${key.namespace}-not/`);
      await pinFor(logicalKey(newKey(key.namespace)));
    },
    keeps: false,
  },
  'a pin that is over': {
    give: async (key) => {
      await pinFor(`/blobs/${key.namespace}/`, 1000);
      await pinFor(logicalKey(key), 1000);
      await harness.pass(2000);
      // what the pin has touched or revived
      await harness.pass(3 * harness.graceMs);
    },
    keeps: false,
  },
  'a lease': {
    give: async (key) => {
      const state = (await stateOf(key)) ?? 'live';
      await harness.force(key, 'uploading');
      await beginUpload(catalog, key);
      await harness.force(key, state);
      await harness.pass(3 * harness.graceMs);
    },
    keeps: true,
  },
  'the permission of another namespace': {
    give: async (_key, permission) => ({ ...permission, blobNamespace: `${orders}-not` }),
    keeps: true,
  },
  'a permission of before its last touch': {
    give: async (key, permission) => {
      const touchedAt = (await harness.read(key))?.touchedAt ?? new Date();
      return { ...permission, untouchedSince: new Date(touchedAt.getTime() - 1) };
    },
    keeps: true,
  },
};

function isPermission(value: unknown): value is Permission {
  return typeof value === 'object' && value !== null && 'untouchedSince' in value;
}

function testQuarantine(): void {
  for (const [name, { give, keeps }] of Object.entries(reasons)) {
    it(`${keeps ? 'keeps' : 'takes'} what has ${name}`, async () => {
      const key = await garbage();
      const given = await give(key, await permit());
      const permission = isPermission(given) ? given : await permit();
      const id = await idOf(key);
      const candidates = await lifecycle.candidates(permission, 0n, 10);
      const done = await lifecycle.quarantine(fence, permission, [id]);
      expect(ids(done)).toEqual(keeps ? [] : [id]);
      expect(ids(candidates)).toEqual(ids(done));
      expect(await stateOf(key)).toBe(keeps ? 'live' : 'quarantined');
    });
  }

  it('keeps what was touched, by whatever counts as a use', async () => {
    const keys = await Promise.all(Array.from({ length: 4 }, () => garbage()));
    const permission = await permit();
    const [read, uploaded, pinned, untouched] = keys;
    if (read === undefined || uploaded === undefined || pinned === undefined || untouched === undefined) return;
    const row = await catalog.lookup(read);
    if (row !== undefined) await catalog.touch([row]);
    await catalog.begin(uploaded, 10);
    const pin = await lifecycle.addPin({ key: logicalKey(pinned), ...owner });
    await lifecycle.removePin(pin.id);
    const all = await Promise.all(keys.map(idOf));
    expect(ids(await lifecycle.quarantine(fence, permission, all))).toEqual([await idOf(untouched)]);
  });

  it('needs each of the marks that permit it: complete, ended, and younger than the rows', async () => {
    const key = await garbage();
    const id = await idOf(key);
    const namespace = await known();
    const permission = await permit();
    const incomplete = await lifecycle.beginMark(fence, namespace, hourMs);
    const withMark = (mark: bigint): Permission => ({ ...permission, marks: [...permission.marks, mark] });
    await expect(lifecycle.quarantine(fence, withMark(incomplete.id), [id])).rejects.toEqual(aborted);
    await lifecycle.endMark(fence, incomplete, { ...complete, isComplete: false, gaps: ['a gap'] });
    await expect(lifecycle.quarantine(fence, withMark(incomplete.id), [id])).rejects.toEqual(aborted);
    await expect(lifecycle.quarantine(fence, withMark(999_999_999n), [id])).rejects.toEqual(aborted);
    await completeMark(namespace);
    const [forgotten] = await lifecycle.marksOf(namespace, 1);
    await lifecycle.acceptIdentity(namespace, identity);
    await expect(lifecycle.quarantine(fence, withMark(forgotten?.id ?? 0n), [id])).rejects.toEqual(aborted);
    await harness.rebuilt();
    await expect(lifecycle.quarantine(fence, permission, [id])).rejects.toEqual(aborted);
    expect(await stateOf(key)).toBe('live');
    // by a plain retention time, without any cluster
    expect(await lifecycle.quarantine(fence, { ...permission, marks: [] }, [id])).toHaveLength(1);
  });

  it('leaves the blob readable, and any use brings it back', async () => {
    const key = await garbage();
    await lifecycle.quarantine(fence, await permit(), [await idOf(key)]);
    const row = await catalog.lookup(key);
    expect(row).toMatchObject({ state: 'quarantined', touchDue: true });
    expect(row && (await catalog.touch([row]))).toMatchObject([{ state: 'live' }]);
    expect(await lifecycle.quarantine(fence, await permit(), [await idOf(key)])).toEqual([]);
  });
}

function testRetire(): void {
  for (const [name, { give, keeps }] of Object.entries(reasons)) {
    it(`${keeps ? 'keeps' : 'takes'} what has ${name}`, async () => {
      const { key, id } = await condemnedGarbage();
      const given = await give(key, await permit());
      let permission = isPermission(given) ? given : await permit();
      if (name.startsWith('a pin') || name === 'a lease') {
        // that has revived it
        await harness.force(key, 'quarantined');
        await harness.pass(3 * harness.graceMs);
        permission = await permit();
      }
      const condemned = await lifecycle.condemned(permission, quarantineMs, 0n, 10);
      const done = await lifecycle.retire(fence, permission, quarantineMs, [id]);
      expect(ids(done)).toEqual(keeps ? [] : [id]);
      expect(ids(condemned)).toEqual(ids(done));
      expect(await stateOf(key)).toBe(keeps ? 'quarantined' : 'deleting');
      const retired = (await lifecycle.retired(id - 1n, 1)).filter(({ blobId }) => blobId === id);
      expect(retired).toHaveLength(keeps ? 0 : 1);
    });
  }

  it('keeps what has not been in quarantine for long enough', async () => {
    const { id, permission } = await condemnedGarbage();
    expect(await lifecycle.condemned(permission, 100 * quarantineMs, 0n, 9)).toEqual([]);
    expect(await lifecycle.retire(fence, permission, 100 * quarantineMs, [id])).toEqual([]);
    expect(await lifecycle.retire(fence, permission, quarantineMs, [id])).toHaveLength(1);
  });

  it('keeps what was quarantined behind the beginning of the marks', async () => {
    const key = await garbage();
    const namespace = await known();
    await completeMark(namespace);
    await harness.pass(hourMs);
    await completeMark(namespace);
    const id = await idOf(key);
    await lifecycle.quarantine(fence, await permissionOf(namespace, orders), [id]);
    await harness.pass(2 * quarantineMs);
    const stale = await permissionOf(namespace, orders);
    expect(await lifecycle.condemned(stale, quarantineMs, 0n, 9)).toEqual([]);
    expect(await lifecycle.retire(fence, stale, quarantineMs, [id])).toEqual([]);
    expect(await lifecycle.retire(fence, await permit(), quarantineMs, [id])).toHaveLength(1);
  });

  it('needs each of the marks that permit it', async () => {
    const { key, id, permission } = await condemnedGarbage();
    const wrong = { ...permission, marks: [...permission.marks, 999_999_999n] };
    await expect(lifecycle.retire(fence, wrong, quarantineMs, [id])).rejects.toEqual(aborted);
    expect(await stateOf(key)).toBe('quarantined');
  });

  it('keeps what was revived', async () => {
    const { key, id, permission } = await condemnedGarbage();
    const row = await catalog.lookup(key);
    if (row !== undefined) await catalog.touch([row]);
    expect(await lifecycle.retire(fence, permission, quarantineMs, [id])).toEqual([]);
    expect(await stateOf(key)).toBe('live');
  });
}

/** What each state is after each operation, given everything else that it needs. */
function testStates(): void {
  const table: Record<BlobState, readonly [string, string, string, string]> = {
    // quarantine, retire, undelete, objectDeleted
    uploading: ['uploading', 'uploading', 'uploading', 'uploading'],
    live: ['quarantined', 'live', 'live', 'live'],
    quarantined: ['quarantined', 'deleting', 'live', 'quarantined'],
    deleting: ['deleting', 'deleting', 'deleting', 'deleting'],
    gone: ['gone', 'gone', 'gone', 'gone'],
    damaged: ['damaged', 'damaged', 'damaged', 'damaged'],
    taken_down: ['taken_down', 'taken_down', 'taken_down', 'taken_down'],
  };
  for (const [state, expected] of Object.entries(table) as [BlobState, readonly string[]][]) {
    it(state, async () => {
      const results: (string | undefined)[] = [];
      const operations: ((key: BlobKey, id: bigint, permission: Permission) => Promise<unknown>)[] = [
        (_key, id, permission) => lifecycle.quarantine(fence, permission, [id]),
        (_key, id, permission) => lifecycle.retire(fence, permission, quarantineMs, [id]),
        (key) => lifecycle.undelete(key),
        // nothing of it was retired
        (key, id) => lifecycle.objectDeleted({ blobId: id, generation: 1, physicalKey: logicalKey(key), size: 10 }),
      ];
      for (const operate of operations) {
        const key = await garbage();
        await harness.force(key, state);
        await harness.pass(2 * harness.graceMs);
        await operate(key, await idOf(key), await permit());
        results.push(await stateOf(key));
      }
      expect(results).toEqual(expected);
    });
  }
}

function testAfter(): void {
  async function retireOne(): Promise<{ key: BlobKey; id: bigint }> {
    const { key, id, permission } = await condemnedGarbage();
    await lifecycle.retire(fence, permission, quarantineMs, [id]);
    return { key, id };
  }

  it('lists what is to be deleted, and the blob is gone then', async () => {
    const { key, id } = await retireOne();
    const [object] = await lifecycle.retired(id - 1n, 1);
    expect(object).toEqual({ blobId: id, generation: 1, physicalKey: logicalKey(key), size: 10 });
    if (object === undefined) return;
    await lifecycle.objectDeleted({ ...object, generation: 2 });
    expect(await stateOf(key)).toBe('deleting');
    await lifecycle.objectDeleted(object);
    await lifecycle.objectDeleted(object);
    expect(await harness.read(key)).toMatchObject({ state: 'gone', generation: 1 });
    expect((await lifecycle.retired(id - 1n, 9)).filter(({ blobId }) => blobId === id)).toEqual([]);
  });

  it('never takes the object of an upload that came meanwhile', async () => {
    const { key, id } = await retireOne();
    const [object] = await lifecycle.retired(id - 1n, 1);
    const lease = await beginUpload(catalog, key);
    expect(lease).toMatchObject({ generation: 2 });
    expect(lease.physicalKey).not.toBe(object?.physicalKey);
    if (object !== undefined) await lifecycle.objectDeleted(object);
    expect(await stateOf(key)).toBe('uploading');
    expect(await catalog.commit(lease, 10)).toMatchObject({
      outcome: 'created',
      row: { state: 'live', generation: 2 },
    });
  });

  it('lists every generation of a blob that is to be deleted, a page or not', async () => {
    const { key, id } = await retireOne();
    const lease = await beginUpload(catalog, key);
    await catalog.commit(lease, 10);
    await harness.pass(2 * harness.graceMs);
    await lifecycle.quarantine(fence, await permit(), [id]);
    await harness.pass(quarantineMs + hourMs);
    const [second] = await lifecycle.retire(fence, await permit(), quarantineMs, [id]);
    expect(second).toMatchObject({ generation: 2, physicalKey: lease.physicalKey });
    const other = await retireOne();
    expect((await lifecycle.retired(id - 1n, 1)).map(({ generation }) => generation).sort()).toEqual([1, 2]);
    expect((await lifecycle.retired(id, 1)).map(({ blobId }) => blobId)).toEqual([other.id]);
  });

  it('brings back what is in quarantine, touched, and nothing else', async () => {
    const key = await garbage();
    await lifecycle.quarantine(fence, await permit(), [await idOf(key)]);
    const before = await harness.read(key);
    const row = await lifecycle.undelete(key);
    expect(row).toMatchObject({ state: 'live', key: logicalKey(key), generation: 1, size: 10, touchDue: false });
    expect(row?.touchedAt.getTime()).toBeGreaterThan(before?.touchedAt.getTime() ?? 0);
    expect(row && row.protectedUntil.getTime() - row.touchedAt.getTime()).toBe(harness.graceMs);
    expect(await lifecycle.undelete(key)).toBeUndefined();
    expect(await lifecycle.undelete(newKey(orders))).toBeUndefined();
    expect(await lifecycle.undelete((await retireOne()).key)).toBeUndefined();
  });
}

function testSums(): void {
  it('counts blobs and bytes by state, through everything that happens to them', async () => {
    const other = await garbage(newKey(`${orders}-2`));
    for (let at = 0; at < 5; at += 1) await makeLive(catalog, newKey(orders));
    await harness.pass(2 * harness.graceMs);
    const uploading = await beginUpload(catalog, newKey(orders));
    await beginUpload(catalog, { ...newKey(orders) });
    const permission = await permit();
    const all = ids(await lifecycle.candidates(permission, 0n, 9));
    await lifecycle.quarantine(fence, permission, all.slice(0, 3));
    expect(Object.fromEntries(await lifecycle.sums(orders))).toEqual({
      live: { blobs: 2, bytes: 20 },
      quarantined: { blobs: 3, bytes: 30 },
      uploading: { blobs: 2, bytes: 20 },
    });
    await harness.pass(quarantineMs + hourMs);
    const [retired] = await lifecycle.retire(fence, await permit(), quarantineMs, all.slice(0, 1));
    await catalog.commit(uploading, 12); // more than was announced
    const damaged = (await catalog.list(orders, { limit: 100 })).find(({ id }) => id === all[4]);
    if (damaged !== undefined) await catalog.markDamaged(damaged);
    const sums = { live: { blobs: 2, bytes: 22 }, damaged: { blobs: 1, bytes: 10 } };
    const expected = { ...sums, quarantined: { blobs: 2, bytes: 20 }, uploading: { blobs: 1, bytes: 10 } };
    expect(Object.fromEntries(await lifecycle.sums(orders))).toEqual({
      ...expected,
      deleting: { blobs: 1, bytes: 10 },
    });
    if (retired === undefined) throw new Error('nothing was retired');
    await lifecycle.objectDeleted({ ...retired, blobId: retired.id });
    expect(Object.fromEntries(await lifecycle.sums(orders))).toEqual({ ...expected, gone: { blobs: 1, bytes: 10 } });
    expect(Object.fromEntries(await lifecycle.sums(`${orders}-2`))).toEqual({ live: { blobs: 1, bytes: 10 } });
    expect((await lifecycle.sums()).get('live')?.blobs).toBeGreaterThanOrEqual(3);
    expect(await lifecycle.blobNamespaces()).toEqual(expect.arrayContaining([orders, other.namespace]));
    expect((await lifecycle.sums('nobody')).size).toBe(0);
  });

  it('counts revivals by reads, and by nothing else', async () => {
    const keys: BlobKey[] = [];
    for (let at = 0; at < 6; at += 1) keys.push(await garbage());
    const quarantined = await lifecycle.quarantine(fence, await permit(), await Promise.all(keys.map(idOf)));
    expect(quarantined).toHaveLength(6);
    await harness.pass(1000);
    const since = await lifecycle.now();
    const [uploaded, spared, undeleted, pinned, inPrefix, read] = keys;
    if (!uploaded || !spared || !undeleted || !pinned || !inPrefix || !read) return;
    await catalog.begin(uploaded, 10);
    const present = await catalog.lookup(spared);
    expect(await catalog.touch(present ? [present] : [], 'upload')).toMatchObject([{ state: 'live' }]);
    await lifecycle.undelete(undeleted);
    await lifecycle.addPin({ key: logicalKey(pinned), ...owner });
    expect(await lifecycle.revivedSince(since)).toBe(0);
    const row = await catalog.lookup(read);
    if (row !== undefined) await catalog.touch([row]);
    expect(await lifecycle.revivedSince(since)).toBe(1);
    // it is live now, and that use is not written down; this one is
    await harness.pass(harness.graceMs / 2);
    const later = await lifecycle.now();
    if (row !== undefined) expect(await catalog.touch([row])).toMatchObject([{ state: 'live', touchDue: false }]);
    expect(await lifecycle.revivedSince(later)).toBe(0);
    expect(await lifecycle.revivedSince(new Date(later.getTime() - harness.graceMs))).toBeGreaterThanOrEqual(1);
    await lifecycle.addPin({ key: `/blobs/${orders}/`, ...owner });
    expect(await lifecycle.revivedSince(later)).toBe(0);
    expect(await Promise.all(keys.map(stateOf))).toEqual(keys.map(() => 'live'));
    expect(await lifecycle.revivedSince(new Date((await lifecycle.now()).getTime() + 10 * hourMs))).toBe(0);
  });

  it('counts no revival by a read from before the quarantine, which was told later', async () => {
    const [before, after, now] = [await garbage(), await garbage(), await garbage()];
    const keys = [before, after, now];
    expect(await lifecycle.quarantine(fence, await permit(), await Promise.all(keys.map(idOf)))).toHaveLength(3);
    await harness.pass(60_000);
    const since = await lifecycle.now();
    const touch = async (key: BlobKey, agoMs: number): Promise<void> => {
      const row = await catalog.lookup(key);
      if (row !== undefined) await catalog.touch([row], 'read', ({ id }) => (id === row.id ? agoMs : Number.NaN));
    };
    await touch(before, 3_600_000);
    expect([await stateOf(before), await lifecycle.revivedSince(since)]).toEqual(['live', 0]);
    await touch(after, 5000);
    expect(await lifecycle.revivedSince(since)).toBe(1);
    await touch(now, 0);
    expect([await Promise.all(keys.map(stateOf)), await lifecycle.revivedSince(since)]).toEqual([
      ['live', 'live', 'live'],
      2,
    ]);
  });

  it('remembers when a round began, and whether another one was asked for since', async () => {
    await lifecycle.nextRound(fence);
    const { beganAt, ...nothing } = await lifecycle.roundTimes();
    expect(nothing).toEqual({});
    expect(beganAt?.getTime()).toBeLessThanOrEqual((await lifecycle.now()).getTime());
    await lifecycle.requestRound();
    const asked = await lifecycle.roundTimes();
    expect(asked.beganAt).toEqual(beganAt);
    expect(asked.requestedAt?.getTime()).toBeGreaterThanOrEqual(beganAt?.getTime() ?? 0);
    await lifecycle.nextRound(fence);
    expect((await lifecycle.roundTimes()).requestedAt).toBeUndefined();
  });

  it('counts rounds, and takes the number of a store that knows of more', async () => {
    const before = await lifecycle.rounds();
    expect(await lifecycle.nextRound(fence)).toBe(before + 1n);
    expect(await lifecycle.rounds()).toBe(before + 1n);
    await lifecycle.noteRestored(fence, before + 100n);
    expect(await lifecycle.rounds()).toBe(before + 100n);
    expect(Math.abs((await lifecycle.now()).getTime() - ((await lifecycle.rebuiltAt())?.getTime() ?? 0))).toBeLessThan(
      hourMs,
    );
    await lifecycle.noteRestored(fence, 1n);
    expect(await lifecycle.rounds()).toBe(before + 100n);
    expect(await lifecycle.nextRound(fence)).toBe(before + 101n);
  });
}

function testPins(): void {
  it('touches the blob of a key, and revives it', async () => {
    const key = await garbage();
    const before = await harness.read(key);
    const made = await lifecycle.addPin({ key: logicalKey(key), ...owner });
    expect(made).toMatchObject({ key: logicalKey(key), ...owner });
    expect(made.expiresAt).toBeUndefined();
    expect((await harness.read(key))?.touchedAt.getTime()).toBeGreaterThan(before?.touchedAt.getTime() ?? 0);
    await harness.pass(2 * harness.graceMs);
    const permission = await permit();
    expect(await lifecycle.candidates(permission, 0n, 9)).toEqual([]);
    expect(await lifecycle.quarantine(fence, permission, [await idOf(key)])).toEqual([]);
    expect(await lifecycle.removePin(made.id)).toBe(true);
    expect(await lifecycle.removePin(made.id)).toBe(false);
    expect(await lifecycle.quarantine(fence, permission, [await idOf(key)])).toHaveLength(1);
    await lifecycle.addPin({ key: logicalKey(key), ...owner });
    expect(await stateOf(key)).toBe('live');
  });

  it('keeps what is quarantined and pinned', async () => {
    const { key, id, permission } = await condemnedGarbage();
    await lifecycle.addPin({ key: logicalKey(key), ...owner });
    await harness.force(key, 'quarantined');
    await harness.pass(3 * harness.graceMs);
    const later = await permit();
    expect(permission.blobNamespace).toBe(later.blobNamespace);
    expect(await lifecycle.condemned(later, quarantineMs, 0n, 9)).toEqual([]);
    expect(await lifecycle.retire(fence, later, quarantineMs, [id])).toEqual([]);
  });

  it('lists those that still hold, all of them or of a key, the newest first', async () => {
    const key = logicalKey({ ...newKey(orders), prefix: 'team/reports' });
    const inAnHour = new Date((await lifecycle.now()).getTime() + hourMs);
    const first = await lifecycle.addPin({ key: `/blobs/${orders}/custom/team/`, ...owner, expiresAt: inAnHour });
    expect(first.expiresAt).toEqual(inAnHour);
    await harness.pass(1);
    const second = await lifecycle.addPin({ key, ...owner });
    await harness.pass(1);
    const elsewhere = await lifecycle.addPin({ key: `/blobs/${orders}/common/`, ...owner });
    const idsOf = async (asked?: string) => (await lifecycle.pins(asked)).map(({ id }) => id);
    expect(await idsOf(key)).toEqual([second.id, first.id]);
    expect(await idsOf(`/blobs/${orders}/custom/team/reports/`)).toEqual([second.id, first.id]);
    expect(await idsOf(`/blobs/${orders}/custom/team/other/`)).toEqual([first.id]);
    expect(await idsOf(`/blobs/${orders}/`)).toEqual([elsewhere.id, second.id, first.id]);
    expect((await idsOf()).slice(0, 3)).toEqual([elsewhere.id, second.id, first.id]);
    await harness.pass(2 * hourMs);
    expect(await idsOf(key)).toEqual([second.id]);
    expect(await idsOf()).not.toContain(first.id);
  });

  it('takes one that the store kept as it was, and once', async () => {
    const pin = { id: `kept-${orders}`, key: `/blobs/${orders}/`, ...owner, createdAt: new Date(1_700_000_000_000) };
    expect(await lifecycle.addPin(pin)).toEqual(pin);
    expect(await lifecycle.addPin({ ...pin, reason: 'another' })).toEqual(pin);
    expect(await lifecycle.pins(`/blobs/${orders}/common/`)).toEqual([pin]);
  });

  it('is over for a while before it is forgotten', async () => {
    const key = logicalKey(newKey(orders));
    const now = await lifecycle.now();
    const in_ = (ms: number) => ({ expiresAt: new Date(now.getTime() + ms) });
    const pin = (more: object) => lifecycle.addPin({ key, owner: 'o', reason: 'r', ...more });
    const [second, first] = [await pin(in_(2 * hourMs)), await pin(in_(hourMs))];
    await pin({});
    await pin(in_(99 * hourMs));
    const ours = async (limit: number): Promise<string[]> =>
      (await lifecycle.expiredPins(8 * hourMs, limit)).filter((id) => [first.id, second.id].includes(id));
    await harness.pass(9 * hourMs - 60_000);
    expect(await ours(9)).toEqual([]);
    await harness.pass(hourMs + 120_000);
    expect(await ours(9)).toEqual([first.id, second.id]);
    expect(await lifecycle.expiredPins(8 * hourMs, 1)).toHaveLength(1);
  });

  it('refuses what is neither a key nor a prefix of keys in one namespace', async () => {
    for (const key of [
      '',
      '/',
      '/blobs/',
      '/blobs//',
      'blobs/orders/',
      '/blobs/orders',
      '/blobs/orders/other/',
      '/x/orders/',
    ]) {
      await expect(lifecycle.addPin({ key, ...owner }), key).rejects.toMatchObject({ code: 'INVALID_KEY' });
    }
  });
}

function testBrakes(): void {
  it('is remembered for a while after somebody has let go of it', async () => {
    await lifecycle.prune(50, 0, 100);
    await lifecycle.brake({ kind: 'paused', reason: 'a', blobNamespace: orders });
    await harness.pass(3 * hourMs);
    await lifecycle.brake({ kind: 'too_much', reason: 'b', blobNamespace: orders });
    for (const kind of ['paused', 'too_much'] as const) await lifecycle.release(kind, orders, 'a person');
    await lifecycle.brake({ kind: 'paused', reason: 'c', blobNamespace: orders });
    await harness.pass(hourMs);
    expect(await lifecycle.prune(50, 2 * hourMs, 100)).toMatchObject({ brakes: 0 });
    await harness.pass(2 * hourMs);
    expect(await lifecycle.prune(50, 2 * hourMs, 1)).toMatchObject({ brakes: 1 });
    await lifecycle.prune(50, 2 * hourMs, 100);
    expect((await lifecycle.brakes()).filter(({ blobNamespace }) => blobNamespace === orders)).toMatchObject([
      { kind: 'paused', reason: 'c' },
    ]);
    await lifecycle.release('paused', orders, 'a person');
  });

  it('holds until somebody lets go, once for each kind and namespace', async () => {
    const ofOrders = async () => (await lifecycle.brakes()).filter(({ blobNamespace }) => blobNamespace === orders);
    await lifecycle.brake({ kind: 'too_much', blobNamespace: orders, reason: 'half of it' });
    await lifecycle.brake({ kind: 'too_much', blobNamespace: orders, reason: 'all of it' });
    await lifecycle.brake({ kind: 'revived', blobNamespace: orders, reason: 'one' });
    expect(await ofOrders()).toMatchObject([
      { kind: 'too_much', blobNamespace: orders, reason: 'half of it' },
      { kind: 'revived', reason: 'one' },
    ]);
    expect((await ofOrders())[0]?.since).toBeInstanceOf(Date);
    expect(await lifecycle.release('too_much', undefined, 'me')).toBe(false);
    expect(await lifecycle.release('too_much', orders, 'me')).toBe(true);
    expect(await lifecycle.release('too_much', orders, 'me')).toBe(false);
    expect(await ofOrders()).toHaveLength(1);
    await lifecycle.brake({ kind: 'too_much', blobNamespace: orders, reason: 'again' });
    expect(await ofOrders()).toMatchObject([{ kind: 'revived' }, { reason: 'again' }]);
  });

  it('may be for all', async () => {
    await lifecycle.brake({ kind: 'paused', reason: 'a test' });
    const paused = (await lifecycle.brakes()).find(({ kind }) => kind === 'paused');
    expect(paused?.blobNamespace).toBeUndefined();
    expect(await lifecycle.release('paused', orders, 'me')).toBe(false);
    expect(await lifecycle.release('paused', undefined, 'me')).toBe(true);
  });
}
