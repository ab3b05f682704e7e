/** Direct uploads on a real bucket, a real Postgres and real workflows; a client is a fetch. */
import { randomBytes, randomUUID } from 'node:crypto';
import { PutObjectCommand } from '@aws-sdk/client-s3';
import {
  type BlobKey,
  type BlobStore,
  digestOf,
  formatKey,
  LpsError,
  metadataDigest,
  openS3Store,
} from '@large-payload/core';
import { describeWith, openS3Client, startVersitygw } from '@large-payload/test-components';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { Catalog } from '../catalog/catalog.js';
import { type Database, openDatabase } from '../catalog/database.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { type CatalogFixture, openFixture } from '../catalog/postgres-catalog-fixture.js';
import { type Alarms, catalogued } from '../catalogued.js';
import { keptLog } from '../durable/durable-fixture.js';
import { type DurableRuntime, startRuntime } from '../durable/runtime.js';
import { type DirectUploads, openDirectUploads, type UploadOffer, type UploadWorkflows } from './direct-uploads.js';
import { type UploadEffects, uploadEffects } from './upload-effects.js';
import { openUploadUrls, type UploadUrls } from './upload-urls.js';
import { type UploadWorkflow, uploadWorkflow } from './upload-workflow.js';

const server = await startVersitygw();
afterAll(() => server?.stop());

/** With the URL ends the patience for the message; the last look at the bucket is a moment after that. */
const patience = { finishGraceSeconds: 0, latePassesSeconds: [0.2] };
const shortSeconds = 0.2;

interface Blob {
  readonly key: BlobKey;
  readonly name: string;
  readonly bytes: Buffer;
}

function newBlob(size = 1000): Blob {
  const bytes = randomBytes(size);
  const key = { namespace: 'direct', digest: digestOf(bytes), metadataDigest: metadataDigest(null) };
  return { key, name: formatKey(key), bytes };
}

describeWith(describe, 'direct uploads', server, (server) => {
  let postgres: EmbeddedPostgres;
  let fixture: CatalogFixture;
  let catalog: Catalog;
  let source: BlobStore;
  let store: BlobStore;
  let effects: UploadEffects;
  let runtime: DurableRuntime<{ directUpload: UploadWorkflow }>;
  let workflows: UploadWorkflows;
  let database: Database;
  let urls: UploadUrls;
  let uploads: DirectUploads;
  /** Given up at once, nearly; the URL itself lives for a second at least. */
  let short: DirectUploads;
  /** Looks at the bucket that wait, by their blob's name: the first one for the first of these, and so on. */
  const looks = new Map<string, Promise<void>[]>();
  let dbos: pg.Pool;
  let raised: { kind: string; key?: unknown }[] = [];
  const alarms: Alarms = { raise: (kind, details) => void raised.push({ kind, ...details }) };

  beforeAll(async () => {
    postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 60 });
    postgres.exited.catch(() => undefined);
    fixture = openFixture(postgres.url);
    catalog = await fixture.open({ leaseMs: 60_000 });
    const { endpoint, region, bucket, accessKeyId, secretAccessKey } = server;
    source = await openS3Store({ endpoint, region, bucket, credentials: { accessKeyId, secretAccessKey } });
    store = catalogued(source, { catalog, alarms, renewMs: 20_000 });
    effects = uploadEffects(source, catalog, alarms);
    runtime = startRuntime({
      databaseUrl: postgres.url,
      schema: fixture.schema,
      applicationVersion: '1',
      workflows: { directUpload: uploadWorkflow({ ...effects, settle }, patience) },
      log: keptLog(),
    });
    workflows = {
      start: (upload, seconds) => runtime.start('directUpload', upload.key, upload, seconds),
      find: async (id) => (await runtime.argsOf('directUpload', id))?.[0],
      finish: (id) => runtime.send(id, 'uploadfinish', true),
    };
    database = openDatabase({
      ...{ url: postgres.url, maxConnections: 2, statementTimeoutMs: 10_000, log: () => undefined },
    });
    urls = openUploadUrls({ database, schema: fixture.schema, lateMs: 60_000 });
    uploads = openWith({});
    const startShort: UploadWorkflows['start'] = (upload) => workflows.start(upload, shortSeconds);
    short = openWith({ lifetimeMs: 1000, workflows: { ...workflows, start: startShort } });
    dbos = new pg.Pool({ connectionString: postgres.url, max: 2 });
    dbos.on('error', () => undefined);
    runtime.setExecutorId('one');
    await vi.waitUntil(() => runtime.executorId === 'one', 20_000);
  });
  afterEach(() => {
    raised = [];
  });
  afterAll(async () => {
    await runtime.close(0);
    await database.close();
    await dbos.end();
    await fixture.close();
    await source.close?.();
    await postgres.stop();
  });

  async function settle(upload: Parameters<UploadEffects['settle']>[0]): Promise<void> {
    await looks.get(upload.lease.key)?.shift();
    await effects.settle(upload);
  }
  /** Holds the n-th look at the bucket back. */
  const holdLook = ({ name }: Blob, number: 1 | 2): (() => void) => {
    let open = (): void => undefined;
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    looks.set(name, number === 1 ? [opened] : [Promise.resolve(), opened]);
    return open;
  };
  const eventually = <T>(ask: () => T | Promise<T>) => expect.poll(ask, { interval: 20, timeout: 30_000 });
  const openWith = (options: Partial<Parameters<typeof openDirectUploads>[0]>): DirectUploads => {
    const { presignPut } = source;
    if (presignPut === undefined) throw new Error('the store signs nothing');
    return openDirectUploads({
      ...{ store, catalog, effects, workflows, urls, lifetimeMs: 60_000, log: keptLog(), checkOwner: () => undefined },
      presignPut: presignPut.bind(source),
      ...options,
    });
  };
  const begun = async (blob: Blob, from = uploads): Promise<Extract<UploadOffer, { outcome: 'direct' }>> => {
    const offer = await from.begin(blob.key, blob.bytes.length);
    if (offer.outcome !== 'direct') throw new Error(`${offer.outcome} was offered`);
    return offer;
  };
  const send = async ({ request }: Awaited<ReturnType<typeof begun>>, body: Uint8Array): Promise<number> => {
    const { url, method, headers } = request;
    return (await fetch(url, { method, headers, body: Buffer.from(body) })).status;
  };
  /** As another service would write it; without a SHA-256 unless told. */
  const write = async (name: string, body: Uint8Array, checksum: 'CRC32' | 'SHA256' = 'CRC32'): Promise<void> => {
    const client = await openS3Client(server);
    const command = { Bucket: server.bucket, Key: name, Body: body, ChecksumAlgorithm: checksum };
    await client.send(new PutObjectCommand(command));
    client.destroy();
  };
  const statusOf = async (id: string): Promise<unknown> => {
    const text = `SELECT status FROM ${fixture.schema}_dbos.workflow_status WHERE workflow_uuid = $1`;
    return (await dbos.query(text, [id])).rows[0]?.status;
  };
  const stateOf = async ({ key }: Blob) => {
    const row = await fixture.read(key);
    return row && { state: row.state, leases: row.leases };
  };
  const live = { state: 'live', leases: 0 };
  const untilCleaned = (uploadId: string) => eventually(() => statusOf(`${uploadId}-cleanup`)).toBe('SUCCESS');

  it('make a blob live when its bytes are in the bucket, and end their workflow', async () => {
    const blob = newBlob();
    const offer = await begun(blob);
    expect(await stateOf(blob)).toEqual({ state: 'uploading', leases: 1 });
    expect(await store.head(blob.name)).toBeUndefined();
    expect(await send(offer, blob.bytes)).toBe(200);
    const completed = await uploads.complete(offer.uploadId);
    expect(completed).toMatchObject({ key: blob.name, outcome: 'created', size: 1000 });
    expect(await stateOf(blob)).toEqual(live);
    await eventually(() => statusOf(offer.uploadId)).toBe('SUCCESS');
    expect(await uploads.complete(offer.uploadId)).toMatchObject({ outcome: 'exists' });
    expect(await uploads.begin(blob.key, 1000)).toMatchObject({ outcome: 'present', key: blob.name });
    await expect(uploads.begin(blob.key, 999)).rejects.toMatchObject({ code: 'SIZE_MISMATCH' });
  });

  it('hold a lease that outlives the URL and the wait for the message', async () => {
    const blob = newBlob();
    const { request } = await begun(blob, openWith({ lifetimeMs: 900_000 }));
    const text = `SELECT expires_at FROM ${fixture.schema}.lease JOIN ${fixture.schema}.blob b ON b.id = blob_id WHERE digest = $1`;
    const { rows } = await dbos.query(text, [Buffer.from(blob.key.digest.slice('sha256:'.length), 'hex')]);
    expect(rows[0].expires_at.getTime()).toBeGreaterThan(request.expiresAt.getTime() + 60_000);
  });

  it('are not complete without their bytes, and complete with them afterwards', async () => {
    const blob = newBlob();
    const offer = await begun(blob);
    await expect(uploads.complete(offer.uploadId)).rejects.toMatchObject({ code: 'UPLOAD_INCOMPLETE' });
    const wrong = Buffer.from(blob.bytes);
    wrong[3] = (wrong[3] ?? 0) ^ 1;
    expect(await send(offer, wrong)).toBe(400);
    await expect(uploads.complete(offer.uploadId)).rejects.toMatchObject({ code: 'UPLOAD_INCOMPLETE' });
    expect(await source.head(blob.name)).toBeUndefined();
    expect(await send(offer, blob.bytes)).toBe(200);
    await uploads.complete(offer.uploadId);
    expect(await stateOf(blob)).toEqual(live);
  });

  it('leave nothing when they are given up', async () => {
    const blob = newBlob();
    const { uploadId } = await begun(blob, short);
    await untilCleaned(uploadId);
    expect(await fixture.read(blob.key)).toBeUndefined();
    await expect(uploads.complete(uploadId)).rejects.toMatchObject({ code: 'UPLOAD_INCOMPLETE' });
  });

  it('make the blob live when the client vanished behind its last byte', async () => {
    const blob = newBlob();
    const look = holdLook(blob, 1);
    const { uploadId } = await begun(blob, short);
    await write(blob.name, blob.bytes, 'SHA256');
    look();
    await untilCleaned(uploadId);
    expect(await stateOf(blob)).toEqual(live);
    expect((await store.get(blob.name))?.info.size).toBe(1000);
  });

  it('make the blob live when its bytes came after the URL had ended', async () => {
    const blob = newBlob();
    const lastLook = holdLook(blob, 2);
    const { uploadId } = await begun(blob, short);
    await eventually(() => fixture.read(blob.key)).toBeUndefined();
    await write(blob.name, blob.bytes); // a slow upload that began in time
    lastLook();
    await untilCleaned(uploadId);
    expect(await stateOf(blob)).toEqual(live);
  });

  it('can be completed after they were given up', async () => {
    const blob = newBlob();
    const { uploadId } = await begun(blob, short);
    await untilCleaned(uploadId);
    await write(blob.name, blob.bytes);
    expect(await uploads.complete(uploadId)).toMatchObject({ outcome: 'created' });
    expect(await stateOf(blob)).toEqual(live);
  });

  it('take what another service put there when it is right, though the bucket has no digest of it', async () => {
    const blob = newBlob(300_000);
    const offer = await begun(blob);
    await write(blob.name, blob.bytes);
    expect((await source.head(blob.name))?.digest).toBeUndefined();
    expect(await send(offer, blob.bytes)).toBe(412);
    expect(await uploads.complete(offer.uploadId)).toMatchObject({ outcome: 'created' });
  });

  it.each(['CRC32', 'SHA256'] as const)(
    'go through the service when a wrong object with a %s stands there',
    async (sum) => {
      const blob = newBlob();
      const offer = await begun(blob);
      await write(blob.name, randomBytes(1000), sum);
      expect(await send(offer, blob.bytes)).toBe(412);
      await expect(uploads.complete(offer.uploadId)).rejects.toMatchObject({ code: 'TRY_AGAIN' });
      expect(raised).toEqual([{ kind: 'damaged', key: blob.name }]);
      expect(await uploads.begin(blob.key, 1000)).toEqual({ outcome: 'proxied', key: blob.name });
      await store.put(blob.name, blob.bytes, { digest: blob.key.digest, size: 1000 });
      expect(await uploads.begin(blob.key, 1000)).toMatchObject({ outcome: 'present' });
    },
  );

  it('do not take away what somebody else uploaded meanwhile', async () => {
    const blob = newBlob();
    const look = holdLook(blob, 1);
    const given = await begun(blob, short);
    const other = await begun(blob);
    expect(await stateOf(blob)).toEqual({ state: 'uploading', leases: 2 });
    expect(await send(other, blob.bytes)).toBe(200);
    await uploads.complete(other.uploadId);
    look();
    await untilCleaned(given.uploadId);
    expect(await stateOf(blob)).toEqual(live);
    expect(await source.head(blob.name)).toBeDefined();
  });

  it('of the same blob at once are one blob', async () => {
    const blob = newBlob();
    const offers = await Promise.all([begun(blob), begun(blob), begun(blob)]);
    const statuses = await Promise.all(offers.map((offer) => send(offer, blob.bytes)));
    expect(statuses).toContain(200);
    const outcomes = await Promise.all(offers.map(({ uploadId }) => uploads.complete(uploadId)));
    expect(outcomes.map(({ outcome }) => outcome).sort()).toEqual(['created', 'exists', 'exists']);
    await eventually(() => stateOf(blob)).toEqual(live);
  });

  it('bring a later generation of a deleted blob to its own place', async () => {
    const blob = newBlob();
    await fixture.force(blob.key, 'gone');
    const offer = await begun(blob);
    expect(await send(offer, blob.bytes)).toBe(200);
    await uploads.complete(offer.uploadId);
    const row = await fixture.read(blob.key);
    expect(row).toMatchObject({ state: 'live', generation: 2 });
    expect(row?.physicalKey).toMatch(/~[0-9a-z]{16}$/);
    expect(await source.head(row?.physicalKey ?? '')).toBeDefined();
  });

  it('do not bring back what was deleted or taken down', async () => {
    for (const state of ['deleting', 'gone', 'taken_down'] as const) {
      const blob = newBlob();
      const look = holdLook(blob, 1);
      const offer = await begun(blob, short);
      await write(blob.name, blob.bytes, 'SHA256');
      await fixture.force(blob.key, state);
      await expect(uploads.complete(offer.uploadId)).rejects.toMatchObject({ code: 'TRY_AGAIN' });
      look();
      await untilCleaned(offer.uploadId);
      expect((await fixture.read(blob.key))?.state).toBe(state);
    }
  });

  it('store what was taken down as new data, under another name', async () => {
    const blob = newBlob();
    await fixture.force(blob.key, 'taken_down');
    await fixture.erase(blob.key);
    const offer = await begun(blob);
    expect(await send(offer, blob.bytes)).toBe(200);
    await uploads.complete(offer.uploadId);
    expect(await fixture.read(blob.key)).toMatchObject({ state: 'live', generation: 2 });
  });

  it('end when the blob is blocked meanwhile, and are not begun while it is', async () => {
    const blob = newBlob();
    const look = holdLook(blob, 1);
    const offer = await begun(blob, short);
    await write(blob.name, blob.bytes, 'SHA256');
    await fixture.block(blob.key);
    await expect(uploads.complete(offer.uploadId)).rejects.toMatchObject({ code: 'BLOB_BLOCKED' });
    look();
    await untilCleaned(offer.uploadId);
    expect(await fixture.read(blob.key)).toBeUndefined();
    await expect(uploads.begin(blob.key, 1000)).rejects.toMatchObject({ code: 'BLOB_BLOCKED' });
  });

  it('are bounded, and make room when they end', async () => {
    const bounded = openWith({ maxOpen: 2 });
    const [first, second, third] = [newBlob(), newBlob(), newBlob()];
    const offer = await begun(first, bounded);
    await begun(second, bounded);
    expect(await bounded.begin(third.key, 1000)).toEqual({ outcome: 'proxied', key: third.name });
    expect(await fixture.read(third.key)).toBeUndefined();
    expect(await send(offer, first.bytes)).toBe(200);
    await bounded.complete(offer.uploadId);
    await eventually(async () => (await bounded.begin(third.key, 1000)).outcome).toBe('direct');
    // what is present takes no room
    for (let at = 0; at < 5; at++) expect(await bounded.begin(first.key, 1000)).toMatchObject({ outcome: 'present' });
  });

  it('go through the service while there is no durable work, and leave no lease when it fails', async () => {
    const failing = (code: 'TRY_AGAIN' | 'CATALOG_UNAVAILABLE') =>
      openWith({
        workflows: {
          ...workflows,
          start: async () => {
            throw new LpsError(code, 'not now');
          },
        },
      });
    const blob = newBlob();
    expect(await failing('TRY_AGAIN').begin(blob.key, 1000)).toEqual({ outcome: 'proxied', key: blob.name });
    await expect(failing('CATALOG_UNAVAILABLE').begin(blob.key, 1000)).rejects.toMatchObject({
      code: 'CATALOG_UNAVAILABLE',
    });
    expect(await fixture.read(blob.key)).toBeUndefined();
  });

  it('are refused while the bucket is not known to be ours', async () => {
    const checkOwner = (): never => {
      throw new LpsError('STORE_UNAVAILABLE', 'not yet');
    };
    const blob = newBlob();
    await expect(openWith({ checkOwner }).begin(blob.key, 1000)).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect(await fixture.read(blob.key)).toBeUndefined();
  });

  it('are known by their ids only', async () => {
    for (const id of ['', 'x', `upload-${randomUUID()}`])
      await expect(uploads.complete(id)).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND' });
    const { uploadId } = await begun(newBlob(), short);
    await untilCleaned(uploadId);
    await expect(uploads.complete(`${uploadId}-cleanup`)).rejects.toMatchObject({ code: 'UPLOAD_NOT_FOUND' });
  });

  it('put their URLs on record before they are given out, and forget them a day after their end', async () => {
    const { request } = await begun(newBlob());
    const name = decodeURIComponent(new URL(request.url).pathname).slice(`/${server.bucket}/`.length);
    const text = `SELECT physical_key, extract(epoch FROM expires_at - now())::int AS seconds FROM ${fixture.schema}.upload_url`;
    const noted = async () => (await dbos.query(`${text} WHERE strpos($1, ltrim(physical_key, '/')) > 0`, [name])).rows;
    const [row] = await noted();
    // the URL's life, and the time in which bytes that began in it may come
    expect(row.seconds).toBeGreaterThan(100);
    expect(row.seconds).toBeLessThanOrEqual(120);
    const age = (hours: number) =>
      dbos.query(
        `UPDATE ${fixture.schema}.upload_url SET expires_at = now() - $1 * interval '1 hour' WHERE physical_key = $2`,
        [hours, row.physical_key],
      );
    const prune = () => urls.task.run(undefined as never);
    await age(23);
    await prune();
    expect(await noted()).toHaveLength(1);
    await age(25);
    await prune();
    expect(await noted()).toEqual([]);
  });

  it('get no URL once the blob is taken down, or the right to upload is over', async () => {
    const blob = newBlob();
    const end =
      (text: string) =>
      async (name: string, ...more: unknown[]) => {
        await dbos.query(text);
        const { presignPut } = source;
        return presignPut?.call(source, name, ...(more as [never, never])) as never;
      };
    const where = `(SELECT max(id) FROM ${fixture.schema}.blob)`;
    for (const text of [
      `UPDATE ${fixture.schema}.lease SET expires_at = now() WHERE blob_id = ${where}`,
      `UPDATE ${fixture.schema}.blob SET state = 'taken_down' WHERE id = ${where}`,
    ]) {
      const late = openWith({ presignPut: end(text) });
      expect(await late.begin(blob.key, blob.bytes.length)).toMatchObject({ outcome: 'proxied' });
    }
    const { rows } = await dbos.query(`SELECT FROM ${fixture.schema}.upload_url WHERE physical_key = $1`, [blob.name]);
    expect(rows).toEqual([]);
  });

  it('keep no URL in the database', async () => {
    const { request } = await begun(newBlob());
    const signature = new URL(request.url).searchParams.get('X-Amz-Signature') ?? 'no signature';
    const tables = ['workflow_status', 'operation_outputs', 'workflow_events', 'notifications'];
    for (const table of tables) {
      const text = `SELECT count(*)::int AS found FROM ${fixture.schema}_dbos.${table} t WHERE t::text LIKE '%' || $1 || '%'`;
      expect((await dbos.query(text, [signature])).rows[0].found).toBe(0);
      expect((await dbos.query(text, [''])).rows[0].found, table).toBeGreaterThanOrEqual(0);
    }
    expect(signature).toMatch(/^[0-9a-f]{64}$/);
  });
});
