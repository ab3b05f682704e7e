import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cacheDir } from './components.mjs';
import { skipped } from './require.ts';

const run = promisify(execFile);
const command = 'python3';
const timeoutMs = 300_000;

/**
 * A Python with packages of PyPI (`['temporalio==1.35.0']`), in a virtual environment made once; the path of its
 * interpreter. Undefined, with a printed reason, without Python, `venv` or PyPI, unless LPS_REQUIRE names `python`.
 *
 *   ~/.cache/large-payload/python-3.11-6f2c41d09a7b/bin/python     <- the hash of the requirements
 */
export async function pythonWith(requirements: readonly string[]): Promise<string | undefined> {
  try {
    return await makeEnvironment(requirements);
  } catch (error) {
    const said = error as { readonly stderr?: string; readonly message: string };
    return skipped('python', (said.stderr || said.message).trim().split('\n').slice(-3).join(' '));
  }
}

async function makeEnvironment(requirements: readonly string[]): Promise<string> {
  const { stdout } = await run(command, ['-c', 'import sys; print("%d.%d" % sys.version_info[:2])']);
  const hash = createHash('sha256').update(requirements.join('\n')).digest('hex').slice(0, 12);
  const dir = join(cacheDir(), `python-${stdout.trim()}-${hash}`);
  if (!isPresent(dir)) await build(dir, requirements);
  return interpreterOf(dir);
}

/** Renamed into place when it is whole. Its scripts then name the old place; its interpreter does not. */
async function build(dir: string, requirements: readonly string[]): Promise<void> {
  mkdirSync(cacheDir(), { recursive: true });
  const workDir = mkdtempSync(join(cacheDir(), '.building-python-'));
  try {
    await run(command, ['-m', 'venv', workDir], { timeout: timeoutMs });
    const install = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...requirements];
    await run(interpreterOf(workDir), install, { timeout: timeoutMs });
    renameSync(workDir, dir);
  } catch (error) {
    // another run was faster: its environment is as good as ours
    if (!isPresent(dir)) throw error;
  } finally {
    rmSync(workDir, { recursive: true, force: true });
  }
}

function interpreterOf(dir: string): string {
  return process.platform === 'win32' ? join(dir, 'Scripts', 'python.exe') : join(dir, 'bin', 'python');
}

function isPresent(dir: string): boolean {
  try {
    accessSync(interpreterOf(dir));
    return true;
  } catch {
    return false;
  }
}
