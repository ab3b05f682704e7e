/** The commands of scrub.ts and catalog.ts, as they are called; what they do is shown in test/scrub.test.ts and test/reconcile.test.ts. */
import { randomUUID } from 'node:crypto';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { digestOf, openFileStore, parseKey } from '@large-payload/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { objectsOf } from '../takedown/takedown-object.js';
import { openWorkplace, type Workplace } from './lps-fixture.js';

let place: Workplace;
beforeAll(async () => {
  place = await openWorkplace();
});
afterAll(() => place.remove());

describe('refused are', () => {
  it.each([
    [['scrub', '--max-rate', 'fast'], /--max-rate <rate>.*It must be 0, or 256KiB\/s or more/],
    [['scrub', '--max-rate', '1kB/s'], /It must be 0, or 256KiB\/s or more/],
    [['scrub', '--concurrency', '0'], /It must be a whole number from 1 to 256/],
    [['scrub', '--store', 'memory'], /the memory store and its catalog are gone with their process/],
    [['catalog', 'repair'], /unknown command 'repair'/],
    [['catalog', 'reconcile', '--dry-rum'], /unknown option '--dry-rum'; did you mean --dry-run\?/],
    [['catalog', 'import'], /missing required argument 'file'/],
    [['catalog', 'export', '--data-dir', 'nowhere'], /there is no catalog in .*nowhere/],
  ])('%j', async (args, message) => {
    const { code, out, err } = await place.lps(args);
    expect({ code, out, err }).toEqual({ code: 2, out: '', err: expect.stringMatching(message) });
    expect(err.split('\n')).toHaveLength(2);
    expect(await readdir(place.dir)).toEqual([]);
  });
});

describe('on a directory with blobs', () => {
  const site = (): string[] => place.onStore();

  it('everything goes from nothing to a backup, in words and in JSON', async () => {
    for (const content of ['one', 'two']) {
      await place.lps(['put', await place.file(content), '--namespace', 'orders', ...site()]);
    }
    const dry = await place.lps(['catalog', 'reconcile', '--dry-run', ...site()]);
    expect(dry).toMatchObject({ code: 0, err: '' });
    expect(dry.out).toMatch(
      /^2 objects, 6 B in the store; [\d.]+ s\n0 blobs as the catalog says\n2 would be taken into the catalog, 6 B\n$/,
    );
    expect((await place.lps(['catalog', 'reconcile', ...site()])).out).toMatch(/\n2 taken into the catalog, 6 B\n/);
    const scrubbed = await place.lps(['scrub', ...site()]);
    expect(scrubbed).toMatchObject({ code: 0, err: '' });
    expect(scrubbed.out).toMatch(/^2 blobs, 6 B in [\d.]+ s: 0 damaged blobs\n$/);
    const summary = JSON.parse((await place.lps(['scrub', '--json', ...site()])).out);
    expect(summary).toMatchObject({ kind: 'summary', blobs: 2, bytes: 6, damaged: 0, isContinued: false });

    const plain = await place.lps(['catalog', 'export', ...site()]);
    expect(plain).toMatchObject({ code: 0, err: '' });
    const packed = await place.lps(['catalog', 'export', '-o', 'backup.gz', ...site()]);
    expect(packed).toMatchObject({ code: 0, out: '', err: 'lps: 2 rows written to backup.gz\n' });
    const lines = (text: string): string[] => text.split('\n').slice(1, -2);
    expect(lines(gunzipSync(await readFile(join(place.dir, 'backup.gz'))).toString())).toEqual(lines(plain.out));
    expect(lines(plain.out)).toHaveLength(2);
    expect((await readdir(place.dir)).sort()).toEqual(['backup.gz', 'data', 'file-1', 'file-2']);
  });

  it('an import of an old export knows what was taken down since, from the store', async () => {
    const key = (await place.lps(['put', await place.file('three'), '--namespace', 'orders', ...site()])).out.trim();
    await place.lps(['catalog', 'reconcile', ...site()]);
    await place.lps(['catalog', 'export', '-o', 'old.gz', ...site()]);
    const store = await openFileStore({ dir: join(place.dir, 'data', 'store') });
    const [object] = objectsOf({
      ...{ id: randomUUID(), namespace: 'orders', selector: { namespace: 'orders', key }, withSameDigest: false },
      ...{ isBlocking: false, reason: 'asked for', requestedBy: 'ann', blocks: [] },
      ...{ requestedAt: new Date().toISOString(), acceptedAt: new Date().toISOString() },
      names: [{ key, physicalKey: key, digest: parseKey(key).digest, size: 5 }],
    });
    const { name, bytes } = object ?? { name: '', bytes: Buffer.alloc(0) };
    await store.put(name, bytes, { digest: digestOf(bytes), size: bytes.length });
    await rm(join(place.dir, 'data', 'postgres'), { recursive: true });

    const imported = await place.lps(['catalog', 'import', 'old.gz', ...site()]);
    expect(imported).toMatchObject({ code: 0, out: '' });
    expect(imported.err).toContain('lps: 1 takedown read from the store\n');
    const reconciled = await place.lps(['catalog', 'reconcile', ...site()]);
    expect(reconciled).toMatchObject({ code: 0, err: '' });
    expect(reconciled.out).toContain(`it was taken down       ${key}\n`);
    expect(reconciled.out).toMatch(/\n1 takedown in the store\n1 deleted again: they were taken down\n/);
    expect(await store.head(key)).toBeUndefined();
    await store.close?.();
    await rm(join(place.dir, 'old.gz'));
  });

  it('a file that cannot be written or read is named, and nothing is left of it', async () => {
    const before = (await readdir(place.dir)).sort();
    const away = await place.lps(['catalog', 'export', '-o', 'gone/backup', ...site()]);
    expect(away).toMatchObject({
      code: 2,
      err: expect.stringMatching(/gone\/backup" cannot be written: its directory does not exist/),
    });
    const absent = await place.lps(['catalog', 'import', 'absent', ...site()]);
    expect(absent).toMatchObject({ code: 2 });
    expect((await readdir(place.dir)).sort()).toEqual(before);
  });
});
