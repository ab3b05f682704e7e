import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';

const script = fileURLToPath(new URL('../../../../scripts/start.mjs', import.meta.url));

/** A compiler that leaves what the real one would, and says that it ran. */
const compiler = `
const fs = require('node:fs');
console.log('compiling');
if (fs.existsSync('broken')) process.exit(1);
for (const name of ['core', 'server']) {
  fs.mkdirSync('packages/' + name + '/dist/cli', { recursive: true });
  fs.writeFileSync('packages/' + name + '/dist/.tsbuildinfo', '{}');
}
fs.writeFileSync('packages/server/dist/cli/main.js', 'export async function main(args) { console.log(JSON.stringify(args)); process.exitCode = 7; }');
`;

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'lps-start-'));
  write('package.json', '{"type":"module"}');
  write('node_modules/typescript/bin/tsc', compiler);
  for (const name of ['core', 'server']) {
    write(`packages/${name}/tsconfig.json`, '{}');
    write(`packages/${name}/src/deep/a.ts`, '');
  }
  mkdirSync(join(root, 'scripts'));
  cpSync(script, join(root, 'scripts', 'start.mjs'));
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

function write(path: string, content: string): void {
  mkdirSync(join(root, path, '..'), { recursive: true });
  writeFileSync(join(root, path), content);
}

function start(...args: string[]): { status: number | null; out: string; err: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, ['scripts/start.mjs', ...args], { cwd: root });
  return { status, out: stdout.toString(), err: stderr.toString() };
}

it('builds once, passes the arguments on and ends as the service does', () => {
  const served = { status: 7, out: '["serve","--port","9000"]\n' };
  expect(start('--port', '9000')).toEqual({ ...served, err: 'building…\ncompiling\n' });
  expect(start('--port', '9000')).toEqual({ ...served, err: '' });
});

it('builds again when a source is newer than the build, whatever its package and depth, but not for a test', () => {
  start();
  const later = new Date(Date.now() + 5000);
  write('packages/core/src/deep/a.test.ts', '');
  utimesSync(join(root, 'packages/core/src/deep/a.test.ts'), later, later);
  expect(start().err).toBe('');
  utimesSync(join(root, 'packages/core/src/deep/a.ts'), later, later);
  expect(start().err).toMatch('compiling');
});

it('says in one line what is missing, or that the build failed', () => {
  write('broken', '');
  expect(start()).toMatchObject({ status: 1, err: expect.stringMatching(/\nlps: the build failed\n$/) });
  rmSync(join(root, 'node_modules'), { recursive: true });
  expect(start()).toEqual({ status: 1, out: '', err: 'lps: run npm ci first\n' });
});
