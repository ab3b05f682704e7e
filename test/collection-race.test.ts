/**
 * Clients that upload the same blobs again and again, by API v2 and by the claim check's stat, while the collection, with
 * times of seconds, quarantines and deletes what nobody holds. What was acknowledged is readable for the whole grace.
 */
import { randomInt } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { type BlobStore, ClaimCheck, openHttpStore } from '@large-payload/core';
import { describeWith, startTemporal, startVersitygw, tempDir } from '@large-payload/test-components';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { disagreements, objectsIn, rowsIn } from './support/at-rest.ts';
import { movesOf, watchMoves, wrongMoves } from './support/blob-moves.ts';
import { newBlob, put, read, request, type SeededBlob, sized, type V2Blob } from './support/blobs.ts';
import { CollectionSite } from './support/collection-site.ts';
import { lps } from './support/lps.ts';
import { scaled } from './support/scale.ts';
import { until } from './support/until.ts';

const raceMs = scaled({ usual: 60_000, long: 600_000 });
/** A slow machine does less in that time: it goes on until it was a race. */
const patienceMs = 300_000;
const times = { graceMs: 2000, quarantineMs: 1000 };
const args = ['--grace', '2s', '--quarantine', '1s', '--visibility-bound', '100ms', '--collect-interval', '1s'];
const blobCount = 200;
/** By API v2. Between two uploads of one blob lie some seconds then: enough for any state. */
const writers = 6;
const pauseMs = 170;
/** By the claim check. A stat that revives stops the collection, until an operator lets it go on: so there are fewer. */
const depositors = 2;
const depositPauseMs = 800;
/** The claim check asks before it sends when a blob is larger than that, and it has seen it. */
const statAboveBytes = 65_536;

const [temporal, s3] = await Promise.all([startTemporal(), startVersitygw()]);
afterAll(() => Promise.all([temporal?.stop(), s3?.stop()]));
const parts = temporal !== undefined && s3 !== undefined ? { temporal, s3 } : undefined;

/** 1 kB to 200 kB, small ones more often. */
function anySize(): number {
  return Math.floor(1000 * 200 ** (randomInt(1000) / 1000));
}

/** Mean times: exponential, so that any pause can follow any other. */
function pause(meanMs: number): Promise<void> {
  return delay(-Math.log(1 - randomInt(1000) / 1000) * meanMs);
}

describeWith(describe, 'uploads, and a collection with tiny times', parts, ({ temporal, s3 }) => {
  let site: CollectionSite;
  const blobs = Array.from({ length: blobCount }, () => newBlob(anySize()));
  const violations: string[] = [];
  const counts: Record<string, number> = {};
  const reading = new Set<Promise<void>>();
  /** From when until when each blob was promised to be kept, by `performance.now()`; in order of the answers. */
  const promised = new Map<V2Blob, { readonly fromMs: number; readonly untilMs: number }[]>();
  let isOver = false;
  let isEmpty = false;
  let operating: Promise<void> = Promise.resolve();

  beforeAll(async () => {
    const all = [...args, '--collect-max-percent', '100'];
    site = await CollectionSite.open({ temporal, s3, replicas: 2, args: all });
    await watchMoves(site.pool);
  });
  afterAll(async () => {
    isEmpty = true;
    await operating.catch(() => undefined);
    await site?.close();
  });

  const count = (what: string): void => {
    counts[what] = (counts[what] ?? 0) + 1;
  };
  const anyPort = (): number => site.replicas[randomInt(site.replicas.length)]?.port ?? 0;

  /** Now and then the one that others choose in the same moment, too. */
  function anyOf(some: readonly V2Blob[]): V2Blob {
    const hot = Math.floor(performance.now() / 400);
    const index = randomInt(8) === 0 ? hot % some.length : randomInt(some.length);
    return some[index] ?? newBlob(0);
  }

  /** It was acknowledged, and is readable for so long since it was asked for. Looks after some of them. */
  function acknowledged(blob: V2Blob, askedAt: number, forMs: number): void {
    const untilMs = askedAt + forMs;
    promised.set(blob, [...(promised.get(blob) ?? []), { fromMs: performance.now(), untilMs }]);
    if (randomInt(2) === 0) return;
    const look = async (): Promise<void> => {
      await delay(Math.max(0, untilMs - performance.now()) * (randomInt(950) / 1000));
      await expectReadable(blob, untilMs);
    };
    const looked = look().finally(() => reading.delete(looked));
    reading.add(looked);
  }

  /** An answer that came too late says nothing, and one that was asked for too late would bring the blob back. */
  async function expectReadable(blob: V2Blob, untilMs: number): Promise<void> {
    if (performance.now() > untilMs) return count('not read in time');
    const seeded: Pick<SeededBlob, 'key' | 'digest' | 'size'> = sized(blob);
    const got = await read(anyPort(), seeded);
    const leftMs = untilMs - performance.now();
    if (leftMs < 0) return count('not read in time');
    count('read in time');
    if (!got.isRight) violations.push(`${got.status} ${leftMs.toFixed()} ms before the end of its grace: ${blob.key}`);
  }

  /** What is quarantined can still be read: no reader would notice. Both clocks are this machine's. */
  async function condemnedTooEarly(): Promise<string[]> {
    const { rows } = await site.pool.query(
      `SELECT encode(digest, 'hex') AS hex, extract(epoch FROM at) * 1000 AS at
       FROM public.blob_move m JOIN lps.blob b ON b.id = m.blob_id WHERE became = 'quarantined'`,
    );
    const byDigest = new Map([...promised].map(([{ digest }, all]) => [digest, all]));
    return rows.flatMap(({ hex, at }) => {
      const atMs = Number(at) - performance.timeOrigin;
      const all = byDigest.get(`sha256:${hex}`) ?? [];
      const broken = all.find(({ fromMs, untilMs }) => fromMs < atMs && atMs < untilMs - 1);
      return broken === undefined
        ? []
        : [`in quarantine ${broken.untilMs - atMs} ms before the end of its grace: ${hex}`];
    });
  }

  async function write(): Promise<void> {
    while (!isOver) {
      const blob = anyOf(blobs);
      const askedAt = performance.now();
      const { status, text } = await put(anyPort(), blob);
      count(`put ${status}`);
      if (status === 200 || status === 201) acknowledged(blob, askedAt, times.graceMs);
      else if (status !== 503) violations.push(`${status} ${text}`);
      await pause(pauseMs);
    }
  }

  /** What asks first, and skips the upload. */
  async function deposit(store: BlobStore): Promise<void> {
    const claims = new ClaimCheck({ store, namespace: 'default', cacheBytes: 0, deadlineMs: 60_000 });
    const large = blobs.filter(({ bytes }) => bytes.length > statAboveBytes);
    while (!isOver) {
      const blob = anyOf(large);
      // again soon, when it need not even ask, or only to renew the protection
      for (const waitMs of [0, randomInt(times.graceMs)]) {
        await delay(waitMs);
        const askedAt = performance.now();
        const { key } = await claims.deposit({ data: blob.bytes });
        count('deposited');
        expect(key).toBe(blob.key);
        // skipped without asking: the other half of the time that was left
        acknowledged(blob, askedAt, times.graceMs / 2);
      }
      await pause(depositPauseMs);
    }
  }

  function openCounted(port: number): BlobStore {
    const store = openHttpStore({ url: `http://127.0.0.1:${port}` });
    return {
      ...store,
      async stat(keys, options) {
        const found = (await store.stat?.(keys, options)) ?? new Map();
        for (const key of keys) count(found.has(key) ? 'skipped by stat' : 'stat: absent');
        return found;
      },
    };
  }

  /**
   * A stat of a quarantined blob looks as if a holder had been missed. Somebody looks, and knows better: to the end, for the
   * leader may notice the last one late.
   */
  async function operate(): Promise<void> {
    const dataDir = tempDir('operator');
    while (!isEmpty) {
      const { rows } = await site.pool.query("SELECT FROM lps.brake WHERE kind = 'revived' AND released_at IS NULL");
      if (rows.length > 0) {
        const resumed = ['gc', 'resume', '--kind', 'revived', '--database-url', site.postgres.url];
        const { code, err } = await lps({ store: s3, dataDir }, ...resumed);
        if (code !== 0) violations.push(err);
        count('resumed');
      }
      await delay(100);
    }
  }

  /** What a race is: how often, at least, each thing has happened. */
  const enough = raceMs / 1000;
  const leastMoves = {
    'live quarantined': enough,
    'quarantined live': enough / 4,
    'deleting gone': enough / 2,
    'gone uploading': enough / 4,
  };

  async function missing(): Promise<string[]> {
    const happened: Record<string, number> = await movesOf(site.pool);
    const moves = Object.entries(leastMoves).filter(([move, least]) => (happened[move] ?? 0) <= least);
    return [...moves.map(([move]) => move), ...((counts['read in time'] ?? 0) > 5 * enough ? [] : ['read in time'])];
  }

  async function untilItWasARace(): Promise<void> {
    const since = performance.now();
    await delay(raceMs);
    while (!isOver && performance.now() - since < raceMs + patienceMs && (await missing()).length > 0)
      await delay(1000);
  }

  it(
    'keep what was acknowledged for the grace, and lose nothing else',
    async () => {
      const stores = Array.from({ length: depositors }, (_, index) => openCounted(site.replicas[index]?.port ?? 0));
      operating = operate();
      const running = [...Array.from({ length: writers }, () => write()), ...stores.map((store) => deposit(store))];
      // one that fails ends it early
      await Promise.race([...running, operating, untilItWasARace()]).finally(() => {
        isOver = true;
      });
      await Promise.all(running);
      const lastMs = [...promised].map(
        ([blob, all]) => [blob, Math.max(...all.map(({ untilMs }) => untilMs))] as const,
      );
      await Promise.all(lastMs.map(([blob, untilMs]) => expectReadable(blob, untilMs)));
      await Promise.all(reading);
      await Promise.all(stores.map((store) => store.close?.()));
      const moves = await movesOf(site.pool);
      console.log(`${raceMs / 1000} s of uploads against the collection:`, counts, moves);
      violations.push(...(await condemnedTooEarly()));
      expect(violations).toEqual([]);
      expect(await wrongMoves(site.pool, times)).toEqual([]);
      expect((await site.brakes()).filter((brake) => !brake.startsWith('revived:'))).toEqual([]);
      for (const { port } of site.replicas)
        expect((await request(port, '/metrics')).text).not.toMatch(
          /^lps_alarms_total\{kind="(damaged|missing)"\} [1-9]/m,
        );
      expect(await missing()).toEqual([]);
    },
    raceMs + patienceMs + 120_000,
  );

  it('leave nothing when nobody uploads any more', async () => {
    await until(
      'the end of every blob',
      async () => [...(await rowsIn(site.pool)).values()].every(({ state }) => state === 'gone') || undefined,
      180_000,
    );
    isEmpty = true;
    await operating;
    expect(violations).toEqual([]);
    await until('the last deletion', async () => {
      return (await site.pool.query('SELECT FROM lps.retired_object')).rows.length === 0 || undefined;
    });
    expect(await disagreements(site.pool, s3)).toEqual([]);
    expect(objectsIn(s3).size).toBe(0);
    const generations = [...(await rowsIn(site.pool)).values()].map(({ generation }) => generation);
    expect(Math.max(...generations)).toBeGreaterThan(2);
  }, 300_000);
});
