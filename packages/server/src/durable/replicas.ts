/**
 * This process among the others on the same catalog: a sign of life every few seconds, and who leads.
 *
 *   session ─ register ─ beat, try to lead ─ beat ─ … ─ ends ─ (back-off) ─ session
 *
 * One connection does both, so that no load on a pool delays a beat. The leader is who holds the advisory lock of its
 * session. Postgres itself ends a session that was silent for `timeoutMs` (a stopped process, a machine that is gone), so
 * the lock never outlives its holder for longer. Until a deposed leader notices, its epoch keeps it from deciding
 * anything: see `Leadership.transaction`.
 *
 * A replica that was declared gone comes back under another executor id, for its work is others' now.
 */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { LpsError } from '@large-payload/core';
import pg from 'pg';
import { connectionSettings, type Database, type Statement } from '../catalog/database.js';
import { replicaStatements } from './replica-sql.js';

export interface ReplicaOptions {
  readonly url: string;
  /** The catalog's. */
  readonly schema: string;
  /** For transactions of the leader. */
  readonly database: Database;
  readonly applicationVersion: string;
  readonly serviceVersion: string;
  /** After so long without a sign of life a replica is gone. */
  readonly timeoutMs: number;
  readonly log: (line: string) => void;
  /** This process is registered under a new executor id; the one before, if any, is gone. */
  readonly onIdentity: (executorId: string) => void;
  readonly onLead?: (leadership: Leadership) => void;
}

/** The time in which this process leads. */
export interface Leadership {
  readonly executorId: string;
  /** Counts leaders. */
  readonly epoch: string;
  /** Fires at once when the session is lost, and at the end of the process' service. */
  readonly signal: AbortSignal;
  /**
   * By Postgres' clock. Nobody's silence counts from before: when Postgres itself was away, all were silent. (An outage
   * always ends a leadership, because a beat must be answered within seconds.)
   */
  readonly since: Date;
  /** One transaction, which no later leader's can come before. Throws ABORTED when another one leads. */
  transaction<T>(work: (run: Database['run'], now: Date) => Promise<T>): Promise<T>;
}

export interface Replica {
  /** `undefined` until it is registered for the first time. */
  readonly executorId: string | undefined;
  readonly leadership: Leadership | undefined;
  /** Says goodbye: what is left of its work may be taken over at once. */
  close(): Promise<void>;
}

const maxBeatMs = 5000;
const maxAnswerMs = 5000;
const letGoMs = 1000;
const firstBackOffMs = 100;

/** Between two signs of life. */
export function beatMsOf(timeoutMs: number): number {
  return Math.min(maxBeatMs, timeoutMs / 6);
}

function answerMsOf(timeoutMs: number): number {
  return Math.min(maxAnswerMs, timeoutMs / 2);
}

/** `worker-3:4711:9f86d081`: who, for people, and unique for ever. */
export function newExecutorId(): string {
  const host = hostname()
    .replace(/[^\w.-]/g, '_')
    .slice(0, 60);
  return `${host}:${process.pid}:${randomBytes(6).toString('hex')}`;
}

/** Keeps the replica registered until `close`, whatever happens to the connection. */
export function joinReplicas(options: ReplicaOptions): Replica {
  const member = new Member(options);
  const ended = member.run();
  return {
    get executorId() {
      return member.registeredId;
    },
    get leadership() {
      return member.leadership;
    },
    async close() {
      member.closing.abort();
      await ended;
    },
  };
}

class Member {
  readonly closing = new AbortController();
  registeredId: string | undefined;
  #leadership: Leadership | undefined;
  readonly #options: ReplicaOptions;
  readonly #sql: ReturnType<typeof replicaStatements>;
  #id = newExecutorId();
  #backOffMs = firstBackOffMs;
  #lastLost = '';

  constructor(options: ReplicaOptions) {
    this.#options = options;
    this.#sql = replicaStatements(options.schema);
  }

  get leadership(): Leadership | undefined {
    return this.#leadership?.signal.aborted === false ? this.#leadership : undefined;
  }

  async run(): Promise<void> {
    const { signal } = this.closing;
    while (!signal.aborted) {
      const lost = await this.#session().catch((error: unknown) => reasonOf(error));
      if (signal.aborted) return;
      if (lost === 'gone') {
        this.#options.log(`replica ${this.#id} was declared gone; it comes back under another id`);
        this.#id = newExecutorId();
        continue;
      }
      if (lost !== this.#lastLost) this.#options.log(`replica ${this.#id} has lost its session: ${lost}`);
      this.#lastLost = lost;
      await delay(this.#backOffMs, undefined, { signal }).catch(() => undefined);
      this.#backOffMs = Math.min(this.#backOffMs * 2, beatMsOf(this.#options.timeoutMs));
    }
  }

  /** One connection from its beginning to its end; returns why it ended. */
  async #session(): Promise<string> {
    const { url, timeoutMs } = this.#options;
    const client = new pg.Client({
      ...connectionSettings(url, 'lps replica'),
      query_timeout: answerMsOf(timeoutMs),
    });
    const over = new AbortController();
    const end = (reason: string): void => over.abort(reason); // the first reason stays
    const onClosing = (): void => end('closed');
    this.closing.signal.addEventListener('abort', onClosing, { once: true });
    client.on('error', (error) => end(error.message));
    client.on('end', () => end('the connection ended'));
    try {
      await client.connect();
      await client.query(`SET idle_session_timeout = ${Math.ceil(timeoutMs)}`);
      return await this.#live(client, over.signal);
    } catch (error) {
      end(reasonOf(error));
      return String(over.signal.reason);
    } finally {
      end('closed'); // nobody leads from here on, whatever the server knows of it
      this.closing.signal.removeEventListener('abort', onClosing);
      await this.#leave(client);
    }
  }

  /** Signs of life until the session is over; `gone` when somebody has declared this replica so. */
  async #live(client: pg.Client, over: AbortSignal): Promise<string> {
    const { timeoutMs, applicationVersion, serviceVersion, onIdentity } = this.#options;
    const beatMs = beatMsOf(timeoutMs);
    const values = [this.#id, applicationVersion, serviceVersion, hostname(), process.pid];
    const registered = await ask(client, this.#sql.register, values);
    if (registered === undefined) return 'gone';
    if (this.registeredId !== this.#id) {
      this.registeredId = this.#id;
      onIdentity(this.#id);
    }
    while (!over.aborted) {
      const beat = await ask(client, this.#sql.beat, [this.#id]);
      if (beat === undefined) return 'gone';
      if (beat.backend !== registered.backend) throw new Error('each statement goes to another session: a pooler');
      this.#backOffMs = firstBackOffMs;
      this.#lastLost = '';
      if (this.leadership === undefined) await this.#tryToLead(client, over);
      await delay(beatMs, undefined, { signal: over, ref: false }).catch(() => undefined);
    }
    return String(over.reason);
  }

  async #tryToLead(client: pg.Client, over: AbortSignal): Promise<void> {
    const { schema, database, onLead, log } = this.#options;
    const tried = await ask(client, this.#sql.tryLead, [`lps leader of ${schema}`]);
    if (tried?.leads !== true || over.aborted) return;
    const row = await ask(client, this.#sql.newEpoch, [this.#id]);
    if (row === undefined || over.aborted) return;
    const epoch = String(row.epoch);
    this.#leadership = {
      executorId: this.#id,
      epoch,
      signal: over,
      since: row.since as Date,
      transaction: (work) => inEpoch(database, this.#sql.holdEpoch, epoch, over, work),
    };
    log(`this replica leads (epoch ${epoch})`);
    onLead?.(this.#leadership);
  }

  async #leave(client: pg.Client): Promise<void> {
    const isGoodbye = this.closing.signal.aborted && this.registeredId === this.#id;
    const leave = async (): Promise<void> => {
      if (isGoodbye) await client.query(this.#sql.sayGoodbye.text, [this.#id]);
      await client.end();
    };
    // a half-open connection may not end for minutes; for a goodbye an answer is waited for as long as for any other
    const withinMs = isGoodbye ? answerMsOf(this.#options.timeoutMs) : letGoMs;
    await Promise.race([leave().catch(() => undefined), delay(withinMs, undefined, { ref: false })]);
  }
}

async function ask(client: pg.Client, { text }: Statement, values: unknown[]) {
  const { rows } = await client.query<Record<string, unknown>>(text, values);
  return rows[0];
}

function inEpoch<T>(
  database: Database,
  holdEpoch: Statement,
  epoch: string,
  over: AbortSignal,
  work: (run: Database['run'], now: Date) => Promise<T>,
): Promise<T> {
  return database.transaction(async (run) => {
    const [held] = over.aborted ? [] : await run(holdEpoch, [epoch]);
    if (held === undefined) throw new LpsError('ABORTED', 'this replica does not lead any more');
    return work(run, held.now as Date);
  });
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
