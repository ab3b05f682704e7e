/** The audit on a real Postgres and a real file, and with either of them gone. */
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rename, rm, stat, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LpsError } from '@large-payload/core';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Database } from '../catalog/database.js';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { type AuditEntry, type AuditLine, openAudit } from './audit.js';
import { openAuditFile } from './audit-file.js';
import { AuditTable } from './audit-table.js';
import { type OpenAccess, openAccess } from './open-access.js';

const entry: AuditEntry = {
  principal: 'token:aaaaaaaaaaaa',
  action: 'decode',
  namespaces: ['orders'],
  subjects: ['/blobs/orders/common/x/y'],
  status: 200,
  requestId: 'r-1',
  remote: '127.0.0.1',
};

let dir: string;
let path: string;
let postgres: EmbeddedPostgres;
let sql: pg.Pool;
let schema: string;
let now: number;
let lines: string[];
let lost: string[];
let access: OpenAccess;

const open = (auditLog: string | undefined = path): Promise<OpenAccess> =>
  openAccess({
    url: postgres.url,
    schema,
    log: pino({ level: 'warn' }, { write: (line) => lines.push(line) }),
    clock: () => now,
    auditLog,
    onAuditLost: (place, entries) => lost.push(`${place} ${entries}`),
  });
const rows = async () => (await sql.query(`SELECT * FROM ${schema}.audit ORDER BY id`)).rows;
const written = async (file = path): Promise<AuditLine[]> =>
  (await readFile(file, 'utf8'))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lps-audit-'));
  postgres = await startEmbeddedPostgres({ dataDir: join(dir, 'data') });
  sql = new pg.Pool({ connectionString: postgres.url, max: 2 });
  sql.on('error', () => undefined);
});
afterAll(async () => {
  await sql?.end();
  await postgres?.stop();
  await rm(dir, { recursive: true, force: true });
});
beforeEach(async () => {
  const name = randomBytes(6).toString('hex');
  [schema, path] = [`t_${name}`, join(dir, `${name}.jsonl`)];
  now = Date.UTC(2026, 10, 23, 12);
  [lines, lost] = [[], []];
  access = await open();
});
afterEach(() => access.close());

describe('an entry', () => {
  it('is a line and a row', async () => {
    await access.audit.record(entry);
    expect(await written()).toEqual([{ at: '2026-11-23T12:00:00.000Z', ...entry }]);
    const { requestId, ...columns } = entry;
    expect(await rows()).toEqual([{ id: '1', at: new Date(now), ...columns, request_id: requestId }]);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  });

  it('needs neither request nor address', async () => {
    const { requestId: _, remote: __, ...bare } = entry;
    await access.audit.record({ ...bare, requestId: undefined });
    expect(await written()).toEqual([{ at: '2026-11-23T12:00:00.000Z', ...bare }]);
    expect(await rows()).toMatchObject([{ request_id: null, remote: null }]);
  });

  it('stays on its line, whatever it holds, and is bounded', async () => {
    const nasty = 'a\n{"at":1}\u001b]0;x\u0007\u0000\ud800\u202e"\\';
    await access.audit.record({
      ...entry,
      principal: nasty,
      namespaces: [nasty],
      subjects: [nasty, ...Array.from({ length: 150 }, () => `${'é'.repeat(1099)}😀 and more`)],
      remote: nasty,
    });
    const shown = 'a\\u{a}{"at":1}\\u{1b}]0;x\\u{7}\\u{0}\\u{d800}\\u{202e}"\\';
    const [line] = await written();
    expect(line).toMatchObject({ principal: shown, namespaces: [shown], remote: shown });
    expect(line?.subjects).toHaveLength(101);
    expect(line?.subjects.slice(-2)).toEqual([expect.stringMatching(/^é{1099}/), '(51 more)']);
    expect(line?.subjects.every((subject) => subject.length <= 1100)).toBe(true);
    expect(await rows()).toMatchObject([{ principal: shown, subjects: line?.subjects }]);
    await access.audit.record({ ...entry, principal: '\u0001'.repeat(2000) });
    expect((await written())[1]?.principal).toHaveLength(1100);
  });

  it('comes in its turn', async () => {
    await Promise.all(Array.from({ length: 500 }, (_, n) => access.audit.record({ ...entry, requestId: `r-${n}` })));
    const order = Array.from({ length: 500 }, (_, n) => `r-${n}`);
    expect((await written()).map(({ requestId }) => requestId)).toEqual(order);
    expect((await rows()).map((row) => row.request_id)).toEqual(order);
  });

  it('is written before the end', async () => {
    const recorded = access.audit.record(entry);
    await access.close();
    await recorded;
    expect(await written()).toHaveLength(1);
    expect(await rows()).toHaveLength(1);
    access = await open(undefined);
  });

  it('comes again and again, each time after the one before', async () => {
    for (let n = 0; n < 50; n++) await access.audit.record(entry);
    expect(await rows()).toHaveLength(50);
    expect(await written()).toHaveLength(50);
  });
});

describe('the file', () => {
  it('is begun anew within a second when it was renamed or removed', async () => {
    await access.audit.record(entry);
    await rename(path, `${path}.1`);
    await access.audit.record({ ...entry, requestId: 'r-2' });
    now += 1000;
    await access.audit.record({ ...entry, requestId: 'r-3' });
    await unlink(path);
    now += 1000;
    await access.audit.record({ ...entry, requestId: 'r-4' });
    expect((await written(`${path}.1`)).map(({ requestId }) => requestId)).toEqual(['r-1', 'r-2']);
    expect((await written()).map(({ requestId }) => requestId)).toEqual(['r-4']);
    expect(lost).toEqual([]);
  });

  it('is appended to by the next process', async () => {
    await access.audit.record(entry);
    await access.close();
    access = await open();
    await access.audit.record(entry);
    expect(await written()).toHaveLength(2);
  });

  it('that cannot be written loses its lines and no request; it is said once a minute', async () => {
    await access.audit.record(entry);
    await unlink(path);
    await mkdir(path);
    now += 1000;
    for (let n = 0; n < 5; n++) await access.audit.record(entry);
    expect(lost).toEqual(Array(5).fill('file 1'));
    expect(lines.map((line) => JSON.parse(line))).toMatchObject([{ level: 50, place: 'file', entries: 1 }]);
    now += 60_000;
    await access.audit.record(entry);
    expect(lines.map((line) => JSON.parse(line))[1]).toMatchObject({ entries: 5 });
    expect(await rows()).toHaveLength(7);
    await rm(path, { recursive: true });
    await access.audit.record({ ...entry, requestId: 'r-9' });
    const text = await readFile(path, 'utf8');
    // perhaps a part of a line was written: the next one begins on its own
    expect(text).toMatch(/^\n\{.*r-9.*\}\n$/);
  });

  it('must be writable at the start', async () => {
    await expect(open(join(dir, 'none', 'audit'))).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringMatching(/^audit-log: .*none.audit cannot be written: ENOENT/),
    });
  });

  it('takes no more than 16 MiB that wait', async () => {
    const refusals: number[] = [];
    const file = await openAuditFile(path, { clock: () => now, onLost: (entries) => refusals.push(entries) });
    const line = 'x'.repeat(1024 * 1024 - 1);
    await Promise.all(Array.from({ length: 20 }, () => file.append(line)));
    await file.close();
    expect(refusals.length).toBeGreaterThan(0);
    expect((await stat(path)).size).toBe((20 - refusals.length) * 1024 * 1024);
  });
});

describe('the table', () => {
  it('that is away loses its rows and no request, and nobody waits for it', async () => {
    await access.audit.record(entry);
    await postgres.stop();
    try {
      for (let n = 0; n < 20; n++) await access.audit.record(entry);
      expect(await written()).toHaveLength(21);
      expect(lost).toEqual(Array(20).fill('table 1'));
      expect(lines.map((line) => JSON.parse(line)).filter(({ place }) => place === 'table')).toHaveLength(1);
    } finally {
      postgres = await startEmbeddedPostgres({ dataDir: join(dir, 'data') });
    }
    await access.close();
    access = await open();
    await access.audit.record(entry);
    expect(await rows()).toHaveLength(2);
  });

  /** A Postgres that answers when the test says so. */
  function slowTable() {
    const statements: { rows: number; answer: (error?: Error) => void }[] = [];
    const database = {
      run: (_statement: unknown, [json]: readonly unknown[]) =>
        new Promise((resolve, reject) => {
          const answer = (error?: Error): void => (error === undefined ? resolve([]) : reject(error));
          statements.push({ rows: JSON.parse(String(json)).length, answer });
        }),
    } as unknown as Database;
    const refusals: number[] = [];
    const table = new AuditTable({
      database,
      schema: 'x',
      clock: () => now,
      onLost: (entries) => refusals.push(entries),
    });
    return { database, table, statements, refusals };
  }
  const line: AuditLine = { ...entry, at: '2026-11-23T12:00:00.000Z' };

  it('is written with one statement at a time, and what came meanwhile with the next', async () => {
    const { table, statements, refusals } = slowTable();
    const inserts = Array.from({ length: 2501 }, () => table.insert(line));
    expect(statements.map(({ rows }) => rows)).toEqual([1]);
    expect(refusals).toHaveLength(500); // 2000 may wait
    for (let n = 0; n < 11; n++) {
      statements[n]?.answer();
      await expect.poll(() => statements.length, { timeout: 30_000 }).toBe(Math.min(n + 2, 11));
    }
    expect(statements.map(({ rows }) => rows)).toEqual([1, ...Array(10).fill(200)]);
    await Promise.all(inserts);
    const next = table.insert(line);
    statements[11]?.answer();
    await next;
  });

  it('that fails is left alone for 5 s, with all that waits', async () => {
    const { table, statements, refusals } = slowTable();
    const inserts = Array.from({ length: 300 }, () => table.insert(line));
    statements[0]?.answer(new LpsError('CATALOG_UNAVAILABLE', 'down'));
    await Promise.all(inserts);
    expect(refusals).toEqual([300]);
    await table.insert(line);
    expect(statements).toHaveLength(1);
    now += 5000;
    const later = table.insert(line);
    statements[1]?.answer();
    await later;
    expect(refusals).toEqual([300, 1]);
  });

  it('that hangs is waited for no longer than 2 s', async () => {
    const { database, statements } = slowTable();
    const audit = await openAudit({ database, schema: 'x', log: pino({ level: 'silent' }), clock: () => now });
    await audit.record(entry);
    statements[0]?.answer();
    await audit.close();
  });

  it('loses old rows, the oldest first, so many at a time', async () => {
    for (let day = 1; day <= 5; day++) {
      now = Date.UTC(2026, 0, day);
      await access.audit.record(entry);
    }
    const { audit } = access;
    const days = async () => (await rows()).map(({ at }) => (at as Date).getUTCDate());
    expect(await audit.prune(new Date(Date.UTC(2026, 0, 4)), 2)).toBe(2);
    expect(await days()).toEqual([3, 4, 5]);
    expect(await audit.prune(new Date(Date.UTC(2026, 0, 4)), 2)).toBe(1);
    expect(await audit.prune(new Date(Date.UTC(2026, 0, 4)))).toBe(0);
    expect(await days()).toEqual([4, 5]);
  });
});
