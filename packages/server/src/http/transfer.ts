import type { IncomingMessage } from 'node:http';
import {
  type BlobStore,
  discard,
  type GetOptions,
  isLpsError,
  LpsError,
  type PutResult,
  type StoredBlob,
} from '@large-payload/core';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Metrics } from '../metrics.js';
import { isWithoutCatalog, type RunningRead, type RunningReads } from '../nodes/running-reads.js';
import type { PaceMonitor } from './pace.js';
import { blobHeaders, sendBody } from './send-blob.js';
import { UploadBody } from './upload-body.js';

export interface TransferLimits {
  /** Larger uploads are refused before a byte of them is read. */
  readonly maxBlobBytes: number;
  /** Uploads at the same time; more are answered 503 with Retry-After. */
  readonly maxUploads: number;
}

/** How an answer that carries a blob begins. */
export interface BlobHead {
  readonly status: number;
  /** Bytes of the body. */
  readonly length: number;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Moves blobs between requests and the store: what every route that carries bytes shares. */
export class Transfers {
  #uploads = 0;

  constructor(
    readonly store: BlobStore,
    readonly limits: TransferLimits,
    readonly pace: PaceMonitor,
    readonly metrics: Metrics,
    /** Absent: nobody ends a read but its client. */
    readonly reads?: RunningReads | undefined,
  ) {}

  get uploadsInFlight(): number {
    return this.#uploads;
  }

  /**
   * Stores a request's body. `describe` says what it must be, from the head of the request; whatever it throws, and
   * whatever the store throws, the rest of the body does no harm.
   */
  async receive(
    request: FastifyRequest,
    reply: FastifyReply,
    describe: (size: number) => { key: string; digest: `sha256:${string}` },
  ): Promise<PutResult & { key: string }> {
    const body = new UploadBody(request.raw, reply.raw, this.pace);
    try {
      const size = announcedSize(request.raw, this.limits.maxBlobBytes);
      const { key, digest } = describe(size);
      const result = await this.#counted(() => this.#store(body, key, { digest, size }));
      if (result.outcome === 'exists') this.metrics.deduplicated(size);
      else this.metrics.received(request.routeOptions.url ?? '', size);
      return { ...result, key };
    } finally {
      // a client that waits for a 100 sends no body now: the connection cannot be used for another request
      if (body.isUnasked) reply.header('connection', 'close');
      discard(body);
    }
  }

  /** For a request that is answered before anybody looks at its body. */
  refuse(request: FastifyRequest, reply: FastifyReply): void {
    if (request.raw.complete) return;
    const body = new UploadBody(request.raw, reply.raw, this.pace);
    if (body.isUnasked) reply.header('connection', 'close');
    discard(body);
  }

  /**
   * Reads a blob, or a part of it, and sends it as the answer. Throws BLOB_NOT_FOUND, and what `headOf` throws, before the
   * answer begins.
   */
  async answer(
    request: FastifyRequest,
    reply: FastifyReply,
    { key, ...options }: GetOptions & { readonly key: string },
    headOf: (blob: StoredBlob) => BlobHead,
  ): Promise<void> {
    // until the last byte is out: what is in one piece waits for a slow client in the socket
    const read = this.reads?.begin(key);
    try {
      const blob = await this.store.get(key, options);
      if (blob === undefined) throw new LpsError('BLOB_NOT_FOUND', 'blob not found');
      if (isWithoutCatalog(blob.info)) read?.limit();
      let head: BlobHead;
      try {
        read?.check();
        head = headOf(blob);
      } catch (error) {
        discard(blob.body);
        throw error;
      }
      await this.#send(request, reply, blob, head, read);
    } finally {
      read?.end();
    }
  }

  async #send(
    request: FastifyRequest,
    reply: FastifyReply,
    blob: StoredBlob,
    head: BlobHead,
    read: RunningRead | undefined,
  ): Promise<void> {
    reply.hijack();
    const { raw } = reply;
    if (raw.destroyed) return discard(blob.body);
    raw.writeHead(head.status, {
      ...(reply.getHeaders() as Record<string, string>),
      ...blobHeaders(blob.info, head.length),
      ...head.headers,
    });
    try {
      const bytes = await sendBody(raw, blob.body, this.pace, read);
      this.metrics.sent(request.routeOptions.url ?? '', bytes);
    } catch (error) {
      request.log.warn({ err: error }, 'the answer broke off');
    }
  }

  async #store(
    body: UploadBody,
    key: string,
    expect: { digest: `sha256:${string}`; size: number },
  ): Promise<PutResult> {
    const abort = new AbortController();
    // only when the client fails: a store that lets go of the body may still have to look whether the object is there
    const stop = (error: Error): void => {
      if (isLpsError(error)) abort.abort();
    };
    body.once('error', stop);
    try {
      return await this.store.put(key, body, expect, { signal: abort.signal });
    } catch (error) {
      // the client's own failing (too slow, gone) says more than what it led to; a stream that the store let go of has an
      // error of Node's
      throw isLpsError(body.errored) ? body.errored : error;
    } finally {
      body.off('error', stop);
    }
  }

  async #counted<T>(run: () => Promise<T>): Promise<T> {
    if (this.#uploads >= this.limits.maxUploads) {
      throw new LpsError('OVERLOADED', 'too many uploads at the same time; try again', {
        details: { retryAfterSeconds: 1 },
      });
    }
    this.#uploads += 1;
    try {
      return await run();
    } finally {
      this.#uploads -= 1;
    }
  }
}

function announcedSize(request: IncomingMessage, maxBlobBytes: number): number {
  const header = request.headers['content-length'];
  if (header === undefined) throw new LpsError('LENGTH_REQUIRED', 'the Content-Length header is required');
  const size = /^\d{1,15}$/.test(header) ? Number(header) : Number.NaN;
  if (Number.isNaN(size)) throw new LpsError('INVALID_ARGUMENT', 'the Content-Length header is not a number of bytes');
  if (size > maxBlobBytes) {
    throw new LpsError('BLOB_TOO_LARGE', `payload exceeds max size of ${maxBlobBytes} bytes`, {
      details: { maxBlobBytes },
    });
  }
  return size;
}
