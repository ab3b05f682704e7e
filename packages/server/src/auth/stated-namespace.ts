import { LpsError, parseNamespace } from '@large-payload/core';
import type { FastifyRequest } from 'fastify';

/** What the path and `X-Namespace` name, which must be the same. Throws FORBIDDEN, INVALID_KEY. */
export function statedNamespace(request: FastifyRequest): string | undefined {
  const { namespace: inPath } = (request.params ?? {}) as { readonly namespace?: string };
  const header = request.headers['x-namespace'];
  const inHeader = header === undefined || header === '' ? undefined : decodedHeader(header);
  if (inPath !== undefined && inHeader !== undefined && inPath !== inHeader) throw namesTwo();
  const stated = inPath ?? inHeader;
  return stated === undefined ? undefined : parseNamespace(stated);
}

/** Node reads headers as Latin-1; browsers and Go send UTF-8. */
function decodedHeader(header: string | string[]): string {
  const text = typeof header === 'string' ? header : header.join(', ');
  const utf8 = Buffer.from(text, 'latin1').toString('utf8');
  return utf8.includes('\ufffd') ? text : utf8;
}

export function namesTwo(): LpsError {
  return new LpsError('FORBIDDEN', 'the request names more than one namespace');
}
