/** Our own API: blobs by key, for the `http` store and for people with curl. Errors are problem documents. */
import {
  type BlobInfo,
  type BlobStore,
  isDigest,
  isLpsError,
  LpsError,
  type PresignedRequest,
  parseKey,
  parseNamespace,
  parseObjectName,
  statOf,
} from '@large-payload/core';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { parseQuery, requiredOf } from '../http/query.js';
import { etagOf, parseRange } from '../http/send-blob.js';
import type { Transfers } from '../http/transfer.js';
import { type V1Options, v1Namespaces } from './v1.js';
import { keyInQuery, requireOctets } from './v2.js';

const maxKeysPerStat = 1000;
const maxPerPage = 1000;
const statBody = z.strictObject({ keys: z.array(z.string()).max(maxKeysPerStat) });

export interface V3Options {
  /** Serves blobs of version 1. */
  readonly v1?: V1Options | undefined;
  /** Answers `?redirect=N` with a URL that lives so long. Absent: with the bytes. */
  readonly downloadLifetimeMs?: number | undefined;
}

export function registerV3(app: FastifyInstance, transfers: Transfers, options: V3Options): void {
  const { store } = transfers;
  const redirect = redirecting(store, options.downloadLifetimeMs);

  const readable = { right: 'read', over: (request: FastifyRequest) => ownersOf(request.raw.url, options.v1) } as const;

  app.put('/v3/blobs', { config: { access: { right: 'write', over: keyInQuery } } }, async (request, reply) => {
    const { key, outcome, protectedUntil } = await transfers.receive(request, reply, () => {
      requireOctets(request);
      const key = requiredOf(parseQuery(request.raw.url ?? ''), 'key');
      return { key, digest: parseKey(key).digest };
    });
    return reply.code(outcome === 'created' ? 201 : 200).send({ key, outcome, protectedUntil });
  });

  app.head('/v3/blobs', { config: { access: readable } }, async (request, reply) => {
    const key = readableKey(request.raw.url, options.v1);
    const info = await store.head(key);
    if (info === undefined) throw notFound();
    return reply.headers(headHeaders(info)).send();
  });

  app.get('/v3/blobs', { config: { access: readable } }, async (request, reply) => {
    const key = readableKey(request.raw.url, options.v1);
    const etag = etagOf(key);
    const minBytes = minRedirectBytes(request.raw.url);
    if (etag !== undefined && matches(request.headers['if-none-match'], etag)) {
      if ((await store.head(key)) === undefined) throw notFound();
      return reply.code(304).header('etag', etag).header('cache-control', 'private, no-store').send();
    }
    const elsewhere = await redirect(key, minBytes);
    if (elsewhere !== undefined) {
      transfers.metrics.direct('download', elsewhere.size);
      return reply.code(307).headers(elsewhere.headers).send();
    }
    const headers = { ...(etag === undefined ? {} : { etag }), 'accept-ranges': 'bytes' };
    const wantsRange = request.headers.range !== undefined && ifRange(request.headers['if-range'], etag);
    const info = wantsRange ? await store.head(key) : undefined;
    const range = info && parseRange(request.raw, info.size);
    const blob = await store.get(key, range === undefined ? {} : { range });
    if (blob === undefined) throw notFound();
    if (range === undefined)
      return transfers.send(request, reply, blob, { status: 200, length: blob.info.size, headers });
    return transfers.send(request, reply, blob, {
      status: 206,
      length: range.end - range.start + 1,
      headers: { ...headers, 'content-range': `bytes ${range.start}-${range.end}/${blob.info.size}` },
    });
  });

  const asked = { right: 'read', over: ({ body }: FastifyRequest) => statKeys(body).namespaces } as const;
  app.post('/v3/blobs/stat', { bodyLimit: 2 * 1024 * 1024, config: { access: asked } }, async (request, reply) => {
    const found = await statOf(store, statKeys(request.body).keys);
    const blobs = [...found.values()].map(({ key, size, protectedUntil }) => ({ key, size, protectedUntil }));
    return reply.header('cache-control', 'private, no-store').send({ blobs });
  });

  const listed = { right: 'read', over: ({ raw }: FastifyRequest) => listRange(raw.url).namespaces } as const;
  app.get('/v3/blobs/list', { config: { access: listed } }, async (request, reply) => {
    const query = parseQuery(request.raw.url ?? '');
    const { prefix } = listRange(request.raw.url);
    const after = query.get('after');
    const limit = pageSize(query.get('limit'));
    const page: BlobInfo[] = [];
    for await (const info of store.list(prefix, after === undefined ? {} : { after: checkedAfter(after) })) {
      if (page.push(info) === limit) break;
    }
    const blobs = page.map(({ key, size, modifiedAt }) => ({ key, size, modifiedAt }));
    const next = page.length === limit ? page.at(-1)?.key : null;
    return reply.header('cache-control', 'private, no-store').send({ blobs, next });
  });
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

/** `redirect=N`: blobs of N bytes and more may be had elsewhere. */
function minRedirectBytes(url: string | undefined): number | undefined {
  const text = parseQuery(url ?? '').get('redirect');
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,15}$/.test(text)) return Number(text);
  throw new LpsError('INVALID_ARGUMENT', 'redirect must be the least size in bytes, from 1');
}

function readableKey(url: string | undefined, v1: V1Options | undefined): string {
  const key = requiredOf(parseQuery(url ?? ''), 'key');
  if (v1 === undefined || !isOfV1(key)) parseKey(key);
  return key;
}

function isOfV1(key: string): boolean {
  return key.startsWith('blobs/') && isDigest(key.slice('blobs/'.length));
}

/** Whose a blob is. */
function ownersOf(url: string | undefined, v1: V1Options | undefined): readonly string[] | 'everywhere' {
  const key = readableKey(url, v1);
  return v1 !== undefined && isOfV1(key) ? v1Namespaces(v1) : [parseKey(key).namespace];
}

function statKeys(body: unknown): { readonly keys: readonly string[]; readonly namespaces: readonly string[] } {
  const { success, data } = statBody.safeParse(body);
  if (!success)
    throw new LpsError('INVALID_ARGUMENT', `the body must be {"keys":[…]} with at most ${maxKeysPerStat} keys`);
  return { keys: data.keys, namespaces: [...new Set(data.keys.map((key) => parseKey(key).namespace))] };
}

/** What a list goes over. A prefix that ends inside a namespace's name reaches into others. */
function listRange(url: string | undefined): {
  readonly prefix: string;
  readonly namespaces: readonly string[] | 'everywhere';
} {
  const prefix = parseQuery(url ?? '').get('prefix') ?? '/blobs/';
  if (!prefix.startsWith('/blobs/')) throw new LpsError('INVALID_ARGUMENT', 'prefix must begin with /blobs/');
  const [namespace, rest] = prefix.slice('/blobs/'.length).split('/', 2);
  return { prefix, namespaces: rest === undefined ? 'everywhere' : [parseNamespace(namespace)] };
}

function checkedAfter(after: string): string {
  parseObjectName(after);
  return after;
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

function pageSize(text: string | undefined): number {
  if (text === undefined) return maxPerPage;
  const limit = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= maxPerPage) return limit;
  throw new LpsError('INVALID_ARGUMENT', `limit must be a number from 1 to ${maxPerPage}`);
}

function notFound(): LpsError {
  return new LpsError('BLOB_NOT_FOUND', 'blob not found');
}
