/**
 * Reads back what Temporal shows (histories, descriptions of runs and schedules) and looks for each blob that a claim in it
 * names: in the catalog and on the disk, behind the service's back. A read by way of the service would be a use: it would
 * protect the very blob that the collection is about to take by mistake.
 */
import { type BlobStore, digestOf, readAll } from '@large-payload/core';
import type { Connection } from '@temporalio/client';
import proto from '@temporalio/proto';
import type { CatalogView } from './collection-catalog.ts';
import { kindOf } from './history.ts';

export interface ListedRun {
  readonly workflowId: string;
  readonly runId: string;
  readonly isClosed: boolean;
}

/** A claim in what Temporal shows: the names of the fields on the way to it, and the blob's key. */
interface Claim {
  readonly place: string;
  readonly key: string;
}

type Holder = { readonly name: string; show(): Promise<Claim[] | undefined> };

const { EventType, WorkflowTaskFailedCause } = proto.temporal.api.enums.v1;
const notFound = 5;

export class Checker {
  /** What should never be. */
  readonly faults: string[] = [];
  /** Where claims were found, and how many. */
  readonly places = new Map<string, number>();
  /** Runs as they were last listed, those of system workflows too. */
  runs: readonly ListedRun[] = [];
  checked = 0;
  /** Once it is set, blobs are read from here as well: that is a use. */
  service: Pick<BlobStore, 'get'> | undefined;
  readonly #connection: Connection;
  readonly #namespace: string;
  readonly #catalog: CatalogView;
  readonly #store: Pick<BlobStore, 'get'>;

  constructor(options: {
    connection: Connection;
    namespace: string;
    catalog: CatalogView;
    store: Pick<BlobStore, 'get'>;
  }) {
    this.#connection = options.connection;
    this.#namespace = options.namespace;
    this.#catalog = options.catalog;
    this.#store = options.store;
  }

  /** All that can be seen now, in an order of its own each time. */
  async pass(mayGoOn: () => boolean = () => true): Promise<void> {
    this.runs = await this.listRuns();
    const schedules = await this.listSchedules();
    const holders = [...this.runs.map((run) => this.#run(run)), ...schedules.map((id) => this.#schedule(id))];
    for (const holder of shuffled(holders)) {
      if (!mayGoOn()) break;
      await this.#check(holder);
    }
  }

  async listRuns(): Promise<ListedRun[]> {
    const runs: ListedRun[] = [];
    for (const query of ['', 'TemporalNamespaceDivision IS NOT NULL']) {
      for (let nextPageToken = new Uint8Array(); ; ) {
        const request = { namespace: this.#namespace, pageSize: 1000, query, nextPageToken };
        const page = await this.#connection.workflowService.listWorkflowExecutions(request);
        for (const { execution, status } of page.executions) {
          const { workflowId, runId } = execution ?? {};
          runs.push({ workflowId: workflowId ?? '', runId: runId ?? '', isClosed: status !== 1 });
        }
        if (page.nextPageToken.length === 0) break;
        nextPageToken = new Uint8Array(page.nextPageToken);
      }
    }
    return runs;
  }

  async listSchedules(): Promise<string[]> {
    const request = { namespace: this.#namespace, maximumPageSize: 1000 };
    const { schedules } = await this.#connection.workflowService.listSchedules(request);
    return schedules.map(({ scheduleId }) => scheduleId ?? '');
  }

  async #check(holder: Holder): Promise<void> {
    const claims = (await holder.show()) ?? [];
    for (const { place } of claims) this.places.set(place, (this.places.get(place) ?? 0) + 1);
    const keys = [...new Set(claims.map(({ key }) => key))];
    const wrong = await this.#wrong(keys);
    this.checked += keys.length;
    if (wrong.size === 0) return;
    // it may have been deleted between our two questions: what counts is what Temporal still shows
    const still = new Set((await holder.show())?.map(({ key }) => key));
    for (const [key, why] of await this.#wrong([...wrong.keys()].filter((key) => still.has(key)))) {
      const { place } = claims.find((claim) => claim.key === key) ?? {};
      this.#fault(`${holder.name}, ${place}: ${key} is ${why}`);
    }
  }

  /** What is not as it should be of blobs that are held: in quarantine is wrong as well. */
  async #wrong(keys: readonly string[]): Promise<Map<string, string>> {
    const wrong = new Map<string, string>();
    if (keys.length === 0) return wrong;
    const blobs = await this.#catalog.blobs(keys);
    for (const key of keys) {
      const { state = 'unknown', physicalKey = key } = blobs.get(key) ?? {};
      const digest = await digestIn(this.#store, physicalKey);
      if (state !== 'live') wrong.set(key, state);
      else if (digest !== digestOfKey(key)) wrong.set(key, digest === undefined ? 'missing' : 'damaged');
      else if (this.service && (await digestIn(this.service, key)) !== digest) wrong.set(key, 'not served');
    }
    return wrong;
  }

  #run({ workflowId, runId }: ListedRun): Holder {
    const { workflowService } = this.#connection;
    const [namespace, execution] = [this.#namespace, { workflowId, runId }];
    const show = async (): Promise<Claim[]> => {
      const { executionConfig: _, ...described } = await workflowService.describeWorkflowExecution({
        namespace,
        execution,
      });
      const claims = [...claimsIn(described)];
      for (let nextPageToken = new Uint8Array(); ; ) {
        const page = await workflowService.getWorkflowExecutionHistory({ namespace, execution, nextPageToken });
        for (const event of page.history?.events ?? []) {
          claims.push(...claimsIn(event));
          this.#requireTaskDone(workflowId, event);
        }
        if (page.nextPageToken.length === 0) return claims;
        nextPageToken = new Uint8Array(page.nextPageToken);
      }
    };
    return { name: `run ${workflowId} ${runId}`, show: () => unlessGone(show) };
  }

  #schedule(scheduleId: string): Holder {
    const { workflowService } = this.#connection;
    const namespace = this.#namespace;
    const show = async () => [...claimsIn(await workflowService.describeSchedule({ namespace, scheduleId }))];
    return { name: `schedule ${scheduleId}`, show: () => unlessGone(show) };
  }

  /** A worker that cannot read its payloads fails its workflow tasks; and our workflows when they get others' payloads. */
  #requireTaskDone(workflowId: string, { eventType, workflowTaskFailedEventAttributes: failed }: Event): void {
    if (eventType !== EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED) return;
    if (failed?.cause !== WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE) return;
    this.#fault(`${workflowId}: a workflow task failed: ${failed.failure?.message}`);
  }

  #fault(text: string): void {
    if (this.faults.length < 50 && !this.faults.includes(text)) this.faults.push(text);
  }
}

type Event = proto.temporal.api.history.v1.IHistoryEvent;

async function digestIn(store: Pick<BlobStore, 'get'>, key: string): Promise<string | undefined> {
  const found = await store.get(key);
  return found === undefined ? undefined : digestOf(await readAll(found.body, 10_000_000));
}

function digestOfKey(key: string): string | undefined {
  return key.split('/')[4];
}

/** Every claim anywhere in a message of Temporal's API. */
function* claimsIn(value: unknown, place = ''): Generator<Claim> {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return;
  if ('metadata' in value && 'data' in value && value.data instanceof Uint8Array) {
    const text = Buffer.from(value.data).toString();
    if (kindOf(value as { data: Uint8Array }) === 'codec')
      yield { place, key: (JSON.parse(text) as { key: string }).key };
    return;
  }
  for (const [name, inner] of Object.entries(value))
    yield* claimsIn(inner, /^\d+$/.test(name) ? place : `${place}.${name}`);
}

/** `undefined` for what Temporal does not know any more. */
async function unlessGone<T>(show: () => Promise<T>): Promise<T | undefined> {
  try {
    return await show();
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === notFound) return undefined;
    throw error;
  }
}

export function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, at: Math.random() }))
    .sort((one, other) => one.at - other.at)
    .map(({ item }) => item);
}
