import { condition, continueAsNew, defineSignal, proxyActivities, setHandler } from '@temporalio/workflow';
import { fold, resultCount } from './blobs.js';

/** @type {import('@temporalio/workflow').ActivityInterfaceFor<typeof import('./activities.js')>} */
const { produce } = proxyActivities({ startToCloseTimeout: '10 seconds', retry: { initialInterval: '100ms' } });

export const attach = defineSignal('attach');

/**
 * Nothing in here knows of large payloads. First run: checksums its argument (5 MB), 20 results of 1 MB and a signal of
 * 3 MB, then continues as new, with the argument again. Second run: returns the checksum over everything.
 *
 * @param {Uint8Array} argument
 * @param {number} [checksum] of the first run
 * @returns {Promise<number>}
 */
export async function checksumEverything(argument, checksum) {
  if (checksum !== undefined) return fold(checksum, argument);
  /** @type {Uint8Array | undefined} */
  let attached;
  setHandler(attach, (bytes) => {
    attached = bytes;
  });

  let sum = fold(0, argument);
  for (let first = 0; first < resultCount; first += 4) {
    const results = await Promise.all([0, 1, 2, 3].map((offset) => produce(first + offset)));
    for (const bytes of results) sum = fold(sum, bytes);
  }
  await condition(() => attached !== undefined);
  sum = fold(sum, attached);
  return continueAsNew(argument, sum);
}
