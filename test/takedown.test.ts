/**
 * Erasure on request, on the real service: on every store; beside uploads; in front of a bucket that refuses; and killed at
 * each of its steps.
 */
import { execFile } from 'node:child_process';
import { generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describeWith, startVersitygw, tempDir } from '@large-payload/test-components';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../packages/server/src/catalog/embedded-postgres.ts';
import { v2Blob } from '../packages/server/src/http/testing.ts';
import { verifyReceipt } from '../packages/server/src/takedown/receipt.ts';
import { objectsIn, rowsIn } from './support/at-rest.ts';
import { codeOf, put, read, request, sized, stalledPut, type V2Blob } from './support/blobs.ts';
import { type BucketPlace, type BucketProxy, startBucketProxy } from './support/bucket-proxy.ts';
import { startFaultProxy } from './support/fault-proxy.ts';
import { startPlaces } from './support/places.ts';
import { queryCatalog } from './support/postgres.ts';
import { type RunningService, startService } from './support/service.ts';
import { type StatementPlace, type StatementProxy, startStatementProxy } from './support/statement-proxy.ts';
import { answered, receiptOf, takeDown, takedown, untilDurable, untilTakedown } from './support/takedowns.ts';
import { until } from './support/until.ts';

const quick = ['--max-staleness', '1s', '--unsafe-times', '--direct-lifetime', '1s'];
const newBlob = (namespace: string, size = 1000): V2Blob => v2Blob(randomBytes(size), namespace);
const getV3 = (port: number, { key }: V2Blob, method = 'GET') =>
  answered(() => request(port, `/v3/blobs?${new URLSearchParams({ key })}`, { method }));
const untilRead = (port: number, blob: V2Blob) =>
  until('a right read', async () => (await read(port, sized(blob))).isRight || undefined);
const bin = fileURLToPath(new URL('../packages/server/bin/lps.js', import.meta.url));

const places = await startPlaces();

describe.each(places)('on store $name', (place) => {
  let service: RunningService;
  const port = (): number => service.port;
  let namespace = '';

  beforeAll(async () => {
    service = await startService({ ...place.options, args: quick });
    await untilDurable(service.port);
  });
  afterAll(() => service?.stop());

  const ofNewNamespace = (): string => {
    namespace = `n${randomUUID()}`;
    return namespace;
  };

  it('reads are answered 410, the objects are gone, the receipt is right, and the bytes can come again', async () => {
    const [blob, other] = [newBlob(ofNewNamespace()), newBlob(namespace)];
    for (const one of [blob, other]) expect((await put(port(), one)).status).toBe(201);
    const id = await takeDown(port(), { selector: { namespace, key: blob.key } });
    await untilTakedown(port, id, 'accepted');
    expect(await getV3(port(), blob).then((answer) => [answer.status, codeOf(answer)])).toEqual([
      410,
      'BLOB_TAKEN_DOWN',
    ]);
    expect((await getV3(port(), blob, 'HEAD')).status).toBe(410);
    const byV2 = await answered(() => request(port(), blob.getPath, { headers: blob.getHeaders }));
    expect(byV2.status).toBe(410);
    expect(await untilTakedown(port, id, 'completed')).toMatchObject({ objects: 1, erased: 1 });
    expect([await place.objects(blob), await place.objects(other)]).toEqual([0, 1]);
    const text = await receiptOf(port(), id);
    const { receipt } = await verifyReceipt(text);
    // M after the first deletion, by the database's clock
    const [erasedAt, againAt] = receipt.proof.filter(({ what }) => /nothing is there/.test(what)).map(({ at }) => at);
    expect(Date.parse(againAt ?? '') - Date.parse(erasedAt ?? '')).toBeGreaterThanOrEqual(1000);
    expect(receipt).toMatchObject({ id, objects: 1, bytes: 1000, blobs: [{ key: blob.key, digest: blob.digest }] });
    await expect(verifyReceipt(text.replace('a test', 'no test'))).rejects.toThrow(/readable part/);
    expect((await put(port(), blob)).status).toBe(201);
    await untilRead(port(), blob);
  });

  it('what is blocked is refused until it is let go of, and what the catalog did not know is found', async () => {
    const [blob, unknown] = [newBlob(ofNewNamespace()), newBlob(namespace)];
    await put(port(), blob);
    await place.write(unknown, unknown.bytes);
    const selector = { namespace, uploadedFrom: '2020-01-01T00:00:00Z' };
    const id = await takeDown(port(), { selector, block: true });
    await untilTakedown(port, id, 'completed');
    for (const one of [blob, unknown]) {
      expect(await place.objects(one)).toBe(0);
      expect((await getV3(port(), one)).status).toBe(410);
      expect(await put(port(), one).then((answer) => [answer.status, codeOf(answer)])).toEqual([451, 'BLOB_BLOCKED']);
    }
    const query = new URLSearchParams({ namespace, digest: blob.digest });
    const unblocked = await request(port(), `/v3/blocks?${query}`, { method: 'DELETE' });
    expect([unblocked.status, JSON.parse(unblocked.text)]).toEqual([200, { removed: 1 }]);
    expect((await put(port(), blob)).status).toBe(201);
    expect((await put(port(), unknown)).status).toBe(451);
  });

  it('an upload under way is waited for, and brings nothing back', async () => {
    const blob = newBlob(ofNewNamespace(), 300_000);
    const [upload, other] = [await stalledPut(port(), blob, 1000), await stalledPut(port(), blob, 1000)];
    await until('both leases', async () => (await countLeases(namespace)) === 2 || undefined);
    const id = await takeDown(port(), { selector: { namespace, key: blob.key } });
    await untilTakedown(port, id, 'accepted');
    await until(
      'what it waits for',
      async () => /uploads under way/.test((await takedown(port(), id)).problem ?? '') || undefined,
    );
    await upload.write(blob.bytes.subarray(1000));
    expect(await upload.until(/^HTTP\/1\.1 \d{3}/)).toMatch(/^HTTP\/1\.1 [45]\d\d/);
    // erased once already; what comes while the other one is still waited for is erased as well
    await place.write(blob, blob.bytes);
    expect((await takedown(port(), id)).state).toBe('accepted');
    for (const one of [upload, other]) one.destroy();
    await untilTakedown(port, id, 'completed');
    expect([await place.objects(blob), await getCatalogStates(namespace)]).toEqual([0, ['taken_down']]);
  });

  const countLeases = async (name: string): Promise<number> => {
    const text = `SELECT l.id FROM lps.lease l JOIN lps.blob b ON b.id = l.blob_id WHERE b.namespace = $1`;
    return (await queryCatalog(place.options.dataDir, text, [name])).length;
  };
  const getCatalogStates = async (name: string): Promise<string[]> => {
    const text = 'SELECT state FROM lps.blob WHERE namespace = $1';
    return (await queryCatalog<{ state: string }>(place.options.dataDir, text, [name])).map(({ state }) => state);
  };
});

/** What a bucket answers that does not delete. */
const deletions = {
  refuses: { status: 503, body: '<Error><Code>SlowDown</Code><Message>no</Message></Error>' },
  lies: { status: 204, body: '' },
};

const s3 = await startVersitygw();
afterAll(() => s3?.stop());

describeWith(describe, 'a takedown', s3, (s3) => {
  let postgres: EmbeddedPostgres;
  let pool: pg.Pool;
  let statements: StatementProxy;
  let bucket: BucketProxy;
  let service: RunningService;
  const port = (): number => service.port;
  const dataDir = tempDir('takedown');
  const keyPath = join(dataDir, 'signing.pem');
  let fault: 'refuses' | 'lies' | undefined;

  beforeAll(async () => {
    writeFileSync(keyPath, generateKeyPairSync('ed25519').privateKey.export({ format: 'pem', type: 'pkcs8' }));
    postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 120 });
    postgres.exited.catch(() => undefined);
    pool = new pg.Pool({ connectionString: postgres.url, max: 2 }).on('error', () => undefined);
    statements = await startStatementProxy(postgres.url);
    const faults = await startFaultProxy(s3.endpoint, {
      instead: ({ method, url }) =>
        fault !== undefined && (method === 'DELETE' || /[?&]delete/.test(url ?? '')) ? deletions[fault] : undefined,
    });
    bucket = await startBucketProxy({ ...s3, endpoint: faults.url });
    await start();
  });
  afterAll(async () => {
    await service?.kill();
    await bucket?.close();
    await statements?.close();
    await pool?.end();
    await postgres?.stop();
  });

  async function start(more: readonly string[] = ['--takedown-key', keyPath]): Promise<void> {
    service = await startService({
      ...{ store: { ...s3, endpoint: bucket.endpoint }, dataDir, env: { LPS_DATABASE_URL: statements.url } },
      args: [...quick, '--replica-timeout', '3s', ...more],
    });
    await untilDurable(service.port);
  }

  /** Nobody waits until it was silent for its time: that is the business of replicas.test.ts, and of takedown-nodes.test.ts. */
  async function restart(): Promise<void> {
    await pool.query('UPDATE lps.replica SET gone_at = clock_timestamp() WHERE gone_at IS NULL');
    await start();
  }

  async function expectErased(id: string, blobs: readonly V2Blob[]): Promise<void> {
    const objects = objectsIn(s3);
    const rows = await rowsIn(pool);
    for (const { key } of blobs) {
      expect([objects.has(key), rows.get(key)?.state]).toEqual([false, 'taken_down']);
      const found = await answered(() => request(port(), `/v3/blobs?${new URLSearchParams({ key })}`));
      expect(found.status).toBe(410);
    }
    const { receipt } = await verifyReceipt(await receiptOf(port(), id));
    expect(receipt.blobs.map(({ key }) => key).sort()).toEqual(blobs.map(({ key }) => key).sort());
    expect(receipt.objects).toBe(blobs.length);
  }

  async function putSome(namespace: string, count = 3): Promise<V2Blob[]> {
    const blobs = Array.from({ length: count }, () => newBlob(namespace));
    for (const blob of blobs) expect((await put(port(), blob)).status).toBe(201);
    return blobs;
  }

  const everything = (namespace: string) => ({ namespace, uploadedFrom: '2020-01-01T00:00:00Z' });

  it('goes on while the bucket refuses to delete, and says so', async () => {
    const namespace = randomUUID();
    const blobs = await putSome(namespace);
    fault = 'refuses';
    const id = await takeDown(port(), { selector: everything(namespace) });
    await untilTakedown(port, id, 'accepted');
    const problem = () => takedown(port(), id).then((seen) => (/STORE_/.test(seen.problem ?? '') ? seen : undefined));
    expect(await until('what it says', problem)).toMatchObject({ state: 'accepted', erased: 0 });
    expect((await request(port(), `/v3/takedowns/${id}/receipt`)).status).toBe(404);
    fault = undefined;
    await untilTakedown(port, id, 'completed');
    await expectErased(id, blobs);
  });

  it('is not completed by a bucket that says it deleted and did not', async () => {
    const namespace = randomUUID();
    const blobs = await putSome(namespace, 1);
    fault = 'lies';
    const id = await takeDown(port(), { selector: everything(namespace) });
    const problem = async () => /is there after/.test((await takedown(port(), id)).problem ?? '') || undefined;
    await until('what it says', problem);
    expect(await takedown(port(), id)).toMatchObject({ state: 'accepted', erased: 0 });
    fault = undefined;
    await untilTakedown(port, id, 'completed');
    await expectErased(id, blobs);
  });

  it('writes down what it erases before it deletes the first object', async () => {
    const namespace = randomUUID();
    const before = bucket.written.length;
    await putSome(namespace);
    await untilTakedown(port, await takeDown(port(), { selector: everything(namespace) }), 'completed');
    const written = bucket.written.slice(before).map(({ method, key }) => `${method} ${key}`);
    const kept = written.findIndex((one) => /^PUT .*\.lps\/takedowns/.test(one));
    expect(kept).toBeGreaterThan(0);
    expect(kept).toBeLessThan(written.findIndex((one) => one.startsWith('DELETE')));
  });

  it('waits for a node that has not said that it forgot, and for a URL that was given out', async () => {
    const namespace = randomUUID();
    const [blob] = await putSome(namespace, 1);
    const node = `INSERT INTO lps.node (id, kind, name, lease_until, cursor) VALUES ('far', 'cache', 'far', now() + interval '1 hour', 0)`;
    await pool.query(node);
    await pool.query(`INSERT INTO lps.upload_url VALUES ($1, now() + interval '1 hour')`, [blob?.key]);
    const id = await takeDown(port(), { selector: everything(namespace) });
    const waitsFor = (words: RegExp) =>
      until(`${words}`, async () => {
        const seen = await takedown(port(), id);
        return words.test(seen.problem ?? '') ? seen.state : undefined;
      });
    expect(await waitsFor(/the cache node far/)).toBe('accepting');
    await pool.query(`UPDATE lps.node SET lease_until = now() WHERE id = 'far'`);
    expect(await waitsFor(/URLs for uploads/)).toBe('accepted');
    await pool.query('UPDATE lps.upload_url SET expires_at = now() WHERE physical_key = $1', [blob?.key]);
    await untilTakedown(port, id, 'completed');
  });

  it('beside uploads of the same blobs: each is refused, erased, or new; catalog and bucket agree', async () => {
    const namespace = randomUUID();
    const blobs = Array.from({ length: 30 }, () => newBlob(namespace, 20_000));
    let isOver = false;
    const uploading = blobs.map(async (blob) => {
      const statuses = new Set<number>();
      while (!isOver) statuses.add((await put(port(), blob)).status);
      return [...statuses];
    });
    await until('some rows', async () =>
      [...(await rowsIn(pool)).keys()].some((key) => key.includes(namespace)) ? true : undefined,
    );
    const id = await takeDown(port(), { selector: everything(namespace), block: true });
    await untilTakedown(port, id, 'accepted');
    await untilTakedown(port, id, 'completed');
    isOver = true;
    const statuses = new Set((await Promise.all(uploading)).flat());
    expect([...statuses].filter((status) => ![200, 201, 451, 410, 503, 409, 404].includes(status))).toEqual([]);
    expect(statuses).toContain(451);
    const [objects, rows] = [objectsIn(s3), await rowsIn(pool)];
    expect([...objects.keys()].filter((key) => key.includes(namespace))).toEqual([]);
    const states = [...rows].filter(([key]) => key.includes(namespace)).map(([, { state }]) => state);
    expect(new Set(states)).toEqual(new Set(['taken_down']));
  });

  it('by the command line: told before, waited for, verified without the service', async () => {
    const namespace = randomUUID();
    const [blob] = await putSome(namespace, 1);
    const lps = async (...args: string[]): Promise<{ code: number; out: string; err: string }> => {
      const env = { PATH: process.env.PATH ?? '', LPS_URL: service.url };
      const running = promisify(execFile)(process.execPath, [bin, 'takedown', ...args], { env });
      return running.then(
        ({ stdout, stderr }) => ({ code: 0, out: stdout, err: stderr }),
        ({ code, stdout, stderr }) => ({ code, out: stdout, err: stderr }),
      );
    };
    const asked = ['--key', blob?.key ?? '', '--reason', 'request 4711'];
    const told = await lps('create', ...asked);
    expect([told.code, told.err]).toEqual([2, expect.stringContaining('nothing was done')]);
    expect(told.out).toContain(`would be erased     1 blob, 1000 B (1 live)\n  ${blob?.key}`);
    const created = await lps('create', ...asked, '--yes', '--wait');
    expect([created.code, created.err]).toEqual([0, expect.stringContaining('completed: 1 object erased')]);
    const id = created.out.trim();
    expect((await lps('list', '--namespace', namespace)).out).toMatch(
      new RegExp(`^${id} .* completed .*request 4711\n$`),
    );
    const file = join(tempDir('receipt'), 'receipt.json');
    expect((await lps('receipt', id, '-o', file)).code).toBe(0);
    expect(await lps('verify', file, '--key', keyPath)).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^right/),
    });
    const other = join(tempDir('receipt'), 'other.pem');
    writeFileSync(other, generateKeyPairSync('ed25519').publicKey.export({ format: 'pem', type: 'spki' }));
    expect(await lps('verify', file, '--key', other)).toMatchObject({
      code: 1,
      err: expect.stringMatching(/not right/),
    });
    expect((await lps('status', randomUUID())).err).toMatch(/TAKEDOWN_NOT_FOUND/);
    expect(await lps('plan')).toMatchObject({ code: 2, err: expect.stringMatching(/say where: --namespace/) });
    const nothing = await lps('plan', '--namespace', namespace);
    expect(nothing).toMatchObject({ code: 2, err: expect.stringMatching(/say which blobs: key, digest/) });
    const unblocked = await lps('unblock', '--namespace', namespace, '--digest', blob?.digest ?? '');
    expect(unblocked).toMatchObject({ code: 2, err: expect.stringMatching(/nothing blocks these bytes/) });
  });

  describe('killed when', () => {
    const before = (statement: RegExp): StatementPlace => ({ statement, when: 'sent', atCommit: true });
    const behind = (statement: RegExp): StatementPlace => ({ statement, when: 'answered', atCommit: true });
    const sent = (statement: RegExp): StatementPlace => ({ statement, when: 'sent' });
    const done = (statement: RegExp): StatementPlace => ({ statement, when: 'answered' });
    const inBucket = (method: 'PUT' | 'DELETE', when: 'sent' | 'answered'): BucketPlace => ({
      ...{ method, when, key: method === 'PUT' ? /^\/?\.lps\/takedowns/ : /blobs/ },
    });
    const steps: [string, StatementPlace | BucketPlace][] = [
      ['it is on record', done(/INSERT INTO lps\.takedown \(/)],
      [
        'objects are to be put on record',
        sent(/INSERT INTO lps\.takedown_blob \(takedown_id, physical_key, key, size\)/),
      ],
      ['rows are to be taken down', before(/SET state = 'taken_down'/)],
      ['rows are taken down', behind(/SET state = 'taken_down'/)],
      ['older transactions are looked for', sent(/AS is_settled/)],
      ['nodes are asked', done(/lease_until > now\(\) AND cursor </)],
      ['it is accepted', done(/SET state = 'accepted'/)],
      ['it is to be kept in the store', inBucket('PUT', 'sent')],
      ['it is kept in the store', inBucket('PUT', 'answered')],
      ['objects are counted', done(/SET objects = greatest/)],
      ['an object is to be deleted', inBucket('DELETE', 'sent')],
      ['an object is deleted', inBucket('DELETE', 'answered')],
      ['objects are called erased', sent(/SET erased_at = clock_timestamp/)],
      ['uploads are looked for', done(/AS urls_until/)],
      ['it is to be completed', sent(/SET state = 'completed'/)],
      ['it is completed', done(/SET state = 'completed'/)],
    ];

    it.each(steps)('%s: it goes on', async (_name, place) => {
      const namespace = randomUUID();
      const blobs = await putSome(namespace);
      const unknown = newBlob(namespace);
      await writeUnknown(unknown);
      const held = 'statement' in place ? statements.hold(place) : bucket.hold(place);
      const id = randomUUID();
      const asked = takeDown(port(), { id, selector: everything(namespace) }).catch(() => undefined);
      await held.reached;
      await service.kill();
      await asked;
      held.lose();
      await restart();
      await untilTakedown(port, id, 'completed');
      await expectErased(id, [...blobs, unknown]);
    });
  });

  const writeUnknown = async (blob: V2Blob): Promise<void> => {
    const { writeS3Object } = await import('./support/places.ts');
    await writeS3Object(s3, s3.bucket, blob.key, blob.bytes);
  };

  /** Until then the bucket takes it, in ms. */
  const endOf = (url: string): number => {
    const { searchParams } = new URL(url);
    const [, y, mo, d, h, mi, s] = /^(....)(..)(..)T(..)(..)(..)Z$/.exec(searchParams.get('X-Amz-Date') ?? '') ?? [];
    return Date.parse(`${y}-${mo}-${d}T${h}:${mi}:${s}Z`) + Number(searchParams.get('X-Amz-Expires')) * 1000;
  };

  it('waits for the URL of an upload past the service, and erases what came by it', async () => {
    await service.kill();
    await start(['--takedown-key', keyPath, '--direct-lifetime', '5m']);
    const namespace = randomUUID();
    const blob = newBlob(namespace);
    const body = Buffer.from(JSON.stringify({ key: blob.key, size: blob.bytes.length }));
    const headers = { 'content-type': 'application/json' };
    const begin = async () => {
      const { text } = await request(port(), '/v3/uploads', { method: 'POST', headers, body });
      const offer = JSON.parse(text);
      return offer.outcome === 'direct' ? offer : undefined; // durable work begins in the background
    };
    const offer = await until('a URL', begin);
    const id = await takeDown(port(), { selector: { namespace, key: blob.key } });
    const erased = async () => {
      const seen = await takedown(port(), id);
      return seen.erased === 1 && /URLs/.test(seen.problem ?? '') ? true : undefined;
    };
    await until('the first erasure', erased);
    const { url, method, headers: signed } = offer.request;
    const sent = await fetch(url, { method, headers: signed, body: new Uint8Array(blob.bytes) });
    expect([sent.status, objectsIn(s3).has(blob.key)]).toEqual([200, true]);
    const completed = await request(port(), `/v3/uploads/${offer.uploadId}/complete`, { method: 'POST' });
    expect(completed.status).toBeGreaterThanOrEqual(400);
    // it waits for longer than the bucket takes the URL, and here that time is over at once
    const { rows } = await pool.query('SELECT expires_at FROM lps.upload_url WHERE physical_key = $1', [blob.key]);
    expect(rows[0].expires_at.getTime()).toBeGreaterThan(endOf(url));
    expect((await takedown(port(), id)).state).toBe('accepted');
    await pool.query('UPDATE lps.upload_url SET expires_at = now() WHERE physical_key = $1', [blob.key]);
    await untilTakedown(port, id, 'completed');
    expect([objectsIn(s3).has(blob.key), (await rowsIn(pool)).get(blob.key)?.state]).toEqual([false, 'taken_down']);
    // a replica without Postgres may have begun to read what came: M passes after its deletion as well
    const { receipt } = await verifyReceipt(await receiptOf(port(), id));
    const looks = receipt.proof.filter(({ what }) => /nothing is there/.test(what)).map(({ at }) => Date.parse(at));
    expect(looks).toHaveLength(3);
    expect((looks[2] ?? 0) - (looks[1] ?? 0)).toBeGreaterThanOrEqual(1000);
  });

  it('is refused where replicas may be on the database and no key is given', async () => {
    await service.kill();
    await start([]);
    const asked = takeDown(port(), { selector: everything(randomUUID()) });
    await expect(asked).rejects.toThrow(/CONFIG_INVALID.*--takedown-key/);
    await expect(takeDown(port(), { selector: { namespace: 'a', workflowId: 'w' } })).rejects.toThrow(/CONFIG_INVALID/);
  });
});
