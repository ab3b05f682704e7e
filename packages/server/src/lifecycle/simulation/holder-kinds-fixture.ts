/** Kinds of holders for the model: as the real ones read runs and schedules, with a search for claims that is quick. */
import { isClaimPayload, type Payload, parseClaim, parseKey } from '@large-payload/core';
import type { Edge } from '../edge.js';
import type { FoundHolder, HolderKind, Scan } from '../holders/holder-kind.js';
import type { HistoryEvent, RunId, TemporalNamespace } from '../temporal-api.js';

interface Extract {
  readonly edges: Edge[];
  readonly gaps: string[];
}

const known = new WeakMap<object, Edge>();

export const runKind: HolderKind = {
  name: 'run',
  async *list(namespace): AsyncIterable<readonly FoundHolder[]> {
    for (let next: Uint8Array | undefined; ; ) {
      const page = await namespace.listRuns(next);
      yield page.items.map(({ workflowId, runId, isClosed }) => ({ id: `${workflowId}\n${runId}`, isClosed }));
      next = page.next;
      if (next === undefined) return;
    }
  },
  async scan(namespace, id, cursor): Promise<Scan | undefined> {
    const [workflowId = '', runId = ''] = id.split('\n');
    const run = { workflowId, runId };
    const described = await namespace.describeRun(run);
    if (described === undefined) return undefined;
    const events = await newEvents(namespace, run, Number(cursor ?? 0));
    if (events === undefined) return undefined;
    const extract: Extract = { edges: [], gaps: [] };
    search([described, events], extract);
    const isClosed = described.workflowExecutionInfo?.status !== 1;
    return {
      isClosed,
      ...extract,
      cursor: String(events.reduce((max, event) => Math.max(max, idOf(event)), Number(cursor ?? 0))),
    };
  },
};

export const scheduleKind: HolderKind = {
  name: 'schedule',
  async *list(namespace): AsyncIterable<readonly FoundHolder[]> {
    for (let next: Uint8Array | undefined; ; ) {
      const page = await namespace.listSchedules(next);
      yield page.items.map((id) => ({ id, isClosed: false }));
      next = page.next;
      if (next === undefined) return;
    }
  },
  async scan(namespace, id): Promise<Scan | undefined> {
    const described = await namespace.describeSchedule(id);
    if (described === undefined) return undefined;
    const extract: Extract = { edges: [], gaps: [] };
    search(described, extract);
    return { isClosed: false, ...extract, cursor: 'read' };
  },
};

async function newEvents(namespace: TemporalNamespace, run: RunId, after: number): Promise<HistoryEvent[] | undefined> {
  const events: HistoryEvent[] = [];
  for (let next: Uint8Array | undefined; ; ) {
    const page = await namespace.historyBackwards(run, next);
    if (page === undefined) return undefined;
    events.push(...page.items.filter((event) => idOf(event) > after));
    next = page.next;
    if (next === undefined || page.items.some((event) => idOf(event) <= after)) return events;
  }
}

function idOf({ eventId }: HistoryEvent): number {
  return Number(eventId);
}

/** Whatever looks like a payload. */
function search(value: unknown, extract: Extract): void {
  if (typeof value !== 'object' || value === null || value instanceof Uint8Array) return;
  if ('metadata' in value && 'data' in value) searchPayload(value as Payload, extract);
  else for (const part of Object.values(value)) search(part, extract);
}

function searchPayload(payload: Payload, { edges, gaps }: Extract): void {
  const before = known.get(payload);
  if (before !== undefined) {
    edges.push(before);
    return;
  }
  if (!isClaimPayload(payload)) {
    gaps.push('a payload cannot be decoded: binary/encrypted');
    return;
  }
  const { digest, key } = parseClaim(payload);
  const edge: Edge = key === undefined ? { digest } : { digest, namespace: parseKey(key).namespace };
  known.set(payload, edge);
  edges.push(edge);
}
