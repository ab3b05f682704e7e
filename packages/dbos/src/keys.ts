import { randomUUID } from 'node:crypto';

/**
 * A key that nobody has used: `{prefix}{random UUID}`. A key is for one upload only: S3 and its caches may answer for
 * the old object, and a clean-up of the old upload may still be on its way. Names are for the table.
 */
export function newFileKey(prefix = ''): string {
  return `${prefix}${randomUUID()}`;
}
