/** The catalog is lost, and comes back: from the store alone, or from its export. */
import { randomInt } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { type BlobStore, digestOf, keyFor, openFileStore, openS3Store } from '@large-payload/core';
import { startVersitygw, tempDir } from '@large-payload/test-components';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { startEmbeddedPostgres } from '../packages/server/src/catalog/embedded-postgres.ts';
import { newBlob, put, read, rightRead, type SeededBlob, sized } from './support/blobs.ts';
import { lps, type Site } from './support/lps.ts';
import { queryCatalog } from './support/postgres.ts';
import { scaled } from './support/scale.ts';
import { newDataDir, type RunningService, refusedStart, startService } from './support/service.ts';

const running = new Set<RunningService>();
async function start(site: Site): Promise<RunningService> {
  const service = await startService(site);
  running.add(service);
  return service;
}
afterEach(async () => {
  for (const service of running) await service.stop();
  running.clear();
});

const s3 = await startVersitygw();
afterAll(() => s3?.stop());

const timeout = scaled({ usual: 300_000, long: 1_800_000 });
const namespaces = ['default', 'orders', 'Orders', 'größe 漢字 🎉', 'a+b%2fc', 'x y', '~', 'orders.eu-1'];
const prefixes = [undefined, 'team/a', '//x//', 'Sha256'];

type Kept = Pick<SeededBlob, 'key' | 'digest' | 'size'>;

/** Straight into a store, as another service might: of every namespace, prefix and kind of metadata. */
async function fill(store: BlobStore, count: number): Promise<Kept[]> {
  const kept: Kept[] = [];
  const queue = Array.from({ length: count }, (_, index) => index).values();
  const work = async (): Promise<void> => {
    for (const index of queue) {
      // now and then one that is streamed
      const bytes = Buffer.alloc(index % 500 === 0 ? 300_000 : randomInt(2000), `${index} `);
      const prefix = prefixes[index % prefixes.length];
      const metadata = {
        encoding: Buffer.from(index % 2 === 0 ? 'json/plain' : 'binary/null'),
        ...(prefix === undefined ? {} : { 'remote-codec/key-prefix': Buffer.from(prefix) }),
        ...(index % 3 === 0 ? { n: Buffer.from(`${index}`) } : {}),
      };
      const digest = digestOf(bytes);
      const key = keyFor(namespaces[index % namespaces.length] ?? '', digest, metadata);
      await store.put(key, bytes, { digest, size: bytes.length });
      kept.push({ key, digest, size: bytes.length });
    }
  };
  await Promise.all(Array.from({ length: 16 }, work));
  return [...new Map(kept.map((blob) => [blob.key, blob])).values()];
}

async function expectAllRight(port: number, blobs: readonly Kept[]): Promise<void> {
  const wrong: unknown[] = [];
  const queue = blobs.values();
  const work = async (): Promise<void> => {
    for (const blob of queue) {
      const got = await read(port, blob);
      if (!got.isRight) wrong.push({ ...blob, ...got });
    }
  };
  await Promise.all(Array.from({ length: 16 }, work));
  expect(wrong).toEqual([]);
}

const columns = `namespace, prefix, encode(digest, 'hex') AS digest, encode(metadata_digest, 'hex') AS metadata, size`;

/** What a rebuilt catalog has in common with the lost one. */
function contents(dataDir: string): Promise<unknown[]> {
  return queryCatalog(dataDir, `SELECT ${columns} FROM lps.blob WHERE state = 'live' ORDER BY 1, 2, 3, 4`);
}

function everything(dataDir: string): Promise<unknown[]> {
  return queryCatalog(dataDir, 'SELECT *, (SELECT rebuilt_at FROM lps.catalog) FROM lps.blob ORDER BY id');
}

async function catalogId(dataDir: string): Promise<string> {
  const [row] = await queryCatalog<{ id: string }>(dataDir, 'SELECT id FROM lps.catalog');
  return row?.id ?? '';
}

function lose(dataDir: string): void {
  rmSync(join(dataDir, 'postgres'), { recursive: true });
}

interface Place {
  readonly name: string;
  readonly site: Site;
  readonly count: number;
  open(): Promise<BlobStore>;
}

const fileDir = await newDataDir();
const places: Place[] = [
  {
    name: 'file',
    site: { dataDir: fileDir },
    count: scaled({ usual: 10_000, long: 100_000 }),
    open: () => openFileStore({ dir: join(fileDir, 'store') }),
  },
];
if (s3 !== undefined) {
  const { endpoint, region, accessKeyId, secretAccessKey, bucket } = s3;
  places.push({
    name: 's3',
    site: { store: s3, dataDir: await newDataDir() },
    count: scaled({ usual: 1000, long: 10_000 }),
    open: () => openS3Store({ bucket, endpoint, region, credentials: { accessKeyId, secretAccessKey } }),
  });
}

describe.each(places)('$count blobs on $name', ({ site, count, open }) => {
  const { dataDir } = site;

  it('come back from the store alone when the catalog is lost, every one of them', { timeout }, async () => {
    const store = await open();
    const blobs = await fill(store, count - 20);
    const service = await start(site);
    for (let index = 0; index < 20; index += 1) {
      const blob = newBlob(5000 + index);
      expect((await put(service.port, blob)).status).toBe(201);
      blobs.push(sized(blob));
    }
    // the first time: objects of another service, beside this one
    const first = await lps(site, 'catalog', 'reconcile', '--json');
    expect({ code: first.code, ...first.summary }).toMatchObject({ code: 0, adopted: blobs.length - 20, known: 20 });
    const before = await contents(dataDir);
    expect(before).toHaveLength(blobs.length);
    const lost = await catalogId(dataDir);
    await service.stop();
    lose(dataDir);

    const refused = await refusedStart({ ...site });
    expect(refused.stderr).toContain(`lps catalog reconcile --take-over ${lost}`);
    const plain = await lps(site, 'catalog', 'reconcile');
    expect({ code: plain.code, err: plain.err }).toMatchObject({ code: 2, err: expect.stringContaining(lost) });
    const dry = await lps(site, 'catalog', 'reconcile', '--dry-run', '--json', '--take-over', lost);
    expect({ code: dry.code, ...dry.summary }).toMatchObject({ code: 0, adopted: blobs.length });
    const real = await lps(site, 'catalog', 'reconcile', '--json', '--take-over', lost);
    expect({ code: real.code, ...real.summary }).toMatchObject({
      code: 0,
      adopted: blobs.length,
      known: 0,
      damaged: 0,
    });

    const again = await start(site);
    expect(await contents(dataDir)).toEqual(before);
    expect(await catalogId(dataDir)).not.toBe(lost);
    const whole = await everything(dataDir);
    const second = await lps(site, 'catalog', 'reconcile', '--json');
    expect({ code: second.code, ...second.summary }).toMatchObject({ code: 0, adopted: 0, known: blobs.length });
    expect(await everything(dataDir)).toEqual(whole);
    await expectAllRight(again.port, blobs);
    await store.close?.();
  });

  it('come back from an export, and what was uploaded since from the store', { timeout }, async () => {
    const service = await start(site);
    const file = join(tempDir('export'), 'catalog.jsonl.gz');
    const out = await lps(site, 'catalog', 'export', '-o', file);
    expect({ code: out.code, out: out.out }).toEqual({ code: 0, out: '' });
    const before = await everything(dataDir);
    const id = await catalogId(dataDir);
    const late = newBlob(5000);
    expect((await put(service.port, late)).status).toBe(201);

    const tooEarly = await lps(site, 'catalog', 'import', file);
    expect({ code: tooEarly.code, err: tooEarly.err }).toMatchObject({
      code: 1,
      err: expect.stringContaining('stop it first'),
    });
    await service.stop();
    const inUse = await lps(site, 'catalog', 'import', file);
    expect({ code: inUse.code, err: inUse.err }).toMatchObject({
      code: 2,
      err: expect.stringContaining('an empty one only'),
    });
    lose(dataDir);
    const into = await lps(site, 'catalog', 'import', file);
    expect({ code: into.code, err: into.err }).toMatchObject({
      code: 0,
      err: expect.stringMatching(/lps: [\d,]+ blobs/),
    });

    const again = await start(site);
    expect(await catalogId(dataDir)).toBe(id);
    const withoutTime = (rows: unknown[]): unknown[] => rows.map((row) => ({ ...Object(row), rebuilt_at: undefined }));
    expect(withoutTime(await everything(dataDir))).toEqual(withoutTime(before));
    const rest = await lps(site, 'catalog', 'reconcile', '--json');
    expect({ code: rest.code, ...rest.summary }).toMatchObject({ code: 0, adopted: 1, known: before.length });
    expect(await read(again.port, sized(late))).toEqual(rightRead);
  });
});

it('an embedded catalog moves to a server of its own', async () => {
  const site = { dataDir: await newDataDir() };
  const service = await start(site);
  const blob = newBlob(5000);
  expect((await put(service.port, blob)).status).toBe(201);
  const file = join(tempDir('export'), 'catalog.jsonl');
  expect((await lps(site, 'catalog', 'export', '-o', file)).code).toBe(0);
  await service.stop();

  const server = await startEmbeddedPostgres({ throwAway: true });
  const there = ['--database-url', server.url];
  expect(await lps(site, 'catalog', 'import', file, ...there)).toMatchObject({ code: 0 });
  const moved = await startService({ ...site, env: { LPS_DATABASE_URL: server.url } });
  running.add(moved);
  expect(await read(moved.port, sized(blob))).toEqual(rightRead);
  expect((await lps(site, 'scrub', '--json', ...there)).summary).toMatchObject({ blobs: 1, damaged: 0 });
  expect((await lps(site, 'catalog', 'reconcile', '--json', ...there)).summary).toMatchObject({ known: 1, adopted: 0 });
  await moved.stop();
  await server.stop();
});

it('an export goes beside no other store', async () => {
  const [one, two] = [{ dataDir: await newDataDir() }, { dataDir: await newDataDir() }];
  for (const site of [one, two]) {
    await (await start(site)).stop();
  }
  const text = await lps(one, 'catalog', 'export');
  expect(text.lines.map((line) => Object.keys(line)[0])).toEqual(['format', 'end']);
  const file = join(tempDir('export'), 'catalog.jsonl');
  expect((await lps(one, 'catalog', 'export', '-o', file)).code).toBe(0);
  lose(two.dataDir);
  const { code, err } = await lps(two, 'catalog', 'import', file);
  expect({ code, err }).toEqual({
    code: 2,
    err: expect.stringMatching(/^lps: this is the export of the catalog .*belongs to the catalog/),
  });
});
