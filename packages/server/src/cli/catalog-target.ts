/**
 * The database and the store below the service, for the hand tools. The catalog is where the service has it:
 *
 *   --database-url            on that server, whether services run or not
 *   a service runs            in its embedded database, through the socket of the data directory
 *   no service runs           in the embedded database, started here and stopped at the end; meanwhile no service can
 *                             start on the directory
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type BlobStore, isLpsError, LpsError } from '@large-payload/core';
import type { Command } from 'commander';
import type { CareCatalog } from '../catalog/care-catalog.js';
import { configInvalid, loadConfig } from '../config/load.js';
import type { Config, Setting } from '../config/settings.js';
import { embeddedConnections } from '../durable/connections.js';
import { openStore } from '../open-store.js';
import { addSettings, givenSettings } from './setting-options.js';
import { isReadByCommands } from './target.js';
import type { Terminal } from './terminal.js';

export const catalogTargetHelp = `
Works on the catalog and the store themselves, whether a service runs on them or not: give it the
same settings as "lps serve" has. Where the catalog is embedded, run it as the same user and on the
same machine; while it works on the catalog of a stopped service, no service can be started there.`;

/** Where the catalog is. */
export interface DatabaseTarget {
  readonly url: string;
  readonly schema: string;
  readonly config: Config;
  /** Whether a running service has this database in its data directory. */
  readonly isInUse: boolean;
}

/** The catalog, and the store below any cache. */
export interface CatalogTarget extends DatabaseTarget {
  readonly catalog: CareCatalog;
  readonly store: BlobStore;
}

export interface CatalogTargetOptions {
  /** Make an empty catalog where there is none. Otherwise that is a mistake in the settings. */
  readonly create: boolean;
}

/** Adds the settings of catalog and store to a command, and those of other groups. */
export function addCatalogTarget(command: Command, ...groups: Setting['group'][]): Command {
  return addSettings(command, (setting) => isReadHere(setting) || groups.includes(setting.group)).addHelpText(
    'after',
    catalogTargetHelp,
  );
}

function isReadHere(setting: Setting): boolean {
  return isReadByCommands(setting) ? setting.flag !== 'max-blob-bytes' : setting.group === 'Catalog';
}

/** Reaches the database of a command's settings, runs it on that, and lets go of it. */
export async function withDatabase<T>(
  command: Command,
  terminal: Terminal,
  options: CatalogTargetOptions,
  run: (target: DatabaseTarget) => Promise<T>,
): Promise<T> {
  const { config } = loadConfig({ flags: givenSettings(command), env: terminal.env, cwd: terminal.cwd });
  if (config.store === 'memory') throw configInvalid(['the memory store and its catalog are gone with their process']);
  const schema = config.databaseSchema;
  if (config.databaseUrl !== undefined) return run({ url: config.databaseUrl, schema, config, isInUse: false });
  // loaded only here: the other commands have no use for a database
  const { findRunningDatabase } = await import('../catalog/embedded-postgres-guest.js');
  const running = await findRunningDatabase(config.dataDir, terminal.signal);
  if (running !== undefined) return run({ url: running, schema, config, isInUse: true });
  if (!options.create) await mustHaveCluster(config.dataDir);
  const { startEmbeddedPostgres } = await import('../catalog/embedded-postgres.js');
  const postgres = await startEmbeddedPostgres({
    dataDir: config.dataDir,
    maxConnections: embeddedConnections(config.databasePoolSize),
  }).catch((error: unknown) => {
    throw isLpsError(error, 'DATA_DIR_IN_USE') ? startedMeanwhile(error) : error;
  });
  postgres.exited.catch(() => undefined); // statements fail, too
  try {
    return await run({ url: postgres.url, schema, config, isInUse: false });
  } finally {
    await postgres.stop();
  }
}

/** Opens the catalog and the store of a command's settings, runs it on them, and lets go of them. */
export function withCatalogTarget<T>(
  command: Command,
  terminal: Terminal,
  options: CatalogTargetOptions,
  run: (target: CatalogTarget) => Promise<T>,
): Promise<T> {
  return withDatabase(command, terminal, options, async (target) => {
    const { openCareCatalog } = await import('../catalog/care-catalog.js');
    const catalog = await openCareCatalog({ url: target.url, schema: target.schema });
    try {
      const store = await openStore(target.config);
      try {
        return await run({ ...target, catalog, store });
      } finally {
        await store.close?.();
      }
    } finally {
      await catalog.close();
    }
  });
}

/** Takes the pins that a store keeps into a catalog that was lost; returns how many. */
export async function restorePinsOf({ url, schema, config }: DatabaseTarget, store: BlobStore): Promise<number> {
  const { openLifecycleCatalog } = await import('../lifecycle/catalog/postgres-lifecycle.js');
  const { restorePins } = await import('../lifecycle/catalog/pins.js');
  const lifecycle = await openLifecycleCatalog({ url, schema, graceMs: config.graceMs });
  try {
    return await restorePins(store, lifecycle);
  } finally {
    await lifecycle.close();
  }
}

async function mustHaveCluster(dataDir: string): Promise<void> {
  const found = await stat(join(dataDir, 'postgres')).catch((error: NodeJS.ErrnoException) => error);
  if (!(found instanceof Error) || found.code !== 'ENOENT') return;
  throw configInvalid([
    `there is no catalog in ${dataDir}: name the data directory of the service with --data-dir, or its database with ` +
      '--database-url',
  ]);
}

function startedMeanwhile(cause: LpsError): LpsError {
  return new LpsError('DATA_DIR_IN_USE', 'a service is starting on this data directory: try again in a moment', {
    cause,
  });
}
