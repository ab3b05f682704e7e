// One size of bench/collection.mjs, in a process of its own: the marks and the sweep of the service, on a PostgreSQL, over a
// Temporal that is made up (temporal-model.mjs), or on a real one (temporal-runs.mjs). Tells its parent one result a phase.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { metadataDigest } from '@large-payload/core';
import pg from 'pg';
import { startEmbeddedPostgres } from '../packages/server/dist/catalog/embedded-postgres.js';
import { openCatalog } from '../packages/server/dist/catalog/postgres-catalog.js';
import { openLifecycleCatalog } from '../packages/server/dist/lifecycle/catalog/postgres-lifecycle.js';
import { openExtractor } from '../packages/server/dist/lifecycle/extract/extractor.js';
import { runsKind } from '../packages/server/dist/lifecycle/holders/runs.js';
import { schedulesKind } from '../packages/server/dist/lifecycle/holders/schedules.js';
import { judge } from '../packages/server/dist/lifecycle/judge.js';
import { markNamespace } from '../packages/server/dist/lifecycle/mark.js';
import { deleteRetired, planSweep, sweep } from '../packages/server/dist/lifecycle/sweep.js';
import { garbageEvery, ModelCluster, runInSql } from './temporal-model.mjs';
import { childrenUsage, cpuSeconds, peakRssMiB, resetPeakRss } from './usage.mjs';

const MiB = 2 ** 20;
const schema = 'lps';
const blobNamespace = 'orders';
const blobBytes = 500_000;
const graceMs = 86_400_000;
/** No waiting: what takes days elsewhere follows at once. */
const times = { graceMs, quarantineMs: 0, visibilityMs: 0, lingerMs: 0 };
const rowsAtOnce = 100_000;
/** How often the heap is measured, behind a full collection. */
const heapEveryMs = 1000;

const [options] = process.argv.slice(2).map((text) => JSON.parse(text));
const dir = mkdtempSync(join(tmpdir(), 'bench-collection-'));
process.once('exit', () => rmSync(dir, { recursive: true, force: true }));
const stopped = new AbortController();
process.once('SIGTERM', () => stopped.abort(new Error('stopped')));
process.once('disconnect', () => stopped.abort(new Error('the parent has gone')));
const { signal } = stopped;

const statements = countStatements();
const postgres = await startEmbeddedPostgres({ dataDir: dir, maxConnections: 20 });
try {
  await (options.address === undefined ? run(options) : runOnTemporal(options));
} catch (error) {
  const { message, cause } = error;
  process.stderr.write(`bench: ${[message, cause?.message].filter(Boolean).join(': ')}\n`);
  process.exitCode = 1;
} finally {
  await postgres.stop();
}
process.exit();

async function run({ runs, rows, seed, marked }) {
  const world = await openWorld(new ModelCluster({ runs, rows, seed, blobNamespace }), { runs, rows, seed });
  const { catalog, model, fence } = world;
  const garbage = Math.ceil(rows / garbageEvery);
  const few = Math.ceil(runs / 100);
  if (marked) await measured(world, 'marked', () => markInSql(world, seed));
  else await mark(world, 'first mark', runs);
  await mark(world, 'nothing new', runs);
  const isStopped = async () => false;
  const one = { catalog, fence, permission: await permitted(catalog), quarantineMs: 0, signal, isStopped };
  await measured(world, 'plan', async () => {
    const { quarantine } = await planSweep(one);
    require(quarantine.blobs === garbage, `${quarantine.blobs} blobs would go, not ${garbage}`);
    return { blobs: quarantine.blobs };
  });
  await measured(world, 'quarantine', async () => swept(await sweep(one), { quarantined: garbage, retired: 0 }));
  model.gone = few;
  model.total = runs + few;
  model.movedOn = true;
  await mark(world, '1 % new', runs);
  await mark(world, 'nothing new, again', runs);
  const two = { ...one, permission: await permitted(catalog) };
  await measured(world, 'retire', async () => swept(await sweep(two), { quarantined: 0, retired: garbage }));
  await measured(world, 'delete', async () => {
    const store = { delete: async () => undefined };
    const { blobs } = await deleteRetired({ catalog, store, signal, isStopped, mayDelete: async () => undefined });
    require(blobs === garbage, `${blobs} objects were deleted, not ${garbage}`);
    return { blobs };
  });
  await measured(world, 'plan, nothing due', async () => {
    const { quarantine, retire } = await planSweep(two);
    require(quarantine.blobs + retire.blobs === 0, 'something is due');
    return { blobs: 0 };
  });
  await measured(world, 'forget', async () => {
    let forgotten = 0;
    for (let some = 1; some > 0; forgotten += some) some = await catalog.forgetGone(0, 10_000);
    require(forgotten === few, `${forgotten} holders were forgotten, not ${few}`);
    return { holders: forgotten };
  });
  await world.close();
}

/** Marks alone: what differs from the model is what a request costs. */
async function runOnTemporal({ runs, rows, seed, address }) {
  const { CountedCluster, startRuns } = await import('./temporal-runs.mjs'); // gRPC takes memory
  await startRuns({ address, runs, seed, blobNamespace, signal });
  const cluster = new CountedCluster(address);
  await cluster.open();
  const world = await openWorld(cluster, { runs, rows, seed });
  await mark(world, 'first mark');
  await mark(world, 'nothing new');
  await cluster.close();
  await world.close();
}

async function openWorld(model, { runs, rows, seed }) {
  const sql = new pg.Client({ connectionString: postgres.url });
  sql.on('error', () => undefined); // its statement says so, too
  await sql.connect();
  await (await openCatalog({ url: postgres.url, schema, graceMs, cacheEntries: 0 })).close();
  const catalog = await openLifecycleCatalog({ url: postgres.url, schema, graceMs });
  const extractor = openExtractor();
  const world = {
    sql,
    catalog,
    model,
    runs,
    rows,
    fence: await lead(sql),
    kinds: [runsKind(extractor), schedulesKind(extractor)],
  };
  await measured(world, 'rows', () => makeRows(sql, catalog, rows, seed));
  return {
    ...world,
    async close() {
      await catalog.close();
      await sql.end();
    },
  };
}

/** What a first mark leaves, without its hours. */
async function markInSql({ sql, catalog, fence, model, runs, rows }, seed) {
  const { cluster, name, describe } = model.namespace();
  const { retentionMs, gaps: _, ...identity } = await describe();
  const known = await catalog.knowNamespace({ cluster, name }, identity);
  const first = await catalog.beginMark(fence, known, retentionMs);
  for (let from = 0; from < runs; from += rowsAtOnce) {
    await sql.query(
      `INSERT INTO ${schema}.holder (namespace_id, kind, external_id, seen_by, scanned_by, is_done, cursor)
      SELECT $1, 'run', ${runInSql.id}, $2::bigint, $2::bigint, NOT (${runInSql.isOpen}), ${runInSql.cursor}
      FROM generate_series($3::bigint, $4::bigint) number`,
      [known.id, first.id, from, Math.min(runs, from + rowsAtOnce) - 1],
    );
  }
  for (let from = 0; from < Math.max(runs, rows); from += rowsAtOnce) {
    await sql.query(
      `INSERT INTO ${schema}.edge (holder_id, digest, namespace)
      SELECT h.id, sha256(convert_to($2 || '/' || CASE held % ${garbageEvery} WHEN 0 THEN held + 1 ELSE held END, 'UTF8')), $3
      FROM (SELECT pair % $4 AS number, pair % $5 AS held FROM generate_series($6::bigint, $7::bigint) pair) pairs
      JOIN ${schema}.holder h ON h.namespace_id = $1 AND h.kind = 'run' AND h.external_id = ${runInSql.id}
      ON CONFLICT DO NOTHING`,
      [known.id, seed, blobNamespace, runs, rows, from, Math.min(Math.max(runs, rows), from + rowsAtOnce) - 1],
    );
  }
  await sql.query('ANALYZE');
  const { holders } = await catalog.endMark(fence, first, {
    ...{ isComplete: true, gaps: [], holders: runs, scanned: runs },
  });
  return { holders };
}

async function mark(world, name, expected) {
  const { catalog, fence, model, kinds } = world;
  await measured(world, name, async () => {
    const { mark: ended } = await markNamespace({ catalog, fence, namespace: model.namespace(), kinds, signal });
    require(ended.isComplete, `the mark is not complete: ${ended.gaps.join('; ')}`);
    const { holders, scanned } = ended;
    require(holders === (expected ?? holders), `the mark saw ${holders} holders, not ${expected}`);
    return { holders, scanned };
  });
}

function require(isSo, otherwise) {
  if (!isSo) throw new Error(otherwise);
}

function swept({ quarantined, retired }, expected) {
  require(quarantined.blobs === expected.quarantined &&
    retired.blobs === expected.retired, 'the wrong blobs were swept');
  return { blobs: quarantined.blobs + retired.blobs };
}

async function permitted(catalog) {
  const clusters = [{ name: 'bench', isIsolated: false }];
  const { permission, missing } = await judge(blobNamespace, { catalog, clusters, times, retention: new Map() });
  require(permission !== undefined, `nothing is permitted: ${missing?.join('; ')}`);
  return permission;
}

/** Blobs that were last used two months ago. */
async function makeRows(sql, catalog, rows, seed) {
  const metadata = Buffer.from(metadataDigest(null).slice('sha256:'.length), 'hex');
  for (let from = 0; from < rows; from += rowsAtOnce) {
    await sql.query(
      `INSERT INTO ${schema}.blob (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix, touched_at)
      SELECT $1, '', sha256(convert_to($2 || '/' || number, 'UTF8')), $3, $4, 'live', 1, '', now() - interval '60 days'
      FROM generate_series($5::bigint, $6::bigint) number`,
      [blobNamespace, seed, metadata, blobBytes, from, Math.min(rows, from + rowsAtOnce) - 1],
    );
    await catalog.sums(); // as the leader does once a minute
  }
  await sql.query('ANALYZE');
  return { blobs: rows };
}

async function lead(sql) {
  const { rows } = await sql.query(`UPDATE ${schema}.leader SET epoch = epoch + 1 RETURNING epoch`);
  return { epoch: String(rows[0].epoch) };
}

/** Sends the parent what a phase took. */
async function measured({ sql, model, runs, rows }, phase, work) {
  globalThis.gc();
  model.calls = {};
  model.ownMs = 0;
  statements.clear();
  resetPeakRss(process.pid);
  const heap = watchHeap();
  const before = await usage(sql);
  const from = performance.now();
  const outcome = await work();
  const seconds = (performance.now() - from) / 1000;
  const sent = statements.clear();
  const peakHeapMiB = heap.stop();
  const after = await usage(sql);
  process.send({
    ...{ runs, rows, phase, ...outcome },
    seconds: round(seconds, 2),
    cpu_s: round(after.cpuS - before.cpuS, 2),
    model_s: round(model.ownMs / 1000, 2),
    database_cpu_s: round(after.databaseCpuS - before.databaseCpuS, 2),
    peak_rss_MiB: round(peakRssMiB(process.pid) ?? 0, 1),
    heap_MiB: round(peakHeapMiB, 1),
    calls: model.calls,
    statements: sent.reduce((sum, { count }) => sum + count, 0),
    wal_MB: round((after.walBytes - before.walBytes) / 1e6, 1),
    slowest: sent.slice(0, 8),
    tables: await tables(sql),
  });
}

async function usage(sql) {
  const { rows } = await sql.query(`SELECT pg_current_wal_insert_lsn() - '0/0' AS wal_bytes`);
  const { user, system } = process.cpuUsage();
  return {
    cpuS: (user + system) / 1e6,
    databaseCpuS: cpuSeconds(postgres.pid, true) + childrenUsage(postgres.pid).cpuS,
    walBytes: Number(rows[0].wal_bytes),
  };
}

/** What is reachable, not what waits to be collected: the most of it. */
function watchHeap() {
  let peak = 0;
  const look = () => {
    globalThis.gc();
    peak = Math.max(peak, process.memoryUsage().heapUsed);
  };
  const timer = setInterval(look, heapEveryMs);
  return {
    stop() {
      clearInterval(timer);
      look();
      return peak / MiB;
    },
  };
}

/** Rows, and MB with indexes. */
async function tables(sql) {
  const found = {};
  for (const name of ['blob', 'holder', 'edge']) {
    const { rows } = await sql.query(
      `SELECT (SELECT count(*) FROM ${schema}.${name})::float8 AS rows,
        round(pg_total_relation_size('${schema}.${name}') / 1e6, 1)::float8 AS mb`,
    );
    found[name] = rows[0];
  }
  return found;
}

/** Statements that this process sends: how many of each, and how long they took together, in ms. */
function countStatements() {
  let sent = new Map();
  const { query } = pg.Client.prototype;
  const note = (label, from) => {
    const one = sent.get(label) ?? { count: 0, ms: 0 };
    sent.set(label, { count: one.count + 1, ms: one.ms + performance.now() - from });
  };
  pg.Client.prototype.query = function (...args) {
    const [first] = args;
    const label =
      first.name ??
      String(first.text ?? first)
        .replace(/\s+/g, ' ')
        .slice(0, 60);
    const from = performance.now();
    const callback = args.findLastIndex((argument) => typeof argument === 'function');
    if (callback >= 0) {
      const then = args[callback];
      args[callback] = (...results) => {
        note(label, from);
        then(...results);
      };
      return query.apply(this, args);
    }
    const answer = query.apply(this, args);
    answer?.then?.(
      () => note(label, from),
      () => note(label, from),
    );
    return answer;
  };
  return {
    clear() {
      const all = [...sent].map(([label, { count, ms }]) => ({ label, count, ms: Math.round(ms) }));
      sent = new Map();
      return all.sort((one, other) => other.ms - one.ms);
    },
  };
}

function round(value, digits) {
  return Number(value.toFixed(digits));
}
