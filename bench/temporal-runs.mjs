// Closed runs on a real Temporal server, and a count of what is asked of it: for bench/collection.mjs --temporal.
import { formatClaim, keyFor } from '@large-payload/core';
import { Connection } from '@temporalio/client';
import { openCluster } from '../packages/server/dist/lifecycle/temporal/cluster.js';
import { blobDigest } from './temporal-model.mjs';

const namespace = 'default';
const startsAtOnce = 16;
const visibleWithinMs = 60_000;

/** Starts runs that no worker takes, and terminates them; resolves when all of them are listed as closed. */
export async function startRuns({ address, runs, seed, blobNamespace, signal }) {
  const connection = await Connection.connect({ address });
  const { workflowService } = connection;
  let next = 0;
  const start = async () => {
    while (next < runs) {
      signal.throwIfAborted();
      const number = next++;
      const workflowId = `order-${number}`;
      await workflowService.startWorkflowExecution({
        namespace,
        workflowId,
        requestId: workflowId,
        workflowType: { name: 'order' },
        taskQueue: { name: 'nobody' },
        input: { payloads: [claimOf(seed, number, blobNamespace)] },
      });
      await workflowService.terminateWorkflowExecution({ namespace, workflowExecution: { workflowId } });
    }
  };
  await Promise.all(Array.from({ length: startsAtOnce }, start));
  const query = 'ExecutionStatus = "Terminated"';
  const until = Date.now() + visibleWithinMs;
  for (let listed = 0; listed < runs; ) {
    signal.throwIfAborted();
    if (Date.now() > until) throw new Error(`after a minute ${listed} of ${runs} runs were listed`);
    listed = Number((await workflowService.countWorkflowExecutions({ namespace, query })).count);
  }
  await connection.close();
}

function claimOf(seed, number, blobNamespace) {
  const digest = `sha256:${blobDigest(seed, number)}`;
  const metadata = { encoding: Buffer.from('json/plain') };
  return formatClaim({ metadata, size: 500_000, digest, key: keyFor(blobNamespace, digest, null) });
}

/** As the service asks it, but as fast as it answers. Has what the bench reads of a ModelCluster. */
export class CountedCluster {
  calls = {};
  ownMs = 0;
  #cluster;
  #namespace;

  constructor(address) {
    const settings = { namespaces: [namespace], isIsolated: false, claimFreeEncodings: [], acceptServerVersions: [] };
    this.#cluster = openCluster({ name: 'bench', address, requestsPerSecond: 1_000_000, ...settings });
  }

  async open() {
    [this.#namespace] = await this.#cluster.namespaces();
  }

  close() {
    return this.#cluster.close();
  }

  namespace() {
    const asked = this.#namespace;
    const counted = (kind, call) => {
      this.calls[kind] = (this.calls[kind] ?? 0) + 1;
      return call;
    };
    return {
      cluster: asked.cluster,
      name: asked.name,
      describe: () => counted('namespace', asked.describe()),
      listRuns: (next) => counted('list runs', asked.listRuns(next)),
      describeRun: (run) => counted('describe run', asked.describeRun(run)),
      historyBackwards: (run, next) => counted('history', asked.historyBackwards(run, next)),
      listSchedules: (next) => counted('list schedules', asked.listSchedules(next)),
      describeSchedule: (id) => counted('describe schedule', asked.describeSchedule(id)),
    };
  }
}
