/** What was taken down does not come back from the store, nor from an old backup of the catalog. */
import { randomUUID } from 'node:crypto';
import { digestOf, parseKey } from '@large-payload/core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openDatabase } from '../catalog/database.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { openTakedownCatalog } from '../takedown/takedown-catalog.js';
import { objectsOf, type TakedownObject } from '../takedown/takedown-object.js';
import { TakedownSteps } from '../takedown/takedown-steps.js';
import { newGeneration, openPlace, type Place } from './care-fixture.js';
import { restoreTakedowns } from './restore-takedowns.js';

let postgres: EmbeddedPostgres;
let place: Place;
beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
});
afterAll(() => postgres?.stop());
beforeEach(async () => {
  place = await openPlace(postgres.url);
});
afterEach(() => place.close());

function nameOf(physicalKey: string): TakedownObject['names'][0] {
  const key = physicalKey.replace(/~.*/, '');
  return { key, physicalKey, digest: parseKey(key).digest, size: 1000 };
}

/** As a takedown leaves it in the store. */
async function takenDown(
  names: readonly string[],
  more: Partial<Omit<TakedownObject, 'format' | 'names'>> = {},
): Promise<string> {
  const id = more.id ?? randomUUID();
  const takedown = {
    ...{ id, namespace: 'orders', selector: { namespace: 'orders', prefix: 'x' }, withSameDigest: false },
    ...{ isBlocking: false, reason: 'asked for', requestedBy: 'ann', blocks: [], names: names.map(nameOf) },
    ...{ requestedAt: '2026-11-20T12:00:00.000Z', acceptedAt: '2026-11-20T12:00:01.000Z' },
    ...more,
  };
  for (const { name, bytes } of objectsOf(takedown))
    await place.store.put(name, bytes, { digest: digestOf(bytes), size: bytes.length }, { overwrite: true });
  return id;
}

async function table(name: string): Promise<Record<string, unknown>[]> {
  return (await place.fixture.sql.query(`SELECT * FROM ${place.fixture.schema}.${name} ORDER BY 1, 2`)).rows;
}

/** Everything, but for the service's own objects. */
async function everything(): Promise<unknown> {
  const tables = ['blob', 'takedown', 'takedown_blob', 'block', 'catalog', 'event_counter'];
  const names: string[] = [];
  for await (const { key } of place.store.list('/blobs/')) names.push(key);
  return [names.sort(), ...(await Promise.all(tables.map(table)))];
}

const blockOf = (key: string): TakedownObject['blocks'][0] => ({
  digest: parseKey(key).digest,
  isAnyPrefix: false,
  prefix: parseKey(key).prefix ?? '',
});

describe('an empty catalog', () => {
  it('takes in nothing that a takedown erases, deletes what stands there again, and has its rows', async () => {
    const [erased, gone, other] = [await place.object(), await place.object(), await place.object()];
    await place.store.delete(gone);
    const id = await takenDown([erased, gone]);
    const report = await place.reconcile();
    expect(report).toMatchObject({ takedowns: 1, takenDown: 2, erased: 1, adopted: 1, damaged: 0 });
    expect(report.findings).toEqual([`erased: it was taken down: ${erased}`]);
    expect(await place.store.head(erased)).toBeUndefined();
    for (const key of [erased, gone]) {
      expect(await place.row(key)).toMatchObject({ state: 'taken_down', generation: 1, physical_suffix: '' });
    }
    expect((await place.row(other)).state).toBe('live');
    expect(await table('takedown')).toMatchObject([
      {
        id,
        state: 'accepted',
        selector: { namespace: 'orders', prefix: 'x' },
        reason: 'asked for',
        requested_by: 'ann',
      },
    ]);
    const names = await table('takedown_blob');
    expect(names.map(({ physical_key }) => physical_key)).toEqual([erased, gone].sort());
    expect(names.every(({ blob_id }) => blob_id !== null)).toBe(true);
    const whole = await everything();
    expect(await place.reconcile()).toMatchObject({ takenDown: 0, erased: 0, adopted: 0, findings: [] });
    expect(await everything()).toEqual(whole);
  });

  it('takes in the generation that was uploaded after the takedown, and not the one before', async () => {
    const key = await place.object();
    const [before, after] = [newGeneration(), newGeneration()];
    const old = await place.object({ key, generation: before });
    const later = await place.object({ key, generation: after });
    place.faults.modifiedAt.set(old, new Date('2026-11-22T00:00:00Z'));
    place.faults.modifiedAt.set(later, new Date('2026-11-21T00:00:00Z'));
    await takenDown([key, old]);
    expect(await place.reconcile()).toMatchObject({ adopted: 1, erased: 2, stray: 0, takenDown: 0 });
    expect(await place.row(key)).toMatchObject({ state: 'live', generation: 2, physical_suffix: after });
  });

  it('has the row of a later generation that was erased', async () => {
    const key = await place.object();
    const later = await place.object({ key, generation: newGeneration() });
    await takenDown([key, later]);
    await place.reconcile();
    expect(await place.row(key)).toMatchObject({
      state: 'taken_down',
      generation: 2,
      physical_suffix: later.slice(-16),
    });
    const again = await place.catalog.begin(parseKey(key), 1000);
    expect(again).toMatchObject({ kind: 'upload', lease: { generation: 3 } });
  });

  it('has the blocks, and takes in nothing that is blocked', async () => {
    const key = await place.object();
    await takenDown([], { isBlocking: true, blocks: [blockOf(key)] });
    for (const dryRun of [true, false]) {
      const report = await place.reconcile({ dryRun });
      expect(report).toMatchObject({ adopted: 0, stray: 1 });
      expect(report.findings).toEqual([`stray: it may not be stored again: ${key}`]);
    }
    expect(await place.rows()).toEqual([]);
    await expect(place.catalog.begin(parseKey(key), 1000)).rejects.toMatchObject({ code: 'BLOB_BLOCKED' });
  });

  it('forgets nothing of a takedown in several parts', async () => {
    const keys = [await place.object(), await place.object()];
    const id = await takenDown([keys[0] ?? ''], { isBlocking: true, blocks: [blockOf(keys[0] ?? '')] });
    const second = objectsOf({
      ...JSON.parse(
        Buffer.from(((await place.store.get(`.lps/takedowns/${id}`))?.body ?? []) as Uint8Array).toString(),
      ),
      names: [nameOf(keys[1] ?? '')],
      blocks: [blockOf(keys[1] ?? '')],
    });
    const bytes = second[0]?.bytes ?? Buffer.alloc(0);
    await place.store.put(`.lps/takedowns/${id}.1`, bytes, { digest: digestOf(bytes), size: bytes.length });
    expect(await place.reconcile()).toMatchObject({ takedowns: 2, takenDown: 2, erased: 2, adopted: 0 });
    expect(await table('block')).toHaveLength(2);
    expect(await table('takedown')).toHaveLength(1);
  });

  it('stays empty while it is not known what was taken down', async () => {
    await place.object();
    const bytes = Buffer.from('{"format":"something else"}');
    await place.store.put(`.lps/takedowns/${randomUUID()}`, bytes, { digest: digestOf(bytes), size: bytes.length });
    await expect(place.reconcile()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(await place.rows()).toEqual([]);
  });

  it('numbers its events behind all that the lost one can have given out', async () => {
    await place.object();
    await place.reconcile();
    const [counter] = await table('event_counter');
    expect(Number(counter?.last)).toBeGreaterThan(1.7e12);
    expect(counter?.forgotten).toBe(counter?.last);
  });
});

describe('an old catalog', () => {
  it('has what was taken down since, and marks none of it damaged', async () => {
    const [gone, there, other] = [await place.upload(), await place.upload(), await place.upload()];
    await place.change(there, `state = 'quarantined', quarantined_at = now()`);
    await takenDown([gone, there]);
    await place.store.delete(gone);
    const report = await place.reconcile();
    expect(report).toMatchObject({ takenDown: 2, erased: 1, damaged: 0, known: 1 });
    for (const key of [gone, there]) expect(await place.row(key)).toMatchObject({ state: 'taken_down', generation: 1 });
    expect((await place.row(other)).state).toBe('live');
  });

  it('follows a blob that was uploaded again since', async () => {
    const key = await place.upload();
    const later = await place.object({ key, generation: newGeneration() });
    await takenDown([key]);
    expect(await place.reconcile()).toMatchObject({ moved: 1, erased: 1, takenDown: 0 });
    expect(await place.row(key)).toMatchObject({ state: 'live', generation: 2, physical_suffix: later.slice(-16) });
  });

  it('follows also when its rows were taken down already, as after an import, but to nothing older or blocked', async () => {
    const keys = [await place.upload(), await place.upload(), await place.upload(), await place.upload()];
    const [again, older, blocked, undated] = keys as [string, string, string, string];
    const laters = await Promise.all(keys.map((key) => place.object({ key, generation: newGeneration() })));
    for (const later of laters) place.faults.modifiedAt.set(later, new Date('2026-11-20T12:00:02Z'));
    place.faults.modifiedAt.set(laters[1] ?? '', new Date('2026-11-20T12:00:01Z'));
    await takenDown([again, older, blocked], { isBlocking: true, blocks: [blockOf(blocked)] });
    expect(await restoreTakedowns(place.store, place.care)).toBe(1);
    await place.change(undated, `state = 'taken_down'`); // nobody knows since when
    for (const key of keys) expect((await place.row(key)).state).toBe('taken_down');
    const report = await place.reconcile();
    expect(report).toMatchObject({ moved: 1, erased: 3, adopted: 0, takenDown: 0 });
    expect([...report.findings].sort()).toEqual(
      [
        `moved: a later generation: ${laters[0]}`,
        `stray: the blob is taken_down: ${laters[1]}`,
        `stray: it may not be stored again: ${laters[2]}`,
        `stray: the blob is taken_down: ${laters[3]}`,
        `stray: the blob is taken_down: ${undated}`,
        ...[again, older, blocked].map((key) => `erased: it was taken down: ${key}`),
      ].sort(),
    );
    expect(await place.row(again)).toMatchObject({
      state: 'live',
      generation: 2,
      physical_suffix: laters[0]?.slice(-16),
    });
    for (const key of [older, blocked, undated]) expect((await place.row(key)).state).toBe('taken_down');
  });

  it('changes nothing in a dry run, and deletes nothing', async () => {
    const [there, gone, unknown] = [await place.upload(), await place.upload(), await place.object()];
    await takenDown([there, gone, unknown], { isBlocking: true, blocks: [blockOf(there)] });
    await place.store.delete(gone);
    const before = await everything();
    const report = await place.reconcile({ dryRun: true });
    expect(report).toMatchObject({ erased: 2, adopted: 0, damaged: 0, takenDown: 0 });
    expect(await everything()).toEqual(before);
  });

  it('keeps to itself what it knows of a takedown: a block that was ended does not come back', async () => {
    const key = await place.upload();
    const id = await takenDown([key], { isBlocking: true, blocks: [blockOf(key)] });
    await place.reconcile();
    await place.fixture.sql.query(
      `UPDATE ${place.fixture.schema}.takedown SET event = 7, state = 'completed' WHERE id = $1`,
      [id],
    );
    await place.fixture.unblock(parseKey(key));
    await place.reconcile();
    expect(await table('block')).toEqual([]);
    expect(await table('takedown')).toMatchObject([{ id, state: 'completed' }]);
  });
});

it('a takedown that was read from the store is proven once more, and means nothing that was uploaded since', async () => {
  const [key, since] = [await place.object(), await place.object()];
  const id = await takenDown([key], { selector: { namespace: 'orders', digest: parseKey(since).digest } });
  await restoreTakedowns(place.store, place.care);
  const { url, schema } = place.fixture;
  const database = openDatabase({ url, maxConnections: 2, statementTimeoutMs: 10_000, log: () => undefined });
  const steps = new TakedownSteps({
    catalog: openTakedownCatalog({ database, schema }),
    leases: { unaware: async () => [] },
    store: place.store,
    heldBy: () => Promise.reject(new Error('nobody is asked')),
    outOfReach: async () => [],
    signingKey: async () => '',
  });
  await steps.find(id);
  await steps.accept(id);
  expect((await table('takedown_blob')).map(({ physical_key }) => physical_key)).toEqual([key]);
  await steps.eraseBatch(id, '');
  expect(await place.store.head(key)).toBeUndefined();
  expect(await place.store.head(since)).toBeDefined();
  await place.reconcile();
  expect((await place.row(since)).state).toBe('live');
  await database.close();
});

it('deletes nothing once the store is another catalog’s, if only since a moment ago', async () => {
  const key = await place.upload();
  await takenDown([key]);
  const bytes = Buffer.from(JSON.stringify({ catalog: randomUUID() }));
  const store = {
    ...place.store,
    async *list(prefix: string) {
      const whose = { digest: digestOf(bytes), size: bytes.length };
      if (prefix === '') await place.store.put('.lps/catalog', bytes, whose, { overwrite: true });
      yield* place.store.list(prefix);
    },
  };
  await expect(place.reconcile({ store })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  expect(await place.store.head(key)).toBeDefined();
});

describe('what is found at the same moment as a takedown', () => {
  it('is not taken in, and no row follows to it', async () => {
    const [erased, blocked, live] = [await place.object(), await place.object(), await place.upload()];
    const found = (key: string) => ({ key, blob: parseKey(key), physicalKey: key, size: 1000 });
    const later = `${live}~${newGeneration()}`;
    await place.fixture.erase(parseKey(erased));
    await place.fixture.erase(parseKey(live), later);
    await place.fixture.block(parseKey(blocked));
    expect(await place.care.adoptMany([found(erased), found(blocked)])).toBe(0);
    const [row] = await place.care.lookupMany([parseKey(live)]);
    if (row === undefined) throw new Error('no row');
    expect(await place.care.setRight(row, { physicalKey: later, size: 1000 })).toBe(false);
    await place.change(live, `state = 'taken_down'`);
    await place.fixture.block(parseKey(live));
    const unknown = { physicalKey: `${live}~${newGeneration()}`, size: 1000 };
    expect(await place.care.setRight({ ...row, state: 'taken_down' }, unknown)).toBe(false);
  });
});
