// `npm run components`: builds the real components that tests and benchmarks use (components.mjs says which and where).
// Idempotent, and safe to run twice at once: a build is renamed into place only when it is whole.
// Without Go it skips, and fails only for what LPS_REQUIRE names; a build that breaks always fails.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { cacheDir, components, installDir, installedPath, isRequired } from './components.mjs';

const hasGo = spawnSync('go', ['version']).status === 0;

for (const name of Object.keys(components)) {
  const { failed, message } = install(name);
  console.log(`${name}: ${message}`);
  if (failed) process.exitCode = 1;
}

function install(name) {
  const path = installedPath(name);
  if (existsSync(path)) return { message: `present in ${path}` };
  if (!hasGo) return { failed: isRequired(name), message: 'skipped: go is not on the PATH' };

  const startedAt = Date.now();
  mkdirSync(cacheDir(), { recursive: true });
  // In the cache itself: a rename is atomic within one file system only.
  const workDir = mkdtempSync(join(cacheDir(), `.building-${name}-`));
  try {
    const failure = build(components[name], workDir, basename(path));
    if (failure) return { failed: true, message: `failed: ${failure}` };
    moveInto(workDir, installDir(name), path);
    return { message: `built in ${Math.round((Date.now() - startedAt) / 1000)} s into ${path}` };
  } finally {
    rmSync(workDir, { recursive: true, force: true });
  }
}

/** Builds one binary into `outDir`; returns what the compiler said when it failed. */
function build({ goPackage, goSource, version }, outDir, binary) {
  const args = goPackage ? ['install', `${goPackage}@${version}`] : ['build', '-o', join(outDir, binary), '.'];
  // The user's own GOFLAGS (-mod=vendor, say) would break an install of a foreign module;
  // buildvcs needs a git that trusts this checkout, which a container's often does not.
  const env = { ...process.env, GOBIN: outDir, GOFLAGS: '-mod=mod -buildvcs=false', GOWORK: 'off' };
  const result = spawnSync('go', args, { cwd: goSource, env, encoding: 'utf8', maxBuffer: 64 << 20 });
  if (result.status === 0) return undefined;
  return (result.error?.message ?? result.stderr).trim().split('\n').slice(-20).join('\n');
}

function moveInto(builtDir, targetDir, path) {
  try {
    renameSync(builtDir, targetDir);
  } catch (error) {
    // Another install was faster: its binary is as good as ours.
    if (!existsSync(path)) throw error;
  }
}
