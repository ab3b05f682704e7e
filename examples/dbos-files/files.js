// The table, the bucket and the workflows that keep them in step.
import { S3Client } from '@aws-sdk/client-s3';
import {
  migrateFilesTable,
  pgCallbacks,
  registerS3DeleteWorkflow,
  registerS3PresignedUploadWorkflow,
  registerS3UploadWorkflow,
  s3Callbacks,
} from '@large-payload/dbos';
import pg from 'pg';

export const bucket = process.env.S3_BUCKET ?? 'files';
// Region and credentials come from the environment, as the AWS SDK has it; the endpoint only for S3 off AWS.
export const client = new S3Client(
  process.env.S3_ENDPOINT ? { endpoint: process.env.S3_ENDPOINT, forcePathStyle: true } : {},
);
export const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
// PostgreSQL was restarted: the pool connects again by itself
pool.on('error', (error) => console.error(`database: ${error.message}`));

const callbacks = { ...s3Callbacks({ client, bucket }), ...pgCallbacks({ pool }) };
export const uploadFile = registerS3UploadWorkflow({ className: 'Files', name: 'upload' }, callbacks);
export const presignedUpload = registerS3PresignedUploadWorkflow({ className: 'Files', name: 'presigned' }, callbacks);
export const deleteFile = registerS3DeleteWorkflow({ className: 'Files', name: 'delete' }, callbacks);

export const migrate = () => migrateFilesTable({ pool });

/** The files that are there, the newest first. */
export async function listFiles() {
  const { rows } = await pool.query(
    `select key, record->>'name' as name, active_at as at from files where state = 'active' order by active_at desc limit 100`,
  );
  return rows;
}
