/** A service as a cache node sees it over a bad line: counted, slow, cut off, changed, away. */
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';

export interface UpstreamProxy {
  readonly url: string;
  /** `GET /v3/blobs`, in the order in which they came. */
  readonly requests: string[];
  /** Nothing is let through, and what was open is cut. */
  away(isAway: boolean): void;
  /** What becomes of the bodies of answers to `GET /v3/blobs`, chunk by chunk; `undefined`: cut off here. */
  onBody: ((chunk: Buffer, offset: number) => Buffer | Promise<Buffer> | undefined) | undefined;
  /** Before a request goes on. */
  before: ((request: http.IncomingMessage) => Promise<void> | void) | undefined;
  close(): Promise<void>;
}

export async function startUpstreamProxy(target: string): Promise<UpstreamProxy> {
  const { hostname, port } = new URL(target);
  let isAway = false;
  const server = http.createServer((request, response) => {
    if (isAway) return void request.socket.destroy();
    const line = `${request.method} ${request.url?.split('?')[0]}`;
    proxy.requests.push(line);
    void forward(request, response, line === 'GET /v3/blobs').catch(() => response.destroy());
  });
  server.on('connection', (socket) => {
    if (isAway) socket.destroy();
  });
  async function forward(request: http.IncomingMessage, response: http.ServerResponse, isBlob: boolean): Promise<void> {
    await proxy.before?.(request);
    const { method, url: path, headers } = request;
    const onward = http.request({ hostname, port, method, path, headers, agent: false }, (answer) => {
      void pass(answer, response, isBlob).catch(() => response.destroy());
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  }
  async function pass(answer: http.IncomingMessage, response: http.ServerResponse, isBlob: boolean): Promise<void> {
    response.sendDate = false;
    response.writeHead(answer.statusCode ?? 502, answer.headers);
    response.flushHeaders();
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    let offset = 0;
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      const changed = isBlob && proxy.onBody !== undefined ? await proxy.onBody(chunk, offset) : chunk;
      offset += chunk.length;
      if (changed === undefined) return void response.destroy();
      if (!response.write(changed)) await once(response, 'drain', { signal: gone.signal });
    }
    response.end();
  }
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const proxy: UpstreamProxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests: [],
    onBody: undefined,
    before: undefined,
    away(now) {
      isAway = now;
      if (now) server.closeAllConnections();
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return proxy;
}
