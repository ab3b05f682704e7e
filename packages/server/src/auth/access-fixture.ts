/** For tests: a whole service that asks who calls, and every kind of credential. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CryptoKey, exportJWK, generateKeyPair, type JWTPayload, SignJWT, UnsecuredJWT } from 'jose';
import { pino } from 'pino';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { loadConfig } from '../config/load.js';
import { type Service, startService } from '../service.js';
import { type OpenAccess, openAccess } from './open-access.js';
import type { Right } from './principal.js';

export const issuer = 'https://issuer.test';
export const audience = 'lps';

/** Signs tokens as an issuer does, and as somebody does who would like to be one. */
export interface Issuer {
  /** Rights on one namespace, in the form of Temporal's own tokens or by the policy of the fixture. */
  token(
    claims?: JWTPayload & { readonly grants?: Readonly<Record<string, readonly Right[]>> },
    options?: TokenOptions,
  ): Promise<string>;
  /** Of algorithm "none". */
  unsigned(): string;
  /** HS256, signed with what everybody knows: the public key. */
  symmetric(): Promise<string>;
  /** Signed by somebody else. */
  foreign(): Promise<string>;
  readonly jwks: string;
}

interface TokenOptions {
  readonly expired?: true;
}

const common = { iss: issuer, aud: audience, sub: 'somebody' };
/** What would open everything, were it signed. */
export const root = { role: 'root' };

export async function openIssuer(): Promise<Issuer> {
  const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true });
  const other = await generateKeyPair('ES256', { extractable: true });
  const jwk = await exportJWK(publicKey);
  const sign = (payload: JWTPayload, key: CryptoKey | Uint8Array, alg: string, expired = false): Promise<string> => {
    const nowSeconds = Math.floor(Date.now() / 1000);
    return new SignJWT({ ...common, ...payload })
      .setProtectedHeader({ alg, kid: 'k1' })
      .setIssuedAt(nowSeconds - 7200)
      .setExpirationTime(expired ? nowSeconds - 3600 : nowSeconds + 3600)
      .sign(key);
  };
  return {
    jwks: JSON.stringify({ keys: [{ ...jwk, kid: 'k1', alg: 'ES256', use: 'sig' }] }),
    token: ({ grants = {}, ...claims } = {}, options = {}) =>
      sign({ ...claimsOf(grants), ...claims }, privateKey, 'ES256', options.expired),
    unsigned: () => new UnsecuredJWT({ ...common, ...root }).setExpirationTime('1h').encode(),
    symmetric: () => sign(root, Buffer.from(JSON.stringify(jwk)), 'HS256'),
    foreign: () => sign(root, other.privateKey, 'ES256'),
  };
}

/** What the fixture's policy reads: `namespaces_read: [orders]`. */
function claimsOf(grants: Readonly<Record<string, readonly Right[]>>): Record<string, string[]> {
  const claims: Record<string, string[]> = {};
  for (const [namespace, rights] of Object.entries(grants)) {
    for (const right of rights) claims[`namespaces_${right}`] = [...(claims[`namespaces_${right}`] ?? []), namespace];
  }
  return claims;
}

const policy = `rules:
  - { namespaces-from: namespaces_read, rights: [read] }
  - { namespaces-from: namespaces_write, rights: [write] }
  - { namespaces-from: namespaces_decode, rights: [decode] }
  - { namespaces-from: namespaces_admin, rights: [admin] }
  - { when: { role: root }, namespaces: ['*'], rights: [read, write, decode, admin] }
`;

export interface AccessSite {
  readonly service: Service;
  readonly port: number;
  readonly access: OpenAccess;
  readonly issuer: Issuer;
  readonly postgres: EmbeddedPostgres;
  readonly schema: string;
  readonly dir: string;
  /** A static token. */
  token(grants: Readonly<Record<string, readonly Right[]>>, expiresAt?: Date): Promise<string>;
  close(): Promise<void>;
}

/** `lps serve` in this process, with authentication; `env` on top. */
export async function openAccessSite(env: Readonly<Record<string, string>> = {}): Promise<AccessSite> {
  const dir = await mkdtemp(join(tmpdir(), 'lps-access-'));
  const schema = `t_${randomBytes(6).toString('hex')}`;
  const issuing = await openIssuer();
  await writeFile(join(dir, 'jwks.json'), issuing.jwks);
  await writeFile(join(dir, 'policy.yaml'), policy);
  const postgres = await startEmbeddedPostgres({ throwAway: true, maxConnections: 60 });
  postgres.exited.catch(() => undefined);
  const { config } = loadConfig({
    cwd: dir,
    env: {
      LPS_PORT: '0',
      LPS_DATA_DIR: 'data',
      LPS_DATABASE_URL: postgres.url,
      LPS_DATABASE_SCHEMA: schema,
      LPS_AUTH: 'required',
      LPS_AUTH_ISSUER: issuer,
      LPS_AUTH_AUDIENCE: audience,
      LPS_AUTH_JWKS: 'jwks.json',
      LPS_AUTH_POLICY: 'policy.yaml',
      ...env,
    },
  });
  const service = await startService(config, pino({ level: 'silent' }));
  const access = await openAccess({ url: postgres.url, schema });
  return {
    ...{ service, access, issuer: issuing, postgres, schema, dir, port: Number(new URL(service.url).port) },
    async token(grants, expiresAt) {
      const list = Object.entries(grants).map(([namespace, rights]) => ({ namespaces: [namespace], rights }));
      const { text } = await access.tokens.create({ name: 'test', grants: list, ...(expiresAt ? { expiresAt } : {}) });
      return text;
    },
    async close() {
      await access.close();
      await service.close();
      await postgres.stop();
      await rm(dir, { recursive: true, force: true });
    },
  };
}
