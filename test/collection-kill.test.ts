/**
 * The leader of three replicas, killed at every step of the collection, and stopped at some for longer than it may lead. It is
 * held at the step: what it asks of PostgreSQL, of the bucket or of Temporal waits in a proxy. The next leader goes on, no
 * step takes effect twice, and what a workflow, a schedule or a pin holds stays.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { LargePayloadPlugin } from '@large-payload/temporal';
import { describeWith, startTemporal, startVersitygw, tempDir } from '@large-payload/test-components';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { disagreements, objectsIn, rowsIn } from './support/at-rest.ts';
import { movesOf, watchMoves, wrongMoves } from './support/blob-moves.ts';
import { newBlob, put, read, rightRead, sized, type V2Blob } from './support/blobs.ts';
import type { BucketPlace } from './support/bucket-proxy.ts';
import { Bridges } from './support/collection-bridges.ts';
import { type CollectingReplica, CollectionSite } from './support/collection-site.ts';
import { lps } from './support/lps.ts';
import type { StatementPlace } from './support/statement-proxy.ts';
import { until } from './support/until.ts';

/** G and Q. */
const times = { graceMs: 1000, quarantineMs: 1000 };
const args = ['--grace', '1s', '--quarantine', '1s', '--visibility-bound', '100ms', '--collect-interval', '1s'];
const patienceMs = 60_000;
/** Of each test: more than one may wait for. */
const timeout = 300_000;

/** Where a leader is held. */
interface Held {
  readonly reached: Promise<unknown>;
  /** What is held takes effect after all. */
  arrive(): Promise<void>;
  /** It never does. */
  lose(): void;
  /** Nobody is to be held there any more. */
  giveUp(): void;
}

interface Step {
  readonly name: string;
  /** Makes the step necessary. */
  readonly prepare?: () => Promise<void>;
  readonly hold: (leader: CollectingReplica) => Held;
  /** While the leader is held. */
  readonly meanwhile?: () => Promise<void>;
  /** When another one leads. Default: what was held is lost. */
  readonly afterwards?: (held: Held) => Promise<void>;
}

const [temporal, s3] = await Promise.all([startTemporal(), startVersitygw()]);
afterAll(() => Promise.all([temporal?.stop(), s3?.stop()]));
const parts = temporal !== undefined && s3 !== undefined ? { temporal, s3 } : undefined;

describeWith(describe, 'the collection, when its leader dies', parts, ({ temporal, s3 }) => {
  let site: CollectionSite;
  let bridges: Bridges;
  let connection: Connection;
  /** Nobody holds these, by key. */
  const garbage = new Map<string, V2Blob>();
  /** Uploaded again while they were deleted, and pinned since. */
  const pinned: V2Blob[] = [];
  /** Digests of what runs and schedules carry. */
  const held: string[] = [];
  /** The last two that were killed: the third one leads meanwhile. */
  let restarting: Promise<unknown>[] = [];
  let stopped: CollectingReplica | undefined;
  let runs = 0;
  const shared = randomBytes(80_000).toString('hex');
  const feeding = new AbortController();
  /** None is cut off: its lease would keep it for minutes. */
  let [isFeeding, putting]: [boolean, Promise<unknown>] = [true, Promise.resolve()];

  beforeAll(async () => {
    site = await CollectionSite.open({ temporal, s3, replicas: 3, args });
    await watchMoves(site.pool);
    connection = await Connection.connect({ address: temporal.address });
    bridges = new Bridges(site.pool, temporal.namespace);
    await startRun('held', await large(shared));
    const scheduled = [await large()];
    const action = { type: 'startWorkflow', workflowType: 'waits', taskQueue: 'nobody', args: scheduled } as const;
    await client().schedule.create({ scheduleId: 'held', spec: { intervals: [{ every: '300d' }] }, action });
    void feed();
  });
  afterAll(async () => {
    feeding.abort();
    await Promise.allSettled(restarting);
    await connection?.close();
    await site?.close();
  });

  // what there is to hold, and to delete

  const anyPort = (): number => {
    const isThere = (replica: CollectingReplica) => replica.service?.ended === undefined && replica !== stopped;
    return site.replicas.find(isThere)?.port ?? 0;
  };

  /** It deposits what is large, at a replica that lives now. */
  function client(): Client {
    const plugins = [new LargePayloadPlugin({ url: `http://127.0.0.1:${anyPort()}` })];
    return new Client({ connection, namespace: temporal.namespace, plugins });
  }

  /** A text for a run, or a schedule. */
  async function large(text = randomBytes(80_000).toString('hex')): Promise<string> {
    held.push(await bridges.hold(anyPort(), text));
    return text;
  }

  /** Nobody works on it: it stays open. */
  async function startRun(workflowId = `held-${++runs}`, text?: string): Promise<void> {
    const args = [text ?? (await large())];
    await client().workflow.start('waits', { taskQueue: 'nobody', workflowId, args });
  }

  /** One that is not the only holder. */
  async function loseRun(): Promise<void> {
    const workflowId = `lost-${++runs}`;
    await startRun(workflowId, shared);
    await site.moreRounds(2); // a mark has read it
    await client().workflow.getHandle(workflowId).terminate();
    const { namespace } = temporal;
    await connection.workflowService.deleteWorkflowExecution({ namespace, workflowExecution: { workflowId } });
  }

  /** All the time, so that each round has some to quarantine, to retire and to delete. */
  async function feed(): Promise<void> {
    while (!feeding.signal.aborted) {
      const blob = newBlob(1000 + randomInt(30_000));
      garbage.set(blob.key, blob);
      if (isFeeding) putting = put(anyPort(), blob).catch(() => undefined); // nobody was there just then
      await putting;
      await delay(500);
    }
  }

  /** The same bytes once more, while their first object is being deleted: it is another one that they go to. */
  async function uploadAgain(key: string): Promise<void> {
    const blob = garbage.get(key);
    if (blob === undefined) throw new Error(`not one of ours: ${key}`);
    await bridges.pin(anyPort(), key);
    expect([200, 201]).toContain((await put(anyPort(), blob)).status);
    pinned.push(blob);
  }

  // where a leader can be held

  const statement =
    (place: StatementPlace, options?: { readonly outlives: boolean }) =>
    ({ statements }: CollectingReplica): Held =>
      statements.hold(place, options);

  const asking =
    (method: string) =>
    ({ temporal }: CollectingReplica): Held => {
      const asked = temporal.calls.length;
      temporal.fault = (called) => (called === method ? 'never' : undefined);
      const end = (): void => {
        temporal.fault = undefined;
      };
      const isAsked = async () => temporal.calls.slice(asked).includes(method) || undefined;
      const reached = until(`${method}`, isAsked, 2 * patienceMs);
      reached.catch(() => undefined);
      return { reached, lose: end, arrive: async () => end(), giveUp: end };
    };

  let [atBucket, atCatalog] = ['', ''];
  const objectRequest = (place: BucketPlace) => (): Held => {
    const hold = site.bucket.hold(place);
    const reached = hold.reached.then((key) => {
      atBucket = key;
    });
    return { reached, arrive: () => hold.arrive(), lose: () => hold.lose(), giveUp: () => void hold.arrive() };
  };

  /** Whoever leads is held. On a machine that stalls another one may lead before it comes to that: then that one is. */
  async function untilHeld({ name, prepare, hold }: Step): Promise<{ leader: CollectingReplica; step: Held }> {
    const since = performance.now();
    for (;;) {
      await prepare?.();
      const leader = await site.untilLed('a leader');
      const step = hold(leader);
      const isHeld = await site.untilReached(step.reached, leader, patienceMs);
      if (isHeld) return { leader, step };
      step.giveUp();
      if (performance.now() - since > patienceMs) throw new Error(`not reached: ${name}\n${leader.service?.output()}`);
    }
  }

  async function expectNothingLost(): Promise<void> {
    expect(await site.brakes()).toEqual([]);
    expect(await wrongMoves(site.pool, times)).toEqual([]);
    const rows = await rowsIn(site.pool);
    const objects = objectsIn(s3);
    for (const digest of [...held, ...pinned.map((blob) => blob.digest)]) {
      const kept = [...rows].filter(([key, { state }]) => key.includes(`/${digest}/`) && state === 'live');
      expect(kept.map(([key]) => objects.get(key)?.digest)).toEqual([digest]);
    }
  }

  async function withoutUploads(end: () => unknown): Promise<void> {
    isFeeding = false;
    await putting;
    await end();
    isFeeding = true;
  }

  async function killAt({ meanwhile, afterwards, ...place }: Step): Promise<void> {
    await restarting[0];
    await bridges.unpin(anyPort());
    const { leader, step } = await untilHeld(place);
    await meanwhile?.();
    await withoutUploads(() => leader.service?.kill());
    await site
      .untilLed('the next leader', (replica) => replica !== leader)
      .then(() => afterwards?.(step) ?? step.lose())
      .finally(() => {
        const isUp = leader.up();
        isUp.catch(() => undefined);
        restarting = [...restarting.slice(-1), isUp];
      });
    await expectNothingLost();
  }

  const untilGone = (key: string): Promise<unknown> =>
    until(
      `the end of ${key}`,
      async () => (await rowsIn(site.pool)).get(key)?.state === 'gone' || undefined,
      patienceMs,
    );

  const noneRetired = async (): Promise<void> => {
    await until('the deletion', async () => {
      return (await site.pool.query('SELECT FROM lps.retired_object')).rows.length === 0 || undefined;
    });
  };

  const nextRound = /SET rounds = rounds \+ 1/;
  const beginMark = /INSERT INTO lps\.mark /;
  const noteHolders = /INSERT INTO lps\.holder /;
  const addEdges = /INSERT INTO lps\.edge /;
  const endMark = /UPDATE lps\.mark m SET ended_at/;
  const quarantine = /UPDATE lps\.blob b SET state = 'quarantined'/;
  const retire = /INSERT INTO lps\.retired_object /;
  const objectDeleted = /DELETE FROM lps\.retired_object /;
  const markGone = /UPDATE lps\.holder SET gone_at = coalesce/;
  const forgetGone = /DELETE FROM lps\.holder h USING due/;

  const before = (what: RegExp) => statement({ statement: what, when: 'sent', atCommit: true });
  const behind = (what: RegExp) => statement({ statement: what, when: 'answered', atCommit: true });
  const lost = (what: RegExp) => statement({ statement: what, when: 'sent' });
  const late = (what: RegExp) => statement({ statement: what, when: 'sent' }, { outlives: true });
  const done = (what: RegExp) => statement({ statement: what, when: 'answered' });

  const arrives = (held: Held): Promise<void> => held.arrive();
  /** Of garbage, in its first life: no run's blobs, which have metadata. */
  const deletion = { method: 'DELETE', key: new RegExp(`/${newBlob(0).key.split('/').at(-1)}$`) } as const;

  const steps: Step[] = [
    { name: 'a round is to be put on record', hold: before(nextRound) },
    { name: 'a round is on record', hold: behind(nextRound) },
    { name: 'the bucket is to learn of a round', hold: objectRequest({ method: 'PUT', key: /rounds$/, when: 'sent' }) },
    { name: 'Temporal is asked for the namespace', hold: asking('DescribeNamespace') },
    { name: 'a mark is to begin', hold: before(beginMark) },
    { name: 'a mark has begun', hold: behind(beginMark) },
    { name: 'runs are listed', hold: asking('ListWorkflowExecutions') },
    { name: 'holders are to be noted', hold: before(noteHolders) },
    { name: 'holders are noted', hold: behind(noteHolders) },
    { name: 'a run is described', hold: asking('DescribeWorkflowExecution') },
    { name: 'a history is read', prepare: () => startRun(), hold: asking('GetWorkflowExecutionHistoryReverse') },
    { name: 'a schedule is described', hold: asking('DescribeSchedule') },
    { name: 'edges are to be saved', prepare: () => startRun(), hold: before(addEdges) },
    { name: 'edges are saved', prepare: () => startRun(), hold: behind(addEdges) },
    { name: 'a run is to be called gone', prepare: loseRun, hold: late(markGone), afterwards: arrives },
    { name: 'a mark is to end', hold: before(endMark) },
    { name: 'a mark has ended', hold: behind(endMark) },
    { name: 'blobs are to be quarantined', hold: before(quarantine) },
    { name: 'blobs are quarantined', hold: behind(quarantine) },
    { name: 'blobs are to be retired', hold: before(retire) },
    { name: 'blobs are retired', hold: behind(retire) },
    { name: 'an object is to be deleted', hold: objectRequest({ ...deletion, when: 'sent' }) },
    {
      name: 'an object is to be deleted, which happens late',
      hold: objectRequest({ ...deletion, when: 'sent' }),
      meanwhile: () => uploadAgain(atBucket),
      async afterwards(held) {
        await noneRetired();
        await held.arrive();
      },
    },
    {
      name: 'an object is deleted',
      hold: objectRequest({ ...deletion, when: 'answered' }),
      meanwhile: () => uploadAgain(atBucket),
    },
    { name: 'a deletion is to be put on record', hold: lost(objectDeleted) },
    {
      name: 'a deletion is to be put on record, which happens late',
      // not of the first life of a blob that was uploaded again in a step before
      prepare: noneRetired,
      hold: late(objectDeleted),
      // the others of its time are on record soon
      async meanwhile() {
        atCatalog = await until('the last of them', async () => {
          const { rows } = await site.pool.query('SELECT physical_key FROM lps.retired_object');
          return rows.length === 1 ? rows[0].physical_key : undefined;
        });
      },
      async afterwards(held) {
        await untilGone(atCatalog);
        await uploadAgain(atCatalog);
        await held.arrive();
      },
    },
    { name: 'a deletion is on record', hold: done(objectDeleted) },
    { name: 'gone runs are to be forgotten', hold: late(forgetGone), afterwards: arrives },
    { name: 'gone runs are forgotten', hold: done(forgetGone) },
  ];

  for (const step of steps) it(`goes on when it is killed and ${step.name}`, { timeout }, () => killAt(step));

  // stopped, and not dead

  const operator = (...words: string[]) =>
    lps({ store: s3, dataDir: tempDir('operator') }, 'gc', ...words, '--database-url', site.postgres.url);

  async function stopAt({ meanwhile, afterwards, ...place }: Step): Promise<CollectingReplica> {
    await Promise.all(restarting);
    await bridges.unpin(anyPort());
    const { leader: zombie, step } = await untilHeld(place);
    await meanwhile?.();
    await withoutUploads(() => {
      stopped = zombie;
      zombie.signal('SIGSTOP');
    });
    try {
      await site.untilLed('the next leader', (replica) => replica !== zombie);
      await (afterwards?.(step) ?? step.arrive());
    } finally {
      zombie.signal('SIGCONT');
      stopped = undefined;
    }
    await until('its new life', async () => {
      const { rows } = await site.pool.query('SELECT FROM lps.replica WHERE pid = $1 AND gone_at IS NULL', [
        zombie.service?.pid,
      ]);
      return rows.length === 1 || undefined;
    });
    return zombie;
  }

  /** The walk over such blobs was just answered, no brake was found, and the transaction that decides is to begin. */
  const walked = (state: string) => new RegExp(`b\\.state = '${state}'[^;]* ; [^;]*FROM lps\\.brake[^;]*$`);
  const begins = (behind: RegExp) => statement({ statement: /^BEGIN$/, behind, when: 'sent' });
  const decided = async (): Promise<Record<string, number>> => {
    const moves = Object.entries(await movesOf(site.pool));
    return Object.fromEntries(moves.filter(([move]) => /(quarantined|deleting)$/.test(move)));
  };
  const decisions = [
    { name: 'quarantines', hold: begins(walked('live')) },
    { name: 'retires', hold: begins(walked('quarantined')) },
  ];

  for (const step of decisions) {
    it(`${step.name} nothing when it wakes up and another one leads`, { timeout }, async () => {
      let before: Record<string, number> = {};
      await stopAt({
        ...step,
        // the zombie has looked for brakes already; whoever leads now sees this one
        meanwhile: async () => void expect(await operator('pause', '--reason', 'a test')).toMatchObject({ code: 0 }),
        async afterwards(held) {
          await site.moreRounds(2);
          before = await decided();
          await held.arrive();
        },
      });
      await site.moreRounds(2);
      expect(await decided()).toEqual(before);
      expect(await operator('resume')).toMatchObject({ code: 0, out: expect.stringMatching(/^released {2}paused/) });
      await site.pool.query('DELETE FROM lps.brake');
      await expectNothingLost();
    });
  }

  it('ends no mark when it wakes up and another one leads', { timeout }, async () => {
    const epoch = (await site.leader())?.epoch;
    await stopAt({
      name: 'a mark is to end',
      hold: begins(/seen_by IS DISTINCT FROM \$2[^;]*$/),
      afterwards: (held) => site.moreRounds(2).then(() => held.arrive()),
    });
    await site.moreRounds(1);
    const { rows } = await site.pool.query('SELECT FROM lps.mark WHERE epoch >= $1 AND ended_at IS NULL', [epoch]);
    expect(rows.length).toBeGreaterThan(0);
    const late = `SELECT FROM lps.mark JOIN lps.mark later ON later.epoch > mark.epoch WHERE mark.ended_at > later.started_at`;
    expect((await site.pool.query(late)).rows).toEqual([]);
    await expectNothingLost();
  });

  it('deletes no second object when it wakes up and another one leads', { timeout }, async () => {
    await stopAt({
      name: 'an object is to be deleted',
      hold: objectRequest({ ...deletion, when: 'sent' }),
      async afterwards(held) {
        await noneRetired();
        await uploadAgain(atBucket);
        await held.arrive();
      },
    });
    await site.moreRounds(1);
    await expectNothingLost();
  });

  it('leaves nothing but what is held, every object deleted once, and bytes that are right', { timeout }, async () => {
    feeding.abort();
    await Promise.all(restarting);
    const kept = new Set([...held, ...pinned.map(({ digest }) => digest)]);
    const isKept = (key: string): boolean => [...kept].some((digest) => key.includes(`/${digest}/`));
    await until(
      'the end of what nobody holds',
      async () =>
        [...(await rowsIn(site.pool))].every(([key, { state }]) => isKept(key) || state === 'gone') || undefined,
      patienceMs,
    );
    await noneRetired();
    expect(await disagreements(site.pool, s3)).toEqual([]);
    await expectNothingLost();
    expect(objectsIn(s3).size).toBe(kept.size);
    for (const { port } of site.replicas)
      for (const blob of pinned) expect(await read(port, sized(blob))).toEqual(rightRead);
    // a name is written once, and nothing is written there any more once it is deleted
    const history = new Map<string, string>();
    for (const { method, key, status } of site.bucket.written) {
      if (key.startsWith('/blobs/') && status < 300) history.set(key, `${history.get(key) ?? ''} ${method}`.trim());
    }
    expect([...history.values()].filter((all) => !/^PUT( DELETE)*$/.test(all))).toEqual([]);
    const moves = await movesOf(site.pool);
    console.log(`kill -9 of the leader at ${steps.length} steps:`, moves, `${history.size} objects`);
    expect(moves['deleting gone']).toBeGreaterThan(10);
  });
});
