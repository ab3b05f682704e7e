/** The ready-made callbacks of @large-payload/dbos, called without DBOS, on a real Postgres and a real S3 server. */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CreateMultipartUploadCommand, HeadObjectCommand, ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import { migrateFilesTable, newFileKey, pgCallbacks, s3Callbacks } from '@large-payload/dbos';
import { describeWith, openS3Client, startVersitygw, tempDir } from '@large-payload/test-components';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openWorld, type World } from './support/dbos-world.ts';
import { startFaultProxy } from './support/fault-proxy.ts';
import { until } from './support/until.ts';

const s3 = await startVersitygw();
const signal = new AbortController().signal;
const first = { uploadID: 'first', signal };
const second = { uploadID: 'second', signal };
const code = (wanted: string) => expect.objectContaining({ code: wanted });

describeWith(describe, 'the ready-made callbacks', s3, (s3) => {
  let world: World;
  beforeAll(async () => {
    world = await openWorld(s3);
  });
  afterAll(async () => {
    await world?.close();
    await s3.stop();
  });

  describe('of the table', () => {
    const onTable = () => pgCallbacks<{ key: string; name?: string }>({ pool: world.pool });

    it('keep the record beside its key', async () => {
      const key = newFileKey();
      await onTable().newActiveFile({ key, name: 'photo' }, first);
      const { rows } = await world.pool.query('select state, upload_id, record, active_at from files where key = $1', [
        key,
      ]);
      const row = { state: 'active', upload_id: 'first', record: { name: 'photo' }, active_at: expect.any(Date) };
      expect(rows).toEqual([row]);
    });

    it('may be repeated by their own upload, and by no other', async () => {
      const { newActiveFile, newPendingFile, fileActivated } = onTable();
      const key = newFileKey();
      for (const _ of [1, 2]) await newPendingFile({ key }, first);
      await expect(newPendingFile({ key }, second)).rejects.toEqual(code('KEY_TAKEN'));
      await expect(fileActivated({ key }, second)).rejects.toEqual(code('ROW_GONE'));
      for (const _ of [1, 2]) await fileActivated({ key }, first);
      expect(await world.row(key)).toBe('active');
      await expect(newActiveFile({ key }, second)).rejects.toEqual(code('KEY_TAKEN'));
      for (const _ of [1, 2]) await newActiveFile({ key: `${key}-2` }, second);
    });

    it('delete the row of their own upload, or any row in a delete', async () => {
      const { newActiveFile, fileDeleted } = onTable();
      const key = newFileKey();
      await newActiveFile({ key }, first);
      await fileDeleted({ key }, second);
      expect(await world.row(key)).toBe('active');
      for (const _ of [1, 2]) await fileDeleted({ key }, { signal });
      expect(await world.row(key)).toBeUndefined();
    });

    it('let a clean-up wait for an insert under way, and an insert that was given up never commit', async () => {
      const { newActiveFile, fileDeleted } = onTable();
      const key = newFileKey();
      const blocker = await world.pool.connect();
      await blocker.query('begin');
      await blocker.query(`insert into files (key, state, upload_id, record) values ($1, 'pending', 'x', '{}')`, [key]);
      const controller = new AbortController();
      const inserting = newActiveFile({ key }, { uploadID: 'first', signal: controller.signal });
      inserting.catch(() => undefined);
      await until('the insert to wait', () => waitsFor('transactionid'));
      const deleting = fileDeleted({ key }, first);
      await until('the delete to wait', () => waitsFor('advisory'));
      controller.abort();
      await expect(inserting).rejects.toThrow();
      await blocker.query('rollback');
      blocker.release();
      await deleting;
      expect(await world.row(key)).toBeUndefined();
    });

    async function waitsFor(locktype: string): Promise<true | undefined> {
      const { rowCount } = await world.pool.query('select 1 from pg_locks where locktype = $1 and not granted', [
        locktype,
      ]);
      return rowCount === 1 ? true : undefined;
    }

    it('end a statement that takes too long', async () => {
      const { newActiveFile } = pgCallbacks({ pool: world.pool, statementTimeoutMs: 50 });
      const blocker = await world.pool.connect();
      await blocker.query('begin; lock table files');
      await expect(newActiveFile({ key: newFileKey() }, first)).rejects.toEqual(code('57014'));
      await blocker.query('rollback');
      blocker.release();
    });

    it('make their table, from many processes at once, under any name', async () => {
      await world.pool.query('create schema "my Schema"');
      const options = { pool: world.pool, table: 'my Schema."files"' };
      await Promise.all([1, 2, 3, 4].map(() => migrateFilesTable(options)));
      const { newActiveFile } = pgCallbacks(options);
      await newActiveFile({ key: 'a' }, first);
      const { rows } = await world.pool.query('select key from "my Schema"."""files"""');
      expect(rows).toEqual([{ key: 'a' }]);
    });
  });

  describe('of the bucket', () => {
    const inBucket = () => s3Callbacks({ ...world, partSizeBytes: 5 * 1024 * 1024 });
    const fileOf = (bytes: Buffer): string => {
      const path = join(tempDir('dbos'), 'file');
      writeFileSync(path, bytes);
      return path;
    };
    const parts = async () =>
      (await world.client.send(new ListMultipartUploadsCommand({ Bucket: world.bucket }))).Uploads ?? [];

    it.each([
      ['a string', () => 'text'],
      ['a small file', () => ({ path: fileOf(Buffer.from('text')) })],
      ['a file in parts', () => ({ path: fileOf(randomBytes(6 * 1024 * 1024)) })],
    ])('store %s again for its own upload, and for no other', async (_what, content) => {
      const { putS3Contents, headS3Object } = inBucket();
      const key = newFileKey();
      for (const _ of [1, 2]) await putS3Contents({ key }, content(), {}, first);
      await expect(putS3Contents({ key }, content(), {}, second)).rejects.toEqual(code('KEY_TAKEN'));
      expect(await headS3Object({ key })).toMatchObject({ uploadID: 'first' });
      expect(await parts()).toEqual([]);
    });

    it.each([
      ['bytes', () => Buffer.from('text')],
      ['a file', () => ({ path: fileOf(Buffer.from('text')) })],
      ['a file in parts', () => ({ path: fileOf(Buffer.alloc(6 * 1024 * 1024)) })],
    ])('store nothing when %s is not what was announced', async (_what, content) => {
      const { putS3Contents, headS3Object } = inBucket();
      const key = newFileKey();
      for (const announced of [{ size: 5 }, { sha256: '0'.repeat(64) }]) {
        await expect(putS3Contents({ key }, content(), announced, first)).rejects.toEqual(code('WRONG_CONTENT'));
        expect(await headS3Object({ key })).toBeUndefined();
        expect(await parts()).toEqual([]);
      }
    });

    it('stop a transfer that is given up; its clean-up leaves no parts', async () => {
      // one part does not arrive, so that the transfer goes on for as long as it takes to give it up
      const before = async ({ url = '' }: { url?: string | undefined }): Promise<void> => {
        if (/[?&]partNumber=3(&|$)/.test(url)) await new Promise(() => undefined);
      };
      const slow = await startFaultProxy(s3.endpoint, { before });
      const client = await openS3Client({ ...s3, endpoint: slow.url });
      const { putS3Contents } = s3Callbacks({ ...world, client, partSizeBytes: 5 * 1024 * 1024 });
      const { headS3Object, deleteS3Object } = inBucket();
      const key = newFileKey();
      const controller = new AbortController();
      const path = fileOf(Buffer.alloc(40 * 1024 * 1024));
      const putting = putS3Contents({ key }, { path }, {}, { uploadID: 'first', signal: controller.signal });
      putting.catch(() => undefined);
      await until('the first parts', async () => ((await parts()).length > 0 ? true : undefined));
      controller.abort();
      await expect(putting).rejects.toMatchObject({ name: 'AbortError' });
      await deleteS3Object({ key }, first);
      expect(await headS3Object({ key })).toBeUndefined();
      expect(await parts()).toEqual([]);
      client.destroy();
      await slow.close();
    });

    it('fail when the file is not there', async () => {
      const { putS3Contents } = inBucket();
      await expect(putS3Contents({ key: newFileKey() }, { path: '/none' }, {}, first)).rejects.toEqual(code('ENOENT'));
    });

    it('delete the object of their own upload, with its unfinished parts, or any object in a delete', async () => {
      const { putS3Contents, deleteS3Object, headS3Object } = inBucket();
      const key = newFileKey();
      await putS3Contents({ key }, 'text', {}, first);
      const start = (Key: string) => world.client.send(new CreateMultipartUploadCommand({ Bucket: world.bucket, Key }));
      await start(key);
      await start(`${key}-other`);
      await deleteS3Object({ key }, second);
      expect(await headS3Object({ key })).toMatchObject({ size: 4 });
      expect((await parts()).map(({ Key }) => Key)).toEqual([key, `${key}-other`]);
      await deleteS3Object({ key }, first);
      expect(await headS3Object({ key })).toBeUndefined();
      expect((await parts()).map(({ Key }) => Key)).toEqual([`${key}-other`]);
      await putS3Contents({ key }, 'text', {}, first);
      for (const _ of [1, 2]) await deleteS3Object({ key }, { signal });
      expect(await headS3Object({ key })).toBeUndefined();
      await deleteS3Object({ key: `${key}-other` }, first);
      expect(await parts()).toEqual([]);
    });

    it('delete an object that nobody has signed', async () => {
      const { putS3Contents, deleteS3Object, headS3Object } = inBucket();
      const key = newFileKey();
      await putS3Contents({ key }, 'text');
      await deleteS3Object({ key }, first);
      expect(await headS3Object({ key })).toBeUndefined();
    });

    it('tell type and size of an object', async () => {
      const { putS3Contents, headS3Object } = inBucket();
      const key = newFileKey();
      await putS3Contents({ key }, 'text', { contentType: 'text/plain' }, first);
      expect(await headS3Object({ key })).toMatchObject({ size: 4, contentType: 'text/plain', uploadID: 'first' });
      const head = await world.client.send(new HeadObjectCommand({ Bucket: world.bucket, Key: key }));
      expect(head.Metadata).toEqual({ 'upload-id': 'first' });
    });
  });
});
