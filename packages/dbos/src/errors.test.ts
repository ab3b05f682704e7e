import { describe, expect, it } from 'vitest';
import {
  isCancelled,
  isKeyTaken,
  isLostOwnership,
  isNotFound,
  isRefusedByDatabase,
  messageOf,
  S3WorkflowError,
} from './errors.js';

const withCode = (code: string, cause?: unknown): Error => Object.assign(new Error('x', { cause }), { code });
const withStatus = (httpStatusCode: number): Error => Object.assign(new Error('x'), { $metadata: { httpStatusCode } });

describe('errors', () => {
  it('tell a key that is taken', () => {
    expect(isKeyTaken(new S3WorkflowError('KEY_TAKEN', 'x'))).toBe(true);
    expect(isKeyTaken(withCode('23505'))).toBe(true);
    expect(isKeyTaken(new Error('wrapped', { cause: withCode('23505') }))).toBe(true);
    expect(isKeyTaken(withStatus(412))).toBe(true);
    for (const other of [withCode('23503'), withStatus(409), new Error('x'), undefined, 'x']) {
      expect(isKeyTaken(other)).toBe(false);
    }
  });

  it('tell a statement that the database refuses from one that it did not get or finish', () => {
    for (const code of ['22001', '23503', '42501', '44000', 'P0001'])
      expect(isRefusedByDatabase(withCode(code))).toBe(true);
    expect(isRefusedByDatabase(withCode('OUTER_CODE', withCode('23503')))).toBe(true);
    for (const code of ['08006', '40001', '53300', '57014', '57P01', 'ECONNREFUSED']) {
      expect(isRefusedByDatabase(withCode(code))).toBe(false);
    }
  });

  it('end at causes that go in a circle', () => {
    const error = new Error('x');
    error.cause = error;
    expect(isRefusedByDatabase(error)).toBe(false);
  });

  it('tell an object that is not there', () => {
    expect(isNotFound(withStatus(404))).toBe(true);
    expect(isNotFound(Object.assign(new Error(), { name: 'NoSuchKey' }))).toBe(true);
    expect(isNotFound(withStatus(403))).toBe(false);
  });

  it('tell what DBOS says about the workflow itself', () => {
    const cancelled = Object.assign(new Error(), { dbosErrorCode: 24, workflowID: 'a' });
    expect([isCancelled(cancelled, 'a'), isCancelled(cancelled, 'b')]).toEqual([true, false]);
    expect(isLostOwnership(Object.assign(new Error(), { dbosErrorCode: 5 }))).toBe(true);
    expect(isLostOwnership(cancelled)).toBe(false);
  });

  it('have messages, whatever was thrown', () => {
    expect(messageOf(new S3WorkflowError('TIMED_OUT', 'late'))).toBe('S3WorkflowError: late');
    expect(messageOf('text')).toBe('text');
  });
});
