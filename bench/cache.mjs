// npm run bench:cache: what a replay takes near the workers, far from the service.
//
// The same payloads, read one replay after the other, in two ways, in turns: from the service over a line of so much more
// latency, and from a cache node that has the same line between itself and the service. Each round has a node of its own,
// which is empty at first.
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { keyFor, openHttpStore } from '@large-payload/core';
import { freePort, spawnLogged, tempDir, waitUntilReady } from './components.mjs';
import { chunksOf, describeBlob } from './memory.mjs';
import { readSize } from './options.mjs';
import { startOurs } from './servers.mjs';
import { groups, median, middleAndRange, renderTable, tidy } from './table.mjs';

const lps = fileURLToPath(new URL('../packages/server/bin/lps.js', import.meta.url));
const MiB = 2 ** 20;
const help = `npm run bench:cache -- [options]

Replays with and without a cache node, the service being far away; prints one JSON line a replay and a table of ratios.

Options:
  --payloads N    of a replay                            (default: 1000)
  --size SIZE     of a payload                           (default: 200kB)
  --latency MS    added to each round trip               (default: 50)
  --replays N     one after the other                    (default: 3)
  --clients N     payloads read at the same time         (default: 10)
  --rounds N      everything so often                    (default: 5)
  --quick         one round of few payloads: a smoke test, whose figures mean little
  --json FILE     write the JSON lines into a file, too
  --help
`;
const ways = ['far', 'node'];
const results = [];

try {
  const options = readOptions(process.argv.slice(2));
  if (options.help) console.log(help);
  else await run(options);
  process.exit();
} catch (error) {
  process.stderr.write(`bench: ${error.message}\n`);
  process.exit(1);
}

function readOptions(args) {
  const text = (value) => ({ type: 'string', default: value });
  const { values } = parseArgs({
    args,
    options: {
      ...{ payloads: text('1000'), size: text('200kB'), latency: text('50'), replays: text('3') },
      ...{ clients: text('10'), rounds: text('5'), json: { type: 'string' } },
      quick: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const { quick, help, json } = values;
  return {
    ...{ help, json, size: readSize(values.size), latencyMs: Number(values.latency), clients: Number(values.clients) },
    payloads: quick ? 50 : Number(values.payloads),
    replays: quick ? 2 : Number(values.replays),
    rounds: quick ? 1 : Number(values.rounds),
  };
}

async function run(options) {
  const { payloads, size, latencyMs, rounds, json } = options;
  const report = (result) => {
    results.push(result);
    console.log(JSON.stringify(result));
    if (json) writeFileSync(json, results.map((line) => `${JSON.stringify(line)}\n`).join(''));
  };
  const service = await startOurs({ store: 'file', node: [], serve: [] });
  const line = await delayingProxy(Number(new URL(service.url).port), latencyMs / 2);
  try {
    const blobs = await stored(service.url, payloads, size.bytes);
    for (let round = 1; round <= rounds; round++) await runRound({ ...options, line, blobs, round, report });
    console.log(['', ...comparison(), '', ...summary()].join('\n'));
  } finally {
    line.close();
    await service.remove();
  }
}

async function stored(url, payloads, bytes) {
  const store = openHttpStore({ url });
  const blobs = Array.from({ length: payloads }, (_, number) => {
    const blob = describeBlob(number, bytes);
    return { ...blob, key: keyFor('bench', blob.digest, null) };
  });
  for (const { key, digest, size, number } of blobs) {
    await store.put(key, Buffer.concat([...chunksOf(number, size)]), { digest, size });
  }
  await store.close();
  return blobs;
}

async function runRound({ line, blobs, round, replays, clients, report }) {
  const node = await startNode(line.url, blobs);
  const stores = { far: openHttpStore({ url: line.url }), node: openHttpStore({ url: node.url }) };
  try {
    for (const way of ways) await stores[way].head(blobs[0].key); // connected
    for (let replay = 1; replay <= replays; replay++) {
      for (const way of (round + replay) % 2 === 0 ? ways : ways.toReversed()) {
        const crossed = line.bytes();
        const before = way === 'node' ? await node.served() : undefined;
        const timed = await replayed(stores[way], blobs, clients);
        const hits = before && hitRatio(before, await node.served());
        const crossed_MB = Number(((line.bytes() - crossed) / 1e6).toFixed(2));
        report({ way, replay: replay === 1 ? 'first' : 'again', round, ...timed, crossed_MB, ...hits });
      }
    }
  } finally {
    for (const store of Object.values(stores)) await store.close();
    await node.stop();
  }
}

async function startNode(upstream, blobs) {
  const port = await freePort();
  const bytes = blobs.reduce((sum, { size }) => sum + size, 0);
  const memory = `${Math.ceil((2 * bytes) / MiB) + 64}MiB`;
  const place = ['--upstream', upstream, '--port', String(port), '--cache-dir', tempDir('bench-cache')];
  const args = [
    lps,
    'cache',
    ...place,
    '--cache-memory-bytes',
    memory,
    '--cache-disk-bytes',
    '4GiB',
    '--log-level',
    'warn',
  ];
  const server = await spawnLogged(process.execPath, args, { env: {} });
  const url = `http://127.0.0.1:${port}`;
  const status = async () => (await fetch(`${url}/v3/cache`)).json();
  await waitUntilReady(server, 'lps cache', async () => (await status()).lease.isFresh);
  return { url, served: async () => (await status()).served, stop: () => server.stop() };
}

function hitRatio(before, after) {
  const gained = (result, what) => after[result][what] - before[result][what];
  const all = (what) => Object.keys(after).reduce((sum, result) => sum + gained(result, what), 0);
  const ratio = (what) => Number((1 - gained('miss', what) / all(what)).toFixed(4));
  return { hits: ratio('blobs'), byte_hits: ratio('bytes') };
}

/** Every payload once, in order, as a replay reads its history. */
async function replayed(store, blobs, clients) {
  const times = [];
  const left = blobs.toReversed();
  const from = performance.now();
  const client = async () => {
    for (let blob = left.pop(); blob !== undefined; blob = left.pop()) {
      const askedMs = performance.now();
      const { body } = await store.get(blob.key);
      const hash = createHash('sha256');
      for await (const chunk of body) hash.update(chunk);
      if (`sha256:${hash.digest('hex')}` !== blob.digest) throw new Error('wrong bytes');
      times.push(performance.now() - askedMs);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  const seconds = (performance.now() - from) / 1000;
  times.sort((a, b) => a - b);
  const at = (part) => Number(times[Math.floor(part * (times.length - 1))].toFixed(2));
  return { n: blobs.length, c: clients, seconds: Number(seconds.toFixed(3)), p50_ms: at(0.5), p99_ms: at(0.99) };
}

/** A line on which each byte takes so long, either way, and that counts what comes back. */
async function delayingProxy(port, delayMs) {
  let bytes = 0;
  const server = createServer({ noDelay: true }, (near) => {
    const far = connect({ port, host: '127.0.0.1', noDelay: true });
    later(near, far, delayMs, () => {});
    later(far, near, delayMs, (count) => {
      bytes += count;
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, bytes: () => bytes, close: () => server.close() };
}

function later(from, to, delayMs, count) {
  from.on('data', (chunk) => {
    count(chunk.length);
    setTimeout(() => to.write(chunk), delayMs);
  });
  from.on('close', () => setTimeout(() => to.destroy(), delayMs));
  from.on('error', () => {});
}

function comparison() {
  const rows = groups(results, ['replay']).map((group) => {
    const [{ replay }] = group;
    const rounds = groups(group, ['round']).map((pair) =>
      ways.map((way) => {
        const some = pair.filter((result) => result.way === way);
        const middle = (field) => median(some.map((result) => result[field]));
        return { seconds: middle('seconds'), p50_ms: middle('p50_ms'), p99_ms: middle('p99_ms') };
      }),
    );
    const ratios = ['seconds', 'p50_ms', 'p99_ms'].flatMap((field) =>
      middleAndRange(rounds.map(([far, node]) => far[field] / node[field])),
    );
    return [replay, ...ratios, rounds.length];
  });
  const head = ['replay', 'time far/node', 'min - max', 'p50 far/node', 'min - max', 'p99 far/node', 'min - max'];
  return renderTable([...head, 'rounds'], rows);
}

function summary() {
  const rows = groups(results, ['replay', 'way']).map((group) => {
    const [{ replay, way, n, c }] = group;
    const middle = (field) => {
      const known = group.map((result) => result[field]).filter(Number.isFinite);
      return known.length === 0 ? undefined : tidy(median(known));
    };
    const fields = ['seconds', 'p50_ms', 'p99_ms', 'crossed_MB', 'hits', 'byte_hits'];
    return [replay, way, n, c, ...fields.map(middle)];
  });
  const head = [
    'replay',
    'way',
    'payloads',
    'clients',
    's',
    'p50 ms',
    'p99 ms',
    'MB over the line',
    'hits',
    'hits by bytes',
  ];
  return renderTable(head, rows);
}
