import { access, rm } from 'node:fs/promises';
import { DBOS } from '@dbos-inc/dbos-sdk';
import type { FileContent, FileRecord, S3WorkflowCallbacks, UploadContent } from './callbacks.js';
import { S3WorkflowError } from './errors.js';
import type { Run } from './frame.js';
import { register } from './register.js';
import { isForeign, runInFrame } from './run.js';
import type { S3WorkflowConfig } from './settings.js';

/**
 * Registers a workflow that stores a content and then inserts its row: `upload(rec, content, options?)` returns `rec`.
 *
 * It throws the error of the callback that failed, CONTENT_TOO_LARGE, CONTENT_GONE, KEY_TAKEN, TIMED_OUT or CLEANED_UP;
 * neither row nor object stays then: the clean-up `{workflow id}-cleanup` goes on until that is so.
 */
export function registerS3UploadWorkflow<R extends FileRecord, Options = unknown>(
  config: S3WorkflowConfig,
  callbacks: S3WorkflowCallbacks<R, Options>,
): (rec: R, content: UploadContent, options?: Options) => Promise<R>;
export function registerS3UploadWorkflow<R extends FileRecord, Options = unknown>(
  callbacks: S3WorkflowCallbacks<R, Options>,
  config: S3WorkflowConfig,
  names?: S3WorkflowConfig,
): (rec: R, content: UploadContent, options?: Options) => Promise<R>;
export function registerS3UploadWorkflow<R extends FileRecord, Options>(
  ...given: (S3WorkflowConfig | S3WorkflowCallbacks<R, Options> | undefined)[]
): (rec: R, content: UploadContent, options?: Options) => Promise<R> {
  const { frame, registration } = register<R, Options>(given, 's3Upload', {
    kind: 'upload',
    lastEffect: 'newActiveFile',
    leftBy: (steps) => ({
      row: steps.some(({ name, error }) => name === 'putS3Contents' && error === null),
      object: true,
      openUntilMs: 0,
    }),
  });
  const { callbacks, settings } = frame;

  return DBOS.registerWorkflow((rec: R, content: UploadContent, options?: Options): Promise<R> => {
    const ended = async (): Promise<void> => {
      if (isFile(content) && content.temporary) await rm(content.path, { force: true });
    };
    const body = async (run: Run<R>): Promise<R> => {
      checkInline(content, settings.maxInlineBytes);
      await put(run, content, options);
      await insertRow(run);
      return rec;
    };
    return runInFrame(frame, rec, body, { ended });
  }, registration);

  async function put(run: Run<R>, content: UploadContent, options: Options | undefined): Promise<void> {
    run.object = true;
    try {
      await run.step('putS3Contents', 'transfer', async (context) => {
        if (isFile(content)) await checkPresent(content);
        await callbacks.putS3Contents(run.rec, content, options, context);
      });
    } catch (error) {
      if (isForeign(run, error)) run.keep.add('object');
      throw error;
    }
  }

  async function insertRow(run: Run<R>): Promise<void> {
    run.row = true;
    try {
      await run.database('newActiveFile', (context) => callbacks.newActiveFile(run.rec, context), 'done');
    } catch (error) {
      if (isForeign(run, error)) run.keep.add('row');
      throw error;
    }
  }
}

function isFile(content: UploadContent): content is FileContent {
  return typeof content === 'object' && 'path' in content;
}

function checkInline(content: UploadContent, maxBytes: number): void {
  if (isFile(content)) return;
  const bytes = typeof content === 'string' ? Buffer.byteLength(content) : content.byteLength;
  if (bytes <= maxBytes) return;
  throw new S3WorkflowError(
    'CONTENT_TOO_LARGE',
    `A content of ${bytes} bytes is not kept in DBOS's tables (maxInlineBytes is ${maxBytes}): write it to a file and upload { path }`,
  );
}

async function checkPresent({ path }: FileContent): Promise<void> {
  try {
    await access(path);
  } catch (cause) {
    throw new S3WorkflowError(
      'CONTENT_GONE',
      `The file ${path} is not on this machine, or not any more: an upload is recovered where its file is`,
      { cause },
    );
  }
}
