/**
 * What a route says of itself in its `config.operation`, for the OpenAPI document (./document.ts).
 *
 * The schemas of query and body are those that the handler validates with; those of answers are what the tests hold every
 * answer against (./testing.ts).
 */
import { type ErrorCode, statusOf } from '@large-payload/core';
import type { z } from 'zod';
import type { Access } from '../auth/access.js';
import { CodecError } from '../codec/codec-error.js';
import type { HeaderName } from './schemas.js';

export interface Operation {
  /** Unique. Generators make the name of a function of it. */
  readonly id: string;
  readonly tag: Tag;
  readonly summary: string;
  readonly description?: string;
  /** What stands in the path. */
  readonly path?: z.ZodObject;
  readonly query?: z.ZodObject;
  /** Headers of the request, beside those that every route looks at. */
  readonly headers?: z.ZodObject;
  readonly body?: Content;
  /** By status, from 200 to 399. */
  readonly answers: Readonly<Record<number, OperationAnswer>>;
  /** Beside those that every route of its access has. */
  readonly errors: readonly ErrorCode[];
}

export interface OperationAnswer {
  readonly description: string;
  readonly body?: Content;
  readonly headers?: readonly HeaderName[];
}

/** The schema of a JSON text, or the bytes of a blob. */
export type Content = z.ZodType | 'octets';

export const tags = {
  blobs: 'Blobs by their keys.',
  uploads: 'Uploads whose bytes go to the bucket, past the service.',
  access: 'What a credential allows.',
  cache: 'A cache node, for whoever runs it.',
  pins: 'Blobs that are kept, whether a workflow holds them or not.',
  takedowns: 'Erasure on request.',
  nodes: 'Replicas and cache nodes: who may answer reads from what it keeps.',
  workflows: 'Durable work of the service, for whoever runs it.',
  codec: 'The codec server, as Temporal’s Web UI and CLI call it. Errors are one line of text there.',
} as const;
export type Tag = keyof typeof tags;

/** A route that has an operation. */
export interface DescribedRoute {
  readonly method: string;
  /** As fastify writes it: `/v3/workflows/:id`. */
  readonly url: string;
  readonly access: Access;
  readonly operation: Operation;
}

declare module 'fastify' {
  interface FastifyContextConfig {
    readonly operation?: Operation;
  }
}

/** Every code that a route may answer with. */
export function errorsOf({ access, operation }: Pick<DescribedRoute, 'access' | 'operation'>): ErrorCode[] {
  const ofAccess: ErrorCode[] =
    access === 'public' ? [] : ['INVALID_KEY', 'UNAUTHENTICATED', 'RATE_LIMITED', 'TRY_AGAIN', 'CATALOG_UNAVAILABLE'];
  const ofRight: ErrorCode[] = typeof access === 'string' ? [] : ['FORBIDDEN'];
  return [...new Set<ErrorCode>(['INVALID_ARGUMENT', 'INTERNAL', ...ofAccess, ...ofRight, ...operation.errors])];
}

/** The status that a route answers a code with. */
export function errorStatus({ tag }: Operation, code: ErrorCode): number {
  return tag === 'codec' ? new CodecError(code, '').status : statusOf(code);
}
