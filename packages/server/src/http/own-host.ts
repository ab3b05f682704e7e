/**
 * Where nobody is asked who he is, only this machine may call. A web page can get around that by giving its own name the
 * address 127.0.0.1 (DNS rebinding): the browser then takes us for a part of that page. Its `Host` header tells.
 */
import { isIP } from 'node:net';
import { LpsError } from '@large-payload/core';
import type { FastifyInstance } from 'fastify';

/** Refuses requests for names of others with 403. */
export function registerOwnHost(app: FastifyInstance): void {
  app.addHook('onRequest', (request, _reply, done) => {
    if (isOwn(request.headers.host)) return done();
    done(
      new LpsError(
        'FORBIDDEN',
        'this service answers only for localhost; with --auth required it answers for every name',
      ),
    );
  });
}

/** An address cannot be given to somebody else, and no browser leaves the header out. */
function isOwn(host: string | undefined): boolean {
  if (host === undefined || host === '') return true;
  const name = /^(?:\[([^\]]*)\]|([^:]*))(?::\d{1,5})?$/.exec(host);
  const text = (name?.[1] ?? name?.[2] ?? '').toLowerCase();
  return text === 'localhost' || text.endsWith('.localhost') || isIP(text) !== 0;
}
