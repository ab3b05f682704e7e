/**
 * Schedules. A schedule keeps the arguments of its action, for years; what it has started are runs, and its own state, with
 * the result of the last one, is the history of a system workflow, which is listed with the runs.
 *
 * The edges of a scan are always all that the schedule holds, and all of them are mutable: whoever changes the schedule
 * takes the arguments away that it had.
 */
import type { Extractor } from '../extract/extractor.js';
import type { TemporalNamespace } from '../temporal-api.js';
import type { HolderKind, Scan } from './holder-kind.js';
import { pages } from './pages.js';

const typeName = 'temporal.api.workflowservice.v1.DescribeScheduleResponse';

/** Holders' ids are those of the schedules. */
export function schedulesKind(extractor: Extractor): HolderKind {
  return {
    name: 'schedule',
    list: (namespace) =>
      pages(
        (next) => namespace.listSchedules(next),
        (id) => ({ id, isClosed: false }),
      ),
    scan: (namespace, id) => scanSchedule(namespace, id, extractor),
  };
}

async function scanSchedule(namespace: TemporalNamespace, id: string, extractor: Extractor): Promise<Scan | undefined> {
  const described = await namespace.describeSchedule(id);
  if (described === undefined) return undefined;
  const { edges, gaps } = await extractor.extract(typeName, described);
  const isKnown = described.schedule?.action?.startWorkflow != null;
  const cursor = JSON.stringify({ v: 1, token: Buffer.from(described.conflictToken ?? []).toString('base64') });
  const unknown = 'its action is of a kind that is not known here: use a version of lps that knows it';
  const mutable = edges.map((edge) => ({ ...edge, isMutable: true }));
  return { isClosed: false, edges: mutable, cursor, gaps: isKnown ? gaps : [...gaps, unknown] };
}
