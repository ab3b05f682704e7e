/**
 * `kill -9` at every callback of every workflow, before it, during it and after it; then the application is started
 * again. Each workflow ends, with what it was asked for or with nothing left of it.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import { DBOSClient } from '@dbos-inc/dbos-sdk';
import { describeWith, startVersitygw, tempDir } from '@large-payload/test-components';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CallbackName, callbackNames, type Mode, type WorkflowKind } from './support/dbos-files.mjs';
import { openWorld, type World } from './support/dbos-world.ts';
import { type FaultProxy, startFaultProxy } from './support/fault-proxy.ts';
import { scaled } from './support/scale.ts';
import { until } from './support/until.ts';

const program = fileURLToPath(new URL('fixtures/dbos-killed.mjs', import.meta.url));
const moments = ['before', 'during', 'after'] as const;
/**
 * `transferring`: in the middle of a file. `failing`: the callback has failed a few times; only where it is tried again.
 * `cancelled`: before the callback, and then the workflow is cancelled while no process runs.
 */
type Moment = (typeof moments)[number] | 'transferring' | 'failing' | 'cancelled';

interface Case {
  readonly title: string;
  readonly key: string;
  readonly mode: Mode;
  readonly kind: WorkflowKind;
  readonly callback: CallbackName;
  readonly content: string;
  /** Uploaded from this file. */
  readonly path?: string;
  /** The file is not there any more when the application comes back. */
  readonly loseFile?: boolean;
  /** It is over before the kill. */
  readonly finishes?: boolean;
}

const rounds = scaled({ usual: 1, long: 12 });
const patience = {
  timeoutsMs: { database: 60_000, storage: 60_000, transfer: 60_000 },
  retryMs: { first: 50, max: 500 },
  latePassesSeconds: [1],
};
const content = 'what is to be kept';
/** Five parts. */
const large = 'a'.repeat(24 * 1024 * 1024);
const largeFile = join(tempDir('dbos'), 'large');

const isCleanUp = (callback: CallbackName): boolean => callback === 'fileDeleted' || callback === 'deleteS3Object';

function casesOf(moment: Moment, round: number): Case[] {
  return (['steps', 'transactions'] as const).flatMap((mode) => {
    if (moment === 'transferring') return transfersOf(moment, round, mode);
    const cases: Case[] = [];
    for (const kind of ['upload', 'presigned', 'delete'] as const) {
      for (const callback of callbackNames[kind]) {
        if (moment === 'failing' && !isCleanUp(callback)) continue;
        if (moment === 'cancelled' && isCleanUp(callback) && kind !== 'delete') continue;
        const key = `${moment}/${round}/${mode}/${kind}/${callback}`;
        cases.push({ title: `${kind} on ${mode}, ${callback}`, key, mode, kind, callback, content });
      }
    }
    if (moment !== 'cancelled') return cases;
    const over = { title: `upload on ${mode} that was over`, key: `${moment}/${round}/${mode}/over`, finishes: true };
    return [...cases, { ...over, mode, kind: 'upload', callback: 'headS3Object', content }];
  });
}

function transfersOf(moment: Moment, round: number, mode: Mode): Case[] {
  const key = `${moment}/${round}/${mode}`;
  const upload = { mode, kind: 'upload', callback: 'putS3Contents', content: large } as const;
  const lost = `${largeFile}-${round}-${mode}`;
  return [
    { title: `upload of a file on ${mode}`, key: `${key}/file`, path: largeFile, ...upload },
    {
      title: `upload of a file that is lost then, on ${mode}`,
      key: `${key}/lost`,
      path: lost,
      loseFile: true,
      ...upload,
    },
  ];
}

function expectedAnswer({ kind, callback, loseFile, path, finishes }: Case, moment: Moment): RegExp {
  if (loseFile) return new RegExp(`^The file ${path} is not on this machine.* CONTENT_GONE$`);
  if (moment === 'cancelled' && !finishes) return /cancelled/;
  // the delete had told that it takes longer
  if (kind === 'delete' && moment === 'failing') return /^(ok|broken until the kill)$/;
  if (kind === 'delete' || !isCleanUp(callback)) return /^ok$/;
  return kind === 'upload' ? /^the first failure$/ : /^S3 operation timed out or canceled NOT_FINISHED$/;
}

const s3 = await startVersitygw();

describeWith(describe, 'an application that is killed', s3, (s3) => {
  let world: World;
  /** Before the bucket: one part of each file, and so its end, never comes there. */
  let withoutLastPart: FaultProxy;
  const held = new Set<string>();
  /** By the forms of browsers. */
  const uploaded = new Set<string>();
  const children = new Set<ChildProcess>();

  beforeAll(async () => {
    writeFileSync(largeFile, large);
    world = await openWorld(s3);
    withoutLastPart = await startFaultProxy(s3.endpoint, {
      before({ url = '' }) {
        if (!/[?&]partNumber=3(&|$)/.test(url)) return undefined;
        held.add(url.replace(/\?.*/, ''));
        return new Promise(() => undefined);
      },
    });
  });
  afterAll(async () => {
    for (const child of children) child.kill('SIGKILL');
    await withoutLastPart?.close();
    await world?.close();
    await s3.stop();
  });

  function start(run: 1 | 2, when: Moment, cases: readonly Case[]): ChildProcess {
    const child = fork(program, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    children.add(child);
    const { region, accessKeyId, secretAccessKey, bucket } = s3;
    const endpoint = run === 1 && when === 'transferring' ? withoutLastPart.url : s3.endpoint;
    const client = { endpoint, region, credentials: { accessKeyId, secretAccessKey }, forcePathStyle: true };
    child.on('message', ({ uploaded: key }: { uploaded?: string }) => key !== undefined && uploaded.add(key));
    const sent = cases.map(({ path, content, ...test }) => ({
      ...test,
      ...(path ? { path } : { content }),
      isUploaded: uploaded.has(test.key),
    }));
    child.send({ cases: sent, run, when, databaseUrl: world.databaseUrl, s3: { client, bucket }, patience });
    return child;
  }

  /** Resolves with the first answer that `find` finds in the child's messages. */
  function hears<T>(
    child: ChildProcess,
    find: (message: { reached?: string; done?: Record<string, string> }) => T | undefined,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      child.on('message', (message) => {
        const found = find(message as Parameters<typeof find>[0]);
        if (found !== undefined) resolve(found);
      });
      child.once('exit', (code, signal) => reject(new Error(`the application ended: ${code ?? signal}`)));
    });
  }

  const partsInBucket = async () => {
    const list = new ListMultipartUploadsCommand({ Bucket: world.bucket });
    return (await world.client.send(list)).Uploads ?? [];
  };

  async function runKilled(moment: Moment, cases: readonly Case[]): Promise<void> {
    const child = start(1, moment, cases);
    const waiting = new Set(cases.map(({ key }) => key));
    await hears(child, ({ reached }) => {
      if (reached !== undefined) waiting.delete(reached);
      return waiting.size === 0 ? true : undefined;
    });
    if (moment === 'during' || moment === 'transferring') child.send({ go: true });
    if (moment === 'during') await delay(Math.random() * 60);
    if (moment === 'transferring') {
      await until('parts of each file', async () => held.size === cases.length || undefined);
      expect(await partsInBucket()).toHaveLength(cases.length);
      held.clear();
    }
    child.kill('SIGKILL');
    await once(child, 'exit');
  }

  async function cancelAll(cases: readonly Case[]): Promise<void> {
    const client = await DBOSClient.create({ systemDatabaseUrl: world.databaseUrl });
    for (const { key, finishes } of cases) if (!finishes) await client.cancelWorkflow(key);
    await client.destroy();
    // as if the cancel had come between the last step and the end
    const over = cases.filter(({ finishes }) => finishes).map(({ key }) => key);
    const sql = `update dbos.workflow_status set status = 'CANCELLED', completed_at = updated_at where workflow_uuid = any($1)`;
    await world.pool.query(sql, [over]);
  }

  /** What is wrong with the cases, one line each. */
  async function faultsIn(cases: readonly Case[], isKept: (test: Case) => boolean): Promise<string[]> {
    const faults: string[] = [];
    for (const test of cases) {
      const [row, object] = [await world.row(test.key), await world.object(test.key)];
      const isWhole = row === 'active' && object === test.content;
      const isNothing = row === undefined && object === undefined;
      if (!(isKept(test) ? isWhole : isNothing)) faults.push(`${test.title}: row ${row}, ${object?.length} bytes`);
    }
    return faults;
  }

  const runs = [...moments, 'transferring', 'failing'] as const;
  const rounded = runs.flatMap((moment) =>
    Array.from({ length: rounds }, (_, index) => ({ moment, round: index + 1 })),
  );
  it.each(rounded)('$moment: each workflow ends what it was doing, round $round', async ({ moment, round }) => {
    const cases = casesOf(moment, round);
    for (const { loseFile, path } of cases) if (loseFile && path) writeFileSync(path, large);
    await runKilled(moment, cases);
    for (const { loseFile, path } of cases) if (loseFile && path) rmSync(path);
    const second = start(2, moment, cases);
    const answers = await hears(second, ({ done }) => done);
    second.disconnect();
    await once(second, 'exit');
    const wrong = cases.filter((test) => !expectedAnswer(test, moment).test(answers[test.key] ?? 'none'));
    expect(wrong.map(({ title, key }) => `${title}: ${answers[key]}`)).toEqual([]);
    expect(await faultsIn(cases, ({ key, kind }) => kind !== 'delete' && answers[key] === 'ok')).toEqual([]);
    expect(await partsInBucket()).toEqual([]);
  });

  it('leaves nothing of an upload whose recovery takes another way than was recorded', async () => {
    const key = 'plain';
    const test: Case = { title: key, key, mode: 'plain', kind: 'presigned', callback: 'headS3Object', content };
    await runKilled('before', [test]);
    expect(await world.row(key)).toBe('pending');
    const second = start(2, 'before', [test]);
    const answers = await hears(second, ({ done }) => done);
    second.disconnect();
    await once(second, 'exit');
    expect(answers[key]).toMatch(/^duplicate key .* 23505$/); // the insert was made again
    expect(await faultsIn([test], () => false)).toEqual([]);
  });

  it('undoes what was cancelled while it did not run, and only that', async () => {
    const cases = casesOf('cancelled', 1);
    await runKilled('cancelled', cases);
    await cancelAll(cases);
    const second = start(2, 'cancelled', cases);
    const done = hears(second, (message) => message.done);
    done.catch(() => undefined);
    const undone = async () => ((await faultsIn(cases, isOver)).length === 0 ? true : undefined);
    const isOver = ({ finishes }: Case): boolean => finishes === true;
    await until('nothing but what was over', undone).catch(() => undefined);
    expect(await faultsIn(cases, isOver)).toEqual([]);
    await done;
    expect(await faultsIn(cases, isOver)).toEqual([]);
    second.disconnect();
    await once(second, 'exit');
  });
});
