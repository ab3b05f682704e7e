import { afterAll, beforeAll } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../catalog/embedded-postgres.js';
import { testLifecycleCatalog } from './lifecycle-contract-fixture.js';
import { openPostgresHarness } from './postgres-lifecycle-fixture.js';

let postgres: EmbeddedPostgres;

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
});
afterAll(async () => {
  await postgres?.stop();
});

testLifecycleCatalog('PostgreSQL', () => openPostgresHarness(postgres.url));
