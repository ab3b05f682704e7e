/** A sign-in for tests: an OpenID Connect provider on loopback that signs everybody in at once, as whoever it is told. */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';

export interface Issuer {
  /** `iss` of its tokens. `/.well-known/openid-configuration` is below it. */
  readonly url: string;
  readonly jwksUrl: string;
  /** `sub` of who signs in next. */
  user: string;
  stop(): Promise<void>;
}

/** Access tokens have the given `aud`, id tokens that of the client. */
export async function startIssuer(audience: string): Promise<Issuer> {
  const { publicKey, privateKey } = await generateKeyPair('RS256');
  const key = { ...(await exportJWK(publicKey)), kid: 'test', use: 'sig', alg: 'RS256' };
  const signIns = new Map<string, { readonly nonce: string; readonly clientId: string; readonly user: string }>();
  const sign = (user: string, aud: string, claims: object = {}): Promise<string> =>
    new SignJWT({ ...claims })
      .setProtectedHeader({ alg: 'RS256', kid: 'test' })
      .setIssuer(issuer.url)
      .setSubject(user)
      .setAudience(aud)
      .setIssuedAt()
      .setExpirationTime('1h')
      .sign(privateKey);

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url ?? '/', issuer.url);
    const json = (value: object): void =>
      void response.setHeader('content-type', 'application/json').end(JSON.stringify(value));
    if (pathname === '/.well-known/openid-configuration') return json(configuration(issuer));
    if (pathname === '/jwks') return json({ keys: [key] });
    if (pathname === '/authorize') {
      const code = randomUUID();
      const clientId = searchParams.get('client_id') ?? '';
      signIns.set(code, { nonce: searchParams.get('nonce') ?? '', clientId, user: issuer.user });
      const back = new URL(searchParams.get('redirect_uri') ?? '');
      back.search = `${new URLSearchParams({ code, state: searchParams.get('state') ?? '' })}`;
      return void response.writeHead(302, { location: back.href }).end();
    }
    let body = '';
    for await (const chunk of request.setEncoding('utf8')) body += chunk;
    const signIn = signIns.get(new URLSearchParams(body).get('code') ?? '');
    if (pathname !== '/token' || signIn === undefined) return void response.writeHead(404).end();
    const { user, nonce, clientId } = signIn;
    const name = { name: user, email: `${user}@example.com` };
    const [access, id] = [await sign(user, audience), await sign(user, clientId, { nonce, ...name })];
    json({ access_token: access, id_token: id, token_type: 'Bearer', expires_in: 3600 });
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => response.writeHead(500).end(String(error)));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const issuer: Issuer = {
    url,
    jwksUrl: `${url}/jwks`,
    user: 'nobody',
    stop: async () => {
      server.close();
      server.closeAllConnections();
    },
  };
  return issuer;
}

function configuration({ url, jwksUrl }: Issuer): object {
  return {
    issuer: url,
    authorization_endpoint: `${url}/authorize`,
    token_endpoint: `${url}/token`,
    jwks_uri: jwksUrl,
    response_types_supported: ['code'],
    subject_types_supported: ['public'],
    id_token_signing_alg_values_supported: ['RS256'],
  };
}
