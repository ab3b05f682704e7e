/** What the service depends on goes away and comes back; and the service itself is told to go. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { join } from 'node:path';
import { tempDir } from '@large-payload/test-components';
import { afterEach, describe, expect, it } from 'vitest';
import { startEmbeddedPostgres } from '../packages/server/src/catalog/embedded-postgres.ts';
import {
  type Answer,
  codeOf,
  newBlob,
  put,
  RawConnection,
  read,
  request,
  rightRead,
  sized,
  stalledPut,
  type V2Blob,
} from './support/blobs.ts';
import { startBuckets } from './support/places.ts';
import { postgresPids, signalPostgres } from './support/postgres.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

const size = 20_000;

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function start(options: Parameters<typeof startService>[0]): Promise<RunningService> {
  const service = await startService(options);
  cleanUps.push(() => service.stop());
  return service;
}

async function stored(port: number): Promise<V2Blob> {
  const blob = newBlob(size);
  expect((await put(port, blob)).status).toBe(201);
  return blob;
}

/** 503 with Retry-After and the code that says what is away. */
function expectAway(answer: Answer, code: string): void {
  expect({ status: answer.status, code: codeOf(answer) }).toEqual({ status: 503, code });
  expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
}

function readiness(port: number): Promise<Answer> {
  return request(port, '/readyz');
}

async function untilReady(port: number): Promise<void> {
  await until('readiness', async () => ((await readiness(port)).status === 200 ? true : undefined));
}

async function expectAllWell(port: number, known: readonly V2Blob[]): Promise<void> {
  await untilReady(port);
  for (const blob of [...known, await stored(port)]) expect(await read(port, sized(blob))).toEqual(rightRead);
}

describe('Postgres', () => {
  it('is killed: reads go on, writes are refused until it is back, and it comes back by itself', async () => {
    const service = await start({});
    const { port, dataDir } = service;
    const known = await stored(port);
    const [postmaster = 0] = postgresPids(dataDir);
    process.kill(postmaster, 'SIGKILL');
    const fresh = newBlob(size);
    for (let isBack = false; !isBack; ) {
      expect(await read(port, sized(known))).toEqual(rightRead);
      const answer = await put(port, fresh);
      isBack = answer.status === 201;
      if (!isBack) expectAway(answer, 'CATALOG_UNAVAILABLE');
    }
    await expectAllWell(port, [known, fresh]);
    expect(postgresPids(dataDir)[0]).not.toBe(postmaster);
  });

  it('hangs: reads go on from the store, writes are refused, and all is well when it goes on', async () => {
    const service = await start({});
    const { port, dataDir } = service;
    const known = await stored(port);
    const neverRead = await stored(port);
    const stopped = signalPostgres(dataDir, 'SIGSTOP');
    const goOn = (): void => stopped.forEach((pid) => void process.kill(pid, 'SIGCONT'));
    cleanUps.push(() => signalPostgres(dataDir, 'SIGCONT'));
    const [answer, ...reads] = await Promise.all([
      put(port, newBlob(size)),
      ...[known, neverRead, known, neverRead].map((blob) => read(port, sized(blob))),
    ]);
    expectAway(answer, 'CATALOG_UNAVAILABLE');
    for (const got of reads) expect(got).toEqual(rightRead);
    expect((await request(port, '/healthz')).status).toBe(200);
    goOn();
    await expectAllWell(port, [known, neverRead]);
  });

  it('is a server of its own that is stopped and started again', async () => {
    const dataDir = tempDir('postgres');
    const first = await startEmbeddedPostgres({ dataDir });
    const service = await start({ env: { LPS_DATABASE_URL: first.url } });
    const { port } = service;
    const known = await stored(port);
    await first.stop();
    expect(await read(port, sized(known))).toEqual(rightRead);
    const refused = newBlob(size);
    expectAway(await put(port, refused), 'CATALOG_UNAVAILABLE');
    expectAway(await readiness(port), 'CATALOG_UNAVAILABLE');
    expect((await read(port, sized(refused))).status).toBe(404);
    const second = await startEmbeddedPostgres({ dataDir });
    cleanUps.push(() => second.stop());
    expect(second.url).toBe(first.url);
    await expectAllWell(port, [known]);
    expect((await put(port, refused)).status).toBe(201);
    await service.stop();
  });
});

describe.each(await startBuckets())('the bucket, on $name', ({ withBucket, goAway, comeBack }) => {
  it('goes away: 503 with its own code, cached reads go on, and all is well when it is back', async () => {
    const service = await start({ store: await withBucket('away') });
    const { port } = service;
    const uncached = await stored(port);
    const cached = await stored(port);
    expect(await read(port, sized(cached))).toEqual(rightRead);
    await goAway();
    expect(await read(port, sized(cached))).toEqual(rightRead);
    expect((await read(port, sized(uncached))).status).toBe(503);
    const refused = newBlob(size);
    expectAway(await put(port, refused), 'STORE_UNAVAILABLE');
    await until('not ready', async () => ((await readiness(port)).status === 503 ? true : undefined));
    expectAway(await readiness(port), 'STORE_UNAVAILABLE');
    expect((await request(port, '/healthz')).status).toBe(200);
    await comeBack();
    await expectAllWell(port, [uncached, cached]);
    expect((await put(port, refused)).status).toBe(201);
  });

  it('is away at the start: not ready, then ready without a restart', async () => {
    const store = await withBucket('late');
    await goAway();
    const { port } = await start({ store });
    expectAway(await readiness(port), 'STORE_UNAVAILABLE');
    expectAway(await put(port, newBlob(size)), 'STORE_UNAVAILABLE');
    await comeBack();
    await expectAllWell(port, []);
  });
});

/** A small file system of its own at a new directory; `undefined`, and why, where we may not mount one. */
function mountSmall(dir: string, sizeMb: number): true | undefined {
  mkdirSync(dir, { recursive: true });
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeMb}m,mode=755`, 'tmpfs', dir], { stdio: 'pipe' });
  } catch (error) {
    console.log(`skipped: disk full: no tmpfs can be mounted here (${String(error).split('\n')[0]})`);
    return undefined;
  }
  cleanUps.push(() => execFileSync('umount', ['-l', dir]));
  return true;
}

describe('the disk of the file store', () => {
  it('is full: 507, reads go on, and uploads too once there is room', async (test) => {
    const dataDir = tempDir('full');
    const storeDir = join(dataDir, 'store');
    if (!mountSmall(storeDir, 8)) return test.skip('no tmpfs can be mounted here');
    const { port } = await start({ dataDir });
    const known = await stored(port);
    const filler = join(storeDir, 'filler');
    writeFileSync(filler, Buffer.alloc(5_000_000));
    for (const bytes of [4_000_000, 4_000_000]) {
      const answer = await put(port, newBlob(bytes));
      expect({ status: answer.status, code: codeOf(answer) }).toEqual({ status: 507, code: 'STORE_FULL' });
    }
    expect(await read(port, sized(known))).toEqual(rightRead);
    // what did not fit is gone, so what does fit goes in
    expect((await put(port, newBlob(1_000_000))).status).toBe(201);
    rmSync(filler);
    expect((await put(port, newBlob(4_000_000))).status).toBe(201);
    await expectAllWell(port, [known]);
  });
});

describe('SIGTERM', () => {
  it('lets an upload finish, is not ready meanwhile, and then ends with 0', async () => {
    const service = await start({ args: ['--shutdown-timeout', '1h'] });
    const { port } = service;
    const blob = newBlob(size);
    const upload = await stalledPut(port, blob, size / 2);
    // a connection that is in use, so that it is still there afterwards
    const probe = await RawConnection.open(port);
    await probe.write('GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n');
    await probe.until(/"ready"/);
    await probe.write('GET /readyz HTTP/1.1\r\nhost: localhost\r\n');
    await until('both requests begun', async () =>
      (await request(port, '/metrics')).text.includes('lps_uploads_in_flight 1') ? true : undefined,
    );
    const ended = service.kill('SIGTERM');
    await service.says('SIGTERM: finishing');
    const refused = await until('the end of listening', () =>
      request(port, '/healthz', { agent: new http.Agent() }).then(
        () => undefined,
        // one that was waiting to be taken is reset
        ({ code }: NodeJS.ErrnoException) => (code === 'ECONNRESET' ? undefined : code),
      ),
    );
    expect(refused).toBe('ECONNREFUSED');
    probe.received = '';
    await probe.write('\r\n');
    expect(await probe.until(/TRY_AGAIN[\s\S]*\}/)).toMatch(/^HTTP\/1\.1 503 [\s\S]*retry-after: \d/);
    expect(service.ended).toBeUndefined();
    await upload.write(blob.bytes.subarray(size / 2));
    expect(await upload.until(/"Key"/)).toMatch(/^HTTP\/1\.1 201 /);
    // its connection is kept alive by the client, and holds up nobody until --shutdown-timeout
    expect(await ended).toBe('exit code 0');
    const { port: again } = await start({ dataDir: service.dataDir });
    expect(await read(again, sized(blob))).toEqual(rightRead);
  });

  it('ends at once when it comes twice', async () => {
    const service = await start({});
    const upload = await stalledPut(service.port, newBlob(size), size / 2);
    void service.kill('SIGTERM');
    await service.says('SIGTERM: finishing');
    expect(await service.kill('SIGTERM')).toBe('exit code 143');
    upload.destroy();
    await (await start({ dataDir: service.dataDir })).stop();
  });

  it('does not wait for a stalled upload beyond --shutdown-timeout', async () => {
    const service = await start({ args: ['--shutdown-timeout', '1s', '--idle-timeout', '2m', '--min-rate', '0'] });
    const upload = await stalledPut(service.port, newBlob(size), size / 2);
    expect(await service.kill('SIGTERM')).toBe('exit code 0');
    await upload.untilClosed();
    expect(upload.received).not.toMatch(/ 20[01] /);
  });
});
