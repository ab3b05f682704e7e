/**
 * What a failed call to Temporal means. The one answer that lets a holder go is NOT_FOUND for its id, said by Temporal
 * itself: its errors carry a detail, `NotFoundFailure` for an id and `NamespaceNotFoundFailure` for a namespace (server
 * 1.32: both come as NOT_FOUND, and so does a standalone activity that is asked for as if it were a run).
 */
import { LpsError } from '@large-payload/core';
import proto from '@temporalio/proto';

/** https://grpc.io/docs/guides/status-codes/ */
export const grpcStatus = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

export interface GrpcFailure {
  readonly status: number;
  /** One line, as the server said it. */
  readonly message: string;
  /** Names of the messages that came with it: `temporal.api.errordetails.v1.NotFoundFailure`. */
  readonly details: ReadonlyMap<string, Uint8Array>;
}

const statusNames = new Map<number, string>(Object.entries(grpcStatus).map(([name, status]) => [status, name]));
/** Asking again does not help. */
const refusals = new Set<number>([
  grpcStatus.UNAUTHENTICATED,
  grpcStatus.PERMISSION_DENIED,
  grpcStatus.INVALID_ARGUMENT,
  grpcStatus.UNIMPLEMENTED,
  grpcStatus.NOT_FOUND,
]);
/** What an operator looks at first. */
const advice: Readonly<Record<number, string>> = {
  [grpcStatus.UNAUTHENTICATED]: 'is the key in api-key-file, or the certificate, still valid?',
  [grpcStatus.PERMISSION_DENIED]: 'may these credentials read everything in the namespace?',
  [grpcStatus.NOT_FOUND]: 'is the namespace still there, and is this the right cluster?',
  [grpcStatus.UNAVAILABLE]: 'does the cluster run, at the address in the clusters file?',
  [grpcStatus.DEADLINE_EXCEEDED]: 'is the cluster overloaded, or request-timeout-seconds too short?',
};
const detailNames = 'temporal.api.errordetails.v1.';

/** Of an error that a gRPC service threw; `undefined` for any other. */
export function grpcFailure(error: unknown): GrpcFailure | undefined {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'number') return undefined;
  const said = 'details' in error && typeof error.details === 'string' ? error.details : error.message;
  return { status: error.code, message: said.replaceAll(/\s+/g, ' ').trim(), details: detailsOf(error) };
}

/** Whether the same call may succeed later. */
export function mayPass(error: unknown): boolean {
  const failure = grpcFailure(error);
  return failure !== undefined && !refusals.has(failure.status);
}

/** `what` names cluster, call and namespace: `production: ListSchedules of payments`. */
export function temporalError(what: string, error: unknown): LpsError {
  const failure = grpcFailure(error);
  if (failure === undefined) {
    const message = error instanceof Error ? error.message.replaceAll(/\s+/g, ' ') : 'no reason given';
    return new LpsError('TEMPORAL_UNAVAILABLE', `${what}: the answer could not be read: ${message}`, { cause: error });
  }
  const status = statusNames.get(failure.status) ?? `status ${failure.status}`;
  const code = refusals.has(failure.status) ? 'TEMPORAL_REFUSED' : 'TEMPORAL_UNAVAILABLE';
  const todo = advice[failure.status];
  const message = `${what}: ${status}: ${failure.message}${todo === undefined ? '' : `; ${todo}`}`;
  return new LpsError(code, message, { cause: error, details: { status } });
}

/**
 * Whether Temporal says that there is nothing of this id. Throws for a NOT_FOUND that says something else: of the
 * namespace, from another cluster than the active one, or from something in between.
 */
export function isGone(what: string, error: unknown): boolean {
  const failure = grpcFailure(error);
  if (failure?.status !== grpcStatus.NOT_FOUND) return false;
  if (failure.details.has(`${detailNames}NamespaceNotFoundFailure`)) return false;
  const detail = failure.details.get(`${detailNames}NotFoundFailure`);
  if (detail === undefined) {
    const why = 'NOT_FOUND without a detail of Temporal’s: does a proxy answer, or take the details away?';
    throw new LpsError('TEMPORAL_UNAVAILABLE', `${what}: ${why} (${failure.message})`, { cause: error });
  }
  const { currentCluster, activeCluster } = proto.temporal.api.errordetails.v1.NotFoundFailure.decode(detail);
  if (activeCluster === currentCluster) return true;
  const why = `not found in cluster ${currentCluster}, but ${activeCluster} is the active one`;
  throw new LpsError('TEMPORAL_UNAVAILABLE', `${what}: ${why}`, { cause: error });
}

/** The standard's trailer of details (google.rpc.Status); none when there is no such thing, or it cannot be read. */
function detailsOf(error: Error): ReadonlyMap<string, Uint8Array> {
  const trailer = trailerOf(error);
  if (trailer === undefined) return new Map();
  try {
    const { details } = proto.google.rpc.Status.decode(trailer);
    return new Map(
      details.map(({ type_url, value }) => [`${type_url}`.replace(/^.*\//, ''), value ?? new Uint8Array()]),
    );
  } catch {
    return new Map();
  }
}

function trailerOf(error: Error): Uint8Array | undefined {
  const metadata =
    'metadata' in error ? (error.metadata as { get?: (name: string) => unknown[] } | undefined) : undefined;
  const value = metadata?.get?.('grpc-status-details-bin')[0];
  return value instanceof Uint8Array ? value : undefined;
}
