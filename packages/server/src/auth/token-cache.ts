/**
 * Records of tokens by id, so that a request does not wait for Postgres, and goes on without it for a while.
 *
 * - A record is fresh for 10 s: so long a revoked token may still be taken.
 * - A stale one is read again; when Postgres does not answer, it stands in for up to an hour from when it was last read.
 * - Only ids that are in the table come in here. Unknown ones have a small place of their own, and only a few of them are
 *   looked up at a time: who makes ids up can neither push the records out nor keep Postgres busy.
 */
import { ByteLru, isLpsError, LpsError } from '@large-payload/core';
import type { TokenRecord } from './token-records.js';
import { within } from './token-waits.js';

export interface TokenCacheOptions {
  readonly find: (id: string) => Promise<TokenRecord | undefined>;
  /** Milliseconds since 1970. */
  readonly clock: () => number;
  /** Called when a stale record stands in, at most every `retryMs`. */
  readonly onOutage?: (error: unknown) => void;
  readonly maxRecords?: number;
  readonly maxUnknown?: number;
  readonly maxLookups?: number;
  readonly maxWaiting?: number;
}

interface Entry {
  record: TokenRecord;
  /** When the record was asked for. */
  seenAt: number;
}

const freshMs = 10_000;
const lastsMs = 3_600_000;
/** A record that can stand in makes nobody wait longer than this, and is asked for again only after that. */
const patienceMs = 1000;
const retryMs = 5000;

export class TokenCache {
  readonly #options: Required<Omit<TokenCacheOptions, 'onOutage'>>;
  readonly #onOutage: (error: unknown) => void;
  readonly #entries: ByteLru<Entry>;
  readonly #unknown: ByteLru<number>;
  readonly #lookups = new Map<string, Promise<TokenRecord | undefined>>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;
  #retryAt = 0;

  constructor(options: TokenCacheOptions) {
    const { onOutage = () => undefined, ...others } = options;
    this.#options = { maxRecords: 10_000, maxUnknown: 1000, maxLookups: 2, maxWaiting: 256, ...others };
    this.#onOutage = onOutage;
    this.#entries = new ByteLru(this.#options.maxRecords);
    this.#unknown = new ByteLru(this.#options.maxUnknown);
  }

  /** The token's record, `undefined` when there is none. Throws CATALOG_UNAVAILABLE, OVERLOADED. */
  async get(id: string): Promise<TokenRecord | undefined> {
    const now = this.#options.clock();
    const entry = this.#entries.get(id);
    if (entry === undefined) return isYoung(now, this.#unknown.get(id), freshMs) ? undefined : this.#lookUp(id);
    if (isYoung(now, entry.seenAt, freshMs)) return entry.record;
    return isYoung(now, entry.seenAt, lastsMs) ? this.#refreshed(id, entry) : this.#lookUp(id);
  }

  /** The next `get` reads the record anew. */
  forget(id: string): void {
    this.#entries.delete(id);
    this.#unknown.delete(id);
  }

  async #refreshed(id: string, entry: Entry): Promise<TokenRecord | undefined> {
    const now = this.#options.clock();
    if (now < this.#retryAt && this.#retryAt - now <= retryMs) return entry.record;
    try {
      // not among the lookups of strangers: it must not wait for them
      return await within(
        patienceMs,
        this.#once(id, () => this.#read(id)),
      );
    } catch (error) {
      if (!isLpsError(error, 'CATALOG_UNAVAILABLE') && !isLpsError(error, 'OVERLOADED')) throw error;
      this.#retryAt = this.#options.clock() + retryMs;
      this.#onOutage(error);
      return entry.record;
    }
  }

  #lookUp(id: string): Promise<TokenRecord | undefined> {
    return this.#once(id, async () => {
      await this.#turn();
      try {
        return await this.#read(id);
      } finally {
        const next = this.#waiting.shift();
        if (next === undefined) this.#running--;
        else next();
      }
    });
  }

  async #turn(): Promise<void> {
    const { maxLookups, maxWaiting } = this.#options;
    if (this.#running < maxLookups) {
      this.#running++;
      return;
    }
    if (this.#waiting.length >= maxWaiting) {
      throw new LpsError('OVERLOADED', 'too many unknown tokens are being looked up');
    }
    await new Promise<void>((go) => this.#waiting.push(go));
  }

  /** One read at a time for one id. */
  #once(id: string, read: () => Promise<TokenRecord | undefined>): Promise<TokenRecord | undefined> {
    const underWay = this.#lookups.get(id);
    if (underWay !== undefined) return underWay;
    const lookup = read().finally(() => this.#lookups.delete(id));
    this.#lookups.set(id, lookup);
    return lookup;
  }

  async #read(id: string): Promise<TokenRecord | undefined> {
    const seenAt = this.#options.clock();
    const record = await this.#options.find(id);
    if (record === undefined) {
      this.#entries.delete(id);
      this.#unknown.set(id, seenAt, 1);
    } else {
      this.#unknown.delete(id);
      this.#entries.set(id, { record, seenAt }, 1);
    }
    return record;
  }
}

/** A clock that was set back makes nothing young again. */
function isYoung(now: number, since: number | undefined, forMs: number): boolean {
  return since !== undefined && now >= since && now - since < forMs;
}
