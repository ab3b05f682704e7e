import { randomBytes } from 'node:crypto';
import { digestOf, isBytes, parseKey, v1ObjectName } from '@large-payload/core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { claimStore, readOwner } from '../bucket-owner.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { newGeneration, openPlace, type Place } from './care-fixture.js';

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

async function rebuiltAt(): Promise<unknown> {
  const { rows } = await place.fixture.sql.query(`SELECT rebuilt_at FROM ${place.fixture.schema}.catalog`);
  return rows[0]?.rebuilt_at;
}

/** Everything that there is of a catalog, but for the scrub's position. */
async function everything(): Promise<unknown> {
  const { sql, schema } = place.fixture;
  const tables = ['blob', 'lease', 'retired_object', 'catalog'].map((table) =>
    sql.query(`SELECT * FROM ${schema}.${table} ORDER BY 1`),
  );
  return (await Promise.all(tables)).map(({ rows }) => rows);
}

async function forget(): Promise<void> {
  await place.fixture.sql.query(`DELETE FROM ${place.fixture.schema}.blob`);
}

async function retire(key: string, physicalKey: string): Promise<void> {
  const { id } = await place.row(key);
  const insert = `INSERT INTO ${place.fixture.schema}.retired_object (blob_id, generation, physical_key, size) VALUES ($1, 1, $2, 1)`;
  await place.fixture.sql.query(insert, [id, physicalKey]);
}

describe('an empty catalog', () => {
  it('comes back from the store alone, and a second run changes nothing', async () => {
    const keys = [
      await place.upload(),
      await place.upload({ size: 0 }),
      await place.upload({ namespace: 'größe 漢字 🎉' }),
      await place.upload({ namespace: 'a%2fb+c', prefix: 'team/a' }),
      await place.upload({ prefix: '//x//' }),
      await place.object({ generation: newGeneration() }),
    ];
    const before = (await place.rows()).map(({ namespace, prefix, digest, size }) => ({
      namespace,
      prefix,
      digest,
      size,
    }));
    await forget();
    expect(await rebuiltAt()).toBeNull();
    expect(await place.reconcile()).toMatchObject({ adopted: 6, adoptedBytes: 5000, known: 0, own: 1, findings: [] });
    const rows = await place.rows();
    expect(rows.map(({ state }) => state)).toEqual(keys.map(() => 'live'));
    expect(rows).toEqual(expect.arrayContaining(before.map((row) => expect.objectContaining(row))));
    expect(await rebuiltAt()).not.toBeNull();
    for (const name of keys) {
      const row = await place.catalog.lookup(parseKey(name.replace(/~.*/, '')));
      expect(row).toMatchObject({ state: 'live', physicalKey: name, generation: name.includes('~') ? 2 : 1 });
      const found = await place.store.get(row?.physicalKey ?? '');
      expect(found && isBytes(found.body) && digestOf(found.body)).toBe(parseKey(name.replace(/~.*/, '')).digest);
    }
    const whole = await everything();
    expect(await place.reconcile()).toMatchObject({ adopted: 0, known: 6, findings: [] });
    expect(await everything()).toEqual(whole);
  });

  it('gives what it takes in a first touch, and the time of the object', async () => {
    const name = await place.object();
    place.faults.modifiedAt.set(name, new Date('2020-01-01T00:00:00Z'));
    const { rows } = await place.fixture.sql.query('SELECT now() AS now');
    await place.reconcile();
    const row = await place.row(name);
    expect(row.created_at).toEqual(new Date('2020-01-01T00:00:00Z'));
    expect(Number(row.touched_at)).toBeGreaterThanOrEqual(Number(rows[0]?.now));
  });

  it('takes in the later of several generations, and of those the one written last', async () => {
    const first = await place.object();
    const [second, third] = [newGeneration(), newGeneration()];
    const names = [
      first,
      await place.object({ key: first, generation: second }),
      await place.object({ key: first, generation: third }),
    ];
    place.faults.modifiedAt.set(names[0] ?? '', new Date(3000));
    place.faults.modifiedAt.set(names[1] ?? '', new Date(2000));
    place.faults.modifiedAt.set(names[2] ?? '', new Date(1000));
    const report = await place.reconcile();
    expect(await place.row(first)).toMatchObject({ state: 'live', physical_suffix: second, generation: 2 });
    expect(report).toMatchObject({ adopted: 1, stray: 2 });
    expect(report.findings).toEqual(
      expect.arrayContaining([
        `stray: another generation is newer: ${names[0]}`,
        `stray: another generation is newer: ${names[2]}`,
      ]),
    );
    expect(await place.reconcile()).toMatchObject({ adopted: 0, stray: 2, known: 1 });
  });

  it('takes in an earlier generation when the later one is wrong, and none when it cannot be read', async () => {
    const [one, two] = [await place.object(), await place.object()];
    const wrong = await place.object({ key: one, generation: newGeneration() });
    const unread = await place.object({ key: two, generation: newGeneration() });
    place.faults.flips.set(wrong, Number.POSITIVE_INFINITY);
    place.faults.failing.add(unread);
    const report = await place.reconcile();
    expect(report).toMatchObject({ adopted: 1, rejected: 1, unreadable: 1 });
    expect(await place.catalog.lookup(parseKey(one))).toMatchObject({ physicalKey: one });
    expect(await place.catalog.lookup(parseKey(two))).toBeUndefined();
  });

  it('leaves an object that fails its digest where it is, without a row', async () => {
    const name = await place.object();
    place.faults.flips.set(name, Number.POSITIVE_INFINITY);
    const report = await place.reconcile();
    expect(report.findings).toEqual([`rejected: wrong bytes: ${name}`]);
    expect(await place.rows()).toEqual([]);
    expect(await place.store.head(name)).toBeDefined();
  });

  it('counts what is no blob, and leaves it alone', async () => {
    const bytes = randomBytes(10);
    const expected = { digest: digestOf(bytes), size: bytes.length };
    await place.store.put(v1ObjectName(expected.digest), bytes, expected);
    const list = place.store.list.bind(place.store);
    const store = {
      ...place.store,
      async *list(prefix: string) {
        yield* list(prefix);
        for (const key of ['readme.txt', '/blobs/orders', '/blobs/orders/common/sha256:00/sha256:11'])
          yield { key, size: 5 };
      },
    };
    expect(await place.reconcile({ store })).toMatchObject({
      objects: 5,
      foreign: 3,
      v1: 1,
      own: 1,
      adopted: 0,
      findings: [],
    });
    expect(await place.rows()).toEqual([]);
  });

  it('comes back in whatever order the store lists', async () => {
    for (let index = 0; index < 1200; index += 1) await place.object({ bytes: Buffer.from(`blob ${index}`) });
    place.faults.isShuffled = true;
    expect(await place.reconcile()).toMatchObject({ adopted: 1200, findings: [] });
    expect(await place.rows()).toHaveLength(1200);
  });

  it('is filled no further when the listing fails, and the rest comes with the next run', async () => {
    for (let index = 0; index < 1200; index += 1) await place.object({ bytes: Buffer.from(`blob ${index}`) });
    place.faults.listFailsAfter = 700;
    await expect(place.reconcile()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect((await place.rows()).length).toBeGreaterThan(0);
    place.faults.listFailsAfter = Number.POSITIVE_INFINITY;
    await place.reconcile();
    const rows = await place.rows();
    expect(new Set(rows.map(({ state }) => state))).toEqual(new Set(['live']));
    expect(rows).toHaveLength(1200);
  });
});

describe('a catalog that knows its blobs', () => {
  it('is left as it is by a dry run, which says what a real one does', async () => {
    const [gone, short, healed] = [await place.upload(), await place.upload(), await place.upload()];
    await place.store.delete(gone);
    await place.change(short, 'size = 5');
    await place.change(healed, `state = 'damaged', damaged_at = now()`);
    await place.object();
    const before = await everything();
    const dry = await place.reconcile({ dryRun: true });
    expect(dry).toMatchObject({ adopted: 1, damaged: 1, marked: 1, corrected: 1, healed: 1 });
    expect(await everything()).toEqual(before);
    const real = await place.reconcile();
    expect({ ...real, hashedBytes: 0 }).toEqual({ ...dry, hashedBytes: 0 });
    expect(await everything()).not.toEqual(before);
  });

  it('marks what the store has lost, heals what it has again, corrects sizes, and touches nothing', async () => {
    const keys = [
      await place.upload(),
      await place.upload(),
      await place.upload(),
      await place.upload(),
      await place.upload(),
    ];
    const [gone = '', short = '', healed = '', wrong = '', quarantined = ''] = keys;
    await place.store.delete(gone);
    await place.change(short, 'size = 5');
    await place.change(healed, `state = 'damaged', damaged_at = now()`);
    await place.change(wrong, 'size = 5');
    place.faults.flips.set(wrong, Number.POSITIVE_INFINITY);
    await place.change(quarantined, `state = 'quarantined', quarantined_at = now()`);
    const touched = (await place.rows()).map(({ touched_at }) => touched_at);
    const report = await place.reconcile();
    expect(report).toMatchObject({ known: 3, damaged: 2, marked: 2, corrected: 1, healed: 1 });
    expect([...report.findings].sort()).toEqual(
      [
        `corrected: its size: ${short}`,
        `damaged: missing: ${gone}`,
        `damaged: wrong length: ${wrong}`,
        `healed: right again: ${healed}`,
      ].sort(),
    );
    const rows = await place.rows();
    expect(rows.map(({ state }) => state)).toEqual(['damaged', 'live', 'live', 'damaged', 'quarantined']);
    expect(rows.map(({ touched_at }) => touched_at)).toEqual(touched);
    expect(await rebuiltAt()).toBeNull();
    const whole = await everything();
    expect(await place.reconcile()).toMatchObject({ damaged: 2, marked: 0, corrected: 0, healed: 0 });
    expect(await everything()).toEqual(whole);
  });

  it('follows a blob to the right object of another generation when its own is gone', async () => {
    const [live, damaged] = [await place.upload(), await place.upload()];
    const generation = newGeneration();
    for (const key of [live, damaged]) {
      await place.store.delete(key);
      await place.object({ key, generation });
    }
    await place.change(damaged, `state = 'damaged', damaged_at = now()`);
    expect(await place.reconcile()).toMatchObject({ moved: 2, damaged: 0, stray: 0, known: 2 });
    for (const key of [live, damaged]) {
      expect(await place.row(key)).toMatchObject({ state: 'live', physical_suffix: generation, generation: 2 });
    }
  });

  it('keeps to the object that a row names, and does not take one that is about to be deleted', async () => {
    const [kept, lost] = [await place.upload(), await place.upload()];
    const stray = await place.object({ key: kept, generation: newGeneration() });
    const retired = await place.object({ key: lost, generation: newGeneration() });
    await retire(lost, retired);
    await place.store.delete(lost);
    const report = await place.reconcile();
    expect(report).toMatchObject({ stray: 1, retired: 1, damaged: 1, moved: 0 });
    expect(report.findings).toContain(`stray: the blob is live: ${stray}`);
    expect((await place.row(kept)).physical_suffix).toBe('');
    expect(await place.row(lost)).toMatchObject({ state: 'damaged', physical_suffix: '' });
  });

  it('leaves alone what is being uploaded, and does not take in its object', async () => {
    const name = await place.object();
    const beginning = await place.catalog.begin(parseKey(name), 1000);
    const other = await place.catalog.begin(parseKey(await place.object()), 1000);
    await place.fixture.expireLeases();
    const before = await everything();
    expect([beginning.kind, other.kind]).toEqual(['upload', 'upload']);
    expect(await place.reconcile({ dryRun: true })).toMatchObject({ uploading: 2, known: 0, damaged: 0 });
    expect(await place.reconcile()).toMatchObject({ uploading: 2, adopted: 0, findings: [] });
    expect(await everything()).toEqual(before);
  });

  it.each(['uploading', 'deleting', 'gone', 'taken_down'])('misses no object of a blob that is %s', async (state) => {
    const key = await place.upload();
    await place.change(key, `state = '${state}'`);
    await place.store.delete(key);
    for (const dryRun of [true, false]) {
      expect(await place.reconcile({ dryRun })).toMatchObject({ known: 0, damaged: 0, findings: [] });
    }
    expect((await place.row(key)).state).toBe(state);
  });

  it.each(['deleting', 'gone', 'taken_down'])('brings nothing back that is %s', async (state) => {
    const key = await place.upload();
    await place.change(key, `state = '${state}'`);
    const later = await place.object({ key, generation: newGeneration() });
    if (state === 'deleting') await retire(key, key);
    const before = await everything();
    const report = await place.reconcile();
    const strays = state === 'deleting' ? [later] : [key, later];
    expect([...report.findings].sort()).toEqual(strays.map((name) => `stray: the blob is ${state}: ${name}`).sort());
    expect(report).toMatchObject({ retired: state === 'deleting' ? 1 : 0, damaged: 0, adopted: 0 });
    expect(await everything()).toEqual(before);
  });

  it('marks nothing when the listing leaves out what is there', async () => {
    const keys = [await place.upload(), await place.upload(), await place.upload()];
    const store = { ...place.store, async *list() {} };
    expect(await place.reconcile({ store })).toMatchObject({ objects: 0, known: 3, findings: [] });
    expect(keys).toHaveLength(3);
  });

  it('is not changed by a listing that fails, whatever the store has lost', async () => {
    const [gone] = [await place.upload(), await place.upload(), await place.upload()];
    await place.store.delete(gone ?? '');
    place.faults.listFailsAfter = 1;
    const before = await everything();
    await expect(place.reconcile()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect(await everything()).toEqual(before);
  });

  it('is not changed when the store loses everything, its mark included, meanwhile', async () => {
    const keys = [await place.upload(), await place.upload()];
    const list = place.store.list.bind(place.store);
    const store = {
      ...place.store,
      async *list(prefix: string) {
        for (const gone of [...keys, '.lps/catalog']) await place.store.delete(gone);
        yield* list(prefix);
      },
    };
    const before = await everything();
    await expect(place.reconcile({ store })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(await everything()).toEqual(before);
  });

  it('lets an upload win that happens while it looks', async () => {
    const key = await place.upload();
    await place.store.delete(key);
    const head = place.store.head.bind(place.store);
    let heads = 0;
    const store = {
      ...place.store,
      async head(name: string) {
        const answer = await head(name);
        heads += 1;
        if (heads === 2) {
          const row = await place.catalog.lookup(parseKey(name));
          if (row !== undefined) await place.catalog.markDamaged(row);
          const beginning = await place.catalog.begin(parseKey(key), 1000);
          if (beginning.kind === 'upload') await place.catalog.commit(beginning.lease, 1000);
        }
        return answer;
      },
    };
    expect(await place.reconcile({ store })).toMatchObject({ damaged: 0, findings: [] });
    expect(await place.row(key)).toMatchObject({ state: 'live', generation: 2 });
  });
});

describe('the store', () => {
  it('of another catalog is refused, with what to do', async () => {
    await place.object();
    const other = await openPlace(postgres.url);
    await expect(other.reconcile({ store: place.store })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining(`lps catalog reconcile --take-over ${place.care.id}`),
    });
    expect(await other.rows()).toEqual([]);
    await other.close();
  });

  it('of a lost catalog is given to an empty one that names it, and to no other any more', async () => {
    const name = await place.object();
    const lost = place.care.id;
    const other = await openPlace(postgres.url);
    const takeOver = { store: place.store, takeOver: lost };
    expect(await other.reconcile({ ...takeOver, dryRun: true })).toMatchObject({ adopted: 1 });
    expect(await readOwner(place.store)).toBe(lost);
    await expect(other.reconcile({ ...takeOver, takeOver: other.care.id })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    });
    expect(await readOwner(place.store)).toBe(lost);
    expect(await other.reconcile(takeOver)).toMatchObject({ adopted: 1 });
    expect(await readOwner(place.store)).toBe(other.care.id);
    expect(await other.catalog.lookup(parseKey(name))).toMatchObject({ state: 'live' });
    // the old one turns up again
    await expect(claimStore(place.store, lost)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    // broken off and started again, with the same words
    expect(await other.reconcile(takeOver)).toMatchObject({ known: 1 });
    await other.close();
  });

  it('is not taken over by a catalog that knows blobs of another one', async () => {
    const other = await openPlace(postgres.url);
    await other.upload();
    const attempt = other.reconcile({ store: place.store, takeOver: place.care.id });
    await expect(attempt).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining('empty') });
    expect(await readOwner(place.store)).toBe(place.care.id);
    await other.close();
  });

  it('without a mark is claimed by an empty catalog, and refused when there are rows', async () => {
    const name = await place.object();
    await place.store.delete('.lps/catalog');
    expect(await place.reconcile({ dryRun: true })).toMatchObject({ adopted: 1 });
    expect(await readOwner(place.store)).toBeUndefined();
    expect(await place.reconcile()).toMatchObject({ adopted: 1 });
    expect(await readOwner(place.store)).toBe(place.care.id);
    await place.store.delete('.lps/catalog');
    await place.store.delete(name);
    await expect(place.reconcile()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(await place.row(name)).toMatchObject({ state: 'live' });
  });
});
