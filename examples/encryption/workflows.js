import { proxyActivities } from '@temporalio/workflow';

/** @type {import('@temporalio/workflow').ActivityInterfaceFor<typeof import('./activities.js')>} */
const { examine, notify } = proxyActivities({ startToCloseTimeout: '10 seconds' });

/**
 * Nothing in here knows of encryption, or of large payloads.
 *
 * @param {import('./activities.js').Case} patient a large one
 * @returns {Promise<string>} a small one
 */
export async function treat(patient) {
  const report = await examine(patient);
  return notify(report);
}
