/** For tests: an issuer of tokens, whose keys a real HTTP server hands out, and what can go wrong with it. */
import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type CryptoKey, exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose';

export interface IssuerKey {
  readonly kid: string;
  readonly alg: string;
  readonly privateKey: CryptoKey;
  readonly publicJwk: JWK;
}

export interface Issuer {
  readonly url: string;
  /** What the JWKS holds. */
  keys: JWK[];
  /** Answers instead of the JWKS. */
  answer: RequestListener | undefined;
  /** How often the JWKS was asked for. */
  readonly asked: number;
  stop(): Promise<void>;
  start(): Promise<void>;
}

export async function newKey(kid: string, alg = 'ES256'): Promise<IssuerKey> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  return { kid, alg, privateKey, publicJwk: { ...(await exportJWK(publicKey)), kid, alg, use: 'sig' } };
}

export async function openIssuer(keys: JWK[] = []): Promise<Issuer> {
  let asked = 0;
  let port = 0;
  const server = createServer((request, response) => {
    asked++;
    if (issuer.answer !== undefined) return issuer.answer(request, response);
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ keys: issuer.keys }));
  });
  const issuer: Issuer = {
    keys,
    answer: undefined,
    get url() {
      return `http://127.0.0.1:${port}/jwks.json`;
    },
    get asked() {
      return asked;
    },
    async start() {
      server.listen(port, '127.0.0.1');
      await once(server, 'listening');
      port = (server.address() as AddressInfo).port;
    },
    async stop() {
      if (!server.listening) return;
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
  await issuer.start();
  return issuer;
}

export const rightClaims = { iss: 'https://login.example', aud: 'lps', sub: 'ada' };

/** A token that is right unless `claims` (`undefined` leaves one out) or `header` say otherwise; good for 5 minutes. */
export function sign(key: IssuerKey, nowMs: number, claims: object = {}, header: object = {}): Promise<string> {
  const all = { ...rightClaims, exp: Math.floor(nowMs / 1000) + 300, ...claims };
  const given = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
  const { kid, alg } = key;
  return new SignJWT(given).setProtectedHeader({ alg, kid, ...header }).sign(key.privateKey);
}
