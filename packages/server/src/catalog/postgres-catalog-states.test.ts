import { afterAll, beforeAll } from 'vitest';
import type { Catalog } from './catalog.js';
import { testCatalogStates } from './catalog-states-fixture.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.js';
import { type CatalogFixture, openFixture } from './postgres-catalog-fixture.js';

let postgres: EmbeddedPostgres;
let fixture: CatalogFixture;
let catalog: Catalog;

beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  fixture = openFixture(postgres.url);
  catalog = await fixture.open({ cacheEntries: 0 });
});
afterAll(async () => {
  await fixture?.close();
  await postgres?.stop();
});

testCatalogStates('PostgreSQL', () => ({ catalog, fixture }));
