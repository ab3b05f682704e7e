/** A worker project: are the packages there, each once, and new enough. */
import { relative } from 'node:path';
import { type Finding, fail, info, ok, warn } from './finding.js';
import type { InstalledPackage, ProjectGraph } from './project-graph.js';
import { isAtLeast, numbersOf } from './versions.js';

/** As the peer dependencies of @large-payload/temporal say it. */
const oldestSdk = '1.24';
const protobufjsMajor = 8;
const ourPackages = ['@large-payload/core', '@large-payload/temporal'];

/** `nodeVersion`: the Node that runs this, and probably the worker. */
export function judgeProject(graph: ProjectGraph, nodeVersion: string): Finding[] {
  return [
    packages(graph),
    ...node(graph, nodeVersion),
    ...sdk(graph),
    ...missing(graph),
    ...copies(graph),
    ...protobufjs(graph),
  ];
}

function packages({ root, packages }: ProjectGraph): Finding {
  const has = ourPackages.filter((name) => named(packages, name).length > 0);
  if (has.length > 0) return ok('project.packages', `${root.name}: ${packages.size - 1} packages`);
  const todo = 'npm install @large-payload/temporal protobufjs@^8.7.1';
  return info('project.packages', `${root.name} uses Temporal, and none of our packages`, todo);
}

function node({ packages }: ProjectGraph, nodeVersion: string): Finding[] {
  const strict = [...packages.values()].filter(({ name, engine }) => isConcerned(name) && engine !== undefined);
  // ranges of several parts ("^20 || >=22") are theirs to explain
  const tooNew = strict.filter(({ engine = '' }) => /^>=\s*[\d.]+$/.test(engine) && !isAtLeast(nodeVersion, engine));
  const [first] = tooNew;
  if (first === undefined) return [ok('project.node', `runs on Node ${nodeVersion}`)];
  const seen = `Node ${nodeVersion} is too old for ${first.name} ${first.version}, which wants ${first.engine}`;
  return [fail('project.node', seen, 'run the worker with a newer Node')];
}

function sdk({ packages }: ProjectGraph): Finding[] {
  const common = named(packages, '@temporalio/common');
  const old = common.filter(({ version }) => !isAtLeast(version, oldestSdk) || (numbersOf(version)[0] ?? 0) > 1);
  const [first] = old;
  if (first === undefined) return common.slice(0, 1).map(({ version }) => ok('project.sdk', `Temporal SDK ${version}`));
  const todo =
    'npm install @temporalio/client@^1.24 @temporalio/worker@^1.24 (and the other @temporalio packages alike)';
  return [fail('project.sdk', `Temporal SDK ${first.version}: it must be ${oldestSdk} or a later 1.x`, todo)];
}

function missing({ packages }: ProjectGraph): Finding[] {
  return [...packages.values()]
    .filter(({ name }, index) => index === 0 || isConcerned(name))
    .flatMap(({ name, missing }) =>
      missing
        .filter(({ isPeer, name: wanted }) => isPeer || isConcerned(wanted))
        .map(({ name: wanted, range }) =>
          fail(
            'project.missing',
            `${name} needs ${wanted} ${range}, which is not installed`,
            `npm install ${wanted}@"${range}"`,
          ),
        ),
    );
}

function copies({ root, packages }: ProjectGraph): Finding[] {
  const common = named(packages, '@temporalio/common');
  const core = named(packages, '@large-payload/core');
  const findings: Finding[] = [];
  if (common.length > 1) {
    const seen = `there are ${common.length} copies of @temporalio/common: ${places(common, root)}; converters and failures of one are not known to the other`;
    const todo = 'give all @temporalio packages the same version, then "npm ls @temporalio/common" (npm dedupe helps)';
    findings.push(fail('project.temporal-copies', seen, todo));
  }
  if (core.length > 1) {
    const seen = `there are ${core.length} copies of @large-payload/core: ${places(core, root)}; each has its own caches and connections`;
    findings.push(
      warn('project.core-copies', seen, 'give all @large-payload packages the same version, then npm dedupe'),
    );
  }
  const once = [...common, ...core];
  return findings.length > 0 || once.length === 0 ? findings : [ok('project.temporal-copies', 'each package once')];
}

/**
 * External Storage can write no reference when @temporalio/common and @temporalio/proto load two copies of protobufjs
 * (packages/temporal/src/protobufjs-check.ts): npm makes them when it puts the 7 of grpc-js at the top.
 */
function protobufjs({ root, packages }: ProjectGraph): Finding[] {
  const from = (name: string): InstalledPackage | undefined => {
    const [first] = named(packages, name);
    return packages.get(first?.finds.get('protobufjs') ?? '');
  };
  const [ofCommon, ofProto] = [from('@temporalio/common'), from('@temporalio/proto')];
  if (ofProto === undefined) return [];
  const todo = 'npm install protobufjs@^8.7.1 in the project, then "npm ls protobufjs"';
  if (ofCommon !== undefined && ofCommon.dir !== ofProto.dir) {
    const [atTop] = [packages.get(root.finds.get('protobufjs') ?? '') ?? topmost(named(packages, 'protobufjs'), root)];
    const hoisted =
      atTop === undefined || numbersOf(atTop.version)[0] === protobufjsMajor
        ? ''
        : `; protobufjs ${atTop.version} stands at the top`;
    const seen = `@temporalio/common and @temporalio/proto have a protobufjs each${hoisted}: External Storage cannot write references (mode driver)`;
    return [fail('project.protobufjs', seen, todo)];
  }
  if (numbersOf(ofProto.version)[0] === protobufjsMajor)
    return [ok('project.protobufjs', `protobufjs ${ofProto.version}`)];
  return [
    fail(
      'project.protobufjs',
      `the Temporal SDK finds protobufjs ${ofProto.version}, and needs ${protobufjsMajor}`,
      todo,
    ),
  ];
}

function topmost(copies: readonly InstalledPackage[], root: InstalledPackage): InstalledPackage | undefined {
  const depth = ({ dir }: InstalledPackage): number => relative(root.dir, dir).split('node_modules').length;
  return [...copies].sort((a, b) => depth(a) - depth(b))[0];
}

function named(packages: ProjectGraph['packages'], name: string): InstalledPackage[] {
  return [...packages.values()].filter((one) => one.name === name);
}

function isConcerned(name: string): boolean {
  return name.startsWith('@temporalio/') || name.startsWith('@large-payload/') || name === 'protobufjs';
}

function places(copies: readonly InstalledPackage[], root: InstalledPackage): string {
  return copies.map(({ version, dir }) => `${version} in ${relative(root.dir, dir)}`).join(', ');
}
