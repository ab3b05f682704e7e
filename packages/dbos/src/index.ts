export type {
  CallContext,
  FileContent,
  FileRecord,
  PresignedPost,
  S3WorkflowCallbacks,
  UploadContent,
} from './callbacks.js';
export type { CleanUpStatus } from './clean-up.js';
export { registerS3DeleteWorkflow } from './delete.js';
export { S3WorkflowError, type S3WorkflowErrorCode } from './errors.js';
export { newFileKey } from './keys.js';
export { filesTableSql, migrateFilesTable, type PgCallbacksOptions, pgCallbacks } from './pg-callbacks.js';
export { registerS3PresignedUploadWorkflow } from './presigned-upload.js';
export { type S3CallbacksOptions, type S3FileOptions, type StoredObject, s3Callbacks } from './s3-callbacks.js';
export type { S3WorkflowConfig, TimeoutsMs } from './settings.js';
export { registerS3UploadWorkflow } from './upload.js';
