/**
 * A model of a Temporal cluster: every way in which a claim gets into something that holds it, is copied on by the server,
 * and disappears (gc.md, first table). The messages have the shapes of the protobufs, as far as anybody reads them.
 *
 * Time is the world's. What the server does by itself is late: a run is listed up to V after its start, a close up to V
 * after it, a child's result is in flight for up to V, and a closed run that is past its retention leaves the list first.
 */
import type { Payload } from '@large-payload/core';
import proto from '@temporalio/proto';
import type {
  DescribedNamespace,
  DescribedRun,
  DescribedSchedule,
  HistoryEvent,
  ListedRun,
  Page,
  RunId,
  TemporalCluster,
  TemporalNamespace,
} from '../temporal-api.js';
import type { SimBlob } from './blobs-fixture.js';
import type { SeededRandom } from './random-fixture.js';

export interface ModelOptions {
  readonly clock: () => number;
  readonly random: SeededRandom;
  /** V, in ms. */
  readonly visibilityMs: number;
  readonly retentionMs: number;
  readonly pageSize?: number;
}

/** A claim in a message; a sealed one cannot be read by a mark. */
export interface Carried {
  readonly blob: SimBlob;
  readonly sealed?: boolean;
}

interface ModelEvent {
  readonly event: HistoryEvent;
  readonly carried: readonly Carried[];
  readonly at: number;
}

interface PendingActivity {
  heartbeat: readonly Carried[];
  lastFailure: readonly Carried[];
}

/** What a server hands on from run to run. */
interface Inherited {
  readonly memo?: readonly Carried[];
  readonly lastResult?: readonly Carried[];
  readonly failure?: readonly Carried[];
}

export interface ModelRun {
  readonly namespace: ModelNamespace;
  readonly workflowId: string;
  readonly runId: string;
  readonly isSystem: boolean;
  readonly parent?: ModelRun;
  readonly input: readonly Carried[];
  readonly inherited: Inherited;
  readonly createdAt: number;
  listedAt: number;
  closedAt?: number;
  closeListedAt?: number;
  /** When it leaves the list, and when its id is not found any more. */
  unlistedAt?: number;
  goneAt?: number;
  readonly events: ModelEvent[];
  readonly pending: Map<string, PendingActivity>;
  /** Counts every change. */
  transitions: number;
  /** By a person: what it held is nobody's any more. */
  isDeleted: boolean;
  /** Signals during a workflow task: in no API. */
  buffered: { readonly carried: readonly Carried[]; readonly flushAt: number }[];
}

interface ModelSchedule {
  action: readonly Carried[];
  /** Starts that wait for their turn. */
  buffered: (readonly Carried[])[];
}

interface Flight {
  readonly carried: readonly Carried[];
  readonly landsAt: number;
  land(): void;
}

export class ModelNamespace implements TemporalNamespace {
  readonly cluster: string;
  readonly name: string;
  namespaceId: string;
  clusterId: string;
  retentionMs: number;
  gaps: readonly string[] = [];
  /** How late everything is from now on; at random, up to V, without it. */
  lateMs: number | undefined;
  runs: ModelRun[] = [];
  schedules = new Map<string, ModelSchedule>();
  flights: Flight[] = [];
  /** Of the list: changes of it wait while somebody reads, but for one in two lists. */
  #order: ModelRun[] = [];
  #isReading = false;
  #wasDisturbed = false;
  #isDisturbed = false;
  #ids = 0;
  #tasks = 0;
  readonly #options: ModelOptions;

  constructor(cluster: string, name: string, options: ModelOptions) {
    this.cluster = cluster;
    this.name = name;
    this.clusterId = `${cluster}-1`;
    this.namespaceId = `${cluster}-${name}-1`;
    this.retentionMs = options.retentionMs;
    this.#options = options;
  }

  // what can be asked of it

  async describe(): Promise<DescribedNamespace> {
    const { clusterId, namespaceId, retentionMs, gaps } = this;
    return { clusterId, namespaceId, serverVersion: '1.32.0', retentionMs, gaps };
  }

  async listRuns(next?: Uint8Array): Promise<Page<ListedRun>> {
    const offset = next === undefined ? 0 : Number(Buffer.from(next).toString());
    if (next === undefined) this.#beginList();
    this.#reorder(offset);
    const { pageSize = 2 } = this.#options;
    const end = offset + pageSize;
    const items = this.#order.slice(offset, end).flatMap((run) => (this.#isListed(run) ? [this.#listed(run)] : []));
    const isLast = end >= this.#order.length;
    this.#isReading = !isLast;
    return isLast ? { items } : { items, next: Buffer.from(String(end)) };
  }

  async describeRun(id: RunId): Promise<DescribedRun | undefined> {
    const run = this.find(id);
    if (run === undefined) return undefined;
    return {
      workflowExecutionInfo: {
        execution: { workflowId: run.workflowId, runId: run.runId },
        status: run.closedAt === undefined ? 1 : 2,
        historyLength: run.events.length,
        stateTransitionCount: run.transitions,
        memo: { fields: fieldsOf(run.inherited.memo ?? []) },
      },
      pendingActivities: [...run.pending].map(([activityId, { heartbeat, lastFailure }]) => ({
        activityId,
        heartbeatDetails: { payloads: payloadsOf(heartbeat) },
        ...(lastFailure.length === 0 ? {} : { lastFailure: failureOf(lastFailure) }),
      })),
    } as unknown as DescribedRun;
  }

  async historyBackwards(id: RunId, next?: Uint8Array): Promise<Page<HistoryEvent> | undefined> {
    const run = this.find(id);
    if (run === undefined) return undefined;
    const { pageSize = 2 } = this.#options;
    const before = next === undefined ? run.events.length : Number(Buffer.from(next).toString());
    const from = Math.max(0, before - pageSize);
    const items = run.events
      .slice(from, before)
      .reverse()
      .map(({ event }) => event);
    return from === 0 ? { items } : { items, next: Buffer.from(String(from)) };
  }

  async listSchedules(next?: Uint8Array): Promise<Page<string>> {
    const ids = [...this.schedules.keys()].sort();
    const after = next === undefined ? '' : Buffer.from(next).toString();
    const rest = ids.filter((id) => id > after);
    const { pageSize = 2 } = this.#options;
    const items = rest.slice(0, pageSize);
    const last = items.at(-1);
    return rest.length <= pageSize || last === undefined ? { items } : { items, next: Buffer.from(last) };
  }

  async describeSchedule(id: string): Promise<DescribedSchedule | undefined> {
    const schedule = this.schedules.get(id);
    if (schedule === undefined) return undefined;
    const startWorkflow = (carried: readonly Carried[]): object => ({ input: { payloads: payloadsOf(carried) } });
    return {
      schedule: { action: { startWorkflow: startWorkflow(schedule.action) } },
      info: { runningWorkflows: [] },
      memo: { fields: fieldsOf(schedule.buffered.flat()) },
    } as DescribedSchedule;
  }

  // what clients and workers do

  start(
    input: readonly Carried[],
    more: { workflowId?: string; parent?: ModelRun; isSystem?: boolean; inherited?: Inherited } = {},
  ): ModelRun {
    this.#ids += 1;
    const { workflowId = `w${this.#ids}`, parent, isSystem = false, inherited = {} } = more;
    const now = this.#now();
    const run: ModelRun = {
      namespace: this,
      ...{ workflowId, runId: `r${this.namespaceId}-${this.#ids}`, isSystem, input, inherited, createdAt: now },
      ...(parent === undefined ? {} : { parent }),
      ...{ listedAt: now + this.#late(), events: [], pending: new Map(), buffered: [] },
      ...{ transitions: 0, isDeleted: false },
    };
    const { memo = [], lastResult = [], failure = [] } = inherited;
    this.add(run, [...input, ...memo, ...lastResult, ...failure], {
      workflowExecutionStartedEventAttributes: {
        input: { payloads: payloadsOf(input) },
        memo: { fields: fieldsOf(memo) },
        lastCompletionResult: { payloads: payloadsOf(lastResult) },
        ...(failure.length === 0 ? {} : { continuedFailure: failureOf(failure) }),
      },
    });
    this.runs.push(run);
    return run;
  }

  /** During a workflow task it is buffered. */
  signal(run: ModelRun, input: readonly Carried[], isBuffered = false): void {
    if (isBuffered) run.buffered.push({ carried: input, flushAt: this.#now() + this.#late() });
    else this.#signalled(run, input);
  }

  #signalled(run: ModelRun, input: readonly Carried[]): void {
    this.add(run, input, { workflowExecutionSignaledEventAttributes: { input: { payloads: payloadsOf(input) } } });
  }

  update(run: ModelRun, input: readonly Carried[]): void {
    const request = { input: { args: { payloads: payloadsOf(input) } } };
    this.add(run, input, { workflowExecutionUpdateAcceptedEventAttributes: { acceptedRequest: request } });
  }

  marker(run: ModelRun, details: readonly Carried[]): void {
    const attributes = { markerName: 'LocalActivity', details: { data: { payloads: payloadsOf(details) } } };
    this.add(run, details, { markerRecordedEventAttributes: attributes });
  }

  beginActivity(run: ModelRun, activityId: string, input: readonly Carried[]): void {
    run.pending.set(activityId, { heartbeat: [], lastFailure: [] });
    const attributes = { activityId, input: { payloads: payloadsOf(input) } };
    this.add(run, input, { activityTaskScheduledEventAttributes: attributes });
  }

  /** Replaces what the one before it carried; in the mutable state alone. */
  heartbeat(run: ModelRun, activityId: string, details: readonly Carried[]): void {
    const pending = run.pending.get(activityId);
    if (pending === undefined) return;
    run.transitions += 1;
    pending.heartbeat = details;
  }

  /** It will be tried again: the failure is in the mutable state alone. */
  retryActivity(run: ModelRun, activityId: string, details: readonly Carried[]): void {
    const pending = run.pending.get(activityId);
    if (pending === undefined) return;
    run.transitions += 1;
    pending.lastFailure = details;
  }

  endActivity(
    run: ModelRun,
    activityId: string,
    result: readonly Carried[],
    how: 'done' | 'failed' | 'timed out',
  ): void {
    const pending = run.pending.get(activityId);
    if (pending === undefined) return;
    run.pending.delete(activityId);
    if (how === 'done') {
      this.add(run, result, { activityTaskCompletedEventAttributes: { result: { payloads: payloadsOf(result) } } });
      return;
    }
    // the server moves what it had in the mutable state into the history
    const moved = how === 'failed' ? result : [...pending.heartbeat, ...pending.lastFailure];
    this.add(run, moved, { activityTaskFailedEventAttributes: { failure: failureOf(moved) } });
  }

  complete(run: ModelRun, result: readonly Carried[]): void {
    this.#flush(run);
    this.add(run, result, { workflowExecutionCompletedEventAttributes: { result: { payloads: payloadsOf(result) } } });
    this.#close(run);
    this.#tellParent(run, result, (carried) => ({
      childWorkflowExecutionCompletedEventAttributes: { result: { payloads: payloadsOf(carried) } },
    }));
  }

  fail(run: ModelRun, details: readonly Carried[]): void {
    this.#flush(run);
    this.add(run, details, { workflowExecutionFailedEventAttributes: { failure: failureOf(details) } });
    this.#close(run);
    this.#tellParent(run, details, (carried) => ({
      childWorkflowExecutionFailedEventAttributes: { failure: failureOf(carried) },
    }));
  }

  terminate(run: ModelRun): void {
    this.#flush(run);
    this.add(run, [], { workflowExecutionTerminatedEventAttributes: {} });
    this.#close(run);
  }

  continueAsNew(run: ModelRun, input: readonly Carried[]): ModelRun {
    this.#flush(run);
    this.add(run, input, {
      workflowExecutionContinuedAsNewEventAttributes: { input: { payloads: payloadsOf(input) } },
    });
    return this.#next(run, input, {});
  }

  /** Of the whole workflow: the same input again. */
  retry(run: ModelRun, details: readonly Carried[]): ModelRun {
    this.#flush(run);
    this.add(run, details, { workflowExecutionFailedEventAttributes: { failure: failureOf(details) } });
    return this.#next(run, run.input, { failure: details });
  }

  cron(run: ModelRun, result: readonly Carried[]): ModelRun {
    this.#flush(run);
    this.add(run, result, { workflowExecutionCompletedEventAttributes: { result: { payloads: payloadsOf(result) } } });
    return this.#next(run, run.input, { lastResult: result });
  }

  /** Forks the history of an open or closed run behind `count` events, and applies later signals again. */
  reset(run: ModelRun, count: number): ModelRun {
    if (run.closedAt === undefined) this.terminate(run);
    const fork = this.start(run.input, { workflowId: run.workflowId, inherited: run.inherited });
    for (const event of run.events.slice(1, Math.max(1, count))) fork.events.push({ ...event, at: this.#now() });
    for (const { event, carried } of run.events.slice(Math.max(1, count))) {
      if (event.workflowExecutionSignaledEventAttributes) this.#signalled(fork, carried);
    }
    return fork;
  }

  /** The visibility record goes first. What it held is nobody's any more. */
  deleteRun(run: ModelRun): void {
    const now = this.#now();
    run.closedAt ??= now;
    run.unlistedAt = now;
    run.goneAt = now + this.#late();
    run.isDeleted = true;
    run.pending.clear();
    run.buffered = [];
  }

  /** A batch job: its input names what is sent, one signal a target, one after the other. */
  batchSignal(targets: readonly ModelRun[], input: readonly Carried[]): ModelRun {
    const job = this.start(input, { isSystem: true });
    let last = this.#now();
    for (const target of targets) {
      last += this.#late();
      this.#fly(input, last, () => target.closedAt === undefined && this.#signalled(target, input));
    }
    this.#fly([], last + 1, () => job.closedAt === undefined && this.complete(job, []));
    return job;
  }

  setSchedule(id: string, action: readonly Carried[]): void {
    const schedule = this.schedules.get(id);
    if (schedule === undefined) this.schedules.set(id, { action, buffered: [] });
    else schedule.action = action;
  }

  deleteSchedule(id: string): void {
    this.schedules.delete(id);
  }

  /** It starts a run now, or keeps the start for later. */
  fire(id: string, isBuffered = false): void {
    const schedule = this.schedules.get(id);
    if (schedule === undefined) return;
    if (isBuffered) schedule.buffered.push(schedule.action);
    else this.start(schedule.buffered.shift() ?? schedule.action, { workflowId: `scheduled-${id}` });
  }

  /** The same name, and nothing of what was there. */
  recreate(): void {
    this.namespaceId += '+';
    this.empty();
  }

  empty(): void {
    this.runs = [];
    this.#order = [];
    this.schedules.clear();
    this.flights = [];
  }

  // time

  /** What the server does by itself by now. */
  tick(): void {
    const now = this.#now();
    for (const flight of this.flights.filter(({ landsAt }) => landsAt <= now)) {
      this.flights.splice(this.flights.indexOf(flight), 1);
      flight.land();
    }
    for (const run of this.runs) {
      for (const signal of run.buffered.filter(({ flushAt }) => flushAt <= now)) {
        run.buffered.splice(run.buffered.indexOf(signal), 1);
        this.#signalled(run, signal.carried);
      }
      const { closedAt } = run;
      if (closedAt !== undefined && run.goneAt === undefined && closedAt + this.retentionMs <= now) {
        run.unlistedAt ??= closedAt + this.retentionMs;
        run.goneAt = now + this.#late();
      }
    }
    this.runs = this.runs.filter(({ goneAt }) => goneAt === undefined || goneAt > now);
  }

  /** All claims that Temporal could still show to somebody, or will. */
  *reachable(): Iterable<Carried> {
    for (const { carried } of this.flights) yield* carried;
    for (const run of this.runs) if (!run.isDeleted) yield* carriedBy(run);
    for (const { action, buffered } of this.schedules.values()) {
      yield* action;
      yield* buffered.flat();
    }
  }

  /** Since when each other run than `but` has had a claim of a blob; what is in flight has it since now. */
  carriersOf(blob: SimBlob, but?: ModelRun): number[] {
    const has = (carried: readonly Carried[]): boolean => carried.some((one) => one.blob === blob);
    const flights = this.flights.filter(({ carried }) => has(carried)).map(() => this.#now());
    const schedules = [...this.schedules.values()].filter(({ action, buffered }) => has(action) || buffered.some(has));
    const runs = this.runs.flatMap((run) => {
      if (run === but || run.isDeleted) return [];
      const event = run.events.find(({ carried }) => has(carried));
      if (event !== undefined) return [event.at];
      return has([...carriedBy(run)]) ? [this.#now()] : [];
    });
    return [...flights, ...schedules.map(() => this.#now()), ...runs];
  }

  find({ workflowId, runId }: RunId): ModelRun | undefined {
    const now = this.#now();
    const run = this.runs.find((one) => one.runId === runId && one.workflowId === workflowId);
    return run?.goneAt !== undefined && run.goneAt <= now ? undefined : run;
  }

  open(): ModelRun[] {
    return this.runs.filter(({ closedAt, isSystem }) => closedAt === undefined && !isSystem);
  }

  closed(): ModelRun[] {
    return this.runs.filter(
      ({ closedAt, goneAt, unlistedAt }) => closedAt !== undefined && goneAt === undefined && unlistedAt === undefined,
    );
  }

  /** Deep enough a copy to come back to. */
  snapshot(): () => void {
    const runs = this.runs.map((run) => ({
      ...run,
      events: [...run.events],
      pending: new Map([...run.pending].map(([id, pending]) => [id, { ...pending }])),
      buffered: [...run.buffered],
    }));
    const schedules = new Map(
      [...this.schedules].map(([id, { action, buffered }]) => [id, { action, buffered: [...buffered] }]),
    );
    return () => {
      this.runs = runs;
      this.schedules = schedules;
      this.flights = [];
      this.#order = runs.filter((run) => run.listedAt <= this.#now());
    };
  }

  add(run: ModelRun, carried: readonly Carried[], attributes: object): void {
    this.#tasks += 1;
    run.transitions += 1;
    const [name = ''] = Object.keys(attributes);
    const event = { eventId: run.events.length + 1, eventType: typeOf(name), taskId: this.#tasks, ...attributes };
    run.events.push({ event: event as unknown as HistoryEvent, carried, at: this.#now() });
  }

  // the list

  #beginList(): void {
    this.#isReading = false;
    this.#wasDisturbed = this.#isDisturbed;
    this.#isDisturbed = false;
  }

  /**
   * Pages are offsets into an order that changes while they are read: a run that closes moves to the end, and another one
   * comes to stand where the reader has been. A2 says that a repeated list shows everything: so one in two is left alone.
   */
  #reorder(offset: number): void {
    const now = this.#now();
    if (this.#isReading && this.#wasDisturbed) return;
    for (const run of this.runs) if (run.listedAt <= now && !this.#order.includes(run)) this.#order.unshift(run);
    const moved = this.#order.filter(({ closeListedAt }) => closeListedAt !== undefined && closeListedAt <= now);
    for (const run of moved) {
      const at = this.#order.indexOf(run);
      if (this.#isReading && this.#isDisturbed) break;
      if (this.#isReading && at < offset) this.#isDisturbed = true;
      delete run.closeListedAt;
      this.#order.splice(at, 1);
      this.#order.push(run);
    }
    if (!this.#isReading) this.#order = this.#order.filter((run) => this.#isListed(run));
  }

  #isListed({ unlistedAt, runId }: ModelRun): boolean {
    const now = this.#now();
    return (unlistedAt === undefined || unlistedAt > now) && this.runs.some((run) => run.runId === runId);
  }

  #listed({ workflowId, runId, createdAt, closedAt, closeListedAt }: ModelRun): ListedRun {
    const isClosed = closedAt !== undefined && closeListedAt === undefined;
    return { workflowId, runId, isClosed, startedAt: createdAt };
  }

  #close(run: ModelRun): void {
    const now = this.#now();
    run.closedAt = now;
    run.closeListedAt = Math.max(run.listedAt, now + this.#late());
    run.pending.clear();
  }

  #next(run: ModelRun, input: readonly Carried[], inherited: Inherited): ModelRun {
    this.#close(run);
    const { workflowId, parent } = run;
    const memo = run.inherited.memo;
    return this.start(input, {
      workflowId,
      ...(parent === undefined ? {} : { parent }),
      inherited: { ...(memo === undefined ? {} : { memo }), ...inherited },
    });
  }

  #tellParent(run: ModelRun, carried: readonly Carried[], attributes: (carried: readonly Carried[]) => object): void {
    const { parent } = run;
    if (parent === undefined || parent.closedAt !== undefined) return;
    this.#fly(carried, this.#now() + this.#late(), () => {
      if (parent.closedAt === undefined) parent.namespace.add(parent, carried, attributes(carried));
    });
  }

  #fly(carried: readonly Carried[], landsAt: number, land: () => void): void {
    this.flights.push({ carried, landsAt, land });
  }

  #flush(run: ModelRun): void {
    for (const { carried } of run.buffered.splice(0)) this.#signalled(run, carried);
  }

  #now(): number {
    return this.#options.clock();
  }

  #late(): number {
    const { random, visibilityMs } = this.#options;
    if (this.lateMs !== undefined) return this.lateMs;
    return random.chance(0.3) ? visibilityMs : random.below(visibilityMs);
  }
}

export class ModelCluster implements TemporalCluster {
  readonly name: string;
  readonly all: readonly ModelNamespace[];

  constructor(name: string, namespaces: readonly string[], options: ModelOptions) {
    this.name = name;
    this.all = namespaces.map((namespace) => new ModelNamespace(name, namespace, options));
  }

  async namespaces(): Promise<readonly TemporalNamespace[]> {
    return this.all;
  }

  async close(): Promise<void> {}
}

export function* carriedBy(run: ModelRun): Iterable<Carried> {
  for (const { carried } of run.events) yield* carried;
  for (const { carried } of run.buffered) yield* carried;
  for (const { heartbeat, lastFailure } of run.pending.values()) {
    yield* heartbeat;
    yield* lastFailure;
  }
}

const eventTypes: Readonly<Record<string, unknown>> = { ...proto.temporal.api.enums.v1.EventType };
const typesByAttributes = new Map<string, number>();

/** `workflowExecutionStartedEventAttributes` → 1. */
function typeOf(attributes: string): number {
  const known = typesByAttributes.get(attributes);
  if (known !== undefined) return known;
  const words = attributes.replace(/EventAttributes$/, '').replace(/[A-Z]/g, (letter) => `_${letter}`);
  const type = Number(eventTypes[`EVENT_TYPE_${words.toUpperCase()}`]);
  typesByAttributes.set(attributes, type);
  return type;
}

function payloadsOf(carried: readonly Carried[]): Payload[] {
  return carried.map(({ blob, sealed }) => (sealed ? blob.sealed : blob.payload));
}

function fieldsOf(carried: readonly Carried[]): Record<string, Payload> {
  return Object.fromEntries(payloadsOf(carried).map((payload, index) => [`field${index}`, payload]));
}

/** Claims stand in the details of the innermost cause. */
function failureOf(carried: readonly Carried[]): object {
  return { message: 'it failed', cause: { applicationFailureInfo: { details: { payloads: payloadsOf(carried) } } } };
}
