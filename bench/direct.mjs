// npm run bench:direct: what the service still does when bytes go straight between client and bucket.
//
// The same blobs in both ways, in turns, on the same S3 server and the same service (its memory cache off, so that every
// read reaches the bucket): through the service, and past it by presigned requests. CPU is the service's own and its
// database's, the client and the bucket not counted.
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { parseArgs } from 'node:util';
import { keyFor, openHttpStore } from '@large-payload/core';
import { requireOrSkip, startVersitygw } from './components.mjs';
import { chunksOf, describeBlob } from './memory.mjs';
import { readSize } from './options.mjs';
import { startOurs } from './servers.mjs';
import { groups, median, middleAndRange, renderTable, tidy } from './table.mjs';
import { childrenUsage, cpuSeconds } from './usage.mjs';

const MiB = 2 ** 20;
const GiB = 2 ** 30;
const help = `npm run bench:direct -- [options]

Uploads and downloads through the service and past it, in turns; prints one JSON line a phase and a table of ratios.

Options:
  --sizes LIST    of blobs                             (default: 1MiB,8MiB,64MiB,512MiB)
  --bytes SIZE    of one phase, at least four blobs    (default: 256MiB; two blobs of 512MiB)
  --clients N     at the same time                     (default: 4)
  --rounds N      everything so often                  (default: 5)
  --quick         one round of few blobs: a smoke test, whose figures mean little
  --json FILE     write the JSON lines into a file, too
  --help

The S3 server is built by \`npm run components\`, which needs Go.
`;
const ways = ['service', 'direct'];
const results = [];

try {
  const options = readOptions(process.argv.slice(2));
  if (options.help) console.log(help);
  else if (requireOrSkip('s3') !== undefined) await run(options);
  process.exit();
} catch (error) {
  process.stderr.write(`bench: ${error.message}\n`);
  process.exit(1);
}

function readOptions(args) {
  const { values } = parseArgs({
    args,
    options: {
      sizes: { type: 'string', default: '1MiB,8MiB,64MiB,512MiB' },
      bytes: { type: 'string', default: '256MiB' },
      clients: { type: 'string', default: '4' },
      rounds: { type: 'string', default: '5' },
      quick: { type: 'boolean', default: false },
      json: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  const { quick, json, help } = values;
  return {
    help,
    json,
    sizes: (quick ? '1MiB,8MiB' : values.sizes).split(',').map(readSize),
    bytes: quick ? 16 * MiB : readSize(values.bytes).bytes,
    clients: Number(values.clients),
    rounds: quick ? 1 : Number(values.rounds),
  };
}

async function run({ sizes, bytes, clients, rounds, json }) {
  const gateway = await startVersitygw();
  const report = (result) => {
    results.push(result);
    console.log(JSON.stringify(result));
    if (json) writeFileSync(json, results.map((line) => `${JSON.stringify(line)}\n`).join(''));
  };
  try {
    for (const size of sizes)
      for (let round = 1; round <= rounds; round++) await runRound({ gateway, size, bytes, clients, round, report });
    console.log(['', ...comparison(), '', ...summary()].join('\n'));
  } finally {
    await gateway.stop();
  }
}

/** A service and a bucket for each round: nothing of the last one is left on the disk. */
async function runRound({ gateway, size, bytes, clients, round, report }) {
  const server = await startOurs({ store: 's3', gateway, node: [], serve: ['--cache-memory-bytes', '0'] });
  const stores = {
    service: openHttpStore({ url: server.url }),
    direct: openHttpStore({ url: server.url, directAboveBytes: 0, onTransfer: expectDirect }),
  };
  const count = Math.max(2, Math.round(bytes / size.bytes));
  let number = 0;
  const some = (count) => Array.from({ length: count }, () => describe(number++, size.bytes));
  try {
    await untilMetric(server.url, 'lps_durable_running 1'); // until then uploads go through the service
    for (const way of ways) await both(server, stores[way], some(Math.min(count, clients)), clients); // warm
    for (const way of round % 2 === 1 ? ways : ways.toReversed()) {
      for (const result of await both(server, stores[way], some(count), clients))
        report({ way, size_name: size.name, round, ...result });
    }
  } finally {
    for (const store of Object.values(stores)) await store.close();
    await server.remove();
  }
}

/** What goes the other way would be measured as what it is not. */
function expectDirect({ way, reason }) {
  if (way === 'direct') return;
  process.stderr.write(`bench: a blob did not go past the service: ${reason?.message}\n`);
  process.exit(1);
}

function describe(number, size) {
  const blob = describeBlob(number, size);
  return { ...blob, key: keyFor('bench', blob.digest, null) };
}

/** Uploads, then downloads what was uploaded. */
async function both(server, store, blobs, clients) {
  const put = await measured(server, 'put', blobs, clients, async ({ key, digest, size, number }) => {
    const { outcome } = await store.put(key, Readable.from(chunksOf(number, size)), { digest, size });
    if (outcome !== 'created') throw new Error(`put: ${outcome}`);
  });
  const get = await measured(server, 'get', blobs, clients, async ({ key, digest }) => {
    const found = await store.get(key);
    const hash = createHash('sha256');
    for await (const chunk of found.body) hash.update(chunk);
    if (`sha256:${hash.digest('hex')}` !== digest) throw new Error('get: wrong bytes');
  });
  return [put, get];
}

async function measured(server, phase, blobs, clients, work) {
  const usage = () => ({ own: cpuSeconds(server.pid), database: childrenUsage(server.pid).cpuS });
  const before = usage();
  const from = performance.now();
  const left = [...blobs];
  const client = async () => {
    for (let blob = left.pop(); blob !== undefined; blob = left.pop()) await work(blob);
  };
  await Promise.all(Array.from({ length: clients }, client));
  const seconds = (performance.now() - from) / 1000;
  // what a workflow does behind the answer belongs to the upload that it is of
  await untilMetric(server.url, 'lps_direct_uploads_open 0');
  const after = usage();
  const bytes = blobs.reduce((sum, { size }) => sum + size, 0);
  const perGiB = (cpu) => Number((cpu / (bytes / GiB)).toFixed(3));
  return {
    phase,
    n: blobs.length,
    seconds: Number(seconds.toFixed(2)),
    MB_s: Math.round(bytes / 1e6 / seconds),
    cpu_s_GiB: perGiB(after.own - before.own),
    database_cpu_s_GiB: perGiB(after.database - before.database),
  };
}

async function untilMetric(url, line) {
  for (let asked = 0; asked < 200; asked++) {
    const text = await (await fetch(`${url}/metrics`)).text();
    if (text.split('\n').includes(line)) return;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`the service did not get to ${line}`);
}

function comparison() {
  const rows = groups(results, ['size_name', 'phase']).map((group) => {
    const [{ size_name, phase }] = group;
    const pairs = groups(group, ['round']).map((pair) => ways.map((way) => pair.find((result) => result.way === way)));
    const speed = pairs.map(([service, direct]) => direct.MB_s / service.MB_s);
    const own = pairs.map(([service, direct]) => service.cpu_s_GiB / direct.cpu_s_GiB);
    const all = pairs.map(([service, direct]) => allCpu(service) / allCpu(direct));
    return [size_name, phase, ...[speed, own, all].flatMap(middleAndRange), pairs.length];
  });
  const head = ['size', 'phase', 'MB/s direct/service', 'min - max', 'CPU service/direct', 'min - max'];
  return renderTable([...head, 'with database', 'min - max', 'rounds'], rows);
}

function allCpu({ cpu_s_GiB, database_cpu_s_GiB }) {
  return cpu_s_GiB + database_cpu_s_GiB;
}

function summary() {
  const rows = groups(results, ['size_name', 'phase', 'way']).map((group) => {
    const [{ size_name, phase, way, n }] = group;
    const middle = (field) => tidy(median(group.map((result) => result[field])));
    return [size_name, phase, way, n, middle('MB_s'), middle('cpu_s_GiB'), middle('database_cpu_s_GiB')];
  });
  return renderTable(['size', 'phase', 'way', 'blobs', 'MB/s', 'CPU s/GiB', 'DB CPU s/GiB'], rows);
}
