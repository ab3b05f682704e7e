// The CommonJS builds lie in packages/*/dist/cjs, whose files Node would take for ES modules without this mark.
import { existsSync, readdirSync, writeFileSync } from 'node:fs';

const packages = new URL('../packages/', import.meta.url);
for (const name of readdirSync(packages)) {
  const dir = new URL(`${name}/dist/cjs/`, packages);
  if (existsSync(dir)) writeFileSync(new URL('package.json', dir), '{ "type": "commonjs" }\n');
}
