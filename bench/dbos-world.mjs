// A Postgres, a bucket and DBOS in this process; what bench/dbos.mjs measures, in three ways.
import { DeleteObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { DBOS } from '@dbos-inc/dbos-sdk';
import {
  migrateFilesTable,
  newFileKey,
  pgCallbacks,
  registerS3DeleteWorkflow,
  registerS3UploadWorkflow,
  s3Callbacks,
} from '@large-payload/dbos';
import pg from 'pg';
// the one that `lps serve` brings along
import { startEmbeddedPostgres } from '../packages/server/dist/catalog/embedded-postgres.js';
import { openS3Client, tempDir } from './components.mjs';
import { childrenUsage, cpuSeconds } from './usage.mjs';

/** Both pools have one connection a client: the callbacks' and DBOS's own. */
export async function openDbosWorld({ gateway, clients }) {
  const postgres = await startEmbeddedPostgres({ dataDir: tempDir('bench-dbos'), maxConnections: 2 * clients + 20 });
  const pool = new pg.Pool({ connectionString: postgres.url, max: clients });
  await migrateFilesTable({ pool });
  const client = await openS3Client(gateway);
  const { bucket } = gateway;
  const bare = bareCalls({ client, bucket, pool });
  const ways = { bare: inOrder(bare), steps: inSteps(bare), workflow: inWorkflows({ client, bucket, pool }) };
  DBOS.setConfig({
    name: 'bench',
    systemDatabaseUrl: postgres.url,
    systemDatabasePoolSize: clients,
    applicationVersion: '1',
    logLevel: 'warn',
    runAdminServer: false,
  });
  await DBOS.launch();
  const counter = countStatements();
  const end = async () => {
    await DBOS.shutdown();
    client.destroy();
    await pool.end();
    await postgres.stop();
  };
  let closed;
  return {
    ways,
    newFile: () => ({ key: newFileKey(), name: 'a small file' }),
    measure: () => startMeasuring({ postgres, pool, gateway, counter }),
    close: () => {
      closed ??= end();
      return closed;
    },
  };
}

function bareCalls({ client, bucket, pool }) {
  const insert = `insert into files (key, state, upload_id, record, active_at) values ($1, 'active', '', $2, now())`;
  return {
    put: (rec, content) => client.send(new PutObjectCommand({ Bucket: bucket, Key: rec.key, Body: content })),
    insert: ({ key, ...record }) => pool.query(insert, [key, JSON.stringify(record)]),
    deleteRow: (rec) => pool.query('delete from files where key = $1', [rec.key]),
    deleteObject: (rec) => client.send(new DeleteObjectCommand({ Bucket: bucket, Key: rec.key })),
  };
}

function inOrder({ put, insert, deleteRow, deleteObject }) {
  return {
    upload: async (rec, content) => {
      await put(rec, content);
      await insert(rec);
    },
    remove: async (rec) => {
      await deleteRow(rec);
      await deleteObject(rec);
    },
  };
}

/** The least that a DBOS workflow can be; results are dropped, so that nothing is written for them. */
function inSteps({ put, insert, deleteRow, deleteObject }) {
  const step = async (name, call) =>
    DBOS.runStep(
      async () => {
        await call();
      },
      { name },
    );
  const upload = async (rec, content) => {
    await step('put', () => put(rec, content));
    await step('insert', () => insert(rec));
  };
  const remove = async (rec) => {
    await step('deleteRow', () => deleteRow(rec));
    await step('deleteObject', () => deleteObject(rec));
  };
  return {
    upload: DBOS.registerWorkflow(upload, { name: 'uploadInSteps' }),
    remove: DBOS.registerWorkflow(remove, { name: 'removeInSteps' }),
  };
}

function inWorkflows({ client, bucket, pool }) {
  const callbacks = { ...s3Callbacks({ client, bucket }), ...pgCallbacks({ pool }) };
  return {
    upload: registerS3UploadWorkflow({ className: 'Files', name: 'upload' }, callbacks),
    remove: registerS3DeleteWorkflow({ className: 'Files', name: 'delete' }, callbacks),
  };
}

/** Statements that this process sends, DBOS's among them: each is a round trip. */
function countStatements() {
  const counter = { statements: 0 };
  const { query } = pg.Client.prototype;
  pg.Client.prototype.query = function (...args) {
    counter.statements += 1;
    return query.apply(this, args);
  };
  return counter;
}

/** What was used until the returned function is called. */
async function startMeasuring({ postgres, pool, gateway, counter }) {
  const read = async () => {
    // a transaction that writes takes a number; the WAL is what it has to wait for
    const { rows } = await pool.query(
      `select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as transactions,
              pg_current_wal_insert_lsn() - '0/0' as wal_bytes`,
    );
    const { user, system } = process.cpuUsage();
    return {
      cpuS: (user + system) / 1e6,
      databaseCpuS: cpuSeconds(postgres.pid, true) + childrenUsage(postgres.pid).cpuS,
      storeCpuS: cpuSeconds(gateway.pid),
      statements: counter.statements,
      transactions: Number(rows[0].transactions),
      walBytes: Number(rows[0].wal_bytes),
    };
  };
  const before = await read();
  return async () => {
    const after = await read();
    return Object.fromEntries(Object.entries(after).map(([name, value]) => [name, value - before[name]]));
  };
}
