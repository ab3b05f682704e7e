/** Models of clouds in this process: they do as the clouds do, and fail when they are told to. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import type { BlobStore } from '../blob-store.js';
import { digestOf } from '../digest.js';
import { type ErrorCode, isLpsError, type LpsError } from '../errors.js';
import { keyFor } from '../key.js';

export type Handler = (request: IncomingMessage, response: ServerResponse) => unknown;

export interface ModelServer {
  readonly endpoint: string;
  /** Every request so far. */
  readonly seen: IncomingMessage[];
  /** Each takes one request, in turn, instead of the model. */
  readonly faults: Handler[];
  stop(): Promise<void>;
}

export async function startModelServer(serve: Handler): Promise<ModelServer> {
  const server = createServer((request, response) => {
    request.on('error', () => {});
    model.seen.push(request);
    void (model.faults.shift() ?? serve)(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const model: ModelServer = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    seen: [],
    faults: [],
    async stop() {
      server.closeAllConnections();
      server.close();
    },
  };
  return model;
}

export function answer(
  response: ServerResponse,
  status: number,
  body: string | Buffer = '',
  headers: Record<string, string> = {},
): void {
  response.writeHead(status, { 'content-length': String(Buffer.byteLength(body)), ...headers }).end(body);
}

/** The whole body of a request, or nothing when it broke off. */
export async function bodyOf(request: IncomingMessage): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of request) chunks.push(chunk as Buffer);
    return Buffer.concat(chunks);
  } catch {
    return undefined;
  }
}

/** Breaks the connection in the midst of the request. */
export const reset: Handler = (request) => request.once('data', () => request.socket.resetAndDestroy());
export const silent: Handler = () => {};

/** Lets the model do its work, and the connection break before the answer. */
export const unheard =
  (serve: Handler): Handler =>
  (request, response) => {
    response.writeHead = () => request.socket.resetAndDestroy() as never;
    return serve(request, response);
  };

/** The first half of an answer, then the end of the connection. */
export const cutShort =
  (bytes: Buffer): Handler =>
  (request, response) => {
    response.writeHead(200, { 'content-length': bytes.length });
    response.write(bytes.subarray(0, bytes.length / 2), () => request.socket.end());
  };

export function endless(): Readable {
  const body = new Readable({ read: () => void setImmediate(() => body.push(Buffer.alloc(1000))) });
  return body;
}

export function sample(size = 50_000) {
  const bytes = randomBytes(size);
  const digest = digestOf(bytes);
  return { key: keyFor('tests', digest, null), bytes, expect: { digest, size } };
}

export async function keysOf(store: BlobStore, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix)) keys.push(key);
  return keys;
}

/** What a call fails with. */
export async function failure(promise: Promise<unknown> | undefined, code?: ErrorCode): Promise<LpsError> {
  const error: unknown = await promise?.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.ok(isLpsError(error), String(error));
  if (code !== undefined) assert.equal(error.code, code, error.message);
  return error;
}

/** As the clouds sort names. */
export function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
