// npm start: builds what is missing or out of date, then runs `lps serve` in this process with the arguments passed on.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const packages = ['core', 'temporal', 'server'].map((name) => join(root, 'packages', name)).filter(existsSync);
const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc');

if (!existsSync(join(root, 'node_modules'))) fail('run npm ci first');
if (!packages.every(isBuilt)) build();
const { main } = await import('../packages/server/dist/cli/main.js');
await main(['serve', ...process.argv.slice(2)]);

/** Whether the compiler has run since the last change of a package's sources. */
function isBuilt(directory) {
  const stamp = join(directory, 'dist', '.tsbuildinfo');
  if (!existsSync(stamp)) return false;
  const builtMs = statSync(stamp).mtimeMs;
  const sources = readdirSync(join(directory, 'src'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts') && !entry.name.endsWith('.test.ts'))
    .map((entry) => join(entry.parentPath, entry.name));
  return [join(directory, 'tsconfig.json'), ...sources].every((file) => statSync(file).mtimeMs <= builtMs);
}

function build() {
  if (!existsSync(compiler)) fail('the compiler is not installed; run npm ci first');
  process.stderr.write('building…\n');
  const { status } = spawnSync(process.execPath, [compiler, '--build'], { cwd: root, stdio: ['ignore', 2, 2] });
  if (status !== 0) fail('the build failed');
}

function fail(message) {
  process.stderr.write(`lps: ${message}\n`);
  process.exit(1);
}
