/** A database and a bucket with DBOS and the workflows of @large-payload/dbos on them, in this process. */
import { DeleteObjectCommand, GetObjectCommand, ListObjectsV2Command, type S3Client } from '@aws-sdk/client-s3';
import { DBOS } from '@dbos-inc/dbos-sdk';
import { filesTableSql, type PresignedPost } from '@large-payload/dbos';
import { openS3Client, type Versitygw } from '@large-payload/test-components';
import pg from 'pg';
import { startEmbeddedPostgres } from '../../packages/server/src/catalog/embedded-postgres.ts';

export const table = 'files';

export interface World {
  readonly databaseUrl: string;
  readonly pool: pg.Pool;
  readonly client: S3Client;
  readonly bucket: string;
  row(key: string): Promise<'active' | 'pending' | undefined>;
  object(key: string): Promise<string | undefined>;
  /** Every row and every object: `row a active`, `object b`. */
  everything(): Promise<string[]>;
  removeObject(key: string): Promise<void>;
  close(): Promise<void>;
}

export async function openWorld(s3: Versitygw): Promise<World> {
  const postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 100 });
  const pool = new pg.Pool({ connectionString: postgres.url, max: 30 });
  pool.on('error', () => undefined);
  await pool.query(filesTableSql(table));
  const client = await openS3Client(s3);
  const { bucket } = s3;
  return {
    databaseUrl: postgres.url,
    pool,
    client,
    bucket,
    row: async (key) => {
      const { rows } = await pool.query<{ state: 'active' | 'pending' }>(`select state from ${table} where key = $1`, [
        key,
      ]);
      return rows[0]?.state;
    },
    object: async (key) => {
      try {
        const { Body: body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }));
        return await body?.transformToString();
      } catch (error) {
        if ((error as Error).name === 'NoSuchKey') return undefined;
        throw error;
      }
    },
    everything: async () => {
      const { rows } = await pool.query<{ key: string; state: string }>(`select key, state from ${table}`);
      const { Contents: objects = [] } = await client.send(new ListObjectsV2Command({ Bucket: bucket }));
      return [
        ...rows.map(({ key, state }) => `row ${key} ${state}`),
        ...objects.map(({ Key }) => `object ${Key}`),
      ].sort();
    },
    removeObject: async (key) => {
      await client.send(new DeleteObjectCommand({ Bucket: bucket, Key: key }));
    },
    close: async () => {
      client.destroy();
      await pool.end();
      await postgres.stop();
    },
  };
}

/** After the workflows are registered. */
export async function launchDbos(databaseUrl: string): Promise<void> {
  DBOS.setConfig({
    name: 'files',
    systemDatabaseUrl: databaseUrl,
    applicationVersion: '1',
    logLevel: 'warn',
    runAdminServer: false,
  });
  await DBOS.launch();
}

/** What a browser sends when a form with the post's fields and one file is submitted. */
export async function submitForm(post: PresignedPost, content: string, fileName = 'file.txt'): Promise<Response> {
  const form = new FormData();
  for (const [name, value] of Object.entries(post.fields)) form.append(name, value);
  form.append('file', new Blob([content]), fileName);
  return await fetch(post.url, { method: 'POST', body: form, redirect: 'manual' });
}
