/** Damage at rest: found by a scrub and by a read, never served, healed by an upload. And a scrub that is in the way of nothing. */
import { randomInt } from 'node:crypto';
import { readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startVersitygw, tempDir } from '@large-payload/test-components';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { newBlob, notFound, put, read, rightRead, sized, stalledPut, type V2Blob } from './support/blobs.ts';
import { ended, lps, type Site, startLps } from './support/lps.ts';
import { connectToCatalog, processesIn, queryCatalog } from './support/postgres.ts';
import { scaled } from './support/scale.ts';
import { newDataDir, type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

const running = new Set<RunningService>();
async function start(site: Site): Promise<RunningService> {
  // what is damaged in the bucket would be read from memory
  const service = await startService({ ...site, args: ['--cache-memory-bytes', '0'] });
  running.add(service);
  return service;
}
afterEach(async () => {
  for (const service of running) await service.stop();
  running.clear();
});

const s3 = await startVersitygw();
afterAll(() => s3?.stop());

/** One that is read in a piece, one that is streamed. */
const sizes = [20_000, 300_000];

async function uploads(
  port: number,
  count: number,
  sizeOf = (index: number) => sizes[index % 2] ?? 0,
): Promise<V2Blob[]> {
  const blobs = Array.from({ length: count }, (_, index) => newBlob(sizeOf(index)));
  const queue = blobs.values();
  const work = async (): Promise<void> => {
    for (const blob of queue) expect((await put(port, blob)).status).toBe(201);
  };
  await Promise.all(Array.from({ length: 16 }, work));
  return blobs;
}

/** The files of the objects, by the digest in their names. */
function filesIn(dir: string): Map<string, string> {
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const paths = files.map((entry) => join(entry.parentPath, entry.name));
  return new Map(paths.flatMap((path) => [[/[0-9a-f]{64}/.exec(path)?.[0] ?? '', path] as const]));
}

function fileOf(files: Map<string, string>, blob: V2Blob): string {
  const path = files.get(blob.digest.slice('sha256:'.length));
  if (path === undefined) throw new Error(`no file of ${blob.digest}`);
  return path;
}

/** One bit, anywhere. */
function flipABit(path: string): void {
  const bytes = readFileSync(path);
  const at = randomInt(bytes.length);
  bytes[at] = (bytes[at] ?? 0) ^ (1 << randomInt(8));
  writeFileSync(path, bytes);
}

async function expectHealed(port: number, blobs: readonly V2Blob[]): Promise<void> {
  const queue = blobs.values();
  const work = async (): Promise<void> => {
    for (const blob of queue) {
      expect((await put(port, blob)).status).toBe(201);
      expect(await read(port, sized(blob))).toEqual(rightRead);
    }
  };
  await Promise.all(Array.from({ length: 16 }, work));
}

const timeout = scaled({ usual: 180_000, long: 600_000 });

interface Place {
  readonly name: string;
  readonly site: Site;
  readonly objectDir: string;
  readonly flips: number;
}

const dataDir = await newDataDir();
const flips = scaled({ usual: 50, long: 1000 });
const places: Place[] = [{ name: 'file', site: { dataDir }, objectDir: join(dataDir, 'store'), flips }];
if (s3 !== undefined) {
  const site = { store: s3, dataDir: await newDataDir() };
  places.push({ name: 's3', site, objectDir: join(s3.dir, s3.bucket), flips: flips / 5 });
}

describe.each(places)('$flips bits flipped at rest, on $name', ({ site, objectDir, flips: count }) => {
  it('are found by reads, without one clean end, and healed by uploads', { timeout }, async () => {
    const { port } = await start(site);
    const blobs = await uploads(port, count);
    const files = filesIn(objectDir);
    for (const blob of blobs) flipABit(fileOf(files, blob));
    for (const blob of blobs) {
      const first = await read(port, sized(blob));
      expect({ isRight: first.isRight, isClean: first.status === 200 }).toEqual({ isRight: false, isClean: false });
      expect(await read(port, sized(blob))).toEqual(notFound);
    }
    await expectHealed(port, blobs);
    const after = await lps(site, 'scrub', '--json', '--max-rate', '0');
    expect({ code: after.code, damaged: after.summary.damaged }).toEqual({ code: 0, damaged: 0 });
  });

  it('are found by a scrub, not served after it, and healed by uploads', { timeout }, async () => {
    const { port } = await start(site);
    const blobs = await uploads(port, count);
    const others = await uploads(port, 10);
    const files = filesIn(objectDir);
    for (const blob of blobs) flipABit(fileOf(files, blob));
    const found = await lps(site, 'scrub', '--json', '--max-rate', '0');
    const say = `lps: ${count.toLocaleString('en-US')} blobs are damaged; uploading them again heals them (BLOB_DAMAGED)\n`;
    // how far it was comes before, when it took longer
    expect({ code: found.code, err: found.err }).toEqual({ code: 1, err: expect.stringContaining(say) });
    expect(found.summary).toMatchObject({ damaged: count, marked: count, unreadable: 0 });
    const named = found.lines.filter(({ kind, note }) => kind === 'damaged' && note === 'wrong bytes');
    expect(named.map(({ key }) => key).sort()).toEqual(blobs.map(({ key }) => key).sort());
    for (const blob of blobs) expect(await read(port, sized(blob))).toEqual(notFound);
    for (const blob of others) expect(await read(port, sized(blob))).toEqual(rightRead);
    await expectHealed(port, blobs);
    expect((await lps(site, 'scrub', '--json', '--max-rate', '0')).code).toBe(0);
  });
});

describe('a scrub', () => {
  it('of a stopped service marks what the next one then refuses, and leaves nothing running', async () => {
    const site = { dataDir: await newDataDir() };
    const service = await start(site);
    const [flipped, removed, right] = await uploads(service.port, 3);
    if (flipped === undefined || removed === undefined || right === undefined) throw new Error('three');
    await service.stop();
    const files = filesIn(join(site.dataDir, 'store'));
    flipABit(fileOf(files, flipped));
    rmSync(fileOf(files, removed));
    const { code, lines, summary } = await lps(site, 'scrub', '--json');
    expect({ code, ...summary }).toMatchObject({ code: 1, blobs: 3, damaged: 2 });
    expect(new Map(lines.slice(0, -1).map(({ note, key }) => [key, note]))).toEqual(
      new Map([
        [flipped.key, 'wrong bytes'],
        [removed.key, 'missing'],
      ]),
    );
    expect(readdirSync(join(site.dataDir, 'postgres'))).not.toContain('postmaster.pid');
    const { port } = await start(site);
    expect(await read(port, sized(flipped))).toEqual(notFound);
    expect(await read(port, sized(removed))).toEqual(notFound);
    expect(await read(port, sized(right))).toEqual(rightRead);
    await expectHealed(port, [flipped, removed]);
  });

  it('that is stopped by Ctrl-C leaves nothing running', async () => {
    const site = { dataDir: await newDataDir() };
    const service = await start(site);
    await uploads(service.port, 40, () => 300_000);
    await service.stop();
    // 46 seconds for all
    const child = startLps(site, ['scrub', '--max-rate', '256KiB/s']);
    const result = ended(child);
    await until('the start of the pass', async () => {
      const rows = await queryCatalog(site.dataDir, 'SELECT FROM lps.scrub WHERE finished_at IS NULL');
      return rows.length > 0 || undefined;
    });
    child.kill('SIGINT');
    expect(await result).toMatchObject({
      code: 130,
      out: '',
      err: expect.stringMatching(/lps: stopped \(ABORTED\)\n$/),
    });
    expect(processesIn(site.dataDir)).toEqual([]);
    expect((await lps(site, 'scrub', '--json', '--max-rate', '0')).summary).toMatchObject({ blobs: 40, damaged: 0 });
  });

  it('that is killed is gone on with by the next one, and no blob is left out', async () => {
    const site = { dataDir: await newDataDir() };
    const service = await start(site);
    const blobs = await uploads(service.port, 1500, () => 4000);
    const files = filesIn(join(site.dataDir, 'store'));
    const damaged = [0, 1, 749, 1498, 1499].flatMap((at) => blobs[at] ?? []);
    for (const blob of damaged) flipABit(fileOf(files, blob));
    // it saves after each five hundred, and not the second time while somebody else holds a row that it has to mark
    const holder = await connectToCatalog(site.dataDir);
    await holder.query('BEGIN');
    const [, , held] = damaged;
    await holder.query(`SELECT FROM lps.blob WHERE digest = decode($1, 'hex') FOR UPDATE`, [held?.digest.slice(7)]);
    const child = startLps(site, ['scrub', '--max-rate', '0']);
    const result = ended(child);
    const position = await until('a saved position', async () => {
      const [row] = await queryCatalog<{ blobs: string }>(site.dataDir, 'SELECT blobs FROM lps.scrub WHERE blobs > 0');
      return row?.blobs;
    });
    child.kill('SIGKILL');
    expect((await result).code).toBeNull();
    await holder.end();
    expect(position).toBe('500');
    const next = await lps(site, 'scrub', '--json', '--max-rate', '0');
    expect(next.summary).toMatchObject({ blobs: 1500, damaged: 5, isContinued: true });
    const marked = await queryCatalog(site.dataDir, `SELECT FROM lps.blob WHERE state = 'damaged'`);
    expect(marked).toHaveLength(5);
    await expectHealed(service.port, damaged);
  });

  it('of a directory that is moved away meanwhile ends with an error, and marks nothing', async () => {
    const site = { dataDir: await newDataDir() };
    const service = await start(site);
    await uploads(service.port, 40, () => 300_000);
    const child = startLps(site, ['scrub', '--max-rate', '500kB/s', '--json']);
    const result = ended(child);
    await until('the start of the pass', async () => {
      const rows = await queryCatalog(site.dataDir, 'SELECT FROM lps.scrub WHERE finished_at IS NULL');
      return rows.length > 0 || undefined;
    });
    const [store, aside] = [join(site.dataDir, 'store'), join(site.dataDir, 'aside')];
    renameSync(store, aside);
    const { code, err, lines } = await result;
    expect({ code, lines }).toEqual({ code: 2, lines: [] });
    expect(err).toMatch(/holds no object \.lps\/catalog/);
    expect(await queryCatalog(site.dataDir, `SELECT FROM lps.blob WHERE state <> 'live'`)).toEqual([]);
    rmSync(store, { recursive: true, force: true });
    renameSync(aside, store);
    expect((await lps(site, 'scrub', '--json', '--max-rate', '0')).summary).toMatchObject({ blobs: 40, damaged: 0 });
  });

  it.skipIf(s3 === undefined)(
    'of a bucket that goes away meanwhile ends with an error, marks nothing, and is gone on with',
    async () => {
      if (s3 === undefined) return;
      const gateway = { ...s3, bucket: 'away' };
      await s3.createBucket('away');
      const site = { store: gateway, dataDir: await newDataDir() };
      const service = await start(site);
      await uploads(service.port, 40, () => 300_000);
      const result = ended(startLps(site, ['scrub', '--max-rate', '500kB/s', '--json']));
      await until('the start of the pass', async () => {
        const rows = await queryCatalog(site.dataDir, 'SELECT FROM lps.scrub WHERE finished_at IS NULL');
        return rows.length > 0 || undefined;
      });
      await s3.kill();
      const { code, err, lines } = await result;
      expect({ code, lines }).toEqual({ code: 1, lines: [] });
      expect(err).toMatch(/lps: .*\(STORE_UNAVAILABLE\)\n$/);
      expect(await queryCatalog(site.dataDir, `SELECT FROM lps.blob WHERE state <> 'live'`)).toEqual([]);
      await s3.restart();
      const next = await lps(site, 'scrub', '--json', '--max-rate', '0');
      expect({ code: next.code, ...next.summary }).toMatchObject({ code: 0, blobs: 40, damaged: 0 });
    },
  );

  it('says on which data directory there is nothing to scrub, and makes nothing there', async () => {
    const empty = tempDir('scrub');
    const { code, err } = await lps({ dataDir: empty }, 'scrub');
    expect({ code, err }).toEqual({
      code: 2,
      err: expect.stringMatching(/^lps: there is no catalog in .*\(CONFIG_INVALID\)\n$/),
    });
    expect(readdirSync(empty)).toEqual([]);
  });
});

describe('scrubs and reconciliations beside a service', () => {
  it('are in the way of no upload, read or deletion, and mark nothing', { timeout }, async () => {
    const site = { dataDir: await newDataDir() };
    const service = await start(site);
    const { port } = service;
    const victims = await uploads(port, 60, () => 5000);
    let isOver = false;
    const kept: V2Blob[] = [];
    const client = async (): Promise<void> => {
      while (!isOver) {
        const blob = newBlob(randomInt(1, 400_000));
        expect((await put(port, blob)).status).toBe(201);
        kept.push(blob);
        (await stalledPut(port, newBlob(200_000), 100_000)).destroy();
        const known = kept[randomInt(kept.length)];
        if (known !== undefined) expect(await read(port, sized(known))).toEqual(rightRead);
      }
    };
    const collector = async (): Promise<void> => {
      const files = filesIn(join(site.dataDir, 'store'));
      for (const blob of victims) {
        if (isOver) return;
        await deleteAsTheCollectionDoes(site.dataDir, blob, fileOf(files, blob));
      }
    };
    const load = Promise.all([client(), client(), collector()]);
    const said: unknown[] = [];
    for (let round = 0; round < scaled({ usual: 2, long: 10 }); round += 1) {
      for (const command of [
        ['scrub', '--json'],
        ['catalog', 'reconcile', '--json'],
      ]) {
        const { code, err, lines } = await lps(site, ...command);
        // nothing but the summary
        if (code !== 0 || lines.length !== 1) said.push({ command, code, err, lines });
      }
    }
    isOver = true;
    await load;
    expect(said).toEqual([]);
    expect(await queryCatalog(site.dataDir, `SELECT FROM lps.blob WHERE state = 'damaged'`)).toEqual([]);
    for (const blob of kept) expect(await read(port, sized(blob))).toEqual(rightRead);
  });
});

/** The steps of packages/server/migrations/0001-catalog.sql: a row in retired_object, the object, the row's end. */
async function deleteAsTheCollectionDoes(dir: string, { digest, key }: V2Blob, path: string): Promise<void> {
  const hex = digest.slice('sha256:'.length);
  await queryCatalog(
    dir,
    `WITH leaving AS (UPDATE lps.blob SET state = 'deleting' WHERE digest = decode($1, 'hex') RETURNING *)
     INSERT INTO lps.retired_object (blob_id, generation, physical_key, size)
     SELECT id, generation, $2, size FROM leaving`,
    [hex, key],
  );
  rmSync(path);
  await queryCatalog(
    dir,
    `WITH gone AS (UPDATE lps.blob SET state = 'gone' WHERE digest = decode($1, 'hex') RETURNING id)
     DELETE FROM lps.retired_object USING gone WHERE blob_id = gone.id`,
    [hex],
  );
}
