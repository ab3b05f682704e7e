/** What users of @large-payload/dbos see, on a real Postgres and a real S3 server. */
import { createHash, randomUUID } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { HeadObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { DBOS, type WorkflowHandle } from '@dbos-inc/dbos-sdk';
import {
  type CleanUpStatus,
  newFileKey,
  type PresignedPost,
  pgCallbacks,
  registerS3DeleteWorkflow,
  registerS3PresignedUploadWorkflow,
  registerS3UploadWorkflow,
  s3Callbacks,
} from '@large-payload/dbos';
import { describeWith, startVersitygw, tempDir } from '@large-payload/test-components';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  asSigned,
  type CallbackName,
  endingSoon,
  type Files,
  type Mode,
  registerFiles,
} from './support/dbos-files.mjs';
import { launchDbos, openWorld, submitForm, table, type World } from './support/dbos-world.ts';
import { until } from './support/until.ts';

function openable(): { opened: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

/** Longer than any of these tests. */
const longSeconds = 600;

const s3 = await startVersitygw();
const modes = ['steps', 'transactions'] as const;

// Most of them wait, each for its own file: at once.
describeWith(describe.concurrent, 'the DBOS workflows', s3, (s3) => {
  let world: World;
  const files = {} as Record<Mode, Files>;
  /** Callbacks that fail, by `{callback} {key}`. */
  const broken = new Set<string>();
  /** Callbacks that wait, by `{callback} {key}`: the first call for the first of these, and so on. */
  const gates = new Map<string, Promise<void>[]>();
  /** Posts that end after so many seconds, as their workflows see it, by key. */
  const endsSoon = new Map<string, number>();
  const warnings: string[] = [];
  let unchecked: Files;
  let strict: Files;
  let restless: Files;
  const config = {
    retryMs: { first: 20, max: 200 },
    latePassesSeconds: [1],
    finishGraceSeconds: 1,
    waitForCleanUpMs: longSeconds * 1000,
  };

  beforeAll(async () => {
    vi.spyOn(console, 'error').mockImplementation(() => undefined); // DBOS prints the errors that are wanted here
    vi.spyOn(console, 'warn').mockImplementation((line) => void warnings.push(String(line)));
    world = await openWorld(s3);
    await world.pool.query(`create table uses (file text references ${table})`);
    const around = async (name: CallbackName, key: string, call: () => Promise<unknown>): Promise<unknown> => {
      await gates.get(`${name} ${key}`)?.shift();
      if (broken.has(`${name} ${key}`)) throw new Error(`${name} is broken`);
      const result = await call();
      const soon = endsSoon.get(key);
      return name === 'createPresignedPost' && soon !== undefined ? endingSoon(result as PresignedPost, soon) : result;
    };
    for (const mode of modes) files[mode] = registerFiles({ ...world, table, mode, around, config });
    strict = registerFiles({
      ...world,
      table,
      mode: 'steps',
      around,
      config: { ...config, className: 'Strict', maxInlineBytes: 10, postLifetimeSeconds: 1, waitForCleanUpMs: 0 },
    });
    restless = registerFiles({
      ...world,
      table,
      mode: 'steps',
      around,
      config: { ...config, className: 'Restless', retryMs: { first: 0, max: 0 } },
    });
    unchecked = registerUnchecked();
    await launchDbos(world.databaseUrl);
  });

  afterAll(async () => {
    await DBOS.shutdown();
    await world?.close();
    await s3.stop();
    vi.restoreAllMocks();
  });

  function registerUnchecked(): Files {
    const { headS3Object: _head, validateS3Upload: _validate, ...bucket } = s3Callbacks(world);
    const callbacks = { ...bucket, ...pgCallbacks({ pool: world.pool, table }) };
    return {
      upload: registerS3UploadWorkflow({ className: 'Unchecked', name: 'upload' }, callbacks),
      presigned: registerS3PresignedUploadWorkflow({ className: 'Unchecked', name: 'presigned' }, callbacks),
      delete: registerS3DeleteWorkflow({ className: 'Unchecked', name: 'delete' }, callbacks),
    };
  }

  async function upload(of: Files, ...args: Parameters<Files['upload']>): Promise<WorkflowHandle<unknown>> {
    return DBOS.startWorkflow(of.upload)(...args);
  }

  async function presign(of: Files, ...args: Parameters<Files['presigned']>) {
    const handle = await DBOS.startWorkflow(of.presigned)(...args);
    const post = await DBOS.getEvent<PresignedPost>(handle.workflowID, 'uploadkey');
    if (post === null) throw new Error('no post');
    const finish = (isThere: boolean): Promise<void> => DBOS.send(handle.workflowID, isThere, 'uploadfinish');
    return { handle, post: asSigned(post), finish, result: () => handle.getResult() };
  }

  const isGone = (key: string) =>
    until(`the end of ${key}`, async () =>
      (await world.row(key)) === undefined && (await world.object(key)) === undefined ? true : undefined,
    );
  const cleanUpEnds = (workflowID: string) => DBOS.retrieveWorkflow(`${workflowID}-cleanup`).getResult();
  const code = (wanted: string) => expect.objectContaining({ code: wanted });

  describe.each(modes)('on %s', (mode) => {
    it('upload strings, bytes and files', async () => {
      const path = join(tempDir('dbos'), 'large');
      const large = randomUUID().repeat(500_000); // three parts and more
      writeFileSync(path, large);
      const contents = [
        ['', ''],
        ['grün', 'grün'],
        [Buffer.from('bytes'), 'bytes'],
        [new Uint8Array([104, 105]), 'hi'],
        [{ path }, large],
      ] as const;
      for (const [content, expected] of contents) {
        const key = newFileKey('kinds/');
        const handle = await upload(files[mode], { key }, content, { contentType: 'text/x-test' });
        expect(await handle.getResult()).toEqual({ key });
        expect(await world.row(key)).toBe('active');
        expect((await world.object(key)) === expected).toBe(true);
        const head = await world.client.send(new HeadObjectCommand({ Bucket: world.bucket, Key: key }));
        expect(head.ContentType).toBe('text/x-test');
      }
      expect(existsSync(path)).toBe(true);
    });

    it('remove a temporary file, whether the upload ends well or not', async () => {
      for (const isBroken of [false, true]) {
        const key = newFileKey();
        const path = join(tempDir('dbos'), 'temporary');
        writeFileSync(path, 'content');
        if (isBroken) broken.add(`newActiveFile ${key}`);
        const handle = await upload(files[mode], { key }, { path, temporary: true });
        await handle.getResult().catch(() => undefined);
        expect(existsSync(path)).toBe(false);
        expect(await world.object(key)).toBe(isBroken ? undefined : 'content');
      }
    });

    it('leave the file of another upload alone when the key is taken', async () => {
      const key = newFileKey();
      await (await upload(files[mode], { key }, 'first')).getResult();
      const second = await upload(files[mode], { key }, 'second');
      await expect(second.getResult()).rejects.toEqual(code('KEY_TAKEN'));
      const presigned = await DBOS.startWorkflow(files[mode].presigned)({ key }, 5);
      await expect(presigned.getResult()).rejects.toThrow(
        mode === 'steps' ? /belongs to another file/ : /duplicate key/,
      );
      expect([await world.row(key), await world.object(key)]).toEqual(['active', 'first']);
    });

    it('leave the pending row of another upload alone, and remove what was put beside it', async () => {
      const key = newFileKey();
      const { post, finish, result } = await presign(files[mode], { key }, longSeconds);
      const second = await upload(files[mode], { key }, 'second');
      await expect(second.getResult()).rejects.toThrow(mode === 'steps' ? /belongs to another file/ : /duplicate key/);
      expect([await world.row(key), await world.object(key)]).toEqual(['pending', undefined]);
      await submitForm(post, 'first');
      await finish(true);
      expect(await result()).toEqual({ key });
      expect([await world.row(key), await world.object(key)]).toEqual(['active', 'first']);
    });

    it('clean up after a client that does not say in time that it is ready', async () => {
      const key = newFileKey();
      const { post, result } = await presign(files[mode], { key }, 1);
      await submitForm(post, 'never announced');
      await expect(result()).rejects.toEqual(code('NOT_FINISHED'));
      expect((await submitForm(post, 'too late')).status).toBe(403);
      await isGone(key);
    });

    it('clean up a late upload with a post that is still valid', async () => {
      const key = newFileKey();
      const late = openable();
      gates.set(`deleteS3Object ${key}`, [Promise.resolve(), late.opened]);
      endsSoon.set(key, 8);
      const { handle, post, finish, result } = await presign(files[mode], { key }, longSeconds);
      await finish(false);
      await expect(result()).rejects.toEqual(code('NOT_FINISHED'));
      expect(await world.row(key)).toBeUndefined();
      expect((await submitForm(post, 'late')).status).toBe(204);
      expect(await world.object(key)).toBe('late');
      expect(await DBOS.getEvent<CleanUpStatus>(`${handle.workflowID}-cleanup`, 'cleanUp')).toMatchObject({
        state: 'waiting',
        key,
      });
      late.open();
      await cleanUpEnds(handle.workflowID);
      expect(await world.object(key)).toBeUndefined();
    });

    it('do not activate what was never uploaded', async () => {
      const key = newFileKey();
      const { finish, result } = await presign(files[mode], { key }, longSeconds);
      await finish(true);
      await expect(result()).rejects.toEqual(code('NOT_UPLOADED'));
      expect(await world.row(key)).toBeUndefined();
    });

    it('undo an upload that is cancelled, and do not do it again when it is resumed', async () => {
      const key = newFileKey();
      const { handle, post, finish, result } = await presign(files[mode], { key }, longSeconds);
      await submitForm(post, 'content');
      await DBOS.cancelWorkflow(handle.workflowID);
      await finish(true); // it learns of the cancel when it wakes
      await expect(result()).rejects.toThrow(/cancelled/);
      await isGone(key);
      const resumed = await DBOS.resumeWorkflow(handle.workflowID);
      await expect(resumed.getResult()).rejects.toEqual(code('CLEANED_UP'));
      expect(await world.row(key)).toBeUndefined();
    });

    it.each(['putS3Contents', 'newActiveFile'])('undo an upload that is cancelled while %s runs', async (callback) => {
      const key = newFileKey();
      const gate = openable();
      gates.set(`${callback} ${key}`, [gate.opened]);
      const handle = await upload(files[mode], { key }, 'content');
      if (callback === 'newActiveFile') await until('the object', () => world.object(key));
      await DBOS.cancelWorkflow(handle.workflowID);
      gate.open();
      await expect(handle.getResult()).rejects.toThrow(/cancelled/);
      await cleanUpEnds(handle.workflowID);
      expect([await world.row(key), await world.object(key)]).toEqual([undefined, undefined]);
    });

    it('clean up beyond the deadline of the upload', async () => {
      const key = newFileKey();
      broken.add(`newActiveFile ${key}`).add(`deleteS3Object ${key}`);
      const handle = await DBOS.startWorkflow(files[mode].upload, { timeoutMS: 60_000 })({ key }, 'content');
      const cleanUp = DBOS.retrieveWorkflow(`${handle.workflowID}-cleanup`);
      const status = await until('the clean-up', async () => (await cleanUp.getStatus()) ?? undefined);
      expect((await handle.getStatus())?.deadlineEpochMS).toBeGreaterThan(0);
      expect(status.deadlineEpochMS).toBeUndefined();
      broken.delete(`deleteS3Object ${key}`);
      await cleanUp.getResult();
    });

    it('finish a delete that is cancelled', async () => {
      const key = newFileKey();
      await (await upload(files[mode], { key }, 'content')).getResult();
      broken.add(`deleteS3Object ${key}`);
      const handle = await DBOS.startWorkflow(files[mode].delete)({ key });
      await until('the row is gone', async () => ((await world.row(key)) === undefined ? true : undefined));
      await DBOS.cancelWorkflow(handle.workflowID);
      broken.delete(`deleteS3Object ${key}`);
      await isGone(key);
    });

    it('keep row and object of a delete that the database refuses', async () => {
      const key = newFileKey();
      await (await upload(files[mode], { key }, 'content')).getResult();
      await world.pool.query('insert into uses values ($1)', [key]);
      const handle = await DBOS.startWorkflow(files[mode].delete)({ key });
      await expect(handle.getResult()).rejects.toThrow(/foreign key/);
      expect([await world.row(key), await world.object(key)]).toEqual(['active', 'content']);
      expect(await DBOS.retrieveWorkflow(`${handle.workflowID}-cleanup`).getStatus()).toBeNull();
    });

    it('delete what is not there', async () => {
      const handle = await DBOS.startWorkflow(files[mode].delete)({ key: newFileKey() });
      await expect(handle.getResult()).resolves.toBeDefined();
    });

    it('say at once that there will be no post', async () => {
      const key = newFileKey();
      broken.add(`createPresignedPost ${key}`);
      const handle = await DBOS.startWorkflow(files[mode].presigned)({ key }, 60);
      expect(await DBOS.getEvent(handle.workflowID, 'uploadkey', { timeoutSeconds: 600 })).toBeNull();
      await expect(handle.getResult()).rejects.toThrow('createPresignedPost is broken');
      await isGone(key);
    });

    it('give up a presigned upload whose row was deleted meanwhile', async () => {
      const key = newFileKey();
      const { post, finish, result } = await presign(files[mode], { key }, longSeconds);
      await submitForm(post, 'content');
      await world.pool.query(`delete from ${table} where key = $1`, [key]);
      await finish(true);
      await expect(result()).rejects.toThrow(/deleted meanwhile|no row/);
      await isGone(key);
    });
  });

  it('undo an upload whose own deadline has passed', async () => {
    const key = newFileKey();
    const handle = await DBOS.startWorkflow(files.steps.presigned, { timeoutMS: 3000 })({ key }, longSeconds);
    await expect(handle.getResult()).rejects.toThrow(/cancelled/);
    await isGone(key);
  });

  it('refuse other contents than were announced', async () => {
    const sha256 = createHash('sha256').update('announced').digest('hex');
    const key = newFileKey();
    const { post, finish, result } = await presign(files.steps, { key }, longSeconds, { size: 9, sha256 });
    expect((await submitForm(post, 'announced too')).status).toBe(400);
    expect((await submitForm(post, 'ANNOUNCED')).status).toBe(400);
    expect((await submitForm(post, 'announced')).status).toBe(204);
    await finish(true);
    expect(await result()).toEqual({ key });
  });

  it.each([
    ['another size', 'announced too', false],
    ['other bytes', 'ANNOUNCED', false],
    ['other bytes, with a checksum', 'ANNOUNCED', true],
  ])('do not activate %s, should the server let it pass', async (_what, content, withChecksum) => {
    const sha256 = createHash('sha256').update('announced').digest('hex');
    const key = newFileKey();
    const { finish, result } = await presign(files.steps, { key }, longSeconds, { size: 9, sha256 });
    const put = { Bucket: world.bucket, Key: key, Body: content };
    await world.client.send(new PutObjectCommand({ ...put, ...(withChecksum ? { ChecksumAlgorithm: 'SHA256' } : {}) }));
    await finish(true);
    await expect(result()).rejects.toEqual(code('WRONG_CONTENT'));
    await isGone(key);
  });

  it('activate unchecked without a validator, and say so when they are registered', async () => {
    expect(warnings.filter((line) => line.includes('neither headS3Object nor validateS3Upload'))).toHaveLength(1);
    const key = newFileKey();
    const { finish, result } = await presign(unchecked, { key }, longSeconds);
    await finish(true);
    expect(await result()).toEqual({ key });
  });

  it('roll back what an execution did that has lost its workflow meanwhile', async () => {
    const key = newFileKey();
    const blocker = await world.pool.connect();
    await blocker.query('begin');
    await blocker.query(`insert into files (key, state, upload_id, record) values ($1, 'pending', 'x', '{}')`, [key]);
    const { rows } = await blocker.query('select pg_backend_pid() as pid');
    const handle = await upload(files.steps, { key }, 'content');
    await until('the insert to wait', async () => {
      const waiting = 'select from pg_stat_activity where $1 = any(pg_blocking_pids(pid))';
      return (await world.pool.query(waiting, [rows[0].pid])).rowCount === 1 || undefined;
    });
    const update = 'update dbos.workflow_status set owner_xid = $2 where workflow_uuid = $1';
    await world.pool.query(update, [handle.workflowID, 'another process']);
    await blocker.query('rollback');
    blocker.release();
    await until('the warning of DBOS', async () =>
      warnings.some((line) => line.includes(`${handle.workflowID} is no longer owned`)) ? true : undefined,
    );
    expect(await world.row(key)).toBeUndefined();
    expect(await DBOS.retrieveWorkflow(`${handle.workflowID}-cleanup`).getStatus()).toBeNull();
    await DBOS.cancelWorkflow(handle.workflowID); // the other process does not exist
    await expect(handle.getResult()).rejects.toThrow();
    await world.removeObject(key);
  });

  it('start no clean-up for an execution that has lost its workflow', async () => {
    const key = newFileKey();
    const gate = openable();
    gates.set(`newActiveFile ${key}`, [gate.opened]);
    broken.add(`newActiveFile ${key}`);
    const handle = await upload(files.transactions, { key }, 'content');
    await until('the object', () => world.object(key));
    const update = 'update dbos.workflow_status set owner_xid = $2 where workflow_uuid = $1';
    await world.pool.query(update, [handle.workflowID, 'another process']);
    gate.open();
    await until('the warning of DBOS', async () =>
      warnings.some((line) => line.includes(`${handle.workflowID} is no longer owned`)) ? true : undefined,
    );
    expect(await DBOS.retrieveWorkflow(`${handle.workflowID}-cleanup`).getStatus()).toBeNull();
    expect(await world.object(key)).toBe('content');
    await DBOS.cancelWorkflow(handle.workflowID); // the other process does not exist
    await expect(handle.getResult()).rejects.toThrow();
    await world.removeObject(key);
  });

  it('refuse large strings and bytes, and say what to do', async () => {
    for (const content of ['äöäöäö', new Uint8Array(11)]) {
      const key = newFileKey();
      const handle = await upload(strict, { key }, content);
      await expect(handle.getResult()).rejects.toEqual(code('CONTENT_TOO_LARGE'));
      await expect(handle.getResult()).rejects.toThrow(/upload \{ path \}/);
      expect(await world.object(key)).toBeUndefined();
    }
  });

  it('do not reuse a key that is still being cleaned up', async () => {
    const key = newFileKey();
    broken.add(`newActiveFile ${key}`).add(`deleteS3Object ${key}`);
    const first = await upload(strict, { key }, 'first');
    await expect(first.getResult()).rejects.toThrow('newActiveFile is broken');
    broken.delete(`newActiveFile ${key}`);
    const second = (await upload(strict, { key }, 'second')).getResult();
    await expect(second).rejects.toMatchObject({
      code: 'KEY_TAKEN',
      message: expect.stringContaining('still cleans up'),
    });
    broken.delete(`deleteS3Object ${key}`);
    await cleanUpEnds(first.workflowID);
    await (await upload(strict, { key }, 'third')).getResult();
    expect([await world.row(key), await world.object(key)]).toEqual(['active', 'third']);
  });

  it('delete again when the posts of a deleted file have expired', async () => {
    const key = newFileKey();
    const late = openable();
    gates.set(`deleteS3Object ${key}`, [Promise.resolve(), late.opened]);
    const { post, finish, result } = await presign(strict, { key }, longSeconds);
    await submitForm(post, 'first');
    await finish(true);
    await result();
    await (await DBOS.startWorkflow(strict.delete)({ key })).getResult();
    expect((await submitForm(post, 'once more')).status).toBe(204);
    expect(await world.object(key)).toBe('once more');
    late.open();
    await isGone(key);
  });

  it('go on in a new workflow when a clean-up fails a hundred times', async () => {
    const key = newFileKey();
    broken.add(`newActiveFile ${key}`).add(`deleteS3Object ${key}`);
    const handle = await upload(restless, { key }, 'content');
    const second = DBOS.retrieveWorkflow(`${handle.workflowID}-cleanup-2`);
    await until('the second part', async () => (await second.getStatus()) ?? undefined);
    expect(await cleanUpEnds(handle.workflowID)).toEqual({ continuedBy: second.workflowID });
    const third = DBOS.retrieveWorkflow(`${handle.workflowID}-cleanup-3`);
    await until('the third part', async () => (await third.getStatus()) ?? undefined);
    expect(await DBOS.getEvent(third.workflowID, 'cleanUp')).toMatchObject({ stuckOn: 'deleteS3Object' });
    broken.delete(`deleteS3Object ${key}`);
    await isGone(key); // by the third part, or by one after it
  });
});
