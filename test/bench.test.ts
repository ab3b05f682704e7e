import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { requireOrSkip } from '@large-payload/test-components';
import { expect, it } from 'vitest';

const run = fileURLToPath(new URL('../bench/run.mjs', import.meta.url));
const collection = fileURLToPath(new URL('../bench/collection.mjs', import.meta.url));

function bench(...args: string[]): Promise<{ stdout: string; stderr: string }> {
  return promisify(execFile)(process.execPath, [run, ...args], { timeout: 110_000 });
}

const lpsbench = requireOrSkip('lpsbench');

it.skipIf(lpsbench === undefined)(
  'a benchmark prints a JSON line for each phase, then a table',
  { timeout: 120_000 },
  async () => {
    const { stdout } = await bench('--quick', '--stores', 'memory', '--sizes', '200kB');
    const lines = stdout.split('\n');
    const results = lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
    expect(results.map(({ phase }) => phase)).toEqual(['put', 'dup', 'get', 'again', 'hot']);
    for (const result of results) {
      expect(result).toMatchObject({ server: 'ours', store: 'memory', size: 200_000, c: 16, errors: 0 });
      for (const figure of ['ops_s', 'MB_s', 'p50_ms', 'p99_ms']) expect(result[figure]).toBeGreaterThan(0);
    }
    const rows = lines.filter((line) => /^\| memory +\| +200kB/.test(line));
    expect(rows).toHaveLength(results.length);
  },
);

it.each([
  [['--stores', 'tape'], '--stores: tape is not one of memory, file, s3'],
  [['--sizes', 'huge'], '--sizes: huge is not a size such as 200kB, 1MiB, 64MiB'],
  [['--rounds', '0'], '--rounds: 0 is not a whole number'],
])('a benchmark refuses %j', { timeout: 60_000 }, async (args, message) => {
  await expect(bench(...args)).rejects.toMatchObject({ code: 1, stderr: expect.stringContaining(message) });
});

it('the benchmark of the collection asks for each run once, and sweeps what no run holds', async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [collection, '--runs', '200'], { timeout: 110_000 });
  const lines = stdout.split('\n').filter((line) => line.startsWith('{'));
  const phases = new Map(lines.map((line) => JSON.parse(line)).map((result) => [result.phase, result]));
  expect(phases.get('first mark')).toMatchObject({ holders: 200, calls: { 'describe run': 200, history: 200 } });
  const { calls } = phases.get('nothing new');
  expect(calls).toMatchObject({ 'describe run': 2 });
  expect(calls).not.toHaveProperty('history');
  expect(phases.get('quarantine')).toMatchObject({ blobs: 10 });
  expect(phases.get('delete')).toMatchObject({ blobs: 10 });
  expect(stdout).toMatch(/peak live heap MiB/);
}, 120_000);
