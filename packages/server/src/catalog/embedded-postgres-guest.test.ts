import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { startEmbeddedPostgres } from './embedded-postgres.js';
import { findRunningDatabase } from './embedded-postgres-guest.js';
import { ownDataDir } from './embedded-postgres-owner.js';

let dataDir: string;
beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'lps-guest-'));
});
afterEach(() => rm(dataDir, { recursive: true, force: true }));

it('finds the database of a directory that a living process owns, and nothing once that has stopped', async () => {
  const postgres = await startEmbeddedPostgres({ dataDir });
  const url = await findRunningDatabase(dataDir);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  expect((await client.query('SELECT current_database() AS name')).rows).toEqual([{ name: 'lps' }]);
  await client.end();
  await postgres.stop();
  expect(await findRunningDatabase(dataDir)).toBeUndefined();
});

it('finds none where nobody is, and makes nothing there', async () => {
  expect(await findRunningDatabase(dataDir)).toBeUndefined();
  expect(await findRunningDatabase(join(dataDir, 'absent'))).toBeUndefined();
  expect(await readdir(dataDir)).toEqual([]);
});

it('waits for an owner whose database is still starting', async () => {
  const starting = startEmbeddedPostgres({ dataDir });
  const found = await findUntilOwned();
  expect(found).toBe((await starting).url);
  await (await starting).stop();

  async function findUntilOwned(): Promise<string> {
    for (;;) {
      const url = await findRunningDatabase(dataDir, undefined, 50_000);
      if (url !== undefined) return url;
    }
  }
});

it('says what to do about an owner that has its catalog elsewhere', async () => {
  const ownership = await ownDataDir(dataDir, () => undefined);
  await expect(findRunningDatabase(dataDir, undefined, 0)).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringContaining('--database-url'),
  });
  await ownership.release();
});
