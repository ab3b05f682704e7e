/**
 * JSON Web Tokens of one issuer.
 *
 * What is asked of one: a signature by a key of the issuer with an algorithm of the list, the issuer, one of the
 * audiences, a time of expiry that has not come, a subject. What it may do is up to the policy.
 */
import { createHash } from 'node:crypto';
import { isLpsError } from '@large-payload/core';
import { type CryptoKey, errors, type JWTPayload, type JWTVerifyGetKey, type JWTVerifyOptions, jwtVerify } from 'jose';
import type { Logger } from 'pino';
import { escapeControls } from '../cli/terminal.js';
import { isLoopback } from '../config/checks.js';
import { configInvalid } from '../config/load.js';
import { maxTokenLength } from './credentials.js';
import { JwtKeys, type KeySource } from './jwt-keys.js';
import { fileKeys, remoteKeys } from './jwt-sources.js';
import type { Claims, Policy } from './policy.js';
import type { Principal } from './principal.js';
import { refusal } from './tokens.js';

export interface JwtOptions {
  /** The `iss` that every token must have. */
  readonly issuer: string;
  /** One of them must be in `aud`. */
  readonly audiences: readonly string[];
  /** A URL, or the path of a file. */
  readonly jwks: string;
  /** Asymmetric ones only. */
  readonly algorithms: readonly string[];
  readonly clockSkewMs: number;
  readonly policy: Policy;
  readonly log: Logger;
  /** Milliseconds since 1970. */
  readonly clock?: () => number;
}

export interface JwtVerifier {
  /** Throws UNAUTHENTICATED, with the reason in the log only; TRY_AGAIN while the issuer's keys cannot be had. */
  verify(text: string): Promise<Principal>;
}

/** No `none`, and no shared secrets (HS…): who can check such a token can make one. */
const knownAlgorithms = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA'];
/** Keys without an id that may be tried for a token without one. */
const maxKeysTried = 10;
const maxSubject = 300;

/** Throws CONFIG_INVALID; a file of keys must be readable now, a URL need not answer yet. */
export async function openJwt(options: JwtOptions): Promise<JwtVerifier> {
  const problems = problemsOf(options);
  if (problems.length > 0) throw configInvalid(problems);
  const { log, clock = Date.now } = options;
  const source = sourceOf(options);
  const keys = new JwtKeys({ source, log, clock });
  if (!isUrl(options.jwks)) await checkFile(options.jwks);
  else warnOfPlainHttp(options.jwks, log);
  return {
    async verify(text) {
      try {
        if (text.length > maxTokenLength) throw new errors.JWTInvalid('too long');
        return principalOf(await verified(text, keys, options, clock), options);
      } catch (error) {
        if (isLpsError(error)) throw error;
        // anything else than jose's own errors: most likely a key of the issuer that is none
        if (error instanceof errors.JOSEError)
          log.info({ reason: error.message, code: error.code }, 'a JWT was refused');
        else log.warn({ err: error }, 'a JWT could not be checked, and was refused');
        throw refusal(error);
      }
    },
  };
}

function problemsOf({ issuer, audiences, jwks, algorithms, clockSkewMs }: JwtOptions): string[] {
  const odd = algorithms.filter((name) => !knownAlgorithms.includes(name));
  return [
    ...(issuer === '' ? ['auth-issuer: JWTs need the issuer that they must come from'] : []),
    ...(audiences.length === 0 || audiences.includes('')
      ? ['auth-audience: JWTs need the audience that they must be for, or any token of the issuer would do']
      : []),
    ...(jwks === '' ? ["auth-jwks: JWTs need the issuer's keys"] : []),
    ...(algorithms.length === 0 ? ['auth-algorithm: at least one is needed'] : []),
    ...odd.map((name) => `auth-algorithm: ${name} is not taken; one of ${knownAlgorithms.join(', ')}`),
    ...(clockSkewMs >= 0 && clockSkewMs <= 600_000 ? [] : ['auth-clock-skew: at most 10m']),
  ];
}

function isUrl(jwks: string): boolean {
  return /^https?:\/\//i.test(jwks);
}

function sourceOf({ jwks }: JwtOptions): KeySource {
  return isUrl(jwks) ? remoteKeys(jwks) : fileKeys(jwks);
}

async function checkFile(path: string): Promise<void> {
  try {
    const set = await fileKeys(path).load();
    if (!Array.isArray(set?.keys) || set.keys.length === 0) throw new Error('it has no list of "keys"');
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw configInvalid([`auth-jwks: ${path} is no file of keys (JWKS): ${reason}`]);
  }
}

function warnOfPlainHttp(url: string, log: Logger): void {
  const { protocol, hostname } = new URL(url);
  if (protocol === 'https:' || isLoopback(hostname.replace(/^\[|\]$/g, ''))) return;
  log.warn(
    { url },
    'the keys of the issuer come over plain HTTP: who is on the way can put keys of his own in their place',
  );
}

async function verified(text: string, keys: JwtKeys, options: JwtOptions, clock: () => number): Promise<JWTPayload> {
  const checks: JWTVerifyOptions = {
    algorithms: [...options.algorithms],
    issuer: options.issuer,
    audience: [...options.audiences],
    clockTolerance: options.clockSkewMs / 1000,
    currentDate: new Date(clock()),
    requiredClaims: ['exp', 'sub'],
  };
  const find: JWTVerifyGetKey<CryptoKey> = (header, token) => keys.find(header, token);
  try {
    return (await jwtVerify(text, find, checks)).payload;
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
    return verifiedByAny(text, error, checks);
  }
}

/** A token that names no key, and an issuer that has several of its kind. */
async function verifiedByAny(
  text: string,
  candidates: errors.JWKSMultipleMatchingKeys,
  checks: JWTVerifyOptions,
): Promise<JWTPayload> {
  let tried = 0;
  for await (const key of candidates) {
    if (++tried > maxKeysTried) break;
    try {
      return (await jwtVerify(text, key, checks)).payload;
    } catch (error) {
      if (!(error instanceof errors.JWSSignatureVerificationFailed)) throw error;
    }
  }
  throw new errors.JWSSignatureVerificationFailed();
}

function principalOf(payload: JWTPayload, { issuer, policy }: JwtOptions): Principal {
  const { sub, exp } = payload;
  if (typeof sub !== 'string' || sub === '') throw new errors.JWTInvalid('"sub" must be a text');
  return {
    id: `jwt:${printable(issuer)}|${printable(sub)}`,
    grants: policy.grantsOf(payload as Claims),
    ...(exp === undefined ? {} : { expiresAt: new Date(exp * 1000) }),
  };
}

/** One line; a long one is cut, and ends with a digest of the whole, so that two of them stay two. */
function printable(text: string): string {
  const line = escapeControls(text);
  if (line.length <= maxSubject) return line;
  const digest = createHash('sha256').update(text).digest('hex').slice(0, 16);
  return `${line.slice(0, maxSubject - 17).replace(/\p{Cs}$/u, '')}~${digest}`;
}
