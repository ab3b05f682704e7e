/**
 * Who calls a cache node, and what he may do: upstream is asked with the caller's own token (`GET /v3/access`).
 *
 * - An answer counts for at most `maxAgeMs` from when it was asked for, and never beyond the token's own end. Nothing
 *   stands in for it: whom upstream cannot be asked about is let in no more.
 * - From half of that time on it is asked again, beside the request.
 * - Tokens that upstream refuses have a place of their own, and only a few that are not known are asked about at a time: who
 *   makes tokens up can neither push the others out nor keep upstream busy.
 */
import { createHash } from 'node:crypto';
import { ByteLru, isLpsError, LpsError } from '@large-payload/core';
import { type Authenticator, anonymous, type Grant, type Principal } from '../auth/principal.js';
import { refusal } from '../auth/tokens.js';
import { type Moment, moment } from '../catalog/row-cache.js';
import { accessAnswer } from '../openapi/access.js';
import { strange, type UpstreamApi } from './upstream-api.js';

export interface UpstreamAccessOptions {
  readonly api: Pick<UpstreamApi, 'json'>;
  /** M, in ms. */
  readonly maxAgeMs: number;
  /** Both clocks of this machine; for tests. */
  readonly clock?: () => Moment;
  readonly maxCallers?: number;
  readonly maxRefused?: number;
  readonly maxLookups?: number;
  readonly maxWaiting?: number;
}

interface Known {
  readonly principal: Principal;
  readonly askedAt: Moment;
}

const refusedMs = 5000;

export function upstreamAuthenticator(options: UpstreamAccessOptions): Authenticator {
  return new UpstreamAccess(options);
}

class UpstreamAccess implements Authenticator {
  readonly #options: Required<UpstreamAccessOptions>;
  readonly #known: ByteLru<Known>;
  readonly #refused: ByteLru<Moment>;
  readonly #lookups = new Map<string, Promise<Principal>>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  constructor(options: UpstreamAccessOptions) {
    const limits = { maxCallers: 10_000, maxRefused: 1000, maxLookups: 8, maxWaiting: 256 };
    this.#options = { clock: () => moment(), ...limits, ...options };
    this.#known = new ByteLru(this.#options.maxCallers);
    this.#refused = new ByteLru(this.#options.maxRefused);
  }

  async authenticate(token: string): Promise<Principal> {
    const { clock, maxAgeMs } = this.#options;
    const now = clock();
    const id = createHash('sha256').update(token).digest('base64');
    const known = this.#known.get(id);
    if (known !== undefined && this.#counts(known, now)) {
      if (!isYoung(known.askedAt, now, maxAgeMs / 2)) this.#ask(id, token).catch(() => undefined);
      return known.principal;
    }
    const refusedAt = this.#refused.get(id);
    if (refusedAt !== undefined && isYoung(refusedAt, now, Math.min(refusedMs, maxAgeMs))) throw refusal();
    return known === undefined ? this.#askInTurn(id, token) : this.#ask(id, token);
  }

  #counts({ principal: { expiresAt }, askedAt }: Known, now: Moment): boolean {
    return (
      isYoung(askedAt, now, this.#options.maxAgeMs) && (expiresAt === undefined || now.wallMs < expiresAt.getTime())
    );
  }

  /** One question at a time for one token. */
  #ask(id: string, token: string): Promise<Principal> {
    return this.#once(id, () => this.#read(id, token));
  }

  /** As `#ask`, of a token that is not known: only a few at a time. */
  #askInTurn(id: string, token: string): Promise<Principal> {
    return this.#once(id, async () => {
      await this.#turn();
      try {
        return await this.#read(id, token);
      } finally {
        const next = this.#waiting.shift();
        if (next === undefined) this.#running -= 1;
        else next();
      }
    });
  }

  #once(id: string, read: () => Promise<Principal>): Promise<Principal> {
    const underWay = this.#lookups.get(id);
    if (underWay !== undefined) return underWay;
    const lookup = read().finally(() => this.#lookups.delete(id));
    this.#lookups.set(id, lookup);
    return lookup;
  }

  async #turn(): Promise<void> {
    const { maxLookups, maxWaiting } = this.#options;
    if (this.#running < maxLookups) {
      this.#running += 1;
      return;
    }
    if (this.#waiting.length >= maxWaiting) throw new LpsError('OVERLOADED', 'too many unknown tokens are asked about');
    await new Promise<void>((go) => this.#waiting.push(go));
  }

  async #read(id: string, token: string): Promise<Principal> {
    const askedAt = this.#options.clock();
    try {
      const principal = principalOf(await this.#options.api.json('GET', '/v3/access', { token }));
      this.#refused.delete(id);
      this.#known.set(id, { principal, askedAt }, 1);
      return principal;
    } catch (error) {
      if (!isLpsError(error, 'UNAUTHENTICATED')) throw error;
      this.#known.delete(id);
      this.#refused.set(id, askedAt, 1);
      throw refusal(error);
    }
  }
}

function principalOf(answer: unknown): Principal {
  const parsed = accessAnswer.safeParse(answer);
  if (!parsed.success) throw strange('what a credential allows', parsed.error);
  const { subject, grants, expiresAt } = parsed.data;
  // any token would do there: that must not open a node which was told to ask
  if (subject === anonymous.id) throw refusal(new Error('the upstream service asks nobody who he is'));
  return {
    id: subject,
    grants: grants as readonly Grant[],
    ...(expiresAt === undefined ? {} : { expiresAt: new Date(expiresAt) }),
  };
}

/** By both clocks; one that was set back makes nothing young again. */
function isYoung(since: Moment, now: Moment, forMs: number): boolean {
  const [steady, wall] = [now.steadyMs - since.steadyMs, now.wallMs - since.wallMs];
  return steady >= 0 && wall >= 0 && steady < forMs && wall < forMs;
}
