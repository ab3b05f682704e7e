import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { settingsDocumentation } from './documentation.js';
import { allSettings, envOf } from './settings.js';

const path = fileURLToPath(new URL('../../../../docs/config.md', import.meta.url));

describe('docs/config.md', () => {
  it('is what the table of settings says', async () => {
    await expect(settingsDocumentation()).toMatchFileSnapshot(path);
  });

  it('names every setting, and no other', () => {
    const rows = readFileSync(path, 'utf8').matchAll(/^\| `--([a-z0-9-]+)[^`]*` \| `(LPS_[A-Z0-9_]+)`/gm);
    const documented = [...rows].map(([, flag, variable]) => `${flag} ${variable}`);
    expect(documented.sort()).toEqual(allSettings.map(([, setting]) => `${setting.flag} ${envOf(setting)}`).sort());
  });
});
