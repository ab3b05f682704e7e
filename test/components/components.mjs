// What the tests use, pinned, and where the builds lie. Shared by install.mjs and index.ts.
//
//   ~/.cache/large-payload/versitygw-v1.8.0/versitygw
//                          fake-gcs-server-v1.56.1/fake-gcs-server
//                          temporal-server-v1.32.0/server
//                          temporal-cli-v1.5.1/temporal
//                          temporal-ui-v2.54.1/server
//                          lpsbench-1f2e3d4c5b6a/lpsbench     <- the hash of its source
//
// Outside the checkout: a 200 MB server outlives `git clean` and is shared by all checkouts.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const lpsbench = fileURLToPath(new URL('../../bench/lpsbench', import.meta.url));

export const components = {
  s3: { product: 'versitygw', version: 'v1.8.0', goPackage: 'github.com/versity/versitygw/cmd/versitygw' },
  gcs: { product: 'fake-gcs-server', version: 'v1.56.1', goPackage: 'github.com/fsouza/fake-gcs-server' },
  temporal: { product: 'temporal-server', version: 'v1.32.0', goPackage: 'go.temporal.io/server/cmd/server' },
  'temporal-cli': {
    product: 'temporal-cli',
    version: 'v1.5.1', // newer ones have replace directives, which `go install` refuses
    goPackage: 'github.com/temporalio/cli/cmd/temporal',
  },
  'temporal-ui': {
    product: 'temporal-ui',
    version: 'v2.54.1',
    goPackage: 'github.com/temporalio/ui-server/v2/cmd/server',
  },
  lpsbench: { product: 'lpsbench', version: sourceHash(lpsbench), goSource: lpsbench },
};

export function cacheDir() {
  const { LPS_TEST_CACHE, XDG_CACHE_HOME } = process.env;
  return LPS_TEST_CACHE || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'large-payload');
}

export function installDir(name) {
  const { product, version } = components[name];
  return join(cacheDir(), `${product}-${version}`);
}

export function installedPath(name) {
  // Go names a binary after the last element of its package.
  const { product, goPackage = product } = components[name];
  const binary = goPackage.slice(goPackage.lastIndexOf('/') + 1);
  return join(installDir(name), process.platform === 'win32' ? `${binary}.exe` : binary);
}

/** LPS_REQUIRE=s3,temporal makes a missing component a failure where it would be a skip. */
export function isRequired(name) {
  return (process.env.LPS_REQUIRE ?? '').split(',').some((item) => item.trim() === name);
}

function sourceHash(dir) {
  const hash = createHash('sha256');
  for (const file of ['go.mod', 'main.go']) hash.update(readFileSync(join(dir, file)));
  return hash.digest('hex').slice(0, 12);
}
