/** What an application gives to the workflows: how its table and its bucket are changed. */

/** A file of the application; whatever else is in it goes through the workflows to the callbacks, as JSON can. */
export interface FileRecord {
  /** The object's name in the bucket. A new one for every upload: see `newFileKey`. */
  key: string;
}

/** What an upload stores. Strings and bytes are kept in DBOS's tables until the upload is done: small ones only. */
export type UploadContent = string | Uint8Array | FileContent;

/** A file on this machine, streamed from; it must not change, and must be there, until the upload has ended. */
export interface FileContent {
  readonly path: string;
  /** The upload removes the file when it has ended, well or not. */
  readonly temporary?: boolean;
}

/** How a browser or another client may put one object: a form with these fields, then the file, to this URL. */
export interface PresignedPost {
  url: string;
  fields: Record<string, string>;
}

/** What a callback may want to know beside its arguments. */
export interface CallContext {
  /** Of the upload that this call belongs to, its clean-up included; absent in a delete workflow. */
  readonly uploadID?: string;
  /** False when the call may have been made before, by a process that was killed. */
  readonly isFirst?: boolean;
  /** Aborted when the call has taken too long: what goes on after that comes too late. */
  readonly signal: AbortSignal;
}

/**
 * Every callback may be called again after a crash, and after an error whose effect is unknown. What they return does
 * not matter but where it is said.
 */
export interface S3WorkflowCallbacks<R extends FileRecord, Options = unknown> {
  // The table. Called from the body of a workflow, so that they may be transactions of a DBOS data source.
  /** Inserts the row of a file that is in the bucket. */
  newActiveFile(rec: R, context?: CallContext): Promise<unknown>;
  /** Inserts the row of a file that somebody may upload. */
  newPendingFile(rec: R, context?: CallContext): Promise<unknown>;
  /** The pending file is in the bucket. Should throw when the row is not there any more. */
  fileActivated(rec: R, context?: CallContext): Promise<unknown>;
  /** Removes the row; succeeds when there is none. */
  fileDeleted(rec: R, context?: CallContext): Promise<unknown>;
  /**
   * The four above are no transactions of a DBOS data source: they run as DBOS steps, which a recovery does not repeat
   * once they are recorded. Without it they should be such transactions, or harmless when repeated.
   */
  readonly databaseSteps?: boolean;

  // The bucket. Run as steps.
  putS3Contents(rec: R, content: UploadContent, options?: Options, context?: CallContext): Promise<unknown>;
  createPresignedPost(
    rec: R,
    timeoutSeconds?: number,
    options?: Options,
    context?: CallContext,
  ): Promise<PresignedPost>;
  /** Removes the object; succeeds when there is none. A delete workflow returns what this returns. */
  deleteS3Object(rec: R, context?: CallContext): Promise<unknown>;
  /** What is known of the object, or nothing (or S3's NotFound thrown) when there is none. */
  headS3Object?(rec: R, context?: CallContext): Promise<unknown>;
  /** Throws when what a client has uploaded must not be kept. */
  validateS3Upload?(rec: R, options?: Options, context?: CallContext): Promise<unknown>;
}
