import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parsePolicy, readPolicy, temporalPermissions } from './policy.js';
import { may, rights } from './principal.js';

const policyOf = (rules: string) => parsePolicy('policy.yaml', `rules:\n${rules}`);
const grant = (rule: string) => policyOf(`  - { namespaces: [a], rights: [read], ${rule} }`);
const gives = (rule: string, claims: object): boolean => grant(rule).grantsOf(claims as never).length > 0;

const example = `
rules:
  - when: { groups: payments-oncall }
    namespaces: [payments, "payments-*"]
    rights: [read, decode]
  - namespaces-from: temporal_namespaces
    rights: [read, write]
`;

describe('a policy', () => {
  it('gives what its rules say, together', () => {
    const policy = parsePolicy('policy.yaml', example);
    expect(policy.grantsOf({})).toEqual([]);
    expect(policy.grantsOf({ groups: ['x', 'payments-oncall'], temporal_namespaces: ['orders', 'billing'] })).toEqual([
      { namespaces: ['payments', 'payments-*'], rights: ['read', 'decode'] },
      { namespaces: ['orders', 'billing'], rights: ['read', 'write'] },
    ]);
  });

  it.each([
    ['when: { role: admin }', { role: 'admin' }, true],
    ['when: { role: admin }', { role: ['other', 'admin'] }, true],
    ['when: { role: admin }', { role: 'admins' }, false],
    ['when: { role: admin }', { role: 'other admin' }, false],
    ['when: { role: admin }', { role: { admin: true } }, false],
    ['when: { role: admin }', {}, false],
    ['when: { scope: blobs.read }', { scope: 'openid blobs.read' }, true],
    ['when: { scope: blobs.read }', { scope: 'openid blobs.reader' }, false],
    ['when: { scp: blobs.read }', { scp: ['blobs.read'] }, true],
    ['when: { verified: true }', { verified: true }, true],
    ['when: { verified: true }', { verified: 'true' }, false],
    ['when: { level: 3 }', { level: 3 }, true],
    ['when: { level: "3" }', { level: 3 }, false],
    ['when: { a: x, b: y }', { a: 'x', b: 'y' }, true],
    ['when: { a: x, b: y }', { a: 'x', b: 'z' }, false],
    ['when: { realm_access.roles: ops }', { realm_access: { roles: ['ops'] } }, true],
    ['when: { "https://a.example/roles": ops }', { 'https://a.example/roles': 'ops' }, true],
    ['when: { constructor.name: Object }', {}, false],
    ['when: { toString.name: toString }', {}, false],
    ['when: { a.length: 1 }', { a: ['x'] }, false],
    ['when: { a.0: x }', { a: ['x'] }, false],
    ['when: { a.length: 1 }', { a: 'x' }, false],
  ])('with %s and %j: %j', (rule, claims, expected) => {
    expect(gives(rule, claims)).toBe(expected);
  });

  it('reads no prototype, and changes none', () => {
    const claims = JSON.parse('{"__proto__": {"role": "admin", "namespaces": ["a"]}}');
    expect(gives('when: { role: admin }', claims)).toBe(false);
    expect(gives('when: { __proto__.role: admin }', claims)).toBe(true); // an own claim of that name
    expect(gives('when: { __proto__.role: admin }', {})).toBe(false);
    // as if something else had changed it
    const inherited = Object.create({ role: 'admin' });
    expect(gives('when: { role: admin }', inherited)).toBe(false);
    expect(gives('when: { a.role: admin }', { a: inherited })).toBe(false);
    expect(Object.hasOwn(Object.prototype, 'role')).toBe(false);
  });

  it('a condition on __proto__ is a condition', () => {
    expect(gives('when: { __proto__: x }', {})).toBe(false);
    expect(gives('when: { __proto__: x }', JSON.parse('{"__proto__": "x"}'))).toBe(true);
  });

  it('takes from a claim names of namespaces, and nothing else', () => {
    const policy = policyOf('  - { namespaces-from: ns.list, rights: [admin] }');
    const named = (list: unknown) => policy.grantsOf({ ns: { list } });
    expect(named('orders')).toEqual([{ namespaces: ['orders'], rights: ['admin'] }]);
    expect(named(['a', '*', 'b*', '', '..', 'c/d', 5, null, ['e'], 'a'])).toEqual([
      { namespaces: ['a'], rights: ['admin'] },
    ]);
    for (const odd of ['*', '', undefined, null, 1, {}, [], ['*']]) expect(named(odd)).toEqual([]);
    expect(named(Array.from({ length: 5000 }, (_, n) => `n${n}`))[0]?.namespaces).toHaveLength(1000);
  });

  it('without rules gives nothing', () => {
    expect(policyOf('  []').grantsOf({ permissions: ['a:admin'] })).toEqual([]);
  });

  it.each([
    ['rules: [', /not readable as YAML/],
    ['', /expected object/],
    ['[]', /expected object/],
    ['rules: {}', /rules: .*expected array/],
    ['rules: []\nrule: []', /Unrecognized key: "rule"/],
    ['rules: []\nrules: []', /unique/],
    [`rules: [{ namespaces: [a], rights: [read], unless: { a: b } }]`, /rules\.0: Unrecognized key: "unless"/],
    [`rules: [{ namespaces: [a], rights: [fly] }]`, /rules\.0\.rights\.0: /],
    [`rules: [{ namespaces: [a], rights: [] }]`, /rules\.0\.rights: /],
    [`rules: [{ namespaces: [a] }]`, /rules\.0\.rights: /],
    [`rules: [{ rights: [read] }]`, /rules\.0: must have either "namespaces" or "namespaces-from"/],
    [`rules: [{ namespaces: [a], namespaces-from: b, rights: [read] }]`, /rules\.0: must have either/],
    [`rules: [{ namespaces: [], rights: [read] }]`, /rules\.0\.namespaces: /],
    [`rules: [{ namespaces: a, rights: [read] }]`, /rules\.0\.namespaces: /],
    [`rules: [{ namespaces: ["a*b"], rights: [read] }]`, /rules\.0\.namespaces\.0: a "\*" may only stand at the end/],
    [`rules: [{ namespaces: [..], rights: [read] }]`, /rules\.0\.namespaces\.0: the namespace must not be/],
    [`rules: [{ when: {}, namespaces: [a], rights: [read] }]`, /rules\.0\.when: must name claims/],
    [`rules: [{ when: , namespaces: [a], rights: [read] }]`, /rules\.0\.when: must name claims/],
    [`rules: [{ when: [a], namespaces: [a], rights: [read] }]`, /rules\.0\.when: must name claims/],
    [`rules: [{ when: { a: [b] }, namespaces: [a], rights: [read] }]`, /rules\.0\.when\.a: must be one text/],
    [`rules: [{ when: { a: }, namespaces: [a], rights: [read] }]`, /rules\.0\.when\.a: must be one text/],
    [`rules: [{ when: { a: 12345678901234567890 }, namespaces: [a], rights: [read] }]`, /rules\.0\.when\.a: /],
    [`a: &a [x, x]\nb: &b [${'*a,'.repeat(200)}]`, /alias|Unrecognized|rules/i],
    [`# ${'x'.repeat(1024 * 1024)}`, /larger than 1 MiB/],
  ])('file %# is refused', (text, message) => {
    const problem = expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringMatching(message) });
    expect(() => parsePolicy('policy.yaml', text)).toThrow(problem);
  });

  it('names every problem at once, and the file', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'lps-policy-'));
    try {
      const path = join(dir, 'policy.yaml');
      await writeFile(
        path,
        'rules:\n  - { namespaces: [a], rights: [fly] }\n  - { namespaces: ["*a"], rights: [read] }\n',
      );
      const error = await readPolicy(path).catch((caught: unknown) => caught);
      expect(error).toMatchObject({
        code: 'CONFIG_INVALID',
        details: { problems: [expect.any(String), expect.any(String)] },
      });
      await expect(readPolicy(join(dir, 'none'))).rejects.toMatchObject({
        code: 'CONFIG_INVALID',
        message: expect.stringMatching(/none cannot be read: ENOENT/),
      });
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});

describe("the permissions of Temporal's tokens", () => {
  const grantsOf = (...permissions: unknown[]) => temporalPermissions.grantsOf({ permissions });
  it.each([
    ['orders:read', [{ namespaces: ['orders'], rights: ['read', 'decode'] }]],
    ['orders:write', [{ namespaces: ['orders'], rights: ['read', 'write'] }]],
    ['orders:worker', [{ namespaces: ['orders'], rights: ['read', 'write'] }]],
    ['orders:ADMIN', [{ namespaces: ['orders'], rights }]],
    ['temporal-system:read', [{ namespaces: ['*'], rights: ['read', 'decode'] }]],
    ['system:admin', [{ namespaces: ['system'], rights }]], // a namespace like others
  ])('%s', (permission, grants) => {
    expect(grantsOf(permission)).toEqual(grants);
  });

  it.each([
    '*:admin',
    'orders*:admin',
    'orders',
    ':admin',
    'a:b:admin',
    'a:',
    '..:read',
    'a/b:read',
    'a:root',
    5,
    null,
    {},
    [],
  ])('%j gives nothing', (permission) => {
    expect(grantsOf(permission)).toEqual([]);
  });

  it('must be a list', () => {
    for (const permissions of ['orders:read', { 0: 'orders:read' }, null, undefined]) {
      expect(temporalPermissions.grantsOf({ permissions })).toEqual([]);
    }
    expect(temporalPermissions.grantsOf(JSON.parse('{"__proto__":{"permissions":["a:admin"]}}'))).toEqual([]);
  });
});

it('no claims crash a policy, change a prototype, or give what no rule gives', () => {
  const policy = policyOf(`  - { when: { a.b: x, scope: y }, namespaces: [n], rights: [read] }
  - { namespaces-from: __proto__.constructor, rights: [write] }`);
  const before = Object.getOwnPropertyNames(Object.prototype).length;
  fc.assert(
    fc.property(fc.json(), (json) => {
      const claims = JSON.parse(json);
      if (typeof claims !== 'object' || claims === null) return;
      for (const grants of [policy.grantsOf(claims), temporalPermissions.grantsOf(claims)]) {
        expect(may({ id: 'x', grants }, 'admin', 'n')).toBe(false);
      }
    }),
    { numRuns: 1000 },
  );
  expect(Object.getOwnPropertyNames(Object.prototype)).toHaveLength(before);
});
