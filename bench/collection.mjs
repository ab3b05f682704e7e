// npm run bench:collection: what it costs to ask Temporal who holds what, and to sweep by it.
//
// The service's own marks and sweep, on a PostgreSQL, over a Temporal that is made up as it is asked (temporal-model.mjs):
// so requests are counted, and their network is not measured. Each number of runs in a process of its own, the smaller ones
// first: what grows with the runs, and what does not, stands beside each other.
import { fork } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { groups, renderTable, tidy } from './table.mjs';
import { cpuSeconds } from './usage.mjs';

const help = `npm run bench:collection -- [options]

Marks a made-up Temporal namespace and sweeps a catalog by it; prints one JSON line a phase, and tables.

  first mark          every run is described and read
  nothing new         the same again, 1 % of the runs being open
  plan, quarantine    one blob in 20 is held by nobody
  1 % new             1 % of the runs are new, 1 % are gone, and the open ones have gone on
  retire, delete      the same blobs, after two more marks
  plan, nothing due   what every round costs that has nothing to do
  forget              holders that are gone, and their edges

Options:
  --runs N        of workflows; a tenth, a hundredth … of it before, down to 10,000   (default: 100000)
  --only          no smaller numbers of runs before
  --rows N        of the catalog; all but one in 20 are held                          (default: as many as runs)
  --marked        the first mark's rows are made in SQL, not by reading every run: for what a million cost afterwards
  --seed TEXT     which blobs a run holds follows from it                             (default: 1)
  --temporal      instead: marks of a real Temporal server, of 2,000 runs or --runs, for what a request costs
  --node=ARGS     more arguments for the node that marks, such as --node='--cpu-prof --cpu-prof-dir=/tmp/profiles'
  --json FILE     write the JSON lines into a file, too
  --help

100,000 runs take about 4 minutes, a million 45, or 10 with --marked; twice that on a busy machine. PostgreSQL comes with \`npm ci\`, and is durable as in production.
`;

const smallest = 10_000;
/** Requests a second that the service makes when nothing else is set. */
const defaultRate = 50;
const world = fileURLToPath(new URL('collection-world.mjs', import.meta.url));
const results = [];

try {
  const options = readOptions(process.argv.slice(2));
  if (options.help) console.log(help);
  else if (options.temporal) await runOnTemporal(options);
  else await run(options);
  process.exit();
} catch (error) {
  process.stderr.write(`bench: ${error.message}\n`);
  process.exit(1);
}

function readOptions(args) {
  const text = { type: 'string' };
  const yes = { type: 'boolean', default: false };
  const { values } = parseArgs({
    args,
    options: {
      runs: text,
      rows: text,
      seed: text,
      node: text,
      json: text,
      only: yes,
      marked: yes,
      temporal: yes,
      help: yes,
    },
  });
  const number = (name, otherwise) => {
    const given = values[name] ?? otherwise;
    if (given !== undefined && !/^[1-9]\d{1,7}$/.test(given))
      throw new Error(`--${name}: ${given} is not a whole number from 10 on`);
    return given === undefined ? undefined : Number(given);
  };
  const { seed = '1', node = '', json, only, marked, temporal, help } = values;
  const words = node.split(/\s+/).filter(Boolean);
  const runs = number('runs', temporal ? '2000' : '100000');
  return { runs, rows: number('rows'), seed, node: words, json, only, marked, temporal, help };
}

async function run({ runs, rows, seed, node, json, only, marked }) {
  for (const some of sizesUpTo(runs, only)) {
    const inProportion = rows === undefined ? some : Math.max(1, Math.round((rows * some) / runs));
    await inChild({ runs: some, rows: inProportion, seed, marked }, node, (result) => report(result, json));
  }
  console.log(['', ...requests(), '', ...costs(), '', ...memory(), '', ...stored()].join('\n'));
}

function sizesUpTo(runs, only) {
  const sizes = [runs];
  while (!only && sizes[0] / 10 >= smallest) sizes.unshift(sizes[0] / 10);
  return sizes.map(Math.round);
}

/** A process of its own: so the most memory it had is its own as well. */
async function inChild(options, node, report) {
  const child = fork(world, [JSON.stringify(options)], { execArgv: ['--expose-gc', ...node] });
  const stop = () => child.kill('SIGTERM');
  process.once('SIGINT', stop).once('SIGTERM', stop);
  child.on('message', report);
  const code = await new Promise((resolve) => child.once('exit', resolve));
  process.off('SIGINT', stop).off('SIGTERM', stop);
  if (code !== 0) throw new Error(`the marks of ${options.runs} runs failed`);
}

function report(result, json) {
  results.push(result);
  console.log(JSON.stringify(result));
  if (json) writeFileSync(json, results.map((line) => `${JSON.stringify(line)}\n`).join(''));
}

function isMark({ calls }) {
  return Object.keys(calls).length > 0;
}

/** What the marks asked for, and how long that takes at the default rate whatever else happens. */
function requests() {
  const kinds = ['namespace', 'list runs', 'list schedules', 'describe run', 'history'];
  const rows = results.filter(isMark).map(({ runs, phase, calls }) => {
    const all = Object.values(calls).reduce((sum, count) => sum + count, 0);
    return [runs, phase, ...kinds.map((kind) => calls[kind] ?? 0), tidy(all / defaultRate / 60)];
  });
  return renderTable(['runs', 'mark', ...kinds, `minutes at ${defaultRate}/s`], rows);
}

function costs() {
  const rows = results.map((result) => {
    const { runs, phase, holders, scanned, blobs, seconds, cpu_s, model_s, database_cpu_s, statements, wal_MB } =
      result;
    const perBlob = blobs > 0 ? (statements / blobs).toFixed(3) : undefined;
    const took = [seconds, tidy(Math.max(0, cpu_s - model_s)), database_cpu_s].map(tidy);
    return [runs, phase, holders, scanned, blobs, ...took, statements, perBlob, wal_MB];
  });
  const head = ['holders', 'read', 'blobs', 'seconds', 'CPU s', 'DB CPU s', 'statements', 'a blob', 'WAL MB'];
  return renderTable(['runs', 'phase', ...head], rows);
}

/** The most of all phases; beside it, how many times that of the smallest number of runs. */
function memory() {
  const most = groups(results, ['runs']).map((group) => ({
    runs: group[0].runs,
    rss: Math.max(...group.map(({ peak_rss_MiB }) => peak_rss_MiB)),
    heap: Math.max(...group.map(({ heap_MiB }) => heap_MiB)),
  }));
  const [first] = most;
  const rows = most.map(({ runs, rss, heap }) => {
    return [runs, tidy(rss), (rss / first.rss).toFixed(2), tidy(heap), (heap / first.heap).toFixed(2)];
  });
  return renderTable(['runs', 'peak RSS MiB', 'ratio', 'peak live heap MiB', 'ratio'], rows);
}

/** Behind the last phase: rows, MB with indexes, bytes a row. */
function stored() {
  const rows = groups(results, ['runs']).flatMap((group) => {
    const { runs, tables } = group.at(-1);
    return ['blob', 'holder', 'edge'].map((name) => {
      const { rows, mb } = tables[name];
      return [runs, name, rows, mb, rows === 0 ? undefined : Math.round((1e6 * mb) / rows)];
    });
  });
  return renderTable(['runs', 'table', 'rows', 'MB', 'bytes a row'], rows);
}

/** A real server beside it, on the same machine. */
async function runOnTemporal({ runs, rows = runs, seed, node, json }) {
  const { startTemporal } = await import('./components.mjs');
  const temporal = await startTemporal();
  if (temporal === undefined) return;
  try {
    const { address, pid } = temporal;
    const usedBefore = cpuSeconds(pid);
    await inChild({ runs, rows, seed, address }, node, (result) => report(result, json));
    const marks = results.filter(isMark).map(({ phase, calls, seconds, cpu_s }) => {
      const all = Object.values(calls).reduce((sum, count) => sum + count, 0);
      return [phase, all, tidy(all / seconds), tidy((1000 * cpu_s) / all)];
    });
    console.log(['', ...renderTable(['mark', 'requests', 'requests/s', 'CPU ms a request'], marks)].join('\n'));
    console.log(`The server took ${tidy(cpuSeconds(pid) - usedBefore)} s of CPU, starting the runs included.`);
  } finally {
    await temporal.stop();
  }
}
