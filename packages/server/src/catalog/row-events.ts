/**
 * Hears of rows that left `live`, on a connection of its own: `LISTEN {schema}_blob`, payload = the blob's id.
 *
 * "Up" means that it works, not only that the connection stands: after LISTEN we send ourselves an echo and wait for
 * it (a pooler in transaction mode would swallow it). Then a heartbeat: its answer comes behind every notification
 * that was sent before, so a connection that is half open is found out within `heartbeatMs` + `answerMs`.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { connectionSettings } from './database.js';

export interface RowEvents {
  close(): Promise<void>;
}

export interface RowEventsOptions {
  readonly url: string;
  readonly channel: string;
  readonly onUp: () => void;
  readonly onDown: () => void;
  readonly onEvict: (id: bigint) => void;
  readonly log: (line: string) => void;
}

const heartbeatMs = 5000;
const answerMs = 5000;
const firstBackOffMs = 100;
const maxBackOffMs = 5000;

/** Keeps listening until `close`, whatever happens to the connection. */
export function listenForRowEvents(options: RowEventsOptions): RowEvents {
  const stop = new AbortController();
  const ended = keepListening(options, stop.signal);
  return {
    async close() {
      stop.abort();
      await ended;
    },
  };
}

async function keepListening(options: RowEventsOptions, signal: AbortSignal): Promise<void> {
  let backOffMs = firstBackOffMs;
  while (!signal.aborted) {
    const lost = await listenOnce(options, signal, () => {
      backOffMs = firstBackOffMs;
    });
    if (signal.aborted) return;
    options.log(`catalog: not listening, rows are read from Postgres each time: ${lost}`);
    await delay(backOffMs * (0.5 + Math.random() / 2), undefined, { signal, ref: false }).catch(() => undefined);
    backOffMs = Math.min(backOffMs * 2, maxBackOffMs);
  }
}

/** One connection from its beginning to its end; returns why it ended. */
async function listenOnce(options: RowEventsOptions, signal: AbortSignal, onUp: () => void): Promise<string> {
  const client = new pg.Client({
    ...connectionSettings(options.url, 'lps catalog listener'),
    query_timeout: answerMs,
  });
  let up = false;
  const end = new AbortController();
  const down = (reason: string): void => {
    end.abort(reason); // the first reason stays
    if (up) options.onDown();
    up = false;
  };
  const onAbort = (): void => down('closed');
  signal.addEventListener('abort', onAbort, { once: true });
  client.on('error', (error) => down(error.message));
  client.on('end', () => down('the connection ended'));
  try {
    await client.connect();
    await listenAndEcho(client, options, end.signal);
    if (!end.signal.aborted) {
      up = true;
      options.onUp();
      onUp();
    }
    while (!end.signal.aborted) {
      await delay(heartbeatMs, undefined, { signal: end.signal, ref: false });
      await client.query('SELECT');
    }
  } catch (error) {
    down(error instanceof Error ? error.message : String(error));
  } finally {
    signal.removeEventListener('abort', onAbort);
    // a half-open connection may not end for minutes
    await Promise.race([client.end().catch(() => undefined), delay(1000, undefined, { ref: false })]);
  }
  return String(end.signal.reason);
}

async function listenAndEcho(client: pg.Client, options: RowEventsOptions, ended: AbortSignal): Promise<void> {
  const echo = `echo ${randomUUID()}`;
  const heard = new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('LISTEN does not work (a pooler in transaction mode?)')), answerMs);
    const settle = (): void => {
      clearTimeout(timer);
      resolve();
    };
    ended.addEventListener('abort', settle, { once: true });
    client.on('notification', ({ payload }) => {
      if (payload === echo) settle();
      else if (payload !== undefined && /^\d+$/.test(payload)) options.onEvict(BigInt(payload));
    });
  });
  heard.catch(() => undefined);
  await client.query(`LISTEN ${options.channel}`);
  await client.query('SELECT pg_notify($1, $2)', [options.channel, echo]);
  await heard;
}
