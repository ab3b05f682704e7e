/**
 * Runs of workflows, open and closed, those of system workflows too (schedules' own, batch jobs).
 *
 * A run is described first: what its pending activities hold (heartbeats, the last failure) is in no history yet, and moves
 * there when they end, never back. Whether it is closed is what that description said: a run that closes in between is read
 * once more. Then its history, backwards, down to the event where the last scan ended. That event is read again, to see that
 * it is the same one: after a failover, a cluster may replace a part of a history.
 *
 * What is in the history stays there. What the description shows is mutable: a heartbeat takes the place of the one before it.
 */
import { isLpsError, LpsError } from '@large-payload/core';
import proto from '@temporalio/proto';
import type { Collection, Extractor } from '../extract/extractor.js';
import { isClosedStatus } from '../run-status.js';
import type { DescribedRun, HistoryEvent, ListedRun, RunId, TemporalNamespace } from '../temporal-api.js';
import type { FoundHolder, HolderKind, Scan } from './holder-kind.js';
import { pages } from './pages.js';

const describedName = 'temporal.api.workflowservice.v1.DescribeWorkflowExecutionResponse';
const historyName = 'temporal.api.history.v1.History';
const eventTypes: Readonly<Record<number, string>> = proto.temporal.api.enums.v1.EventType;
/** Of one run: the first ones tell enough. */
const maxGaps = 10;
/** A history that changes under the reader is read again from its end, so many times. */
const maxReadings = 3;

/** Holders' ids are `{workflow id}\n{run id}`. */
export function runsKind(extractor: Extractor): HolderKind {
  return {
    name: 'run',
    list: (namespace) => pages((next) => namespace.listRuns(next), found),
    scan: (namespace, id, cursor) => new RunScan(namespace, parseRun(id), extractor).scan(parseCursor(cursor)),
  };
}

/** The newest event that was read, and what tells it from another of the same number. */
interface Cursor {
  readonly event: number;
  readonly version: string;
  readonly task: string;
  /** Of the run, when it was described: as long as it is the same, so is everything else. */
  readonly transitions: number;
}

class RunScan {
  readonly #namespace: TemporalNamespace;
  readonly #run: RunId;
  readonly #described: Collection;
  readonly #found: Collection;
  readonly #gaps: string[] = [];

  constructor(namespace: TemporalNamespace, run: RunId, extractor: Extractor) {
    this.#namespace = namespace;
    this.#run = run;
    this.#described = extractor.collect();
    this.#found = extractor.collect();
  }

  async scan(cursor: Cursor | undefined): Promise<Scan | undefined> {
    const described = await this.#namespace.describeRun(this.#run);
    if (described === undefined) return undefined;
    const { isClosed, length, transitions } = this.#stateOf(described);
    await this.#described.add(describedName, described);
    const isRead = cursor !== undefined && cursor.event === length && cursor.transitions === transitions;
    const newest = isRead ? cursor : await this.#readHistory(cursor, length);
    if (newest === undefined) return undefined;
    const [state, history] = [this.#described.result(), this.#found.result()];
    const edges = [...history.edges, ...state.edges.map((edge) => ({ ...edge, isMutable: true }))];
    const gaps = [...new Set([...state.gaps, ...history.gaps, ...this.#gaps])];
    return { isClosed, edges, cursor: formatCursor({ ...newest, transitions }), gaps };
  }

  #stateOf({ workflowExecutionInfo: info }: DescribedRun): { isClosed: boolean; length: number; transitions: number } {
    // one id was asked for; another's answer would hide what this one holds
    if (info?.execution?.runId !== this.#run.runId) throw this.#unreadable('another run was described');
    const [length, transitions] = [Number(info.historyLength ?? 0), Number(info.stateTransitionCount ?? 0)];
    return { isClosed: isClosedStatus(info.status), length, transitions };
  }

  /** Resolves with the newest event; `undefined` when the run is gone meanwhile. */
  async #readHistory(cursor: Cursor | undefined, length: number): Promise<Omit<Cursor, 'transitions'> | undefined> {
    for (let reading = 1; ; reading += 1) {
      try {
        return await this.#readOnce(cursor, length);
      } catch (error) {
        if (!isLpsError(error) || error.details.isPageLost !== true || reading === maxReadings) throw error;
      }
    }
  }

  async #readOnce(cursor: Cursor | undefined, length: number): Promise<Omit<Cursor, 'transitions'> | undefined> {
    let newest: Omit<Cursor, 'transitions'> | undefined;
    let below = Number.POSITIVE_INFINITY;
    for (let next: Uint8Array | undefined; ; ) {
      const page = await this.#namespace.historyBackwards(this.#run, next);
      if (page === undefined) return undefined;
      if (page.items.length === 0) throw this.#unreadable('a page of its history is empty');
      this.#requireUnbroken(page.items, below);
      const first = page.items[0];
      if (newest === undefined && first !== undefined) {
        newest = placeOf(first);
        if (newest.event < length)
          throw this.#unreadable(`the history ends at ${newest.event}, described was ${length}`);
      }
      below = idOf(page.items.at(-1)) ?? below;
      const isMet = page.items.some((event) => isSame(event, cursor));
      if (page.unknown !== undefined) await this.#found.add(historyName, { $unknowns: page.unknown });
      await this.#take(page.items.filter((event) => !isMet || (idOf(event) ?? 0) > (cursor?.event ?? 0)));
      if (isMet) break;
      next = page.next;
      if (next === undefined && below !== 1) throw this.#unreadable(`the history begins at ${below}`);
      if (next === undefined) break;
    }
    return newest;
  }

  /** Events of a run are numbered without a gap: a page that was left out shows. */
  #requireUnbroken(events: readonly HistoryEvent[], below: number): void {
    let expected = below;
    for (const event of events) {
      const id = idOf(event) ?? 0;
      if (id < 1 || (expected !== Number.POSITIVE_INFINITY && id !== expected - 1))
        throw this.#unreadable(`event ${id} follows ${expected}`);
      expected = id;
    }
  }

  async #take(events: readonly HistoryEvent[]): Promise<void> {
    if (events.length === 0) return;
    for (const { eventId, eventType } of events) {
      if (eventTypes[eventType ?? 0] !== undefined || this.#gaps.length >= maxGaps) continue;
      this.#gaps.push(
        `event ${eventId} is of type ${eventType}, which is not known here: use a version of lps that knows it`,
      );
    }
    await this.#found.add(historyName, { events });
  }

  #unreadable(why: string): LpsError {
    const { cluster, name } = this.#namespace;
    const run = `run ${this.#run.runId} of workflow ${JSON.stringify(this.#run.workflowId)}`;
    return new LpsError('TEMPORAL_UNAVAILABLE', `${cluster}: ${run} of ${name} cannot be read as a whole: ${why}`, {
      details: { isPageLost: true },
    });
  }
}

function idOf(event: HistoryEvent | undefined): number | undefined {
  return event === undefined ? undefined : Number(event.eventId ?? 0);
}

function placeOf({ eventId, version, taskId }: HistoryEvent): Omit<Cursor, 'transitions'> {
  return { event: Number(eventId ?? 0), version: `${version ?? 0}`, task: `${taskId ?? 0}` };
}

function isSame(event: HistoryEvent, cursor: Cursor | undefined): boolean {
  const place = placeOf(event);
  return place.event === cursor?.event && place.version === cursor.version && place.task === cursor.task;
}

function found({ workflowId, runId, ...run }: ListedRun): FoundHolder {
  return { id: `${workflowId}\n${runId}`, ...run };
}

function parseRun(id: string): RunId {
  const end = id.lastIndexOf('\n');
  return { workflowId: id.slice(0, end), runId: id.slice(end + 1) };
}

function formatCursor(cursor: Cursor): string {
  return JSON.stringify({ v: 1, ...cursor });
}

/** `undefined` for one that is not understood: then everything is read. */
function parseCursor(text: string | undefined): Cursor | undefined {
  if (text === undefined) return undefined;
  try {
    const { v, ...cursor } = JSON.parse(text) as Cursor & { readonly v: number };
    return v === 1 && Number.isSafeInteger(cursor.event) ? cursor : undefined;
  } catch {
    return undefined;
  }
}
