import { parseKey } from '@large-payload/core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { openPlace, type Place } from './care-fixture.js';
import { Throttle } from './throttle.js';

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

async function uploads(count: number, size = 1000): Promise<string[]> {
  const keys: string[] = [];
  for (let index = 0; index < count; index += 1) keys.push(await place.upload({ size }));
  return keys;
}

async function states(): Promise<string[]> {
  return (await place.rows()).map(({ state }) => state);
}

describe('a scrub', () => {
  it('reads every blob, and changes nothing when all is right', async () => {
    const keys = await uploads(20);
    await place.change(
      keys[3] ?? '',
      `state = 'quarantined', quarantined_at = now(), touched_at = now() - interval '9 days'`,
    );
    const before = await place.rows();
    expect(await place.scrub()).toMatchObject({ blobs: 20, bytes: 20_000, damaged: 0, findings: [] });
    expect(place.faults.gets.sort()).toEqual([...keys].sort());
    expect(await place.rows()).toEqual(before);
  });

  it('marks what is missing, wrong, or of another length, and says so again the next time', async () => {
    const [missing = '', wrong = '', short = '', , quarantined = ''] = await uploads(6);
    await place.store.delete(missing);
    place.faults.flips.set(wrong, Number.POSITIVE_INFINITY);
    place.faults.flips.set(short, Number.POSITIVE_INFINITY);
    await place.change(short, 'size = 1001');
    await place.change(quarantined, `state = 'quarantined', quarantined_at = now()`);
    await place.store.delete(quarantined);
    const touched = (await place.rows()).map(({ touched_at }) => touched_at);
    const report = await place.scrub();
    expect(report).toMatchObject({ blobs: 6, damaged: 4, marked: 4, healed: 0, unreadable: 0 });
    expect(report.findings).toEqual([
      `damaged: missing: ${missing}`,
      `damaged: wrong bytes: ${wrong}`,
      `damaged: wrong length: ${short}`,
      `damaged: missing: ${quarantined}`,
    ]);
    expect(await states()).toEqual(['damaged', 'damaged', 'damaged', 'live', 'damaged', 'live']);
    const again = await place.scrub();
    expect(again).toMatchObject({ blobs: 6, damaged: 4, marked: 0 });
    expect(again.findings[0]).toBe(`damaged: missing, as before: ${missing}`);
    expect((await place.rows()).map(({ touched_at }) => touched_at)).toEqual(touched);
  });

  it('heals a damaged row whose object is right, without touching it', async () => {
    const [key = ''] = await uploads(1);
    await place.change(key, `state = 'damaged', damaged_at = now(), touched_at = now() - interval '9 days'`);
    const before = await place.row(key);
    expect(await place.scrub()).toMatchObject({ damaged: 0, healed: 1, findings: [`healed: right again: ${key}`] });
    expect(await place.row(key)).toEqual({ ...before, state: 'live', damaged_at: null, generation: 2 });
  });

  it('corrects a row that has the wrong size of a right object', async () => {
    const [key = ''] = await uploads(1);
    await place.change(key, 'size = 7');
    expect((await place.scrub()).findings).toEqual([`corrected: its size: ${key}`]);
    expect(await place.row(key)).toMatchObject({ state: 'live', size: '1000' });
  });

  it('leaves alone what is being uploaded or deleted, gone, or taken down', async () => {
    const others = ['uploading', 'deleting', 'gone', 'taken_down'];
    const keys = await uploads(others.length);
    for (const [index, key] of keys.entries()) {
      await place.change(key, `state = '${others[index]}'`);
      await place.store.delete(key);
    }
    expect(await place.scrub()).toMatchObject({ blobs: 0, findings: [] });
    expect(place.faults.gets).toEqual([]);
    expect(await states()).toEqual(others);
  });

  it('believes damage only when it is read twice', async () => {
    const [key = ''] = await uploads(1);
    place.faults.flips.set(key, 1);
    expect(await place.scrub()).toMatchObject({ blobs: 1, damaged: 0 });
    expect(await states()).toEqual(['live']);
  });

  it('takes an object that the store cannot give for unreadable, not for damaged', async () => {
    const [, key = ''] = await uploads(3);
    place.faults.failing.add(key);
    const report = await place.scrub();
    expect(report).toMatchObject({ blobs: 3, damaged: 0, unreadable: 1 });
    expect(report.findings).toEqual([`unreadable: STORE_UNAVAILABLE: ${key}`]);
    expect(await states()).toEqual(['live', 'live', 'live']);
  });

  it('ends when nothing can be read any more, though the store answers', async () => {
    for (const key of await uploads(110, 10)) place.faults.failing.add(key);
    await expect(place.scrub()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect(new Set(await states())).toEqual(new Set(['live']));
  });

  it('ends without a mark when the store goes away, and goes on from there when it is back', async () => {
    const keys = await uploads(10);
    await place.store.delete(keys[1] ?? '');
    await place.store.delete(keys[8] ?? '');
    place.faults.onGet = (key) => {
      if (key === keys[6]) place.faults.isAway = true;
    };
    const one = { concurrency: 1, batchBytes: 1000 };
    await expect(place.scrub(one)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect((await states()).filter((state) => state === 'damaged')).toHaveLength(1);
    place.faults.isAway = false;
    place.faults.onGet = () => undefined;
    place.faults.gets.length = 0;
    const report = await place.scrub(one);
    expect(report).toMatchObject({ isContinued: true, blobs: 10, damaged: 2 });
    expect(place.faults.gets).toEqual([keys[6], keys[7], keys[8], keys[8], keys[9]]);
  });

  it('marks nothing in a store that has lost everything, its own mark included', async () => {
    const keys = await uploads(3);
    place.faults.onGet = async (key) => {
      if (key !== keys[0]) return;
      for (const gone of [...keys, '.lps/catalog']) await place.store.delete(gone);
    };
    await expect(place.scrub()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(await states()).toEqual(['live', 'live', 'live']);
  });

  it('does not begin on the store of another catalog', async () => {
    await uploads(1);
    const other = await openPlace(postgres.url);
    await expect(place.scrub({ store: other.store })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining(`another catalog (${other.care.id})`),
    });
    expect(other.faults.gets).toEqual([]);
    await other.close();
    expect(await states()).toEqual(['live']);
  });

  it('leaves a row alone that was uploaded again while it read the old object', async () => {
    const [key = ''] = await uploads(1);
    place.faults.flips.set(key, Number.POSITIVE_INFINITY);
    place.faults.onGet = async () => {
      place.faults.onGet = () => undefined;
      const row = await place.catalog.lookup(parseKey(key));
      if (row === undefined) throw new Error('no row');
      await place.catalog.markDamaged(row);
      const beginning = await place.catalog.begin(parseKey(key), 1000);
      if (beginning.kind !== 'upload') throw new Error('present');
      await place.catalog.commit(beginning.lease, 1000);
    };
    expect(await place.scrub()).toMatchObject({ damaged: 0, findings: [] });
    expect(await states()).toEqual(['live']);
  });

  it('does not heal a row that was marked anew while it read the object', async () => {
    const [key = ''] = await uploads(1);
    await place.change(key, `state = 'damaged', damaged_at = now()`);
    place.faults.onGet = () => place.change(key, 'generation = generation + 1');
    expect(await place.scrub()).toMatchObject({ healed: 0, findings: [] });
    expect(await states()).toEqual(['damaged']);
  });
});

describe('a pass', () => {
  it('is gone on with where the one before was stopped', async () => {
    const keys = await uploads(6);
    const stop = new AbortController();
    place.faults.onGet = (key) => {
      if (key === keys[3]) stop.abort();
    };
    await expect(place.scrub({ signal: stop.signal, concurrency: 1, batchBytes: 1000 })).rejects.toThrow();
    place.faults.onGet = () => undefined;
    place.faults.gets.length = 0;
    expect(await place.scrub()).toMatchObject({ blobs: 6, bytes: 6000, isContinued: true });
    // the one that it was stopped in was read to its end, and counts
    expect(place.faults.gets.sort()).toEqual(keys.slice(4).sort());
  });

  it('begins anew when it was finished, and when that is asked for', async () => {
    const keys = await uploads(4);
    await place.scrub();
    expect(await place.scrub()).toMatchObject({ blobs: 4, isContinued: false });
    const stop = new AbortController();
    place.faults.onGet = (key) => {
      if (key === keys[2]) stop.abort();
    };
    await expect(place.scrub({ signal: stop.signal, concurrency: 1, batchBytes: 1000 })).rejects.toThrow();
    place.faults.onGet = () => undefined;
    expect(await place.scrub({ restart: true })).toMatchObject({ blobs: 4, isContinued: false });
    expect(place.faults.gets).toHaveLength(4 + 4 + 3 + 4);
  });

  it('ends at the blobs that were there when it began', async () => {
    await uploads(3);
    let late: string | undefined;
    place.faults.onGet = async () => {
      place.faults.onGet = () => undefined;
      late = await place.upload();
    };
    expect(await place.scrub({ concurrency: 1, batchBytes: 1000 })).toMatchObject({ blobs: 3 });
    expect(place.faults.gets).not.toContain(late);
  });

  it('belongs to the later of two scrubs, and the earlier one can mark nothing any more', async () => {
    const keys = await uploads(4);
    let later: Promise<unknown> | undefined;
    place.faults.onGet = async (key) => {
      if (key !== keys[1]) return;
      place.faults.onGet = () => undefined;
      later = place.scrub();
      await later;
      await place.store.delete(key); // the earlier one finds this
    };
    const earlier = place.scrub({ concurrency: 1, batchBytes: 1000 });
    await expect(earlier).rejects.toMatchObject({ code: 'ABORTED' });
    expect(await later).toMatchObject({ blobs: 4, damaged: 0 });
    expect(new Set(await states())).toEqual(new Set(['live']));
  });

  it('tells how far it is, up to the end', async () => {
    await uploads(8);
    const seen: number[] = [];
    await place.scrub({ batchBytes: 1000, concurrency: 1, onProgress: ({ fraction }) => seen.push(fraction) });
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    expect(seen.at(-1)).toBe(1);
    expect(Math.min(...seen)).toBeLessThan(0.2);
  });

  it('reads no more objects at the same time than it may', async () => {
    await uploads(12);
    let [now, most] = [0, 0];
    place.faults.onGet = async () => {
      now += 1;
      most = Math.max(most, now);
      await new Promise((resolve) => setImmediate(resolve));
      now -= 1;
    };
    await place.scrub({ concurrency: 3 });
    expect(most).toBe(3);
  });
});

it('a throttle lets no more through than its rate', async () => {
  const throttle = new Throttle(1_000_000);
  const { signal } = new AbortController();
  const sinceMs = performance.now();
  await Promise.all(Array.from({ length: 6 }, () => throttle.take(50_000, signal)));
  // a lower bound: timers are late, never early by more than a millisecond
  expect(performance.now() - sinceMs).toBeGreaterThan(295);
  await new Throttle(0).take(Number.MAX_SAFE_INTEGER, signal);
  const stopped = expect(throttle.take(1e9, AbortSignal.abort())).rejects.toThrow();
  await stopped;
});
