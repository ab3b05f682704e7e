import { describe, expect, it } from 'vitest';
import type { FileRecord, S3WorkflowCallbacks } from './callbacks.js';
import { inOrder, namesOf, settingsOf } from './settings.js';

const nothing = async (): Promise<void> => undefined;
/** Typed as an application of the old library has them. */
const callbacks: S3WorkflowCallbacks<FileRecord & { size: number }, { contentType?: string }> = {
  newActiveFile: nothing,
  newPendingFile: nothing,
  fileActivated: nothing,
  fileDeleted: nothing,
  putS3Contents: async (_rec: FileRecord, _content: string, _options?: { contentType?: string }) => 'etag',
  createPresignedPost: async (_rec, _timeout?: number, _options?: { contentType?: string }) => ({
    url: '',
    fields: {},
  }),
  deleteS3Object: nothing,
  validateS3Upload: async (_rec) => undefined,
};

describe('the arguments of a registration', () => {
  const config = { name: 'uploadWF', className: 'UserFile' };

  it.each([
    ['(config, callbacks)', [config, callbacks]],
    ['(callbacks, config)', [callbacks, config]],
    ['(callbacks, {}, names)', [callbacks, {}, config]],
  ])('are taken as %s', (_order, given) => {
    expect(inOrder(given)).toEqual({ config, callbacks });
  });

  it('need the callbacks', () => {
    expect(() => inOrder([config])).toThrow(/needs its callbacks/);
  });
});

describe('the names of a workflow', () => {
  it('pass to DBOS what is its own, with recoveries that never end', () => {
    const { name, className, registration } = namesOf(
      { name: 'uploadWF', className: 'UserFile', maxInlineBytes: 1, serialization: 'portable' },
      's3Upload',
    );
    expect({ name, className }).toEqual({ name: 'uploadWF', className: 'UserFile' });
    expect(registration).toEqual({ className: 'UserFile', serialization: 'portable', maxRecoveryAttempts: 1_000_000 });
  });

  it('have defaults', () => {
    expect(namesOf({}, 's3Upload')).toMatchObject({ name: 's3Upload', className: '' });
  });

  it('take the class from its constructor or prototype', () => {
    class UserFile {}
    expect(namesOf({ ctorOrProto: UserFile }, 'x').className).toBe('UserFile');
    expect(namesOf({ ctorOrProto: UserFile.prototype }, 'x').className).toBe('UserFile');
  });

  it('take the settings of DBOS from either place', () => {
    expect(namesOf({ config: { maxRecoveryAttempts: 3 } }, 'x').registration.maxRecoveryAttempts).toBe(3);
    expect(namesOf({ maxRecoveryAttempts: 4 }, 'x').registration.maxRecoveryAttempts).toBe(4);
  });
});

describe('the settings', () => {
  it('have the documented defaults', () => {
    expect(settingsOf({})).toEqual({
      timeoutsMs: { database: 60_000, storage: 60_000, transfer: 3_600_000 },
      waitForCleanUpMs: 10_000,
      firstRetryMs: 100,
      maxRetryMs: 300_000,
      latePassesMs: [60_000, 3_600_000],
      finishGraceSeconds: 60,
      maxInlineBytes: 262_144,
      postLifetimeMs: 0,
    });
  });

  it('are in ascending order and in range', () => {
    expect(settingsOf({ latePassesSeconds: [20, 3] }).latePassesMs).toEqual([3000, 20_000]);
    for (const config of [
      { waitForCleanUpMs: -1 },
      { timeoutsMs: { database: Number.NaN } },
      { latePassesSeconds: [3_000_000] },
      { retryMs: { max: Number.POSITIVE_INFINITY } },
    ]) {
      expect(() => settingsOf(config)).toThrow(/out of range/);
    }
  });
});
