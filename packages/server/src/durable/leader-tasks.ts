/** What only one replica does at a time, again and again, while it leads. */
import { setTimeout as delay } from 'node:timers/promises';
import { isLpsError } from '@large-payload/core';
import type { Logger } from 'pino';
import type { Leadership } from './replicas.js';

/** After a round that came too early. */
const soonMs = 5000;

export interface LeaderTask {
  /** For the log. */
  readonly name: string;
  readonly everyMs: number;
  /**
   * Throws TRY_AGAIN to be run again soon. A round may still be under way when another replica leads already: what must not
   * happen then is done in `leadership.transaction`, the rest may be done twice.
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
    let pauseMs = task.everyMs;
    try {
      await task.run(leadership);
    } catch (error) {
      const isTooEarly = isLpsError(error, 'TRY_AGAIN');
      if (isTooEarly) pauseMs = Math.min(pauseMs, soonMs);
      const isExpected = isTooEarly || signal.aborted || isLpsError(error, 'ABORTED');
      log[isExpected ? 'debug' : 'warn']({ err: error }, `${task.name} failed; it runs again`);
    }
    await delay(pauseMs, undefined, { signal, ref: false }).catch(() => undefined);
  }
}
