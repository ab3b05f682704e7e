/**
 * Every call to one cluster: its rate, its deadline, how often it is asked, and what its failures mean.
 *
 * A first scan may take hours, and a cluster that restarts in between must not end it. So what may pass is asked again, with
 * longer and longer pauses: at most ten times, and not once four deadlines have passed since the first failure of the call, or
 * of all calls since the last answer: with many namespaces, a cluster that is away would else hold up a round for hours.
 */
import { type Clock, LpsError, manyListeners } from '@large-payload/core';
import type { Connection } from '@temporalio/client';
import { grpcFailure, grpcStatus, mayPass, temporalError } from './grpc-failure.js';
import { RequestRate } from './request-rate.js';

export interface CallsOptions {
  readonly cluster: string;
  readonly connection: Connection;
  readonly requestsPerSecond: number;
  readonly clock: Clock;
  /** For one request, in ms. */
  readonly deadlineMs: number;
  /** For the pauses, as `Math.random`. */
  readonly random?: () => number;
}

export interface Call<Answer> {
  /** `ListSchedules` */
  readonly method: string;
  readonly namespace?: string;
  /** Lists and counts: of those the server allows 10 a second in a namespace, whoever asks. */
  readonly isVisibility?: boolean;
  /** Of `until`. Default: until `close`. */
  readonly signal?: AbortSignal;
  ask(connection: Connection): Promise<Answer>;
}

/** Below the server's 10, which people and their UI want a part of. */
const visibilityPerSecond = 8;
const attempts = 10;
const firstPauseMs = 250;
const longestPauseMs = 30_000;
/** From the first failure to the last attempt, in deadlines. */
const patience = 4;

export class Calls {
  readonly #options: CallsOptions;
  readonly #rate: RequestRate;
  readonly #visibilityRates = new Map<string, RequestRate>();
  readonly #closing = new AbortController();
  /** Of the first failure since there was an answer to anything. */
  #failedAt: number | undefined;

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

  /** Throws what gRPC throws, of the last attempt; ABORTED after `close`, or when the call's signal is aborted. */
  async raw<Answer>(call: Call<Answer>): Promise<Answer> {
    const { random = Math.random } = this.#options;
    let failedAt: number | undefined;
    for (let attempt = 1; ; attempt += 1) {
      await this.#turn(call);
      try {
        const answer = await this.#once(call);
        this.#failedAt = undefined;
        return answer;
      } catch (error) {
        if (this.#signalOf(call).aborted) throw this.#aborted(call);
        failedAt ??= this.#options.clock.monotonicMs();
        const pauseMs = pauseAfter(attempt, random());
        if (!mayPass(error) || isTooLarge(error)) throw error;
        if (attempt >= attempts || this.#isTooLate(failedAt, pauseMs)) throw error;
        await this.#pause(call, pauseMs, error);
      }
    }
  }

  #isTooLate(failedAt: number, pauseMs: number): boolean {
    const { clock, deadlineMs } = this.#options;
    this.#failedAt ??= failedAt;
    return clock.monotonicMs() + pauseMs > Math.min(failedAt, this.#failedAt) + patience * deadlineMs;
  }

  errorOf(call: { readonly method: string; readonly namespace?: string }, error: unknown): LpsError {
    return error instanceof LpsError ? error : temporalError(this.nameOf(call), error);
  }

  /** For calls that nobody waits for any more once this one is aborted. */
  until(signal: AbortSignal | undefined): AbortSignal {
    const { signal: closing } = this.#closing;
    return manyListeners(signal === undefined ? closing : AbortSignal.any([closing, signal]));
  }

  /** What waits for its turn, or for an answer, throws ABORTED. */
  close(): void {
    this.#closing.abort();
  }

  /** With a signal of its own: the connection never takes its listener off the one it is given. */
  async #once<Answer>(call: Call<Answer>): Promise<Answer> {
    const { connection, deadlineMs } = this.#options;
    const signal = this.#signalOf(call);
    const controller = new AbortController();
    const abort = (): void => controller.abort();
    signal.addEventListener('abort', abort, { once: true });
    try {
      return await connection.withAbortSignal(controller.signal, () =>
        connection.withDeadline(Date.now() + deadlineMs, () => call.ask(connection)),
      );
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  async #turn(call: Call<unknown>): Promise<void> {
    const signal = this.#signalOf(call);
    for (const rate of this.#ratesOf(call)) {
      await rate.take(signal).catch(() => {
        throw this.#aborted(call);
      });
    }
    if (signal.aborted) throw this.#aborted(call);
  }

  /** One that is busy gets no other calls either. */
  async #pause(call: Call<unknown>, pauseMs: number, error: unknown): Promise<void> {
    if (grpcFailure(error)?.status === grpcStatus.RESOURCE_EXHAUSTED) return this.#ratesOf(call).at(-1)?.pause(pauseMs);
    await this.#options.clock.sleep(pauseMs, this.#signalOf(call)).catch(() => {
      throw this.#aborted(call);
    });
  }

  #signalOf({ signal }: Call<unknown>): AbortSignal {
    return signal ?? manyListeners(this.#closing.signal);
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
    const why = this.#closing.signal.aborted ? 'the connection is closed' : 'it was broken off';
    return new LpsError('ABORTED', `${this.nameOf(call)}: ${why}`);
  }
}

/** In ms; the later half of it is left to chance, so that those who failed together do not come back together. */
function pauseAfter(attempt: number, random: number): number {
  const pauseMs = Math.min(longestPauseMs, firstPauseMs * 2 ** (attempt - 1));
  return (pauseMs * (1 + random)) / 2;
}

/** Said by gRPC itself, not by the server: asking again would not make the answer smaller. */
export function isTooLarge(error: unknown): boolean {
  const failure = grpcFailure(error);
  return failure?.status === grpcStatus.RESOURCE_EXHAUSTED && /larger than max/i.test(failure.message);
}
