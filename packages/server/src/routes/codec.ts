/**
 * The codec server's routes, for Temporal's Web UI and CLI (wire.md section 3):
 *
 *   POST /encode  /decode[?preserveStorageRefs=true]  /download        also under /{namespace}/
 *
 *   preParsing  memory for the body, or a place in the line, else 503
 *   handler     body → payloads → pipeline, which asks for memory and for the right before it fetches → JSON, in pieces
 *
 * The answer's status is exactly 200, or an error of one line; never 404, which the Web UI reads as "not configured".
 */
import { Readable } from 'node:stream';
import { LpsError } from '@large-payload/core';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { statedNamespace } from '../auth/stated-namespace.js';
import type { Hold } from '../codec/byte-budget.js';
import { codecPaths, preflightHeaders } from '../codec/cors.js';
import { formatPayloads, parsePayloads } from '../codec/payloads-json.js';
import type { Codec, CodecCall } from '../codec/pipeline.js';
import type { Ownership } from '../codec/references.js';
import { PaceMonitor } from '../http/pace.js';
import { queryOf } from '../http/query.js';
import { reset } from '../http/send-blob.js';
import type { RunningReads } from '../nodes/running-reads.js';
import { type CodecVerb, codecOperation, codecQuery } from '../openapi/codec.js';

export interface CodecRoutesOptions {
  readonly codec: Codec;
  /** Whose pages may call: `https://ui.example`. */
  readonly corsOrigins: readonly string[];
  /** Larger bodies are refused, in bytes. Default what a full answer has, and never more than the codec's memory for bodies. */
  readonly maxRequestBytes?: number;
  /** Clients that are too slow for it are cut off: what they send and read is held in memory. */
  readonly pace?: ConstructorParameters<typeof PaceMonitor>[0];
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The body reaches the handler as it came. */
    readonly rawJson?: boolean;
  }
}

const MiB = 1024 * 1024;
const maxSubjects = 100;
const access = { encode: 'write', decode: 'decode', download: 'decode' } as const;

/** Registers routes and the parser of their bodies; CORS headers are registerCors's, which comes before the gate. */
export function registerCodec(app: FastifyInstance, options: CodecRoutesOptions, reads?: RunningReads): void {
  const { codec, corsOrigins } = options;
  // base64 makes four bytes of three
  const full = Math.ceil((codec.maxResponseBytes * 4) / 3) + MiB;
  const bodyLimit = Math.min(options.maxRequestBytes ?? full, codec.bodies.totalBytes);
  const pace = new PaceMonitor(options.pace ?? { idleTimeoutMs: 30_000, minRate: 1000, graceMs: 30_000 });
  keepRawBodies(app);

  for (const url of codecPaths) {
    const verb = url.slice(url.lastIndexOf('/') + 1) as CodecVerb;
    const config = {
      access: { right: access[verb], over: 'handler' },
      audit: verb,
      rawJson: true,
      operation: codecOperation(verb, url !== `/${verb}`),
    } as const;
    app.route({
      method: 'POST',
      url,
      bodyLimit,
      config,
      preParsing: async (request, reply, body) => {
        requireJson(request);
        const hold = codec.bodies.hold();
        const ending = endingOf(reply);
        ending.onEnd(hold.release);
        await hold.reach(announcedBytes(request, bodyLimit), ending.gone);
        watchSender(request, reply, pace);
        // app.ts leaves it to the routes to ask for the body
        if (request.headers.expect !== undefined) reply.raw.writeContinue();
        return body;
      },
      handler: (request, reply) => {
        if (verb !== 'encode') endInTime(reply, reads);
        return answer(request, reply, verb, codec, pace);
      },
    });
    app.route({
      method: 'OPTIONS',
      url,
      config: { access: 'public' },
      handler: async (request, reply) =>
        reply.code(204).header('allow', 'POST, OPTIONS').headers(preflightHeaders(request.headers, corsOrigins)).send(),
    });
  }
}

async function answer(
  request: FastifyRequest,
  reply: FastifyReply,
  verb: CodecVerb,
  codec: Codec,
  pace: PaceMonitor,
): Promise<FastifyReply> {
  const body = request.body;
  if (!Buffer.isBuffer(body)) throw new LpsError('INVALID_ARGUMENT', 'the body must be JSON');
  const hold = codec.answers.hold();
  endingOf(reply).onEnd(hold.release);
  const call = callOf(request, reply, hold);
  const { preserveStorageRefs } = queryOf(request, codecQuery);
  const payloads = parsePayloads(body);
  request.body = undefined; // its memory is needed for other things
  const changed = await codec[verb](payloads, { ...call, preserveStorageRefs });
  watchReader(reply, pace);
  return reply
    .code(200)
    .headers({
      'content-type': 'application/json',
      'cache-control': 'private, no-store',
      'x-content-type-options': 'nosniff',
    })
    .send(Readable.from(formatPayloads(changed)));
}

function callOf(request: FastifyRequest, reply: FastifyReply, hold: Hold): CodecCall {
  const { caller } = request as { readonly caller?: FastifyRequest['caller'] };
  // where no gate is: what the path or the header says
  const namespace = caller == null ? statedNamespace(request) : caller.namespace;
  return {
    hold,
    signal: endingOf(reply).gone,
    namespace,
    note(subjects) {
      request.auditSubjects = [...(request.auditSubjects ?? []), ...subjects].slice(0, maxSubjects);
    },
    authorize({ namespaces, everywhere }: Ownership) {
      if (everywhere) caller?.requireEverywhere();
      if (!everywhere || namespaces.length > 0) caller?.require(namespaces);
    },
  };
}

/** The end of a request: its answer was sent, or its client went away. */
interface Ending {
  /** Aborted when the client went away before he had his answer. */
  readonly gone: AbortSignal;
  onEnd(run: () => void): void;
}

const endings = new WeakMap<FastifyReply['raw'], Ending>();

function endingOf({ raw }: FastifyReply): Ending {
  const known = endings.get(raw);
  if (known !== undefined) return known;
  const controller = new AbortController();
  const runs: (() => void)[] = [];
  raw.once('close', () => {
    if (!raw.writableFinished) controller.abort(new LpsError('ABORTED', 'the client went away'));
    for (const run of runs) run();
  });
  const ending = { gone: controller.signal, onEnd: (run: () => void): void => void runs.push(run) };
  endings.set(raw, ending);
  return ending;
}

/** Cuts off whoever does not send what he announced: memory is held for it. */
function watchSender({ raw: request }: FastifyRequest, reply: FastifyReply, pace: PaceMonitor): void {
  const { socket } = request;
  const before = socket.bytesRead;
  const unwatch = pace.watch({
    progress: () => socket.bytesRead - before,
    waitsForClient: () => !request.complete,
    tooSlow: () => void socket.destroy(),
  });
  request.once('end', unwatch);
  endingOf(reply).onEnd(unwatch);
}

/** Cuts off whoever does not read: his answer takes memory from others. */
function watchReader(reply: FastifyReply, pace: PaceMonitor): void {
  const { raw } = reply;
  const { socket } = raw;
  const before = socket?.bytesWritten ?? 0;
  const unwatch = pace.watch({
    progress: () => (socket?.bytesWritten ?? 0) - before,
    waitsForClient: () => raw.writableNeedDrain,
    tooSlow: () => void socket?.destroy(),
  });
  endingOf(reply).onEnd(unwatch);
}

/** What an answer holds of blobs is as old as its beginning. */
function endInTime(reply: FastifyReply, reads: RunningReads | undefined): void {
  const { raw } = reply;
  if (reads === undefined || raw.closed) return; // its client is gone
  const read = reads.begin();
  read.onCut((error) => reset(raw, error));
  endingOf(reply).onEnd(() => read.end());
}

function requireJson({ headers }: FastifyRequest): void {
  // this also keeps a page of another origin from posting without a preflight
  if (!/^application\/json\s*(?:;|$)/i.test(headers['content-type'] ?? ''))
    throw new LpsError('INVALID_ARGUMENT', 'the Content-Type must be application/json');
  if (!/^(?:identity)?$/i.test(headers['content-encoding'] ?? ''))
    throw new LpsError('INVALID_ARGUMENT', 'the body must not be compressed');
}

/** Bytes that the body will have, or may have. */
function announcedBytes({ headers }: FastifyRequest, limit: number): number {
  const announced = Number(headers['content-length'] ?? limit);
  if (announced > limit) throw new LpsError('BLOB_TOO_LARGE', `the request body has more than ${limit} bytes`);
  return Math.max(1, announced);
}

/** JSON is not parsed before its depth is known; the bodies of other routes go fastify's own way. */
function keepRawBodies(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser('error', 'error');
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (request, body, done) => {
    if (request.routeOptions.config?.rawJson === true) return done(null, body);
    return parseJson(request, body.toString('utf8'), done);
  });
}
