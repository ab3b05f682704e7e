import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { type ComponentName, installedPath, isRequired } from './components.mjs';

/** Commands on the PATH that will do when nothing is in the cache. */
const commandsOnPath: Partial<Record<ComponentName, string>> = { temporal: 'temporal', 'temporal-cli': 'temporal' };

/** Where a component's binary is. Nothing is built or downloaded here: that is `npm run components`. */
export function componentOrSkip(name: ComponentName): { path: string } | { skip: string } {
  const cached = installedPath(name);
  if (isExecutable(cached)) return { path: cached };
  const command = commandsOnPath[name];
  const found = command && findOnPath(command);
  return found ? { path: found } : { skip: `${cached} is missing, \`npm run components\` builds it` };
}

/** The binary's path; or undefined and one printed line; or, when LPS_REQUIRE names the component, an exception. */
export function requireOrSkip(name: ComponentName): string | undefined {
  const found = componentOrSkip(name);
  return 'path' in found ? found.path : skipped(name, found.skip);
}

/** The same answer for a component that is looked for elsewhere (postgres, chromium). */
export function skipped(name: string, reason: string): undefined {
  if (isRequired(name)) throw new Error(`LPS_REQUIRE names ${name}, but: ${reason}`);
  console.log(`skipped: ${name}: ${reason}`);
  return undefined;
}

/**
 * A suite around a component that may be absent; the body gets it as present.
 *
 *     const s3 = await startVersitygw();
 *     describeWith(describe, 'the s3 store', s3, (s3) => { it('keeps blobs', ...) });
 */
export function describeWith<T>(
  describe: { (title: string, body: () => void): unknown; skip: (title: string) => unknown },
  title: string,
  component: T | undefined,
  body: (component: T) => void,
): void {
  if (component === undefined) describe.skip(title);
  else describe(title, () => body(component));
}

function findOnPath(command: string): string | undefined {
  const candidates = (process.env.PATH ?? '').split(delimiter).map((dir) => join(dir, command));
  return candidates.find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
