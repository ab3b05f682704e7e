/** A proxy between a client and a real HTTP server, which does to some requests what a bad server would. */
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Faults {
  /** Before a request goes on. */
  before?(request: http.IncomingMessage): Promise<void> | void;
  /** An answer of the proxy's own; the request does not go on then. */
  instead?(request: http.IncomingMessage): { status: number; body: string } | undefined;
  /** Changes the headers of an answer. */
  answer?(headers: http.IncomingHttpHeaders): http.IncomingHttpHeaders;
}

export interface FaultProxy {
  /** `http://127.0.0.1:PORT` */
  readonly url: string;
  close(): Promise<void>;
}

/** Hands on everything as it came, the `Host` too: signatures stay right. */
export async function startFaultProxy(target: string, faults: Faults): Promise<FaultProxy> {
  const { hostname, port } = new URL(target);
  const server = http.createServer((request, response) => {
    void forward(request, response).catch(() => response.destroy());
  });
  async function forward(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const own = faults.instead?.(request);
    if (own !== undefined) {
      request.resume();
      response.writeHead(own.status, { 'content-type': 'application/xml' }).end(own.body);
      return;
    }
    await faults.before?.(request);
    const { method, url: path, headers } = request;
    const onward = http.request({ hostname, port, method, path, headers }, (answer) => {
      response.sendDate = false;
      response.writeHead(answer.statusCode ?? 502, faults.answer?.(answer.headers) ?? answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    request.pipe(onward);
  }
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
