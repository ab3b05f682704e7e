/** Tokens as they stand in the table. */
import { LpsError } from '@large-payload/core';
import { z } from 'zod';
import type { Database, Row, Statement } from '../catalog/database.js';
import { type Grant, rights } from './principal.js';

/** What is known of a token; its secret is not. */
export interface TokenInfo {
  readonly id: string;
  readonly name: string;
  readonly grants: readonly Grant[];
  readonly createdAt: Date;
  readonly expiresAt: Date | undefined;
  readonly revokedAt: Date | undefined;
  /** `2026-11-23`, by the clock of Postgres. */
  readonly lastUsedOn: string | undefined;
}

export interface TokenRecord extends TokenInfo {
  readonly secretHash: Buffer;
  readonly isUsedToday: boolean;
}

export interface NewRecord {
  readonly id: string;
  readonly secretHash: Buffer;
  readonly name: string;
  readonly grants: readonly Grant[];
  readonly expiresAt: Date | undefined;
}

/** Every function throws CATALOG_UNAVAILABLE while Postgres does not answer. */
export interface TokenRecords {
  find(id: string): Promise<TokenRecord | undefined>;
  insert(record: NewRecord): Promise<TokenInfo>;
  /** The newest first, 10,000 at most. */
  list(): Promise<TokenInfo[]>;
  /** `undefined` when there is no such token. The first time counts. */
  revoke(id: string): Promise<TokenInfo | undefined>;
  noteUse(id: string): Promise<void>;
}

/** Rights that this program does not know (they are a newer one's) give nothing. */
const grantsSchema = z.array(
  z.object({
    namespaces: z.array(z.string()),
    rights: z.array(z.string()).transform((words) => rights.filter((right) => words.includes(right))),
  }),
);

export function tokenRecords(database: Database, schema: string): TokenRecords {
  const sql = statements(schema);
  return {
    async find(id) {
      const [row] = await database.run(sql.find, [id]);
      if (row === undefined) return undefined;
      return { ...toInfo(row), secretHash: row.secret_sha256 as Buffer, isUsedToday: row.is_used_today === true };
    },
    async insert({ id, secretHash, name, grants, expiresAt }) {
      const values = [id, secretHash, name, JSON.stringify(grants), expiresAt ?? null];
      const [row] = await database.run(sql.insert, values);
      if (row === undefined) throw new LpsError('INTERNAL', 'the token was not written');
      return toInfo(row);
    },
    async list() {
      return (await database.run(sql.list, [])).map(toInfo);
    },
    async revoke(id) {
      const [row] = await database.run(sql.revoke, [id]);
      return row === undefined ? undefined : toInfo(row);
    },
    async noteUse(id) {
      await database.run(sql.noteUse, [id]);
    },
  };
}

function statements(schema: string) {
  const table = `${schema}.access_token`;
  const columns = 'id, name, grants, created_at, expires_at, revoked_at, last_used_on::text';
  return {
    find: named(
      'find_token',
      `SELECT ${columns}, secret_sha256, last_used_on IS NOT DISTINCT FROM current_date AS is_used_today
       FROM ${table} WHERE id = $1`,
    ),
    insert: named(
      'insert_token',
      `INSERT INTO ${table} (id, secret_sha256, name, grants, expires_at) VALUES ($1, $2, $3, $4, $5) RETURNING ${columns}`,
    ),
    list: named('list_tokens', `SELECT ${columns} FROM ${table} ORDER BY created_at DESC, id LIMIT 10000`),
    revoke: named(
      'revoke_token',
      `UPDATE ${table} SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING ${columns}`,
    ),
    noteUse: named(
      'note_token_use',
      `UPDATE ${table} SET last_used_on = current_date WHERE id = $1 AND last_used_on IS DISTINCT FROM current_date`,
    ),
  };
}

function named(name: string, text: string): Statement {
  return { name, text };
}

function toInfo(row: Row): TokenInfo {
  return {
    id: String(row.id),
    name: String(row.name),
    grants: grantsSchema.safeParse(row.grants).data ?? [],
    createdAt: row.created_at as Date,
    expiresAt: (row.expires_at as Date | null) ?? undefined,
    revokedAt: (row.revoked_at as Date | null) ?? undefined,
    lastUsedOn: (row.last_used_on as string | null) ?? undefined,
  };
}
