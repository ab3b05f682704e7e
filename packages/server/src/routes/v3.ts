/** Our own API: blobs by key, for the `http` store and for people with curl. Errors are problem documents. */
import {
  type BlobInfo,
  type BlobStore,
  isDigest,
  isLpsError,
  LpsError,
  type PresignedRequest,
  parseKey,
  statOf,
} from '@large-payload/core';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { bodyOf, queryOf } from '../http/query.js';
import { etagOf, parseRange } from '../http/send-blob.js';
import type { Transfers } from '../http/transfer.js';
import { isWithoutCatalog } from '../nodes/running-reads.js';
import {
  getBlob,
  getQuery,
  headBlob,
  headQuery,
  listBlobs,
  listQuery,
  putBlob,
  putQuery,
  statBlobs,
  statBody,
  statBodyWords,
} from '../openapi/blobs.js';
import type { ParsedKey } from '../openapi/schemas.js';
import { type V1Options, v1Namespaces } from './v1.js';
import { requireOctets } from './v2.js';

export interface V3Options {
  /** Serves blobs of version 1. */
  readonly v1?: V1Options | undefined;
  /** Answers `?redirect=N` with a URL that lives so long. Absent: with the bytes. */
  readonly downloadLifetimeMs?: number | undefined;
  /** The newest event that was applied here; `undefined` while that may be old. For cache nodes. */
  readonly asOf?: (() => bigint | undefined) | undefined;
}

export function registerV3(app: FastifyInstance, transfers: Transfers, options: V3Options): void {
  const { store } = transfers;
  const redirect = redirecting(store, options.downloadLifetimeMs);

  const written = { right: 'write', over: (request: FastifyRequest) => [keyToPut(request).blob.namespace] } as const;
  app.put('/v3/blobs', { config: { access: written, operation: putBlob } }, async (request, reply) => {
    const { key, outcome, protectedUntil } = await transfers.receive(request, reply, () => {
      requireOctets(request);
      const { text, blob } = keyToPut(request);
      return { key: text, digest: blob.digest };
    });
    return reply.code(outcome === 'created' ? 201 : 200).send({ key, outcome, protectedUntil });
  });

  const headable = { right: 'read', over: ownersBy(headQuery, options.v1) } as const;
  app.head('/v3/blobs', { config: { access: headable, operation: headBlob } }, async (request, reply) => {
    const info = await store.head(queryOf(request, headQuery).key);
    if (info === undefined) throw notFound();
    return reply.headers(headHeaders(info)).send();
  });

  const readable = { right: 'read', over: ownersBy(getQuery, options.v1) } as const;
  app.get('/v3/blobs', { config: { access: readable, operation: getBlob } }, async (request, reply) => {
    const { key, redirect: minBytes } = queryOf(request, getQuery);
    const etag = etagOf(key);
    if (etag !== undefined && matches(request.headers['if-none-match'], etag)) {
      if ((await store.head(key)) === undefined) throw notFound();
      return reply.code(304).header('etag', etag).header('cache-control', 'private, no-store').send();
    }
    const elsewhere = await redirect(key, minBytes);
    if (elsewhere !== undefined) {
      transfers.metrics.direct('download', elsewhere.size);
      return reply.code(307).headers(elsewhere.headers).send();
    }
    const asOf = options.asOf?.(); // before the blob is looked up
    const headersOf = (info: BlobInfo): Record<string, string> => ({
      ...(etag === undefined ? {} : { etag }),
      // a replica may be fresh and unable to look up the row: then it knows of no event
      ...(asOf === undefined || isWithoutCatalog(info) ? {} : { 'lps-as-of': String(asOf) }),
      'accept-ranges': 'bytes',
    });
    const wantsRange = request.headers.range !== undefined && ifRange(request.headers['if-range'], etag);
    const info = wantsRange ? await store.head(key) : undefined;
    const range = info && parseRange(request.raw, info.size);
    if (range === undefined)
      return transfers.answer(request, reply, { key }, ({ info: found }) => ({
        status: 200,
        length: found.size,
        headers: headersOf(found),
      }));
    return transfers.answer(request, reply, { key, range }, ({ info: found }) => ({
      status: 206,
      length: range.end - range.start + 1,
      headers: { ...headersOf(found), 'content-range': `bytes ${range.start}-${range.end}/${found.size}` },
    }));
  });

  const asked = { right: 'read', over: (request: FastifyRequest) => namespacesOf(keysToStat(request)) } as const;
  const stat = { bodyLimit: 2 * 1024 * 1024, config: { access: asked, operation: statBlobs } };
  app.post('/v3/blobs/stat', stat, async (request, reply) => {
    const keys = keysToStat(request).map(({ text }) => text);
    const found = await statOf(store, keys);
    const blobs = [...found.values()].map(({ key, size, protectedUntil }) => ({ key, size, protectedUntil }));
    return reply.header('cache-control', 'private, no-store').send({ blobs });
  });

  const listed = {
    right: 'read',
    over: (request: FastifyRequest) => queryOf(request, listQuery).prefix.namespaces,
  } as const;
  app.get('/v3/blobs/list', { config: { access: listed, operation: listBlobs } }, async (request, reply) => {
    const { prefix, after, limit } = queryOf(request, listQuery);
    const page: BlobInfo[] = [];
    for await (const info of store.list(prefix.text, after === undefined ? {} : { after })) {
      if (page.push(info) === limit) break;
    }
    const blobs = page.map(({ key, size, modifiedAt }) => ({ key, size, modifiedAt }));
    const next = page.length === limit ? page.at(-1)?.key : null;
    return reply.header('cache-control', 'private, no-store').send({ blobs, next });
  });
}

function keyToPut(request: FastifyRequest): ParsedKey {
  return queryOf(request, putQuery).key;
}

function keysToStat(request: FastifyRequest): readonly ParsedKey[] {
  return bodyOf(request, statBody, statBodyWords).keys;
}

function namespacesOf(keys: readonly ParsedKey[]): readonly string[] {
  return [...new Set(keys.map(({ blob }) => blob.namespace))];
}

interface Redirect {
  /** Bytes. */
  readonly size: number;
  readonly headers: Record<string, string>;
}

/** Where a blob of at least so many bytes can be had, past us; `undefined` where it comes from us. */
function redirecting(
  store: BlobStore,
  lifetimeMs: number | undefined,
): (key: string, minBytes: number | undefined) => Promise<Redirect | undefined> {
  let presignGet = store.presignGet?.bind(store);
  const sign = (key: string, expiresInMs: number): Promise<PresignedRequest | undefined> | undefined =>
    presignGet?.(key, { expiresInMs }).catch((error: unknown) => {
      if (isLpsError(error, 'NOT_SUPPORTED')) presignGet = undefined; // with these credentials it never will
      return undefined;
    });
  return async (key, minBytes) => {
    if (presignGet === undefined || lifetimeMs === undefined || minBytes === undefined) return undefined;
    if (!key.startsWith('/')) return undefined; // of v1: in no catalog
    // what only the bucket knows is read and adopted first; what fails here, fails below with its own words
    const info = (await statOf(store, [key]).catch(() => undefined))?.get(key);
    if (info === undefined || info.size < minBytes) return undefined;
    const request = await sign(key, lifetimeMs);
    if (request === undefined || Object.keys(request.headers).length > 0) return undefined;
    const { digest } = parseKey(key);
    const { 'content-length': _, 'content-type': __, 'accept-ranges': ___, ...headers } = headHeaders(info);
    return {
      size: info.size,
      headers: {
        ...(headers as Record<string, string>),
        location: request.url,
        'lps-digest': digest,
        'lps-size': String(info.size),
      },
    };
  };
}

/** Whose the blob is that a query names. What is no key is refused here, before any handler. */
function ownersBy(
  query: typeof headQuery | typeof getQuery,
  v1: V1Options | undefined,
): (request: FastifyRequest) => readonly string[] | 'everywhere' {
  return (request) => {
    const { key } = queryOf(request, query);
    return v1 !== undefined && isOfV1(key) ? v1Namespaces(v1) : [parseKey(key).namespace];
  };
}

function isOfV1(key: string): boolean {
  return key.startsWith('blobs/') && isDigest(key.slice('blobs/'.length));
}

function headHeaders(info: BlobInfo): Record<string, string | number> {
  return {
    'content-type': 'application/octet-stream',
    'content-length': info.size,
    'cache-control': 'private, no-store',
    'accept-ranges': 'bytes',
    'x-content-type-options': 'nosniff',
    ...(etagOf(info.key) === undefined ? {} : { etag: etagOf(info.key) ?? '' }),
    ...(info.protectedUntil === undefined ? {} : { 'lps-protected-until': info.protectedUntil.toISOString() }),
  };
}

function matches(header: string | undefined, etag: string): boolean {
  return header !== undefined && (header.trim() === '*' || header.split(',').some((one) => one.trim() === etag));
}

/** `If-Range` with our ETag, or none, lets a range through; anything else means the whole. */
function ifRange(header: string | string[] | undefined, etag: string | undefined): boolean {
  return header === undefined || header === etag;
}

function notFound(): LpsError {
  return new LpsError('BLOB_NOT_FOUND', 'blob not found');
}
