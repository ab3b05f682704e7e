/**
 * The callbacks of the bucket, for those who have none, on the AWS SDK.
 *
 * Every object carries the id of the workflow that stored it (`x-amz-meta-upload-id`): a repeated put finds its own
 * object and is content, another upload of the same key gets KEY_TAKEN (`If-None-Match: *`), and a clean-up deletes the
 * object of its own upload only.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { type Readable, Transform } from 'node:stream';
import type { HeadObjectCommandOutput, S3Client } from '@aws-sdk/client-s3';
import type { CallContext, FileRecord, PresignedPost, S3WorkflowCallbacks, UploadContent } from './callbacks.js';
import { isNotFound, S3WorkflowError } from './errors.js';

export interface S3CallbacksOptions {
  /** The application's own; it is never closed here. */
  readonly client: S3Client;
  readonly bucket: string;
  /** The largest upload that a presigned post allows when nobody says the size. Default 5 GiB, S3's own limit. */
  readonly maxPostBytes?: number;
  /** Files of this size and above go up in parts of this size; four parts are in memory. Default 8 MiB, at least 5 MiB. */
  readonly partSizeBytes?: number;
}

/** The last argument of the upload workflows. */
export interface S3FileOptions {
  readonly contentType?: string;
  /** In bytes. An upload of another size is refused, or cleaned up. */
  readonly size?: number;
  /** 64 lower-case hex digits. An upload of other bytes is refused, or cleaned up. */
  readonly sha256?: string;
  /** Where the browser goes when its form has been uploaded; S3 appends bucket, key and etag. */
  readonly redirectTo?: string;
}

/** What headS3Object returns. */
export interface StoredObject {
  readonly size: number;
  readonly contentType?: string;
  readonly etag?: string;
  /** The workflow that stored it. */
  readonly uploadID?: string;
  /** Hex, where the bucket has it for the whole object. */
  readonly sha256?: string;
}

type BucketCallbacks = Required<
  Pick<
    S3WorkflowCallbacks<FileRecord, S3FileOptions>,
    'putS3Contents' | 'createPresignedPost' | 'deleteS3Object' | 'headS3Object' | 'validateS3Upload'
  >
>;

const mebibyte = 1024 * 1024;
const defaultMaxPostBytes = 5 * 1024 * mebibyte;
const uploadIdName = 'upload-id';

/** Errors: KEY_TAKEN, WRONG_CONTENT, and those of the AWS SDK. */
export function s3Callbacks(options: S3CallbacksOptions): BucketCallbacks {
  const { maxPostBytes = defaultMaxPostBytes } = options;
  const bucket = { ...options, partSizeBytes: Math.max(5 * mebibyte, options.partSizeBytes ?? 8 * mebibyte) };
  return {
    putS3Contents: (rec, content, fileOptions = {}, context) => put(bucket, rec.key, content, fileOptions, context),
    createPresignedPost: (rec, timeoutSeconds = 60, fileOptions = {}, context) =>
      post(bucket, maxPostBytes, rec.key, timeoutSeconds, fileOptions, context),
    deleteS3Object: (rec, context) => remove(bucket, rec.key, context),
    headS3Object: (rec, context) => head(bucket, rec.key, context),
    validateS3Upload: (rec, fileOptions = {}, context) => validate(bucket, rec.key, fileOptions, context),
  };
}

interface Bucket {
  readonly client: S3Client;
  readonly bucket: string;
  readonly partSizeBytes: number;
}

async function put(
  { client, bucket, partSizeBytes }: Bucket,
  key: string,
  content: UploadContent,
  options: S3FileOptions,
  context: CallContext | undefined,
): Promise<void> {
  const target = {
    Bucket: bucket,
    Key: key,
    IfNoneMatch: '*',
    ...(options.contentType === undefined ? {} : { ContentType: options.contentType }),
    ...(context?.uploadID === undefined ? {} : { Metadata: { [uploadIdName]: context.uploadID } }),
  };
  const abort = context === undefined ? {} : { abortSignal: context.signal };
  try {
    if (typeof content === 'string' || content instanceof Uint8Array) {
      const bytes = Buffer.from(content);
      const check = checking(options);
      check(bytes);
      check(undefined);
      const { PutObjectCommand } = await import('@aws-sdk/client-s3');
      await client.send(new PutObjectCommand({ ...target, Body: bytes }), abort);
    } else {
      // of an attempt that was killed
      if (context?.isFirst === false) await abortParts({ client, bucket, partSizeBytes }, key, context);
      await putFile({ client, partSizeBytes }, target, content.path, options, context);
    }
  } catch (error) {
    if ((error as { name?: unknown }).name !== 'PreconditionFailed') throw error;
    const stored = await head({ client, bucket, partSizeBytes }, key, context);
    if (context?.uploadID !== undefined && stored?.uploadID === context.uploadID) return;
    throw new S3WorkflowError('KEY_TAKEN', `The key ${key} belongs to another object of ${bucket}`, { cause: error });
  }
}

async function putFile(
  { client, partSizeBytes }: { readonly client: S3Client; readonly partSizeBytes: number },
  target: { readonly Bucket: string; readonly Key: string },
  path: string,
  options: S3FileOptions,
  context: CallContext | undefined,
): Promise<void> {
  const { Upload } = await import('@aws-sdk/lib-storage');
  const { size } = await stat(path);
  const check = checking({ size, ...options });
  const checked = new Transform({
    transform: (chunk: Buffer, _encoding, done) => {
      check(chunk);
      done(null, chunk);
    },
    flush: (done) => {
      try {
        check(undefined);
        done();
      } catch (error) {
        done(error as Error);
      }
    },
  });
  const source = createReadStream(path, { highWaterMark: mebibyte });
  source.once('error', (error) => checked.destroy(error));
  const upload = new Upload({ client, params: { ...target, Body: source.pipe(checked) }, partSize: partSizeBytes });
  const abort = (): void => void upload.abort();
  context?.signal.addEventListener('abort', abort, { once: true });
  try {
    if (context?.signal.aborted) abort();
    await upload.done();
  } finally {
    context?.signal.removeEventListener('abort', abort);
    source.destroy();
    checked.destroy();
  }
}

/** Takes chunks, then `undefined` for the end; throws WRONG_CONTENT there when they are not what was announced. */
function checking({ size, sha256 }: S3FileOptions): (chunk: Uint8Array | undefined) => void {
  const hash = createHash('sha256');
  let bytes = 0;
  return (chunk) => {
    if (chunk !== undefined) {
      bytes += chunk.byteLength;
      if (sha256 !== undefined) hash.update(chunk);
      return;
    }
    if (size !== undefined && bytes !== size) throw wrong(`${bytes} bytes instead of ${size}`);
    if (sha256 === undefined) return;
    const actual = hash.digest('hex');
    if (actual !== sha256) throw wrong(`sha256 ${actual} instead of ${sha256}`);
  };
}

function wrong(what: string): S3WorkflowError {
  return new S3WorkflowError('WRONG_CONTENT', `Not what was announced: ${what}`);
}

async function post(
  { client, bucket }: Bucket,
  maxPostBytes: number,
  key: string,
  timeoutSeconds: number,
  { contentType, size, sha256, redirectTo }: S3FileOptions,
  context: CallContext | undefined,
): Promise<PresignedPost> {
  const { createPresignedPost } = await import('@aws-sdk/s3-presigned-post');
  const fields: Record<string, string> = {};
  if (contentType !== undefined) fields['Content-Type'] = contentType;
  if (redirectTo !== undefined) fields.success_action_redirect = redirectTo;
  if (context?.uploadID !== undefined) fields[`x-amz-meta-${uploadIdName}`] = context.uploadID;
  if (sha256 !== undefined) {
    fields['x-amz-checksum-algorithm'] = 'SHA256';
    fields['x-amz-checksum-sha256'] = Buffer.from(sha256, 'hex').toString('base64');
  }
  const { url, fields: signed } = await createPresignedPost(client, {
    Bucket: bucket,
    Key: key,
    Expires: Math.ceil(timeoutSeconds),
    Conditions: [['content-length-range', size ?? 0, size ?? maxPostBytes]],
    Fields: fields,
  });
  return { url, fields: signed };
}

async function head(
  { client, bucket }: Bucket,
  key: string,
  context: CallContext | undefined,
): Promise<StoredObject | undefined> {
  const { HeadObjectCommand } = await import('@aws-sdk/client-s3');
  const abort = context === undefined ? {} : { abortSignal: context.signal };
  let found: HeadObjectCommandOutput;
  try {
    found = await client.send(new HeadObjectCommand({ Bucket: bucket, Key: key, ChecksumMode: 'ENABLED' }), abort);
  } catch (error) {
    if (isNotFound(error)) return undefined;
    throw error;
  }
  const { ContentLength: size = 0, ContentType: contentType, ETag: etag, Metadata: metadata } = found;
  const uploadID = metadata?.[uploadIdName];
  // A multipart object may have a checksum of its parts' checksums: `…-3`.
  const checksum = found.ChecksumType === 'COMPOSITE' ? undefined : found.ChecksumSHA256;
  return {
    size,
    ...(contentType === undefined ? {} : { contentType }),
    ...(etag === undefined ? {} : { etag }),
    ...(uploadID === undefined ? {} : { uploadID }),
    ...(checksum === undefined || checksum.includes('-')
      ? {}
      : { sha256: Buffer.from(checksum, 'base64').toString('hex') }),
  };
}

/** What the post's policy has checked already, once more: not every S3 server does. */
async function validate(
  { client, bucket, partSizeBytes }: Bucket,
  key: string,
  { size, sha256 }: S3FileOptions,
  context: CallContext | undefined,
): Promise<void> {
  if (size === undefined && sha256 === undefined) return;
  const stored = await head({ client, bucket, partSizeBytes }, key, context);
  if (stored === undefined) throw new S3WorkflowError('NOT_UPLOADED', `There is no object ${key}`);
  if (size !== undefined && stored.size !== size) throw wrong(`${stored.size} bytes instead of ${size}`);
  if (sha256 === undefined || stored.sha256 === sha256) return;
  if (stored.sha256 !== undefined) throw wrong(`sha256 ${stored.sha256} instead of ${sha256}`);
  const { GetObjectCommand } = await import('@aws-sdk/client-s3');
  const abort = context === undefined ? {} : { abortSignal: context.signal };
  const { Body: body } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }), abort);
  const check = checking({ sha256 });
  for await (const chunk of body as Readable) check(chunk as Buffer);
  check(undefined);
}

async function remove(
  { client, bucket, partSizeBytes }: Bucket,
  key: string,
  context: CallContext | undefined,
): Promise<unknown> {
  const abort = context === undefined ? {} : { abortSignal: context.signal };
  if (context?.uploadID !== undefined) {
    const stored = await head({ client, bucket, partSizeBytes }, key, context);
    if (stored?.uploadID !== undefined && stored.uploadID !== context.uploadID) return undefined;
    await abortParts({ client, bucket, partSizeBytes }, key, context);
    if (stored === undefined) return undefined;
  }
  const { DeleteObjectCommand } = await import('@aws-sdk/client-s3');
  return await client.send(new DeleteObjectCommand({ Bucket: bucket, Key: key }), abort);
}

/** Parts of an upload that nobody will complete: no object, but paid for. */
async function abortParts({ client, bucket }: Bucket, key: string, context: CallContext | undefined): Promise<void> {
  const { AbortMultipartUploadCommand, ListMultipartUploadsCommand } = await import('@aws-sdk/client-s3');
  const abort = context === undefined ? {} : { abortSignal: context.signal };
  try {
    const list = new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: key });
    const { Uploads: uploads = [] } = await client.send(list, abort);
    for (const { Key, UploadId } of uploads) {
      if (Key !== key) continue;
      await client.send(new AbortMultipartUploadCommand({ Bucket: bucket, Key: key, UploadId }), abort);
    }
  } catch (error) {
    // No such right, or no such call on this server: a lifecycle rule of the bucket is then to remove them.
    const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
    if (status === undefined || ![403, 404, 405, 501].includes(status)) throw error;
  }
}
