/** What only one replica does at a time, again and again, while it leads. */
import { setTimeout as delay } from 'node:timers/promises';
import { isLpsError } from '@large-payload/core';
import type { Logger } from 'pino';
import type { Leadership } from './replicas.js';

export interface LeaderTask {
  /** For the log. */
  readonly name: string;
  readonly everyMs: number;
  /**
   * A round may still be under way when another replica leads already: what must not happen then is done in
   * `leadership.transaction`, the rest may be done twice.
   */
  run(leadership: Leadership): Promise<void>;
}

/** Runs each task at once and then at its interval, never twice at a time; resolves when all have ended after the loss. */
export async function runWhileLeading(
  leadership: Leadership,
  tasks: readonly LeaderTask[],
  log: Logger,
): Promise<void> {
  await Promise.all(tasks.map((task) => repeat(task, leadership, log)));
}

async function repeat(task: LeaderTask, leadership: Leadership, log: Logger): Promise<void> {
  const { signal } = leadership;
  while (!signal.aborted) {
    try {
      await task.run(leadership);
    } catch (error) {
      const isExpected = signal.aborted || isLpsError(error, 'ABORTED') || isLpsError(error, 'TRY_AGAIN');
      log[isExpected ? 'debug' : 'warn']({ err: error }, `${task.name} failed; it runs again`);
    }
    await delay(task.everyMs, undefined, { signal, ref: false }).catch(() => undefined);
  }
}
