/** The packages as they are published: packed, checked, and installed into empty projects by npm and by pnpm. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describeWith, skipped, spawnLogged, startTemporal, tempDir } from '@large-payload/test-components';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { npmPing } from './support/registry.ts';
import { says } from './support/says.ts';
import { startService } from './support/service.ts';

/** For an installation of some 400 packages. */
const installMs = 600_000;

const run = promisify(execFile);
const root = fileURLToPath(new URL('..', import.meta.url));
const bin = (name: string): string => join(root, 'node_modules', '.bin', name);
// npm's own settings of a run under `npm test` would be those of this workspace
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name)));

const packageNames = ['core', 'temporal', 'dbos', 'server'] as const;
type PackageName = (typeof packageNames)[number];

interface Packed {
  readonly tarball: string;
  /** Paths in the package. */
  readonly files: readonly string[];
  /** Bytes of the tarball. */
  readonly size: number;
}

async function pack(name: PackageName, dir: string): Promise<Packed> {
  // their prepack would build again, while others run what is built
  const args = ['pack', '--json', '--ignore-scripts', '--pack-destination', dir, '-w', `packages/${name}`];
  const { stdout } = await run('npm', args, { cwd: root, env });
  const [packed] = JSON.parse(stdout) as { filename: string; size: number; files: { path: string }[] }[];
  if (packed === undefined) throw new Error(`npm packed nothing: ${stdout}`);
  return { tarball: join(dir, packed.filename), size: packed.size, files: packed.files.map(({ path }) => path) };
}

const dir = tempDir('packed');
const packed = await Promise.all(packageNames.map(async (name) => [name, await pack(name, dir)] as const));
const packages = Object.fromEntries(packed) as Record<PackageName, Packed>;

describe.each(packageNames)('@large-payload/%s, packed', (name) => {
  const { tarball, files, size } = packages[name];

  it('holds what is run and read, nothing else, and is small', () => {
    const wanted =
      /^(package\.json|README\.md|LICENSE|bin\/lps\.js|migrations\/[\w-]+\.sql|dist\/[\w./-]+\.(js|d\.ts)|dist\/cjs\/package\.json)$/;
    expect(files.filter((path) => !wanted.test(path))).toEqual([]);
    expect(files.filter((path) => /\.test\.|fixture|testing/.test(path))).toEqual([]);
    expect(files).toEqual(expect.arrayContaining(['LICENSE', 'README.md', 'package.json']));
    expect(size).toBeLessThan(name === 'server' ? 600_000 : 250_000);
  });

  it('is found right by publint', async () => {
    const { stdout } = await run(bin('publint'), ['--strict', tarball], { cwd: root, env });
    expect(stdout).toMatch(/All good/);
  });

  it('gives every kind of import its own types (attw)', async () => {
    const profile = name === 'server' ? 'esm-only' : 'node16';
    const args = ['--profile', profile, '--format', 'json', tarball];
    const { stdout } = await run(bin('attw'), args, { cwd: root, env, maxBuffer: 1 << 24 });
    const { analysis } = JSON.parse(stdout) as { analysis: { types: unknown; problems: Problem[] } };
    expect(analysis.types).toMatchObject({ kind: 'included' });
    const ignored = name === 'server' ? ['node10', 'node16-cjs'] : ['node10'];
    expect(analysis.problems.filter(({ resolutionKind = '' }) => !ignored.includes(resolutionKind))).toEqual([]);
  });
});

interface Problem {
  readonly kind: string;
  readonly resolutionKind?: string;
}

const isOnline = await run('npm', npmPing, { env, timeout: 60_000 }).then(
  () => true,
  () => skipped('registry', 'npm reaches no registry'),
);
const temporal = isOnline && (await startTemporal());

describeWith(describe, 'a project made from the packed packages', temporal || undefined, (temporal) => {
  const modes = ['plugin', 'driver'] as const;
  afterAll(() => temporal.stop());

  describe.each(['npm', 'pnpm'] as const)('with %s', (manager) => {
    const project = tempDir(`project-${manager}`);
    beforeAll(() => install(manager, project), installMs);

    it('has both kinds of modules, each whole', async () => {
      const use = `
        console.log(JSON.stringify([Object.keys(core), Object.keys(temporal)]));
        new temporal.LargePayloadDriver({ store: core.memoryStore() });`;
      const names = ['core', 'temporal'];
      const imports = names.map((name) => `import * as ${name} from '@large-payload/${name}';`);
      const requires = names.map((name) => `const ${name} = require('@large-payload/${name}');`);
      writeFileSync(join(project, 'esm.mjs'), `${imports.join('\n')}${use}`);
      writeFileSync(join(project, 'commonjs.cjs'), `${requires.join('\n')}${use}`);
      const [esm, commonjs] = await Promise.all(
        ['esm.mjs', 'commonjs.cjs'].map(async (file) => {
          const { stdout } = await run(process.execPath, [file], { cwd: project, env });
          return (JSON.parse(stdout) as string[][]).map((exported) => exported.sort());
        }),
      );
      expect(esm?.[0]).toContain('openS3Store');
      expect(esm?.[1]).toContain('LargePayloadCodec');
      expect(commonjs).toEqual(esm);
    });

    it('runs the quickstart, with the service of the package', async () => {
      const service = await startService({ lps: join(project, 'node_modules/@large-payload/server/bin/lps.js') });
      try {
        for (const MODE of modes) {
          const WORKFLOW_ID = `packed-${randomUUID()}`;
          const place = { LPS_URL: service.url, TEMPORAL_ADDRESS: temporal.address };
          const env = { ...place, TEMPORAL_NAMESPACE: temporal.namespace, MODE, WORKFLOW_ID };
          const worker = await spawnLogged(process.execPath, ['worker.js'], { cwd: project, env });
          await says(worker, 'worker ready');
          const client = await spawnLogged(process.execPath, ['client.js'], { cwd: project, env });
          await says(client, /result \d+, as expected/, worker);
          await client.stop();
          await worker.stop();
        }
      } finally {
        await service.stop();
      }
    });
  });

  it(
    'tells a project with protobufjs 7 what to install',
    async () => {
      const project = tempDir('project-protobufjs');
      // npm refuses the pair of versions unless it is told to look away; older applications have such a setting for good
      await install('npm', project, { protobufjs: '^7.5.0' }, ['--legacy-peer-deps']);
      const worker = await run(process.execPath, ['worker.js'], {
        cwd: project,
        env: { ...env, TEMPORAL_ADDRESS: temporal.address, MODE: 'driver' },
      }).then(
        () => 'it ran',
        (error: { stderr: string }) => error.stderr,
      );
      expect(worker).toMatch(/npm install protobufjs@\^8\.7\.1/);
    },
    installMs,
  );
});

/** The quickstart's files, with the tarballs in place of the workspace's packages. */
async function install(
  manager: 'npm' | 'pnpm',
  project: string,
  changed: Readonly<Record<string, string>> = {},
  flags: readonly string[] = [],
): Promise<void> {
  const example = join(root, 'examples/quickstart');
  cpSync(example, project, { recursive: true, filter: (path) => !path.includes('node_modules') });
  const manifest = JSON.parse(readFileSync(join(project, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  const tarballs = Object.fromEntries(
    packageNames.map((name) => [`@large-payload/${name}`, `file:${packages[name].tarball}`]),
  );
  const dependencies = { ...manifest.dependencies, ...tarballs, ...changed };
  // npm takes the packages that the others ask for from the project's own; pnpm would ask the registry
  const pnpm = { overrides: tarballs };
  writeFileSync(join(project, 'package.json'), JSON.stringify({ ...manifest, dependencies, pnpm }));
  const [command, args] =
    manager === 'npm' ? ['npm', ['install', '--no-audit', '--no-fund']] : [bin('pnpm'), ['install']];
  await run(command, [...args, '--prefer-offline', ...flags], { cwd: project, env, maxBuffer: 1 << 24 });
}
