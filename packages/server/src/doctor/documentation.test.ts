import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { findingKinds } from './finding.js';

const page = readFileSync(new URL('../../../../docs/doctor.md', import.meta.url), 'utf8');
const rows = [...page.matchAll(/^\| `([a-z-]+\.[a-z-]+)` \| (\w+) \| (.+) \| (.*) \|$/gm)];

describe('docs/doctor.md', () => {
  it('has every finding, in the order of the report, with the worst that it can be, and no other', () => {
    expect(rows.map(([, id, worst]) => [id, worst])).toEqual(Object.entries(findingKinds));
  });

  it('says what to do about each one that warns or fails', () => {
    const silent = rows.filter(([, , worst, , todo]) => worst !== 'info' && todo?.trim() === '');
    expect(silent).toEqual([]);
  });

  it('has no finding that nothing finds', () => {
    const files = readdirSync(import.meta.dirname).filter((name) => !/^finding\.ts$|\.test\./.test(name));
    const code = files.map((name) => readFileSync(`${import.meta.dirname}/${name}`, 'utf8')).join();
    expect(Object.keys(findingKinds).filter((id) => !code.includes(`'${id}'`))).toEqual([]);
  });
});
