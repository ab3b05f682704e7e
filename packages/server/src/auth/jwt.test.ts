/** JWTs of an issuer whose keys come over real HTTP, or from a real file. */
import { createHmac, generateKeyPairSync, sign as signBytes } from 'node:crypto';
import { mkdtemp, rename, rm, unlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { exportSPKI, importJWK } from 'jose';
import { pino } from 'pino';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type JwtOptions, type JwtVerifier, openJwt } from './jwt.js';
import { type Issuer, type IssuerKey, newKey, openIssuer, rightClaims, sign } from './jwt-issuer-fixture.js';
import { temporalPermissions } from './policy.js';

const refused = { code: 'UNAUTHENTICATED', message: 'the token is not valid' };
const unavailable = { code: 'TRY_AGAIN' };
const [second, minute, hour] = [1000, 60_000, 3_600_000];

let one: IssuerKey;
let two: IssuerKey;
let now: number;
let lines: string[];
let issuer: Issuer;

beforeAll(async () => {
  [one, two] = await Promise.all([newKey('one'), newKey('two')]);
});
beforeEach(async () => {
  now = Date.UTC(2026, 10, 23);
  lines = [];
  issuer = await openIssuer([one.publicJwk]);
});
afterEach(() => issuer.stop());

const open = (options: Partial<JwtOptions> = {}): Promise<JwtVerifier> =>
  openJwt({
    issuer: rightClaims.iss,
    audiences: ['other', 'lps'],
    jwks: issuer.url,
    algorithms: ['RS256', 'PS256', 'ES256', 'EdDSA'],
    clockSkewMs: minute,
    policy: temporalPermissions,
    log: pino({ level: 'trace' }, { write: (line) => lines.push(line) }),
    clock: () => now,
    ...options,
  });
const signed = (claims: object = {}, header: object = {}, key = one): Promise<string> => sign(key, now, claims, header);
const text = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
const inSeconds = (inMs: number): number => Math.floor((now + inMs) / 1000);

describe('a token', () => {
  it('stands for its subject, with what the policy gives', async () => {
    const jwt = await open();
    expect(await jwt.verify(await signed({ permissions: ['orders:read'] }))).toEqual({
      id: 'jwt:https://login.example|ada',
      grants: [{ namespaces: ['orders'], rights: ['read', 'decode'] }],
      expiresAt: expect.any(Date),
    });
    expect((await jwt.verify(await signed())).grants).toEqual([]);
    expect(issuer.asked).toBe(1);
  });

  it.each(['RS256', 'PS256', 'EdDSA'])('may be signed with %s', async (alg) => {
    const key = await newKey('k', alg);
    issuer.keys = [one.publicJwk, key.publicJwk];
    const jwt = await open();
    await jwt.verify(await signed({}, {}, key));
    const narrow = await open({ algorithms: ['ES256'] });
    await expect(narrow.verify(await signed({}, {}, key))).rejects.toMatchObject(refused);
  });

  it.each([
    ['another audience', { aud: 'someone-else' }],
    ['audiences of others', { aud: ['a', 'b'] }],
    ['no audience', { aud: undefined }],
    ['an audience that is no text', { aud: { lps: true } }],
    ['another issuer', { iss: 'https://evil.example' }],
    ['the issuer with a slash', { iss: 'https://login.example/' }],
    ['no issuer', { iss: undefined }],
    ['no expiry', { exp: undefined }],
    ['an expiry that is a text', { exp: '4102444800' }],
    ['no subject', { sub: undefined }],
    ['an empty subject', { sub: '' }],
    ['a subject that is no text', { sub: 5 }],
  ])('is refused with %s', async (_what, claims) => {
    const jwt = await open();
    await expect(jwt.verify(await signed(claims))).rejects.toMatchObject(refused);
    expect(lines.join()).toContain('a JWT was refused');
  });

  it('is good until its end and from its beginning, by a clock that may be off by a minute', async () => {
    const jwt = await open();
    const [ended, begins] = await Promise.all([
      signed({ exp: inSeconds(0) }),
      signed({ nbf: inSeconds(minute + second) }),
    ]);
    await jwt.verify(ended);
    await expect(jwt.verify(begins)).rejects.toMatchObject(refused);
    now += second;
    await jwt.verify(begins);
    now += minute - 2 * second;
    await jwt.verify(ended);
    now += second;
    await expect(jwt.verify(ended)).rejects.toMatchObject(refused);
    const strict = await open({ clockSkewMs: 0 });
    await expect(strict.verify(await signed({ exp: inSeconds(0) }))).rejects.toMatchObject(refused);
  });

  it('is refused without a signature of the issuer', async () => {
    const jwt = await open();
    const [header, payload, signature] = (await signed()).split('.');
    const stranger = { ...(await newKey('one')) };
    const claims = { ...rightClaims, exp: inSeconds(hour) };
    const none = `${text({ alg: 'none' })}.${text(claims)}.`;
    for (const token of [
      await signed({}, {}, stranger),
      `${header}.${text({ ...claims, permissions: ['temporal-system:admin'] })}.${signature}`,
      `${header}.${payload}.`,
      `${header}.${payload}`,
      `${header}.${payload}.${signature?.slice(0, -4)}AAAA`,
      none,
      none.slice(0, -1),
      none.replace(text({ alg: 'none' }), text({ alg: 'None', kid: 'one' })),
      await signed({}, { kid: 'two' }),
      `${text({ alg: 'ES256', kid: 'stranger', jwk: stranger.publicJwk })}.${payload}.${signature}`,
      await signed({}, { crit: ['exp'], exp: 1 }).catch(() => 'not to be made'),
    ]) {
      await expect(jwt.verify(token)).rejects.toMatchObject(refused);
    }
  });

  it('cannot bring a key of its own', async () => {
    const jwt = await open();
    const stranger = await newKey('one');
    const own = { jwk: stranger.publicJwk, jku: 'http://127.0.0.1:1/jwks.json', x5u: 'http://127.0.0.1:1/' };
    await expect(jwt.verify(await sign(stranger, now, {}, own))).rejects.toMatchObject(refused);
  });

  it('is refused when the public key was taken for a shared secret', async () => {
    const rsa = await newKey('rsa', 'RS256');
    issuer.keys = [rsa.publicJwk];
    const pem = await exportSPKI((await importJWK(rsa.publicJwk, 'RS256')) as never);
    for (const secret of [pem, pem.trim(), JSON.stringify(rsa.publicJwk)]) {
      const input = `${text({ alg: 'HS256', kid: 'rsa' })}.${text({ ...rightClaims, exp: inSeconds(hour) })}`;
      const mac = createHmac('sha256', secret).update(input).digest('base64url');
      await expect((await open()).verify(`${input}.${mac}`)).rejects.toMatchObject(refused);
    }
  });

  it('is refused with an RSA key that is too short', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 1024 });
    issuer.keys = [{ ...publicKey.export({ format: 'jwk' }), kid: 'short', alg: 'RS256' } as never];
    const input = `${text({ alg: 'RS256', kid: 'short' })}.${text({ ...rightClaims, exp: inSeconds(hour) })}`;
    const signature = signBytes('sha256', Buffer.from(input), privateKey).toString('base64url');
    await expect((await open()).verify(`${input}.${signature}`)).rejects.toMatchObject(refused);
  });

  it('that is huge is refused unread', async () => {
    const jwt = await open();
    const token = await signed({ permissions: Array.from({ length: 2000 }, (_, n) => `n${n}:read`) });
    expect(token.length).toBeGreaterThan(16 * 1024);
    await expect(jwt.verify(token)).rejects.toMatchObject(refused);
    expect(issuer.asked).toBe(0);
  });

  it('may name no key: those of its kind are tried', async () => {
    const bare = ({ publicJwk: { kid: _, ...jwk } }: IssuerKey) => jwk;
    issuer.keys = [bare(two), bare(one)];
    const jwt = await open();
    await jwt.verify(await signed({}, { kid: undefined }));
    const stranger = await newKey('x');
    await expect(jwt.verify(await signed({}, { kid: undefined }, stranger))).rejects.toMatchObject(refused);
    await expect(jwt.verify(await signed({ aud: 'x' }, { kid: undefined }))).rejects.toMatchObject(refused);
  });

  it('has a subject that stays on its line, and two long ones stay two', async () => {
    const jwt = await open();
    const idOf = async (sub: string) => (await jwt.verify(await signed({ sub }))).id;
    expect(await idOf('a\n\u001b[31mb\u202e')).toBe('jwt:https://login.example|a\\u{a}\\u{1b}[31mb\\u{202e}');
    const [left, right] = [await idOf(`${'x'.repeat(1000)}1`), await idOf(`${'x'.repeat(1000)}2`)];
    expect(left).not.toBe(right);
    expect(left.length).toBeLessThan(350);
  });

  it('of any text, or with any header and claims, is refused without harm', async () => {
    const jwt = await open();
    const before = Object.getOwnPropertyNames(Object.prototype).length;
    const part = fc.oneof(
      fc.string(),
      fc.json().map((json) => Buffer.from(json).toString('base64url')),
    );
    const header = fc
      .record({
        alg: fc.constantFrom('ES256', 'none', 'HS256', '__proto__', 'constructor'),
        kid: fc.constantFrom('one', '__proto__'),
      })
      .map(text);
    const token = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.tuple(fc.oneof(header, part), part, part).map((parts) => parts.join('.')),
    );
    const check = async (given: string): Promise<void> => {
      await expect(jwt.verify(given)).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
    };
    await fc.assert(fc.asyncProperty(token, check), { numRuns: 1000 });
    const claims = JSON.parse('{"__proto__": {"admin": true}, "permissions": [{"__proto__": {"x": 1}}]}');
    expect((await jwt.verify(await signed(claims))).grants).toEqual([]);
    expect(Object.getOwnPropertyNames(Object.prototype)).toHaveLength(before);
  });
});

describe('keys over HTTP', () => {
  it('are read again for a new key, at most every 30 s', async () => {
    const jwt = await open();
    await jwt.verify(await signed());
    issuer.keys = [one.publicJwk, two.publicJwk];
    const fresh = await signed({}, {}, two);
    await expect(jwt.verify(fresh)).rejects.toMatchObject(refused);
    now += 30 * second;
    await Promise.all([jwt.verify(fresh), jwt.verify(fresh), jwt.verify(fresh)]);
    expect(issuer.asked).toBe(2);
    for (let n = 0; n < 20; n++)
      await expect(jwt.verify(await signed({}, { kid: `x${n}` }))).rejects.toMatchObject(refused);
    expect(issuer.asked).toBe(2);
  });

  it('that the issuer took back are refused after 10 minutes', async () => {
    const jwt = await open();
    await jwt.verify(await signed());
    issuer.keys = [two.publicJwk];
    now += 10 * minute - 1;
    await jwt.verify(await signed());
    now += 1;
    await expect(jwt.verify(await signed())).rejects.toMatchObject(refused);
  });

  it('go on for a day while the issuer is down, then nobody knows; it comes back', async () => {
    const jwt = await open();
    await jwt.verify(await signed());
    await issuer.stop();
    now += 24 * hour - 1;
    await jwt.verify(await signed());
    await expect(jwt.verify(await signed({}, {}, two))).rejects.toMatchObject(unavailable); // perhaps a new key
    await expect(jwt.verify(await signed({ aud: 'x' }))).rejects.toMatchObject(refused);
    now += 1;
    await expect(jwt.verify(await signed())).rejects.toMatchObject(unavailable);
    await issuer.start();
    now += 30 * second;
    await jwt.verify(await signed());
  });

  it('that were never had make it "try again"; the issuer is not asked by each request', async () => {
    issuer.answer = (_request, response) => response.writeHead(503).end();
    const jwt = await open();
    for (let n = 0; n < 20; n++) await expect(jwt.verify(await signed())).rejects.toMatchObject(unavailable);
    expect(issuer.asked).toBe(1);
    issuer.answer = undefined;
    now += second;
    await jwt.verify(await signed());
  });

  it('make nobody wait for an issuer that hangs', async () => {
    const jwt = await open();
    await jwt.verify(await signed());
    const hanging = new Promise<void>((asked) => {
      issuer.answer = () => asked();
    });
    now += 10 * minute;
    await jwt.verify(await signed());
    await hanging;
    expect(lines).toEqual([]); // the reading of the keys has not even failed yet
  });

  it.each([
    ['a redirect', (url: string) => [302, '', { location: url }]],
    ['an endless answer', () => [200, `{"keys":[],"x":"${'x'.repeat(300_000)}"}`, {}]],
    ['no JSON', () => [200, '<html>', {}]],
    ['no keys', () => [200, '{"keys":{}}', {}]],
    ['an error', () => [500, '{"keys":[]}', {}]],
  ] as const)('are not taken from %s', async (_what, answerWith) => {
    const other = await openIssuer([one.publicJwk]);
    try {
      const [status, body, headers] = answerWith(other.url);
      issuer.answer = (_request, response) => response.writeHead(status as number, headers as never).end(body);
      const jwt = await open();
      await expect(jwt.verify(await signed())).rejects.toMatchObject(unavailable);
      expect(other.asked).toBe(0);
      expect(lines.join()).toContain('the keys of the issuer cannot be read');
    } finally {
      await other.stop();
    }
  });

  it('may hold one that is broken, private or secret: its tokens are refused, and those of others are not', async () => {
    const secret = { kty: 'oct', k: text('secret'), kid: 'secret', alg: 'HS256' };
    const { d } = await import('jose').then(({ exportJWK }) => exportJWK(two.privateKey));
    issuer.keys = [
      { ...one.publicJwk, x: 'AAAA', kid: 'broken' },
      { ...two.publicJwk, d: d ?? '' },
      secret,
      one.publicJwk,
    ];
    const jwt = await open();
    await jwt.verify(await signed());
    await expect(jwt.verify(await signed({}, { kid: 'broken' }))).rejects.toMatchObject(refused);
    await expect(jwt.verify(await signed({}, {}, two))).rejects.toMatchObject(refused);
  });
});

describe('keys in a file', () => {
  let dir: string;
  let path: string;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'lps-jwks-'));
    path = join(dir, 'jwks.json');
    await writeFile(path, JSON.stringify({ keys: [one.publicJwk] }));
  });
  afterEach(() => rm(dir, { recursive: true }));

  /** Another file in its place, at another time. */
  async function replace(content: string): Promise<void> {
    await writeFile(`${path}.new`, content);
    await utimes(`${path}.new`, new Date(now), new Date(now));
    await rename(`${path}.new`, path);
  }

  it('are read again within 10 s of a change', async () => {
    const jwt = await open({ jwks: path });
    await jwt.verify(await signed());
    await replace(JSON.stringify({ keys: [two.publicJwk] }));
    await jwt.verify(await signed());
    now += 10 * second;
    await expect(jwt.verify(await signed())).rejects.toMatchObject(refused);
    await jwt.verify(await signed({}, {}, two));
    expect(issuer.asked).toBe(0);
  });

  it('go on when the file is gone or broken', async () => {
    const jwt = await open({ jwks: path });
    await jwt.verify(await signed());
    await replace('{');
    now += 10 * second;
    await jwt.verify(await signed());
    await unlink(path);
    now += 10 * second;
    await jwt.verify(await signed());
    await replace(JSON.stringify({ keys: [two.publicJwk] }));
    now += 10 * second;
    await jwt.verify(await signed({}, {}, two));
  });

  it.each(['{', '{}', '{"keys":[]}', '[]', 'x'.repeat(300_000)])(
    'must be right at the start: file %#',
    async (content) => {
      await writeFile(path, content);
      await expect(open({ jwks: path })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    },
  );

  it('must be there at the start', async () => {
    const error = await open({ jwks: join(dir, 'none') }).catch((caught: unknown) => caught);
    expect(error).toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/auth-jwks: .*none .*ENOENT/),
    });
  });
});

describe('settings', () => {
  it.each([
    [{ algorithms: ['none'] }, /auth-algorithm: none is not taken/],
    [{ algorithms: ['RS256', 'HS256'] }, /auth-algorithm: HS256 is not taken/],
    [{ algorithms: ['rs256'] }, /auth-algorithm: rs256 is not taken/],
    [{ algorithms: [] }, /auth-algorithm: at least one/],
    [{ audiences: [] }, /auth-audience: /],
    [{ audiences: [''] }, /auth-audience: /],
    [{ issuer: '' }, /auth-issuer: /],
    [{ jwks: '' }, /auth-jwks: /],
    [{ clockSkewMs: hour }, /auth-clock-skew: /],
    [{ clockSkewMs: Number.NaN }, /auth-clock-skew: /],
  ])('%j is refused', async (options, message) => {
    await expect(open(options)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(message),
    });
  });

  it('warn of keys that come over plain HTTP from elsewhere', async () => {
    await open();
    expect(lines).toEqual([]);
    await open({ jwks: 'http://login.example/jwks.json' });
    expect(lines.join()).toContain('plain HTTP');
  });
});
