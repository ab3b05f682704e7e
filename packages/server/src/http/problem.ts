import type { IncomingMessage } from 'node:http';
import { isLpsError, LpsError } from '@large-payload/core';

/** What answers an error: the status, the headers and the body. */
export interface Problem {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: string;
}

/** Any thrown value as an `LpsError`; what is not ours says nothing of itself to a client. */
export function toLpsError(error: unknown): LpsError {
  if (isLpsError(error)) return error;
  const { statusCode, code } = (error ?? {}) as { statusCode?: number; code?: string };
  // fastify's own refusals: body too large, not JSON, wrong media type
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE')
    return new LpsError('INVALID_ARGUMENT', 'the JSON body is too large', { cause: error });
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new LpsError('INVALID_ARGUMENT', 'the request body is not what this route takes', { cause: error });
  }
  return new LpsError('INTERNAL', 'an error inside the service; its log has the details', { cause: error });
}

/** RFC 9457 for `/v3` and for whoever accepts JSON; a short plain text for the older routes. */
export function problemFor(error: LpsError, request: IncomingMessage, requestId: string): Problem {
  const headers: Record<string, string> = { 'cache-control': 'private, no-store', 'x-content-type-options': 'nosniff' };
  if (error.status === 503 || error.status === 429)
    headers['retry-after'] = String(error.details.retryAfterSeconds ?? 1);
  if (error.code === 'RANGE_NOT_SATISFIABLE') headers['content-range'] = `bytes */${error.details.size ?? '*'}`;
  if (!wantsJson(request)) {
    headers['content-type'] = 'text/plain; charset=utf-8';
    return { status: error.status, headers, body: error.message };
  }
  headers['content-type'] = 'application/problem+json';
  const body = {
    type: `urn:large-payload:error:${error.code.toLowerCase()}`,
    title: error.code,
    status: error.status,
    detail: error.message,
    code: error.code,
    requestId,
  };
  return { status: error.status, headers, body: JSON.stringify(body) };
}

/** The older routes, and those of the codec server, whose callers show the text to a person. */
const plainPaths = /^\/v[12]\/|^(?:\/[^/?]+)?\/(?:encode|decode|download)(?:\?|$)/;

function wantsJson(request: IncomingMessage): boolean {
  return !plainPaths.test(request.url ?? '') || /application\/(?:problem\+)?json/.test(request.headers.accept ?? '');
}
