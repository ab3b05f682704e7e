import type { Socket } from 'node:net';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../catalog/embedded-postgres.js';
import { PatientPool } from './patient-pool.js';

let postgres: EmbeddedPostgres;
let pool: PatientPool;
beforeAll(async () => {
  postgres = await startEmbeddedPostgres({ throwAway: true });
  postgres.exited.catch(() => undefined);
  pool = new PatientPool({ connectionString: postgres.url });
  pool.on('error', () => undefined);
});
afterAll(async () => {
  await pool.end();
  await postgres.stop();
});

it('lets a connection break while it is handed out and nobody listens to it', async () => {
  const client = await pool.connect();
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  const ended = new Promise<void>((resolve) => client.once('end', () => resolve()));
  await pool.query('SELECT pg_terminate_backend($1)', [rows[0]?.pid]);
  await ended;
  await expect(client.query('SELECT 1')).rejects.toThrow(/not queryable/);
  client.release(true);
  expect((await pool.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
});

it('says of a connection that broke, in whatever way, what DBOS waits for', async () => {
  const client = await pool.connect();
  const { stream } = (client as unknown as { connection: { stream: Socket } }).connection;
  const answer = client.query('SELECT pg_sleep(60)');
  stream.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
  await expect(answer).rejects.toMatchObject({
    message: 'write EPIPE',
    cause: { message: 'server closed the connection' },
  });
  client.release(true);
});
