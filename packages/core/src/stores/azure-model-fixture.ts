/** Azure Blob Storage as its documentation and its answers have it, versions included, which Azurite lacks. */
import { createHash, createHmac } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { answer, bodyOf, byBytes, type Handler, type ModelServer, startModelServer } from './model-server-fixture.js';

interface Kept {
  readonly id: string;
  readonly bytes: Buffer;
}

interface AzureBlob {
  current?: Kept;
  versions: Kept[];
  snapshots: Kept[];
  /** Deleted for good, while the account keeps what is deleted. */
  softDeleted: Kept[];
  /** Staged, and in no list yet. */
  readonly blocks: Map<string, Buffer>;
}

export interface AzureModel extends ModelServer {
  readonly blobs: Map<string, AzureBlob>;
  /** Whether the account keeps versions. */
  versioning: boolean;
  /** Whether the account keeps for some days what is deleted. */
  softDelete: boolean;
  /** Of the account, as XML. */
  serviceProperties: string;
  /** Of the container. */
  containerHeaders: Record<string, string>;
  /** What happens to bytes between their upload and the disk. */
  corrupt: (bytes: Buffer) => Buffer;
  readonly connectionString: string;
  /** The user delegation key for these times, which it may change; in base64. */
  delegationKey: (times: { start: string; expiry: string }) => string;
  /** Serves a request as Azure would. */
  readonly serve: Handler;
  /** The readable bytes. */
  live(name: string): Buffer | undefined;
  add(name: string, bytes: Buffer): void;
  snapshot(name: string): void;
}

const account = 'account';
const pageSize = 100;
const xml = { 'content-type': 'application/xml' };

export async function startAzureModel(): Promise<AzureModel> {
  const blobs = new Map<string, AzureBlob>();
  let count = 0;
  const serve: Handler = (request, response) => {
    const url = new URL(request.url ?? '', 'http://model');
    const [, , container, ...rest] = url.pathname.split('/');
    const query = url.searchParams;
    if (query.get('comp') === 'userdelegationkey') return giveKey(model, request, response);
    if (query.get('restype') === 'service') return answer(response, 200, model.serviceProperties, xml);
    if (container !== 'container') return refuse(response, 404, 'ContainerNotFound');
    if (query.get('comp') === 'list') return answer(response, 200, listOf(model, query), xml);
    if (query.get('restype') === 'container') return answer(response, 200, '', model.containerHeaders);
    const name = decodeURIComponent(rest.join('/'));
    if (request.method === 'PUT') return write(model, name, query, request, response);
    if (request.method === 'DELETE') return remove(model, name, query, request, response);
    return read(model, name, request, response);
  };
  const server = await startModelServer(serve);
  const key = Buffer.from('the key').toString('base64');
  const model: AzureModel = Object.assign(server, {
    blobs,
    versioning: false,
    softDelete: false,
    serviceProperties: '<?xml version="1.0"?><StorageServiceProperties/>',
    containerHeaders: {},
    corrupt: (bytes: Buffer) => bytes,
    connectionString: `DefaultEndpointsProtocol=http;AccountName=${account};AccountKey=${key};BlobEndpoint=${server.endpoint}/${account}`,
    delegationKey: ({ start, expiry }: { start: string; expiry: string }) =>
      createHmac('sha256', 'the key').update(`${start} ${expiry}`).digest('base64'),
    serve,
    live: (name: string) => blobs.get(name)?.current?.bytes,
    add(name: string, bytes: Buffer) {
      const blob = blobAt(model, name);
      if (model.versioning && blob.current !== undefined) blob.versions.push(blob.current);
      blob.current = { id: `2026-01-01T00:00:00.${String(++count).padStart(7, '0')}Z`, bytes };
      blob.blocks.clear();
    },
    snapshot(name: string) {
      blobs.get(name)?.snapshots.push({ id: `2026-02-02T00:00:00.${++count}Z`, bytes: Buffer.alloc(0) });
    },
  });
  return model;
}

/** Whom every token stands for. */
export const delegate = { oid: '11059fcc-5514-4800-b5f8-49808b9cfab6', tid: 'ab1f708d-50f6-404c-a006-d71b2ac7a606' };

async function giveKey(model: AzureModel, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const body = (await bodyOf(request))?.toString() ?? '';
  const [, start = ''] = /<Start>([^<]+)<\/Start>/.exec(body) ?? [];
  const [, expiry = ''] = /<Expiry>([^<]+)<\/Expiry>/.exec(body) ?? [];
  if (!request.headers.authorization?.startsWith('Bearer ')) return refuse(response, 403, 'AuthenticationFailed');
  const lastsMs = Date.parse(expiry) - Date.now();
  if (!(Date.parse(start) < Date.parse(expiry) && lastsMs > 0 && lastsMs <= 7 * 24 * 3600_000)) {
    return refuse(response, 400, 'InvalidXmlNodeValue');
  }
  const times = { start, expiry };
  const value = model.delegationKey(times);
  const fields =
    `<SignedOid>${delegate.oid}</SignedOid><SignedTid>${delegate.tid}</SignedTid><SignedStart>${times.start}</SignedStart>` +
    `<SignedExpiry>${times.expiry}</SignedExpiry><SignedService>b</SignedService><SignedVersion>2023-11-03</SignedVersion>` +
    `<Value>${value}</Value>`;
  answer(response, 200, `<?xml version="1.0"?><UserDelegationKey>${fields}</UserDelegationKey>`, xml);
}

export function refuse(response: ServerResponse, status: number, code: string): void {
  answer(response, status, '', { 'x-ms-error-code': code });
}

function blobAt({ blobs }: AzureModel, name: string): AzureBlob {
  const blob = blobs.get(name) ?? { versions: [], snapshots: [], softDeleted: [], blocks: new Map() };
  blobs.set(name, blob);
  return blob;
}

async function write(
  model: AzureModel,
  name: string,
  query: URLSearchParams,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const received = await bodyOf(request);
  if (received === undefined) return;
  const { headers } = request;
  const body = query.get('comp') === 'blocklist' ? received : model.corrupt(received);
  const md5 = headers['content-md5'];
  if (md5 !== undefined && md5 !== createHash('md5').update(body).digest('base64')) {
    return refuse(response, 400, 'Md5Mismatch');
  }
  const blob = blobAt(model, name);
  if (query.get('comp') === 'block') {
    blob.blocks.set(query.get('blockid') ?? '', body);
    return answer(response, 201);
  }
  if (headers['if-none-match'] === '*' && blob.current !== undefined) return refuse(response, 409, 'BlobAlreadyExists');
  const bytes = query.get('comp') === 'blocklist' ? committed(blob, body.toString()) : body;
  if (bytes === undefined) return refuse(response, 400, 'InvalidBlockList');
  model.add(name, bytes);
  answer(response, 201, '', versionHeader(model, blob));
}

/** The bytes of a list of blocks; blocks of the blob as it stands are not kept track of. */
function committed({ blocks }: AzureBlob, list: string): Buffer | undefined {
  const parts = [...list.matchAll(/<Latest>([^<]+)<\/Latest>/g)].map(([, id = '']) => blocks.get(id));
  return parts.every((part) => part !== undefined) ? Buffer.concat(parts) : undefined;
}

function read(model: AzureModel, name: string, request: IncomingMessage, response: ServerResponse): unknown {
  const blob = model.blobs.get(name);
  if (blob?.current === undefined) return refuse(response, 404, 'BlobNotFound');
  const { bytes } = blob.current;
  const headers = versionHeader(model, blob);
  const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
  if (start === undefined) return answer(response, 200, bytes, headers);
  const part = bytes.subarray(Number(start), Number(end) + 1);
  const range = `bytes ${start}-${Number(start) + part.length - 1}/${bytes.length}`;
  return answer(response, 206, part, { ...headers, 'content-range': range });
}

function remove(
  model: AzureModel,
  name: string,
  query: URLSearchParams,
  request: IncomingMessage,
  response: ServerResponse,
): unknown {
  const blob = model.blobs.get(name);
  const [version, snapshot] = [query.get('versionid'), query.get('snapshot')];
  if (version !== null || snapshot !== null) {
    if (version !== null && version === blob?.current?.id)
      return refuse(response, 403, 'OperationNotAllowedOnRootBlob');
    const list = version === null ? 'snapshots' : 'versions';
    const kept = blob?.[list].filter(({ id }) => id !== (version ?? snapshot)) ?? [];
    if (blob === undefined || kept.length === blob[list].length) return refuse(response, 404, 'BlobNotFound');
    if (model.softDelete) blob.softDeleted.push(...blob[list].filter((one) => !kept.includes(one)));
    blob[list] = kept;
    return answer(response, 202);
  }
  if (blob?.current === undefined) return refuse(response, 404, 'BlobNotFound');
  if (blob.snapshots.length > 0 && request.headers['x-ms-delete-snapshots'] !== 'include') {
    return refuse(response, 409, 'SnapshotsPresent');
  }
  if (model.softDelete) blob.softDeleted.push(...blob.snapshots, ...(model.versioning ? [] : [blob.current]));
  if (model.versioning) blob.versions.push(blob.current);
  delete blob.current;
  blob.snapshots = [];
  return answer(response, 202);
}

function versionHeader({ versioning }: AzureModel, { current }: AzureBlob): Record<string, string> {
  return versioning && current !== undefined ? { 'x-ms-version-id': current.id } : {};
}

function listOf(model: AzureModel, query: URLSearchParams): string {
  const include = (query.get('include') ?? '').split(',');
  const start = query.get('marker') || (query.get('startFrom') ?? '');
  const entries = [...model.blobs]
    .filter(([name]) => name.startsWith(query.get('prefix') ?? '') && byBytes(name, start) >= 0)
    .sort(([a], [b]) => byBytes(a, b))
    .flatMap(([name, blob]) => entriesOf(name, blob, include, model.versioning).map((entry) => ({ name, entry })));
  const size = Math.min(pageSize, Number(query.get('maxresults') ?? pageSize));
  const next = entries[size]?.name ?? '';
  // a name's entries are never split here
  const page = entries.slice(0, size).filter(({ name }) => name !== next);
  return (
    `<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="http://model/" ContainerName="container">` +
    `<Blobs>${page.map(({ entry }) => entry).join('')}</Blobs><NextMarker>${escapeXml(next)}</NextMarker></EnumerationResults>`
  );
}

function entriesOf(name: string, blob: AzureBlob, include: readonly string[], versioning: boolean): string[] {
  const entry = ({ bytes }: Kept, more: string): string =>
    `<Blob><Name>${escapeXml(name)}</Name>${more}<Properties><Last-Modified>Mon, 23 Nov 2026 06:00:00 GMT</Last-Modified>` +
    `<Etag>0x1</Etag><Content-Length>${bytes.length}</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>`;
  const { current, versions, snapshots, softDeleted, blocks } = blob;
  const withVersions = include.includes('versions');
  const version = ({ id }: Kept): string => (versioning && withVersions ? `<VersionId>${id}</VersionId>` : '');
  return [
    ...(include.includes('snapshots') ? snapshots.map((one) => entry(one, `<Snapshot>${one.id}</Snapshot>`)) : []),
    ...(include.includes('deleted') ? softDeleted.map((one) => entry(one, '<Deleted>true</Deleted>')) : []),
    ...(include.includes('uncommittedblobs') && current === undefined && blocks.size > 0
      ? [entry({ id: '', bytes: Buffer.alloc(0) }, '')]
      : []),
    ...(withVersions ? versions.map((one) => entry(one, `<VersionId>${one.id}</VersionId>`)) : []),
    ...(current === undefined
      ? []
      : [entry(current, `${version(current)}${version(current) && '<IsCurrentVersion>true</IsCurrentVersion>'}`)]),
  ];
}

/** As Azure writes it. */
function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
