/** For tests of the HTTP side: the app on a free port over any store, and requests as raw as they need to be. */
import http from 'node:http';
import net from 'node:net';
import {
  type BlobStore,
  digestOf,
  formatMetadataHeader,
  keyFor,
  type Metadata,
  memoryStore,
} from '@large-payload/core';
import { pino } from 'pino';
import { createMetrics } from '../metrics.js';
import { checkAnswers } from '../openapi/testing.js';
import { type App, type AppOptions, createApp } from './app.js';

export interface RunningApp extends App {
  readonly port: number;
  readonly store: BlobStore;
  /** Rejects when an answer was not as its route describes it. */
  close(): Promise<void>;
}

export async function startApp(options: Partial<AppOptions> = {}): Promise<RunningApp> {
  const store = options.store ?? memoryStore();
  const metrics = createMetrics({ uploadsInFlight: () => 0, poolStats: () => ({ total: 0, idle: 0, waiting: 0 }) });
  const app = createApp({
    store,
    limits: { maxBlobBytes: 1024 ** 3, maxUploads: 64, maxConnections: 1000 },
    pace: { idleTimeoutMs: 30_000, minRate: 1000, graceMs: 30_000 },
    logger: pino({ level: 'silent' }),
    metrics,
    operations: { ready: async () => {}, version: '0.0.0', metrics },
    ...options,
  });
  const faults = checkAnswers(app.server);
  await app.server.listen({ port: 0, host: '127.0.0.1' });
  const { port } = app.server.server.address() as net.AddressInfo;
  const close = async (): Promise<void> => {
    app.server.server.closeAllConnections();
    await app.server.close();
    if (faults.length > 0) throw new Error(`answers that are not as described:\n${faults.join('\n')}`);
  };
  return { ...app, port, store, close };
}

export interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: Buffer;
  readonly text: string;
}

export interface RequestOptions {
  readonly method?: string;
  readonly headers?: http.OutgoingHttpHeaders;
  readonly body?: Uint8Array;
  readonly agent?: http.Agent;
  readonly signal?: AbortSignal;
}

/** One request; rejects when the connection breaks before the answer's end. */
export function request(port: number, path: string, options: RequestOptions = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { method = 'GET', headers = {}, body, agent, signal } = options;
    const sent = http.request(
      { host: '127.0.0.1', port, path, method, headers, ...(agent ? { agent } : {}), ...(signal ? { signal } : {}) },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const all = Buffer.concat(chunks);
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: all,
            text: all.toString('utf8'),
          });
        });
      },
    );
    sent.on('error', reject);
    sent.end(body);
  });
}

export interface V2Blob {
  readonly bytes: Buffer;
  readonly digest: `sha256:${string}`;
  readonly key: string;
  readonly putPath: string;
  readonly putHeaders: http.OutgoingHttpHeaders;
  readonly getPath: string;
  readonly getHeaders: http.OutgoingHttpHeaders;
}

/** Bytes with everything that a client of v2 says about them. */
export function v2Blob(bytes: Buffer, namespace = 'default', metadata: Metadata | null = null): V2Blob {
  const digest = digestOf(bytes);
  const key = keyFor(namespace, digest, metadata);
  return {
    bytes,
    digest,
    key,
    putPath: `/v2/blobs/put?${new URLSearchParams({ namespace, digest })}`,
    putHeaders: {
      'content-type': 'application/octet-stream',
      'content-length': bytes.length,
      'x-temporal-metadata': formatMetadataHeader(metadata),
    },
    getPath: `/v2/blobs/get?${new URLSearchParams({ key })}`,
    getHeaders: {
      'content-type': 'application/octet-stream',
      'x-payload-expected-content-length': String(bytes.length),
    },
  };
}

export function put(port: number, blob: V2Blob, body: Uint8Array = blob.bytes): Promise<Answer> {
  return request(port, blob.putPath, {
    method: 'PUT',
    headers: { ...blob.putHeaders, 'content-length': body.length },
    body,
  });
}

export function get(port: number, blob: V2Blob): Promise<Answer> {
  return request(port, blob.getPath, { headers: blob.getHeaders });
}

/** A connection of one's own: what was received so far can be waited on. */
export class RawConnection {
  received = '';
  closed = false;
  #wake: (() => void)[] = [];

  private constructor(readonly socket: net.Socket) {
    socket.setEncoding('latin1');
    socket.on('data', (text: string) => {
      this.received += text;
      this.#notify();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.closed = true;
      this.#notify();
    });
  }

  static async open(port: number): Promise<RawConnection> {
    const socket = net.connect(port, '127.0.0.1');
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    return new RawConnection(socket);
  }

  write(data: string | Uint8Array): Promise<void> {
    return new Promise((resolve) => this.socket.write(data, () => resolve()));
  }

  /** Until what was received matches, or the connection is closed. */
  async until(pattern: RegExp): Promise<string> {
    while (!pattern.test(this.received) && !this.closed) await new Promise<void>((resolve) => this.#wake.push(resolve));
    return this.received;
  }

  async untilClosed(): Promise<string> {
    return this.until(/(?!)/);
  }

  destroy(): void {
    this.socket.destroy();
  }

  #notify(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}

/** The head of a PUT to v2 as text, for a `RawConnection`. */
export function putHead(blob: V2Blob, headers: Record<string, string> = {}): string {
  const all = { host: 'localhost', ...blob.putHeaders, ...headers } as Record<string, string>;
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return `PUT ${blob.putPath} HTTP/1.1\r\n${lines.join('')}\r\n`;
}
