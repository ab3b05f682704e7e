// The upload, presigned and delete workflows of @large-payload/dbos around callbacks that fail on demand: on the
// ready-made callbacks (`steps`), on transactions of a DBOS data source (`transactions`), as users of the old library
// have them, or on statements that nobody records (`plain`), as they should not. Plain JavaScript: processes that are to be killed run it without a compiler.
import { AsyncLocalStorage } from 'node:async_hooks';
import { DBOS } from '@dbos-inc/dbos-sdk';
import * as datasource from '@dbos-inc/dbos-sdk/datasource';
import {
  pgCallbacks,
  registerS3DeleteWorkflow,
  registerS3PresignedUploadWorkflow,
  registerS3UploadWorkflow,
  s3Callbacks,
} from '@large-payload/dbos';

export const callbackNames = {
  upload: ['putS3Contents', 'newActiveFile', 'fileDeleted', 'deleteS3Object'],
  presigned: [
    'newPendingFile',
    'createPresignedPost',
    'headS3Object',
    'validateS3Upload',
    'fileActivated',
    'fileDeleted',
    'deleteS3Object',
  ],
  delete: ['fileDeleted', 'deleteS3Object'],
};

/** Before DBOS.launch(). `around(name, key, call, context)` runs each callback; `call(context?)` is the real one. */
export function registerFiles({ pool, client, bucket, table, mode, around, config }) {
  const onTable = mode === 'steps' ? pgCallbacks({ pool, table }) : ownCallbacks(pool, table, mode);
  const real = { ...s3Callbacks({ client, bucket, partSizeBytes: 5 * 1024 * 1024 }), ...onTable };
  const callbacks = { databaseSteps: real.databaseSteps };
  // A callback has its context last, after the arguments that it is known for.
  const contextAt = { putS3Contents: 3, createPresignedPost: 3, validateS3Upload: 2 };
  for (const name of new Set(Object.values(callbackNames).flat())) {
    callbacks[name] = (...args) => {
      const at = contextAt[name] ?? 1;
      const given = args[at];
      const call = (context = given) => {
        const passed = [...args];
        passed[at] = context;
        return real[name](...passed);
      };
      return around(name, args[0].key, call, given);
    };
  }
  const names = { className: `Files_${mode}`, ...config };
  return {
    upload: registerS3UploadWorkflow({ ...names, name: 'upload' }, callbacks),
    presigned: registerS3PresignedUploadWorkflow({ ...names, name: 'presigned' }, callbacks),
    delete: registerS3DeleteWorkflow({ ...names, name: 'delete' }, callbacks),
  };
}

/**
 * A presigned post as its workflow sees it when its end is near, though the bucket takes it for long: a clean-up waits for
 * that end, and a test that is held up still comes to the bucket in time. The policy that was signed goes along.
 */
export function endingSoon(post, seconds) {
  const expiration = new Date(Date.now() + seconds * 1000).toISOString();
  const Policy = Buffer.from(JSON.stringify({ expiration })).toString('base64');
  return { ...post, fields: { ...post.fields, Policy, signedPolicy: post.fields.Policy } };
}

/** The same post for the bucket. */
export function asSigned({ url, fields: { signedPolicy, ...fields } }) {
  return { url, fields: signedPolicy === undefined ? fields : { ...fields, Policy: signedPolicy } };
}

/** What the README of the old library shows, on a data source of DBOS 5. */
function ownCallbacks(pool, table, mode) {
  const files = sourceOf(`files-${table}`, pool, mode);
  const run = async (name, sql, values) => {
    if (mode === 'plain') return (await pool.query(sql, values)).rowCount;
    const transaction = async () => (await files.client.query(sql, values)).rowCount;
    return datasource.runTransaction(transaction, name, { dsName: files.name });
  };
  const insert = (name, rec, state) =>
    run(name, `insert into ${table} (key, state, upload_id, record) values ($1, $2, '', '{}')`, [rec.key, state]);
  return {
    newActiveFile: (rec) => insert('insertActive', rec, 'active'),
    newPendingFile: (rec) => insert('insertPending', rec, 'pending'),
    fileActivated: async (rec) => {
      const rows = await run('activate', `update ${table} set state = 'active' where key = $1`, [rec.key]);
      if (rows !== 1) throw new Error(`no row ${rec.key}`);
    },
    fileDeleted: (rec) => run('delete', `delete from ${table} where key = $1`, [rec.key]),
  };
}

const sources = new Map();

/** DBOS takes one of a name. */
function sourceOf(name, pool, mode) {
  if (mode !== 'transactions') return new PgDataSource(name, pool);
  if (!sources.has(name)) {
    sources.set(name, new PgDataSource(name, pool));
    datasource.registerDataSource(sources.get(name));
  }
  return sources.get(name);
}

/** A data source for pg, in the way of DBOS's own: user SQL, completion row, ownership, commit. */
class PgDataSource {
  #pool;
  #current = new AsyncLocalStorage();

  constructor(name, pool) {
    this.name = name;
    this.#pool = pool;
  }

  get client() {
    return this.#current.getStore();
  }

  async initialize() {
    await this.#inTransaction((client) =>
      datasource.migrateDataSourcePG(async (sql) => (await client.query(sql)).rows, 'files_dbos'),
    );
  }

  async destroy() {}

  async invokeTransactionFunction(_config, target, func, ...args) {
    const { workflowID, stepID } = DBOS;
    const [recorded] = (await this.#pool.query(recordedSql, [workflowID, stepID])).rows;
    if (recorded !== undefined) return datasource.replayRecordedStep(recorded);
    return this.#inTransaction(async (client) => {
      const result = await this.#current.run(client, () => func.call(target, ...args));
      const output = JSON.stringify({ json: result ?? null });
      const { rowCount } = await client.query(completeSql, [workflowID, stepID, output]);
      if (rowCount === 0) throw new datasource.DBOSStepAlreadyRecordedError(workflowID, stepID);
      await datasource.assertStillOwnsWorkflow(workflowID);
      return result;
    });
  }

  async #inTransaction(run) {
    const client = await this.#pool.connect();
    try {
      await client.query('begin');
      const result = await run(client);
      await client.query('commit');
      client.release();
      return result;
    } catch (error) {
      client.release(true);
      throw error;
    }
  }
}

const recordedSql =
  'select output, error from files_dbos.transaction_completion where workflow_id = $1 and function_num = $2';
const completeSql =
  'insert into files_dbos.transaction_completion (workflow_id, function_num, output) values ($1, $2, $3) on conflict do nothing';
