/**
 * S7 on real processes: three replicas and three cache nodes, read from all the time, while the same blobs are uploaded,
 * networks of single nodes are cut, and any of the processes is killed. When a takedown is complete, no node serves a byte.
 * LPS_TEST_SEED=n plays the moves of one run (their times are the machine's); a failure names its seed.
 */
import { randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describeWith, startVersitygw } from '@large-payload/test-components';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { v2Blob } from '../packages/server/src/http/testing.ts';
import { SeededRandom } from '../packages/server/src/lifecycle/simulation/random-fixture.ts';
import { metric, type V2Blob } from './support/blobs.ts';
import { scaled } from './support/scale.ts';
import { SiteLoad, SlowRead } from './support/takedown-load.ts';
import { type SiteNode, startTakedownSite, type TakedownSite } from './support/takedown-site.ts';
import { type SeenTakedown, soonTakedown, takeDown, untilTakedown } from './support/takedowns.ts';
import { until } from './support/until.ts';

const only = process.env.LPS_TEST_SEED;
const runs = only === undefined ? scaled({ usual: 10, long: 200 }) : 1;
const first = Number(only ?? 1);
const say = (text: string): void => {
  if (process.env.LPS_TEST_TRACE !== undefined) console.log(text);
};

/** More than networks and processes keep of a response that nobody reads. */
const largeBytes = 48 * 1024 * 1024;
const uploaders = 3;
/** How long it is read from all nodes afterwards. */
const afterwardsMs = 600;

const s3 = await startVersitygw();

describeWith(describe, 'takedowns while nodes are cut off and killed', s3, (s3) => {
  let site: TakedownSite;
  let load: SiteLoad;
  let sql: pg.Pool;
  /** Ends what lasts. */
  let release = (): void => undefined;
  const all = { checked: 0, notGone: 0, slow: 0, kills: 0, cuts: 0 };

  beforeAll(async () => {
    site = await startTakedownSite({ store: s3, maxStaleness: '1s' });
    sql = new pg.Pool({ connectionString: site.postgres.url, max: 2 }).on('error', () => undefined);
    load = new SiteLoad(site.nodes, new SeededRandom(first));
    load.start(uploaders);
  });
  afterAll(async () => {
    await load?.stop();
    await sql?.end();
    await site?.stop();
    await s3.stop();
  });

  it(`leave nothing that any node serves, in ${runs} runs`, { timeout: runs * 120_000 }, async () => {
    for (let seed = first; seed < first + runs; seed += 1) {
      try {
        await run(seed);
      } catch (error) {
        release();
        say(`seed ${seed}: ${(error as Error).message}`);
        const said = site.nodes.map((node) => `${node.name}: ${node.output().slice(-600)}`).join('\n');
        throw new Error(`LPS_TEST_SEED=${seed}: ${(error as Error).message}\n${said}`, { cause: error });
      }
    }
    say(`${JSON.stringify(all)} ${[...load.statuses].map(([what, count]) => `${what}: ${count}`).join(', ')}`);
    // runs in which all comes back, or in which nobody reads, prove nothing
    if (only === undefined) expect(all.checked).toBeGreaterThan(runs);
    if (only === undefined) expect(all.kills + all.cuts).toBeGreaterThan(runs);
    if (only === undefined) expect(all.slow).toBeGreaterThan(runs / 4);
  });

  async function run(seed: number): Promise<void> {
    const beganAtMs = performance.now();
    const random = new SeededRandom(seed);
    const namespace = `run-${seed}`;
    const blobs = [300, 70_000, 300_000].map((size) => v2Blob(randomBytes(size), namespace));
    const large = v2Blob(randomBytes(largeBytes), namespace);
    const control = v2Blob(randomBytes(5000), `${namespace}-kept`);
    for (const blob of [...blobs, large, control]) await putSomewhere(random, blob);
    load.blobs = blobs;
    for (const node of site.nodes) for (const blob of [...blobs, control]) await untilServed(node, blob);
    const slow = await beginSlowReads(random, large);
    // where nobody uploads it is soon complete
    const uploads = random.chance(0.6);
    load.isUploading = uploads;

    const isBlocking = random.chance(0.5);
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    const chaos = Array.from({ length: random.between(1, 3) }, () => trouble(random, released));
    await delay(random.below(500));
    chaos.push(cutCache(random, released));
    await delay(random.below(100));
    const id = await ask(random, { selector: selectorOf(random, namespace, blobs, large), block: isBlocking });
    const accepted = await untilTakedown(() => site.whole().port, id, 'accepted');
    const acceptedAtMs = performance.now();
    say(`seed ${seed}: ${accepted.state}, ${isBlocking ? 'blocked' : 'may come again'}`);
    if (!isBlocking) load.isUploading = false;
    const quiet = quieten();
    const { state } = await completed(id, quiet);
    const completedAtMs = performance.now();
    expect(state).toBe('completed');
    say(
      `completed ${Math.round(completedAtMs - acceptedAtMs)} ms later, ${Math.round(completedAtMs - beganAtMs)} ms in all`,
    );

    load.isUploading = uploads && isBlocking;
    await delay(afterwardsMs);
    const gone = await takenDown([...blobs, large]);
    all.notGone += blobs.length + 1 - gone.length;
    await checkNobodyServes(gone, completedAtMs); // some are still cut off
    release();
    await Promise.all(chaos);
    await checkNobodyServes(gone, completedAtMs);
    all.checked += gone.length;
    for (const read of slow) await checkSlow(read, gone);
    load.isUploading = false;
    for (const node of site.nodes) await untilServed(node, control);
    load.blobs = [];
    load.served.length = 0;
  }

  // ── before

  async function putSomewhere(random: SeededRandom, blob: V2Blob): Promise<void> {
    await until(`an upload of ${blob.bytes.length} bytes`, async () => {
      const status = await load.upload(random.pick(site.nodes), blob);
      return status === 200 || status === 201 ? true : undefined;
    });
  }

  async function untilServed(node: SiteNode, blob: V2Blob): Promise<void> {
    await until(`${blob.key} from ${node.name}`, async () => {
      const { status, bytes } = await load.read(node, blob);
      return status === 200 && bytes === blob.bytes.length ? true : undefined;
    });
  }

  async function beginSlowReads(random: SeededRandom, large: V2Blob): Promise<SlowRead[]> {
    const nodes = [random.pick(site.replicas), random.pick(site.caches)];
    // a node that a busy machine has held up for longer than its lease says so: its clients come again
    const begun = (node: SiteNode): Promise<SlowRead> =>
      until(`a slow read from ${node.name}`, async () => {
        const read = new SlowRead(node, large);
        return (await read.begin()) === 200 ? read : read.destroy();
      });
    return Promise.all(nodes.map(begun));
  }

  // ── trouble

  /** Something breaks, and is whole again; some of it only when all is over. */
  async function trouble(random: SeededRandom, released: Promise<void>): Promise<void> {
    const node = random.pick(site.nodes);
    const [beforeMs, forMs] = [random.below(1500), random.between(200, 2500)];
    const how = random.pick(['refused', 'silent'] as const);
    const [kills, lasts] = [random.chance(0.4), random.chance(0.6)];
    await delay(beforeMs);
    // one replica at least lives, and reaches the catalog
    const wholeReplicas = site.replicas.filter(({ isUp, network }) => isUp && !network.isCut);
    const isNeeded = node.kind === 'replica' && wholeReplicas.length < 2;
    if (!node.isUp || node.network.isCut || isNeeded) return;
    if (kills) {
      all.kills += 1;
      await node.kill();
      await delay(forMs / 4);
      await node.start();
    } else {
      await cut(node, how, lasts ? released : delay(forMs));
    }
  }

  /** One cannot hear of the takedown, while its lease lasts. */
  async function cutCache(random: SeededRandom, released: Promise<void>): Promise<void> {
    const node = random.pick(site.caches);
    const how = random.pick(['refused', 'silent'] as const);
    if (node.isUp && !node.network.isCut) await cut(node, how, released);
  }

  async function cut(node: SiteNode, how: 'refused' | 'silent', until: Promise<void>): Promise<void> {
    all.cuts += 1;
    node.network.cut(how);
    await until;
    node.network.heal();
  }

  // ── the takedown

  function selectorOf(
    random: SeededRandom,
    namespace: string,
    blobs: readonly V2Blob[],
    large: V2Blob,
  ): Record<string, string> {
    const { digest, key } = random.pick([...blobs, large]);
    return random.pick([
      { namespace, uploadedFrom: '2020-01-01T00:00:00Z' },
      { namespace, uploadedFrom: '2020-01-01T00:00:00Z' },
      { namespace, digest },
      { namespace, key },
    ]);
  }

  async function ask(random: SeededRandom, asked: Parameters<typeof takeDown>[1]): Promise<string> {
    const id = crypto.randomUUID();
    return until('a takedown on record', async () => {
      const replica = random.pick(site.replicas);
      const answer = replica.isUp && !replica.network.isCut ? takeDown(replica.port, { ...asked, id }) : undefined;
      return Promise.race([answer, delay(3000)]) as Promise<string | undefined>;
    });
  }

  /**
   * Nobody uploads for a moment, and leases of uploads that died with their process end now instead of after ten minutes: those
   * that are left when no upload is under way, neither at a client nor, where that has lost patience, at a replica.
   */
  async function quieten(): Promise<void> {
    const before = load.isUploading;
    load.isUploading = false;
    await load.settled();
    for (const node of site.replicas) await until(`no upload at ${node.name}`, () => hasNoUploads(node), 60_000);
    await sql.query(`UPDATE lps.lease SET expires_at = now() WHERE expires_at > now()`);
    load.isUploading = before;
  }

  /** One that cannot reach the catalog begins none, and waits long for what it cannot commit. */
  async function hasNoUploads(node: SiteNode): Promise<true | undefined> {
    const uploads = node.isUp && !node.network.isCut ? await metric(node.port, 'lps_uploads_in_flight') : 0;
    return uploads === 0 || undefined;
  }

  async function completed(id: string, quiet: Promise<void>): Promise<SeenTakedown> {
    await quiet;
    return until(
      'a takedown that is completed',
      async () => {
        const seen = await soonTakedown(site.whole().port, id);
        if (seen.state === 'completed' || seen.state === 'failed') return seen;
        if (seen.problem?.includes('uploads under way')) await quieten();
        return undefined;
      },
      100_000,
    );
  }

  // ── after

  /** Those that did not come again: who was not blocked may have been uploaded after the takedown was accepted. */
  async function takenDown(blobs: readonly V2Blob[]): Promise<V2Blob[]> {
    const digests = blobs.map(({ digest }) => digest.slice('sha256:'.length));
    const { rows } = await sql.query(
      `SELECT encode(digest, 'hex') AS hex FROM lps.blob WHERE encode(digest, 'hex') = ANY($1) AND state = 'taken_down'`,
      [digests],
    );
    const gone = new Set(rows.map(({ hex }) => `sha256:${hex}`));
    return blobs.filter(({ digest }) => gone.has(digest));
  }

  async function checkNobodyServes(gone: readonly V2Blob[], completedAtMs: number): Promise<void> {
    const check = async (node: SiteNode, blob: V2Blob): Promise<void> => {
      const { bytes } = await load.read(node, blob);
      expect(bytes, `${node.name} serves ${blob.key}`).toBe(0);
    };
    await Promise.all(gone.flatMap((blob) => site.nodes.map((node) => check(node, blob))));
    for (const blob of gone) expect(objectsOf(blob)).toEqual([]);
    const keys = new Set(gone.map(({ key }) => key));
    const late = load.served.filter(({ key, askedAtMs }) => keys.has(key) && askedAtMs > completedAtMs);
    const said = late.map(({ node, key, askedAtMs, bytes }) => {
      const afterMs = Math.round(askedAtMs - completedAtMs);
      return `${node.name} was asked ${afterMs} ms later, and served ${bytes} bytes of ${key}`;
    });
    expect(said.join('\n')).toBe('');
  }

  /** What was on its way at the end is in buffers; the whole of it is not. */
  async function checkSlow(read: SlowRead, gone: readonly V2Blob[]): Promise<void> {
    const bytes = await read.finish();
    if (!gone.includes(read.blob)) return;
    all.slow += 1;
    expect(bytes, `${read.node.name} went on to serve ${read.blob.key}`).toBeLessThan(largeBytes);
  }

  function objectsOf({ digest }: V2Blob): string[] {
    const hex = digest.slice('sha256:'.length);
    const files = readdirSync(join(s3.dir, s3.bucket), { recursive: true, withFileTypes: true });
    const paths = files.filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name));
    return paths.filter((path) => path.includes(hex));
  }
});
