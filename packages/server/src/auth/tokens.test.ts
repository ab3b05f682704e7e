/** Static tokens on a real Postgres, and without it. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { type OpenAccess, openAccess } from './open-access.js';
import type { Grant } from './principal.js';
import { newToken, parseToken } from './token-text.js';

const grants: Grant[] = [{ namespaces: ['orders', 'billing-*'], rights: ['read', 'write'] }];
const refused = { code: 'UNAUTHENTICATED', message: 'the token is not valid' };
const dayMs = 86_400_000;

let dataDir: string;
let postgres: EmbeddedPostgres;
let sql: pg.Pool;
let schema: string;
let now: number;
let lines: string[];
let access: OpenAccess;

const open = (): Promise<OpenAccess> =>
  openAccess({
    url: postgres.url,
    schema,
    log: pino({ level: 'trace' }, { write: (line) => lines.push(line) }),
    clock: () => now,
  });
const make = async (expiresAt?: Date) =>
  access.tokens.create({ name: 'a worker', grants, ...(expiresAt === undefined ? {} : { expiresAt }) });
/** What the log says about refusals. */
const reasons = (): string[] => lines.map((line) => JSON.parse(line)).flatMap(({ reason }) => reason ?? []);

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'lps-tokens-'));
  postgres = await startEmbeddedPostgres({ dataDir });
  sql = new pg.Pool({ connectionString: postgres.url, max: 2 });
  sql.on('error', () => undefined);
});
afterAll(async () => {
  await sql?.end();
  await postgres?.stop();
  await rm(dataDir, { recursive: true, force: true });
});
beforeEach(async () => {
  schema = `t_${randomBytes(6).toString('hex')}`;
  now = Date.now();
  lines = [];
  access = await open();
});
afterEach(() => access.close());

/** How many reads of the table a piece of work makes. */
async function readsDuring(work: () => Promise<unknown>): Promise<number> {
  const scans = async (): Promise<number> => {
    // statistics reach the view when a connection is idle or ends
    await sql.query('SELECT pg_stat_force_next_flush()');
    const { rows } = await sql.query(
      `SELECT coalesce(idx_scan, 0) + coalesce(seq_scan, 0) AS scans FROM pg_stat_all_tables WHERE schemaname = $1 AND relname = 'access_token'`,
      [schema],
    );
    return Number(rows[0]?.scans);
  };
  const before = await scans();
  await work();
  return (await scans()) - before;
}

describe('the text of a token', () => {
  it('is taken apart as it was made', () => {
    const { text, id, secretHash } = newToken();
    expect(text).toMatch(/^lps_[a-z2-7]{12}_[\w-]{43}$/);
    expect(parseToken(text)).toEqual({ id, secretHash });
  });

  it('has one spelling', () => {
    const { text } = newToken();
    const last = text.at(-1) ?? '';
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    const others = [...alphabet].filter((letter) => letter !== last).map((letter) => text.slice(0, -1) + letter);
    const hash = parseToken(text)?.secretHash;
    for (const other of others) expect(parseToken(other)?.secretHash).not.toEqual(hash);
    expect(others.filter((other) => parseToken(other) !== undefined)).toHaveLength(15);
    for (const odd of [
      `${text}=`,
      ` ${text}`,
      `${text}\n`,
      text.toUpperCase(),
      text.slice(0, -1),
      `${text}A`,
      'lps_',
      '',
    ]) {
      expect(parseToken(odd)).toBeUndefined();
    }
  });

  it('takes any text without harm', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.string().map((text) => `lps_${text}`),
        ),
        (text) => {
          expect(parseToken(text)).toBeUndefined();
        },
      ),
    );
  });
});

describe('a token', () => {
  it('stands for its grants, and only its hash is kept', async () => {
    const { text, id, createdAt } = await make();
    expect(await access.tokens.verify(text)).toEqual({ id: `token:${id}`, grants });
    expect(createdAt).toBeInstanceOf(Date);
    const { rows } = await sql.query(`SELECT *, encode(secret_sha256, 'hex') AS hash FROM ${schema}.access_token`);
    expect(rows).toHaveLength(1);
    expect(rows[0].hash).toBe(parseToken(text)?.secretHash.toString('hex'));
    expect(JSON.stringify(rows)).not.toContain(text.split('_').slice(2).join('_'));
    expect(lines.join()).not.toContain(text.split('_').slice(2).join('_'));
  });

  it('is refused alike when it is unknown, wrong, expired, revoked or garbage; the log knows why', async () => {
    const [good, expiring, other] = [await make(), await make(new Date(now + dayMs)), await make()];
    const wrong = `lps_${good.id}_${newToken().text.slice(-43)}`;
    await access.tokens.revoke(other.id);
    now += dayMs;
    for (const text of [newToken().text, wrong, expiring.text, other.text, 'lps_x']) {
      await expect(access.tokens.verify(text)).rejects.toMatchObject(refused);
    }
    expect(reasons()).toEqual(['unknown', 'wrong secret', 'expired', 'revoked']);
    expect(await access.tokens.verify(good.text)).toMatchObject({ id: `token:${good.id}` });
  });

  it('is not made without name, grants or a future', async () => {
    const create = (token: Partial<Parameters<OpenAccess['tokens']['create']>[0]>) =>
      access.tokens.create({ name: 'x', grants, ...token });
    const argument = { code: 'INVALID_ARGUMENT' };
    for (const name of ['', ' ', 'x'.repeat(201), 'a\nb'])
      await expect(create({ name })).rejects.toMatchObject(argument);
    await expect(create({ expiresAt: new Date(now) })).rejects.toMatchObject(argument);
    await expect(create({ grants: [] })).rejects.toMatchObject(argument);
    await expect(create({ grants: [{ namespaces: [], rights: ['read'] }] })).rejects.toMatchObject(argument);
    await expect(create({ grants: [{ namespaces: ['a'], rights: [] }] })).rejects.toMatchObject(argument);
    for (const namespace of ['', '..', 'a/b', '*a', 'a*b']) {
      const odd = create({ grants: [{ namespaces: [namespace], rights: ['read'] }] });
      await expect(odd).rejects.toMatchObject({ code: 'INVALID_KEY' });
    }
    expect(await access.tokens.list()).toEqual([]);
  });

  it('gives no right that this program does not know', async () => {
    const { text, id } = await make();
    await sql.query(`UPDATE ${schema}.access_token SET grants = '[{"namespaces":["a"],"rights":["fly","read"]}]'`);
    expect((await access.tokens.verify(text)).grants).toEqual([{ namespaces: ['a'], rights: ['read'] }]);
    await sql.query(`UPDATE ${schema}.access_token SET grants = '{"namespaces":["*"],"rights":["admin"]}'`);
    now += 10_000;
    expect(await access.tokens.verify(text)).toEqual({ id: `token:${id}`, grants: [] });
  });

  it('is listed with its last day of use, the newest first', async () => {
    const first = await make();
    const second = await make(new Date(now + dayMs));
    await access.tokens.verify(first.text);
    await expect
      .poll(async () => (await access.tokens.list()).map(({ id, lastUsedOn }) => [id, typeof lastUsedOn]), {
        timeout: 30_000,
      })
      .toEqual([
        [second.id, 'undefined'],
        [first.id, 'string'],
      ]);
    expect((await access.tokens.list())[0]?.expiresAt).toEqual(second.expiresAt);
  });

  it('can be revoked twice, and the first time counts', async () => {
    const { id } = await make();
    const first = await access.tokens.revoke(id);
    expect(first?.revokedAt).toBeInstanceOf(Date);
    expect(await access.tokens.revoke(id)).toEqual(first);
    expect(await access.tokens.revoke('aaaaaaaaaaaa')).toBeUndefined();
  });
});

describe('what is remembered', () => {
  it('is fresh for 10 s, in which another replica may still take a revoked token', async () => {
    const { text, id } = await make();
    await access.tokens.verify(text);
    const elsewhere = await open();
    await elsewhere.tokens.revoke(id);
    await elsewhere.close();
    now += 9_999;
    await access.tokens.verify(text);
    now += 1;
    await expect(access.tokens.verify(text)).rejects.toMatchObject(refused);
  });

  it('is given up at once where the token was revoked', async () => {
    const { text, id } = await make();
    await access.tokens.verify(text);
    await access.tokens.revoke(id);
    await expect(access.tokens.verify(text)).rejects.toMatchObject(refused);
  });

  it('makes many requests at once one read', async () => {
    const { text } = await make();
    const reads = await readsDuring(async () => {
      await Promise.all(Array.from({ length: 50 }, () => access.tokens.verify(text)));
      await access.close();
    });
    expect(reads).toBeLessThanOrEqual(2); // the other one writes down the use
    access = await open();
  });
});

describe('without Postgres', () => {
  const unavailable = { code: 'CATALOG_UNAVAILABLE' };

  it('a token that was seen goes on for an hour, and not beyond its expiry; others are neither taken nor refused', async () => {
    const [lasting, short, unseen] = [await make(), await make(new Date(now + 1_800_000)), await make()];
    await access.tokens.verify(lasting.text);
    await access.tokens.verify(short.text);
    await postgres.stop();
    try {
      now += 1_799_999;
      await access.tokens.verify(lasting.text);
      await access.tokens.verify(short.text);
      now += 1;
      await access.tokens.verify(lasting.text);
      await expect(access.tokens.verify(short.text)).rejects.toMatchObject(refused);
      const wrong = `lps_${lasting.id}_${unseen.text.slice(-43)}`;
      await expect(access.tokens.verify(wrong)).rejects.toMatchObject(refused);
      await expect(access.tokens.verify(unseen.text)).rejects.toMatchObject(unavailable);
      now += 1_799_999;
      await access.tokens.verify(lasting.text);
      now += 1;
      await expect(access.tokens.verify(lasting.text)).rejects.toMatchObject(unavailable);
    } finally {
      postgres = await startEmbeddedPostgres({ dataDir });
    }
    await access.close();
    access = await open();
    await access.tokens.verify(lasting.text);
    await access.tokens.verify(unseen.text);
  });
});
