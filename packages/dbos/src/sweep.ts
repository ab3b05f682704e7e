/**
 * A workflow that is cancelled, by hand or by its deadline, does not run any more. When it runs in a living process, it
 * starts its clean-up itself (./run.ts). When it does not, this finds it: at launch, and every ten minutes.
 */
import { DBOS, type WorkflowStatus } from '@dbos-inc/dbos-sdk';
import type { FileRecord } from './callbacks.js';
import { messageOf } from './errors.js';
import { cleanUpID, type Frame } from './frame.js';
import { reason, startOutside } from './give-up.js';
import { outsideWorkflow } from './outside.js';

const everyMs = 600_000;
const lookBackMs = 7 * 24 * 3600_000;
const maxFound = 1000;

export function sweepCancelled<R extends FileRecord, Options>(frame: Frame<R, Options>): void {
  let timer: NodeJS.Timeout | undefined;
  const run = (): void => {
    outsideWorkflow(() => sweep(frame)).catch((error: unknown) => {
      DBOS.logger.warn(`Cancelled workflows of ${frame.names.name} were not looked for: ${messageOf(error)}`);
    });
  };
  DBOS.registerLifecycleCallback({
    initialize: async () => {
      timer = setInterval(run, everyMs).unref();
      run();
    },
    destroy: async () => clearInterval(timer),
  });
}

async function sweep<R extends FileRecord, Options>(frame: Frame<R, Options>): Promise<void> {
  const sinceMs = Date.now() - lookBackMs;
  const found = await DBOS.listWorkflows({
    workflowName: frame.names.name,
    status: ['CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'],
    startTime: new Date(sinceMs - lookBackMs).toISOString(),
    sortDesc: true,
    limit: maxFound,
    loadOutput: false,
  });
  const ended = found.filter(
    (status) =>
      status.workflowClassName === frame.names.className &&
      (status.completedAt ?? status.updatedAt ?? 0) >= sinceMs &&
      (status.recoveryAttempts ?? 0) >= 1, // it has run
  );
  if (ended.length === 0) return;
  const ids = ended.map(({ workflowID }) => cleanUpID(workflowID));
  const known = new Set(
    (await DBOS.listWorkflows({ workflowIDs: ids, loadInput: false, loadOutput: false })).map(
      ({ workflowID }) => workflowID,
    ),
  );
  for (const status of ended) {
    if (!known.has(cleanUpID(status.workflowID))) await undo(frame, status);
  }
}

async function undo<R extends FileRecord, Options>(
  frame: Frame<R, Options>,
  { workflowID, status, input }: WorkflowStatus,
): Promise<void> {
  const steps = (await DBOS.listWorkflowSteps(workflowID)) ?? [];
  // Everything was done before the cancel came.
  if (steps.some(({ name, error }) => name === frame.lastEffect && error === null)) return;
  const { row, object, openUntilMs } = frame.leftBy(steps);
  const nowMs = Date.now();
  const lastMs = Math.max(openUntilMs, nowMs);
  await startOutside(frame, cleanUpID(workflowID), {
    rec: input?.[0] as R,
    ...(frame.kind === 'upload' ? { uploadID: workflowID } : {}),
    row,
    object,
    passesAtMs: [nowMs, ...(frame.kind === 'upload' ? frame.settings.latePassesMs.map((ms) => lastMs + ms) : [])],
    because: reason(`it is ${status}`),
  });
}
