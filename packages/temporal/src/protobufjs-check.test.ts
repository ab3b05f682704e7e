import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { assertReferencesCanBeEncoded } from './protobufjs-check.js';

const require = createRequire(import.meta.url);
const root = mkdtempSync(join(tmpdir(), 'lps-protobufjs-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const packagesDir = realpathSync(join(import.meta.dirname, '../..'));
const protobufjs8 = packageDir('protobufjs', require);
const protobufjs7 = packageDir('protobufjs', createRequire(require.resolve('@grpc/proto-loader')));

function packageDir(name: string, from: NodeJS.Require): string {
  return dirname(from.resolve(`${name}/package.json`));
}

/** A package whose files are links, with a node_modules of its own. */
function linkedPackage(target: string, source: string, dependencies: Record<string, string> = {}): void {
  mkdirSync(target, { recursive: true });
  for (const entry of readdirSync(source)) {
    if (entry !== 'node_modules') symlinkSync(join(source, entry), join(target, entry));
  }
  for (const [name, directory] of Object.entries(dependencies))
    linkedPackage(join(target, 'node_modules', name), directory);
}

/**
 * An application's node_modules as npm lays them out. Links are not resolved (--preserve-symlinks), so that a package
 * is loaded once for each place where it is, as with copies.
 */
async function runInProject(name: string, hoisted: string, nested: string | undefined): Promise<string> {
  const project = join(root, name);
  const modules = join(project, 'node_modules');
  const own = nested === undefined ? {} : { protobufjs: nested };
  linkedPackage(join(modules, 'protobufjs'), hoisted);
  for (const name of ['common', 'proto']) {
    linkedPackage(join(modules, '@temporalio', name), packageDir(`@temporalio/${name}`, require), own);
  }
  for (const name of ['long', 'ms', 'nexus-rpc']) {
    const from = createRequire(require.resolve('@temporalio/common'));
    const main = from.resolve(name);
    const marker = `/node_modules/${name}/`;
    linkedPackage(join(modules, name), main.slice(0, main.lastIndexOf(marker) + marker.length));
  }
  for (const name of ['core', 'temporal']) {
    linkedPackage(join(modules, '@large-payload', name), join(packagesDir, name));
  }
  const script = `
    import { LargePayloadDriver } from '@large-payload/temporal';
    import { memoryStore } from '@large-payload/core';
    try { new LargePayloadDriver({ store: memoryStore() }); console.log('fine'); }
    catch (error) { console.log(error.code, error.message, '|', error.cause?.message); }`;
  writeFileSync(join(project, 'main.mjs'), script);
  const flags = ['--preserve-symlinks', '--preserve-symlinks-main'];
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, 'main.mjs'], { cwd: project });
  return stdout;
}

describe('the driver, in an application', () => {
  it('is made when @temporalio/common and @temporalio/proto share one protobufjs', async () => {
    expect(await runInProject('shared', protobufjs8, undefined)).toBe('fine\n');
  });

  it('says what to install when npm hoisted protobufjs 7, so that each has a copy of its own', async () => {
    const said = await runInProject('hoisted', protobufjs7, protobufjs8);
    expect(said).toMatch(/^CONFIG_INVALID .*npm install protobufjs@\^8\.7\.1.* \| type must be a Type\n$/);
  });
});

it('takes a reference that comes back as something else for a failure', () => {
  expect(() => assertReferencesCanBeEncoded(() => 'probe')).not.toThrow();
  expect(() => assertReferencesCanBeEncoded(() => undefined)).toThrow(/protobufjs/);
});
