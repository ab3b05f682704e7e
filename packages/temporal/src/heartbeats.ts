/**
 * Heartbeats whose details are stored before the SDK gets them.
 *
 * SDK 1.24 encodes and stores the details of a heartbeat where nothing catches what a driver throws: the worker ends
 * (with a codec the activity is cancelled, see failure.ts). There is no hook for heartbeats, so the interceptor takes
 * the place of `heartbeat` in the activity's context:
 *
 *   heartbeat(details) → payload, at once → codecs, deposit ─stored─▶ the SDK's heartbeat(RawValue of that payload)
 *                                                └─failed─▶ a warning in the log, and no heartbeat
 *
 * A RawValue brings the very same payload object back to our codec (codec-chain.ts) and driver (plugin-driver.ts), which
 * know it and need no network any more.
 *
 * The latest details win, as in the SDK: one heartbeat is on its way, one waits, and a newer one takes the place of the
 * one that waits. As in the SDK, the last one still goes out when the activity fails.
 */
import { isLpsError } from '@large-payload/core';
import { defaultPayloadConverter, type Payload, type PayloadConverter, RawValue } from '@temporalio/common';
import type { ActivitySerializationContext } from '@temporalio/common/lib/converter/serialization-context.js';

/** What is needed of the SDK's activity `Context`. */
export interface HeartbeatContext {
  heartbeat: (details?: unknown) => void;
  readonly info: ActivityOwner & { readonly isLocal: boolean };
  readonly log: { warn(message: string, attributes?: Record<string, unknown>): void };
}

/** Whose heartbeat it is, from the SDK's activity `Info`. */
export interface ActivityOwner {
  readonly activityId: string;
  readonly activityType: string;
  readonly activityRunId?: string;
  readonly namespace: string;
  readonly isLocal: boolean;
  readonly workflowExecution?: { readonly workflowId: string; readonly runId: string };
  readonly workflowType?: string;
}

/** What becomes of a heartbeat's payload before the SDK sees it. */
export interface HeartbeatStore {
  /** Whether the payload can be stored, or altered by a codec: others go to the SDK at once. */
  mayNeedStorage(payload: Payload): boolean;
  /** Encodes and stores it; resolves when the SDK's own encoding and storing cannot fail any more. */
  prepare(payload: Payload, owner: ActivityOwner): Promise<void>;
}

/** Structurally an `ActivityInterceptorsFactory` of @temporalio/worker. */
export type HeartbeatInterceptorFactory = (context: HeartbeatContext) => {
  inbound?: { execute<Input>(input: Input, next: (input: Input) => Promise<unknown>): Promise<unknown> };
};

export function heartbeatInterceptor(store: HeartbeatStore): HeartbeatInterceptorFactory {
  return (context) => {
    if (context.info.isLocal) return {}; // the SDK ignores the heartbeats of local activities
    const heartbeats = new Heartbeats(context, store);
    context.heartbeat = (details) => heartbeats.take(details);
    return {
      inbound: {
        execute: async (input, next) => {
          try {
            const result = await next(input);
            heartbeats.drop();
            return result;
          } catch (error) {
            await heartbeats.flush();
            throw error;
          }
        },
      },
    };
  };
}

interface Heartbeat {
  readonly payload: Payload;
  /** What the SDK is to get for it. */
  readonly details: unknown;
}

class Heartbeats {
  readonly #context: HeartbeatContext;
  readonly #store: HeartbeatStore;
  readonly #send: (details?: unknown) => void;
  #waiting: Heartbeat | undefined;
  #running: Promise<void> | undefined;
  /** Counts what makes the heartbeat on its way too old to be sent. */
  #generation = 0;

  constructor(context: HeartbeatContext, store: HeartbeatStore) {
    this.#context = context;
    this.#store = store;
    this.#send = context.heartbeat;
  }

  take(details: unknown): void {
    const heartbeat = this.#convert(details);
    if (heartbeat === undefined) {
      this.drop();
      this.#send(details);
    } else if (this.#running === undefined && !this.#store.mayNeedStorage(heartbeat.payload)) {
      this.#send(heartbeat.details);
    } else {
      this.#waiting = heartbeat;
      this.#running ??= this.#run();
    }
  }

  /** Lets go of what has not been sent. */
  drop(): void {
    this.#waiting = undefined;
    this.#generation += 1;
  }

  /** Resolves when the latest heartbeat has been sent, or skipped. */
  async flush(): Promise<void> {
    const latest = this.#waiting;
    if (latest === undefined) return this.#running;
    this.drop();
    await this.#prepareAndSend(latest);
  }

  async #run(): Promise<void> {
    while (this.#waiting !== undefined) {
      const heartbeat = this.#waiting;
      this.#waiting = undefined;
      await this.#prepareAndSend(heartbeat);
    }
    this.#running = undefined;
  }

  async #prepareAndSend({ payload, details }: Heartbeat): Promise<void> {
    const generation = this.#generation;
    try {
      await this.#store.prepare(payload, this.#context.info);
      if (generation === this.#generation) this.#send(details);
    } catch (error) {
      this.#context.log.warn('Heartbeat skipped: its details could not be stored', {
        error,
        code: codeOf(error),
        detailsBytes: payload.data?.length ?? 0,
      });
    }
  }

  /** The details as they are now: the activity may go on writing to them. `undefined`: the SDK is to convert them. */
  #convert(details: unknown): Heartbeat | undefined {
    const { info } = this.#context;
    try {
      const own = converterOf(this.#context);
      const converter = own ?? defaultPayloadConverter;
      const payload = converter.toPayload(
        details instanceof Uint8Array ? new Uint8Array(details) : details,
        serializationContextOf(info),
      );
      const raw = RawValue.fromPayload(payload);
      // a converter of the user's own may not know RawValues, nor one that comes with a second copy of the SDK
      const isKept = own !== undefined && own.toPayload(raw, serializationContextOf(info)) === payload;
      return { payload, details: isKept ? raw : details };
    } catch {
      return undefined; // what cannot be converted fails there as it would without us
    }
  }
}

/** The worker's own converter, from the client that it gives to activities; a MockActivityEnvironment has none. */
function converterOf(context: HeartbeatContext & { readonly client?: unknown }): PayloadConverter | undefined {
  try {
    const client = context.client as ClientWithConverter | undefined; // throws where there is none
    return client?.options?.loadedDataConverter?.payloadConverter;
  } catch {
    return undefined;
  }
}

interface ClientWithConverter {
  readonly options?: { readonly loadedDataConverter?: { readonly payloadConverter?: PayloadConverter } };
}

/** As the SDK makes it for heartbeats: codecs may depend on it. */
export function serializationContextOf(owner: ActivityOwner): ActivitySerializationContext {
  const { namespace, activityId, workflowExecution, isLocal } = owner;
  const workflowId = workflowExecution?.workflowId;
  return { type: 'activity', namespace, activityId, isLocal, ...(workflowId === undefined ? {} : { workflowId }) };
}

/** The code behind an `ApplicationFailure` of ours. */
function codeOf(error: unknown): string | undefined {
  const cause = error instanceof Error ? error.cause : undefined;
  return isLpsError(cause) ? cause.code : undefined;
}
