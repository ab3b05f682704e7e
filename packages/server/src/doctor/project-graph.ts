/**
 * The packages of a project as Node would find them, by walking node_modules: nothing of the project is run.
 *
 *   npm    node_modules/a, node_modules/a/node_modules/b
 *   pnpm   node_modules/a → .pnpm/a@1/node_modules/a, and b beside it: found like npm's, from where the link leads
 *
 * Source of the rule: https://nodejs.org/api/modules.html#loading-from-node_modules-folders
 */
import * as fs from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

/** A package as it is installed. Two copies of one package are two of these. */
export interface InstalledPackage {
  readonly name: string;
  readonly version: string;
  /** Where links lead to. */
  readonly dir: string;
  /** Of Node: `>=20.19`. */
  readonly engine?: string;
  /** What it asks for and does not find. */
  readonly missing: readonly MissingPackage[];
  /** What it finds: name → directory. */
  readonly finds: ReadonlyMap<string, string>;
}

export interface MissingPackage {
  readonly name: string;
  readonly range: string;
  readonly isPeer: boolean;
}

export interface ProjectGraph {
  readonly root: InstalledPackage;
  /** By directory, the project itself among them. */
  readonly packages: ReadonlyMap<string, InstalledPackage>;
}

interface Manifest {
  readonly name?: string;
  readonly version?: string;
  readonly engines?: { readonly node?: unknown };
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>;
}

/** More than any project has; a walk that goes further has lost its way. */
const maxPackages = 20_000;
const atOnce = 32;

/** Reads the project in `dir`. Throws what reading its package.json throws. */
export async function readProjectGraph(dir: string, signal: AbortSignal): Promise<ProjectGraph> {
  const top = await fs.realpath(dir);
  const root = await readPackage(top, true);
  const packages = new Map([[top, root]]);
  for (let next = [...root.finds.values()]; next.length > 0 && packages.size < maxPackages; ) {
    const wave = [...new Set(next)].filter((path) => !packages.has(path));
    next = [];
    for (let at = 0; at < wave.length; at += atOnce) {
      signal.throwIfAborted();
      const found = await Promise.all(
        wave.slice(at, at + atOnce).map((path) => readPackage(path, false).catch(() => undefined)),
      );
      for (const one of found.filter((one) => one !== undefined)) {
        packages.set(one.dir, one);
        next.push(...one.finds.values());
      }
    }
  }
  return { root, packages };
}

/** Whether a directory holds a project that uses Temporal. */
export async function usesTemporal(dir: string): Promise<boolean> {
  const manifest = await readManifest(dir).catch(() => undefined);
  return manifest !== undefined && wantedBy(manifest, true).some(({ name }) => name.startsWith('@temporalio/'));
}

async function readManifest(dir: string): Promise<Manifest> {
  return JSON.parse(await fs.readFile(join(dir, 'package.json'), 'utf8')) as Manifest;
}

async function readPackage(dir: string, isRoot: boolean): Promise<InstalledPackage> {
  const manifest = await readManifest(dir);
  const finds = new Map<string, string>();
  const missing: MissingPackage[] = [];
  for (const { isOptional, ...wanted } of wantedBy(manifest, isRoot)) {
    const found = await findFrom(dir, wanted.name);
    if (found !== undefined) finds.set(wanted.name, found);
    else if (!isOptional) missing.push(wanted);
  }
  const engine = manifest.engines?.node;
  return {
    name: manifest.name ?? basename(dir),
    version: manifest.version ?? '0.0.0',
    dir,
    ...(typeof engine === 'string' ? { engine } : {}),
    missing,
    finds,
  };
}

function wantedBy(manifest: Manifest, isRoot: boolean): (MissingPackage & { isOptional: boolean })[] {
  const { peerDependenciesMeta: meta = {}, optionalDependencies: optional = {} } = manifest;
  const kinds = [
    // what a production install leaves out is not missed
    ...(isRoot ? [{ wanted: manifest.devDependencies, isPeer: false, isOptional: true }] : []),
    { wanted: optional, isPeer: false, isOptional: true },
    { wanted: manifest.peerDependencies, isPeer: true, isOptional: false },
    { wanted: manifest.dependencies, isPeer: false, isOptional: false },
  ];
  return kinds.flatMap(({ wanted = {}, isPeer, isOptional }) =>
    Object.entries(wanted).map(([name, range]) => {
      const isOptionalPeer = isPeer && meta[name]?.optional === true;
      return { name, range, isPeer, isOptional: isOptional || isOptionalPeer || name in optional };
    }),
  );
}

/** Where Node finds a package from a directory; links followed. */
async function findFrom(dir: string, name: string): Promise<string | undefined> {
  for (let at = dir; ; at = dirname(at)) {
    if (basename(at) !== 'node_modules') {
      const path = join(at, 'node_modules', name);
      const isThere = await fs.access(join(path, 'package.json')).then(
        () => true,
        () => false,
      );
      if (isThere) return fs.realpath(path);
    }
    if (at === dirname(at)) return undefined;
  }
}
