/** Histories that change under the reader. What runs on a real server hold: test/lifecycle-holders.test.ts. */
import { LpsError } from '@large-payload/core';
import { describe, expect, it } from 'vitest';
import { digestNamed, payload } from '../extract/extract-fixture.js';
import { openExtractor } from '../extract/extractor.js';
import type { DescribedRun, HistoryEvent, Page, TemporalNamespace } from '../temporal-api.js';
import type { Scan } from './holder-kind.js';
import { runsKind } from './runs.js';

const runId = 'b5f2b0a4-5d6f-4d5e-9a0c-6f0e7c1f2a3b';
const id = `order 1\nof two lines\n${runId}`;
const pageLost = new LpsError('TEMPORAL_UNAVAILABLE', 'Invalid NextPageToken.', { details: { isPageLost: true } });

interface History {
  /** Of event 1 to the last; the digest in event n is that of `n`. */
  length: number;
  /** Of what `describe` says. Default `length`. */
  described?: number;
  transitions?: number;
  /** From this event on, another cluster wrote it. */
  version?: { readonly from: number; readonly is: number };
  status?: number;
}

/** A run that a test can change between calls. */
class ScriptedRun {
  readonly calls: string[] = [];
  history: History;
  /** Before the n-th call of `historyBackwards`. */
  before: (n: number) => void = () => undefined;
  change: (page: HistoryEvent[]) => HistoryEvent[] = (page) => page;
  readonly #pageSize: number;
  #pages = 0;

  constructor(history: History, pageSize = 3) {
    this.history = history;
    this.#pageSize = pageSize;
  }

  scan(cursor?: string): Promise<Scan | undefined> {
    this.calls.length = 0;
    this.#pages = 0;
    return runsKind(openExtractor()).scan(this as unknown as TemporalNamespace, id, cursor);
  }

  get cluster(): string {
    return 'dev';
  }

  get name(): string {
    return 'orders';
  }

  async describeRun(run: { readonly workflowId: string; readonly runId: string }): Promise<DescribedRun> {
    this.calls.push('describe');
    expect(run).toEqual({ workflowId: 'order 1\nof two lines', runId });
    const { length, described = length, transitions = length, status = 1 } = this.history;
    const execution = { workflowId: run.workflowId, runId: run.runId };
    const [historyLength, stateTransitionCount] = [described as never, transitions as never];
    const memo = { fields: { of: payload('json/plain', JSON.stringify(digestNamed('memo'))) } };
    return { workflowExecutionInfo: { execution, historyLength, stateTransitionCount, status, memo } };
  }

  async historyBackwards(_run: object, next?: Uint8Array): Promise<Page<HistoryEvent>> {
    this.#pages += 1;
    this.before(this.#pages);
    this.calls.push('page');
    const from = next === undefined ? this.history.length : Number(Buffer.from(next).toString());
    const to = Math.max(1, from - this.#pageSize + 1);
    const ids = Array.from({ length: from - to + 1 }, (_, index) => from - index);
    const items = this.change(ids.map((eventId) => this.#event(eventId)));
    return to === 1 ? { items } : { items, next: Buffer.from(`${to - 1}`) };
  }

  #event(eventId: number): HistoryEvent {
    const { version } = this.history;
    const input = { payloads: [payload('json/plain', JSON.stringify(digestNamed(`${eventId}`)))] };
    const at = version !== undefined && eventId >= version.from ? version.is : 0;
    const [number, task] = [eventId as never, (1000 * at + eventId) as never];
    const signaled = { signalName: 'note', input };
    return {
      eventId: number,
      version: at as never,
      taskId: task,
      eventType: 26,
      workflowExecutionSignaledEventAttributes: signaled,
    };
  }
}

/** Numbers of the events of which the digest was found. */
function eventsOf(scan: Scan | undefined, upTo: number): number[] {
  const digests = new Set(scan?.edges.map(({ digest }) => digest));
  return Array.from({ length: upTo }, (_, index) => index + 1).filter((number) =>
    digests.has(digestNamed(`${number}`)),
  );
}

const unreadable = (why: string) => ({
  code: 'TEMPORAL_UNAVAILABLE',
  message: `dev: run ${runId} of workflow "order 1\\nof two lines" of orders cannot be read as a whole: ${why}`,
});

describe('a scan of a run', () => {
  it('reads all of it once, and then what is new, with the description each time', async () => {
    const run = new ScriptedRun({ length: 8 });
    const first = await run.scan();
    expect(run.calls).toEqual(['describe', 'page', 'page', 'page']);
    expect(eventsOf(first, 8)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(first).toMatchObject({ isClosed: false, gaps: [] });

    const again = await run.scan(first?.cursor);
    expect(run.calls).toEqual(['describe']);
    expect(again?.edges).toEqual([{ digest: digestNamed('memo'), isMutable: true }]);
    expect(again?.cursor).toBe(first?.cursor);

    run.history = { length: 10, status: 2 };
    const last = await run.scan(again?.cursor);
    expect(run.calls).toEqual(['describe', 'page']);
    expect(eventsOf(last, 10)).toEqual([9, 10]);
    expect(last?.isClosed).toBe(true);
  });

  it('reads a history again that changed without growing', async () => {
    const run = new ScriptedRun({ length: 8 });
    const first = await run.scan();
    run.history = { length: 8, transitions: 9 };
    expect(eventsOf(await run.scan(first?.cursor), 8)).toEqual([]);
    expect(run.calls).toEqual(['describe', 'page']);

    // another cluster took over at event 5, and wrote as many
    run.history = { length: 8, transitions: 10, version: { from: 5, is: 11 } };
    expect(eventsOf(await run.scan(first?.cursor), 8)).toHaveLength(8);
    // … and fewer
    run.history = { length: 6, transitions: 10, version: { from: 5, is: 11 } };
    expect(eventsOf(await run.scan(first?.cursor), 8)).toHaveLength(6);
    // … and more
    run.history = { length: 12, transitions: 10, version: { from: 5, is: 11 } };
    expect(eventsOf(await run.scan(first?.cursor), 12)).toHaveLength(12);
  });

  it.each(['', 'nonsense', '[]', '{"v":2,"event":8}', '{"v":1}', '{"v":1,"event":"8"}'])(
    'reads everything with the cursor %j',
    async (cursor) => {
      expect(eventsOf(await new ScriptedRun({ length: 8 }).scan(cursor), 8)).toHaveLength(8);
    },
  );

  it('is told whether the run is closed before its history is read', async () => {
    const run = new ScriptedRun({ length: 4 });
    run.before = () => {
      run.history = { length: 6, status: 2 };
    };
    const scan = await run.scan();
    expect(scan?.isClosed).toBe(false);
    expect(eventsOf(scan, 6)).toHaveLength(6);
    expect((await run.scan(scan?.cursor))?.isClosed).toBe(true);
  });

  it.each([
    [1, false],
    [2, true],
    [3, true],
    [4, true],
    [5, true],
    [6, true],
    [7, true],
    [8, false],
    [99, false],
    [0, false],
  ])('with the status %i: closed is %s', async (status, isClosed) => {
    expect(await new ScriptedRun({ length: 4, status }).scan()).toMatchObject({ isClosed });
  });

  it('begins again when a page is lost, and not for ever', async () => {
    const run = new ScriptedRun({ length: 8 });
    run.before = (n) => {
      if (n === 2) throw pageLost;
    };
    expect(eventsOf(await run.scan(), 8)).toHaveLength(8);
    expect(run.calls).toEqual(['describe', 'page', 'page', 'page', 'page']);
    run.before = (n) => {
      if (n % 2 === 0) throw pageLost;
    };
    await expect(run.scan()).rejects.toBe(pageLost);
    expect(run.calls).toEqual(['describe', 'page', 'page', 'page']);
  });

  it('does not ask again when Temporal cannot be reached', async () => {
    const run = new ScriptedRun({ length: 8 });
    run.before = () => {
      throw new LpsError('TEMPORAL_UNAVAILABLE', 'away');
    };
    await expect(run.scan()).rejects.toMatchObject({ message: 'away' });
    expect(run.calls).toEqual(['describe']);
  });

  it.each<[string, Partial<ScriptedRun>, string]>([
    [
      'events that are left out',
      { change: (page) => page.filter(({ eventId }) => Number(eventId) !== 7) },
      'event 6 follows 8',
    ],
    ['an empty page', { change: () => [] }, 'a page of its history is empty'],
    ['a page twice', { change: (page) => [...page, ...page] }, 'event 8 follows 6'],
    [
      'no first event',
      { change: (page) => page.filter(({ eventId }) => Number(eventId) > 1) },
      'the history begins at 2',
    ],
    ['no last event', { history: { length: 8, described: 9 } }, 'the history ends at 8, described was 9'],
  ])('refuses a history with %s', async (_what, changes, why) => {
    const run = Object.assign(new ScriptedRun({ length: 8 }), changes);
    await expect(run.scan()).rejects.toMatchObject(unreadable(why));
  });

  it('names events of a type that is not known', async () => {
    const run = new ScriptedRun({ length: 4 });
    run.change = (page) =>
      page.map((event) => (Number(event.eventId) === 2 ? { ...event, eventType: 9999 as never } : event));
    expect((await run.scan())?.gaps).toEqual([
      expect.stringMatching(/^event 2 is of type 9999, which is not known here: use/),
    ]);
  });

  it('refuses the description of another run', async () => {
    const run = new ScriptedRun({ length: 4 });
    run.describeRun = async () => ({ workflowExecutionInfo: { execution: { runId: 'another' } } });
    await expect(run.scan()).rejects.toMatchObject(unreadable('another run was described'));
  });
});
