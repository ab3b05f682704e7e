/**
 * Static tokens: made by an operator, good for some rights on some namespaces, until they expire or are revoked.
 *
 *   token-text.ts        how they are written
 *   token-records.ts     the table
 *   token-cache.ts       what is remembered of it, and how long
 */
import { timingSafeEqual } from 'node:crypto';
import { LpsError } from '@large-payload/core';
import type { Logger } from 'pino';
import type { Database } from '../catalog/database.js';
import { parseGrant } from './policy-grant.js';
import type { Grant, Principal } from './principal.js';
import { TokenCache } from './token-cache.js';
import { type TokenInfo, type TokenRecord, tokenRecords } from './token-records.js';
import { newToken, parseToken } from './token-text.js';

export interface NewToken {
  /** Of 1 to 200 characters, for people: what it is for. */
  readonly name: string;
  /** At least one. */
  readonly grants: readonly Grant[];
  readonly expiresAt?: Date;
}

export interface Tokens {
  /** `text` is the token itself, seen only here. Throws INVALID_ARGUMENT, INVALID_KEY, CATALOG_UNAVAILABLE. */
  create(token: NewToken): Promise<TokenInfo & { readonly text: string }>;
  /** The newest first, revoked and expired ones included; 10,000 at most. */
  list(): Promise<TokenInfo[]>;
  /** Takes effect here at once, on other replicas within 10 s. `undefined` when there is no such token. */
  revoke(id: string): Promise<TokenInfo | undefined>;
  /** Throws UNAUTHENTICATED, with the reason in the log only; CATALOG_UNAVAILABLE, OVERLOADED. */
  verify(text: string): Promise<Principal>;
}

export interface TokensOptions {
  readonly database: Database;
  readonly schema: string;
  readonly log: Logger;
  /** Milliseconds since 1970. */
  readonly clock: () => number;
}

const maxName = 200;
const maxGrants = 100;

export function openTokens({ database, schema, log, clock }: TokensOptions): Tokens {
  const records = tokenRecords(database, schema);
  const cache = new TokenCache({
    find: (id) => records.find(id),
    clock,
    onOutage: (error) =>
      log.warn({ err: error }, 'tokens cannot be looked up; those seen within the last hour are taken'),
  });
  /** The day on which a use of a token was last written down, or tried to be. */
  const noted = new Map<string, number>();
  const noteUse = ({ id, isUsedToday }: TokenRecord): void => {
    const today = Math.floor(clock() / 86_400_000);
    if (isUsedToday || noted.get(id) === today) return;
    if (noted.size >= 10_000) noted.clear();
    noted.set(id, today);
    records.noteUse(id).catch((error: unknown) => log.debug({ err: error }, 'the use of a token was not written down'));
  };
  return {
    async create({ name, grants, expiresAt }) {
      checkNew(name, grants, expiresAt, clock());
      const { id, secretHash, text } = newToken();
      const info = await records.insert({ id, secretHash, name, grants: grants.map(parseGrant), expiresAt });
      return { ...info, text };
    },
    list: () => records.list(),
    async revoke(id) {
      const revoked = await records.revoke(id);
      cache.forget(id);
      return revoked;
    },
    async verify(text) {
      const parts = parseToken(text);
      if (parts === undefined) throw refusal();
      const record = await cache.get(parts.id);
      const reason = reasonAgainst(record, parts.secretHash, clock());
      if (record === undefined || reason !== undefined) {
        log.info({ token: parts.id, reason }, 'a token was refused');
        throw refusal();
      }
      noteUse(record);
      const { grants, expiresAt } = record;
      return { id: `token:${record.id}`, grants, ...(expiresAt === undefined ? {} : { expiresAt }) };
    },
  };
}

/** The secret comes first: nobody without it learns anything, not even from the time it takes. */
function reasonAgainst(record: TokenRecord | undefined, secretHash: Buffer, now: number): string | undefined {
  if (record === undefined) return 'unknown';
  if (!timingSafeEqual(record.secretHash, secretHash)) return 'wrong secret';
  if (record.revokedAt !== undefined) return 'revoked';
  if (record.expiresAt !== undefined && now >= record.expiresAt.getTime()) return 'expired';
  return undefined;
}

/** One text for whatever is wrong with a token. */
export function refusal(cause?: unknown): LpsError {
  return new LpsError('UNAUTHENTICATED', 'the token is not valid', cause === undefined ? {} : { cause });
}

function checkNew(name: string, grants: readonly Grant[], expiresAt: Date | undefined, now: number): void {
  const wrong = (message: string): never => {
    throw new LpsError('INVALID_ARGUMENT', message);
  };
  if (name.trim() === '' || name.length > maxName || /\p{Cc}/u.test(name)) {
    wrong(`the name must have 1 to ${maxName} characters, on one line`);
  }
  if (grants.length === 0 || grants.length > maxGrants) wrong(`a token has 1 to ${maxGrants} grants`);
  if (expiresAt !== undefined && !(expiresAt.getTime() > now)) wrong('the token would have expired already');
}
