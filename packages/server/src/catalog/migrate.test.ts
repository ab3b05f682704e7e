import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.js';
import { type Migration, migrate, readMigrations } from './migrate.js';
import { openCatalog } from './postgres-catalog.js';

let postgres: EmbeddedPostgres;
let client: pg.Client;
let schema: string;

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  client = new pg.Client({ connectionString: postgres.url });
  await client.connect();
});
beforeEach(() => {
  schema = `t_${randomBytes(6).toString('hex')}`;
});
afterAll(async () => {
  await client?.end();
  await postgres?.stop();
});

function file(version: number, sql: string): Migration {
  return { version, name: `number-${version}`, sql, checksum: `checksum of ${sql}` };
}

it('lets four catalogs start at once on an empty database, as one', async () => {
  for (let round = 0; round < 5; round++) {
    const options = { url: postgres.url, schema: `${schema}_${round}`, cacheEntries: 0 };
    const catalogs = await Promise.all(Array.from({ length: 4 }, () => openCatalog(options)));
    expect(new Set(catalogs.map(({ id }) => id)).size).toBe(1);
    const { rows } = await client.query(`SELECT version FROM ${options.schema}.migration`);
    expect(rows).toHaveLength((await readMigrations()).length);
    await Promise.all(catalogs.map((catalog) => catalog.close()));
  }
});

it('applies each file once, in order, and later the new ones only', async () => {
  const first = file(1, 'CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)');
  const second = file(2, 'INSERT INTO steps SELECT max(n) + 1 FROM steps');
  await migrate(client, schema, [first]);
  await migrate(client, schema, [first, second]);
  await migrate(client, schema, [first, second]);
  expect((await client.query(`SELECT n FROM ${schema}.steps ORDER BY n`)).rows).toEqual([{ n: 1 }, { n: 2 }]);
});

it('leaves nothing of a file that fails', async () => {
  const broken = file(1, 'CREATE TABLE half (n int); SELECT no_such_function()');
  await expect(migrate(client, schema, [broken])).rejects.toThrow('no_such_function');
  expect((await client.query(`SELECT FROM pg_namespace WHERE nspname = $1`, [schema])).rows).toEqual([]);
});

it('refuses a database that is newer than the program', async () => {
  const [first, second] = [file(1, 'SELECT 1'), file(2, 'SELECT 2')];
  await migrate(client, schema, [first, second]);
  await expect(migrate(client, schema, [first])).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: 'the catalog is at version 2, this program knows 1: start the newer program',
  });
});

it('refuses a database whose migration was another one', async () => {
  await migrate(client, schema, [file(1, 'SELECT 1')]);
  await expect(migrate(client, schema, [file(1, 'SELECT 2')])).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
});

it('gives up, retryably, when another process migrates for ever', async () => {
  const other = new pg.Client({ connectionString: postgres.url });
  await other.connect();
  await other.query('SELECT pg_advisory_lock(hashtextextended($1, 0))', [`lps catalog migration of ${schema}`]);
  await expect(migrate(client, schema, [file(1, 'SELECT 1')], 120)).rejects.toMatchObject({
    code: 'CATALOG_UNAVAILABLE',
  });
  await other.end();
});

it('opens with a role that may not create anything, once the tables are there', async () => {
  const options = { url: postgres.url, schema, cacheEntries: 0 };
  await (await openCatalog(options)).close();
  await client.query(`CREATE ROLE ${schema} LOGIN; GRANT USAGE ON SCHEMA ${schema} TO ${schema};
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ${schema} TO ${schema}`);
  const url = postgres.url.replace(/\/\/[^@]*@/, `//${schema}@`);
  const catalog = await openCatalog({ ...options, url });
  await catalog.ping();
  await catalog.close();
  await expect(openCatalog({ ...options, url, schema: 'elsewhere' })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
});
