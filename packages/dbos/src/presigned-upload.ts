import { DBOS } from '@dbos-inc/dbos-sdk';
import type { FileRecord, PresignedPost, S3WorkflowCallbacks } from './callbacks.js';
import { isNotFound, S3WorkflowError } from './errors.js';
import type { Run } from './frame.js';
import { register } from './register.js';
import { isForeign, runInFrame } from './run.js';
import type { S3WorkflowConfig } from './settings.js';

/** AWS signs for a week at most. */
const maxPostSeconds = 7 * 24 * 3600;

/**
 * Registers a workflow around an upload that goes past the application: `presigned(rec, seconds, options?)` inserts a
 * pending row, sets the event `uploadkey` to a presigned post that is valid for `seconds`, waits for the boolean message
 * `uploadfinish` (for `seconds` + 60, see `finishGraceSeconds`), checks the object and activates the row; returns `rec`.
 *
 * It throws NOT_FINISHED when the message is false or does not come, NOT_UPLOADED, what validateS3Upload throws, or the
 * error of the callback that failed; neither row nor object stays then. It cleans again when the post has expired,
 * since the post cannot be taken back. Without a post `uploadkey` becomes null.
 */
export function registerS3PresignedUploadWorkflow<R extends FileRecord, Options = unknown>(
  config: S3WorkflowConfig,
  callbacks: S3WorkflowCallbacks<R, Options>,
): (rec: R, timeoutSeconds: number, options?: Options) => Promise<R>;
export function registerS3PresignedUploadWorkflow<R extends FileRecord, Options = unknown>(
  callbacks: S3WorkflowCallbacks<R, Options>,
  config: S3WorkflowConfig,
  names?: S3WorkflowConfig,
): (rec: R, timeoutSeconds: number, options?: Options) => Promise<R>;
export function registerS3PresignedUploadWorkflow<R extends FileRecord, Options>(
  ...given: (S3WorkflowConfig | S3WorkflowCallbacks<R, Options> | undefined)[]
): (rec: R, timeoutSeconds: number, options?: Options) => Promise<R> {
  const { frame, registration } = register<R, Options>(given, 's3PresignedUpload', {
    kind: 'upload',
    lastEffect: 'fileActivated',
    leftBy: (steps) => {
      const post = steps.find(({ name, error }) => name === 'createPresignedPost' && error === null)?.output;
      return { row: true, object: post != null, openUntilMs: expiryOf(post as PresignedPost | undefined) ?? 0 };
    },
  });
  const { callbacks, settings } = frame;
  if (callbacks.headS3Object === undefined && callbacks.validateS3Upload === undefined) {
    DBOS.logger.warn(
      `${frame.names.name} has neither headS3Object nor validateS3Upload: a file that was never uploaded is activated when its client says so`,
    );
  }

  return DBOS.registerWorkflow(async (rec: R, timeoutSeconds: number, options?: Options): Promise<R> => {
    checkSeconds(timeoutSeconds);
    let post: PresignedPost | undefined;
    try {
      return await runInFrame(frame, rec, async (run) => {
        await newPending(run);
        post = await run.step('createPresignedPost', 'storage', (context) =>
          callbacks.createPresignedPost(rec, timeoutSeconds, options, context),
        );
        run.object = true;
        run.openUntilMs = expiryOf(post) ?? Date.now() + timeoutSeconds * 1000;
        await DBOS.setEvent<PresignedPost>('uploadkey', post);
        const isFinished = await DBOS.recv<boolean>('uploadfinish', {
          timeoutSeconds: timeoutSeconds + settings.finishGraceSeconds,
        });
        if (!isFinished) throw new S3WorkflowError('NOT_FINISHED', 'S3 operation timed out or canceled');
        await check(run, options);
        await run.database('fileActivated', (context) => callbacks.fileActivated(rec, context), 'done');
        return rec;
      });
    } catch (error) {
      // Whoever waits for the post need not wait until the time is over.
      if (post === undefined) await DBOS.setEvent('uploadkey', null).catch(() => undefined);
      throw error;
    }
  }, registration);

  async function newPending(run: Run<R>): Promise<void> {
    run.row = true;
    try {
      await run.database('newPendingFile', (context) => callbacks.newPendingFile(run.rec, context));
    } catch (error) {
      if (isForeign(run, error)) run.keep.add('row');
      throw error;
    }
  }

  async function check(run: Run<R>, options: Options | undefined): Promise<void> {
    const { rec } = run;
    const isThere = await run.step('headS3Object', 'storage', async (context) => {
      if (callbacks.headS3Object === undefined) return true;
      try {
        return Boolean(await callbacks.headS3Object(rec, context));
      } catch (error) {
        if (isNotFound(error)) return false;
        throw error;
      }
    });
    if (!isThere)
      throw new S3WorkflowError('NOT_UPLOADED', `There is no object ${rec.key}, though it was said to be uploaded`);
    if (callbacks.validateS3Upload === undefined) return;
    await run.step('validateS3Upload', 'transfer', async (context) => {
      await callbacks.validateS3Upload?.(rec, options, context);
    });
  }
}

function checkSeconds(timeoutSeconds: number): void {
  if (timeoutSeconds > 0 && timeoutSeconds <= maxPostSeconds) return;
  throw new S3WorkflowError(
    'INVALID_ARGUMENT',
    `A presigned post lives from 1 to ${maxPostSeconds} seconds, not ${timeoutSeconds}`,
  );
}

/** The post's own end, in ms of UNIX time: `expiration` in its policy, base64 of JSON in the field `Policy`. */
export function expiryOf(post: PresignedPost | undefined): number | undefined {
  const policy = post?.fields.Policy;
  if (policy === undefined) return undefined;
  try {
    const { expiration } = JSON.parse(Buffer.from(policy, 'base64').toString()) as { expiration?: unknown };
    const atMs = Date.parse(String(expiration));
    return Number.isNaN(atMs) ? undefined : atMs;
  } catch {
    return undefined;
  }
}
