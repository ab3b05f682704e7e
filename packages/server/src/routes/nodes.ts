/** Processes that keep blobs (docs/decisions/0006-read-leases.md): their leases on reading, and the events that end them. */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { isLpsError, LpsError } from '@large-payload/core';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { bodyOf, queryOf } from '../http/query.js';
import type { EventFeed, FeedItem } from '../nodes/event-feed.js';
import type { ReadLeases } from '../nodes/read-leases.js';
import {
  endNodeLease,
  eventsQuery,
  followEvents,
  leaseBody,
  leaseBodyWords,
  leaseNode,
  listNodes,
  nodePath,
} from '../openapi/nodes.js';

export interface NodesOptions {
  readonly leases: ReadLeases;
  readonly feed: EventFeed;
  /** The caller is asked again who he is. Default 10 minutes, in ms. */
  readonly maxFollowMs?: number;
  /** A listener that reads nothing for so long is cut off. Default 30 s, in ms. */
  readonly maxStuckMs?: number;
}

const access = { right: 'read', over: 'everywhere' } as const;
const uncached = { 'cache-control': 'private, no-store' } as const;

export function registerNodes(app: FastifyInstance, options: NodesOptions): void {
  const { leases } = options;
  app.get('/v3/nodes', { config: { access, operation: listNodes } }, async (_request, reply) => {
    const nodes = await leases.list();
    return reply.headers(uncached).send({ nodes: nodes.map((node) => ({ ...node, cursor: String(node.cursor) })) });
  });

  app.post('/v3/nodes/:id/lease', { config: { access, operation: leaseNode } }, async (request, reply) => {
    const { name, cursor, maxStalenessMs } = bodyOf(request, leaseBody, leaseBodyWords);
    const node = { id: idOf(request), kind: 'cache', name, owner: request.caller.principal.id } as const;
    const granted = await leases.grant(node, cursor, maxStalenessMs).catch((error: unknown) => {
      if (isLpsError(error, 'CONFIG_INVALID')) throw new LpsError('INVALID_ARGUMENT', error.message);
      throw error;
    });
    return reply.headers(uncached).send({ newest: String(granted.newest), leaseMs: granted.leaseMs });
  });

  app.delete('/v3/nodes/:id/lease', { config: { access, operation: endNodeLease } }, async (request, reply) => {
    const ended = await leases.end(idOf(request), 'cache', request.caller.principal.id);
    return reply.headers(uncached).send({ ended });
  });

  app.get('/v3/events', { config: { access, operation: followEvents } }, async (request, reply) => {
    const { cursor: asked, follow = 'true' } = queryOf(request, eventsQuery);
    const after = lastEventId(request) ?? asked;
    const leave = options.feed.enter();
    try {
      const cursor = after ?? (await leases.newest());
      await sendEvents(reply, cursor, follow === 'true', options);
    } finally {
      leave();
    }
  });
}

function idOf(request: FastifyRequest): string {
  const parsed = nodePath.safeParse(request.params);
  if (parsed.success) return parsed.data.id;
  throw new LpsError('INVALID_ARGUMENT', parsed.error.issues[0]?.message ?? 'that is no id of a node');
}

/** What an EventSource sends when it connects again. */
function lastEventId({ headers }: FastifyRequest): bigint | undefined {
  const header = headers['last-event-id'];
  if (header === undefined || header === '') return undefined;
  if (typeof header === 'string' && /^\d{1,18}$/.test(header)) return BigInt(header);
  throw new LpsError('INVALID_ARGUMENT', 'Last-Event-ID is the number of an event, in decimal digits');
}

async function sendEvents(
  reply: FastifyReply,
  cursor: bigint,
  isToFollow: boolean,
  { feed, maxFollowMs = 600_000, maxStuckMs = 30_000 }: NodesOptions,
): Promise<void> {
  reply.hijack();
  const { raw } = reply;
  if (raw.destroyed) return;
  const end = new AbortController();
  const stop = (): void => end.abort();
  const timer = setTimeout(stop, maxFollowMs).unref();
  raw.once('close', stop);
  raw.on('error', stop);
  raw.writeHead(200, {
    ...(reply.getHeaders() as Record<string, string>),
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'private, no-store',
    'x-accel-buffering': 'no',
  });
  raw.flushHeaders();
  try {
    for await (const item of feed.follow(cursor, end.signal, isToFollow)) {
      if (!raw.write(textOf(item)) && !(await hasDrained(raw, maxStuckMs))) return void raw.destroy();
    }
    raw.end();
  } finally {
    clearTimeout(timer);
  }
}

function textOf(item: FeedItem): string {
  if (item.kind === 'quiet') return ': still here\n\n';
  if (item.kind === 'reset') return `id: ${item.newest}\nevent: reset\ndata: {"newest":"${item.newest}"}\n\n`;
  return item.events
    .map(
      ({ id, kind, key, physicalKey }) =>
        `id: ${id}\nevent: ${kind}\ndata: ${JSON.stringify({ key, physicalKey })}\n\n`,
    )
    .join('');
}

async function hasDrained(raw: ServerResponse, withinMs: number): Promise<boolean> {
  const over = new AbortController(); // whoever loses lets go of its listeners
  const signal = AbortSignal.any([over.signal, AbortSignal.timeout(withinMs)]);
  const [gone, drained] = [once(raw, 'close', { signal }), once(raw, 'drain', { signal })];
  try {
    return !raw.closed && (await Promise.race([gone.then(() => false), drained.then(() => true)]).catch(() => false));
  } finally {
    over.abort();
    await Promise.allSettled([gone, drained]);
  }
}
