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
import { describeWith, startVersitygw, tempDir } from '@large-payload/test-components';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CallbackName, callbackNames, type Mode, type WorkflowKind } from './support/dbos-files.mjs';
import { openWorld, type World } from './support/dbos-world.ts';
import { scaled } from './support/scale.ts';

const program = fileURLToPath(new URL('fixtures/dbos-killed.mjs', import.meta.url));
/** `failing`: the callback has failed a few times; only where it is tried again. */
const moments = ['before', 'during', 'after', 'failing'] as const;
type Moment = (typeof moments)[number];

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
}

const rounds = scaled({ usual: 1, long: 12 });
const patience = {
  timeoutsMs: { database: 60_000, storage: 60_000, transfer: 60_000 },
  retryMs: { first: 50, max: 500 },
  latePassesSeconds: [1],
};
const content = 'what is to be kept';
/** Three parts. */
const large = 'a'.repeat(12 * 1024 * 1024);
const largeFile = join(tempDir('dbos'), 'large');

function casesOf(moment: Moment, round: number): Case[] {
  const cases: Case[] = [];
  for (const mode of ['steps', 'transactions'] as const) {
    for (const kind of ['upload', 'presigned', 'delete'] as const) {
      for (const callback of callbackNames[kind]) {
        const key = `${moment}/${round}/${mode}/${kind}/${callback}`;
        const isRetried = callback === 'fileDeleted' || callback === 'deleteS3Object';
        if (moment === 'failing' && !isRetried) continue;
        cases.push({ title: `${kind} on ${mode}, ${callback}`, key, mode, kind, callback, content });
      }
    }
    if (moment === 'failing') continue;
    const upload = { mode, kind: 'upload', callback: 'putS3Contents', content: large } as const;
    const fromFile = `${moment}/${round}/${mode}/file`;
    cases.push({ title: `upload on ${mode}, putS3Contents of a file`, key: fromFile, path: largeFile, ...upload });
    const path = `${largeFile}-${moment}-${round}-${mode}`;
    const title = `upload on ${mode}, putS3Contents of a file that is lost then`;
    cases.push({ title, key: `${fromFile}-lost`, path, loseFile: true, ...upload });
  }
  return cases;
}

function expectedAnswer({ kind, callback, loseFile, path }: Case, moment: Moment): RegExp {
  // it may have been stored and recorded a moment before the kill
  if (loseFile && moment === 'during') return /^ok$|CONTENT_GONE$/;
  if (loseFile) return new RegExp(`^The file ${path} is not on this machine.* CONTENT_GONE$`);
  // the delete had told that it takes longer
  if (kind === 'delete' && moment === 'failing') return /^(ok|broken until the kill)$/;
  if (kind === 'delete' || !['fileDeleted', 'deleteS3Object'].includes(callback)) return /^ok$/;
  return kind === 'upload' ? /^the first failure$/ : /^S3 operation timed out or canceled NOT_FINISHED$/;
}

const s3 = await startVersitygw();

describeWith(describe, 'an application that is killed', s3, (s3) => {
  let world: World;
  const children = new Set<ChildProcess>();

  beforeAll(async () => {
    writeFileSync(largeFile, large);
    world = await openWorld(s3);
  });
  afterAll(async () => {
    for (const child of children) child.kill('SIGKILL');
    await world?.close();
    await s3.stop();
  });

  function start(run: 1 | 2, when: Moment, cases: readonly Case[]): ChildProcess {
    const child = fork(program, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    children.add(child);
    const { endpoint, region, accessKeyId, secretAccessKey, bucket } = s3;
    const client = { endpoint, region, credentials: { accessKeyId, secretAccessKey }, forcePathStyle: true };
    const sent = cases.map(({ path, content, ...test }) => (path ? { ...test, path } : { ...test, content }));
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

  async function runKilled(moment: Moment, cases: readonly Case[]): Promise<Record<string, string>> {
    const first = start(1, moment, cases);
    const waiting = new Set(cases.map(({ key }) => key));
    await hears(first, ({ reached }) => {
      if (reached !== undefined) waiting.delete(reached);
      return waiting.size === 0 ? true : undefined;
    });
    if (moment === 'during') {
      first.send({ go: true });
      await delay(Math.random() * 60);
    }
    first.kill('SIGKILL');
    await once(first, 'exit');
    for (const { loseFile, path } of cases) if (loseFile && path) rmSync(path);
    const second = start(2, moment, cases);
    const answers = await hears(second, ({ done }) => done);
    second.disconnect();
    await once(second, 'exit');
    return answers;
  }

  const runs = moments.flatMap((moment) =>
    Array.from({ length: rounds }, (_, index) => ({ moment, round: index + 1 })),
  );
  it.each(runs)('$moment: each workflow ends what it was doing, round $round', async ({ moment, round }) => {
    const cases = casesOf(moment, round);
    for (const { loseFile, path } of cases) if (loseFile && path) writeFileSync(path, large);
    const answers = await runKilled(moment, cases);
    const wrong: string[] = [];
    for (const test of cases) {
      const answer = answers[test.key] ?? 'none';
      const [row, object] = [await world.row(test.key), await world.object(test.key)];
      const isKept = test.kind !== 'delete' && answer === 'ok';
      const isRight = isKept ? row === 'active' && object === test.content : row === undefined && object === undefined;
      if (!isRight) wrong.push(`${test.title}: ${answer}, row ${row}, object of ${object?.length} bytes`);
      if (!expectedAnswer(test, moment).test(answer)) wrong.push(`${test.title}: ${answer}`);
    }
    expect(wrong).toEqual([]);
    const { Uploads: parts = [] } = await world.client.send(new ListMultipartUploadsCommand({ Bucket: world.bucket }));
    expect(parts).toEqual([]);
  });
});
