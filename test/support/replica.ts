/** Replicas of the service's durable side as processes of their own: test/fixtures/durable-replica.mjs. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type pg from 'pg';
import { until } from './until.ts';

const script = fileURLToPath(new URL('../fixtures/durable-replica.mjs', import.meta.url));

export interface ReplicaSettings {
  readonly url: string;
  readonly schema: string;
  readonly version: string;
  readonly compatible?: readonly string[];
  readonly timeoutMs: number;
  readonly isAlone?: boolean;
}

interface Message {
  readonly running?: true;
  readonly started?: string;
  readonly refused?: string;
  readonly code?: string;
  readonly answer?: number;
  readonly state?: State;
  readonly stranded?: Record<string, number>;
  readonly closed?: true;
}

interface State {
  readonly running: boolean;
  readonly leads: boolean;
  readonly stranded: number;
}

export class ReplicaProcess {
  readonly #child: ChildProcess;
  readonly #said: Message[] = [];
  #output = '';
  #questions = 0;

  constructor(settings: ReplicaSettings) {
    this.#child = fork(script, { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-100_000);
      });
    this.#child.on('message', (message) => this.#said.push(message as Message));
    this.#child.send(settings);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  output(): string {
    return this.#output;
  }

  /** Resolves when workflows can be begun, for the n-th time. */
  async running(times = 1): Promise<void> {
    await this.#until(`launch ${times}`, () => this.#count((message) => message.running === true) >= times);
  }

  async start(name: 'gated', id: string, input: object): Promise<void> {
    this.#child.send({ start: [name, id, input] });
    await this.#until(`the start of ${id}`, () => this.#count(({ started }) => started === id) > 0);
  }

  async state(): Promise<State> {
    this.#questions += 1;
    const number = this.#questions;
    this.#child.send({ ask: number });
    let state: State | undefined;
    await this.#until('an answer', () => {
      state = this.#said.find(({ answer }) => answer === number)?.state;
      return state !== undefined;
    });
    if (state === undefined) throw new Error('no state');
    return state;
  }

  async saysStranded(): Promise<Record<string, number>> {
    let found: Record<string, number> | undefined;
    await this.#until('a word on stranded workflows', () => {
      found = this.#said.find(({ stranded }) => stranded !== undefined)?.stranded;
      return found !== undefined;
    });
    return found ?? {};
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  /** SIGKILL; resolves when it is gone. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await gone;
  }

  /** Its own clean end. */
  async close(drainMs = 0): Promise<void> {
    const gone = once(this.#child, 'exit');
    this.#child.send({ close: drainMs });
    await gone;
  }

  #count(matches: (message: Message) => boolean): number {
    return this.#said.filter(matches).length;
  }

  async #until(what: string, isSo: () => boolean): Promise<void> {
    try {
      await until(what, async () => isSo() || undefined);
    } catch (error) {
      throw new Error(`${(error as Error).message}\n${this.#output.slice(-5000)}`, { cause: error });
    }
  }
}

/** What the replicas of one schema have done, looked at from outside. */
export class Effects {
  constructor(
    readonly pool: pg.Pool,
    readonly schema: string,
  ) {}

  async prepare(): Promise<void> {
    await this.pool.query(`CREATE TABLE IF NOT EXISTS public.effect
      (at timestamptz DEFAULT clock_timestamp(), workflow text, step text, pid integer)`);
    await this.pool.query('CREATE TABLE IF NOT EXISTS public.gate (name text PRIMARY KEY)');
  }

  async of(workflow: string): Promise<{ step: string; pid: number }[]> {
    const { rows } = await this.pool.query('SELECT step, pid FROM public.effect WHERE workflow = $1 ORDER BY at', [
      workflow,
    ]);
    return rows;
  }

  async open(gate: string): Promise<void> {
    await this.pool.query('INSERT INTO public.gate VALUES ($1)', [gate]);
  }

  /** Until a step of a workflow was done so many times. */
  async untilDone(workflow: string, step: string, times = 1): Promise<void> {
    await until(`${step} of ${workflow}`, async () => {
      const done = (await this.of(workflow)).filter((effect) => effect.step === step);
      return done.length >= times || undefined;
    });
  }

  async workflow(id: string): Promise<Record<string, unknown> | undefined> {
    const { rows } = await this.pool.query(
      `SELECT * FROM "${this.schema}_dbos".workflow_status WHERE workflow_uuid = $1`,
      [id],
    );
    return rows[0];
  }

  async untilEnded(id: string): Promise<void> {
    await until(`the end of ${id}`, async () => ((await this.workflow(id))?.status === 'SUCCESS' ? true : undefined));
  }

  async replicas(): Promise<Record<string, unknown>[]> {
    return (await this.pool.query(`SELECT * FROM ${this.schema}.replica ORDER BY started_at`)).rows;
  }
}
