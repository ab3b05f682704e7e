import type { BlobKey } from '@large-payload/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { logicalKey } from './blob-record.js';
import type { Catalog } from './catalog.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.js';
import { beginUpload, type CatalogFixture, makeLive, newKey, openFixture } from './postgres-catalog-fixture.js';

const dayMs = 86_400_000;
let postgres: EmbeddedPostgres;
let fixture: CatalogFixture;
let catalog: Catalog;

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  fixture = openFixture(postgres.url);
  catalog = await fixture.open({ cacheEntries: 0 });
});
afterAll(async () => {
  await fixture?.close();
  await postgres?.stop();
});

describe('begin and commit', () => {
  it('gives every uploader of one key a lease of its own at the same place', async () => {
    const key = newKey('orders', 'team/reports');
    const [one, two] = [await beginUpload(catalog, key), await beginUpload(catalog, key)];
    expect(one.id).not.toBe(two.id);
    expect(two).toMatchObject({ key: logicalKey(key), physicalKey: one.physicalKey, generation: 1, overwrite: false });
    expect(one.expiresAt.getTime() - Date.now()).toBeGreaterThan(590_000);
    expect((await catalog.commit(one, 10))?.outcome).toBe('created');
    expect((await catalog.commit(two, 10))?.outcome).toBe('exists');
    expect((await fixture.read(key))?.leases).toBe(0);
  });

  it('protects from the touch on, for the grace period', async () => {
    const row = await makeLive(catalog, newKey());
    expect(row.protectedUntil.getTime() - row.touchedAt.getTime()).toBe(7 * dayMs);
    expect(Math.abs(row.touchedAt.getTime() - Date.now())).toBeLessThan(60_000);
  });

  it('is blocked in one namespace, under one prefix or under any', async () => {
    const key = newKey('orders', 'team');
    const elsewhere: BlobKey[] = [
      { ...key, namespace: 'billing' },
      { ...key, prefix: 'team/reports' },
    ];
    const { prefix: _, ...withoutPrefix } = key;
    await fixture.block(key);
    await expect(catalog.begin(key, 10)).rejects.toMatchObject({ code: 'BLOB_BLOCKED' });
    for (const other of [...elsewhere, withoutPrefix]) await makeLive(catalog, other);
    const any = newKey('orders', 'team');
    await fixture.block(any, { anyPrefix: true });
    for (const other of [any, { ...any, prefix: 'x' }])
      await expect(catalog.begin(other, 10)).rejects.toMatchObject({ code: 'BLOB_BLOCKED' });
    await makeLive(catalog, { ...any, namespace: 'billing' });
  });

  it('never hands out the name of a deleted object again', async () => {
    const key = newKey();
    const { physicalKey: first } = await makeLive(catalog, key);
    await fixture.force(key, 'deleting');
    const second = await beginUpload(catalog, key);
    expect(second.physicalKey).not.toBe(first);
    await catalog.abandon(second);
    expect(await fixture.read(key)).toMatchObject({ state: 'uploading', generation: 2, leases: 0 });
    const third = await beginUpload(catalog, key);
    expect(third.physicalKey).toBe(second.physicalKey);
    expect((await catalog.commit(third, 10))?.row.physicalKey).toBe(second.physicalKey);
  });

  it('is not healed by an upload that began before an earlier healing', async () => {
    const key = newKey();
    await catalog.markDamaged(await makeLive(catalog, key));
    const [early, late] = [await beginUpload(catalog, key), await beginUpload(catalog, key)];
    const healed = await catalog.commit(late, 10);
    expect(healed).toMatchObject({ outcome: 'created', row: { state: 'live', generation: 2 } });
    if (healed !== undefined) await catalog.markDamaged(healed.row);
    expect(await catalog.commit(early, 10)).toBeUndefined();
    expect((await fixture.read(key))?.state).toBe('damaged');
  });

  it('is not damaged again by a read of the bytes before the healing', async () => {
    const key = newKey();
    const read = await makeLive(catalog, key);
    await catalog.markDamaged(read);
    await catalog.commit(await beginUpload(catalog, key), 10);
    await catalog.markDamaged(read);
    expect((await fixture.read(key))?.state).toBe('live');
  });

  it('replaces a wrong object of somebody else that an upload met', async () => {
    const key = newKey();
    const met = await beginUpload(catalog, key);
    await catalog.markDamaged({ id: met.blobId, generation: met.generation });
    await catalog.abandon(met);
    const next = await beginUpload(catalog, key);
    expect(next).toMatchObject({ overwrite: true, physicalKey: met.physicalKey });
    expect(await catalog.commit(next, 10)).toMatchObject({ outcome: 'created', row: { state: 'live' } });
  });

  it('revives a quarantined blob, however recent its last touch', async () => {
    const [begun, touched] = [newKey(), newKey()];
    for (const key of [begun, touched]) {
      await makeLive(catalog, key);
      await fixture.force(key, 'quarantined');
    }
    expect(await catalog.begin(begun, 10)).toMatchObject({ kind: 'present', touched: true, row: { state: 'live' } });
    const row = await catalog.lookup(touched);
    expect(row?.touchDue).toBe(true);
    expect(await catalog.touch(row === undefined ? [] : [row])).toMatchObject([{ state: 'live' }]);
  });

  it('answers a commit made twice', async () => {
    const held = await beginUpload(catalog, newKey());
    expect((await catalog.commit(held, 10))?.outcome).toBe('created');
    expect((await catalog.commit(held, 10))?.outcome).toBe('exists');
  });

  it('keeps keys apart that differ in one part', async () => {
    const key = newKey();
    const others: BlobKey[] = [
      { ...key, prefix: 'a' },
      { ...key, namespace: 'other' },
      { ...key, metadataDigest: newKey().digest },
    ];
    await makeLive(catalog, key);
    for (const other of others) expect((await catalog.begin(other, 10)).kind).toBe('upload');
  });
});

describe('sweep', () => {
  it('leaves leases alone that still live', async () => {
    await fixture.removeLeases();
    const key = newKey();
    await beginUpload(catalog, key);
    expect(await catalog.sweepLeases(async () => undefined, 10)).toBe(0);
    expect((await fixture.read(key))?.leases).toBe(1);
  });

  it('goes on when the store fails for one object, and says so at the end', async () => {
    await fixture.removeLeases();
    const leases = await Promise.all(Array.from({ length: 3 }, () => beginUpload(catalog, newKey())));
    await fixture.expireLeases();
    const swept = catalog.sweepLeases(async (physicalKey) => {
      if (physicalKey === leases[0]?.physicalKey) throw new Error('the store is away');
      return 10;
    }, 10);
    await expect(swept).rejects.toThrow('the store is away');
    const { rows } = await fixture.sql.query(`SELECT id FROM ${fixture.schema}.lease`);
    expect(rows).toEqual([{ id: leases[0]?.id }]);
  });

  it('does not ask about what was committed, damaged or deleted since', async () => {
    await fixture.removeLeases();
    for (const state of ['live', 'damaged', 'deleting', 'taken_down'] as const) {
      const key = newKey();
      await beginUpload(catalog, key);
      await fixture.force(key, state);
    }
    await fixture.expireLeases();
    const asked: string[] = [];
    expect(await catalog.sweepLeases(async (physicalKey) => asked.push(physicalKey) && 10, 10)).toBe(4);
    expect(asked).toEqual([]);
  });

  it('makes a row live with the size of its object, whatever was announced', async () => {
    await fixture.removeLeases();
    const key = newKey();
    await beginUpload(catalog, key);
    await fixture.expireLeases();
    await catalog.sweepLeases(async () => 12_345, 10);
    expect(await catalog.lookup(key)).toMatchObject({ state: 'live', size: 12_345 });
  });

  it('asks about the physical key of a later generation', async () => {
    await fixture.removeLeases();
    const key = newKey();
    await fixture.force(key, 'gone');
    const held = await beginUpload(catalog, key);
    await fixture.expireLeases();
    const asked: string[] = [];
    await catalog.sweepLeases(async (physicalKey) => asked.push(physicalKey) && 10, 10);
    expect(asked).toEqual([held.physicalKey]);
    expect(await fixture.read(key)).toMatchObject({ state: 'live', generation: 2, physicalKey: held.physicalKey });
  });
});

describe('many at once', () => {
  it('looks up what is there and leaves out what is not', async () => {
    const keys = [newKey(), newKey('orders', 'a/b'), newKey('Bücher'), newKey()];
    for (const key of keys.slice(0, 3)) await makeLive(catalog, key);
    const rows = await catalog.lookupMany([...keys, ...keys]);
    expect(rows.map(({ key }) => key).sort()).toEqual(keys.slice(0, 3).map(logicalKey).sort());
    expect(await catalog.lookupMany([])).toEqual([]);
    await expect(catalog.lookupMany(Array.from({ length: 1001 }, () => newKey()))).rejects.toThrow('at most 1000');
  });

  it('touches what is due, and leaves out rows that vanished', async () => {
    const [due, fresh, vanished] = [newKey(), newKey(), newKey()];
    const rows = [await makeLive(catalog, due), await makeLive(catalog, fresh), await makeLive(catalog, vanished)];
    await fixture.age(due, dayMs);
    await fixture.force(vanished, 'absent');
    const before = await fixture.read(fresh);
    const touched = await catalog.touch(rows);
    expect(touched.map(({ key }) => key).sort()).toEqual([due, fresh].map(logicalKey).sort());
    expect((await fixture.read(fresh))?.touchedAt).toEqual(before?.touchedAt);
    expect((await fixture.read(due))?.touchedAt.getTime()).toBeGreaterThan(Date.now() - 60_000);
  });
});

describe('list', () => {
  it('pages through a namespace, each row once, and keeps to the prefix', async () => {
    const prefixes = [undefined, undefined, 'team', 'team/reports', 'team-x', 'teams', 'a', '/b/', 'team/sha256'];
    const keys = prefixes.map((prefix) => newKey('listed', prefix));
    for (const key of keys) await makeLive(catalog, key);
    await makeLive(catalog, newKey('listed2'));
    const all = keys.map(logicalKey).sort();
    expect((await pages('listed', undefined, 2)).sort()).toEqual(all);
    const starts = [
      '',
      '/',
      '/blobs/lis',
      '/blobs/listed/',
      '/blobs/listed/c',
      '/blobs/listed/com',
      '/blobs/listed/cust',
    ];
    for (const key of all) starts.push(...[20, 24, 30, 36, 60, key.length].map((length) => key.slice(0, length)));
    starts.push('/blobs/listed2/', '/x', '/blobs/listed/common/x', '/blobs/listed/custom/zz', '/blobs/listed/other');
    for (const start of starts) {
      const expected = all.filter((key) => key.startsWith(start));
      expect((await pages('listed', start, 3)).sort(), start).toEqual(expected);
    }
    await expect(catalog.list('listed', { after: logicalKey(newKey()), limit: 1 })).rejects.toThrow(
      'another namespace',
    );
  });

  async function pages(namespace: string, prefix: string | undefined, limit: number): Promise<string[]> {
    const keys: string[] = [];
    for (;;) {
      const after = keys.at(-1);
      const rows = await catalog.list(namespace, {
        limit,
        ...(prefix === undefined ? {} : { prefix }),
        ...(after === undefined ? {} : { after }),
      });
      if (rows.length === 0) return keys;
      keys.push(...rows.map((row) => row.key));
    }
  }
});

describe('options', () => {
  it('refuses what would break a promise', async () => {
    const { url } = postgres;
    for (const options of [{ graceMs: dayMs - 1 }, { touchIntervalMs: 3_600_001 }, { leaseMs: 0 }, { schema: 'a"b' }]) {
      await expect(fixture.open({ url, ...options })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    }
  });
});
