/** The commands of token.ts, as they are called, on the embedded database of a directory. */
import { readdir } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openAccess } from '../auth/open-access.js';
import { startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { openWorkplace, type Workplace } from './lps-fixture.js';

let place: Workplace;
beforeAll(async () => {
  place = await openWorkplace();
});
afterAll(() => place.remove());

describe('refused are', () => {
  const rest = ['--name', 'x', '--namespace', 'orders', '--right', 'read'];
  it.each([
    [['token'], /Usage: lps token/],
    [['token', 'make'], /unknown command 'make'/],
    [['token', 'create'], /required option '--name <text>' not specified/],
    [['token', 'create', '--name', 'x', '--right', 'read'], /required option '--namespace <name>' not specified/],
    [['token', 'create', '--name', 'x', '--namespace', 'a'], /required option '--right <right>' not specified/],
    [['token', 'create', ...rest, '--right', 'fly'], /'fly' is invalid. It must be one of read, write, decode, admin/],
    [['token', 'create', ...rest, '--namespace', 'a*b'], /'a\*b' is invalid. a "\*" may only stand at the end/],
    [['token', 'create', ...rest, '--namespace', '..'], /'..' is invalid. the namespace must not be/],
    [['token', 'create', ...rest, '--expires', 'soon'], /'soon' is invalid. It must be a time from 1m to 3650d/],
    [['token', 'create', ...rest, '--expires', '0s'], /'0s' is invalid/],
    [['token', 'create', ...rest, '--store', 'memory'], /the memory store and its catalog are gone/],
    [['token', 'list', '--data-dir', 'nowhere'], /there is no catalog in .*nowhere/],
    [['token', 'revoke'], /missing required argument 'id'/],
    [['token', 'revoke', 'aaaaaaaaaaaa', '--data-dir', 'nowhere'], /there is no catalog in .*nowhere/],
  ])('%j', async (args, message) => {
    const { code, out, err } = await place.lps(args);
    expect({ code, out, err }).toEqual({ code: 2, out: '', err: expect.stringMatching(message) });
    expect(await readdir(place.dir)).toEqual([]);
  });
});

it('a token is made, shown once, listed, revoked, and all of that is in the audit', async () => {
  const site = place.onStore();
  const flags = ['--namespace', 'orders', '--namespace', 'billing-*', '--right', 'read', '--right', 'write'];
  const made = await place.lps(['token', 'create', '--name', 'orders workers', ...flags, ...site]);
  expect(made).toMatchObject({ code: 0 });
  const [, token, id] = /^(lps_([a-z2-7]{12})_[\w-]{43})\n$/.exec(made.out) ?? [];
  expect(made.err).toBe(`lps: token ${id} is good until it is revoked. Keep it now: it is not shown again.\n`);

  const short = await place.lps([
    'token',
    'create',
    '--name',
    'short',
    ...flags,
    '--expires',
    '90d',
    '--json',
    ...site,
  ]);
  const other = JSON.parse(short.out);
  expect(other).toMatchObject({ token: expect.stringMatching(/^lps_/), state: 'active', name: 'short' });
  expect(Date.parse(other.expiresAt) - Date.parse(other.createdAt)).toBeCloseTo(90 * 86_400_000, -5);

  const listed = await place.lps(['token', 'list', ...site]);
  expect(listed.out.trimEnd().split('\n')).toEqual([
    expect.stringMatching(
      `^${other.id}  active   -           \\d{4}-\\d\\d-\\d\\d  read,write  orders,billing-\\*  short$`,
    ),
    `${id}  active   -           -           read,write  orders,billing-*  orders workers`,
  ]);
  expect(await place.lps(['token', 'revoke', id ?? '', ...site])).toMatchObject({
    code: 0,
    out: '',
    err: `lps: token ${id} (orders workers) is revoked\n`,
  });
  // the whole token will do as well
  expect(await place.lps(['token', 'revoke', other.token, ...site])).toMatchObject({ code: 0 });
  expect(await place.lps(['token', 'revoke', 'aaaaaaaaaaaa', ...site])).toMatchObject({
    code: 2,
    err: expect.stringMatching(/there is no such token/),
  });
  const json = await place.lps(['token', 'list', '--json', ...site]);
  expect(json.out).not.toContain(token?.slice(-43));
  const records = json.out
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(records).toMatchObject([{ state: 'revoked' }, { id, state: 'revoked', revokedAt: expect.any(String) }]);

  const postgres = await startEmbeddedPostgres({ dataDir: join(place.dir, 'data') });
  try {
    const client = new pg.Client({ connectionString: postgres.url });
    await client.connect();
    const { rows } = await client.query(
      'SELECT principal, action, namespaces, subjects, status FROM lps.audit ORDER BY id',
    );
    await client.end();
    const done = (action: string, subject: string | undefined) => ({
      principal: `cli:${userInfo().username}`,
      action,
      namespaces: ['orders', 'billing-*'],
      subjects: [subject],
      status: 200,
    });
    expect(rows).toEqual([
      done('create token', id),
      done('create token', other.id),
      done('revoke token', id),
      done('revoke token', other.id),
    ]);
    const access = await openAccess({ url: postgres.url });
    await expect(access.tokens.verify(token ?? '')).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
    await access.close();
  } finally {
    await postgres.stop();
  }
});
