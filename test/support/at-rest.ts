/** What a catalog and its bucket hold when nothing is under way, looked at behind the service's back: no look is a use. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { digestOf } from '@large-payload/core';
import type { Versitygw } from '@large-payload/test-components';
import type pg from 'pg';

export interface RestingRow {
  readonly state: string;
  readonly generation: number;
  readonly size: number;
}

export interface RestingObject {
  readonly size: number;
  readonly digest: string;
}

/** The rows of a catalog, by the keys of their objects. */
export async function rowsIn(pool: pg.Pool): Promise<Map<string, RestingRow>> {
  const { rows } = await pool.query(
    `SELECT namespace, prefix, encode(digest, 'hex') AS digest, encode(metadata_digest, 'hex') AS metadata,
       physical_suffix AS suffix, state, generation, size::int AS size FROM lps.blob`,
  );
  return new Map(
    rows.map(({ namespace, prefix, digest, metadata, suffix, state, generation, size }) => {
      const folder = prefix === '' ? 'common' : `custom/${prefix}`;
      const key = `/blobs/${namespace}/${folder}/sha256:${digest}/sha256:${metadata}`;
      return [suffix === '' ? key : `${key}~${suffix}`, { state, generation, size }];
    }),
  );
}

/** A bucket's objects, by their keys, and what is in them: its files. */
export function objectsIn(s3: Versitygw): Map<string, RestingObject> {
  const dir = join(s3.dir, s3.bucket);
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const keys = files.map((entry) => join(entry.parentPath, entry.name).slice(dir.length));
  // the service's own, and what a killed gateway had not finished
  const ours = keys.filter((key) => !(key.startsWith('/.lps/') || key.startsWith('/.sgwtmp/')));
  return new Map(
    ours.map((key) => {
      const bytes = readFileSync(join(dir, key));
      return [key, { size: bytes.length, digest: digestOf(bytes) }];
    }),
  );
}

/** Object for object: every live row has its right one, every one is a live row's, and what is gone has none. */
export async function disagreements(pool: pg.Pool, s3: Versitygw): Promise<string[]> {
  const [rows, objects] = [await rowsIn(pool), objectsIn(s3)];
  const found: string[] = [];
  for (const [key, { state, size }] of rows) {
    const object = objects.get(key);
    if (state === 'gone' ? object !== undefined : state !== 'live' || object?.size !== size)
      found.push(`a row that is ${state}, of ${size} bytes, and an object of ${object?.size}: ${key}`);
  }
  for (const [key, { digest }] of objects) {
    if (!rows.has(key)) found.push(`an object without a row: ${key}`);
    if (!key.includes(`/${digest}/`)) found.push(`an object with wrong bytes: ${key}`);
  }
  return found;
}
