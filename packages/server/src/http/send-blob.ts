import type { IncomingMessage, ServerResponse } from 'node:http';
import { type ByteRange, hexOf, isBytes, LpsError, parseObjectName, type StoredBlob } from '@large-payload/core';
import type { RunningRead } from '../nodes/running-reads.js';
import type { PaceMonitor } from './pace.js';

/** Headers of every answer that carries a blob: bytes that no browser shows, and no cache but ours keeps. */
export function blobHeaders(blob: StoredBlob['info'], length: number): Record<string, string | number> {
  return {
    'content-type': 'application/octet-stream',
    'content-length': length,
    'cache-control': 'private, no-store',
    'x-content-type-options': 'nosniff',
    'content-disposition': 'attachment',
    ...(blob.protectedUntil === undefined ? {} : { 'lps-protected-until': blob.protectedUntil.toISOString() }),
  };
}

/** The ETag of a blob: its digest. */
export function etagOf(key: string): string | undefined {
  const object = parseObjectName(key);
  const digest = object.kind === 'blob' ? object.blob.digest : object.kind === 'v1' ? object.digest : undefined;
  return digest && `"sha256:${hexOf(digest)}"`;
}

/**
 * Sends a body after the head was written. When the bytes turn out wrong, or the store fails, or the read is cut, so is the
 * connection: the reader never sees a clean end. Throws what ended it early, for the log.
 */
export async function sendBody(
  response: ServerResponse,
  body: StoredBlob['body'],
  pace: PaceMonitor,
  read?: RunningRead,
): Promise<number> {
  read?.onCut((error) => reset(response, error));
  if (isBytes(body)) {
    await endWith(response, body, pace);
    return body.length;
  }
  let bytes = 0;
  const stop = pace.watch({
    progress: () => bytes - response.writableLength,
    waitsForClient: () => response.writableNeedDrain,
    tooSlow: () => response.destroy(new LpsError('TOO_SLOW', 'the client read too slowly')),
  });
  // written out: a pipeline adds an abort controller and a dozen listeners to every download
  return new Promise((resolve, reject) => {
    body.on('data', (chunk: Uint8Array) => {
      if (read !== undefined && isCut(read)) return; // a machine that slept has not looked yet
      bytes += chunk.length;
      if (!response.write(chunk)) body.pause();
    });
    body.on('end', () => response.end());
    body.on('error', (error) => response.destroy(error));
    body.on('close', () => body.readableEnded || response.destroy());
    response.on('drain', () => body.resume());
    response.on('close', () => {
      stop();
      if (isWhole(response)) resolve(bytes);
      else reject(body.errored ?? response.errored ?? new LpsError('ABORTED', 'the client went away'));
      body.destroy();
    });
  });
}

function endWith(response: ServerResponse, bytes: Uint8Array, pace: PaceMonitor): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = pace.watch({
      progress: () => bytes.length - response.writableLength,
      waitsForClient: () => true,
      tooSlow: () => response.destroy(new LpsError('TOO_SLOW', 'the client read too slowly')),
    });
    response.once('close', () => {
      stop();
      if (isWhole(response)) resolve();
      else reject(response.errored ?? new LpsError('ABORTED', 'the client went away'));
    });
    response.end(bytes);
  });
}

/** Ends an answer together with what the system still has of it to send. Under TLS that goes out: it was sent before. */
export function reset(response: ServerResponse, error: LpsError): void {
  const { socket } = response;
  const isPlainTcp = socket !== null && !('encrypted' in socket) && socket.remotePort !== undefined;
  if (isPlainTcp) socket.resetAndDestroy();
  response.destroy(error);
}

/** A response without its socket says that it is finished, also when it was cut. */
function isWhole(response: ServerResponse): boolean {
  return response.writableFinished && response.errored === null;
}

function isCut(read: RunningRead): boolean {
  try {
    read.check();
    return false;
  } catch {
    return true;
  }
}

/** The one range of a `Range` header; `undefined` for none, or a form that is not ours (then the whole is sent). */
export function parseRange(request: IncomingMessage, size: number): ByteRange | undefined {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(request.headers.range?.trim() ?? '');
  if (match === null) return undefined;
  const [, first, last] = match;
  if (!first && !last) return undefined;
  const start = first ? Number(first) : Math.max(0, size - Number(last));
  const end = first && last ? Math.min(Number(last), size - 1) : size - 1;
  if (start >= size || (!first && Number(last) === 0)) {
    throw new LpsError('RANGE_NOT_SATISFIABLE', `the blob has ${size} bytes`, { details: { size } });
  }
  return end < start ? undefined : { start, end };
}
