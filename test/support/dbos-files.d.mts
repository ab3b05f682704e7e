import type { S3Client } from '@aws-sdk/client-s3';
import type {
  CallContext,
  FileRecord,
  PresignedPost,
  S3FileOptions,
  S3WorkflowConfig,
  UploadContent,
} from '@large-payload/dbos';
import type { Pool } from 'pg';

export type Mode = 'steps' | 'transactions' | 'plain';
export type WorkflowKind = 'upload' | 'presigned' | 'delete';
export type CallbackName =
  | 'putS3Contents'
  | 'newActiveFile'
  | 'newPendingFile'
  | 'createPresignedPost'
  | 'headS3Object'
  | 'validateS3Upload'
  | 'fileActivated'
  | 'fileDeleted'
  | 'deleteS3Object';

export const callbackNames: Record<WorkflowKind, readonly CallbackName[]>;

export interface FilesOptions {
  pool: Pool;
  client: S3Client;
  bucket: string;
  table: string;
  mode: Mode;
  around(
    name: CallbackName,
    key: string,
    call: (context?: CallContext) => Promise<unknown>,
    context: CallContext,
  ): Promise<unknown>;
  config?: S3WorkflowConfig;
}

export interface Files {
  upload(rec: FileRecord, content: UploadContent, options?: S3FileOptions): Promise<FileRecord>;
  presigned(rec: FileRecord, timeoutSeconds: number, options?: S3FileOptions): Promise<FileRecord>;
  delete(rec: FileRecord): Promise<unknown>;
}

export function registerFiles(options: FilesOptions): Files;

export function endingSoon(post: PresignedPost, seconds: number): PresignedPost;
export function asSigned(post: PresignedPost): PresignedPost;
