/**
 * One launch of DBOS at a time in a database: on an empty one several at once fail, each in the other's DDL. A lock that
 * blocks would hang for ever, because CREATE INDEX CONCURRENTLY waits for the waiter; so it is asked for again and again.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { LpsError } from '@large-payload/core';
import pg from 'pg';
import { connectionSettings } from '../catalog/database.js';

const pollMs = 50;
/** For who holds the lock, and does nothing with its session meanwhile: then Postgres ends it. */
const maxLaunchMs = 120_000;

export interface LaunchLockOptions {
  readonly url: string;
  readonly schema: string;
  readonly signal: AbortSignal;
  /** Default 60 s. */
  readonly timeoutMs?: number;
}

/** Runs `launch` with the lock held; a crash lets go of it. Throws CATALOG_UNAVAILABLE when others hold it for too long. */
export async function withLaunchLock<T>(options: LaunchLockOptions, launch: () => Promise<T>): Promise<T> {
  const client = new pg.Client(connectionSettings(options.url, 'lps durable launch'));
  client.on('error', () => undefined); // the statement under way fails as well
  try {
    await client.connect();
    await client.query(`SET idle_session_timeout = ${maxLaunchMs}`);
    await acquire(client, options);
    return await launch();
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function acquire(client: pg.Client, { schema, signal, timeoutMs = 60_000 }: LaunchLockOptions): Promise<void> {
  const giveUpAt = performance.now() + timeoutMs;
  for (;;) {
    const { rows } = await client.query<{ locked: boolean }>(
      'SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS locked',
      [`lps durable launch of ${schema}`],
    );
    if (rows[0]?.locked === true) return;
    if (performance.now() > giveUpAt) {
      throw new LpsError('CATALOG_UNAVAILABLE', 'another process has been starting its durable work for too long');
    }
    await delay(pollMs, undefined, { signal });
  }
}
