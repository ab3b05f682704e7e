/** For tests: holds answers against what the routes say of them. */
import { isDeepStrictEqual } from 'node:util';
import { isErrorCode, statusOf } from '@large-payload/core';
import type { FastifyInstance } from 'fastify';
import type { z } from 'zod';
import { type DescribedRoute, errorStatus, errorsOf } from './operation.js';
import { problem } from './schemas.js';

export interface SentAnswer {
  readonly status: number;
  readonly contentType: string;
  readonly text: string;
}

/** What is wrong with an answer of a route; `undefined` when it is as described. */
export function faultOf(route: Pick<DescribedRoute, 'access' | 'operation'>, answer: SentAnswer): string | undefined {
  const { status, contentType, text } = answer;
  const { operation } = route;
  const said = operation.answers[status];
  const codes = errorsOf(route);
  if (status === statusOf('ABORTED')) return undefined; // the client is gone: nobody reads it
  if (said === undefined && !codes.some((code) => errorStatus(operation, code) === status))
    return `the status ${status} is not described`;
  if (!/^application\/(?:problem\+)?json/.test(contentType)) return undefined;
  const value: unknown = JSON.parse(text);
  if (said !== undefined) {
    if (said.body === undefined || said.body === 'octets') return `JSON is not described for ${status}`;
    return differenceOf(said.body, value);
  }
  const { code } = value as { readonly code?: unknown };
  if (!isErrorCode(code) || !codes.includes(code)) return `the code ${String(code)} is not described`;
  return errorStatus(operation, code) === status ? differenceOf(problem, value) : `${status} is not that of ${code}`;
}

/** An object's schema leaves out what it does not name: a field too many makes a difference, too. */
function differenceOf(schema: z.ZodType, value: unknown): string | undefined {
  const { success, data, error } = schema.safeParse(value);
  if (!success) return error.message;
  return isDeepStrictEqual(data, value) ? undefined : 'it has fields that are not described';
}

/** Checks every answer of the routes that are registered from now on; the list grows by what is wrong. */
export function checkAnswers(app: FastifyInstance): readonly string[] {
  const faults: string[] = [];
  app.addHook('onSend', async (request, reply, payload) => {
    const { access, operation } = request.routeOptions.config ?? {};
    if (access === undefined || operation === undefined) return payload;
    const text = typeof payload === 'string' || Buffer.isBuffer(payload) ? payload.toString() : '';
    const contentType = text === '' ? '' : String(reply.getHeader('content-type') ?? '');
    const fault = faultOf({ access, operation }, { status: reply.statusCode, contentType, text });
    if (fault !== undefined)
      faults.push(`${request.method} ${request.url.slice(0, 100)}: ${fault}\n${text.slice(0, 500)}`);
    return payload;
  });
  return faults;
}
