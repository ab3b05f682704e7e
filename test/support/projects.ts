/** Projects as package managers lay them out: only their package.json files, which is what is read. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { tempDir } from '@large-payload/test-components';

export interface Manifest {
  readonly version?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly engines?: Readonly<Record<string, string>>;
}

/** `{ 'node_modules/a': { version: '1.0.0' } }`; the root is `''`. Links: from → to, both from the root. */
export function makeProject(
  packages: Readonly<Record<string, Manifest>>,
  links: Readonly<Record<string, string>> = {},
): string {
  const root = tempDir('project');
  for (const [path, manifest] of Object.entries(packages)) {
    const name = path === '' ? 'my-worker' : path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length);
    mkdirSync(join(root, path), { recursive: true });
    writeFileSync(join(root, path, 'package.json'), JSON.stringify({ name, ...manifest }));
  }
  for (const [from, to] of Object.entries(links)) {
    mkdirSync(dirname(join(root, from)), { recursive: true });
    symlinkSync(join(root, to), join(root, from));
  }
  return root;
}

const node = { node: '>=20.19' };
const sdkDependencies = { '@temporalio/common': '1.24.0', '@temporalio/proto': '1.24.0' };

/** A worker with everything in its place, in npm's layout. */
export const goodProject: Readonly<Record<string, Manifest>> = {
  '': {
    dependencies: { '@large-payload/temporal': '0.1.0', '@temporalio/worker': '^1.24.0', protobufjs: '^8.7.1' },
  },
  'node_modules/@large-payload/temporal': {
    version: '0.1.0',
    dependencies: { '@large-payload/core': '0.1.0' },
    peerDependencies: { '@temporalio/common': '>=1.24 <2', '@temporalio/proto': '>=1.24 <2', protobufjs: '^8.7.1' },
    engines: node,
  },
  'node_modules/@large-payload/core': { version: '0.1.0', engines: node },
  'node_modules/@temporalio/worker': {
    version: '1.24.0',
    dependencies: sdkDependencies,
    engines: { node: '>= 20.3.0' },
  },
  'node_modules/@temporalio/common': {
    version: '1.24.0',
    dependencies: { '@temporalio/proto': '1.24.0', protobufjs: '^8.0.0' },
  },
  'node_modules/@temporalio/proto': { version: '1.24.0', dependencies: { protobufjs: '^8.0.0' } },
  'node_modules/protobufjs': { version: '8.8.1' },
};

/** What npm makes without protobufjs 8 in the application: the 7 of grpc-js at the top, and an 8 for each of two. */
export const hoistedProject: Readonly<Record<string, Manifest>> = {
  ...goodProject,
  '': { dependencies: { '@large-payload/temporal': '0.1.0', '@temporalio/worker': '^1.24.0' } },
  'node_modules/protobufjs': { version: '7.5.4' },
  'node_modules/@temporalio/common/node_modules/protobufjs': { version: '8.8.1' },
  'node_modules/@temporalio/proto/node_modules/protobufjs': { version: '8.8.1' },
};

/** A worker of another version than the client, so with a common of its own. */
export const twoCommonsProject: Readonly<Record<string, Manifest>> = {
  ...goodProject,
  'node_modules/@temporalio/worker/node_modules/@temporalio/common': {
    version: '1.24.1',
    dependencies: { '@temporalio/proto': '1.24.0', protobufjs: '^8.0.0' },
  },
};

/** The good one as pnpm lays it out: every package once below .pnpm, its dependencies as links beside it. */
export function makePnpmProject(): string {
  const at = (name: string): string => `node_modules/.pnpm/${name.replace('/', '+')}@1/node_modules/${name}`;
  const packages: Record<string, Manifest> = {};
  const links: Record<string, string> = {};
  for (const [path, manifest] of Object.entries(goodProject)) {
    const name = path.slice('node_modules/'.length);
    const modules = path === '' ? 'node_modules' : at(name).slice(0, -name.length - 1);
    packages[path === '' ? '' : at(name)] = manifest;
    for (const wanted of Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })) {
      links[`${modules}/${wanted}`] = at(wanted);
    }
  }
  return makeProject(packages, links);
}
