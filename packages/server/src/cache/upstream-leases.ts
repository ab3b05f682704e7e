/**
 * Leases on reading from upstream, over HTTP (docs/decisions/0006-read-leases.md), for `holdReadLease`.
 *
 *   POST   /v3/nodes/{id}/lease  {"name","cursor","maxStalenessMs"} ─► {"newest","leaseMs"}
 *   GET    /v3/events?cursor=N   events behind N, one after the other, as they come; first of all `reset` when some are forgotten
 *   DELETE /v3/nodes/{id}/lease
 *
 * An id belongs to the credential that asked first, for as long as the lease lasts. A node whose token was replaced goes on
 * under a new id; whoever waits for the old one waits until that lease ends.
 *
 * The stream stays open, so that an event is heard of at once. One that is silent for longer than its comments allow, that
 * breaks off, or that leaves an event out, is opened again behind the last event that was taken.
 */
import { randomUUID } from 'node:crypto';
import { discard, isLpsError, LpsError } from '@large-payload/core';
import { z } from 'zod';
import type { LeaseSource } from '../nodes/lease-holder.js';
import type { Granted } from '../nodes/read-lease.js';
import type { NodeEvent } from '../nodes/read-leases.js';
import { EventStreamParser, type ServerSentEvent } from './event-stream.js';
import { strange, type UpstreamApi } from './upstream-api.js';

export interface UpstreamLeasesOptions {
  readonly api: Pick<UpstreamApi, 'json' | 'stream'>;
  /** This node's, for as long as it keeps anything, and upstream lets it. */
  readonly id: string;
  /** Told of the new id when upstream has granted a lease under that, and not under `id`. */
  readonly onId?: (id: string) => void;
  /** For people. */
  readonly name: string;
  /** M as this node wants it, in ms. */
  readonly maxStalenessMs: number;
  /** Called when an event has come, and nobody waits for it. */
  readonly onEvent: () => void;
  /** A stream that is silent for so long is opened again, in ms. Default 15,000. */
  readonly silenceMs?: number;
}

export interface UpstreamLeases extends LeaseSource {
  /** Ends the stream. */
  close(): void;
}

const grantedAnswer = z.object({ newest: z.string().regex(/^\d{1,19}$/), leaseMs: z.number().min(0) });
const eventData = z.object({ key: z.string().min(1), physicalKey: z.string().min(1) });
/** Events that were heard of and not applied yet; then the stream is read no further. */
const maxQueued = 10_000;
const firstBackOffMs = 100;
const maxBackOffMs = 5000;

export function upstreamLeases(options: UpstreamLeasesOptions): UpstreamLeases {
  const { api, name, maxStalenessMs } = options;
  let { id } = options;
  let told = id;
  const path = (): string => `/v3/nodes/${encodeURIComponent(id)}/lease`;
  const stream = new EventFeed(options);
  return {
    async grant(cursor, signal): Promise<Granted> {
      const body = { kind: 'cache', name, cursor: String(cursor), maxStalenessMs };
      const ask = (): Promise<unknown> => api.json('POST', path(), { body, signal });
      const answer = await ask().catch((error) => {
        if (!isForbidden(error)) throw error;
        id = randomUUID(); // a token without the right is refused again
        return ask();
      });
      const parsed = grantedAnswer.safeParse(answer);
      if (!parsed.success) throw strange('a lease on reading', parsed.error);
      if (id !== told) options.onId?.(id);
      told = id;
      const newest = BigInt(parsed.data.newest);
      if (newest === cursor) stream.follow(cursor);
      return { newest, leaseMs: parsed.data.leaseMs };
    },
    events: (after, limit, signal) => stream.take(after, limit, signal),
    async end(signal) {
      stream.close();
      await api.json('DELETE', path(), { signal });
    },
    close: () => stream.close(),
  };
}

/** `ownRefusal` has wrapped it. */
function isForbidden(error: unknown): boolean {
  return isLpsError(error, 'STORE_REFUSED') && isLpsError(error.cause, 'FORBIDDEN');
}

/** The events behind one another, from a stream that is opened again when it fails. */
class EventFeed {
  readonly #options: UpstreamLeasesOptions;
  /** What has come and was not taken. */
  #queue: NodeEvent[] = [];
  /** The last event that has come, or the one that the stream was opened behind. */
  #last: bigint | undefined;
  /** Upstream has forgotten events behind this one. */
  #resetBehind: bigint | undefined;
  #connection: AbortController | undefined;
  #isClosed = false;
  #wake: (() => void) | undefined;
  #resume: (() => void) | undefined;

  constructor(options: UpstreamLeasesOptions) {
    this.#options = options;
  }

  /** Hears what comes behind an event. Nothing to do when it does already. */
  follow(after: bigint): void {
    if (this.#isClosed) return;
    while (this.#queue[0] !== undefined && this.#queue[0].id <= after) this.#queue.shift();
    if (this.#resetBehind !== undefined && after > this.#resetBehind) this.#resetBehind = undefined;
    const next = this.#queue[0]?.id ?? (this.#last ?? -2n) + 1n;
    if (this.#connection !== undefined && next === after + 1n) return;
    this.#restart(after);
  }

  /** The next events behind `after`, one at least; `undefined` when upstream has forgotten some. */
  async take(after: bigint, limit: number, signal: AbortSignal): Promise<readonly NodeEvent[] | undefined> {
    this.follow(after);
    while (this.#queue.length === 0) {
      if (this.#resetBehind !== undefined && this.#resetBehind >= after) {
        this.#resetBehind = undefined;
        this.#disconnect();
        return undefined;
      }
      try {
        await this.#next(signal);
      } catch (error) {
        this.#disconnect(); // it should have had something to say
        throw error;
      }
    }
    const page = this.#queue.splice(0, limit);
    this.#resume?.();
    return page;
  }

  close(): void {
    this.#isClosed = true;
    this.#disconnect();
  }

  #restart(after: bigint): void {
    this.#disconnect();
    this.#queue = [];
    this.#last = after;
    this.#resetBehind = undefined;
    const connection = new AbortController();
    this.#connection = connection;
    void this.#run(connection.signal);
  }

  #disconnect(): void {
    this.#connection?.abort(new LpsError('ABORTED', 'the event stream is not needed any more'));
    this.#connection = undefined;
    this.#resume?.();
  }

  /** Until it is aborted: reads the stream, and opens it again. */
  async #run(signal: AbortSignal): Promise<void> {
    let backOffMs = firstBackOffMs;
    while (!signal.aborted) {
      const openedMs = performance.now();
      await this.#read(signal).catch(() => undefined);
      if (signal.aborted || this.#resetBehind !== undefined) return;
      backOffMs = performance.now() - openedMs > maxBackOffMs ? firstBackOffMs : Math.min(backOffMs * 2, maxBackOffMs);
      await paused(backOffMs * (0.5 + Math.random() / 2), signal);
    }
  }

  async #read(stopped: AbortSignal): Promise<void> {
    const silence = new AbortController();
    const { silenceMs = 15_000, api } = this.#options;
    const timer = setTimeout(() => silence.abort(new LpsError('SERVICE_UNREACHABLE', 'a silent stream')), silenceMs);
    const signal = AbortSignal.any([stopped, silence.signal]);
    const cursor = String(this.#last ?? 0n);
    try {
      const headers = { accept: 'text/event-stream', 'last-event-id': cursor };
      const { body } = await api.stream(`/v3/events?cursor=${cursor}`, headers, signal);
      const parser = new EventStreamParser((event) => this.#onEvent(event, stopped));
      try {
        for await (const chunk of body) {
          timer.refresh();
          parser.push(chunk as Uint8Array);
          if (this.#queue.length > maxQueued) await this.#untilTaken(stopped);
          if (stopped.aborted || this.#resetBehind !== undefined) return;
        }
      } finally {
        discard(body);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  #onEvent(event: ServerSentEvent, stopped: AbortSignal): void {
    if (stopped.aborted || this.#resetBehind !== undefined) return;
    if (event.event === 'reset') this.#resetBehind = this.#last ?? 0n;
    else if (event.event === 'takedown' || event.event === 'delete') this.#add(event, event.event);
    else return;
    if (this.#wake === undefined) this.#options.onEvent();
    else this.#wake();
  }

  #add({ id: idText, data }: ServerSentEvent, kind: NodeEvent['kind']): void {
    const id = /^\d{1,19}$/.test(idText ?? '') ? BigInt(idText ?? '') : undefined;
    const parsed = eventData.safeParse(JSON.parse(data));
    if (id === undefined || !parsed.success) throw strange('an event');
    const last = this.#last ?? 0n;
    if (id <= last) return; // said twice
    if (id !== last + 1n) throw strange('an event is missing');
    this.#queue.push({ id, kind, ...parsed.data });
    this.#last = id;
  }

  async #next(signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        this.#wake = undefined;
        reject(signal.reason);
      };
      if (signal.aborted) return onAbort();
      signal.addEventListener('abort', onAbort, { once: true });
      this.#wake = () => {
        this.#wake = undefined;
        signal.removeEventListener('abort', onAbort);
        resolve();
      };
    });
  }

  /** Nothing more is read until somebody has taken what came. */
  async #untilTaken(stopped: AbortSignal): Promise<void> {
    while (this.#queue.length > maxQueued && !stopped.aborted) {
      await new Promise<void>((resolve) => {
        this.#resume = resolve;
      });
    }
    this.#resume = undefined;
  }
}

async function paused(ms: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(over, ms).unref();
    function over(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', over);
      resolve();
    }
    signal.addEventListener('abort', over, { once: true });
  });
}
