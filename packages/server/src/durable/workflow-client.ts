/** Workflows for a process that runs none: the hand tools. */
import { DBOSClient } from '@dbos-inc/dbos-sdk';
import pg from 'pg';
import { asCatalogError, connectionSettings, openDatabase } from '../catalog/database.js';
import { prepare } from '../catalog/postgres-catalog.js';
import { openWorkflowAdmin, type WorkflowAdmin } from './workflow-admin.js';
import { applicationName, workflowSchema } from './workflows.js';

/** DBOS needs a URL only where it opens connections itself. */
const noUrl = 'postgresql://lps@localhost/lps';
const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/**
 * Opens the workflows of a catalog's database, runs something on them, and lets go. `undefined` instead of the
 * workflows where no service has ever run any.
 */
export async function withWorkflows<T>(
  options: { readonly url: string; readonly schema: string },
  run: (workflows: WorkflowAdmin | undefined) => Promise<T>,
): Promise<T> {
  const { url, schema } = options;
  await prepare(url, schema);
  const pool = new pg.Pool({ ...connectionSettings(url, 'lps workflows'), max: 2 });
  pool.on('error', () => undefined); // the statement under way fails as well
  const database = openDatabase({ url, maxConnections: 1, statementTimeoutMs: 10_000, log: () => undefined });
  try {
    const client = await DBOSClient.create({
      systemDatabaseUrl: noUrl,
      systemDatabasePool: pool,
      systemDatabaseSchemaName: workflowSchema(schema),
      applicationName,
      logger: silent,
    });
    try {
      if (!(await hasWorkflows(pool, schema))) return await run(undefined);
      return await run(openWorkflowAdmin({ database, schema, source: () => client }));
    } finally {
      await client.destroy();
    }
  } catch (error) {
    throw asCatalogError(error);
  } finally {
    await Promise.all([pool.end(), database.close()]);
  }
}

async function hasWorkflows(pool: pg.Pool, schema: string): Promise<boolean> {
  const { rows } = await pool.query('SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = $2', [
    workflowSchema(schema),
    'workflow_status',
  ]);
  return rows.length > 0;
}
