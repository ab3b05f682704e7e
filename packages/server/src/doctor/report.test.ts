import { expect, it } from 'vitest';
import { type Finding, fail, info, ok, warn } from './finding.js';
import { reportJson, reportText } from './report.js';

const findings: readonly Finding[] = [
  ok('runtime.node', 'Node 20.20.2'),
  ok('runtime.platform', 'linux x64'),
  warn('bucket.versioning', 'the bucket keeps versions', 'grant the rights to delete them, every one'),
  info('bucket.settings', 'the rules cannot be read'),
  fail('catalog.owner', 'the store belongs to \u001b[2J\u202esomebody else', 'use another\nbucket'),
];

it('tells people what is right in a line, and the rest with what to do', () => {
  expect(reportText(findings, { width: 60, isColoured: false })).toBe(`runtime    ok    Node 20.20.2; linux x64
bucket     warn  the bucket keeps versions
                 [bucket.versioning]
                 → grant the rights to delete them, every
                 one
           info  the rules cannot be read [bucket.settings]
catalog    FAIL  the store belongs to
                 \\u{1b}[2J\\u{202e}somebody else
                 [catalog.owner]
                 → use another\\u{a}bucket

1 failed, 1 warning. docs/doctor.md explains each of them.
`);
});

it('has colours on the marks only', () => {
  const text = reportText(findings, { width: 100, isColoured: true });
  const coded = text.split('\u001b[').slice(1);
  expect(coded.map((part) => /^[\d;]+m\w*/.exec(part)?.[0])).toEqual([
    '32mok',
    '0m',
    '33mwarn',
    '0m',
    '36minfo',
    '0m',
    '1;31mFAIL',
    '0m',
  ]);
});

it('says so when all is well', () => {
  expect(reportText(findings.slice(0, 2), { width: 80, isColoured: false })).toMatch(/\n\nAll is well\.\n$/);
});

it('tells programs everything, an object a line', () => {
  const lines = reportJson(findings)
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown);
  expect(lines).toEqual([...findings, { kind: 'summary', ok: 2, info: 1, warn: 1, fail: 1 }]);
});
