import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { requireOrSkip } from '@large-payload/test-components';
import { expect, it } from 'vitest';

const run = fileURLToPath(new URL('../bench/run.mjs', import.meta.url));

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
