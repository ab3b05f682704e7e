import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LpsError } from '@large-payload/core';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type AuthenticatorSettings, openAuthenticator } from './authenticator.js';
import { newKey, openIssuer, rightClaims, sign } from './jwt-issuer-fixture.js';
import { newToken } from './token-text.js';
import { refusal } from './tokens.js';

const log = pino({ level: 'silent' });
const none: AuthenticatorSettings = {
  authIssuer: undefined,
  authAudiences: [],
  authJwks: undefined,
  authAlgorithms: ['ES256'],
  authClockSkewMs: 0,
  authPolicy: undefined,
};
const refused = { code: 'UNAUTHENTICATED', message: 'the token is not valid' };
/** Knows one token. */
const known = newToken().text;
const asked: string[] = [];
const access = {
  tokens: {
    async verify(text: string) {
      asked.push(text);
      if (text === known) return { id: 'token:x', grants: [] };
      throw refusal();
    },
  } as never,
};

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lps-authenticator-'));
});
afterAll(() => rm(dir, { recursive: true }));

it('gives each kind of token to who can tell, and to nobody else', async () => {
  const key = await newKey('k');
  const issuer = await openIssuer([key.publicJwk]);
  const policy = join(dir, 'policy.yaml');
  await writeFile(policy, 'rules: [{ namespaces: [orders], rights: [read] }]');
  try {
    const jwt = { authIssuer: rightClaims.iss, authAudiences: ['lps'], authJwks: issuer.url };
    const plain = await openAuthenticator({ ...none, ...jwt }, access, log);
    const ruled = await openAuthenticator({ ...none, ...jwt, authPolicy: policy }, access, log);
    const token = await sign(key, Date.now(), { permissions: ['billing:read'] });
    expect((await plain.authenticate(token)).grants).toEqual([{ namespaces: ['billing'], rights: ['read', 'decode'] }]);
    expect((await ruled.authenticate(token)).grants).toEqual([{ namespaces: ['orders'], rights: ['read'] }]);
    expect(asked).toEqual([]);
    expect(await plain.authenticate(known)).toMatchObject({ id: 'token:x' });
    await expect(plain.authenticate('lps_x.y.z')).rejects.toMatchObject(refused);
    expect(asked).toEqual([known, 'lps_x.y.z']);
  } finally {
    await issuer.stop();
  }
});

it('takes no JWT where no setting says how', async () => {
  const authenticator = await openAuthenticator(none, access, log);
  for (const text of ['', 'x', await sign(await newKey('k'), Date.now())]) {
    await expect(authenticator.authenticate(text)).rejects.toMatchObject(refused);
  }
  expect(await authenticator.authenticate(known)).toMatchObject({ id: 'token:x' });
});

it.each([
  [{ authIssuer: 'https://i' }, /auth-audience.*auth-jwks/],
  [{ authIssuer: 'https://i', authAudiences: ['lps'] }, /^auth-jwks/],
  [{ authJwks: 'https://i/jwks', authAudiences: ['lps'] }, /^auth-issuer/],
  [{ authIssuer: 'https://i', authJwks: 'https://i/jwks' }, /^auth-audience/],
  [{ authPolicy: 'policy.yaml' }, /^auth-policy is about JWTs/],
  [{ authAudiences: ['lps'] }, /^auth-audience is about JWTs/],
  [
    { authIssuer: 'https://i', authJwks: 'https://i/jwks', authAudiences: ['lps'], authPolicy: '/none' },
    /^auth-policy: \/none cannot be read/,
  ],
])('half of the settings are refused: %j', async (settings, message) => {
  const opened = openAuthenticator({ ...none, ...settings }, access, log);
  const error = await opened.catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(LpsError);
  expect(error).toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringMatching(message) });
});
