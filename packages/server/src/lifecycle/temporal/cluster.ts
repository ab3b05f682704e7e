/**
 * A real cluster, over the raw gRPC services of Temporal's client.
 *
 * NotFound is believed when Temporal itself says it, of an id, in a namespace that is still the one that was described: a
 * namespace that was made anew, or an address that now leads to an empty cluster, answers NotFound for everything.
 */
import { type Clock, isLpsError, LpsError, systemClock } from '@large-payload/core';
import { Connection } from '@temporalio/client';
import proto, { type temporal } from '@temporalio/proto';
import { type ClusterSettings, type ClusterTls, readApiKey } from '../clusters.js';
import { isClosedStatus } from '../run-status.js';
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
import { type Call, Calls, isTooLarge } from './calls.js';
import { allDivisions, foreignArchetype, schedulerArchetype, schedulersOnly } from './divisions.js';
import { type NamespaceDescription, namespaceGaps, retentionMsOf, unreadKinds, versionGaps } from './gaps.js';
import { grpcFailure, grpcStatus, isGone } from './grpc-failure.js';
import { askWhole, unknownFieldsOf } from './unknown-fields.js';

export interface ClusterOptions {
  readonly clock?: Clock;
  /** For one request, in ms. Default: that of the settings. */
  readonly deadlineMs?: number;
}

const defaultTimeoutMs = 30_000;
/** What the server allows at most; fewer when they are so large that an answer cannot be taken. Lists show memos. */
const holdersPerPage = [1000, 100, 10, 1] as const;
const eventsPerPage = [256, 32, 4, 1] as const;
/** Several NotFounds in so short a time share one look at the namespace, in ms. */
const identityFreshMs = 1000;
/** An answer is held in memory as a whole; one workflow task alone may write 40 MB of events. */
const maxAnswerBytes = 64 * 1024 * 1024;

const { NamespaceState } = proto.temporal.api.enums.v1;

/** Connects when first asked. */
export function openCluster(settings: ClusterSettings, options: ClusterOptions = {}): TemporalCluster {
  return new GrpcCluster(settings, options);
}

class GrpcCluster implements TemporalCluster {
  readonly #settings: ClusterSettings;
  readonly #connection: Connection;
  readonly #calls: Calls;
  readonly #clock: Clock;
  #apiKey = '';

  constructor(settings: ClusterSettings, options: ClusterOptions) {
    const { clock = systemClock, deadlineMs = settings.requestTimeoutMs ?? defaultTimeoutMs } = options;
    this.#settings = settings;
    this.#clock = clock;
    const { address, tls, requestsPerSecond, apiKeyFile } = settings;
    this.#connection = Connection.lazy({
      address,
      tls: tls === undefined ? false : tlsOptions(tls),
      ...(apiKeyFile === undefined ? {} : { apiKey: () => this.#apiKey }),
      // asking again is the business of Calls
      interceptors: [],
      channelArgs: { 'grpc.max_receive_message_length': maxAnswerBytes },
    });
    const connection = this.#connection;
    this.#calls = new Calls({ cluster: settings.name, connection, requestsPerSecond, clock, deadlineMs });
  }

  get name(): string {
    return this.#settings.name;
  }

  async namespaces(signal?: AbortSignal): Promise<readonly TemporalNamespace[]> {
    const { namespaces } = this.#settings;
    const until = this.#calls.until(signal);
    const names = namespaces === 'all' ? await this.#listNamespaces(until) : namespaces;
    return names.map(
      (name) => new GrpcNamespace(name, this.#settings, this.#calls, this.#clock, until, () => this.#readKey()),
    );
  }

  async close(): Promise<void> {
    this.#calls.close();
    await this.#connection.close();
  }

  async #listNamespaces(signal: AbortSignal): Promise<string[]> {
    await this.#readKey();
    const names: string[] = [];
    for (let nextPageToken = new Uint8Array(); ; ) {
      const { namespaces, nextPageToken: next } = await this.#calls.call({
        method: 'ListNamespaces',
        signal,
        ask: ({ workflowService }) => workflowService.listNamespaces({ pageSize: 100, nextPageToken }),
      });
      const there = namespaces.filter(
        ({ namespaceInfo }) => namespaceInfo?.state !== NamespaceState.NAMESPACE_STATE_DELETED,
      );
      names.push(...there.map(({ namespaceInfo }) => namespaceInfo?.name ?? ''));
      if (next.length === 0) return names;
      nextPageToken = new Uint8Array(next);
    }
  }

  async #readKey(): Promise<void> {
    const { apiKeyFile } = this.#settings;
    if (apiKeyFile === undefined) return;
    this.#apiKey = await readApiKey(apiKeyFile).catch((cause: Error) => {
      throw new LpsError('TEMPORAL_REFUSED', `${this.name}: api-key-file: ${cause.message}`, { cause });
    });
  }
}

class GrpcNamespace implements TemporalNamespace {
  readonly name: string;
  readonly #settings: ClusterSettings;
  readonly #calls: Calls;
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #readKey: () => Promise<void>;
  /** As it was last described. */
  #id: string | undefined;
  #idSeenAt = Number.NEGATIVE_INFINITY;

  constructor(
    name: string,
    settings: ClusterSettings,
    calls: Calls,
    clock: Clock,
    signal: AbortSignal,
    readKey: () => Promise<void>,
  ) {
    this.name = name;
    this.#settings = settings;
    this.#calls = calls;
    this.#clock = clock;
    this.#signal = signal;
    this.#readKey = readKey;
  }

  get cluster(): string {
    return this.#settings.name;
  }

  async describe(): Promise<DescribedNamespace> {
    await this.#readKey();
    const description = await this.#describeNamespace();
    const { clusterId, clusterName, serverVersion } = await this.#clusterInfo();
    const namespaceId = description.namespaceInfo?.id ?? '';
    this.#id = namespaceId;
    this.#idSeenAt = this.#clock.monotonicMs();
    const gaps = [
      ...versionGaps(serverVersion, this.#settings.acceptServerVersions),
      ...namespaceGaps(description, clusterName),
      ...(await this.#unreadKinds()),
    ];
    return { clusterId, namespaceId, serverVersion, retentionMs: retentionMsOf(description.config), gaps };
  }

  async listRuns(next?: Uint8Array): Promise<Page<ListedRun>> {
    // two lists, one after the other: the usual runs, then those of system workflows
    const [list = 0, ...token] = next ?? [];
    const query = list === 0 ? '' : allDivisions;
    const nextPageToken = Uint8Array.from(token);
    const answer = await fitting(holdersPerPage, (pageSize) =>
      this.#ask('ListWorkflowExecutions', true, ({ workflowService }, namespace) =>
        workflowService.listWorkflowExecutions({ namespace, pageSize, nextPageToken, query }),
      ),
    );
    const items = oneForeign(answer.executions).map(
      ({ execution, status, startTime }): ListedRun => ({
        workflowId: execution?.workflowId ?? '',
        runId: execution?.runId ?? '',
        isClosed: isClosedStatus(status),
        ...(startTime == null ? {} : { startedAt: Number(startTime.seconds) * 1000 + Number(startTime.nanos) / 1e6 }),
      }),
    );
    const isLast = answer.nextPageToken.length === 0;
    if (isLast && list !== 0) return { items };
    return { items, next: isLast ? Uint8Array.of(1) : Uint8Array.of(list, ...answer.nextPageToken) };
  }

  describeRun(execution: RunId): Promise<DescribedRun | undefined> {
    return this.#askById('DescribeWorkflowExecution', ({ workflowService }, namespace) =>
      askWhole(workflowService, 'DescribeWorkflowExecution', { namespace, execution }),
    );
  }

  async historyBackwards(execution: RunId, next?: Uint8Array): Promise<Page<HistoryEvent> | undefined> {
    const nextPageToken = next ?? new Uint8Array();
    const method = 'GetWorkflowExecutionHistoryReverse';
    const answer = await fitting(eventsPerPage, (maximumPageSize) =>
      this.#askById(method, ({ workflowService }, namespace) =>
        askWhole(workflowService, method, { namespace, execution, maximumPageSize, nextPageToken }),
      ),
    ).catch((error: unknown) => {
      throw nextPageToken.length > 0 && isInvalid(causeOf(error)) ? pageLost(error) : error;
    });
    if (answer === undefined) return undefined;
    const items = answer.history?.events ?? [];
    const unknown = [...unknownFieldsOf(answer), ...unknownFieldsOf(answer.history)];
    const page = unknown.length === 0 ? { items } : { items, unknown };
    return answer.nextPageToken.length === 0 ? page : { ...page, next: answer.nextPageToken };
  }

  async listSchedules(next: Uint8Array = new Uint8Array()): Promise<Page<string>> {
    const answer = await fitting(holdersPerPage, (maximumPageSize) =>
      this.#ask('ListSchedules', true, ({ workflowService }, namespace) =>
        workflowService.listSchedules({ namespace, maximumPageSize, nextPageToken: next }),
      ),
    );
    const items = answer.schedules.map(({ scheduleId }) => scheduleId ?? '');
    return answer.nextPageToken.length === 0 ? { items } : { items, next: answer.nextPageToken };
  }

  describeSchedule(scheduleId: string): Promise<DescribedSchedule | undefined> {
    return this.#askById('DescribeSchedule', ({ workflowService }, namespace) =>
      askWhole(workflowService, 'DescribeSchedule', { namespace, scheduleId }),
    );
  }

  #describeNamespace(): Promise<NamespaceDescription> {
    return this.#ask('DescribeNamespace', false, ({ workflowService }, namespace) =>
      workflowService.describeNamespace({ namespace }),
    );
  }

  async #clusterInfo(): Promise<{ clusterId: string; clusterName: string; serverVersion: string }> {
    const signal = this.#signal;
    const info = await this.#calls.call({
      method: 'GetClusterInfo',
      signal,
      ask: ({ workflowService }) => workflowService.getClusterInfo({}),
    });
    if (info.serverVersion !== '') return info;
    const { serverVersion } = await this.#calls.call({
      method: 'GetSystemInfo',
      signal,
      ask: ({ workflowService }) => workflowService.getSystemInfo({}),
    });
    return { ...info, serverVersion };
  }

  async #unreadKinds(): Promise<string[]> {
    const pageSize = 1;
    const activities = await this.#anyOf('ListActivityExecutions', async ({ workflowService }, namespace) => {
      return (await workflowService.listActivityExecutions({ namespace, pageSize })).executions;
    });
    const operations = await this.#anyOf('ListNexusOperationExecutions', async ({ workflowService }, namespace) => {
      return (await workflowService.listNexusOperationExecutions({ namespace, pageSize })).operations;
    });
    const query = schedulersOnly;
    const schedules = await this.#ask('ListWorkflowExecutions', true, ({ workflowService }, namespace) =>
      workflowService.listWorkflowExecutions({ namespace, pageSize, query }),
    );
    return [
      ...(activities ? [unreadKinds.activities] : []),
      ...(operations ? [unreadKinds.nexusOperations] : []),
      ...(schedules.executions.length > 0 ? [unreadKinds.schedules] : []),
    ];
  }

  /** A server that does not know the call has none; one that only turned it off shows them in `listRuns`. */
  async #anyOf(
    method: string,
    list: (connection: Connection, namespace: string) => Promise<readonly unknown[]>,
  ): Promise<boolean> {
    const call = this.#callOf(method, true, list);
    try {
      return (await this.#calls.raw(call)).length > 0;
    } catch (error) {
      if (grpcFailure(error)?.status === grpcStatus.UNIMPLEMENTED) return false;
      throw this.#calls.errorOf(call, error);
    }
  }

  #ask<Answer>(
    method: string,
    isVisibility: boolean,
    ask: (connection: Connection, namespace: string) => Promise<Answer>,
  ): Promise<Answer> {
    return this.#calls.call(this.#callOf(method, isVisibility, ask));
  }

  /** `undefined` when there is nothing of this id, in this namespace. */
  async #askById<Answer>(
    method: string,
    ask: (connection: Connection, namespace: string) => Promise<Answer>,
  ): Promise<Answer | undefined> {
    const call = this.#callOf(method, false, ask);
    try {
      return await this.#calls.raw(call);
    } catch (error) {
      if (!isGone(this.#calls.nameOf(call), error)) throw this.#calls.errorOf(call, error);
      await this.#requireSameNamespace(call);
      return undefined;
    }
  }

  #callOf<Answer>(
    method: string,
    isVisibility: boolean,
    ask: (connection: Connection, namespace: string) => Promise<Answer>,
  ): Call<Answer> {
    const [namespace, signal] = [this.name, this.#signal];
    return { method, namespace, isVisibility, signal, ask: (connection) => ask(connection, namespace) };
  }

  async #requireSameNamespace(call: Call<unknown>): Promise<void> {
    if (this.#id !== undefined && this.#clock.monotonicMs() - this.#idSeenAt < identityFreshMs) return;
    const seenAt = this.#clock.monotonicMs();
    const id = (await this.#describeNamespace()).namespaceInfo?.id ?? '';
    if (this.#id !== undefined && id !== this.#id) {
      const why = `the namespace is not the one that it was: its id is ${id}, not ${this.#id}`;
      throw new LpsError('TEMPORAL_REFUSED', `${this.#calls.nameOf(call)}: ${why}`);
    }
    this.#id = id;
    this.#idSeenAt = seenAt;
  }
}

/**
 * Of what is no workflow, one stands for all of a page: it is NotFound when it is asked for as a run, which leaves the mark
 * incomplete, also when it came after the namespace was described. Schedules are listed by themselves.
 */
function oneForeign<Execution extends temporal.api.workflow.v1.IWorkflowExecutionInfo>(
  executions: readonly Execution[],
): Execution[] {
  let isFirst = true;
  return executions.filter((execution) => {
    const archetype = foreignArchetype(execution);
    if (archetype === undefined) return true;
    if (archetype === schedulerArchetype || !isFirst) return false;
    isFirst = false;
    return true;
  });
}

/** With the largest page whose answer is not too large. */
async function fitting<Answer>(
  sizes: readonly [number, ...number[]],
  ask: (pageSize: number) => Promise<Answer>,
): Promise<Answer> {
  const [size, ...smaller] = sizes;
  try {
    return await ask(size);
  } catch (error) {
    const [next, ...others] = smaller;
    if (next === undefined || !isTooLarge(causeOf(error))) throw error;
    return fitting([next, ...others], ask);
  }
}

function causeOf(error: unknown): unknown {
  return isLpsError(error) ? error.cause : error;
}

function isInvalid(error: unknown): boolean {
  return grpcFailure(error)?.status === grpcStatus.INVALID_ARGUMENT;
}

/** The history may have changed under the reader; from its beginning it can be read again. */
function pageLost(error: unknown): LpsError {
  const message = error instanceof Error ? error.message : '';
  return new LpsError('TEMPORAL_UNAVAILABLE', message, { cause: error, details: { isPageLost: true } });
}

function tlsOptions({ ca, client, serverName }: ClusterTls): {
  serverNameOverride?: string;
  serverRootCACertificate?: Buffer;
  clientCertPair?: { crt: Buffer; key: Buffer };
} {
  return {
    ...(serverName === undefined ? {} : { serverNameOverride: serverName }),
    ...(ca === undefined ? {} : { serverRootCACertificate: ca }),
    ...(client === undefined ? {} : { clientCertPair: { crt: client.cert, key: client.key } }),
  };
}
