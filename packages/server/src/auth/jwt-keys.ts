/**
 * The keys of an issuer: from its JWKS URL, or from a file. They are read again when they are old, and when a token names
 * one that is not there (the issuer has a new one), but never more often than `retryMs`. When they cannot be read, the
 * last known ones go on for a day.
 */
import { LpsError } from '@large-payload/core';
import {
  type CompactJWSHeaderParameters,
  type CryptoKey,
  createLocalJWKSet,
  errors,
  type FlattenedJWSInput,
  type JSONWebKeySet,
} from 'jose';
import type { Logger } from 'pino';
import { within } from './token-waits.js';

export interface KeySource {
  /** For messages: a URL or a path. */
  readonly name: string;
  /** Throws when they cannot be had. `undefined`: the same as last time. */
  load(): Promise<JSONWebKeySet | undefined>;
  /** So long are keys taken without another look. */
  readonly maxAgeMs: number;
  /** The least time between two reads while there are keys. */
  readonly retryMs: number;
}

export type FindKey = (header: CompactJWSHeaderParameters, token: FlattenedJWSInput) => Promise<CryptoKey>;

export interface JwtKeysOptions {
  readonly source: KeySource;
  readonly log: Logger;
  /** Milliseconds since 1970. */
  readonly clock: () => number;
}

/** How long keys are taken that could not be read again. */
const lastsMs = 24 * 3_600_000;
/** While there are no keys at all. */
const firstRetryMs = 1000;
/** Keys that can stand in make nobody wait longer than this. */
const patienceMs = 1000;

export class JwtKeys {
  readonly #options: JwtKeysOptions;
  #keys: { readonly find: FindKey; readAt: number } | undefined;
  #triedAt = Number.NEGATIVE_INFINITY;
  #failure: unknown;
  #reading: Promise<void> | undefined;

  constructor(options: JwtKeysOptions) {
    this.#options = options;
  }

  /** Throws what jose throws for a key that is not there; TRY_AGAIN when that cannot be known now. */
  async find(header: CompactJWSHeaderParameters, token: FlattenedJWSInput): Promise<CryptoKey> {
    const { source } = this.#options;
    if (this.#age() >= lastsMs) await this.#read();
    else if (this.#age() >= source.maxAgeMs) await within(patienceMs, this.#read()).catch(() => undefined);
    const keys = this.#keys;
    if (keys === undefined || this.#age() >= lastsMs) throw this.#unavailable();
    try {
      return await keys.find(header, token);
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
      await this.#read();
      // whoever looked meanwhile has brought other keys
      if (this.#keys !== undefined && this.#keys !== keys) return this.#keys.find(header, token);
      if (this.#failure !== undefined) throw this.#unavailable();
      throw error;
    }
  }

  /** Reads them unless that was tried just now. Never throws: what came of it is in `#keys` and `#failure`. */
  async #read(): Promise<void> {
    const { clock, source } = this.#options;
    const pause = this.#keys === undefined ? Math.min(firstRetryMs, source.retryMs) : source.retryMs;
    const since = clock() - this.#triedAt;
    if (this.#reading === undefined && since >= 0 && since < pause) return;
    this.#reading ??= this.#load().finally(() => {
      this.#reading = undefined;
    });
    await this.#reading;
  }

  async #load(): Promise<void> {
    const { source, log, clock } = this.#options;
    this.#triedAt = clock();
    try {
      const set = await source.load();
      if (set !== undefined) this.#keys = { find: createLocalJWKSet(set), readAt: this.#triedAt };
      else if (this.#keys !== undefined) this.#keys.readAt = this.#triedAt;
      this.#failure = undefined;
    } catch (error) {
      this.#failure = error;
      log.warn({ err: error, keys: source.name }, 'the keys of the issuer cannot be read');
    }
  }

  #age(): number {
    if (this.#keys === undefined) return Number.POSITIVE_INFINITY;
    const age = this.#options.clock() - this.#keys.readAt;
    return age >= 0 ? age : this.#options.source.maxAgeMs; // the clock was set back: have another look
  }

  #unavailable(): LpsError {
    return new LpsError('TRY_AGAIN', 'the keys of the issuer cannot be read now', { cause: this.#failure });
  }
}
