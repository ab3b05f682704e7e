/** Google Cloud Storage as its documentation and its answers have it, generations included. */
import { createHash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { answer, bodyOf, byBytes, type Handler, type ModelServer, startModelServer } from './model-server-fixture.js';

interface Generation {
  readonly generation: string;
  readonly bytes: Buffer;
  readonly updated: string;
  timeDeleted?: string;
  softDeleteTime?: string;
}

export interface GcsModel extends ModelServer {
  /** By name, the oldest generation first. */
  readonly objects: Map<string, Generation[]>;
  /** Deleted for good, while the bucket has a soft delete policy. */
  readonly softDeleted: [name: string, Generation][];
  /** The bucket's description. */
  bucket: Record<string, unknown>;
  /** What happens to bytes between their upload and the disk. */
  corrupt: (bytes: Buffer) => Buffer;
  /** Serves a request as GCS would. */
  readonly serve: Handler;
  /** The readable bytes. */
  live(name: string): Buffer | undefined;
  add(name: string, bytes: Buffer): void;
}

const place = /^(\/upload)?\/storage\/v1\/b\/([^/?]+)(\/o)?(?:\/([^/?]+))?(?:\?|$)/;
const pageSize = 100;

export async function startGcsModel(): Promise<GcsModel> {
  const objects = new Map<string, Generation[]>();
  let count = 0;
  const serve: Handler = async (request, response) => {
    const [, upload, bucket, o, name] = place.exec(request.url ?? '') ?? [];
    const query = new URL(request.url ?? '', 'http://model').searchParams;
    if (bucket === undefined) return answer(response, 400);
    if (bucket !== 'bucket') return refuse(response, 404, 'notFound', 'The specified bucket does not exist.');
    if (o === undefined) return answer(response, 200, JSON.stringify(model.bucket));
    if (upload !== undefined) return insert(model, request, response, query);
    if (name === undefined) return answer(response, 200, JSON.stringify(listOf(model, query)));
    return serveObject(model, decodeURIComponent(name), query, request, response);
  };
  const server = await startModelServer(serve);
  const model: GcsModel = Object.assign(server, {
    objects,
    softDeleted: [],
    bucket: {},
    corrupt: (bytes: Buffer) => bytes,
    serve,
    live: (name: string) => liveOf(model, name)?.bytes,
    add(name: string, bytes: Buffer) {
      const before = liveOf(model, name);
      const updated = new Date().toISOString();
      if (before !== undefined) before.timeDeleted = updated;
      const kept = isVersioned(model) ? (objects.get(name) ?? []) : [];
      objects.set(name, [...kept, { generation: String(1_700_000_000_000_000 + ++count), bytes, updated }]);
    },
  });
  return model;
}

export function refuse(response: ServerResponse, status: number, reason: string, message = 'because'): void {
  const error = { code: status, message, errors: [{ domain: 'global', reason, message }] };
  answer(response, status, JSON.stringify({ error }), { 'content-type': 'application/json; charset=UTF-8' });
}

function isVersioned({ bucket }: GcsModel): boolean {
  return (bucket.versioning as { enabled?: boolean } | undefined)?.enabled === true;
}

function keepsDeleted({ bucket }: GcsModel): boolean {
  const { retentionDurationSeconds = '0' } = (bucket.softDeletePolicy ?? {}) as { retentionDurationSeconds?: string };
  return Number(retentionDurationSeconds) > 0;
}

function liveOf({ objects }: GcsModel, name: string): Generation | undefined {
  return objects.get(name)?.find(({ timeDeleted }) => timeDeleted === undefined);
}

async function insert(model: GcsModel, request: IncomingMessage, response: ServerResponse, query: URLSearchParams) {
  const body = await bodyOf(request);
  if (body === undefined) return;
  const boundary = /boundary=(\w+)/.exec(request.headers['content-type'] ?? '')?.[1];
  const [head, bytes] = partsOf(body, `--${boundary}`);
  const { name, md5Hash } = JSON.parse(head?.toString() ?? '') as { name: string; md5Hash?: string };
  if (query.get('ifGenerationMatch') === '0' && liveOf(model, name) !== undefined) {
    return refuse(response, 412, 'conditionNotMet', 'At least one of the pre-conditions you specified did not hold.');
  }
  const stored = model.corrupt(bytes ?? Buffer.alloc(0));
  if (md5Hash !== undefined && md5Hash !== md5(stored)) {
    const message = `Provided MD5 hash "${md5Hash}" doesn't match calculated MD5 hash "${md5(stored)}".`;
    return refuse(response, 400, 'invalid', message);
  }
  model.add(name, stored);
  const [last] = (model.objects.get(name) ?? []).slice(-1);
  answer(response, 200, JSON.stringify(last && describe(name, last)));
}

/** Of a multipart body, each without its headers. */
function partsOf(body: Buffer, delimiter: string): Buffer[] {
  const parts: Buffer[] = [];
  for (let at = body.indexOf(delimiter); ; ) {
    const end = body.indexOf(delimiter, at + delimiter.length);
    if (end < 0) return parts;
    const start = body.indexOf('\r\n\r\n', at) + 4;
    parts.push(body.subarray(start, end - 2));
    at = end;
  }
}

function serveObject(
  model: GcsModel,
  name: string,
  query: URLSearchParams,
  request: IncomingMessage,
  response: ServerResponse,
): unknown {
  const wanted = query.get('generation');
  const generations = model.objects.get(name) ?? [];
  const object = wanted === null ? liveOf(model, name) : generations.find(({ generation }) => generation === wanted);
  const isMedia = query.get('alt') === 'media';
  if (object === undefined) {
    const message = `No such object: bucket/${name}`;
    return isMedia ? answer(response, 404, message) : refuse(response, 404, 'notFound', message);
  }
  if (request.method === 'DELETE') {
    const now = new Date().toISOString();
    if (wanted === null && isVersioned(model)) object.timeDeleted = now;
    else {
      const rest = generations.filter((one) => one !== object);
      model.objects.set(name, rest);
      if (keepsDeleted(model)) model.softDeleted.push([name, { ...object, softDeleteTime: now }]);
    }
    return answer(response, 204);
  }
  if (!isMedia) return answer(response, 200, JSON.stringify(describe(name, object)));
  const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  if (start === undefined) return answer(response, 200, object.bytes);
  const part = object.bytes.subarray(Number(start), Number(end) + 1);
  const range = `bytes ${start}-${Number(start) + part.length - 1}/${object.bytes.length}`;
  return answer(response, 206, part, { 'content-range': range });
}

function listOf({ objects, softDeleted }: GcsModel, query: URLSearchParams) {
  const isSoftDeleted = query.get('softDeleted') === 'true';
  const all = isSoftDeleted
    ? softDeleted.map(([name, one]) => describe(name, one))
    : [...objects].flatMap(([name, generations]) => generations.map((one) => describe(name, one)));
  const offset = query.get('pageToken') ?? query.get('startOffset') ?? '';
  const items = all
    .filter(({ name }) => name.startsWith(query.get('prefix') ?? '') && byBytes(name, offset) >= 0)
    .filter(({ timeDeleted }) => isSoftDeleted || query.get('versions') === 'true' || timeDeleted === undefined)
    .sort((a, b) => byBytes(a.name, b.name));
  const size = Math.min(pageSize, Number(query.get('maxResults') ?? pageSize));
  const next = items[size]?.name;
  // an empty page has no items at all
  return { ...(items.length === 0 ? {} : { items: items.slice(0, size) }), ...(next && { nextPageToken: next }) };
}

function describe(name: string, { generation, bytes, updated, timeDeleted, softDeleteTime }: Generation) {
  return {
    name,
    generation,
    size: String(bytes.length),
    updated,
    md5Hash: md5(bytes),
    ...(timeDeleted && { timeDeleted }),
    ...(softDeleteTime && { softDeleteTime }),
  };
}

function md5(bytes: Buffer): string {
  return createHash('md5').update(bytes).digest('base64');
}
