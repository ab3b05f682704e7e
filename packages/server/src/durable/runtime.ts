/**
 * DBOS inside the service: launched on the catalog's Postgres, with tables and a pool of its own, and again under
 * another executor id when this replica was declared gone.
 *
 *   no id ─ setExecutorId ─ launching ─ running ─ setExecutorId ─ launching ─ … ─ close
 *                              └ failed ─ back-off ┘
 *
 * Nothing here keeps the service from starting or serving: while Postgres is away DBOS waits for it by itself, and a
 * launch that failed is tried again.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { DBOS } from '@dbos-inc/dbos-sdk';
import { LpsError } from '@large-payload/core';
import type { Logger } from 'pino';
import { asCatalogError, connectionSettings } from '../catalog/database.js';
import { durablePoolSize } from './connections.js';
import { withLaunchLock } from './launch-lock.js';
import { dbosLogger } from './log.js';
import { PatientPool } from './patient-pool.js';
import { type ArgsOf, applicationName, type WorkflowTable, workflowSchema } from './workflows.js';

export interface RuntimeOptions<Table extends WorkflowTable> {
  readonly databaseUrl: string;
  /** The catalog's; DBOS' is beside it. */
  readonly schema: string;
  readonly applicationVersion: string;
  readonly workflows: Table;
  readonly log: Logger;
  /** How long `start` waits for Postgres. Default 10 s. */
  readonly answerMs?: number;
}

export interface DurableRuntime<Table extends WorkflowTable> {
  /** Under which workflows run now; `undefined` while they do not. */
  readonly executorId: string | undefined;
  /** Launches under this id; what ran under another one is left to whoever takes it over. */
  setExecutorId(executorId: string): void;
  /**
   * Begins a workflow, unless there is one of this id; resolves when it is written down and will end, whatever happens.
   * Throws TRY_AGAIN while no workflow can be begun, CATALOG_UNAVAILABLE when Postgres does not answer: then it may
   * begin later.
   */
  start<Name extends keyof Table & string>(
    name: Name,
    id: string,
    ...args: ArgsOf<Table[Name]>
  ): Promise<StartedWorkflow>;
  /** The arguments that a workflow of this name and id was begun with; `undefined` when there is none. Throws as `start`. */
  argsOf<Name extends keyof Table & string>(name: Name, id: string): Promise<ArgsOf<Table[Name]> | undefined>;
  /** Gives a workflow a message. Throws as `start`. */
  send(id: string, topic: string, message: unknown): Promise<void>;
  /** Workflows under way get so long to finish; what is left goes on elsewhere, or at the next start. */
  close(drainMs: number): Promise<void>;
}

export interface StartedWorkflow {
  /** Resolves when the workflow is over, well or not, or does not run in this process any more. */
  readonly ended: Promise<void>;
}

const firstBackOffMs = 500;
const maxBackOffMs = 30_000;
/** For letting go of connections; DBOS may be waiting for a Postgres that is away. */
const letGoMs = 5000;

const usualAnswerMs = 10_000;

/** DBOS needs a URL only where it opens connections itself; so no log line of its can hold ours. */
const noUrl = 'postgresql://lps@localhost/lps';

/** Throws CONFIG_INVALID when this process runs DBOS already: there can be one only. */
export function startRuntime<Table extends WorkflowTable>(options: RuntimeOptions<Table>): DurableRuntime<Table> {
  if (DBOS.isInitialized() || isTaken) {
    throw new LpsError('CONFIG_INVALID', 'this process runs DBOS already, and the service needs one of its own');
  }
  isTaken = true;
  const workflows = register(options.workflows);
  const runtime = new Runtime(options);
  const ended = runtime.run();
  const ask = async <T>(question: () => Promise<T>): Promise<T> => {
    if (runtime.runningId === undefined) throw notRunning();
    return answered(question(), options.answerMs ?? usualAnswerMs);
  };
  return {
    get executorId() {
      return runtime.runningId;
    },
    setExecutorId: (id) => runtime.setExecutorId(id),
    async start(name, id, ...args) {
      const workflow = workflows.get(name);
      if (workflow === undefined) throw new LpsError('INTERNAL', `there is no workflow ${name}`);
      const { over } = runtime;
      const handle = await ask(() => DBOS.startWorkflow(workflow, { workflowID: id })(...(args as unknown[])));
      return { ended: Promise.race([handle.getResult().then(ignore, ignore), over]) };
    },
    async argsOf(name, id) {
      const status = await ask(() => DBOS.getWorkflowStatus(id));
      return status?.workflowName === name ? (status.input as ArgsOf<Table[typeof name]>) : undefined;
    },
    send: (id, topic, message) => ask(() => DBOS.send(id, message, topic)),
    async close(drainMs) {
      runtime.close(drainMs);
      await Promise.race([ended, delay(drainMs + 2 * letGoMs, undefined, { ref: false })]);
      isTaken = false;
    },
  };
}

let isTaken = false;

const ignore = (): void => {};

/** Why a workflow cannot be begun, or looked at. */
export function notRunning(): LpsError {
  return new LpsError('TRY_AGAIN', 'the durable work of the service has not started yet, or Postgres is away');
}

/** DBOS waits for a Postgres that is away for as long as it takes; a caller does not. */
async function answered<T>(answer: Promise<T>, withinMs: number): Promise<T> {
  const over = new AbortController();
  const late = delay(withinMs, undefined, { signal: over.signal, ref: false }).then(() => {
    throw new LpsError('CATALOG_UNAVAILABLE', 'Postgres does not answer; the workflow may begin later');
  });
  late.catch(() => undefined);
  answer.catch(() => undefined);
  try {
    return await Promise.race([answer, late]);
  } catch (error) {
    throw isDbosError(error) ? error : asCatalogError(error);
  } finally {
    over.abort();
  }
}

/** What DBOS says of a workflow, and not what Postgres says of a statement. */
function isDbosError(error: unknown): boolean {
  return typeof (error as { dbosErrorCode?: unknown } | undefined)?.dbosErrorCode === 'number';
}

class Runtime<Table extends WorkflowTable> {
  runningId: string | undefined;
  /** Resolves when what was launched last has been shut down. */
  over: Promise<void> = Promise.resolve();
  readonly #options: RuntimeOptions<Table>;
  readonly #closing = new AbortController();
  #wantedId: string | undefined;
  #onChange: () => void = () => undefined;
  #drainMs = 0;

  constructor(options: RuntimeOptions<Table>) {
    this.#options = options;
  }

  setExecutorId(id: string): void {
    this.#wantedId = id;
    this.runningId = undefined; // what began under the old one could be nobody's
    this.#onChange();
  }

  close(drainMs: number): void {
    this.#drainMs = drainMs;
    this.runningId = undefined; // what begins now could not be waited for
    this.#closing.abort();
    this.#onChange();
  }

  async run(): Promise<void> {
    const { signal } = this.#closing;
    let backOffMs = firstBackOffMs;
    while (!signal.aborted) {
      const id = this.#wantedId;
      if (id === undefined) await this.#change();
      else if (await this.#runAs(id)) backOffMs = firstBackOffMs;
      else {
        await delay(backOffMs, undefined, { signal, ref: false }).catch(() => undefined);
        backOffMs = Math.min(backOffMs * 2, maxBackOffMs);
      }
    }
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#onChange = resolve;
    });
  }

  /** From a launch to the end of that identity, or of the service. `false` when the launch failed. */
  async #runAs(id: string): Promise<boolean> {
    const { log } = this.#options;
    const pool = this.#openPool();
    let end = ignore;
    this.over = new Promise((resolve) => {
      end = resolve;
    });
    try {
      const since = performance.now();
      await this.#launch(id, pool);
      log.debug({ executorId: id, ms: Math.round(performance.now() - since) }, 'durable work can begin');
      if (this.#wantedId === id && !this.#closing.signal.aborted) {
        const changed = this.#change();
        this.runningId = id;
        await changed;
      }
      return true;
    } catch (error) {
      if (!this.#closing.signal.aborted) log.warn({ err: error }, 'durable work cannot begin yet; it is tried again');
      return false;
    } finally {
      this.runningId = undefined;
      await this.#stop(pool);
      end();
    }
  }

  #launch(id: string, pool: PatientPool): Promise<void> {
    const { databaseUrl, schema, applicationVersion, log } = this.#options;
    return withLaunchLock({ url: databaseUrl, schema, signal: this.#closing.signal }, async () => {
      DBOS.setConfig({
        name: applicationName,
        systemDatabaseUrl: noUrl,
        systemDatabasePool: pool,
        systemDatabaseSchemaName: workflowSchema(schema),
        applicationVersion,
        executorID: id,
        logger: dbosLogger(log),
      });
      await DBOS.launch();
    });
  }

  #openPool(): PatientPool {
    const pool = new PatientPool({
      ...connectionSettings(this.#options.databaseUrl, 'lps durable'),
      max: durablePoolSize,
      connectionTimeoutMillis: 30_000, // many waiting workflows share few connections
      idleTimeoutMillis: 60_000,
      idle_in_transaction_session_timeout: 60_000,
    });
    pool.on('error', (error) => this.#options.log.debug({ err: error }, 'durable: an idle connection broke'));
    return pool;
  }

  async #stop(pool: PatientPool): Promise<void> {
    const drainMs = this.#closing.signal.aborted ? this.#drainMs : 0;
    const stop = async (): Promise<void> => {
      await DBOS.shutdown({ workflowCompletionTimeoutMS: drainMs });
      await pool.end();
    };
    const stopped = stop().catch((error: unknown) =>
      this.#options.log.debug({ err: error }, 'durable work did not end cleanly'),
    );
    await Promise.race([stopped, delay(drainMs + letGoMs, undefined, { ref: false })]);
  }
}

/**
 * DBOS keeps registrations for the life of a process, so each name is registered once; which function it stands for may
 * change (a service started again in one process, as tests do).
 */
function register(table: WorkflowTable): ReadonlyMap<string, Registered> {
  for (const [name, definition] of Object.entries(table)) {
    current.set(name, definition);
    if (!registered.has(name)) registered.set(name, registerOne(name, definition));
  }
  return registered;
}

function registerOne(name: string, definition: Definition): Registered {
  if ('register' in definition) {
    return definition.register(name, () => {
      const now = definitionOf(name);
      return 'register' in now ? now.parts : undefined;
    });
  }
  const run: Registered = async (input) => {
    const now = definitionOf(name);
    return 'register' in now ? undefined : now(input as never);
  };
  return DBOS.registerWorkflow(run, { name });
}

function definitionOf(name: string): Definition {
  const known = current.get(name);
  if (known === undefined) throw new LpsError('INTERNAL', `there is no workflow ${name}`);
  return known;
}

type Definition = WorkflowTable[string];
type Registered = (...args: unknown[]) => Promise<unknown>;

const current = new Map<string, Definition>();
const registered = new Map<string, Registered>();
