/** The commands of gc.ts that change something, as they are called, on a database of its own. */
import { userInfo } from 'node:os';
import pg from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { openLifecycleCatalog } from '../lifecycle/catalog/postgres-lifecycle.js';
import type { LifecycleCatalog } from '../lifecycle/lifecycle-catalog.js';
import { openWorkplace, type Result, type Workplace } from './lps-fixture.js';

let place: Workplace;
let postgres: EmbeddedPostgres;
let catalog: LifecycleCatalog & { close(): Promise<void> };
let sql: pg.Pool;
const gc = (...args: string[]): Promise<Result> =>
  place.lps(['gc', ...args, '--database-url', postgres.url, ...place.onStore()]);

beforeAll(async () => {
  place = await openWorkplace();
  postgres = await startEmbeddedPostgres({ throwAway: true });
  catalog = await openLifecycleCatalog({ url: postgres.url, graceMs: 86_400_000 });
  sql = new pg.Pool({ connectionString: postgres.url, max: 1 });
});
afterAll(async () => {
  await sql?.end();
  await catalog?.close();
  await postgres?.stop();
  await place?.remove();
});

/** `[action, namespaces, subjects]` of what was done by whoever runs this, the oldest first. */
async function audited(): Promise<unknown[]> {
  const { rows } = await sql.query('DELETE FROM lps.audit RETURNING *');
  rows.sort((one, other) => Number(one.id) - Number(other.id));
  expect(rows.every(({ principal, status }) => principal === `cli:${userInfo().username}` && status === 200)).toBe(
    true,
  );
  return rows.map(({ action, namespaces, subjects }) => [action, namespaces, subjects]);
}

it('what is done by hand is in the audit', async () => {
  expect(await gc('run')).toMatchObject({ code: 0 });
  expect(await gc('pause', '--reason', 'case 4711')).toMatchObject({ code: 0 });
  expect(await gc('pause', '--namespace', 'orders', '--reason', 'later')).toMatchObject({ code: 0 });
  expect(await gc('resume')).toMatchObject({ code: 0 });
  expect(await audited()).toEqual([
    ['run collection', ['*'], []],
    ['pause collection', ['*'], ['case 4711']],
    ['pause collection', ['orders'], ['later']],
    ['resume collection', ['*'], ['paused']],
    ['resume collection', ['orders'], ['paused']],
  ]);
  const key = `/blobs/orders/common/sha256:${'a'.repeat(64)}/sha256:${'b'.repeat(64)}`;
  expect((await gc('undelete', key)).code).not.toBe(0);
  await gc('status');
  expect(await audited()).toEqual([]);
  await sql.query(
    `INSERT INTO lps.blob (namespace, prefix, digest, metadata_digest, size, state, generation, physical_suffix, quarantined_at)
    VALUES ('orders', '', decode($1, 'hex'), decode($2, 'hex'), 1, 'quarantined', 1, '', now())`,
    ['a'.repeat(64), 'b'.repeat(64)],
  );
  expect(await gc('undelete', key)).toMatchObject({ code: 0 });
  expect(await audited()).toEqual([['undelete', ['orders'], [key]]]);
});

it('a Temporal namespace is forgotten when it is not configured any more, and somebody says so', async () => {
  const identity = { clusterId: 'c-1', namespaceId: 'n-1', serverVersion: '1.32.0' };
  const names = async (): Promise<string[]> => (await catalog.knownNamespaces()).map(({ name }) => name);
  for (const name of ['orders', 'old']) await catalog.knowNamespace({ cluster: 'prod', name }, identity);
  const file = await place.file(`clusters:\n  - { name: prod, address: "127.0.0.1:9", namespaces: [orders] }\n`);
  const all = await place.file(`clusters:
  - { name: prod, address: "127.0.0.1:9", namespaces: all, request-timeout-seconds: 0.1 }\n`);
  const refused = async (name: string, why: RegExp, clusters = file): Promise<void> => {
    const result = await gc('forget', name, '--yes', '--clusters', clusters);
    expect(result.code).not.toBe(0);
    expect(result.err).toMatch(why);
  };
  await refused('prod/orders', /the clusters file names it/);
  await refused('prod/none', /it is not known/);
  await refused('prod/old', /prod: ListNamespaces: /, all); // perhaps it is one of all
  const asked = await gc('forget', 'prod/old', '--clusters', file);
  expect(asked.code).not.toBe(0);
  expect(asked.out).toContain('what is known to be held is kept for 24.3 h more');
  expect(asked.err).toContain('nothing was done; if that is meant to be so, add --yes');
  expect(await names()).toEqual(['old', 'orders']);
  expect(await audited()).toEqual([]);

  const done = await gc('forget', 'prod/old', '--yes', '--clusters', file);
  expect(done).toMatchObject({ code: 0, out: expect.stringContaining('forgotten  prod/old\n') });
  expect(await names()).toEqual(['orders']);
  expect(await audited()).toEqual([['forget namespace', ['*'], ['prod/old']]]);
});
