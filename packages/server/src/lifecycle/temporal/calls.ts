/** Every call to one cluster: its rate, its deadline, and what its failures mean. */
import { type Clock, LpsError, manyListeners } from '@large-payload/core';
import type { Connection } from '@temporalio/client';
import { grpcFailure, grpcStatus, temporalError } from './grpc-failure.js';
import { RequestRate } from './request-rate.js';

export interface CallsOptions {
  readonly cluster: string;
  readonly connection: Connection;
  readonly requestsPerSecond: number;
  readonly clock: Clock;
  /** For one request, in ms. */
  readonly deadlineMs: number;
}

export interface Call<Answer> {
  /** `ListSchedules` */
  readonly method: string;
  readonly namespace?: string;
  /** Lists and counts: of those the server allows 10 a second in a namespace, whoever asks. */
  readonly isVisibility?: boolean;
  ask(connection: Connection): Promise<Answer>;
}

/** Below the server's 10, which people and their UI want a part of. */
const visibilityPerSecond = 8;
/** How often a server that says it is busy is asked, and the pauses between. */
const attempts = 6;
const firstPauseMs = 250;

export class Calls {
  readonly #options: CallsOptions;
  readonly #rate: RequestRate;
  readonly #visibilityRates = new Map<string, RequestRate>();
  readonly #closing = new AbortController();
  readonly #underWay = new Set<AbortController>();

  constructor(options: CallsOptions) {
    this.#options = options;
    this.#rate = new RequestRate(options.requestsPerSecond, options.clock);
  }

  /** `production: ListSchedules of payments` */
  nameOf({ method, namespace }: { readonly method: string; readonly namespace?: string }): string {
    return `${this.#options.cluster}: ${method}${namespace === undefined ? '' : ` of ${namespace}`}`;
  }

  /** As `raw`; throws LpsError. */
  async call<Answer>(call: Call<Answer>): Promise<Answer> {
    try {
      return await this.raw(call);
    } catch (error) {
      throw this.errorOf(call, error);
    }
  }

  /** One request, and again only when the server says that it is busy. Throws what gRPC throws, or ABORTED after `close`. */
  async raw<Answer>(call: Call<Answer>): Promise<Answer> {
    const { connection, deadlineMs } = this.#options;
    for (let attempt = 1; ; attempt += 1) {
      await this.#turn(call);
      try {
        return await this.#cancellable((signal) =>
          connection.withAbortSignal(signal, () =>
            connection.withDeadline(Date.now() + deadlineMs, () => call.ask(connection)),
          ),
        );
      } catch (error) {
        if (this.#closing.signal.aborted) throw this.#aborted(call);
        if (attempt >= attempts || !isBusy(error)) throw error;
        this.#ratesOf(call)
          .at(-1)
          ?.pause(firstPauseMs * 2 ** (attempt - 1));
      }
    }
  }

  errorOf(call: { readonly method: string; readonly namespace?: string }, error: unknown): LpsError {
    return error instanceof LpsError ? error : temporalError(this.nameOf(call), error);
  }

  /** What waits for its turn, or for an answer, throws ABORTED. */
  close(): void {
    this.#closing.abort();
    for (const controller of this.#underWay) controller.abort();
  }

  /** A signal for each request: the connection never takes its listener off the one it is given. */
  async #cancellable<Answer>(ask: (signal: AbortSignal) => Promise<Answer>): Promise<Answer> {
    const controller = new AbortController();
    this.#underWay.add(controller);
    try {
      return await ask(controller.signal);
    } finally {
      this.#underWay.delete(controller);
    }
  }

  async #turn(call: Call<unknown>): Promise<void> {
    for (const rate of this.#ratesOf(call)) {
      await rate.take(manyListeners(this.#closing.signal)).catch(() => {
        throw this.#aborted(call);
      });
    }
    if (this.#closing.signal.aborted) throw this.#aborted(call);
  }

  /** The narrowest last: that is the one which a busy server means. */
  #ratesOf({ namespace, isVisibility = false }: Call<unknown>): RequestRate[] {
    if (!isVisibility || namespace === undefined) return [this.#rate];
    const { requestsPerSecond, clock } = this.#options;
    const known = this.#visibilityRates.get(namespace);
    const rate = known ?? new RequestRate(Math.min(visibilityPerSecond, requestsPerSecond), clock);
    this.#visibilityRates.set(namespace, rate);
    return [this.#rate, rate];
  }

  #aborted(call: Call<unknown>): LpsError {
    return new LpsError('ABORTED', `${this.nameOf(call)}: the connection is closed`);
  }
}

/** RESOURCE_EXHAUSTED is also what an answer gets that is too large: asking again would not make it smaller. */
function isBusy(error: unknown): boolean {
  return grpcFailure(error)?.status === grpcStatus.RESOURCE_EXHAUSTED && !isTooLarge(error);
}

/** Said by gRPC itself, not by the server. */
export function isTooLarge(error: unknown): boolean {
  const failure = grpcFailure(error);
  return failure?.status === grpcStatus.RESOURCE_EXHAUSTED && /larger than max/i.test(failure.message);
}
