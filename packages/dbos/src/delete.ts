import { DBOS } from '@dbos-inc/dbos-sdk';
import type { FileRecord, S3WorkflowCallbacks } from './callbacks.js';
import { isRefusedByDatabase } from './errors.js';
import { cleanAfterPosts } from './give-up.js';
import { register } from './register.js';
import { runInFrame } from './run.js';
import type { S3WorkflowConfig } from './settings.js';

/**
 * Registers a workflow that removes a row and then its object: `delete(rec)` returns what deleteS3Object returned.
 *
 * A row that the database refuses to delete (a constraint, a trigger) stays, with its object, and its error is thrown.
 * After any other failure the delete goes on until it is done, in `{workflow id}-cleanup`; the error of the callback is
 * thrown only when that takes longer than `waitForCleanUpMs`.
 */
export function registerS3DeleteWorkflow<R extends FileRecord, Options = unknown>(
  config: S3WorkflowConfig,
  callbacks: S3WorkflowCallbacks<R, Options>,
): (rec: R) => Promise<unknown>;
export function registerS3DeleteWorkflow<R extends FileRecord, Options = unknown>(
  callbacks: S3WorkflowCallbacks<R, Options>,
  config: S3WorkflowConfig,
  names?: S3WorkflowConfig,
): (rec: R) => Promise<unknown>;
export function registerS3DeleteWorkflow<R extends FileRecord, Options>(
  ...given: (S3WorkflowConfig | S3WorkflowCallbacks<R, Options> | undefined)[]
): (rec: R) => Promise<unknown> {
  const { frame, registration } = register<R, Options>(given, 's3Delete', {
    kind: 'delete',
    lastEffect: 'deleteS3Object',
    leftBy: () => ({ row: true, object: true, openUntilMs: 0 }),
  });
  const { callbacks, settings } = frame;

  return DBOS.registerWorkflow(
    (rec: R): Promise<unknown> =>
      runInFrame(
        frame,
        rec,
        async (run) => {
          run.row = true;
          run.object = true;
          if (settings.postLifetimeMs > 0) run.openUntilMs = Date.now() + settings.postLifetimeMs;
          try {
            await run.database('fileDeleted', (context) => callbacks.fileDeleted(rec, context));
          } catch (error) {
            if (isRefusedByDatabase(error)) run.keep.add('row').add('object');
            throw error;
          }
          const returned = await run.step('deleteS3Object', 'storage', (context) =>
            callbacks.deleteS3Object(rec, context),
          );
          if (settings.postLifetimeMs > 0) await cleanAfterPosts(frame, run);
          return returned;
        },
        {
          failed: async (error, { cleaned }) => {
            if (cleaned === undefined) throw error;
            return cleaned.returned;
          },
        },
      ),
    registration,
  );
}
