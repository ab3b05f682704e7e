/** Finds out who a bearer token stands for: `lps_…` is a static one, everything else must be a JWT. */
import type { Logger } from 'pino';
import { configInvalid } from '../config/load.js';
import { type JwtVerifier, openJwt } from './jwt.js';
import type { OpenAccess } from './open-access.js';
import { readPolicy, temporalPermissions } from './policy.js';
import type { Authenticator } from './principal.js';
import { tokenPrefix } from './token-text.js';
import { refusal } from './tokens.js';

/** A part of the service's configuration. */
export interface AuthenticatorSettings {
  readonly authIssuer: string | undefined;
  readonly authAudiences: readonly string[];
  readonly authJwks: string | undefined;
  readonly authAlgorithms: readonly string[];
  readonly authClockSkewMs: number;
  readonly authPolicy: string | undefined;
}

export interface AuthenticatorOptions {
  /** Milliseconds since 1970. */
  readonly clock?: () => number;
}

/** Throws CONFIG_INVALID when settings, policy or a file of keys cannot work. An issuer that is down does not matter. */
export async function openAuthenticator(
  settings: AuthenticatorSettings,
  access: Pick<OpenAccess, 'tokens'>,
  log: Logger,
  options: AuthenticatorOptions = {},
): Promise<Authenticator> {
  const jwt = await jwtOf(settings, log, options);
  return {
    async authenticate(token) {
      if (token.startsWith(tokenPrefix)) return access.tokens.verify(token);
      if (jwt === undefined) throw refusal();
      return jwt.verify(token);
    },
  };
}

/** `undefined` when no setting asks for JWTs. */
async function jwtOf(
  settings: AuthenticatorSettings,
  log: Logger,
  options: AuthenticatorOptions,
): Promise<JwtVerifier | undefined> {
  const { authIssuer, authAudiences, authJwks, authAlgorithms, authClockSkewMs, authPolicy } = settings;
  if (authIssuer === undefined && authJwks === undefined) {
    const lost = [
      ...(authPolicy === undefined ? [] : ['auth-policy']),
      ...(authAudiences.length === 0 ? [] : ['auth-audience']),
    ];
    if (lost.length === 0) return undefined;
    throw configInvalid(lost.map((name) => `${name} is about JWTs, which need auth-issuer and auth-jwks`));
  }
  const policy = authPolicy === undefined ? temporalPermissions : await readPolicy(authPolicy);
  return openJwt({
    issuer: authIssuer ?? '',
    audiences: authAudiences,
    jwks: authJwks ?? '',
    algorithms: authAlgorithms,
    clockSkewMs: authClockSkewMs,
    policy,
    log,
    ...options,
  });
}
