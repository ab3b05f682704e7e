/** What is stored is what was sent, or it is not served: damage on disk, objects of others, uploads that break off. */
import { mkdirSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { digestOf } from '@large-payload/core';
import { startVersitygw, tempDir } from '@large-payload/test-components';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  codeOf,
  metric,
  newBlob,
  notFound,
  put,
  putHead,
  RawConnection,
  read,
  request,
  rightRead,
  sized,
  stalledPut,
  type V2Blob,
} from './support/blobs.ts';
import { startPlaces, writeS3Object } from './support/places.ts';
import { queryCatalog } from './support/postgres.ts';
import { scaled } from './support/scale.ts';
import { type RunningService, startService } from './support/service.ts';
import { until } from './support/until.ts';

const offsets = scaled({ usual: 100, long: 1000 });
/** One that is read in a piece, one that is streamed. */
const sizes = [20_000, 1_500_000];

const places = await startPlaces();
const s3 = await startVersitygw();
afterAll(() => s3?.stop());

function flipped(bytes: Uint8Array, at: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = (copy[at] ?? 0) ^ 1;
  return copy;
}

/** As time would: the blob's touch is so long ago that the next use is written down. The service keeps rows whose touch is not due in memory, and is told to forget this one. */
async function makeTouchDue(service: RunningService, blob: V2Blob): Promise<void> {
  const hex = blob.digest.slice('sha256:'.length);
  const old = `update lps.blob set touched_at = touched_at - interval '3 hours' where digest = decode($1, 'hex')
    returning pg_notify('lps_blob', id::text)`;
  await queryCatalog(service.dataDir, old, [hex]);
}

describe.each(places)('on $name', ({ options, write, damage, remove }) => {
  let service: RunningService;
  let port: number;
  beforeAll(async () => {
    // what is damaged in the bucket would be read from memory
    service = await startService({ ...options, args: ['--cache-memory-bytes', '0'] });
    ({ port } = service);
  });
  afterAll(() => service?.stop());

  async function stored(size: number): Promise<V2Blob> {
    const blob = newBlob(size);
    expect((await put(port, blob)).status).toBe(201);
    return blob;
  }

  async function foreign(size: number): Promise<V2Blob> {
    const blob = newBlob(size);
    await write(blob, blob.bytes);
    return blob;
  }

  async function expectHealed(blob: V2Blob, status = 201): Promise<void> {
    const answer = await put(port, blob);
    expect({ status: answer.status, text: answer.text }).toEqual({ status, text: JSON.stringify({ Key: blob.key }) });
    expect(await read(port, sized(blob))).toEqual(rightRead);
    expect((await put(port, blob)).status).toBe(200);
  }

  for (const size of sizes) {
    it.each([0, Math.floor(size / 2), size - 1])(`finds a bit flipped at rest, in ${size} bytes at %i`, async (at) => {
      const alarms = 'lps_alarms_total{kind="damaged"}';
      const alarmsBefore = await metric(port, alarms);
      const blob = await stored(size);
      await damage(blob, (bytes) => flipped(bytes, at));
      const first = await read(port, sized(blob));
      expect(first.isRight).toBe(false);
      expect(first.status).toBe(size > 256 * 1024 ? 'broken' : 404);
      expect(await read(port, sized(blob))).toEqual(notFound);
      expect(await metric(port, alarms)).toBe(alarmsBefore + 1);
      await expectHealed(blob);
    });

    it(`takes an upload of ${size} bytes right after a read that found it damaged`, async () => {
      const blob = await stored(size);
      await damage(blob, (bytes) => flipped(bytes, size - 1));
      expect((await read(port, sized(blob))).isRight).toBe(false);
      await expectHealed(blob);
    });
  }

  it('finds a shortened object', async () => {
    const blob = await stored(1_500_000);
    await damage(blob, (bytes) => bytes.subarray(0, 1_000_000));
    const first = await read(port, sized(blob));
    expect(first.isRight).toBe(false);
    expect(first.status).not.toBe(200);
    expect(await read(port, sized(blob))).toEqual(notFound);
    await expectHealed(blob);
  });

  it('notices a removed object at the next read', async () => {
    const alarms = 'lps_alarms_total{kind="missing"}';
    const alarmsBefore = await metric(port, alarms);
    const blob = await stored(20_000);
    await remove(blob);
    expect(await read(port, sized(blob))).toEqual(notFound);
    expect(await metric(port, alarms)).toBe(alarmsBefore + 1);
    await expectHealed(blob);
  });

  it('notices a removed object at the next upload when a touch is due', async () => {
    const blob = await stored(20_000);
    await remove(blob);
    await makeTouchDue(service, blob);
    await expect.poll(async () => (await put(port, blob)).status, { timeout: 40_000 }).toBe(201);
    await expectHealed(blob, 200);
  });

  it.each(sizes)('takes in an object of %i bytes that another service wrote, by a read', async (size) => {
    const blob = await foreign(size);
    expect(await read(port, sized(blob))).toEqual(rightRead);
    await expectHealed(blob, 200);
  });

  it.each(sizes)('takes in an object of %i bytes that another service wrote, by an upload', async (size) => {
    const blob = await foreign(size);
    await expectHealed(blob, 200);
  });

  it.each([
    ['as long', flipped(newBlob(1_500_000, 'a').bytes, 7), newBlob(1_500_000, 'a')],
    ['as long, and small', flipped(newBlob(20_000, 'b').bytes, 19_999), newBlob(20_000, 'b')],
    ['shorter', newBlob(1_500_000, 'c').bytes.subarray(0, 400_000), newBlob(1_500_000, 'c')],
    ['empty', Buffer.alloc(0), newBlob(20_000, 'd')],
  ])('never acknowledges or serves a wrong object of another service (%s)', async (_title, wrong, blob) => {
    await write(blob, wrong);
    const first = await put(port, blob);
    if (first.status !== 201) {
      expect({ status: first.status, code: codeOf(first) }).toEqual({ status: 503, code: 'TRY_AGAIN' });
      expect((await read(port, sized(blob))).isRight).toBe(false);
      expect((await put(port, blob)).status).toBe(201);
    }
    expect(await read(port, sized(blob))).toEqual(rightRead);
  });

  it('never serves a wrong object of another service that is read first', async () => {
    const blob = newBlob(1_500_000);
    await write(blob, flipped(blob.bytes, 1_499_999));
    for (let times = 0; times < 3; times += 1) {
      const got = await read(port, sized(blob));
      expect({ isRight: got.isRight, isClean: got.status === 200 }).toEqual({ isRight: false, isClean: false });
    }
    const answer = await put(port, blob);
    if (answer.status !== 201) expect((await put(port, blob)).status).toBe(201);
    expect(await read(port, sized(blob))).toEqual(rightRead);
  });

  it('stores nothing of an upload that is longer or shorter than its blob, or that holds other bytes', async () => {
    for (const body of [
      (right: Buffer) => Buffer.concat([right, Buffer.from('x')]),
      (right: Buffer) => right.subarray(0, -1),
      (right: Buffer) => flipped(right, 0),
      (right: Buffer) => flipped(right, right.length - 1),
    ]) {
      const blob = newBlob(300_000);
      const answer = await put(port, blob, { body: body(blob.bytes) });
      expect({ status: answer.status, code: codeOf(answer) }).toEqual({ status: 400, code: 'DIGEST_MISMATCH' });
      expect(await read(port, sized(blob))).toEqual(notFound);
      await expectHealed(blob);
    }
  });

  it(`stores nothing of an upload that breaks off, at ${offsets} places`, async () => {
    const size = 200_000;
    for (let index = 0; index < offsets; index += 1) {
      const at = Math.floor((index * (size - 1)) / (offsets - 1));
      const blob = newBlob(size);
      const connection = await stalledPut(port, blob, at);
      // the connection ends, or only its sending half, as when a proxy gives up
      if (index % 2 === 0) connection.destroy();
      else connection.socket.end();
      if (index % 2 === 1) expect(await connection.untilClosed()).not.toMatch(/^HTTP\/1\.1 20[01]/);
      expect(await read(port, sized(blob)), `at ${at}`).toEqual(notFound);
      // 200 when the one that broke off has not ended yet, and met the object of this one before its row was settled
      expect([200, 201], `at ${at}`).toContain((await put(port, blob)).status);
      expect(await read(port, sized(blob)), `at ${at}`).toEqual(rightRead);
    }
    const settled = async (): Promise<true | undefined> =>
      (await metric(port, 'lps_uploads_in_flight')) === 0 ? true : undefined;
    await until('the end of all uploads', settled);
    expect(await queryCatalog(service.dataDir, 'select * from lps.lease')).toEqual([]);
  }, 300_000);

  it('answers a present blob before it asks for the body', async () => {
    const blob = await stored(1_500_000);
    const connection = await RawConnection.open(port);
    await connection.write(putHead(blob, { expect: '100-continue' }));
    const answer = await connection.until(/"Key"/);
    expect(answer).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(answer).not.toContain('100 Continue');
    connection.destroy();
  });

  it('asks for the body of a new one, once', async () => {
    const blob = newBlob(1_500_000);
    const connection = await RawConnection.open(port);
    await connection.write(putHead(blob, { expect: '100-continue' }));
    expect(await connection.until(/\r\n\r\n/)).toBe('HTTP/1.1 100 Continue\r\n\r\n');
    await connection.write(blob.bytes);
    expect(await connection.until(/"Key"/)).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 201 /);
    connection.destroy();
  });

  it.each([
    ['a duplicate', stored],
    // its body is begun to be read before the store says that the object is there
    ['an object of another service', foreign],
  ])('answers 40 MB of %s to a client that sends all of it before it reads', async (_title, make) => {
    const blob = await make(40_000_000);
    const socket = net.connect(port, '127.0.0.1').pause();
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.write(putHead(blob));
      socket.write(blob.bytes, () => resolve());
    });
    // the connection takes another request
    const next = newBlob(1000);
    socket.write(putHead(next, { connection: 'close' }));
    socket.write(next.bytes);
    let received = '';
    for await (const chunk of socket) received += String(chunk);
    expect(received.match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 200', 'HTTP/1.1 201']);
  });
});

describe('blobs of version 1', () => {
  const bytes = newBlob(300_000, 'v1').bytes;
  const digest = digestOf(bytes);

  function getV1(port: number) {
    const headers = {
      'content-type': 'application/octet-stream',
      'x-payload-expected-content-length': String(bytes.length),
    };
    return request(port, `/v1/blobs/get?${new URLSearchParams({ digest })}`, { headers });
  }

  it('are served only to who says whose they are', async () => {
    const v1DataDir = tempDir('v1');
    const store = s3 === undefined ? 'file' : { ...s3, bucket: 'version-1' };
    await s3?.createBucket('version-1');
    const without = await startService({ store, dataDir: v1DataDir });
    if (s3 === undefined) {
      const hex = digest.slice('sha256:'.length);
      const dir = join(v1DataDir, 'store', 'v1', hex.slice(0, 2));
      mkdirSync(dir, { recursive: true });
      writeFileSync(join(dir, hex), bytes);
    } else await writeS3Object(s3, 'version-1', `blobs/${digest}`, bytes);
    expect((await getV1(without.port)).status).toBe(404);
    await without.stop();
    const served = await startService({ store, dataDir: v1DataDir, args: ['--v1-namespace', 'orders'] });
    const answer = await getV1(served.port);
    expect({ status: answer.status, digest: digestOf(answer.body) }).toEqual({ status: 200, digest });
    await served.stop();
  });
});

describe('the memory store', () => {
  it('forgets its blobs with the process, and its catalog too', async () => {
    const memoryDir = tempDir('memory');
    const blob = newBlob(20_000);
    for (let times = 0; times < 2; times += 1) {
      const service = await startService({ store: 'memory', dataDir: memoryDir });
      // no read before: it would notice the loss
      expect((await put(service.port, blob)).status).toBe(201);
      expect(await read(service.port, sized(blob))).toEqual(rightRead);
      await service.stop();
    }
  });
});
