/** The service's API v3, as far as a store goes, and a bucket that it signs requests for: two doors to one store. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { BlobStore } from '../blob-store.js';
import { readAll, toStream } from '../body.js';
import { base64Of } from '../digest.js';
import { isLpsError, LpsError } from '../errors.js';
import { digestOfObject, parseKey, parseObjectName } from '../key.js';
import { answer, type Handler } from './model-server-fixture.js';

/** `bucketUrl`: where `bucketOf` the same store listens. Without it, the service offers nothing direct. */
export function apiV3(store: BlobStore, bucketUrl?: string): Handler {
  const uploads: Uploads = { begun: new Map(), catalog: new Set() };
  return async (request: IncomingMessage, response: ServerResponse) => {
    const url = new URL(request.url ?? '/', 'http://service');
    try {
      await route({ store, request, response, url, bucketUrl, uploads });
    } catch (error) {
      if (response.headersSent) response.destroy();
      else sendProblem(response, isLpsError(error) ? error : new LpsError('INTERNAL', 'oops', { cause: error }));
    }
  };
}

interface Uploads {
  /** Keys, by the upload's id. */
  readonly begun: Map<string, string>;
  /** Keys that the service has acknowledged. */
  readonly catalog: Set<string>;
}

interface Exchange {
  readonly store: BlobStore;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly url: URL;
  readonly bucketUrl: string | undefined;
  readonly uploads: Uploads;
}

export function sendProblem(response: ServerResponse, { status, code, message }: LpsError): void {
  const problem = { type: 'about:blank', title: code, status, detail: message, code, requestId: 'r1' };
  response.writeHead(status, { 'content-type': 'application/problem+json' }).end(JSON.stringify(problem));
}

const protectedUntil = new Date(Date.now() + 3_600_000).toISOString();

async function route(exchange: Exchange): Promise<void> {
  const { store, request, response, url, uploads } = exchange;
  const json = (status: number, body: unknown): void => {
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  };
  const { searchParams } = url;
  const key = searchParams.get('key') ?? '';
  const completes = /^\/v3\/uploads\/([^/]+)\/complete$/.exec(url.pathname)?.[1];
  if (request.method === 'POST' && completes !== undefined) return json(...(await completed(exchange, completes)));
  switch (`${request.method} ${url.pathname}`) {
    case 'PUT /v3/blobs': {
      const expected = { digest: parseKey(key).digest, size: Number(request.headers['content-length']) };
      const exists = (await store.head(key)) !== undefined; // answered before the body is read
      const outcome = exists ? 'exists' : (await store.put(key, request, expected)).outcome;
      uploads.catalog.add(key);
      json(outcome === 'created' ? 201 : 200, { key, outcome, protectedUntil });
      return;
    }
    case 'POST /v3/uploads':
      json(...(await begun(exchange)));
      return;
    case 'HEAD /v3/blobs':
    case 'GET /v3/blobs':
      await sendBlob(exchange, key);
      return;
    case 'POST /v3/blobs/stat': {
      const { keys } = JSON.parse(Buffer.from(await readAll(request, 1e7)).toString()) as { keys: string[] };
      if (keys.length > 1000) throw new LpsError('INVALID_ARGUMENT', 'too many');
      const infos = await Promise.all(keys.map((key) => store.head(key)));
      const blobs = infos.flatMap((info) => (info ? [{ key: info.key, size: info.size, protectedUntil }] : []));
      json(200, { blobs });
      return;
    }
    case 'GET /v3/blobs/list': {
      const page: unknown[] = [];
      let last: string | null = null;
      for await (const { key, size, modifiedAt } of store.list(searchParams.get('prefix') ?? '')) {
        if (key <= (searchParams.get('after') ?? '')) continue;
        page.push({ key, size, modifiedAt });
        last = key;
        if (page.length === Number(searchParams.get('limit'))) break;
      }
      json(200, { blobs: page, next: page.length === Number(searchParams.get('limit')) ? last : null });
      return;
    }
    case 'GET /readyz':
      json(200, { ready: true });
      return;
    default:
      throw new LpsError('ROUTE_NOT_FOUND', 'no such route');
  }
}

async function begun({ store, request, bucketUrl, uploads }: Exchange): Promise<[number, unknown]> {
  if (bucketUrl === undefined) throw new LpsError('NOT_SUPPORTED', 'no direct uploads');
  const body = Buffer.from(await readAll(request, 10_000)).toString();
  const { key, size } = JSON.parse(body) as { key: string; size: number };
  const { digest } = parseKey(key);
  if (uploads.catalog.has(key) && (await store.head(key))) return [200, { outcome: 'present', key, protectedUntil }];
  const uploadId = `upload ${uploads.begun.size}`;
  uploads.begun.set(uploadId, key);
  const headers = {
    'content-length': `${size}`,
    'x-amz-checksum-sha256': base64Of(digest),
    'if-none-match': '*',
  };
  const signed = { method: 'PUT', url: signedUrl(bucketUrl, key), headers, expiresAt: protectedUntil };
  return [201, { outcome: 'direct', key, uploadId, request: signed }];
}

async function completed({ store, uploads }: Exchange, id: string): Promise<[number, unknown]> {
  const key = uploads.begun.get(decodeURIComponent(id));
  if (key === undefined) throw new LpsError('UPLOAD_NOT_FOUND', 'no such upload');
  if ((await store.head(key)) === undefined) throw new LpsError('UPLOAD_INCOMPLETE', 'the object is not in the bucket');
  const outcome = uploads.catalog.has(key) ? 'exists' : 'created';
  uploads.catalog.add(key);
  return [outcome === 'created' ? 201 : 200, { key, outcome, protectedUntil }];
}

async function sendBlob({ store, request, response, url, bucketUrl }: Exchange, key: string): Promise<void> {
  const info = await store.head(key);
  if (info === undefined) throw new LpsError('BLOB_NOT_FOUND', 'blob not found');
  const redirectBytes = Number(url.searchParams.get('redirect') ?? Number.POSITIVE_INFINITY);
  if (bucketUrl !== undefined && info.size >= redirectBytes) {
    response.writeHead(307, redirectHeaders(bucketUrl, key, info.size)).end();
    return;
  }
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  const range = first && last ? { start: Number(first), end: Math.min(Number(last), info.size - 1) } : undefined;
  const headers = { 'lps-protected-until': protectedUntil, 'accept-ranges': 'bytes' };
  if (range === undefined) response.writeHead(200, { ...headers, 'content-length': info.size });
  else {
    response.writeHead(206, {
      ...headers,
      'content-length': range.end - range.start + 1,
      'content-range': `bytes ${range.start}-${range.end}/${info.size}`,
    });
  }
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  const found = await store.get(key, range === undefined ? {} : { range });
  if (found !== undefined) toStream(found.body).pipe(response);
}

/** Of a redirect to the bucket. */
export function redirectHeaders(bucketUrl: string, key: string, size: number): Record<string, string> {
  return {
    location: signedUrl(bucketUrl, key),
    'lps-digest': `${digestOfObject(parseObjectName(key))}`,
    'lps-size': `${size}`,
    'lps-protected-until': protectedUntil,
    'content-length': '0',
  };
}

function signedUrl(bucketUrl: string, key: string): string {
  return `${bucketUrl}/${encodeURIComponent(key)}?X-Amz-Signature=s3cret`;
}

/** A bucket that takes an object only with the right bytes, and only while none stands there. */
export function bucketOf(store: BlobStore): Handler {
  return async (request: IncomingMessage, response: ServerResponse) => {
    const url = new URL(request.url ?? '/', 'http://bucket');
    const key = decodeURIComponent(url.pathname.slice(1));
    if (url.searchParams.get('X-Amz-Signature') !== 's3cret') return refuse(response, 403, 'AccessDenied');
    const info = await store.head(key);
    if (request.method === 'PUT') {
      const { digest } = parseKey(key);
      if (request.headers['x-amz-checksum-sha256'] !== base64Of(digest)) return refuse(response, 400, 'BadDigest');
      if (info !== undefined) return refuse(response, 412, 'PreconditionFailed'); // before the body is read
      try {
        const { outcome } = await store.put(key, request, { digest, size: Number(request.headers['content-length']) });
        return outcome === 'created' ? answer(response, 200) : refuse(response, 412, 'PreconditionFailed');
      } catch {
        return refuse(response, 400, 'BadDigest');
      }
    }
    const found = info && (await store.get(key));
    if (found === undefined) return refuse(response, 404, 'NoSuchKey');
    response.writeHead(200, { 'content-length': found.info.size });
    toStream(found.body).pipe(response);
  };
}

export function refuse(response: ServerResponse, status: number, code: string): void {
  answer(response, status, `<?xml version="1.0"?><Error><Code>${code}</Code></Error>`);
}
