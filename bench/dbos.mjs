// npm run bench:dbos: what it costs that the workflows of @large-payload/dbos survive everything.
//
// Three ways to store a small file and to remove it again, on the same S3 server, the same Postgres, the same client and
// the same pool, in turns:
//
//   bare       PutObject, INSERT; DELETE, DeleteObject: what a crash in between leaves, nobody clears up
//   steps      the same two calls, each a step of a DBOS workflow: a crash is resumed, a failure is not undone
//   workflow   the upload and delete workflows with s3Callbacks and pgCallbacks
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { requireOrSkip, startVersitygw } from './components.mjs';
import { openDbosWorld } from './dbos-world.mjs';
import { groups, median, middleAndRange, renderTable, tidy } from './table.mjs';

const help = `npm run bench:dbos -- [options]

Uploads and deletes small files by bare calls, by two steps of a DBOS workflow, and by the workflows of
@large-payload/dbos, in turns; prints one JSON line a phase and a table.

Options:
  --size BYTES    of a file                                  (default: 16384)
  --bytes         contents are Buffers, not strings
  --count N       files of one phase, at most                (default: 400)
  --clients N     at the same time; also both pools' size    (default: 8)
  --rounds N      everything so often                        (default: 5)
  --quick         few files: a smoke test, whose figures mean little
  --json FILE     write the JSON lines into a file, too
  --help

A phase ends after 2 s, whatever its count; a run after 90 s (with --quick 0.3 s and 20 s). The S3 server is built by
\`npm run components\`, which needs Go; Postgres comes with \`npm ci\`, and is durable as in production.
`;

const ways = ['bare', 'steps', 'workflow'];
const limits = { full: { phaseMs: 2000, runMs: 88_000 }, quick: { phaseMs: 300, runMs: 19_000 } };
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

async function run(options) {
  const { clients, rounds, size, bytes, json, runMs } = options;
  const gateway = await startVersitygw();
  const world = await openDbosWorld({ gateway, clients });
  // nothing that Postgres could make smaller
  const content = bytes ? randomBytes(size) : randomBytes(size).toString('base64').slice(0, size);
  const end = async (code, message) => {
    process.stderr.write(`bench: ${message}\n`);
    await world.close().finally(() => process.exit(code));
  };
  process.once('SIGINT', () => void end(130, 'stopped'));
  process.once('SIGTERM', () => void end(143, 'stopped'));
  setTimeout(() => void end(1, `not done after ${runMs} ms`), runMs).unref();
  try {
    // compiled and connected: what is measured are the rounds
    for (const way of ways) await both(world, way, { ...options, content, count: 5 * clients }, () => undefined);
    for (let round = 1; round <= rounds; round++) {
      for (const way of round % 2 === 1 ? ways : ways.toReversed()) {
        await both(world, way, { ...options, content }, (result) => {
          results.push({ way, round, size, bytes, c: clients, ...result });
          console.log(JSON.stringify(results.at(-1)));
          if (json) writeFileSync(json, results.map((line) => `${JSON.stringify(line)}\n`).join(''));
        });
      }
    }
    console.log(['', ...comparison(), '', ...summary()].join('\n'));
  } finally {
    await world.close();
    await gateway.stop();
  }
}

/** Uploads, then deletes what was uploaded. */
async function both(world, way, { content, count, clients, phaseMs }, report) {
  const { upload, remove } = world.ways[way];
  const stored = [];
  const measured = async (phase, most, work) => {
    const used = await world.measure();
    const load = await drive({ clients, most, phaseMs, work });
    report({ phase, ...load, ...perOperation(await used(), load.n) });
  };
  await measured('upload', count, async () => {
    const file = world.newFile();
    await upload(file, content);
    stored.push(file);
  });
  await measured('delete', stored.length, async (number) => remove(stored[number]));
}

/** Runs `work` by several clients, each one call after the other, until there were `most` or the time is over. */
async function drive({ clients, most, phaseMs, work }) {
  const latencies = [];
  const errors = [];
  const startedAt = performance.now();
  let next = 0;
  const client = async () => {
    while (next < most && performance.now() - startedAt < phaseMs) {
      const number = next++;
      const from = performance.now();
      try {
        await work(number);
        latencies.push(performance.now() - from);
      } catch (error) {
        errors.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  const seconds = (performance.now() - startedAt) / 1000;
  if (errors.length > 0) throw errors[0]; // a failure is not a speed
  latencies.sort((a, b) => a - b);
  const quantile = (part) => round(latencies[Math.ceil(part * latencies.length) - 1], 2);
  return {
    n: latencies.length,
    seconds: round(seconds, 2),
    ops_s: round(latencies.length / seconds, 1),
    p50_ms: quantile(0.5),
    p99_ms: quantile(0.99),
  };
}

function perOperation({ cpuS, databaseCpuS, storeCpuS, statements, transactions, walBytes }, n) {
  return {
    cpu_ms: round((1000 * cpuS) / n, 2),
    database_cpu_ms: round((1000 * databaseCpuS) / n, 2),
    store_cpu_ms: round((1000 * storeCpuS) / n, 2),
    statements: round(statements / n, 1),
    transactions: round(transactions / n, 1),
    wal_kB: round(walBytes / 1000 / n, 1),
  };
}

/** Of the rounds next to each other. */
function comparison() {
  const rows = groups(results, ['phase']).map((group) => {
    const rounds = groups(group, ['round']).map((round) => Object.fromEntries(round.map((line) => [line.way, line])));
    const speed = (way, other) => middleAndRange(rounds.map((round) => round[way].ops_s / round[other].ops_s));
    return [group[0].phase, ...speed('steps', 'bare'), ...speed('workflow', 'bare'), ...speed('workflow', 'steps')];
  });
  const pairs = ['steps/bare', 'workflow/bare', 'workflow/steps'].flatMap((pair) => [`ops/s ${pair}`, 'min - max']);
  return renderTable(['phase', ...pairs], rows);
}

/** Medians of the rounds. */
function summary() {
  const load = ['n', 'c', 'ops_s', 'p50_ms', 'p99_ms'];
  const use = ['cpu_ms', 'database_cpu_ms', 'store_cpu_ms', 'statements', 'transactions', 'wal_kB'];
  const rows = groups(results, ['phase', 'way']).map((group) => {
    const middle = (field) => tidy(median(group.map((result) => result[field])));
    return [group[0].phase, group[0].way, ...[...load, ...use].map(middle)];
  });
  const loadHead = ['files', 'clients', 'ops/s', 'p50 ms', 'p99 ms'];
  const useHead = ['CPU ms', 'DB CPU ms', 'S3 CPU ms', 'statements', 'transactions', 'WAL kB'];
  return renderTable(['phase', 'way', ...loadHead, ...useHead], rows);
}

function readOptions(args) {
  const text = { type: 'string' };
  const yes = { type: 'boolean', default: false };
  const { values } = parseArgs({
    args,
    options: { size: text, count: text, clients: text, rounds: text, json: text, bytes: yes, quick: yes, help: yes },
  });
  const { quick, json, help } = values;
  const number = (name, otherwise) => {
    const given = values[name] ?? String(otherwise);
    if (!/^[1-9]\d{0,5}$/.test(given)) throw new Error(`--${name}: ${given} is not a whole number`);
    return Number(given);
  };
  return {
    size: number('size', 16_384),
    count: number('count', quick ? 40 : 400),
    clients: number('clients', 8),
    rounds: number('rounds', 5),
    bytes: values.bytes,
    json,
    help,
    ...(quick ? limits.quick : limits.full),
  };
}

function round(value, digits) {
  return Number(value.toFixed(digits));
}
