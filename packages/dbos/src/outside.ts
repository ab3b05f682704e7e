import { AsyncResource } from 'node:async_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import { DBOS } from '@dbos-inc/dbos-sdk';
import { isLostOwnership, messageOf } from './errors.js';

/** Made while the module loads, when no workflow runs. */
const nowhere = new AsyncResource('@large-payload/dbos');
const maxPauseMs = 5000;

/**
 * Runs `ask` out of the workflow that is running: unrecorded, never replayed, and also when the workflow is cancelled.
 * Tries again while DBOS's database is away, as DBOS does with what it records.
 */
export async function outsideWorkflow<T>(ask: () => Promise<T>): Promise<T> {
  for (let pauseMs = 100; ; pauseMs = Math.min(maxPauseMs, pauseMs * 2)) {
    try {
      return await nowhere.runInAsyncScope(ask);
    } catch (error) {
      if (!DBOS.isInitialized() || isLostOwnership(error)) throw error;
      DBOS.logger.warn(`DBOS does not answer, asking again in ${pauseMs} ms: ${messageOf(error)}`);
      await delay(pauseMs);
    }
  }
}
