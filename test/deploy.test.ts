/** What deploy/ says, checked without Docker: linted, and the image's own steps and command line run by hand. */
import { execFile } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { skipped, spawnLogged, tempDir } from '@large-payload/test-components';
import { validate } from 'dockerfile-utils';
import { expect, it } from 'vitest';
import { parse } from 'yaml';
import { allSettings, envOf } from '../packages/server/src/config/settings.ts';
import { npmPing } from './support/registry.ts';
import { says } from './support/says.ts';

/** Two installations. */
const installMs = 600_000;

const run = promisify(execFile);
const root = fileURLToPath(new URL('..', import.meta.url));
const dockerfile = readFileSync(join(root, 'deploy/Dockerfile'), 'utf8');
const composeText = readFileSync(join(root, 'deploy/compose.yaml'), 'utf8');
const variables = new Set(allSettings.map(([, setting]) => envOf(setting)));

/** The Dockerfile's instructions, their continued lines joined. */
const instructions = dockerfile
  .replace(/^#.*\n/gm, '')
  .replace(/\\\n/g, ' ')
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => {
    const space = line.trim().indexOf(' ');
    return { name: line.trim().slice(0, space), rest: line.trim().slice(space + 1) };
  });

function all(name: string): string[] {
  return instructions.filter((instruction) => instruction.name === name).map(({ rest }) => rest);
}

it('has a Dockerfile without a lint finding, that runs without root', () => {
  expect(validate(dockerfile).map(({ range, message }) => `${range.start.line + 1}: ${message}`)).toEqual([]);
  const last = instructions.slice(instructions.findLastIndex(({ name }) => name === 'FROM'));
  expect(last.filter(({ name }) => name === 'USER')).toEqual([{ name: 'USER', rest: 'node' }]);
});

it('names only settings that there are', () => {
  const used = [...`${dockerfile}\n${composeText}`.matchAll(/\bLPS_[A-Z0-9_]+/g)].map(([name]) => name);
  expect(used.length).toBeGreaterThan(4);
  expect(used.filter((name) => !variables.has(name))).toEqual([]);
});

interface Compose {
  readonly services: Record<
    string,
    {
      readonly build?: { readonly context: string; readonly dockerfile: string };
      readonly ports?: readonly string[];
      readonly depends_on?: readonly string[] | Record<string, unknown>;
      readonly volumes?: readonly string[];
    }
  >;
  readonly volumes: Record<string, unknown>;
}

it('has a compose file whose parts fit together, with no port open to others', () => {
  const { services, volumes } = parse(composeText) as Compose;
  expect(Object.keys(services).sort()).toEqual(['lps', 'postgres', 'temporal', 'temporal-ui']);
  for (const service of Object.values(services)) {
    const needs = Array.isArray(service.depends_on) ? service.depends_on : Object.keys(service.depends_on ?? {});
    expect(needs.filter((name) => services[name] === undefined)).toEqual([]);
    expect((service.ports ?? []).filter((port) => !port.startsWith('127.0.0.1:'))).toEqual([]);
    const named = (service.volumes ?? []).map((volume) => volume.split(':')[0] ?? '');
    expect(named.filter((name) => !(name in volumes))).toEqual([]);
  }
  const { build } = services.lps ?? {};
  expect(existsSync(join(root, 'deploy', build?.context ?? '?', build?.dockerfile ?? '?'))).toBe(true);
});

const isRegistryThere = await run('npm', npmPing, { timeout: 60_000 }).then(
  () => true,
  () => skipped('registry', 'npm reaches no registry'),
);

it.runIf(isRegistryThere && process.platform === 'linux')(
  'builds, step by step, what the image holds, and its command line serves without root',
  async () => {
    const [app, image] = [join(tempDir('image'), 'app'), tempDir('image')];
    // what COPY . . takes over: the files of the repository
    const { stdout } = await run('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { cwd: root });
    for (const file of stdout.split('\n').filter((file) => file !== '' && existsSync(join(root, file)))) {
      mkdirSync(dirname(join(app, file)), { recursive: true });
      cpSync(join(root, file), join(app, file));
    }
    const npmEnv = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name)));
    const [build] = all('RUN');
    await run('sh', ['-euc', (build ?? 'false').replaceAll('npm ci', 'npm ci --prefer-offline')], {
      cwd: app,
      env: npmEnv,
      maxBuffer: 1 << 24,
    });
    for (const copy of all('COPY').filter((rest) => rest.startsWith('--from=build'))) {
      const [, from = '', to = ''] = copy.split(' ');
      const target = to.endsWith('/') ? join(image, to, from.slice(from.lastIndexOf('/'))) : join(image, to);
      mkdirSync(dirname(target), { recursive: true });
      renameSync(from.replace('/app', app), target); // nobody needs it there any more
    }

    const set = Object.fromEntries([...(all('ENV')[0] ?? '').matchAll(/(\w+)=(\S+)/g)].map(([, k, v]) => [k, v]));
    const data = tempDir('image-data');
    const link = all('RUN')[1]?.match(/ln -s \/app\/(\S+)/)?.[1] ?? '?';
    const [entry, command] = [JSON.parse(all('ENTRYPOINT')[0] ?? '[]'), JSON.parse(all('CMD')[0] ?? '[]')];
    expect(entry).toEqual(['lps']);
    // nobody else is to reach a test's service
    const changed = { LPS_HOST: '127.0.0.1', LPS_DATA_DIR: data, LPS_PORT: '0' };
    const env = { PATH: process.env.PATH ?? '', HOME: '/nonexistent', ...set, ...changed };
    const asUser = process.getuid?.() === 0 ? await withoutRoot([image, data]) : [];
    const [first = '', ...rest] = [...asUser, 'env', '-i', ...Object.entries(env).map(([k, v]) => `${k}=${v}`)];
    const service = await spawnLogged(first, [...rest, join(image, link), ...command]);
    await says(service, /listening on http:\/\/127\.0\.0\.1:\d+/);
    const port = /listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(service.output())?.[1];

    const check = /CMD (\[.*\])$/.exec(all('HEALTHCHECK')[0] ?? '')?.[1] ?? '[]';
    const [node = '', ...args] = JSON.parse(check) as string[];
    await run(node, args, { env: { ...process.env, LPS_PORT: port } }); // rejects when it is not healthy
    await service.stop();
    await expect(run(node, args, { env: { ...process.env, LPS_PORT: port } })).rejects.toMatchObject({ code: 1 });
    expect(service.ended).toBe('exit code 0');
  },
  installMs,
);

/** Gives directories to a user who is nobody else here, and says how to run as him. */
async function withoutRoot(dirs: readonly string[]): Promise<string[]> {
  for (const dir of dirs) {
    await run('chown', ['-R', '1000:1000', dir]);
    // every temporary directory lies in one that only its owner may enter
    chmodSync(dirname(dir), 0o711);
  }
  return ['setpriv', '--reuid=1000', '--regid=1000', '--clear-groups'];
}
