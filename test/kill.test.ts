/**
 * `kill -9` under load: of the service alone, and of everything at once. What was acknowledged is there afterwards, byte
 * for byte, and the next start needs no help.
 */
import { randomInt } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { tempDir } from '@large-payload/test-components';
import { afterAll, describe, expect, it } from 'vitest';
import { startEmbeddedPostgres } from '../packages/server/src/catalog/embedded-postgres.ts';
import {
  again,
  newBlob,
  newSeededBlob,
  notFound,
  put,
  read,
  rightRead,
  type SeededBlob,
  sized,
  stalledPut,
} from './support/blobs.ts';
import { type Place, startPlaces } from './support/places.ts';
import { processesIn } from './support/postgres.ts';
import { isLong, scaled } from './support/scale.ts';
import { type RunningService, refusedStart, startService } from './support/service.ts';

/** Elsewhere the store is no process of ours, and fewer will do. */
const cyclesOn = (name: Place['name']): number =>
  name === 'file' ? scaled({ usual: 15, long: 50 }) : scaled({ usual: 2, long: 15 });
const clients = 8;
/** Acknowledged in a cycle, and those that are under way then. */
const maxBlobs = scaled({ usual: 15, long: 30 });
const maxLoadMs = 10_000;
const sampleSize = 40;
const maxBusyMs = 60_000;

const running = new Set<RunningService>();
afterAll(async () => {
  for (const service of running) await service.stop();
});

async function start(options: Parameters<typeof startService>[0]): Promise<RunningService> {
  const service = await startService(options);
  running.add(service);
  return service;
}

/** What the clients were told, and what went against it. */
class Ledger {
  readonly acknowledged: SeededBlob[] = [];
  /** Sent whole, never answered: present or absent, nothing in between. */
  readonly unanswered: SeededBlob[] = [];
  readonly aborted: SeededBlob[] = [];
  readonly violations: string[] = [];
  operations = 0;

  any(): SeededBlob | undefined {
    return this.acknowledged[randomInt(Math.max(1, this.acknowledged.length))];
  }

  note(what: string, blob: SeededBlob, seen: unknown): void {
    this.violations.push(`${what}: ${blob.size} bytes, ${JSON.stringify(seen)}`);
  }
}

/** From 1 kB to 3 MB, small ones more often. */
function anySize(): number {
  return Math.floor(1000 * 3000 ** (randomInt(1000) / 1000));
}

async function putNew(port: number, ledger: Ledger): Promise<void> {
  const { seeded, blob } = newSeededBlob(anySize());
  const answer = await put(port, blob).catch(() => undefined);
  if (answer === undefined) ledger.unanswered.push(seeded);
  else if (answer.status === 201) ledger.acknowledged.push(seeded);
  else if (answer.status !== 503) ledger.note('a new blob', seeded, answer.text);
}

async function putAgain(port: number, ledger: Ledger): Promise<void> {
  const seeded = ledger.any();
  if (seeded === undefined) return;
  const answer = await put(port, again(seeded)).catch(() => undefined);
  if (answer !== undefined && ![200, 503].includes(answer.status)) ledger.note('a present blob', seeded, answer.text);
}

async function getOne(port: number, ledger: Ledger): Promise<void> {
  const seeded = ledger.any();
  if (seeded === undefined) return;
  const got = await read(port, seeded);
  if (!got.isRight && got.status !== 'broken' && got.status !== 503) ledger.note('a read', seeded, got);
}

async function abortOne(port: number, ledger: Ledger): Promise<void> {
  const { seeded, blob } = newSeededBlob(anySize());
  ledger.aborted.push(seeded);
  const connection = await stalledPut(port, blob, randomInt(seeded.size)).catch(() => undefined);
  connection?.destroy();
}

async function client(port: number, ledger: Ledger, isOver: () => boolean): Promise<void> {
  const operations = [putNew, putNew, putNew, putAgain, getOne, getOne, abortOne];
  while (!isOver()) {
    await operations[randomInt(operations.length)]?.(port, ledger);
    ledger.operations += 1;
  }
}

/** Load until so many more blobs are acknowledged; then `end`, in the midst of it. */
async function loadUntil(
  service: RunningService,
  ledger: Ledger,
  blobs: number,
  end: () => Promise<unknown>,
): Promise<void> {
  let isOver = false;
  const deadline = performance.now() + maxLoadMs;
  const target = ledger.acknowledged.length + blobs;
  let reached: () => void = () => undefined;
  const midst = new Promise<void>((resolve) => {
    reached = resolve;
  });
  const isMidst = (): boolean => ledger.acknowledged.length >= target || performance.now() > deadline;
  const load = Array.from({ length: clients }, () =>
    client(service.port, ledger, () => {
      if (isMidst()) reached();
      return isOver;
    }),
  );
  await midst;
  if (service.ended !== undefined) ledger.violations.push(`it ended by itself: ${service.ended}\n${service.output()}`);
  await end();
  isOver = true;
  await Promise.all(load);
}

/** As clients do: again while the service says that it cannot just now. */
async function settled<T extends { readonly status: number | 'broken' }>(ask: () => Promise<T>): Promise<T> {
  const since = performance.now();
  for (;;) {
    const answer = await ask();
    if (answer.status !== 503 || performance.now() - since > maxBusyMs) return answer;
    await delay(100);
  }
}

async function expectAllThere(port: number, blobs: readonly SeededBlob[], ledger: Ledger): Promise<void> {
  const left = [...blobs];
  const work = async (): Promise<void> => {
    for (let blob = left.pop(); blob !== undefined; blob = left.pop()) {
      const got = await settled(() => read(port, blob));
      if (!got.isRight) ledger.note('lost', blob, got);
    }
  };
  await Promise.all(Array.from({ length: clients }, work));
}

/** What was sent and not answered can be sent again. */
async function expectWhole(port: number, blobs: readonly SeededBlob[], ledger: Ledger): Promise<void> {
  for (const blob of blobs) {
    const answer = await settled(() => put(port, again(blob)));
    if (![200, 201].includes(answer.status)) ledger.note('sent again', blob, answer.text);
    const got = await settled(() => read(port, blob));
    if (!got.isRight) ledger.note('after it was sent again', blob, got);
  }
}

function sampleOf<T>(all: readonly T[], count: number): T[] {
  return Array.from({ length: Math.min(count, all.length) }, () => all[randomInt(all.length)] as T);
}

/** The second service does not start, says why in one line, and the first one goes on. */
async function expectRefused(
  first: RunningService,
  second: Parameters<typeof refusedStart>[0],
  reason: RegExp,
): Promise<void> {
  const before = newBlob(5000);
  expect((await put(first.port, before)).status).toBe(201);
  // the AWS SDK's word on old versions of Node is not ours
  const quiet = { ...second.env, AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: 'true' };
  const { exitCode, stderr } = await refusedStart({ ...second, env: quiet });
  expect(exitCode).toBeGreaterThan(0);
  expect(stderr).toMatch(reason);
  expect(stderr.trim().split('\n')).toHaveLength(1);
  expect(await read(first.port, sized(before))).toEqual(rightRead);
  expect((await put(first.port, newBlob(5000))).status).toBe(201);
}

describe.each(await startPlaces())('kill -9 under load, on $name', ({ name, options, temporaryDir }) => {
  const { dataDir } = options;
  const cycles = cyclesOn(name);
  const temporaryFiles = (): string[] => (temporaryDir === undefined ? [] : readdirSync(temporaryDir));

  it(
    `loses nothing that it acknowledged, ${cycles} times over`,
    async () => {
      const ledger = new Ledger();
      let service = await start(options);
      for (let cycle = 1; cycle <= cycles; cycle += 1) {
        const before = ledger.acknowledged.length;
        const unansweredBefore = ledger.unanswered.length;
        const kill = cycle % 2 === 0 ? () => service.killGroup() : () => service.kill();
        await loadUntil(service, ledger, 1 + randomInt(maxBlobs), kill);
        running.delete(service);
        service = await start(options);
        await expectAllThere(service.port, ledger.acknowledged.slice(before), ledger);
        await expectAllThere(service.port, sampleOf(ledger.acknowledged.slice(0, before), sampleSize), ledger);
        await expectWhole(service.port, ledger.unanswered.slice(unansweredBefore).slice(-clients), ledger);
        expect(ledger.violations, `after cycle ${cycle}`).toEqual([]);
      }
      await expectAllThere(service.port, ledger.acknowledged, ledger);
      for (const blob of sampleOf(ledger.aborted, sampleSize))
        expect(await settled(() => read(service.port, blob))).toEqual(notFound);
      expect(ledger.violations).toEqual([]);
      expect(ledger.acknowledged.length).toBeGreaterThanOrEqual(cycles);
      expect(temporaryFiles()).toEqual([]);
      expect(await service.kill('SIGTERM')).toBe('exit code 0');
      running.delete(service);
      expect(temporaryFiles()).toEqual([]);
      expect(processesIn(dataDir)).toEqual([]);
      console.log(
        `kill -9, ${name}: ${cycles} cycles, ${ledger.operations} operations, ${ledger.acknowledged.length} blobs acknowledged, 0 lost`,
      );
    },
    isLong ? 1_800_000 : 480_000,
  );

  if (name === 'file') return; // its directory keeps others off: see below

  it('keeps a second catalog off its bucket', async () => {
    const first = await start(options);
    const reason = new RegExp(`^lps: this ${name} store belongs to another catalog`);
    await expectRefused(first, { ...options, dataDir: tempDir('other') }, reason);
    await first.stop();
  });
});

describe('one owner', () => {
  const external = startEmbeddedPostgres({ throwAway: true });
  afterAll(async () => (await external).stop());

  it('keeps a second service off a data directory', async () => {
    const dataDir = tempDir('owner');
    const first = await start({ dataDir });
    const reason = new RegExp(`^lps: The data directory .* is in use by another process \\(pid ${first.pid} on `);
    await expectRefused(first, { dataDir }, reason);
    await first.stop();
  });

  it('keeps it off also when the catalog is on a server of its own', async () => {
    const dataDir = tempDir('owner');
    const { url } = await external;
    const env = { LPS_DATABASE_URL: url };
    const first = await start({ dataDir, env });
    await expectRefused(first, { dataDir, env }, /^lps: The data directory .* is in use by another process/);
    // a dead owner keeps nobody out
    await first.kill();
    const next = await start({ dataDir, env });
    await next.stop();
  });

  it('keeps a second catalog off a directory of files', async () => {
    const dataDir = tempDir('owner');
    await (await start({ dataDir })).stop();
    const refused = await refusedStart({
      dataDir,
      env: { LPS_DATABASE_URL: (await external).url, LPS_DATABASE_SCHEMA: 'other' },
    });
    expect(refused.stderr).toMatch(/^lps: this file store belongs to another catalog/);
    expect(refused.exitCode).toBeGreaterThan(0);
  });
});
