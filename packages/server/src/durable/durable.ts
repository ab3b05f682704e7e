/**
 * Durable work of this process among its replicas.
 *
 *   replicas.ts        who is there, who leads           session, heartbeat, lock, epoch
 *   runtime.ts         DBOS under this replica's id       launched, launched again, drained
 *   recovery.ts        what gone replicas left            each replica takes up its own version's
 *   leader-tasks.ts    declaring them gone, old versions, retention, and the tasks of the service
 */
import { setTimeout as delay } from 'node:timers/promises';
import { DBOS } from '@dbos-inc/dbos-sdk';
import { LpsError } from '@large-payload/core';
import type { Logger } from 'pino';
import { type Database, openDatabase } from '../catalog/database.js';
import { version as serviceVersion } from '../version.js';
import { replicaPoolSize } from './connections.js';
import { type LeaderTask, runWhileLeading } from './leader-tasks.js';
import {
  adoptVersions,
  idsOf,
  namedByUnfinished,
  removeEnded,
  resumeWorkOf,
  unfinishedByVersion,
  withRunningWork,
} from './recovery.js';
import { replicaStatements } from './replica-sql.js';
import { beatMsOf, joinReplicas, type Leadership, type Replica } from './replicas.js';
import { type DurableRuntime, notRunning, startRuntime } from './runtime.js';
import { openWorkflowAdmin, type WorkflowAdmin } from './workflow-admin.js';
import { applicationVersion, compatibleVersions, type WorkflowTable } from './workflows.js';

export interface DurableOptions<Table extends WorkflowTable> {
  readonly databaseUrl: string;
  /** The catalog's; its migrations have run. */
  readonly schema: string;
  readonly workflows: Table;
  readonly log: Logger;
  /** After so long without a sign of life a replica is gone. */
  readonly replicaTimeoutMs: number;
  /** How long finished workflows are kept. */
  readonly retentionMs: number;
  /** Nobody else can be on this database (it is embedded): whoever is registered is gone. */
  readonly isAlone: boolean;
  /** Further tasks of the leader. */
  readonly tasks?: readonly LeaderTask[];
  /** Called when it changes: unfinished workflows that no replica can go on with, by the version of their code. */
  readonly onStranded?: (byVersion: ReadonlyMap<string, number>) => void;
  /** Default: this program's. */
  readonly version?: string;
  readonly compatible?: readonly string[];
}

export interface DurableState {
  /** Whether workflows run here. */
  readonly running: boolean;
  readonly leads: boolean;
  /** As the leader counted last; 0 elsewhere. */
  readonly stranded: number;
}

export interface Durable<Table extends WorkflowTable> {
  readonly start: DurableRuntime<Table>['start'];
  readonly argsOf: DurableRuntime<Table>['argsOf'];
  readonly send: DurableRuntime<Table>['send'];
  readonly workflows: WorkflowAdmin;
  state(): DurableState;
  /** Workflows under way get so long to finish; others take up what is left. */
  close(drainMs: number): Promise<void>;
}

const hourMs = 3_600_000;
/** How long rows of gone replicas are kept, once nothing of theirs is unfinished. */
const goneRetentionMs = 24 * hourMs;
/** Between two looks at what gone replicas have left. */
const takeUpMs = 1000;
const reportMs = 60_000;
const letGoMs = 2000;

/** Starts in the background: Postgres may be away. Throws CONFIG_INVALID when this process runs DBOS already. */
export function startDurable<Table extends WorkflowTable>(options: DurableOptions<Table>): Durable<Table> {
  const { databaseUrl, schema, log, version = applicationVersion, compatible = compatibleVersions } = options;
  const runtime = startRuntime({ ...options, applicationVersion: version });
  const database = openDatabase({
    url: databaseUrl,
    maxConnections: replicaPoolSize,
    statementTimeoutMs: 10_000,
    log: (line) => log.debug(line),
  });
  const work = new LeftWork({ ...options, database, version, compatible }, () => runtime.executorId !== undefined);
  let leading: Promise<void> = Promise.resolve();
  const replica = joinReplicas({
    url: databaseUrl,
    schema,
    database,
    applicationVersion: version,
    serviceVersion,
    timeoutMs: options.replicaTimeoutMs,
    log: (line) => log.info(line),
    onIdentity: (id) => runtime.setExecutorId(id),
    onLead(leadership) {
      leading = leading.then(() => runWhileLeading(leadership, [...work.tasks(), ...(options.tasks ?? [])], log));
    },
  });
  const stop = new AbortController();
  const taking = work.takeUp(stop.signal);
  return {
    start: (name, id, ...args) => runtime.start(name, id, ...args),
    argsOf: (name, id) => runtime.argsOf(name, id),
    send: (id, topic, message) => runtime.send(id, topic, message),
    workflows: openWorkflowAdmin({
      database,
      schema,
      versions: [version, ...compatible],
      source() {
        if (runtime.executorId === undefined) throw notRunning();
        return DBOS;
      },
    }),
    state: () => stateOf(runtime, replica, work),
    async close(drainMs) {
      stop.abort();
      await runtime.close(drainMs); // still with signs of life: what drains is not to be taken over
      await replica.close();
      // a round may be waiting for a Postgres that is away
      await Promise.race([Promise.all([leading, taking]), delay(letGoMs, undefined, { ref: false })]);
      await database.close();
    },
  };
}

function stateOf<Table extends WorkflowTable>(
  { executorId }: DurableRuntime<Table>,
  { leadership }: Replica,
  { strandedCount }: LeftWork,
): DurableState {
  return {
    running: executorId !== undefined,
    leads: leadership !== undefined,
    stranded: leadership === undefined ? 0 : strandedCount,
  };
}

type LeftWorkOptions = Pick<
  DurableOptions<WorkflowTable>,
  'schema' | 'log' | 'replicaTimeoutMs' | 'retentionMs' | 'isAlone' | 'onStranded'
> & { readonly database: Database; readonly version: string; readonly compatible: readonly string[] };

/** What replicas that are gone, and older versions, have left behind. */
class LeftWork {
  strandedCount = 0;
  #stranded = new Map<string, number>();
  readonly #options: LeftWorkOptions;
  readonly #isRunning: () => boolean;
  readonly #sql: ReturnType<typeof replicaStatements>;

  constructor(options: LeftWorkOptions, isRunning: () => boolean) {
    this.#options = options;
    this.#isRunning = isRunning;
    this.#sql = replicaStatements(options.schema);
  }

  /** Every replica: goes on with what gone ones of its version have left, whoever declared them so. */
  async takeUp(signal: AbortSignal): Promise<void> {
    const { log } = this.#options;
    while (!signal.aborted) {
      await delay(takeUpMs, undefined, { signal, ref: false }).catch(() => undefined);
      if (signal.aborted || !this.#isRunning()) continue;
      await this.#takeUpOnce().catch((error: unknown) =>
        log.debug({ err: error }, 'the work of gone replicas could not be looked at; it is tried again'),
      );
    }
  }

  async #takeUpOnce(): Promise<void> {
    const { database, version, compatible, log } = this.#options;
    const gone = idsOf(await database.run(this.#sql.goneOf, [[version, ...compatible]]));
    const busy = await withRunningWork(gone, version);
    if (busy.length === 0) return;
    const resumed = await resumeWorkOf(busy);
    if (resumed.length > 0)
      log.info({ replicas: busy, workflows: resumed.length }, 'the work of gone replicas goes on');
  }

  tasks(): LeaderTask[] {
    const beatMs = beatMsOf(this.#options.replicaTimeoutMs);
    return [
      { name: 'looking for gone replicas', everyMs: beatMs, run: (leadership) => this.#declareGone(leadership) },
      {
        name: 'looking for work of other versions',
        everyMs: Math.min(reportMs, 2 * this.#options.replicaTimeoutMs),
        run: () => this.#reportStranded(),
      },
      { name: 'removing old workflows', everyMs: hourMs / 4, run: (leadership) => this.#removeOld(leadership) },
    ];
  }

  async #declareGone(leadership: Leadership): Promise<void> {
    const { isAlone, replicaTimeoutMs, log, version, compatible, schema } = this.#options;
    const silenceMs = isAlone ? 0 : replicaTimeoutMs;
    await leadership.transaction(async (run) => {
      const values = [leadership.executorId, silenceMs, leadership.since];
      for (const row of await run(this.#sql.declareGone, values)) {
        log.warn({ executorId: row.executor_id, seenAt: row.seen_at }, 'a replica is gone: it gave no sign of life');
      }
      if (compatible.length === 0 || !this.#isRunning()) return;
      const adopted = await run(adoptVersions(schema), [version, [...compatible]]);
      if (adopted.length > 0) log.info({ workflows: adopted.length }, 'work of an older version goes on in this one');
    });
  }

  async #reportStranded(): Promise<void> {
    const { database, version, compatible, onStranded } = this.#options;
    this.#mustRun();
    const living = await database.run(this.#sql.livingVersions, []);
    const served = new Set([version, ...compatible, ...living.map((row) => String(row.application_version))]);
    const stranded = new Map([...(await unfinishedByVersion())].filter(([other]) => !served.has(other)));
    this.strandedCount = [...stranded.values()].reduce((sum, count) => sum + count, 0);
    const isNew = [...stranded.keys()].some((other) => !this.#stranded.has(other));
    this.#stranded = stranded;
    if (isNew) onStranded?.(stranded);
  }

  async #removeOld(leadership: Leadership): Promise<void> {
    const { database, retentionMs, log } = this.#options;
    this.#mustRun();
    const now = await leadership.transaction(async (_run, now) => now);
    const ended = await removeEnded(new Date(now.getTime() - retentionMs), leadership.signal);
    const old = idsOf(await database.run(this.#sql.goneBefore, [goneRetentionMs]));
    const kept = await namedByUnfinished(old);
    const removed = await leadership.transaction((run) => run(this.#sql.removeOld, [goneRetentionMs, kept]));
    if (ended + removed.length > 0)
      log.info({ workflows: ended, replicas: removed.length }, 'finished workflows and gone replicas were forgotten');
  }

  #mustRun(): void {
    if (!this.#isRunning()) throw new LpsError('TRY_AGAIN', 'durable work has not begun yet');
  }
}
