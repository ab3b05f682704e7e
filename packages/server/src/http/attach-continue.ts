/**
 * `Expect: 100-continue` in a server that others share. Without a `checkContinue` listener Node asks for every body at
 * once; with one it asks for none. So there is one listener a server, whoever attaches to it: it asks as Node would, except
 * where a route of ours will ask, and hands every request to the server's own listeners (its middleware stays in front).
 */
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Server as TlsServer } from 'node:https';
import { LpsError } from '@large-payload/core';

type AsksItself = (url: string) => boolean;

const attached = new WeakMap<Server | TlsServer, AsksItself[]>();

/** Throws CONFIG_INVALID when someone else listens already. */
export function attachContinue(server: Server | TlsServer, asksItself: AsksItself): void {
  const known = attached.get(server);
  if (known !== undefined) {
    known.push(asksItself);
    return;
  }
  if (server.listenerCount('checkContinue') > 0) {
    throw new LpsError(
      'CONFIG_INVALID',
      'the server has a listener for checkContinue: in it, pass on what the handler serves with server.emit("request", …)',
    );
  }
  const all = [asksItself];
  attached.set(server, all);
  server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    if (!all.some((one) => one(request.url ?? '/'))) response.writeContinue();
    server.emit('request', request, response);
  });
}
