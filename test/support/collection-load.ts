/** Many scenes at a time, one after the other; and what they leave is deleted again, at random. */
import { randomInt } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { LargePayloadPlugin } from '@large-payload/temporal';
import { Client, type Connection } from '@temporalio/client';
import type { Activities } from './collection-activities.ts';
import { type Checker, type ListedRun, shuffled } from './collection-checker.ts';
import { claimOf, type Stage, scenes } from './collection-scenes.ts';
import { until } from './until.ts';

export interface LoadOptions {
  readonly connection: Connection;
  readonly namespace: string;
  readonly taskQueue: string;
  readonly plugin: LargePayloadPlugin;
  readonly activities: Activities;
  readonly checker: Checker;
  readonly dataDir: string;
  /** Scenes at a time. */
  readonly slots: number;
}

/** More than any step of a scene takes. */
const patienceMs = 300_000;
/** So long, in rounds, an execution has been closed before it is deleted: whoever waited for it has what it left. */
const deletedAfter = 4;
/** More at once would look like a cluster that has lost its holders. */
const maxDeletedShare = 0.1;
/** Temporal deletes when it has time for it, and may do at once what it was asked for in many rounds. */
const maxPendingShare = 0.2;

export class Load {
  /** How often each scene came to its end. */
  readonly played = new Map<string, number>();
  readonly errors: string[] = [];
  /** Rounds of the collection that have begun. */
  round = 0;
  readonly #options: LoadOptions;
  readonly #client: Client;
  readonly #deleted = new Set<string>();
  readonly #ended = new Map<string, number>();
  readonly #quiet = new Set<{ readonly until: number; wake(): void }>();
  readonly #loops: Promise<void>[] = [];
  #count = 0;
  #deck: string[] = [];
  #isOver = false;
  #isSettled = false;

  constructor(options: LoadOptions) {
    const { connection, namespace, plugin, slots } = options;
    this.#options = options;
    // headers go past every data converter
    const header = async (id: string | undefined) => ({ of: await claimOf(plugin, namespace, `${id}, header`) });
    this.#client = new Client({
      ...{ connection, namespace, plugins: [plugin] },
      interceptors: {
        workflow: [
          {
            start: async (input, next) => next({ ...input, headers: await header(input.options.workflowId) }),
            signalWithStart: async (input, next) => next({ ...input, headers: await header(input.options.workflowId) }),
          },
        ],
      },
    });
    this.#loops.push(this.#watchRounds());
    for (let slot = 0; slot < slots; slot += 1) this.#loops.push(this.#play());
  }

  /** No scene begins any more, and those under way go on without a pause. */
  end(): void {
    this.#isOver = true;
    for (const { wake } of this.#quiet) wake();
  }

  /** Ends all that is open, and all schedules. */
  async closeAll(): Promise<void> {
    const { checker, connection, namespace, activities } = this.#options;
    const { workflowService } = connection;
    this.end();
    void Promise.all(this.#loops).then(() => {
      this.#isSettled = true;
    });
    await until(
      'the end of everything',
      async () => {
        const wasSettled = this.#isSettled;
        activities.letAllGo();
        const schedules = await checker.listSchedules();
        for (const scheduleId of schedules) await gone(workflowService.deleteSchedule({ namespace, scheduleId }));
        const open = (await checker.listRuns()).filter(({ isClosed }) => !isClosed);
        for (const { workflowId, runId } of open.filter(({ workflowId }) => !isSystem(workflowId))) {
          await gone(
            workflowService.terminateWorkflowExecution({ namespace, workflowExecution: { workflowId, runId } }),
          );
        }
        return wasSettled && open.length + schedules.length === 0 ? true : undefined;
      },
      patienceMs,
    );
  }

  /** Deletes every run there is, and resolves when each is NotFound by its id: a list may show it for longer. */
  async deleteAll(): Promise<void> {
    const { checker, connection, namespace } = this.#options;
    let left: readonly ListedRun[] = await checker.listRuns();
    for (const run of left) await this.#delete(run);
    const isThere = async (execution: { workflowId: string; runId: string }): Promise<boolean> =>
      !(await gone(connection.workflowService.describeWorkflowExecution({ namespace, execution })));
    await until(
      'the end of all runs',
      async () => {
        const checks = await Promise.all(
          left.slice(0, 50).map(async ({ workflowId, runId }) => ((await isThere({ workflowId, runId })) ? runId : '')),
        );
        left = left.filter(({ runId }, at) => at >= checks.length || checks[at] === runId);
        return left.length === 0 || undefined;
      },
      patienceMs,
    ).catch((cause: unknown) => {
      throw new Error(`${left.length} runs are left: ${JSON.stringify(left.slice(0, 10))}`, { cause });
    });
  }

  /** Runs that Temporal was asked to delete. */
  get deleted(): number {
    return this.#deleted.size;
  }

  /** One slot. */
  async #play(): Promise<void> {
    while (!this.#isOver) {
      if (this.#deck.length === 0) this.#deck = shuffled(Object.keys(scenes));
      const name = this.#deck.pop() ?? '';
      this.#count += 1;
      const id = `${name}-${this.#count}`;
      try {
        await scenes[name]?.(this.#stage(id));
        this.played.set(name, (this.played.get(name) ?? 0) + 1);
      } catch (error) {
        // at the end everything is terminated, whatever waits for it
        if (!this.#isOver) this.errors.push(`${id}: ${error instanceof Error ? error.stack : error}`);
      }
      this.#ended.set(id, this.round);
    }
  }

  #stage(id: string): Stage {
    const { namespace, taskQueue, plugin, activities, checker } = this.#options;
    return {
      ...{ id, client: this.#client, namespace, taskQueue, plugin, activities },
      quiet: () => this.#rest(randomInt(4) === 0 ? randomInt(12, 20) : randomInt(4)),
      until: (what, ask) => this.#until(what, ask),
      forget: async (workflowId, runId) => {
        const isMeant = (run: ListedRun) => run.workflowId === workflowId && (runId ?? run.runId) === run.runId;
        for (const run of checker.runs) if (run.isClosed && isMeant(run) && !this.#isOver) await this.#delete(run);
      },
    };
  }

  async #until<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
    const over = Symbol();
    const answer = await until<T | typeof over>(what, async () => (this.#isOver ? over : ask()), patienceMs);
    if (answer === over) throw new Error('the time of the scenes is over');
    return answer as T;
  }

  #rest(rounds: number): Promise<void> {
    if (rounds === 0 || this.#isOver) return Promise.resolve();
    return new Promise((resolve) => {
      const resting = {
        until: this.round + rounds,
        wake: () => {
          this.#quiet.delete(resting);
          resolve();
        },
      };
      this.#quiet.add(resting);
    });
  }

  /** In each round: wakes who has rested for long enough, and deletes some of what has ended. */
  async #watchRounds(): Promise<void> {
    const file = join(this.#options.dataDir, 'store', 'own', 'rounds');
    while (!this.#isOver) {
      this.round = await until(
        'the next round',
        async () => {
          const { rounds } = JSON.parse(await readFile(file, 'utf8')) as { readonly rounds: string };
          return Number(rounds) > this.round || this.#isOver ? Number(rounds) : undefined;
        },
        patienceMs,
      );
      for (const resting of this.#quiet) if (resting.until <= this.round) resting.wake();
      if (!this.#isOver) await this.#deleteSome();
    }
  }

  /** Of three scenes that ended, one keeps its executions. */
  async #deleteSome(): Promise<void> {
    const { runs } = this.#options.checker;
    const isDue = ({ workflowId, isClosed }: ListedRun): boolean => {
      const [, id = '', number] = /^(?:temporal-sys-scheduler:)?(\w+-(\d+))/.exec(workflowId) ?? [];
      const ended = this.#ended.get(id);
      return isClosed && ended !== undefined && ended + deletedAfter <= this.round && Number(number) % 3 !== 0;
    };
    const pending = runs.filter(({ runId }) => this.#deleted.has(runId)).length;
    const most = Math.ceil(Math.min(maxDeletedShare * runs.length, maxPendingShare * runs.length - pending));
    const due = shuffled(runs.filter((run) => isDue(run) && !this.#deleted.has(run.runId))).slice(0, Math.max(0, most));
    for (const run of due) await this.#delete(run);
  }

  /** Asks once: Temporal deletes when it has time for it, and would try as often as it was asked. */
  async #delete({ workflowId, runId }: ListedRun): Promise<void> {
    const { connection, namespace } = this.#options;
    if (this.#deleted.has(runId)) return;
    this.#deleted.add(runId);
    await gone(
      connection.workflowService.deleteWorkflowExecution({ namespace, workflowExecution: { workflowId, runId } }),
    );
  }
}

/** System workflows of schedules end with their schedule, those of batches by themselves. */
function isSystem(workflowId: string): boolean {
  return workflowId.startsWith('temporal-sys-') || workflowId.endsWith('/batch');
}

/** Whether what was asked for is gone already. */
async function gone(call: Promise<unknown>): Promise<boolean> {
  try {
    await call;
    return false;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 5) return true;
    throw error;
  }
}
